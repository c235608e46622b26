"""The parts of a layer on memcached, each on its own, for the suites and for processes of their own."""

from __future__ import annotations

from layergate.core.events import Counters
from layergate.layers.memcached.cells import MemcachedCells
from layergate.layers.memcached.client import MemcachedClient
from layergate.layers.memcached.url import parse_url
from layergate.runtime.loop import LoopRuntime
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, CellsLeaseStore

__all__ = ["cells_of", "journal_of", "leases_of"]


def _client(url: str, runtime: LoopRuntime) -> MemcachedClient:
    client = MemcachedClient(parse_url(url), name="memcached", timeout=5.0, connect_timeout=5.0)
    client.bind(runtime)
    return client


def _guard(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="memcached", timeout=5.0, connect_timeout=5.0)


def cells_of(url: str) -> MemcachedCells:
    return MemcachedCells(_client(url, LoopRuntime()))


def journal_of(url: str, prefix: str, term: float = 0.6) -> CellsJournal:
    runtime = LoopRuntime()
    cells = MemcachedCells(_client(url, runtime))
    return CellsJournal(
        cells,
        _guard(runtime).call,
        runtime,
        prefix=prefix,
        term=term,
        identity=url,
        look_every=0.02,
    )


def leases_of(url: str, prefix: str) -> CellsLeaseStore:
    runtime = LoopRuntime()
    return CellsLeaseStore(
        MemcachedCells(_client(url, runtime)), _guard(runtime).call, runtime, prefix=prefix
    )
