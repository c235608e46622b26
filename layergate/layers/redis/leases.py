"""Leases in Redis: the fleet-wide right to fetch one key (G2).

A lease is a key with its holder's token, which runs out after ``term`` seconds unless it is renewed.
The token is random, but for the holder's note at its end, which thus costs no round trip.
So a holder that dies is replaced within one term. Released, it stays for one more term as a
*tombstone*: who takes it then knows that somebody else was there a moment ago and looks into the
layers again; and who had held it before, stood still and lost it, knows that his fetch is the older
one (the *fence*: see `FENCED_SET`).

Who finds a lease taken leaves the name of his instance beside it. A release sends a message to each
of these; and as a message may be lost, and not everybody can listen, who waits also looks by himself
from time to time (see `layergate.core.lease`).

A release that Redis does not answer is *owed*: until it is made, others wait for somebody who is long
done. The same is true of a lease that nobody knows to have been granted, as Redis was asked for it and
stood still; it may grant it when it goes on. What is owed is sent with the next heartbeat that is
answered, or right after the next lease that is. It may be sent twice, and late: a token is never used
again, so a release takes nothing from who has the lease by then.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, Final, NamedTuple

from layergate.core.flight import Pulse
from layergate.core.layer import Key
from layergate.core.lease import Waiting
from layergate.core.shared import Joining, Waited
from layergate.errors import LayerUnavailable
from layergate.layers.redis.companion import Companion
from layergate.layers.redis.keys import digest, lease_key, waiters_key
from layergate.layers.redis.scripts import ACQUIRE, LOOK, RELEASE, RENEW
from layergate.layers.redis.server import Server

__all__ = ["RedisLease", "RedisLeases"]

_logger = logging.getLogger("layergate")

_FREE: Final = -2  # what LOOK says
_NAME: Final = 40  # length of a digest
_BATCH: Final = 256  # leases renewed, or given back, in one round trip
_OWED: Final = 4096  # releases that may wait for Redis to come back; others run out by themselves
_UNDER_WAY: Final = 2.0  # seconds that a command may be, when who sent it has given up
_RANDOM: Final = 16  # bytes of a token
_NOTE: Final = 64  # characters


class RedisLease:
    """`layergate.core.shared.Lease`."""

    __slots__ = ("__weakref__", "_leases", "lost", "name", "recent", "released", "token", "until")

    def __init__(self, leases: RedisLeases, name: bytes, token: bytes) -> None:
        self._leases = leases
        self.name = name
        self.token = token
        # Until when it cannot have run out, monotonic.
        self.until = float("-inf")
        self.recent = False
        self.released = False
        self.lost = False

    @property
    def sure(self) -> bool:
        """See `Lease.sure`."""
        return not self.lost and self._leases.now() < self.until

    async def confirm(self) -> bool:
        """See `Lease.confirm`. Asks Redis only if it may have run out since it was renewed."""
        return not self.lost and await self._leases.confirmed(self)

    async def release(self, *, free: bool = False) -> None:
        """See `Lease.release`."""
        if not self.released:
            self.released = True
            await self._leases.give_back(self, free=free)


class _Held(NamedTuple):
    """A lease that was granted, and not given back yet. The token outlives who held it."""

    lease: weakref.ref[RedisLease]
    token: bytes


class _Release(NamedTuple):
    """What is to be told to Redis. ``granted``: was the lease, for certain? ``since``: monotonic."""

    name: bytes
    token: bytes
    granted: bool
    free: bool
    since: float


class RedisLeases:
    """`layergate.core.shared.Leases` on one Redis.

    ``secret``: as for `keys.digest`. ``term``: seconds that a lease lasts without being renewed.
    ``waiting``: how often to look again. ``companion``: renews what is held, and listens.
    """

    def __init__(
        self,
        server: Server,
        joining: Joining,
        *,
        namespace: bytes | str,
        secret: bytes = b"",
        term: float,
        waiting: Waiting,
        companion: Companion,
    ) -> None:
        self._server = server
        self._companion = companion
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._namespace = namespace.encode() if isinstance(namespace, str) else namespace
        self._secret = secret
        self.term = term
        self._milliseconds = max(1, round(term * 1000))
        # For so long nobody else can have it, even if the clock there is somewhat faster.
        self._sure = term * 0.8
        self._waiting = waiting
        companion.leases = self
        self.forked()

    def forked(self) -> None:
        """In the child of a fork nothing is held, and nobody waits."""
        self._lock = self._runtime.lock()
        self._held: dict[bytes, _Held] = {}
        self._owed: dict[bytes, _Release] = {}  # by token, the oldest first
        # Made already, but what is released may be granted only now: they are made once more.
        self._doubtful: dict[bytes, _Release] = {}
        self._pulses: dict[bytes, _Waiters] = {}

    # -- taking --------------------------------------------------------------------------------

    async def acquire(
        self,
        key: Key,
        *,
        wait: float,
        note: str = "",
        held: Callable[[str], object] | None = None,
    ) -> RedisLease | Waited:
        """See `Leases.acquire`."""
        until = self._runtime.monotonic() + wait
        name = digest(key, self._secret)
        own = self._held.get(name)
        if own is not None and own.lease() is None:
            # Whoever held it here has forgotten it (its loop has ended): nobody shall wait for that.
            with self._lock:
                if self._held.get(name) is own:
                    del self._held[name]
                    self._owe(_Release(name, own.token, True, False, self.now()))
            await self.settle()
        if wait <= 0:
            taken = await self._try(name, b"", note)
            return taken if isinstance(taken, RedisLease) else Waited.TIMEOUT
        # A message can only come to an instance that listens.
        listens = self._companion.ensure()
        waiters = self._enter(name)
        try:
            # Before anybody can know that we wait: so no wake-up is missed.
            seen = waiters.pulse.version
            taken = await self._try(name, self._companion.instance if listens else b"", note)
            if isinstance(taken, RedisLease):
                return taken
            self._counters.on("lease_wait", key=key)
            if held is not None:
                held(taken[0][_RANDOM:].decode("ascii", "replace"))
            return await self._wait(name, waiters, seen, *taken, until)
        finally:
            self._exit(name, waiters)

    async def _try(
        self, name: bytes, instance: bytes, note: str
    ) -> RedisLease | tuple[bytes, float]:
        """The lease, or who holds it and for how many seconds at most."""
        token = _token(note)
        lease = RedisLease(self, name, token)
        keys = self._keys(name)
        sent = self._runtime.monotonic()
        try:
            granted, detail, holder = await self._server.run(
                ACQUIRE, keys, [token, self._milliseconds, instance]
            )
        except LayerUnavailable:
            raise  # it was never asked
        except BaseException:
            # Cut off or cancelled: it may have been granted, to nobody.
            self._abandon(lease)
            raise
        if self._owed:  # it answers again
            self._aside(self.settle())
        if not granted:
            return holder, max(0, detail) / 1000
        lease.recent = bool(detail)
        lease.until = sent + self._sure
        with self._lock:
            self._held[name] = _Held(weakref.ref(lease), token)
        return lease

    async def _wait(
        self, name: bytes, waiters: _Waiters, seen: int, holder: bytes, left: float, until: float
    ) -> Waited:
        keys = self._keys(name)
        delays = self._waiting.delays(self._runtime.random)
        while True:
            now = self._runtime.monotonic()
            if now >= until:
                return Waited.TIMEOUT
            # It cannot be gone later than it runs out, unless it is renewed.
            pause = min(next(delays), left + 0.001, until - now)
            if await waiters.pulse.wait(seen, pause):
                return Waited.FREE if waiters.free else Waited.LANDED
            if self._runtime.monotonic() >= until:
                return Waited.TIMEOUT
            instance = self._companion.instance if self._companion.running else b""
            looked = await self._server.run(LOOK, keys, [holder, self._milliseconds, instance])
            if looked < 0:
                return Waited.FREE if looked == _FREE else Waited.LANDED
            left = looked / 1000

    def _abandon(self, lease: RedisLease) -> None:
        self._aside(self.give_back(lease, granted=False))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self._runtime.spawn(work, name="layergate release")
        except RuntimeError:
            work.close()  # the process ends: the lease runs out

    # -- holding -------------------------------------------------------------------------------

    def now(self) -> float:
        return self._runtime.monotonic()

    @property
    def holding(self) -> bool:
        """Is there anything to renew?"""
        return bool(self._held)

    def token_of(self, key: Key) -> bytes | None:
        """The token of the lease of ``key`` that this instance holds, or held until it was lost;
        None when there is none. It is what a write of that key has to show."""
        held = self._held.get(digest(key, self._secret)) if self._held else None
        return None if held is None or held.lease() is None else held.token

    async def renew(self) -> None:
        """Renew all that are held and alive. Raises what Redis raises."""
        leases = self._alive()
        for start in range(0, len(leases), _BATCH):
            batch = leases[start : start + _BATCH]
            sent = self._runtime.monotonic()
            replies = await self._server.call_all(
                [
                    ("EVALSHA", RENEW.sha1, 1, *self._keys(one.name)[:1], *self._proof(one))
                    for one in batch
                ]
            )
            for lease, reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    # The server does not know the script (yet, or again), or this node is away.
                    await self._renew(lease)
                else:
                    self._renewed(lease, reply, sent)

    def _alive(self) -> list[RedisLease]:
        found = []
        with self._lock:
            for name, held in [*self._held.items()]:
                lease = held.lease()
                if lease is None:  # whoever held it has forgotten it
                    del self._held[name]
                    self._owe(_Release(name, held.token, True, False, self._runtime.monotonic()))
                elif not (lease.lost or lease.released):
                    found.append(lease)
        return found

    async def confirmed(self, lease: RedisLease) -> bool:
        """Is it still this one's, or can nobody tell? Never raises."""
        if self._runtime.monotonic() < lease.until:
            return True
        try:
            return await self._renew(lease)
        except Exception:
            return True  # the fence will tell, should Redis be back by then

    async def _renew(self, lease: RedisLease) -> bool:
        sent = self._runtime.monotonic()
        reply = await self._server.run(RENEW, self._keys(lease.name)[:1], self._proof(lease))
        return self._renewed(lease, reply, sent)

    def _renewed(self, lease: RedisLease, reply: Any, sent: float) -> bool:
        if reply:
            lease.until = max(lease.until, sent + self._sure)
        elif not lease.released and not lease.lost:
            lease.lost = True
            self._counters.on("lease_lost")
        return bool(reply)

    # -- giving back ---------------------------------------------------------------------------

    async def give_back(
        self, lease: RedisLease, *, granted: bool = True, free: bool = False
    ) -> None:
        """Release it in Redis, whether or not it was ever ``granted``; later, if that fails now.
        Never raises, but for cancellation."""
        release = _Release(lease.name, lease.token, granted, free, self._runtime.monotonic())
        try:
            self._answered(release, await self._server.run(RELEASE, *self._told(release)))
        except BaseException as error:  # when it is cancelled, nobody knows whether it was sent
            with self._lock:
                self._owe(release)
            if not isinstance(error, Exception):
                raise
            self._counters.on("layer_error", layer="shared", operation="release", error=error)
        finally:
            with self._lock:
                held = self._held.get(lease.name)
                if held is not None and held.token == lease.token:
                    del self._held[lease.name]

    def _told(self, release: _Release) -> tuple[list[bytes], list[Any]]:
        """The keys and arguments of `RELEASE`."""
        name = release.name
        return self._keys(name), [
            release.token,
            self._milliseconds,
            self._companion.channels,
            name + b"!" if release.free else name,
            b"" if release.granted else b"1",
            b"1" if release.free else b"",
        ]

    def _owe(self, release: _Release) -> None:
        """Under the lock."""
        _keep(self._owed, release)

    def _answered(self, release: _Release, found: Any) -> None:
        """It was not ``found``: not granted, or not yet, for on another connection a command may be
        overtaken. The tombstone that then refuses it is one for all who ask for this key."""
        late = self._runtime.monotonic() - release.since > _UNDER_WAY
        if not (found or release.granted or late):
            with self._lock:
                _keep(self._doubtful, release)

    @property
    def owing(self) -> int:
        """How many releases are to be made, or made once more."""
        return len(self._owed) + len(self._doubtful)

    async def settle(self, *, once_more: bool = False) -> None:
        """Make the releases that are owed. Never raises, but for cancellation: what fails is owed
        still. ``once_more``: those too that came, perhaps, before what they release."""
        if once_more and self._doubtful:
            with self._lock:
                for release in self._doubtful.values():
                    self._owe(release)
                self._doubtful.clear()
        while self._owed:
            with self._lock:
                batch = dict(islice(self._owed.items(), _BATCH))
                for token in batch:
                    del self._owed[token]
            try:
                await self._settle(batch)
            except Exception as error:
                _logger.debug("releases that are owed cannot be made yet: %r", error)
            finally:
                with self._lock:
                    for release in batch.values():
                        self._owe(release)
            if batch:
                return

    async def _settle(self, batch: dict[bytes, _Release]) -> None:
        """Take out of ``batch`` what was answered. Raises what Redis raises."""
        from redis.exceptions import ResponseError

        releases = [*batch.values()]
        commands = []
        for release in releases:
            keys, arguments = self._told(release)
            commands.append(("EVALSHA", RELEASE.sha1, len(keys), *keys, *arguments))
        failed = []
        for release, reply in zip(releases, await self._server.call_all(commands), strict=True):
            if isinstance(reply, Exception):
                # The server does not know the script (yet, or again), or this node is away.
                failed.append(release)
            else:
                del batch[release.token]
                self._answered(release, reply)
        last: Exception | None = None
        for release in failed:
            try:
                self._answered(release, await self._server.run(RELEASE, *self._told(release)))
            except Exception as error:
                # What cannot be written now may be so later, but the lease does not live for ever.
                late = self._runtime.monotonic() - release.since > 2 * self.term
                if not (late and isinstance(error, ResponseError)):
                    last = error
                    continue
            del batch[release.token]
        if last is not None:
            raise last

    async def leave(self) -> None:
        """See `Leases.leave`."""
        with self._lock:
            now = self._runtime.monotonic()
            for name, held in self._held.items():
                lease = held.lease()
                if lease is not None:
                    lease.released = True
                self._owe(_Release(name, held.token, True, False, now))
            self._held.clear()
        await self.settle(once_more=True)

    def _proof(self, lease: RedisLease) -> tuple[bytes, int]:
        return lease.token, self._milliseconds

    def _keys(self, name: bytes) -> list[bytes]:
        return [lease_key(self._namespace, name), waiters_key(self._namespace, name)]

    # -- waiting -------------------------------------------------------------------------------

    def wake(self, name: bytes) -> None:
        """The lease of the key with this digest was released; with a ``!`` after it, as free."""
        waiters = self._pulses.get(name[:_NAME])
        if waiters is not None:
            waiters.free = len(name) > _NAME
            waiters.pulse.beat()

    @property
    def waiting(self) -> int:
        """How many keys somebody here waits for."""
        return len(self._pulses)

    def _enter(self, name: bytes) -> _Waiters:
        fresh = _Waiters(self._runtime)
        with self._lock:
            waiters = self._pulses.setdefault(name, fresh)
            waiters.number += 1
        return waiters

    def _exit(self, name: bytes, waiters: _Waiters) -> None:
        with self._lock:
            waiters.number -= 1
            if not waiters.number and self._pulses.get(name) is waiters:
                del self._pulses[name]


def _keep(kept: dict[bytes, _Release], release: _Release) -> None:
    kept[release.token] = release
    if len(kept) > _OWED:
        del kept[next(iter(kept))]


def _token(note: str) -> bytes:
    """Unique, and never taken for a tombstone (see `scripts`): its first byte is not ASCII."""
    random = os.urandom(_RANDOM)
    return bytes((random[0] | 0x80,)) + random[1:] + note.encode("ascii")[:_NOTE]


class _Waiters:
    """Those who wait for one key."""

    __slots__ = ("free", "number", "pulse")

    def __init__(self, runtime: Any) -> None:
        self.pulse: Final = Pulse(runtime)
        self.number = 0
        self.free = False  # how the last release that was heard of was meant
