"""Workers that share a folder: purges are final (G3), one fetch is for all (G2), and what one has stored
all serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from layergate.layers.host.folder import PrivateFolder
from tests.support.connections import Connection
from tests.support.fleet import Purged
from tests.support.gateway_processes import AUTHORIZED, GatewayProcesses, gone
from tests.support.origin import OriginCall
from tests.support.story import GONE, KEYS, Story
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


class Versions:
    """An origin that answers with what is the newest version when the call begins."""

    def __init__(self, gateway: GatewayProcesses) -> None:
        self.now = 1
        gateway.origin.on("/")(self._handle)

    async def _handle(self, call: OriginCall) -> None:
        headers = {"cache-control": "max-age=600", "cache-tag": "page"}
        await call.reply(b"%d" % self.now, headers)


async def read(connections: dict[int, Connection], path: str = "/page") -> list[int]:
    answers = await asyncio.gather(*(one.get(path) for one in connections.values()))
    assert {answer.status for answer in answers} == {200}
    return [int(answer.body) for answer in answers]


async def test_a_purge_through_any_worker_is_final_for_all(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            ways: list[dict[str, Any]] = [
                {"tags": ["page"]},
                {"files": ["http://example.com/page"]},
                {"patterns": ["/pa*"]},
                {"purge_everything": True},
                {"tags": ["page"], "soft": True},
                {"tags": ["page\udc80", "page"]},
            ]
            for number, what in enumerate(ways, start=2):
                for purger in connections.values():
                    assert await read(connections) == [versions.now] * 3
                    calls = gateway.origin.calls["/page"]
                    assert await read(connections) == [versions.now] * 3
                    assert gateway.origin.calls["/page"] == calls  # all from memory
                    versions.now += 1
                    assert await gateway.purge(purger, **what) == (200, 3, 3), (number, what)
                    assert await read(connections) == [versions.now] * 3


async def test_an_unsafe_method_through_one_worker_invalidates_in_all(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            for one in connections.values():
                assert await read(connections) == [versions.now] * 2
                versions.now += 1
                one.ask("/page", "POST", {"content-length": "0"})
                assert (await one.answer()).status == 200
                assert await read(connections) == [versions.now] * 2


async def test_what_is_under_way_when_it_is_purged_elsewhere_is_not_served_later(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        gate = gateway.origin.gated("/slow")
        async with gateway.each() as connections, gateway.each() as others:
            pid, other = connections
            connections[pid].ask("/slow")
            await gate.reached()
            assert await gateway.purge(connections[other], files=["http://example.com/slow"]) == (
                200,
                2,
                2,
            )
            # This one began after the purge: it does not join what began before.
            others[pid].ask("/slow")
            await gate.reached(2)
            gate.open()
            answers = [await connections[pid].answer(), await others[pid].answer()]
            assert [answer.body for answer in answers] == [b"1", b"2"]
            assert (await connections[pid].get("/slow")).body == b"2"


async def test_one_fetch_is_for_all_workers(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        gate = gateway.origin.gated("/burst")
        async with gateway.each() as connections, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Connection(gateway.port)) for _ in range(60)]
            clients += connections.values()
            for client in clients:
                client.ask("/burst")
            await gate.reached()
            gate.open()
            answers = await asyncio.gather(*(client.answer() for client in clients))
            assert {answer.body for answer in answers} == {b"1"}
            assert gateway.origin.calls["/burst"] == 1
            stats = await gateway.stats(next(iter(connections.values())))
            assert stats["layers"]["host"]["hits"] >= 2


async def test_while_the_upstream_is_down_every_worker_serves_what_any_has_stored(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        Versions(gateway)
        async with gateway.each() as connections:
            one, *_ = connections.values()
            for number in range(8):
                await one.get(f"/page/{number}")
            await gateway.origin.__aexit__(None, None, None)
            for connection in connections.values():
                for number in range(8):
                    answer = await connection.get(f"/page/{number}")
                    assert (answer.status, answer.body) == (200, b"1")


async def test_a_worker_that_replaces_another_begins_warm(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        Versions(gateway)
        async with gateway.each() as connections:
            await read(connections)
        os.kill(min(gateway.pids()), signal.SIGKILL)
        await gateway.logged("is there again")
        async with gateway.each() as connections:
            assert await read(connections) == [1, 1]
        assert gateway.origin.calls["/page"] == 1


async def test_the_folder_goes_with_the_gateway(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        async with gateway.each() as connections:
            stats = await gateway.stats(next(iter(connections.values())))
            assert stats["invalidation"]["members"] == 2
        (folder,) = folders_of(gateway.pid)
        assert folder.stat().st_mode & 0o777 == 0o700
        gateway.signal(signal.SIGTERM)
        await gone(gateway.pid)
        assert not folder.exists()


async def test_folders_that_killed_gateways_have_left_go_with_the_next(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        (folder,) = folders_of(gateway.pid)
        pids = gateway.pids()
        gateway.signal(signal.SIGKILL)
        for pid in pids:
            await gone(pid)
    assert folder.exists()
    os.utime(folder, (0, 0))
    used = PrivateFolder()
    assert not folder.exists()
    os.utime(used.path, (0, 0))
    other = PrivateFolder()
    assert used.path.exists()  # its owner is alive
    used.remove()
    other.remove()
    assert not used.path.exists()


def folders_of(pid: int) -> list[Path]:
    """The private folders that a process has files open in."""
    opened = Path(f"/proc/{pid}/fd").iterdir()
    links = [link.readlink() for link in opened]
    return [link.parent for link in links if link.parent.name.startswith("layergate-gateway-")]


async def test_who_is_killed_is_not_waited_for_and_its_replacement_counts(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            assert await read(connections) == [1, 1, 1]
            killed, *others = connections
            gateway.faults.write_text("start:exit")
            os.kill(killed, signal.SIGKILL)
            await gateway.logged("is started again in")
            versions.now = 2
            assert await gateway.purge(connections[others[0]], tags=["page"]) == (200, 2, 2)
            left = {pid: connections[pid] for pid in others}
            assert await read(left) == [2, 2]
            gateway.faults.unlink()
            await gateway.logged("is there again")
            versions.now = 3
            assert await gateway.purge(connections[others[1]], tags=["page"]) == (200, 3, 3)
            assert await read(left) == [3, 3]


async def test_who_stands_still_serves_nothing_old_when_it_goes_on(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            stalled, other = connections
            assert await read(connections) == [1, 1]
            os.kill(stalled, signal.SIGSTOP)
            versions.now = 2
            # Nobody waits for it: before it serves anything, it reads what was purged.
            assert await gateway.purge(connections[other], tags=["page"]) == (200, 2, 2)
            connections[stalled].ask("/page")
            os.kill(stalled, signal.SIGCONT)
            assert (await connections[stalled].answer()).body == b"2"
            assert await read(connections) == [2, 2]
            versions.now = 3
            assert await gateway.purge(connections[other], tags=["page"]) == (200, 2, 2)
            assert await read(connections) == [3, 3]


async def test_purges_need_no_supervisor(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            one, other = connections.values()
            assert await read(connections) == [1, 1]
            os.kill(gateway.pid, signal.SIGSTOP)
            try:
                for purger in (one, other):
                    versions.now += 1
                    assert await gateway.purge(purger, tags=["page"]) == (200, 2, 2)
                    assert await read(connections) == [versions.now] * 2
            finally:
                os.kill(gateway.pid, signal.SIGCONT)


async def test_after_the_end_of_the_supervisor_workers_end_and_purges_hold(tmp_path):
    async with GatewayProcesses(tmp_path, drain_timeout=20.0) as gateway:
        versions = Versions(gateway)
        gate = gateway.origin.gated("/slow")
        async with gateway.each() as connections:
            (pid, one), _ = connections.items()
            assert await read(connections) == [1, 1]
            one.ask(f"/slow/{pid}")
            await gate.reached()
            os.kill(gateway.pid, signal.SIGKILL)
            await gateway.logged("its supervisor is gone", 2)
            # It ends with this connection; what comes behind in it knows of the purge.
            versions.now = 2
            one.ask("/_layergate/purge", "POST", AUTHORIZED, b'{"tags": ["page"]}')
            one.ask("/page")
            gate.open()
            assert (await one.answer()).body == b"1"
            with contextlib.suppress(OSError, EOFError):
                assert (await one.answer()).status == 200
                assert (await one.answer()).body == b"2"


async def test_statistics_are_of_all_workers(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        Versions(gateway)
        async with gateway.each() as connections:
            await read(connections)
            await read(connections)
            for one in connections.values():
                stats = await gateway.stats(one)
                # What one has fetched is in the folder for the others.
                hits = {it["pid"]: it["events"]["hit"] for it in stats["workers"]["each"].values()}
                assert stats["events"]["hit"] == sum(hits.values())
                assert min(hits.values()) >= 1
                assert stats["layers"]["memory"]["entries"] == 3
                workers = stats["workers"]
                assert (workers["running"], workers["answered"]) == (3, 3)
                assert {each["pid"] for each in workers["each"].values()} == set(connections)
                assert list(workers["each"]) == ["0", "1", "2"]
            # One that stands still is missing, and holds nobody up for long.
            stalled, other, _ = connections
            os.kill(stalled, signal.SIGSTOP)
            stats = await gateway.stats(connections[other])
            os.kill(stalled, signal.SIGCONT)
            assert stats["workers"]["answered"] == 2
            assert stats["workers"]["running"] == 3
            assert stats["events"]["hit"] == sum(hits.values()) - hits[stalled]
            # So too without a supervisor.
            os.kill(gateway.pid, signal.SIGSTOP)
            stats = await gateway.stats(connections[other])
            os.kill(gateway.pid, signal.SIGCONT)
            assert stats["workers"]["answered"] == 1
            assert stats["workers"]["running"] == 3


async def test_with_a_shared_layer_purges_go_by_its_log(tmp_path, valkey):
    async with GatewayProcesses(tmp_path, cache={"shared": valkey.url}) as gateway:
        versions = Versions(gateway)
        async with gateway.each() as connections:
            assert await read(connections) == [1, 1]
            assert gateway.origin.calls["/page"] == 1
            versions.now = 2
            one, _ = connections.values()
            # (A purge would wait until a server this new has settled in.)
            one.ask("/page", "POST", {"content-length": "0"})
            await one.answer()

            async def everywhere() -> bool:
                return await read(connections) == [2, 2]

            await until(everywhere)
            stats = await gateway.stats(one)
            assert stats["workers"]["answered"] == 2
            assert stats["invalidation"]["log_position"] == 1  # Redis's own
            assert stats["layers"]["redis"]["hits"] >= 1


# ------------------------------------------------------------------------------------- a history


class Whichever:
    """Whichever worker the system gives the connection to, as the `Story` of a fleet has instances.

    They all bear one name, so what befalls one excuses what any of them fails with."""

    def __init__(self, gateway: GatewayProcesses) -> None:
        self.name = "a worker"
        self.port = gateway.port
        self._gateway = gateway

    async def purge(self, *, connection: Connection, **what: Any) -> Purged:
        return await self._gateway.purge(connection, **what)

    def log(self) -> str:
        return self._gateway.log()


class Workers:
    """A gateway, as a `Story` knows fleets."""

    def __init__(self, gateway: GatewayProcesses) -> None:
        self.origin = gateway.origin
        self.instances = [Whichever(gateway)] * gateway.settings["workers"]


class OfWorkers(Story):
    gateway: GatewayProcesses

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        partial = functools.partial
        return [
            self.kills_a_worker,
            self.ends_a_worker,
            partial(self.stops, 0.5),
            partial(self.stops, 2.5),
            partial(self.stops_the_supervisor, 0.5),
            partial(self.stops_the_supervisor, 2.5),
        ]

    async def _replaced(self, number: signal.Signals) -> None:
        before = self.gateway.pids()
        victim = self.random.choice(sorted(before))
        self.note(f"... {victim}")
        name = self.fleet.instances[0].name
        self.deaths[name] += 1
        self.down.add(name)
        os.kill(victim, number)
        wanted = self.gateway.settings["workers"]
        # Those whose request ran into it notice until they have noticed.
        await until(lambda: victim not in self.gateway.pids())
        await until(lambda: len(self.gateway.pids()) == wanted)
        await asyncio.sleep(0.1)
        self.deaths[name] += 1
        self.down.remove(name)

    async def kills_a_worker(self) -> None:
        await self._replaced(signal.SIGKILL)

    async def ends_a_worker(self) -> None:
        await self._replaced(signal.SIGTERM)

    async def stops(self, seconds: float) -> None:
        victim = self.random.choice(sorted(self.gateway.pids()))
        self.note(f"... {victim}")
        async with contextlib.AsyncExitStack() as stack:
            # Established, and used: what is asked over these is read with the process's next breath.
            connections = [
                await stack.enter_async_context(Connection(self.gateway.port)) for _ in range(30)
            ]
            await asyncio.gather(*(connection.get(KEYS[0]) for connection in connections))
            os.kill(victim, signal.SIGSTOP)
            asking = [
                asyncio.create_task(self.purges_and_asks(connections[number::5]))
                for number in range(5)
            ]
            await asyncio.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
            await asyncio.gather(*asking)

    async def purges_and_asks(self, connections: list[Connection]) -> None:
        """So that requests that began after a purge wait for who may not know of it."""
        key, instance = self.random.choice(KEYS), self.fleet.instances[0]
        with contextlib.suppress(*GONE):
            if await self.purge(instance, [key], tags=[key]):
                reads = [self.read(instance, key, connection) for connection in connections]
                await asyncio.gather(*reads, return_exceptions=True)

    async def stops_the_supervisor(self, seconds: float) -> None:
        os.kill(self.gateway.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(self.gateway.pid, signal.SIGCONT)


async def history(folder: Path, *, seconds: float, seed: int, whole: bool = True) -> None:
    async with GatewayProcesses(folder, workers=3, drain_timeout=3.0, whole=whole) as gateway:
        story = OfWorkers(Workers(gateway), seconds=seconds, seed=seed)  # type: ignore[arg-type]
        story.gateway = gateway
        await story.run(readers=2)
        story.check()


async def test_nothing_purged_is_served(tmp_path):
    await history(tmp_path, seconds=12, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(2, 6))
async def test_nothing_purged_is_served_for_long(tmp_path, seed, whole):
    await history(tmp_path, seconds=60, seed=seed, whole=whole)
