"""Requests for what is known not to be shareable, which an adapter forwards at once.

For most of them a marker in memory and the head of the response say all there is to say: no `Request`
is made, nothing is looked up, and no exchange watches. The adapter asks `cookie_marker` or
`is_for_one_user` where the hit path found nothing, and `unshared_head` once the head is there. If that
looks as if the response may be stored after all, `late_exchange` makes the exchange for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import new_exchange
from layergate.http.engine.hit_for_miss import WITH_COOKIE, marker_for
from layergate.http.engine.lookup import select_exactly
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.settings import Settings
from layergate.http.engine.witness import live_marker
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Lines
from layergate.http.message.request import Request
from layergate.http.privacy.full_decision import FULL_DECISION_FIELDS
from layergate.http.rfc9111.decision import passes
from layergate.http.rfc9111.storing import Refused
from layergate.http.rules import Match

__all__ = ["cookie_marker", "is_for_one_user", "late_exchange", "unshared_head"]

_OTHER_DECISION_FIELDS: Final = FULL_DECISION_FIELDS - {b"authorization"}
_FWD: Final = {Refused.COOKIE: "request", Refused.AUTHORIZATION: "request"}


def cookie_marker(engine: Engine, key: bytes, fields: Mapping[bytes, bytes]) -> HitForMiss | None:
    """The marker for requests with these cookies or other credentials, or None.

    ``fields``: none of which occurred twice, and nothing in which needs the full decision (see
    `HitPath.forwards_plainly`).
    """
    entry = engine.stack.peek(key + WITH_COOKIE)
    return live_marker(engine.runtime.now(), fields.items(), entry, credentials=True)


def is_for_one_user(engine: Engine, key: bytes, fields: Mapping[bytes, bytes]) -> bool:
    """True for a request with Authorization, in which nothing else needs the full decision, for a target
    of which certainly nothing is stored. Its response is for nobody else, so nobody waits for it."""
    return (
        b"authorization" in fields
        and b"cache-control" not in fields
        and _OTHER_DECISION_FIELDS.isdisjoint(fields)
        and engine.settings.forwarding.names.isdisjoint(fields)
        and engine.stack.peek_is_enough
        and not engine.settings.no_vary_search
        and engine.stack.peek(key) is None
    )


def unshared_head(
    settings: Settings, match: Match | None, lines: Lines, *, cookie: bool, authorization: bool
) -> Lines | None:
    """The head, for its client, of a response that is certainly not stored; None for "look closer".

    The quick answer for what most responses to a marked target are: they do not speak of caching and
    no rule speaks for them, or they say no-store or private.
    """
    fields = {name.lower(): value for name, value in lines}
    if not settings.target_names.isdisjoint(fields):
        return None
    control = fields.get(b"cache-control")
    reason: Refused | None = None
    if control is not None:
        directives = parse_cache_control(control)
        if directives.no_store and not directives.must_understand:
            reason = Refused.NO_STORE
        elif directives.private:
            reason = Refused.PRIVATE
    elif b"expires" not in fields and settings.options.heuristic is None:
        if match is None or match.rule.ttl is None:
            reason = Refused.NO_FRESHNESS
        elif authorization and not match.rule.allow_authorization:
            reason = Refused.AUTHORIZATION
        elif cookie and not match.rule.allow_cookie:
            reason = Refused.COOKIE
    if reason is None or (control is not None and match is not None and match.rule.override):
        return None
    if not settings.internal_fields.isdisjoint(fields):
        lines = settings.for_clients(lines)
    return [*lines, *settings.status.bypassed(reason, _FWD.get(reason, "miss"))]


async def late_exchange(
    engine: Engine, request: Request, match: Match | None, *, stamp: int, request_time: float
) -> Exchange:
    """An exchange for a fetch that began unwatched, at log position ``stamp`` and ``request_time``, and
    whose response now looks as if it may be stored."""
    selected = await select_exactly(engine, request)
    exchange = new_exchange(engine, request, selected, None, None, "miss", match)
    exchange.marked = await marker_for(engine, request, selected) is not None
    exchange.stamp = stamp
    exchange.request_time = request_time
    exchange.refused = passes(request, max_key_length=engine.settings.max_key_length)
    engine.counters.requests["miss", ""] += 1
    return exchange
