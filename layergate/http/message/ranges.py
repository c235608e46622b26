"""Byte ranges: what is asked for, what is sent, and by which validator (RFC 9110 section 14).

Pure functions of header fields and lengths. A stored response as the answer to a range is the
business of `partial`.

*A Range that is not understood is ignored.* 14.2: "A server MUST ignore a Range header field
received with a request method that is unrecognized", "An origin server MUST ignore a Range header
field that contains a range unit it does not understand", and one that is malformed, in a second
field line, or asks for more than `MAX_RANGES` ranges, "MAY" be ignored too. So no Range, however
long, makes an answer larger than the whole and the heads of so many parts.
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
"""A piece of a representation: the position of its first octet, and the one after its last."""

MAX_RANGES: Final = 32
"""Ranges in one request. Browsers and players ask for one, readers of PDF files for a dozen."""

PIECE: Final = 256 * 1024
"""Octets of a body that a client is sent at once. What its server holds for one that takes nothing is no
more than that; the rest is held once for all."""

_LONGEST: Final = 2048  # octets of a Range: more than so many ranges need
_SPECS: Final = re.compile(rb"[ \t]*bytes[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC: Final = re.compile(rb"[ \t]*([0-9]*)-([0-9]*)[ \t]*")
_CONTENT_RANGE: Final = re.compile(
    rb"[ \t]*bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)[ \t]*", re.IGNORECASE
)
# 8.8.3, without what makes it weak. Two lines of ETag are no tag together.
_STRONG_TAG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')


class RangeSpec(NamedTuple):
    """One member of Range: ``first-last``, ``first-`` (``last`` is None), or ``-last``, the last so
    many octets (``first`` is None)."""

    first: int | None
    last: int | None


class ContentRange(NamedTuple):
    """What Content-Range says of its content: ``span``, and the length of the whole representation,
    None if the sender did not know it."""

    span: Span
    whole: int | None


class Slices:
    """Octets of bodies that are stored, one piece behind the other: copied only as they are cut, so that
    a client that takes its time holds no copy of all it has asked for."""

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
        """In pieces of `PIECE` octets."""
        for start in range(0, self._length, PIECE):
            yield self[start : start + PIECE]


def parse_range(value: bytes | None) -> tuple[RangeSpec, ...] | None:
    """The ranges that a Range field asks for, in order; None for what is to be ignored.

    14.1.1: "An int-range is invalid if the last-pos value is present and less than first-pos", and
    one invalid member makes the whole set invalid.
    """
    if value is None or len(value) > _LONGEST:
        return None
    match = _SPECS.fullmatch(value)
    if match is None:
        return None
    specs: list[RangeSpec] = []
    for member in match[1].split(b","):
        if not member.strip(b" \t"):
            continue  # 5.6.1.2: "a recipient MUST parse and ignore a reasonable number of empty" ones
        spec = _SPEC.fullmatch(member)
        if spec is None:
            return None
        # (So short a field has no number that would take long to read.)
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
    """The pieces of a representation of ``length`` octets that are asked for, in the order asked.

    Those that overlap, or touch, are one (15.3.7.2: "a server MAY coalesce"); those that begin
    beyond the end are left out. Empty: nothing of what is asked is there.
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
    # "in the same order that the corresponding range-spec appeared", the first of each that is one.
    order = {span: number for number, span in reversed(list(enumerate(spans)))}
    return sorted(
        joined,
        key=lambda one: min(order[span] for span in spans if one[0] <= span[0] < one[1]),
    )


def parse_content_range(value: bytes | None) -> ContentRange | None:
    """What a Content-Range says, or None: 14.4, it "is invalid if it contains a range-resp that has
    a last-pos value less than its first-pos value, or a complete-length value less than or equal to
    its last-pos value". The form of a 416 (``bytes */N``) is none that describes content."""
    match = None if value is None else _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    whole = None if match[3] is None else int(match[3])
    if last < first or (whole is not None and whole <= last):
        return None
    return ContentRange((first, last + 1), whole)


def strong_validator(fields: Fields) -> bytes | None:
    """What identifies this representation octet by octet, as If-Range takes it; None: nothing does.

    A strong entity tag. Or, if there is no tag, a Last-Modified that is strong by 8.8.2.2: "at
    least one second" before Date. (Whoever sends a weak tag says that octets may differ.)
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
    """Whether Range counts, given the request's If-Range and the fields of what is stored (13.1.5).

    True without an If-Range. A tag is compared strongly; a date has to be, byte for byte, a
    Last-Modified that is a strong validator. Everything else is false.
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
    """A multipart/byteranges body (14.6), in pieces. ``parts``: the Content-Range of each, and its
    octets."""
    typed = b"" if content_type is None else b"Content-Type: %b\r\n" % content_type
    pieces: list[bytes | memoryview] = []
    for range_, octets in parts:
        head = b"--%b\r\n%bContent-Range: %b\r\n\r\n" % (boundary, typed, range_)
        pieces += (head, octets, b"\r\n")
    return [*pieces, b"--%b--\r\n" % boundary]
