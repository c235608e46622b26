"""Open: the line of verbs for a request that the hit path could not answer.

    bypass? -> lookup -> decide -> serve | collapse

The driver calls `open_request` for each attempt at a request, through `Cache.open`, and acts on the
`Answer`. Nothing here calls the app.
"""

from __future__ import annotations

from layergate.http.engine.answers import (
    GATEWAY_TIMEOUT,
    IGNORES_STORED,
    MAY_WAIT,
    Answer,
    Attempt,
    Forward,
    Landed,
)
from layergate.http.engine.collapse import Wanted, collapse, give_up
from layergate.http.engine.decide import decide
from layergate.http.engine.engine import Engine
from layergate.http.engine.fetch import missing_rest, new_exchange
from layergate.http.engine.lookup import select
from layergate.http.engine.serve import serve
from layergate.http.engine.stand_in import may_stand_in_for_error
from layergate.http.message.request import Request
from layergate.http.rfc9111.decision import Decision, bypass_reason
from layergate.http.rfc9111.storing import Bypass

__all__ = ["may_forward", "open_request"]


async def open_request(engine: Engine, request: Request, attempt: Attempt) -> Answer:
    """The answer to one attempt at a request."""
    until = 0.0
    if engine.stack.shared_log is not None:
        request.arrived = request.arrived or engine.runtime.monotonic()
        until = request.arrived + engine.settings.collapse_timeout
    asked = engine.runtime.now()
    answer = await _attempt(engine, request, attempt, until, asked, last=False)
    while isinstance(answer, Landed):
        # Between threads once is enough: what is stored by now is from a fetch that ended just
        # before. Between instances it ends with the patience for them.
        if attempt is Attempt.TIMED_OUT:
            attempt = Attempt.UNCOLLAPSED
        answer = await _attempt(engine, request, attempt, until, asked, last=True)
    return answer


async def _attempt(
    engine: Engine, request: Request, attempt: Attempt, until: float, asked: float, *, last: bool
) -> Answer | Landed:
    """As `open_request`, or `Landed`. ``until``: when the patience for other instances ends,
    `Runtime.monotonic` seconds. ``asked``: when the request came, seconds since the epoch. ``last``: it
    has been told once that a fetch had landed."""
    settings = engine.settings
    reason = bypass_reason(request, max_key_length=settings.max_key_length)
    if reason is not None:
        if not may_forward(request, reason):
            return GATEWAY_TIMEOUT
        return _bypass(engine, request, reason, "method" if reason is Bypass.METHOD else "bypass")
    match = settings.rules.match(request.path, request.host) if len(settings.rules) else None
    if match is not None and match.rule.bypass:
        return _bypass(engine, request, Bypass.RULE, "bypass")

    with engine.counters.span("lookup", method=request.method, key=request.key) as span:
        selected = await select(engine, request)
        decided = await decide(
            engine, request, selected, match, asked, ignore_stored=attempt in IGNORES_STORED
        )
        (decision, fwd, _), selected, entry, now, reload = decided
        span.note(result=decision, layer=selected.layer or None)
        if entry is not None:
            span.note(age=now - entry.value.generated)
            span.link(entry.value.traceparent)
    if decision is Decision.HIT or decision is Decision.STALE:
        return serve(engine, request, match, decided)
    if decision is Decision.GATEWAY_TIMEOUT:
        return GATEWAY_TIMEOUT
    if request.foreign_range:
        return _bypass(engine, request, Bypass.RANGE, "bypass")
    if decision is Decision.MISS:
        if fwd == "partial":
            selected = selected._replace(rest=missing_rest(engine, request, entry))
        entry = None
        engine.counters.on("miss", request=request, reason=fwd)
    if attempt is Attempt.TIMED_OUT and (
        settings.collapse_fallback_504
        or (entry is not None and may_stand_in_for_error(engine, request, entry))
    ):
        return give_up(engine, new_exchange(engine, request, selected, None, entry, fwd, match))
    return await collapse(
        engine,
        Wanted(request, entry, fwd, match, selected, reload),
        until,
        may_wait=attempt in MAY_WAIT,
        last=last,
    )


def may_forward(request: Request, reason: Bypass) -> bool:
    """Whether a request that the cache has no part in may be forwarded. One that is meant for the
    cache, and wants no forwarding, may not (5.2.1.7)."""
    return reason is Bypass.METHOD or not request.directives.only_if_cached


def _bypass(engine: Engine, request: Request, reason: Bypass, fwd: str) -> Forward:
    request.outcome, request.reason = "bypass", reason.token
    engine.counters.on("bypass", reason=reason.token)
    return Forward(reason, engine.settings.status.bypassed(reason, fwd))
