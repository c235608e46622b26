"""The application behind the cache: forwards a request to its upstream and gives back its response.

It is an ASGI application, so the cache in front of it is the same middleware as in any application. Two
things that ASGI lacks are understood by `clients.cycle` alone: the message ``layergate.interim``, a 1xx
response that is sent at once, and the extension ``layergate.tunnel`` (`Cycle.accept`).

An upstream that gives no response raises `UpstreamError`. The cache may serve a stale response instead;
otherwise it becomes a 502, 503 or 504 (`say_failure`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from layergate.gateway import timeouts
from layergate.gateway.forward import ForwardPolicy, response_lines, trailer_lines
from layergate.gateway.head import encode_lines
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.upstreams.connection import Connection
from layergate.gateway.upstreams.errors import UpstreamClosed, UpstreamError, UpstreamMalformed
from layergate.gateway.upstreams.pool import Pool
from layergate.gateway.upstreams.responses import Event, Kind
from layergate.http.extensions import cache_status
from layergate.http.message.fields import Lines

__all__ = ["Proxy", "say_failure", "say_looped"]

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_logger = logging.getLogger("layergate.gateway")

_NOT_INTERIM: Final = frozenset({b"content-length", b"date"})
TUNNEL: Final = "layergate.tunnel"
INTERIM: Final = "layergate.interim"
_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_TRAILERS: Final = "http.response.trailers"
# RFC 9110 9.2.2: may be repeated when a connection fails.
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class Proxy:
    """Forwards to the first of the upstreams that covers a request's host and path."""

    def __init__(self, upstreams: tuple[UpstreamOptions, ...], policy: ForwardPolicy) -> None:
        self.pools: list[Pool] = []
        self.reload(upstreams, policy)

    def reload(self, upstreams: tuple[UpstreamOptions, ...], policy: ForwardPolicy) -> None:
        """Forward to these from now on. Connections to unchanged upstreams are kept. Requests that are
        under way on others end there."""
        self._policy = policy
        before = {pool.options: pool for pool in self.pools}
        self.pools = [
            before.pop(options) if options in before else Pool(options) for options in upstreams
        ]
        for pool in before.values():
            pool.close()
        only = upstreams[0]
        self._only = (
            self.pools[0]
            if len(upstreams) == 1 and only.hosts is None and only.path == "/"
            else None
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Forward a request and send its response. (This is no coroutine function: it returns the coroutine
        that does the work, which saves a frame for each request.)"""
        pool = self._only or self._route(scope)
        if pool is None:
            return _say(send, 421, "no upstream serves this host and path")
        lines: Lines = scope["headers"]
        if scope["method"] == "OPTIONS":
            left = _max_forwards(lines)
            if left == 0:
                # RFC 9110 7.6.2: "the recipient MUST NOT forward the request; instead, the recipient
                # MUST respond as the final recipient."
                return _say_nothing(send)
            if left is not None:
                lines = [line for line in lines if line[0] != b"max-forwards"]
                scope["headers"] = [*lines, (b"max-forwards", b"%d" % (left - 1))]
        return _Forwarding(self._policy, pool, scope, receive, send).run()

    def _route(self, scope: Scope) -> Pool | None:
        host = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
        name = host.decode("latin-1").lower()
        if name.startswith("["):
            name = name.partition("]")[0] + "]"
        else:
            name = name.partition(":")[0]
        path = "/" if scope["path"] == "*" else scope["path"]
        for pool in self.pools:
            if pool.options.covers(name, path):
                return pool
        return None

    def close(self) -> None:
        """Close idle connections. Those in use are closed when their requests are over."""
        for pool in self.pools:
            pool.close()


class _Forwarding:
    """One request that is being forwarded."""

    def __init__(
        self, policy: ForwardPolicy, pool: Pool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._policy = policy
        self._pool = pool
        self._scope = scope
        self._receive = receive
        self._send = send
        self._method: str = scope["method"]
        self._chunked = False
        self._content = False
        self._expects = False
        self._upgrades = False
        self._trailers = False
        self._sent = False  # some of the content was taken from the client
        self._go_on: asyncio.Event | None = None

    async def run(self) -> None:
        head = self._head()
        fresh = False
        while True:
            # (Here and below: no coroutine for what is there already.)
            connection = None if fresh or self._upgrades else self._pool.idle()
            if self._upgrades:
                connection = await self._pool.take_tunnel()
            elif connection is None:
                connection = await self._pool.take(fresh=fresh)
            try:
                connection.begin(head_only=self._method == "HEAD", content=self._content)
                connection.write(head)
                if self._content:
                    await self._both_ways(connection)
                else:
                    await self._respond(connection, await connection.next())
                return
            except UpstreamClosed:
                # The upstream may close an idle connection at any time, also while the request is on
                # its way (RFC 9112 9.3.1).
                again = (
                    connection.used
                    and not connection.answered
                    and not self._sent
                    and self._method in _IDEMPOTENT
                )
                if not again:
                    raise
                fresh = True
            finally:
                self._pool.give(connection)

    def _head(self) -> bytes:
        scope, options = self._scope, self._pool.options
        host = b""
        expects = False
        lines: Lines = scope["headers"]
        for name, value in lines:
            if name == b"host":
                host = value
            elif name == b"transfer-encoding":
                self._chunked = self._content = True
            elif name == b"content-length":
                self._content = value.strip(b"0") != b""
            elif name == b"expect":
                expects = True
            elif name == b"upgrade":
                self._upgrades = True
            elif name == b"te":
                self._trailers = scope["http_version"] != "1.0"
        self._expects = expects and self._content
        if expects and not self._content:  # the client holds nothing back
            lines = [line for line in lines if line[0] != b"expect"]
        new_host = None
        if options.host == "upstream":
            new_host = _authority(options)
        elif options.host != "preserve":
            new_host = options.host.encode()
        elif not host:
            new_host = _authority(options)
        if not host:
            lines = [(b"host", b""), *lines]
        lines = self._policy.request_lines(lines, version=scope["http_version"], new_host=new_host)
        if self._chunked:
            lines.append((b"transfer-encoding", b"chunked"))
        if self._upgrades:
            lines.append((b"connection", b"upgrade"))
            lines.append((b"upgrade", b"websocket"))
        elif self._trailers:
            lines.append((b"connection", b"te"))
            lines.append((b"te", b"trailers"))
        query = scope["query_string"]
        target = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (
            self._method.encode(), target, encode_lines(lines),
        )  # fmt: skip

    # -- content -------------------------------------------------------------------------------

    async def _both_ways(self, connection: Connection) -> None:
        """Send the content. The response may come meanwhile."""
        if self._expects:
            self._go_on = asyncio.Event()
        sending = asyncio.create_task(self._send_content(connection), name="layergate content")
        try:
            event = asyncio.create_task(connection.next())
            try:
                await asyncio.wait({sending, event}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done() and not sending.cancelled() and sending.exception() is not None:
                    await sending  # the client left, or sent too much
                first = await event
            finally:
                event.cancel()
                del event  # if it failed, its error's traceback refers to this frame
            await self._respond(connection, first)
        finally:
            if not sending.done():
                # The response came before all content was sent. The next request can't follow.
                connection.reusable = False
                sending.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled() and sending.exception() is not None:
                connection.close()
            del sending  # as above

    async def _send_content(self, connection: Connection) -> None:
        if self._go_on is not None:
            # RFC 9110 10.1.1: a client "SHOULD NOT wait for an indefinite period before sending the
            # content".
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeouts.CONTINUE):
                    await self._go_on.wait()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                connection.close()
                return
            self._sent = True
            data = message.get("body", b"")
            more = message.get("more_body", False)
            if data:
                connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
                await connection.drained()
            if not more:
                if self._chunked:
                    connection.write(b"0\r\n\r\n")
                connection.sent()
                return

    # -- the response --------------------------------------------------------------------------

    async def _respond(self, connection: Connection, event: Event) -> None:
        while event.kind is Kind.INTERIM:
            if event.status == 100 and self._go_on is not None:
                self._go_on.set()  # the client gets its own when its content is asked for
            else:
                # RFC 9110 8.6: "A server MUST NOT send a Content-Length header field in any response
                # with a status code of 1xx".
                headers = response_lines(event.lines)
                headers = [line for line in headers if line[0] not in _NOT_INTERIM]
                await self._send({"type": INTERIM, "status": event.status, "headers": headers})
            event = await connection.next()
        if event.kind is Kind.SWITCHED:
            await self._tunnel(connection, event)
            return
        send, status = self._send, event.status
        trailers = self._trailers and any(name == b"trailer" for name, _ in event.lines)
        headers = self._policy.response_lines(event.lines, event.version)
        if trailers:
            headers += [line for line in event.lines if line[0] == b"trailer"]
        await send({"type": _START, "status": status, "headers": headers, "trailers": trailers})
        end: Event | None = None
        while end is None:
            if connection.waiting:
                await connection.arrival()
            data, end = connection.take_rest()
            await send({"type": _BODY, "body": data, "more_body": end is None})
        if trailers:
            await send({"type": _TRAILERS, "headers": trailer_lines(end.lines)})

    async def _tunnel(self, connection: Connection, event: Event) -> None:
        accept = self._scope.get("extensions", {}).get(TUNNEL)
        if not self._upgrades or accept is None:
            raise UpstreamMalformed("the upstream switched protocols without being asked")
        protocols = [value.lower() for name, value in event.lines if name == b"upgrade"]
        if protocols != [b"websocket"]:
            # RFC 9110 7.8: "A server MUST NOT switch to a protocol that was not indicated by the
            # client in the corresponding request's Upgrade header field."
            raise UpstreamMalformed("the upstream switched to a protocol that was not asked for")
        lines = response_lines(event.lines)
        await accept([line for line in lines if line[0] != b"content-length"], connection)


def _max_forwards(lines: Lines) -> int | None:
    """The limit of Max-Forwards; None without one, or if it is not a single number."""
    given = [value for name, value in lines if name == b"max-forwards"]
    if len(given) != 1 or not given[0].isdigit() or len(given[0]) > 9:
        return None
    return int(given[0])


def _authority(options: UpstreamOptions) -> bytes:
    address = options.address
    if address.path is not None:
        return b"localhost"
    if address.port == (443 if options.tls else 80):
        return (f"[{address.host}]" if ":" in address.host else address.host).encode()
    return str(address).encode()


async def _say(send: Send, status: int, reason: str, lines: Lines | None = None) -> None:
    body = f"{status}: {reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *(lines or []),
    ]
    await send({"type": _START, "status": status, "headers": headers})
    await send({"type": _BODY, "body": body})


async def _say_nothing(send: Send) -> None:
    await send({"type": _START, "status": 204, "headers": []})
    await send({"type": _BODY, "body": b""})


async def say_failure(
    error: UpstreamError, scope: Scope, send: Send, identifier: bytes | None
) -> None:
    """Respond for an upstream that gave no response: 502, 503 or 504.

    ``identifier``: the cache's name in Cache-Status; None if it sends no such field.
    """
    # The client has written the path. It only goes to the log, as a repr.
    _logger.warning("%s %r: %s", scope["method"], unquote(scope["path"])[:200], error)
    lines: Lines = []
    if identifier is not None:
        # RFC 9211 2.8: "additional information not captured in other parameters"
        value = cache_status.forward_value(identifier, "miss", detail=error.detail)
        lines.append((b"cache-status", value))
    if error.status == 503:
        lines.append((b"retry-after", b"1"))
    await _say(send, error.status, error.detail.replace("-", " "), lines)


async def say_looped(scope: Scope, send: Send) -> None:
    """Respond to a request that the gateway itself has sent: 508."""
    _logger.warning(
        "%s %r has been here before: is the upstream this gateway?",
        scope["method"],
        unquote(scope["path"])[:200],
    )
    await _say(send, 508, "this request has been here before")
