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
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Final

from layergate.core.fleet import Joining, Waited
from layergate.core.flight import Pulse
from layergate.core.layer import Key
from layergate.core.lease import Waiting
from layergate.errors import LayerUnavailable
from layergate.layers.redis.companion import Companion
from layergate.layers.redis.keys import digest, lease_key, waiters_key
from layergate.layers.redis.scripts import ACQUIRE, LOOK, RELEASE, RENEW
from layergate.layers.redis.server import Server

__all__ = ["RedisLease", "RedisLeases"]

_FREE: Final = -2  # what LOOK says
_NAME: Final = 40  # length of a digest
_BATCH: Final = 256  # leases renewed in one round trip
_RANDOM: Final = 16  # bytes of a token
_NOTE: Final = 64  # characters


class RedisLease:
    """`layergate.core.fleet.Lease`."""

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

    async def confirm(self) -> bool:
        """See `Lease.confirm`. Asks Redis only if it may have run out since it was renewed."""
        return not self.lost and await self._leases.confirmed(self)

    async def release(self, *, free: bool = False) -> None:
        """See `Lease.release`."""
        if not self.released:
            self.released = True
            await self._leases.give_back(self, free=free)


class RedisLeases:
    """`layergate.core.fleet.Leases` on one Redis.

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
        self._held: dict[bytes, weakref.ref[RedisLease]] = {}
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
        if not granted:
            return holder, max(0, detail) / 1000
        lease.recent = bool(detail)
        lease.until = sent + self._sure
        with self._lock:
            self._held[name] = weakref.ref(lease)
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
        work = self.give_back(lease, granted=False)
        try:
            self._runtime.spawn(work, name="layergate release")
        except RuntimeError:
            work.close()  # the process ends: the lease runs out

    # -- holding -------------------------------------------------------------------------------

    @property
    def holding(self) -> bool:
        """Is there anything to renew?"""
        return bool(self._held)

    def token_of(self, key: Key) -> bytes | None:
        """The token of the lease of ``key`` that this instance holds, or held until it was lost;
        None when there is none. It is what a write of that key has to show."""
        reference = self._held.get(digest(key, self._secret)) if self._held else None
        lease = None if reference is None else reference()
        return None if lease is None else lease.token

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
        with self._lock:
            for name in [name for name, reference in self._held.items() if reference() is None]:
                del self._held[name]
            found = [reference() for reference in self._held.values()]
        return [one for one in found if one is not None and not (one.lost or one.released)]

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

    async def give_back(
        self, lease: RedisLease, *, granted: bool = True, free: bool = False
    ) -> None:
        """Release it in Redis, whether or not it was ever ``granted``. Never raises."""
        try:
            await self._server.run(
                RELEASE,
                self._keys(lease.name),
                [
                    *self._proof(lease),
                    self._companion.channels,
                    lease.name + b"!" if free else lease.name,
                    b"" if granted else b"1",
                    b"1" if free else b"",
                ],
            )
        except Exception as error:
            self._counters.on("layer_error", layer="shared", operation="release", error=error)
        finally:
            with self._lock:
                reference = self._held.get(lease.name)
                if reference is not None and reference() is lease:
                    del self._held[lease.name]

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
