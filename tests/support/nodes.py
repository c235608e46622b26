"""Several instances in one process, in either world, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from layergate.core.backoff import Backoff
from layergate.core.codec import Codec
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.shared import Joining
from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.journal import RedisJournal
from layergate.layers.redis.keys import log_key
from layergate.layers.redis.leases import RedisLeaseStore
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.leases import SharedLeases
from layergate.shared.log import SharedLog
from tests.support.waiting import BOUND, until

FAR = 2.0**39


class Reach(NamedTuple):
    """What a receipt says of the fleet."""

    applied: int
    instances: int
    final: bool


class Loop:
    """Scenarios run on a loop."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def runtime(self) -> Any:
        return LoopRuntime()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def whole() -> Any:
            try:
                return await asyncio.wait_for(work, 3 * BOUND)
            finally:
                await self.end()

        return asyncio.run(whole())

    async def end(self) -> None:
        for node in self.nodes:
            await node.close()

    async def together(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        return await asyncio.gather(*work)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def until(self, holds: Callable[[], Any]) -> None:
        def told() -> str:
            return "\n".join(f"{node.log.stats()} {node.events}" for node in self.nodes)

        await until(holds, told, pause=self.sleep)


class Threads(Loop):
    """Scenarios run on threads."""

    def runtime(self) -> Any:
        return ThreadRuntime()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return run_blocking(work)
        finally:
            run_blocking(self.end())

    async def together(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        with ThreadPoolExecutor(len(work)) as pool:
            return [one.result(3 * BOUND) for one in [pool.submit(run_blocking, w) for w in work]]

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this world blocks


@pytest.fixture(params=[Loop, Threads], ids=["loop", "threads"])
def world(request: pytest.FixtureRequest) -> Any:
    return request.param()


class Still:
    """Instead of a heartbeat: the test does what it would do."""

    running = True
    leases = None
    stranded = False

    def ensure(self) -> bool:
        return True

    def stop(self) -> None: ...

    def forked(self) -> None: ...


class Node:
    """One instance: marks, a log, leases."""

    def __init__(
        self,
        world: Any,
        url: str,
        namespace: str,
        *,
        disconnected: float | None = 5.0,
        length: int = 1000,
        term: float = 10.0,
        backoff: Backoff | None = None,
        secret: bytes | None = None,
        still: bool = False,
        runtime: Any = None,
        timeout: float = 1.0,
        wrap: Callable[[Any], Any] = lambda client: client,
    ) -> None:
        self.runtime = world.runtime() if runtime is None else runtime
        self.invalidations = Invalidations()
        self.events: list[str] = []
        self.counters = Counters([lambda event, facts: self.events.append(event)])
        self.codec = Codec(secret=secret)
        joining = Joining(self.invalidations, self.runtime, self.counters, ())
        client = RedisClient(url, connect_timeout=1.0, timeout=timeout, namespace=namespace)
        client.bind(self.runtime, self.counters)
        self.client = wrap(client)
        self.journal = RedisJournal(
            self.client, namespace=namespace, max_disconnected=disconnected, log_length=length
        )
        self.log = SharedLog(
            self.journal, self.codec, joining, timeout=timeout, connect_timeout=1.0
        )
        self.store = RedisLeaseStore(self.client, namespace)
        self.leases = SharedLeases(
            self.store,
            joining,
            namespace=namespace,
            secret=secret or b"",
            term=term,
            backoff=Backoff() if backoff is None else backoff,
            heartbeat=self.log.heartbeat,
        )
        if still:
            self.log.heartbeat = Still()  # type: ignore[misc, assignment]
        world.nodes.append(self)

    @property
    def trusted(self) -> bool:
        return bool(self.runtime.monotonic() < self.log.trusted_until)

    @property
    def position(self) -> int:
        return self.invalidations.position

    def knows(self, tag: str, since: int) -> bool:
        """Is what bears ``tag`` and was stamped ``since`` gone?"""
        return self.invalidations.purged_since(since, (tag,), "label")

    def held(self, tag: str) -> Callable[[], bool]:
        """Is what would be fetched now, bearing ``tag``, still valid when asked later?"""
        since = self.position
        return lambda: not self.knows(tag, since)

    async def purge(self, tag: str, *, wait: float | None = None, soft: bool = False) -> Reach:
        invalidations = (Invalidation("tag", tag, soft),)
        receipt = await self.log.append(invalidations, self.runtime.now(), wait=wait)
        assert receipt.scope == "fleet"
        return Reach(receipt.applied, receipt.instances, receipt.final)

    async def join(self) -> None:
        limit = time.monotonic() + BOUND
        while not await self.log.catch_up():  # a busy machine may use up the little time there is
            assert time.monotonic() < limit
            await self.runtime.event().wait(0.01)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.log.leave()
        await self.runtime.aclose(0.1)
        await self.client.close()


class Exact:
    """A log whose positions go over the wire as they are. The real one's are coarser, which would
    be this suite's only objection; `test_a_stamp_*` are about the real one's."""

    def __init__(self, log: Any) -> None:
        self._id = log.log_id

    def place(self, stamp: int) -> tuple[bytes, int] | None:
        return self._id, stamp

    def claimed(self, stamp: int) -> tuple[bytes, int] | None:
        return None

    def stamp(self, log: bytes, position: int) -> int | None:
        return position if log == self._id else None


def settle(server: Any, namespace: str) -> None:
    """End the settling of a log: the test knows all its instances."""
    assert server.cli("HSET", key_of(namespace, "meta"), "settle", "0") == 0


def key_of(namespace: str, part: str) -> str:
    return log_key(namespace, part).decode()


def part_of(server: Any, part: str) -> str:
    """The key of a part of the log, in the namespace that goes with ``server``."""
    return key_of(getattr(server, "namespace", "fleet"), part)
