"""Refresh a stale response in the background: once per process, and once in the fleet.

`serve` calls `begin_refresh`, which gives the exchange for it. The `feed` calls `claim_refresh` before
it calls the app, since only one instance shall.
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN
from layergate.core.shared import Waited
from layergate.http.engine.claims import Claims
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import beginning, new_exchange
from layergate.http.engine.lookup import Selected
from layergate.http.engine.sharing import has_landed, may_join, refresh_key
from layergate.http.engine.tally import begin_span
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse
from layergate.http.rules import Match

__all__ = ["begin_refresh", "claim_refresh", "has_room_to_refresh"]


def has_room_to_refresh(engine: Engine) -> bool:
    """False while there are as many background refreshes as ``background_refreshes`` allows."""
    return engine.budget.refreshing < engine.settings.background_refreshes


def begin_refresh(
    engine: Engine, request: Request, entry: Entry, match: Match | None, selected: Selected
) -> Exchange | None:
    """The exchange of a background refresh of ``entry``. None if one is under way, if there are too
    many, or if the response has just been refreshed."""
    key = refresh_key(entry, request, selected)
    present = engine.flights.get(key)
    if present is not None and may_join(engine, present, request):
        return None
    if not has_room_to_refresh(engine):
        engine.counters.on("refresh_skipped", request=request, reason="too many")
        return None
    asked = request.for_refresh(part=isinstance(entry.value, PartialResponse))
    exchange = new_exchange(engine, asked, selected, key, entry, "stale", match, refreshes=True)
    if engine.flights.lead(key, exchange, instead_of=present) is not exchange:
        return None
    if has_landed(engine, selected.storage_key, entry):
        Claims(engine, exchange).abort()
        return None
    return exchange


async def claim_refresh(engine: Engine, exchange: Exchange) -> bool:
    """Claim the fleet's lease for a background refresh. False if another instance does it, or has done
    it; the `feed` then aborts the exchange, and the app is not called."""
    begin_span(engine, exchange)
    key = exchange.asked.flight_key
    if engine.stack.leases is not None and key is not None and await engine.stack.catch_up():
        skipped = await _claim(engine, exchange, key)
        if skipped is not None:
            engine.counters.on("refresh_skipped", request=exchange.request, reason=skipped)
            exchange.span = NO_SPAN
            return False
        begin_span(engine, exchange)
    engine.counters.on("refresh", request=exchange.request)
    return True


async def _claim(engine: Engine, exchange: Exchange, key: bytes) -> str | None:
    """Why this instance is not to refresh; None if it is, with the lease or, while the shared layer is
    away, without one."""
    try:
        lease = await engine.stack.take_lease(key, wait=0.0, span=exchange.span)
    except Exception as error:  # away: then each instance looks after itself
        engine.counters.on("layer_error", layer="shared", operation="lease", error=error)
        return None
    if isinstance(lease, Waited):
        return "another instance does it"
    exchange.lease = lease
    exchange.restart(beginning(engine))
    entry = exchange.entry
    if lease.recent and entry is not None:
        found = await entry_under(engine, exchange.asked.storage_key)
        if found is not None and found.fresh_until > entry.fresh_until:
            return "another instance did it"
    return None
