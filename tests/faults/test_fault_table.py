"""G5, as a table: what clients notice of a Redis in trouble. ``-s`` prints it.

Two app processes share a Redis behind a proxy; a third one, the same but for the sharing, is asked
the same at the same time. Nothing but the errors and the recovery is asserted: times depend on the
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.support.connections import Connection
from tests.support.fleet import Fleet, Instance
from tests.support.proxy import Proxy
from tests.support.redis_servers import Valkey, until_answered
from tests.support.waiting import BOUND, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAULT = 0.9  # seconds
MAX_DISCONNECTED = 0.6  # seconds: the fault lasts beyond it
CLIENTS = 6  # per app
HOT = [f"/hot/{number}" for number in range(50)]

_numbers = itertools.count()
_table: list[str] = []


class Bench(NamedTuple):
    fleet: Fleet
    alone: Fleet
    valkey: Valkey
    spare: Valkey
    proxy: Proxy

    @property
    def apps(self) -> list[Instance]:
        return self.fleet.instances


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    layer = {"max_disconnected": MAX_DISCONNECTED}
    with contextlib.ExitStack() as stack:
        at_once = {"repl-diskless-sync-delay": 0}
        valkey = stack.enter_context(Valkey(folder, config=at_once))
        spare = stack.enter_context(Valkey(folder, config=at_once))
        proxy = stack.enter_context(Proxy(valkey.port))
        async with (
            Fleet(folder, proxy.url, layer=layer) as fleet,
            Fleet(folder, None, kinds=["uvicorn"]) as alone,
        ):
            yield Bench(fleet, alone, valkey, spare, proxy)
    header = (
        f"{'Redis':<28} {'requests':>8} {'errors':>6}   {'hit p50/p99 ms':>15} {'alone':>13}"
        f"   {'miss p50/p99 ms':>15} {'alone':>13}   {'trusted again':>13}"
    )
    print("\n\n" + "\n".join([header, "-" * len(header), *_table]))  # noqa: T201


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
                await asyncio.sleep(0.004)


# Each fault: begin it, and give what ends it.
Ending = Callable[[], Awaitable[Any] | Any]


async def nothing(bench: Bench) -> Ending:
    return lambda: None


async def refuses(bench: Bench) -> Ending:
    bench.proxy.refuse()
    return bench.proxy.resume


async def stalls(bench: Bench) -> Ending:
    bench.valkey.stall()
    return bench.valkey.resume


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


async def killed_comes_back_empty(bench: Bench) -> Ending:
    bench.valkey.kill()
    return lambda: asyncio.to_thread(bench.valkey.restart, empty=True)


async def out_of_memory(bench: Bench) -> Ending:
    bench.valkey.cli("CONFIG", "SET", "maxmemory", "1")
    return lambda: bench.valkey.cli("CONFIG", "SET", "maxmemory", "0")


async def loading(bench: Bench) -> Ending:
    bench.valkey.cli("EVAL", "for i = 1, 5000 do redis.call('SET', 'filler:' .. i, 'x') end", 0)
    slowly = {"key-load-delay": 5000, "loading-process-events-interval-bytes": 1024}
    await asyncio.to_thread(bench.valkey.restart, empty=False, config=slowly, ready=False)
    bench.valkey.config["key-load-delay"] = 0
    return lambda: bench.valkey.cli("CONFIG", "SET", "key-load-delay", "0")


async def read_only_after_failover(bench: Bench) -> Ending:
    host, old, new = "127.0.0.1", bench.valkey, bench.spare
    new.cli("REPLICAOF", host, old.port)
    await asyncio.to_thread(
        until_answered,
        lambda: new.info("replication")["master_link_status"] == "up",
        "the new master",
    )
    new.cli("REPLICAOF", "NO", "ONE")
    old.cli("REPLICAOF", host, new.port)
    return lambda: old.cli("REPLICAOF", "NO", "ONE")


async def garbage(bench: Bench) -> Ending:
    bench.proxy.garbage()
    return bench.proxy.resume


FAULTS = [
    nothing,
    refuses,
    stalls,
    unreachable,
    slow_by_50_ms,
    flaps,
    killed_comes_back_empty,
    out_of_memory,
    loading,
    read_only_after_failover,
    garbage,
]


async def trusted(bench: Bench) -> bool:
    """A purge by either is final, and both have a part in it."""
    for app in bench.apps:
        await app.get(HOT[0])
        if await app.purge(tags=["nothing"]) != (200, 2, 2):
            return False
    return True


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.replace("_", "-"))
async def test_clients_see_no_error_when_redis(bench: Bench, fault: Any) -> None:
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
        if isinstance(ended, Awaitable):
            await ended
        began = time.perf_counter()
        # The clients go on: an error on the way back counts as well.
        await until(lambda: trusted(bench), "a fleet that is well again", bound=2 * BOUND)
        again = time.perf_counter() - began
        over.set()
    requests = sum(len(times) for times in ours.times.values())
    _table.append(
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
