"""Until when an instance relies on the purges that it knows, and how long requests wait for that.

`Trust` is the base of `SharedLog`. It holds the one attribute that the hit path reads. `Patience` decides
whether a request waits for trust, so that a shared system that does not answer is paid for by few requests
(G5). Neither does I/O.
"""

from __future__ import annotations

from typing import Final

__all__ = ["NEVER", "Patience", "Trust"]

NEVER: Final = float("-inf")
_PAUSE: Final = 0.25  # seconds


class Trust:
    """The base of a log."""

    def __init__(self) -> None:
        # See `Log.trusted_until`. A plain attribute, because each hit reads it.
        self.trusted_until = NEVER
        # How often this instance has left. A call that was sent before it left founds no trust.
        self.departures = 0

    def trust(self, until: float, departures: int) -> bool:
        """Rely on what is known until this monotonic time. False, and nothing happens, if this
        instance has left since ``departures`` was read."""
        if departures != self.departures:
            return False
        self.trusted_until = max(self.trusted_until, until)
        return True

    def depart(self) -> None:
        """Do not rely on it any more, whatever is still under way."""
        self.departures += 1
        self.trusted_until = NEVER


class Patience:
    """How long requests wait for trust.

    ``first``  seconds that the first requests of a process wait, all of them together. A process that
               has just started must connect first; its first requests come all at once, and each one
               that did not wait would fetch (G2).
    """

    def __init__(self, first: float = 0.0) -> None:
        self._first = first
        self._joined = False
        self._join_by: float | None = None  # None: no request has come yet
        self._hopeless_until = NEVER

    def request(self, now: float) -> None:
        """A request wants trust."""
        if self._join_by is None:
            self._join_by = now + self._first

    def left(self, now: float) -> float:
        """For how many seconds more the first requests wait; 0 or less: not at all."""
        if self._joined or self._join_by is None:
            return 0.0
        return self._join_by - now

    def joined(self) -> None:
        """This process is trusted: from now on no request waits for the first time."""
        self._joined = True

    def left_the_fleet(self) -> None:
        """Wait for the next join as for the first. (Not if the first never succeeded: a system that
        was not there is not waited for twice.)"""
        if self._joined:
            self._joined, self._join_by = False, None

    def hopeless(self, now: float) -> bool:
        """True shortly after a failure: asking again would fail again, and each request would pay."""
        return now < self._hopeless_until

    def failed(self, now: float, pause: float = _PAUSE) -> None:
        """Asking failed: requests do not ask again for ``pause`` seconds, or 0.25 if that is less."""
        self._hopeless_until = now + min(_PAUSE, pause)

    def succeeded(self) -> None:
        self._hopeless_until = NEVER
