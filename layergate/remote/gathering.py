"""Reads that come at the same time, in one round trip.

Under asyncio, 64 requests that look for 64 keys in one turn of the loop would take 64 round trips, and
as many connections. `GatheredBlobs` collects the names of one turn and asks for them with one
`Blobs.get_many`. Under threads each read is a round trip of its own, on the thread that asks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import Final

from layergate.core.ports import Runtime
from layergate.errors import LayerError, LayerTimeout
from layergate.remote.places import PerPlace
from layergate.shared.guard import Guard
from layergate.shared.guarded import GuardedBlobs
from layergate.shared.ports import Blobs, Limits

__all__ = ["GatheredBlobs"]

_MOST: Final = 512  # names in one round trip
_PARALLEL: Final = 4  # round trips under way at a time, in one loop


class GatheredBlobs:
    """`Blobs`, each call through the ``guard``, and the reads of one turn of an event loop together."""

    def __init__(self, blobs: Blobs, guard: Guard, runtime: Runtime) -> None:
        self._guarded = GuardedBlobs(blobs, guard)
        self._blocking = runtime.blocking
        self._gatherers: PerPlace[_Gatherer] = PerPlace(
            guard.name,
            lambda: _Gatherer(asyncio.get_running_loop(), self._guarded, guard),
            close=_Gatherer.close,
            abandon=_Gatherer.abandon,
        )
        self._gatherers.bind(runtime)

    @property
    def limits(self) -> Limits:
        return self._guarded.limits

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See `Blobs.get_many`."""
        if self._blocking or len(names) > 1:
            return await self._guarded.get_many(names)
        return (await self._gatherers.here().get(names[0]),)

    async def set(self, name: str, data: bytes, seconds: float) -> object:
        """See `Blobs.set`."""
        return await self._guarded.set(name, data, seconds)

    async def delete(self, name: str) -> bool:
        """See `Blobs.delete`."""
        return await self._guarded.delete(name)

    async def clear(self) -> object:
        """See `Blobs.clear`."""
        return await self._guarded.clear()


class _Group:
    """One round trip: for each name, the callers that wait for its value. ``due``: on the loop's clock."""

    __slots__ = ("callers", "due", "timer")

    def __init__(self, due: float) -> None:
        self.callers: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self.due = due
        self.timer: asyncio.TimerHandle | None = None

    def wanted(self) -> bool:
        return any(not one.done() for futures in self.callers.values() for one in futures)

    def resolve(self, values: Sequence[bytes | None]) -> None:
        # All or nothing: of a list that is too short, nobody knows which value is whose.
        for futures, value in list(zip(self.callers.values(), values, strict=True)):
            for future in futures:
                if not future.done():
                    future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """The callers are dropped: the error's traceback may refer to this group, and they to the error."""
        callers, self.callers = self.callers, {}
        for futures in callers.values():
            for future in futures:
                # (No caller waits on a loop that was closed.)
                if not future.done() and not future.get_loop().is_closed():
                    future.set_exception(error)


class _Gatherer:
    """The reads of one event loop. A caller that is cancelled takes nothing from the others: each waits
    for a future of its own, and the round trip belongs to a task of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, blobs: GuardedBlobs, guard: Guard) -> None:
        self._loop = loop
        self._blobs = blobs
        self._guard = guard
        self._open: _Group | None = None  # takes names until it is sent
        self._queue: deque[_Group] = deque()  # waits for a round trip to end, the open one last
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, name: str) -> asyncio.Future[bytes | None]:
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        group = self._open
        if group is None or len(group.callers) >= _MOST:
            group = self._begin()
        group.callers.setdefault(name, []).append(future)
        return future

    def _begin(self) -> _Group:
        loop = self._loop
        self._open = group = _Group(loop.time() + self._guard.timeout)
        self._queue.append(group)
        group.timer = loop.call_at(group.due, self._expire, group)
        if len(self._tasks) < _PARALLEL:
            # It begins in the next turn of the loop, after all reads of this turn: so not by the loop's
            # factory, which may be an eager one. In an empty context: this task must not keep alive
            # what a caller has in its context.
            task = asyncio.Task(
                self._run(), loop=loop, name="layergate-reads", context=contextvars.Context()
            )
            # If the loop is closed over it, no caller waits for it any more.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)  # (one that never began)
        return group

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._queue:
                group = self._queue.popleft()
                if group is self._open:
                    self._open = None
                if group.wanted():
                    await self._ask(group)
                elif group.timer is not None:
                    group.timer.cancel()
        finally:
            # At once, and not in a callback a turn later: a caller that this has woken may ask in
            # between, and would rely on a task that does not look at the queue any more.
            self._tasks.discard(task)

    async def _ask(self, group: _Group) -> None:
        try:
            group.resolve(await self._blobs.get_many(list(group.callers)))
        except BaseException as error:
            ended = not isinstance(error, Exception)
            group.fail(LayerError(self._guard.name, "the read was ended") if ended else error)
            if ended:
                raise
        finally:
            if group.timer is not None:
                group.timer.cancel()

    def _expire(self, group: _Group) -> None:
        """The callers have waited long enough, be it for the answer or for their turn."""
        late = self._loop.time() - group.due
        if group.due and late > self._guard.timeout / 10:
            # The loop was busy elsewhere: the answer may be there, but not read yet.
            group.due = 0.0
            group.timer = self._loop.call_later(min(late, self._guard.timeout), self._expire, group)
            return
        seconds = self._guard.timeout
        group.fail(LayerTimeout(self._guard.name, f"no answer within {seconds:.3g} s"))

    async def close(self) -> None:
        """Fail the reads that wait, and end the round trips that are under way."""
        self.abandon()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def abandon(self) -> None:
        """Fail the reads that wait for their turn."""
        self._open = None
        while self._queue:
            group = self._queue.popleft()
            if group.timer is not None:
                group.timer.cancel()
            group.fail(LayerError(self._guard.name, "the layer was closed"))
