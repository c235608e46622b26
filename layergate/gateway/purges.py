"""The supervisor's side of the purges that its workers share. `siblings` has the proof.

`Members` decides when a purge is final; this passes the purges on and sends the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from layergate.gateway.channel import pack
from layergate.gateway.process import WorkerProcess
from layergate.gateway.siblings import TERM
from layergate.runtime.clock import monotonic
from layergate.shared.members import Members

__all__ = ["Purges"]


class Purges:
    """``workers``: those that there are, by their serials."""

    def __init__(self, workers: Mapping[int, WorkerProcess]) -> None:
        self._workers = workers
        self._members: Members[int] = Members(monotonic, term=TERM)
        self._due: asyncio.TimerHandle | None = None

    def join(self, serial: int) -> None:
        """A worker is about to be started. From now on it is sent every purge."""
        self._members.join(serial)

    def leave(self, serial: int) -> None:
        """A worker has ended, or serves nothing any more."""
        self._members.leave(serial)
        self._settle()

    def grant(self, worker: WorkerProcess) -> None:
        """Trust a worker for another term."""
        worker.send({"op": "grant", "until": self._members.grant(worker.serial)})

    def purge(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        """A worker has purged: pass it on to all others."""
        position = self._members.append(worker.serial, int(message["id"]))
        frame = pack(
            {"op": "purged", "n": position, "time": message["time"], "marks": message["marks"]}
        )
        for other in self._workers.values():
            if other is not worker:
                other.send_frame(frame)
        self._settle()

    def applied(self, worker: WorkerProcess, position: int) -> None:
        """A worker has applied everything up to this position."""
        self._members.applied(worker.serial, position)
        self._settle()

    def _settle(self) -> None:
        """Answer the purges that are final, and look again when the next one may be."""
        for done in self._members.settled():
            asker = self._workers.get(done.by)
            if asker is not None:
                asker.send(
                    {
                        "op": "final",
                        "id": done.number,
                        "applied": done.applied,
                        "instances": done.instances,
                    }
                )
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = self._members.due()
        if due is not None:
            left = max(0.0, due - monotonic())
            self._due = asyncio.get_running_loop().call_later(left, self._settle)
