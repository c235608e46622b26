"""One at a time: calls that all want the same result share one piece of work.

`SharedLog.sync` uses it. Many requests may find at once that trust has lapsed; one of them asks the
journal, and the others take its result. Works across threads and event loops of one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from layergate.core.flight import Pulse
from layergate.core.ports import Runtime

__all__ = ["Turns"]

_STUCK: Final = 10.0  # seconds after which a turn that does not end is not waited for


class Turns:
    """Numbered turns. A turn ends well, fails (whoever waits learns only that it ended), or is
    cancelled (then a waiting call takes the next turn)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._pulse = Pulse(runtime)
        self.begun = 0  # how many turns have begun
        self._ended = 0  # the last one that ended and was not cancelled
        self._good = 0  # the last one whose work returned True
        self._under_way = 0  # the number of the turn, or 0

    async def take(
        self, work: Callable[[], Awaitable[bool]], *, fresh: bool, patience: float | None
    ) -> bool:
        """The result of ``work``, done here or by another call meanwhile.

        ``fresh``: take only the result of a turn that begins after this call. ``patience``: seconds
        to wait for others; False when they are over. Raises what ``work`` raises, if it runs here.
        """
        with self._lock:
            wanted = self.begun + (1 if fresh or not self._under_way else 0)
        until = None if patience is None else self._runtime.monotonic() + patience
        while True:
            seen = self._pulse.version
            with self._lock:
                if self._ended >= wanted:
                    return self._good >= wanted
                under_way = self._under_way
                if not under_way:
                    self.begun += 1
                    number = self._under_way = self.begun
                    break
            left = _STUCK if until is None else until - self._runtime.monotonic()
            if left <= 0:
                return False
            if not await self._pulse.wait(seen, left) and until is None:
                # Its loop was closed over it. (If not, two at once do no harm.)
                with self._lock:
                    if self._under_way == under_way:
                        self._under_way = 0
        return await self._turn(number, work)

    async def _turn(self, number: int, work: Callable[[], Awaitable[bool]]) -> bool:
        good, ended = False, True
        try:
            good = await work()
        except Exception:
            raise
        except BaseException:
            ended = False  # it was cancelled: that says nothing, so another call has to try
            raise
        finally:
            with self._lock:
                if self._under_way == number:
                    self._under_way = 0
                if ended:
                    self._ended = max(self._ended, number)
                if good:
                    self._good = max(self._good, number)
            self._pulse.beat()
        return good

    async def idle(self, seconds: float) -> None:
        """Wait until no turn is under way, at most so many seconds."""
        deadline = self._runtime.monotonic() + seconds
        while True:
            seen = self._pulse.version
            left = deadline - self._runtime.monotonic()
            if not self._under_way or left <= 0 or not await self._pulse.wait(seen, left):
                return

    @property
    def waiting(self) -> int:
        """How many calls wait for a turn of another one."""
        return self._pulse.waiting
