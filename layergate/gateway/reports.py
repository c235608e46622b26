"""The statistics of all workers, gathered by the supervisor when one of them asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from layergate.gateway import timeouts
from layergate.gateway.process import WorkerProcess

__all__ = ["Reports"]


class _Report:
    """``wanted``: the serials of the workers that have not answered yet."""

    def __init__(self, asker: WorkerProcess, number: int, wanted: set[int]) -> None:
        self.asker = asker
        self.number = number
        self.wanted = wanted
        self.stats: list[Mapping[str, Any]] = []


class Reports:
    """``workers``: those that there are, by their serials."""

    def __init__(self, workers: Mapping[int, WorkerProcess]) -> None:
        self._workers = workers
        self._reports: dict[int, _Report] = {}
        self._numbers = itertools.count()

    def begin(self, asker: WorkerProcess, number: int) -> None:
        """Ask all workers. ``number``: the asker's name for its question."""
        own = next(self._numbers)
        alive = [worker for worker in self._workers.values() if worker.silent is not None]
        self._reports[own] = _Report(asker, number, {worker.serial for worker in alive})
        for worker in alive:
            worker.send({"op": "stats", "id": own})
        asyncio.get_running_loop().call_later(timeouts.REPORT, self._end, own)

    def take(self, worker: WorkerProcess, number: int, stats: Mapping[str, Any]) -> None:
        """A worker answers."""
        report = self._reports.get(number)
        if report is not None and worker.serial in report.wanted:
            report.wanted.discard(worker.serial)
            report.stats.append(dict(stats))
            self.check()

    def check(self) -> None:
        """Send the reports that wait for no worker any more."""
        for number, report in list(self._reports.items()):
            report.wanted &= self._workers.keys()
            if not report.wanted:
                self._end(number)

    def _end(self, number: int) -> None:
        report = self._reports.pop(number, None)
        if report is not None:
            report.asker.send({"op": "report", "id": report.number, "stats": report.stats})
