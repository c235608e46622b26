"""Collapse: join the fetch of another request, or lead one, in this process and in the fleet (G2).

`open_request` calls `collapse` for a request that goes forward. It follows a fetch under way if it may,
else it becomes the leader of a flight, and then claims the fleet's lease, which may mean to wait for
another instance. Waits are bounded by ``collapse_timeout``.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.core.shared import Waited
from layergate.http.engine.answers import GATEWAY_TIMEOUT, Answer, Follow, Landed, Lead, Serve
from layergate.http.engine.claims import Claims
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import beginning, new_exchange
from layergate.http.engine.hit_for_miss import find_hit_for_miss
from layergate.http.engine.lookup import Selected, newest, select_exactly
from layergate.http.engine.respond import respond_stale
from layergate.http.engine.sharing import flight_key, has_landed, may_join, why_uncollapsed
from layergate.http.engine.stand_in import may_stand_in_for_error
from layergate.http.engine.tally import begin_span
from layergate.http.message.request import Request
from layergate.http.rules import Match

__all__ = ["Wanted", "collapse", "give_up"]

_MAX_LANDINGS = 2  # of other instances' fetches that bring nothing for this request


class Wanted(NamedTuple):
    """A request that goes forward. ``entry``: what is to be validated, or may stand in for an error.
    ``fwd``: why it goes forward (RFC 9211 2.2). ``reload``: the client alone wants it forwarded."""

    request: Request
    entry: Entry | None
    fwd: str
    match: Match | None
    selected: Selected
    reload: bool


async def collapse(
    engine: Engine, wanted: Wanted, until: float, *, may_wait: bool, last: bool
) -> Answer | Landed:
    """Follow, or lead a fetch.

    ``until``: when its patience for other instances ends, `Runtime.monotonic` seconds. ``may_wait``: it
    may wait for another request. ``last``: it has been told once that a fetch had landed.
    """
    request, entry, fwd, match, selected, reload = wanted
    request.outcome, request.reason = "miss", fwd
    marker = await find_hit_for_miss(engine, request, selected)
    key: bytes | None = None
    if may_wait and why_uncollapsed(engine.settings, request, entry, match, marker) is None:
        key = flight_key(request, match, selected)
    present = None if key is None else engine.flights.get(key)
    crowded = False
    if present is not None and may_join(engine, present, request):
        if engine.budget.waiters < engine.settings.max_waiters:
            return _follow(request, present)
        engine.counters.on("bypass", request=request, reason="too many waiters")
        key, crowded = None, True
    exchange = new_exchange(engine, request, selected, key, entry, fwd, match, reload=reload)
    exchange.hit_for_miss = marker is not None and not crowded
    if key is not None:
        instead = await _lead(engine, exchange, key, present, selected, until, last=last)
        if instead is not None:
            return instead
    if not crowded:
        engine.counters.on("fetch", request=request, reason=fwd)
    begin_span(engine, exchange)
    if reload:
        engine.learned.note_reload(selected.storage_key)
    return Lead(exchange)


async def _lead(
    engine: Engine,
    exchange: Exchange,
    key: bytes,
    present: Exchange | None,
    selected: Selected,
    until: float,
    *,
    last: bool,
) -> Answer | Landed | None:
    """Make ``exchange`` the flight of the key in place of ``present``, and claim the fleet's lease for
    it. None: it leads; or else what to do instead."""
    winner = engine.flights.lead(key, exchange, instead_of=present)
    if winner is not exchange:
        return _follow(exchange.request, winner)
    if not last and has_landed(engine, selected.storage_key, selected.entry):
        Claims(engine, exchange).abort()  # another thread may have joined it already
        return Landed()
    if present is not None and not present.unleased:
        # It takes the place of one that this request cannot share, and its lease.
        exchange.inherit(present)
    elif engine.stack.leases is not None:
        if await _catch_up(engine, exchange):
            instead = await _claim_lease(engine, exchange, key, selected, until)
            if instead is not None:
                Claims(engine, exchange).withdraw()
                return instead
        exchange.unleased = exchange.lease is None
    return None


def _follow(request: Request, exchange: Exchange) -> Follow:
    request.outcome = "collapsed"
    request.waited = True
    return Follow(exchange)


async def _catch_up(engine: Engine, exchange: Exchange) -> bool:
    """False while the shared layer is away, when there can be no lease."""
    try:
        return await engine.stack.catch_up()
    except BaseException:  # cancelled
        Claims(engine, exchange).abort()
        raise


async def _claim_lease(
    engine: Engine, exchange: Exchange, key: bytes, selected: Selected, until: float
) -> Serve | Landed | None:
    """Claim the fleet's lease for a fetch, and wait for it if another instance has it.

    None: go ahead. Otherwise the fetch of another instance has brought what was wanted, or it takes
    too long and the configuration says not to fetch as well.
    """
    request, stack = exchange.request, engine.stack
    landings = 0
    begin_span(engine, exchange)  # before the fetch really does: the lease has to name its span
    try:
        while True:
            wait = max(0.0, until - engine.runtime.monotonic())
            try:
                lease = await stack.take_lease(key, wait=wait, span=exchange.span)
            except Exception as error:  # away: then each instance looks after itself
                engine.counters.on("layer_error", layer="shared", operation="lease", error=error)
                exchange.restart(beginning(engine))
                return None
            if not isinstance(lease, Waited):
                exchange.lease = lease
                exchange.restart(beginning(engine))
                if lease.recent and await _other_landed(engine, request, selected):
                    return Landed()
                return None
            request.waited = True
            # What others fetch is not for this request, or comes to nothing, again and again.
            in_vain = lease is Waited.FREE or landings > _MAX_LANDINGS
            if lease is Waited.TIMEOUT and not in_vain:
                return _time_out(engine, exchange)
            if await _other_landed(engine, request, selected):
                return Landed()
            if in_vain:
                exchange.restart(beginning(engine))
                return None
            landings += 1
    except BaseException:
        Claims(engine, exchange).withdraw()
        raise


def _time_out(engine: Engine, exchange: Exchange) -> Serve | None:
    """The fetch of another instance takes too long. None: fetch as well."""
    engine.counters.on("wait_timeout", request=exchange.request)
    entry = exchange.entry
    if engine.settings.collapse_fallback_504 or (
        entry is not None and may_stand_in_for_error(engine, exchange.request, entry)
    ):
        exchange.gave_up = True
        return give_up(engine, exchange)
    exchange.restart(beginning(engine))
    return None


def give_up(engine: Engine, exchange: Exchange) -> Serve:
    """The end of a wait for another request's fetch, where this request is not to fetch itself: a stale
    response if there is one that may be used, or else a 504."""
    entry, request = exchange.entry, exchange.request
    if entry is not None and may_stand_in_for_error(engine, request, entry):
        engine.counters.on("stale", request=request, reason="collapse-timeout")
        return Serve(respond_stale(engine, exchange, request, entry))
    return GATEWAY_TIMEOUT


async def _other_landed(engine: Engine, request: Request, seen: Selected) -> bool:
    """True if something else is stored for this request now than when ``seen`` was looked up."""
    found = await select_exactly(engine, request)
    if found.storage_key != seen.storage_key:
        return True
    if await find_hit_for_miss(engine, request, found) is not None:
        return True
    if seen.entry is not None and seen.entry.fresh_until > engine.runtime.now():
        found = await newest(engine, request, found)  # only a reload waits beside what is fresh
    return found.entry is not None and (
        seen.entry is None or found.entry.fresh_until > seen.entry.fresh_until
    )
