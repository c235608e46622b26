"""In-process single-flight: which fetch of a key is under way, and how waiting requests are
woken."""

from __future__ import annotations

from typing import Generic, TypeVar

from layergate.core.layer import Key
from layergate.core.ports import Event, Runtime

__all__ = ["Flights", "Pulse"]


class Pulse:
    """Wakes all tasks or threads that wait for "something changed".

    A waiter passes the ``version`` that it has seen, so a change between looking and waiting is
    never missed. A waiter that is cancelled or times out leaves nothing behind.
    """

    __slots__ = ("_lock", "_runtime", "_waiters", "version")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._waiters: set[Event] = set()
        self.version = 0

    def beat(self) -> None:
        """Something changed: wake all waiters."""
        with self._lock:
            self.version += 1
            waiters, self._waiters = self._waiters, set()
        for event in waiters:
            event.set()

    async def wait(self, seen: int, timeout: float | None = None) -> bool:
        """Wait until ``version`` differs from ``seen``, then return True; False after
        ``timeout`` seconds (None: no limit)."""
        if self.version != seen:
            return True
        # Made outside the lock: a runtime may clean up ended work in `event`, which may call
        # `beat`.
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
    """The flights under way, at most one for each key."""

    __slots__ = ("_flights", "_lock")

    def __init__(self, runtime: Runtime) -> None:
        self._flights: dict[Key, F] = {}
        self._lock = runtime.lock()

    def get(self, key: Key) -> F | None:
        return self._flights.get(key)

    def lead(self, key: Key, flight: F, *, instead_of: F | None = None) -> F:
        """Make ``flight`` the flight of the key and return it; or return the flight that is already
        there.

        A flight that is there is replaced only if it is ``instead_of``.
        """
        with self._lock:
            present = self._flights.get(key)
            if present is None or present is instead_of:
                self._flights[key] = flight
                return flight
            return present

    def land(self, key: Key, flight: F) -> None:
        """Remove the flight, if it is still the flight of the key."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def __len__(self) -> int:
        return len(self._flights)
