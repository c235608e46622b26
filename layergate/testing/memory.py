"""A shared system in memory: the ports, for tests.

`MemorySystem` stands for the server. Several clients in one process share it: each has its own
`MemoryBlobs`, `MemoryJournal` and `MemoryLeaseStore`. It shows how little the ports ask for, and the
conformance suites run against it, so that they are tested where no server is needed. It shares nothing
between processes, so it is of no use outside of tests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Unpack

from layergate.core.ports import Event, Runtime
from layergate.core.shared import Joining
from layergate.shared.guard import Guard
from layergate.shared.journal import (
    Addition,
    Appended,
    End,
    Founding,
    Grew,
    Held,
    News,
    Observed,
    Place,
    Record,
    Release,
    Released,
    Reply,
    Status,
    Taken,
    Terms,
    chained,
)
from layergate.shared.layer import System, SystemLayer, SystemOptions
from layergate.shared.ports import Limits
from layergate.testing.memory_members import Members

__all__ = ["MemoryBlobs", "MemoryJournal", "MemoryLayer", "MemoryLeaseStore", "MemorySystem"]

_LIMIT = 1000  # records in one reply


class _Lease(NamedTuple):
    """``until``: monotonic. ``released``: b"" while it is held, else "done" or "free"."""

    token: bytes
    until: float
    released: str = ""


class MemorySystem:
    """The server. ``trust``: seconds that a member of the log is trusted."""

    def __init__(self, *, trust: float = 5.0, log_length: int = 100_000) -> None:
        self.lock = threading.Lock()
        self.trust = trust
        self.log_length = log_length
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.leases: dict[str, _Lease] = {}
        self.waiters: dict[str, set[bytes]] = {}
        self.listeners: dict[bytes, list[MemorySubscription]] = {}
        self.log: bytes | None = None
        self.seal = b""
        self.last = 0
        self.records: list[Record] = []
        self.repeated: dict[bytes, int] = {}
        self._forget_members()

    def _forget_members(self) -> None:
        self.members: Members[bytes] = Members(time.monotonic, term=self.trust)
        self.joined: set[bytes] = set()
        # By position: how many instances have applied a final purge, of how many.
        self.final: dict[int, tuple[int, int]] = {}
        # Members that are not known any more may be trusted until then: no purge is final before.
        self.settled = time.monotonic() + self.trust

    def found(self, founding: Founding) -> None:
        """Begin a log anew."""
        self.log, self.seal = founding.log, founding.seal
        self.last, self.records, self.repeated = 0, [], {}
        self._forget_members()

    def lose(self) -> None:
        """Lose the log, as a server that was emptied."""
        with self.lock:
            self.log = None
            self._forget_members()

    def saved(self) -> Any:
        """The log as it is now, for `restore`."""
        with self.lock:
            return self.log, self.seal, self.last, list(self.records), dict(self.repeated)

    def restore(self, saved: Any) -> None:
        """Put an old log back, as a failover to a replica that is behind."""
        with self.lock:
            self.log, self.seal, self.last, self.records, self.repeated = saved
            self._forget_members()

    def tell(self, news: News, instances: Sequence[bytes] | None = None) -> None:
        """Send a message; to all instances unless they are named. Under the lock."""
        for instance in list(self.listeners) if instances is None else instances:
            for one in self.listeners.get(instance, ()):
                one.put(news)


class MemorySubscription:
    """`layergate.shared.journal.Subscription`."""

    def __init__(self, system: MemorySystem, instance: bytes, runtime: Runtime) -> None:
        self._system = system
        self._instance = instance
        self._runtime = runtime
        self._news: deque[News] = deque()
        self._event: Event | None = None  # while `next` waits
        with system.lock:
            system.listeners.setdefault(instance, []).append(self)

    def put(self, news: News) -> None:
        self._news.append(news)
        event = self._event
        if event is not None:
            event.set()

    async def next(self, seconds: float) -> News | None:
        if not self._news:
            event = self._event = self._runtime.event()
            if not self._news:
                await event.wait(seconds)
        return self._news.popleft() if self._news else None

    def close(self) -> None:
        with self._system.lock:
            self._system.listeners[self._instance].remove(self)

    def abandon(self) -> None:
        self.close()


class MemoryBlobs:
    """`layergate.shared.ports.Blobs`."""

    limits = Limits()

    def __init__(self, system: MemorySystem, namespace: str) -> None:
        self._system = system
        self._namespace = namespace

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        now = time.monotonic()
        found = [self._system.blobs.get(name) for name in names]
        return [None if one is None or one[1] <= now else one[0] for one in found]

    def set(self, name: str, data: bytes, seconds: float) -> None:
        self._system.blobs[name] = data, time.monotonic() + seconds

    def delete(self, name: str) -> bool:
        return self._system.blobs.pop(name, None) is not None

    def clear(self) -> None:
        for name in list(self._system.blobs):
            if name.startswith(self._namespace + ":"):
                self._system.blobs.pop(name, None)


class MemoryJournal:
    """`layergate.shared.journal.Journal`."""

    def __init__(self, system: MemorySystem, runtime: Runtime) -> None:
        self._system = system
        self._runtime = runtime

    @property
    def identity(self) -> Hashable:
        return id(self._system)

    @property
    def terms(self) -> Terms:
        trust = self._system.trust
        return Terms(trust, heartbeat=trust / 4, finality=trust)

    def sync(self, place: Place, *, probe: bool = False) -> Reply:  # noqa: ARG002 - no breaker here
        with self._system.lock:
            return self._reply(place, self._enter(place))

    def append(
        self,
        place: Place,
        additions: Sequence[Addition],
        *,
        probe: bool = False,  # noqa: ARG002 - no breaker here
    ) -> Reply:
        system = self._system
        with system.lock:
            same = self._enter(place)
            if not same:
                return self._reply(place, same)
            for one in additions:
                position = system.repeated.get(one.again, 0) if one.again else 0
                if not position:
                    position = self._add(place.instance, one)
                if one.again:
                    system.repeated[one.again] = position
            record = next(one for one in system.records if one.position == position)
            return self._reply(place, same)._replace(appended=position, tip=record.tip)

    def _add(self, instance: bytes, addition: Addition) -> int:
        system = self._system
        before, tip = system.last, system.records[-1].tip if system.records else b""
        position = system.last = before + 1
        tip = chained(tip, addition.nonce, addition.data)
        system.records.append(Record(position, before, tip, addition.data, addition.nonce))
        del system.records[: -system.log_length]
        system.members.append(instance, position)
        assert system.log is not None
        system.tell(Grew(system.log, position))
        return position

    def status(self, place: Place, record: Appended) -> Status:
        system = self._system
        with system.lock:
            same = self._enter(place)
            assert system.log is not None
            there = same and any(
                (one.position, one.tip) == (record.position, record.tip) for one in system.records
            )
            if not there or system.log != record.log:
                return Status(system.log, False, 1, 1, False)
            self._acknowledge(place)
            for done in system.members.settled():
                system.final[done.position] = done.applied, done.instances
            reach = system.final.get(record.position)
            applied, instances = reach or system.members.reach(record.position)
            final = reach is not None and time.monotonic() >= system.settled
            return Status(system.log, True, instances, applied, final)

    def leave(self, place: Place) -> None:
        system = self._system
        with system.lock:
            system.members.leave(place.instance)
            system.joined.discard(place.instance)

    def end(self) -> End | None:
        log = self._system.log
        return None if log is None else End(log, self._system.last)

    def subscribe(self, instance: bytes, *, probe: bool = False) -> MemorySubscription:  # noqa: ARG002
        return MemorySubscription(self._system, instance, self._runtime)

    def forked(self) -> None: ...

    def _enter(self, place: Place) -> bool:
        """Found the log if there is none that may go on. True if the caller follows the log."""
        system = self._system
        log = system.log
        if log is not None and place.log == log:
            tips = {one.position: one.tip for one in system.records}
            ahead = place.position > system.last
            other = place.tip and tips.get(place.position, place.tip) != place.tip
            if ahead or other:
                log = None
        if log is None or log == place.founding.refused:
            system.found(place.founding)
        return place.log == system.log

    def _acknowledge(self, place: Place) -> None:
        self._system.members.applied(place.instance, place.position)

    def _reply(self, place: Place, same: bool) -> Reply:
        system = self._system
        if same:
            self._acknowledge(place)
        start = place.position if same else 0
        records = [one for one in system.records if one.position > start]
        complete = len(records) <= _LIMIT
        member = bool(place.member and place.instance and complete)
        if member:
            if place.instance not in system.joined:
                system.joined.add(place.instance)
                system.members.join(place.instance)
            system.members.grant(place.instance)
        trusted_for = system.trust if member else 0.0
        assert system.log is not None
        return Reply(
            system.log, system.seal, system.last, records[:_LIMIT], complete, member, trusted_for
        )


class MemoryLeaseStore:
    """`layergate.shared.journal.FencingLeaseStore`."""

    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def _there(self, name: str) -> _Lease | None:
        lease = self._system.leases.get(name)
        if lease is None or lease.until <= time.monotonic():
            return None
        return lease

    def _wait(self, name: str, waiter: bytes) -> None:
        if waiter:
            self._system.waiters.setdefault(name, set()).add(waiter)

    def acquire(self, name: str, token: bytes, term: float, waiter: bytes) -> Taken | Held:
        with self._system.lock:
            lease = self._there(name)
            if lease is not None and lease.token != token and not lease.released:
                self._wait(name, waiter)
                return Held(lease.token, lease.until - time.monotonic())
            if lease is not None and lease.token == token and lease.released:
                return Held(token, 0.0)  # the release has overtaken this request
            self._system.leases[name] = _Lease(token, time.monotonic() + term)
            return Taken(recent=lease is not None and lease.token != token)

    def look(self, name: str, holder: bytes, term: float, waiter: bytes) -> Observed:  # noqa: ARG002
        with self._system.lock:
            lease = self._there(name)
            if lease is None or lease.token != holder or lease.released:
                free = lease is not None and lease.token == holder and lease.released == "free"
                return Observed(None, free)
            self._wait(name, waiter)
            return Observed(lease.until - time.monotonic())

    def renew(self, leases: Sequence[tuple[str, bytes]], term: float) -> list[bool]:
        answers = []
        with self._system.lock:
            for name, token in leases:
                lease = self._there(name)
                ours = lease is None or (lease.token == token and not lease.released)
                if ours:
                    self._system.leases[name] = _Lease(token, time.monotonic() + term)
                answers.append(ours)
        return answers

    def release(self, releases: Sequence[Release], term: float) -> list[bool]:
        with self._system.lock:
            return [self._release(one, term) for one in releases]

    def _release(self, release: Release, term: float) -> bool:
        name, system = release.name, self._system
        lease = self._there(name)
        ours = lease is not None and lease.token == release.token and not lease.released
        held = lease is not None and not lease.released
        trace = _Lease(release.token, time.monotonic() + term, "free" if release.free else "done")
        if not release.granted and not ours:
            if not held:
                system.leases[name] = trace  # it refuses the request that may still come
            return False
        if lease is not None and not ours:
            return False
        system.leases[name] = trace
        system.tell(Released(name, release.free), list(system.waiters.pop(name, ())))
        return True

    def fenced_set(self, name: str, token: bytes, blob: str, data: bytes, seconds: float) -> bool:
        with self._system.lock:
            lease = self._there(name)
            if lease is not None and lease.token != token:
                return False
            self._system.blobs[blob] = data, time.monotonic() + seconds
            return True

    def forked(self) -> None: ...


class MemoryLayer(SystemLayer):
    """The layer on a `MemorySystem`."""

    def __init__(self, system: MemorySystem, **options: Unpack[SystemOptions]) -> None:
        options.setdefault("name", "memory system")
        super().__init__(**options)
        self._system = system

    def open(self, joining: Joining) -> System:
        guard = Guard(
            joining.runtime,
            joining.counters,
            name=self.name,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )
        blobs = MemoryBlobs(self._system, self.namespace)
        leases = MemoryLeaseStore(self._system)
        journal = MemoryJournal(self._system, joining.runtime)
        return System(guard, blobs, journal, leases, fence=leases)
