"""Decide how to answer a request, given the stored response: the whole policy of RFC 9111 section 4.

Pure functions. `HitPath.peek` answers the simplest case of `Decision.HIT` without this module; a property
test checks that the two agree.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from layergate.core.entry import Entry
from layergate.http.message.cache_control import CacheControl
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.message.uri import canonical_uri
from layergate.http.rfc9111.partial import covers
from layergate.http.rfc9111.storing import Bypass

__all__ = [
    "NO_ANSWER",
    "PAUSED",
    "Decision",
    "Verdict",
    "answers",
    "bypass_reason",
    "decide",
    "is_reload",
    "stale_if_error",
    "stale_if_unreachable",
]

# A host that a purge can name, and that can't contain another part of a URI or a second Host.
_HOST: Final = re.compile(rb"(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]*)?").fullmatch
_CACHED_HOST: Final = 512  # bytes
_STORABLE_METHODS: Final = ("GET", "HEAD")
# Another protocol, and preconditions that only an origin can evaluate (RFC 9111 4.3.2).
_FOR_ORIGIN: Final = frozenset({b"if-match", b"if-unmodified-since", b"upgrade"})

NO_ANSWER: Final = frozenset({502, 503, 504})
"""The status codes of an origin that does not answer. RFC 9111 4.3.3: with a 5xx, a cache can "act as if
the server failed to respond". A 500 is not included, because it is a response of the app."""


class Decision(enum.Enum):
    """The possible answers, from best to worst."""

    HIT = "hit"  # send the stored response
    STALE = "stale"  # send it, and refresh it in the background (RFC 5861 section 3)
    REVALIDATE = "revalidate"  # ask the origin, with the stored validators if there are any
    MISS = "miss"  # no usable stored response
    GATEWAY_TIMEOUT = "only-if-cached"  # 504, because the client forbids forwarding (5.2.1.7)


class Verdict(NamedTuple):
    """A decision. ``fwd``: why the request is forwarded (RFC 9211 2.2), or "" if it is not. ``rfc``: the
    section that decided, in the form of `NotStored.rfc`."""

    decision: Decision
    fwd: str
    rfc: str


_HIT: Final = Verdict(Decision.HIT, "", "4.2")
_IMMUTABLE: Final = Verdict(Decision.HIT, "", "RFC 8246 2")
_ALLOWED_STALE: Final = Verdict(Decision.HIT, "", "5.2.1.2")
_STALE: Final = Verdict(Decision.STALE, "", "RFC 5861 3")
_TIMEOUT: Final = Verdict(Decision.GATEWAY_TIMEOUT, "", "5.2.1.7")
_PART: Final = Verdict(Decision.MISS, "partial", "3.3")
_NOTHING: Final = Verdict(Decision.MISS, "uri-miss", "4")
PAUSED: Final = Verdict(Decision.HIT, "", "5.2.1")
"""A reload shortly after another one is answered from the store. 5.2.1: request directives "are
advisory; a cache MAY implement them, but is not required to"."""


def bypass_reason(request: Request, *, max_key_length: int) -> Bypass | None:
    """Why the store can't answer this request, and its response is not stored; None if neither applies."""
    if request.method not in _STORABLE_METHODS:
        return Bypass.METHOD
    # Content in a GET has no defined semantics (RFC 9110 9.3.1). The app may read it, but the key does
    # not contain it.
    if request.has_body:
        return Bypass.REQUEST_BODY
    if not _FOR_ORIGIN.isdisjoint(request.fields.names()):
        return Bypass.UPGRADE if b"upgrade" in request.fields else Bypass.PRECONDITION
    if request.target_length > max_key_length:
        return Bypass.KEY_TOO_LONG
    scheme, host = request.scheme, request.host
    # A name has at most 253 characters (RFC 1035); longer ones are not cached.
    known = len(host) <= _CACHED_HOST and len(scheme) <= _CACHED_HOST
    canonical = _cached_host(scheme, host) if known else _canonical_host(scheme, host)
    if not canonical:
        return Bypass.HOST
    return None


def _canonical_host(scheme: str, host: bytes) -> bool:
    """True if the Host is in canonical form.

    A key contains the Host as received. A response stored under another spelling (capitals, a default
    port) or without a Host would be a second copy that no purge of the canonical URI finds.
    """
    if not _HOST(host):
        return False
    root = f"{scheme}://{host.decode('latin-1')}/"
    return canonical_uri(root) == root


_cached_host = lru_cache(maxsize=1024)(_canonical_host)


def is_reload(decision: Decision, fwd: str) -> bool:
    """True if a request is forwarded only because of its directives (``no-cache``, ``max-age``,
    ``min-fresh``), while the stored response is fresh for other clients."""
    return decision is Decision.REVALIDATE and fwd == "request"


def decide(request: Request, entry: Entry | None, now: float) -> Verdict:
    """The decision for a request that does not bypass the cache (see `bypass_reason`).

    ``entry`` is the stored entry for exactly this request: its selected variant, not purged.
    """
    directives = request.directives
    verdict = _decide(request, directives, entry, now)
    if directives.only_if_cached and verdict.decision in (Decision.REVALIDATE, Decision.MISS):
        return _TIMEOUT
    return verdict


def _decide(request: Request, directives: CacheControl, entry: Entry | None, now: float) -> Verdict:
    if entry is None or not isinstance(stored := entry.value, StoredResponse):
        return _NOTHING
    if not answers(request, stored):
        own = request.authorization and not stored.shared_with_authorization
        return Verdict(Decision.MISS, "request", "3.5" if own else "G1")
    if not covers(request, stored):
        return _PART
    if stored.no_cache:
        return Verdict(Decision.REVALIDATE, "stale", "5.2.2.4")
    if entry.doubtful:
        return Verdict(Decision.REVALIDATE, "stale", "G3")
    staleness = entry.staleness(now)  # 4.2: fresh while freshness_lifetime > current_age
    # RFC 9211 2.2: "request" applies to a fresh response; only that can be reloaded.
    refused = "stale" if staleness >= 0 else "request"
    if directives.no_cache:
        return Verdict(Decision.REVALIDATE, refused, "5.2.1.4")
    if directives.min_fresh is not None and -staleness < directives.min_fresh:
        return Verdict(Decision.REVALIDATE, refused, "5.2.1.3")
    # A max-age makes the response stale for this client earlier than for others, and excludes stale
    # responses unless the request also has max-stale (5.2.1.1, 5.2.1.2). "max-age=0" always revalidates,
    # because clients use it to get the current response. Browsers also send it on a reload. For immutable
    # responses, "proxies SHOULD skip conditionally revalidating fresh responses ... unless there is a
    # signal from the client that a validation is necessary (e.g., a no-cache Cache-Control request
    # directive" (RFC 8246 section 2).
    excess = staleness
    if directives.max_age is not None:
        if stored.immutable and directives.max_age == 0 and staleness < 0:
            return _IMMUTABLE
        over = now - stored.generated - directives.max_age
        if over > 0 or not directives.max_age:
            excess = max(excess, over)
        elif staleness < 0:
            return _HIT
    elif staleness < 0:
        return _HIT
    allowed = directives.max_stale is not None and excess <= directives.max_stale
    in_window = 0 <= staleness < entry.stale_while_revalidate
    if in_window and (allowed or (directives.max_age is None and directives.max_stale is None)):
        return _STALE
    if allowed and (staleness < 0 or not stored.must_revalidate):
        return _ALLOWED_STALE
    return Verdict(Decision.REVALIDATE, refused, "4.2.4" if staleness >= 0 else "5.2.1.1")


class ClientConditions(Protocol):
    """The conditions of a stored response, or of a planned one, on the clients that may get it."""

    @property
    def without_credentials_only(self) -> bool: ...
    @property
    def shared_with_authorization(self) -> bool: ...
    @property
    def shared_with_users(self) -> bool: ...


def answers(request: Request, stored: ClientConditions) -> bool:
    """True if the client of this request, with its credentials or known user, may get this response."""
    return (
        not (stored.without_credentials_only and request.cookie)
        and (stored.shared_with_authorization or not request.authorization)
        and (stored.shared_with_users or not request.personal)
    )


def stale_if_error(request: Request, entry: Entry, now: float) -> bool:
    """True if ``entry`` may replace an error of the origin: RFC 5861 section 4, both forms."""
    stored = entry.value
    if not isinstance(stored, StoredResponse) or stored.no_cache:
        return False
    if not answers(request, stored) or not covers(request, stored):
        return False
    staleness = entry.staleness(now)
    if entry.stale_if_error and staleness < entry.stale_if_error:
        return True
    asked = request.directives.stale_if_error
    return asked is not None and not stored.must_revalidate and staleness < asked


def stale_if_unreachable(request: Request, entry: Entry, now: float, window: float | None) -> bool:
    """True if ``entry`` may replace the response of an origin that can't be reached.

    ``window``: the number of seconds after the end of its freshness; None: never.

    RFC 9111 4.2.4: "A cache MUST NOT generate a stale response unless it is disconnected or doing
    so is explicitly permitted", and in no case "if it is prohibited by an explicit in-protocol
    directive (e.g., by a no-cache response directive, a must-revalidate response directive, or an
    applicable s-maxage or proxy-revalidate response directive".
    """
    stored = entry.value
    return (
        window is not None
        and isinstance(stored, StoredResponse)
        and not stored.no_cache
        and not stored.must_revalidate
        and answers(request, stored)
        and covers(request, stored)
        and entry.staleness(now) < window
    )
