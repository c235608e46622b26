"""Which members are trusted until when, and which purges wait for which of them.

The journal in memory (`layergate.testing.memory`) holds this table and grants trust. (Redis keeps its table
in the server, and `layergate.shared.ledger` in cells.) The table is pure: it reads a clock and does nothing
else. It is not locked.

A purge waits for each member that was trusted when it was appended, until that member has acknowledged
it, has left, or is not trusted any more by the grants that were made *before* the purge. Grants that are
made after it do not count: they are sent after the purge, so a member takes them after it has applied
the purge.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Members", "Settled"]

M = TypeVar("M", bound=Hashable)
_NEVER = float("-inf")


class Settled(NamedTuple, Generic[M]):
    """A purge that is final.

    ``by``, ``number``        the member that asked for it, and what that member calls it.
    ``applied``, ``instances``  as in `PurgeReceipt`.
    ``position``              what `Members.append` gave it.
    """

    by: M
    number: int
    applied: int
    instances: int
    position: int


class _Purge(Generic[M]):
    """A purge that is not final yet. ``waiting``: the members that it waits for, and until when."""

    __slots__ = ("applied", "by", "instances", "number", "position", "waiting")

    def __init__(self, position: int, by: M, number: int, waiting: dict[M, float]) -> None:
        self.position = position
        self.by = by
        self.number = number
        self.waiting = waiting
        self.instances = 1 + len(waiting)  # with the one that purges
        self.applied = 1


class Members(Generic[M]):
    """The table. A name of a member is never used twice.

    ``monotonic``  the clock of `Runtime.monotonic`, which all members read.
    ``term``       seconds that a grant lasts.
    """

    def __init__(self, monotonic: Callable[[], float], *, term: float) -> None:
        self._monotonic = monotonic
        self._term = term
        self._until: dict[M, float] = {}
        self._purges: list[_Purge[M]] = []
        self.position = 0

    def join(self, member: M) -> None:
        """A member is about to be started: from now on it is sent every purge."""
        self._until[member] = _NEVER

    def leave(self, member: M) -> None:
        """A member has ended, or serves nothing any more."""
        self._until.pop(member, None)
        for purge in self._purges:
            if purge.waiting.pop(member, None) is not None:
                purge.instances -= 1

    def grant(self, member: M) -> float:
        """Trust a member for another term: until when. To be sent to it after every purge that was
        appended before, and before every later one. ``-inf`` for a member that has left."""
        if member not in self._until:
            return _NEVER
        until = self._until[member] = self._monotonic() + self._term
        return until

    def append(self, by: M, number: int) -> int:
        """A purge: its position. The caller sends it to all members but ``by``."""
        self.position += 1
        now = self._monotonic()
        # A member that is not trusted now serves nothing before it knows of this purge.
        waiting = {
            member: until for member, until in self._until.items() if member != by and until > now
        }
        self._purges.append(_Purge(self.position, by, number, waiting))
        return self.position

    def applied(self, member: M, position: int) -> None:
        """A member has applied everything up to this position."""
        for purge in self._purges:
            if purge.position <= position and purge.waiting.pop(member, None) is not None:
                purge.applied += 1

    def settled(self) -> list[Settled[M]]:
        """The purges that have become final since this was last called."""
        now = self._monotonic()
        done = []
        for purge in self._purges:
            lapsed = [member for member, until in purge.waiting.items() if until <= now]
            for member in lapsed:
                del purge.waiting[member]
                purge.instances -= 1
            if not purge.waiting:
                done.append(purge)
        if done:
            self._purges = [purge for purge in self._purges if purge.waiting]
        return [
            Settled(one.by, one.number, one.applied, one.instances, one.position) for one in done
        ]

    def reach(self, position: int) -> tuple[int, int]:
        """How many instances have applied the purge at this position, of how many; (1, 1) once it is
        settled, or if it is not known."""
        for purge in self._purges:
            if purge.position == position:
                return purge.applied, purge.instances
        return 1, 1

    def due(self) -> float | None:
        """When `settled` is worth calling again if nothing happens until then, on the clock; None if no
        purge waits."""
        return min(
            (until for purge in self._purges for until in purge.waiting.values()), default=None
        )
