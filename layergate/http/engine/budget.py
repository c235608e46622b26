"""What the fetches of one process may take together: bytes of bodies, waiting requests, refreshes.

The engine asks before it takes more, and the caps come from `Settings`. Admission to the *store* is
another matter; see `admission`.
"""

from __future__ import annotations

from typing import Protocol

from layergate.core.ports import Runtime

__all__ = ["Budget", "Holder"]


class Holder(Protocol):
    """A fetch that holds bytes of the budget."""

    @property
    def held_up(self) -> bool:
        """True if its own client has held up the fetch for longer than others should wait."""
        ...

    def surrender(self) -> None:
        """Give up storing the body, and with it the bytes. Called from any thread."""
        ...


class Budget:
    """``inflight``: bytes of bodies that are being received to be stored. ``waiters``: requests that
    wait for, or read along with, another request's fetch. ``refreshing``: background refreshes.
    ``lock``: of all these counts."""

    __slots__ = ("_holders", "inflight", "lock", "refreshing", "waiters")

    def __init__(self, runtime: Runtime) -> None:
        self.forked(runtime)

    def forked(self, runtime: Runtime) -> None:
        """Start from nothing. In the child of a fork, what was under way belongs to threads of the
        parent, and so may the lock."""
        self.lock = runtime.lock()  # ``+=`` loses counts under threads
        self._holders: set[Holder] = set()
        self.inflight = self.waiters = self.refreshing = 0

    def take(self, size: int, cap: int, holder: Holder | None = None) -> bool:
        """Reserve ``size`` bytes. False if that makes more than ``cap``, even without the bytes that
        bodies hold whose own clients take nothing."""
        if self._take(size, cap, holder):
            return True
        for other in list(self._holders):
            if other is not holder and other.held_up:
                other.surrender()
        return self._take(size, cap, holder)

    def _take(self, size: int, cap: int, holder: Holder | None) -> bool:
        with self.lock:
            if self.inflight + size > cap:
                return False
            self.inflight += size
            if holder is not None:
                self._holders.add(holder)
        return True

    def give(self, size: int, holder: Holder | None = None) -> None:
        """Return ``size`` bytes, which are all that ``holder`` has."""
        with self.lock:
            self.inflight -= size
            if holder is not None:
                self._holders.discard(holder)

    def count_waiter(self, change: int) -> None:
        """One waiting request more (1) or less (-1)."""
        with self.lock:
            self.waiters += change

    def count_refresh(self, change: int) -> None:
        """One background refresh more (1) or less (-1)."""
        with self.lock:
            self.refreshing += change
