"""What every shared system is put through, each on a real server.

Subclass a suite, and say how its server is made::

    class TestFaults(FaultTable):
        @classmethod
        def make_server(cls, folder: Path) -> SystemServer:
            return MyServer(folder)

`FaultTable` is G5: what clients notice of a system in trouble. `PurgeHistory` is G3: final purges while
processes are killed, and while the server is emptied and cut off. `OneFetch` is G2.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import pytest
import pytest_asyncio

from tests.support.connections import Connection
from tests.support.fleet import Fleet, Instance
from tests.support.origin import FRESH, Gate, OriginCall
from tests.support.proxy import Proxy
from tests.support.story import LONG, MAX_DISCONNECTED, SHORT, Story
from tests.support.systems import SystemServer
from tests.support.waiting import BOUND, until

__all__ = [
    "Bench",
    "Ending",
    "FaultTable",
    "OneFetch",
    "PurgeHistory",
    "each_line",
    "garbage",
    "killed",
    "stalls",
]

FAULT = 0.9  # seconds
CLIENTS = 4  # of the two that share, and of the one that does not
HOT = [f"/hot/{number}" for number in range(50)]

_numbers = itertools.count()


# ------------------------------------------------------------------------------------ G5: faults


class Bench(NamedTuple):
    """Two app processes share a system behind a proxy; a third one, the same but for the sharing, is
    asked the same at the same time."""

    fleet: Fleet
    alone: Fleet
    server: Any
    proxy: Proxy
    table: list[str]

    @property
    def apps(self) -> list[Instance]:
        return self.fleet.instances


Ending: TypeAlias = Callable[[], Awaitable[Any] | Any]
"""Ends a fault."""


class Load:
    """What clients see of one app: milliseconds by kind of request, and what went wrong."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {"hot": [], "new": []}
        self.errors: list[str] = []

    def percentiles(self, kind: str) -> str:
        times = sorted(self.times[kind])
        if not times:
            return "-"
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        return f"{p50:.1f} / {p99:.1f}"

    async def client(self, instance: Instance, over: asyncio.Event) -> None:
        async with Connection(instance.port) as connection:
            while not over.is_set():
                kind = "new" if random.random() < 0.3 else "hot"
                path = f"/new/{next(_numbers)}" if kind == "new" else random.choice(HOT)
                began = time.perf_counter()
                try:
                    answer = await connection.get(path)
                except (OSError, EOFError, TimeoutError) as error:
                    self.errors.append(repr(error))
                    return
                self.times[kind].append((time.perf_counter() - began) * 1000)
                if answer.status != 200 or not answer.body.startswith(path.encode()):
                    self.errors.append(repr(answer))
                # At a pace that leaves the machine idle in between: it is not a load test.
                await asyncio.sleep(0.01)


async def nothing(bench: Bench) -> Ending:
    return lambda: None


async def refuses(bench: Bench) -> Ending:
    bench.proxy.refuse()
    return bench.proxy.resume


async def stalls(bench: Bench) -> Ending:
    bench.server.stall()
    return lambda: bench.server.resume()


async def unreachable(bench: Bench) -> Ending:
    bench.proxy.blackhole()
    return bench.proxy.resume


async def slow_by_50_ms(bench: Bench) -> Ending:
    bench.proxy.delay(0.025)
    return bench.proxy.resume


async def flaps(bench: Bench) -> Ending:
    async def cut() -> None:
        while True:
            bench.proxy.cut()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(cut())
    return task.cancel


async def killed(bench: Bench) -> Ending:
    bench.server.kill()
    return lambda: asyncio.to_thread(bench.server.start)


async def comes_back_empty(bench: Bench) -> Ending:
    await asyncio.to_thread(bench.server.empty)
    return lambda: None


async def rolled_back(bench: Bench) -> Ending:
    saved = await asyncio.to_thread(bench.server.save)
    if saved is None:
        pytest.skip(f"a {bench.server.system} cannot be rolled back")
    for app in bench.apps:
        await app.purge(tags=["nothing"])
    await asyncio.to_thread(bench.server.restore, saved)
    return lambda: None


async def throttles(bench: Bench) -> Ending:
    if not await asyncio.to_thread(bench.server.throttle):
        pytest.skip(f"a {bench.server.system} does not throttle")
    return lambda: asyncio.to_thread(bench.server.relent)


async def garbage(bench: Bench) -> Ending:
    bench.proxy.garbage()
    return bench.proxy.resume


async def garbage_is_stored(bench: Bench) -> Ending:
    assert await asyncio.to_thread(bench.server.garble) > 0
    return lambda: None


async def trusted(bench: Bench) -> bool:
    """A purge by either is final, and both have a part in it."""
    for app in bench.apps:
        await app.get(HOT[0])
        if await app.purge(tags=["nothing"]) != (200, 2, 2):
            return False
    return True


class FaultTable(ABC):
    """What clients notice of a system in trouble: nothing but time. ``-s`` prints a table.

    Nothing but the errors and the recovery is asserted: times depend on the machine.
    """

    pytestmark = pytest.mark.asyncio(loop_scope="class")

    faults: ClassVar[Sequence[Callable[[Any], Awaitable[Ending]]]] = (
        nothing,
        refuses,
        stalls,
        unreachable,
        slow_by_50_ms,
        flaps,
        killed,
        comes_back_empty,
        rolled_back,
        throttles,
        garbage,
        garbage_is_stored,
    )
    in_short: ClassVar[Sequence[Callable[[Any], Awaitable[Ending]]] | None] = None
    """What `make test` shows of them; `make test-systems` shows the rest. None: all."""
    max_disconnected: ClassVar[float] = 0.6  # seconds: the fault lasts beyond it

    @classmethod
    @abstractmethod
    def make_server(cls, folder: Path) -> SystemServer: ...

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "fault" in metafunc.fixturenames:
            rows = [
                pytest.param(
                    fault,
                    id=fault.__name__.replace("_", "-"),
                    marks=()
                    if self.in_short is None or fault in self.in_short
                    else pytest.mark.systems,
                )
                for fault in self.faults
            ]
            metafunc.parametrize("fault", rows)

    @pytest_asyncio.fixture(loop_scope="class", scope="class")
    @classmethod
    async def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
        folder = tmp_path_factory.mktemp("faults")
        table: list[str] = []
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(await asyncio.to_thread(cls.make_server, folder))
            proxy = stack.enter_context(Proxy(server.port))
            layer = {"max_disconnected": cls.max_disconnected, **server.layer_options}
            async with (
                Fleet(folder, server.url(proxy.port), layer=layer) as fleet,
                Fleet(folder, None, kinds=["uvicorn"]) as alone,
            ):
                yield Bench(fleet, alone, server, proxy, table)
            header = (
                f"{server.system:<28} {'requests':>8} {'errors':>6}   {'hit p50/p99 ms':>15}"
                f" {'alone':>13}   {'miss p50/p99 ms':>15} {'alone':>13}   {'trusted again':>13}"
            )
        print("\n\n" + "\n".join([header, "-" * len(header), *table]))  # noqa: T201

    async def test_clients_see_no_error_when_it(self, bench: Bench, fault: Any) -> None:
        await until(lambda: trusted(bench), "a fleet that is well")
        for app in [*bench.apps, bench.alone[0]]:
            async with Connection(app.port) as connection:
                for path in HOT:
                    await connection.get(path)
        ours, theirs, over = Load(), Load(), asyncio.Event()
        end = await fault(bench)
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(ours.client(bench.apps[number % 2], over))
                tasks.create_task(theirs.client(bench.alone[0], over))
            await asyncio.sleep(FAULT)
            ended = end()
            if inspect.isawaitable(ended):
                await ended
            began = time.perf_counter()
            # The clients go on: an error on the way back counts as well.
            await until(lambda: trusted(bench), "a fleet that is well again", bound=2 * BOUND)
            again = time.perf_counter() - began
            over.set()
        requests = sum(len(times) for times in ours.times.values())
        bench.table.append(
            f"{fault.__name__.replace('_', ' '):<28} {requests:>8} {len(ours.errors):>6}"
            f"   {ours.percentiles('hot'):>15} {theirs.percentiles('hot'):>13}"
            f"   {ours.percentiles('new'):>15} {theirs.percentiles('new'):>13}"
            f"   {again * 1000:>10.0f} ms"
        )
        assert not ours.errors, ours.errors[:5]
        assert not theirs.errors
        path = f"/burst/{fault.__name__}"
        answers = await bench.fleet.burst(path, 60)
        assert {answer.status for answer in answers} == {200}
        assert bench.fleet.origin.calls[path] == 1
        for app in bench.apps:
            assert "Traceback" not in app.log(), app.log()


# ---------------------------------------------------------------------------------- G3: histories


class OneSystem(Story):
    """One server, and a line to it for each instance."""

    server: SystemServer
    proxies: list[Proxy]

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        partial = functools.partial
        return [
            *super().faults,
            self.kills_an_instance,
            self.cuts_a_line,
            partial(self.holds_a_line, SHORT),
            partial(self.holds_a_line, LONG),
            self.refuses_a_line,
            partial(self.stops_the_server, SHORT),
            partial(self.stops_the_server, LONG),
            self.empties_the_server,
            self.kills_the_server,
            self.sets_the_server_back,
        ]

    def line(self) -> Proxy:
        number = self.random.randrange(len(self.proxies))
        self.note(f"... of {self.fleet[number]}")
        return self.proxies[number]

    async def cuts_a_line(self) -> None:
        self.line().cut()

    async def holds_a_line(self, seconds: float) -> None:
        proxy = self.line()
        proxy.blackhole()
        await asyncio.sleep(seconds)
        proxy.resume()

    async def refuses_a_line(self) -> None:
        proxy = self.line()
        proxy.refuse()
        await asyncio.sleep(MAX_DISCONNECTED * self.random.random() * 2)
        proxy.resume()

    async def stops_the_server(self, seconds: float) -> None:
        self.server.stall()
        await asyncio.sleep(seconds)
        self.server.resume()

    async def empties_the_server(self) -> None:
        await asyncio.to_thread(self.server.empty)

    async def kills_the_server(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(self.random.random() * 0.3)
        await asyncio.to_thread(self.server.start)

    async def sets_the_server_back(self) -> None:
        """To what it was: what it said since is lost, and it does not know."""
        saved = await asyncio.to_thread(self.server.save)
        if saved is not None:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(self.server.restore, saved)


@contextlib.contextmanager
def each_line(server: SystemServer, count: int) -> Any:
    """A proxy before the server for each of ``count`` instances."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Proxy(server.port)) for _ in range(count)]


class PurgeHistory(ABC):
    """No read that began after a final purge sees what it purged, whatever goes wrong."""

    pytestmark: ClassVar[Any] = [pytest.mark.asyncio, pytest.mark.systems]

    seconds: ClassVar[float] = 30.0
    kinds: ClassVar[Sequence[str]] = ("uvicorn", "uvicorn", "gunicorn")
    story: ClassVar[type[OneSystem]] = OneSystem

    @classmethod
    @abstractmethod
    def make_server(cls, folder: Path) -> SystemServer: ...

    async def test_no_read_after_a_final_purge_sees_what_it_purged(self, tmp_path: Path) -> None:
        count = len(self.kinds)
        with self.make_server(tmp_path) as server, each_line(server, count) as proxies:
            layer = {"max_disconnected": MAX_DISCONNECTED, **server.layer_options}
            urls = [server.url(proxy.port) for proxy in proxies]
            async with Fleet(tmp_path, urls, kinds=self.kinds, layer=layer) as fleet:
                story = self.story(fleet, seconds=self.seconds, seed=random.randrange(1 << 32))
                story.server, story.proxies = server, proxies
                story.least_reads = 15.0  # some of these servers are slow
                await story.run()
                story.check()


# ---------------------------------------------------------------------------------- G2: one fetch


class OneFetch(ABC):
    """Concurrent misses of several processes cost one call of the origin."""

    pytestmark = pytest.mark.asyncio

    @classmethod
    @abstractmethod
    def make_server(cls, folder: Path) -> SystemServer: ...

    async def test_eight_keys_by_four_processes_are_fetched_eight_times(
        self, tmp_path: Path
    ) -> None:
        kinds = ["uvicorn", "uvicorn", "gunicorn", "gunicorn"]
        with self.make_server(tmp_path) as server:
            # (A busy machine must not decide: a lease that is not there in time is not waited for.)
            layer = {"timeout": 2.0, **server.layer_options}
            async with Fleet(tmp_path, server.url(), kinds=kinds, layer=layer) as fleet:
                bursts = await asyncio.gather(
                    *(fleet.burst(f"/key/{number}", 32) for number in range(8))
                )
                for number, answers in enumerate(bursts):
                    assert {answer.status for answer in answers} == {200}
                    assert fleet.origin.calls[f"/key/{number}"] == 1

    async def test_a_killed_leader_is_replaced_within_the_term(self, tmp_path: Path) -> None:
        term = 1.0
        with self.make_server(tmp_path) as server:
            layer = {"lease_term": term, "timeout": 2.0, **server.layer_options}
            kinds = ["uvicorn", "uvicorn"]
            async with Fleet(tmp_path, server.url(), kinds=kinds, layer=layer) as fleet:
                leader, follower = fleet.instances
                gate = Gate()

                async def answer(call: OriginCall) -> None:
                    if call.instance == leader.name:
                        await gate.wait()
                    await call.reply(call.instance.encode(), FRESH)

                fleet.origin.on("/slow")(answer)
                led = asyncio.create_task(leader.get("/slow"))
                await gate.reached()
                followed = asyncio.gather(follower.get("/slow"), follower.get("/slow"))
                await follower.waiting(1)  # for the other one, which waits for the lease
                killed_at = time.monotonic()
                leader.kill()
                answers = await followed
                took = time.monotonic() - killed_at
                gate.open()
                with contextlib.suppress(OSError, EOFError, TimeoutError):
                    await led
                assert {one.body for one in answers} == {follower.name.encode()}
                assert fleet.origin.calls["/slow"] == 2
                print(f"\n{server.system}: a killed leader was replaced after {took:.2f} s")  # noqa: T201
