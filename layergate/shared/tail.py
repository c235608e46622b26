"""How one instance follows the log: what it does with each reply of the journal.

`Tail` knows where this instance stands (incarnation, position, tip), applies the records of a reply to
the stack's `Invalidations`, and detects every break in the log's history. `SharedLog` calls it under its
lock; nothing here does I/O. Why the result makes purges final is argued in `layergate.shared.log`; this
page describes the breaks.

Each record names the position of the record *before* it. n is the position applied so far here. An
instance that was trusted *when the reply came* keeps what it holds across a break, because no purge was
final without it. An instance that was not trusted cannot know what was purged meanwhile, so it drops
everything it holds (`Invalidations.rise`).

- before == n: no break.
- before > n: records in between were trimmed or evicted. Everything is dropped, even by a trusted
  instance. If the log has leapt beyond n, the leap may be among them; then what was applied here lately
  is appended again.
- before < n, and the record is a *leap*: the server was restarted or replaced, and the records after
  ``before`` were lost. The log goes on far beyond, so no position ever means two things. An instance
  that has applied lost records appends them again; the journal drops repetitions. An instance that is
  not trusted drops everything up to the leap even if no record seems lost, because others may have been
  lost that it never read.
- before < n, and the record is no leap; or the *tip* does not follow from the one applied last. Tips
  are a chain of hashes over all records. So somebody has written into the log, or another history goes
  on from an earlier point of it. The incarnation is *refused*: the next call founds a new one in its
  place. The journal does the same for a caller whose tip it does not find at the caller's position.
- another incarnation: the log is gone, and a new one was founded. Entries of the old one are of no use.
  Records that were applied shortly before the old one last answered are appended again. Local positions
  go on above all earlier ones (`layergate.shared.positions`).

**Restored logs.** The first bytes of an incarnation are its *generation*, one more than the highest
generation that its founder had followed. It is *sealed* with the secret, if there is one. An incarnation
is refused if its generation is not higher than all before it: it is an old log, without the purges made
since. So if somebody without the secret restores keys of the log, every instance that was running
before detects it: by its position (a leap; what was lost is appended again, which counts as done only
where the same signed record is found), by the tip at its position or after it, or by the generation.
An instance that has nothing but that log cannot detect it.

A seal that does not verify was made with another secret, while one is being rolled out, or by somebody
who has none. An instance that has not followed any log yet refuses it and founds its own. An instance
that already follows a log goes over to it, without counting its generation.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from layergate.core.codec import Codec
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.ports import Runtime
from layergate.errors import WireError
from layergate.shared.journal import INCARNATION_SIZE, Founding, Record, Reply, Terms, chained
from layergate.shared.outbox import EVERYTHING
from layergate.shared.positions import Positions
from layergate.shared.replay import Applied, Replay

__all__ = ["Sent", "Tail"]

_GENERATION: Final = 6  # bytes of an incarnation; the others are random
_LAST_GENERATION: Final = 256**_GENERATION - 1
_LEAPS: Final = 64  # leaps of the log that are remembered
_NEVER: Final = float("-inf")


class Sent(NamedTuple):
    """What was true when a call was sent.

    ``epoch``  counts incarnations: a reply from before the last change is out of date.
    ``at``     monotonic time.
    """

    epoch: int
    at: float


class Tail:
    """Where this instance stands in the log. Every method but `lag` needs the lock of the log.

    ``terms``: of the journal, which may change.
    """

    def __init__(
        self,
        invalidations: Invalidations,
        positions: Positions,
        replay: Replay,
        codec: Codec,
        runtime: Runtime,
        terms: Callable[[], Terms],
    ) -> None:
        self._invalidations = invalidations
        self._positions = positions
        self._replay = replay
        self._codec = codec
        self._runtime = runtime
        self._terms = terms
        # The position applied last, and the tip there; b"" if that is not known.
        self.position = 0
        self.tip = b""
        self.epoch = 0
        # The end of the log, by incarnation and position, as far as it is known.
        self._end: tuple[bytes | None, int] = (None, 0)
        # The highest generation that was sealed with our secret, and an incarnation that must not go
        # on, or b"".
        self._generation = 0
        self._refused = b""
        # All of this incarnation has been read once: breaks from now on are events.
        self._settled_in = False
        # From where to where the log leapt in this incarnation: there are no records in between.
        self._leaps: deque[tuple[int, int]] = deque(maxlen=_LEAPS)
        self._last_leap = 0  # the position of the last one in the log, read here or not
        # When the last call was sent that this incarnation answered, monotonic: it existed then.
        self._answered = _NEVER
        self._events: list[tuple[str, dict[str, Any]]] = []

    @property
    def log(self) -> bytes | None:
        """The incarnation; None before the first contact."""
        return self._positions.log

    @property
    def lag(self) -> int:
        """How many positions this instance is behind the end of the log, as far as that is known.

        Not only records have positions: a leap in the log is a leap of this number.
        """
        log, end = self._end
        # Of another incarnation it has applied nothing yet.
        return max(0, end - self.position) if log == self.log else end

    def founding(self) -> Founding:
        """How a new incarnation would begin."""
        generation = min(self._generation + 1, _LAST_GENERATION).to_bytes(_GENERATION)
        log = generation + os.urandom(INCARNATION_SIZE - _GENERATION)
        return Founding(log, self._codec.seal(log), self._refused)

    def sent(self) -> Sent:
        """To be remembered with a call, for `take`."""
        return Sent(self.epoch, self._runtime.monotonic())

    def note_end(self, log: bytes, position: int) -> bool:
        """The log goes on up to ``position``. True if this instance has not applied that yet."""
        if log == self.log and position <= self.position:
            return False
        self._end = log, position
        return True

    def leapt_over(self, position: int) -> bool:
        """True if a leap has left this position behind: no record of the log is there."""
        return any(before < position < after for before, after in self._leaps)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Events since this was last called, to be emitted without the lock: hooks are user code."""
        events, self._events = self._events, []
        return events

    # -- a reply ---------------------------------------------------------------------------------

    def take(self, reply: Reply, sent: Sent, *, trusted: bool) -> bool:
        """Apply a reply. ``trusted``: this instance is trusted now.

        False if the reply is of no use: the incarnation changed since the call was sent, or it is
        refused.
        """
        if reply.log != self.log:
            if sent.epoch != self.epoch:
                return False
            if not self._acceptable(reply):
                self.refuse(reply.log)
                return False
            self._begin(reply, trusted)
            self._answered = _NEVER
        self._end = reply.log, reply.last
        self._last_leap = max(self._last_leap, reply.leap)
        for record in reply.records:
            if not self._apply(record, trusted):
                # An instance that has read less of the log cannot detect this.
                self.refuse(reply.log)
                return False
        if reply.complete:
            if reply.last > self.position:
                # The last records are not in the log any more.
                self._miss(reply.last)
                self.position, self.tip = reply.last, b""
            self._settled_in = True
        # Only now: a break lies after the answer before this one.
        self._answered = max(self._answered, sent.at)
        return True

    def _acceptable(self, reply: Reply) -> bool:
        """False for a log that is older than one this instance has followed: it was restored, and
        lacks purges that were made since."""
        if not self._codec.sealed(reply.log, reply.seal):
            # To begin in a log that is not sealed would mean to ignore all logs before it.
            return self.log is not None
        generation = int.from_bytes(reply.log[:_GENERATION])
        return generation > self._generation or generation == _LAST_GENERATION

    def refuse(self, log: bytes) -> None:
        """Have the next call found a new incarnation in the place of ``log``. Entries that were
        stored under the refused one are then of no use to anybody."""
        if self._refused != log:
            self._events.append(("log_refused", {}))
        self._refused = log

    def _begin(self, reply: Reply, trusted: bool) -> None:
        """Go over to another incarnation."""
        before = self.log
        base = self._positions.base_above(self._invalidations.position)
        # The position first: no entry is ever stamped, or read, below what is held.
        self._move(self._positions.start(base), trusted)
        self._positions.begin(reply.log, base, 0 if before is None else reply.last)
        if self._codec.sealed(reply.log, reply.seal):
            generation = int.from_bytes(reply.log[:_GENERATION])
            self._generation = max(self._generation, generation)
        self._refused = b""
        self.position, self.tip = 0, b""
        self._leaps.clear()
        self._last_leap = 0
        self.epoch += 1
        self._settled_in = False
        if before is not None:
            self._events.append(("log_reset", {}))
            terms = self._terms()
            since = self._answered - terms.finality
            self._replay.emptied(before, since, trust_ends=terms.trust != float("inf"))

    # -- a record --------------------------------------------------------------------------------

    def _apply(self, record: Record, trusted: bool) -> bool:
        """False if the record does not follow what was applied here. Then everything is dropped."""
        if record.position <= self.position:
            return True
        if record.before > self.position:
            self._miss(record.before)
        elif (record.before < self.position and record.data) or not self._follows(record):
            # A break that no leap explains: this log cannot be relied on.
            self._miss(record.position)
            return False
        log = self.log
        assert log is not None
        purged: tuple[Invalidation, ...] = ()
        time = now = self._runtime.now()
        if record.data:
            purged, time = self._decoded(log, record, now)
            # By this process's clock: what is made stale is stale now, not in an hour.
            local = self._positions.local(record.position)
            self._invalidations.apply(local, purged, min(time, now))
        else:
            self._leap(log, record, trusted)
        position, before, tip, _, _ = record
        at = self._runtime.monotonic()
        self._replay.remember(Applied(log, position, before, tip, purged, time, at))
        self.position, self.tip = position, tip
        return True

    def _decoded(
        self, log: bytes, record: Record, now: float
    ) -> tuple[tuple[Invalidation, ...], float]:
        try:
            if record.nonce is None:
                raise WireError("an older version appended it, so its place is not proved")
            return self._codec.decode_record(log, record.data)
        except WireError as error:
            # Forged, damaged, of a later version, or signed with another secret while one is being
            # rolled out. It may be any purge, so it counts as a purge of everything.
            self._events.append(("record_refused", {"error": error}))
            return EVERYTHING, now

    def _leap(self, log: bytes, record: Record, trusted: bool) -> None:
        if self._settled_in:
            self._events.append(("log_leap", {}))
        if record.before < self.position:
            self._replay.rolled_back(log, record.before)
        self._leaps.append((record.before, record.position))
        self._move(self._positions.local(record.position), trusted)

    def _follows(self, record: Record) -> bool:
        """True if the record's tip follows from the tip here. (After a leap it need not: the record
        was appended to others than the ones applied here.)"""
        if record.before != self.position or record.nonce is None:
            return True
        if not self.tip and self.position:
            return True  # the record here was trimmed, so its tip is not known
        return chained(self.tip, record.nonce, record.data) == record.tip

    def _miss(self, position: int) -> None:
        """Records up to ``position`` will never be read here: drop everything."""
        if self._settled_in:
            self._events.append(("log_trimmed", {}))
        if self._last_leap > self.position:  # it may be among them
            self._replay.trimmed(self.log, self._answered - self._terms().finality)
        self._invalidations.rise(self._positions.local(position))

    def _move(self, position: int, trusted: bool) -> None:
        """Go on from the local ``position``: with what is held if trusted, else without it."""
        if trusted:
            self._invalidations.apply(position, (), self._runtime.now())
        else:
            self._invalidations.rise(position)
