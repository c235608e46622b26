"""The asyncio runtime: events are futures, background work runs in tasks with a clean context.

`LoopRuntime` implements the ports of `core.ports` for `HttpCache` and `CacheStack` under asyncio. It keeps
no asyncio object on anything that loops share: an event belongs to the loop that waits on it, and the set
of background tasks is held weakly, for each loop.

Loops end. The loop of a server lives as long as its process, and the lifespan protocol says so; the loop
of a test client may live for one request. So the work that a request leaves behind is part of that request
unless its loop *lasts*, and connections that are held open on a loop are closed as the loop ends
(`LoopRuntime.at_end`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias, TypeVar

from layergate.runtime.clock import monotonic

__all__ = ["LoopRuntime"]

_logger = logging.getLogger("layergate")

T = TypeVar("T")

Farewell: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
_Tasks: TypeAlias = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]]

_FAREWELL: Final = 2.0  # seconds that LoopRuntime may take at the end of a loop


class _LoopEvent:
    """A one-shot event. One task of the loop that made it waits; any thread or loop may set it."""

    __slots__ = ("_future", "_loop", "_set")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[bool] | None = None
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        # In the common case, a set from the same loop, the selector need not wake up.
        if asyncio._get_running_loop() is self._loop:
            self._wake(True)
            return
        try:
            self._loop.call_soon_threadsafe(self._wake, True)
        except RuntimeError:
            # That loop is closed, so no task on it can wait any more.
            if not self._loop.is_closed():
                raise

    def _wake(self, result: bool) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(result)

    async def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        self._future = self._loop.create_future()
        if self._set:  # by another thread, which could not see the future yet
            return True
        timer = None if timeout is None else self._loop.call_later(timeout, self._wake, False)
        try:
            return await self._future or self._set
        finally:
            if timer is not None:
                timer.cancel()


class _End:
    """The work to do as a loop ends, and the task that waits for the end."""

    __slots__ = ("first", "last", "over", "task")

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over = over  # set when the runtime is closed or gone: then there is nothing to do
        self.first: list[weakref.WeakMethod[Farewell]] = []
        self.last: list[weakref.WeakMethod[Farewell]] = []
        self.task: asyncio.Task[None] | None = None


class _Companionship:
    """The task of a companion. It is done, too, if its loop was closed over it."""

    __slots__ = ("_loop", "_task")

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop

    def cancel(self) -> bool:
        return self._task.cancel()

    def done(self) -> bool:
        return self._task.done() or self._loop.is_closed()


class LoopRuntime:
    """The ports of `core.ports.Runtime` for asyncio. One instance may serve several loops and threads.

    ``fleeting``: True once a loop has ended here that did not last. Then the next one may end early,
    too.
    """

    def __init__(self) -> None:
        self.fleeting = False
        self._lasting: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._ends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _End] = (
            weakref.WeakKeyDictionary()
        )
        weakref.finalize(self, _release, self._ends).atexit = False
        self._tasks: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, set[asyncio.Task[Any]]
        ] = weakref.WeakKeyDictionary()
        self._companions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, set[asyncio.Task[Any]]
        ] = weakref.WeakKeyDictionary()

    blocking: Final = False
    now = staticmethod(time.time)
    monotonic = staticmethod(monotonic)
    random = staticmethod(random.random)

    def background(self) -> bool:
        return True

    def event(self) -> _LoopEvent:
        """An event for the running loop. Raises RuntimeError when none is running."""
        loop = asyncio.get_running_loop()
        if loop not in self._tasks:
            self._adopt(loop)
        return _LoopEvent(loop)

    def lock(self) -> AbstractContextManager[Any]:
        return threading.Lock()

    def spawn(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Run ``work`` in the background, in an empty context unless one is given.

        Raises RuntimeError, with ``work`` closed, when no loop is running.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work.close()
            raise
        tasks = self._tasks.get(loop)
        if tasks is None:
            tasks = self._adopt(loop)
        task = loop.create_task(
            work, name=name, context=contextvars.Context() if context is None else context
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """The result of ``work``; raises TimeoutError, with ``work`` cancelled, after ``seconds``."""
        async with asyncio.timeout(seconds):
            return await work

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that may block, in a worker thread of the loop and a copy of this context.
        Cancelling the call does not stop the function.
        """
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, context.run, _without_stop_iteration, function)

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        """Register a loop that is new here, and drop those that were closed meanwhile.

        A loop that was closed over pending tasks never runs them again. Their coroutines are closed
        here. So their ``finally`` clauses run, and tasks on other loops that wait for them are
        released.
        """
        for other in list(self._tasks):
            if other.is_closed():
                self.fleeting = True
                left = self._tasks.pop(other, set()) | self._companions.pop(other, set())
                for task in left:
                    if not task.done():
                        _close(task)
        return self._tasks.setdefault(loop, set())

    # -- loops that last, and loops that end ---------------------------------------------------

    def last(self) -> None:
        """Note that the running loop belongs to a server, and outlives the requests on it."""
        self._lasting.add(asyncio.get_running_loop())

    def lasts(self) -> bool:
        """See `Runtime.lasts`."""
        return asyncio.get_running_loop() in self._lasting

    def at_end(self, work: Farewell, *, last: bool = False) -> None:
        """See `Runtime.at_end`.

        The end of a loop is recognized by the cancellation of its tasks, as `asyncio.run` and the
        runners built on it do. A loop that is closed without that gives no sign.
        """
        loop = asyncio.get_running_loop()
        end = self._ends.get(loop)
        if end is None or end.task is None or end.task.done():
            end = self._ends[loop] = _End(loop.create_future())
            self._adopt(loop)
            task = loop.create_task(
                _farewell(weakref.ref(self), end, self._tasks, self._companions),
                name="layergate farewell",
                context=contextvars.Context(),
            )
            end.task = _idle(task)
        works = end.last if last else end.first
        works[:] = [one for one in works if one() not in (None, work)]
        works.append(weakref.WeakMethod(work))

    def companion(self, work: Coroutine[Any, Any, Any], *, name: str) -> _Companionship:
        """Run ``work`` on this loop until the work ends, `aclose` cancels it, or the loop is closed.

        Raises RuntimeError, with ``work`` closed, when no loop is running.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work.close()
            raise
        if loop not in self._tasks:
            self._adopt(loop)
        companions = self._companions.setdefault(loop, set())
        task = _idle(loop.create_task(work, name=name, context=contextvars.Context()))
        companions.add(task)
        task.add_done_callback(companions.discard)
        task.add_done_callback(_log_failure)
        return _Companionship(task, loop)

    def pending(self) -> int:
        """The number of background tasks on the running loop."""
        return len(self._tasks.get(asyncio.get_running_loop(), ()))

    async def aclose(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the background tasks of this loop, then cancel them.

        Tasks that these start meanwhile are included.
        """
        loop = asyncio.get_running_loop()
        if (end := self._ends.pop(loop, None)) is not None and not end.over.done():
            end.over.set_result(None)
        deadline = loop.time() + timeout
        while tasks := self._pending(loop):
            left = deadline - loop.time()
            if left <= 0:
                break
            await asyncio.wait(tasks, timeout=left)
        # A task that ends by cancellation may make a waiter start the work again; that is cancelled, too.
        deadline = loop.time() + timeout
        while tasks := self._pending(loop):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=max(0.0, deadline - loop.time()))
            if loop.time() >= deadline:
                break
        if companions := self._companions.pop(loop, None):
            for task in companions:
                task.cancel()
            await asyncio.wait(companions, timeout=1.0)

    def _pending(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        tasks = {task for task in self._tasks.get(loop, ()) if not task.done()}
        current = asyncio.current_task()
        if current is not None:
            tasks.discard(current)
        return tasks


async def _farewell(
    runtime: weakref.ref[LoopRuntime],
    end: _End,
    tasks: _Tasks,
    companions: _Tasks,
) -> None:
    """Wait until the loop ends, then do the work of ``end``. This holds no reference to the runtime, so
    that it keeps no cache alive."""
    try:
        await end.over
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        if (present := runtime()) is not None and loop not in present._lasting:
            present.fleeting = True
        del present
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                # The tasks of requests have been cancelled as well, and may leave work behind.
                while left := [
                    task
                    for kind in (tasks, companions)
                    for task in kind.get(loop, ())
                    if not task.done()
                ]:
                    await asyncio.wait(left)
                for one in (*end.first, *end.last):
                    if (work := one()) is not None:
                        try:
                            await work()
                        except Exception:
                            _logger.debug("%r failed at the end of its loop", one, exc_info=True)
        raise


def _release(ends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _End]) -> None:
    """The runtime is gone: tasks that wait for the end of a loop have nothing to do any more."""

    def over(end: _End) -> None:
        if not end.over.done():
            end.over.set_result(None)

    for loop, end in list(ends.items()):
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            loop.call_soon_threadsafe(over, end)


def _idle(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """``task``, which only waits: asyncio must not warn if its loop is closed over it."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def _without_stop_iteration(function: Callable[[], T]) -> T:
    # A future cannot carry a StopIteration: a task that awaits it would wait forever.
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError(f"{function!r} raised StopIteration") from error


def _close(task: asyncio.Task[Any]) -> None:
    try:
        coroutine = task.get_coro()
        if coroutine is not None:
            coroutine.close()
    except Exception:
        _logger.exception("background work %r failed when its loop was closed", task.get_name())


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("background work %r failed", task.get_name(), exc_info=error)
