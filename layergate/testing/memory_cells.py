"""Cells in memory, for tests: `layergate.shared.ports.Cells` without a server.

`CellServer` stands for the server, which all clients in one process share; each has its own
`MemoryCells`. They show how little `Cells` asks for, and the suites run against them where there is no
server. They share nothing between processes, so they are of no use outside of tests.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

from layergate.core.ports import Event, Runtime
from layergate.shared.ports import Cell, Limits, Tag

__all__ = ["CellServer", "MemoryCells", "WaitableMemoryCells"]


class CellServer:
    """The cells. ``largest``: bytes of the largest."""

    def __init__(self, *, largest: int | None = None) -> None:
        self.lock = threading.Lock()
        self.limits = Limits(largest=largest)
        self.cells: dict[str, Cell] = {}
        self.epoch = 1
        self.waiting: list[tuple[str, Event]] = []
        self._tags = itertools.count(1)

    def set(self, name: str, data: bytes) -> Tag:
        """Under the lock."""
        cell = self.cells[name] = Cell(data, self.new_tag(name))
        for waited, event in self.waiting:
            if waited == name:
                event.set()
        return cell.tag

    def new_tag(self, name: str) -> Tag:  # noqa: ARG002 - for subclasses
        """One that was never used."""
        return next(self._tags)

    def lose(self, name: str | None = None) -> None:
        """Lose a cell, or all of them."""
        with self.lock:
            for one in [name] if name is not None else list(self.cells):
                self.cells.pop(one, None)

    def saved(self) -> Any:
        """The cells as they are now, for `restore`."""
        with self.lock:
            return dict(self.cells)

    def restore(self, saved: Any) -> None:
        """Fail over to a server that is behind."""
        with self.lock:
            self.cells = dict(saved)
            self.epoch += 1


class MemoryCells:
    """`EpochCells`, as one client reaches them."""

    def __init__(self, server: CellServer) -> None:
        self._server = server

    @property
    def limits(self) -> Limits:
        return self._server.limits

    def load(self, name: str) -> Cell | None:
        with self._server.lock:
            return self._server.cells.get(name)

    def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        with self._server.lock:
            there = self._server.cells.get(name)
            if (None if there is None else there.tag) != tag:
                return None
            return self._server.set(name, data)

    def put(self, name: str, data: bytes) -> None:
        with self._server.lock:
            self._server.set(name, data)

    def epoch(self) -> bytes:
        return b"%d" % self._server.epoch


class WaitableMemoryCells(MemoryCells):
    """They also tell of changes."""

    def __init__(self, server: CellServer, runtime: Runtime) -> None:
        super().__init__(server)
        self._runtime = runtime

    async def wait(self, name: str, tag: Tag | None, seconds: float) -> bool:
        event = self._runtime.event()
        server = self._server
        with server.lock:
            there = server.cells.get(name)
            if (None if there is None else there.tag) != tag:
                return True
            server.waiting.append((name, event))
        try:
            return await event.wait(seconds)
        finally:
            with server.lock:
                server.waiting.remove((name, event))
