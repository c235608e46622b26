"""A runtime without loop and threads: coroutines go on by hand, and only `Steps.advance` moves its clock.

Several walks can be brought to the same barrier before any of them goes on, in an order that the test
chooses. Nothing here takes time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

__all__ = ["Steps", "Walk"]

T = TypeVar("T")


class _Wait:
    """What a walk waits for."""

    def __init__(self, event: _Event, deadline: float | None) -> None:
        self.event = event
        self.deadline = deadline

    def __await__(self) -> Generator[_Wait, None, None]:
        yield self


class _Event:
    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    async def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            await _Wait(self, None if timeout is None else self._steps.time + timeout)
        return self._set


class Walk:
    """A coroutine under way. It begins when it is made, and goes until it has to wait."""

    def __init__(self, steps: Steps, work: Coroutine[Any, Any, Any], name: str = "") -> None:
        self._steps = steps
        self._work = work
        self._wait: _Wait | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._over = False
        self.name = name
        steps.walks.append(self)
        self._go()

    def _go(self) -> None:
        try:
            self._wait = self._work.send(None)
        except StopIteration as stop:
            self._over, self._result = True, stop.value
        except BaseException as error:
            self._over, self._error = True, error

    def step(self) -> bool:
        """Go on, if there is nothing to wait for any more. Returns whether it went on."""
        wait = self._wait
        if self._over or wait is None:
            return False
        late = wait.deadline is not None and self._steps.time >= wait.deadline
        if not wait.event.is_set() and not late:
            return False
        self._go()
        return True

    def poll(self) -> bool:
        """Go on as far as it comes. True if it is over."""
        while self.step():
            pass
        return self._over

    def done(self) -> bool:
        return self._over

    @property
    def error(self) -> BaseException | None:
        """What the coroutine raised."""
        return self._error

    def cancel(self) -> None:
        """As a loop that cancels a task."""
        if not self._over:
            self._over = True
            self._work.close()

    @property
    def result(self) -> Any:
        """What the coroutine returned. Raises what it raised."""
        assert self._over, f"{self.name or self._work} still waits"
        if self._error is not None:
            raise self._error
        return self._result


class Steps:
    """The ports of `layergate.core.ports.Runtime`."""

    blocking = False

    def __init__(self, time: float = 1_700_000_000.0) -> None:
        self.time = time
        self.walks: list[Walk] = []
        self.spawned: list[Walk] = []

    # -- for tests -----------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, Any]) -> Walk:
        return Walk(self, work)

    def run(self) -> None:
        """Let every walk go on until each of them waits."""
        while any(list(map(Walk.step, self.walks))):
            pass
        self.walks = [walk for walk in self.walks if not walk.done()]

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.run()

    def now_done(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what needs no wait."""
        walk = Walk(self, work)
        return walk.result

    # -- the ports -----------------------------------------------------------------------------

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def random(self) -> float:
        return 0.5

    def event(self) -> _Event:
        return _Event(self)

    def lock(self) -> AbstractContextManager[Any]:
        return nullcontext()

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        return await work

    async def call(self, function: Callable[[], T]) -> T:
        return function()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> Walk:
        walk = Walk(self, work, name)
        self.spawned.append(walk)
        return walk

    def companion(self, work: Coroutine[Any, Any, Any], *, name: str) -> Walk:
        return self.spawn(work, name=name)

    def lasts(self) -> bool:
        return True

    def at_end(self, work: Any, *, last: bool = False) -> None: ...

    def background(self) -> bool:
        return True

    async def aclose(self, timeout: float) -> None: ...
