"""What runs beside the requests: one loop per process, which listens and keeps the heart beating.

It is subscribed to the fleet's channel (there is something to read in the log) and to this
instance's own (a lease was released that somebody here waits for), tells the log to catch up, and
has the leases renewed, and those given back that could not be when they should. Nothing depends on a message: what is missed is found at the next beat, or by
those who look again from time to time. While Redis is away it is the one that keeps asking.

It belongs to its log, weakly: with a stack that nobody uses any more it ends.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

from layergate.core.ports import Task
from layergate.core.shared import Joining
from layergate.layers.redis.server import Server, Subscription

if TYPE_CHECKING:
    from layergate.layers.redis.leases import RedisLeases
    from layergate.layers.redis.log import RedisLog

__all__ = ["Companion"]

_logger = logging.getLogger("layergate")

_FIRST_PAUSE: Final = 0.05  # seconds
_LONGEST_PAUSE: Final = 2.0
_TELL_EVERY: Final = 60.0  # seconds between two warnings about the same


class Companion:
    """The background loop of one `RedisLog`.

    ``heartbeat``: seconds between two signs of life.
    """

    def __init__(
        self, server: Server, joining: Joining, log: RedisLog, *, heartbeat: float
    ) -> None:
        self._server = server
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._log = weakref.ref(log)
        self._heartbeat = heartbeat
        self._longest_pause = min(_LONGEST_PAUSE, heartbeat)
        # Set by the leases, if there are any.
        self.leases: RedisLeases | None = None
        self._told = float("-inf")
        self._told_deaf = float("-inf")
        self.forked()

    def forked(self) -> None:
        """Nothing runs in the child of a fork."""
        self._lock = self._runtime.lock()
        self._task: Task | None = None
        self._started = False
        # Which loop is the one that is wanted: an older one ends when it sees that it is not.
        self._generation = 0
        self._seen = float("-inf")
        self._lost_at: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._failures = 0
        self._beat_due = self._renew_due = float("-inf")
        # A position that a beat found, and no message has told of yet.
        self._untold = 0

    # -- from outside --------------------------------------------------------------------------

    @property
    def instance(self) -> bytes:
        """What this process is called, in Redis."""
        log = self._log()
        return b"" if log is None else log.instance

    @property
    def channels(self) -> bytes:
        """What the names of the instances' channels begin with."""
        log = self._log()
        return b"" if log is None else log.channels

    @property
    def running(self) -> bool:
        """Does it run, as far as one can see from outside?

        A loop (asyncio) that was closed, or stands still, does not show otherwise.
        """
        task = self._task
        if not self._started or (task is not None and task.done()):
            return False
        late = self._runtime.monotonic() - self._seen
        return late < 4 * self._heartbeat + 4 * self._server.timeout + 1.0

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
            # Before it is: on its thread it may look at once whether it runs.
            self._task, self._started = None, True
            try:
                self._task = self._runtime.companion(work, name="layergate companion")
            except RuntimeError:  # the interpreter is going down
                self._started = False
                return False
        self._runtime.at_end(self._loop_ends)
        return True

    async def _loop_ends(self) -> None:
        """Nobody speaks for this instance any more, until a request comes on another loop: so no
        purge shall wait for it."""
        log = self._log()
        if log is None or self.running:
            return
        await log.leave()
        if self.leases is not None:
            await self.leases.settle()

    @property
    def stranded(self) -> bool:
        """Was it started, on a loop that has ended since?"""
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
        """A subscription, and up to date after it; or None, when there was none to be had."""
        self._seen = self._runtime.monotonic()
        log = self._log()
        assert log is not None
        subscription: Subscription | None = None
        try:
            try:
                channels = [log.channel, log.own_channel]
                subscription = await self._server.subscribe(channels, probe=True)
                deaf: Exception | None = None
            except Exception as error:
                deaf = error
            # Also without: a connection more may be refused where a call is not.
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

    async def tend(self, message: tuple[bytes, bytes] | None) -> float:
        """Do what is due. Returns when something will be again, in seconds from now."""
        log = self._log()
        assert log is not None
        now = self._seen = self._runtime.monotonic()
        if message is not None:
            self._failures = 0
            channel, payload = message
            if channel == log.channel:
                if log.is_news(payload):
                    await log.sync(probe=True)
                self._untold = 0
            elif self.leases is not None:
                self.leases.wake(payload)
        if now >= self._beat_due:
            if self._untold:
                raise ConnectionError("no message came about what is in the log")
            self._failures = 0
            before = log.applied
            await self._beat(log)
            # A line that is cut without a word lets us wait for ever. Unless the message is on its
            # way, which the next beat will tell.
            if log.applied != before:
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

    async def _beat(self, log: RedisLog) -> None:
        # From the beginning of one to the beginning of the next, however long it takes.
        self._beat_due = self._runtime.monotonic() + self._heartbeat
        await log.sync(probe=True)
        if self.leases is not None:
            await self.leases.settle(once_more=True)

    async def rest(self) -> None:
        """Wait before the next try: longer each time, and not in step with other instances."""
        pause = min(self._longest_pause, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        await self._runtime.event().wait(pause * (0.5 + self._runtime.random() / 2))

    # -- telling -------------------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        if self._lost_at is not None:
            return
        now = self._lost_at = self._runtime.monotonic()
        self._counters.on("shared_lost", error=error)
        if now - self._told >= _TELL_EVERY:
            self._told = now
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
        # Only what was told to be lost is told to be back.
        if self._told >= now - away:
            _logger.info("the shared layer answers again, after %.1f s", away)

    def _say_deaf(self, error: Exception) -> None:
        now = self._runtime.monotonic()
        if now - self._told_deaf >= _TELL_EVERY:
            self._told_deaf = now
            _logger.warning(
                "cannot subscribe to the shared layer's channels (%r): purges and the waiting for"
                " other instances' fetches take longer",
                error,
            )


async def _attend(reference: weakref.ref[Companion], generation: int) -> None:
    """The loop. While it waits it holds on to nothing but the subscription. Never raises."""
    subscription: Subscription | None = None
    message: Any = None
    try:
        while True:
            me = reference()
            if me is None or not me.wanted(generation):
                return
            if subscription is None:
                subscription = await me.connect()
                message = None
                if subscription is None:
                    if me.wanted(generation):
                        await me.rest()
                    continue
            try:
                pause = await me.tend(message)
                del me
                message = await subscription.next(pause)
            except Exception as error:
                # Perhaps only this connection is gone: the next look will tell.
                _logger.debug("the companion of the shared layer starts anew: %r", error)
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
        await subscription.close()
