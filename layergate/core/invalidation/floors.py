"""A table of fixed size that takes the purges which are too many to be kept exactly.

Each purged value has three slots of the table, chosen by its hash. A slot holds the newest position
of all purges that use it. A value that was purged therefore has three slots that are at least as
high as its purge. A value that was not purged counts as purged only if all three of its slots are
high by chance. With n purges in a table of m slots that is the case for (1 - e^(-3n/m))^3 of all
other values. So a collision can invalidate too much, but never too little.
"""

from __future__ import annotations

from array import array
from typing import Final

from layergate.core.invalidation.history import Moment

__all__ = ["UNKNOWN", "Floors"]

UNKNOWN: Final = float("-inf")
"""The time of a purge where the table keeps no times."""

_WORD: Final = (1 << 64) - 1


class Floors:
    """A table of ``slots`` (a power of two) slots.

    A slot takes eight bytes, eight more if the table keeps times (``timed``), and eight more once a
    position does not fit into 64 bits.

    One thread writes at a time; any thread may read without a lock.
    """

    __slots__ = ("_high", "_low", "_mask", "_slots", "_times")

    def __init__(self, slots: int, *, timed: bool) -> None:
        self._slots = slots
        self._mask = slots - 1
        self._low = array("Q", bytes(8 * slots))
        self._high: array[int] | None = None  # bits 65 and up of the positions
        self._times = array("d", [UNKNOWN]) * slots if timed else None

    def _slots_of(self, value: str) -> tuple[int, int, int]:
        digest, mask = hash(value), self._mask
        return digest & mask, digest >> 20 & mask, digest >> 40 & mask

    def _position(self, slot: int) -> int:
        high = self._high
        return self._low[slot] if high is None else high[slot] << 64 | self._low[slot]

    def add(self, value: str, moment: Moment) -> None:
        """Take in that ``value`` was purged at ``moment``."""
        high = moment.position >> 64
        if high and self._high is None:
            self._high = array("Q", bytes(8 * self._slots))
        for slot in self._slots_of(value):
            if self._times is not None:
                time = self._times[slot]
                self._times[slot] = moment.time if time == UNKNOWN else min(time, moment.time)
            if moment.position > self._position(slot):
                if self._high is not None:
                    # The high bits first: a reader between the two stores sees a position that is
                    # too high, if anything.
                    self._high[slot] = high
                self._low[slot] = moment.position & _WORD

    def earliest_after(self, value: str, position: int) -> float | None:
        """The time of the earliest purge of ``value`` after ``position``, or an earlier one; None
        if there is none. `UNKNOWN` if the table keeps no times."""
        slots = self._slots_of(value)
        for slot in slots:
            if self._position(slot) <= position:
                return None
        if self._times is None:
            return UNKNOWN
        # The time of a slot is that of the first of several purges. So none of the three is later
        # than the purge of this value.
        return max(self._times[slot] for slot in slots)
