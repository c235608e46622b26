"""The asyncio runtime: events are futures, background work is tasks in a clean context.

Nothing asyncio is kept on shared objects: an event belongs to the loop that waits on it, and the
set of background tasks is held per loop, weakly.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import threading
import time
import weakref
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["LoopRuntime"]

_logger = logging.getLogger("layergate")


class _LoopEvent:
    """One-shot, waited on by one task of the loop that made it, set from anywhere."""

    __slots__ = ("_future", "_loop", "_set")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] | None = None
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        # The common case, a set from the same loop, costs no wake-up of the selector.
        if asyncio._get_running_loop() is self._loop:
            self._wake(True)
            return
        try:
            self._loop.call_soon_threadsafe(self._wake, True)
        except RuntimeError:
            # That loop is closed: nobody is left on it to wake.
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
        if self._set:  # set by another thread, before it could see the future
            return True
        timer = None if timeout is None else self._loop.call_later(timeout, self._wake, False)
        try:
            return await self._future or self._set
        finally:
            if timer is not None:
                timer.cancel()


class LoopRuntime:
    """Ports for asyncio. One instance may serve several loops and threads."""

    def __init__(self) -> None:
        self._tasks: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, set[asyncio.Task[Any]]
        ] = weakref.WeakKeyDictionary()

    now = staticmethod(time.time)
    random = staticmethod(random.random)

    def event(self) -> _LoopEvent:
        return _LoopEvent()

    def lock(self) -> AbstractContextManager[Any]:
        return threading.Lock()

    def spawn(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Run in the background; in an empty context unless one is given."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            work, name=name, context=contextvars.Context() if context is None else context
        )
        tasks = self._tasks.setdefault(loop, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    def background(self) -> int:
        """How many background tasks the running loop has."""
        return len(self._tasks.get(asyncio.get_running_loop(), ()))

    async def aclose(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for this loop's background tasks, then cancel them."""
        tasks = {t for t in self._tasks.get(asyncio.get_running_loop(), ()) if not t.done()}
        tasks.discard(asyncio.current_task())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("background work %r failed", task.get_name(), exc_info=error)
