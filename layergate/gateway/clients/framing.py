"""The framing of one response: its head, its body and its end as bytes (RFC 9112 6).

`Cycle` asks for the bytes and writes them. Nothing here writes or waits.
"""

from __future__ import annotations

from typing import Final

from layergate.gateway.head import date_now, encode_head, encode_lines
from layergate.http.message.fields import Lines

__all__ = ["Framing"]

_NO_CONTENT: Final = frozenset({204, 304})


class Framing:
    """One response to a request with this method and version.

    ``started``  True once `head` was called.
    ``ended``    True once the response is complete.
    ``status``   of the response; 0 before `head`.
    ``sent``     bytes of the body so far.
    ``close``    True if the connection ends with the response. Set it before `head` to have the head say
                 so; `head` sets it if nothing else tells where the response ends.
    """

    __slots__ = (
        "_body", "_chunked", "_length", "_method", "_trailers", "_version", "close", "ended", "sent",
        "started", "status",
    )  # fmt: skip

    def __init__(self, method: str, version: str) -> None:
        self._method = method
        self._version = version
        self._chunked = False
        self._length: int | None = None
        self._body = True
        self._trailers = False
        self.started = False
        self.ended = False
        self.close = False
        self.status = 0
        self.sent = 0

    @property
    def delimited(self) -> bool:
        """True if the client can tell a response that is cut off from a complete one."""
        return self._chunked or self._length is not None

    def head(self, status: int, lines: Lines, *, trailers: bool) -> bytes:
        """The head. ``trailers``: True if `trailers` will be called after the body."""
        if self.started:
            raise RuntimeError("a response has one head")
        lines = list(lines)
        self.status = status
        self._trailers = trailers
        length = None
        dated = False
        for name, value in lines:
            if name == b"content-length":
                length = value
            elif name == b"date":
                dated = True
        if not dated:  # made here, not at the origin
            lines.append((b"date", date_now()))
        self._body = self._method != "HEAD" and status not in _NO_CONTENT
        if self._body:
            if length is not None:
                self._length = int(length)
            elif self._version == "1.1":
                self._chunked = True
                lines.append((b"transfer-encoding", b"chunked"))
            else:
                self.close = True
        elif length is not None and status == 204:
            lines = [line for line in lines if line[0] != b"content-length"]
        if self.close:
            lines.append((b"connection", b"close"))
        elif self._version == "1.0":
            lines.append((b"connection", b"keep-alive"))
        head = encode_head(status, lines)
        self.started = True  # not if that has failed: another response may be sent
        return head

    def body(self, data: bytes | memoryview, *, more: bool) -> list[bytes | memoryview]:
        """A part of the body, framed. ``more``: False for the last one; call `finish` when it is written.

        Raises RuntimeError if the response is longer than its Content-Length.
        """
        if not self.started:
            raise RuntimeError("a response begins with its head")
        if not self._body:
            data = b""
        self.sent += len(data)
        if self._length is not None and self.sent > self._length:
            raise RuntimeError("the response is longer than its Content-Length")
        parts: list[bytes | memoryview] = []
        if data:
            parts += (b"%x\r\n" % len(data), data, b"\r\n") if self._chunked else (data,)
        if self._chunked and not more and not self._trailers:
            parts.append(b"0\r\n\r\n")
        return parts

    def finish(self) -> None:
        """The body is written. Raises RuntimeError if it is shorter than the Content-Length."""
        if self._length is not None and self.sent != self._length:
            raise RuntimeError("the response is shorter than its Content-Length")
        self.ended = not (self._trailers and self._chunked)

    def trailers(self, lines: Lines) -> bytes:
        """The end of the response, with its trailer section if it is sent in chunks."""
        end = b"0\r\n%b\r\n" % encode_lines(lines) if self._chunked and not self.ended else b""
        self.ended = True
        return end

    def switch(self, lines: Lines) -> bytes:
        """The head of a 101 (Switching Protocols), after which the connection is a tunnel."""
        lines = [line for line in lines if line[0] not in (b"connection", b"upgrade")]
        lines += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        self.started = self.ended = True
        self.status = 101
        return encode_head(101, lines)
