"""The conformance suite of cells.

    from layergate.testing.cells import CellsConformance

    class TestMyCells(CellsConformance):
        def make_cells(self):
            return MyCells(...)

On cells stand the log of purges and the leases (`layergate.shared.ledger`), and their proof rests on
what is asked for here: every read is a strong one, a swap fails if anything has happened to the cell, and
a tag is never used twice. `make_cells` is called once for each client that a test needs; all of these
reach the same cells. Each test uses names that were never used.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, ClassVar
from unittest import SkipTest

from layergate.shared.ports import Cells, EpochCells, RemovableCells, Tag, WaitableCells, answered
from layergate.testing.harness import Harness
from layergate.testing.histories import Operation, check, contend

__all__ = ["CellsConformance"]


class CellsConformance(Harness, ABC):
    """What all cells must do. Subclass it, and override `make_cells`.

    Class attributes to adjust:

    ``namespace``  what the names begin with.
    ``large``      bytes of the largest value that is tried; less if `Cells.limits` says so. The ledger
                   uses up to 256 KiB.
    ``contenders``  clients that change one cell at once, in threads and in processes.
    ``seconds``    for how long they do.
    """

    namespace: ClassVar[str] = "cells"
    large: ClassVar[int] = 256 * 1024
    contenders: ClassVar[int] = 4
    seconds: ClassVar[float] = 1.0

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def make_cells(self) -> Cells | Awaitable[Cells]:
        """The cells, as one more client reaches them. Also called in other threads."""

    def close_cells(self, cells: Cells) -> object:  # noqa: ARG002 - for subclasses
        """Release what `make_cells` opened. May return an awaitable."""
        return None

    def remove(self, name: str) -> bool:  # noqa: ARG002 - for subclasses
        """Remove a cell, as an administrator or an eviction does. False if that cannot be done: tests
        that need it are skipped."""
        return False

    def restart(self) -> bool:
        """Restart the server. The cells may be gone then. False if that cannot be done."""
        return False

    def fail_over(self) -> bool:
        """Have the server lose its last writes. False if that cannot be done."""
        return False

    def factory(self) -> tuple[str, list[Any]] | None:
        """``module:function`` and arguments that make the cells in another process; None if processes
        cannot share them."""
        return None

    # -- harness ----------------------------------------------------------------------------------

    def setup_method(self) -> None:
        super().setup_method()
        self._clients: list[Cells] = []
        self.name = self.new_name()
        self.cells = self.another()

    def teardown_method(self) -> None:
        try:
            for cells in self._clients:
                self.call(self.close_cells(cells))
        finally:
            super().teardown_method()

    def another(self) -> Cells:
        """The cells, as one more client reaches them."""
        cells = self.call(self.make_cells())
        self._clients.append(cells)
        return cells

    def new_name(self) -> str:
        return f"{self.namespace}:{os.urandom(8).hex()}"

    def load(self, name: str | None = None, cells: Cells | None = None) -> tuple[bytes, Tag] | None:
        loaded = self.call((cells or self.cells).load(name or self.name))
        if loaded is None:
            return None
        data, tag = loaded
        assert tag is not None
        return bytes(data), tag

    def data(self, name: str | None = None) -> bytes | None:
        loaded = self.load(name)
        return None if loaded is None else loaded[0]

    def tag(self) -> Tag:
        loaded = self.load()
        assert loaded is not None
        return loaded[1]

    def swap(self, tag: Tag | None, data: bytes, *, name: str | None = None) -> Tag | None:
        return self.call(self.cells.swap(name or self.name, tag, data))

    def put(self, data: bytes, *, name: str | None = None) -> None:
        self.call(self.cells.put(name or self.name, data))

    # -- one cell ---------------------------------------------------------------------------------

    def test_are_cells(self) -> None:
        assert isinstance(self.cells, Cells)
        limits = self.cells.limits
        assert limits.largest is None or limits.largest >= 16 * 1024

    def test_a_missing_cell_is_none(self) -> None:
        assert self.load() is None

    def test_a_swap_creates_a_cell_that_is_not_there(self) -> None:
        tag = self.swap(None, b"one")
        assert tag is not None
        assert self.load() == (b"one", tag)

    def test_a_swap_does_not_create_a_cell_that_is_there(self) -> None:
        tag = self.swap(None, b"one")
        assert self.swap(None, b"two") is None
        assert self.load() == (b"one", tag)

    def test_a_swap_does_not_create_a_cell_that_was_to_be_there(self) -> None:
        tag = self.swap(None, b"elsewhere", name=self.new_name())
        assert self.swap(tag, b"one") is None
        assert self.load() is None

    def test_a_swap_replaces_what_was_seen(self) -> None:
        first = self.swap(None, b"one")
        second = self.swap(first, b"two")
        assert second not in {None, first}
        assert self.load() == (b"two", second)

    def test_a_swap_fails_if_the_cell_was_changed(self) -> None:
        first = self.swap(None, b"one")
        second = self.swap(first, b"two")
        assert self.swap(first, b"three") is None
        assert self.load() == (b"two", second)

    def test_a_cell_that_looks_as_before_was_changed_all_the_same(self) -> None:
        first = self.swap(None, b"same")
        assert self.swap(self.swap(first, b"other"), b"same") is not None
        assert self.swap(first, b"late") is None
        seen = self.tag()
        self.put(b"same")
        assert self.swap(seen, b"late") is None
        assert self.data() == b"same"

    def test_a_swap_that_changes_nothing_changes_the_tag(self) -> None:
        first = self.swap(None, b"same")
        assert self.swap(first, b"same") != first
        assert self.swap(first, b"late") is None

    def test_a_put_sets_what_is_there_and_what_is_not(self) -> None:
        self.put(b"one")
        first = self.tag()
        self.put(b"two")
        assert self.load() != (b"two", first)
        assert self.data() == b"two"
        assert self.swap(self.tag(), b"three") is not None

    def test_tags_are_values(self) -> None:
        """Only equality means anything, but that does."""
        self.swap(None, b"one")
        loaded, again = self.load(), self.load(cells=self.another())
        assert loaded == again
        assert len({self.tag(), self.tag()}) == 1
        assert self.swap(self.tag(), b"two") is not None

    # -- what cells hold --------------------------------------------------------------------------

    def test_any_bytes(self) -> None:
        for data in (b"\x00", b"\xff" * 3, b"\r\n", bytes(range(256)), b"0", b"None"):
            self.put(data)
            assert self.data() == data
            assert self.swap(self.tag(), data + data) is not None
            assert self.data() == data * 2

    def test_large_data(self) -> None:
        largest = self.cells.limits.largest
        size = min(self.large, largest or self.large)
        data = os.urandom(size)
        tag = self.swap(None, data)
        assert self.load() == (data, tag)
        self.put(data[::-1])
        assert self.data() == data[::-1]
        assert self.swap(self.tag(), b"small") is not None
        assert self.data() == b"small"

    def test_names(self) -> None:
        longest = self.cells.limits.longest_name or 128
        begin = self.new_name()
        names = [f"{begin}{end}" for end in ("", ":", ":head", ":HEAD", ".m/001", "-_{}", ":001")]
        names.append(f"{begin}:".ljust(min(128, longest), "x"))
        for number, name in enumerate(names):
            assert self.load(name) is None
            self.put(b"%d" % number, name=name)
        assert [self.data(name) for name in names] == [b"%d" % one for one in range(len(names))]

    # -- tags -------------------------------------------------------------------------------------

    def test_no_tag_is_used_twice(self) -> None:
        tags = [self.swap(None, b"")]
        for number in range(20):
            if number % 3:
                tags.append(self.swap(tags[-1], b"%d" % (number % 2)))
            else:
                self.put(b"%d" % (number % 2))
                tags.append(self.tag())
        assert None not in tags
        assert len(set(tags)) == len(tags)

    def test_no_tag_is_used_twice_when_a_cell_was_removed(self) -> None:
        tags = [self.swap(None, b"same")]
        for _ in range(5):
            if not self.remove(self.name):
                raise SkipTest("cells of this system cannot be removed")
            assert self.load() is None
            assert self.swap(tags[-1], b"late") is None
            tags += (tag := self.swap(None, b"same"), self.swap(tag, b"same"))
        assert None not in tags
        assert len(set(tags)) == len(tags)

    def test_a_cell_that_was_put_anew_has_a_new_tag(self) -> None:
        self.put(b"same")
        before = self.tag()
        if not self.remove(self.name):
            raise SkipTest("cells of this system cannot be removed")
        self.put(b"same")
        assert self.tag() != before
        assert self.swap(before, b"late") is None

    def test_no_tag_is_used_twice_when_the_server_was_restarted(self) -> None:
        tags = [self.swap(None, b"same")]
        for _ in range(4):
            tags.append(self.swap(tags[-1], b"same"))
        if not self.restart():
            raise SkipTest("this server cannot be restarted")
        loaded = self.load()
        new = [self.swap(None if loaded is None else loaded[1], b"same")]
        for _ in range(8):
            new.append(self.swap(new[-1], b"same"))
        assert None not in {*tags, *new}
        assert not set(tags) & set(new)

    def test_remove(self) -> None:
        cells = self.cells
        if not isinstance(cells, RemovableCells):
            raise SkipTest("these cells cannot be removed")
        tag = self.swap(None, b"one")
        self.call(cells.remove(self.name))
        assert self.load() is None
        assert self.swap(tag, b"two") is None
        assert self.swap(None, b"three") not in {None, tag}
        self.call(cells.remove(self.new_name()))

    # -- clients at once --------------------------------------------------------------------------

    def test_a_client_sees_what_another_has_done(self) -> None:
        other = self.another()
        tag = None
        for number in range(50):
            tag = self.swap(tag, b"%d" % number)
            assert self.load(cells=other) == (b"%d" % number, tag)
        self.put(b"put")
        loaded = self.load(cells=other)
        assert loaded is not None
        assert loaded[0] == b"put"

    def test_clients_in_threads_see_one_cell(self) -> None:
        histories: list[list[Operation]] = []
        failures: list[BaseException] = []
        barrier = threading.Barrier(self.contenders)

        async def work() -> None:
            cells = await answered(self.make_cells())
            try:
                await answered(cells.load(self.name))
                barrier.wait(20)
                histories.append(await contend(cells, self.name, seconds=self.seconds))
            finally:
                closed: Any = self.close_cells(cells)
                await answered(closed)

        def run() -> None:
            try:
                asyncio.run(work())
            except BaseException as error:
                barrier.abort()
                failures.append(error)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(self.contenders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        self._check(histories)

    def test_clients_in_processes_see_one_cell(self) -> None:
        factory = self.factory()
        if factory is None:
            raise SkipTest("processes cannot share these cells")
        function, arguments = factory
        command = [sys.executable, "-m", "layergate.testing.histories", function]
        command += [json.dumps(arguments), self.name, str(self.seconds)]
        processes = [
            subprocess.Popen(  # noqa: S603 - its own
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(self.contenders)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            answers = []
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                said, _ = process.communicate(timeout=self.seconds + 60)
                answers.append([Operation(*json.loads(line)) for line in said.splitlines()])
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        self._check(answers)

    def _check(self, histories: list[list[Operation]]) -> None:
        """They are histories of one cell, and prove something."""
        values = check([one for history in histories for one in history])
        assert self.data() == values[-1].encode()
        changes = [sum(one.wrote is not None for one in history) for history in histories]
        assert sum(changes) == len(values) - 1
        assert len(values) > len(histories), f"nothing was changed: {changes}"

    # -- what some cells offer --------------------------------------------------------------------

    def test_waiting_for_a_change(self) -> None:
        cells, other = self.cells, self.another()
        if not isinstance(cells, WaitableCells):
            raise SkipTest("these cells do not tell of changes")
        tag = self.swap(None, b"one")
        assert not self.call(cells.wait(self.name, tag, 0.05))
        assert self.call(cells.wait(self.name, None, 5.0)) or True
        self.swap(tag, b"two")
        began = time.monotonic()
        assert self.call(cells.wait(self.name, tag, 20.0)), "it was changed already"
        assert time.monotonic() - began < 10
        seen = self.tag()

        def change() -> None:
            time.sleep(0.1)

            async def work() -> None:
                cells = await answered(self.make_cells())
                await answered(cells.put(self.name, b"three"))
                closed: Any = self.close_cells(cells)
                await answered(closed)

            asyncio.run(work())

        thread = threading.Thread(target=change)
        thread.start()
        until = time.monotonic() + 20
        while self.tag() == seen:  # it may return too early
            self.call(cells.wait(self.name, seen, 20.0))
            assert time.monotonic() < until
        thread.join()
        assert self.load(cells=other) == self.load()

    def test_an_epoch_changes_when_writes_may_be_lost(self) -> None:
        cells, other = self.cells, self.another()
        if not isinstance(cells, EpochCells) or not isinstance(other, EpochCells):
            raise SkipTest("these cells have no epochs")
        epoch = self.call(cells.epoch())
        assert isinstance(epoch, bytes)
        assert 0 < len(epoch) <= 256
        self.put(b"one")
        assert self.call(cells.epoch()) == self.call(other.epoch()) == epoch
        if not self.fail_over():
            raise SkipTest("this system cannot fail over")
        assert self.call(cells.epoch()) == self.call(other.epoch()) != epoch
