"""Which fetch a request may share with others, if any: the key of its flight, and why it has none.

Pure questions, asked by `decide`, `collapse`, `refresh` and `explain`. Whether a particular fetch under
way may be joined is asked of the exchange.
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.hit_for_miss import WITH_COOKIE
from layergate.http.engine.lookup import Selected
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.settings import Settings
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.partial import flight_suffix
from layergate.http.rules import Match

__all__ = ["flight_key", "has_landed", "refresh_key", "why_uncollapsed"]


def why_uncollapsed(
    settings: Settings,
    request: Request,
    entry: Entry | None,
    match: Match | None,
    marker: HitForMiss | None,
) -> str | None:
    """Why this request neither waits for another request's fetch nor lets others wait for its own, in
    a word that `explain` knows; None if it does."""
    if marker is not None:
        return "marker"
    if not settings.collapse:
        return "collapse"
    if request.method != "GET":
        return "method"
    if request.ranges is not None and len(request.ranges) > 1:
        return "ranges"
    if request.authorization:
        return "authorization"
    if request.personal and not (match is not None and match.rule.allow_cookie):
        return "user"
    if request.directives.no_store:
        return "request-no-store"
    # Not to be reused without validation, so not by those who wait either.
    return "no-cache" if entry is not None and not _is_reusable(entry) else None


def flight_key(request: Request, match: Match | None, selected: Selected) -> bytes:
    """The key of the fetch that this request may share."""
    key = selected.storage_key + flight_suffix(request)
    return key + WITH_COOKIE if request.cookie and _keeps_cookies_apart(match) else key


def refresh_key(entry: Entry, request: Request, selected: Selected) -> bytes:
    """The key of a background refresh of ``entry``. Of a part, only that part is asked for, and without
    the client's If-Range; so a request with one does not join the refresh."""
    if isinstance(entry.value, PartialResponse):
        return selected.storage_key + flight_suffix(request.for_refresh(part=True))
    return selected.storage_key


def has_landed(engine: Engine, key: bytes, seen: Entry | None) -> bool:
    """True if something fresher than ``seen`` has been stored under ``key`` since that was looked up.

    Under threads a fetch may land, with its response stored, between a request's look at the store and
    its look at the flights. The request would find neither, and fetch once more (G2).
    """
    entry = engine.stack.peek(key)
    if entry is None or entry is seen or entry.fresh_until <= engine.runtime.now():
        return False
    return seen is None or entry.fresh_until > seen.fresh_until


def _keeps_cookies_apart(match: Match | None) -> bool:
    """True if a rule gives a lifetime that is not for requests with cookies. Those would only wait to be
    refused, and what they get says nothing about what the others share."""
    return match is not None and match.rule.ttl is not None and not match.rule.allow_cookie


def _is_reusable(entry: Entry) -> bool:
    """True if this response, once validated, has a lifetime for those who wait."""
    stored: StoredResponse = entry.value
    return not stored.no_cache and (
        entry.stale_from + entry.stale_while_revalidate > stored.response_time
    )
