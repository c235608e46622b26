"""G2 on one host: the workers of a server that share a folder fetch each page once (``uvicorn --workers 4``)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.connections import Connection
from tests.support.fleet import Fleet
from tests.support.origin import FRESH, OriginCall
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="made for Linux"),
]

WORKERS, KEYS, CONNECTIONS = 4, 5, 64


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One server with four workers. Each test has paths of its own."""
    folder = tmp_path_factory.mktemp("host")
    async with Fleet(folder, f"host:{folder}/shared", kinds=["uvicorn"], workers=WORKERS) as fleet:
        yield fleet


class Burst:
    """Requests for each of ``paths`` over connections of their own, all at once, and no answer yet: each
    path has a call that waits at its gate."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.paths = [f"/{name}/{number}" for number in range(KEYS)]
        self.began: dict[str, list[float]] = {path: [] for path in self.paths}
        """When the calls of each path began (monotonic)."""
        self.gates = {path: asyncio.Event() for path in self.paths}
        self._fleet = fleet
        for path in self.paths:
            fleet.origin.on(path)(self._answer)

    async def _answer(self, call: OriginCall) -> None:
        self.began[call.path].append(time.monotonic())
        await self.gates[call.path].wait()
        await call.reply(b"%d" % call.number, FRESH)

    async def ask(self, connections: list[Connection]) -> None:
        before = await self._arrived()
        for number, connection in enumerate(connections):
            connection.ask(self.paths[number % KEYS])

        async def all_wait() -> bool:
            return await self._arrived() - before >= len(connections)

        await until(all_wait, "every request to wait", bound=60)
        assert self.calls() == dict.fromkeys(self.paths, 1)

    async def _arrived(self) -> int:
        """The requests for the paths that wait for a call: for one in their process, for one in another
        process, or for their own."""
        stats = await self._fleet[0].stats()
        workers = stats["workers"]
        if workers["answered"] != workers["running"]:
            return 0
        elsewhere: int = stats["events"]["lease_wait"]
        return int(stats["waiters"]) + elsewhere + sum(self.calls().values())

    def calls(self) -> dict[str, int]:
        return {path: self._fleet.origin.calls[path] for path in self.paths}


async def test_cold_pages_are_fetched_once_for_all_workers(fleet: Fleet) -> None:
    burst = Burst(fleet, "cold")
    async with fleet.connected(KEYS * CONNECTIONS) as connections:
        await burst.ask(connections)
        for gate in burst.gates.values():
            gate.set()
        answers = await asyncio.gather(*(connection.answer() for connection in connections))
        # Later requests, too: through whichever worker.
        for number, connection in enumerate(connections):
            connection.ask(burst.paths[number % KEYS])
        answers += await asyncio.gather(*(connection.answer() for connection in connections))
    assert Counter((one.status, one.body) for one in answers) == {(200, b"1"): len(answers)}
    assert burst.calls() == dict.fromkeys(burst.paths, 1)


async def test_a_worker_that_is_killed_while_it_fetches_is_replaced_once(fleet: Fleet) -> None:
    burst = Burst(fleet, "killed")
    last = burst.paths[-1]
    async with fleet.connected(KEYS * CONNECTIONS) as connections:
        await burst.ask(connections)
        # It may have led other fetches: those have ended by then.
        for path in burst.paths[:-1]:
            burst.gates[path].set()
        answers = await asyncio.gather(
            *(one.answer() for number, one in enumerate(connections) if number % KEYS != KEYS - 1)
        )
        (leader,) = [call.pid for call in fleet.origin.log if call.path == last]
        killed = time.monotonic()
        os.kill(leader, signal.SIGKILL)
        await fleet.origin.called(last, 2)
        print(f"another call began {(burst.began[last][1] - killed) * 1000:.1f} ms after the kill")  # noqa: T201 - with -s
        burst.gates[last].set()
        theirs = await asyncio.gather(
            *(one.answer() for one in connections[KEYS - 1 :: KEYS]), return_exceptions=True
        )
    answers += [one for one in theirs if not isinstance(one, BaseException)]
    lost = [one for one in theirs if isinstance(one, BaseException)]
    assert all(isinstance(error, OSError | EOFError) for error in lost)
    assert len(lost) < CONNECTIONS, "no other worker had a request for this page"
    told = Counter((one.status, one.body) for one in answers)
    assert told == {(200, b"1"): 4 * CONNECTIONS, (200, b"2"): CONNECTIONS - len(lost)}
    assert burst.calls() == {**dict.fromkeys(burst.paths, 1), last: 2}
