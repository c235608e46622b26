"""Choosing among the variants of one URI: Vary and the secondary key (RFC 9111 section 4.1)."""

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
# specification". Of any other field, one that nobody here knows included, a comma is text, and so is
# the whitespace beside it: "u1", "u1," and ",u1" may be three users.
_LISTS: Final = frozenset({
    b"a-im", b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control",
    b"expect", b"forwarded", b"prefer", b"te", b"via",
})  # fmt: skip

# Fields whose members are ordered by their weights: see `_weighted`.
_WEIGHTED: Final = frozenset({b"accept", b"accept-encoding", b"accept-language"})


def vary_names(fields: Fields) -> tuple[bytes, ...] | None:
    """The request fields a response was selected by: lower-case, sorted, each once.

    ``()`` if there is no Vary. None if the response must not be reused for any other request: 4.1,
    'A stored response with a Vary header field value containing a member "*" always fails to
    match.' A member that is not a field name is treated the same way, since we cannot know what
    else the response depends on.
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
    """The lines with a Vary that names ``names`` too: what a rule's ``vary`` says is as true for the
    caches downstream."""
    present = {
        member.lower() for name, value in lines if name == b"vary" for member in split_list(value)
    }
    missing = [name for name in names if name not in present]
    if not missing or STAR in present:
        return lines
    return [*lines, (b"vary", b", ".join(missing))]


def varies_on_more(stored_fields: Fields, fields: Fields) -> bool:
    """True if a response with ``fields`` was selected by a request field that the stored response was
    not selected by, or by what no other request matches."""
    names = vary_names(fields)
    return names is None or not set(names) <= set(vary_names(stored_fields) or ())


def secondary_key(
    names: tuple[bytes, ...], fields: Fields, *, language_order: bool = True
) -> bytes:
    """What tells this request's variant from others, given the names of `vary_names`.

    ``fields`` are the request's; ``language_order`` as for `normalize`. Injective: two keys for the same names are equal if and only if
    every named field has the same `normalize`d value. 4.1: "If (after any normalization that might
    take place) a header field is absent from a request, it can only match another request if it
    is also absent there", so absent and empty differ.

    With Accept-Language, that comes last, and what is before it has its length in front: ``l<n>;``.
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
    """One value for all field values that 4.1 lets us treat as the same. None if absent.

    ``name`` is the lower-case field name, ``values`` the values of its lines, in order. Whitespace at
    the ends is removed. Of fields that an RFC defines as lists, lines are combined, and whitespace
    around commas and empty members removed; of any other field nothing else is touched, and several
    lines differ from one line with commas. (A Cookie's lines are combined: RFC 9113 8.2.3.)

    Of Accept, Accept-Encoding and Accept-Language members are lower-cased, weights written the
    shortest way, and all ordered by weight; unless one is malformed, or carries a quoted string, when
    nothing but whitespace is touched. Among equal weights order is kept but for Accept-Encoding, where
    it has no meaning, and, without ``language_order``, for Accept-Language.

    Values over 1 KB are represented by their hash.
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


# NUL cannot occur in a field value (RFC 9110 5.5), so no client can send what stands for another
# value: one NUL and a hash for a single line, two and the lines for several, three and a hash if they
# are long. A single value that begins with a NUL all the same is hashed.


def _hashed(value: bytes) -> bytes:
    return value if value[:1] == b"\0" else b"\0" + sha256(value).digest()


def _lines(values: Sequence[bytes]) -> bytes:
    """Several lines of a field that is no list: each behind its length."""
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
                # The weight is the last thing said about a member.
                if position != len(parameters) or not QVALUE.fullmatch(argument):
                    return None
                quality = float(argument)
                weight = argument.rstrip(b"0").rstrip(b".") if b"." in argument else argument
                if weight != b"1":
                    written.append(b"q=" + weight)
            elif name == b"accept" and equals:
                # A media type's parameter: its name is case-insensitive, its value need not be.
                written.append(attribute + b"=" + argument)
            else:
                return None
        canonical.setdefault(b";".join(written), quality)
    if name == b"accept-encoding":
        return sorted(canonical)
    # By weight; equal ones as they came: RFC 9110 12.5.4, "some recipients treat the order in which
    # language tags are listed as an indication of descending priority", and those are our apps, unless
    # we are told that they are not: "this behavior cannot be relied upon".
    ordered = list(canonical)
    if name == LANGUAGE and not language_order:
        ordered.sort()
    return sorted(ordered, key=canonical.__getitem__, reverse=True)
