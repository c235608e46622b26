"""Cells in a Redis, and nothing else of it: to drive the ledger on a real server.

A cell is a hash with its data and its tag. A tag is random, so it is never used twice, whatever becomes
of the server. Compare-and-set is one script, or (`WatchingRedisCells`) WATCH, MULTI and EXEC.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

import redis.asyncio
from redis.exceptions import WatchError

from layergate.core.events import Counters
from layergate.core.shared import Joining
from layergate.layers.redis.blobs import RedisBlobs
from layergate.layers.redis.client import RedisClient
from layergate.runtime.loop import LoopRuntime
from layergate.shared.cells_layer import CellsLayer
from layergate.shared.guard import Guard
from layergate.shared.layer import SystemOptions
from layergate.shared.ledger import CellsJournal, CellsLeaseStore
from layergate.shared.ports import Cell, Limits, Tag

__all__ = [
    "CellsLayer",
    "RedisCells",
    "WatchingRedisCells",
    "cells_of",
    "guard_of",
    "journal_of",
    "leases_of",
]

_SWAP = """
local tag = redis.call('HGET', KEYS[1], 't') or ''
if tag ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 't', ARGV[2], 'd', ARGV[3])
return 1
"""


class RedisCells:
    """`EpochCells` and `RemovableCells`."""

    limits = Limits()

    def __init__(self, url: str) -> None:
        self.client: Any = redis.asyncio.Redis.from_url(url)

    async def load(self, name: str) -> Cell | None:
        tag, data = await self.client.hmget(name, "t", "d")
        return None if tag is None else Cell(data, tag)

    async def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        new = os.urandom(12)
        done = await self.client.eval(_SWAP, 1, name, tag or b"", new, data)
        return new if done else None

    async def put(self, name: str, data: bytes) -> None:
        await self.client.hset(name, mapping={"t": os.urandom(12), "d": data})

    async def epoch(self) -> bytes:
        info: dict[str, Any] = await self.client.info("server")
        return str(info["run_id"]).encode()

    async def remove(self, name: str) -> None:
        await self.client.delete(name)

    async def close(self) -> None:
        await self.client.aclose()


class WatchingRedisCells(RedisCells):
    async def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        new = os.urandom(12)
        async with self.client.pipeline() as pipe:
            await pipe.watch(name)
            if await pipe.hget(name, "t") != tag:
                return None
            pipe.multi()
            pipe.hset(name, mapping={"t": new, "d": data})
            try:
                await pipe.execute()
            except WatchError:
                return None
        return new


class RedisCellsLayer(CellsLayer):
    """A layer whose log and leases are the ledger's, and whose entries are in the same server."""

    look_every = 0.01

    def __init__(self, url: str, **options: Unpack[SystemOptions]) -> None:
        options.setdefault("name", "redis cells")
        super().__init__(**options)
        self._client = RedisClient(
            url,
            connect_timeout=self.connect_timeout,
            timeout=self.timeout,
            namespace=self.namespace,
            name=self.name,
        )
        self._cells = RedisCells(url)

    def connect(self, joining: Joining) -> tuple[RedisBlobs, RedisCells]:
        self._client.bind(joining.runtime, joining.counters)
        return RedisBlobs(self._client, self.namespace), self._cells

    async def aclose(self) -> None:
        await self._client.close()
        await self._cells.close()


def cells_of(url: str) -> RedisCells:
    return RedisCells(url)


def guard_of(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="redis cells", timeout=5.0, connect_timeout=5.0)


def journal_of(url: str, prefix: str, term: float = 0.5) -> CellsJournal:
    runtime = LoopRuntime()
    return CellsJournal(
        RedisCells(url),
        guard_of(runtime).call,
        runtime,
        prefix=prefix,
        term=term,
        identity=url,
        look_every=0.01,
    )


def leases_of(url: str, prefix: str) -> CellsLeaseStore:
    runtime = LoopRuntime()
    return CellsLeaseStore(RedisCells(url), guard_of(runtime).call, runtime, prefix=prefix)
