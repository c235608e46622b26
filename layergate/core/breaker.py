"""A circuit breaker: a system that fails again and again is not called for a while.

    closed ──(so many failures in a row)──> open ──(retry time)──> half-open ──(success)──> closed
                                             ^────────(failure)────────┘

While it is open, no request waits for the failing system. When the retry time has come, one call is
let through as a probe. No other call is, until the probe has an outcome or another retry interval
has passed, because a probe may be cancelled and then never reports.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, TypeAlias

__all__ = ["Breaker", "State"]

State: TypeAlias = Literal["closed", "half-open", "open"]

_NUMBERS: Final[dict[State, int]] = {"closed": 0, "half-open": 1, "open": 2}
_GROWTH: Final = 2.0
_JITTER: Final = (
    0.25  # share of the interval added at random, so that instances do not probe in step
)


class Breaker:
    """Counts outcomes, and decides which calls may be made.

    Call `enter` before a call, then `succeeded` or `failed` with the ticket that it returned.
    Outcomes of calls that began before the breaker last opened or closed are ignored. So when a
    system dies with a thousand calls in flight, the first few failures open the breaker, and the
    others neither prolong the retry interval nor open it again after it has recovered.

    ``clock``     monotonic seconds.
    ``random``    uniform in [0, 1).
    ``lock``      held for a few instructions, never across an await.
    ``failures``  how many in a row open the breaker.
    ``retry``     seconds until the first probe. Each probe that fails doubles them, up to ``cap``.
    ``changed``   called with (state before, state now), after the change and without the lock.
    ``opened``    how often the breaker went from closed to open.
    """

    __slots__ = (
        "_cap",
        "_changed",
        "_clock",
        "_era",
        "_failed",
        "_failures",
        "_interval",
        "_lock",
        "_random",
        "_retry",
        "_retry_at",
        "_state",
        "opened",
    )

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        lock: AbstractContextManager[Any],
        failures: int = 3,
        retry: float = 2.0,
        cap: float = 30.0,
        changed: Callable[[State, State], object] | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._lock = lock
        self._failures = failures
        self._retry = retry
        self._cap = max(retry, cap)
        self._changed = changed
        self._state: State = "closed"
        self._failed = 0  # failures in a row
        self._interval = retry
        self._retry_at = 0.0
        # Counts openings and closings. A ticket is the era in which it was given.
        self._era = 0
        self.opened = 0  # how often it went from closed to open

    @property
    def state(self) -> State:
        return self._state

    @property
    def number(self) -> int:
        """The state as a number for metrics: 0 closed, 1 half-open, 2 open."""
        return _NUMBERS[self._state]

    def enter(self, *, probe: bool = False) -> int | None:
        """A ticket for one call; None if the system must not be called now.

        ``probe``: the call is let through in any state. The caller limits how often it probes.
        """
        if self._state == "closed":
            return self._era
        with self._lock:
            if self.state == "closed":  # it closed meanwhile
                return self._era
            now = self._clock()
            if not probe and now < self._retry_at:
                return None
            was = self._state
            self._state = "half-open"
            self._retry_at = now + self._pause()
            era = self._era
        if was != "half-open":
            self._tell(was, "half-open")
        return era

    def succeeded(self, ticket: int) -> None:
        """The system answered the call, even if only to refuse it."""
        if not self._failed and self._state == "closed":
            return
        with self._lock:
            if ticket != self._era:
                return
            self._failed = 0
            was = self._state
            if was == "closed":
                return
            self._state = "closed"
            self._interval = self._retry
            self._era += 1
        self._tell(was, "closed")

    def failed(self, ticket: int) -> None:
        """The system did not answer the call, or not in time."""
        with self._lock:
            if ticket != self._era:
                return
            was = self._state
            if was == "open":
                return  # the outcome of a probe that was given up
            if was == "closed":
                self._failed += 1
                if self._failed < self._failures:
                    return
                self._interval = self._retry
                self._era += 1
                self.opened += 1
            else:
                self._interval = min(self._cap, self._interval * _GROWTH)
            self._state = "open"
            self._retry_at = self._clock() + self._pause()
        self._tell(was, "open")

    def _pause(self) -> float:
        return self._interval * (1.0 + _JITTER * self._random())

    def _tell(self, was: State, now: State) -> None:
        if self._changed is not None:
            self._changed(was, now)
