"""Count what became of requests and responses, and say it in the decision log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.message.request import Request
from layergate.http.rfc9111.storing import Refused

__all__ = ["count_answered", "count_hit", "count_not_stored", "following"]

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


def count_not_stored(engine: Engine, exchange: Exchange, reason: Refused) -> None:
    """The response of ``exchange`` is not stored."""
    exchange.request.reason = reason.token
    engine.counters.on("refused", request=exchange.request, reason=reason.token)


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
