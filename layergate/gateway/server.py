"""The side of the clients: HTTP/1.1 connections, one request after the other.

llhttp parses; what it lets through is looked at once more (`head`), cleaned of what is not to be
forwarded, and then

  * a plain fresh hit is answered in the very callback in which its head ended: no task, no scope,
    one write (a large body follows in slices, as fast as the client takes them);
  * everything else becomes a `Cycle`: an ASGI call of the cache, in a task of its own.

A connection answers in order. While a request is under way at most what has been read already is
parsed any further, so a client that sends a thousand requests at once waits for its answers like
everybody else. Time limits are looked at by one timer for all connections.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
import time
from collections import deque
from socket import AF_UNIX, SO_ERROR, SO_LINGER, SOL_SOCKET
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

if sys.platform != "win32":
    import fcntl
    import termios

from layergate.asgi import LayerGate
from layergate.asgi.scope import HIT_FOR_MISS
from layergate.gateway.forward import FORWARDED, ForwardPolicy
from layergate.gateway.head import (
    CONTINUE,
    HeadRefused,
    date_now,
    encode_head,
    encode_lines,
    end_to_end,
    refusal,
    request_target,
    status_line,
    valid_host,
)
from layergate.gateway.options import GatewayOptions
from layergate.gateway.proxy import INTERIM, TUNNEL, App, Message, say_failure, say_looped
from layergate.gateway.upstream import Connection as UpstreamConnection
from layergate.gateway.upstream import UpstreamError
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.fields import Lines, split_list
from layergate.http.message.key import primary_key
from layergate.http.message.stored import StoredResponse

__all__ = ["Server"]

_logger = logging.getLogger("layergate.gateway")
_access: Final = logging.getLogger("layergate.access")

TICK: Final = 0.5
_KNOWN_SIZE: Final = 32 * 1024 * 1024  # bytes, per worker, of requests that are known by heart
_KNOWN_OVERHEAD: Final = 1536  # bytes: the dicts, lists and lines of one
_LONGEST_KNOWN: Final = 2048  # bytes
_LONGEST_BLOCK: Final = 16 * 1024  # bytes of the response's head
_LINGER: Final = 2.0  # seconds
_LAST_REQUEST: Final = 0.25  # seconds from the signal to stop, for a request that is on its way
_HALF_CLOSE: Final = 5.0  # seconds; see `ClientConnection.eof_received`
_LOW: Final = 64 * 1024  # bytes of a request's content that wait to be taken
_JOINED: Final = 16 * 1024
"""Bytes of a body up to which it is cheaper to copy it behind the head than to write the two apart."""
_SLICE: Final = 256 * 1024
"""Bytes of a body that are written at once. Transports copy what a client does not take (TLS encrypts
it), so that is what a client that takes nothing costs beside the body, which is there once for all."""
_RESET: Final = struct.pack("ii", 1, 0)
_READS: Final = frozenset({"GET", "HEAD"})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_REFUSED: Final = frozenset({"CONNECT", "TRACE"})
_EMPTY: Final = b""
_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_TRAILERS: Final = "http.response.trailers"
_FRAMES: Final = frozenset({b"content-length", b"transfer-encoding"})
_NO_CONTENT: Final = frozenset({204, 304})
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


class Server:
    """What the connections of one worker share.

    ``app``: what answers, `LayerGate` somewhere in it; ``gate``: that one, for its hits.
    """

    def __init__(
        self, app: App, gate: LayerGate, options: GatewayOptions, policy: ForwardPolicy
    ) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.tunnels = 0  # of these
        self.draining = False
        self.now = self.loop.time()  # as of the last tick: good enough for limits of seconds
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self.hit = gate.plain_hit
        self._cache = gate.cache
        self.reload(options, policy)

    def reload(self, options: GatewayOptions, policy: ForwardPolicy) -> None:
        """Go by these from now on."""
        self.options = options
        self.policy = policy
        # By scheme and by whether the peer is believed: the same bytes mean another request then.
        self.known: dict[tuple[str, bool], dict[bytes, _Known]] = {}
        self._known_size = 0
        self.keep_alive_timeout = float(options.keep_alive_timeout)
        self.head_timeout = float(options.head_timeout)
        self.body_timeout = float(options.body_timeout)
        self.send_timeout = float(options.send_timeout)
        self.max_head = cast(int, options.max_head)
        self.max_fields = options.max_fields
        self.max_content = cast("int | None", options.max_content)
        identifier = self.identifier
        self._member = None if identifier is None else identifier + b"; "
        for connection in self.connections:
            connection.adopt()

    def told(self, lines: Lines) -> str:
        """What the cache says in these lines of a response became of the request: the parameters of its
        member of Cache-Status, for the log; "" if it says nothing."""
        if self._member is None:
            return ""
        for name, value in reversed(lines):  # (its line is behind those of other caches)
            if name == b"cache-status":
                own = value.startswith(self._member)
                return value[len(self._member) :].decode("latin-1") if own else ""
        return ""

    def remember(self, hits: dict[bytes, _Known], data: bytes, known: _Known) -> None:
        """A request that was a plain hit, byte for byte: when it comes again it need not be parsed.

        What is kept is bounded. Only hits are, so that nobody drives out others' by asking for what
        is not there.
        """
        if len(data) > _LONGEST_KNOWN or len(known.block) > _LONGEST_BLOCK or known.head.close:
            return
        before = hits.get(data)
        if before is not None:
            self._known_size -= before.size
        known.request_size = 2 * len(data)
        self._count(known)
        hits[data] = known

    def resized(self, known: _Known) -> None:
        """The head of a response that is known by heart has changed."""
        self._known_size -= known.size
        self._count(known)

    def _count(self, known: _Known) -> None:
        known.size = _KNOWN_OVERHEAD + known.request_size + 3 * len(known.block)
        self._known_size += known.size
        if self._known_size > _KNOWN_SIZE:
            for known_hits in self.known.values():
                known_hits.clear()
            self._known_size = known.size

    @property
    def identifier(self) -> bytes | None:
        """What the cache calls itself in Cache-Status; None: it says nothing."""
        return self._cache.identifier if self._cache.options.cache_status else None

    @property
    def closing(self) -> bool:
        """Is each connection closed after the next response?"""
        return self.draining or not self.keep_alive_timeout

    def connection(self) -> ClientConnection:
        """A protocol for a connection that has just come in."""
        return ClientConnection(self)

    def start(self) -> None:
        self.now = self.loop.time()
        self._timer = self.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self.now = now = self.loop.time()
        for connection in [*self.connections]:
            if 0.0 < connection.deadline <= now:
                connection.expire()
        self._timer = self.loop.call_later(TICK, self._tick)

    def left(self, connection: ClientConnection) -> None:
        """This connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def drain(self, timeout: float, cut: asyncio.Event | None = None) -> None:
        """Answer what is under way, close the rest; cut what is left after ``timeout`` seconds, or
        when ``cut`` is set."""
        # A tunnel is under way, too: it has its own ways to end, and time for them. (That it is about to be
        # cut could only be said to a WebSocket between two of its frames, which nobody here reads.)
        self.draining = True
        # Of connections that seem idle many are not: the next request is under way. It is answered,
        # with Connection: close.
        idle = self.loop.call_later(min(_LAST_REQUEST, timeout), self._close_idle)
        if self.connections:
            self._empty.clear()
            waits = {asyncio.create_task(self._empty.wait())}
            if cut is not None:
                waits.add(asyncio.create_task(cut.wait()))
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        idle.cancel()
        for connection in [*self.connections]:
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _close_idle(self) -> None:
        for connection in [*self.connections]:
            connection.close_idle()


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_backlog", "_bad", "_begun", "_believed", "_close", "_cycle", "_ended_at", "_head_only", "_head_size", "_hits", "_in_head", "_known",
        "_lines", "_loop",
        "_newest", "_parser", "_paused", "_peer", "_pending", "_plain", "_reading_paused", "_rest", "_restart",
        "_scheme", "_server", "_transport", "_tunnel", "_unsent", "_unwinding", "_url", "_writable", "deadline",
        "lost",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._parser: Any = HttpRequestParser(self)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._peer: tuple[str, int] | None = None
        self._scheme = "http"
        self._believed = False  # is what the peer says of its client taken?
        self._lines: Lines = []
        self._url = _EMPTY
        self._head_size = 0
        self._in_head = False
        self._begun = 0  # heads in what is being parsed
        self._known: _Known | None = None  # the hit in there
        # The request whose head has just ended and that may be a plain hit, until its end.
        self._plain: _Head | None = None
        self._cycle: Cycle | None = None  # the one that is being answered
        self._newest: Cycle | None = None  # the one that is being read
        self._pending: deque[Cycle] = deque()
        self._bad: tuple[int, str] | None = None
        self._close = False
        self._reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        # What is left of a large hit. While there is some, the client must take more: `_writable`.
        self._unsent: memoryview | None = None
        self._tunnel: UpstreamConnection | None = None
        self._backlog = 0  # bytes that were to be sent when the client's time began
        self._head_only = False  # is the answer to what is refused without content?
        self._restart = b""  # see `_after_upgrade`
        self._rest = b""  # what is left of a packet behind a request that asked for an upgrade
        self._unwinding = False  # is that being parsed?
        # When the client ended its side: the request that was being answered, and how far.
        self._ended_at: tuple[Cycle, tuple[bool, int]] | None = None
        self.deadline = 0.0
        self.lost = False

    # -- the transport's callbacks -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = (name[0], name[1])
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
            # (By default half a megabyte, of what is encrypted already.)
            self._transport.set_write_buffer_limits(high=_LOW)
        self.adopt()
        server.connections.add(self)
        # (While draining it is one that was accepted just before: its request is on its way.)
        if len(server.connections) - server.tunnels > server.options.max_connections:
            self._transport.write(refusal(503, "too many connections"))
            self._transport.close()
            return
        self.deadline = server.now + server.head_timeout + TICK

    def adopt(self) -> None:
        """Go by the server's options from now on."""
        server = self._server
        self._believed = server.policy.believes(self._peer)
        self._hits = server.known.setdefault((self._scheme, self._believed), {})

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.forward(data)
            return
        if self._bad is not None or self._close:
            return  # whatever comes after the last request that is answered here
        begun = self._in_head
        lines, newest = self._lines, self._newest
        if not begun and newest is None and self._cycle is None and self._writable is None:
            # Between two requests. If these very bytes have been a plain hit before, then the parser
            # has said what they are, and would say it again.
            known = self._hits.get(data)
            if known is not None and self._answer(known):
                return
            self._known = None
            self._begun = 0
        upgraded = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._rest = self._after_upgrade(data[upgrade.args[0] :])
            upgraded = True
        except HttpParserInvalidMethodError:
            self._refuse(501, "the method is unknown")
        except HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, HeadRefused):
                self._head_only = self._parser.get_method() == b"HEAD"
                self._refuse(cause.status, str(cause))
            else:
                _logger.error("a request could not be read", exc_info=cause or error)  # noqa: TRY400
                self._refuse(500, "internal error")
        except HttpParserError as error:
            if not self._close:  # (what follows the last request is nobody's)
                self._refuse(400, f"malformed: {error}")
        if upgraded:
            self._parse_rest()  # (not up there: an error's context is to be what it comes from)
            return
        if self._known is not None and not begun and self._begun == 1 and not self._in_head:
            self._server.remember(
                self._hits, data, self._known
            )  # one request, from its first byte to its last
        self._known = None
        if self._in_head:
            if self._lines is lines and begun:  # the same one: as long as what has come, at least
                self._head_size += len(data)
                if self._head_size > self._server.max_head:
                    self._refuse(*self._too_long(len(self._url)))
            elif self._cycle is None and self._unsent is None:
                self.deadline = self._server.now + self._server.head_timeout + TICK
        elif newest is not None and self._newest is newest:
            # What comes beside content: what chunks are framed by, and a trailer section.
            self._head_size += len(data)
            if self._head_size > self._server.max_head + len(data):
                self._refuse(431, "there is too much beside the content")

    def eof_received(self) -> bool:
        """The client sends no more: it has said all it has to say, and waits for its answers (as netcat
        does at the end of its input), or it has left. TCP does not tell which, before something is
        sent to it.

        So what is complete is answered, but not waited for any longer than `_HALF_CLOSE`; see
        `_expect_a_sign`. Who ends the connection in the middle of a request is gone, and so is who
        ends TLS, which has no such half.
        """
        cycle = self._cycle
        if self._unsent is not None and self._scheme != "https":
            self._drop_unfinished()
            if self._pending:
                self._pending[-1].close = True
            else:
                self._close = True  # once all is sent
            return True
        if (
            cycle is None
            or not cycle.complete
            or self._tunnel is not None
            or self._scheme == "https"
        ):
            # It is closed when it has taken what it was sent.
            self._close = True
            self._watch_sending()
            return False
        self._drop_unfinished()
        if self._bad is None:
            (self._pending[-1] if self._pending else cycle).close = True
        if self._ended_at is None:
            self._ended_at = cycle, cycle.progress
            if self._writable is None:
                self.deadline = self._server.now + _HALF_CLOSE + TICK
        return True

    def _drop_unfinished(self) -> None:
        """The rest of the request that is being read will not come."""
        newest, self._newest = self._newest, None
        if newest is not None and newest in self._pending:
            self._pending.remove(newest)

    def _expect_a_sign(self) -> None:
        """The client has ended its side a while ago. If it was sent something since, and that was no error,
        then it is there."""
        cycle = self._cycle
        if cycle is None or self._ended_at != (cycle, cycle.progress):
            sock = self._transport.get_extra_info("socket")
            if sock is None or not sock.getsockopt(SOL_SOCKET, SO_ERROR):
                return
        self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        self.deadline = 0.0
        self._unsent = None
        self._server.left(self)
        self.resume_writing()
        if self._tunnel is not None:
            self._server.tunnels -= 1
            self._tunnel.ended()
        for cycle in (self._cycle, *self._pending):
            if cycle is not None:
                cycle.disconnected()
        self._pending.clear()
        self._newest = self._ended_at = None
        self._parser = None  # it refers to us

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()
            self._watch_sending()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            if self._unsent is not None:
                self._send_more()
                if self._unsent is None:
                    self._sent_hit()
            elif not self._close:
                idle = self._cycle is None and not self._in_head
                limit = self._server.now + self._server.keep_alive_timeout + TICK
                self.deadline = limit if idle else 0.0
            if not writable.done():
                writable.set_result(None)

    # -- the parser's callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._lines = []
        self._url = _EMPTY
        self._head_size = 0
        self._in_head = True
        if self._restart:
            return
        self._newest = None
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        server = self._server
        self._in_head = False
        self._head_size = 0
        if self._restart:
            return  # the head that is being read is our own
        lines, self._lines = self._lines, []  # what comes as a field from here on is a trailer's
        if self._close:
            return  # this connection has had its last answer
        if len(lines) > server.max_fields:
            raise HeadRefused(431, f"there are more than {server.max_fields} fields")
        parser = self._parser
        head = _Head(
            parser.get_method().decode("ascii"), parser.get_http_version(), lines, self._url
        )
        if head.size > server.max_head:
            raise HeadRefused(*self._too_long(len(head.url)))
        upgrades = parser.should_upgrade()
        head.check(upgrades, server.options)
        if upgrades and head.content:
            self._restart = head.framing
        if (
            not head.content
            and self._cycle is None
            and not self._pending
            and head.method in _READS
            and not head.upgrade
            and self._writable is None  # (who does not read what it was sent gets no more for now)
        ):
            self._plain = head
            return
        self._begin(head)

    def on_body(self, data: bytes) -> None:
        cycle = self._newest
        assert cycle is not None
        self._head_size = 0
        full = cycle.feed(data) > _LOW
        if cycle.too_large:
            raise HeadRefused(413, f"the content is over {self._server.max_content} bytes")
        if self._writable is None:  # (if it is full, it is not the client that is waited for)
            limit = self._server.now + self._server.body_timeout + TICK
            self.deadline = 0.0 if full else limit
        if full:
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self._restart:
            return  # it is complete for the parser, which takes its content for another protocol's
        head = self._plain
        if head is None:
            cycle, self._newest = self._newest, None
            if cycle is None:
                return  # see `on_headers_complete`
            if self._writable is None:
                self.deadline = 0.0
            cycle.end()
            return
        self._plain = None
        if self._hit(head):
            return
        cycle = self._begin(head)
        self._newest = None
        cycle.end()

    # -- requests ------------------------------------------------------------------------------

    def _hit(self, head: _Head) -> bool:
        """Answer a plain fresh hit, if it is one."""
        fields = dict(head.lines)
        if len(fields) != len(head.lines) or not head.plain:
            return False
        if not FORWARDED.isdisjoint(fields):
            if self._believed:
                return False  # the scheme may be another
            for name in FORWARDED:
                fields.pop(name, None)
        url = head.url
        raw, _, query = url.partition(b"?")
        try:
            path = (raw if b"%" not in raw else unquote_to_bytes(raw)).decode()
            key = primary_key(self._scheme, fields[b"host"], path, raw, query)
        except (KeyError, UnicodeDecodeError):
            return False
        known = _Known(key, path, fields, head)
        if not self._answer(known):
            return False
        self._known = known
        return True

    def _answer(self, known: _Known) -> bool:
        """Send the plain fresh hit, if there is one."""
        server = self._server
        found: Any = server.hit(known.key, known.path, known.fields)
        if found.__class__ is not tuple:
            if found is not None:
                known.head.marked = (known.key, found)
            return False
        stored, lines = found
        head = known.head
        close = head.close or server.closing
        if stored.lines is not known.lines:
            try:
                known.encode(stored)
                if known.size:
                    server.resized(known)
            except ValueError:
                _logger.exception("what is stored for %r cannot be sent", head.url[:200])
                return False
        added = lines[len(stored.lines) :]  # Age and Cache-Status: ours
        if close or head.version != "1.1":
            added.append((b"connection", b"close" if close else b"keep-alive"))
        body = stored.body if head.method == "GET" else b""
        tail = b"".join([b"%b: %b\r\n" % line for line in added])
        if len(body) <= _JOINED:
            self._transport.write(b"%b%b\r\n%b" % (known.block, tail, body))
        else:
            rest = memoryview(body)
            self._transport.writelines((b"%b%b\r\n" % (known.block, tail), rest[:_SLICE]))
            self._unsent = rest[_SLICE:]
            self._send_more()
        if server.options.access_log:
            self._log(head.method, head.url, stored.status, len(body), 0.0, server.told(lines))
        if self._unsent is not None:
            self._close = close  # once all is sent
        elif close:
            self._hang_up()
        elif self._writable is None:
            self.deadline = server.now + server.keep_alive_timeout
        return True

    def _send_more(self) -> None:
        """Send of a large hit what the client takes."""
        rest = self._unsent
        assert rest is not None
        while rest and self._writable is None and not self.lost:
            self._transport.write(rest[:_SLICE])
            rest = rest[_SLICE:]
        self._unsent = rest if rest and not self.lost else None

    def _sent_hit(self) -> None:
        """A large hit has been sent while the client took it: the next request."""
        if self._close or self._server.closing:
            self._hang_up()
        else:
            self._go_on()

    def _begin(self, head: _Head) -> Cycle:
        cycle = self._newest = Cycle(self, self._server, head)
        if self._cycle is None and self._unsent is None:
            self._start(cycle)
        else:
            self._pending.append(cycle)
            self._pause_reading()
        return cycle

    def _start(self, cycle: Cycle) -> None:
        self._cycle = cycle
        if self._writable is None:
            content = cycle.head.content and not cycle.complete
            self.deadline = self._server.now + self._server.body_timeout + TICK if content else 0.0
        cycle.start(self._peer, self._scheme, believed=self._believed)

    def finished(self, cycle: Cycle) -> None:
        """A request has been answered: the next one."""
        self._cycle = None
        if self.lost:
            return
        if cycle.close or self._server.draining or not cycle.complete:
            self._hang_up(unread=not cycle.complete)
            return
        self._go_on()

    def _go_on(self) -> None:
        """What was asked for before has been sent: the next request."""
        if self._pending:
            self._start(self._pending.popleft())
        elif self._bad is not None:
            self._send_refusal()
            return
        elif self._writable is None:
            self.deadline = self._server.now + self._server.keep_alive_timeout + TICK
        if not self._pending and (self._cycle is None or not self._cycle.head.upgrade):
            self._resume_reading()  # (what may become a tunnel reads on when it is one)

    def _parse_rest(self) -> None:
        """Go on with the packet in which the parser has stopped. (It may do so a thousand times; that is
        not to be a recursion.)"""
        if self._unwinding:
            return
        self._unwinding = True
        while self._rest:
            rest, self._rest = self._rest, b""
            self.data_received(rest)
        self._unwinding = False

    def _after_upgrade(self, rest: bytes) -> bytes:
        """The parser has stopped behind a request that may become a tunnel. What is left to parse of
        the ``rest``."""
        cycle = self._cycle if not self._pending else self._pending[-1]
        if cycle is not None and cycle.head.upgrade:
            cycle.early = rest
            cycle.close = True  # whatever comes of it, there is no next request to be read
            self._pause_reading()
            return b""
        # It asked for a protocol that is not passed on: an ordinary request. Its content was taken for
        # the other protocol's, so it is parsed behind a head that asks for none.
        self._parser = HttpRequestParser(self)
        if self._restart:
            self._parser.feed_data(self._restart)
            self._restart = b""
        return rest

    def _refuse(self, status: int, reason: str) -> None:
        """The rest of this connection cannot be understood, or is not to be."""
        if self._bad is not None or self._close:
            return
        self._bad = (status, reason)
        self._plain = None
        newest, self._newest = self._newest, None
        if newest is not None and newest is self._cycle:
            # In the middle of its content: whoever reads it has to hear that there is no more.
            newest.broken((status, reason))
            return
        if newest is not None and newest in self._pending:
            self._pending.remove(newest)
        self._pause_reading()
        if self._cycle is None and self._unsent is None:
            self._send_refusal()

    def _send_refusal(self) -> None:
        assert self._bad is not None
        if not self.lost:
            self._transport.write(refusal(*self._bad, content=not self._head_only))
        self._hang_up(unread=True)

    def _too_long(self, url: int) -> tuple[int, str]:
        """The refusal of a head that is too long, of which so much is its request target."""
        limit = self._server.max_head
        if url > limit:
            return 414, f"the request target is over {limit} bytes"
        return 431, f"the head is over {limit} bytes"

    def _hang_up(self, *, unread: bool = False) -> None:
        """Nothing more is answered. ``unread``: the client may still be sending."""
        self._close = True
        if self.lost:
            return
        # A client that takes nothing would keep the connection for as long as it likes.
        self._watch_sending()
        if unread and self._ended_at is None and self._transport.can_write_eof():
            # RFC 9112 9.6: closing at once would reset the connection, and with it what we have
            # just said; so the rest is read for a moment, and forgotten.
            try:
                self._transport.write_eof()
            except OSError:  # it has been reset, of which the loop has yet to hear
                self.abort()
                return
            self.deadline = self._server.now + _LINGER
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
        else:
            self._transport.close()

    # -- reading and writing -------------------------------------------------------------------

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self.lost:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._writable is None:
                self.deadline = 0.0  # it is not the client that is waited for

    def _resume_reading(self) -> None:
        if self._reading_paused and not self.lost and not self._close:
            self._reading_paused = False
            self._transport.resume_reading()

    def taken(self, cycle: Cycle) -> None:
        """The content that has come so far was taken."""
        if cycle is self._newest and not self._pending and self._reading_paused:
            self._resume_reading()
            if self._writable is None:
                self.deadline = self._server.now + self._server.body_timeout + TICK

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Write what belongs together, without a copy of what is large."""
        if not self.lost:
            if sum(map(len, parts)) <= _JOINED:
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)

    async def drained(self) -> None:
        """Wait until what was written is not too much any more."""
        if self._writable is not None:
            await self._writable

    @property
    def busy(self) -> bool:
        """Must more not be written for now?"""
        return self._writable is not None

    def expire(self) -> None:
        """A time limit has passed: of whatever it was that was waited for."""
        self.deadline = 0.0
        if self._writable is not None or self._close:
            if 0 < self._outstanding() < self._backlog:
                self._watch_sending()  # it takes its time, but it takes
            else:
                self.abort()
        elif self._ended_at is not None:
            self._expect_a_sign()
        elif self._in_head:
            self._refuse(408, "the head took too long")
        elif self._cycle is not None:
            if not self._cycle.complete:
                self._refuse(408, "the content took too long")
        else:
            self._hang_up()

    def _watch_sending(self) -> None:
        self._backlog = self._outstanding()
        self.deadline = self._server.now + self._server.send_timeout + TICK

    def _outstanding(self) -> int:
        """Bytes that the client has yet to take. Those in the socket's own buffer count: it is of megabytes,
        and has room for more only after a good part of them was taken."""
        unsent = 0 if self._unsent is None else len(self._unsent)
        sock = self._transport.get_extra_info("socket")
        return unsent + self._transport.get_write_buffer_size() + _queued(sock)

    def abort(self) -> None:
        if not self.lost:
            self._transport.abort()

    def broke_off(self, *, framed: bool) -> None:
        """The response that is being sent ends before its end, so that nobody takes what there is for
        the whole. ``framed``: its client can tell; otherwise the end of the connection would say
        that this was all, unless it is reset."""
        if framed:
            self._hang_up()
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != AF_UNIX:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
        self.abort()

    def close_idle(self) -> None:
        """Close it unless a request has begun."""
        idle = self._cycle is None and self._unsent is None and not self._in_head
        if idle and not self.lost:
            self._transport.close()

    # -- tunnels -------------------------------------------------------------------------------

    def tunnel(self, upstream: UpstreamConnection, early: bytes) -> None:
        """From here on, pass everything on to the upstream, and back."""
        self.deadline = 0.0
        self._tunnel = upstream
        if not self.lost:  # (else it has been left already)
            self._server.tunnels += 1
        if early:
            upstream.forward(early)
        self._resume_reading()

    def forward(self, data: bytes) -> None:
        """What the upstream has sent."""
        if self.lost:
            return
        self._transport.write(data)
        upstream = self._tunnel
        if self._writable is not None and upstream is not None:
            upstream.pause()
            self._writable.add_done_callback(lambda _: upstream.resume())

    def ended(self) -> None:
        """The upstream is gone."""
        if not self.lost:
            self._transport.close()

    def pause(self) -> None:
        self._pause_reading()

    def resume(self) -> None:
        self._resume_reading()

    def _log(
        self, method: str, url: bytes, status: int, size: int, seconds: float, told: str
    ) -> None:
        peer = "-" if self._peer is None else self._peer[0]
        _access.info(
            '%s "%s %s" %d %d %.3f "%s"',
            peer,
            method,
            url[:2048].decode("latin-1"),
            status,
            size,
            seconds,
            told or "-",
        )


def _queued(sock: Any) -> int:
    """Bytes that the other end of a connection has not acknowledged; 0 where that cannot be asked."""
    if sys.platform == "win32" or sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # it is closed, or no such question is known here
        return 0
    return int.from_bytes(answer, sys.byteorder)


class _Known:
    """A request without content that has been a plain hit: ``block`` are the stored ``lines`` as they
    were sent then, from the status line on."""

    __slots__ = ("block", "fields", "head", "key", "lines", "path", "request_size", "size")

    def __init__(self, key: bytes, path: str, fields: dict[bytes, bytes], head: _Head) -> None:
        self.size = 0  # bytes, once it is remembered
        self.request_size = 0
        self.key = key
        self.path = path
        self.fields = fields
        self.head = head
        self.lines: Lines | None = None
        self.block = b""

    def encode(self, stored: StoredResponse) -> None:
        """Raises ValueError for what cannot be sent."""
        self.block = status_line(stored.status) + encode_lines(stored.lines)
        if stored.status not in _NO_CONTENT and b"content-length" not in stored.fields:
            self.block += b"content-length: %d\r\n" % len(stored.body)
        self.lines = stored.lines


class _Head:
    """A request's head."""

    __slots__ = (
        "close",
        "content",
        "expects",
        "lines",
        "marked",
        "method",
        "plain",
        "size",
        "upgrade",
        "url",
        "version",
    )

    def __init__(self, method: str, version: str, lines: Lines, url: bytes) -> None:
        self.method = method
        self.version = version
        self.url = url
        self.size = len(url) + sum([len(name) + len(value) for name, value in lines])
        self.lines = lines
        self.close = version != "1.1"
        self.content = False
        self.expects = False
        self.upgrade = False
        self.plain = True  # is it in origin-form?
        self.marked: tuple[bytes, HitForMiss] | None = None  # see `asgi.scope.HIT_FOR_MISS`

    def check(self, upgrades: bool, options: GatewayOptions) -> None:
        """Raises HeadRefused."""
        if self.version not in _VERSIONS:
            raise HeadRefused(505, "the version is neither 1.0 nor 1.1")
        hosts = length = 0
        coded = ignored = False
        for name, value in self.lines:
            if name == b"host":
                hosts += 1
                if not valid_host(value):
                    raise HeadRefused(400, "Host is malformed")
            elif name == b"content-length":
                length = int(value) if len(value) < 19 else 1 << 62
            elif name == b"transfer-encoding":
                # RFC 9112 6.1: "A server that receives a request message with a transfer coding it
                # does not understand SHOULD respond with 501", and one in HTTP/1.0 is faulty.
                if value.lower() != b"chunked":
                    raise HeadRefused(501, "there is a transfer coding besides chunked")
                if self.version != "1.1":
                    raise HeadRefused(400, "HTTP/1.0 has no transfer codings")
                coded = True
            elif name == b"connection":
                wishes = split_list(value.lower())
                if b"close" in wishes:
                    self.close = True
                elif b"keep-alive" in wishes and self.version == "1.0":
                    self.close = False
            elif name == b"expect":
                self.expects = self._expects(value)
                ignored = not self.expects
        # RFC 9112 3.2: "any HTTP/1.1 request message that lacks a Host header field and ... any
        # request message that contains more than one Host header field line".
        if hosts > 1 or (hosts == 0 and self.version != "1.0"):
            raise HeadRefused(400, "there must be one Host")
        self._check_limits(length, options)
        self.content = coded or length > 0
        if ignored:
            self.lines = [line for line in self.lines if line[0] != b"expect"]
        self.plain = self.url[:1] == b"/" and b"#" not in self.url
        cleaned = end_to_end(self.method, self.lines)
        if cleaned is not self.lines:
            self.lines = cleaned
            # RFC 6455 4.1: "The method of the request MUST be GET"; RFC 9110 7.8: "A server MUST
            # ignore an Upgrade header field that is received in an HTTP/1.0 request."
            self.upgrade = (
                upgrades
                and self.method == "GET"
                and self.version == "1.1"
                and any(name == b"upgrade" for name, _ in cleaned)
            )
            if self.upgrade and self.content:
                raise HeadRefused(400, "a request for a WebSocket must have no content")
            if self.upgrade and not options.pass_upgrades:
                raise HeadRefused(501, "no other protocol is spoken here")
            if not self.upgrade:
                self.lines = [line for line in cleaned if line[0] != b"upgrade"]

    def _expects(self, value: bytes) -> bool:
        """Is a 100 (Continue) to be sent to who expects this? Raises HeadRefused."""
        # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request
        # MUST ignore that expectation."
        if self.version == "1.0":
            return False
        if value.lower() != b"100-continue":
            raise HeadRefused(417, "the expectation is unknown")
        return True

    def _check_limits(self, length: int, options: GatewayOptions) -> None:
        if self.method in _REFUSED:
            # No gateway has a use for the one; the other shows cookies to scripts.
            raise HeadRefused(501, f"{self.method} is not served here")
        if options.max_content is not None and length > cast(int, options.max_content):
            raise HeadRefused(413, f"the content is over {options.max_content} bytes")

    @property
    def framing(self) -> bytes:
        """A head that frames content as this one does, and says nothing else."""
        lines = [line for line in self.lines if line[0] in _FRAMES]
        return b"POST / HTTP/1.1\r\n" + encode_lines(lines) + b"\r\n"


class Cycle:
    """One request and its response, as an ASGI call."""

    __slots__ = (
        "_body", "_called", "_chunked", "_client", "_ended", "_flush", "_head_bytes", "_length", "_logged",
        "_parts", "_received", "_sent", "_server", "_size", "_started", "_status", "_task",
        "_told", "_trailers", "_waiter", "bad", "close", "complete", "early", "gone", "head", "too_large",
    )  # fmt: skip

    def __init__(self, client: ClientConnection, server: Server, head: _Head) -> None:
        self._client = client
        self._server = server
        self.head = head
        self.close = head.close
        self.complete = not head.content
        self.gone = False
        self.too_large = False
        self.early = b""
        self.bad: tuple[int, str] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._received = 0
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._called = False
        self._started = False
        self._ended = False
        self._chunked = False
        self._body = True  # does the response have content?
        self._length: int | None = None
        self._sent = 0
        self._status = 0
        self._told = ""
        self._trailers = False
        self._head_bytes = b""
        self._flush: asyncio.Handle | None = None
        self._logged = 0.0

    # -- what comes in -------------------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """More of the content; how many bytes wait to be taken."""
        self._parts.append(data)
        self._size += len(data)
        self._received += len(data)
        limit = self._server.max_content
        self.too_large = limit is not None and self._received > limit
        self._wake()
        return self._size

    @property
    def progress(self) -> tuple[bool, int]:
        """How far the response has come."""
        return self._started, self._sent

    def end(self) -> None:
        """The request is complete."""
        self.complete = True
        self._wake()

    def broken(self, refusal: tuple[int, str]) -> None:
        """There will be no more of the content."""
        self.bad = refusal
        self.close = True
        if self._started:
            self._client.abort()
        elif self._task is not None and self._called:
            self._task.cancel()  # (one that has not begun would never do so)

    def disconnected(self) -> None:
        """The client is gone."""
        self.gone = True
        self._wake()
        if self._task is not None and self._called:
            self._task.cancel()  # (one that has not begun sees for itself)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the call ------------------------------------------------------------------------------

    def start(self, peer: tuple[str, int] | None, scheme: str, *, believed: bool) -> None:
        self._task = self._server.loop.create_task(self._run(peer, scheme, believed))

    async def _run(self, peer: tuple[str, int] | None, scheme: str, believed: bool) -> None:
        head, server, client = self.head, self._server, self._client
        if server.options.access_log:
            self._logged = time.perf_counter()
        try:
            if self.bad is None and not self.gone:
                self._called = True
                scope = self._scope(peer, scheme, believed)
                try:
                    if server.policy.returned(scope["headers"]):
                        await say_looped(scope, self.send)
                    else:
                        await server.app(scope, self.receive, self.send)
                except UpstreamError as error:
                    if self._started:
                        raise
                    await say_failure(error, scope, self.send, server.identifier)
                if not self._ended and not self.gone:
                    raise RuntimeError("the response was not ended")
        except asyncio.CancelledError:
            if self.bad is None and not self.gone:
                self.bad = (503, "the gateway is stopping")
                raise
        except HeadRefused as error:
            self.bad = (error.status, str(error))
        except Exception as error:
            if not self.gone:
                if not self._started:
                    _logger.exception("%s %r failed", head.method, head.url[:200])
                else:
                    _logger.warning(
                        "the response to %s %r broke off: %s", head.method, head.url[:200], error
                    )
                self.bad = (500, "internal error")
        finally:
            self._flush_head()
            if server.options.access_log:
                seconds = time.perf_counter() - self._logged
                client._log(head.method, head.url, self._status, self._sent, seconds, self._told)
            if self.bad is not None and not client.lost:
                if self._started:
                    client.broke_off(framed=self._chunked or self._length is not None)
                else:
                    client.write(refusal(*self.bad, content=head.method != "HEAD"))
                self.close = True
            client.finished(self)

    def _scope(self, peer: tuple[str, int] | None, scheme: str, believed: bool) -> dict[str, Any]:
        head = self.head
        target = request_target(head.url, head.method)
        lines = head.lines
        if target.authority is not None:
            # RFC 9112 3.2.2: "When an origin server receives a request with an absolute-form of
            # request-target, the origin server MUST ignore the received Host header field (if any)".
            if not valid_host(target.authority):
                raise HeadRefused(400, "the request target has no valid host")
            lines = [line for line in lines if line[0] != b"host"]
            lines.insert(0, (b"host", target.authority))
        lines, client, scheme = self._server.policy.incoming(lines, peer, scheme, believed=believed)
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
            "client": client,
            "server": None,
            "extensions": extensions,
        }
        if head.marked is not None:
            scope[HIT_FOR_MISS] = head.marked
        return scope

    async def receive(self) -> Message:
        """ASGI's. Who asks for content that the client holds back sends for it."""
        if self.head.expects:
            self.head.expects = False  # RFC 9110 10.1.1
            if not self._started and not self._received and not self.complete:
                self._client.write(CONTINUE)
        while True:
            if self._parts or (self.complete and not self._size and self._received >= 0):
                data = b"".join(self._parts)
                self._parts = []
                self._size = 0
                if self.complete:
                    self._received = -1  # from here on, only a disconnect
                else:
                    self._client.taken(self)
                return {"type": "http.request", "body": data, "more_body": not self.complete}
            if self.gone or self._ended:
                return {"type": "http.disconnect"}
            self._waiter = self._server.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def send(self, message: Message) -> None:
        """ASGI's. Raises OSError when the client is gone."""
        kind = message["type"]
        if self.gone:
            raise ConnectionResetError("the client is gone")
        if kind == _BODY:
            data, more = message.get("body", b""), message.get("more_body", False)
            if len(data) > _SLICE:
                rest = memoryview(data)
                while len(rest) > _SLICE and not self._ended:
                    self._send_body(rest[:_SLICE], more=True)
                    rest = rest[_SLICE:]
                    if self._client.busy:
                        await self._client.drained()
                    if self.gone:
                        raise ConnectionResetError("the client is gone")
                data = rest
            self._send_body(data, more=more)
            if self._client.busy:
                await self._client.drained()
        elif kind == _START:
            self._send_head(message)
        elif kind == INTERIM:
            if self.head.version == "1.1" and not self._started:
                self._client.write(encode_head(message["status"], message["headers"]))
        elif kind == _TRAILERS:
            if self._chunked and not self._ended:
                self._client.write(b"0\r\n" + encode_lines(message["headers"]) + b"\r\n")
            self._end()

    def _send_head(self, message: Message) -> None:
        if self._started:
            raise RuntimeError("a response has one head")
        status = self._status = message["status"]
        head = self.head
        headers = list(message["headers"])
        if self._server.options.access_log:
            self._told = self._server.told(headers)
        self._trailers = bool(message.get("trailers"))
        length = None
        dated = False
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"date":
                dated = True
        if not dated:  # made here, not at the origin
            headers.append((b"date", date_now()))
        self._body = head.method != "HEAD" and status not in _NO_CONTENT
        if self._body:
            if length is not None:
                self._length = int(length)
            elif head.version == "1.1":
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self.close = True
        elif length is not None and status == 204:
            headers = [line for line in headers if line[0] != b"content-length"]
        if self._server.closing or not self.complete:
            self.close = True
        if self.close:
            headers.append((b"connection", b"close"))
        elif head.version == "1.0":
            headers.append((b"connection", b"keep-alive"))
        self._head_bytes = encode_head(status, headers)
        self._started = True
        # With the first part of the body, if that comes before anything else happens.
        self._flush = self._server.loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._head_bytes = self._head_bytes, b""
        if head:
            self._client.write(head)

    def _send_body(self, data: bytes | memoryview, *, more: bool) -> None:
        if not self._started:
            raise RuntimeError("a response begins with its head")
        if self._ended:
            return
        head, self._head_bytes = self._head_bytes, b""
        if head and self._flush is not None:
            self._flush.cancel()
        if not self._body:
            data = b""
        self._sent += len(data)
        if self._length is not None and self._sent > self._length:
            raise RuntimeError("the response is longer than its Content-Length")
        parts: list[bytes | memoryview] = [head] if head else []
        if data:
            parts += (b"%x\r\n" % len(data), data, b"\r\n") if self._chunked else (data,)
        if self._chunked and not more and not self._trailers:
            parts.append(b"0\r\n\r\n")
        if parts:
            self._client.write_parts(parts)
        if not more and not (self._trailers and self._chunked):
            if self._length is not None and self._sent != self._length:
                raise RuntimeError("the response is shorter than its Content-Length")
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    async def accept(self, lines: Lines, upstream: UpstreamConnection) -> None:
        """The upstream has agreed to another protocol: a tunnel, until either end closes it."""
        client = self._client
        lines = [line for line in lines if line[0] not in (b"connection", b"upgrade")]
        lines += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        self._started = self._ended = True
        self._status = 101
        self.close = True
        client.write(encode_head(101, lines))
        await upstream.splice(client, self.early)
