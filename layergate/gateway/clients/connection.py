"""One client's HTTP/1.1 connection: requests in, responses out, in order.

`Server` makes one for each socket that it accepts. `RequestReader` reads the requests. Then

  * a plain fresh hit is answered in the very callback in which its head ended: no task, no scope, one
    write (a large body follows in slices, as fast as the client takes them);
  * every other request becomes a `Cycle`: an ASGI call of the cache, in a task of its own.

While a request is under way, at most what was read already is parsed any further. So a client that sends
a thousand requests at once waits for their responses like every other client.

`timeouts` has the picture of the states and the time limits. This module never opens a connection, and
never decides what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final, Protocol, cast

from layergate.gateway import timeouts
from layergate.gateway.clients.cycle import Cycle
from layergate.gateway.clients.head import RequestHead
from layergate.gateway.clients.known import Known, plain_request
from layergate.gateway.clients.outgoing import JOINED, Outgoing
from layergate.gateway.clients.reader import RequestReader
from layergate.gateway.clients.service import Service
from layergate.gateway.head import HeadRefused, refusal
from layergate.gateway.timeouts import (
    ANSWERING,
    BLOCKED,
    CLOSED,
    CLOSING,
    CONTENT,
    HALF_CLOSED,
    HEAD,
    IDLE,
    TUNNEL,
    State,
)
from layergate.gateway.tunnel import Tunnel

__all__ = ["ClientConnection"]

_logger = logging.getLogger("layergate.gateway")
_access: Final = logging.getLogger("layergate.access")

_LOW: Final = 64 * 1024
"""Bytes of a request's content that may wait for the application before reading pauses."""


class Connections(Protocol):
    """Where a connection is counted."""

    def joined(self, connection: ClientConnection) -> bool:
        """It is open. False if there are too many."""

    def left(self, connection: ClientConnection) -> None:
        """It is closed."""


class ClientConnection(asyncio.Protocol):
    """One client's connection.

    ``deadline``  of the loop's clock, from which on `expire` is called; 0: none.
    ``out``       what is written.
    ``peer``      the client's address; None on a Unix socket.
    ``believed``  True if the peer is a trusted proxy.
    ``closing``   True once no further request is answered.
    """

    __slots__ = (
        "_connections", "_cycle", "_ended_at", "_group", "_head_only", "_hit", "_newest", "_pending",
        "_reader", "_reading_paused", "_refusal", "_service", "_transport", "_tunnel", "believed", "closing",
        "deadline", "out", "peer", "scheme",
    )  # fmt: skip

    def __init__(self, service: Service, connections: Connections) -> None:
        self._service = service
        self._connections = connections
        self._reader = RequestReader(self, service.options)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.out = Outgoing()
        self.peer: tuple[str, int] | None = None
        self.scheme = "http"
        self.believed = False
        self._hit: Known | None = None  # the last one in what is being parsed
        self._cycle: Cycle | None = None  # that is being answered
        self._newest: Cycle | None = None  # that is being read
        self._pending: deque[Cycle] = deque()  # that were read, and wait
        self._refusal: tuple[int, str] | None = None  # of what can't be answered otherwise
        self._head_only = False  # the refusal has no content
        self._reading_paused = False
        self._tunnel: Tunnel | None = None
        # When the client ended its side: the request that was being answered, and how far that was.
        self._ended_at: tuple[Cycle, tuple[bool, int]] | None = None
        self.closing = False
        self.deadline = 0.0

    # -- the transport's callbacks -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self.out.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = (name[0], name[1])
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
            # The default is half a megabyte, all of it encrypted already.
            self._transport.set_write_buffer_limits(high=_LOW)
        self.adopt()
        if not self._connections.joined(self):
            self._transport.write(refusal(503, "too many connections"))
            self._transport.close()
            return
        # The first head has less time than an idle connection.
        self.deadline = self._service.now + self._service.limits[HEAD]

    def adopt(self) -> None:
        """Use the service's options of now."""
        service = self._service
        self.believed = service.policy.believes(self.peer)
        self._group = service.known.group(self.scheme, believed=self.believed)
        self._reader.adopt(service.options)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_client(data)
            return
        if self._refusal is not None or self.closing:
            return  # it follows the last request that is answered
        reader = self._reader
        between = (
            self._cycle is None
            and self._newest is None
            and not reader.in_head
            and self.out.blocked is None
        )
        if between:
            # If these very bytes have been a plain hit before, the parser would say the same again.
            known = self._group.get(data)
            if known is not None and self._answer(known):
                return
        self._hit = None
        reader.begun = 0
        rest = reader.feed(data)
        while rest:
            rest = reader.feed(rest)
        if self._hit is not None:
            if between and reader.begun == 1 and not reader.in_head:
                # One request, from its first byte to its last.
                self._service.known.remember(self._group, data, self._hit)
            self._hit = None
        if reader.begun and reader.in_head:
            self._watch()

    def eof_received(self) -> bool:
        """The client sends no more. Either it has said all and waits for its responses (as netcat does
        at the end of its input), or it has left. TCP doesn't tell which before something is sent to it.

        So complete requests are answered, but the first byte of a response has to come within
        `timeouts.HALF_CLOSE`; see `expire`. A client that ends its side in the middle of a request is
        gone, and so is one that ends TLS, which can't be closed by half.
        """
        cycle = self._cycle
        https = self.scheme == "https"
        if self.out.unsent is not None and not https:
            self._drop_unfinished()
            if self._pending:
                self._pending[-1].close = True
            else:
                self.closing = True  # once all is sent
            return True
        if cycle is None or not cycle.complete or self._tunnel is not None or https:
            # The transport closes when all that was written is taken.
            self._close_soon()
            return False
        self._drop_unfinished()
        if self._refusal is None:
            (self._pending[-1] if self._pending else cycle).close = True
        if self._ended_at is None:
            self._ended_at = cycle, cycle.progress
            if self.out.blocked is None:
                self.deadline = self._service.now + timeouts.HALF_CLOSE + timeouts.TICK
        return True

    def _drop_unfinished(self) -> None:
        """The rest of the request that is being read will not come."""
        newest, self._newest = self._newest, None
        if newest is not None and newest in self._pending:
            self._pending.remove(newest)

    def connection_lost(self, _: Exception | None) -> None:
        self.out.lost = True
        self.out.unsent = None
        self.deadline = 0.0
        self._connections.left(self)
        self.resume_writing()
        if self._tunnel is not None:
            self._service.tunnels -= 1
            self._tunnel.client_gone()
        for cycle in (self._cycle, *self._pending):
            if cycle is not None:
                cycle.disconnected()
        self._pending.clear()
        self._newest = self._ended_at = None
        self._reader.close()

    def pause_writing(self) -> None:
        if self.out.blocked is None:
            self.out.blocked = self._service.loop.create_future()
            self._expect_progress()

    def resume_writing(self) -> None:
        out = self.out
        blocked, out.blocked = out.blocked, None
        if blocked is None:
            return
        if out.unsent is not None:
            out.send_more()
            if out.unsent is None:
                self._hit_sent()
        elif not self.closing:
            self._watch()
        if not blocked.done():
            blocked.set_result(None)

    # -- requests, as the reader finds them ----------------------------------------------------

    def whole_request(self, head: RequestHead) -> None:
        """See `reader.Sink`."""
        # (A client that doesn't read what it was sent gets no more in this way.)
        if self._cycle is None and not self._pending and self.out.blocked is None:
            known = plain_request(head, self.scheme, believed=self.believed)
            if known is not None and self._answer(known):
                self._hit = known
                return
        self.request_begun(head)
        self._newest = None

    def request_begun(self, head: RequestHead) -> None:
        """See `reader.Sink`."""
        cycle = self._newest = Cycle(self, self._service, head)
        if self._cycle is None and self.out.unsent is None:
            self._start(cycle)
        else:
            self._pending.append(cycle)
            self.pause_reading()

    def content(self, data: bytes) -> None:
        """See `reader.Sink`."""
        cycle = self._newest
        assert cycle is not None
        full = cycle.feed(data) > _LOW
        if cycle.too_large:
            raise HeadRefused(413, f"the content is over {self._service.max_content} bytes")
        if full:
            self.pause_reading()
        else:
            self._watch()

    def request_ended(self) -> None:
        """See `reader.Sink`."""
        cycle, self._newest = self._newest, None
        if cycle is not None:
            cycle.end()
            self._watch()

    def upgrade(self, rest: bytes) -> bool:
        """See `reader.Sink`."""
        cycle = self._pending[-1] if self._pending else self._cycle
        if cycle is None or not cycle.head.upgrade:
            return False
        cycle.early = rest
        cycle.close = True  # whatever comes of it, no further request is read
        self.pause_reading()
        return True

    def refuse(self, status: int, reason: str, *, head_only: bool = False) -> None:
        """See `reader.Sink`; and for a request that takes too long."""
        if self._refusal is not None or self.closing:
            return
        self._refusal = (status, reason)
        self._head_only = head_only
        newest, self._newest = self._newest, None
        if newest is not None and newest is self._cycle:
            # In the middle of its content: the application must learn that no more comes.
            newest.broken(status, reason)
            return
        if newest is not None and newest in self._pending:
            self._pending.remove(newest)
        self.pause_reading()
        if self._cycle is None and self.out.unsent is None:
            self._send_refusal()

    # -- responses -----------------------------------------------------------------------------

    def _answer(self, known: Known) -> bool:
        """Send a plain fresh hit. False if there is none."""
        service = self._service
        found: Any = service.hit(known.key, known.path, known.fields)
        if found.__class__ is not tuple:
            if found is not None:
                known.head.hit_for_miss = (known.key, found)
            return False
        stored, lines = found
        head = known.head
        close = head.close or service.closing
        if stored.lines is not known.lines:
            try:
                known.encode(stored)
            except ValueError:
                _logger.exception("the response stored for %r cannot be sent", head.url[:200])
                return False
            if known.size:
                service.known.resized(known)
        added = lines[len(stored.lines) :]  # Age and Cache-Status of this cache
        if close or head.version != "1.1":
            added.append((b"connection", b"close" if close else b"keep-alive"))
        body = stored.body if head.method == "GET" else b""
        tail = b"".join([b"%b: %b\r\n" % line for line in added])
        out = self.out
        if len(body) <= JOINED:
            self._transport.write(b"%b%b\r\n%b" % (known.block, tail, body))
        else:
            out.write_large(b"%b%b\r\n" % (known.block, tail), body)
        if service.options.access_log:
            self.log(head, stored.status, len(body), 0.0, service.told(lines))
        if out.unsent is not None:
            self.closing = close  # once all is sent
        elif close:
            self.hang_up()
        elif out.blocked is None:
            self.deadline = service.now + service.idle_limit
        return True

    def _hit_sent(self) -> None:
        """The last slice of a large hit was written."""
        if self.closing or self._service.closing:
            self.hang_up()
        else:
            self._next()

    def _start(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self._watch()
        cycle.start()

    def finished(self, cycle: Cycle) -> None:
        """The response of this request is written, or given up."""
        self._cycle = None
        if self.out.lost:
            return
        if cycle.close or self._service.draining or not cycle.complete:
            self.hang_up(unread=not cycle.complete)
        else:
            self._next()

    def _next(self) -> None:
        """Answer the next request, or wait for it."""
        if self._pending:
            self._start(self._pending.popleft())
        elif self._refusal is not None:
            self._send_refusal()
            return
        else:
            self._watch()
        # (A request that may become a tunnel reads on when it is one.)
        if not self._pending and (self._cycle is None or not self._cycle.head.upgrade):
            self.resume_reading()

    def _send_refusal(self) -> None:
        assert self._refusal is not None
        self.out.write(refusal(*self._refusal, content=not self._head_only))
        self.hang_up(unread=True)

    # -- reading -------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Read no further for now."""
        if not self._reading_paused and not self.out.lost:
            self._reading_paused = True
            self._transport.pause_reading()
            self._watch()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.out.lost and not self.closing:
            self._reading_paused = False
            self._transport.resume_reading()
            self._watch()

    def content_taken(self, cycle: Cycle) -> None:
        """All content that had come was taken: read on."""
        if cycle is self._newest and not self._pending:
            self.resume_reading()

    # -- time ----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the connection waits for. See `timeouts`."""
        out = self.out
        if out.lost:
            return CLOSED
        if out.blocked is not None:
            return BLOCKED
        if self.closing:
            return CLOSING
        if self._tunnel is not None:
            return TUNNEL
        if self._ended_at is not None:
            return HALF_CLOSED
        cycle = self._cycle
        if cycle is not None:
            return ANSWERING if cycle.complete or self._reading_paused else CONTENT
        return HEAD if self._reader.in_head else IDLE

    def _watch(self) -> None:
        """Begin the time of the state that the connection is in now. A client that takes nothing gets no
        new time by sending something."""
        if self.out.blocked is None and not self.closing:
            limit = self._service.limits[self.state]
            self.deadline = self._service.now + limit if limit else 0.0

    def _expect_progress(self) -> None:
        """Begin the time in which the client has to take something."""
        self.out.measure()
        self.deadline = self._service.now + self._service.limits[BLOCKED]

    def expire(self) -> None:
        """The deadline has passed. What follows depends on the state."""
        self.deadline = 0.0
        state = self.state
        if state is BLOCKED or state is CLOSING:
            if self.out.moving:
                self._expect_progress()  # slow, but it takes something
            else:
                self.out.abort()
        elif state is HALF_CLOSED:
            self._check_half_closed()
        elif state is HEAD:
            self.refuse(408, "the head took too long")
        elif state is CONTENT:
            self.refuse(408, "the content took too long")
        elif state is IDLE:
            self.hang_up()

    def _check_half_closed(self) -> None:
        """Abort a connection whose client has ended its side and got nothing since. A client that got
        something without an error is there."""
        cycle = self._cycle
        got_something = cycle is None or self._ended_at != (cycle, cycle.progress)
        if not got_something or self.out.refused:
            self.out.abort()

    # -- the end -------------------------------------------------------------------------------

    def hang_up(self, *, unread: bool = False) -> None:
        """Answer nothing further, and close once all is taken. ``unread``: True if the client may still
        be sending."""
        if self.out.lost:
            self.closing = True
            return
        self._close_soon()
        if unread and self._ended_at is None and self._transport.can_write_eof():
            # RFC 9112 9.6: closing at once would reset the connection, and with it the response. So
            # the rest is read for a moment, and dropped.
            if not self.out.end():
                self.out.abort()
                return
            self.deadline = self._service.now + timeouts.LINGER
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
        else:
            self._transport.close()

    def _close_soon(self) -> None:
        """The connection ends when all is taken. A client that takes nothing must not keep it."""
        self.closing = True
        self._expect_progress()

    def close_idle(self) -> None:
        """Close the connection unless a request has begun."""
        idle = self._cycle is None and self.out.unsent is None and not self._reader.in_head
        if idle and not self.out.lost:
            self._transport.close()

    # -- a tunnel's end ------------------------------------------------------------------------

    @property
    def blocked(self) -> asyncio.Future[None] | None:
        """See `tunnel.End`."""
        return self.out.blocked

    def enter(self, tunnel: Tunnel) -> bytes:
        """See `tunnel.End`."""
        self._tunnel = tunnel
        self.deadline = 0.0
        if not self.out.lost:
            self._service.tunnels += 1
        return b""

    def write(self, data: bytes) -> None:
        """See `tunnel.End`."""
        self.out.write(data)

    def leave(self) -> None:
        """See `tunnel.End`."""
        if not self.out.lost:
            self._transport.close()

    def log(self, head: RequestHead, status: int, size: int, seconds: float, told: str) -> None:
        """Write a line to the access log."""
        peer = "-" if self.peer is None else self.peer[0]
        url = head.url[:2048].decode("latin-1")
        _access.info(
            '%s "%s %s" %d %d %.3f "%s"', peer, head.method, url, status, size, seconds, told or "-"
        )
