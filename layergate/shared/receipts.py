"""Waiting until a purge is final, and the receipt that says how far it got.

`SharedLog.append` ends here, once the record is in the log and applied in this process. The record may
still get lost while the purge waits (the system is emptied, or fails over); then it is appended again,
and the wait goes on for its new place.
"""

from __future__ import annotations

from typing import Final, Protocol

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.ports import Runtime
from layergate.shared.journal import Appended, Journal, Place
from layergate.shared.ports import answered
from layergate.shared.replay import repetition

__all__ = ["LOCAL", "Repeating", "until_final"]

_RETRIES: Final = 5  # how often a record may get lost
_FAILURES: Final = 3  # in a row, of asking how far it got
_GRACE: Final = 1.0  # seconds more than the journal says it may take
_POLL: Final = (0.0, 0.001, 0.001, 0.002, 0.002, 0.004, 0.004, 0.008, 0.016, 0.032, 0.05)  # seconds

LOCAL: Final = PurgeReceipt(1, 1, final=False, scope="fleet")
"""The purge is applied in this process, and not known to be anywhere else."""


class Repeating(Protocol):
    """What is needed of the log."""

    def place(self, *, member: bool = False) -> Place:
        """Where this instance stands now."""
        ...

    async def refresh(self) -> object:
        """Read what is new in the log."""
        ...

    async def append_purge(
        self, invalidations: tuple[Invalidation, ...], time: float, again: bytes = b""
    ) -> Appended:
        """Append the purge as a repetition of the lost record ``again``, and apply it here."""
        ...


async def until_final(
    log: Repeating,
    journal: Journal,
    runtime: Runtime,
    counters: Counters,
    purge: tuple[tuple[Invalidation, ...], float],
    record: Appended,
    wait: float | None,
) -> PurgeReceipt:
    """Wait until ``record`` is final, at most ``wait`` seconds (None: as long as it may take).

    ``purge``: what the record says (`SharedLog.append`), to append it again. Never raises an Exception.
    """
    monotonic = runtime.monotonic
    bound = journal.terms.finality + _GRACE if wait is None else wait
    deadline = monotonic() + bound
    applied = instances = 1
    asked = failures = losses = 0
    while True:
        pause = 0.0
        try:
            place = log.place()
            status = await answered(journal.status(place, record))
            if status.log != record.log or not status.found:
                losses += 1
                if losses > _RETRIES:
                    return PurgeReceipt(applied, instances, final=False, scope="fleet")
                if status.log != place.log:
                    await log.refresh()
                lost = repetition(record.log, record.position, record.tip)
                record = await log.append_purge(*purge, again=lost)
                if wait is None:
                    deadline = monotonic() + bound
                continue
            failures = 0
            instances, applied = status.instances, status.applied
            if status.final:
                return PurgeReceipt(applied, instances, final=True, scope="fleet")
            pause = status.pause
        except Exception as error:
            failures += 1
            if failures >= _FAILURES:
                counters.on("layer_error", layer="shared", operation="wait", error=error)
                return PurgeReceipt(applied, instances, final=False, scope="fleet")
        left = deadline - monotonic()
        if left <= 0:
            return PurgeReceipt(applied, instances, final=False, scope="fleet")
        pause = max(pause, _POLL[min(asked, len(_POLL) - 1)])
        asked += 1
        if pause:
            await runtime.event().wait(min(pause, left))
