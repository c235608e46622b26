"""Purges that wait to be appended to the shared log.

`SharedLog` puts a purge here when the shared system does not answer, and `Replay` puts a record here
that was in the log and got lost. The next sync that succeeds appends them in order. Nothing here does
I/O; the caller holds the lock of the log.

The outbox is bounded. If it overflows, one purge of everything takes the place of all it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from layergate.core.invalidation import Invalidation
from layergate.shared.positions import Positions

__all__ = ["EVERYTHING", "Outbox", "Waiting"]

_RECORDS: Final = 1024
_INVALIDATIONS: Final = 20_000
EVERYTHING: Final = (Invalidation("all"),)


class Waiting(NamedTuple):
    """A record that waits to be appended.

    ``time``   seconds since the epoch at which the purge was made.
    ``again``  names the lost record that this one repeats; b"" for a new purge.
    ``below``  the local position before the purge was applied here; None for a repetition.
    """

    invalidations: tuple[Invalidation, ...]
    time: float
    again: bytes
    below: int | None


class Outbox:
    """The queue. ``now``: seconds since the epoch."""

    def __init__(self, positions: Positions, now: Callable[[], float]) -> None:
        self._positions = positions
        self._now = now
        self._waiting: deque[Waiting] = deque()
        self._invalidations = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: Waiting) -> None:
        waiting = self._waiting
        waiting.append(record)
        self._invalidations += len(record.invalidations)
        if len(waiting) > _RECORDS or self._invalidations > _INVALIDATIONS:
            below = self._lowest()
            waiting.clear()
            waiting.append(Waiting(EVERYTHING, self._now(), b"", below))
            self._invalidations = 1
        self._positions.hold_below(self._lowest())

    def add_everything(self, again: bytes) -> None:
        """More has to be repeated than is remembered: purge everything instead."""
        self.add(Waiting(EVERYTHING, self._now(), again, None))

    def first(self, number: int) -> list[Waiting]:
        """The records that have waited longest, at most so many."""
        return [self._waiting[index] for index in range(min(number, len(self._waiting)))]

    def appended(self, records: Sequence[Waiting]) -> None:
        """These, from `first`, are in the log now."""
        for one in records:
            # (An overflow may have replaced them meanwhile.)
            if self._waiting and self._waiting[0] is one:
                self._waiting.popleft()
                self._invalidations -= len(one.invalidations)
        self._positions.hold_below(self._lowest())

    def repeats(self) -> set[bytes]:
        """The ``again`` of every record that waits."""
        return {one.again for one in self._waiting}

    def _lowest(self) -> int | None:
        return next((one.below for one in self._waiting if one.below is not None), None)
