"""One request and its response, as an ASGI call of the cache in a task of its own.

`ClientConnection` makes a `Cycle` of every request that isn't a plain hit, feeds it the content, and is
told when it is over. The cycle never touches the socket itself: it writes through `Outgoing`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from layergate.asgi.scope import HIT_FOR_MISS
from layergate.gateway.clients.framing import Framing
from layergate.gateway.clients.head import RequestHead
from layergate.gateway.clients.outgoing import SLICE, Outgoing
from layergate.gateway.clients.service import Service
from layergate.gateway.head import (
    CONTINUE,
    HeadRefused,
    encode_head,
    refusal,
    request_target,
    valid_host,
)
from layergate.gateway.proxy import INTERIM, TUNNEL, Message, say_failure, say_looped
from layergate.gateway.tunnel import End, Tunnel, UpstreamEnd
from layergate.gateway.upstreams.errors import UpstreamError
from layergate.http.message.fields import Lines

__all__ = ["Cycle"]

_logger = logging.getLogger("layergate.gateway")

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_TRAILERS: Final = "http.response.trailers"
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


class Client(End, Protocol):
    """The connection that a cycle belongs to."""

    out: Outgoing
    peer: tuple[str, int] | None
    scheme: str
    believed: bool

    def content_taken(self, cycle: Cycle) -> None:
        """All content that had come was taken: read on."""

    def finished(self, cycle: Cycle) -> None:
        """The response is sent, or given up: go on with the next request."""

    def hang_up(self) -> None:
        """Answer nothing further, and close once all is sent."""

    def log(self, head: RequestHead, status: int, size: int, seconds: float, told: str) -> None:
        """Write a line to the access log."""


class Cycle:
    """One request and its response.

    ``complete``   True once the request's content has come to its end.
    ``close``      True if the connection ends after the response.
    ``too_large``  True once more content has come than ``max_content`` allows.
    ``early``      bytes that followed a request to upgrade; they belong to the tunnel.
    ``framing``    the response so far.
    """

    __slots__ = (
        "_bad", "_called", "_client", "_flush", "_gone", "_head_bytes", "_out", "_parts", "_received",
        "_service", "_size", "_task", "_told", "_waiter", "close", "complete", "early", "framing", "head",
        "too_large",
    )  # fmt: skip

    def __init__(self, client: Client, service: Service, head: RequestHead) -> None:
        self._client = client
        self._service = service
        self._out = client.out
        self.head = head
        self.framing = Framing(head.method, head.version)
        self.close = head.close
        self.complete = not head.content
        self.too_large = False
        self.early = b""
        self._gone = False  # the client
        self._bad: tuple[int, str] | None = None  # the refusal that ends it
        self._parts: list[bytes] = []  # of the content, to be taken
        self._size = 0  # bytes of them
        self._received: int | None = 0  # bytes of content; None once its end was taken
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._called = False
        self._told = ""
        self._head_bytes = b""  # not written yet
        self._flush: asyncio.Handle | None = None

    # -- the request's content -----------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """Take a part of the content; how many bytes wait to be taken by the application."""
        self._parts.append(data)
        self._size += len(data)
        if self._received is not None:
            self._received += len(data)
            limit = self._service.max_content
            self.too_large = limit is not None and self._received > limit
        self._wake()
        return self._size

    def end(self) -> None:
        """The request is complete."""
        self.complete = True
        self._wake()

    def broken(self, status: int, reason: str) -> None:
        """The rest of the content is refused."""
        self._bad = (status, reason)
        self.close = True
        if self.framing.started:
            self._out.abort()
        elif self._task is not None and self._called:
            self._task.cancel()  # (a task that has not begun would never clean up)

    def disconnected(self) -> None:
        """The client is gone."""
        self._gone = True
        self._wake()
        if self._task is not None and self._called:
            self._task.cancel()  # (a task that has not begun sees it by itself)

    @property
    def progress(self) -> tuple[bool, int]:
        """How far the response has come, to compare with later."""
        return self.framing.started, self.framing.sent

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the call ------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = self._service.loop.create_task(self._run())

    async def _run(self) -> None:
        head, service = self.head, self._service
        began = time.perf_counter() if service.options.access_log else 0.0
        try:
            if self._bad is None and not self._gone:
                self._called = True
                await self._call()
        except asyncio.CancelledError:
            if self._bad is None and not self._gone:
                self._bad = (503, "the gateway is stopping")
                raise
        except HeadRefused as error:
            self._bad = (error.status, str(error))
        except Exception as error:
            if not self._gone:
                if not self.framing.started:
                    _logger.exception("%s %r failed", head.method, head.url[:200])
                else:
                    _logger.warning(
                        "the response to %s %r broke off: %s", head.method, head.url[:200], error
                    )
                self._bad = (500, "internal error")
        finally:
            self._flush_head()
            if service.options.access_log:
                seconds = time.perf_counter() - began
                framing = self.framing
                self._client.log(head, framing.status, framing.sent, seconds, self._told)
            if self._bad is not None and not self._out.lost:
                self._break_off(*self._bad)
            self._client.finished(self)

    async def _call(self) -> None:
        service = self._service
        scope = self._scope()
        try:
            if service.policy.returned(scope["headers"]):
                await say_looped(scope, self.send)
            else:
                await service.app(scope, self.receive, self.send)
        except UpstreamError as error:
            if self.framing.started:
                raise
            await say_failure(error, scope, self.send, service.identifier)
        if not self.framing.ended and not self._gone:
            raise RuntimeError("the response was not ended")

    def _break_off(self, status: int, reason: str) -> None:
        """End the connection: with a refusal, or in the middle of the response."""
        if not self.framing.started:
            self._out.write(refusal(status, reason, content=self.head.method != "HEAD"))
        elif self.framing.delimited:
            self._client.hang_up()
        else:
            # An orderly end would say that this was all of it.
            self._out.reset()
        self.close = True

    def _scope(self) -> dict[str, Any]:
        head, client = self.head, self._client
        target = request_target(head.url, head.method)
        lines = head.lines
        if target.authority is not None:
            # RFC 9112 3.2.2: "When an origin server receives a request with an absolute-form of
            # request-target, the origin server MUST ignore the received Host header field (if any)".
            if not valid_host(target.authority):
                raise HeadRefused(400, "the request target has no valid host")
            lines = [line for line in lines if line[0] != b"host"]
            lines.insert(0, (b"host", target.authority))
        lines, address, scheme = self._service.policy.incoming(
            lines, client.peer, client.scheme, believed=client.believed
        )
        extensions: dict[str, Any] = {"http.response.trailers": {}}
        if head.upgrade:
            extensions[TUNNEL] = self.accept
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "method": head.method,
            "scheme": scheme,
            "path": unquote_to_bytes(target.path).decode("utf-8", "replace"),
            "raw_path": target.path,
            "query_string": target.query,
            "root_path": "",
            "headers": lines,
            "client": address,
            "server": None,
            "extensions": extensions,
        }
        if head.hit_for_miss is not None:
            scope[HIT_FOR_MISS] = head.hit_for_miss
        return scope

    async def receive(self) -> Message:
        """ASGI's ``receive``. The first call sends a 100 (Continue) if the client waits for one."""
        if self.head.expects:
            self.head.expects = False  # RFC 9110 10.1.1
            if not self.framing.started and not self._received and not self.complete:
                self._out.write(CONTINUE)
        while True:
            if self._parts or (self.complete and self._received is not None):
                data = b"".join(self._parts)
                self._parts = []
                self._size = 0
                if self.complete:
                    self._received = None  # from here on, only a disconnect
                else:
                    self._client.content_taken(self)
                return {"type": "http.request", "body": data, "more_body": not self.complete}
            if self._gone or self.framing.ended:
                return {"type": "http.disconnect"}
            self._waiter = self._service.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    # -- the response --------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI's ``send``. Raises OSError when the client is gone."""
        kind = message["type"]
        if self._gone:
            raise ConnectionResetError("the client is gone")
        out = self._out
        if kind == _BODY:
            data, more = message.get("body", b""), message.get("more_body", False)
            if len(data) > SLICE:
                data = await self._send_slices(memoryview(data))
            self._send_body(data, more=more)
            if out.blocked is not None:
                await out.blocked
        elif kind == _START:
            self._send_head(message)
        elif kind == INTERIM:
            if self.head.version == "1.1" and not self.framing.started:
                out.write(encode_head(message["status"], message["headers"]))
        elif kind == _TRAILERS:
            end = self.framing.trailers(message["headers"])
            if end:
                out.write(end)
            self._wake()

    async def _send_slices(self, rest: memoryview) -> memoryview:
        """Send a large part of the body as the client takes it; the last slice is left."""
        while len(rest) > SLICE and not self.framing.ended:
            self._send_body(rest[:SLICE], more=True)
            rest = rest[SLICE:]
            await self._out.drained()
            if self._gone:
                raise ConnectionResetError("the client is gone")
        return rest

    def _send_head(self, message: Message) -> None:
        service, framing = self._service, self.framing
        lines: Lines = message["headers"]
        if service.options.access_log:
            self._told = service.told(lines)
        framing.close = self.close or service.closing or not self.complete
        self._head_bytes = framing.head(
            message["status"], lines, trailers=bool(message.get("trailers"))
        )
        self.close = framing.close
        # It goes out with the first part of the body, if that comes before anything else happens.
        self._flush = service.loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._head_bytes = self._head_bytes, b""
        if head:
            self._out.write(head)

    def _send_body(self, data: bytes | memoryview, *, more: bool) -> None:
        framing = self.framing
        if framing.ended:
            return
        parts = framing.body(data, more=more)
        head, self._head_bytes = self._head_bytes, b""
        if head:
            parts.insert(0, head)
            if self._flush is not None:
                self._flush.cancel()
        if parts:
            self._out.write_parts(parts)
        if not more:
            framing.finish()
            self._wake()

    async def accept(self, lines: Lines, upstream: UpstreamEnd) -> None:
        """The extension ``layergate.tunnel``: the upstream has switched protocols with these lines.
        Returns when either end has closed the tunnel."""
        self.close = True
        self._out.write(self.framing.switch(lines))
        await Tunnel(self._client, upstream).run(self.early)
