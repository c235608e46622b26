"""HTTP/1.1 over sockets, for what a test says to a server and what it is told.

Each message is read twice: piece by piece, as strictly as an HTTP/1.1 parser may, and then as a whole by h11,
a parser that shares nothing with the gateway's. If the two disagree, the message is one that smuggling is made
of, and the test fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any, Self, TypeAlias, cast

import h11

from tests.support.waiting import BOUND

__all__ = ["MAX_HEAD", "Client", "Request", "Response", "Truncated", "Wire", "reply", "request"]

MAX_HEAD = 1024 * 1024
_READ_TWICE = 2 * 1024 * 1024  # bytes of a message up to which h11 reads it as well

Lines: TypeAlias = list[tuple[str, str]]
RawLines: TypeAlias = list[tuple[bytes, bytes]]


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


class Wire:
    """Bytes from a socket, for those who read messages from it."""

    bound: float | None = BOUND  # seconds for each piece

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
            async with asyncio.timeout(self.bound):
                return self._take(await self.reader.readexactly(size))
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def until(self, end: bytes) -> bytes:
        """Up to and including ``end``."""
        try:
            async with asyncio.timeout(self.bound):
                return self._take(await self.reader.readuntil(end))
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except OSError as error:
            raise Truncated(b"") from error

    async def rest(self) -> bytes:
        """Everything to the end of the connection; raises Truncated if it was reset."""
        got = b""
        try:
            async with asyncio.timeout(self.bound):
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

    async def content(self, request: Request) -> list[str]:
        """Read what follows the head of ``request``. What is wrong with both, if anything."""
        if request.header("transfer-encoding") == "chunked":
            request.content, request.trailers = await self.chunked()
        else:
            request.content = await self.exactly(int(request.header("content-length") or 0))
        wrong = _read_by_h11(bytes(self.taken), request)
        return [wrong] if wrong else []

    async def ended(self) -> None:
        """Wait until the other side has closed the connection (or reset it); nothing may come before."""
        try:
            async with asyncio.timeout(self.bound):
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
        async with asyncio.timeout(self.bound):
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

    @property
    def fields(self) -> dict[str, str]:
        """By name; of several lines of a field, the last."""
        return dict(self.lines)

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.lines if field == name.lower()]

    def header(self, name: str) -> str | None:
        """The field's value, its lines joined; None if it is absent."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


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
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
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


class Client(Wire):
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
        conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
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
