"""Decide: what to do with a request, given what is stored for it.

`open_request` calls `decide` with what `lookup` has found, and so does `explain`. The policy itself is
`rfc9111.decision`. Here it is given the engine's side of the question: variants, stored languages,
what another instance has fetched since, and reloads that come too soon.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.lookup import Selected, newest
from layergate.http.engine.sharing import flight_key, may_join, why_uncollapsed
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111 import decision
from layergate.http.rfc9111.decision import PAUSED, Decision, Verdict, is_reload
from layergate.http.rules import Match

__all__ = ["Decided", "decide"]


class Decided(NamedTuple):
    """A verdict and what it is on. ``entry``: what may be used for an answer, or validated.
    ``now``: when it was decided, seconds since the epoch. ``reload``: the client alone wants the
    request forwarded (see `decision.is_reload`)."""

    verdict: Verdict
    selected: Selected
    entry: Entry | None
    now: float
    reload: bool = False


async def decide(
    engine: Engine,
    request: Request,
    selected: Selected,
    match: Match | None,
    asked: float,
    *,
    ignore_stored: bool,
    quiet: bool = False,
) -> Decided:
    """The decision on a request.

    ``asked``: when the request came, seconds since the epoch. ``ignore_stored``: what is stored has
    failed validation. ``quiet``: nothing is counted, copied or changed (see `Stack.lookup`).
    """
    entry = selected.entry
    if ignore_stored:
        entry, selected = None, selected._replace(variants=None)
    now = engine.runtime.now()
    verdict = _verdict_on(request, entry, now, vary_miss=selected.vary_miss)
    if selected.language and verdict.decision is not Decision.HIT:
        # It has just expired; and nothing is validated in another's name.
        selected = selected._replace(entry=None, vary_miss=True, layer="", language=b"")
        entry = None
        verdict = _verdict_on(request, None, now, vary_miss=True)
    if not is_reload(verdict.decision, verdict.fwd):
        return Decided(verdict, selected, entry, now)
    selected = await newest(engine, request, selected, quiet=quiet)
    entry = selected.entry
    verdict = _verdict_on(request, entry, now, vary_miss=False)
    if is_reload(verdict.decision, verdict.fwd):
        verdict = _pause_reload(engine, request, selected, match, verdict, now, asked=asked)
    return Decided(verdict, selected, entry, now, is_reload(verdict.decision, verdict.fwd))


def _verdict_on(request: Request, entry: Entry | None, now: float, *, vary_miss: bool) -> Verdict:
    """`decision.decide` for what `lookup` found. ``vary_miss``: the target has variants, and none of
    them is this request's."""
    verdict = decision.decide(request, entry, now)
    if vary_miss and verdict.fwd == "uri-miss":
        return Verdict(verdict.decision, "vary-miss", "4.1")
    return verdict


def _pause_reload(
    engine: Engine,
    request: Request,
    selected: Selected,
    match: Match | None,
    verdict: Verdict,
    now: float,
    *,
    asked: float,
) -> Verdict:
    """The ``verdict`` on a reload, or `PAUSED`: what is stored was fetched after the request came, or
    another reload was forwarded less than ``reload_pause`` seconds ago.

    A fetch that is under way, and has not begun to answer, is waited for instead.
    """
    entry, settings = selected.entry, engine.settings
    assert entry is not None
    stored: StoredResponse = entry.value
    last = engine.learned.last_reload(selected.storage_key)
    if stored.reloaded:
        last = max(last, stored.response_time)
    if stored.request_time <= asked and not 0.0 <= now - last < settings.reload_pause:
        return verdict
    present = engine.flights.get(flight_key(request, match, selected))
    if present is None or why_uncollapsed(settings, request, entry, match, None) is not None:
        return PAUSED
    return verdict if may_join(engine, present, request) else PAUSED
