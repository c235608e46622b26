"""The parts of a layer on a PostgreSQL, each on its own, for the suites and for processes of their own."""

from __future__ import annotations

from layergate.core.events import Counters
from layergate.layers.postgres.blobs import PostgresBlobs
from layergate.layers.postgres.cells import PostgresCells
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.conninfo import conninfo_of
from layergate.layers.postgres.schema import Tables
from layergate.runtime.loop import LoopRuntime
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, FencingCellsLeaseStore

__all__ = ["cells_of", "journal_of", "leases_of"]


def _client(url: str, runtime: LoopRuntime) -> PostgresClient:
    client = PostgresClient(
        conninfo_of(url, "test"),
        Tables("layergate"),
        name="postgres",
        most=4,
        timeout=5.0,
        connect_timeout=5.0,
    )
    client.bind(runtime)
    return client


def _guard(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="postgres", timeout=5.0, connect_timeout=5.0)


def cells_of(url: str, told: str = "") -> PostgresCells:
    """``told``: the name of a cell of which processes are told."""
    return PostgresCells(_client(url, LoopRuntime()), frozenset({told}))


def journal_of(url: str, prefix: str, term: float = 0.6) -> CellsJournal:
    runtime = LoopRuntime()
    cells = PostgresCells(_client(url, runtime), frozenset({f"{prefix}:head"}))
    return CellsJournal(
        cells, _guard(runtime).call, runtime, prefix=prefix, term=term, identity=url
    )


def leases_of(url: str, prefix: str) -> FencingCellsLeaseStore:
    runtime = LoopRuntime()
    client = _client(url, runtime)
    return FencingCellsLeaseStore(
        PostgresCells(client, frozenset()),
        PostgresBlobs(client, prefix),
        _guard(runtime).call,
        runtime,
        prefix=prefix,
    )
