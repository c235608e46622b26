"""HTTP/1.1 heads: request targets, the fields that are not forwarded, and heads as bytes (RFC 9112).

The parser (llhttp) refuses malformed heads: bare CR or LF, obs-fold, control characters, two lengths, a
length beside a transfer coding. This module refuses heads that are well-formed but ambiguous.

Fields that are not forwarded are removed before the cache looks at the request. So the fields that select
a stored response are exactly those that the origin sees, and a client can't change one without the other
(`forward.ForwardPolicy` only adds).
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
# Fields that a client can't remove from a request by naming them in Connection: those that frame the
# message, name its target, or carry credentials. RFC 9110 7.6.1 wants a proxy to ignore it for fields
# "intended for all recipients of the content", too.
_KEPT: Final = frozenset({
    b"authorization", b"cache-control", b"content-length", b"content-type", b"cookie", b"expect",
    b"host", b"pragma", b"range", b"te", b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
# Some servers and frameworks take another method, URL, host or scheme from these fields. The response
# would be stored for a request that it does not answer. (And CGI turns Proxy into HTTP_PROXY, which
# programs use for their own requests.)
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
    """A request that is not forwarded. ``status``: of the response to it."""

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
        raise HeadRefused(400, "the request target has an unknown form")
    if not absolute[3] and method == "OPTIONS":
        # RFC 9112 3.2.4: with "an empty path and no query component, then the last proxy on the
        # request chain MUST send a request-target of "*"".
        return Target(b"*", b"", absolute[2])
    path, _, query = absolute[3].partition(b"?")
    return Target(path or b"/", query, absolute[2])


def valid_host(host: bytes) -> bool:
    """True for a host, with or without a port (RFC 9110 7.2). An ambiguous one must not be forwarded."""
    return _HOST(host) is not None


def end_to_end(method: str, lines: Lines) -> Lines:
    """A request's lines without those that are not forwarded; see the top of this module. Names with an
    underscore are removed: CGI, and WSGI after it, confuse them with the name with a dash, which the
    cache has looked at, or which was removed.

    The fields that frame the message are kept, and the parts of TE and Upgrade that `proxy` may send on:
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
    """The status line, with the registered reason phrase if there is one."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def encode_lines(lines: list[Line]) -> bytes:
    """Field lines as bytes. Raises ValueError if one of them would become two."""
    if not lines:
        return b""
    block = b"\r\n".join(map(_line, lines)) + b"\r\n"
    # Lines from a parser have no line breaks. Lines from elsewhere, such as a layer that someone else has
    # written to, must not turn this message into two. (`splitlines` ends lines at a CR or an LF, too.)
    if len(block.splitlines()) != len(lines) or b"\0" in block:
        raise ValueError("a field line has a control character")
    return block


def encode_head(status: int, lines: list[Line]) -> bytes:
    """The head of a response as bytes, up to and including the empty line."""
    return b"%b%b\r\n" % (status_line(status), encode_lines(lines))


def refusal(status: int, reason: str, *, content: bool = True) -> bytes:
    """A complete response that refuses a request and closes the connection. ``content``: False in
    response to HEAD."""
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
