"""The log of purges that instances share, as one process follows it: why a purge is final.

`SharedLog` is `layergate.core.shared.Log` on any `Journal`. A journal is an ordered list of records and
a list of *members*, the instances that purges wait for. An instance *syncs*: it acknowledges what it
has applied, and reads what is new. Each answer may make it *trusted* for some seconds, counted on its
own monotonic clock from the moment at which it *sent* the call. A purge appends a record, applies it
here, and asks until the journal says that the record is final.

This file runs the calls. `tail` takes the answers in, `trust` keeps the time, `outbox` and `replay`
hold what has to be appended (again), `receipts` waits, `heartbeat` syncs in the background.

**G3.** Purge R is final at the moment f. At t >= f an instance I is trusted. Claim: I has applied R.

1. I is trusted at t by a sync that it sent at s, with t < s + trusted_for. By rule 3 of
   `layergate.shared.journal`, no purge is reported final before s + trusted_for unless its record was in
   that answer or before it, or I has acknowledged it. R was reported final at f <= t, so one of the
   three is true.
2. R was in the answer, or before it: an answer founds trust only after all its records are applied here
   (`_take`), and only if it is complete, which by rule 2 means that every record after I's position
   was in it. What was before it had been applied, or the chain of the records showed that some were
   missing; then I dropped everything it held (`tail`), so it holds nothing that was fetched before R.
3. I has acknowledged R: a call acknowledges (incarnation, position, tip) of what is applied here at the
   moment at which it is made (`place`), so I had applied R, or a record after it in the same history.

If the list of members or the end of the log gets lost, rule 5 holds every purge back until the trust
that was granted before is over. So an instance that was trusted when it detects a break keeps what it
holds; one that was not drops everything. `tail` lists the breaks.

**What may overlap.** Replies are taken in under a lock, each record once, in order. A reply always
begins at or below the position applied by then, because positions only grow; so replies that overtake
each other leave no gap. A reply of an incarnation that was left meanwhile is dropped. Whether an instance
is trusted is determined when the reply is there, not when the call was sent; so it was trusted when the
journal answered. If an instance leaves, calls that are under way found no trust.

**A record counts only where it is found.** Its appender relies on incarnation, position and tip
together. If the journal does not find that record any more, its appender appends it again and waits
for its new place.

**While the system is away** a purge is applied here and kept in the outbox; its receipt is not final.

With trust that never ends (``max_disconnected=None``), an instance that is cut off goes on serving what
it holds, and the argument holds only for instances that are not cut off.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from layergate.core.codec import Codec
from layergate.core.invalidation import Invalidation, PurgeReceipt, matcher
from layergate.core.layer import MaybeAwaitable
from layergate.core.shared import Joining
from layergate.errors import LayerError, LayerTimeout, LayerUnavailable, WireError
from layergate.shared.heartbeat import Heartbeat
from layergate.shared.instance import Instance, orphan, take_orphans
from layergate.shared.journal import Addition, Appended, Grew, Journal, Place, Reply
from layergate.shared.outbox import Outbox, Waiting
from layergate.shared.ports import answered
from layergate.shared.positions import Positions
from layergate.shared.receipts import LOCAL, until_final
from layergate.shared.records import parts_of
from layergate.shared.replay import Replay
from layergate.shared.tail import Tail
from layergate.shared.trust import Patience, Trust
from layergate.shared.turns import Turns

__all__ = ["LogOvertaken", "SharedLog"]

_logger = logging.getLogger("layergate")

_BATCH: Final = 64  # records appended at once
_RETRIES: Final = 5


class LogOvertaken(LayerError):
    """The log changed under a call, again and again."""


class SharedLog(Trust):
    """`layergate.core.shared.Log` on a `Journal`.

    ``timeout``          seconds that one call may take.
    ``connect_timeout``  seconds more for a call that may have to connect.

    Nothing starts, and nothing is asked, before `catch_up` or `append`.
    """

    def __init__(
        self,
        journal: Journal,
        codec: Codec,
        joining: Joining,
        *,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        super().__init__()
        self._journal = journal
        self._codec = codec
        self._invalidations = joining.invalidations
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.left = False
        self.positions: Final = Positions()
        self._outbox = Outbox(self.positions, self._runtime.now)
        self._tail = Tail(
            self._invalidations,
            self.positions,
            Replay(self._outbox),
            codec,
            self._runtime,
            lambda: journal.terms,
        )
        self.heartbeat: Final = Heartbeat(journal, joining, self, timeout=timeout)
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """As a new instance."""
        self._lock = self._runtime.lock()
        self._instance = Instance(self._journal.identity)
        self.turns = Turns(self._runtime)
        self.patience = Patience(self._connect_timeout)

    def forked(self) -> None:
        """See `Log.forked`. The child also appends what the parent could not append yet: appended
        twice, it purges nothing that is not purged anyway."""
        self.depart()
        self._journal.forked()
        self._begin()
        self.heartbeat.forked()
        if self.heartbeat.leases is not None:
            self.heartbeat.leases.forked()

    def _check_process(self) -> None:
        if not self._instance.is_here:
            self.forked()

    # -- where it stands -----------------------------------------------------------------------

    @property
    def log_id(self) -> bytes | None:
        """The incarnation of the log, 16 bytes; None before the first contact. It may change between
        two calls."""
        return self.positions.log

    @property
    def applied(self) -> int:
        """The position in the shared log that was applied last."""
        return self._tail.position

    @property
    def instance(self) -> bytes:
        """The name of this process as a member. The child of a fork has another one."""
        name = self._instance.known
        if name is None:
            with self._lock:
                name = self._instance.name()
        return name

    def stats(self) -> dict[str, int | float]:
        """Gauges: the position applied last, how many positions are known to be behind it in the log,
        records that wait to be appended, and 1 if this instance is trusted."""
        return {
            "log_position": self.applied,
            "log_lag": self._tail.lag,
            "log_outbox": len(self._outbox),
            "log_trusted": int(self._trusted()),
        }

    def _trusted(self) -> bool:
        return self._runtime.monotonic() < self.trusted_until

    # -- the protocol of the core --------------------------------------------------------------

    def look(self) -> bool:
        """See `Log.look`. There is nothing to see without asking the system."""
        return False

    async def catch_up(self) -> bool:
        """See `Log.catch_up`."""
        try:
            self._check_process()
            for _ in range(_RETRIES):
                self.left = False
                background = self.heartbeat.ensure()
                if self._trusted():
                    return True
                if not await self._caught_up(background):
                    return False
                if not background or self._trusted():
                    return True
                # Another loop of this process has ended meanwhile, and left for all of it.
            return False
        except Exception as error:
            if not isinstance(error, LayerUnavailable):  # logged when the breaker opened
                self._counters.on("layer_error", layer="shared", operation="catch up", error=error)
            return False

    async def _caught_up(self, background: bool) -> bool:
        """Read all there is, if the system answers in time. Raises what the journal raises."""
        monotonic, patience = self._runtime.monotonic, self.patience
        patience.request(monotonic())
        while True:
            if patience.hopeless(monotonic()):
                return False
            left = patience.left(monotonic())
            try:
                # Without a heartbeat purges do not wait for this instance, so a call that was sent
                # before this request came is no answer for it.
                if await self.sync(
                    probe=left > 0, fresh=not background, patience=max(self._timeout, left)
                ):
                    return True
            except Exception as error:
                if not self._still_joins(error):
                    raise
            if patience.left(monotonic()) <= 0:
                return False

    def _still_joins(self, error: Exception) -> bool:
        """True if this call was only slow, and there is time left to join. A refusal is final."""
        slow = isinstance(error, LayerTimeout)
        return slow and self.patience.left(self._runtime.monotonic()) > 0

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """See `Log.append`."""
        for invalidation in invalidations:
            matcher(invalidation)  # raises KeyRefused
        self._check_process()
        try:
            record = await self.append_purge(invalidations, time)
            await self._leave_for_others()
        except BaseException as error:
            # Also when it was cancelled: the record may be in the log or not.
            self._put_off(invalidations, time)
            if not isinstance(error, Exception):
                raise
            self._counters.on("layer_error", layer="shared", operation="append", error=error)
            self.heartbeat.ensure()
            return LOCAL
        purge = invalidations, time
        return await until_final(
            self, self._journal, self._runtime, self._counters, purge, record, wait
        )

    async def leave(self) -> None:
        """See `Log.leave`. Never raises, and asks nothing if this instance is no member."""
        self.heartbeat.stop()
        with self._lock:
            self.left = True
            self.patience.left_the_fleet()
            gone = self._instance.resign()
            connected = self._trusted()
            # A call that is under way may have made it a member before it ceases to be one.
            self.depart()
        if not self._instance.is_here:
            return
        await self.turns.idle(
            self._timeout
        )  # a sync that arrives later would make it a member again
        if gone is None or not connected:
            return  # its membership has lapsed, or will at once
        try:
            await self._leave_as(gone)
        except BaseException as error:
            orphan(self._journal.identity, gone)
            if not isinstance(error, Exception):
                raise
            self._counters.on("layer_error", layer="shared", operation="leave", error=error)

    async def _leave_as(self, name: bytes) -> None:
        await answered(self._journal.leave(self.place()._replace(instance=name)))

    async def _leave_for_others(self) -> None:
        """Give up memberships of this process that their owners cannot give up: their cache is gone,
        or the loop that renewed them. Never raises an Exception: they also lapse by themselves."""
        identity = self._journal.identity
        gone = take_orphans(identity)
        for log in list(_logs):
            if log._journal.identity == identity and (name := log._stranded()):
                gone.append(name)
        for name in gone:
            try:
                await self._leave_as(name)
            except Exception as error:
                _logger.debug("instance %r of this process cannot leave: %r", name, error)
                return

    def _stranded(self) -> bytes | None:
        """Give up the membership of an instance whose loop has ended: the name it had, or None."""
        instance = self._instance
        if not (instance.is_here and instance.member and self.heartbeat.stranded):
            return None
        with self._lock:
            self.depart()
            return instance.resign()

    # -- syncing -------------------------------------------------------------------------------

    async def sync(
        self, *, probe: bool = False, fresh: bool = True, patience: float | None = None
    ) -> bool:
        """Append what waits, read what is new, and acknowledge it. True if all there is has been read.

        One at a time: others take the result of the call that is under way, or with ``fresh`` of one
        that begins after they came; they wait at most ``patience`` seconds. Raises what the journal
        raises.
        """

        async def work() -> bool:
            try:
                good = await self._sync(probe, patience)
            except Exception as error:
                if not self._still_joins(error):
                    self.patience.failed(self._runtime.monotonic(), self._journal.terms.heartbeat)
                raise
            self.patience.succeeded()
            return good

        return await self.turns.take(work, fresh=fresh, patience=patience)

    async def _sync(self, probe: bool, patience: float | None) -> bool:
        until = float("inf")
        if patience is not None or not probe:
            until = self._runtime.monotonic() + (patience or self._timeout)
        while True:
            await self._flush(probe)
            reply = await self.refresh(probe=probe)
            complete = reply is not None and reply.complete
            # What was new must be acknowledged, or a purge waits for the next heartbeat. And it may
            # have shown that something was lost.
            new = reply is not None and reply.records and reply.member
            if complete and not new and not self._outbox:
                return True
            if self.left or self._runtime.monotonic() >= until:
                return complete

    async def reaches(self, log: bytes, position: int) -> bool:
        """True if the incarnation ``log`` goes on to ``position``, at which somebody has stamped an entry.
        Asks the system if that is not known here. Never raises an Exception.

        If it does not, its end was lost together with every process that knew it. Whatever was purged
        there is not purged any more, so the log begins anew.
        """
        try:
            good = await self.sync(patience=self._timeout)
        except Exception as error:
            self._counters.on("layer_error", layer="shared", operation="catch up", error=error)
            return False
        if log != self.log_id:
            return False
        if self.applied >= position:
            return True
        if good:
            with self._lock:
                self._tail.refuse(log)
            self._tell()
            self.heartbeat.ensure()
            try:
                await self.sync(patience=self._timeout)
            except Exception as error:
                # The next call finds it refused as well.
                _logger.debug("the shared log cannot begin anew yet: %r", error)
        return False

    async def refresh(self, *, probe: bool = False) -> Reply | None:
        """One `Journal.sync`, taken in. None if the reply was out of date. Raises what the journal
        raises."""
        return await self._ask(lambda place: self._journal.sync(place, probe=probe))

    async def _ask(self, call: Callable[[Place], MaybeAwaitable[Reply]]) -> Reply | None:
        member = not self.left and self.heartbeat.running
        with self._lock:
            place = self._place(member=member)
            sent = self._tail.sent()
            departures = self.departures
        reply = await answered(call(place))
        try:
            with self._lock:
                trusted = self._trusted()
                if not self._tail.take(reply, sent, trusted=trusted):
                    return None
                if reply.complete and reply.trusted_for > 0 and not self.left:
                    if self.trust(sent.at + reply.trusted_for, departures):
                        self.patience.joined()
                return reply
        finally:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            events = self._tail.events()
        for event, facts in events:
            self._counters.on(event, **facts)

    def place(self, *, member: bool = False) -> Place:
        """Where this instance stands. ``member``: the call that is about to be sent may make it a
        member."""
        with self._lock:
            return self._place(member=member)

    def _place(self, *, member: bool) -> Place:
        tail, instance = self._tail, self._instance
        instance.member = instance.member or member
        return Place(tail.log, tail.position, tail.tip, instance.name(), member, tail.founding())

    # -- appending -----------------------------------------------------------------------------

    async def append_purge(
        self, invalidations: tuple[Invalidation, ...], time: float, again: bytes = b""
    ) -> Appended:
        """Append a purge and apply it here. ``again``: the lost record that it repeats, or b"".

        Returns the record; the last one if there are so many invalidations that they are several.
        """
        parts = [
            Waiting(part, time, b"%b:%d" % (again, number) if again and number else again, None)
            for number, part in enumerate(parts_of(invalidations, self._largest))
        ]
        for start in range(0, len(parts), _BATCH):
            record = await self._append_records(parts[start : start + _BATCH])
        return record

    async def _append_records(self, records: Sequence[Waiting], *, probe: bool = False) -> Appended:
        for _ in range(_RETRIES):
            log = self.log_id
            if log is None:
                await self.refresh(probe=probe)
                continue
            additions = [
                Addition(
                    blake2b(one.again, digest_size=8).digest() if one.again else os.urandom(8),
                    one.again,
                    self._encoded(log, one.invalidations, one.time),
                )
                for one in records
            ]
            reply = await self._ask(
                lambda place: self._journal.append(place, additions, probe=probe)  # noqa: B023
            )
            if reply is None or not reply.appended:
                continue
            at = self._runtime.monotonic()
            # Before a purge returns, this instance has applied it too: in its place in the log.
            while self.log_id == reply.log and self.applied < reply.appended:
                await self.refresh(probe=probe)
            # Or it was lost first, and the log leapt over its place: then no instance remembers it.
            if self.log_id == reply.log and not self._leapt_over(reply.appended):
                return Appended(reply.log, reply.appended, reply.tip, at)
        raise LogOvertaken("shared", "the log changed while something was appended to it")

    def _leapt_over(self, position: int) -> bool:
        with self._lock:
            return self._tail.leapt_over(position)

    def _encoded(self, log: bytes, invalidations: tuple[Invalidation, ...], time: float) -> bytes:
        try:
            record = self._codec.encode_record(log, invalidations, time)
            if self._largest is None or len(record) <= self._largest:
                return record
        except WireError as error:
            _logger.debug("a purge cannot be encoded: %s", error)
        # A tag that is too long, for the record or for the system: purge too much, not too little.
        soft = all(invalidation.soft for invalidation in invalidations)
        return self._codec.encode_record(log, (Invalidation("all", soft=soft),), time)

    @property
    def _largest(self) -> int | None:
        """Bytes of the largest record that the journal takes; None: no limit that matters."""
        largest: int | None = getattr(self._journal, "largest_record", None)
        return largest

    async def _flush(self, probe: bool) -> None:
        """Append what could not be appended before, or was lost since."""
        while self._outbox:
            with self._lock:
                batch = self._outbox.first(_BATCH)
            await self._append_records(batch, probe=probe)
            with self._lock:
                self._outbox.appended(batch)

    def _put_off(self, invalidations: tuple[Invalidation, ...], time: float) -> None:
        """Apply here what could not be appended, and append it later."""
        with self._lock:
            below = self._invalidations.position
            for part in parts_of(invalidations, self._largest) if invalidations else ():
                self._outbox.add(Waiting(part, time, b"", below))
            self._invalidations.apply(below + 1, invalidations, time)

    # -- for the heartbeat ---------------------------------------------------------------------

    def is_news(self, news: Grew) -> bool:
        """True if a message tells of something that is not applied here yet. Remembers it: what then
        fails to be read is what this instance lags behind."""
        if news.log is None:
            return True
        with self._lock:
            return self._tail.note_end(news.log, news.position)

    async def look_ahead(self) -> None:
        """Find out how far the log goes while the system answers and yet no sync succeeds. A plain
        read may be possible where a sync, which writes, is not (no rights, no memory, a replica).
        Never raises."""
        try:
            end = await answered(self._journal.end())
        except Exception as error:
            # The cause was logged when the sync failed.
            _logger.debug("nor can the end of the shared log be read: %r", error)
            return
        if end is not None:
            with self._lock:
                self._tail.note_end(end.log, end.position)


# The child of a fork is another instance, whatever made the fork.
_logs: Final[weakref.WeakSet[SharedLog]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_logs):
        log.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
