"""No-Vary-Search: the parts of a query that a response does not depend on (The No-Vary-Search HTTP
Caching Extension, draft-ietf-httpbis-no-vary-search).

A response with this field is stored under the key of a *class*, made from its path, the field, and the
part of the query that the field leaves. All targets that the field makes equivalent share this
key, and no other target has it (G9). The latest field of a path is stored under a key of the path
alone. A request looks under its own target first, then reads the field of its path, then looks under
the key of the class.

LayerGate departs from the draft twice, both times towards not sharing. Percent-encoded bytes that are
not UTF-8 are compared as they are; the draft turns them all into U+FFFD, but an app can distinguish
them. A field that is unreasonably long is ignored.
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
"""The number of parameters that ``params`` or ``except`` may name."""
MAX_FIELD: Final = 4096
"""Bytes. A longer field is ignored."""
# Suffixes of keys. A key determines its own end, so no suffix can be part of another key; no other
# suffix is as long as these.
_PATH: Final = b"\x00path search"
_CLASS: Final = b"\x00search:"
_ANY: Final = "?\0"  # the end of the label of a class, and of no other label
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class SearchVariance(NamedTuple):
    """How a response depends on the query, if not on all of it.

    ``ordered``: it depends on the order of the parameters' names. ``only``: it depends on the
    parameters ``names`` alone; if False, on all parameters but ``names``. ``names``: decoded, sorted,
    without duplicates.
    """

    ordered: bool
    only: bool
    names: tuple[bytes, ...]


_ALL: Final = SearchVariance(True, False, ())


def variance_of(fields: Fields) -> SearchVariance | None:
    """The No-Vary-Search of a response; None if the response depends on the whole query.

    An absent or unreadable field means the whole query, too.
    """
    value = fields.get(b"no-vary-search")
    if value is None or len(value) > MAX_FIELD:
        return None
    said: Any = parse_dictionary(value)
    if said is None:
        return None
    # "In general, this algorithm is strict and tends to return the default": any invalid value voids
    # the whole field. Unknown keys are ignored.
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
    """An item without its parameters, which have no meaning here."""
    return item[0] if isinstance(item, tuple) else item


def _names(members: Iterable[Any]) -> tuple[bytes, ...] | None:
    """The parameters that an inner list of strings names; None for any other list."""
    names: set[bytes] = set()
    for member in members:
        name = _bare(member)
        if type(name) is not str:  # a token is an instance of a subclass
            return None
        names.add(_decoded(name.encode("ascii")))
    return tuple(sorted(names)) if len(names) <= MAX_PARAMS else None


def _decoded(text: bytes) -> bytes:
    """A decoded name or value of application/x-www-form-urlencoded."""
    text = text.replace(b"+", b" ")
    return _ENCODED.sub(_byte, text) if b"%" in text else text


def _byte(encoded: re.Match[bytes]) -> bytes:
    return bytes((int(encoded[1], 16),))


def reduced(query: bytes, variance: SearchVariance) -> bytes:
    """The part of a query that a response depends on, in canonical form.

    Two queries have the same result if and only if ``variance`` makes them equivalent.
    """
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
    """The key for the latest `SearchVariance` of a target's path. ``key``: the target's."""
    before, _, after = query_of(key)
    return b"%b0:%b%b" % (before, after, _PATH)


def class_key(key: bytes, variance: SearchVariance) -> bytes:
    """The common key of all targets that ``variance`` makes equivalent to the target of ``key``.

    Variant keys and labels are made from it as from any primary key.
    """
    before, query, after = query_of(key)
    query = reduced(query, variance)
    return b"%b%d:%b%b%b%b" % (before, len(query), query, after, _CLASS, _digest(variance))


@lru_cache(maxsize=256)
def _digest(variance: SearchVariance) -> bytes:
    return blake2b(repr(tuple(variance)).encode("ascii"), digest_size=16).digest()


def search_tag(uri: str) -> str:
    """The tag of responses that are stored under a `class_key`, so that a purge of ``uri`` reaches them.

    All responses of a path have the same tag. Which of them a purge means depends on their fields,
    which may be known only when they are read. A field value can't contain a NUL, so no response can
    carry such a tag itself.
    """
    path = uri.partition("?")[0].encode("utf-8", "surrogatepass")
    return f"\x00search {blake2b(path, digest_size=16).hexdigest()}"


def purge_label(key: bytes) -> str:
    """The label that purges match: `label_of`, or for the key of a class, its path and `_ANY`.

    The URLs in a class depend on more than the remaining part of the query.
    """
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
    """The invalidations, plus those that reach the classes in which they match a URL.

    The ignored part of a query can contain anything. So a purge of a URL also purges all classes of its
    path. A prefix or pattern also purges all classes of each path that it matches when followed by some
    query.
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
    """The pattern for the labels of the classes that ``invalidation`` reaches; None if it matches those
    labels itself."""
    kind: InvalidationKind = "path" if invalidation.kind == "path" else "glob"
    beginning, star, _ = invalidation.value.partition("*")
    path, question, _ = (
        invalidation.value if invalidation.kind == "prefix" else beginning
    ).partition("?")
    if invalidation.kind == "prefix":
        if not question:
            return None  # it matches every label with this beginning
        path, star, _ = path.partition("*")  # in a prefix, a star stands for itself
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
