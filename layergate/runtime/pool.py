"""Background threads: jobs, and a bounded number of daemon threads that run them.

`ThreadRuntime` makes a `Pool` when there is a job for it. Nothing here starts at import, and no thread
outlives its work for long.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from layergate.runtime.blocking import run_blocking

__all__ = ["Job", "Pool"]

_logger = logging.getLogger("layergate")

_IDLE: Final = 10.0  # seconds after which a thread without a job ends


class Job:
    """Work that waits for a thread, or runs on one. A `core.ports.Task`."""

    __slots__ = ("_callbacks", "_context", "_done", "_lock", "_name", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Any], name: str, context: contextvars.Context
    ) -> None:
        self._work = work
        self._name = name
        self._context = context
        self._lock = threading.Lock()
        self._done = False
        self._callbacks: list[Callable[[Job], object]] = []

    def run(self) -> None:
        """Run the work on this thread. Raises nothing but exceptions that end a thread, such as
        SystemExit."""
        try:
            self._context.run(run_blocking, self._work)
        except Exception:
            _logger.exception("background work %r failed", self._name)
        finally:
            self._over()

    def drop(self) -> None:
        """Close the work, which has not begun."""
        try:
            self._work.close()
        finally:
            self._over()

    def _over(self) -> None:
        with self._lock:
            self._done = True
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Job], object]) -> None:
        """Call ``callback`` when the work has ended or was dropped; at once if that is the case
        already."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def cancel(self) -> bool:
        """Returns False: a thread cannot be interrupted, so work that has begun runs to its end."""
        return False

    def done(self) -> bool:
        return self._done


class Pool:
    """A bounded number of daemon threads, and the jobs that wait for them. A thread that has had no job for
    ten seconds ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[Job] = deque()
        self._running = 0
        self._threads = 0
        self._idle = 0
        self._closed = False
        self._here = threading.local()

    @property
    def inside(self) -> bool:
        """True if the current thread is one of this pool."""
        return getattr(self._here, "at_work", False)

    def put(self, job: Job) -> None:
        """Run ``job`` on a thread of the pool. Raises RuntimeError if that is impossible."""
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
                # Another thread, if there is one at work, takes the job later.
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

    def _next(self) -> Job | None:
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

    def drain(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for all jobs, then drop those that have not begun."""
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
        """Take no more jobs, drop those that have not begun, and let idle threads end. Does not wait."""
        # With a time limit: a thread that was stopped with the lock held must not hold up the exit.
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
