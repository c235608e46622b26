"""Calls of this process that wait for a lease of another instance.

`SharedLeases` enters a call here before it asks for the lease, so that no message about its release is
missed. The heartbeat wakes all calls that wait for one lease.
"""

from __future__ import annotations

from typing import Final

from layergate.core.flight import Pulse
from layergate.core.ports import Runtime

__all__ = ["Waiters", "WaitingCalls"]


class WaitingCalls:
    """The calls that wait for one lease."""

    __slots__ = ("free", "number", "pulse")

    def __init__(self, runtime: Runtime) -> None:
        self.pulse: Final = Pulse(runtime)
        self.number = 0
        # How the last release was meant that a message told of: see `Release.free`.
        self.free = False


class Waiters:
    """The waiting calls of this process, by the name of the lease."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._calls: dict[str, WaitingCalls] = {}

    def __len__(self) -> int:
        """How many leases are waited for."""
        return len(self._calls)

    def enter(self, name: str) -> WaitingCalls:
        fresh = WaitingCalls(self._runtime)
        with self._lock:
            calls = self._calls.setdefault(name, fresh)
            calls.number += 1
        return calls

    def exit(self, name: str, calls: WaitingCalls) -> None:
        with self._lock:
            calls.number -= 1
            if not calls.number and self._calls.get(name) is calls:
                del self._calls[name]

    def wake(self, name: str, *, free: bool) -> None:
        calls = self._calls.get(name)
        if calls is not None:
            calls.free = free
            calls.pulse.beat()
