"""A runtime that only the test moves: a clock, and coroutines that are polled after each step."""

from __future__ import annotations

import threading
import types
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["Polled", "SteppingRuntime"]


@types.coroutine
def _suspend() -> Generator[None, None, None]:
    yield


class _Event:
    def __init__(self, runtime: SteppingRuntime) -> None:
        self._runtime = runtime
        self._flag = False

    def set(self) -> None:
        self._flag = True

    def is_set(self) -> bool:
        return self._flag

    async def wait(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else self._runtime.time + timeout
        while not self._flag:
            if until is not None and self._runtime.time >= until:
                return False
            await _suspend()
        return True


class SteppingRuntime:
    """As much of `Runtime` as a `Pulse` and a `Stream` need. ``time``: seconds, moved by the test."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return 1_700_000_000 + self.time

    def monotonic(self) -> float:
        return self.time

    def lock(self) -> Any:
        return threading.Lock()

    def event(self) -> _Event:
        return _Event(self)


class Polled:
    """A coroutine, run as far as it comes each time that it is polled."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.poll()

    def poll(self) -> bool:
        """True if it is done."""
        # Once for each pulse that it may have missed meanwhile, and once to come to rest.
        if not self.done:
            try:
                self._work.send(None)
            except StopIteration as end:
                self.done, self.result = True, end.value
            except Exception as error:
                self.done, self.error = True, error
        return self.done

    def close(self) -> None:
        self._work.close()
