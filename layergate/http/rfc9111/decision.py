"""What to do with a request, given what is stored. Pure: the whole policy of RFC 9111 section 4.

`HttpCache.peek` answers the plainest case of `Decision.HIT` without coming here; a property test
holds the two together.
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
from layergate.http.rfc9111.storing import Refused

__all__ = [
    "NO_ANSWER",
    "PAUSED",
    "Decision",
    "Verdict",
    "answers",
    "decide",
    "is_reload",
    "passes",
    "stale_if_error",
    "stale_if_unreachable",
]

# What a purge can name, and nothing in which another part of a URI, or a second Host, could hide.
_HOST: Final = re.compile(rb"(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]*)?").fullmatch
_CACHED_HOST: Final = 512  # bytes
_STORABLE_METHODS: Final = ("GET", "HEAD")
# Another protocol, and preconditions that only an origin can evaluate (RFC 9111 4.3.2).
_FOR_ORIGIN: Final = frozenset({b"if-match", b"if-unmodified-since", b"upgrade"})

NO_ANSWER: Final = frozenset({502, 503, 504})
"""The statuses that say that an origin gives no answer. RFC 9111 4.3.3: a cache can "act as if the
server failed to respond" to a 5xx; of a 500 one cannot say that it did."""


class Decision(enum.Enum):
    """The possible answers, from best to worst."""

    HIT = "hit"  # send the stored response
    STALE = "stale"  # send it, and refresh it in the background (RFC 5861 section 3)
    REVALIDATE = "revalidate"  # ask the origin, with the stored validators if there are any
    MISS = "miss"  # nothing that could be used
    GATEWAY_TIMEOUT = "only-if-cached"  # 504, since the client wants no forwarding (5.2.1.7)


class Verdict(NamedTuple):
    """``fwd``: why the request goes forward (RFC 9211 2.2), or "" where it does not.
    ``rfc``: what decided, in the form of `Refused.rfc`."""

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
"""A reload that comes too soon after another one is answered from the store. 5.2.1: request directives
"are advisory; a cache MAY implement them, but is not required to"."""


def passes(request: Request, *, max_key_length: int) -> Refused | None:
    """Why this request cannot be answered from the store, nor its response be stored; or None."""
    if request.method not in _STORABLE_METHODS:
        return Refused.METHOD
    # A GET with content has no defined semantics (RFC 9110 9.3.1): the app may look at it, the key
    # does not.
    if request.has_body:
        return Refused.REQUEST_BODY
    if not _FOR_ORIGIN.isdisjoint(request.fields.names()):
        return Refused.UPGRADE if b"upgrade" in request.fields else Refused.PRECONDITION
    if request.target_length > max_key_length:
        return Refused.KEY_TOO_LONG
    scheme, host = request.scheme, request.host
    # A name has at most 253 characters (RFC 1035); what is longer is not worth remembering.
    known = len(host) <= _CACHED_HOST and len(scheme) <= _CACHED_HOST
    canonical = _cached_host(scheme, host) if known else _canonical_host(scheme, host)
    if not canonical:
        return Refused.HOST
    return None


def _canonical_host(scheme: str, host: bytes) -> bool:
    """A key holds the Host as it came. Spelled unusually (in capitals, with the default port), or
    missing, what is stored would be a second copy that no purge of the canonical URI finds."""
    if not _HOST(host):
        return False
    root = f"{scheme}://{host.decode('latin-1')}/"
    return canonical_uri(root) == root


_cached_host = lru_cache(maxsize=1024)(_canonical_host)


def is_reload(decision: Decision, fwd: str) -> bool:
    """True if a request is forwarded for its directives alone (``no-cache``, ``max-age``,
    ``min-fresh``): to any other client, what is stored would be fresh."""
    return decision is Decision.REVALIDATE and fwd == "request"


def decide(request: Request, entry: Entry | None, now: float) -> Verdict:
    """The decision for a request that does not pass (see `passes`).

    ``entry`` is what is stored for exactly this request, its variant selected and not purged.
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
    # RFC 9211 2.2: "request" is for a response that is fresh; only that can be reloaded.
    refused = "stale" if staleness >= 0 else "request"
    if directives.no_cache:
        return Verdict(Decision.REVALIDATE, refused, "5.2.1.4")
    if directives.min_fresh is not None and -staleness < directives.min_fresh:
        return Verdict(Decision.REVALIDATE, refused, "5.2.1.3")
    # A client that names a max-age makes a response stale for itself earlier than the origin does,
    # and wants nothing stale unless it also says how stale (5.2.1.1, 5.2.1.2).
    # "max-age=0" is what every client says that wants to be sure, so it means always. It is also what
    # a reload says, and of what is immutable "proxies SHOULD skip conditionally revalidating fresh
    # responses ... unless there is a signal from the client that a validation is necessary (e.g., a
    # no-cache Cache-Control request directive" (RFC 8246 section 2).
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


class ForWhom(Protocol):
    """What a stored response, or the plan for one, says of who may have it."""

    @property
    def without_credentials_only(self) -> bool: ...
    @property
    def shared_with_authorization(self) -> bool: ...
    @property
    def shared_with_users(self) -> bool: ...


def answers(request: Request, stored: ForWhom) -> bool:
    """May a client that says who it is, or is known, have this response at all?"""
    return (
        not (stored.without_credentials_only and request.cookie)
        and (stored.shared_with_authorization or not request.authorization)
        and (stored.shared_with_users or not request.personal)
    )


def stale_if_error(request: Request, entry: Entry, now: float) -> bool:
    """May ``entry`` stand in for an error of the origin? RFC 5861 section 4, both forms."""
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
    """May ``entry`` stand in for an origin that cannot be reached? ``window``: for so many seconds
    after its freshness; None: never.

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
