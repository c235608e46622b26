"""The gateway over real sockets: a worker in this loop, an origin whose every byte a test decides, and
a client that sends bytes and reads responses as strictly as an HTTP/1.1 parser may.

Nothing here sleeps to let something happen. A test waits for what it can see: a request at the origin,
bytes at the client, a counter, or the end of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Self, cast
from unittest import mock

from layergate.config import Options
from layergate.gateway import timeouts
from layergate.gateway.channel import Channel, State
from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.worker import Worker
from tests.support.asgi import until

__all__ = [
    "BOUND",
    "Call",
    "Client",
    "Gateway",
    "Origin",
    "Request",
    "Response",
    "Truncated",
    "until",
]

BOUND = 10.0  # seconds; only a test that hangs takes so long
TICK = 0.02  # seconds; how often time limits are looked at here
_MAX_HEAD = 1024 * 1024

Lines = list[tuple[str, str]]
Handler = Callable[["Call"], Awaitable[None]]


class Truncated(Exception):
    """The connection ended before the message did. ``got``: what had come of it."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"ended after {got[:200]!r}")
        self.got = got


class _Wire:
    """Bytes from a socket, for those who read messages from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def exactly(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(BOUND):
                return await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def until(self, end: bytes) -> bytes:
        """Up to and including ``end``."""
        try:
            async with asyncio.timeout(BOUND):
                return await self.reader.readuntil(end)
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def rest(self) -> bytes:
        """Everything to the end of the connection; raises Truncated if it was reset."""
        got = b""
        try:
            async with asyncio.timeout(BOUND):
                while data := await self.reader.read(65536):
                    got += data
        except OSError as error:
            raise Truncated(got) from error
        return got

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


class Call:
    """A request at the origin and the connection that it came by."""

    def __init__(self, origin: Origin, wire: _Wire, request: Request, number: int) -> None:
        self.origin = origin
        self.wire = wire
        self.request = request
        self.number = number  # 1 for the first of this path
        self.closed = False

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


class Origin:
    """A raw HTTP/1.1 origin: a handler per path. A path without one answers ``<path> <n>``, n being
    the number of requests for it so far, fresh for 60 s.

    ``requests``: all that came; ``calls``: how many by path; ``accepted``: connections so far;
    ``open``: those that are open now.
    """

    def __init__(self, *, path: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[Request] = []
        self.calls: Counter[str] = Counter()
        self.accepted = 0
        self.open: set[_Wire] = set()
        self.failures: list[BaseException] = []
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

    async def listen(self, *, port: int = 0) -> None:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(
                self._connected, self._path, limit=_MAX_HEAD
            )
            return
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", port, ssl=self._tls, limit=_MAX_HEAD
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """From now on, connections are refused."""
        assert self._server is not None
        self._server.close()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_listening()
        for task in [*self.tasks]:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        for wire in [*self.open]:
            wire.writer.transport.abort()
        assert not self.failures, self.failures

    async def received(self, count: int, path: str | None = None) -> None:
        """Wait until so many requests have come."""
        await until(
            lambda: (len(self.requests) if path is None else self.calls[path]) >= count, "slow"
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.accepted += 1
        wire = _Wire(reader, writer)
        self.open.add(wire)
        try:
            await self._serve(wire)
        except (Truncated, OSError, asyncio.CancelledError):
            pass  # the gateway has left, or the test is over
        except Exception as error:  # told at the end of the test
            self.failures.append(error)
        finally:
            self.open.discard(wire)
            self.tasks.discard(task)
            writer.close()

    async def _serve(self, wire: _Wire) -> None:
        while True:
            request = Request(*await wire.head())
            self.requests.append(request)
            self.calls[request.path] += 1
            call = Call(self, wire, request, self.calls[request.path])
            handler = self.handlers.get(request.path)
            if handler is None:
                await call.content()
                body = f"{request.target} {call.number}".encode()
                await call.reply(200, ["Cache-Control: max-age=60"], body)
            else:
                await handler(call)
            if call.closed:
                return
            if request.content is None:
                assert not request.has_content, "the handler did not read the content"


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
        response = await self.begun()
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
        return response

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
    """

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
        self._cache = cache or {}
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
        self._clients: list[Client] = []

    def options(self, **changes: Any) -> GatewayOptions:
        """The options that it is started with, some of them changed. ``upstreams`` may be given."""
        upstreams = [
            one if isinstance(one, UpstreamOptions) else UpstreamOptions(one.url, **self._upstream)
            for one in self._origins
        ]
        given: dict[str, Any] = {"upstreams": upstreams, **self._given, **changes}
        cache = given.pop("cache", self._cache)
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
        self._task = asyncio.create_task(self.worker.serve([sock]), name="gateway")
        ready = asyncio.create_task(self.channel.is_ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for client in self._clients:
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
        self._clients.append(client)
        return client

    async def ask(self, target: str = "/", *lines: str, **more: Any) -> Response:
        """One request by a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(target, *lines, **more)
        finally:
            await client.close()

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
