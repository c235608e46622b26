"""The decision, and what follows from it: the answer from the store, or the way to the app.

`walk.explain` calls `explain_decision` when the engine has decided. Steps: ``decision``; for an answer from
the store ``precondition`` or ``range``, and ``refresh``; for a request that goes forward ``marker``,
``flight``, ``rest``, ``validators``, ``stale-if-error`` or ``stale-if-unreachable``.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.http.engine.decide import Decided
from layergate.http.engine.fetch import missing_rest, nominees
from layergate.http.engine.hit_for_miss import find_hit_for_miss, recent_reason
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.refresh import has_room_to_refresh
from layergate.http.engine.respond import respond
from layergate.http.engine.sharing import flight_key, may_join, refresh_key, why_uncollapsed
from layergate.http.engine.stand_in import may_stand_in, may_stand_in_for_error
from layergate.http.explain.redaction import field_text, shown_lines
from layergate.http.explain.trace import Trace
from layergate.http.explain.wording import DECIDED, UNCOLLAPSED
from layergate.http.rfc9111.decision import Decision
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.variants import nominating_line

__all__ = ["Forwarded", "explain_decision"]


class Forwarded(NamedTuple):
    """``told``: a sentence for the conclusion, or "". ``rest``: what is fetched, if that is less than
    what the client asks for."""

    told: str = ""
    rest: Rest | None = None


async def explain_decision(trace: Trace, decided: Decided) -> Forwarded:
    verdict, entry = decided.verdict, decided.entry
    decision = verdict.decision
    usable = decision in (Decision.HIT, Decision.STALE)
    text = DECIDED[verdict.rfc]
    if decision is Decision.MISS and not trace.live:
        text = "Nothing is stored yet."
    good = True if usable else False if trace.live else None
    trace.add("decision", decision.value, verdict.rfc, text, good, fwd=verdict.fwd)
    if usable:
        assert entry is not None
        _explain_answer(trace, entry)
        if decision is Decision.STALE:
            _explain_refresh(trace, entry, decided)
    elif decision is not Decision.GATEWAY_TIMEOUT and trace.live:
        return await _explain_forwarding(trace, decided)
    return Forwarded()


# -- from the store --------------------------------------------------------------------------------


def _explain_answer(trace: Trace, entry: Entry) -> None:
    """Which part of the stored response the client gets, if not all of it."""
    status = respond(trace.engine, trace.request, entry, []).status
    if status == 304:
        text = "The client has this response already, so it gets a 304 without content."
        trace.add("precondition", "304", "4.3.2", text, True)
    elif status == 206:
        text = "The range is cut from the stored response."
        trace.add("range", "206", "RFC 9110 15.3.7", text, True)
    elif status == 416:
        text = "The stored response is complete, and ends before the range begins."
        trace.add("range", "416", "RFC 9110 15.5.17", text, True)
    elif trace.request.ranges is not None:
        text = (
            "The range does not apply, because of If-Range or the status: the answer is complete."
        )
        trace.add("range", "ignored", "RFC 9110 14.2", text)


def _explain_refresh(trace: Trace, entry: Entry, decided: Decided) -> None:
    engine, request = trace.engine, trace.request
    present = engine.flights.get(refresh_key(entry, request, decided.selected))
    if present is not None and may_join(engine, present, request):
        outcome, text = "under way", "A background refresh is under way."
    elif not has_room_to_refresh(engine):
        outcome = "put off"
        text = "As many background refreshes are under way as background_refreshes allows."
    else:
        outcome, text = "begins", "A background refresh begins."
    trace.add("refresh", outcome, "RFC 5861 3", text)


# -- to the app ------------------------------------------------------------------------------------


async def _explain_forwarding(trace: Trace, decided: Decided) -> Forwarded:
    """In the order of `open_request` and `collapse`."""
    engine, request, selected = trace.engine, trace.request, decided.selected
    rest = (
        missing_rest(engine, request, decided.entry) if decided.verdict.fwd == "partial" else None
    )
    entry = None if decided.verdict.decision is Decision.MISS else decided.entry
    marker = await find_hit_for_miss(engine, request, selected, quiet=True)
    told = ""
    if marker is not None:
        trace.add_reason("marker", marker.reason)
        told = f"Its last response was not stored: {marker.reason.explain}"
    elif (reason := await recent_reason(engine, selected)) is not None:
        told = (
            f"Its last response, to a request with other fields, was not stored: {reason.explain}"
        )
    if not _explain_flight(trace, decided, entry, marker):
        rest = None
    if rest is not None:
        first, stop = rest.missing
        text = "Only the missing part is fetched, and joined with the stored one."
        trace.add("rest", f"{first}-{stop - 1}", "3.4", text, headers=shown_lines(rest.lines))
    nominated = nominees(engine, request, selected, entry, trace.match)
    if nominated:
        name, value = nominating_line(nominated)
        text = (
            "If the app answers with a 304 that names a stored variant, that variant is the answer."
        )
        shown = shown_lines([(name, value)])
        trace.add("validators", field_text(name), "4.3.1", text, lines=shown)
    if entry is not None and may_stand_in_for_error(engine, request, entry):
        text = "If the app fails, the stored response stands in for it."
        trace.add("stale-if-error", "allowed", "RFC 5861 4", text, True)
    elif entry is not None and may_stand_in(engine, request, entry, unreachable=True):
        text = "If the origin cannot be reached, the stored response stands in for it."
        trace.add("stale-if-unreachable", "allowed", "4.2.4", text, True)
    return Forwarded(told, rest)


def _explain_flight(
    trace: Trace, decided: Decided, entry: Entry | None, marker: HitForMiss | None
) -> bool:
    """Returns whether the request shares a fetch with others."""
    engine, request = trace.engine, trace.request
    why = why_uncollapsed(trace.settings, request, entry, trace.match, marker)
    present = engine.flights.get(flight_key(request, trace.match, decided.selected))
    joins = present is not None and may_join(engine, present, request)
    if why is None and joins and engine.budget.waiters >= trace.settings.max_waiters:
        why = "waiters"
    if why is not None:
        trace.add("flight", "alone", "G4", UNCOLLAPSED[why], why=why)
        return False
    if present is not None and joins:
        text = "The same response is being fetched already, and this request waits for it."
        trace.add("flight", "follows", "4", text, True, readers=present.stream.readers)
    else:
        text = "This request fetches the response, and others that arrive meanwhile share it."
        trace.add("flight", "leads", "4", text)
    return True
