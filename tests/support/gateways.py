"""The gateway over real sockets: a worker in this loop, an origin whose every byte a test decides, and a
client, both of which read as `tests.support.http1` does.

Nothing here sleeps to let something happen. A test waits for what it can see: a request at the origin,
bytes at the client, a counter, or the end of a connection.

`Gateway` and `Origin` are for tests that describe requests and responses; `gateway` is for tests that
write their bytes. `gateway` also checks at its end that nothing is left open and nothing was logged.
A gateway of processes, with its supervisor, is in `tests.support.gateway_processes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Self, TypeAlias
from unittest import mock

from layergate.config import Options
from layergate.gateway import timeouts
from layergate.gateway.channel import Channel, State
from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.worker import Worker
from tests.support.http1 import (
    MAX_HEAD,
    Client,
    Request,
    Response,
    Truncated,
    Wire,
    reply,
    request,
)
from tests.support.waiting import BOUND, until

__all__ = ["FRESH", "TOKEN", "Call", "Gateway", "Origin", "gateway"]

TICK = 0.02  # seconds; how often time limits are looked at here
TOKEN = "s3cret"
FRESH = b"Cache-Control: max-age=60"

Handler: TypeAlias = Callable[["Call"], Awaitable[object]]
Script: TypeAlias = bytes | Handler


class Call:
    """A request at the origin and the connection that it came by, from 0.

    ``method``, ``target``, ``lines`` and ``body`` are those of the request as bytes.
    """

    def __init__(
        self, origin: Origin, wire: Wire, request: Request, number: int, connection: int
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
        if self.request.content is None:
            self.origin.malformed += await self.wire.content(self.request)
        assert self.request.content is not None
        return self.request.content

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
        super().__init__(limit=MAX_HEAD)
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
        self.open: set[Wire] = set()
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
        wire = Wire(reader, writer)
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

    async def _serve(self, wire: Wire, connection: int) -> None:
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
                limit=MAX_HEAD,
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
