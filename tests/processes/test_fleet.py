"""Several processes, one Redis: one fetch (G2), final purges (G3), and never worse than without (G5)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
import pytest_asyncio

from tests.support.connections import Answer, Connection
from tests.support.fleet import Fleet, Instance, Purged
from tests.support.origin import FRESH, OriginCall
from tests.support.ports import free_port
from tests.support.redis_servers import Valkey, ValkeyCluster, ValkeySentinel
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)
pytestmark = pytest.mark.asyncio(loop_scope="module")

TAGGED = {**FRESH, "cache-tag": "page"}
GONE = (OSError, EOFError)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def eight(
    session_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """Eight processes. Each test has paths of its own."""
    folder = tmp_path_factory.mktemp("eight")
    layer = {"namespace": "eight", "lease_term": 2.0, "max_disconnected": 2.0, "timeout": 2.0}
    async with Fleet(
        folder,
        session_valkey.url,
        kinds=["uvicorn"] * 8,
        layer=layer,
        # What is tested is not whether eight processes find a core soon enough.
        options={"layer_timeout": 5.0},
    ) as fleet:
        yield fleet


def the_body(answers: list[Answer]) -> bytes:
    """The one that all of them have, all being fine."""
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    bodies = Counter(answer.body for answer in answers)
    assert len(bodies) == 1, bodies
    return answers[0].body


async def all_wait(fleet: Fleet, waiters: int, instances: list[Instance] | None = None) -> None:
    """Until each instance has so many requests that wait for one of its own."""
    for instance in instances or fleet.instances:
        await instance.waiting(waiters)


class Versions:
    """An origin that answers with what is the newest version when the call begins."""

    def __init__(self, fleet: Fleet, prefix: str = "/") -> None:
        self.now = 1
        fleet.origin.on(prefix)(self._handle)

    async def _handle(self, call: OriginCall) -> None:
        await call.reply(b"%d" % self.now, TAGGED)

    async def read(self, fleet: Fleet, path: str = "/page") -> set[int]:
        answers = await fleet.each(path)
        assert {answer.status for answer in answers} == {200}
        return {int(answer.body) for answer in answers}


class Hammer:
    """Requests to every instance, one after the other, while something goes wrong.

    ``statuses``: what came back. A version that is older than ``least`` was when its request began
    is kept in ``old``.
    """

    def __init__(self, fleet: Fleet, path: str = "/page") -> None:
        self.statuses: Counter[int] = Counter()
        self.old: list[tuple[Instance, int, int]] = []
        self.least = 0
        self._fleet = fleet
        self._path = path

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._hit(one)) for one in self._fleet.instances]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result

    async def _hit(self, instance: Instance) -> None:
        async with Connection(instance.port) as connection:
            while True:
                least = self.least
                answer = await connection.get(self._path)
                self.statuses[answer.status] += 1
                if int(answer.body) < least:
                    self.old.append((instance, int(answer.body), least))
                await asyncio.sleep(0.005)

    async def rounds(self, count: int = 3) -> None:
        """Until every instance may have answered so often."""
        wanted = self.statuses.total() + count * len(self._tasks)
        await until(lambda: self.statuses.total() >= wanted)

    def was_never_noticed(self) -> None:
        assert set(self.statuses) == {200}
        assert not self.old


# ------------------------------------------------------------------------------------- one fetch


@pytest.mark.systems
async def test_two_thousand_requests_cost_one_call(eight):
    assert the_body(await eight.burst("/fast", 2000)) == b"/fast 1"
    assert eight.origin.calls["/fast"] == 1
    # And now it is everywhere.
    assert all(answer.hit for answer in await eight.each("/fast"))
    assert eight.origin.calls["/fast"] == 1


@pytest.mark.systems
async def test_two_thousand_requests_cost_one_call_whose_first_byte_is_late(eight):
    gate = eight.origin.gated("/slow")
    async with eight.connected(2000) as connections:
        for connection in connections:
            connection.ask("/slow")
        await all_wait(eight, 249)
        gate.open()
        answers = await asyncio.gather(*(connection.answer() for connection in connections))
    assert the_body(answers) == b"1"
    assert eight.origin.calls["/slow"] == 1


@pytest.mark.systems
async def test_many_cold_targets_at_once_cost_one_call_each(eight):
    paths = [f"/many/{number}" for number in range(80)]
    async with eight.connected(640) as connections:
        # Each instance is asked for all of them, each in an order of its own.
        for number, connection in enumerate(connections):
            connection.ask(paths[(number // 8 + number % 8 * 10) % 80])
        answers = await asyncio.gather(*(connection.answer() for connection in connections))
    assert {answer.status for answer in answers} == {200}
    assert {path: eight.origin.calls[path] for path in paths} == dict.fromkeys(paths, 1)


async def test_a_body_that_takes_its_time_is_fetched_once(eight):
    @eight.origin.on("/long")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"first ")
        # In its own process they read along; in the others one waits for it, and nine for that one.
        await all_wait(eight, 9, [one for one in eight.instances if one.name != call.instance])
        await call.end(b"second")

    assert the_body(await eight.burst("/long", 80)) == b"first second"
    assert eight.origin.calls["/long"] == 1


async def test_a_leader_that_is_killed_is_replaced_once(eight):
    gate = eight.origin.gated("/killed")
    async with eight.connected(800) as connections:
        for connection in connections:
            connection.ask("/killed")
        await eight.origin.called("/killed")
        await all_wait(eight, 99)
        name = eight.origin.log[-1].instance
        leader = next(one for one in eight.instances if one.name == name)
        leader.kill()
        await eight.origin.called("/killed", 2)
        gate.open()
        theirs = [c.answer() for c in connections if c.port == leader.port]
        others = [c.answer() for c in connections if c.port != leader.port]
        lost = await asyncio.gather(*theirs, return_exceptions=True)
        answers = await asyncio.gather(*others)
    assert all(isinstance(error, GONE) for error in lost)
    assert the_body(answers) == b"2"
    assert eight.origin.calls["/killed"] == 2
    await leader.start()
    assert (await leader.get("/killed")).body == b"2"
    assert eight.origin.calls["/killed"] == 2


async def test_a_leader_that_stands_still_is_replaced_and_overwrites_nothing(eight):
    path = "/stood-still"
    gates = [asyncio.Event(), asyncio.Event()]

    @eight.origin.on(path)
    async def handler(call: OriginCall) -> None:
        await gates[call.number - 1].wait()
        await call.reply(b"%d" % call.number)

    async with eight.connected(80) as connections:
        for connection in connections:
            connection.ask(path)
        await eight.origin.called(path)
        await all_wait(eight, 9)
        name = eight.origin.log[-1].instance
        leader = next(one for one in eight.instances if one.name == name)
        leader.stall()
        try:
            await eight.origin.called(path, 2)
            gates[1].set()
            theirs = [c.answer() for c in connections if c.port == leader.port]
            others = [c.answer() for c in connections if c.port != leader.port]
            assert the_body(await asyncio.gather(*others)) == b"2"
        finally:
            gates[0].set()
            leader.resume()
        answers = await asyncio.gather(*theirs)
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} <= {b"1", b"2"}
    assert the_body(await eight.each(path)) == b"2"
    assert eight.origin.calls[path] == 2


async def test_a_leader_whose_client_leaves_goes_on_for_the_others(eight):
    gate = eight.origin.gated("/left")
    leader, *others = eight.instances
    async with Connection(leader.port) as client:
        client.ask("/left")
        await eight.origin.called("/left")
        # Nobody else waits in its process: those who do are elsewhere.
        async with eight.connected(70, others) as connections:
            for connection in connections:
                connection.ask("/left")
            await all_wait(eight, 9, others)
            client.reset()
            gate.open()
            answers = await asyncio.gather(*(connection.answer() for connection in connections))
    assert the_body(answers) == b"1"
    assert eight.origin.calls["/left"] == 1


async def test_what_is_not_shareable_runs_at_once_everywhere(eight):
    path, count = "/private", 80
    known = False

    @eight.origin.on(path)
    async def handler(call: OriginCall) -> None:
        # Nobody is answered before all have come: so nobody waits for anybody.
        if not known and call.number == 1:
            # Those who waited for this one are released by its head.
            await all_wait(eight, 9)
            await call.start(200, {"cache-control": "private"})
            await eight.origin.called(path, count)
            await call.end(b"1")
            return
        await eight.origin.called(path, 2 * count if known else count)
        await call.reply(b"%d" % call.number, {"cache-control": "private"})

    for _ in range(2):
        answers = await eight.burst(path, count)
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == count
        known = True
    assert eight.origin.calls[path] == 2 * count


async def test_a_refresh_in_the_background_happens_once(eight):
    path = "/refreshed"
    gate_open = asyncio.Event()

    @eight.origin.on(path)
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"1", {"cache-control": "max-age=1, stale-while-revalidate=600"})
        else:
            await gate_open.wait()
            await call.reply(b"%d" % call.number)

    assert the_body(await eight.each(path)) == b"1"

    async def stale() -> bool:
        return the_body(await eight.each(path)) == b"1" and eight.origin.calls[path] == 2

    await until(stale, "a refresh")
    # Under way, it holds up nobody, and nobody begins another.
    assert the_body(await eight.burst(path, 160)) == b"1"
    gate_open.set()

    async def everywhere() -> bool:
        return {answer.body for answer in await eight.each(path)} == {b"2"}

    await until(everywhere, "everybody to have it")
    assert eight.origin.calls[path] == 2


# --------------------------------------------------------------------------------- servers, forks


async def test_asgi_and_wsgi_share(tmp_path, shared_valkey):
    kinds = ["uvicorn", "uvicorn", "gunicorn", "gunicorn"]
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    async with Fleet(tmp_path, shared_valkey.url, kinds=kinds, layer=layer) as fleet:
        versions = Versions(fleet)
        assert the_body(await fleet.burst("/page", 200)) == b"1"
        assert fleet.origin.calls["/page"] == 1
        for number, instance in enumerate(fleet.instances, start=2):
            versions.now = number
            purged = await instance.purge(tags=["page"])
            assert purged == (200, 4, 4), instance
            assert await versions.read(fleet) == {number}
            assert fleet.origin.calls["/page"] == number
        # The same page under another protocol's roof is the same page: a purge by its URL.
        versions.now = 9
        assert (await fleet[3].purge(files=["http://example.com/page"])).final
        assert await versions.read(fleet) == {9}


@pytest.mark.systems
async def test_values_are_shared(tmp_path, shared_valkey):
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    async with Fleet(tmp_path, shared_valkey.url, kinds=["stack"] * 3, layer=layer) as fleet:
        versions = Versions(fleet)
        assert the_body(await fleet.burst("/page", 300)) == b"1"
        assert fleet.origin.calls["/page"] == 1
        for number, instance in enumerate(fleet.instances, start=2):
            versions.now = number
            assert await instance.purge(tags=["page"]) == (200, 3, 3)
            assert the_body(await fleet.burst("/page", 90)) == b"%d" % number
            assert fleet.origin.calls["/page"] == number


@pytest.mark.systems
@pytest.mark.frameworks
async def test_gevent_shares(tmp_path, shared_valkey):
    kinds = ["gunicorn-gevent", "gunicorn-gevent", "uvicorn"]
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    async with Fleet(tmp_path, shared_valkey.url, kinds=kinds, layer=layer) as fleet:
        versions = Versions(fleet)
        assert the_body(await fleet.burst("/page", 150)) == b"1"
        assert fleet.origin.calls["/page"] == 1
        for number, instance in enumerate(fleet.instances, start=2):
            versions.now = number
            assert await instance.purge(tags=["page"]) == (200, 3, 3), instance
            assert await versions.read(fleet) == {number}
            assert fleet.origin.calls["/page"] == number


@pytest.mark.systems
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pyuwsgi has no wheels for this Python")
@pytest.mark.frameworks
async def test_a_server_without_threads_is_not_waited_for_and_serves_nothing_old(
    tmp_path, shared_valkey
):
    kinds = ["uvicorn", "uwsgi", "uwsgi"]
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    async with Fleet(tmp_path, shared_valkey.url, kinds=kinds, layer=layer) as fleet:
        versions = Versions(fleet)
        # Nothing in them listens, or says that it is there, while there is no request.
        for number, instance in enumerate(fleet.instances, start=2):
            assert await versions.read(fleet) == {versions.now}
            versions.now = number
            purged = await instance.purge(tags=["page"])
            assert purged.final and purged.applied == purged.instances
            assert await versions.read(fleet) == {number}
        assert fleet.origin.calls["/page"] == len(kinds) + 1
        assert the_body(await fleet.burst("/burst", 60)) == b"4"
        assert fleet.origin.calls["/burst"] == 1


@pytest.mark.systems
@pytest.mark.frameworks
async def test_workers_forked_from_a_parent_that_used_it_are_instances(tmp_path, valkey):
    options: dict[str, Any] = {"layer": {"max_disconnected": 1.0}, "warm": False}
    async with Fleet(tmp_path, valkey.url, kinds=["uvicorn"], **options) as fleet:
        versions = Versions(fleet)
        parent = Instance(
            tmp_path,
            fleet.origin,
            valkey.url,
            kind="gunicorn-preload",
            workers=2,
            layer=options["layer"],
            environ={"FLEET_BEFORE_FORK": "/page"},
        )
        fleet.instances.append(parent)
        await parent.start()
        assert fleet.origin.calls["/page"] == 1
        pids = await pids_of(fleet, parent, 2)
        assert the_body(await fleet.burst("/page", 60)) == b"1"
        assert fleet.origin.calls["/page"] == 1
        for instance in fleet.instances:
            versions.now += 1
            purged = await instance.purge(tags=["page"])
            # The parent, which stays and was used, may be one as well.
            assert purged.final and purged.applied == purged.instances in (3, 4)
            answers = await fleet.burst("/page", 60)
            assert the_body(answers) == b"%d" % versions.now
            assert fleet.origin.calls["/page"] == versions.now
        # New workers, from the same parent.
        parent.fork()

        async def replaced() -> bool:
            with contextlib.suppress(*GONE):
                return not pids & await pids_of(fleet, parent, 1)
            return False

        await until(replaced, "other workers")
        versions.now += 1
        assert (await fleet[0].purge(tags=["page"])).final
        assert the_body(await fleet.burst("/page", 60)) == b"%d" % versions.now
        assert "Traceback" not in parent.log()


async def pids_of(fleet: Fleet, instance: Instance, count: int) -> set[int]:
    """The processes that answer for it, once so many do."""
    pids: set[int] = set()
    while len(pids) < count:
        paths = [f"/pid/{next(_numbers)}" for _ in range(8)]
        await asyncio.gather(*(instance.get(path) for path in paths))
        pids |= {call.pid for call in fleet.origin.log if call.path in paths}
    return pids


_numbers = itertools.count()


# ---------------------------------------------------------------------------------- final purges


async def test_who_is_killed_is_not_waited_for_long(tmp_path, shared_valkey):
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    kinds = ["uvicorn", "uvicorn", "gunicorn", "uvicorn"]
    async with Fleet(tmp_path, shared_valkey.url, kinds=kinds, layer=layer) as fleet:
        versions = Versions(fleet)
        assert await versions.read(fleet) == {1}
        assert await fleet[0].purge(tags=["page"]) == (200, 4, 4)
        fleet[3].kill()
        versions.now = 2
        assert await fleet[0].purge(tags=["page"]) == (200, 3, 3)
        assert [int((await one.get("/page")).body) for one in fleet.instances[:3]] == [2, 2, 2]
        # Who ends in order leaves at once, and who comes is counted.
        for number, left in ((1, 2), (2, 1)):
            await asyncio.to_thread(fleet[number].stop)
            # (Not by the clock: it is gone from what purges wait for.)
            assert await fleet[0].purge(tags=["page"]) == (200, left, left)
            assert "Traceback" not in fleet[number].log()
        await fleet[3].start()
        await fleet[3].get("/page")
        assert await fleet[0].purge(tags=["page"]) == (200, 2, 2)


@pytest.mark.systems
async def test_who_stands_still_serves_nothing_old_when_it_goes_on(tmp_path, shared_valkey):
    layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
    kinds = ["uvicorn", "uvicorn", "gunicorn"]
    async with Fleet(tmp_path, shared_valkey.url, kinds=kinds, layer=layer) as fleet:
        versions = Versions(fleet)
        for stalled in fleet.instances[1:]:
            assert await versions.read(fleet) == {versions.now}
            async with fleet.connected(20, [stalled]) as connections:
                stalled.stall()
                try:
                    versions.now += 1
                    assert await fleet[0].purge(tags=["page"]) == (200, 2, 2)
                    # They reach the process with its next breath, before anything from Redis may.
                    for connection in connections:
                        connection.ask("/page")
                finally:
                    stalled.resume()
                answers = await asyncio.gather(*(one.answer() for one in connections))
            assert the_body(answers) == b"%d" % versions.now
            assert await versions.read(fleet) == {versions.now}
            assert await fleet[0].purge(tags=["other"]) == (200, 3, 3)


# ------------------------------------------------------------------------- Redis comes and goes


async def final(fleet: Fleet) -> None:
    """Until purges are final for everybody: the fleet is whole."""

    everybody = len(fleet.instances)
    purged: Purged | None = None

    async def holds() -> bool:
        nonlocal purged
        # A request makes who lost trust look for Redis.
        await fleet.each("/page")
        purged = await fleet[0].purge(tags=["nothing"])
        return purged == (200, everybody, everybody)

    try:
        await until(holds, "a purge that is final everywhere", bound=30)
    except TimeoutError:
        logs = "\n".join(f"{instance}: {instance.log()}" for instance in fleet.instances)
        raise AssertionError(f"not final everywhere, but {purged}\n{logs}") from None


@pytest.mark.systems
async def test_redis_comes_late_goes_and_comes_back_empty(tmp_path):
    # The port is told to others before it listens there: it must not take another one.
    with Valkey(tmp_path, port=free_port(), start=False) as valkey:
        layer = {"max_disconnected": 1.0}
        kinds = ["uvicorn", "uvicorn", "gunicorn"]
        async with Fleet(tmp_path, valkey.url, kinds=kinds, layer=layer) as fleet:
            versions = Versions(fleet)
            async with Hammer(fleet) as hammer:
                await hammer.rounds()
                assert the_body(await fleet.burst("/early", 60)) == b"1"
                await asyncio.to_thread(valkey.start)
                await final(fleet)
                assert the_body(await fleet.burst("/late", 90)) == b"1"
                assert fleet.origin.calls["/late"] == 1
                for down in (valkey.kill, valkey.stop):
                    await asyncio.to_thread(down)
                    await hammer.rounds()
                    versions.now += 1
                    # Not final, but not forgotten either.
                    assert not (await fleet[1].purge(tags=["page"])).final
                    assert (await fleet[1].get("/page")).body == b"%d" % versions.now
                    await asyncio.to_thread(valkey.restart, empty=True)
                    await final(fleet)
                    hammer.least = versions.now
                    await hammer.rounds()
                    path = f"/again/{versions.now}"
                    await fleet.burst(path, 90)
                    assert fleet.origin.calls[path] == 1
                hammer.was_never_noticed()


# --------------------------------------------------------------------------- Cluster and Sentinel


async def loses_its_master(
    fleet: Fleet, group: ValkeyCluster | ValkeySentinel, master: Valkey
) -> None:
    versions = Versions(fleet)
    assert the_body(await fleet.burst("/page", 150)) == b"1"
    assert fleet.origin.calls["/page"] == 1
    async with Hammer(fleet) as hammer:
        for number in range(2, 6):
            versions.now = number
            assert await fleet[number % 3].purge(tags=["page"]) == (200, 3, 3)
            hammer.least = number
            assert await versions.read(fleet) == {number}
        # Its last words may not have reached its replica.
        await asyncio.to_thread(master.kill)
        await hammer.rounds()
        await asyncio.to_thread(group.failed_over, master, bound=30)
        await hammer.rounds()
        await final(fleet)
        for number in range(6, 9):
            versions.now = number
            assert await fleet[number % 3].purge(tags=["page"]) == (200, 3, 3)
            hammer.least = number
            assert await versions.read(fleet) == {number}
    hammer.was_never_noticed()
    assert the_body(await fleet.burst("/after", 150)) == b"8"
    assert fleet.origin.calls["/after"] == 1


MIXED = ["uvicorn", "uvicorn", "gunicorn"]


@pytest.mark.systems
async def test_a_cluster_that_loses_the_master_of_the_log(tmp_path, valkey_cluster):
    layer = {"max_disconnected": 1.0}
    async with Fleet(tmp_path, valkey_cluster.url, kinds=MIXED, layer=layer) as fleet:
        master = valkey_cluster.owner("{layergate}:log")
        await loses_its_master(fleet, valkey_cluster, master)


@pytest.mark.systems
async def test_sentinels_that_replace_the_master(tmp_path, valkey_sentinel):
    layer = {"max_disconnected": 1.0}
    async with Fleet(tmp_path, valkey_sentinel.url, kinds=MIXED, layer=layer) as fleet:
        await loses_its_master(fleet, valkey_sentinel, valkey_sentinel.master)
