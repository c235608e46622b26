"""Fetch only the missing piece of a stored partial response (RFC 9111 3.4).

`rest_of` decides whether one fetch can complete the response, `Rest` describes that fetch and its
result. A range is completed with what it lacks. A whole response is completed only if a single piece
is missing, and that piece is at most half of it.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.http.message.fields import Lines
from layergate.http.message.ranges import RangeSpec, Span, if_range_holds, strong_validator
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse
from layergate.http.rfc9111.combining import Received, updated_lines
from layergate.http.rfc9111.partial import content_range, requested_spans

__all__ = ["Rest", "rest_of"]


class Rest(NamedTuple):
    """The single piece to fetch, so that an incomplete response can answer a request.

    ``status``: of the answer: 206, or 200 for the whole.
    ``span``: the octets of the answer; ``missing``: those of them to fetch.
    ``validator``: the strong validator of the stored response, for If-Range. Without one it is None,
    and only a 200 that replaces everything is usable.
    """

    entry: Entry
    status: int
    span: Span
    missing: Span
    validator: bytes | None

    @property
    def ranges(self) -> tuple[RangeSpec, ...]:
        first, stop = self.missing
        return (RangeSpec(first, None if stop == self.entry.value.length else stop - 1),)

    @property
    def lines(self) -> Lines:
        """The lines of the fetch, in place of the client's Range and preconditions."""
        first, stop = self.missing
        last = b"" if stop == self.entry.value.length else b"%d" % (stop - 1)
        lines = [(b"range", b"bytes=%d-%b" % (first, last))]
        if self.validator is not None:
            lines.append((b"if-range", self.validator))
        return lines

    @property
    def around(self) -> tuple[bytes, bytes]:
        """The stored octets of the answer, before the missing piece and after it."""
        stored: PartialResponse = self.entry.value
        return (
            stored.piece(self.span[0], self.missing[0]) if self.span[0] < self.missing[0] else b"",
            stored.piece(self.missing[1], self.span[1]) if self.missing[1] < self.span[1] else b"",
        )

    def brought_by(self, part: Received) -> bool:
        """True if ``part`` is the missing piece, of the same representation."""
        stored: PartialResponse = self.entry.value
        return (
            self.validator is not None
            and part.span == self.missing
            and part.whole in (stored.whole, None)
            and not part.vague
            and self.validator == strong_validator(part.fields)
            and stored.fields.get(b"etag") == part.fields.get(b"etag")
            and stored.fields.get(b"content-encoding") == part.fields.get(b"content-encoding")
        )

    def head(self, lines: Lines, targets: tuple[bytes, ...]) -> Lines:
        """The head of the answer. ``lines``: those to store with the fetched piece. ``targets``: as for
        `policy_of`."""
        stored: PartialResponse = self.entry.value
        made = updated_lines(stored.lines, lines, targets)
        if self.status == 206:
            made.append((b"content-range", content_range(self.span, stored.whole)))
        return [*made, (b"content-length", b"%d" % (self.span[1] - self.span[0]))]


def rest_of(request: Request, entry: Entry | None, *, max_body: int) -> Rest | None:
    """The piece to fetch, so that an incomplete response that does not cover this GET can answer it.

    None: forward the request as it is. Section 3.4 leaves the method open. LayerGate fetches the rest
    if it is a single piece and, for a whole response, at most half of it. Without a strong validator,
    nothing can be combined. The rest of a whole response is requested even then, because an origin
    whose response has changed, or that does not support ranges, answers with the whole. If it does
    not, everything is fetched, once for each such response. A piece larger than ``max_body``, in
    octets, would not be stored, so that request is forwarded unchanged.
    """
    if entry is None or request.method != "GET" or request.foreign_range:
        return None
    stored = entry.value
    if not isinstance(stored, PartialResponse) or stored.vague or stored.whole is None:
        return None
    validator = strong_validator(stored.fields)
    status, span = 200, (0, stored.whole)
    if request.ranges is not None and if_range_holds(request.fields, stored.fields):
        spans = requested_spans(request.ranges, stored.whole)
        if len(spans) != 1 or validator is None:
            return None
        status, (span,) = 206, spans
    edges = [span[0]]
    for start, octets in stored.parts:
        low, high = max(start, span[0]), min(start + len(octets), span[1])
        if low < high:
            edges += [low, high]
    edges.append(span[1])
    gaps = [gap for gap in zip(edges[::2], edges[1::2], strict=True) if gap[0] < gap[1]]
    if len(gaps) != 1 or gaps[0] == span:
        return None
    (missing,) = gaps
    size = missing[1] - missing[0]
    if size > max_body or (status == 200 and 2 * size > stored.whole):
        return None
    return Rest(entry, status, span, missing, validator)
