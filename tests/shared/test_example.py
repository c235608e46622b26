"""The example of a shared layer passes all suites: what its author would write, to the letter."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from layergate import CacheStack, MemoryLayer
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.journal import Journal, LeaseStore
from layergate.shared.ports import Blobs, Cells
from layergate.testing.cells import CellsConformance
from layergate.testing.journals import JournalConformance
from layergate.testing.layers import LayerConformance
from layergate.testing.leases import LeaseConformance
from tests.support.example_layer import SqliteLayer, cells_of, journal_of, leases_of
from tests.support.nodes import Exact


class _InAFile:
    """Each test has a file of its own."""

    def setup_method(self) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.path = f"{self._folder.name}/shared.db"
        super().setup_method()  # type: ignore[misc] # of the suite

    def teardown_method(self) -> None:
        try:
            super().teardown_method()  # type: ignore[misc] # of the suite
        finally:
            self._folder.cleanup()


class TestCells(_InAFile, CellsConformance):
    def make_cells(self) -> Cells:
        cells: Cells = cells_of(self.path)
        assert isinstance(cells, Blobs)
        return cells

    def close_cells(self, cells: Any) -> None:
        cells.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.example_layer:cells_of", [self.path]


class TestJournal(_InAFile, JournalConformance):
    @pytest.mark.systems
    def test_no_purge_is_final_too_soon_while_members_live_and_are_killed(self) -> None:
        super().test_no_purge_is_final_too_soon_while_members_live_and_are_killed()

    def make_journal(self) -> Journal:
        return journal_of(self.path)

    def close_journal(self, journal: Any) -> None:
        journal._cells.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.example_layer:journal_of", [self.path]


class TestLeases(_InAFile, LeaseConformance):
    def make_store(self) -> LeaseStore:
        return leases_of(self.path)

    def close_store(self, store: Any) -> None:
        store._cells.close()


class TestLayer(_InAFile, LayerConformance):
    stats_keys: ClassVar[frozenset[str]] = frozenset()

    def runtime(self) -> Any:
        return LoopRuntime()

    async def make_layer(self) -> Layer:
        layer: Any = SqliteLayer(Path(self.path), timeout=5.0)
        self.world = self.runtime()
        self.log, _ = layer.join(Joining(Invalidations(), self.world, Counters(), ()))
        assert await self.log.catch_up()
        layer._joined = layer._joined._replace(positions=Exact(self.log))
        made: Layer = layer
        return made

    async def close_layer(self, layer: Any) -> None:
        await self.log.leave()
        await self.world.aclose(1.0)
        await layer.aclose()


class TestLayerOnThreads(TestLayer):
    def runtime(self) -> Any:
        return ThreadRuntime()

    def call(self, answer: Any) -> Any:
        return run_blocking(answer) if isinstance(answer, Awaitable) else answer  # type: ignore[arg-type]


def test_two_instances_share_what_is_fetched_and_purged(tmp_path: Path) -> None:
    fetched: list[int] = []

    async def fetch() -> int:
        await asyncio.sleep(0.01)
        fetched.append(1)
        return len(fetched)

    async def scenario() -> None:
        stacks = [
            CacheStack([MemoryLayer("1MB"), SqliteLayer(tmp_path / "a.db", timeout=5.0)])
            for _ in range(2)
        ]

        async def read() -> set[int]:
            return set(
                await asyncio.gather(
                    *(one.get("key", fetch, ttl=60, tags=["t"]) for one in stacks for _ in range(9))
                )
            )

        for one in stacks:
            await one.join()
        assert await read() == {1}
        receipt = await stacks[0].invalidate_by_tag("t")
        assert receipt.final
        assert receipt.instances == 2
        assert await read() == {2}
        for one in stacks:
            await one.aclose()

    asyncio.run(scenario())
