"""The parts of a layer on a MongoDB, each on its own, for the suites and for processes of their own."""

from __future__ import annotations

from layergate.core.events import Counters
from layergate.layers.mongodb.cells import MongoCells
from layergate.layers.mongodb.client import MongoConnection
from layergate.runtime.loop import LoopRuntime
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, CellsLeaseStore

__all__ = ["cells_of", "journal_of", "leases_of"]


def _connection(url: str, runtime: LoopRuntime) -> MongoConnection:
    connection = MongoConnection(
        url,
        database="layergate",
        prefix="layergate",
        name="mongodb",
        timeout=5.0,
        connect_timeout=5.0,
    )
    connection.bind(runtime)
    return connection


def _guard(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="mongodb", timeout=5.0, connect_timeout=5.0)


def cells_of(url: str) -> MongoCells:
    return MongoCells(_connection(url, LoopRuntime()))


def journal_of(url: str, prefix: str, term: float = 0.6) -> CellsJournal:
    runtime = LoopRuntime()
    cells = MongoCells(_connection(url, runtime))
    return CellsJournal(
        cells, _guard(runtime).call, runtime, prefix=prefix, term=term, identity=url
    )


def leases_of(url: str, prefix: str) -> CellsLeaseStore:
    runtime = LoopRuntime()
    cells = MongoCells(_connection(url, runtime))
    return CellsLeaseStore(cells, _guard(runtime).call, runtime, prefix=prefix)
