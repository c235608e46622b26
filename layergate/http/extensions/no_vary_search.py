"""No-Vary-Search: which parts of a query a response does not depend on (The No-Vary-Search HTTP Caching
Extension, draft-ietf-httpbis-no-vary-search).

A response that says so is stored under a key of its path, of what it said, and of what that leaves of
its query: all targets that it makes equivalent have that key, and no other has (G9). What the
responses of a path said last is kept under a key of the path alone; a request looks under its own
target first, then at what was said, then under the key that follows.

Departures, both towards not sharing: percent-encoded bytes that are no UTF-8 are compared as they
are, where the draft has them all become U+FFFD, which an app can tell apart; and a field that is long
beyond reason is taken for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

from layergate.core.invalidation import MAX_PATTERN_LENGTH, Invalidation, InvalidationKind
from layergate.http.message.fields import Fields
from layergate.http.message.key import label_of, query_of
from layergate.http.message.structured import parse_dictionary

__all__ = [
    "MAX_FIELD",
    "MAX_PARAMS",
    "SearchVariance",
    "class_key",
    "path_key",
    "purge_label",
    "reaching",
    "reduced",
    "search_tag",
    "tag_of",
    "variance_of",
]

MAX_PARAMS: Final = 64
"""As many parameters as ``params`` or ``except`` may name."""
MAX_FIELD: Final = 4096
"""A longer field says nothing. Bytes."""
# Appended to keys, whose end is known from their beginning. As long as nothing else that is.
_PATH: Final = b"\x00path search"
_CLASS: Final = b"\x00search:"
_ANY: Final = "?\0"  # what the label of a class ends in; no other does
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class SearchVariance(NamedTuple):
    """What a response depends on in the query, where that is not simply all of it.

    ``ordered``: on the order of the parameters' names. ``only``: on the parameters ``names`` and no
    other; False: on all but ``names``. ``names``: decoded, sorted, each once.
    """

    ordered: bool
    only: bool
    names: tuple[bytes, ...]


_ALL: Final = SearchVariance(True, False, ())


def variance_of(fields: Fields) -> SearchVariance | None:
    """What a response with these ``fields`` says. None: that it depends on the whole query, or
    nothing, or something unreadable, which all mean the same."""
    value = fields.get(b"no-vary-search")
    if value is None or len(value) > MAX_FIELD:
        return None
    said: Any = parse_dictionary(value)
    if said is None:
        return None
    # "In general, this algorithm is strict and tends to return the default": what is not understood
    # as it stands voids the whole field, but for keys that are unknown.
    ordered = _bare(said.get("key-order", False))
    params, exceptions = said.get("params", (False, {})), said.get("except")
    if not isinstance(ordered, bool):
        return None
    if isinstance(params[0], list):
        names = _names(params[0])
        only = False
        if exceptions is not None:
            return None
    else:
        wildcard = _bare(params)
        if not isinstance(wildcard, bool) or (exceptions is not None and not wildcard):
            return None
        only = wildcard
        names = ()
        if exceptions is not None:
            names = _names(exceptions[0]) if isinstance(exceptions[0], list) else None
    if names is None:
        return None
    variance = SearchVariance(not ordered, only, names)
    return None if variance == _ALL else variance


def _bare(item: Any) -> Any:
    """An item without its parameters, which mean nothing here."""
    return item[0] if isinstance(item, tuple) else item


def _names(members: Iterable[Any]) -> tuple[bytes, ...] | None:
    """The parameters that an inner list of strings names; None if it is something else."""
    names: set[bytes] = set()
    for member in members:
        name = _bare(member)
        if type(name) is not str:  # (a token is a str of a class of its own)
            return None
        names.add(_decoded(name.encode("ascii")))
    return tuple(sorted(names)) if len(names) <= MAX_PARAMS else None


def _decoded(text: bytes) -> bytes:
    """A name or a value of application/x-www-form-urlencoded."""
    text = text.replace(b"+", b" ")
    return _ENCODED.sub(_byte, text) if b"%" in text else text


def _byte(encoded: re.Match[bytes]) -> bytes:
    return bytes((int(encoded[1], 16),))


def reduced(query: bytes, variance: SearchVariance) -> bytes:
    """What ``variance`` leaves of a query, written in one way. Equal for two queries if and only if
    their targets are equivalent, as to the query."""
    pairs: list[tuple[bytes, bytes]] = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            name = _decoded(name)
            if (name in variance.names) is variance.only:
                pairs.append((name, _decoded(value)))
    if not variance.ordered:
        pairs.sort(key=lambda pair: pair[0])  # stable: values of one name keep their order
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs).encode("ascii")


def _quoted(text: bytes) -> str:
    return quote_from_bytes(text, safe="")


def path_key(key: bytes) -> bytes:
    """The key of what the responses of a target's path said last; ``key``: the target's."""
    before, _, after = query_of(key)
    return b"%b0:%b%b" % (before, after, _PATH)


def class_key(key: bytes, variance: SearchVariance) -> bytes:
    """The key of all targets that are equivalent, given ``variance``, to the one whose key is
    ``key``. A variant's key is made of it as of any primary key, and a label."""
    before, query, after = query_of(key)
    query = reduced(query, variance)
    return b"%b%d:%b%b%b%b" % (before, len(query), query, after, _CLASS, _digest(variance))


@lru_cache(maxsize=256)
def _digest(variance: SearchVariance) -> bytes:
    return blake2b(repr(tuple(variance)).encode("ascii"), digest_size=16).digest()


def search_tag(uri: str) -> str:
    """What responses that are stored by `class_key` are tagged with, besides their own tags, so that
    a purge of ``uri`` reaches them: all those of its path, for which of them it means depends on what
    they said, and may be known only once they are here. No response can be tagged so itself: a
    field's value has no NUL."""
    path = uri.partition("?")[0].encode("utf-8", "surrogatepass")
    return f"\x00search {blake2b(path, digest_size=16).hexdigest()}"


def purge_label(key: bytes) -> str:
    """What purges are matched against: `label_of`, but of the key of a class its path and `_ANY`, for
    which URLs are among it depends on more than what is left of a query."""
    label = label_of(key)
    if _CLASS not in key:
        return label
    _, _, rest = query_of(key)
    if key[:2] == b"x;":
        for _ in range(2):  # the rewritten path, the mount point
            colon = rest.index(b":")
            rest = rest[colon + 1 + int(rest[:colon]) :]
    return label.partition("?")[0] + _ANY if rest.startswith(_CLASS) else label


def reaching(invalidations: Iterable[Invalidation]) -> tuple[Invalidation, ...]:
    """The marks, with those by which they reach what is stored under the keys of classes, if one of
    the equivalent URLs could be meant.

    Anything can be in the part of a query that does not matter. So a purge of a URL is one of all the
    classes of its path; and a prefix or a pattern is one of all the classes of those paths at which,
    followed by some query, it matches.
    """
    added: dict[Invalidation, None] = {}
    for invalidation in invalidations:
        if invalidation.kind == "key":
            added[Invalidation("tag", search_tag(invalidation.value), invalidation.soft)] = None
        elif invalidation.kind in ("prefix", "glob", "path"):
            reached = _class_pattern(invalidation)
            if reached is not None:
                added[reached] = None
    return (*invalidations, *added)


def _class_pattern(invalidation: Invalidation) -> Invalidation | None:
    """The pattern that matches the labels of classes at whose path ``mark`` matches with some query;
    None if it does so itself."""
    kind: InvalidationKind = "path" if invalidation.kind == "path" else "glob"
    beginning, star, _ = invalidation.value.partition("*")
    path, question, _ = (
        invalidation.value if invalidation.kind == "prefix" else beginning
    ).partition("?")
    if invalidation.kind == "prefix":
        if not question:
            return None  # all that begin so do, whatever follows
        path, star, _ = path.partition("*")  # (which stands for itself there)
    elif question:
        star = ""  # the path is known to its end
    if star or len(path) + len(_ANY) > MAX_PATTERN_LENGTH:
        return Invalidation(
            kind, path[: MAX_PATTERN_LENGTH - 2] + "*" + _ANY[-1], invalidation.soft
        )
    return Invalidation(kind, path + _ANY, invalidation.soft)


def tag_of(key: bytes) -> str:
    """The `search_tag` of a key's target."""
    return search_tag(label_of(key))
