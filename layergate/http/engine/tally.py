"""Count what became of requests and responses, and tell the decision log and the spans of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from layergate.core.events import NO_SPAN, Counters
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.storing import NotStored

__all__ = [
    "begin_span",
    "count_answered",
    "count_cut",
    "count_hit",
    "count_not_stored",
    "end_span",
    "following",
]

_decisions: Final = logging.getLogger("layergate.decisions")


def count_hit(engine: Engine, request: Request, layer: str, age: float) -> None:
    """``request`` is answered with a fresh response from ``layer``, ``age`` seconds old."""
    if request.waited:
        # What it waited for has landed: no hit, for it cost the time of a fetch.
        request.outcome = "collapsed"
        engine.counters.on("collapsed", request=request)
        return
    request.outcome, request.layer = "hit", layer
    if engine.counters.tracer is not None:
        engine.counters.tracer.sample(age, layer)


def count_not_stored(engine: Engine, exchange: Exchange, reason: NotStored) -> None:
    """The response of ``exchange`` is not stored."""
    exchange.request.reason = reason.token
    engine.counters.on("refused", request=exchange.request, reason=reason.token)


def count_cut(counters: Counters, request: object) -> None:
    """The client of ``request`` reads too slowly, and was cut off."""
    counters.on("stream_cut", request=request)


def count_answered(engine: Engine, request: Request) -> None:
    """A request that the engine has decided on is answered, or has failed."""
    engine.counters.requests[request.outcome, request.layer] += 1
    if _decisions.isEnabledFor(logging.DEBUG):
        _decisions.debug(
            "%s %s %r%s%s",
            request.outcome,
            request.method,
            request.path,
            f" layer={request.layer}" if request.layer else "",
            f" reason={request.reason}" if request.reason else "",
            extra={
                "layergate.outcome": request.outcome,
                "layergate.layer": request.layer,
                "layergate.reason": request.reason,
                "http.request.method": request.method,
            },
        )


@contextmanager
def following(engine: Engine, request: Request, exchange: Exchange) -> Iterator[None]:
    """Around a follower's wait for the head of another request's fetch."""
    span = engine.counters.span("wait", key=request.key, scope="process")
    engine.budget.count_waiter(1)
    try:
        yield
    finally:
        engine.budget.count_waiter(-1)
        # Only now: while the leader waits for its lease, its fetch has not begun.
        span.link(exchange.span.reference)
        span.note(result=exchange.state)
        span.end()


def begin_span(engine: Engine, exchange: Exchange) -> None:
    """The fetch begins, or asks for its lease; then, the second time, it begins.

    A background refresh is a trace of its own, linked to the request that caused it; any other
    fetch is part of the request that leads.
    """
    if exchange.span is not NO_SPAN:  # since it asked for its lease
        exchange.span.ready()
        return
    tracer = engine.counters.tracer
    if tracer is None:
        return
    asked, entry = exchange.asked, exchange.entry
    stored = None if entry is None else entry.value
    before = stored.traceparent if isinstance(stored, StoredResponse) else None
    exchange.span = engine.counters.span(
        "refresh" if asked.refreshes else "revalidate" if exchange.conditional else "fetch",
        root=asked.refreshes,
        links=(asked.cause, before),
        method=asked.request.method,
        reason=asked.fwd,
        key=exchange.primary,
        rule=None if exchange.match is None else exchange.match.rule.path,
    )


def end_span(exchange: Exchange, error: object = None) -> None:
    """The fetch is over, as far as it can be seen."""
    span = exchange.span
    if span is not NO_SPAN:
        reason = exchange.refused
        span.note(status=exchange.origin_status, refused=None if reason is None else reason.token)
        span.end(error)
