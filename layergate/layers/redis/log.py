"""The invalidation log in Redis, as one instance tails it: why a purge that has returned is final.

Redis keeps a stream of records with positions 1, 2, ..., and a list of *members*: the instances that
are waited for, each with the position it has applied. An instance *syncs*: one script that gives it
all records after its own position, makes it a member for ``term``, and notes its position as its
acknowledgement. From the moment a sync was *sent*, for ``max_disconnected`` seconds on its own
monotonic clock, the instance is *trusted*; ``term`` is longer than that. A purge appends a record,
and is *final* when one script has found that record in the log, acknowledged by every member, and no
*settling* under way (below).

**G3.** Purge R is final at the moment f. At t >= f an instance I is trusted, by a sync sent at s and
executed at r, s <= r, t < s + max_disconnected. Claim: I has applied R.

- R was appended before r: then the sync brought R, for it is trusted only if it got all there was,
  and applied it.
- R was appended after r: I was a member until r + term > t >= f (by Redis's clock, see *time*), so
  when R was found final, I had acknowledged R's position; it does so only for what it has applied.
- Its membership was lost meanwhile, as Redis was emptied, failed over or evicted the list. Whatever
  script comes first afterwards sees that and starts a settling: no purge is final for the next
  ``term``, by which time I's trust, founded before the loss, is over.

Where an instance that was not trusted *when the reply came* finds a seam in the log, it cannot know
what was purged meanwhile without it: everything it holds goes (`Invalidations.rise`). One that was trusted
keeps what it holds: nothing was final without it. Seams are seen by the chain: each record names its
predecessor ``p``, and n is the position applied so far.

- p == n: no seam.
- p > n: records in between were trimmed (or evicted): also the trusted one lets go of all. If the log
  has leapt beyond n, the leap may be among them: what was applied lately is appended again.
- p < n, a *leap*: the server was restarted or replaced, and the records after p were lost. The
  script went on far beyond, so that no position ever means two things. Who had applied lost records
  appends them again (the script drops repetitions). Not trusted: up to the leap all is let go, even
  where no record seems lost: others may have been lost that this one never saw.
- p == n, or a record that is no leap with p < n, but a *tip* that does not follow from the one applied
  last: tips are a chain of hashes over all records (the script makes them), so somebody has written
  into the log, or another history goes on from an earlier point of it. The incarnation is *refused*:
  the next call begins a new one in its place. So does whoever finds another tip at its own position.
- another incarnation: Redis came back empty. Entries in it go with it. Records applied shortly before
  it was last heard of are appended again, however long ago that is: others may have come over without
  having read them. Local positions go on above all earlier ones: see *positions*.

**What was put back.** An incarnation begins with its *generation*, one more than the highest that its
founder had been in, and is *sealed* with the secret, if there is one. One that is not of a higher
generation than all before is refused like the above: it is an old log, without the purges made since.
So whoever restores keys of the log, without the secret, is seen by every instance that was running
before: by its position (a leap, and what was lost is appended again, which counts as done only where
the same signed record is found), by the tip at its position or after it, or by the generation. What is
then stored under the refused incarnation is nobody's. An instance with nothing but that Redis cannot
see it. A seal that does not verify is of another secret, while one is being rolled out, or of nobody's:
who is new founds a log of its own, and who is not stays, without counting that generation.

**What may overlap.** Replies are taken in under a lock, each record once, in order; a reply always
begins at or below the position applied by then, for positions only grow, so no gap comes of replies
that overtake each other. One of an incarnation that was left meanwhile is dropped. Whether an
instance is trusted is asked when the reply is there, not when the call was sent: so it was trusted
when the script ran. A record is trusted to be where it was appended only as long as the script finds
it there with the nonce it was given: if it was lost, its appender appends it again and waits anew.

**Time.** Memberships end by the *fleet's clock*, which is Redis's own without its steps: it never
goes backward, and forward by at most one ``stride`` from call to call, which is how much longer
``term`` is than ``max_disconnected``. A rate that differs by less than a fifth is covered too. No
clocks of two machines are compared.

**Positions.** Here (`Invalidations.position`, `Entry.stamp`) they are ``(base + n) << 40 | k``. k counts what
was purged here only, while Redis was away; ``base`` makes them grow over incarnations. On the wire
they are n: an entry stamped between two k's travels with the lower bound. Purges that wait to be
appended (the *outbox*) are not in the log yet, so another instance may have stamped an entry higher
without knowing them: until they are, such entries count as fetched before them.

**What this rests on.** One Redis holds the log. A primary that was cut off, together with some
instances, and goes on writing while a replica was promoted, is a second one: give it
``min-replicas-to-write 1``. Where scripts may not ask INFO, a failover is only known by an instance
that is ahead of the new primary. All instances have the same ``max_disconnected``.
With ``max_disconnected=None`` an instance that is cut off goes on serving what it holds, and the
argument holds only for those that are not.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b, sha1
from itertools import pairwise
from typing import Any, Final, NamedTuple

from layergate.core.codec import MAX_INVALIDATIONS, Codec
from layergate.core.flight import Pulse
from layergate.core.invalidation import Invalidation, PurgeReceipt, matcher
from layergate.core.shared import Joining
from layergate.errors import LayerError, LayerUnavailable, WireError
from layergate.layers.redis.companion import Companion
from layergate.layers.redis.keys import log_key
from layergate.layers.redis.scripts import APPEND, LEAVE, STATUS, SYNC
from layergate.layers.redis.server import Script, Server

__all__ = ["RedisLog"]

_logger = logging.getLogger("layergate")

_K: Final = 40  # bits for what was purged here only
_GENERATION: Final = 6  # bytes, of an incarnation's 16; the rest is random
_LAST_GENERATION: Final = 256**_GENERATION - 1
_DIGITS: Final = 16  # of a position on the wire, which is below 2^53
_NEVER: Final = float("-inf")
_LIMIT: Final = 1000  # records in one reply
_BATCH: Final = 64  # records appended at once
_RECENT: Final = 1024  # records remembered, to append them again if they get lost
_OUTBOX: Final = 1024  # records that may wait for Redis to come back
_MARKS: Final = 20_000  # marks in either of the two
_RETRIES: Final = 5
_POLL: Final = (0.0, 0.001, 0.001, 0.002, 0.002, 0.004, 0.004, 0.008, 0.016, 0.032, 0.05)  # seconds
_LEAPS: Final = 64  # of the log, remembered
_HOPELESS: Final = 0.25  # seconds that requests do not ask again after a failure
_STUCK: Final = 10.0  # seconds after which a sync that does not end is not waited for
_EVERYTHING: Final = (Invalidation("all"),)
_ORPHANS: Final = 256


class _Place(NamedTuple):
    """Where an instance stood when it sent something."""

    log: bytes | None
    applied: int
    tip: bytes
    epoch: int
    leaves: int
    sent: float
    instance: bytes


class _Record(NamedTuple):
    """``nonce``: None in what an older version has appended."""

    position: int
    before: int
    tip: bytes
    blob: bytes
    nonce: bytes | None


class _Reply(NamedTuple):
    log: bytes
    last: int
    complete: bool
    member: bool
    records: list[_Record]
    appended: int
    tip: bytes
    leap: int
    seal: bytes


class _Applied(NamedTuple):
    """A record as it was applied. ``invalidations`` is empty for a leap."""

    log: bytes
    position: int
    before: int
    tip: bytes
    invalidations: tuple[Invalidation, ...]
    time: float
    at: float  # monotonic


class _Waiting(NamedTuple):
    """A record that waits to be appended.

    ``again``: what it is a repetition of, or b"". ``below``: the local position before it was
    applied here; None for a repetition.
    """

    invalidations: tuple[Invalidation, ...]
    time: float
    again: bytes
    below: int | None


class _View(NamedTuple):
    """How positions here and on the wire belong together: replaced as a whole, read without lock.

    ``below``: entries from the wire are stamped no higher. ``least``: entries stamped lower are
    from before this instance came over from another incarnation, whose purges this one may not
    hold (a backup was restored): they are none.
    """

    log: bytes | None
    base: int
    below: int | None
    least: int


class _Overtaken(LayerError):
    """The log changed under a call, again and again."""


class RedisLog:
    """`layergate.core.shared.Log` on one Redis.

    ``namespace``        the log's name; without braces.
    ``max_disconnected`` how long this instance is trusted without hearing from Redis, in seconds;
                         None: for ever, once it has joined.
    ``log_length``       how many records Redis keeps.

    Nothing starts, and nothing is asked, before `catch_up` or `append`.
    """

    def __init__(
        self,
        server: Server,
        codec: Codec,
        joining: Joining,
        *,
        namespace: bytes | str,
        max_disconnected: float | None,
        log_length: int,
    ) -> None:
        if isinstance(namespace, str):
            namespace = namespace.encode()
        self._server = server
        self._codec = codec
        self._marks = joining.invalidations
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._trusted_for = max_disconnected
        if max_disconnected is None:
            self.heartbeat, self._term, self._stride = 5.0, 30.0, 7.5
        else:
            # One beat may come late by a beat, and the fleet's clock keeps up with one instance.
            self.heartbeat = max_disconnected / 4
            self._stride = self.heartbeat + 0.25
            self._term = max_disconnected + self._stride
        self._length = log_length
        self._keys = [log_key(namespace, part) for part in _PARTS]
        self._where = repr(server), self._keys[0]
        self.channel = self._keys[0]
        self.channels = log_key(namespace, b"i:")
        # Until when the marks are complete (see `Log.trusted_until`). Read on the hit path.
        self.trusted_until = _NEVER
        self.left = False
        self._view = _View(None, 0, None, 0)
        self._applied = 0
        # The end of the log, by incarnation and position, as it was last heard of.
        self._end: tuple[bytes | None, int] = (None, 0)
        self._tip = b""
        # The highest generation of the incarnations that were sealed with our secret, and one that
        # is refused, or b"".
        self._generation = 0
        self._refused = b""
        # Counts the incarnations seen: a reply from before the last change is out of date.
        self._epoch = 0
        self._leaves = 0
        self._settled_in = False
        # From where to where the log leapt, in this incarnation: in between there is nothing.
        self._leaps: deque[tuple[int, int]] = deque(maxlen=_LEAPS)
        self._last_leap = 0  # where the last one is in the log, seen or not
        # When the last call was sent that this incarnation answered, monotonic: it was there then.
        self._heard = _NEVER
        self._recent: deque[_Applied] = deque()
        self._recent_marks = 0
        self._forgotten = _NEVER  # when the last record was applied that is not in there any more
        self._outbox: deque[_Waiting] = deque()
        self._outbox_marks = 0
        self._companion = Companion(server, joining, self, heartbeat=self.heartbeat)
        self._reset()
        _logs.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = self._runtime.lock()
        self._pulse = Pulse(self._runtime)
        self._instance: bytes | None = None
        self._member = False
        # Syncs, one at a time: how many began, how many of them ended well, is one under way?
        self._begun = 0
        self._ended = 0
        self._good = 0
        self._syncing = 0  # which one, or 0
        self._hopeless_until = _NEVER
        # Has this process been trusted since it began, or came back? Until when do requests wait
        # for that (see `_left_to_join`)? None: nobody has asked yet.
        self._joined = False
        self._join_by: float | None = None

    def forked(self) -> None:
        """See `Log.forked`. What the parent could not append yet, the child appends too: once too
        often purges nothing that is not purged anyway."""
        self.trusted_until = _NEVER
        self._reset()
        self._companion.forked()
        if self._companion.leases is not None:
            self._companion.leases.forked()

    # -- who and where -------------------------------------------------------------------------

    @property
    def companion(self) -> Companion:
        return self._companion

    @property
    def log_id(self) -> bytes | None:
        """The incarnation of the log, 16 bytes; None before the first contact.

        It may change between two calls: see `place` and `stamp`.
        """
        return self._view.log

    @property
    def applied(self) -> int:
        """The position applied last, as Redis counts."""
        return self._applied

    @property
    def instance(self) -> bytes:
        """What this process is called, in Redis. Another one in a fork's child."""
        instance = self._instance
        if instance is None:
            with self._lock:
                instance = self._named()
        return instance

    def _named(self) -> bytes:
        """Under the lock."""
        if self._instance is None:
            self._instance = os.urandom(8).hex().encode()
        return self._instance

    @property
    def own_channel(self) -> bytes:
        return self.channels + self.instance

    def place(self, stamp: int) -> tuple[bytes, int] | None:
        """Incarnation and position to write an entry with that bears ``stamp``; None: it must not
        go to Redis, for it is from before this incarnation, or there was no contact yet."""
        view = self._view
        position = (stamp >> _K) - view.base
        return None if view.log is None or position < 0 else (view.log, position)

    def stamp(self, log: bytes, position: int) -> int | None:
        """The stamp, here, of an entry that was written with ``position`` in the incarnation
        ``log``; None if that is another one than the log's, or too long ago: the entry is none."""
        view = self._view
        if log != view.log or position < view.least:
            return None
        stamp = (view.base + position) << _K
        return stamp if view.below is None else min(stamp, view.below)

    def to_wire(self, stamp: int) -> int | None:
        """The position of `place`."""
        place = self.place(stamp)
        return None if place is None else place[1]

    def from_wire(self, position: int) -> int:
        """The stamp of ``position`` in the current incarnation."""
        view = self._view
        stamp = (view.base + position) << _K
        return stamp if view.below is None else min(stamp, view.below)

    @property
    def lag(self) -> int:
        """How many positions this instance is behind the end of the log, as far as it has heard of
        it: from syncs, from messages to all instances, and where syncs fail by looking there.

        Not only records have positions: a leap in the log is a leap of this number.
        """
        log, end = self._end
        # Of another incarnation it has applied nothing yet.
        return max(0, end - self._applied) if log == self._view.log else end

    def stats(self) -> dict[str, int | float]:
        """Gauges: position in the log, positions known to be there and not applied yet, records that
        wait for Redis, and is this one trusted (1)?"""
        return {
            "log_position": self._applied,
            "log_lag": self.lag,
            "log_outbox": len(self._outbox),
            "log_trusted": int(self._runtime.monotonic() < self.trusted_until),
        }

    # -- the protocol of the core --------------------------------------------------------------

    async def catch_up(self) -> bool:
        """See `Log.catch_up`."""
        try:
            self._look_at_process()
            for _ in range(_RETRIES):
                self.left = False
                background = self._companion.ensure()
                if self._runtime.monotonic() < self.trusted_until:
                    return True
                if not await self._caught_up(background):
                    return False
                if not background or self._runtime.monotonic() < self.trusted_until:
                    return True
                # Another loop of this process has ended meanwhile, and left for all of it.
            return False
        except Exception as error:
            if not isinstance(error, LayerUnavailable):  # told of when the breaker opened
                self._counters.on("layer_error", layer="shared", operation="catch up", error=error)
            return False

    async def _caught_up(self, background: bool) -> bool:
        """Read all there is, if the server answers in time. Raises what Redis raises."""
        if self._join_by is None:
            self._join_by = self._runtime.monotonic() + self._server.connect_timeout
        while True:
            # What just failed would fail for every request, and each would pay for it.
            if self._runtime.monotonic() < self._hopeless_until:
                return False
            left = self._left_to_join()
            patience = max(self._server.timeout, left)
            try:
                # Without a companion nobody waits for this instance, so what was asked before this
                # request came is no answer for it.
                if await self.sync(probe=left > 0, fresh=not background, patience=patience):
                    return True
            except Exception as error:
                if not self._still_joins(error):
                    raise
            if self._left_to_join() <= 0:
                return False

    def _left_to_join(self) -> float:
        """For how many seconds more a request waits for this instance to become one of the fleet.

        A process that has just started must connect first, and has no script loaded yet; the first
        requests come all at once, and each that did not wait would fetch (G2). ``connect_timeout``
        bounds that, for all of them together: past it, a Redis that does not answer is away (G5).
        """
        if self._joined or self._join_by is None:
            return 0.0
        return self._join_by - self._runtime.monotonic()

    def _still_joins(self, error: Exception) -> bool:
        """Was this one only slow, and is there time left to join? A refusal is final."""
        from redis.exceptions import TimeoutError as RedisTimeoutError

        return isinstance(error, RedisTimeoutError) and self._left_to_join() > 0

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """See `Log.append`."""
        for invalidation in invalidations:
            matcher(invalidation)  # raises KeyRefused
        self._look_at_process()
        try:
            home, position, nonce = await self._append(invalidations, time)
            await self._leave_for_stranded()
        except BaseException as error:
            # Also when it was cancelled: nobody knows whether Redis has it.
            self._put_off(invalidations, time)
            if not isinstance(error, Exception):
                raise
            self._counters.on("layer_error", layer="shared", operation="append", error=error)
            self._companion.ensure()
            return PurgeReceipt(1, 1, final=False, scope="fleet")
        return await self._wait(invalidations, time, home, position, nonce, wait)

    async def leave(self) -> None:
        """See `Log.leave`. Never raises, and asks nothing if this instance is no member."""
        self._companion.stop()
        with self._lock:
            self.left = True
            # Whatever is under way may have made it a member before it ceases to be one.
            self._leaves += 1
            if self._joined:  # a Redis that was not there is not waited for once more
                self._joined, self._join_by = False, None
            gone = self._resign()
            connected = self._runtime.monotonic() < self.trusted_until
            self.trusted_until = _NEVER
        if self._pid != os.getpid():
            return
        deadline = self._runtime.monotonic() + self._server.timeout
        while True:  # a sync that arrives later would make it a member again
            seen = self._pulse.version
            left = deadline - self._runtime.monotonic()
            if not self._syncing or left <= 0 or not await self._pulse.wait(seen, left):
                break
        if gone is None or not connected:
            return  # its membership has lapsed, or will at once
        try:
            await self._leave_as(gone)
        except BaseException as error:
            _orphans.append((self._where, gone))
            if not isinstance(error, Exception):
                raise
            self._counters.on("layer_error", layer="shared", operation="leave", error=error)

    def _resign(self) -> bytes | None:
        """The name under which this instance may be a member; from now on it has another, so that
        its leave, which may come late, ends no membership that began since. None: it is none.

        Under the lock."""
        if not self._member:
            return None
        self._member = False
        gone, self._instance = self._instance, None
        return gone

    async def _leave_as(self, instance: bytes) -> None:
        place = self._place()._replace(instance=instance)
        await self._server.run(LEAVE, self._keys, self._arguments(place, member=False))

    async def _leave_for_stranded(self) -> None:
        """Take instances of this process out of the fleet that cannot leave themselves: their cache
        is gone, or the loop that spoke for them. Never raises an Exception: they lapse by themselves.
        """
        gone = []
        for log in list(_logs):
            if log._where == self._where and (name := log._stranded()):
                gone.append(name)
        for _ in range(len(_orphans)):
            where, name = orphan = _orphans.popleft()
            if where == self._where:
                gone.append(name)
            else:
                _orphans.append(orphan)
        for name in gone:
            try:
                await self._leave_as(name)
            except Exception as error:
                _logger.debug("instance %r of this process cannot leave: %r", name, error)
                return

    def _stranded(self) -> bytes | None:
        """Give up the membership of an instance whose loop has ended: the name it had, or None."""
        if self._pid != os.getpid() or not self._companion.stranded or not self._member:
            return None
        with self._lock:
            self._leaves += 1
            self.trusted_until = _NEVER
            return self._resign()

    def __del__(self) -> None:
        # (What failed in the constructor has nothing yet.)
        member = getattr(self, "_member", False)
        if member and self._pid == os.getpid() and self._instance is not None:
            _orphans.append((self._where, self._instance))

    # -- syncing -------------------------------------------------------------------------------

    async def sync(
        self, *, probe: bool = False, fresh: bool = True, patience: float | None = None
    ) -> bool:
        """Append what waits, read what is new, and say so. True if all there is has been read.

        One at a time: others wait for the one under way and take its result, or with ``fresh`` for
        one that begins after they came; for at most ``patience`` seconds. Raises what Redis raises.
        """
        with self._lock:
            wanted = self._begun + (1 if fresh or not self._syncing else 0)
        until = None if patience is None else self._runtime.monotonic() + patience
        while True:
            seen = self._pulse.version
            with self._lock:
                if self._ended >= wanted:
                    return self._good >= wanted
                under_way = self._syncing
                if not under_way:
                    self._begun += 1
                    number = self._syncing = self._begun
                    break
            left = _STUCK if until is None else until - self._runtime.monotonic()
            if left <= 0:
                return False
            if not await self._pulse.wait(seen, left) and until is None:
                # Its loop was closed over it. (If not, two at once do no harm.)
                with self._lock:
                    if self._syncing == under_way:
                        self._syncing = 0
        good = False
        over = True
        try:
            good = await self._sync(probe, patience)
            self._hopeless_until = _NEVER
        except Exception as error:
            if not self._still_joins(error):
                self._hopeless_until = self._runtime.monotonic() + min(_HOPELESS, self.heartbeat)
            raise
        except BaseException:
            over = False  # cancelled: that says nothing, so somebody else has to go
            raise
        finally:
            with self._lock:
                if self._syncing == number:
                    self._syncing = 0
                if over:
                    self._ended = max(self._ended, number)
                if good:
                    self._good = max(self._good, number)
            self._pulse.beat()
        return good

    async def _sync(self, probe: bool, patience: float | None) -> bool:
        until = float("inf")
        if patience is not None or not probe:
            until = self._runtime.monotonic() + (patience or self._server.timeout)
        while True:
            await self._flush(probe)
            reply = await self._ask(SYNC, probe=probe)
            complete = reply is not None and reply.complete
            # What was new must be acknowledged, or a purge waits for the next beat. And it may have
            # shown that something was lost.
            new = reply is not None and reply.records and reply.member
            if complete and not new and not self._outbox:
                return True
            if self.left or self._runtime.monotonic() >= until:
                return complete

    async def _flush(self, probe: bool) -> None:
        """Append what could not be appended before, or was lost since."""
        while self._outbox:
            with self._lock:
                batch = list(self._outbox)[:_BATCH]
            records = [(one.invalidations, one.time, one.again) for one in batch]
            await self._append_records(records, probe=probe)
            with self._lock:
                for one in batch:
                    # (unless it overflowed meanwhile)
                    if self._outbox and self._outbox[0] is one:
                        self._outbox.popleft()
                        self._outbox_marks -= len(one.invalidations)
                self._look_below()

    def _place(self, *, member: bool = False) -> _Place:
        """``member``: what is about to be sent may make it one."""
        with self._lock:
            self._member = self._member or member
            return _Place(
                self._view.log,
                self._applied,
                self._tip,
                self._epoch,
                self._leaves,
                self._runtime.monotonic(),
                self._named(),
            )

    def _arguments(self, place: _Place, *, member: bool) -> list[Any]:
        fresh = min(self._generation + 1, _LAST_GENERATION).to_bytes(_GENERATION) + os.urandom(10)
        return [
            fresh,
            round(self._term * 1000),
            round(self._stride * 1000),
            self._length,
            place.log or b"",
            place.applied,
            place.tip,
            place.instance,
            b"1" if member else b"",
            _LIMIT,
            self._codec.seal(fresh),
            self._refused,
        ]

    async def _ask(
        self, script: Script, arguments: Sequence[Any] = (), *, probe: bool = False
    ) -> _Reply | None:
        """Run SYNC or APPEND and take in what comes. None if the reply was out of date.

        Raises what Redis raises.
        """
        member = not self.left and self._companion.running
        place = self._place(member=member)
        base = self._arguments(place, member=member)
        reply = _read(await self._server.run(script, self._keys, [*base, *arguments], probe=probe))
        return reply if self._take(reply, place) else None

    # -- taking in -----------------------------------------------------------------------------

    def _take(self, reply: _Reply, place: _Place) -> bool:
        """Apply a reply. False if the log's incarnation changed since it was asked for."""
        told: list[tuple[str, dict[str, Any]]] = []
        try:
            with self._lock:
                return self._take_locked(reply, place, told)
        finally:
            for event, facts in told:  # hooks are strangers: not under the lock
                self._counters.on(event, **facts)

    def _take_locked(
        self, reply: _Reply, place: _Place, told: list[tuple[str, dict[str, Any]]]
    ) -> bool:
        trusted = self._runtime.monotonic() < self.trusted_until
        if reply.log != self._view.log:
            if place.epoch != self._epoch:
                return False
            if not self._acceptable(reply):
                self._refuse(reply.log, told)
                return False
            self._begin_incarnation(reply, trusted, told)
            self._heard = _NEVER
        self._end = reply.log, reply.last
        self._last_leap = max(self._last_leap, reply.leap)
        for record in reply.records:
            if not self._apply(record, trusted, told):
                # Whoever has read less of it than this instance cannot see that.
                self._refuse(reply.log, told)
                return False
        if reply.complete:
            if reply.last > self._applied:
                # It is not in the stream any more.
                self._miss(reply.last, told)
                self._applied, self._tip = reply.last, b""
            self._settled_in = True
            if reply.member and not self.left and place.leaves == self._leaves:
                self._joined = True
                if self._trusted_for is None:
                    self.trusted_until = float("inf")
                else:
                    until = place.sent + self._trusted_for
                    self.trusted_until = max(self.trusted_until, until)
        self._heard = max(
            self._heard, place.sent
        )  # (only now: a seam was after what was heard before)
        return True

    def _local(self, position: int) -> int:
        return (self._view.base + position) << _K

    def _acceptable(self, reply: _Reply) -> bool:
        """May this instance go over to the log of this incarnation? Not to one that is older than one
        it has been in: it was put back, and purges were made since that it does not hold."""
        sealed = self._codec.sealed(reply.log, reply.seal)
        if not sealed:
            # Made with another secret (one of the two is being rolled out), or by somebody who has
            # none. To begin in such a log would be to know nothing of those before it.
            return self._view.log is not None
        generation = int.from_bytes(reply.log[:_GENERATION])
        return generation > self._generation or generation == _LAST_GENERATION

    def _refuse(self, log: bytes, told: list[tuple[str, dict[str, Any]]]) -> None:
        """Have the next call begin a new incarnation in the place of ``log``: what was stored under
        the old one is nobody's then."""
        if self._refused != log:
            told.append(("log_refused", {}))
        self._refused = log

    def _begin_incarnation(
        self, reply: _Reply, trusted: bool, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        before = self._view.log
        base = (self._marks.position >> _K) + 1
        # The position first: nothing is ever stamped, or taken from the wire, below what is held.
        self._move(base << _K, trusted)
        least = 0 if before is None else reply.last
        self._view = _View(reply.log, base, self._view.below, least)
        if self._codec.sealed(reply.log, reply.seal):
            generation = int.from_bytes(reply.log[:_GENERATION])
            self._generation = max(self._generation, generation)
        self._refused = b""
        self._applied, self._tip = 0, b""
        self._leaps.clear()
        self._last_leap = 0
        self._epoch += 1
        self._settled_in = False
        if before is not None:
            told.append(("log_reset", {}))
            self._append_all(before)

    def _apply(
        self, record: _Record, trusted: bool, told: list[tuple[str, dict[str, Any]]]
    ) -> bool:
        """False, and everything is dropped, if it does not follow what was applied here."""
        if record.position <= self._applied:
            return True
        invalidations = self._marks
        if record.before > self._applied:
            self._miss(record.before, told)
        elif (record.before < self._applied and record.blob) or not self._follows(record):
            # Not by a leap: that cannot be. Whatever it is, it is no log to rely on.
            self._miss(record.position, told)
            return False
        log = self._view.log
        assert log is not None
        now = self._runtime.now()
        purged: tuple[Invalidation, ...] = ()
        time = now
        if record.blob:
            try:
                if record.nonce is None:
                    raise WireError("appended by an older version, so nobody knows what was before")
                purged, time = self._codec.decode_record(log, record.blob)
            except WireError as error:
                # Forged, damaged, or of a later version, or signed with another secret (one of the
                # two is being rolled out): it may be any purge, so it is all of them.
                told.append(("record_refused", {"error": error}))
                purged = _EVERYTHING
            # By the clock here: made stale is made stale now, not in an hour.
            invalidations.apply(self._local(record.position), purged, min(time, now))
        else:
            if self._settled_in:
                told.append(("log_leap", {}))
            if record.before < self._applied:
                self._append_lost(log, record.before)
            self._leaps.append((record.before, record.position))
            self._move(self._local(record.position), trusted)
        at = self._runtime.monotonic()
        position, before, tip, _, _ = record
        self._remember(_Applied(log, position, before, tip, purged, time, at))
        self._applied, self._tip = position, tip
        return True

    def _follows(self, record: _Record) -> bool:
        """Is its tip made of the one here? (One that comes after a leap was appended to others.)"""
        if record.before != self._applied or record.nonce is None:
            return True
        if not self._tip and self._applied:
            return True  # it was trimmed, so nobody knows
        made = sha1(self._tip + record.nonce + record.blob, usedforsecurity=False).hexdigest()
        return made.encode() == record.tip

    def _remember(self, record: _Applied) -> None:
        recent = self._recent
        recent.append(record)
        self._recent_marks += len(record.invalidations)
        while len(recent) > _RECENT or self._recent_marks > _MARKS:
            forgotten = recent.popleft()
            self._recent_marks -= len(forgotten.invalidations)
            self._forgotten = forgotten.at

    def _miss(self, position: int, told: list[tuple[str, dict[str, Any]]]) -> None:
        """Records up to ``position`` will never be seen here."""
        if self._settled_in:
            told.append(("log_trimmed", {}))
        if self._last_leap > self._applied:  # it may be among them
            since = self._heard - self._term
            log = self._view.log
            self._append_again([one for one in self._recent if one.log == log and one.at > since])
        self._marks.rise(self._local(position))

    def _move(self, position: int, trusted: bool) -> None:
        """Go on from ``position``, with what is held, or (not trusted) without it."""
        if trusted:
            self._marks.apply(position, (), self._runtime.now())
        else:
            self._marks.rise(position)

    # -- what waits to be appended -------------------------------------------------------------

    def _put_off(self, invalidations: tuple[Invalidation, ...], time: float) -> None:
        """Apply here what could not be appended, and remember to append it."""
        with self._lock:
            below = self._marks.position
            for start in range(0, len(invalidations), MAX_INVALIDATIONS):
                part = invalidations[start : start + MAX_INVALIDATIONS]
                self._wait_for_redis(_Waiting(part, time, b"", below))
            self._marks.apply(below + 1, invalidations, time)

    def _append_lost(self, log: bytes, after: int) -> None:
        """Records of ``log`` after position ``after`` that were applied here are not in it."""
        lost = [one for one in self._recent if one.log == log and one.position > after]
        whole = bool(lost) and lost[0].before <= after
        if not whole or any(one.position != two.before for one, two in pairwise(lost)):
            self._append_everything(b"all:%b:%d" % (log, after))
        else:
            self._append_again(lost)

    def _append_all(self, log: bytes) -> None:
        """``log`` was emptied: what was applied of it may have been read by nobody else.

        It was there when it was last heard of. Who was trusted when he found it gone had read it
        less than a term before that, and so all that was applied here by then; whoever else found
        it gone let go of everything. How long ago that is now says nothing: this instance may have
        been cut off all the while, and the others not.
        """
        since = self._heard - self._term
        if self._forgotten > since:
            self._append_everything(b"all:%b" % log)
            return
        if self._trusted_for is None:  # some may have missed more, and are trusted all the same
            since = _NEVER
        self._append_again([one for one in self._recent if one.log == log and one.at > since])

    def _append_everything(self, again: bytes) -> None:
        """More is to be appended again than is remembered."""
        self._wait_for_redis(_Waiting(_EVERYTHING, self._runtime.now(), again, None))

    def _append_again(self, records: list[_Applied]) -> None:
        waiting = {one.again for one in self._outbox}
        for one in records:
            again = _again(one.log, one.position, one.tip)
            if one.invalidations and again not in waiting:
                self._wait_for_redis(_Waiting(one.invalidations, one.time, again, None))

    def _wait_for_redis(self, record: _Waiting) -> None:
        outbox = self._outbox
        outbox.append(record)
        self._outbox_marks += len(record.invalidations)
        if len(outbox) > _OUTBOX or self._outbox_marks > _MARKS:
            below = self._lowest()
            outbox.clear()
            outbox.append(_Waiting(_EVERYTHING, self._runtime.now(), b"", below))
            self._outbox_marks = 1
        self._look_below()

    def _lowest(self) -> int | None:
        return next((one.below for one in self._outbox if one.below is not None), None)

    def _look_below(self) -> None:
        below = self._lowest()
        if below != self._view.below:
            self._view = self._view._replace(below=below)

    # -- appending -----------------------------------------------------------------------------

    async def _append(
        self, invalidations: tuple[Invalidation, ...], time: float, again: bytes = b""
    ) -> tuple[bytes, int, bytes]:
        """Incarnation, position and nonce of the record in Redis (the last one, if there are so many
        marks that they are several). They are applied here."""
        parts = [
            invalidations[start : start + MAX_INVALIDATIONS]
            for start in range(0, len(invalidations), MAX_INVALIDATIONS)
        ]
        return await self._append_records(
            [
                (part, time, b"%b:%d" % (again, number) if again and number else again)
                for number, part in enumerate(parts or [invalidations])
            ]
        )

    async def _append_records(
        self, records: list[tuple[tuple[Invalidation, ...], float, bytes]], *, probe: bool = False
    ) -> tuple[bytes, int, bytes]:
        for _ in range(_RETRIES):
            log = self._view.log
            if log is None:
                await self._ask(SYNC, probe=probe)
                continue
            arguments: list[Any] = []
            for invalidations, time, again in records:
                nonce = blake2b(again, digest_size=8).digest() if again else os.urandom(8)
                arguments += nonce, again, self._encoded(log, invalidations, time)
            reply = await self._ask(APPEND, arguments, probe=probe)
            if reply is None or not reply.appended:
                continue
            # Before a purge returns, this instance has applied it too: in its place in the log.
            while self._view.log == reply.log and self._applied < reply.appended:
                await self._ask(SYNC, probe=probe)
            # Or it was lost first, and its place leapt over: then it is in nobody's memory.
            if self._view.log == reply.log and not self._leapt(reply.appended):
                return reply.log, reply.appended, reply.tip
        raise _Overtaken("shared", "the log changed while something was appended to it")

    def _leapt(self, position: int) -> bool:
        with self._lock:
            return any(before < position < after for before, after in self._leaps)

    def _encoded(self, log: bytes, invalidations: tuple[Invalidation, ...], time: float) -> bytes:
        try:
            return self._codec.encode_record(log, invalidations, time)
        except WireError:  # a tag beyond all measure: purge too much rather than too little
            soft = all(invalidation.soft for invalidation in invalidations)
            return self._codec.encode_record(log, (Invalidation("all", soft=soft),), time)

    async def _wait(
        self,
        invalidations: tuple[Invalidation, ...],
        time: float,
        home: bytes,
        position: int,
        nonce: bytes,
        wait: float | None,
    ) -> PurgeReceipt:
        """Wait until the record is applied by all members."""
        monotonic = self._runtime.monotonic
        bound = self._term + 1.0 if wait is None else wait
        deadline = monotonic() + bound
        applied = members = 1
        looks = failures = losses = 0
        while True:
            try:
                place = self._place()
                base = self._arguments(place, member=False)
                answer = await self._server.run(STATUS, self._keys, [*base, position, nonce])
                log, found, members, applied, settling, known = answer
                if log != home or not found:
                    # Lost, and its place with it (or trimmed so soon).
                    losses += 1
                    if losses > _RETRIES:
                        return PurgeReceipt(applied, members, final=False, scope="fleet")
                    if log != place.log:
                        await self._ask(SYNC)
                    again = _again(home, position, nonce)
                    home, position, nonce = await self._append(invalidations, time, again)
                    if wait is None:
                        deadline = monotonic() + bound
                    continue
                failures = 0
                if not known:  # this one is no member, but it has applied it
                    members, applied = members + 1, applied + 1
                if applied >= members and not int(settling):
                    return PurgeReceipt(applied, members, final=True, scope="fleet")
            except Exception as error:
                failures += 1
                if failures >= 3:
                    self._counters.on("layer_error", layer="shared", operation="wait", error=error)
                    return PurgeReceipt(
                        max(1, applied), max(1, members), final=False, scope="fleet"
                    )
            left = deadline - monotonic()
            if left <= 0:
                return PurgeReceipt(applied, members, final=False, scope="fleet")
            pause = _POLL[min(looks, len(_POLL) - 1)]
            looks += 1
            if pause:
                await self._runtime.event().wait(min(pause, left))

    # -- the process ---------------------------------------------------------------------------

    def is_news(self, payload: bytes) -> bool:
        """Does a message on the fleet's channel tell of something not applied yet? Notes it: what
        then fails to be read is what this instance lags behind."""
        log, position = payload[:16], payload[16:]
        if len(position) > _DIGITS or not position.isdigit():
            return True
        end = int(position)
        if log == self._view.log and end <= self._applied:
            return False
        self._end = log, end
        return True

    async def look_ahead(self) -> None:
        """Note how far the log has gone, where the server answers and yet no sync succeeds: a plain
        read may be possible when the script, which writes, is not (no rights, no memory, a
        replica). Never raises."""
        try:
            log, end = await self._server.call("HMGET", self._keys[1], "log", "n", probe=True)
        except Exception as error:
            # What is wrong was told when the sync failed.
            _logger.debug("nor can the end of the shared log be read: %r", error)
            return
        if log is not None and end is not None:
            self.is_news(log + end)

    def _look_at_process(self) -> None:
        if self._pid != os.getpid():
            self.forked()


_PARTS: Final = (b"log", b"meta", b"members", b"acks", b"again")


def _again(log: bytes, position: int, nonce: bytes) -> bytes:
    """What a record was, before it was lost."""
    return b"%b:%d:%b" % (log, position, nonce)


def _read(answer: Any) -> _Reply:
    log, last, complete, member, raw, appended, invalidation, leap, seal = answer
    records = []
    for name, fields in raw:
        before, tip, blob = fields[1], fields[3], fields[5]
        nonce = fields[7] if len(fields) > 7 else None
        records.append(_Record(int(name[:-2]), int(before), tip, blob, nonce))
    return _Reply(
        log,
        int(last),
        bool(complete),
        bool(member),
        records,
        int(appended),
        invalidation,
        int(leap),
        seal,
    )


# In the child of a fork an instance is another one, whoever made the fork.
_logs: Final[weakref.WeakSet[RedisLog]] = weakref.WeakSet()
# Members of this process whose log is gone: where they are, and their names.
_orphans: Final[deque[tuple[tuple[str, bytes], bytes]]] = deque(maxlen=_ORPHANS)


def _after_fork_in_child() -> None:
    _orphans.clear()
    for log in list(_logs):
        log.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
