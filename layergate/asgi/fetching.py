"""Fetches that the engine asks for: how the app is called for them under ASGI.

A fetch that other requests may share runs in a task of its own, with a copy of the context of the
request that caused it. That request reads along like every follower: it may be slow, or go away, and
the fetch goes on. As soon as the head shows that the response is not to be shared, the app speaks with
the client of that request directly, message by message. A fetch that nothing can share runs in the
task of its request, as if LayerGate were not there.

The middleware calls a `Fetcher` with what `driver.Conversation` has decided; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from layergate.asgi.calling import ask
from layergate.asgi.incoming import Incoming
from layergate.asgi.messages import START, App, Scope, Send
from layergate.asgi.scope import forward_scope, refresh_scope
from layergate.asgi.sending import read_along, send_response
from layergate.asgi.tap import Client, Tap, settled
from layergate.errors import OriginAborted
from layergate.frameworks import KEY
from layergate.http.engine.cache import Cache
from layergate.http.engine.driver import (
    Attempt,
    Conversation,
    Fetch,
    Serve,
    refreshing,
    resolve,
)
from layergate.http.engine.exchange import Delivery, Exchange, State
from layergate.http.engine.stream import Reader
from layergate.route_calls import policy_place
from layergate.runtime.loop import LoopRuntime

__all__ = ["Fetcher"]


class Fetcher:
    """Calls ``app`` for the fetches of one request: ``scope``, ``receive`` and ``send`` are its own."""

    __slots__ = ("_app", "_cache", "_receive", "_runtime", "_scope", "_send")

    def __init__(
        self,
        app: App,
        cache: Cache,
        runtime: LoopRuntime,
        scope: Scope,
        receive: Incoming,
        send: Send,
    ) -> None:
        self._app = app
        self._cache = cache
        self._runtime = runtime
        self._scope = scope
        self._receive = receive
        self._send = send

    async def fetch(self, conversation: Conversation, step: Fetch) -> bool:
        """Make a fetch and answer the client. False if the app has to be called once more, after
        which `Conversation.again` asks."""
        if step.exchange.uncollapsed and step.patience is None:
            return await self._uncollapsed(step.exchange)
        return await self._shared(conversation, step)

    def refresh(self, exchange: Exchange) -> asyncio.Task[Any]:
        """Refresh what is stored, in the background."""
        refreshing(self._cache, 1)
        inner = refresh_scope(self._scope, exchange.asked.header_lines())
        task, guard = self._spawn(Tap(self._app, self._cache, exchange, inner, None), None)
        task.add_done_callback(lambda _: refreshing(self._cache, -1))
        guard.watch()
        return task

    # -- in a task of its own ------------------------------------------------------------------

    def _spawn(
        self, tap: Tap, context: contextvars.Context | None
    ) -> tuple[asyncio.Task[Any], _Guard]:
        task = self._runtime.spawn(tap.run(), name="layergate fetch", context=context)
        limit = float(self._cache.options.abandoned_timeout)  # type: ignore[arg-type]
        guard = _Guard(tap, task, limit)
        task.add_done_callback(guard.done)
        return task, guard

    async def _shared(self, conversation: Conversation, step: Fetch) -> bool:
        """Make a fetch that others may share, and be its first reader."""
        exchange = step.exchange
        client = Client(self._receive, self._send)
        inner = forward_scope(self._scope, exchange.asked.header_lines())
        tap = Tap(self._app, self._cache, exchange, inner, client, outer=self._scope)
        task: asyncio.Task[Any] | None = None
        try:
            with exchange.stream.reader(exchange.request) as reader:
                task, guard = self._spawn(tap, contextvars.copy_context())
                done = await self._answer(conversation, step, reader, client, task)
            if not task.done():
                guard.watch()  # this reader has left
            if client.gone:
                return done  # it has its response; what comes of the fetch is for others
            over = exchange.stream.ended or exchange.state in (State.RELEASED, State.FAILED)
            if over or not self._runtime.lasts():
                # The response is out. What the app still does (background tasks) is part of this
                # request, and so is what goes wrong there; where the loop may end with it, the rest
                # of the fetch as well.
                if not task.done():
                    await asyncio.wait([task])
            else:
                client.gone = True
        except BaseException:
            # Cancelled, or the client went away. A response for this client alone ends with it; any
            # other fetch goes on, for the followers and for the store (G2).
            client.gone = True
            tap.error = None  # its traceback may refer to this frame
            if task is not None and exchange.state is State.RELEASED:
                task.cancel()
                await asyncio.wait([task])
            elif task is not None:
                guard.watch()
            raise
        error, tap.error = tap.error, None
        if done:
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
            if exchange.state is State.FAILED and task.cancelled():
                raise OriginAborted("the app was cancelled before it responded")
        return done

    async def _answer(
        self,
        conversation: Conversation,
        fetch: Fetch,
        reader: Reader,
        client: Client,
        task: asyncio.Task[Any],
    ) -> bool:
        """Answer the client of a fetch that runs in ``task``. As `fetch`."""
        exchange = fetch.exchange
        step = await conversation.lead(fetch, reader)
        if step is None:
            if exchange.state is State.RELEASED:
                await asyncio.wait([task])  # the app speaks with the client itself
            return True
        if isinstance(step, Attempt):
            return False
        if isinstance(step, Serve):
            if exchange.state is State.PENDING:
                # A stale response is sent. From here on the app must not speak with this client,
                # whatever it answers.
                client.gone = True
            await send_response(client.send, step.response)
            return True
        head = step.head
        await client.send({"type": START, "status": head.status, "headers": head.lines})
        error: BaseException | None = None
        try:
            await read_along(reader, client.receive, client.send)
        except OriginAborted:
            error = exchange.stream.error
            if error is None:
                raise
        if error is not None:
            # (Raised in there, it would have for a context what has it for a cause: a circle.)
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return True

    # -- in the task of its request ------------------------------------------------------------

    async def _uncollapsed(self, exchange: Exchange) -> bool:
        """Fetch for this request alone, and keep a copy if that may be stored."""
        # (a list of its own: apps change theirs, and the request's is looked at again)
        inner = dict(self._scope)
        client = Client(self._receive, self._send)
        tap = Tap(self._app, self._cache, exchange, inner, client, outer=self._scope)
        inner["headers"] = [*tap.feed.carried(exchange.asked.header_lines())]
        inner[KEY] = tap.route
        place = policy_place.set(tap.route)
        late: Exception | None = None  # what the app raised after its response was dropped
        try:
            with tap.feed.calling():
                await ask(self._app, inner, self._receive, tap.send)
            await tap.flushed()
        except Exception as error:
            if not tap.feed.failed(error):
                raise
            late = error if tap.feed.delivery is Delivery.DROP else None
        except BaseException as error:
            tap.feed.abort(error)
            raise
        finally:
            policy_place.reset(place)
            tap.route.returned()
        await tap.feed.end()
        step = resolve(self._cache, exchange)
        if isinstance(step, Serve):
            await send_response(self._send, step.response)
        await settled(tap.feed)
        if isinstance(step, Attempt):
            return False
        if late is not None:
            try:
                raise late
            finally:
                del late  # its traceback refers to this frame
        return True


class _Guard:
    """Ends a fetch that has no reader any more.

    It checks every ``limit`` seconds, from when the request that caused the fetch leaves it (`watch`).

    (Everything that refers to a fetch must be gone with it, without the garbage collector, because a
    fetch holds a whole body. So this is no function that refers to itself.)
    """

    __slots__ = ("_limit", "_tap", "_task", "_timer")

    def __init__(self, tap: Tap, task: asyncio.Task[Any], limit: float) -> None:
        self._tap = tap
        self._task = task
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """From now on, the fetch may be without a reader."""
        if self._timer is None and not self._task.done():
            self._timer = asyncio.get_running_loop().call_later(self._limit, self._check)

    def _check(self) -> None:
        self._timer = None
        exchange = self._tap.exchange
        if self._task.done() or exchange.stream.ended:
            return
        if not exchange.stream.readers and (
            exchange.state is not State.RELEASED or self._tap.deserted
        ):
            self._task.cancel()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(self._limit, 0.1), self._check)

    def done(self, _: object) -> None:
        """The task is over, or never began."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tap.feed.abort()  # does nothing, unless the task ended before it could begin
