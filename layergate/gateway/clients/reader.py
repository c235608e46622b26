"""Bytes of a client turned into requests. No socket, no clock: `ClientConnection` feeds it.

llhttp parses. What it accepts is checked once more (`clients.head`). The reader tells its `Sink` about
each head, the content, and the end of each request, in order, and about the first thing that it refuses;
after that it must not be fed again.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from layergate.gateway.clients.head import READS, RequestHead
from layergate.gateway.head import HeadRefused
from layergate.gateway.options import GatewayOptions
from layergate.http.message.fields import Lines

__all__ = ["RequestReader", "Sink"]

_logger = logging.getLogger("layergate.gateway")
_EMPTY: Final = b""


class Sink(Protocol):
    """The connection that the requests are for. Each method may raise HeadRefused.

    ``closing``: True if the connection answers no further request; what follows is ignored.
    """

    closing: bool

    def whole_request(self, head: RequestHead) -> None:
        """A GET or HEAD without content has come."""

    def request_begun(self, head: RequestHead) -> None:
        """The head of any other request has come."""

    def content(self, data: bytes) -> None:
        """A part of that request's content has come."""

    def request_ended(self) -> None:
        """That request is complete."""

    def upgrade(self, rest: bytes) -> bool:
        """A request has asked for another protocol, and ``rest`` follows it. True if the gateway may
        pass the protocol on: then ``rest`` belongs to it, and nothing more is parsed."""

    def refuse(self, status: int, reason: str, *, head_only: bool = False) -> None:
        """What has come is refused, and nothing after it can be understood. ``head_only``: True if the
        response to it has no content."""


class RequestReader:
    """One connection's parser.

    ``in_head``  True between the first byte of a request and the end of its head.
    ``begun``    requests that have begun since the connection set this to 0.
    """

    __slots__ = (
        "_at_most", "_beside", "_head", "_heads", "_in_content", "_lines", "_max_head", "_options", "_parser", "_restart",
        "_sink", "_url", "begun", "in_head",
    )  # fmt: skip

    def __init__(self, sink: Sink, options: GatewayOptions) -> None:
        self._sink = sink
        self.adopt(options)
        self._parser: Any = HttpRequestParser(self)
        self._lines: Lines = []
        self._url = _EMPTY
        self._at_most = 0  # bytes of this head
        self._beside = 0  # at least: bytes of this head, or beside the content
        self._in_content = False
        self._heads = 0  # that have ended
        self._head: RequestHead | None = None  # of a request without content, until its end
        self._restart = _EMPTY  # see `_after_upgrade`
        self.in_head = False
        self.begun = 0

    def adopt(self, options: GatewayOptions) -> None:
        """Use the limits of these options from now on."""
        self._options = options
        self._max_head = cast(int, options.max_head)

    def close(self) -> None:
        """Let go of what refers to the reader. Nothing more is fed."""
        self._parser = None
        del self._sink

    def feed(self, data: bytes) -> bytes:
        """Parse what has come. The rest, which is to be fed next, is empty unless a request has asked for
        another protocol: a loop over it, since one packet may hold a thousand of them."""
        was_in_head, lines = self.in_head, self._lines
        was_in_content, heads = self._in_content, self._heads
        self._at_most = self._at_most + len(data) if was_in_head else len(data)
        rest = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except HttpParserInvalidMethodError:
            self._sink.refuse(501, "the method is unknown")
        except HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, HeadRefused):
                head_only = self._parser.get_method() == b"HEAD"
                self._sink.refuse(cause.status, str(cause), head_only=head_only)
            else:
                _logger.error("a request could not be read", exc_info=cause or error)  # noqa: TRY400
                self._sink.refuse(500, "internal error")
        except HttpParserError as error:
            if not self._sink.closing:
                self._sink.refuse(400, f"malformed: {error}")
        if rest is not None:  # (handled here: the context of an error must be its cause)
            return self._after_upgrade(rest)
        if self.in_head and was_in_head and self._lines is lines:
            # The same head as before this packet is at least as long as what has come of it.
            self._beside += len(data)
            if self._beside > self._max_head:
                self._sink.refuse(*self._too_long(len(self._url)))
        elif self._in_content and was_in_content and self._heads == heads:
            # Beside content come the sizes of chunks and a trailer section.
            self._beside += len(data)
            if self._beside > self._max_head + len(data):
                self._sink.refuse(431, "there is too much beside the content")
        return _EMPTY

    def _after_upgrade(self, rest: bytes) -> bytes:
        """The parser has stopped behind a request that asks for another protocol. What is left to
        parse."""
        if self._sink.upgrade(rest):
            return _EMPTY
        # The protocol is not passed on, so this is an ordinary request. The parser took its content for
        # the other protocol's: a new one reads it behind a head that asks for no protocol.
        self._parser = HttpRequestParser(self)
        if self._restart:
            self._parser.feed_data(self._restart)
            self._restart = _EMPTY
        return _EMPTY if self._sink.closing else rest

    # -- the parser's callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._lines = []
        self._url = _EMPTY
        self._beside = 0
        self.in_head = True
        if not self._restart:
            self.begun += 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self._beside = 0
        if self._restart:
            return  # the head that was read is the one made by `_after_upgrade`
        lines, self._lines = self._lines, []  # fields from here on are those of a trailer section
        self._heads += 1
        self._in_content = False
        if self._sink.closing:
            return
        options = self._options
        if len(lines) > options.max_fields:
            raise HeadRefused(431, f"there are more than {options.max_fields} fields")
        parser = self._parser
        head = RequestHead(
            parser.get_method().decode("ascii"), parser.get_http_version(), lines, self._url
        )
        if self._at_most > self._max_head and head.size > self._max_head:
            raise HeadRefused(*self._too_long(len(head.url)))
        upgrades = parser.should_upgrade()
        head.check(upgrades, options)
        if upgrades and head.content:
            self._restart = head.framing
        if not head.content and head.method in READS and not head.upgrade:
            self._head = head
            return
        self._in_content = True
        self._sink.request_begun(head)

    def on_body(self, data: bytes) -> None:
        self._beside = 0
        if self._in_content:  # (else it belongs to a request that is ignored)
            self._sink.content(data)

    def on_message_complete(self) -> None:
        if self._restart:
            return  # complete for the parser only, which stops before the content
        head, self._head = self._head, None
        if head is not None:
            self._sink.whole_request(head)
        elif self._in_content:
            self._in_content = False
            self._sink.request_ended()

    def _too_long(self, url: int) -> tuple[int, str]:
        """The refusal of a head that is too long, ``url`` bytes of which are its request target."""
        limit = self._max_head
        if url > limit:
            return 414, f"the request target is over {limit} bytes"
        return 431, f"the head is over {limit} bytes"
