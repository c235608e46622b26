"""Cache groups: responses that are invalidated together (RFC 9875).

``Cache-Groups`` in a response lists the groups that it belongs to. ``Cache-Group-Invalidation`` in the
response to an unsafe request lists the groups that the request has changed. Both are Lists of Strings
(RFC 9651 sections 3.1, 3.3.3) and are read strictly: "When field-specific constraints are violated, the
entire field is also ignored" (RFC 9651 section 2.2), so a single member that is not a String voids the
field. Both are sent on unchanged.

Two stored responses are in one group if they name the same String, "when compared
character-by-character (case sensitive)", and "share the same URI origin" (section 2.1). So a group is a
tag of the entry that contains the origin and the name. The tag begins with a NUL, which neither a field
value nor a purge may contain, so a user's tag can't equal a group's.

The RFC leaves two things open ("MAY"):

* LayerGate follows an invalidation whatever the status code of the response. The RFC requires an unsafe
  method and nothing more, and an origin that names a group in an error means it.
* Invalidating a response by its URI, through an unsafe request or a purge, does not invalidate the
  other members of its groups (section 2.2.1). Otherwise the effect would depend on which instance still
  holds the invalidated response, and a group of all pages would go whenever one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from layergate.core.invalidation import Invalidation
from layergate.http.message.fields import Fields
from layergate.http.message.structured import parse_list
from layergate.http.message.uri import canonical_uri, label_prefix, origin_of
from layergate.http.rfc9111.invalidation import SAFE_METHODS

__all__ = [
    "MAX_GROUPS",
    "MAX_GROUP_LENGTH",
    "group_invalidations",
    "group_name",
    "group_tags",
    "without_groups",
]

MAX_GROUPS: Final = 128
"""Groups of one response. RFC 9875 section 2: "MUST support at least 32 groups in a field value"."""
MAX_GROUP_LENGTH: Final = 256
"""Characters of a group's name: "with up to at least 32 characters in each member"."""

_PREFIX: Final = "\x00group "
_DIGEST: Final = 16  # bytes
_NAME_AT: Final = len(_PREFIX) + 2 * _DIGEST + 1
_CACHED_LENGTH: Final = 1024  # bytes


def group_tags(scheme: str, host: bytes, fields: Fields) -> tuple[str, ...] | None:
    """The tags for the groups that a response names, in order, without duplicates.

    ``scheme`` and ``host`` are those of its target URI. None if it names more groups than `MAX_GROUPS`,
    or one that is too long. Such a response must not be stored, because its groups could not
    invalidate it.
    """
    value = fields.get(b"cache-groups")
    if value is None:
        return ()
    names = _names(value)
    if not names:
        return ()
    if len(names) > MAX_GROUPS or any(len(name) > MAX_GROUP_LENGTH for name in names):
        return None
    origin = _origin(f"{scheme}://{host.decode('latin-1')}/")
    return () if origin is None else tuple(_tag(origin, name) for name in names)


def group_invalidations(
    target: str, method: str, status: int, fields: Fields
) -> tuple[Invalidation, ...]:
    """The invalidations that a response's Cache-Group-Invalidation asks for.

    ``target`` is the absolute target URI of the request; ``status`` and ``fields`` are the response's.
    Section 3: the field "MUST be ignored on responses to requests that have a safe method". More groups
    than `MAX_GROUPS` invalidate everything of the origin: too much is allowed, too little is not.
    """
    if method in SAFE_METHODS or status < 200:
        return ()
    value = fields.get(b"cache-group-invalidation")
    if value is None:
        return ()
    origin = _origin(target)
    # No stored response is in a group with a longer name.
    names = [name for name in _names(value) if len(name) <= MAX_GROUP_LENGTH]
    if origin is None or not names:
        return ()
    if len(names) > MAX_GROUPS:
        return (Invalidation("prefix", origin),)
    return tuple(Invalidation("tag", _tag(origin, name)) for name in names)


def group_name(tag: str) -> str | None:
    """The name of the group that a tag stands for; None for an ordinary tag."""
    return tag[_NAME_AT:] if tag.startswith(_PREFIX) else None


def without_groups(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that do not stand for groups."""
    return tuple(tag for tag in tags if not tag.startswith(_PREFIX))


def _names(value: bytes) -> tuple[str, ...]:
    """The members of a List of Strings, without duplicates; empty if the field is ignored."""
    return _cached(value) if len(value) <= _CACHED_LENGTH else _parse(value)


def _parse(value: bytes) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for name, _ in parse_list(value) or ():
        # A Token is another type: "scripts" is a String, scripts is not.
        if type(name) is not str:
            return ()
        names[name] = None
    return tuple(names)


_cached = lru_cache(maxsize=1024)(_parse)


def _tag(origin: str, name: str) -> str:
    # A digest keeps the tag short; a Host may be as long as a key.
    digest = blake2b(origin.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()
    return f"{_PREFIX}{digest} {name}"


def _origin(uri: str) -> str | None:
    """The common prefix of the labels of all URIs with the origin of ``uri`` (see `key.label_of`)."""
    canonical = canonical_uri(uri)
    if canonical is None or origin_of(canonical) is None:
        return None
    scheme, _, rest = canonical.partition("://")
    return label_prefix(scheme, rest.partition("/")[0])
