"""Store a 206, and combine it with the stored parts of the same representation (RFC 9111 3.3, 3.4).

`received_part` checks a 206 against the request and turns it into a part of a 200. `combined` decides
what is stored afterwards.

*A 206 is trusted only as far as it can be checked.* It has to answer a request for one range, its
Content-Range has to be valid, and its content has to be as long as that says. Parts are combined if they
have the same strong validator, the same length of the whole, the same coding, and the same octets
where they overlap. Otherwise the newer part is stored alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.http.extensions.groups import MAX_GROUPS, without_groups
from layergate.http.extensions.targeted import policy_of
from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import RangeSpec, Span, parse_content_range, strong_validator
from layergate.http.message.stored import Part, PartialResponse, StoredResponse
from layergate.http.rfc9111.partial import PART_FIELDS
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.validation import updated_fields

__all__ = ["MAX_PARTS", "Received", "combined", "received_part", "updated_lines"]

MAX_PARTS: Final = 16
"""Parts kept of one response. Beyond that, the smallest of the older parts are dropped."""


class Received(NamedTuple):
    """A 206 as a part of a 200.

    ``fields``: those of the 200. ``whole``, ``vague``: as in `PartialResponse`. ``own``: the lines that
    belong to this message alone.
    """

    span: Span
    whole: int | None
    vague: bool
    fields: Fields
    own: Lines


def received_part(
    ranges: tuple[RangeSpec, ...] | None, status: int, fields: Fields
) -> Received | NotStored | None:
    """The part that a response to a request for ``ranges`` contains, or the reason not to store it.

    None if the response is not a 206.
    """
    if status != 206:
        return None
    content = parse_content_range(fields.get(b"content-range"))
    # Content in several parts is only forwarded: its client will ask for the same ranges again.
    if content is None or ranges is None or len(ranges) != 1:
        return NotStored.PARTIAL
    span, whole = content
    vague = False
    lengths = fields.all(b"content-length")
    if lengths:
        size = span[1] - span[0]
        if len(set(lengths)) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
            return NotStored.LENGTH_MISMATCH
        length = int(lengths[0])
        if length != size:
            # Some origins count last-pos one too high. If the request asked for exactly this many
            # octets from the end, that is certain: the content is used, the length of the whole is not.
            if ranges[0] != (None, length) or length != size - 1 or span[1] != whole:
                return NotStored.LENGTH_MISMATCH
            span, vague = (span[0], span[1] - 1), True
            whole = span[1]
    kept = [line for line in fields.lines if line[0] not in PART_FIELDS]
    own = [line for line in fields.lines if line[0] in PART_FIELDS]
    return Received(span, whole, vague, Fields(kept), own)


def combined(
    present: Entry | None,
    new: Entry,
    *,
    max_body: int,
    max_tags: int,
    targets: tuple[bytes, ...] = (),
) -> Entry:
    """The entry to store after the part ``new`` has arrived.

    This is the part alone, the part combined with stored parts of the same representation, or
    ``present`` unchanged if it is complete and nothing contradicts it.

    ``max_body``, ``max_tags``: the caps, in octets and in number. ``targets``: as for `policy_of`.
    """
    part: PartialResponse = new.value
    old = None if present is None else present.value
    if present is None or not isinstance(old, StoredResponse) or old.status != 200:
        return _completed(new)
    if not _same(old, part):
        # A whole response is worth more than a part that does not contradict it.
        whole = not isinstance(old, PartialResponse)
        keep = whole and present.fresh_until > part.response_time and not _differ(old, part)
        return present if keep else _completed(new)
    parts = _union(old.held, part.parts[0], max_body)
    tags = tuple(dict.fromkeys(present.tags + new.tags))
    named = len(without_groups(tags))
    if parts is None or named > max_tags or len(tags) - named > MAX_GROUPS:
        return _completed(new)
    # 3.4: "a cache MUST update the stored response header fields using the header fields provided in
    # the new response, as per Section 3.2." An update keeps Content-Length, hence the filter.
    lines = updated_lines(old.lines, part.all_lines, targets)
    lines = [line for line in lines if line[0] not in PART_FIELDS]
    value = PartialResponse(
        lines,
        parts,
        old.length if part.whole is None else part.whole,
        # Of the conditions on use, the stricter one applies.
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
    # A purge of any part purges the combination.
    entry.stamp = entry.checked = min(present.stamp, new.stamp)
    return _completed(entry)


def updated_lines(stored: Lines, new: Lines, targets: tuple[bytes, ...]) -> Lines:
    """The lines to send for a response whose newest part came with the lines ``new``."""
    fields = Fields(new)
    directives = policy_of(fields, targets).directives
    lines = updated_fields(stored, fields, directives, targets=targets)
    return [
        line for line in lines if line[0] != LAYERGATE_CONTROL or LAYERGATE_CONTROL not in targets
    ]


def _same(old: StoredResponse, new: PartialResponse) -> bool:
    """True if both belong to one representation. RFC 9110 15.3.7.3: parts "can only be safely combined
    if they all have in common the same strong validator"."""
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
    """True if anything shows that the representation has changed at the origin."""
    return _lengths_differ(old, new) or any(
        old.fields.get(name) != new.fields.get(name)
        for name in (b"etag", b"last-modified", b"content-encoding")
    )


def _union(old: tuple[Part, ...], new: Part, most: int) -> tuple[Part, ...] | None:
    """All parts, in order, joined where they touch, at most `MAX_PARTS`.

    None if they differ where they overlap, or have more than ``most`` octets together.
    """
    start, octets = new
    stop = start + len(octets)
    before, after = [], []  # octets to join before and after the new part
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
    """The entry, as a complete 200 if no part is missing.

    RFC 9110 15.3.7.3: such a response is processed "as if it were a complete 200 (OK) response,
    including a Content-Length".
    """
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
