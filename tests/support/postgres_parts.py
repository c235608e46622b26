"""The parts of a layer on a PostgreSQL, each on its own, for the suites and for processes of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Self

from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.shared import Joining
from layergate.layers.postgres.blobs import PostgresBlobs
from layergate.layers.postgres.cells import PostgresCells
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.conninfo import conninfo_of
from layergate.layers.postgres.layer import PostgresLayer
from layergate.layers.postgres.schema import Tables
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, FencingCellsLeaseStore

__all__ = ["Parts", "World", "cells_of", "entry_of", "journal_of", "leases_of", "log_of"]


class Parts:
    """A client with its two ports. ``told``: the name of a cell of which processes are told."""

    def __init__(
        self,
        url: str,
        runtime: Any,
        *,
        namespace: str = "test",
        told: str = "head",
        most: int = 4,
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.client = PostgresClient(
            conninfo_of(url, namespace),
            Tables("layergate"),
            name="postgres",
            most=most,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        self.client.bind(runtime)
        self.cells = PostgresCells(self.client, frozenset({told}))
        self.blobs = PostgresBlobs(self.client, namespace)

    async def backend(self) -> int:
        """The server's process behind the idle connection."""
        pool = self.client._pools.here()
        if not pool._idle:
            await self.cells.epoch()
        return int(pool._idle[-1].pgconn.backend_pid)

    async def close(self) -> None:
        await self.cells.close()
        await self.client.close()


class World:
    """One of the two worlds, and the parts that a test made in it."""

    def __init__(self, name: str) -> None:
        self.blocking = name == "threads"
        self.runtime: Any = ThreadRuntime() if self.blocking else LoopRuntime()
        self.made: list[Parts] = []
        self._layers: list[tuple[PostgresLayer, Any]] = []
        self._runner = None if self.blocking else asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for layer, runtime in self._layers:
            self.run(_end(layer, runtime))
        for parts in self.made:
            self.run(parts.close())
        if self._runner is not None:
            self._runner.close()

    def run(self, work: Awaitable[Any]) -> Any:
        if self._runner is None:
            return run_blocking(work)  # type: ignore[arg-type]
        return self._runner.run(work)  # type: ignore[arg-type]

    def parts(self, url: str, **options: Any) -> Parts:
        parts = Parts(url, self.runtime, **options)
        self.made.append(parts)
        return parts

    def joined(self, url: str, **options: Any) -> PostgresLayer:
        """A layer as if in a process of its own, before its first contact with the log."""
        layer = PostgresLayer(url, **{"timeout": 5.0, "connect_timeout": 5.0, **options})
        runtime: Any = ThreadRuntime() if self.blocking else LoopRuntime()
        layer.join(Joining(Invalidations(), runtime, Counters(), ()))
        self._layers.append((layer, runtime))
        return layer

    def layer(self, url: str, **options: Any) -> PostgresLayer:
        layer = self.joined(url, **options)
        assert self.run(log_of(layer).catch_up())
        return layer


async def _end(layer: PostgresLayer, runtime: Any) -> None:
    # First the heartbeat: it would open a connection after the others are closed.
    await runtime.aclose(1.0)
    log_of(layer).heartbeat.stop()
    await layer.aclose()


def log_of(layer: PostgresLayer) -> Any:
    assert layer._joined is not None
    return layer._joined.log


def entry_of(layer: PostgresLayer, value: bytes = b"value", lifetime: float = 3600.0) -> Entry:
    """Fetched just now."""
    assert layer._joined is not None
    now = time.time()
    stamp = layer._joined.joining.invalidations.position
    return Entry(value, created=now, fresh_until=now + lifetime, stamp=stamp)


def _guard(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="postgres", timeout=5.0, connect_timeout=5.0)


def cells_of(url: str, told: str = "", world: str = "loop") -> PostgresCells:
    runtime: Any = ThreadRuntime() if world == "threads" else LoopRuntime()
    return Parts(url, runtime, told=told).cells


def journal_of(url: str, prefix: str, term: float = 0.6) -> CellsJournal:
    runtime = LoopRuntime()
    cells = Parts(url, runtime, told=f"{prefix}:head").cells
    return CellsJournal(
        cells, _guard(runtime).call, runtime, prefix=prefix, term=term, identity=url
    )


def leases_of(url: str, prefix: str) -> FencingCellsLeaseStore:
    runtime = LoopRuntime()
    parts = Parts(url, runtime, namespace=prefix)
    return FencingCellsLeaseStore(
        parts.cells, parts.blobs, _guard(runtime).call, runtime, prefix=prefix
    )
