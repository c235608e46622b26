"""The ledger, by the suites for journals and lease stores, on cells in memory."""

from __future__ import annotations

from typing import Any, ClassVar

from layergate.core.events import Counters
from layergate.runtime.loop import LoopRuntime
from layergate.shared.guard import Guard
from layergate.shared.journal import Journal, LeaseStore
from layergate.shared.ledger import CellsJournal, CellsLeaseStore, FencingCellsLeaseStore
from layergate.shared.ports import Cells, Tag
from layergate.testing.journals import JournalConformance
from layergate.testing.leases import LeaseConformance
from layergate.testing.memory_cells import CellServer, MemoryCells, WaitableMemoryCells


def guard_of(runtime: LoopRuntime) -> Guard:
    return Guard(runtime, Counters(), name="cells", timeout=5.0, connect_timeout=1.0)


class TestJournal(JournalConformance):
    look_every: ClassVar[float | None] = 0.01
    term: ClassVar[float] = 0.4

    def setup_method(self) -> None:
        self.server = CellServer()
        super().setup_method()

    def make_cells(self, runtime: LoopRuntime) -> Cells:
        return MemoryCells(self.server)

    def make_journal(self) -> Journal:
        runtime = LoopRuntime()
        return CellsJournal(
            self.make_cells(runtime),
            guard_of(runtime).call,
            runtime,
            prefix="test:log",
            term=self.term,
            identity="the log of this test",
            look_every=self.look_every,
        )

    def lose(self) -> bool:
        self.server.lose()
        return True

    def save(self) -> Any:
        return self.server.saved()

    def restore(self, saved: Any) -> None:
        self.server.restore(saved)


class JournalThatIsTold(TestJournal):
    look_every: ClassVar[float | None] = None

    def make_cells(self, runtime: LoopRuntime) -> Cells:
        return WaitableMemoryCells(self.server, runtime)


def test_a_journal_that_is_told_of_changes() -> None:
    suite = JournalThatIsTold()
    suite.setup_method()
    try:
        suite.test_a_subscription_tells_that_the_log_grew()
    finally:
        suite.teardown_method()


class PlainCells(MemoryCells):
    cheap_puts = False


class TestPlainJournal(TestJournal):
    members = False
    term = 0.25

    def make_cells(self, runtime: LoopRuntime) -> Cells:
        return PlainCells(self.server)


class TestLeases(LeaseConformance):
    def setup_method(self) -> None:
        self.server = CellServer()
        self.blobs: dict[str, bytes] = {}
        super().setup_method()

    def make_store(self) -> LeaseStore:
        runtime = LoopRuntime()
        cells = MemoryCells(self.server)
        return CellsLeaseStore(cells, guard_of(runtime).call, runtime, prefix="test:leases")

    def read_blob(self, name: str) -> bytes | None:
        return self.blobs.get(name)


class Blobs:
    """`ConditionalBlobs`, beside the cells."""

    def __init__(self, server: CellServer, blobs: dict[str, bytes]) -> None:
        self.server = server
        self.blobs = blobs

    def set_if(self, cell: str, tag: Tag, name: str, data: bytes, seconds: float) -> bool:
        with self.server.lock:
            there = self.server.cells.get(cell)
            if there is None or there.tag != tag:
                return False
            self.blobs[name] = data
            return True


class TestFencingLeases(TestLeases):
    def make_store(self) -> LeaseStore:
        runtime = LoopRuntime()
        return FencingCellsLeaseStore(
            MemoryCells(self.server),
            Blobs(self.server, self.blobs),
            guard_of(runtime).call,
            runtime,
            prefix="test:leases",
        )
