"""Targeted Cache-Control: directives for this cache, apart from those for others (RFC 9213).

A *target list* names the response fields that are looked at before Cache-Control, best first: by
default ``LayerGate-Cache-Control``, which is for LayerGate alone, and ``CDN-Cache-Control``. "the
cache MUST select the first (in target-list order) field with a valid, non-empty value and use its
value to determine the caching policy for the response, and it MUST ignore the Cache-Control and
Expires header fields in that response" (section 2.2). Nothing else is ignored: Age, Date, Vary,
Set-Cookie and Authorization mean what they always mean.

How it is read:

* A targeted field is a Dictionary (RFC 9651 section 3.2), all its lines combined, of two members
  with one name the last. "If a targeted field in a given response is empty, or a parsing error is
  encountered, that field MUST be ignored by the cache": one bad member, such as ``MaX-aGe=60``,
  ``max-age =60`` or a sixteen-digit number, and it is as if the field were not there.
* Of a field that can be parsed, a member of the wrong type is ignored, it alone: "Implementations
  SHOULD NOT consume values that violate these inferred constraints". ``max-age`` and its like are
  Integers that are not negative, ``public`` and ``must-understand`` are true, a list of field names
  is a String.
* A member that *restricts* (``no-store``, ``no-cache``, ``private``, ``must-revalidate``...) counts
  with a value of any type, as it does in Cache-Control, but for ``?0``, which says that it is not
  meant. Whoever writes ``private=1`` does not mean the response for everyone.
* "Parameters received on cache directives are to be ignored".

*Cache-Control: private, with CDN-Cache-Control: max-age=60, is shared.* Here the RFC decides against
our habit to refuse in doubt, and there is no doubt: it is a MUST, the field exists to be given beside
a ``private`` or ``no-store`` that is for browsers (3.1 has that very example), and other shared caches
share the response as well. What protects it otherwise still does: Set-Cookie, Authorization, a user
whom the app knows. But it is the targeted field that has to allow it. Where that says nothing about
storing (``CDN-Cache-Control: none``), a lifetime of our own, a rule's or a guess, is not put in the
place of a ``private`` or ``no-store`` that the origin did say: `Policy.withheld`.

A 304, or a response to HEAD, that does not repeat a targeted field leaves the stored one, whatever its
Cache-Control says: it updates the stored fields (RFC 9111 section 3.2), and frameworks that make 304s
copy the fields they know. What decides from then on is what the updated fields say.

LayerGate-Cache-Control is not sent on: it is for this cache, and nothing that comes after it has a
use for it. The others are, so that "downstream CDN caches can use it as well" (section 3). A field
that is not on the target list is stored and sent on like any other. Surrogate-Control is of an older
kind (Edge Architecture 1.0), with a syntax and rules of its own, and is not implemented.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from layergate.http.message.cache_control import (
    DELTA_MAX,
    EMPTY,
    CacheControl,
    field_names,
    parse_cache_control,
)
from layergate.http.message.fields import Fields
from layergate.http.message.structured import parse_dictionary

__all__ = ["OWN", "Policy", "parse_targeted", "policy_of"]

OWN: Final = b"layergate-cache-control"
"""The target that is for LayerGate alone."""

_CACHED_LENGTH: Final = 1024  # bytes
_RESTRICTING: Final = {
    "no-store": "no_store",
    "no-cache": "no_cache",
    "private": "private",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "proxy_revalidate",
    "no-transform": "no_transform",
    # RFC 8246 section 2: "If any arguments are present, they have no meaning and MUST be ignored."
    "immutable": "immutable",
}
_PERMITTING: Final = {"public": "public", "must-understand": "must_understand"}
_QUALIFIABLE: Final = {"no-cache": "no_cache_fields", "private": "private_fields"}
# Those that mean something in a response.
_DELTAS: Final = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
}


class Policy(NamedTuple):
    """What the head of a response says about caching it, whichever field says it."""

    directives: CacheControl
    fields: Fields
    """The head as freshness and storing are to see it: without what is to be ignored."""
    decided_by: bytes
    """The field that has the directives: a targeted one, ``cache-control``, or b"" for none."""
    withheld: bool
    """The Cache-Control that a targeted field replaces says ``private`` or ``no-store``. Then only
    what the targeted field says may give the response a lifetime."""

    @property
    def targeted(self) -> bool:
        """Is it a targeted field that decides?"""
        return self.decided_by not in (b"", b"cache-control")


def policy_of(fields: Fields, targets: tuple[bytes, ...]) -> Policy:
    """The caching policy of a response with these ``fields`` (RFC 9213 section 2.2).

    ``targets``: the target list, lower-case names, the most preferred first. "Note that this occurs
    on a response-by-response basis". Never raises.
    """
    for name in targets:
        value = fields.get(name)
        if value is None:
            continue
        directives = parse_targeted(value)
        if directives is None:
            continue
        plain = parse_cache_control(fields.get(b"cache-control"))
        if b"expires" in fields:
            fields = Fields([line for line in fields.lines if line[0] != b"expires"])
        return Policy(directives, fields, name, plain.private or plain.no_store)
    control = fields.get(b"cache-control")
    if control is None:
        return Policy(EMPTY, fields, b"", False)
    return Policy(parse_cache_control(control), fields, b"cache-control", False)


def parse_targeted(value: bytes) -> CacheControl | None:
    """The directives of a targeted field, all its lines combined (RFC 9213 section 2.1).

    None if it is to be ignored, being empty or no Dictionary. Never raises. Results are shared by
    way of a bounded cache, except those of values over 1 KB.
    """
    return _cached(value) if len(value) <= _CACHED_LENGTH else _parse(value)


def _parse(value: bytes) -> CacheControl | None:
    parsed = parse_dictionary(value)
    if not parsed:
        return None
    found: dict[str, Any] = {}
    for name, (item, _) in parsed.items():
        if name in _DELTAS:
            # type(), since True is an int as well.
            if type(item) is int and item >= 0:
                found[_DELTAS[name]] = min(item, DELTA_MAX)
        elif name in _PERMITTING:
            if item is True:
                found[_PERMITTING[name]] = True
        elif name in _RESTRICTING and item is not False:
            names = None
            if name in _QUALIFIABLE and type(item) is str:
                names = field_names(item.encode("ascii"))
            if names:
                found[_QUALIFIABLE[name]] = names
            else:
                found[_RESTRICTING[name]] = True
    return CacheControl(**found)


_cached = lru_cache(maxsize=1024)(_parse)
