"""Cache-Control, of requests and of responses (RFC 9111 section 5.2, RFC 5861, RFC 8246).

`Request` and `extensions.targeted` call `parse_cache_control`; the rest of the engine reads
`CacheControl`. Where the RFCs leave a choice, the parser decides as follows:

* A directive that *restricts* (``no-store``, ``private``, ``no-cache``...) applies however it is
  written: with an argument that it does not take, in the middle of a malformed member such as
  ``private; max-age=60``, or behind a quote that is never closed. A directive that only *permits*
  (``public``, ``must-understand``) applies only if it is written correctly.
* A freshness directive with an unusable value (``max-age=1.5``, ``max-age='60'``, ``max-age =60``)
  makes the response stale: ``invalid_freshness``.
* If a directive occurs twice, the first occurrence is used. Section 4.2.1 allows this ("either the
  first occurrence should be used or the response should be considered stale"), and it matches what an
  upstream cache does that stops at the first occurrence. A second occurrence never overrides a
  restricting directive.
* A qualified ``no-cache`` or ``private`` is read as the unqualified form if its argument is empty, is
  not a list of field names, or names a field that the response cannot be used without. Many caches
  always do this (5.2.2.4, 5.2.2.7).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from layergate.http.message.fields import split_list

__all__ = [
    "DELTA_MAX",
    "EMPTY",
    "LAYERGATE_CONTROL",
    "MAX_STALE_ANY",
    "CacheControl",
    "field_names",
    "parse_cache_control",
]

DELTA_MAX: Final = 2**31
"""Seconds. A greater delta-seconds counts as this value, "infinity" (RFC 9111 section 1.2.2)."""

LAYERGATE_CONTROL: Final = b"layergate-cache-control"
"""The targeted field (RFC 9213) that addresses LayerGate alone. It is stored, but not sent on."""

MAX_STALE_ANY: Final = DELTA_MAX
"""Seconds. ``max-stale`` without a value: "a stale response of any age" (section 5.2.1.2)."""

_NO_FIELDS: Final[frozenset[bytes]] = frozenset()


class CacheControl(NamedTuple):
    """The directives of one Cache-Control field, immutable. Durations are seconds, None if absent.

    The class serves both directions. RFC 9111 5.2.1 lists the directives of a request, 5.2.2 those of
    a response.
    """

    no_store: bool = False
    """5.2.1.5, 5.2.2.5. The response directive is overruled by `must_understand`."""
    no_cache: bool = False
    """5.2.1.4, 5.2.2.4. Unqualified: not used without successful validation."""
    private: bool = False
    """5.2.2.7. Unqualified: not stored by a shared cache."""
    public: bool = False
    """5.2.2.9."""
    must_revalidate: bool = False
    """5.2.2.2. Never served stale."""
    proxy_revalidate: bool = False
    """5.2.2.8. The same, for shared caches. ``s-maxage`` implies it, but does not set this attribute."""
    must_understand: bool = False
    """5.2.2.3."""
    no_transform: bool = False
    """5.2.1.6, 5.2.2.6."""
    only_if_cached: bool = False
    """5.2.1.7."""
    immutable: bool = False
    """RFC 8246 section 2."""
    no_cache_fields: frozenset[bytes] = _NO_FIELDS
    """5.2.2.4, qualified: lower-case names of the fields to leave out of a reused response."""
    private_fields: frozenset[bytes] = _NO_FIELDS
    """5.2.2.7, qualified: lower-case names of the fields that must not be stored."""
    max_age: int | None = None
    """5.2.1.1, 5.2.2.1. None if absent *or unusable*, see `invalid_freshness`."""
    s_maxage: int | None = None
    """5.2.2.10. None if absent *or unusable*, see `invalid_freshness`."""
    min_fresh: int | None = None
    """5.2.1.3. None if absent or unusable."""
    max_stale: int | None = None
    """5.2.1.2. `MAX_STALE_ANY` if given without a value; None if absent or unusable."""
    stale_while_revalidate: int | None = None
    """RFC 5861 section 3. None if absent or unusable."""
    stale_if_error: int | None = None
    """RFC 5861 section 4. None if absent or unusable."""
    invalid_freshness: bool = False
    """``max-age`` or ``s-maxage`` is present, but its first occurrence has no usable value."""

    @property
    def has_explicit(self) -> bool:
        """True if any directive concerns storing or freshness.

        Directives that only apply once a response is stale, or that promise that it won't change
        (``must-revalidate``, ``stale-if-error``, ``immutable``...), do not count.
        """
        return (
            self.max_age is not None
            or self.s_maxage is not None
            or self.no_store
            or self.no_cache
            or self.private
            or self.public
            or self.must_understand
            or self.invalid_freshness
            or bool(self.no_cache_fields)
            or bool(self.private_fields)
        )


EMPTY: Final = CacheControl()
"""No directives, as without the field."""

_CACHED_LENGTH: Final = 1024  # bytes
_BLANKS: Final = b" \t"
_DIGITS: Final = 10  # 2**31 has ten; more make int() slow, and from 4301 on raise

# Directives that take no argument. The groups differ in how one with an argument is read.
_RESTRICTING: Final = {
    b"no-store": "no_store",
    b"no-cache": "no_cache",
    b"private": "private",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"no-transform": "no_transform",
    b"only-if-cached": "only_if_cached",
    # RFC 8246 section 2: "If any arguments are present, they have no meaning and MUST be ignored."
    b"immutable": "immutable",
}
_PERMITTING: Final = {b"public": "public", b"must-understand": "must_understand"}
_BARE: Final = {**_RESTRICTING, **_PERMITTING}
_QUALIFIABLE: Final = {b"no-cache": "no_cache_fields", b"private": "private_fields"}
_DELTAS: Final = {
    b"max-age": "max_age",
    b"s-maxage": "s_maxage",
    b"min-fresh": "min_fresh",
    b"max-stale": "max_stale",
    b"stale-while-revalidate": "stale_while_revalidate",
    b"stale-if-error": "stale_if_error",
}
# Directives to search for in text that cannot be parsed. The others restrict too little to guess.
_GUESSED: Final = {name: _RESTRICTING[name] for name in (b"no-store", b"no-cache", b"private")}

# Without these fields a stored response is useless or means something else: they give the coding and
# the type of the body, and decide which requests it answers and for how long.
_INDISPENSABLE: Final = frozenset(
    {b"cache-control", b"content-encoding", b"content-type", b"date", b"expires", b"vary"}
)

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
# The same, or a quoted string that is never closed. Matching those too keeps a search linear.
_QUOTED_OR_OPEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:(")|\\?\Z)', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_NOT_IN_TOKEN: Final = re.compile(rb"[^!#$%&'*+.^_`|~0-9a-z-]+")


def parse_cache_control(value: bytes | None) -> CacheControl:
    """The directives of a combined field value; `EMPTY` for None. Never raises.

    A bounded cache holds the results, except for values over 1 KB.
    """
    if not value:
        return EMPTY
    if len(value) > _CACHED_LENGTH:
        return _parse(value)
    return _cached(value)


def _parse(value: bytes) -> CacheControl:
    found: dict[str, int | bool | None] = {}
    fields: dict[str, set[bytes]] = {}
    for member in split_list(value):
        name, equals, argument = member.partition(b"=")
        name = name.lower()
        if equals and name[-1:] in _BLANKS:
            # No whitespace is allowed on either side of the "=". Moving it to the argument makes
            # `max-age =60` as unusable as `max-age= 60`.
            name, argument = name.rstrip(_BLANKS), b" " + argument
        # Section 5.2: "Cache directives are identified by a token, to be compared
        # case-insensitively, and have an optional argument"
        if not equals:
            if name in _BARE:
                found[_BARE[name]] = True
            elif name in _DELTAS:
                _take_delta(found, name, None)
            elif b'"' in name or not _TOKEN.fullmatch(name):
                _guess(found, name)
        elif name in _DELTAS:
            _take_delta(found, name, argument)
        elif name in _QUALIFIABLE and (names := _field_names(argument)):
            attribute = _QUALIFIABLE[name]
            fields.setdefault(attribute, set()).update(names)
        elif name in _RESTRICTING:
            found[_RESTRICTING[name]] = True
        elif not _TOKEN.fullmatch(name):
            _guess(found, member.lower())
        if equals and not _well_formed(argument):
            _guess(found, member.lower())
    frozen = {attribute: frozenset(names) for attribute, names in fields.items()}
    return CacheControl(**found, **frozen)  # type: ignore[arg-type]  # checked by the tables' tests


_cached = lru_cache(maxsize=1024)(_parse)


def _take_delta(found: dict[str, int | bool | None], name: bytes, argument: bytes | None) -> None:
    attribute = _DELTAS[name]
    if attribute in found:  # 4.2.1: the first occurrence is used
        return
    seconds = _delta_seconds(argument)
    if argument is None and attribute == "max_stale":
        seconds = MAX_STALE_ANY
    found[attribute] = seconds
    # Section 4.2.1: "Caches are encouraged to consider responses that have invalid freshness
    # information (e.g., a max-age directive with non-integer content) to be stale."
    if seconds is None and attribute in {"max_age", "s_maxage"}:
        found["invalid_freshness"] = True


def _delta_seconds(argument: bytes | None) -> int | None:
    """Section 1.2.2, in token or quoted-string form. None for anything else."""
    if argument is None:
        return None
    if argument[:1] == b'"' == argument[-1:]:
        argument = argument[1:-1]
    if not argument.isdigit():  # of bytes: ASCII digits only, at least one
        return None
    if len(argument) > _DIGITS:
        argument = argument.lstrip(b"0") or b"0"
        if len(argument) > _DIGITS:
            return DELTA_MAX
    return min(int(argument), DELTA_MAX)


def _field_names(argument: bytes) -> frozenset[bytes]:
    if _QUOTED.fullmatch(argument):
        argument = _ESCAPED.sub(rb"\1", argument[1:-1])
    elif not _TOKEN.fullmatch(argument):
        return _NO_FIELDS
    return field_names(argument)


def field_names(argument: bytes) -> frozenset[bytes]:
    """The field names that a qualified ``no-cache`` or ``private`` lists, in lower case.

    ``argument`` comes without quotes. If the result is empty, read the directive as unqualified.
    """
    names = frozenset(split_list(argument.lower()))
    if not names.isdisjoint(_INDISPENSABLE) or not all(map(_TOKEN.fullmatch, names)):
        return _NO_FIELDS
    return names


def _well_formed(argument: bytes) -> bool:
    return bool(_TOKEN.fullmatch(argument) or _QUOTED.fullmatch(argument))


def _guess(found: dict[str, int | bool | None], text: bytes) -> None:
    """Search a malformed member for the most restricting directives.

    ``private; max-age=60`` and ``foo="bar, no-store`` are not valid Cache-Control, but their author
    did not mean to share the response. The content of a complete quoted string is data.
    """
    text = _QUOTED_OR_OPEN.sub(lambda match: b" " if match[1] else match[0], text)
    for word in _NOT_IN_TOKEN.split(text):
        if word in _GUESSED:
            found[_GUESSED[word]] = True
