"""Parts of a response: answering a range, storing a 206, combining parts, fetching the rest.

RFC 9111 3.3 and 3.4, RFC 9110 15.3.7. What is stored of an incomplete response is a
`PartialResponse`; it is planned, refused, selected, validated and purged as the 200 that it is a
part of, and only what is in this module tells the two apart.

*A 206 is believed as far as it can be checked.* It has to answer a request for one range, its
Content-Range to be valid, and its content as long as that says. Parts are combined if one strong
validator names them all, they agree on the whole's length and coding, and where they overlap, octet
by octet. If anything speaks against that the newer part stands alone.

*What is fetched for a range is that range*: the client's own, or less where parts of it are here. A
whole response is only completed from its rest if that is one piece and the smaller half.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.http.extensions.groups import MAX_GROUPS, without_groups
from layergate.http.extensions.targeted import policy_of
from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import (
    PIECE,
    RangeSpec,
    Slices,
    Span,
    if_range_holds,
    multipart,
    parse_content_range,
    satisfiable,
    strong_validator,
)
from layergate.http.message.request import Request
from layergate.http.message.stored import Part, PartialResponse, Served, StoredResponse
from layergate.http.rfc9111.storing import Refused
from layergate.http.rfc9111.validation import updated_fields

__all__ = [
    "MAX_PARTS",
    "Received",
    "Rest",
    "combined",
    "covers",
    "flight_suffix",
    "partial_content",
    "received_part",
    "rest_of",
]

MAX_PARTS: Final = 16
"""Parts kept of one response. With more, the smallest of the older ones go."""

# Of the message that brings a part, not of the representation: RFC 9530 2, Content-Digest is over
# "the actual message content".
_OF_THE_PART: Final = frozenset({
    b"content-range", b"content-length", b"content-digest", b"content-md5"
})  # fmt: skip
# What a 416 does not repeat: what describes content that it has not, and what lets caches that do
# not know better keep it in the place of that content.
_NOT_IN_416: Final = _OF_THE_PART | {
    b"cache-control", b"content-disposition", b"content-encoding", b"content-language",
    b"content-location", b"content-type", b"digest", b"etag", b"expires", b"last-modified",
    b"repr-digest", b"surrogate-control",
}  # fmt: skip


# -- answering a range -----------------------------------------------------------------------------


def covers(request: Request, stored: StoredResponse) -> bool:
    """Is all that this request wants of ``stored`` there? Of a complete response it always is.

    3.3: "A cache MUST NOT use an incomplete response to answer requests unless the response has
    been made complete, or the request is partial and specifies a range wholly within the incomplete
    response."
    """
    return not isinstance(stored, PartialResponse) or bool(_covered(request, stored))


def _covered(request: Request, stored: PartialResponse) -> list[Span]:
    """The pieces of an incomplete response that answer a request; none if they do not."""
    if request.ranges is None or not if_range_holds(request.fields, stored.fields):
        return []
    spans = _asked(request.ranges, stored.whole)
    return spans if all(_within(span, stored.parts) for span in spans) else []


def _asked(ranges: tuple[RangeSpec, ...], whole: int | None) -> list[Span]:
    """The pieces that are asked for, each of them there; none if one is not, or nobody can tell."""
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

    None: Range does not apply and the answer is the whole, which for an incomplete response `covers`
    rules out. The preconditions have been evaluated before: If-Range comes last (13.2.2).

    The fields are those of the 200, also with an If-Range, where 15.3.7 would leave some out: a
    client that resumes through several caches needs them, and no other does any harm with them.
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
            return None  # "the last 5" of nothing is satisfiable (14.1.3), and no Content-Range says it
        if not spans:
            lines = [line for line in stored.lines if line[0] not in _NOT_IN_416]
            lines += [(b"content-range", b"bytes */%d" % whole), (b"content-length", b"0")]
            return Served(416, lines + extra, b"")
    if not spans:
        raise LookupError("an incomplete response was selected for what it does not have")
    lines = [line for line in stored.lines if line[0] not in _OF_THE_PART]
    if len(spans) == 1:
        pieces: list[bytes | memoryview] = [stored.view(*spans[0])]
        lines.append((b"content-range", _content_range(spans[0], whole)))
    else:
        parts = [(_content_range(span, whole), stored.view(*span)) for span in spans]
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


def _content_range(span: Span, whole: int | None) -> bytes:
    length = b"*" if whole is None else b"%d" % whole
    return b"bytes %d-%d/%b" % (span[0], span[1] - 1, length)


def _boundary(stored: StoredResponse) -> bytes:
    """One that nobody can have written into the content, and nobody has."""
    while True:
        boundary = secrets.token_hex(16).encode()
        if not any(boundary in octets for _, octets in stored.held):
            return boundary


def flight_suffix(request: Request) -> bytes:
    """What is appended to a key for the fetch that this request may share: nothing, or what stands
    for its range. A key's lengths are in its head, so this is never another target's key."""
    if request.ranges is None:
        return b""
    fields = request.fields
    asked = b"%b\0%b" % (fields.get(b"range") or b"", fields.get(b"if-range") or b"")
    return b"\0range" + blake2b(asked, digest_size=16).digest()


# -- storing a 206 ---------------------------------------------------------------------------------


class Received(NamedTuple):
    """A 206 as the part of a 200. ``fields``: those of the 200. ``whole``, ``vague``: as those of
    `PartialResponse`. ``own``: the lines that are of this message alone."""

    span: Span
    whole: int | None
    vague: bool
    fields: Fields
    own: Lines


def received_part(
    ranges: tuple[RangeSpec, ...] | None, status: int, fields: Fields
) -> Received | Refused | None:
    """What a response to a request for ``ranges`` brings of a representation; a reason why that is
    not to be stored; or None: it is no 206."""
    if status != 206:
        return None
    content = parse_content_range(fields.get(b"content-range"))
    # Content in several parts is passed on: whoever asks so, asks again in the same way.
    if content is None or ranges is None or len(ranges) != 1:
        return Refused.PARTIAL
    span, whole = content
    vague = False
    lengths = fields.all(b"content-length")
    if lengths:
        size = span[1] - span[0]
        if len(set(lengths)) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
            return Refused.LENGTH_MISMATCH
        length = int(lengths[0])
        if length != size:
            # Some count last-pos as Content-Range does not: beyond the end. Where it is certain,
            # since exactly so many last octets were asked for, the content is believed; about
            # the whole nothing is.
            if ranges[0] != (None, length) or length != size - 1 or span[1] != whole:
                return Refused.LENGTH_MISMATCH
            span, vague = (span[0], span[1] - 1), True
            whole = span[1]
    kept = [line for line in fields.lines if line[0] not in _OF_THE_PART]
    own = [line for line in fields.lines if line[0] in _OF_THE_PART]
    return Received(span, whole, vague, Fields(kept), own)


def combined(
    present: Entry | None,
    new: Entry,
    *,
    max_body: int,
    max_tags: int,
    targets: tuple[bytes, ...] = (),
) -> Entry:
    """What is stored once ``new``, a part, has come: alone, with what is stored of the same
    representation, or ``present`` as it is, where there is no reason to give it up.

    ``max_body``, ``max_tags``: the caps, in octets and in number. ``targets``: as for `policy_of`.
    """
    part: PartialResponse = new.value
    old = None if present is None else present.value
    if present is None or not isinstance(old, StoredResponse) or old.status != 200:
        return _completed(new)
    if not _same(old, part):
        # A whole response is worth more than a part that does not speak against it.
        whole = not isinstance(old, PartialResponse)
        keep = whole and present.fresh_until > part.response_time and not _differ(old, part)
        return present if keep else _completed(new)
    parts = _union(old.held, part.parts[0], max_body)
    tags = tuple(dict.fromkeys(present.tags + new.tags))
    named = len(without_groups(tags))
    if parts is None or named > max_tags or len(tags) - named > MAX_GROUPS:
        return _completed(new)
    # 3.4: "a cache MUST update the stored response header fields using the header fields provided in
    # the new response, as per Section 3.2." What that keeps is Content-Length.
    lines = _updated(old.lines, part.all_lines, targets)
    lines = [line for line in lines if line[0] not in _OF_THE_PART]
    value = PartialResponse(
        lines,
        parts,
        old.length if part.whole is None else part.whole,
        # For whom it is, and how long it may be used: what allows less holds.
        **part.attributes()
        | {
            "no_cache": old.no_cache or part.no_cache,
            "must_revalidate": old.must_revalidate or part.must_revalidate,
            "without_credentials_only": old.without_credentials_only
            or part.without_credentials_only,
            "shared_with_authorization": old.shared_with_authorization
            and part.shared_with_authorization,
            "shared_with_users": old.shared_with_users and part.shared_with_users,
            "immutable": old.immutable and part.immutable,
            "own": old.own if part.own is None else part.own,
        },
    )
    entry = _entry(new, value, tags=tags)
    # A purge of any part purges all.
    entry.stamp = entry.checked = min(present.stamp, new.stamp)
    return _completed(entry)


def _updated(stored: Lines, new: Lines, targets: tuple[bytes, ...]) -> Lines:
    """What is sent of a response whose newest part came with the lines ``new``."""
    fields = Fields(new)
    directives = policy_of(fields, targets).directives
    lines = updated_fields(stored, fields, directives, targets=targets)
    return [
        line for line in lines if line[0] != LAYERGATE_CONTROL or LAYERGATE_CONTROL not in targets
    ]


def _same(old: StoredResponse, new: PartialResponse) -> bool:
    """Are these of one representation? 15.3.7.3: parts "can only be safely combined if they all
    have in common the same strong validator"."""
    validator = strong_validator(new.fields)
    return (
        validator is not None
        and validator == strong_validator(old.fields)
        and old.fields.get(b"etag") == new.fields.get(b"etag")
        and old.fields.get(b"content-encoding") == new.fields.get(b"content-encoding")
        and not _lengths_differ(old, new)
        and not new.vague
        and not (isinstance(old, PartialResponse) and old.vague)
    )


def _lengths_differ(old: StoredResponse, new: PartialResponse) -> bool:
    if old.length is None or new.whole is None:
        end = new.parts[-1][0] + len(new.parts[-1][1])
        held = old.held[-1][0] + len(old.held[-1][1])
        return (old.length is not None and end > old.length) or (
            new.whole is not None and held > new.whole
        )
    return old.length != new.whole


def _differ(old: StoredResponse, new: PartialResponse) -> bool:
    """Does anything say that the origin has something else by now?"""
    return _lengths_differ(old, new) or any(
        old.fields.get(name) != new.fields.get(name)
        for name in (b"etag", b"last-modified", b"content-encoding")
    )


def _union(old: tuple[Part, ...], new: Part, most: int) -> tuple[Part, ...] | None:
    """All parts, in order, joined where they touch, capped. None: they differ where they overlap,
    or are too many octets together."""
    start, octets = new
    stop = start + len(octets)
    before, after = [], []  # what the new part is joined to, and lies in the gap of
    apart: list[Part] = []
    for first, held in old:
        end = first + len(held)
        if end < start or first > stop:
            apart.append((first, held))
            continue
        low, high = max(first, start), min(end, stop)
        if held[low - first : high - first] != octets[low - start : high - start]:
            return None
        if first < start:
            before.append((first, held[: start - first]))
        if end > stop:
            after.append(held[stop - first :])
    if before:
        start = before[0][0]
    joined = start, b"".join([*(held for _, held in before), octets, *after])
    while len(apart) >= MAX_PARTS:
        apart.remove(min(apart, key=lambda part: len(part[1])))
    parts = tuple(sorted([*apart, joined]))
    return parts if sum(len(held) for _, held in parts) <= most else None


def _completed(entry: Entry) -> Entry:
    """The entry, as a complete 200 if its parts are all there is (15.3.7.3: it is processed "as if
    it were a complete 200 (OK) response, including a Content-Length")."""
    value: PartialResponse = entry.value
    first, octets = value.parts[0]
    if value.vague or first or value.whole != len(octets):
        return entry
    lines = [*value.lines, (b"content-length", b"%d" % len(octets))]
    return _entry(entry, StoredResponse(200, lines, octets, **value.attributes()))


def _entry(like: Entry, value: StoredResponse, *, tags: tuple[str, ...] | None = None) -> Entry:
    return Entry(
        value,
        created=like.created,
        fresh_until=like.fresh_until,
        stale_while_revalidate=like.stale_while_revalidate,
        stale_if_error=like.stale_if_error,
        expires=like.expires,
        tags=like.tags if tags is None else tags,
        stamp=like.stamp,
        size=value.size,
    )


# -- fetching the rest -----------------------------------------------------------------------------


class Rest(NamedTuple):
    """The one piece that an incomplete response lacks for an answer, to be fetched.

    ``status``  of the answer: 206, or 200 for the whole.
    ``span``    what the answer holds, ``missing`` what is fetched of it.
    ``validator``  of what is stored, for If-Range; None: it has no strong one, so what is fetched
                can only stand in for all of it (a 200).
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
        """What the request for it says, in place of the client's Range and preconditions."""
        first, stop = self.missing
        last = b"" if stop == self.entry.value.length else b"%d" % (stop - 1)
        lines = [(b"range", b"bytes=%d-%b" % (first, last))]
        if self.validator is not None:
            lines.append((b"if-range", self.validator))
        return lines

    @property
    def around(self) -> tuple[bytes, bytes]:
        """What is stored of the answer, before what is missing and after it."""
        stored: PartialResponse = self.entry.value
        return (
            stored.piece(self.span[0], self.missing[0]) if self.span[0] < self.missing[0] else b"",
            stored.piece(self.missing[1], self.span[1]) if self.missing[1] < self.span[1] else b"",
        )

    def brought_by(self, part: Received) -> bool:
        """Is that the missing piece, of the same representation?"""
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
        """The head of the answer, given the lines that are stored with what was fetched.
        ``targets``: as for `policy_of`."""
        stored: PartialResponse = self.entry.value
        made = _updated(stored.lines, lines, targets)
        if self.status == 206:
            made.append((b"content-range", _content_range(self.span, stored.whole)))
        return [*made, (b"content-length", b"%d" % (self.span[1] - self.span[0]))]


def rest_of(request: Request, entry: Entry | None, *, max_body: int) -> Rest | None:
    """What is to be fetched, so that this GET can be answered from an incomplete response that does
    not cover it; None: what the client asks for, as it asks for it.

    3.4 leaves open how: it is the rest if that is one piece, and, for the whole, no more than half
    of it. Without a strong validator nothing can be combined; the rest of a whole is asked for all
    the same, since an origin whose response has changed or that has no ranges answers with the
    whole. (If it does not, all is fetched: once for each such response.) What is larger than
    ``max_body``, in octets, would not be stored: it is passed on as it is asked for.
    """
    if entry is None or request.method != "GET" or request.foreign_range:
        return None
    stored = entry.value
    if not isinstance(stored, PartialResponse) or stored.vague or stored.whole is None:
        return None
    validator = strong_validator(stored.fields)
    status, span = 200, (0, stored.whole)
    if request.ranges is not None and if_range_holds(request.fields, stored.fields):
        spans = _asked(request.ranges, stored.whole)
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
