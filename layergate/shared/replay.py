"""Which records have to be appended again after the shared log lost them.

`Tail` tells `Replay` of every record it applies, and of every loss it detects: the log was emptied, its
end was rolled back, or records were trimmed that may have said so. `Replay` puts what was lost into the
outbox. It remembers a bounded number of records; if more than these may be lost, it appends a purge of
everything.

Several instances may repeat the same record. Each repetition carries a name for the lost record, by
which the journal recognizes that it has it already.

Nothing here does I/O; the caller holds the lock of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from layergate.core.invalidation import Invalidation
from layergate.shared.outbox import Outbox, Waiting

__all__ = ["Applied", "Replay", "repetition"]

_RECORDS: Final = 1024
_INVALIDATIONS: Final = 20_000
_NEVER: Final = float("-inf")


class Applied(NamedTuple):
    """A record as this instance applied it.

    ``invalidations``  empty for a leap.
    ``time``           seconds since the epoch at which the purge was made.
    ``at``             monotonic time at which it was applied here.
    """

    log: bytes
    position: int
    before: int
    tip: bytes
    invalidations: tuple[Invalidation, ...]
    time: float
    at: float


def repetition(log: bytes, position: int, tip: bytes) -> bytes:
    """What a repetition of the record at this place is called (`Addition.again`)."""
    return b"%b:%d:%b" % (log, position, tip)


class Replay:
    """The records that were applied last, and what becomes of them when they are lost."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._recent: deque[Applied] = deque()
        self._invalidations = 0
        self._forgotten = (
            _NEVER  # when the latest record was applied that is not remembered any more
        )

    def remember(self, record: Applied) -> None:
        recent = self._recent
        recent.append(record)
        self._invalidations += len(record.invalidations)
        while len(recent) > _RECORDS or self._invalidations > _INVALIDATIONS:
            forgotten = recent.popleft()
            self._invalidations -= len(forgotten.invalidations)
            self._forgotten = forgotten.at

    def rolled_back(self, log: bytes, after: int) -> None:
        """Records of ``log`` after position ``after`` that were applied here are not in it."""
        lost = [one for one in self._recent if one.log == log and one.position > after]
        whole = bool(lost) and lost[0].before <= after
        if not whole or any(one.position != two.before for one, two in pairwise(lost)):
            self._outbox.add_everything(b"all:%b:%d" % (log, after))
        else:
            self._repeat(lost)

    def trimmed(self, log: bytes | None, since: float) -> None:
        """Records of ``log`` were trimmed before they were read here; a leap may be among them.

        ``since``: monotonic; what was applied before it every instance has read.
        """
        self._repeat(one for one in self._recent if one.log == log and one.at > since)

    def emptied(self, log: bytes, since: float, *, trust_ends: bool) -> None:
        """``log`` is gone: nobody else may have read what was applied of it.

        The log was there when it last answered. An instance that was trusted when it found the log
        gone had read it less than a term before that, and so all that was applied here by then. Any
        other instance that found it gone dropped everything. How long ago that is does not matter:
        this instance may have been cut off all the while, and others not. ``since`` is one term
        before the last answer.

        ``trust_ends``: False if instances are trusted forever. Then some may have missed more.
        """
        if self._forgotten > since:
            self._outbox.add_everything(b"all:%b" % log)
            return
        if not trust_ends:
            since = _NEVER
        self._repeat(one for one in self._recent if one.log == log and one.at > since)

    def _repeat(self, records: Iterable[Applied]) -> None:
        waiting = self._outbox.repeats()
        for one in records:
            again = repetition(one.log, one.position, one.tip)
            if one.invalidations and again not in waiting:
                self._outbox.add(Waiting(one.invalidations, one.time, again, None))
