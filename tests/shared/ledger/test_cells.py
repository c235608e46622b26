"""The suite for cells, against cells in memory; and that it finds what is wrong with others."""

from __future__ import annotations

import time
from typing import Any

import pytest

from layergate.runtime.loop import LoopRuntime
from layergate.shared.ports import Cell, Cells, Tag
from layergate.testing.cells import CellsConformance
from layergate.testing.histories import NOTHING, Operation, check
from layergate.testing.memory_cells import CellServer, MemoryCells, WaitableMemoryCells


class TestMemoryCells(CellsConformance):
    seconds = 0.2

    def setup_method(self) -> None:
        self.server = self.make_server()
        super().setup_method()

    def make_server(self) -> CellServer:
        return CellServer()

    def make_cells(self) -> Cells:
        return MemoryCells(self.server)

    def remove(self, name: str) -> bool:
        self.server.lose(name)
        return True

    def restart(self) -> bool:
        self.server.lose()
        return True

    def fail_over(self) -> bool:
        self.server.restore(self.server.saved())
        return True


class TestWaitableMemoryCells(TestMemoryCells):
    def make_cells(self) -> Cells:
        return WaitableMemoryCells(self.server, LoopRuntime())


class TestSmallMemoryCells(TestMemoryCells):
    def make_server(self) -> CellServer:
        return CellServer(largest=20_000)


# -- cells that break a rule ---------------------------------------------------------------------------


class Stale(MemoryCells):
    """Reads from a replica that is behind."""

    def load(self, name: str) -> Cell | None:
        seen: dict[str, Any] = self._server.__dict__.setdefault("replica", {})
        before, when = seen.get(name, (None, 0.0))
        if time.monotonic() - when > 0.02:
            seen[name] = super().load(name), time.monotonic()
            return super().load(name)
        return before


class Racing(MemoryCells):
    """Compares and sets in two steps."""

    def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        there = self.load(name)
        if (None if there is None else there.tag) != tag:
            return None
        time.sleep(0.0005)
        with self._server.lock:
            return self._server.set(name, data)


class Counting(CellServer):
    """Counts the versions of each cell from 1."""

    def new_tag(self, name: str) -> Tag:
        there = self.cells.get(name)
        return 1 if there is None else int(str(there.tag)) + 1


class ByContent(CellServer):
    """Takes a hash of the content for a tag."""

    def set(self, name: str, data: bytes) -> Tag:
        self.cells[name] = Cell(data, hash(data))
        return hash(data)


class Blind(MemoryCells):
    """A put does not change the tag."""

    def put(self, name: str, data: bytes) -> None:
        there = self.load(name)
        if there is None:
            return super().put(name, data)
        self._server.cells[name] = Cell(data, there.tag)
        return None


class Creating(MemoryCells):
    """A swap creates a cell that is gone."""

    def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        return super().swap(name, None if self.load(name) is None else tag, data)


class Cutting(MemoryCells):
    def put(self, name: str, data: bytes) -> None:
        super().put(name, data[:65_536])


@pytest.mark.parametrize(
    ("server", "cells", "test"),
    [
        (CellServer, Stale, "test_a_client_sees_what_another_has_done"),
        (CellServer, Stale, "test_clients_in_threads_see_one_cell"),
        (CellServer, Racing, "test_clients_in_threads_see_one_cell"),
        (Counting, MemoryCells, "test_no_tag_is_used_twice_when_a_cell_was_removed"),
        (Counting, MemoryCells, "test_a_cell_that_was_put_anew_has_a_new_tag"),
        (Counting, MemoryCells, "test_no_tag_is_used_twice_when_the_server_was_restarted"),
        (ByContent, MemoryCells, "test_a_cell_that_looks_as_before_was_changed_all_the_same"),
        (ByContent, MemoryCells, "test_a_swap_that_changes_nothing_changes_the_tag"),
        (ByContent, MemoryCells, "test_no_tag_is_used_twice"),
        (CellServer, Blind, "test_a_cell_that_looks_as_before_was_changed_all_the_same"),
        (CellServer, Creating, "test_a_swap_does_not_create_a_cell_that_was_to_be_there"),
        (CellServer, Cutting, "test_large_data"),
    ],
)
def test_cells_that_break_a_rule_fail(
    server: type[CellServer], cells: type[MemoryCells], test: str
) -> None:
    class Broken(TestMemoryCells):
        def make_server(self) -> CellServer:
            return server()

        def make_cells(self) -> Cells:
            return cells(self.server)

    suite = Broken()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError):
            getattr(suite, test)()
    finally:
        suite.teardown_method()


# -- the checker ---------------------------------------------------------------------------------------


def load(began: float, ended: float, seen: str) -> Operation:
    return Operation(began, ended, seen, None)


def swap(began: float, ended: float, seen: str, wrote: str) -> Operation:
    return Operation(began, ended, seen, wrote)


def test_a_linearizable_history() -> None:
    history = [
        swap(0, 3, NOTHING, "a"),
        load(1, 2, NOTHING),  # while it is under way: either
        load(1, 2, "a"),
        swap(2, 9, "a", "b"),
        load(4, 8, "a"),
        load(4, 8, "b"),
        load(8.5, 8.6, "b"),
        swap(5, 12, "b", "c"),
        load(11, 13, "b"),
    ]
    assert check(history) == [NOTHING, "a", "b", "c"]
    assert check([]) == [NOTHING]


@pytest.mark.parametrize(
    "wrong",
    [
        [swap(4, 5, NOTHING, "x")],  # "a" has replaced it already
        [load(4, 5, NOTHING)],  # stale
        [load(-2, -1, "a")],  # from the future
        [load(10, 11, "a")],  # stale, by a swap whose end nobody else has seen
        [load(4, 5, "never written")],
        [swap(4, 5, "never written", "x")],
        [load(4, 5, "b"), load(6, 7, "a")],  # back and forth
        [swap(-3, -2, "b", "c")],  # before the one that it follows
    ],
)
def test_a_history_that_is_not(wrong: list[Operation]) -> None:
    history = [swap(0, 3, NOTHING, "a"), swap(2, 9, "a", "b")]
    check(history)
    with pytest.raises(AssertionError):
        check([*history, *wrong])
