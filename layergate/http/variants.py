"""Validating a target's variants when a request selects none of them, and freshening those that it
could have selected (RFC 9111 sections 4.1, 4.3.1, 4.3.4).

"If no stored response matches, the cache cannot satisfy the presented request. Typically, the
request is forwarded to the origin server, potentially with preconditions added to describe what
responses the cache has already stored": their entity tags, all in one If-None-Match. A 304 that
names one of them makes that stored response the answer, without its content crossing the wire.

Only strong tags are sent, which are "unique across all ... representations" of a resource (RFC 9110
8.8.3.3). Origins that make them of a record's version, the same for all its languages and codings, are
common enough that this is not taken on trust: a tag is nominated only beside another one, of another
body in the same content coding, so that this origin is seen to tell its variants apart; a tag that two
bodies share is nobody's; and what a client could not decode is not nominated for it.

*Privacy.* Of responses that are selected by who is asking none is nominated (G1): origins that make
an entity tag of a record's version, and forget that the page also greets its user, are common, and
without us each client's own copy is all that their 304 ever confirmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from layergate.core.entry import Entry
from layergate.http.decision import answers
from layergate.http.etags import strong_match
from layergate.http.fields import Fields, Line, split_list
from layergate.http.identity import Says, names_who
from layergate.http.request import Request
from layergate.http.selecting import vary_names
from layergate.http.stored import StoredResponse

__all__ = ["MAX_TAGS", "MAX_TAGS_LENGTH", "identified", "named", "nominated", "nominating_line"]

MAX_TAGS: Final = 16
MAX_TAGS_LENGTH: Final = 1024
"""Of the value of If-None-Match, bytes."""

# RFC 9110 8.8.3, without the weakness prefix.
_STRONG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"').fullmatch
# Besides who is asking: by Origin the fields of a response differ (CORS) that a 304 need not repeat.
_NOT_BY: Final = frozenset({b"authorization", b"origin"})


def nominated(request: Request, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of ``entries``, the stored variants of the request's target, most recent first, those whose
    entity tags go to the origin with a request that selects none of them. None, or 2 to `MAX_TAGS`."""
    chosen: dict[bytes, Entry | None] = {}
    length = 0
    for entry in entries:
        tag = _tag(request, entry)
        if tag is None:
            continue
        if tag in chosen:
            other = chosen[tag]
            if other is not None and other.value.body != entry.value.body:
                chosen[tag] = None  # whatever it is the tag of
            continue
        length += len(tag) + (2 if chosen else 0)
        if len(chosen) == MAX_TAGS or length > MAX_TAGS_LENGTH:
            break
        chosen[tag] = entry
    found = [entry for entry in chosen.values() if entry is not None]
    return tuple(entry for entry in found if any(_told_apart(entry, other) for other in found))


def _told_apart(entry: Entry, other: Entry) -> bool:
    """Do the tags of these two, which differ, tell apart what is no mere change of coding?"""
    one, two = entry.value, other.value
    return bool(_codings(one.fields) == _codings(two.fields) and one.body != two.body)


def _tag(request: Request, entry: Entry) -> bytes | None:
    stored = entry.value
    # RFC 9110 13.2.1: preconditions are of no effect if the response is not a 2xx; another than 200
    # would come back as it is.
    if not isinstance(stored, StoredResponse) or stored.status != 200:
        return None
    if entry.doubtful or not answers(request, stored):
        return None
    tags = stored.fields.all(b"etag")
    if len(tags) != 1 or not _STRONG(tags[0]):
        return None
    names = vary_names(stored.fields)
    if names is None or not _NOT_BY.isdisjoint(names) or names_who(names) is not Says.NOTHING:
        return None
    return tags[0] if _decodable(request, stored.fields) else None


def _decodable(request: Request, stored_fields: Fields) -> bool:
    """Does the request accept the codings of the stored content by name? Without Accept-Encoding
    "any content coding is considered acceptable" (RFC 9110 12.5.3), but clients that say nothing are
    those that decode nothing."""
    codings = _codings(stored_fields)
    if not codings:
        return True
    accepted: set[bytes] = set()
    for member in split_list((request.fields.get(b"accept-encoding") or b"").lower()):
        name, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        if not any(re.fullmatch(rb"q=0(\.0*)?", parameter) for parameter in parameters):
            accepted.add(name)
    return codings <= accepted


def _codings(stored_fields: Fields) -> set[bytes]:
    coding = stored_fields.get(b"content-encoding")
    return set() if coding is None else set(split_list(coding.lower())) - {b"identity"}


def nominating_line(nominees: Iterable[Entry]) -> Line:
    """The precondition that validates all of these at once. Of several, 4.3.1 has the entity tags
    sent and not the Last-Modified."""
    return b"if-none-match", b", ".join(_tag_of(entry) for entry in nominees)


def _tag_of(entry: Entry) -> bytes:
    stored: StoredResponse = entry.value
    tag = stored.fields.first(b"etag")
    assert tag is not None
    return tag


def named(nominees: tuple[Entry, ...], fields: Fields) -> Entry | None:
    """Which of ``nominees`` a 304 with these ``fields`` makes the answer: the one it names by its
    strong entity tag. None: none of them."""
    tags = fields.all(b"etag")
    if len(tags) != 1:
        return None
    return next((entry for entry in nominees if strong_match(tags[0], _tag_of(entry))), None)


def identified(stored_fields: Fields, fields: Fields) -> bool:
    """Whether a 304 with these ``fields`` updates another stored response than the one validated,
    which the request could have chosen too.

    4.3.4: "All the stored responses in the initial set with one of those same strong validators are
    identified for update." A weak validator identifies "the most recent of those matching", which is
    the one that was chosen; none at all, only one that is alone.
    """
    tag = fields.first(b"etag")
    return tag is not None and strong_match(tag, stored_fields.first(b"etag") or b"")
