"""What runs beside the requests: one loop per process that listens and keeps this instance trusted.

It subscribes to news of the journal: the log has grown (then it has the log sync), or a lease was
released that a call here waits for. It syncs at every heartbeat, has the leases renewed, and has those
releases sent that could not be sent when they were made. Nothing depends on a message: what is missed
is found at the next heartbeat, or by waiting calls, which look again from time to time. While the
shared system is away, this loop is the one that keeps asking.

`SharedLog` makes one and starts it with the first request. The loop holds its log only weakly, so it
ends with a stack that is not used any more. It never touches a cache entry.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from typing import Any, Final, Protocol

from layergate.core.ports import Runtime, Task
from layergate.core.shared import Joining
from layergate.shared.journal import Grew, Journal, News, Released, Subscription
from layergate.shared.ports import answered

__all__ = ["Heartbeat"]

_logger = logging.getLogger("layergate")

_FIRST_PAUSE: Final = 0.05  # seconds
_LONGEST_PAUSE: Final = 2.0
_WARN_EVERY: Final = 60.0  # seconds between two warnings about the same
_NEVER: Final = float("-inf")


class _Log(Protocol):
    """What it needs of the log."""

    left: bool

    @property
    def applied(self) -> int: ...

    @property
    def instance(self) -> bytes: ...

    async def sync(self, *, probe: bool) -> bool: ...

    def is_news(self, news: Grew) -> bool: ...

    async def look_ahead(self) -> None: ...

    async def leave(self) -> None: ...


class _Leases(Protocol):
    """What it needs of the leases."""

    @property
    def term(self) -> float: ...

    @property
    def holding(self) -> bool: ...

    async def renew(self) -> None: ...

    async def send_releases(self, *, once_more: bool = False) -> None: ...

    def wake(self, news: Released) -> None: ...

    def forked(self) -> None: ...


class _Silence:
    """The subscription of a journal that has none."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def next(self, seconds: float) -> None:
        await self._runtime.event().wait(seconds)

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class Heartbeat:
    """The background loop of one log. ``timeout``: seconds that one call may take."""

    def __init__(self, journal: Journal, joining: Joining, log: _Log, *, timeout: float) -> None:
        self._journal = journal
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._log = weakref.ref(log)
        self._timeout = timeout
        # Set by the leases, if there are any.
        self.leases: _Leases | None = None
        self._warned = self._warned_deaf = _NEVER
        self.forked()

    def forked(self) -> None:
        """Nothing runs in the child of a fork."""
        self._lock = self._runtime.lock()
        self._task: Task | None = None
        self._started = False
        # Which loop is the wanted one: an older one ends when it sees that it is not.
        self._generation = 0
        self._seen = _NEVER
        self._lost_at: float | None = None
        self._silent = False  # the journal has no subscriptions
        self._reset()

    def _reset(self) -> None:
        self._failures = 0
        self._beat_due = self._renew_due = _NEVER
        # A position that a heartbeat found before any message told of it.
        self._untold = 0

    # -- from outside --------------------------------------------------------------------------

    @property
    def instance(self) -> bytes:
        """The name of this process for those that send it messages; b"" if it cannot get any."""
        log = self._log()
        return b"" if log is None or self._silent or not self.running else log.instance

    @property
    def running(self) -> bool:
        """True if it runs, as far as that shows from outside: the loop (asyncio) under it may have
        been closed, or stand still."""
        task = self._task
        if not self._started or (task is not None and task.done()):
            return False
        late = self._runtime.monotonic() - self._seen
        return late < 4 * self._journal.terms.heartbeat + 4 * self._timeout + 1.0

    def ensure(self) -> bool:
        """Start it if it does not run. False where nothing can run in the background."""
        if self.running:
            return True
        if not self._runtime.background():
            return False
        with self._lock:
            if self.running:
                return True
            self._generation += 1
            self._seen = self._runtime.monotonic()
            self._reset()
            work = _attend(weakref.ref(self), self._generation)
            # Before it is started: on its own thread it may look at once whether it runs.
            self._task, self._started = None, True
            try:
                self._task = self._runtime.companion(work, name="layergate heartbeat")
            except RuntimeError:  # the interpreter is shutting down
                self._started = False
                return False
        self._runtime.at_end(self._loop_ends)
        return True

    async def _loop_ends(self) -> None:
        """Nothing renews the membership of this instance any more, until a request comes on another
        loop: so no purge shall wait for it."""
        log = self._log()
        if log is None or self.running:
            return
        await log.leave()
        if self.leases is not None:
            await self.leases.send_releases()

    @property
    def stranded(self) -> bool:
        """True if it was started on a loop that has ended since."""
        return self._started and self._task is not None and self._task.done()

    def stop(self) -> None:
        """It ends at its next look, which is within one heartbeat. Waits for nothing."""
        with self._lock:
            self._generation += 1
            self._task, self._started = None, False

    # -- the loop ------------------------------------------------------------------------------

    def wanted(self, generation: int) -> bool:
        log = self._log()
        return generation == self._generation and log is not None and not log.left

    async def connect(self) -> Subscription | None:
        """Subscribe, and be up to date after it. None if that failed: rest, then try again."""
        self._seen = self._runtime.monotonic()
        log = self._log()
        assert log is not None
        subscription: Subscription | None = None
        deaf: Exception | None = None
        try:
            try:
                subscription = await answered(self._journal.subscribe(log.instance, probe=True))
                self._silent = subscription is None
                if subscription is None:
                    subscription = _Silence(self._runtime)
            except Exception as error:
                deaf = error
            # Also without one: another connection may be refused where a call is not.
            await self._beat(log)
        except GeneratorExit:
            if subscription is not None:
                subscription.abandon()
            raise
        except BaseException as error:
            if subscription is not None:
                await _close(subscription)
            if not isinstance(error, Exception):
                raise
            self._lost(error)
            if subscription is not None:
                await log.look_ahead()
            return None
        self._back()
        if deaf is not None:
            self._say_deaf(deaf)
        return subscription

    async def tend(self, news: News | None) -> float:
        """Do what is due. Returns in how many seconds something is due again."""
        log = self._log()
        assert log is not None
        now = self._seen = self._runtime.monotonic()
        if news is not None:
            self._failures = 0
            await self._hear(log, news)
        if now >= self._beat_due:
            if self._untold:
                raise ConnectionError("no message came about what is in the log")
            self._failures = 0
            before = log.applied
            await self._beat(log)
            # A connection that is cut without a sign lets us wait forever. (Unless the message is on
            # its way, which the next heartbeat will tell.)
            if log.applied != before and not self._silent:
                self._untold = log.applied
        leases = self.leases
        due = self._beat_due
        if leases is not None:
            # Also when none is held yet: one may be taken while we wait.
            if now >= self._renew_due:
                self._renew_due = now + leases.term / 3
                if leases.holding:
                    await leases.renew()
            due = min(due, self._renew_due)
        return max(0.0, due - self._runtime.monotonic())

    async def _hear(self, log: _Log, news: News) -> None:
        if isinstance(news, Grew):
            if log.is_news(news):
                await log.sync(probe=True)
            self._untold = 0
        elif self.leases is not None:
            self.leases.wake(news)

    async def _beat(self, log: _Log) -> None:
        # From the beginning of one to the beginning of the next, however long it takes.
        self._beat_due = self._runtime.monotonic() + self._journal.terms.heartbeat
        await log.sync(probe=True)
        if self.leases is not None:
            await self.leases.send_releases(once_more=True)

    async def rest(self) -> None:
        """Wait before the next try: longer each time, and not in step with other instances."""
        longest = min(_LONGEST_PAUSE, self._journal.terms.heartbeat)
        pause = min(longest, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        await self._runtime.event().wait(pause * (0.5 + self._runtime.random() / 2))

    # -- events and log lines ------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        if self._lost_at is not None:
            return
        now = self._lost_at = self._runtime.monotonic()
        self._counters.on("shared_lost", error=error)
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            _logger.warning(
                "the shared layer does not answer (%r); until it does, this process fetches for"
                " itself",
                error,
            )

    def _back(self) -> None:
        if self._lost_at is None:
            return
        now = self._runtime.monotonic()
        away, self._lost_at = now - self._lost_at, None
        self._counters.on("shared_back", seconds=away)
        # Log the return only if the loss was logged.
        if self._warned >= now - away:
            _logger.info("the shared layer answers again, after %.1f s", away)

    def _say_deaf(self, error: Exception) -> None:
        now = self._runtime.monotonic()
        if now - self._warned_deaf >= _WARN_EVERY:
            self._warned_deaf = now
            _logger.warning(
                "cannot subscribe to news of the shared layer (%r): purges, and waiting for fetches"
                " of other instances, take longer",
                error,
            )


async def _attend(reference: weakref.ref[Heartbeat], generation: int) -> None:
    """The loop. While it waits it holds on to nothing but the subscription. Never raises."""
    subscription: Subscription | None = None
    news: Any = None
    try:
        while True:
            me = reference()
            if me is None or not me.wanted(generation):
                return
            if subscription is None:
                subscription = await me.connect()
                news = None
                if subscription is None:
                    if me.wanted(generation):
                        await me.rest()
                    continue
            try:
                pause = await me.tend(news)
                del me
                news = await answered(subscription.next(pause))
            except Exception as error:
                # Perhaps only this connection is gone: the next look will tell.
                _logger.debug("the heartbeat of the shared layer starts anew: %r", error)
                await _close(subscription)
                subscription = None
                if (me := reference()) is not None and me.wanted(generation):
                    await me.rest()
    except GeneratorExit:  # its loop was closed over it: nothing can be awaited
        if subscription is not None:
            subscription.abandon()
            subscription = None
        raise
    finally:
        if subscription is not None:
            await _close(subscription)


async def _close(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):
        await answered(subscription.close())
