"""In-process single-flight: who leads the fetch of a key, and how the others are woken."""

from __future__ import annotations

from typing import Generic, TypeVar

from layergate.core.layer import Key
from layergate.core.ports import Event, Runtime

__all__ = ["Flights", "Pulse"]


class Pulse:
    """Wakes everyone who waits for "something changed".

    A waiter passes the ``version`` it has seen, so a change between looking and waiting is never
    missed. A waiter that is cancelled or times out leaves nothing behind.
    """

    __slots__ = ("_lock", "_runtime", "_waiters", "version")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._waiters: set[Event] = set()
        self.version = 0

    def beat(self) -> None:
        """Something changed: wake all who wait."""
        with self._lock:
            self.version += 1
            waiters, self._waiters = self._waiters, set()
        for event in waiters:
            event.set()

    async def wait(self, seen: int, timeout: float | None = None) -> bool:
        """Return True when ``version`` differs from ``seen``; False after ``timeout`` seconds."""
        if self.version != seen:
            return True
        # Made outside the lock: a runtime may use the occasion to end dead work, which may beat us.
        event = self._runtime.event()
        with self._lock:
            if self.version != seen:
                return True
            self._waiters.add(event)
        try:
            return await event.wait(timeout)
        finally:
            with self._lock:
                self._waiters.discard(event)

    @property
    def waiting(self) -> int:
        return len(self._waiters)


F = TypeVar("F")


class Flights(Generic[F]):
    """The flights under way, at most one per key."""

    __slots__ = ("_flights", "_lock")

    def __init__(self, runtime: Runtime) -> None:
        self._flights: dict[Key, F] = {}
        self._lock = runtime.lock()

    def get(self, key: Key) -> F | None:
        return self._flights.get(key)

    def lead(self, key: Key, flight: F, *, instead_of: F | None = None) -> F:
        """Make ``flight`` the key's flight and return it; or return the one that is there.

        One that is there gives way only if it is ``instead_of``.
        """
        with self._lock:
            present = self._flights.get(key)
            if present is None or present is instead_of:
                self._flights[key] = flight
                return flight
            return present

    def land(self, key: Key, flight: F) -> None:
        """Take the flight off the table, if it is still the key's flight."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def __len__(self) -> int:
        return len(self._flights)
