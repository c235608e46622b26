"""The runtime of synchronous servers: ports that block their thread where those of asyncio suspend.

`ThreadRuntime` implements the ports of `core.ports` for `HttpCache` under WSGI. An engine coroutine runs to
its end on the thread of the request (see `blocking.run_blocking`). Nothing starts at import or
construction. Background work runs on a few daemon threads, which start when there is work and end when
there has been none for a while; the child of a fork starts its own. Under gevent's monkey patch all of
these are greenlets.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from layergate.errors import ConfigError
from layergate.runtime.blocking import run_blocking
from layergate.runtime.clock import monotonic
from layergate.runtime.pool import Job, Pool
from layergate.runtime.uwsgi import uwsgi_without_threads

__all__ = ["ThreadRuntime", "run_blocking"]

_logger = logging.getLogger("layergate")

T = TypeVar("T")

_CALLS_APP: Final = frozenset({"layergate fetch", "layergate refresh"})


class _ThreadEvent:
    """A one-shot event. `wait` blocks the thread."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)


class ThreadRuntime:
    """The ports of `core.ports.Runtime` for threads and greenlets. One instance may serve any number of
    threads.

    ``threads``: the greatest number of background threads of one kind. Work beyond that waits. How much
    may wait is bounded where it is spawned (see ``background_refreshes``).

    Raises ConfigError.
    """

    def __init__(self, *, threads: int = 8) -> None:
        if type(threads) is not int or threads < 1:
            raise ConfigError(f"threads must be a whole number from 1, got {threads!r}; try 8")
        self._limit = threads
        self._on_fork: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._on_exit: list[weakref.WeakMethod[Callable[[], None]]] = []
        # Made when there is work: gevent may patch `threading` after this constructor has run.
        self._pools: dict[str, Pool] = {}
        _watch_forks()
        _runtimes.add(self)

    blocking: Final = True
    now = staticmethod(time.time)
    monotonic = staticmethod(monotonic)
    random = staticmethod(random.random)

    def event(self) -> _ThreadEvent:
        return _ThreadEvent()

    def lock(self) -> AbstractContextManager[Any]:
        return threading.Lock()

    async def within(self, seconds: float, work: Awaitable[T]) -> T:  # noqa: ARG002
        """The result of ``work``. A thread that waits for a socket cannot be interrupted, so the client
        of each layer keeps the budget of ``seconds`` itself."""
        return await work

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that may block, on this thread, which may block too."""
        return function()

    def background(self) -> bool:
        """True if work can run in the background here. It cannot in a uWSGI worker without
        ``enable-threads``, where threads stand still while the worker waits for its next request."""
        return not uwsgi_without_threads()

    def lasts(self) -> bool:
        """See `Runtime.lasts`. Background threads never end with a request."""
        return True

    def at_end(
        self, work: Callable[[], Coroutine[Any, Any, object]], *, last: bool = False
    ) -> None:
        """See `Runtime.at_end`. There is no loop here; see `on_exit` for the end of the process."""

    def spawn(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> Job:
        """Run ``work`` in the background, in an empty context unless one is given.

        Work that background work spawns runs at once, on the same thread: if it waited for one of a
        bounded number of threads, all of them could come to wait for each other. Where there is no
        `background`, all work runs at once.

        Raises RuntimeError, with ``work`` closed, when the interpreter is shutting down.
        """
        job = Job(work, name, contextvars.Context() if context is None else context)
        # Work that calls the app may take long. Work that only writes to a layer does not, and other
        # processes wait for it, so it has threads of its own.
        kind = "app" if name in _CALLS_APP else "layers"
        # `setdefault` is one step, with the GIL and without it: two threads get the same pool.
        pool = self._pools.get(kind) or self._pools.setdefault(kind, Pool(self._limit))
        if any(other.inside for other in list(self._pools.values())) or not self.background():
            job.run()
            return job
        _watch_exit()
        try:
            pool.put(job)
        except BaseException:
            job.drop()
            raise
        return job

    def companion(self, work: Coroutine[Any, Any, Any], *, name: str) -> Job:
        """Run ``work`` on a daemon thread of its own. It cannot be cancelled, so it has to check whether
        it is still wanted.

        Raises RuntimeError, with ``work`` closed, when no thread can be started.
        """
        job = Job(work, name, contextvars.Context())
        try:
            threading.Thread(target=job.run, name=name, daemon=True).start()
        except BaseException:
            job.drop()
            raise
        return job

    def pending(self) -> int:
        """The number of jobs that wait or run."""
        return sum(pool.pending() for pool in self._pools.values())

    def close(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for background work, then drop the jobs that have not begun.

        Jobs that run by then cannot be interrupted. Their threads are daemons and hold up no exit. New
        work may be spawned afterwards.
        """
        for pool in list(self._pools.values()):
            pool.drain(timeout)

    async def aclose(self, timeout: float) -> None:
        """As `close`."""
        self.close(timeout)

    # -- the process ---------------------------------------------------------------------------

    def on_fork(self, reset: Callable[[], None]) -> None:
        """Call the bound method ``reset`` in the child of a fork, as long as its object lives."""
        self._on_fork.append(weakref.WeakMethod(reset))

    def on_exit(self, farewell: Callable[[], None]) -> None:
        """Call the bound method ``farewell`` when the interpreter ends, as long as its object lives. It
        must be quick. What it raises is logged."""
        self._on_exit.append(weakref.WeakMethod(farewell))
        _watch_exit()

    def _forked(self) -> None:
        # Threads that do not exist in this process may hold locks, and may be at work.
        self._pools = {}
        for reference in self._on_fork:
            reset = reference()
            if reset is not None:
                reset()

    def _exit(self) -> None:
        for reference in self._on_exit:
            farewell = reference()
            if farewell is not None:
                try:
                    farewell()
                except Exception:
                    _logger.exception("%r failed at the end of the process", farewell)
        for pool in list(self._pools.values()):
            pool.end()


_runtimes: weakref.WeakSet[ThreadRuntime] = weakref.WeakSet()
_watched: set[str] = set()


def _watch_forks() -> None:
    if "fork" not in _watched and hasattr(os, "register_at_fork"):
        _watched.add("fork")
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for runtime in list(_runtimes):
        runtime._forked()


def _watch_exit() -> None:
    if "exit" not in _watched:
        _watched.add("exit")
        atexit.register(_at_exit)


def _at_exit() -> None:
    for runtime in list(_runtimes):
        runtime._exit()
