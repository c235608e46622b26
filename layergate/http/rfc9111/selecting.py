"""Select among the variants of one URI: Vary and the secondary key (RFC 9111 section 4.1).

`plan` reads Vary when a response is stored; `lookup` and the hit path compute the secondary key of each
request. Nothing here reads the store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from layergate.http.message.fields import Fields, Lines, split_list
from layergate.http.privacy.forwarding import WHOLE, told_by_forwarded

__all__ = [
    "LANGUAGE",
    "QVALUE",
    "STAR",
    "normalize",
    "secondary_key",
    "varies_on_more",
    "vary_names",
    "with_vary",
]

LANGUAGE: Final = b"accept-language"
STAR: Final = b"*"
"""The member of Vary that no request ever matches."""

_CACHED_LENGTH: Final = 1024
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
QVALUE: Final = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

# Request fields that an RFC defines as lists (RFC 9110, 7240, 7239, 3229). 4.1 lets a cache normalize
# values only "in ways that are known to have identical semantics, according to the header field's
# specification". In any other field, known or not, a comma is text, and so is the whitespace around it:
# "u1", "u1," and ",u1" may be three users.
_LISTS: Final = frozenset({
    b"a-im", b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control",
    b"expect", b"forwarded", b"prefer", b"te", b"via",
})  # fmt: skip

# Fields whose members have weights: see `_weighted`.
_WEIGHTED: Final = frozenset({b"accept", b"accept-encoding", b"accept-language"})


def vary_names(fields: Fields) -> tuple[bytes, ...] | None:
    """The request fields that selected a response: lower-case, sorted, without duplicates.

    ``()`` without Vary. None if the response must not be reused for any other request. 4.1: 'A stored
    response with a Vary header field value containing a member "*" always fails to match.' A member
    that is not a field name has the same effect, because the response depends on something unknown.
    """
    value = fields.get(b"vary")
    if value is None:
        return ()
    return _names(value) if len(value) > _CACHED_LENGTH else _cached_names(value)


def _names(value: bytes) -> tuple[bytes, ...] | None:
    names = {member.lower() for member in split_list(value)}
    if STAR in names or not all(map(_TOKEN.fullmatch, names)):
        return None
    return tuple(sorted(names))


_cached_names = lru_cache(maxsize=512)(_names)


def with_vary(lines: Lines, names: tuple[bytes, ...]) -> Lines:
    """The lines with a Vary that includes ``names``: a rule's ``vary`` applies to downstream caches,
    too."""
    if not names:
        return lines
    present = {
        member.lower() for name, value in lines if name == b"vary" for member in split_list(value)
    }
    missing = [name for name in names if name not in present]
    if not missing or STAR in present:
        return lines
    return [*lines, (b"vary", b", ".join(missing))]


def varies_on_more(stored_fields: Fields, fields: Fields) -> bool:
    """True if the Vary of ``fields`` has a member that the stored response's Vary lacks, or ``*``."""
    names = vary_names(fields)
    return names is None or not set(names) <= set(vary_names(stored_fields) or ())


def secondary_key(
    names: tuple[bytes, ...], fields: Fields, *, language_order: bool = True
) -> bytes:
    """The secondary key of a request: its values of the fields ``names`` (see `vary_names`).

    ``fields`` are the request's; ``language_order`` is as for `normalize`. Injective: two keys for the
    same names are equal if and only if every named field has the same normalized value. 4.1: "If (after any normalization that might
    take place) a header field is absent from a request, it can only match another request if it
    is also absent there", so absent and empty differ.

    Accept-Language comes last. The part before it is then preceded by its length: ``l<n>;``.
    """
    parts: list[bytes] = []
    language: bytes | None = None
    for name in names:
        values = fields.all(b"forwarded" if name == WHOLE else name)
        value = normalize(name, values, language_order=language_order) if values else None
        if value is None:
            part = b"%d:%b-" % (len(name), name)
        else:
            part = b"%d:%b=%d:%b" % (len(name), name, len(value), value)
        if name == LANGUAGE:
            language = part
        else:
            parts.append(part)
    others = b"".join(parts)
    return others if language is None else b"l%d;%b%b" % (len(others), others, language)


def normalize(name: bytes, values: Sequence[bytes], *, language_order: bool = True) -> bytes | None:
    """The same value for all field values that 4.1 lets a cache treat as equal. None if absent.

    ``name`` is the lower-case field name, ``values`` are the values of its lines, in order. Whitespace
    at the ends is removed. For fields that an RFC defines as lists, lines are combined, and whitespace
    around commas and empty members are removed. Other fields are otherwise unchanged, and several lines
    differ from one line with commas. The lines of a Cookie are combined (RFC 9113 8.2.3).

    In Accept, Accept-Encoding and Accept-Language, members are in lower case, weights in the shortest
    form, and members ordered by weight. If a member is malformed or has a quoted string, only whitespace
    changes. Members of equal weight keep their order, except in Accept-Encoding, where the order has no
    meaning, and without ``language_order`` in Accept-Language.

    A value over 1 KB becomes its hash.
    """
    if not values:
        return None
    if len(values) == 1:
        value = values[0]
    elif name == b"cookie":
        value = b"; ".join(values)  # RFC 9113 8.2.3: a Cookie may come in crumbs
    elif name in _LISTS:
        value = b", ".join(values)
    else:
        return _lines(values)
    if len(value) > _CACHED_LENGTH:
        return _hashed(_normalize(name, value, language_order))
    if len(name) > _CACHED_LENGTH:
        return _normalize(name, value, language_order)
    return _cached_normalize(name, value, language_order)


# A field value can't contain NUL (RFC 9110 5.5), so no client can send a value that imitates one of
# these: one NUL and a hash for a long single line, two NULs and the lines for several lines, three NULs
# and a hash for several long lines. A single value that begins with a NUL despite the RFC is hashed.


def _hashed(value: bytes) -> bytes:
    return value if value[:1] == b"\0" else b"\0" + sha256(value).digest()


def _lines(values: Sequence[bytes]) -> bytes:
    """Several lines of a field that is not a list, each preceded by its length."""
    joined = b"".join(
        [b"%d:%b" % (len(line), line) for line in (value.strip(b" \t") for value in values)]
    )
    if len(joined) > _CACHED_LENGTH:
        return b"\0\0\0" + sha256(joined).digest()
    return b"\0\0" + joined


def _normalize(name: bytes, value: bytes, language_order: bool) -> bytes:
    if name == b"forwarded":
        value = told_by_forwarded(value).strip(b" \t")
    elif name not in _LISTS:
        value = value.strip(b" \t")
    else:
        members = split_list(value)
        weighted = None
        if name in _WEIGHTED and b'"' not in value:
            weighted = _weighted(name, members, language_order)
        value = b",".join(members if weighted is None else weighted)
    return b"\0" + sha256(value).digest() if value[:1] == b"\0" else value


_cached_normalize = lru_cache(maxsize=2048)(_normalize)


def _weighted(name: bytes, members: list[bytes], language_order: bool) -> list[bytes] | None:
    """The members in canonical order and form, or None if one of them is malformed."""
    canonical: dict[bytes, float] = {}
    for member in members:
        choice, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        if not choice:
            return None
        written = [choice.lower()]
        quality = 1.0
        for position, parameter in enumerate(parameters, 1):
            attribute, equals, argument = parameter.partition(b"=")
            attribute = attribute.lower()
            if attribute == b"q":
                # The weight is the last parameter of a member.
                if position != len(parameters) or not QVALUE.fullmatch(argument):
                    return None
                quality = float(argument)
                weight = argument.rstrip(b"0").rstrip(b".") if b"." in argument else argument
                if weight != b"1":
                    written.append(b"q=" + weight)
            elif name == b"accept" and equals:
                # A parameter of a media type. Its name is case-insensitive, its value may not be.
                written.append(attribute + b"=" + argument)
            else:
                return None
        canonical.setdefault(b";".join(written), quality)
    if name == b"accept-encoding":
        return sorted(canonical)
    # By weight; members of equal weight keep their order. RFC 9110 12.5.4: "some recipients treat the
    # order in which language tags are listed as an indication of descending priority". Apps do, unless
    # the configuration says otherwise: "this behavior cannot be relied upon".
    ordered = list(canonical)
    if name == LANGUAGE and not language_order:
        ordered.sort()
    return sorted(ordered, key=canonical.__getitem__, reverse=True)
