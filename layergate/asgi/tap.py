"""The server that the app sees while its response is fed into an exchange.

A `Tap` is made for each call of the app whose response may be stored (by `fetching`, and by
`forwarding` once a head asks for it). It gives each message to the `Feed`, and sends to the client what
the feed says is for the client. It decides nothing about storing or sharing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any, Final

from layergate.asgi.calling import ask, begin_call
from layergate.asgi.incoming import Incoming
from layergate.asgi.messages import BODY, START, App, Message, Scope, Send
from layergate.asgi.scope import HIT_FOR_MISS, has_token, is_personal
from layergate.errors import OriginUnreachable
from layergate.frameworks import KEY
from layergate.http.engine.cache import Cache
from layergate.http.engine.exchange import Delivery, Exchange
from layergate.http.engine.feed import Feed
from layergate.route_calls import RouteCall, policy_place

__all__ = ["Client", "Tap", "settled"]

_logger = logging.getLogger("layergate")

_OURS: Final = frozenset({"headers", "extensions", KEY, HIT_FOR_MISS})


class Client:
    """The client of the request that caused a fetch. The app speaks with it directly once it may.

    ``gone``: it has left, or has its response already.
    """

    __slots__ = ("gone", "receive", "send")

    def __init__(self, receive: Incoming, send: Send) -> None:
        self.receive = receive
        self.send = send
        self.gone = False


class Tap:
    """One call of the app, and the exchange that its response is fed into.

    ``scope``: what the app is called with. ``outer``: the scope that this is a copy of, if middleware
    outside of LayerGate is to see what the app notes in it. ``client``: None for a background refresh.
    ``route``: the call, if it has begun already. ``error``: what the app raised, for the request that
    leads.
    """

    __slots__ = (
        "_app",
        "_asked",
        "_cache",
        "_client",
        "_flushing",
        "_held",
        "_outer",
        "_scope",
        "error",
        "exchange",
        "feed",
        "route",
    )

    def __init__(
        self,
        app: App,
        cache: Cache,
        exchange: Exchange,
        scope: Scope,
        client: Client | None,
        *,
        outer: Scope | None = None,
        route: RouteCall | None = None,
    ) -> None:
        self._app = app
        self._cache = cache
        self._scope = scope
        self._outer = outer
        self._client = client
        self._held: Message | None = None  # the head, until the first part of the body is there
        self._flushing: asyncio.Task[None] | None = (
            None  # sends the head of a body that takes its time
        )
        self._asked = False
        self.exchange = exchange
        self.feed = Feed(cache, exchange, functools.partial(has_token, scope))
        self.route = begin_call(cache, scope) if route is None else route
        self.error: Exception | None = None

    @property
    def deserted(self) -> bool:
        return self._client is None or self._client.gone

    # -- the call ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Call the app, in a task of its own. Raises nothing but cancellation."""
        feed = self.feed
        if self.exchange.asked.refreshes and not await feed.wanted():
            return
        # (the scope is a copy; the list is too, since apps change theirs)
        self._scope["headers"] = [*feed.carried(self._scope["headers"])]
        self._scope[KEY] = self.route
        policy_place.set(self.route)  # (this task has a context of its own)
        try:
            with feed.calling():
                await ask(self._app, self._scope, self.receive, self.send)
            if self._flushing is not None:
                await self.flushed()
        except Exception as error:
            await self._failed(error)
        except BaseException:
            feed.abort()
            raise
        else:
            await feed.end()
        finally:
            self.route.returned()
            self.route.close()
        await settled(feed)

    async def _failed(self, error: Exception) -> None:
        if (
            self.deserted
            and isinstance(error.__context__ or error, _Deserted | OSError)
            and not isinstance(error, OriginUnreachable)
        ):
            # It is what `_to_client` has raised, perhaps wrapped by a framework.
            self.feed.abort(error)
            return
        dropped = self.feed.delivery is Delivery.DROP
        if self.feed.failed(error):
            await self.feed.end()
            if not dropped:
                return
        if not self.deserted:
            self.error = error
        elif isinstance(error, OriginUnreachable):
            _logger.warning("the app failed; no client was waiting: %s", error)
        else:
            _logger.error("the app failed; no client was waiting", exc_info=error)

    # -- what the app receives -----------------------------------------------------------------

    async def receive(self) -> Message:
        """The (empty) content of the request. Then a disconnect, once no client has a part in this fetch
        any more."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        client, exchange = self._client, self.exchange
        if client is None:
            await exchange.wait_until_over()
            return {"type": "http.disconnect"}
        if not client.gone:
            await client.receive.disconnected()
        if self.feed.delivery not in (Delivery.FORWARD, Delivery.COPY) and exchange.leads_others:
            # This client is gone, but other clients wait for the response, or read it.
            await exchange.wait_until_over()
        return {"type": "http.disconnect"}

    # -- what the app sends --------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._flushing is not None:
            await self.flushed()
        feed = self.feed
        delivery = feed.delivery
        if kind == BODY:
            if delivery is None:
                raise RuntimeError("the app sent http.response.body before http.response.start")
            more = message.get("more_body", False)
            if delivery is not Delivery.FORWARD:
                delivery = await feed.part(message.get("body", b""), more=more)
            if delivery is Delivery.FORWARD or delivery is Delivery.COPY:
                if self._held is not None:
                    await self._head_to_client()
                await self._to_client(message)
            elif delivery is Delivery.SHARE and more and self.exchange.stream.oversized:
                await self.exchange.stream.room()
                if not self.exchange.stream.readers:
                    raise _Deserted("every client is gone")
        elif kind == START:
            await self._head(message)
        elif delivery is Delivery.COPY:
            # The rest of the body takes another way (pathsend, zerocopysend, trailers): what was
            # seen of it is not the whole.
            feed.give_up()
            await self._head_to_client()
            await self._to_client(message)
        elif delivery is None or delivery is Delivery.FORWARD:
            # Early hints, debug information: for the client whose request this is.
            if not self.deserted:
                await self._to_client(message)

    async def _head(self, message: Message) -> None:
        exchange, scope, route = self.exchange, self._scope, self.route
        status, asked = message["status"], exchange.request
        # (by the path that was asked for: the app may have changed it)
        asked.secured |= route.secured(scope, asked.method, asked.path)
        delivery = await self.feed.head(
            status,
            list(message.get("headers", ())),
            policy=route.policy(scope, asked.method, status),
            personal=is_personal(scope),
            trailers=bool(message.get("trailers")),
        )
        route.close()
        if self._outer is not None:
            self._note_back(self._outer)
        if delivery is Delivery.DROP:
            return
        self._held = message  # (of a shared response too: it may turn out not to be shared)
        if not exchange.opened:
            if not self.feed.waits_for_page:
                # An app that has all of the body sends it now. One that does not must not hold back
                # the head.
                asyncio.get_running_loop().call_soon(self._overdue)
        elif delivery is not Delivery.SHARE:
            await self._head_to_client()

    def _note_back(self, outer: Scope) -> None:
        """Show middleware outside of LayerGate what the app noted in its scope (route, endpoint)."""
        for name, value in self._scope.items():
            if name not in _OURS and outer.get(name) is not value:
                outer[name] = value

    def _overdue(self) -> None:
        """The body did not come with the head: the head goes out without it."""
        delivery = self.feed.overdue()
        if delivery is not None:
            flush = self.feed.remember() if delivery is Delivery.SHARE else self._head_to_client()
            self._flushing = asyncio.create_task(flush)

    async def flushed(self) -> None:
        """Wait until a head is sent that is being sent. Raises what sending it raised."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            await flushing

    async def _head_to_client(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._to_client({**held, "headers": self.feed.client_lines})

    async def _to_client(self, message: Message) -> None:
        client = self._client
        if client is None:
            return  # a background refresh
        if client.gone:
            if self.feed.delivery is Delivery.COPY:
                return  # worth finishing, for the store
            raise _Deserted("the client is gone")
        if self.feed.delivery is Delivery.COPY:
            with self.exchange.stream.at_client():
                await client.send(message)
        else:
            await client.send(message)


class _Deserted(OSError):
    """There is no client left to send to. (ASGI has servers raise an OSError then.)"""


async def settled(feed: Feed) -> None:
    """Where the loop may end with this request, wait for the background work that is part of it (see
    `Feed.unfinished`).

    A layer that hangs holds no request for longer than half of what one operation may take (G5).
    """
    if not feed.unfinished:
        return
    loop = asyncio.get_running_loop()
    until = loop.time() + feed.patience / 2
    while left := feed.unfinished:
        tasks: list[asyncio.Task[Any]] = [task for task in left if isinstance(task, asyncio.Task)]
        if (await asyncio.wait(tasks, timeout=max(0.0, until - loop.time())))[1]:
            return
