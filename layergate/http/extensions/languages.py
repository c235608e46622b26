"""A stored response in the language that a client prefers (RFC 9110 sections 8.5 and 12.5.4).

This applies only with the option ``language_match``. By RFC 9111 4.1, a stored response with ``Vary:
Accept-Language`` answers requests with the same Accept-Language. But clients write that field in many
ways, and most responses exist in few languages. With the option, a client that prefers German to
everything else ("de;q=1.0, fr;q=0.5") gets the German page that was stored for another client ("en,
de"). Origins usually behave that way, but do not promise it, so the option is off by default. The result
is wrong if Content-Language is not the language of the content, if more than the first choice counts, or
if the variants are not translations (formats of dates, prices).

These conditions make a different answer unlikely:

* One range of the request has a higher weight than every other, and is not ``*``.
* The stored response has exactly this tag as its only Content-Language. The origin may distinguish
  ``de-AT`` from ``de``, although RFC 4647 would accept one for the other.
* The requests agree in all other fields that Vary lists.
* The stored response is a hit for this client: fresh, not purged. No validation takes place on behalf
  of another variant.
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

_LONGEST: Final = 1024  # bytes of an Accept-Language field that is examined
# RFC 4647 2.1, RFC 5646 2.1.
_TAG: Final = re.compile(rb"[a-z]{1,8}(?:-[a-z0-9]{1,8})*").fullmatch


class InLanguage(NamedTuple):
    """A stored variant, its key, and the language for which it was chosen."""

    key: bytes
    entry: Entry
    language: bytes


def preferred_language(fields: Fields) -> bytes | None:
    """The language range, in lower case, with the highest weight in a request's Accept-Language.

    None if there is no single one, if it is ``*``, or if the field is malformed or over 1 KB.
    """
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
    """The Content-Language of a response, in lower case; None if it has none or several."""
    value = (fields.get(b"content-language") or b"").strip(b" \t").lower()
    return value if _TAG(value) else None


def in_language(
    request: Request,
    variants: Iterable[bytes],
    selected: Iterable[bytes],
    look: Callable[[bytes], Entry | None],
    now: float,
) -> InLanguage | None:
    """The stored variant in the preferred language, for a request that selects no stored variant.

    ``variants``: the keys of the target's variants, the preferred one first. ``selected``: the keys
    that the request selects, under which nothing is stored. ``look`` returns the entry under a key
    unless it is purged.
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
