"""The URIs that an unsafe request invalidates (RFC 9111 section 4.4). Pure; `purge` does the rest."""

from __future__ import annotations

from typing import Final

from layergate.http.message.fields import Fields
from layergate.http.message.uri import canonical_uri, origin_of, resolve_uri

__all__ = ["SAFE_METHODS", "invalidated_uris", "invalidates"]

SAFE_METHODS: Final = frozenset(
    {"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"}
)
"""The methods that are safe by the IANA registry, except PRI, which is not a request.

Method names are case-sensitive (RFC 9110 section 9.1), so ``get`` is not safe.
"""

# A response has one Location and one Content-Location; more than a few lines are an attack.
_MOST: Final = 8


def invalidates(method: str, status: int) -> bool:
    """True if a response with this ``status`` to this ``method`` invalidates the target URI.

    "A cache MUST invalidate the target URI ... when it receives a non-error status code in response
    to an unsafe request method (including methods whose safety is unknown)." Non-error means 2xx or 3xx.
    """
    return method not in SAFE_METHODS and 200 <= status <= 399


def invalidated_uris(target: str, fields: Fields) -> list[str]:
    """The URIs to invalidate, canonical, without duplicates, the target first.

    ``target`` is the absolute target URI of the request, ``fields`` the response's. "the URI(s) in
    the Location and Content-Location response header fields (if present) are candidates", but "a
    cache MUST NOT trigger an invalidation under these conditions if the origin ... of the URI to be
    invalidated differs from that of the target URI". Unreadable candidates are skipped. An unreadable
    target is returned unchanged and alone.
    """
    canonical = canonical_uri(target)
    if canonical is None:
        return [target]
    uris = [canonical]
    origin = origin_of(canonical)
    references = (fields.all(b"location") + fields.all(b"content-location"))[:_MOST]
    for reference in references:
        uri = resolve_uri(canonical, reference.decode("latin-1").strip(" \t"))
        if uri is not None and uri not in uris and origin_of(uri) == origin:
            uris.append(uri)
    return uris
