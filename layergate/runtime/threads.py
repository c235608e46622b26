"""The runtime of synchronous servers: what would suspend under asyncio blocks its thread here.

So an engine coroutine runs to its end in one ``send(None)``, on the thread of the request: see
`run_blocking`. Nothing starts at import or construction. Background work runs on a few daemon
threads, started when there is some and gone when there has been none for a while; a forked child
starts its own. Under gevent's monkey patch all of it is made of greenlets.
"""

from __future__ import annotations

import atexit
import contextvars
import importlib
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from layergate.errors import ConfigError
from layergate.runtime.clock import monotonic

__all__ = ["ThreadRuntime", "run_blocking"]

_logger = logging.getLogger("layergate")

T = TypeVar("T")

_CALLS_APP: Final = frozenset({"layergate fetch", "layergate refresh"})
_IDLE: Final = 10.0  # seconds after which a thread without work ends


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of an engine coroutine, run to its end on this thread.

    One that suspends was given ports of another runtime, or awaits something that is no port. It is
    closed, and RuntimeError raised.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError(
        f"{work!r} suspended where it must block; a layer or hook for asyncio cannot be used with"
        " the WSGI middleware"
    )


class _ThreadEvent:
    """One-shot; `wait` blocks the thread."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)


class _Job:
    """Work that waits for a thread, or runs on one."""

    __slots__ = ("_callbacks", "_context", "_done", "_lock", "_name", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Any], name: str, context: contextvars.Context
    ) -> None:
        self._work = work
        self._name = name
        self._context = context
        self._lock = threading.Lock()
        self._done = False
        self._callbacks: list[Callable[[_Job], object]] = []

    def run(self) -> None:
        """Never raises, but for what ends the thread (SystemExit and the like)."""
        try:
            self._context.run(run_blocking, self._work)
        except Exception:
            _logger.exception("background work %r failed", self._name)
        finally:
            self._over()

    def drop(self) -> None:
        """Close work that has not begun."""
        try:
            self._work.close()
        finally:
            self._over()

    def _over(self) -> None:
        with self._lock:
            self._done = True
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[_Job], object]) -> None:
        """Call ``callback`` when the work has ended or was dropped; at once if it has already."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def cancel(self) -> bool:
        """A thread cannot be interrupted: what runs already runs to its end."""
        return False

    def done(self) -> bool:
        return self._done


class _Pool:
    """A bounded number of daemon threads, and the work that waits for them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[_Job] = deque()
        self._running = 0
        self._threads = 0
        self._idle = 0
        self._closed = False
        self._here = threading.local()

    @property
    def inside(self) -> bool:
        """Is this one of its own threads?"""
        return getattr(self._here, "at_work", False)

    def put(self, job: _Job) -> None:
        """Have ``job`` run. Raises RuntimeError if it never will."""
        with self._changed:
            if self._closed:
                raise RuntimeError("no background work is started while the process ends")
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._threads >= self._limit:
                self._changed.notify()
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="layergate", daemon=True).start()
        except BaseException:
            with self._changed:
                self._threads -= 1
                # With another thread at work, it takes the job later.
                stuck = self._threads == 0 and job in self._jobs
                if stuck:
                    self._jobs.remove(job)
            if stuck:
                raise

    def _work(self) -> None:
        self._here.at_work = True
        while (job := self._next()) is not None:
            ended = False
            try:
                job.run()
                ended = True
            finally:
                with self._changed:
                    self._running -= 1
                    if not ended:
                        self._threads -= 1
                    self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            if not self._jobs and not self._closed:
                self._idle += 1
                self._changed.wait(_IDLE)
                self._idle -= 1
            if not self._jobs:
                self._threads -= 1
                return None
            self._running += 1
            return self._jobs.popleft()

    def pending(self) -> int:
        with self._changed:
            return len(self._jobs) + self._running

    def settle(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for what waits or runs, then drop what has not begun."""
        deadline = time.monotonic() + timeout
        with self._changed:
            # (not for itself, if this is called by background work)
            while self._jobs or self._running > self.inside:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        self._drop()

    def end(self) -> None:
        """Take no more work, drop what has not begun, let idle threads end. Waits for nobody."""
        # Not at any price: a thread stopped with the lock held must not hold up the exit.
        if self._changed.acquire(timeout=0.1):
            self._closed = True
            self._changed.notify_all()
            self._changed.release()
            self._drop()

    def _drop(self) -> None:
        with self._changed:
            dropped = list(self._jobs)
            self._jobs.clear()
        for job in dropped:
            job.drop()


class ThreadRuntime:
    """Ports for threads (and greenlets). One instance may serve any number of threads.

    ``threads``: how many background threads there may be at once, at most. Work beyond that waits;
    how much may wait is bounded by those who spawn it (see ``background_refreshes``).

    Raises ConfigError.
    """

    def __init__(self, *, threads: int = 8) -> None:
        if type(threads) is not int or threads < 1:
            raise ConfigError(f"threads must be a whole number from 1, got {threads!r}; try 8")
        self._limit = threads
        self._on_fork: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._on_exit: list[weakref.WeakMethod[Callable[[], None]]] = []
        # Made when there is work: gevent may patch `threading` between here and there.
        self._pools: dict[str, _Pool] = {}
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
        """The result of ``work``. Nothing can interrupt a thread that waits for a socket, so the
        budget of ``seconds`` is kept by the layer's own client."""
        return await work

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that may block. Here, since this thread may."""
        return function()

    def background(self) -> bool:
        """Can work run in the background here?

        Not in a uWSGI worker without ``enable-threads``: there, threads stand still whenever the
        worker waits for its next request.
        """
        return not _uwsgi_without_threads()

    def lasts(self) -> bool:
        """See `Runtime.lasts`. Background threads do not end with a request."""
        return True

    def at_end(
        self, work: Callable[[], Coroutine[Any, Any, object]], *, last: bool = False
    ) -> None:
        """See `Runtime.at_end`: threads have no loop (what ends with the process is `on_exit`)."""

    def spawn(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> _Job:
        """Run in the background; in an empty context unless one is given.

        What background work spawns runs at once, on its own thread: if it waited for one of a
        bounded number of threads, all of them could come to wait for each other. So does all work
        where there is no `background`.

        Raises RuntimeError, with ``work`` closed, when the interpreter is going down.
        """
        job = _Job(work, name, contextvars.Context() if context is None else context)
        # What calls the app may take its time. What only tells a shared layer does not, and others
        # wait for it: it has threads of its own.
        kind = "app" if name in _CALLS_APP else "layers"
        # One step under the GIL and without it: two threads come out with the same pool.
        pool = self._pools.get(kind) or self._pools.setdefault(kind, _Pool(self._limit))
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

    def companion(self, work: Coroutine[Any, Any, Any], *, name: str) -> _Job:
        """Run ``work`` on a daemon thread of its own. It cannot be cancelled: it has to look itself
        whether it is still wanted.

        Raises RuntimeError, with ``work`` closed, when no thread can be started.
        """
        job = _Job(work, name, contextvars.Context())
        try:
            threading.Thread(target=job.run, name=name, daemon=True).start()
        except BaseException:
            job.drop()
            raise
        return job

    def pending(self) -> int:
        """How many pieces of background work wait or run."""
        return sum(pool.pending() for pool in self._pools.values())

    def close(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for background work, then drop what has not begun.

        What runs by then cannot be interrupted; its threads are daemons and hold up no exit. New
        work is welcome afterwards.
        """
        for pool in list(self._pools.values()):
            pool.settle(timeout)

    async def aclose(self, timeout: float) -> None:
        """As `close`."""
        self.close(timeout)

    # -- the process ---------------------------------------------------------------------------

    def on_fork(self, reset: Callable[[], None]) -> None:
        """Call the bound method ``reset`` in the child of a fork, while its object lives."""
        self._on_fork.append(weakref.WeakMethod(reset))

    def on_exit(self, farewell: Callable[[], None]) -> None:
        """Call the bound method ``farewell`` when the interpreter ends, while its object lives. It
        must be quick; what it raises is logged."""
        self._on_exit.append(weakref.WeakMethod(farewell))
        _watch_exit()

    def _forked(self) -> None:
        # Locks may be held, and work under way, by threads that do not exist here.
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


_told: set[str] = set()


def _uwsgi_without_threads() -> bool:
    server: Any = _uwsgi()
    if server is None:
        return False
    options = getattr(server, "opt", {})
    if any(options.get(name) not in (None, b"0", "0", False) for name in _THREAD_OPTIONS):
        return False
    if "uwsgi" not in _told:
        _told.add("uwsgi")
        _logger.warning(
            "uWSGI runs without enable-threads: stale responses are refreshed by the worker itself,"
            " after it has sent them; give uWSGI --enable-threads"
        )
    return True


_THREAD_OPTIONS: Final = ("enable-threads", "threads", "gevent", "asyncio")
_NOT_LOOKED: Final = object()
_server: Any = _NOT_LOOKED


def _uwsgi() -> Any:
    """The module that exists inside of uWSGI only, or None."""
    global _server  # noqa: PLW0603 - looked for once
    if _server is _NOT_LOOKED:
        try:
            _server = importlib.import_module("uwsgi")
        except ImportError:
            _server = None
        # Something of that name on the path is not the server.
        if not hasattr(_server, "worker_id"):
            _server = None
    return _server
