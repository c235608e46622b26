"""`explain`: what LayerGate does with a request, and with a response to it, step by step, and why.

The admin endpoint and the command line call it. It asks the functions that the engine itself decides
with, in the order of `open_request` and `receive_head`, and notes their answers. It changes nothing:
nothing is counted, copied between layers, fetched or stored.

It cannot know a policy next to the route (`cached`), which only a call of the app shows, nor anything
that only the body shows: its end, its true length, a token in it.
"""

from __future__ import annotations

from layergate.http.engine.cache import Cache
from layergate.http.engine.decide import decide
from layergate.http.engine.lookup import select
from layergate.http.engine.respond import remaining
from layergate.http.explain.bypassed import explain_bypass
from layergate.http.explain.forwarding import explain_decision
from layergate.http.explain.held import explain_held
from layergate.http.explain.received import explain_response
from layergate.http.explain.redaction import digest
from layergate.http.explain.report import Conclusion, Explanation, Response
from layergate.http.explain.request import (
    explain_asker,
    explain_key,
    explain_request,
    explain_rule,
)
from layergate.http.explain.trace import Trace
from layergate.http.explain.wording import SUMMARIES
from layergate.http.message.key import target_of
from layergate.http.message.request import Request
from layergate.http.rfc9111.decision import Decision
from layergate.http.rfc9111.storing import Bypass

__all__ = ["explain"]


async def explain(
    cache: Cache, request: Request, response: Response | None = None, *, live: bool = True
) -> Explanation:
    """The explanation of ``request``, as ``cache`` is now; and of ``response``, as if it arrived now.

    ``live``: False for a cache that was made for this explanation and holds nothing. The store is
    then no part of the explanation.

    The steps, where they apply, in this order. The request: ``key``, ``request``, ``range``, ``rule``,
    ``credentials``, ``directives``. The store: ``fleet``, ``layer`` (one for each), ``variants``,
    ``language``, ``stored``, ``policy``, ``lifetime``, ``age``, ``stale-windows``, ``validators``, ``tags``,
    ``groups``, ``search``. The decision: ``decision``, ``precondition``, ``range``, ``refresh``, ``marker``,
    ``flight``, ``rest``, ``validators``, ``stale-if-error`` or ``stale-if-unreachable``. The response:
    ``response``, ``upstream``, ``validation``, ``policy``, ``storable``, ``marker``, ``lifetime``, ``age``,
    ``stale-windows``, ``variants``, ``fields``, ``cookies``, ``tags``, ``groups``, ``tokens``, ``room``,
    ``shared``. A request that bypasses the cache: ``invalidation``, ``storable``, ``method``, ``decision``.
    """
    trace = Trace(cache.engine, request, live=live)
    explain_key(trace)
    reason = explain_request(trace) or explain_rule(trace)
    if reason is not None:
        return trace.concluded(explain_bypass(trace, reason, response))
    explain_asker(trace)
    return trace.concluded(await _explain_looked_up(trace, response))


async def _explain_looked_up(trace: Trace, response: Response | None) -> Conclusion:
    """A request that the engine looks up in the store."""
    engine, request = trace.engine, trace.request
    decided = await decide(
        engine,
        request,
        await select(engine, request, quiet=True),
        trace.match,
        trace.now,
        ignore_stored=False,
        quiet=True,
    )
    decision, fwd = decided.verdict.decision, decided.verdict.fwd
    if trace.live:
        await explain_held(trace, decided.selected)
    if request.key != request.exact:
        text = "By the No-Vary-Search of earlier responses this is the same target as others."
        trace.add("search", target_of(request.key), "4", text, digest=digest(request.key))
    if request.foreign_range and decision in (Decision.MISS, Decision.REVALIDATE):
        trace.add_reason("request", Bypass.RANGE)
        return explain_bypass(trace, Bypass.RANGE, response)
    told, rest = await explain_decision(trace, decided)
    stored, refused = None, None
    if response is not None and decision is not Decision.GATEWAY_TIMEOUT:
        stored, refused, told = explain_response(trace, decided, rest, response)
    ttl = None if decided.entry is None else remaining(decided.entry, trace.now)
    text = f"{SUMMARIES[decision]} {told}".rstrip()
    return Conclusion(decision.value, fwd, ttl, stored, refused, text)
