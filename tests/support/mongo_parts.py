"""The parts of a layer on a MongoDB, each on its own, for the suites and for processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Self

from layergate.core.events import Counters
from layergate.layers.mongodb.blobs import MongoBlobs
from layergate.layers.mongodb.cells import MongoCells
from layergate.layers.mongodb.client import MongoConnection
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, CellsLeaseStore

__all__ = ["Parts", "World", "cells_of", "journal_of", "leases_of"]


class Parts:
    """A connection with its two ports."""

    def __init__(
        self,
        url: str,
        runtime: Any,
        *,
        namespace: str = "test",
        prefix: str = "layergate",
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.connection = MongoConnection(
            url,
            database="layergate",
            prefix=prefix,
            name="mongodb",
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        self.connection.bind(runtime)
        self.cells = MongoCells(self.connection)
        self.blobs = MongoBlobs(self.connection, namespace)

    async def close(self) -> None:
        await self.cells.close()
        await self.connection.close()


class World:
    """One of the two worlds, and the parts that a test made in it."""

    def __init__(self, name: str) -> None:
        self.blocking = name == "threads"
        self.runtime: Any = ThreadRuntime() if self.blocking else LoopRuntime()
        self._made: list[Parts] = []
        self._runner = None if self.blocking else asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for parts in self._made:
            self.run(parts.close())
        if self._runner is not None:
            self._runner.close()

    def run(self, work: Awaitable[Any]) -> Any:
        if self._runner is None:
            return run_blocking(work)  # type: ignore[arg-type]
        return self._runner.run(work)  # type: ignore[arg-type]

    def parts(self, url: str, **options: Any) -> Parts:
        parts = Parts(url, self.runtime, **options)
        self._made.append(parts)
        return parts


def _runtime(world: str) -> Any:
    return ThreadRuntime() if world == "threads" else LoopRuntime()


def _guard(runtime: Any) -> Guard:
    return Guard(runtime, Counters(), name="mongodb", timeout=5.0, connect_timeout=5.0)


def cells_of(url: str, world: str = "loop") -> MongoCells:
    return Parts(url, _runtime(world)).cells


def journal_of(url: str, prefix: str, term: float = 0.6) -> CellsJournal:
    runtime = LoopRuntime()
    cells = Parts(url, runtime).cells
    return CellsJournal(
        cells, _guard(runtime).call, runtime, prefix=prefix, term=term, identity=url
    )


def leases_of(url: str, prefix: str) -> CellsLeaseStore:
    runtime = LoopRuntime()
    return CellsLeaseStore(Parts(url, runtime).cells, _guard(runtime).call, runtime, prefix=prefix)
