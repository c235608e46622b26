"""The gateway over real sockets: a worker in this loop, an origin whose every byte a test decides, and
a client that sends bytes and reads responses as strictly as an HTTP/1.1 parser may.

Each message is read twice: piece by piece, and then as a whole by h11, a parser that shares nothing with
the gateway's. If the two disagree, the message is one that smuggling is made of, and the test fails.

Nothing here sleeps to let something happen. A test waits for what it can see: a request at the origin,
bytes at the client, a counter, or the end of a connection.

`Gateway` and `Origin` are for tests that describe requests and responses; `gateway` is for tests that
write their bytes. `gateway` also checks at its end that nothing is left open and nothing was logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Self, TypeAlias, cast
from unittest import mock

import h11

from layergate.config import Options
from layergate.gateway import timeouts
from layergate.gateway.channel import Channel, State
from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.worker import Worker
from tests.support.waiting import until

__all__ = [
    "BOUND", "FRESH", "TOKEN", "Call", "Client", "Gateway", "Origin", "Request", "Response", "Truncated",
    "gateway", "reply", "request", "until",
]  # fmt: skip

BOUND = 20.0  # seconds; only a test that hangs takes so long
TICK = 0.02  # seconds; how often time limits are looked at here
TOKEN = "s3cret"
FRESH = b"Cache-Control: max-age=60"
_MAX_HEAD = 1024 * 1024
_READ_TWICE = 2 * 1024 * 1024  # bytes of a message up to which h11 reads it as well

Lines: TypeAlias = list[tuple[str, str]]
RawLines: TypeAlias = list[tuple[bytes, bytes]]
Handler: TypeAlias = Callable[["Call"], Awaitable[object]]
Script: TypeAlias = bytes | Handler


def request(
    target: bytes = b"/",
    *lines: bytes,
    method: bytes = b"GET",
    host: bytes | None = b"shop.test",
    body: bytes = b"",
) -> bytes:
    """A request as it is sent. ``body``: as it is, without a length of its own."""
    head = [b"%b %b HTTP/1.1" % (method, target)]
    if host is not None:
        head.append(b"Host: " + host)
    return b"\r\n".join([*head, *lines, b"", body])


def reply(
    body: bytes = b"", *lines: bytes, status: bytes = b"200 OK", length: bool = True
) -> bytes:
    """A response as it is sent, with a Content-Length if ``length``."""
    head = [b"HTTP/1.1 " + status, *lines]
    if length:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body])


class Truncated(EOFError):
    """The connection ended before the message did. ``got``: what had come of it."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"ended after {got[:200]!r}")
        self.got = got


class _Wire:
    """Bytes from a socket, for those who read messages from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.taken = bytearray()  # of the message that is being read

    def _take(self, data: bytes) -> bytes:
        self.taken += data
        return data

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def exactly(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(BOUND):
                return self._take(await self.reader.readexactly(size))
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def until(self, end: bytes) -> bytes:
        """Up to and including ``end``."""
        try:
            async with asyncio.timeout(BOUND):
                return self._take(await self.reader.readuntil(end))
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def rest(self) -> bytes:
        """Everything to the end of the connection; raises Truncated if it was reset."""
        got = b""
        try:
            async with asyncio.timeout(BOUND):
                while data := await self.reader.read(2**20):
                    got += data
        except OSError as error:
            raise Truncated(got) from error
        return self._take(got)

    async def remains(self) -> bytes:
        """As `rest`, but a reset is an end like any other."""
        try:
            return await self.rest()
        except Truncated as error:
            return error.got

    async def closed(self) -> None:
        """Wait until the other side has closed the connection; nothing may come before."""
        assert await self.remains() == b""

    async def head(self) -> tuple[str, Lines]:
        """A start line, and field lines with their names in lower case."""
        start, _, fields = (await self.until(b"\r\n\r\n")).partition(b"\r\n")
        lines = []
        for line in fields.split(b"\r\n"):
            if line:
                name, colon, value = line.partition(b":")
                assert colon and name == name.strip(), line
                lines.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        return start.decode("latin-1"), lines

    async def chunked(self) -> tuple[bytes, Lines]:
        """A content in chunks, and the trailer fields after it."""
        got = b""
        while True:
            try:
                size = int((await self.until(b"\r\n")).partition(b";")[0], 16)
                if not size:
                    break
                got += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            except Truncated as error:
                raise Truncated(got + error.got) from error
        trailers: Lines = []
        while (line := await self.until(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            trailers.append((name.decode().lower(), value.strip().decode()))
        return got, trailers

    async def ended(self) -> None:
        """Wait until the other side has closed the connection (or reset it); nothing may come before."""
        try:
            async with asyncio.timeout(BOUND):
                data = await self.reader.read(1)
        except OSError:
            return
        assert not data, f"got {data!r} instead of the end"

    def pause(self) -> None:
        """Take nothing more from the socket."""
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def resume(self) -> None:
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    async def close(self) -> None:
        """Once all that was sent is taken; `reset` is for what nobody takes."""
        self.writer.close()
        async with asyncio.timeout(BOUND):
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()

    async def shuts(self) -> None:
        """Send no more, and go on reading: half of a close."""
        self.writer.write_eof()

    def reset(self) -> None:
        """End the connection with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class _Message:
    lines: Lines

    @property
    def raw(self) -> RawLines:
        """The field lines as bytes."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.lines]

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.lines if field == name.lower()]

    def header(self, name: str) -> str | None:
        """The field's value, its lines joined; None if it is absent."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


# -- the origin ------------------------------------------------------------------------------------


class Request(_Message):
    """A request's head, as it came to the origin."""

    def __init__(self, start: str, lines: Lines) -> None:
        self.start = start
        self.method, self.target, self.version = start.split(" ")
        self.lines = lines
        self.path = self.target.partition("?")[0]
        self.content: bytes | None = None  # once it was read
        self.trailers: Lines = []

    @property
    def has_content(self) -> bool:
        return "transfer-encoding" in self or self.header("content-length") not in (None, "0")


def _read_by_h11(data: bytes, request: Request) -> str:
    """What is wrong with these bytes as the request that was read piece by piece; "" for nothing."""
    if len(data) > _READ_TWICE:
        return ""
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    conn.receive_data(data)
    body = b""
    try:
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                if (event.method, event.target) != (
                    request.method.encode("latin-1"), request.target.encode("latin-1"),
                ) or [tuple(line) for line in event.headers] != request.raw:  # fmt: skip
                    return f"another head to h11: {data[:500]!r}"
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return f"incomplete to h11: {data[:500]!r}"
    except h11.RemoteProtocolError as error:
        return f"{error}: {data[:500]!r}"
    # (A handler may have taken the beginning of the content from the wire.)
    if not body.endswith(request.content or b"") or conn.trailing_data[0]:
        return f"another length to h11: {data[:500]!r}"
    return ""


class Call:
    """A request at the origin and the connection that it came by, from 0.

    ``method``, ``target``, ``lines`` and ``body`` are those of the request as bytes.
    """

    def __init__(
        self, origin: Origin, wire: _Wire, request: Request, number: int, connection: int
    ) -> None:
        self.origin = origin
        self.wire = wire
        self.request = request
        self.number = number  # 1 for the first of this path
        self.connection = connection
        self.closed = False
        self.method = request.method.encode("latin-1")
        self.target = request.target.encode("latin-1")
        self.lines = request.raw
        self.reader, self.writer = wire.reader, wire.writer

    @property
    def body(self) -> bytes:
        return self.request.content or b""

    def all(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.lines if own == name]

    async def content(self) -> bytes:
        """Read the request's content."""
        request = self.request
        if request.content is None:
            if request.header("transfer-encoding") == "chunked":
                request.content, request.trailers = await self.wire.chunked()
            else:
                request.content = await self.wire.exactly(
                    int(request.header("content-length") or 0)
                )
            wrong = _read_by_h11(bytes(self.wire.taken), request)
            if wrong:
                self.origin.malformed.append(wrong)
        return request.content

    async def send(self, data: bytes) -> None:
        await self.wire.send(data)

    async def reply(
        self, status: int = 200, lines: Iterable[str] = (), body: bytes | None = b""
    ) -> None:
        """A response with a Content-Length; ``body`` None: without one, and without content."""
        head = [f"HTTP/1.1 {status} X", *lines]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*head, "", ""]).encode("latin-1") + (body or b""))

    async def close(self) -> None:
        self.closed = True
        await self.wire.close()

    def reset(self) -> None:
        self.closed = True
        self.wire.reset()


class _Recording(asyncio.StreamReader):
    """A reader that keeps all bytes as they come, whether anything reads them or not."""

    def __init__(self, received: bytearray) -> None:
        super().__init__(limit=_MAX_HEAD)
        self._received = received

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        self._received += data
        super().feed_data(data)


class Origin:
    """A raw HTTP/1.1 origin. What it answers with is, in this order:

    ``handlers``   by path: called with the head only. See `on` and `answers`.
    ``scripts``    by target: bytes, or called with the whole request.
    ``otherwise``  such a script for all other targets.

    and else ``<target> <n>``, n being the number of requests for it so far, fresh for 60 s. ``early``, by
    target: bytes that are sent as soon as a request's head has come.

    ``requests``: the heads of all requests; ``seen``: those that a script, or nothing, has answered;
    ``calls``: how many by path, ``counts``: by target; ``accepted``: connections so far; ``open``: those
    that are open now; ``malformed``: what is wrong with requests, read by h11.
    """

    def __init__(self, *, path: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.handlers: dict[str, Handler] = {}
        self.scripts: dict[bytes, Script] = {}
        self.otherwise: Script | None = None
        self.early: dict[bytes, bytes] = {}
        self.requests: list[Request] = []
        self.seen: list[Call] = []
        self.calls: Counter[str] = Counter()
        self.counts: Counter[bytes] = Counter()
        self.accepted = 0
        self.open: set[_Wire] = set()
        self.failures: list[BaseException] = []
        self.malformed: list[str] = []
        self.received_bytes: list[bytearray] = []  # of each connection
        self.port = 0
        self._path = path
        self._tls = tls
        self.tasks: set[asyncio.Task[None]] = set()  # one for each connection
        self._server: asyncio.Server | None = None

    def on(self, path: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            self.handlers[path] = handler
            return handler

        return register

    def answers(self, path: str, data: bytes, *, close: bool = False) -> None:
        """Answer requests for this path with these bytes."""

        async def handler(call: Call) -> None:
            await call.content()
            await call.send(data)
            if close:
                await call.close()

        self.handlers[path] = handler

    @property
    def url(self) -> str:
        if self._path is not None:
            return f"unix:{self._path}"
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def last(self) -> Request:
        return self.requests[-1]

    @property
    def targets(self) -> list[bytes]:
        return [call.target for call in self.seen]

    @property
    def bytes(self) -> bytes:
        """All that has come, over all connections."""
        return b"".join(self.received_bytes)

    def forget(self) -> None:
        """Forget all requests so far."""
        self.requests.clear()
        self.seen.clear()
        self.calls.clear()
        self.counts.clear()
        self.received_bytes[:] = [bytearray() for _ in self.received_bytes]

    async def listen(self, *, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        if self._path is not None:
            self._server = await loop.create_unix_server(self._protocol, self._path)
            return
        self._server = await loop.create_server(self._protocol, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        self.received_bytes.append(received := bytearray())
        number = len(self.received_bytes) - 1

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer, number)

        return asyncio.StreamReaderProtocol(_Recording(received), connected)

    def stop_listening(self) -> None:
        """From now on, connections are refused."""
        assert self._server is not None
        self._server.close()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_listening()
        await self.hang_up()
        assert not self.failures, self.failures
        assert not self.malformed, self.malformed

    async def hang_up(self) -> None:
        """End every connection there is."""
        for task in [*self.tasks]:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        for wire in [*self.open]:
            wire.writer.transport.abort()

    async def received(self, count: int, path: str | None = None) -> None:
        """Wait until so many requests have come."""
        await until(
            lambda: (len(self.requests) if path is None else self.calls[path]) >= count, "slow"
        )

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.accepted += 1
        wire = _Wire(reader, writer)
        self.open.add(wire)
        try:
            await self._serve(wire, number)
        except (Truncated, OSError, asyncio.CancelledError):
            pass  # the gateway has left, or the test is over
        except Exception as error:  # reported at the end of the test
            self.failures.append(error)
        finally:
            self.open.discard(wire)
            self.tasks.discard(task)
            writer.close()

    async def _serve(self, wire: _Wire, connection: int) -> None:
        while True:
            wire.taken.clear()
            request = Request(*await wire.head())
            self.requests.append(request)
            self.calls[request.path] += 1
            call = Call(self, wire, request, self.calls[request.path], connection)
            handler = self.handlers.get(request.path)
            if handler is not None:
                await handler(call)
            else:
                await self._answer(call)
            if call.closed:
                return
            if request.content is None:
                assert not request.has_content, "the handler did not read the content"

    async def _answer(self, call: Call) -> None:
        early = self.early.get(call.target)
        if early is not None:
            await call.send(early)
        script = self.scripts.get(call.target, self.otherwise)
        if script is not None and "expect" in call.request:
            await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.content()
        self.seen.append(call)
        self.counts[call.target] += 1
        if script is None:
            body = b"%b %d" % (call.target, self.counts[call.target])
            length = b"Content-Length: %d" % len(body)
            script = reply(b"" if call.method == b"HEAD" else body, FRESH, length, length=False)
        if isinstance(script, bytes):
            await call.send(script)
        else:
            await script(call)


# -- the client ------------------------------------------------------------------------------------


class Response(_Message):
    """A response as the client has read it. ``interim``: the 1xx responses before it."""

    def __init__(self, start: str, lines: Lines, interim: list[Response]) -> None:
        self.version, status, self.reason = start.split(" ", 2)
        self.status = int(status)
        self.lines = lines
        self.interim = interim
        self.body = b""
        self.trailers: Lines = []

    def get(self, name: bytes) -> bytes | None:
        """The field's value, which must be there once at most."""
        values = self.all(name.decode())
        assert len(values) < 2, f"{name!r} more than once: {values}"
        return values[0].encode("latin-1") if values else None

    @property
    def cache_status(self) -> str:
        return self.header("cache-status") or ""

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache_status


class Client(_Wire):
    """A connection to the gateway."""

    async def request(
        self,
        target: str = "/",
        *lines: str,
        method: str = "GET",
        version: str = "1.1",
        content: bytes | None = None,
        host: str | None = "example.com",
    ) -> None:
        """Send a request. ``content``: with a Content-Length."""
        head = [f"{method} {target} HTTP/{version}"]
        if host is not None:
            head.append(f"Host: {host}")
        head += lines
        if content is not None:
            head.append(f"Content-Length: {len(content)}")
        await self.send("\r\n".join([*head, "", ""]).encode("latin-1") + (content or b""))

    async def ask(self, target: str = "/", *lines: str, **more: Any) -> Response:
        """Send a request and read the response to it."""
        await self.request(target, *lines, **more)
        return await self.response(more.get("method", "GET"))

    async def exchange(self, data: bytes) -> Response:
        """Send the bytes of a request and read the response to it."""
        await self.send(data)
        return await self.response(data.split(b" ", 1)[0].decode("latin-1"))

    async def begun(self) -> Response:
        """The head of the next final response."""
        interim: list[Response] = []
        while True:
            head = Response(*await self.head(), interim)
            assert head.version == "HTTP/1.1"
            if head.status >= 200 or head.status == 101:
                return head
            interim = [*interim, head]

    async def response(self, method: str = "GET") -> Response:
        """The next response (RFC 9112 6.3). Raises Truncated."""
        self.taken.clear()
        response = await self.begun()
        if response.status == 101:
            return response
        coding, length = response.header("transfer-encoding"), response.header("content-length")
        assert coding is None or length is None, "two framings"
        if method == "HEAD" or response.status in (204, 304):
            assert coding is None
        elif coding is not None:
            assert coding == "chunked"
            response.body, response.trailers = await self.chunked()
        elif length is not None:
            response.body = await self.exactly(int(length))
        else:
            assert response.header("connection") == "close", "nothing tells where it ends"
            response.body = await self.rest()
        self._read_by_h11(response, method)
        return response

    def _read_by_h11(self, response: Response, method: str) -> None:
        """h11 must read the same response from the same bytes."""
        if len(self.taken) > _READ_TWICE:
            return
        conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        # h11 wants to have sent the request, of which only the method makes a difference.
        conn.send(h11.Request(method=method or "GET", target="/", headers=[("host", "x")]))
        conn.send(h11.EndOfMessage())
        conn.receive_data(bytes(self.taken))
        conn.receive_data(b"")
        interim, body = 0, b""
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.InformationalResponse):
                interim += 1
            elif isinstance(event, h11.Response):
                assert event.status_code == response.status
                assert [tuple(line) for line in event.headers] == response.raw
            else:
                assert isinstance(event, h11.Data), event
                body += bytes(event.data)
        assert (interim, body) == (len(response.interim), response.body)
        assert not conn.trailing_data[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


# -- the gateway -----------------------------------------------------------------------------------


class _ReadyChannel(Channel):
    """Nobody at the other end but the test."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ready = asyncio.Event()

    def ready(self) -> None:
        super().ready()
        self.is_ready.set()


class Counts(NamedTuple):
    """What could leak."""

    clients: int
    upstream: int
    tasks: int


class Gateway:
    """A worker in the running loop, in front of ``origins``: `Origin`s, or `UpstreamOptions`.

    ``cache``: options of the cache; ``upstream``: options of every upstream; ``options``: those of
    the gateway. ``continue_within``, ``linger``, ``half_close``: limits that are no options, in
    seconds.

    ``clients``: all connections that were made to it.
    """

    origin: Origin  # of `gateway`
    logged: Records  # of `gateway`

    def __init__(
        self,
        *origins: Origin | UpstreamOptions,
        upstream: dict[str, Any] | None = None,
        cache: dict[str, Any] | None = None,
        path: str | None = None,
        continue_within: float = 0.05,
        linger: float = 0.1,
        half_close: float = 60.0,
        **options: Any,
    ) -> None:
        self._origins = origins
        self._upstream = upstream or {}
        self._cache_options = cache or {}
        self._given = options
        self._path = path
        self._patches = contextlib.ExitStack()
        for name, value in (
            ("TICK", TICK),
            ("LINGER", linger),
            ("HALF_CLOSE", half_close),
            ("CONTINUE", continue_within),
        ):
            self._patches.enter_context(mock.patch.object(timeouts, name, value))
        self.port = 0
        self.clients: list[Client] = []

    def options(self, **changes: Any) -> GatewayOptions:
        """The options that it is started with, some of them changed. ``upstreams`` may be given."""
        upstreams = [
            one if isinstance(one, UpstreamOptions) else UpstreamOptions(one.url, **self._upstream)
            for one in self._origins
        ]
        given: dict[str, Any] = {"upstreams": upstreams, **self._given, **changes}
        cache = given.pop("cache", self._cache_options)
        return GatewayOptions(cache=Options(telemetry=None, **cache), **given)

    async def __aenter__(self) -> Self:
        family = socket.AF_INET if self._path is None else socket.AF_UNIX
        sock = socket.socket(family)
        sock.bind(("127.0.0.1", 0) if self._path is None else self._path)
        if self._path is None:
            self.port = sock.getsockname()[1]
        self.channel = _ReadyChannel()
        self.worker = Worker(self.options(), self.channel)
        self.server, self.proxy = self.worker.server, self.worker.proxy
        self.cache = self.worker.cache
        self._task = asyncio.create_task(self.worker.serve([sock]), name="gateway")
        ready = asyncio.create_task(self.channel.is_ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for client in self.clients:
                await client.close()
            self.channel.stop(now=True)
            async with asyncio.timeout(BOUND):
                await self._task
        finally:
            self._patches.close()

    async def client(self, *, tls: ssl.SSLContext | None = None, window: int = 0) -> Client:
        """A connection. ``window``: bytes that the client's socket takes without being read."""
        if self._path is not None:
            reader, writer = await asyncio.open_unix_connection(self._path)
        else:
            sock = socket.socket()
            if window:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            except OSError:
                sock.close()
                raise
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=tls,
                server_hostname=None if tls is None else "example.com",
                limit=_MAX_HEAD,
            )
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def ask(self, target: str = "/", *lines: str, **more: Any) -> Response:
        """One request by a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(target, *lines, **more)
        finally:
            await client.close()

    async def exchange(self, data: bytes) -> Response:
        """The bytes of one request by a connection of its own."""
        client = await self.client()
        try:
            return await client.exchange(data)
        finally:
            await client.close()

    async def get(self, target: bytes = b"/", *lines: bytes, **kind: Any) -> Response:
        """As `exchange`, with the bytes of `request`."""
        return await self.exchange(request(target, *lines, **kind))

    async def refused(self, data: bytes, *statuses: int) -> Response:
        """These bytes are refused with one of the statuses, the connection is closed, and what comes
        behind them is no request."""
        before = len(self.origin.seen)
        client = await self.client()
        await client.send(data + request(b"/smuggled"))
        response = await client.response()
        assert response.status in statuses, response
        await client.closed()
        await client.close()
        assert b"/smuggled" not in self.origin.bytes
        assert len(self.origin.seen) == before
        return response

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await until(lambda: all(c._cycle is None for c in self.server.connections))
        await until(lambda: not any(pool._busy for pool in self.proxy.pools))

    def reload(self, **changes: Any) -> list[str]:
        """Have it take new options, as on SIGHUP; the names of those that wait for a restart."""
        return sorted(self.worker.reload(self.options(**changes)))

    async def drain(self) -> None:
        """Ask it to stop, gracefully."""
        self.channel.stop()
        await until(lambda: self.server.service.draining)

    async def stopped(self) -> None:
        async with asyncio.timeout(BOUND):
            await asyncio.shield(self._task)

    def stat(self, name: str) -> int:
        """How often this has happened."""
        value: int = self.worker.cache.stats()["events"][name]
        return value

    @property
    def counts(self) -> Counts:
        return Counts(
            len(self.server.connections),
            sum(pool.open for pool in self.proxy.pools),
            sum(not task.done() for task in asyncio.all_tasks()),
        )

    @property
    def ready(self) -> bool:
        return self.channel.state is State.READY


class Records(logging.Handler):
    """What was logged, from WARNING on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def errors(self) -> list[logging.LogRecord]:
        return [one for one in self.records if one.levelno >= logging.ERROR]


@contextlib.asynccontextmanager
async def gateway(*, quiet: bool = True, **options: Any) -> AsyncIterator[Gateway]:
    """A gateway and its origin.

    At the end nothing is open, nothing malformed has come to the origin, no exception has reached the
    loop, and, if ``quiet``, no error was logged.
    """
    faults: list[dict[str, Any]] = []
    logged = Records()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    logging.getLogger().addHandler(logged)
    given = {"admin_token": TOKEN, "drain_timeout": 1, "linger": 0.3, "half_close": 0.3, **options}
    try:
        async with Origin() as origin, Gateway(origin, continue_within=1.0, **given) as gate:
            gate.origin, gate.logged = origin, logged
            yield gate
            for client in gate.clients:
                await client.close()
            await until(lambda: not gate.server.connections)
            await gate.idle()
            pools = gate.proxy.pools
            await until(
                lambda: all(one._slots + one.open == one.options.max_connections for one in pools),
                "every slot to be given back",
            )
            assert not any(one._queue for one in pools)
    finally:
        logging.getLogger().removeHandler(logged)
        loop.set_exception_handler(None)
    assert not faults
    if quiet:
        assert not logged.errors, [one.getMessage() for one in logged.errors]
