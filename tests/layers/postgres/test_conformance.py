"""A PostgreSQL passes all the suites of a shared layer, on a loop and on threads."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any, ClassVar

import pytest

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.layers.postgres import PostgresLayer
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.journal import Journal, LeaseStore
from layergate.shared.ports import Cells
from layergate.testing.cells import CellsConformance
from layergate.testing.journals import JournalConformance
from layergate.testing.layers import LayerConformance
from layergate.testing.leases import LeaseConformance
from tests.support.nodes import Exact
from tests.support.postgres_parts import cells_of, journal_of, leases_of
from tests.support.postgres_servers import Postgres

_numbers = itertools.count()


class OnAServer:
    url: ClassVar[str]
    server: ClassVar[Postgres]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, server: Postgres) -> None:
        cls.server, cls.url = server, server.url()


class OnThreads:
    def call(self, answer: Any) -> Any:
        return run_blocking(answer) if isinstance(answer, Awaitable) else answer  # type: ignore[arg-type]


class TestCells(OnAServer, CellsConformance):
    def make_cells(self) -> Cells:
        return cells_of(self.url)

    async def close_cells(self, cells: Any) -> None:
        await cells.close()
        await cells._client.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.postgres_parts:cells_of", [self.url]

    def remove(self, name: str) -> bool:
        self.server.sql(f"DELETE FROM layergate.cells WHERE name = '{name}'")
        return True

    def restart(self) -> bool:
        self.server.stop()
        self.server.start()
        return True


@pytest.mark.systems
class TestCellsOnThreads(OnThreads, TestCells):
    def make_cells(self) -> Cells:
        return cells_of(self.url, world="threads")

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.postgres_parts:cells_of", [self.url, "", "threads"]


@pytest.mark.systems
class TestJournal(OnAServer, JournalConformance):
    def test_no_purge_is_final_too_soon_while_members_live_and_are_killed(self) -> None:
        super().test_no_purge_is_final_too_soon_while_members_live_and_are_killed()

    def setup_method(self) -> None:
        self.prefix = f"journal{next(_numbers)}"
        super().setup_method()

    def make_journal(self) -> Journal:
        return journal_of(self.url, self.prefix)

    async def close_journal(self, journal: Any) -> None:
        await journal._cells.close()
        await journal._cells._client.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.postgres_parts:journal_of", [self.url, self.prefix]

    def lose(self) -> bool:
        self.server.sql("DELETE FROM layergate.cells")
        return True

    def save(self) -> Any:
        return self.server.save()

    def restore(self, saved: Any) -> None:
        self.server.restore(saved)


@pytest.mark.systems
class TestLeases(OnAServer, LeaseConformance):
    def setup_method(self) -> None:
        self.prefix = f"leases{next(_numbers)}"
        super().setup_method()

    def make_store(self) -> LeaseStore:
        return leases_of(self.url, self.prefix)

    async def close_store(self, store: Any) -> None:
        await store._cells.close()
        await store._cells._client.close()

    def read_blob(self, name: str) -> bytes | None:
        rows = self.server.sql(f"SELECT data FROM layergate.entries WHERE name = '{name}'")
        return bytes(rows[0][0]) if rows else None


class TestLayer(OnAServer, LayerConformance):
    stats_keys: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[dict[str, Any]] = {}

    def runtime(self) -> Any:
        return LoopRuntime()

    async def make_layer(self) -> Layer:
        name = f"layer{next(_numbers)}"
        layer: Any = PostgresLayer(self.url, namespace=name, timeout=5.0, **self.options)
        self.world = self.runtime()
        self.log, _ = layer.join(Joining(Invalidations(), self.world, Counters(), ()))
        assert await self.log.catch_up()
        layer._joined = layer._joined._replace(positions=Exact(self.log))
        made: Layer = layer
        return made

    async def close_layer(self, layer: Any) -> None:
        await layer.clear()
        await self.log.leave()
        await self.world.aclose(1.0)
        await layer.aclose()


@pytest.mark.systems
class TestSignedAndCompressed(TestLayer):
    options: ClassVar = {"secret": "a secret of more than 16 bytes", "compress_above": 100}


@pytest.mark.systems
class TestLayerOnThreads(OnThreads, TestLayer):
    def runtime(self) -> Any:
        return ThreadRuntime()


def test_the_parts_run_on_a_loop(server: Postgres) -> None:
    async def story() -> None:
        cells = cells_of(server.url())
        assert await cells.load("nothing") is None
        await cells.close()
        await cells._client.close()

    asyncio.run(story())
