"""Byte ranges: parsing Range, If-Range and Content-Range, and building bodies (RFC 9110 section 14).

Pure functions of header fields and lengths. `rfc9111.partial` answers a range from a stored response.

*A Range that LayerGate can't read is ignored.* 14.2: "A server MUST ignore a Range header field
received with a request method that is unrecognized", "An origin server MUST ignore a Range header
field that contains a range unit it does not understand". A Range that is malformed, comes in a second
field line, or asks for more than `MAX_RANGES` ranges "MAY" be ignored too. So no Range, however long,
makes a response larger than the whole plus `MAX_RANGES` part headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from layergate.http.message.dates import parse_http_date
from layergate.http.message.etags import strong_match
from layergate.http.message.fields import Fields

__all__ = [
    "MAX_RANGES",
    "PIECE",
    "ContentRange",
    "RangeSpec",
    "Slices",
    "Span",
    "if_range_holds",
    "multipart",
    "parse_content_range",
    "parse_range",
    "satisfiable",
    "strong_validator",
]

Span: TypeAlias = tuple[int, int]
"""A piece of a representation: the position of its first octet, and the position after its last."""

MAX_RANGES: Final = 32
"""Ranges in one request. Browsers and media players ask for one, PDF readers for a dozen."""

PIECE: Final = 256 * 1024
"""Octets of a body that a client is sent at once. For a client that reads nothing, the server buffers no
more than this; all clients share the stored body."""

_LONGEST: Final = 2048  # octets of a Range field; more than `MAX_RANGES` ranges need
_SPECS: Final = re.compile(rb"[ \t]*bytes[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC: Final = re.compile(rb"[ \t]*([0-9]*)-([0-9]*)[ \t]*")
_CONTENT_RANGE: Final = re.compile(
    rb"[ \t]*bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)[ \t]*", re.IGNORECASE
)
# 8.8.3, without the weakness prefix. Two ETag lines, combined, do not match.
_STRONG_TAG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')


class RangeSpec(NamedTuple):
    """One member of Range: ``first-last``, ``first-`` (``last`` is None), or ``-last``, a number of
    octets counted from the end (``first`` is None)."""

    first: int | None
    last: int | None


class ContentRange(NamedTuple):
    """A Content-Range: the ``span`` of the content, and the length of the ``whole`` representation,
    None if the sender did not know it."""

    span: Span
    whole: int | None


class Slices:
    """Pieces of stored bodies, one after the other.

    Octets are copied only when a slice is taken, so a slow client does not hold a copy of everything
    that it asked for.
    """

    __slots__ = ("_length", "_pieces")

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = tuple(memoryview(piece) for piece in pieces)
        self._length = sum(map(len, self._pieces))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, wanted: slice) -> bytes:
        first, stop, _ = wanted.indices(self._length)
        parts: list[memoryview] = []
        start = 0
        for piece in self._pieces:
            part = piece[max(first - start, 0) : max(stop - start, 0)]
            if part:
                parts.append(part)
            start += len(piece)
        return b"".join(parts)

    def __iter__(self) -> Iterator[bytes]:
        """The octets in pieces of `PIECE`."""
        for start in range(0, self._length, PIECE):
            yield self[start : start + PIECE]


def parse_range(value: bytes | None) -> tuple[RangeSpec, ...] | None:
    """The ranges that a Range field asks for, in order; None if the field is ignored.

    14.1.1: "An int-range is invalid if the last-pos value is present and less than first-pos". One
    invalid member makes the whole set invalid.
    """
    if value is None or len(value) > _LONGEST:
        return None
    match = _SPECS.fullmatch(value)
    if match is None:
        return None
    specs: list[RangeSpec] = []
    for member in match[1].split(b","):
        if not member.strip(b" \t"):
            continue  # 5.6.1.2: "MUST parse and ignore a reasonable number of empty list elements"
        spec = _SPEC.fullmatch(member)
        if spec is None:
            return None
        # The length of the field bounds the numbers, so `int` is quick.
        first, last = (int(digits) if digits else None for digits in spec.groups())
        if (first is None and last is None) or (
            first is not None and last is not None and last < first
        ):
            return None
        specs.append(RangeSpec(first, last))
        if len(specs) > MAX_RANGES:
            return None
    return tuple(specs) or None


def satisfiable(specs: Iterable[RangeSpec], length: int) -> list[Span]:
    """The requested pieces of a representation of ``length`` octets, in the requested order.

    Pieces that overlap or touch are joined (15.3.7.2: "a server MAY coalesce"). Pieces that begin
    beyond the end are left out. Empty if no range is satisfiable.
    """
    spans: list[Span] = []
    for first, last in specs:
        if first is None:
            assert last is not None
            span = max(0, length - last), length
        else:
            span = first, length if last is None else min(last + 1, length)
        if span[0] < span[1]:
            spans.append(span)
    ordered = sorted(spans)
    if all(before[1] < after[0] for before, after in pairwise(ordered)):
        return spans
    joined = [ordered[0]]
    for first, stop in ordered[1:]:
        if first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        else:
            joined.append((first, stop))
    # "in the same order that the corresponding range-spec appeared"; for a joined piece, the first one.
    order = {span: number for number, span in reversed(list(enumerate(spans)))}
    return sorted(
        joined,
        key=lambda one: min(order[span] for span in spans if one[0] <= span[0] < one[1]),
    )


def parse_content_range(value: bytes | None) -> ContentRange | None:
    """The range in a Content-Range, or None if it is invalid or describes no content (``bytes */N``).

    14.4: it "is invalid if it contains a range-resp that has a last-pos value less than its first-pos
    value, or a complete-length value less than or equal to its last-pos value".
    """
    match = None if value is None else _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    whole = None if match[3] is None else int(match[3])
    if last < first or (whole is not None and whole <= last):
        return None
    return ContentRange((first, last + 1), whole)


def strong_validator(fields: Fields) -> bytes | None:
    """The validator that identifies a representation octet by octet, as If-Range takes it, or None.

    This is a strong entity tag or, without any tag, a Last-Modified that is strong by 8.8.2.2: "at
    least one second" before Date. With a weak tag there is none: the tag says that octets may differ.
    """
    etag = fields.get(b"etag")
    if etag is not None:
        return etag if _STRONG_TAG.fullmatch(etag) else None
    modified = fields.get(b"last-modified")
    since = parse_http_date(modified)
    date = parse_http_date(fields.get(b"date"))
    if since is None or date is None or date - since < 1.0:
        return None
    return modified


def if_range_holds(request_fields: Fields, fields: Fields) -> bool:
    """True if the Range of a request applies, given its If-Range and the stored ``fields`` (13.1.5).

    Without If-Range it does. A tag must match by strong comparison. A date must equal, byte for byte, a
    Last-Modified that is a strong validator. Any other condition fails.
    """
    condition = request_fields.get(b"if-range")
    if condition is None:
        return True
    condition = condition.strip(b" \t")
    if condition.startswith((b'"', b"W/")):
        return strong_match(condition, fields.get(b"etag") or b"")
    modified = fields.get(b"last-modified")
    date = parse_http_date(fields.get(b"date"))
    since = parse_http_date(modified)
    return condition == modified and since is not None and date is not None and date - since >= 1.0


def multipart(
    parts: Iterable[tuple[bytes, bytes | memoryview]], content_type: bytes | None, boundary: bytes
) -> list[bytes | memoryview]:
    """A multipart/byteranges body (14.6), in pieces. ``parts``: the Content-Range and the octets of
    each part."""
    typed = b"" if content_type is None else b"Content-Type: %b\r\n" % content_type
    pieces: list[bytes | memoryview] = []
    for range_, octets in parts:
        head = b"--%b\r\n%bContent-Range: %b\r\n\r\n" % (boundary, typed, range_)
        pieces += (head, octets, b"\r\n")
    return [*pieces, b"--%b--\r\n" % boundary]
