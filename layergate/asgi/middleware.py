"""The ASGI middleware: from scopes and messages to the engine, and back.

A fetch that others may share runs in a task of its own, with a copy of the request's context. The
request that caused it reads along like every follower, so it may be slow, or go away, and nobody
else notices. As soon as the head shows that the response is not to be shared, the app is connected
with its own client, message by message. What cannot be shared from the start (see `Cache.open`)
runs in the request's task, as if LayerGate were not there.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias, overload

from layergate.asgi.scope import (
    Arrived,
    Scope,
    asked_request,
    forward_scope,
    has_token,
    header_lines,
    is_personal,
    read_request,
    refresh_scope,
    route_path,
    scope_key,
)
from layergate.assembly import HttpCache, wrong_world
from layergate.core.entry import Entry
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import ConfigError, OriginAborted, OriginUnreachable
from layergate.frameworks import KEY
from layergate.http.admin import MAX_BODY, AdminEndpoint
from layergate.http.engine.cache import Follow, Pass, Serve
from layergate.http.engine.exchange import Exchange, Reader, Relay, State
from layergate.http.engine.posting import after_post, begin
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import primary_key, quoted
from layergate.http.message.ranges import PIECE, Slices
from layergate.http.message.request import Request
from layergate.http.message.stored import HitForMiss, Served, StoredResponse
from layergate.http.privacy.identity import Says, names_who
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.storing import Refused
from layergate.http.rules import Match
from layergate.routes import RouteCall, policy_place, refuse_circle
from layergate.runtime.loop import LoopRuntime

__all__ = ["MARKED", "LayerGate"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
_Target: TypeAlias = tuple[str, str, str, bytes]

_logger = logging.getLogger("layergate")

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
MARKED: Final = "layergate.marked"
"""Scope key: what `LayerGate.plain_hit` has just found, so that it need not be looked for again.
For scopes that have ``extensions``: no others are looked at for it."""
_OURS: Final = frozenset({"headers", "extensions", KEY, MARKED})
_READS: Final = frozenset({"GET", "HEAD"})
_FRAMED_BY_FIELDS: Final = frozenset({"1.1", "1.0", "0.9", "1"})  # where fields announce content
_MAX_TRIES: Final = 3
_WATCH_AFTER: Final = 5.0  # seconds after which a reader looks whether its client is still there


class _Next(enum.Enum):
    """How a request goes on that has waited for, or led, an exchange."""

    DONE = enum.auto()
    AGAIN = enum.auto()  # decide anew
    ALONE = enum.auto()  # decide anew, and wait for nobody
    LATE = enum.auto()  # so too, for the wait was too long
    FRESH = enum.auto()  # decide anew, without what is stored


class LayerGate:
    """Response cache for an ASGI application.

    ``app``: the application. ``cache``: an `HttpCache` to use (and to purge from elsewhere);
    otherwise one is made from ``options``, which are those of `HttpCache`.

    Raises ConfigError, when it is added, for an option that cannot work.
    """

    world: Final = "ASGI"

    # (Starlette gives the app by position, Litestar by its name.)
    @overload
    def __init__(self, app: App, /, cache: HttpCache | None = None, **options: Any) -> None: ...
    @overload
    def __init__(self, *, app: App, cache: HttpCache | None = None, **options: Any) -> None: ...
    def __init__(  # type: ignore[misc]  # (no option is named app)
        self, app: App, cache: HttpCache | None = None, **options: Any
    ) -> None:
        self.app = app
        self.cache = HttpCache.given(app, cache, options, LoopRuntime)
        assert isinstance(self.cache.runtime, LoopRuntime)
        self._runtime = self.cache.runtime
        self._peek = self.cache.first_look
        self._counters = self.cache.stack.counters
        self.cache.adapted(self._adapt)

    def _adapt(self) -> None:
        """Take from the options what each request needs."""
        options, rules = self.cache.options, self.cache.rules
        admin = options.admin
        self._admin = None if admin is None else AdminEndpoint(self.cache, admin)
        self.obey_directives = options.request_directives
        self._method_lines = self.cache.pass_lines(Refused.METHOD, "method")
        self._rule_lines = self.cache.pass_lines(Refused.RULE, "bypass")
        # In the spellings that apps use, where ASGI wants lower case: cheaper than to lower them all.
        spelled = (str.lower, str.title, str.upper, _as_documented)
        self._hidden = frozenset(
            spell(name.decode()).encode()
            for name in self.cache.internal_fields
            for spell in spelled
        )
        self._adds = bool(self._hidden or self._rule_lines)  # is there a head to change at all?
        self._longest = options.max_key_length
        self._has_rules = len(rules) > 0
        self._bypasses = rules.bypasses or None
        self._bypassed_paths = rules.bypasses.exact

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            lifespan = scope["type"] == "lifespan"
            await self.app(scope, self._closing(receive) if lifespan else receive, send)
            return
        method = scope["method"]
        admin = self._admin  # read once: it may be replaced
        if admin is not None and (
            admin.serves(route_path(scope)) or (method == "PURGE" and admin.purge_method)
        ):
            await self._administer(admin, scope, receive, send)
            return
        if method not in _READS:
            if method in SAFE_METHODS:
                if self._adds:
                    send = _adding(send, self._method_lines, self._hidden)
                await self._pass(scope, receive, send)
            elif method == "POST":
                await self._post(scope, receive, send)
            else:
                await self._pass(scope, receive, self._after_unsafe(scope, send))
            return
        bypasses = self._bypasses
        if bypasses is not None and (
            (scope["path"] in self._bypassed_paths and not scope.get("root_path"))
            or bypasses.cover(route_path(scope), self._longest)
        ):
            self._counters.bypassed += 1
            if self._adds:
                send = _adding(send, self._rule_lines, self._hidden)
            await self._pass(scope, receive, send)
            return
        if scope.get("http_version", "1.1") not in _FRAMED_BY_FIELDS:
            # HTTP/2 and 3 can carry content that no field announces.
            first = await receive()
            receive = _replay(first, receive)
            if first.get("body") or first.get("more_body"):
                await self._answer(scope, receive, send, content=True)
                return
        headers = scope["headers"]
        if headers.__class__ is not list:
            headers = scope["headers"] = list(headers)
        fields = dict(headers)
        if len(fields) != len(headers):  # some field twice: not the plain case
            await self._answer(scope, receive, send)
            return
        extended = "extensions" in scope
        personal = (
            "user" in scope
            or "session" in scope
            or "auth" in scope
            or scope.get("state")
            or (extended and "tls" in (scope["extensions"] or ()))
        ) and is_personal(scope)
        hit: Any = None
        marked = scope.get(MARKED) if extended else None
        if marked is not None and not personal:
            key, hit = marked
        else:
            try:
                key = primary_key(
                    scope["scheme"],
                    fields[b"host"],
                    scope["path"],
                    scope["raw_path"],
                    scope["query_string"],
                    scope["root_path"],
                )
            except KeyError:  # what ASGI lets a server leave out
                key = scope_key(scope, fields.get(b"host", b""))
            if not personal:
                hit = self._peek(key, fields)
        if hit.__class__ is tuple:
            stored, lines = hit
            await send({"type": _START, "status": stored.status, "headers": lines})
            await (
                _send_large(send, stored.body)
                if stored.large and method == "GET"
                else send({"type": _BODY, "body": stored.body if method == "GET" else b""})
            )
            return
        if hit is None:
            hit = self._unshareable(key, fields, scope["path"], personal=personal)
        if hit is not None and method == "GET":
            match = None
            if self._has_rules:  # (what is marked is stored, so its path is not too long)
                match = self.cache.rules.match(route_path(scope), fields.get(b"host", b""))
            await self._unshared(scope, receive, send, match, fields)
            return
        await self._answer(scope, receive, send)

    def _begin(self, scope: Scope, target: _Target) -> RouteCall:
        """A call of the app. Raises GateRecursion if it is part of the same call."""
        outer = scope.get(KEY)
        if outer is not None:
            outer.refuse(self.cache, target)
        return RouteCall(self.cache, target, outer)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app for a request that is none of our business. Nothing is put into its scope, so a
        recursion shows only by its depth."""
        try:
            await self.app(scope, receive, send)
        except (RecursionError, TypeError) as error:
            self._check(error)
            raise

    def _check(self, error: RecursionError | TypeError) -> None:
        """Raises GateRecursion or ConfigError if the app has called us, or is none for ASGI."""
        if isinstance(error, RecursionError):
            refuse_circle(self, error)
        elif error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # It was raised by the call, or by the await, of the app and nothing inside.
            raise ConfigError(wrong_world(self.app, "WSGI")) from None

    def _ask(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The app's own awaitable. Raises ConfigError if it gives none, as a WSGI application does."""
        answer: Any = self.app(scope, receive, send)
        if not hasattr(answer, "__await__"):
            raise ConfigError(wrong_world(self.app, "WSGI"))
        return answer  # type: ignore[no-any-return]

    def _unshareable(
        self, key: bytes, fields: dict[bytes, bytes], path: str, *, personal: bool
    ) -> object:
        """Why it is certain that nobody has a part in the response to this request, though its target
        is not marked; None if it is not."""
        if not personal and names_who(fields) is not Says.NOTHING:
            return self.cache.cookie_marker(key, fields)
        if self.cache.only_authorized(key, fields) and len(path) <= self._longest:
            return Refused.AUTHORIZATION
        return None

    def plain_hit(
        self, key: bytes, path: str, fields: dict[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """What `__call__` would answer at once, for a server that can send it without a scope: a GET
        or HEAD without content, nothing of which ASGI's scope would add to.

        As for `Cache.peek`; ``path``: decoded. None, or a marker: make the call, with the key and the
        marker as `MARKED` in its scope if that is made at once.
        """
        bypasses = self._bypasses
        if bypasses is not None and bypasses.cover(path, self._longest):
            return None
        return self._peek(key, fields)

    async def purge(self, **what: Any) -> PurgeReceipt:
        """As `HttpCache.purge`."""
        return await self.cache.purge(**what)

    # -- deciding ------------------------------------------------------------------------------

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, *, content: bool = False
    ) -> None:
        self._begin(scope, _target(scope))  # before it waits for itself
        request = read_request(scope, obey_directives=self.obey_directives)
        request.has_body |= content
        request.mark_personal(is_personal(scope))
        incoming = _Incoming(receive)
        try:
            await self._decide(scope, incoming, send, request)
        finally:
            self.cache.answered(request)
            incoming.close()

    async def _decide(self, scope: Scope, receive: _Incoming, send: Send, request: Request) -> None:
        alone = fresh = late = False
        tries = 0
        arrived = Arrived(scope)
        while True:
            answer = await self.cache.open(request, alone=alone, fresh=fresh, late=late)
            if isinstance(answer, Serve):
                refresh = None
                if answer.refresh is not None:
                    refresh = self._spawn_refresh(scope, answer.refresh)
                await _send(send, answer.response)
                if refresh is not None and self._runtime.fleeting and not self._runtime.lasts():
                    await asyncio.wait([refresh])  # or it never comes to its end
                return
            if isinstance(answer, Pass):
                if self._adds:
                    send = _adding(send, answer.lines, self._hidden)
                await self._pass(scope, receive, send)
                return
            if isinstance(answer, Follow):
                then = await self._follow(answer.exchange, request, receive, send)
            elif answer.exchange.solo and self._patience(request, answer.exchange.entry) is None:
                then = await self._alone(scope, receive, send, answer.exchange)
            else:
                then = await self._lead(scope, receive, send, answer.exchange)
            if then is _Next.DONE:
                return
            tries += 1
            # An app that reads its (empty) request does so again if it has to be called again; and is
            # told again what the server told it.
            receive.rewind()
            fresh = then is _Next.FRESH
            if fresh:
                arrived.restore()
            # Each turn waited for somebody else's fetch; enough of that.
            late = then is _Next.LATE
            alone = late or then is _Next.ALONE or tries >= _MAX_TRIES

    # -- following -----------------------------------------------------------------------------

    async def _follow(
        self, exchange: Exchange, request: Request, receive: _Incoming, send: Send
    ) -> _Next:
        cache = self.cache
        counters = cache.stack.counters
        stale = exchange.entry
        limit = float(cache.options.collapse_timeout)  # type: ignore[arg-type]
        patience = self._patience(request, stale)
        with exchange.reader(request) as reader:
            with cache.following(request, exchange):
                state = await reader.state(limit if patience is None else min(limit, patience))
            if state is State.PENDING:
                if stale is not None and self._patience(request, stale) is not None:
                    counters.on("stale", request=request, reason="origin-timeout")
                    await _send(send, cache.stale(exchange, request, stale, follower=True))
                    return _Next.DONE
                counters.on("wait_timeout", request=request)
                return _Next.LATE
            if state is State.RELEASED:
                spared = cache.spoke_of_one(exchange, request)
                return _Next.AGAIN if spared else _Next.ALONE
            if exchange.gave_up:
                return _Next.LATE
            if state is State.FAILED or reader.late or not reader.usable():
                return _Next.AGAIN
            if state is State.ANSWERED:
                served = cache.answer(exchange, request, follower=True)
                if served is None:
                    return _Next.ALONE
                counters.on("collapsed", request=request)
                await _send(send, served)
                return _Next.DONE
            counters.on("collapsed", request=request)
            head = cache.streamed(exchange, request)
            if head.status == 304:
                await _send(send, head)
            else:
                await send({"type": _START, "status": head.status, "headers": head.lines})
                await _read(reader, receive, send)
            return _Next.DONE

    def _patience(self, request: Request, stale: Entry | None) -> float | None:
        """How long to wait for the origin when a stale response may be sent instead, seconds."""
        limit = self.cache.options.origin_timeout
        if limit is None or stale is None or not self.cache.stale_if_error(request, stale):
            return None
        return float(limit)  # type: ignore[arg-type]

    # -- leading -------------------------------------------------------------------------------

    async def _lead(
        self, scope: Scope, receive: _Incoming, send: Send, exchange: Exchange
    ) -> _Next:
        """Make a fetch that others may share, and be its first reader."""
        client = _Client(receive, send)
        stale = exchange.entry
        limit = self._patience(exchange.request, stale)
        inner = forward_scope(scope, exchange.request_lines())
        tap = _Tap(self, exchange, inner, client, outer=scope)
        task: asyncio.Task[Any] | None = None
        try:
            with exchange.reader(exchange.request) as reader:
                task = self._spawn(tap, contextvars.copy_context())
                then = await self._first_reader(exchange, reader, client, limit, stale, task)
            if client.gone:
                return then  # it has its response; what comes of the fetch is for others
            over = exchange.ended or exchange.state in (State.RELEASED, State.FAILED)
            if over or not self._runtime.lasts():
                # The response is out. What the app still does (background tasks) is part of this
                # request, and so is what goes wrong there; where the loop may end with it, the rest
                # of the fetch as well.
                if not task.done():
                    await asyncio.wait([task])
            else:
                client.gone = True
        except BaseException:
            # Cancelled, or the client went away. A response for this client alone goes with it; any
            # other fetch goes on, for those who follow and for the store (G2).
            client.gone = True
            tap.error = None  # its traceback may refer to this frame
            if task is not None and exchange.state is State.RELEASED:
                task.cancel()
                await asyncio.wait([task])
            raise
        error, tap.error = tap.error, None
        if then is _Next.DONE:
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
            if exchange.state is State.FAILED and task.cancelled():
                raise OriginAborted("the app was cancelled before it responded")
        return then

    async def _first_reader(
        self,
        exchange: Exchange,
        reader: Reader,
        client: _Client,
        limit: float | None,
        stale: Entry | None,
        task: asyncio.Task[Any],
    ) -> _Next:
        cache, send = self.cache, client.send
        state = await reader.state(limit)
        if state is State.PENDING:
            if stale is None or not cache.stale_if_error(exchange.request, stale):
                # Purged, or past its window, while we waited: then the origin it is.
                return await self._first_reader(exchange, reader, client, None, None, task)
            # From here on the app must not speak with our client, whatever its response may be.
            client.gone = True
            cache.stack.counters.on("stale", request=exchange.request, reason="origin-timeout")
            await _send(send, cache.stale(exchange, exchange.request, stale))
        elif state is State.FAILED:
            if exchange.mismatched:
                return _Next.FRESH
        elif state is State.ANSWERED:
            served = cache.answer(exchange, exchange.request, follower=False)
            assert served is not None
            await _send(send, served)
        elif state is State.RELEASED:
            await asyncio.wait([task])  # the app speaks with our client itself
        else:
            assert exchange.response is not None
            not_modified = cache.precondition(exchange)
            if not_modified is not None:
                await _send(send, not_modified)
                return _Next.DONE
            head = exchange.response
            await send({"type": _START, "status": head.status, "headers": exchange.client_lines})
            error: BaseException | None = None
            try:
                await _read(reader, client.receive, send)
            except OriginAborted:
                error = exchange.error
                if error is None:
                    raise
            if error is not None:
                # (In there it would get for a context what has it for a cause: a circle.)
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
        return _Next.DONE

    def _spawn(self, tap: _Tap, context: contextvars.Context | None) -> asyncio.Task[Any]:
        task = self._runtime.spawn(tap.run(), name="layergate fetch", context=context)
        limit = float(self.cache.options.abandoned_timeout)  # type: ignore[arg-type]
        task.add_done_callback(_Guard(tap, task, limit).done)
        return task

    def _spawn_refresh(self, scope: Scope, exchange: Exchange) -> asyncio.Task[Any]:
        self.cache.refreshing(1)
        tap = _Tap(self, exchange, refresh_scope(scope, exchange.request_lines()), None)
        task = self._spawn(tap, None)
        task.add_done_callback(lambda _: self.cache.refreshing(-1))
        return task

    async def _alone(
        self, scope: Scope, receive: _Incoming, send: Send, exchange: Exchange
    ) -> _Next:
        """Fetch for this request only, inside of it; keep a copy if that may be stored."""
        # (a list of its own: apps change theirs, and the request's is looked at again)
        inner = {**scope, "headers": [*exchange.carried(exchange.request_lines())]}
        tap = _Tap(self, exchange, inner, _Client(receive, send), outer=scope)
        inner[KEY] = tap.route
        place = policy_place.set(tap.route)
        try:
            with exchange.calling():
                await self._ask(inner, receive, tap.send)
            await tap.flushed()
        except Exception as error:
            if not exchange.answer_error(error):
                exchange.abort(error)
                raise
            _served_stale(error)
        except BaseException as error:
            exchange.abort(error)
            raise
        finally:
            policy_place.reset(place)
            tap.route.returned()
        if exchange.state is State.ANSWERED:
            if not exchange.ended:
                await exchange.finish()
            served = self.cache.answer(exchange, exchange.request, follower=False)
            assert served is not None
            await _send(send, served)
        elif exchange.mismatched:
            await _settled(exchange)
            return _Next.FRESH
        else:
            exchange.abort()
        await _settled(exchange)
        return _Next.DONE

    async def _unshared(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        match: Match | None,
        fields: dict[bytes, bytes],
    ) -> None:
        """A request for what is known not to be shareable: forwarded at once, in its own task.

        Only if the response looks as if that has changed, an exchange is made after all.
        """
        cache = self.cache
        stamp = cache.stack.invalidations.position
        began = cache.stack.runtime.now()
        asked = dict(scope)  # as it is now: apps change theirs as they route
        route = scope[KEY] = self._begin(scope, _target(scope))
        tap: _Tap | None = None

        def watching(message: Message) -> Awaitable[None]:
            if tap is not None:
                return tap.send(message)
            if message["type"] == _START:
                headers = list(message.get("headers", ()))
                message = {**message, "headers": headers}
                if route.policy(scope, "GET", message["status"]) is not None:
                    return look_closer(message)
                lines = cache.unshared(
                    match,
                    headers,
                    cookie=names_who(fields) is not Says.NOTHING,
                    authorization=b"authorization" in fields,
                )
                if lines is None:
                    return look_closer(message)
                cache.stack.counters.forwarded += 1
                message["headers"] = lines
            return send(message)

        async def look_closer(message: Message) -> None:
            nonlocal tap
            asked["headers"] = fields.items()
            request = read_request(asked, obey_directives=self.obey_directives)
            exchange = await cache.late(request, match, stamp=stamp, request_time=began)
            # (the app has the server's own receive)
            tap = _Tap(self, exchange, scope, _Client(_Incoming(receive), send), route=route)
            await tap.send(message)

        await self._call(scope, receive, watching, route, lambda: tap)

    async def _call(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        route: RouteCall,
        tapped: Callable[[], _Tap | None],
    ) -> None:
        """Call the app, inside of its request. ``tapped``: the tap that ``send`` has made of itself by the
        end, if any, whose exchange is over then too."""
        place = policy_place.set(route)
        try:
            await self._ask(scope, receive, send)
        except BaseException as error:
            if (tap := tapped()) is not None:
                tap.exchange.abort(error)
            raise
        finally:
            policy_place.reset(place)
            route.returned()
            route.close()
        if (tap := tapped()) is not None:
            await tap.flushed()
            tap.exchange.abort()
            await _settled(tap.exchange)

    # -- other methods, other scopes -----------------------------------------------------------

    def _after_unsafe(self, scope: Scope, send: Send) -> Send:
        """Watch the response to an unsafe method (RFC 9111 4.4)."""
        cache, lines = self.cache, self._method_lines
        # (now, since the app may change its scope)
        method: str = scope["method"]
        uri = _uri(scope)

        async def after(message: Message) -> None:
            if message["type"] == _START:
                headers = list(message.get("headers", ()))
                # Before the client hears of its success: what it reads next is the new state.
                await cache.after_unsafe(uri, method, message["status"], headers)
                message = {**message, "headers": [*cache.for_clients(headers), *lines]}
            await send(message)

        return after

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A POST: as other unsafe methods, but what answers it may answer a GET too."""
        cache = self.cache
        begun = begin(cache)
        # As it is now: apps change theirs as they route.
        asked = {**scope, "headers": [*header_lines(scope)]}
        personal = is_personal(scope)
        path = route_path(scope)
        target = _uri(asked)
        route = scope[KEY] = self._begin(scope, _target(scope))
        tap: _Tap | None = None

        def read() -> Request:
            request = read_request(asked, obey_directives=self.obey_directives)
            request.mark_personal(personal or is_personal(scope))
            request.secured = route.secured(scope, "POST", path)
            return request

        async def after(message: Message) -> None:
            nonlocal tap
            if tap is not None:
                await tap.send(message)
                return
            if message["type"] == _START:
                headers = list(message.get("headers", ()))
                # Before the client hears of its success: what it reads next is the new state.
                exchange = await after_post(
                    cache,
                    read,
                    target,
                    message["status"],
                    headers,
                    begun,
                    route=route.policy(scope, "POST", message["status"]),
                    trailers=bool(message.get("trailers")),
                )
                if exchange is not None:
                    # (the app has the server's own receive)
                    tap = _Tap(
                        self, exchange, scope, _Client(_Incoming(receive), send), route=route
                    )
                    await tap.send({**message, "headers": headers})
                    return
                message = {**message, "headers": [*cache.for_clients(headers), *self._method_lines]}
            await send(message)

        await self._call(scope, receive, after, route, lambda: tap)

    def _closing(self, receive: Receive) -> Receive:
        """Join the fleet before the server takes requests, rather than with the first ones: they come
        all at once. (A fleet that is away delays the start no longer than a request.) End background
        work before the application hears of the shutdown: refreshes may still need what it is about
        to close."""
        self._runtime.last()

        async def closing() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup" and self.cache.stack.shared_log is not None:
                await self.cache.stack.join()
            if message["type"] == "lifespan.shutdown":
                await self.cache.aclose()
            return message

        return closing

    async def _administer(
        self, admin: AdminEndpoint, scope: Scope, receive: Receive, send: Send
    ) -> None:
        fields = Fields(scope["headers"])
        client = scope.get("client")
        served = admin.refuse(fields, client[0] if client else None)
        if served is None and scope["method"] == "PURGE":
            served = await admin.purge_url(_uri(scope), fields)
        elif served is None:
            body = await _content(receive)
            if body is None:
                served = Served(413, [(b"content-length", b"0"), (b"connection", b"close")], b"")
            else:
                read = functools.partial(asked_request, scope, obey_directives=self.obey_directives)
                served = await admin.handle(scope["method"], route_path(scope), body, read)
        await _send(send, served)


class _Client:
    """The client of the request that leads: the app speaks with it directly once it may."""

    __slots__ = ("gone", "receive", "send")

    def __init__(self, receive: _Incoming, send: Send) -> None:
        self.receive = receive
        self.send = send
        self.gone = False


class _Tap:
    """What the app sees as its server while an exchange is fed."""

    __slots__ = (
        "_asked",
        "_cache",
        "_client",
        "_flushing",
        "_gate",
        "_held",
        "_outer",
        "_relay",
        "_scope",
        "error",
        "exchange",
        "route",
    )

    def __init__(
        self,
        gate: LayerGate,
        exchange: Exchange,
        scope: Scope,
        client: _Client | None,
        outer: Scope | None = None,
        route: RouteCall | None = None,
    ) -> None:
        self._gate = gate
        self._cache = gate.cache
        self.exchange = exchange
        self._scope = scope
        self._outer = outer
        self._client = client
        self._relay: Relay | None = None
        self._held: Message | None = None  # the head, until the first part of the body is there
        self._flushing: asyncio.Task[None] | None = None  # sends it, where that took its time
        self._asked = False
        self.route = gate._begin(scope, _target(scope)) if route is None else route
        self.error: Exception | None = None

    @property
    def deserted(self) -> bool:
        return self._client is None or self._client.gone

    async def run(self) -> None:
        """Call the app; never raises, but for cancellation."""
        exchange = self.exchange
        if exchange.refreshes and not await self._cache.may_refresh(exchange):
            exchange.abort()
            return
        # (the scope is a copy; the list is too, since apps change theirs)
        self._scope["headers"] = [*exchange.carried(self._scope["headers"])]
        self._scope[KEY] = self.route
        policy_place.set(self.route)  # (this task has a context of its own)
        try:
            with exchange.calling():
                await self._gate._ask(self._scope, self.receive, self.send)
            if self._flushing is not None:
                await self.flushed()
        except Exception as error:
            await self._failed(error)
        except BaseException:
            exchange.abort()
            raise
        else:
            if exchange.state is State.ANSWERED and not exchange.ended:
                await exchange.finish()
            else:
                exchange.abort()
        finally:
            self.route.returned()
            self.route.close()
        await _settled(exchange)

    async def _failed(self, error: Exception) -> None:
        exchange = self.exchange
        if (
            self.deserted
            and isinstance(error.__context__ or error, _Deserted | OSError)
            and not isinstance(error, OriginUnreachable)
        ):
            exchange.abort(error)  # our own word that nobody listens, wrapped by a framework or not
            return
        self._cache.stack.counters.on("fetch_error", request=exchange.request, error=error)
        if exchange.answer_error(error):
            await exchange.finish()
            _served_stale(error)
            return
        exchange.abort(error)
        if not self.deserted:
            self.error = error  # for the request that leads
        elif isinstance(error, OriginUnreachable):
            _logger.warning("the app failed; no client was waiting: %s", error)
        else:
            _logger.error("the app failed; no client was waiting", exc_info=error)

    async def receive(self) -> Message:
        """The request's (empty) content; then a disconnect, if the app listens for one and it is of
        any consequence: if nobody else has a part in this fetch."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        client, exchange = self._client, self.exchange
        if client is None:
            await exchange.over()
            return {"type": "http.disconnect"}
        if not client.gone:
            await client.receive.disconnected()
        if self._relay not in (Relay.PASS, Relay.TEE) and not exchange.private:
            # This client is gone, but others wait for, or read, what is being fetched.
            await exchange.over()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        exchange = self.exchange
        if self._flushing is not None:
            await self.flushed()
        if kind == _BODY:
            relay = self._relay
            if relay is None:
                raise RuntimeError("the app sent http.response.body before http.response.start")
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            if not exchange.opened and relay is not Relay.SWALLOW:
                was = relay
                relay = self._relay = exchange.opening(bytes(chunk), whole=not more)
                if was is Relay.SHARE or relay is Relay.PASS:
                    await self._settle()
            if relay is Relay.PASS:
                await self._head_to_client()
                await self._to_client(message)
                return
            if relay is not Relay.SWALLOW and chunk:
                exchange.body(bytes(chunk))
            # First the store: what a client that takes its time gets, nobody else waits for.
            if not more and not exchange.ended:
                await exchange.finish()
            if relay is Relay.TEE:
                await self._head_to_client()
                await self._to_client(message)
            elif relay is Relay.SHARE and more and exchange.oversized:
                await exchange.room()
                if exchange.abandoned:
                    raise _Deserted("every client is gone")
        elif kind == _START:
            await self._head(message)
        elif self._relay is Relay.TEE:
            # The rest of the body takes another way (pathsend, zerocopysend, trailers): what was
            # seen of it is not the whole.
            exchange.abort()
            self._relay = Relay.PASS
            await self._head_to_client()
            await self._to_client(message)
        elif self._relay in (None, Relay.PASS):
            # Early hints, debug information: for the client whose request this is.
            if not self.deserted:
                await self._to_client(message)

    async def _head(self, message: Message) -> None:
        exchange = self.exchange
        headers = list(message.get("headers", ()))
        exchange.tokens = functools.partial(has_token, self._scope)
        # (by the path that was asked for: the app may have changed it)
        asked = exchange.request
        asked.secured |= self.route.secured(self._scope, asked.method, asked.path)
        relay = exchange.head(
            message["status"],
            headers,
            route=self.route.policy(self._scope, asked.method, message["status"]),
            trailers=bool(message.get("trailers")),
            personal=is_personal(self._scope),
        )
        self.route.close()
        self._relay = relay
        if self._outer is not None:
            # What the app noted in the scope (route, endpoint) is for middleware outside of us too.
            for name, value in self._scope.items():
                if name not in _OURS and self._outer.get(name) is not value:
                    self._outer[name] = value
        if exchange.opened or relay is not Relay.SHARE:
            await self._settle()
        if relay is Relay.PASS or relay is Relay.TEE:
            if exchange.request.method == "HEAD":
                await self._cache.after_head(exchange, message["status"], headers)
            self._held = message
            if exchange.opened:
                await self._head_to_client()
        elif relay is Relay.SHARE:
            self._held = message  # for the case that it is not shared after all
        if not exchange.opened and relay is not Relay.SWALLOW and not exchange.waits_for_page:
            # An app that has all of the body gives it now. One that does not, shall not hold back
            # what it has given.
            asyncio.get_running_loop().call_soon(self._overdue)

    def _overdue(self) -> None:
        """The body did not come with the head: that goes out without it."""
        exchange = self.exchange
        if exchange.opened or exchange.state in (State.FAILED, State.ANSWERED) or exchange.broken:
            return
        relay = exchange.opening(None)
        if relay is Relay.SHARE:
            self._flushing = asyncio.create_task(self._settle())
        else:
            self._flushing = asyncio.create_task(self._head_to_client())

    async def flushed(self) -> None:
        """Wait until a head is sent that is being sent. Raises what that raised."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            await flushing

    async def _settle(self) -> None:
        if self._cache.stack.peek_is_enough:
            await self._cache.settle(self.exchange)
        else:
            self.exchange.aside(self._cache.settle(self.exchange), "layergate settle")

    async def _head_to_client(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._to_client({**held, "headers": self.exchange.client_lines})

    async def _to_client(self, message: Message) -> None:
        client = self._client
        if client is None:
            return  # a background refresh: nobody listens
        if client.gone:
            if self._relay is Relay.TEE:
                return  # worth finishing, for the store
            raise _Deserted("the client is gone")
        if self._relay is Relay.TEE:
            with self.exchange.at_client():
                await client.send(message)
        else:
            await client.send(message)


class _Guard:
    """A fetch that nobody waits for may end by itself, but not go on for ever: looks every ``limit``
    seconds.

    (What refers to a fetch must be gone with it, without the garbage collector: it holds a whole
    body. So this is no function that refers to itself.)
    """

    __slots__ = ("_limit", "_loop", "_tap", "_task", "_timer")

    def __init__(self, tap: _Tap, task: asyncio.Task[Any], limit: float) -> None:
        self._tap = tap
        self._task = task
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(limit, self._check)

    def _check(self) -> None:
        self._timer = None
        exchange = self._tap.exchange
        if self._task.done() or exchange.ended:
            return
        if exchange.abandoned and (exchange.state is not State.RELEASED or self._tap.deserted):
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(max(self._limit, 0.1), self._check)

    def done(self, _: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tap.exchange.abort()  # does nothing, unless the task ended before it could begin


class _Deserted(OSError):
    """Nobody is left to send to; ASGI has servers raise an OSError then."""


async def _settled(exchange: Exchange) -> None:
    """Where the loop may end with this request, wait for what is part of it (see `Exchange.left`); but
    a layer that hangs holds no request for longer than half of what one operation may take (G5)."""
    if not exchange.left:
        return
    loop = asyncio.get_running_loop()
    until = loop.time() + exchange.patience / 2
    while left := exchange.left:
        tasks = [task for task in left if isinstance(task, asyncio.Task)]
        if (await asyncio.wait(tasks, timeout=max(0.0, until - loop.time())))[1]:
            return


async def _read(reader: Reader, incoming: _Incoming, send: Send) -> None:
    """Pass a shared body on as it comes, to its end or until the client has left.

    Raises OriginAborted when the origin breaks off.
    """
    # A server may take what is sent to a client that has left and say nothing; only ``receive``
    # tells. Short responses need not ask.
    watch: asyncio.Task[None] | None = None
    begun = time.monotonic()
    try:
        while True:
            data = reader.take()
            if reader.at_end:
                await send({"type": _BODY, "body": data})
                return
            if data:
                await send({"type": _BODY, "body": data, "more_body": True})
            await reader.more(_WATCH_AFTER)
            if reader.gone:
                return
            if watch is None and time.monotonic() - begun > _WATCH_AFTER:
                watch = asyncio.create_task(incoming.disconnected())
                watch.add_done_callback(lambda task: task.cancelled() or _leave(reader))
    finally:
        if watch is not None:
            watch.cancel()


def _leave(reader: Reader) -> bool:
    reader.leave()
    return True


async def _send(send: Send, served: Served) -> None:
    await send({"type": _START, "status": served.status, "headers": served.lines})
    if len(served.body) > PIECE:
        await _send_large(send, served.body)
    else:
        await send({"type": _BODY, "body": served.body})


async def _send_large(send: Send, body: bytes | Slices) -> None:
    """Send a large body in pieces: servers copy what a client does not take at once."""
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        await send({"type": _BODY, "body": piece, "more_body": start + PIECE < len(body)})


def _as_documented(name: str) -> str:
    return name.title().replace("Layergate", "LayerGate")


def _served_stale(error: Exception) -> None:
    """Say so. A connection that failed needs no traceback, and may do so for every request."""
    trace = None if isinstance(error, OriginUnreachable) else error
    _logger.warning("the app failed; a stale response was served: %s", error, exc_info=trace)


def _adding(send: Send, lines: Lines, hidden: frozenset[bytes]) -> Send:
    """A ``send`` that adds lines to the head, hides tags, and touches nothing else.

    Not itself a coroutine function: what it returns is ``send``'s own awaitable, which saves a
    frame for every message of every request that is none of our business.
    """

    def adding(message: Message) -> Awaitable[None]:
        if message["type"] == _START:
            headers = list(message.get("headers", ()))
            for line in headers:
                if line[0] in hidden:
                    headers = [line for line in headers if line[0] not in hidden]
                    break
            headers += lines
            message = {**message, "headers": headers}
        return send(message)

    return adding


def _replay(first: Message, receive: Receive) -> Receive:
    """A ``receive`` that gives ``first`` again."""
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


class _Incoming:
    """What comes from one client: its ``receive``, with one more use.

    Only one task at a time waits on the server's own ``receive``, as servers may rely on; that a
    disconnect was seen is remembered for all who ask.
    """

    __slots__ = ("_next", "_over", "_pump", "_receive", "_seen")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen: list[Message] = []
        self._next = 0
        self._pump: asyncio.Task[None] | None = None
        self._over: asyncio.Event | None = None

    async def __call__(self) -> Message:
        """As the server's. After `rewind` it gives the (empty) content of the request again."""
        if self._next < len(self._seen):
            self._next += 1
            return self._seen[self._next - 1]
        if self._pump is not None:
            await self.disconnected()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not self._seen and not message.get("body"):
            self._seen.append(message)
            self._next = 1
        return message

    def rewind(self) -> None:
        self._next = 0

    async def disconnected(self) -> None:
        """Return when the client has disconnected, or its request is over."""
        if self._over is None:
            self._over = asyncio.Event()
            self._pump = asyncio.create_task(self._until_gone(self._over))
        await self._over.wait()

    async def _until_gone(self, over: asyncio.Event) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            # Not a word about whether the client is still there; so it is taken to be.
            _logger.debug("receive() failed while a response was sent", exc_info=error)
            return
        over.set()

    def close(self) -> None:
        """The request is over."""
        if self._over is not None:
            self._over.set()
        if self._pump is not None:
            self._pump.cancel()


async def _content(receive: Receive) -> bytes | None:
    """The request's content; None if it is too large or the client left."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _target(scope: Scope) -> _Target:
    """What tells a request from those that an app makes of itself while it answers it."""
    return (
        scope["method"],
        scope["path"],
        scope.get("root_path", ""),
        scope.get("query_string", b""),
    )


def _uri(scope: Scope) -> str:
    """The target URI, as keys are labelled."""
    raw = scope.get("raw_path")
    path = quoted(scope["path"].encode("utf-8", "surrogatepass")) if raw is None else raw
    host = b",".join(value for name, value in scope["headers"] if name == b"host")
    query = scope.get("query_string", b"")
    uri = b"%b://%b%b" % (scope.get("scheme", "http").encode(), host, path or b"/")
    return (uri + b"?" + query if query else uri).decode("latin-1")
