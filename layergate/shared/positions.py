"""How positions of the shared log and positions in this process translate into each other.

In this process (`Invalidations.position`, `Entry.stamp`) a position is ``(base + n) << 40 | k``:

- n is the position in the shared log.
- k counts purges that were applied only here, while the shared system was away.
- base makes positions grow over incarnations of the log.

In the shared system a position is n alone. So an entry that was stamped between two k's travels with
the lower bound.

Purges that wait to be appended (the *outbox*) are not in the log yet. Another instance may therefore
have stamped an entry higher without knowing them. Until they are appended, such entries count as
fetched before them (``below``).

`Tail` writes these values under the lock of the log. `SharedLayer` reads them without a lock, for each
entry it reads or writes, so they are replaced as a whole.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Positions"]

_LOCAL_BITS: Final = 40


class _View(NamedTuple):
    """``log``    the incarnation; None before the first contact.
    ``below``  entries from the shared system are stamped no higher; None: no limit.
    ``least``  entries below this position are ignored: they were written before this instance came
               over from another incarnation, and it may lack purges made there (a backup was
               restored).
    """

    log: bytes | None
    base: int
    below: int | None
    least: int


class Positions:
    """The translation for one log. Reading needs no lock."""

    __slots__ = ("_view",)

    def __init__(self) -> None:
        self._view = _View(None, 0, None, 0)

    @property
    def log(self) -> bytes | None:
        """The incarnation of the log; None before the first contact."""
        return self._view.log

    def place(self, stamp: int) -> tuple[bytes, int] | None:
        """The incarnation and position to write an entry with that bears ``stamp``.

        None if the entry must not be written: it is from before this incarnation, or there was no
        contact yet.
        """
        view = self._view
        position = (stamp >> _LOCAL_BITS) - view.base
        return None if view.log is None or position < 0 else (view.log, position)

    def claimed(self, stamp: int) -> tuple[bytes, int] | None:
        """The incarnation and the position that an entry with this stamp claims to exist; None if that
        means nothing any more, because the log began anew since the entry was read."""
        return self.place(stamp)

    def stamp(self, log: bytes, position: int) -> int | None:
        """The stamp, in this process, of an entry that was written with ``position`` in the
        incarnation ``log``; None if the entry must not be used: it is of another incarnation, or too
        old."""
        view = self._view
        if log != view.log or position < view.least:
            return None
        stamp = (view.base + position) << _LOCAL_BITS
        return stamp if view.below is None else min(stamp, view.below)

    def local(self, position: int) -> int:
        """The position in this process of a record at ``position`` of the log."""
        return (self._view.base + position) << _LOCAL_BITS

    def begin(self, log: bytes, base: int, least: int) -> None:
        """Go over to the incarnation ``log``. ``base``: see `base_above`."""
        self._view = _View(log, base, self._view.below, least)

    def hold_below(self, position: int | None) -> None:
        """Stamp entries from the shared system no higher than this local position; None: no limit."""
        if position != self._view.below:
            self._view = self._view._replace(below=position)

    @staticmethod
    def base_above(position: int) -> int:
        """The base of an incarnation that begins after the local ``position``."""
        return (position >> _LOCAL_BITS) + 1

    @staticmethod
    def start(base: int) -> int:
        """The local position at which an incarnation with this base begins."""
        return base << _LOCAL_BITS
