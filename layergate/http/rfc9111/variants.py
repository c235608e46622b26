"""Validating a target's variants when a request selects none of them, and freshening those that it
could have selected (RFC 9111 sections 4.1, 4.3.1, 4.3.4).

"If no stored response matches, the cache cannot satisfy the presented request. Typically, the
request is forwarded to the origin server, potentially with preconditions added to describe what
responses the cache has already stored": their entity tags, all in one If-None-Match. A 304 that
names one of them makes that stored response the answer, without its content crossing the wire.

*Off by default, and for codings only.* A strong tag is "unique across all ... representations" of a
resource (RFC 9110 8.8.3.3), but many origins make it of the version of a record, and not of the page: the
same for all languages, currencies and users. Such an origin says 304 for a tag that was stored with
another user's page, and whoever asks gets that. No look at what is stored can tell: that two bodies were
seen to have two tags proves nothing when they were stored at different times. So nothing is nominated,
unless the option ``nominate_codings`` is on; and then only what differs from the request by
Accept-Encoding alone. All other fields that select, those that a rule or a proxy adds included, have to
select the same (`Cache.differing_by_coding`). Then the worst that such a tag can do is to bring the same content in another
coding, and one that the client accepts by name.

Only strong tags are sent, a tag that two bodies share is nobody's, and a 304 that says that its response
varies on more than the stored one names none. *Privacy.* Of responses that are selected by who is asking
none is nominated (G1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from layergate.core.entry import Entry
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.etags import strong_match
from layergate.http.message.fields import Fields, Line, split_list
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.decision import answers
from layergate.http.rfc9111.selecting import normalize, varies_on_more, vary_names

__all__ = [
    "CODING",
    "MAX_TAGS",
    "MAX_TAGS_LENGTH",
    "Codings",
    "identified",
    "named",
    "nominated",
    "nominating_line",
]

MAX_TAGS: Final = 16
MAX_TAGS_LENGTH: Final = 1024
"""Of the value of If-None-Match, bytes."""
CODING: Final = b"accept-encoding"
_MOST: Final = 32
_LONGEST: Final = 256  # bytes

# RFC 9110 8.8.3, without the weakness prefix.
_STRONG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"').fullmatch
# Besides who is asking: by Origin the fields of a response differ (CORS) that a 304 need not repeat.
_NOT_BY: Final = frozenset({b"authorization", b"origin"})


def nominated(request: Request, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of ``entries``, the stored variants of the request's target, most recent first, those whose
    entity tags go to the origin with a request that selects none of them. At most `MAX_TAGS`."""
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
    return tuple(entry for entry in chosen.values() if entry is not None)


class Codings:
    """The Accept-Encoding of requests whose responses are stored, as `normalize` writes it: which there
    may be among a target's variants. Bounded; what is forgotten is not nominated."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[bytes | None, None] = {}

    def note(self, fields: Fields) -> None:
        """A response to a request with these ``fields`` is stored that varies on Accept-Encoding."""
        value = normalize(CODING, fields.all(CODING))
        if value in self._seen or (value is not None and len(value) > _LONGEST):
            return
        while len(self._seen) >= _MOST:
            self._seen.pop(next(iter(list(self._seen))), None)
        self._seen[value] = None

    def others(self, fields: Fields) -> Iterator[Fields]:
        """The ``fields`` of a request, with each Accept-Encoding that is known in place of its own."""
        rest = [line for line in fields.lines if line[0] != CODING]
        for value in list(self._seen):  # (another thread may note one)
            yield Fields(rest if value is None else [*rest, (CODING, value)])


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
    if (
        names is None
        or not _NOT_BY.isdisjoint(names)
        or strongest_credential(names) is not Credential.NONE
    ):
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
    found = next((entry for entry in nominees if strong_match(tags[0], _tag_of(entry))), None)
    # Of what it varies on besides, nobody knows whether the stored one was selected by the same.
    return None if found is None or varies_on_more(found.value.fields, fields) else found


def identified(stored_fields: Fields, fields: Fields) -> bool:
    """Whether a 304 with these ``fields`` updates another stored response than the one validated,
    which the request could have chosen too.

    4.3.4: "All the stored responses in the initial set with one of those same strong validators are
    identified for update." A weak validator identifies "the most recent of those matching", which is
    the one that was chosen; none at all, only one that is alone.
    """
    tag = fields.first(b"etag")
    return tag is not None and strong_match(tag, stored_fields.first(b"etag") or b"")
