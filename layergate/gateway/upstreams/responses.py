"""Bytes of an upstream turned into events: heads, parts of a body, the end. No socket, no clock.

`upstreams.connection.Connection` makes a `ResponseReader` for each request and feeds it. llhttp parses,
in its strict mode; `on_headers_complete` refuses what a strict grammar still lets through.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, Final, NamedTuple

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

from layergate.gateway.upstreams.errors import UpstreamMalformed
from layergate.http.message.fields import Lines, split_list

__all__ = ["Event", "Kind", "ResponseReader"]

_EVENT: Final = 200  # bytes that a part of a body takes beside itself
_MAX_HEAD: Final = 128 * 1024  # bytes of a response's head, or of its trailer section
_MAX_FIELDS: Final = 512
_MAX_INTERIM: Final = 32  # 1xx responses before the final one
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
# RFC 9112 7.2 and 7.3: the gateway offers none of them (its TE names trailers only).
_CODINGS: Final = frozenset(
    {b"chunked", b"compress", b"deflate", b"gzip", b"x-compress", b"x-gzip"}
)
_UNASKED: Final = "the upstream sent data that nobody asked for"


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


class ResponseReader:
    """The response to one request. ``head_only``: True if its method is HEAD.

    ``events``    that wait to be taken.
    ``size``      bytes of memory that the parts of a body among them take.
    ``status``    of the final response; 0 before its head has come.
    ``complete``  True once the response has come to its end.
    ``keeps``     True if the connection can carry another request after this response.
    ``switched``  True after a 101.
    """

    __slots__ = (
        "_beside", "_framed", "_head_only", "_in_head", "_interim", "_keep_alive", "_lines", "_parser",
        "_parts", "complete", "events", "size", "status", "switched",
    )  # fmt: skip

    def __init__(self, *, head_only: bool) -> None:
        self.events: deque[Event] = deque()
        self.size = 0
        self.status = 0
        self.complete = False
        self.switched = False
        self._head_only = head_only
        self._parser: Any = HttpResponseParser(self)
        self._lines: Lines = []
        self._parts: list[bytes] = []  # of the body, in what is being parsed
        self._beside = 0  # bytes of this head, or beside the content, in packets that are parsed
        self._in_head = True
        self._framed = False  # its end can be told from a cut
        self._keep_alive = False
        self._interim = 0

    @property
    def keeps(self) -> bool:
        return self._keep_alive and self._framed

    def feed(self, data: bytes) -> None:
        """Parse what has come, and append its events. Raises UpstreamMalformed; events of what came
        before the fault are there then."""
        if self.complete:
            # Nobody has asked for this: whatever it answers, it isn't the next request.
            raise UpstreamMalformed(_UNASKED)
        self._beside += len(data)
        if self._beside > _MAX_HEAD + len(data):
            what = "head" if self._in_head else "trailer section"
            raise UpstreamMalformed(f"the response's {what} is over {_MAX_HEAD} bytes")
        rest = b""
        fault: UpstreamMalformed | None = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.switched = True
            rest = data[upgrade.args[0] :]
        except (HttpParserError, HttpParserCallbackError) as error:
            cause = error.__context__
            if isinstance(cause, UpstreamMalformed):
                fault = cause.with_traceback(None)
            else:
                fault = UpstreamMalformed(f"the upstream's response is malformed: {error}")
        if self.switched:
            self.events.append(Event(Kind.SWITCHED, self.status, self._lines))
            if rest:
                self._parts.append(rest)
        if self._parts:
            self._put_body()
        if fault is not None or self._over():
            self._parser = None
        if fault is not None:
            try:
                raise fault from None
            finally:
                del fault  # its traceback refers to this frame

    def end_of_connection(self, *, in_order: bool) -> None:
        """The upstream has closed the connection. That is the end of a response without a length; any
        other stays incomplete.

        RFC 9112 6.3: "the message body length is determined by the number of octets received prior to
        the server closing the connection." Section 8: it is complete "unless an error was indicated by
        the underlying connection (e.g., an "incomplete close" in TLS".
        """
        if in_order and not self._in_head and not self._framed:
            self._finish()
        self._parser = None  # it refers to this reader

    def _over(self) -> bool:
        return self.complete or self.switched

    # -- the request's side --------------------------------------------------------------------

    def take(self) -> Event:
        """The next event, which has arrived."""
        event = self.events.popleft()
        if event.kind is Kind.BODY:
            self.size -= len(event.data) + _EVENT
        return event

    def take_body(self) -> bytes:
        """All parts of the body that have arrived before anything else."""
        events = self.events
        parts: list[bytes] = []
        while events and events[0].kind is Kind.BODY:
            parts.append(events.popleft().data)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.size -= len(data) + _EVENT * len(parts)
        return data

    # -- the parser's callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            # However little of it has come: it must not become the answer to the next request.
            self._keep_alive = False
            raise UpstreamMalformed(_UNASKED)
        self._lines = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        lines = self._lines
        lines.append((name.lower(), value.strip(b" \t")))
        if len(lines) > _MAX_FIELDS:
            raise UpstreamMalformed(f"the response has more than {_MAX_FIELDS} fields")

    def on_headers_complete(self) -> None:
        self._beside = 0
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        lines, self._lines = self._lines, []
        if version not in _VERSIONS:
            raise UpstreamMalformed(f"the response is in HTTP/{version}")
        if status < 100 or status > 599:
            raise UpstreamMalformed(f"the response has status {status}")
        if status < 200:
            self._interim_head(status, lines)
        else:
            self._final_head(status, version, lines)

    def _interim_head(self, status: int, lines: Lines) -> None:
        if status == 101:
            if not self._parser.should_upgrade():
                # RFC 9110 15.2.2: "The server MUST generate an Upgrade header field".
                raise UpstreamMalformed("the upstream switched protocols without saying to which")
            self.status, self._lines = status, lines
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            raise UpstreamMalformed(f"more than {_MAX_INTERIM} interim responses")
        if any(name in _FRAMING and value != b"0" for name, value in lines):
            # RFC 9110 15.2: it "is terminated by the end of the header section"; not every parser
            # knows that of every one.
            raise UpstreamMalformed(f"an interim response ({status}) has content")
        self.events.append(Event(Kind.INTERIM, status, lines))

    def _final_head(self, status: int, version: str, lines: Lines) -> None:
        self._in_head = False
        self.status = status
        self._keep_alive = version == "1.1"
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
                # A name that is no transfer coding doesn't change the content, which ends with the
                # connection (RFC 9112 6.3).
            elif name == b"connection":
                options = split_list(value.lower())
                if b"close" in options:
                    self._keep_alive = False
                elif b"keep-alive" in options:
                    self._keep_alive = True
        if chunked and version != "1.1":
            self._keep_alive = False  # RFC 9112 6.1
        self._framed = length or chunked or self._head_only or status in (204, 304)
        self.events.append(Event(Kind.HEAD, status, lines, version=version))
        if self._head_only:
            # RFC 9110 9.3.2: no content, whatever the fields say; the parser doesn't know the method.
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise UpstreamMalformed("a response to HEAD has content")
        self._beside = 0
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if not self._in_head and not self.complete:  # (else of an interim response)
            self._finish()

    def _put_body(self) -> None:
        """One event for all that a packet holds of a body: an origin may send the smallest chunks."""
        parts, self._parts = self._parts, []
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.size += len(data) + _EVENT
        self.events.append(Event(Kind.BODY, data=data))

    def _finish(self) -> None:
        if self._parts:
            self._put_body()
        self.complete = True
        self.events.append(Event(Kind.END, lines=self._lines) if self._lines else _END)
