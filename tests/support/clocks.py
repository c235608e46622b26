"""Time that passes when a test says so.

`Clock` is a time alone, for what is given a function or an object with one. `LoopClock` and
`ThreadClock` are runtimes, on asyncio and with threads, whose wall clock it is; what they wait for takes
real time. With `StillRuntime` timeouts end by it as well. A runtime without any loop is in
`tests.support.steps`.
"""

from __future__ import annotations

from typing import Any, Self

from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime
from tests.support.waiting import turns

__all__ = ["START", "Clock", "LoopClock", "MonotonicStillRuntime", "StillRuntime", "ThreadClock"]

START = 1_700_000_000.0  # seconds since the epoch: Tue, 14 Nov 2023 22:13:20 GMT


class Clock:
    """``time``: seconds, monotonic; the wall clock is ``epoch`` seconds ahead of it."""

    def __init__(self, time: float = START, *, epoch: float = 0.0) -> None:
        self.time = time
        self.epoch = epoch

    def __call__(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.epoch + self.time


class _WallClock:
    """Of a runtime: it stands still until a test moves it, and may be that of others, too."""

    def __init__(self, time: float = START) -> None:
        super().__init__()
        self._clock = Clock(time)

    @property
    def time(self) -> float:
        return self._clock.time

    @time.setter
    def time(self, seconds: float) -> None:
        self._clock.time = seconds

    def now(self) -> float:
        return self._clock.time

    def advance(self, seconds: float) -> None:
        self._clock.time += seconds

    def twin(self) -> Self:
        """Another runtime with the same clock."""
        other = type(self)()
        other._clock = self._clock
        return other


class LoopClock(_WallClock, LoopRuntime):
    """asyncio, with a wall clock that a test moves."""


class ThreadClock(_WallClock, ThreadRuntime):
    """Threads, with a wall clock that a test moves."""


class _StillEvent:
    """An event whose timeouts pass when the clock is moved."""

    def __init__(self, runtime: StillRuntime) -> None:
        self._runtime = runtime
        self._inner = LoopRuntime.event(runtime)
        self._set = False

    def set(self) -> None:
        self._set = True
        self._inner.set()

    def is_set(self) -> bool:
        return self._set

    def expire(self) -> None:
        self._inner.set()

    async def wait(self, timeout: float | None = None) -> bool:
        timer = None if timeout is None else (self._runtime.time + timeout, self)
        if timer is not None:
            self._runtime.timers.append(timer)
        try:
            await self._inner.wait()
        finally:
            if timer is not None:
                self._runtime.timers.remove(timer)
        return self._set


class StillRuntime(LoopRuntime):
    """asyncio, with a clock by which timeouts end, too. Only `advance` moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000_000.0
        self.dice = 0.5
        self.timers: list[tuple[float, _StillEvent]] = []

    def now(self) -> float:
        return self.time

    def random(self) -> float:
        return self.dice

    def event(self) -> Any:
        return _StillEvent(self)

    async def advance(self, seconds: float) -> None:
        self.time += seconds
        for when, event in list(self.timers):
            if when <= self.time:
                event.expire()
        await turns()


class MonotonicStillRuntime(StillRuntime):
    """The same, for code that measures with the monotonic clock: it stands still, too."""

    def monotonic(self) -> float:
        return self.time
