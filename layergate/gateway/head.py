"""HTTP/1.1 heads: what a request must be like to go any further, and heads as bytes (RFC 9112).

The parser (llhttp) refuses what is malformed: bare CR or LF, obs-fold, control characters, two
lengths, a length beside a transfer coding. What stands here is what a grammar does not say: which
of two things that could both be meant is not meant.

Everything that is not going to be forwarded is taken off before the cache looks at the request. So
what selects a stored response is exactly what the origin will see, and nothing that a client sends
can change the one without the other (`ForwardPolicy` in `forward` only adds).
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from layergate.http.message.fields import Line, Lines, split_list

__all__ = [
    "CONTINUE",
    "HeadRefused",
    "Target",
    "date_now",
    "encode_head",
    "encode_lines",
    "end_to_end",
    "refusal",
    "request_target",
    "status_line",
]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# RFC 9110 7.6.1: for one connection only, "whether or not they appear as a connection-option".
HOP_BY_HOP: Final = frozenset({
    b"connection", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"upgrade",
})  # fmt: skip
# What a client must not take off a request by naming it in Connection: what frames the message,
# what it is addressed to, and what says who it is from. "Intermediaries SHOULD NOT" honour that for
# fields that are "intended for all recipients of the content" either.
_KEPT: Final = frozenset({
    b"authorization", b"cache-control", b"content-length", b"content-type", b"cookie", b"expect",
    b"host", b"pragma", b"range", b"te", b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
# By these some servers and frameworks take another method, URL, host or scheme for the one that is
# asked for: the answer would be stored under what it is no answer to. (And CGI makes HTTP_PROXY of
# Proxy, by which programs find the way out.)
OVERRIDES: Final = frozenset({
    b"front-end-https", b"proxy", b"x-backend-host", b"x-envoy-original-host",
    b"x-envoy-original-path", b"x-forwarded-context", b"x-forwarded-method", b"x-forwarded-path",
    b"x-forwarded-prefix", b"x-forwarded-protocol", b"x-forwarded-scheme", b"x-forwarded-server",
    b"x-forwarded-ssl", b"x-forwarded-uri", b"x-forwarded-url", b"x-gateway-host", b"x-host",
    b"x-http-destinationurl", b"x-http-host-override", b"x-original-host", b"x-original-method",
    b"x-original-uri", b"x-original-url", b"x-request-uri", b"x-rewrite-uri", b"x-rewrite-url",
    b"x-scheme", b"x-script-name", b"x-url-scheme",
})  # fmt: skip
METHOD_OVERRIDES: Final = frozenset({
    b"x-http-method", b"x-http-method-override", b"x-method-override",
})  # fmt: skip
_SPECIAL: Final = HOP_BY_HOP | OVERRIDES | METHOD_OVERRIDES
_READS: Final = frozenset({"GET", "HEAD"})
_line: Final = b": ".join

_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"
).fullmatch
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)").fullmatch


class HeadRefused(Exception):
    """A head that is not going any further: ``status`` is the answer to it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Target(NamedTuple):
    """A request target in parts: ``authority`` is None unless it is in absolute-form."""

    path: bytes
    query: bytes
    authority: bytes | None = None


def request_target(url: bytes, method: str) -> Target:
    """The parts of a request target (RFC 9112 3.2). Raises HeadRefused."""
    if url[:1] == b"/":
        if b"#" in url:
            raise HeadRefused(400, "the request target has a fragment")
        path, _, query = url.partition(b"?")
        return Target(path, query)
    if url == b"*" and method == "OPTIONS":
        return Target(url, b"")
    absolute = _ABSOLUTE(url)
    if absolute is None or absolute[1].lower() not in (b"http", b"https"):
        raise HeadRefused(400, "the request target is of no form that is known")
    if not absolute[3] and method == "OPTIONS":
        # RFC 9112 3.2.4: with "an empty path and no query component, then the last proxy on the
        # request chain MUST send a request-target of "*"".
        return Target(b"*", b"", absolute[2])
    path, _, query = absolute[3].partition(b"?")
    return Target(path or b"/", query, absolute[2])


def valid_host(host: bytes) -> bool:
    """Is this a host and perhaps a port (RFC 9110 7.2)? Whoever is not sure which part of it is
    meant must not forward it."""
    return _HOST(host) is not None


def end_to_end(method: str, lines: Lines) -> Lines:
    """A request's lines without those that are not to be forwarded (see the module). No name with an
    underscore is: CGI, and WSGI after it, would take it for the one with a dash, which the cache has
    looked at, or which was taken off.

    Kept are the fields that frame the message, and of TE and Upgrade what `forward` may send on:
    ``te: trailers``, and ``upgrade: websocket`` if the connection options name it.
    """
    names = [line[0] for line in lines]
    if b"_" in b"".join(names):
        lines = [line for line in lines if b"_" not in line[0]]
    if _SPECIAL.isdisjoint(names):
        return lines
    options: set[bytes] = set()
    for name, value in lines:
        if name == b"connection":
            options.update(split_list(value.lower()))
    dropped = HOP_BY_HOP | OVERRIDES | (options - _KEPT)
    if method in _READS:
        dropped |= METHOD_OVERRIDES
    kept = [line for line in lines if line[0] not in dropped]
    for name, value in lines:
        if name == b"te" and b"trailers" in split_list(value.lower()):
            kept.append((b"te", b"trailers"))
            break
    if b"upgrade" in options:
        tokens = [value for name, value in lines if name == b"upgrade"]
        if len(tokens) == 1 and tokens[0].lower() == b"websocket":
            kept.append((b"upgrade", b"websocket"))
    return kept


_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES: Final = {
    code: b"HTTP/1.1 %d %b\r\n" % (code, phrase) for code, phrase in _REASONS.items()
}


def status_line(status: int) -> bytes:
    """With the reason phrase that the status code is registered with, if it is."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def encode_lines(lines: list[Line]) -> bytes:
    """Field lines as they are sent. Raises ValueError if one would become two."""
    if not lines:
        return b""
    block = b"\r\n".join(map(_line, lines)) + b"\r\n"
    # What comes from a parser has no line breaks. What comes from elsewhere, such as a layer that
    # somebody else has written to, must not make another message out of this one. (Lines end for
    # `splitlines` at a CR or an LF, too.)
    if len(block.splitlines()) != len(lines) or b"\0" in block:
        raise ValueError("a field line has a control character in it")
    return block


def encode_head(status: int, lines: list[Line]) -> bytes:
    """A response's head as it is sent, up to and including the empty line."""
    return b"%b%b\r\n" % (status_line(status), encode_lines(lines))


def refusal(status: int, reason: str, *, content: bool = True) -> bytes:
    """A whole response that refuses a request and closes the connection. ``content``: False for an
    answer to HEAD."""
    body = f"{status} {_REASONS.get(status, b'').decode()}: {reason}\n".encode()
    lines = [
        (b"date", date_now()),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    return encode_head(status, lines) + (body if content else b"")


def date_now() -> bytes:
    """The value of Date for a response that is made now."""
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
