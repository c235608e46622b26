"""The connections of one event loop of one process, or of all the threads of one process.

`RedisClient` makes one for each, and takes idle connections out of it. A connection belongs to one caller
at a time, from `take` to `give`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from layergate.layers.redis.batch import Batcher
from layergate.layers.redis.cluster import Slots
from layergate.layers.redis.connection import Connection, LoopConnection, ThreadConnection
from layergate.layers.redis.params import ConnectParams
from layergate.layers.redis.url import Address

__all__ = ["Pool"]

_IDLE: Final = 32  # connections kept for later, per node and loop


class Pool:
    """What belongs to one event loop of one process, or to all the threads of one process."""

    def __init__(self, params: ConnectParams, loop: Any = None) -> None:
        self.params = params
        self.batcher: Batcher | None = None
        self.slots: Slots | None = None
        self.stale = False
        self.looked = 0.0
        self._loop = loop
        self._done = False
        self._idle: dict[Address | None, list[Connection]] = {}

    def closed(self) -> bool:
        return self._done or (self._loop is not None and self._loop.is_closed())

    def count(self) -> int:
        return sum(len(idle) for idle in list(self._idle.values()))

    def connection(self, params: ConnectParams, seconds: float) -> Connection:
        if self._loop is None:
            return ThreadConnection(params, seconds)
        return LoopConnection(params, seconds)

    async def take(self, node: Address | None) -> Connection | None:
        """An idle connection that has nothing unread and is not closed; None if there is none."""
        idle = self._idle.get(node)
        while idle:
            try:
                connection = idle.pop()  # the one used last: the server may have closed others
            except IndexError:  # another thread was quicker
                break
            if not await connection.dirty():
                return connection
            await connection.drop()
        return None

    async def give(self, node: Address | None, connection: Connection) -> None:
        idle = self._idle.get(node)
        if idle is None:
            idle = self._idle.setdefault(node, [])
        if self._done or len(idle) >= _IDLE:
            await connection.drop()
        else:
            idle.append(connection)

    async def clear(self, node: Address | None) -> None:
        for connection in self._idle.pop(node, ()):
            await connection.drop()

    async def together(self, work: Sequence[Awaitable[None]]) -> None:
        """Do all of it: at the same time on a loop, one after the other under threads."""
        if self._loop is None or len(work) == 1:
            for one in work:
                await one
            return
        await asyncio.gather(*work)

    def abandon(self) -> None:
        """Its loop was closed over it."""
        self._done = True
        for node in list(self._idle):
            for connection in self._idle.pop(node, ()):
                connection.abandon()

    async def close(self) -> None:
        self._done = True
        if self.batcher is not None:
            await self.batcher.close()
        for node in list(self._idle):
            for connection in self._idle.pop(node, ()):
                await connection.drop(gently=True)
        # redis-py itself keeps the connections to Sentinels open, and no others.
        manager = getattr(self.params.keep, "sentinel_manager", None)
        for sentinel in () if manager is None else manager.sentinels:
            if self._loop is None:
                sentinel.close()
            else:
                await sentinel.aclose()
