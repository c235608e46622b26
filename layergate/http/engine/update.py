"""Update what is stored with what a response says about it: one to HEAD (RFC 9111 4.3.5), or a 304
about a response that is stored beside others (4.3.4).

The `feed` calls `freshen_by_head` after the head of a response to HEAD, and `freshen_others` before it
stores what a 304 has confirmed. `explain` asks `head_says`, which changes
nothing.
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under, planned_entry
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.hit_for_miss import REQUEST_ONLY
from layergate.http.engine.keys import place_of
from layergate.http.engine.lookup import selectable
from layergate.http.engine.plan import locate, plan_head
from layergate.http.engine.purge import invalidate_key
from layergate.http.engine.store import commit, is_overtaken
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.decision import answers
from layergate.http.rfc9111.plan import Plan, plan_update
from layergate.http.rfc9111.selecting import varies_on_more, vary_names
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.validation import head_matches
from layergate.http.rfc9111.variants import identified

__all__ = ["freshen_by_head", "freshen_others", "head_says"]


async def freshen_by_head(engine: Engine, exchange: Exchange, status: int, lines: Lines) -> None:
    """Freshen or outdate what is stored with what a HEAD brought: "each of its stored GET responses
    that could have been chosen for that request" (4.3.5)."""
    if status != 200:
        return
    fields, now = Fields(lines), engine.runtime.now()
    # The one that is chosen comes last, so that it stays the one that is looked at first.
    for key, entry in reversed(await selectable(engine, exchange.request)):
        planned = head_says(engine, exchange, entry, status, fields, now)
        if isinstance(planned, NotStored):
            # One that varies on more than it was selected by does not stand in for anything, either.
            gone = varies_on_more(entry.value.fields, fields)
            if gone:
                await engine.stack.discard(key)
            entry.outdate(now)
            await invalidate_key(engine, key, soft=not gone)
        elif planned is not None:
            planned = locate(engine, exchange, planned)
            stored: StoredResponse = entry.value
            fresh = planned_entry(
                engine, exchange, planned, 200, planned.lines, stored.body, stored
            )
            # The body is as old as it was, so what would have purged it before purges it now.
            fresh.stamp = fresh.checked = entry.stamp
            present = await entry_under(engine, key)
            if present is not None and present.created == entry.created:  # not replaced since
                await commit(engine, exchange, planned, fresh)


def head_says(
    engine: Engine,
    exchange: Exchange,
    entry: Entry | None,
    status: int,
    fields: Fields,
    now: float,
) -> Plan | NotStored | None:
    """What a response to HEAD means for the stored ``entry``: how it is to be kept from now on, the
    reason why it is outdated, or None if it says nothing."""
    request = exchange.request
    if entry is None or status != 200:
        return None
    stored: StoredResponse = entry.value
    if stored.status != 200 or not answers(request, stored):
        return None
    own, _ = plan_head(engine, exchange, exchange.match, 200, fields, now)
    if isinstance(own, NotStored) and (
        request.cookie or request.authorization or request.personal or own in REQUEST_ONLY
    ):
        return None  # what one client is told says nothing about what is stored for all
    planned: Plan | NotStored = NotStored.NOT_MODIFIED
    # One that says nothing about caching leaves what the stored response says.
    silent = own in (NotStored.NO_FRESHNESS, NotStored.EXPIRED)
    if (silent or isinstance(own, Plan)) and head_matches(
        stored.fields, fields, stored_length=stored.length
    ):
        planned, _ = plan_update(
            request,
            entry,
            fields,
            exchange.match,
            engine.settings.options,
            request_time=exchange.began.request_time,
            response_time=now,
        )
    if isinstance(planned, Plan) and planned.vary != vary_names(stored.fields):
        return NotStored.NOT_MODIFIED
    return planned


async def freshen_others(engine: Engine, exchange: Exchange, fields: Fields) -> None:
    """Update what else the request of a 304 with these ``fields`` could have selected, if the 304
    identifies it (4.3.4)."""
    assert exchange.plan is not None
    for key, entry in await selectable(engine, exchange.request):
        stored: StoredResponse = entry.value
        if key == exchange.asked.storage_key or not identified(stored.fields, fields):
            continue
        if varies_on_more(stored.fields, fields):
            await engine.stack.discard(key)
            await invalidate_key(engine, key)  # the next request fetches what is stored now, too
            continue
        planned, _ = plan_update(
            exchange.request,
            entry,
            fields,
            exchange.match,
            engine.settings.options,
            request_time=exchange.began.request_time,
            response_time=exchange.plan.response_time,
        )
        if not isinstance(planned, Plan) or planned.vary != vary_names(stored.fields):
            continue
        place = place_of(engine.settings, exchange.request, planned)
        if place.primary == exchange.primary:
            planned = planned._replace(tags=(*planned.tags, *place.tags))
            fresh = planned_entry(
                engine, exchange, planned, stored.status, planned.lines, stored.body, stored
            )
            fresh.stamp = fresh.checked = entry.stamp
            if not await is_overtaken(engine, key, fresh):
                await engine.stack.store(key, fresh)
