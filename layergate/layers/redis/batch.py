"""Commands of one tick of an event loop, together in one round trip.

`RedisClient` uses it under asyncio. Each caller waits for a future of its own; the round trip belongs to
a task of its own. So a caller that is cancelled or gives up takes nothing from the others, and leaves no
reply unread.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.layers.redis.connection import Command

__all__ = ["LIMIT", "Batcher"]

LIMIT: Final = 512  # commands (or keys) of one round trip
_PARALLEL: Final = 4  # round trips under way at a time, each on a connection of its own

Wanted: TypeAlias = Callable[[], bool]
Send: TypeAlias = Callable[[list[Command], bool, Wanted], Awaitable[list[Any]]]


class _Group:
    """One round trip: keys to get, and other commands."""

    __slots__ = (
        "asks", "commands", "due", "gets", "keys", "probe", "settled", "ticket", "timer",
    )  # fmt: skip

    def __init__(self, ticket: int, probe: bool) -> None:
        self.ticket = ticket
        self.probe = probe
        self.keys: list[bytes] = []
        self.gets: list[asyncio.Future[Any]] = []
        self.commands: list[Command] = []
        # A future, and how many of the commands are its: None for one, whose reply it gets as it
        # is; else it gets a list, with error replies in it.
        self.asks: list[tuple[asyncio.Future[Any], int | None]] = []
        self.settled = False
        self.timer: asyncio.TimerHandle | None = None
        self.due = 0.0  # of the timer, on the loop's clock; 0: it has had its grace

    def __len__(self) -> int:
        return len(self.keys) + len(self.commands)

    def wanted(self) -> bool:
        """True if a caller still waits for it."""
        return any(not future.done() for future in self.gets) or any(
            not future.done() for future, _ in self.asks
        )

    def fail(self, error: BaseException) -> None:
        """Give this error to every caller that still waits. The futures are dropped, because the error's
        traceback may refer to this group, and they refer to the error."""
        for future in (*self.gets, *(future for future, _ in self.asks)):
            # (No caller waits on a loop that was closed.)
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(error)
        self.gets = []
        self.asks = []

    def wire(self, merge: bool) -> list[Command]:
        if len(self.keys) > 1 and merge:
            return [("MGET", *self.keys), *self.commands]
        return [("GET", key) for key in self.keys] + self.commands

    def resolve(self, replies: list[Any], merge: bool) -> None:
        """Hand out the replies to the commands of `wire`."""
        at = 0
        if len(self.keys) > 1 and merge:
            values = replies[0]
            at = 1
            if isinstance(values, Exception):
                values = [values] * len(self.keys)
            elif not isinstance(values, list) or len(values) != len(self.keys):
                raise InvalidResponse(f"this is no reply to MGET: {values!r:.100}")
        else:
            at = len(self.keys)
            values = replies
        for future, value in zip(self.gets, values, strict=False):
            _give(future, value)
        for future, count in self.asks:
            if count is None:
                _give(future, replies[at])
                at += 1
            else:
                if not future.done():
                    future.set_result(replies[at : at + count])
                at += count


def _give(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class Batcher:
    """Gathers the commands of one tick of its loop and sends them.

    ``send``     takes commands, True if they are a probe, and a function that returns True while a caller
                 waits for them. Returns a reply for each, or raises.
    ``settle``   is called with the outcome of each round trip: a ticket, and the replies or an error.
    ``merge``    several GETs may become one MGET.
    ``timeout``  seconds after which callers get a TimeoutError.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Send,
        settle: Callable[[int, list[Any] | BaseException], object],
        *,
        merge: bool,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._send = send
        self._settle = settle
        self._merge = merge
        self._timeout = timeout
        self._open: _Group | None = None  # takes commands until it is sent
        self._queue: deque[_Group] = deque()  # waits for a task to end, the open one last
        self._tasks: set[asyncio.Task[None]] = set()
        self.trips = 0
        self.commands = 0

    def get(self, key: bytes, ticket: int) -> asyncio.Future[Any]:
        """The value under ``key``, or None."""
        group = self._group(1, ticket, False)
        future = self._loop.create_future()
        group.keys.append(key)
        group.gets.append(future)
        return future

    def ask(self, command: Command, ticket: int, *, probe: bool) -> asyncio.Future[Any]:
        """The reply to one command; an error reply is raised."""
        group = self._group(1, ticket, probe)
        future = self._loop.create_future()
        group.commands.append(command)
        group.asks.append((future, None))
        return future

    def ask_all(self, commands: list[Command], ticket: int) -> asyncio.Future[list[Any]]:
        """The replies to all of them, error replies among them as exceptions."""
        group = self._group(len(commands), ticket, False)
        future = self._loop.create_future()
        group.commands.extend(commands)
        group.asks.append((future, len(commands)))
        return future

    def _group(self, more: int, ticket: int, probe: bool) -> _Group:
        group = self._open
        if (
            group is not None
            and group.ticket == ticket
            and group.probe is probe
            and len(group) + more <= LIMIT
        ):
            return group
        self._open = group = _Group(ticket, probe)
        self._queue.append(group)
        group.due = self._loop.time() + self._timeout
        group.timer = self._loop.call_at(group.due, self._expire, group)
        if len(self._tasks) < _PARALLEL:
            # It begins in the next turn of the loop, after all calls of this turn: so not by the loop's
            # factory, which may be an eager one. In an empty context: this task must not keep alive
            # what a caller has in its context.
            task = asyncio.Task(
                self._run(),
                loop=self._loop,
                name="layergate-redis",
                context=contextvars.Context(),
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
                    await self._exchange(group)
        finally:
            # At once, and not in a callback a turn later: a caller that this has woken may ask in
            # between, and would rely on a task that does not look at the queue any more.
            self._tasks.discard(task)

    async def _exchange(self, group: _Group) -> None:
        commands = group.wire(self._merge)
        self.trips += 1
        self.commands += len(commands)
        try:
            replies = await self._send(commands, group.probe, group.wanted)
            if len(replies) == len(commands):
                group.resolve(replies, self._merge)
                self._over(group, replies)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                group.fail(RedisConnectionError("closed"))
            else:
                self._over(group, error)
                group.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if group.timer is not None:
                group.timer.cancel()
            # There is no timer any more: whatever happens, no caller is left waiting.
            group.fail(RedisConnectionError("no reply"))

    def _expire(self, group: _Group) -> None:
        late = self._loop.time() - group.due
        if group.due and late > self._timeout / 10:
            # The loop was busy elsewhere: the reply may be there, but not read yet.
            group.due = 0.0
            group.timer = self._loop.call_later(min(late, self._timeout), self._expire, group)
            return
        if group.wanted():
            error = RedisTimeoutError(f"no answer within {self._timeout:.3g} s")
            self._over(group, error)
            group.fail(error)

    def _over(self, group: _Group, outcome: list[Any] | BaseException) -> None:
        """Each group has one outcome, however many callers wait for it and however often it fails."""
        if not group.settled:
            group.settled = True
            self._settle(group.ticket, outcome)

    async def close(self) -> None:
        """Fail the calls that wait, and end the round trips that are under way."""
        while self._queue:
            group = self._queue.popleft()
            if group.timer is not None:
                group.timer.cancel()
            group.fail(RedisConnectionError("closed"))
        self._open = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
