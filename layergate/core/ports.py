"""What the core needs from outside: a clock, a way to wait, a way to run something in the
background.

Engine code is ``async def`` and awaits nothing but these ports (and layers). Under asyncio they
suspend; under threads their ``async def`` methods block, so that a coroutine runs to its end in one
``send(None)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

__all__ = ["Event", "Runtime", "Task"]

T = TypeVar("T")


class Event(Protocol):
    """A one-shot signal. ``set`` may be called from any thread or loop, any number of times."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    async def wait(self, timeout: float | None = None) -> bool:
        """True once set; False if ``timeout`` seconds passed first (None: no limit)."""
        ...


class Task(Protocol):
    """A handle on background work."""

    def cancel(self) -> object: ...

    def done(self) -> bool: ...


class Runtime(Protocol):
    """The world the engine runs in."""

    @property
    def blocking(self) -> bool:
        """Do waits block the calling thread (threads), or suspend (a loop)? Decides which of a
        client library's two faces a layer uses."""
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that nobody sets, and that goes on while the machine sleeps, where the
        system has such a clock. Comparable only within one process."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def event(self) -> Event: ...

    def lock(self) -> AbstractContextManager[Any]:
        """A new mutex. Never held across an await, never taken on the hit path."""
        ...

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """The result of ``work``; raises TimeoutError, with ``work`` cancelled, after ``seconds``.

        Where waiting blocks (threads), a layer's client has to keep the budget itself.
        """
        ...

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> Task:
        """Run ``work`` in the background, in a clean context. It never outlives `aclose`.

        Its exceptions are its own affair: a runtime logs what escapes.
        """
        ...

    def lasts(self) -> bool:
        """Will what runs in the background here be there when the request is over? Not where a loop
        may end with it (a test client's), as far as one can know."""
        ...

    def at_end(
        self, work: Callable[[], Coroutine[Any, Any, object]], *, last: bool = False
    ) -> None:
        """Await the bound method ``work`` when the running loop ends, unless its object is gone by
        then, or `aclose` has come first. ``last``: after all that is not. Under threads: never."""
        ...

    def background(self) -> bool:
        """Can work run in the background here? If not, `companion` never runs anything."""
        ...

    def companion(self, work: Coroutine[Any, Any, Any], *, name: str) -> Task:
        """Run ``work`` beside everything else, for as long as the process (or loop) lives: on a
        daemon thread of its own, or in a task that `aclose` cancels without waiting for it. In a
        clean context; a fork's child does not have it.

        Raises RuntimeError, with ``work`` closed, when it cannot be started.
        """
        ...

    async def aclose(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for background work, then cancel what is left."""
        ...
