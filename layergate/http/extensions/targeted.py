"""Targeted Cache-Control: directives for this cache, separate from those for others (RFC 9213).

A *target list* names the response fields that take precedence over Cache-Control, most preferred first.
The default list is ``LayerGate-Cache-Control``, which addresses LayerGate alone, and
``CDN-Cache-Control``. "the cache MUST select the first (in target-list order) field with a valid,
non-empty value and use its value to determine the caching policy for the response, and it MUST ignore
the Cache-Control and Expires header fields in that response" (section 2.2). No other field is ignored:
Age, Date, Vary, Set-Cookie and Authorization keep their meaning.

A targeted field is read as follows:

* It is a Dictionary (RFC 9651 section 3.2). All its lines are combined, and if a name occurs twice, the
  last member counts. "If a targeted field in a given response is empty, or a parsing error is
  encountered, that field MUST be ignored by the cache". One bad member, such as ``MaX-aGe=60``,
  ``max-age =60`` or a sixteen-digit number, is a parsing error.
* In a field that can be parsed, a member of the wrong type is ignored, but only that member:
  "Implementations SHOULD NOT consume values that violate these inferred constraints". ``max-age`` and
  similar directives are non-negative Integers, ``public`` and ``must-understand`` are true, and a list of
  field names is a String.
* A member that *restricts* (``no-store``, ``no-cache``, ``private``, ``must-revalidate``...) applies with
  a value of any type, as it does in Cache-Control. The exception is ``?0``, which negates it. An origin
  that writes ``private=1`` does not mean to share the response.
* "Parameters received on cache directives are to be ignored".

*Cache-Control: private, with CDN-Cache-Control: max-age=60, is shared.* LayerGate refuses in doubt, but
here the RFC leaves no doubt: it is a MUST, the field exists to be combined with a ``private`` or
``no-store`` for browsers (3.1 has that very example), and other shared caches share the response as well.
The other protections remain: Set-Cookie, Authorization, and users whom the app knows. But the targeted
field itself has to allow sharing. If it has no directive about storing (``CDN-Cache-Control: none``), a
rule's or a heuristic lifetime does not override the origin's ``private`` or ``no-store``:
`Policy.withheld`.

If a 304 or a response to HEAD does not repeat a targeted field, the stored one remains, whatever the new
Cache-Control. Such a response updates the stored fields (RFC 9111 section 3.2), and frameworks that make
304s copy only the fields that they know. From then on the updated fields decide.

LayerGate-Cache-Control is not sent on, because no later cache has a use for it. The others are sent on, so
that "downstream CDN caches can use it as well" (section 3). A field that is not on the target list is
stored and sent on like any other. Surrogate-Control is older (Edge Architecture 1.0), has its own syntax
and rules, and is not implemented.
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

__all__ = ["Policy", "parse_targeted", "policy_of"]

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
# The directives with a meaning in a response.
_DELTAS: Final = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
}


class Policy(NamedTuple):
    """The caching policy in the head of a response, whichever field it comes from."""

    directives: CacheControl
    fields: Fields
    """The head for `freshness` and `storing`, without the fields that they must ignore."""
    decided_by: bytes
    """The field with the directives: a targeted one, ``cache-control``, or b"" without any."""
    withheld: bool
    """True if the Cache-Control that a targeted field replaces has ``private`` or ``no-store``. Then only
    the targeted field may give the response a lifetime."""

    @property
    def targeted(self) -> bool:
        """True if a targeted field decides."""
        return self.decided_by not in (b"", b"cache-control")


def policy_of(fields: Fields, targets: tuple[bytes, ...]) -> Policy:
    """The caching policy of a response with these ``fields`` (RFC 9213 section 2.2).

    ``targets``: the target list, lower-case names, most preferred first. "Note that this occurs
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

    None if the field is ignored because it is empty or not a Dictionary. Never raises. A bounded cache
    holds the results, except for values over 1 KB.
    """
    return _cached(value) if len(value) <= _CACHED_LENGTH else _parse(value)


def _parse(value: bytes) -> CacheControl | None:
    parsed = parse_dictionary(value)
    if not parsed:
        return None
    found: dict[str, Any] = {}
    for name, (item, _) in parsed.items():
        if name in _DELTAS:
            # `type`, because True is an int too.
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
