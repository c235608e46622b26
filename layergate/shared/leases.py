"""Leases: the fleet-wide right to fetch one key (G2).

`SharedLeases` is `layergate.core.shared.Leases` on any `LeaseStore`. A lease belongs to a token and runs
out after ``term`` seconds unless it is renewed; so a holder that dies is replaced within one term. A
lease that was released leaves a trace for one more term. From it the next holder learns that another
one was there a moment ago, and looks into the layers again. And a holder that stood still and lost the
lease learns that its fetch is the older one (the *fence*, `FencingLeaseStore`).

An instance that finds a lease taken registers as a waiter. A release sends each waiter a message. A
message may be lost, and some systems have none, so a waiting call also looks again from time to time
(`layergate.core.backoff`).

Releases that fail are queued: see `layergate.shared.releases`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from layergate.core.backoff import Backoff
from layergate.core.layer import Key
from layergate.core.shared import Joining, Waited
from layergate.errors import LayerUnavailable
from layergate.shared.heartbeat import Heartbeat
from layergate.shared.journal import Held, LeaseStore, Release, Released, Taken
from layergate.shared.names import digest, lease_name
from layergate.shared.ports import answered
from layergate.shared.releases import Releases
from layergate.shared.waiters import Waiters, WaitingCalls

__all__ = ["SharedLease", "SharedLeases"]

_BATCH: Final = 256  # leases renewed at once
_CERTAIN: Final = 0.8  # of a term, even if the clock of the system is somewhat faster than ours
_RANDOM: Final = 16  # bytes of a token
_NOTE: Final = 64  # characters


class SharedLease:
    """`layergate.core.shared.Lease`."""

    __slots__ = ("__weakref__", "_leases", "lost", "name", "recent", "released", "token", "until")

    def __init__(self, leases: SharedLeases, name: str, token: bytes) -> None:
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
        """See `Lease.confirm`. Asks the system only if it may have run out since it was renewed."""
        return not self.lost and await self._leases.confirmed(self)

    async def release(self, *, free: bool = False) -> None:
        """See `Lease.release`."""
        if not self.released:
            self.released = True
            await self._leases.give_back(self, free=free)


class _Holding(NamedTuple):
    """A lease that was granted and not given back yet. The token outlives the lease object."""

    lease: weakref.ref[SharedLease]
    token: bytes


class SharedLeases:
    """`layergate.core.shared.Leases` on a `LeaseStore`.

    ``namespace``, ``secret``  see `layergate.shared.names`.
    ``term``                   seconds that a lease lasts without being renewed.
    ``backoff``                how often a waiting call looks again.
    ``heartbeat``              renews what is held, and listens.
    """

    def __init__(
        self,
        store: LeaseStore,
        joining: Joining,
        *,
        namespace: str,
        secret: bytes = b"",
        term: float,
        backoff: Backoff,
        heartbeat: Heartbeat,
    ) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._namespace = namespace
        self._secret = secret
        self.term: Final = term
        self._backoff = backoff
        heartbeat.leases = self
        self._begin()

    def _begin(self) -> None:
        self._lock = self._runtime.lock()
        self._held: dict[str, _Holding] = {}
        self._releases = Releases(self._store, self._runtime, self.term)
        self._waiters = Waiters(self._runtime)

    def forked(self) -> None:
        """In the child of a fork nothing is held, and no call waits."""
        self._store.forked()
        self._begin()

    def name(self, key: Key) -> str:
        """What the lease of ``key`` is called in the shared system."""
        return lease_name(self._namespace, digest(key, self._secret))

    # -- taking --------------------------------------------------------------------------------

    async def acquire(
        self,
        key: Key,
        *,
        wait: float,
        note: str = "",
        held: Callable[[str], object] | None = None,
    ) -> SharedLease | Waited:
        """See `Leases.acquire`."""
        until = self._runtime.monotonic() + wait
        name = self.name(key)
        own = self._held.get(name)
        if own is not None and own.lease() is None:
            # Its holder in this process has forgotten it (its loop has ended): do not wait for that.
            self._forget(name, own)
            await self._releases.send()
        if wait <= 0:
            taken = await self._try(name, b"", note)
            return taken if isinstance(taken, SharedLease) else Waited.TIMEOUT
        # Only an instance that listens can get a message.
        self._heartbeat.ensure()
        calls = self._waiters.enter(name)
        try:
            # Before any other instance can know that this one waits: so no message is missed.
            seen = calls.pulse.version
            taken = await self._try(name, self._heartbeat.instance, note)
            if isinstance(taken, SharedLease):
                return taken
            self._counters.on("lease_wait", key=key)
            if held is not None:
                held(taken.token[_RANDOM:].decode("ascii", "replace"))
            return await self._wait(name, calls, seen, taken, until)
        finally:
            self._waiters.exit(name, calls)

    async def _try(self, name: str, waiter: bytes, note: str) -> SharedLease | Held:
        token = _token(note)
        lease = SharedLease(self, name, token)
        sent = self._runtime.monotonic()
        try:
            answer: Taken | Held = await answered(
                self._store.acquire(name, token, self.term, waiter)
            )
        except LayerUnavailable:
            raise  # nothing was asked
        except BaseException:
            # Cut off or cancelled: it may have been granted, to nobody.
            self._spawn(self.give_back(lease, granted=False))
            raise
        if self._releases.waiting:  # the system answers again
            self._spawn(self._releases.send())
        if isinstance(answer, Held):
            return answer
        lease.recent = answer.recent
        lease.until = sent + self.term * _CERTAIN
        with self._lock:
            self._held[name] = _Holding(weakref.ref(lease), token)
        return lease

    async def _wait(
        self, name: str, calls: WaitingCalls, seen: int, holder: Held, until: float
    ) -> Waited:
        left = holder.left
        delays = self._backoff.delays(self._runtime.random)
        while True:
            now = self._runtime.monotonic()
            if now >= until:
                return Waited.TIMEOUT
            # It cannot end later than it runs out, unless it is renewed.
            pause = min(next(delays), left + 0.001, until - now)
            if await calls.pulse.wait(seen, pause):
                return Waited.FREE if calls.free else Waited.LANDED
            if self._runtime.monotonic() >= until:
                return Waited.TIMEOUT
            observed = await answered(
                self._store.look(name, holder.token, self.term, self._heartbeat.instance)
            )
            if observed.left is None:
                return Waited.FREE if observed.free else Waited.LANDED
            left = observed.left

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self._runtime.spawn(work, name="layergate release")
        except RuntimeError:
            work.close()  # the process ends: the lease runs out

    # -- holding -------------------------------------------------------------------------------

    def now(self) -> float:
        return self._runtime.monotonic()

    @property
    def holding(self) -> bool:
        """True if there may be a lease to renew."""
        return bool(self._held)

    def token_of(self, key: Key) -> tuple[str, bytes] | None:
        """Name and token of the lease of ``key`` that this instance holds, or held until it was lost;
        None if there is none. A write of that key has to show them (`FencingLeaseStore`)."""
        if not self._held:
            return None
        name = self.name(key)
        held = self._held.get(name)
        return None if held is None or held.lease() is None else (name, held.token)

    async def renew(self) -> None:
        """Renew all leases that are held and alive. Raises what the store raises."""
        leases = self._alive()
        for start in range(0, len(leases), _BATCH):
            await self._renew(leases[start : start + _BATCH])

    async def _renew(self, leases: list[SharedLease]) -> list[bool]:
        """For each, whether it is still held here. Raises the first fault that hides an answer."""
        sent = self._runtime.monotonic()
        answers = await answered(
            self._store.renew([(one.name, one.token) for one in leases], self.term)
        )
        fault = None
        for lease, answer in zip(leases, answers, strict=True):
            if isinstance(answer, Exception):
                fault = fault or answer
            elif answer:
                lease.until = max(lease.until, sent + self.term * _CERTAIN)
            elif not lease.released and not lease.lost:
                lease.lost = True
                self._counters.on("lease_lost")
        if fault is not None:
            raise fault
        return [bool(answer) for answer in answers]

    def _alive(self) -> list[SharedLease]:
        found = []
        with self._lock:
            holdings = list(self._held.items())
        for name, held in holdings:
            lease = held.lease()
            if lease is None:
                self._forget(name, held)
            elif not (lease.lost or lease.released):
                found.append(lease)
        return found

    def _forget(self, name: str, held: _Holding) -> None:
        """The lease object is gone: give the lease back."""
        with self._lock:
            if self._held.get(name) is not held:
                return
            del self._held[name]
        self._releases.queue(Release(name, held.token, True, False))

    async def confirmed(self, lease: SharedLease) -> bool:
        """See `Lease.confirm`. Never raises."""
        if self._runtime.monotonic() < lease.until:
            return True
        try:
            (held,) = await self._renew([lease])
            return held
        except Exception:
            return True  # if the system is back by then, the fence decides

    # -- giving back ---------------------------------------------------------------------------

    async def give_back(
        self, lease: SharedLease, *, granted: bool = True, free: bool = False
    ) -> None:
        """Release it in the shared system; later, if that fails now. Never raises an Exception.

        ``granted``, ``free``: see `Release`.
        """
        try:
            await self._releases.send_now(Release(lease.name, lease.token, granted, free))
        except Exception as error:
            self._counters.on("layer_error", layer="shared", operation="release", error=error)
        finally:
            with self._lock:
                held = self._held.get(lease.name)
                if held is not None and held.token == lease.token:
                    del self._held[lease.name]

    @property
    def pending_releases(self) -> int:
        """How many releases have to be sent, or sent once more."""
        return len(self._releases)

    async def send_releases(self, *, once_more: bool = False) -> None:
        """See `Releases.send`."""
        await self._releases.send(once_more=once_more)

    async def leave(self) -> None:
        """See `Leases.leave`."""
        with self._lock:
            held, self._held = self._held, {}
        for name, one in held.items():
            lease = one.lease()
            if lease is not None:
                lease.released = True
            self._releases.queue(Release(name, one.token, True, False))
        await self._releases.send(once_more=True)

    # -- waiting -------------------------------------------------------------------------------

    def wake(self, news: Released) -> None:
        """A lease was released: wake the calls that wait for it."""
        self._waiters.wake(news.name, free=news.free)

    @property
    def waiting(self) -> int:
        """How many keys are waited for in this process."""
        return len(self._waiters)


def _token(note: str) -> bytes:
    """Unique. The first byte is above 127, so a store can mark what is no token with ASCII. The note
    stands at the end, and thus costs no round trip."""
    random = os.urandom(_RANDOM)
    return bytes((random[0] | 0x80,)) + random[1:] + note.encode("ascii")[:_NOTE]
