"""A gateway, an origin and a client of raw bytes, in one loop.

The origin keeps every byte that it gets, and reads it with h11, a parser that shares nothing with
the gateway's: what h11 does not take, or takes for something else, is what smuggling is made of.
The client reads what it gets with h11 too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias
from unittest.mock import patch

import h11

from layergate.config import Options
from layergate.gateway import timeouts
from layergate.gateway.channel import Channel
from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.worker import Worker

__all__ = [
    "BOUND", "FRESH", "TOKEN", "Client", "Gateway", "Origin", "Response", "Seen", "gateway", "reply",
    "request", "until",
]  # fmt: skip

BOUND = 20.0  # seconds; only a test that hangs takes so long
TOKEN = "s3cret"
FRESH = b"Cache-Control: max-age=60"
Lines: TypeAlias = Iterable[bytes]


async def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait for something that happens by itself."""
    try:
        async with asyncio.timeout(BOUND):
            while not holds():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


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


class Response(NamedTuple):
    status: int
    lines: list[tuple[bytes, bytes]]
    body: bytes
    interim: list[tuple[int, list[tuple[bytes, bytes]]]] = []  # noqa: RUF012  (never changed)

    def all(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.lines if own == name]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) < 2, f"{name!r} more than once: {values}"
        return values[0] if values else None

    @property
    def hit(self) -> bool:
        return b"; hit" in (self.get(b"cache-status") or b"")


class Client:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._rest = b""

    @classmethod
    async def to(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**26))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, method: bytes = b"GET") -> Response:
        """The next one, to its end. AssertionError if it is not exactly one response, EOFError if
        the connection ends before it does."""
        conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**22)
        # h11 wants to have sent the request; what it says makes no difference but for its method.
        conn.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        conn.send(h11.EndOfMessage())
        if self._rest:
            conn.receive_data(self._rest)
        self._rest = b""
        head: h11.Response | None = None
        interim: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        body = b""
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError as error:
                if "closed" in str(error) or "without sending complete" in str(error):
                    raise EOFError(str(error)) from None
                raise AssertionError(f"no response that h11 takes: {error}") from None
            if event is h11.NEED_DATA:
                async with asyncio.timeout(BOUND):
                    conn.receive_data(await self._reader.read(2**20))
            elif isinstance(event, h11.InformationalResponse):
                interim.append((event.status_code, list(event.headers)))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._rest = conn.trailing_data[0]
                return Response(head.status_code, list(head.headers), body, interim)
            else:
                raise EOFError("the connection was closed")

    async def ask(self, data: bytes) -> Response:
        """Send one request, and take its response."""
        await self.send(data)
        return await self.response(data.split(b" ", 1)[0])

    async def rest(self) -> bytes:
        """All that comes until the gateway closes the connection."""
        data = self._rest
        self._rest = b""
        async with asyncio.timeout(BOUND):
            with contextlib.suppress(ConnectionResetError):
                while more := await self._reader.read(2**20):
                    data += more
        return data

    async def closed(self) -> None:
        """Until the gateway closes the connection, without another byte."""
        assert await self.rest() == b""

    async def tunnel(self, size: int) -> bytes:
        """That many bytes, not looked at."""
        data, self._rest = self._rest[:size], self._rest[size:]
        async with asyncio.timeout(BOUND):
            return data + await self._reader.readexactly(size - len(data))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Seen:
    """A request, as h11 has read it at the origin."""

    connection: int
    method: bytes
    target: bytes
    lines: list[tuple[bytes, bytes]]
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    body: bytes = b""

    def all(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.lines if own == name]


Script: TypeAlias = "bytes | Callable[[Seen], Awaitable[object]]"


@dataclass
class Origin:
    """Answers each request with its script: bytes, or what is called with the request and writes
    itself. By target, or ``otherwise``; else with the target and how often it was asked for.

    ``early``: what is sent as soon as a request's head has come, by target; then nothing more.
    """

    port: int = 0
    scripts: dict[bytes, Script] = field(default_factory=dict)
    otherwise: Script | None = None
    early: dict[bytes, bytes] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    received: list[bytearray] = field(default_factory=list)  # of each connection
    malformed: list[str] = field(default_factory=list)
    counts: Counter[bytes] = field(default_factory=Counter)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def targets(self) -> list[bytes]:
        return [seen.target for seen in self.seen]

    @property
    def bytes(self) -> bytes:
        """All that has come, over all connections."""
        return b"".join(self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open.add(writer)
        number = len(self.received)
        self.received.append(bytearray())
        try:
            await self._connection(number, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the gateway hung up, or the test is over
        except h11.RemoteProtocolError as error:
            if "closed" not in str(error):  # a request that is cut short is none
                self.malformed.append(str(error))
        finally:
            self.open.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _connection(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        rest = b""
        while True:
            conn = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
            if rest:
                conn.receive_data(rest)
            seen: Seen | None = None
            while True:
                event = conn.next_event()
                if event is h11.NEED_DATA:
                    data = await reader.read(2**16)
                    if not data and seen is None and not conn.trailing_data[0]:
                        return
                    self.received[number] += data
                    conn.receive_data(data)
                elif isinstance(event, h11.Request):
                    assert event.http_version == b"1.1"
                    seen = Seen(
                        number, event.method, event.target, list(event.headers), writer, reader
                    )
                    if event.target in self.early:
                        writer.write(self.early[event.target])
                    if conn.they_are_waiting_for_100_continue:
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                elif isinstance(event, h11.Data):
                    assert seen is not None
                    seen.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert seen is not None
            self.seen.append(seen)
            self.counts[seen.target] += 1
            await self._answer(seen, writer)
            rest = conn.trailing_data[0]

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        script = self.scripts.get(seen.target, self.otherwise)
        if script is None:
            body = b"%b %d" % (seen.target, self.counts[seen.target])
            script = reply(b"" if seen.method == b"HEAD" else body, FRESH)
            if seen.method == b"HEAD":
                script = reply(b"", FRESH, b"Content-Length: %d" % len(body), length=False)
        if isinstance(script, bytes):
            writer.write(script)
            await writer.drain()
        else:
            await script(seen)

    async def hang_up(self) -> None:
        """End every connection there is."""
        for writer in [*self.open]:
            writer.close()
        for task in [*self._tasks]:
            task.cancel()
        if self._tasks:
            await asyncio.wait([*self._tasks])


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Gateway:
    """A worker, in the loop of the test."""

    def __init__(self, port: int, origin: Origin, worker: Worker) -> None:
        self.port = port
        self.origin = origin
        self.worker = worker
        self.server, self.proxy, self.cache = worker.server, worker.proxy, worker.cache
        self.channel = worker.channel
        self.logged = _Records()
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = await Client.to(self.port)
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> Response:
        """One request on a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(data)
        finally:
            await client.close()

    async def get(self, target: bytes = b"/", *lines: bytes, **kind: Any) -> Response:
        return await self.ask(request(target, *lines, **kind))

    async def refused(self, data: bytes, *statuses: int) -> Response:
        """This is refused with one of the statuses, its connection is closed, and what comes behind
        it is nobody's request."""
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
        """Until no request is under way."""
        await until(
            lambda: all(c._cycle is None for c in self.server.connections), "requests to end"
        )
        await until(
            lambda: not any(pool._busy for pool in self.proxy.pools), "the upstream to be idle"
        )


@asynccontextmanager
async def gateway(
    *,
    upstream: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    quiet: bool = True,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """A gateway and its origin.

    At the end nothing is open, nothing malformed has come to the origin, and, if ``quiet``, no
    error was logged.
    """
    origin = Origin()
    listener = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=2**22)
    origin.port = listener.sockets[0].getsockname()[1]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    settings: dict[str, Any] = {"admin_token": TOKEN, "drain_timeout": 1, **options}
    made = GatewayOptions(
        upstreams=[UpstreamOptions(f"http://127.0.0.1:{origin.port}", **(upstream or {}))],
        listen=[f"127.0.0.1:{port}"],
        cache=Options(**(cache or {})),
        **settings,
    )
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    under_test = Gateway(port, origin, Worker(made, Channel()))
    logger = logging.getLogger()
    logger.addHandler(under_test.logged)
    with (
        patch.object(timeouts, "TICK", 0.05),
        patch.object(timeouts, "LINGER", 0.3),
        patch.object(timeouts, "HALF_CLOSE", 0.3),
    ):
        serving = asyncio.create_task(under_test.worker.serve([sock]))
        try:
            await until(
                lambda: serving.done() or under_test.channel.state.value == "ready", "the gateway"
            )
            if serving.done():
                serving.result()
            yield under_test
            for client in under_test.clients:
                await client.close()
            await until(lambda: not under_test.server.connections, "connections to be closed")
            await under_test.idle()
            for pool in under_test.proxy.pools:
                assert pool._slots + pool.open == pool.options.max_connections
                assert not pool._queue
        finally:
            under_test.channel.stop()
            async with asyncio.timeout(BOUND):
                await serving
            listener.close()
            await origin.hang_up()
            logger.removeHandler(under_test.logged)
            loop.set_exception_handler(None)
    assert not origin.malformed
    assert not faults
    if quiet:
        errors = [one for one in under_test.logged.records if one.levelno >= logging.ERROR]
        assert not errors, [one.getMessage() for one in errors]
