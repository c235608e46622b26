"""A stored response in the language that a client prefers (RFC 9110 sections 8.5 and 12.5.4).

With the option ``language_match``, and only then. RFC 9111 4.1 has a stored response with ``Vary:
Accept-Language`` used for requests with the same Accept-Language, however written. But clients write
it in many ways, and most responses come in few languages: whoever prefers German to all else
("de;q=1.0, fr;q=0.5") would be sent the German page that is stored for another ("en, de"). That is an
origin's habit and not its promise, which is why one has to ask for it. It goes wrong where
Content-Language does not tell the language of the content, where more than the first choice counts, or
where what varies is no translation (formats of dates, prices).

What is required, for it to be the same answer as far as one can tell:

* one range of the request has a higher weight than every other, and is no ``*``;
* the stored response has exactly this tag as its one Content-Language, for ``de-AT`` may be told apart
  from ``de`` by the origin, though RFC 4647 would let one stand in for the other;
* in all other fields that Vary names the requests agree;
* it is a hit: fresh, not purged, given to such a client. Nothing is validated in another's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.http.message.fields import Fields, split_list
from layergate.http.message.key import others_of
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.decision import Decision, decide
from layergate.http.rfc9111.selecting import LANGUAGE, QVALUE

__all__ = ["InLanguage", "in_language", "language_of", "preferred_language"]

_LONGEST: Final = 1024  # bytes of a field that is looked into
# RFC 4647 2.1, RFC 5646 2.1.
_TAG: Final = re.compile(rb"[a-z]{1,8}(?:-[a-z0-9]{1,8})*").fullmatch


class InLanguage(NamedTuple):
    """A stored variant, the key it is stored under, and the language that it was chosen for."""

    key: bytes
    entry: Entry
    language: bytes


def preferred_language(fields: Fields) -> bytes | None:
    """The language range, in lower case, that has a higher weight in a request's Accept-Language than
    all others; None if there is none, if it is ``*``, or if the field is malformed or over 1 KB."""
    value = fields.get(LANGUAGE)
    if value is None or len(value) > _LONGEST:
        return None
    best: bytes | None = None
    most = 0.0
    for member in split_list(value.lower()):
        choice, semicolon, weight = [part.strip(b" \t") for part in member.partition(b";")]
        quality = 1.0
        if semicolon:
            if weight[:2] != b"q=" or not QVALUE.fullmatch(weight[2:]):
                return None
            quality = float(weight[2:])
        if choice != b"*" and not _TAG(choice):
            return None
        if quality > most:
            best, most = choice, quality
        elif quality == most:
            best = None
    return None if best == b"*" else best


def language_of(fields: Fields) -> bytes | None:
    """The one Content-Language of a response, in lower case; None if it has none, or several."""
    value = (fields.get(b"content-language") or b"").strip(b" \t").lower()
    return value if _TAG(value) else None


def in_language(
    request: Request,
    variants: Iterable[bytes],
    selected: Iterable[bytes],
    look: Callable[[bytes], Entry | None],
    now: float,
) -> InLanguage | None:
    """The stored response that is the answer to a request which selects none.

    ``variants``: the keys of the target's variants, the preferred one first; ``selected``: the keys
    that the request selects, where nothing is stored. ``look``: the entry under a key, not purged.
    """
    language = preferred_language(request.fields)
    if language is None:
        return None
    primary = request.key
    wanted = {others_of(primary, key) for key in selected} - {b""}
    for key in variants:
        if others_of(primary, key) not in wanted:
            continue
        entry = look(key)
        if entry is None or not isinstance(entry.value, StoredResponse):
            continue
        if language_of(entry.value.fields) != language:
            continue
        if decide(request, entry, now).decision is Decision.HIT:
            return InLanguage(key, entry, language)
    return None
