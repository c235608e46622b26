"""Which fetch a request may share with others, if any: the key of its flight, and why it has none.

And whether a request may join a particular fetch that is under way, or have what that brings (G1, G3).
Pure questions: `decide`, `collapse`, `refresh`, the driver and `explain` ask them, and they change nothing
but a hint in the request.
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.hit_for_miss import WITH_COOKIE
from layergate.http.engine.keys import tags_of_target
from layergate.http.engine.lookup import Selected
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.settings import Settings
from layergate.http.extensions.no_vary_search import class_key
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.decision import answers
from layergate.http.rfc9111.partial import flight_suffix
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["flight_key", "has_landed", "may_have", "may_join", "refresh_key", "why_uncollapsed"]


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
    return key + WITH_COOKIE if request.cookie and _separates_cookies(match) else key


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


def _separates_cookies(match: Match | None) -> bool:
    """True if a rule gives a lifetime that is not for requests with cookies. Those would only wait to be
    refused, and what they get says nothing about what the others share."""
    return match is not None and match.rule.ttl is not None and not match.rule.allow_cookie


def _is_reusable(entry: Entry) -> bool:
    """True if this response, once validated, has a lifetime for those who wait."""
    stored: StoredResponse = entry.value
    return not stored.no_cache and (
        entry.stale_from + entry.stale_while_revalidate > stored.response_time
    )


# -- a fetch that is under way ---------------------------------------------------------------------


def may_join(engine: Engine, exchange: Exchange, request: Request) -> bool:
    """True if a request that comes now may wait for this fetch.

    Not when something it is known to match was purged since it began (G3). What is learnt only from its
    head, `may_have` looks at.
    """
    stream = exchange.stream
    if stream.broken or exchange.state is State.RELEASED or exchange.state is State.FAILED:
        return False
    if stream.oversized or stream.held_up or _has_stalled(engine, exchange):
        return False
    if exchange.refused is NotStored.VALIDATOR:
        return False
    if exchange.plan is not None:
        # What is half here already was not fetched for a client that says so now (5.2.1).
        if request.directives.no_cache or request.directives.max_age == 0:
            return False
        if not _fits(engine, exchange, request) or not _begun_for(engine, exchange, request):
            return False
        tags = exchange.tags
    else:
        tags = tags_of_target(engine.settings, exchange.primary, exchange.request)
    stamp = exchange.began.stamp
    return not engine.stack.purged_since(stamp, tags, exchange.primary, soft=True)


def may_have(engine: Engine, exchange: Exchange, request: Request, joined_at: int) -> bool:
    """True if a follower may have the response that others are getting.

    It must be the variant it asked for, it must not be one that only anonymous clients may have, and
    nothing may have purged it between the start of the fetch and this request. ``joined_at``: the
    position of the log when it joined; -1 if this instance was cut off from the log.
    """
    if not _begun_for(engine, exchange, request):
        return False
    if exchange.plan is not None:
        return _fits(engine, exchange, request) and _is_still_valid(
            engine, exchange, request, exchange.tags, joined_at
        )
    entry = exchange.entry
    return (
        entry is not None
        and (exchange.refused is None or exchange.unchanged)
        and answers(request, entry.value)
        and _is_still_valid(engine, exchange, request, entry.tags, joined_at)
    )


def _has_stalled(engine: Engine, exchange: Exchange) -> bool:
    """True if nothing has come for so long that a newcomer had better not wait for it."""
    quiet = engine.runtime.now() - exchange.touched
    return quiet > engine.settings.collapse_timeout and not exchange.stream.ended


def _fits(engine: Engine, exchange: Exchange, request: Request) -> bool:
    """True if the response, its head known, is one that this request may be answered with."""
    plan, settings = exchange.plan, engine.settings
    assert plan is not None
    if not answers(request, plan):
        return False
    if request.exact != exchange.request.exact and (
        exchange.variance is None or class_key(request.exact, exchange.variance) != exchange.primary
    ):
        request.exactly = True  # it waited for what is not for its target after all
        return False
    if not settings.forwarding.covers(plan.names, request.fields.names()):
        return False
    secondary = settings.secondary(plan.names, request.fields)
    return plan.shareable and secondary == exchange.secondary


def _begun_for(engine: Engine, exchange: Exchange, request: Request) -> bool:
    """False if a purge may have become final, unknown here, after this fetch began and before that
    request arrived.

    While this instance hears the log, there is no such purge. Cut off from it, a request takes part only
    in a fetch that begins after it; it waits for the head of one that is older, so that there is one at
    a time.
    """
    return engine.stack.trusted or exchange.began.monotonic >= request.arrived


def _is_still_valid(
    engine: Engine, exchange: Exchange, request: Request, tags: tuple[str, ...], joined_at: int
) -> bool:
    began, arrived = exchange.began, request.arrived
    if joined_at == began.stamp or (arrived and began.monotonic >= arrived):
        return True
    return not engine.stack.purged_since(began.stamp, tags, exchange.primary, soft=True)
