"""The ASGI middleware: from scopes and messages to the engine, and back.

`LayerGate.__call__` is the hit path: it answers a plain hit, and passes on at once what the cache has no
part in. Everything else goes to `driver.Conversation`, which decides, to `fetching` and `forwarding`,
which call the app, and to `sending`.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final, overload

from layergate.asgi.calling import refuse_recursion
from layergate.asgi.fetching import Fetcher
from layergate.asgi.forwarding import after_unsafe, forward_known, forward_post
from layergate.asgi.incoming import Incoming, content, replay
from layergate.asgi.messages import BODY, START, App, Message, Receive, Scope, Send
from layergate.asgi.scope import (
    HIT_FOR_MISS,
    Arrived,
    asked_request,
    is_personal,
    read_request,
    route_path,
    scope_key,
    target_uri,
)
from layergate.asgi.sending import adding, read_along, send_large, send_response
from layergate.assembly import HttpCache, wrong_world
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import ConfigError
from layergate.http.admin import AdminEndpoint
from layergate.http.engine.driver import Conversation, Fetch, Forward, Serve
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import primary_key
from layergate.http.message.stored import Served, StoredResponse
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.storing import Bypass, NotStored
from layergate.route_calls import refuse_circle
from layergate.runtime.loop import LoopRuntime

__all__ = ["LayerGate"]

_READS: Final = frozenset({"GET", "HEAD"})
_FRAMED_BY_FIELDS: Final = frozenset({"1.1", "1.0", "0.9", "1"})  # where fields announce content


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
        self.cache.on_reload(self._adapt)

    def _adapt(self) -> None:
        """Take from the options what each request needs."""
        options, rules = self.cache.options, self.cache.rules
        admin = options.admin
        self._admin = None if admin is None else AdminEndpoint(self.cache, admin)
        self.obey_directives = options.request_directives
        self._method_lines = self.cache.bypass_lines(Bypass.METHOD, "method")
        self._rule_lines = self.cache.bypass_lines(Bypass.RULE, "bypass")
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
                    send = adding(send, self._method_lines, self._hidden)
                await self._pass(scope, receive, send)
            elif method == "POST":
                await forward_post(self.app, self.cache, scope, receive, send, self._method_lines)
            else:
                send = after_unsafe(self.cache, scope, send, self._method_lines)
                await self._pass(scope, receive, send)
            return
        bypasses = self._bypasses
        if bypasses is not None and (
            (scope["path"] in self._bypassed_paths and not scope.get("root_path"))
            or bypasses.cover(route_path(scope), self._longest)
        ):
            self._counters.bypassed += 1
            if self._adds:
                send = adding(send, self._rule_lines, self._hidden)
            await self._pass(scope, receive, send)
            return
        if scope.get("http_version", "1.1") not in _FRAMED_BY_FIELDS:
            # HTTP/2 and 3 can carry content that no field announces.
            first = await receive()
            receive = replay(first, receive)
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
        marked = scope.get(HIT_FOR_MISS) if extended else None
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
            await send({"type": START, "status": stored.status, "headers": lines})
            await (
                send_large(send, stored.body)
                if stored.large and method == "GET"
                else send({"type": BODY, "body": stored.body if method == "GET" else b""})
            )
            return
        if hit is None:
            hit = self._unshareable(key, fields, scope["path"], personal=personal)
        if hit is not None and method == "GET":
            match = None
            if self._has_rules:  # (what is marked is stored, so its path is not too long)
                match = self.cache.rules.match(route_path(scope), fields.get(b"host", b""))
            await forward_known(self.app, self.cache, scope, receive, send, match, fields)
            return
        await self._answer(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app for a request that the cache has no part in. Nothing is put into its scope, so a
        recursion shows only by its depth."""
        try:
            await self.app(scope, receive, send)
        except (RecursionError, TypeError) as error:
            self._check(error)
            raise

    def _check(self, error: RecursionError | TypeError) -> None:
        """Raises GateRecursion if the app has called this middleware, ConfigError if it is no ASGI
        application."""
        if isinstance(error, RecursionError):
            refuse_circle(self, error)
        elif error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # It was raised by the call, or by the await, of the app and nothing inside.
            raise ConfigError(wrong_world(self.app, "WSGI")) from None

    def _unshareable(
        self, key: bytes, fields: dict[bytes, bytes], path: str, *, personal: bool
    ) -> object:
        """The reason why the response is certainly for this request alone, though its target has no
        hit-for-miss marker; else None."""
        if not personal and strongest_credential(fields) is not Credential.NONE:
            return self.cache.cookie_hit_for_miss(key, fields)
        if self.cache.is_for_one_user(key, fields) and len(path) <= self._longest:
            return NotStored.AUTHORIZATION
        return None

    def plain_hit(
        self, key: bytes, path: str, fields: dict[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """What `__call__` would answer at once, for a server that can send it without a scope: a GET
        or HEAD without content, nothing of which ASGI's scope would add to.

        As for `Cache.peek`; ``path``: decoded. None, or a marker: make the call, with the key and the
        marker as `HIT_FOR_MISS` in its scope if that is made at once.
        """
        bypasses = self._bypasses
        if bypasses is not None and bypasses.cover(path, self._longest):
            return None
        return self._peek(key, fields)

    async def purge(self, **what: Any) -> PurgeReceipt:
        """As `HttpCache.purge`."""
        return await self.cache.purge(**what)

    # -- everything that is no plain hit -------------------------------------------------------

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, *, content: bool = False
    ) -> None:
        refuse_recursion(self.cache, scope)  # before the request waits for itself
        request = read_request(scope, obey_directives=self.obey_directives)
        request.has_body |= content
        request.mark_personal(is_personal(scope))
        incoming = Incoming(receive)
        conversation = Conversation(self.cache, request)
        try:
            await self._converse(conversation, scope, incoming, send)
        finally:
            conversation.over()
            incoming.close()

    async def _converse(
        self, conversation: Conversation, scope: Scope, incoming: Incoming, send: Send
    ) -> None:
        step = await conversation.next()
        while isinstance(step, Fetch):
            arrived = Arrived(scope) if step.repeatable else None
            if await self._fetcher(scope, incoming, send).fetch(conversation, step):
                return
            assert arrived is not None
            # An app that is called again reads its (empty) request again, and is told again what the
            # server told it.
            incoming.rewind()
            arrived.restore()
            step = await conversation.again()
        if isinstance(step, Serve):
            await self._serve(step, scope, incoming, send)
        elif isinstance(step, Forward):
            if self._adds:
                send = adding(send, step.lines, self._hidden)
            await self._pass(scope, incoming, send)
        else:
            with step.reader:
                head = step.head
                await send({"type": START, "status": head.status, "headers": head.lines})
                await read_along(step.reader, incoming, send)

    def _fetcher(self, scope: Scope, incoming: Incoming, send: Send) -> Fetcher:
        return Fetcher(self.app, self.cache, self._runtime, scope, incoming, send)

    async def _serve(self, step: Serve, scope: Scope, incoming: Incoming, send: Send) -> None:
        if step.refresh is None:
            await send_response(send, step.response)
            return
        refresh = self._fetcher(scope, incoming, send).refresh(step.refresh)
        await send_response(send, step.response)
        if self._runtime.fleeting and not self._runtime.lasts():
            await asyncio.wait([refresh])  # or it never comes to its end

    # -- other scopes --------------------------------------------------------------------------

    def _closing(self, receive: Receive) -> Receive:
        """The ``receive`` of a lifespan.

        At the startup it joins the fleet, because the first requests come all at once. A fleet that
        cannot be reached delays the start no longer than it delays a request. At the shutdown it ends
        background work before the application learns of it, because refreshes may need what the
        application is about to close.
        """
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
            served = await admin.purge_url(target_uri(scope), fields)
        elif served is None:
            body = await content(receive)
            if body is None:
                served = Served(413, [(b"content-length", b"0"), (b"connection", b"close")], b"")
            else:
                read = functools.partial(asked_request, scope, obey_directives=self.obey_directives)
                served = await admin.handle(scope["method"], route_path(scope), body, read)
        await send_response(send, served)


def _as_documented(name: str) -> str:
    return name.title().replace("Layergate", "LayerGate")
