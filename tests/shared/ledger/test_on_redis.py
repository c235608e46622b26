"""Cells on a real server, and the ledger on these: by the suites."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.runtime.loop import LoopRuntime
from layergate.shared.journal import Journal, LeaseStore
from layergate.shared.ledger import CellsJournal, CellsLeaseStore
from layergate.shared.ports import Cells
from layergate.testing.cells import CellsConformance
from layergate.testing.journals import JournalConformance
from layergate.testing.layers import LayerConformance
from layergate.testing.leases import LeaseConformance
from tests.support.nodes import Exact
from tests.support.redis_cells import (
    RedisCells,
    RedisCellsLayer,
    WatchingRedisCells,
    cells_of,
    journal_of,
    leases_of,
)
from tests.support.redis_servers import SharedValkey, Valkey

pytest_plugins = ("tests.support.redis_servers",)


class TestRedisCells(CellsConformance):
    valkey: Any
    seconds = 0.5
    contenders = 3

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, session_valkey: Valkey) -> None:
        cls.valkey = session_valkey

    def make_cells(self) -> Cells:
        return cells_of(self.valkey.url)

    async def close_cells(self, cells: Cells) -> None:
        assert isinstance(cells, RedisCells)
        await cells.close()

    def remove(self, name: str) -> bool:
        self.valkey.cli("DEL", name)
        return True

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.redis_cells:cells_of", [self.valkey.url]


class WatchedRedisCells(TestRedisCells):
    def make_cells(self) -> Cells:
        return WatchingRedisCells(self.valkey.url)


def test_compare_and_set_without_a_script(session_valkey: Valkey) -> None:
    suite = WatchedRedisCells()
    suite.valkey = session_valkey
    suite.setup_method()
    try:
        suite.test_clients_in_threads_see_one_cell()
    finally:
        suite.teardown_method()


@pytest.mark.parametrize(
    "test",
    [
        "test_no_tag_is_used_twice_when_the_server_was_restarted",
        "test_an_epoch_changes_when_writes_may_be_lost",
    ],
)
def test_redis_cells_when_the_server_is_restarted(tmp_path: Path, test: str) -> None:
    class Restarted(TestRedisCells):
        def restart(self) -> bool:
            server.restart()
            for cells in self._clients:
                assert isinstance(cells, RedisCells)
                self.call(cells.client.connection_pool.disconnect())
            return True

        fail_over = restart

    with Valkey(tmp_path) as server:
        suite = Restarted()
        suite.valkey = server
        suite.setup_method()
        try:
            getattr(suite, test)()
        finally:
            suite.teardown_method()


class TestJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _server(self, shared_valkey: SharedValkey) -> None:
        self.valkey = shared_valkey

    @property
    def prefix(self) -> str:
        return f"{self.valkey.namespace}:log"

    def make_journal(self) -> Journal:
        return journal_of(self.valkey.url, self.prefix)

    async def close_journal(self, journal: Journal) -> None:
        assert isinstance(journal, CellsJournal)
        cells: Any = journal._cells
        await cells.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.redis_cells:journal_of", [self.valkey.url, self.prefix]

    def lose(self) -> bool:
        for key in self.valkey.cli("KEYS", f"{self.prefix}*"):
            self.valkey.cli("DEL", key)
        return True

    def save(self) -> Any:
        keys = self.valkey.cli("KEYS", f"{self.prefix}*")
        return [(key, self.valkey.cli("DUMP", key)) for key in keys]

    def restore(self, saved: Any) -> None:
        self.lose()
        for key, dump in saved:
            self.valkey.cli("RESTORE", key, 0, dump)


class TestLayer(LayerConformance):
    """All of it together: a layer of which only the blobs know that it is a Redis."""

    valkey: Any

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, session_valkey: Valkey) -> None:
        cls.valkey = session_valkey

    async def make_layer(self) -> Layer:
        layer = RedisCellsLayer(self.valkey.url, namespace=f"layer{time.time_ns()}", timeout=5.0)
        self.world = LoopRuntime()
        self.log, _ = layer.join(Joining(Invalidations(), self.world, Counters(), ()))
        assert await self.log.catch_up()
        assert layer._joined is not None
        layer._joined = layer._joined._replace(positions=Exact(self.log))  # type: ignore[arg-type]
        return layer

    async def close_layer(self, layer: Layer) -> None:
        await self.log.leave()
        await self.world.aclose(1.0)
        assert isinstance(layer, RedisCellsLayer)
        await layer.aclose()


class TestLeases(LeaseConformance):
    valkey: Any

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, session_valkey: Valkey) -> None:
        cls.valkey = session_valkey

    def make_store(self) -> LeaseStore:
        return leases_of(self.valkey.url, "leases on cells")

    async def close_store(self, store: LeaseStore) -> None:
        assert isinstance(store, CellsLeaseStore)
        cells: Any = store._cells
        await cells.close()
