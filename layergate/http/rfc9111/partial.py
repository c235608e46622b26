"""Answer a range from a stored response, complete or partial (RFC 9111 3.3, RFC 9110 14.2).

`decision` asks whether a stored response covers a request, `respond` builds the 206 or 416. A
`PartialResponse` is planned, refused, selected, validated and purged as the 200 that its parts belong
to. Only this module, `combining` and `rest` distinguish the two.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from layergate.http.message.fields import Lines
from layergate.http.message.ranges import (
    PIECE,
    RangeSpec,
    Slices,
    Span,
    if_range_holds,
    multipart,
    satisfiable,
)
from layergate.http.message.request import Request
from layergate.http.message.stored import Part, PartialResponse, Served, StoredResponse

__all__ = [
    "PART_FIELDS",
    "content_range",
    "covers",
    "flight_suffix",
    "partial_content",
    "requested_spans",
]

PART_FIELDS: Final = frozenset({
    b"content-range", b"content-length", b"content-digest", b"content-md5"
})  # fmt: skip
"""Fields of the message that carries a part, not of the representation. RFC 9530 section 2:
Content-Digest is over "the actual message content"."""

# A 416 does not repeat fields that describe content, or that let a simple cache store the 416 in place
# of that content.
_NOT_IN_416: Final = PART_FIELDS | {
    b"cache-control", b"content-disposition", b"content-encoding", b"content-language",
    b"content-location", b"content-type", b"digest", b"etag", b"expires", b"last-modified",
    b"repr-digest", b"surrogate-control",
}  # fmt: skip


def covers(request: Request, stored: StoredResponse) -> bool:
    """True if ``stored`` contains everything that this request asks for; always for a complete response.

    3.3: "A cache MUST NOT use an incomplete response to answer requests unless the response has
    been made complete, or the request is partial and specifies a range wholly within the incomplete
    response."
    """
    return not isinstance(stored, PartialResponse) or bool(_covered(request, stored))


def _covered(request: Request, stored: PartialResponse) -> list[Span]:
    """The pieces of an incomplete response that answer a request; empty if it can't answer."""
    if request.ranges is None or not if_range_holds(request.fields, stored.fields):
        return []
    spans = requested_spans(request.ranges, stored.whole)
    return spans if all(_within(span, stored.parts) for span in spans) else []


def requested_spans(ranges: tuple[RangeSpec, ...], whole: int | None) -> list[Span]:
    """The requested pieces; empty unless all of them are known to exist in the representation."""
    if whole is not None:
        each = [satisfiable([spec], whole) for spec in ranges]
        return satisfiable(ranges, whole) if all(each) else []
    spans = []
    for first, last in ranges:
        if first is None or last is None:
            return []
        spans.append((first, last + 1))
    return spans


def _within(span: Span, parts: Iterable[Part]) -> bool:
    return any(start <= span[0] and span[1] <= start + len(octets) for start, octets in parts)


def partial_content(request: Request, stored: StoredResponse, extra: Lines) -> Served | None:
    """The 206 or 416 that this request gets from a stored 200, with ``extra`` lines (RFC 9110 14.2).

    None: Range does not apply, so send the whole response. For an incomplete response, `covers` rules
    that out. Evaluate the other preconditions first: If-Range comes last (13.2.2).

    The 206 has the fields of the 200, even with an If-Range, where 15.3.7 would omit some. A client that
    resumes through several caches needs them, and they harm no other client.
    """
    if request.ranges is None or stored.status != 200:
        return None
    whole = stored.length
    if isinstance(stored, PartialResponse):
        spans = _covered(request, stored)
        if stored.vague:
            whole = None
    elif not if_range_holds(request.fields, stored.fields):
        return None
    else:
        assert whole is not None
        spans = satisfiable(request.ranges, whole)
        if not whole and any(first is None and last for first, last in request.ranges):
            return None  # 14.1.3: "-5" of an empty body is satisfiable, but no Content-Range expresses it
        if not spans:
            lines = [line for line in stored.lines if line[0] not in _NOT_IN_416]
            lines += [(b"content-range", b"bytes */%d" % whole), (b"content-length", b"0")]
            return Served(416, lines + extra, b"")
    if not spans:
        raise LookupError("an incomplete response was selected that does not cover the range")
    lines = [line for line in stored.lines if line[0] not in PART_FIELDS]
    if len(spans) == 1:
        pieces: list[bytes | memoryview] = [stored.view(*spans[0])]
        lines.append((b"content-range", content_range(spans[0], whole)))
    else:
        parts = [(content_range(span, whole), stored.view(*span)) for span in spans]
        boundary = _boundary(stored)
        pieces = multipart(parts, stored.fields.first(b"content-type"), boundary)
        # 15.3.7.2: "a server MUST NOT generate a Content-Range header field in the HTTP header
        # section of a multiple part response".
        lines = [line for line in lines if line[0] != b"content-type"]
        lines.append((b"content-type", b"multipart/byteranges; boundary=" + boundary))
    octets = Slices(pieces)
    lines.append((b"content-length", b"%d" % len(octets)))
    body = octets if len(octets) > PIECE else octets[:]
    return Served(206, lines + extra, body)


def content_range(span: Span, whole: int | None) -> bytes:
    length = b"*" if whole is None else b"%d" % whole
    return b"bytes %d-%d/%b" % (span[0], span[1] - 1, length)


def _boundary(stored: StoredResponse) -> bytes:
    """A boundary that no author of the content could predict, and that does not occur in it."""
    while True:
        boundary = secrets.token_hex(16).encode()
        if not any(boundary in octets for _, octets in stored.held):
            return boundary


def flight_suffix(request: Request) -> bytes:
    """The suffix of a key for the fetch that this request may share; empty without a range.

    A key determines its own end, so key and suffix are never another target's key.
    """
    if request.ranges is None:
        return b""
    fields = request.fields
    asked = b"%b\0%b" % (fields.get(b"range") or b"", fields.get(b"if-range") or b"")
    return b"\0range" + blake2b(asked, digest_size=16).digest()
