"""The side of the origin: connections, and a bounded pool of them for each upstream.

A `Connection` turns what arrives into events (a head, parts of a body, the end) which one request
at a time takes from it; a response that has arrived whole wakes its request once. What is parsed is
parsed by llhttp, in its strict mode. HTTP/1.1 alone: one connection carries one request at a time,
so a slow response delays nobody else's.

Time limits are looked at by one timer for all connections, twice a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ssl
from collections import deque
from functools import partial
from typing import Any, Final, NamedTuple, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

from layergate.errors import OriginUnreachable
from layergate.gateway.options import UpstreamOptions
from layergate.http.message.fields import Lines, split_list

__all__ = [
    "Connection",
    "Event",
    "Kind",
    "Pool",
    "TooManyTunnels",
    "UpstreamBusy",
    "UpstreamClosed",
    "UpstreamError",
    "UpstreamMalformed",
    "UpstreamTimeout",
    "UpstreamUnreachable",
]

HIGH_WATER: Final = 256 * 1024
"""Bytes of a response that wait for a client before the connection is not read any further."""
_EVENT: Final = 200  # bytes that a part of a body takes beside itself
TICK: Final = 0.5
_MAX_HEAD: Final = 128 * 1024  # bytes of a response's head, or of its trailer section
_MAX_FIELDS: Final = 512
_MAX_INTERIM: Final = 32  # 1xx responses before the final one
_MAX_QUEUE: Final = 4096  # requests that wait for a connection
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
# RFC 9112 7.2 and 7.3: we offer none of them (there is no TE in our requests but for trailers).
_CODINGS: Final = frozenset(
    {b"chunked", b"compress", b"deflate", b"gzip", b"x-compress", b"x-gzip"}
)


class UpstreamError(OriginUnreachable):
    """The upstream did not give a response. ``status``: what a client is told then, if no stored
    response may stand in."""

    status = 502
    detail = "upstream-failed"


class UpstreamUnreachable(UpstreamError):
    """No connection could be made."""

    detail = "upstream-unreachable"


class UpstreamClosed(UpstreamError):
    """The connection ended before the response did."""

    detail = "upstream-closed"


class UpstreamMalformed(UpstreamError):
    """What came is no HTTP response that this gateway is sure to understand."""

    detail = "upstream-malformed"


class UpstreamTimeout(UpstreamError):
    """The upstream took longer than it may."""

    status = 504
    detail = "upstream-timeout"


class UpstreamBusy(UpstreamError):
    """As many requests as there may be are under way, and none ended in time."""

    status = 503
    detail = "upstream-busy"


class TooManyTunnels(UpstreamBusy):
    """There are as many tunnels to the upstream as there may be."""

    detail = "too-many-tunnels"


class Kind(enum.Enum):
    """What an `Event` is."""

    INTERIM = enum.auto()  # a 1xx response
    HEAD = enum.auto()  # of the final response
    SWITCHED = enum.auto()  # 101: from here on the connection is a tunnel
    BODY = enum.auto()
    END = enum.auto()


class Event(NamedTuple):
    """``status``, ``lines`` and ``version`` of a head; ``lines`` of an end are trailer fields;
    ``data`` of a body."""

    kind: Kind
    status: int = 0
    lines: Lines = []  # noqa: RUF012  (never changed)
    data: bytes = b""
    version: str = "1.1"


_END: Final = Event(Kind.END)


class Connection(asyncio.Protocol):
    """One connection to an upstream.

    For each request: `begin`, `write`, then `next` until an END or SWITCHED; then it is `reusable`
    or not.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = pool.loop
        self.transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._events: deque[Event] = deque()
        self._parts: list[bytes] = []  # of the body, in what is being parsed
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._buffered = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self.lost = False
        self._ended = False  # has the upstream ended its side in order?
        self.used = False  # has it carried a request before?
        self.deadline = 0.0  # of the loop's clock; 0: none
        self.reusable = False
        self.peer: Any = None  # the other end of a tunnel
        self._reset()

    def _reset(self) -> None:
        self._lines: Lines = []
        self._head_size = 0
        self._status = 0
        self._in_head = True
        self._complete = False
        self._framed = False
        self._keep = False
        self._interim = 0
        self._head_only = False
        self.answered = False  # has any byte of the response come?
        self._sending = False  # is there content of the request to come?

    # -- the transport's callbacks -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.forward(data)
            self._stir()
            return
        if self._parser is None or self._complete:
            # Nobody has asked for this: whatever it answers, it is not the next request.
            self._fail(UpstreamMalformed("the upstream sent data that nobody asked for"))
            return
        self.answered = True
        self._head_size += len(data)
        if self._head_size > _MAX_HEAD + len(data):
            what = "head" if self._in_head else "trailer section"
            self._fail(UpstreamMalformed(f"the response's {what} is over {_MAX_HEAD} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as switched:
            self._events.append(Event(Kind.SWITCHED, self._status, self._lines))
            rest = data[switched.args[0] :]
            if rest:
                self._buffered += len(rest) + _EVENT
                self._events.append(Event(Kind.BODY, data=rest))
            self.pause()
            self._wake()
        except (HttpParserError, HttpParserCallbackError) as error:
            cause = error.__context__
            if isinstance(cause, UpstreamError):
                self._fail(cause.with_traceback(None))
            elif self._complete:
                self._keep = False  # the response is whole; what follows it is nobody's
                self.close()
            else:
                self._fail(UpstreamMalformed(f"the upstream's response is malformed: {error}"))
        if self._parts:
            self._put_body()

    def eof_received(self) -> bool:
        """The upstream has ended its side."""
        self._ended = self.transport is not None and _in_order(self.transport)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        self.deadline = 0.0
        self._pool.forget(self)
        parser, self._parser = self._parser, None  # it refers to us
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self.peer is not None:
            self.peer.ended()
            self._wake()
            return
        if self._complete or parser is None:
            return
        if not self._in_head and not self._framed and exc is None and self._ended:
            # RFC 9112 6.3: "the message body length is determined by the number of octets received
            # prior to the server closing the connection." Section 8: it is complete "unless an error
            # was indicated by the underlying connection (e.g., an "incomplete close" in TLS".
            self._finish()
            return
        error = UpstreamClosed("the upstream closed the connection before the end of its response")
        error.__cause__ = exc
        self._fail(error)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- the parser's callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            # However little of it has come: it must not become the answer to the next request.
            self.reusable = False
            raise UpstreamMalformed("the upstream sent data that nobody asked for")
        self._lines = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        lines = self._lines
        lines.append((name.lower(), value.strip(b" \t")))
        if len(lines) > _MAX_FIELDS:
            raise UpstreamMalformed(f"the response has more than {_MAX_FIELDS} fields")

    def on_headers_complete(self) -> None:
        self._head_size = 0
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        lines, self._lines = self._lines, []
        if version not in _VERSIONS:
            raise UpstreamMalformed(f"the response is in HTTP/{version}")
        if status < 100 or status > 599:
            raise UpstreamMalformed(f"the response has status {status}")
        if status == 101:
            if not self._parser.should_upgrade():
                # RFC 9110 15.2.2: "The server MUST generate an Upgrade header field".
                raise UpstreamMalformed("the upstream switched protocols without saying to which")
            self._status, self._lines = status, lines
            return
        if status < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise UpstreamMalformed(f"more than {_MAX_INTERIM} interim responses")
            if any(name in _FRAMING and value != b"0" for name, value in lines):
                # RFC 9110 15.2: it "is terminated by the end of the header section"; not every parser
                # knows that of every one.
                raise UpstreamMalformed(f"an interim response ({status}) has content")
            self._put(Event(Kind.INTERIM, status, lines))
            return
        self._in_head = False
        self._status = status
        self._keep = version == "1.1"
        length = False
        chunked = False
        for name, value in lines:
            if name == b"content-length":
                length = True
            elif name == b"transfer-encoding":
                coding = value.lower()
                if coding == b"chunked":
                    chunked = True
                elif not _CODINGS.isdisjoint(split_list(coding)):
                    raise UpstreamMalformed("the response has a transfer coding besides chunked")
                # What is no transfer coding at all does not change the content. It ends with the
                # connection (RFC 9112 6.3).
            elif name == b"connection":
                options = split_list(value.lower())
                if b"close" in options:
                    self._keep = False
                elif b"keep-alive" in options:
                    self._keep = True
        if chunked and version != "1.1":
            self._keep = False  # RFC 9112 6.1
        empty = self._head_only or status in (204, 304)
        self._framed = length or chunked or empty  # can its end be told?
        self._put(Event(Kind.HEAD, status, lines, version=version))
        if self._head_only:
            # RFC 9110 9.3.2: no content, whatever the fields say; the parser does not know it.
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self._complete:
            raise UpstreamMalformed("a response to HEAD has content")
        self._head_size = 0
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._in_head or self._complete:
            return  # of an interim response
        self._finish()

    def _put_body(self) -> None:
        """One event for all that a packet has of a body: chunks may be as small as an origin likes."""
        parts, self._parts = self._parts, []
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._buffered += len(data) + _EVENT
        self._put(Event(Kind.BODY, data=data))
        if self._buffered > HIGH_WATER:
            self.pause()

    def _finish(self) -> None:
        if self._parts:
            self._put_body()
        self._complete = True
        self.deadline = 0.0
        self.reusable = self._keep and self._framed and not self.lost
        self._put(Event(Kind.END, lines=self._lines) if self._lines else _END)

    # -- the request's side --------------------------------------------------------------------

    def begin(self, *, head_only: bool, content: bool = False) -> None:
        """A request is about to be written. ``head_only``: its method is HEAD; ``content``: it has
        content, and `sent` will be called when that was written."""
        self._reset()
        self._head_only = head_only
        self._sending = content
        self.reusable = False
        if self.lost:  # before there was anybody to tell
            self._error = UpstreamClosed("the upstream closed the connection at once")
            return
        self._parser = HttpResponseParser(self)
        if not content:
            self.deadline = self._loop.time() + self._pool.first_byte_timeout

    def sent(self) -> None:
        """The request was written as a whole."""
        self._sending = False
        if not self._status and not self.lost:
            self.deadline = self._loop.time() + self._pool.first_byte_timeout

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until what was written is not too much any more."""
        if self._writable is not None and not self.lost:
            self.deadline = self._loop.time() + self._pool.read_timeout
            await self._writable
            if not self._status:
                self.deadline = 0.0  # the client may take its own time for the rest

    async def next(self) -> Event:
        """The next event. Raises UpstreamError."""
        await self.arrival()
        return self.take()

    async def arrival(self) -> None:
        """Wait until there is something to take. Raises UpstreamError."""
        while not self._events:
            error = self._error
            if error is not None:
                try:
                    # A new one: the traceback refers to the frames of those who wait, and they to us.
                    raise type(error)(*error.args) from error.__cause__
                finally:
                    del error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def take(self) -> Event:
        """The next event, which has arrived."""
        event = self._events.popleft()
        if event.kind is Kind.BODY:
            self._buffered -= len(event.data) + _EVENT
            if self._paused and self._buffered <= HIGH_WATER // 2:
                self.resume()
        return event

    @property
    def waiting(self) -> bool:
        """Is there nothing to take, so that `next` would wait?"""
        return not self._events

    def take_rest(self) -> tuple[bytes, Event | None]:
        """What has arrived of the body, and the END behind it if that has, too. Raises UpstreamMalformed
        for anything else."""
        data = self.take_body()
        if not self._events:
            return data, None
        event = self.take()
        if event.kind is not Kind.END:
            raise UpstreamMalformed("an upstream's response went on after its end")
        return data, event

    def take_body(self) -> bytes:
        """All parts of the body that have arrived and can be taken without waiting."""
        events = self._events
        parts: list[bytes] = []
        while events and events[0].kind is Kind.BODY:
            parts.append(events.popleft().data)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._buffered -= len(data) + _EVENT * len(parts)
        if self._paused and self._buffered <= HIGH_WATER // 2:
            self.resume()
        return data

    def pause(self) -> None:
        """Read no further for now."""
        if not self._paused and self.transport is not None and not self.lost:
            self._paused = True
            self.deadline = 0.0  # it is not the upstream that is waited for
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            if not self.lost:
                self.transport.resume_reading()
                if self.peer is not None:
                    self._stir()
                elif not self._complete:
                    self.deadline = self._loop.time() + self._pool.read_timeout

    def close(self) -> None:
        self.reusable = False
        transport = self.transport
        if transport is None or self.lost:
            return
        if not (self._complete or self.peer is not None):
            transport.abort()
        elif not transport.is_closing():
            transport.close()
            # What is left may never be taken, and no pool looks after this connection any more.
            if transport.get_write_buffer_size():
                self._loop.call_later(self._pool.read_timeout, transport.abort)

    def expire(self) -> None:
        """Its time is over."""
        if self.peer is not None:
            if self.transport is not None:
                self.transport.abort()
        elif self._parser is None or self._complete:
            self.close()
        elif self._status:
            self._fail(UpstreamTimeout(f"nothing came for {self._pool.read_timeout:g} seconds"))
        elif self._sending:
            self._fail(
                UpstreamTimeout(f"nothing was taken for {self._pool.read_timeout:g} seconds")
            )
        else:
            limit = self._pool.first_byte_timeout
            self._fail(UpstreamTimeout(f"no response began within {limit:g} seconds"))

    # -- a tunnel's side -----------------------------------------------------------------------

    async def splice(self, peer: Any, early: bytes) -> None:
        """Be a tunnel to ``peer`` until either end is closed. ``early``: what its client has sent
        already."""
        self.peer = peer
        self._stir()
        data = self.take_body()
        if data:
            peer.forward(data)
        peer.tunnel(self, early)
        self.resume()
        while not self.lost:
            self._waiter = self._loop.create_future()
            await self._waiter

    def forward(self, data: bytes) -> None:
        """What the other end of the tunnel has received."""
        self.write(data)
        writable = self._writable
        if writable is not None:
            # Until this end takes more the other is not read from, nor is it noticed that it has left.
            self.peer.pause()
            self.deadline = self._loop.time() + self._pool.read_timeout
            writable.add_done_callback(self._flows)
        else:
            self._stir()

    def _flows(self, _: object) -> None:
        self._stir()
        self.peer.resume()

    def _stir(self) -> None:
        """Something has passed. While one end takes no more, it is for the other limits to end that."""
        if self._writable is None:
            idle = self._pool.tunnel_idle_timeout
            self.deadline = 0.0 if self._paused or self.lost else self._loop.time() + idle

    def ended(self) -> None:
        """The other end is gone."""
        self.close()

    # -- inside --------------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        self._events.append(event)
        if not self._complete and not self._paused:
            if self._status:
                self.deadline = self._loop.time() + self._pool.read_timeout
            elif not self._sending:  # the final response is still to begin
                self.deadline = self._loop.time() + self._pool.first_byte_timeout
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self._parts:  # (what came before it is passed on)
            self._put_body()
        self.deadline = 0.0
        self._error = self._error or error
        self._wake()
        self.close()


class Pool:
    """The connections to one upstream: at most ``max_connections``, idle ones kept for
    ``idle_timeout`` seconds, the one used last taken first.

    And beside them at most ``max_tunnels`` for requests that may become tunnels: these last for as long as
    their clients like, and must not take the connections that all others wait for.
    """

    def __init__(self, options: UpstreamOptions) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.first_byte_timeout = float(options.first_byte_timeout)
        self.read_timeout = float(options.read_timeout)
        self.tunnel_idle_timeout = float(options.tunnel_idle_timeout)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._tunnels: set[Connection] = set()
        self._digging = 0  # connections being made for tunnels
        self._slots = options.max_connections
        self._queue: deque[tuple[asyncio.Future[Connection | None], bool]] = deque()
        self._tls = _tls_context(options) if options.tls else None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Connections, in use and idle, and tunnels."""
        return len(self._busy) + len(self._idle) + self.tunnels

    @property
    def tunnels(self) -> int:
        """Tunnels, and what may become one."""
        return len(self._tunnels) + self._digging

    async def take_tunnel(self) -> Connection:
        """As `take`, for a request that may become a tunnel. Nobody waits for one of these to be free.

        Raises UpstreamUnreachable, UpstreamTimeout, TooManyTunnels.
        """
        most = self.options.max_tunnels
        if self.tunnels >= most:
            raise TooManyTunnels(f"there are {most} tunnels to {self.options.name} already")
        self._digging += 1
        try:
            connection = await self._connect()
        finally:
            self._digging -= 1
        self._tunnels.add(connection)
        self._watch()
        return connection

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection for one request; give it back with `give`. ``fresh``: a new one.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBusy.
        """
        if not fresh and (connection := self.idle()) is not None:
            return connection
        handed = await self._slot(fresh)
        if handed is not None:
            if handed.transport is None or handed.transport.is_closing():  # meanwhile
                return await self.take(fresh=fresh)
            return handed
        try:
            connection = await self._connect()
        except BaseException:
            self._free_slot()
            raise
        self._busy.add(connection)
        self._watch()
        return connection

    def idle(self) -> Connection | None:
        """As `take`, if there is one that nobody uses; else None."""
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                self._free_slot()  # `forget` will not find it
                continue
            connection.used = True
            connection.deadline = 0.0
            self._busy.add(connection)
            return connection
        return None

    def give(self, connection: Connection) -> None:
        """The request that took it is over."""
        if connection in self._tunnels:
            connection.close()
            self.forget(connection)
            return
        if connection not in self._busy:
            return  # it has been lost meanwhile, and is not counted any more
        if connection.reusable and not self._closed and connection.waiting:
            if not self._hand_over(connection):
                self._busy.discard(connection)
                connection.deadline = self.loop.time() + float(self.options.idle_timeout)
                self._idle.append(connection)
        else:
            connection.close()
            self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """This connection is closed."""
        if connection in self._tunnels:
            self._tunnels.discard(connection)
            return
        if connection in self._busy:
            self._busy.discard(connection)
        else:
            try:
                self._idle.remove(connection)
            except ValueError:
                return
        self._free_slot()

    async def _slot(self, fresh: bool) -> Connection | None:
        """Wait until a connection may be made (None), or for one that somebody else is done with."""
        if self._slots > 0:
            self._slots -= 1
            return None
        if self._idle:  # (a fresh one is wanted, and all slots are taken by idle ones)
            oldest = self._idle.popleft()
            oldest.close()
            return None  # its slot
        if len(self._queue) >= _MAX_QUEUE:
            raise UpstreamBusy(f"{len(self._queue)} requests wait for a connection already")
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._queue.append((waiter, fresh))
        try:
            async with asyncio.timeout(float(self.options.queue_timeout)):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()  # at the very moment
            raise UpstreamBusy(
                f"no connection was free within {float(self.options.queue_timeout):g} seconds"
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                handed = waiter.result()
                if handed is None:
                    self._free_slot()
                else:
                    self.give(handed)
            raise
        finally:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._queue.remove((waiter, fresh))

    def _free_slot(self) -> None:
        while self._queue:
            waiter, _ = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._slots += 1

    def _hand_over(self, connection: Connection) -> bool:
        """Give a connection that is free to the first who waits for one. False: nobody does."""
        while self._queue:
            waiter, fresh = self._queue[0]
            if waiter.done():
                self._queue.popleft()
            elif fresh:
                connection.close()
                self.forget(connection)  # which gives them its slot
                return True
            else:
                self._queue.popleft()
                connection.used = True
                connection.deadline = 0.0
                waiter.set_result(connection)
                return True
        return False

    async def _connect(self) -> Connection:
        options = self.options
        patience = float(options.connect_timeout)
        tries = options.retries + 1
        while True:
            tries -= 1
            try:
                async with asyncio.timeout(patience):
                    connection = await self._open()
            except TimeoutError as error:
                if not tries:
                    raise UpstreamTimeout(
                        f"no connection to {options.address} within {patience:g} seconds"
                    ) from error
            except OSError as error:
                if not tries:
                    raise UpstreamUnreachable(
                        f"no connection to {options.address}: {error}"
                    ) from error
            else:
                return connection

    async def _open(self) -> Connection:
        options = self.options
        make = partial(Connection, self)
        name = options.tls_server_name or options.address.host
        if options.address.path is not None:
            _, connection = await self.loop.create_unix_connection(make, options.address.path)
        else:
            _, connection = await self.loop.create_connection(
                make,
                options.address.host,
                options.address.port,
                ssl=self._tls,
                server_hostname=name if self._tls is not None else None,
            )
        return connection

    def _tick(self) -> None:
        now = self.loop.time()
        for connection in [*self._busy, *self._idle, *self._tunnels]:
            if 0.0 < connection.deadline <= now:
                connection.expire()
        self._timer = None
        if self._busy or self._idle or self._tunnels:
            self._watch()

    def _watch(self) -> None:
        """See that time limits are looked at."""
        if self._timer is None:
            self._timer = self.loop.call_later(TICK, self._tick)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is given back."""
        self._closed = True
        for connection in [*self._idle]:
            connection.close()


def _in_order(transport: asyncio.BaseTransport) -> bool:
    """True if the connection, whose peer has just ended its side, was not cut: over TCP that is what
    a FIN says, over TLS only a close_notify, which anybody on the way can leave out.

    Some loops call ``eof_received`` for both, some do not call it where the close_notify is missing.
    Whether it has come, the TLS object tells: a read then finds the end, or else wants more to read.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False


def _tls_context(options: UpstreamOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.tls_ca_file)
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
