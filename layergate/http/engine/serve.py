"""Serve: answer from the store, and refresh a stale response in the background.

`open_request` calls `serve` for a hit and for a response inside its stale-while-revalidate window
(RFC 5861 section 3).
"""

from __future__ import annotations

from layergate.http.engine.answers import Serve
from layergate.http.engine.decide import Decided
from layergate.http.engine.engine import Engine
from layergate.http.engine.refresh import begin_refresh
from layergate.http.engine.respond import remaining, respond
from layergate.http.engine.tally import count_hit
from layergate.http.message.request import Request
from layergate.http.rfc9111.decision import PAUSED, Decision
from layergate.http.rules import Match

__all__ = ["serve"]

_STALE = "stale-while-revalidate"


def serve(engine: Engine, request: Request, match: Match | None, decided: Decided) -> Serve:
    """The answer for a decision of HIT or STALE."""
    entry, selected = decided.entry, decided.selected
    assert entry is not None
    ttl = remaining(entry, decided.now)
    status = engine.settings.status
    if decided.verdict.decision is Decision.HIT:
        detail = "reload-pause" if decided.verdict is PAUSED else None
        count_hit(engine, request, selected.layer, decided.now - entry.value.generated)
        return Serve(respond(engine, request, entry, status.hit(ttl, detail)))
    request.outcome, request.layer = "stale", selected.layer
    engine.counters.on("stale", request=request, reason=_STALE)
    response = respond(engine, request, entry, status.hit(ttl, _STALE))
    return Serve(response, begin_refresh(engine, request, entry, match, selected))
