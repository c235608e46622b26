"""Validate the stored variants of a target when a request selects none of them (RFC 9111 sections 4.1,
4.3.1, 4.3.4).

"If no stored response matches, the cache cannot satisfy the presented request. Typically, the request is
forwarded to the origin server, potentially with preconditions added to describe what responses the cache
has already stored": their entity tags, all in one If-None-Match. If a 304 names one of them, that stored
response becomes the answer, and its content does not cross the wire.

*Off by default, and for codings only.* A strong tag is "unique across all ... representations" of a
resource (RFC 9110 8.8.3.3). But many origins derive it from the version of a record instead of the page,
so it is the same for all languages, currencies and users. Such an origin answers 304 to a tag that was
stored with another user's page, and the client gets that page. The stored responses can't reveal this: two
bodies with two tags prove nothing if they were stored at different times. So no variant is nominated unless
the option ``nominate_codings`` is on, and then only variants that differ from the request by
Accept-Encoding alone. All other selecting fields, including those that a rule or a proxy adds, have to
match (see `fetch`). The worst that a wrong tag can then do is to bring the same content in another coding
that the client accepts by name.

Only strong tags are sent. A tag that two different bodies share identifies neither of them. A 304 whose
Vary lists more fields than the stored one identifies no variant. *Privacy.* Responses that are selected by
the identity of the client are never nominated (G1).
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
"""Bytes of the value of If-None-Match."""
CODING: Final = b"accept-encoding"
_MOST: Final = 32
_LONGEST: Final = 256  # bytes

# RFC 9110 8.8.3, without the weakness prefix.
_STRONG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"').fullmatch
# Fields that rule a variant out, besides those that identify the client. With Origin, a response differs
# in CORS fields, which a 304 need not repeat.
_NOT_BY: Final = frozenset({b"authorization", b"origin"})


def nominated(request: Request, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The variants whose entity tags go to the origin with a request that selects none of them.

    ``entries``: the stored variants of the request's target, most recent first. The result has at most
    `MAX_TAGS` entries.
    """
    chosen: dict[bytes, Entry | None] = {}
    length = 0
    for entry in entries:
        tag = _tag(request, entry)
        if tag is None:
            continue
        if tag in chosen:
            other = chosen[tag]
            if other is not None and other.value.body != entry.value.body:
                chosen[tag] = None  # it identifies neither
            continue
        length += len(tag) + (2 if chosen else 0)
        if len(chosen) == MAX_TAGS or length > MAX_TAGS_LENGTH:
            break
        chosen[tag] = entry
    return tuple(entry for entry in chosen.values() if entry is not None)


class Codings:
    """The normalized Accept-Encoding values of requests whose responses are stored.

    A target's variants may have any of them. The number is bounded; variants with a forgotten value are
    not nominated.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[bytes | None, None] = {}

    def note(self, fields: Fields) -> None:
        """Note the Accept-Encoding of a request whose stored response varies on it."""
        value = normalize(CODING, fields.all(CODING))
        if value in self._seen or (value is not None and len(value) > _LONGEST):
            return
        while len(self._seen) >= _MOST:
            self._seen.pop(next(iter(list(self._seen))), None)
        self._seen[value] = None

    def others(self, fields: Fields) -> Iterator[Fields]:
        """The ``fields`` of a request, with each known Accept-Encoding in place of its own."""
        rest = [line for line in fields.lines if line[0] != CODING]
        for value in list(self._seen):  # a copy, because another thread may note one
            yield Fields(rest if value is None else [*rest, (CODING, value)])


def _tag(request: Request, entry: Entry) -> bytes | None:
    stored = entry.value
    # RFC 9110 13.2.1: preconditions have no effect if the response is not a 2xx. A 2xx other than 200
    # would come back unchanged.
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
    """True if the request accepts the codings of the stored content by name.

    Without Accept-Encoding, "any content coding is considered acceptable" (RFC 9110 12.5.3). But clients
    that omit the field usually decode nothing.
    """
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
    """The precondition that validates all nominees at once. For several responses, 4.3.1 sends entity
    tags, but no Last-Modified."""
    return b"if-none-match", b", ".join(_tag_of(entry) for entry in nominees)


def _tag_of(entry: Entry) -> bytes:
    stored: StoredResponse = entry.value
    tag = stored.fields.first(b"etag")
    assert tag is not None
    return tag


def named(nominees: tuple[Entry, ...], fields: Fields) -> Entry | None:
    """The nominee that a 304 with these ``fields`` identifies by its strong entity tag, or None."""
    tags = fields.all(b"etag")
    if len(tags) != 1:
        return None
    found = next((entry for entry in nominees if strong_match(tags[0], _tag_of(entry))), None)
    # For a field that only the 304 varies on, the value that selected the stored response is unknown.
    return None if found is None or varies_on_more(found.value.fields, fields) else found


def identified(stored_fields: Fields, fields: Fields) -> bool:
    """True if a 304 with these ``fields`` also updates another stored response that the request could
    have selected, besides the validated one.

    4.3.4: "All the stored responses in the initial set with one of those same strong validators are
    identified for update." A weak validator identifies "the most recent of those matching", which is
    the validated response. A 304 without validators identifies a response only if it is the only one.
    """
    tag = fields.first(b"etag")
    return tag is not None and strong_match(tag, stored_fields.first(b"etag") or b"")
