"""Store: put a complete response, or what a 304 made of a stored one, into the layers.

`receive` calls `refusal_of_layers` with the head, to say ``stored`` truthfully (G11). When the body is
complete, the `feed` calls `complete_entry`, `keep` for the top layer alone, and `commit`, which may take
the time of the layers below. What is stored is never older than what is there, and never what was purged
while it was fetched (G3).
"""

from __future__ import annotations

from typing import Final

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import (
    entry_under,
    find,
    is_complete,
    is_later,
    planned_entry,
)
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.hit_for_miss import end_hit_for_miss
from layergate.http.engine.markers import VariantIndex
from layergate.http.engine.plan import NO_BODY
from layergate.http.engine.purge import invalidate_key
from layergate.http.engine.tally import count_not_stored
from layergate.http.engine.variant_index import first_index, note_variant
from layergate.http.message.key import variant_key
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.combining import combined
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.variants import CODING

__all__ = ["commit", "complete_entry", "is_overtaken", "keep", "refusal_of_layers"]

# For what is added to a response that is stored, bytes: its length, the trace context, fields of a part.
_ROOM: Final = 160


def complete_entry(engine: Engine, exchange: Exchange) -> Entry:
    """The entry that the complete body of an exchange makes."""
    plan, head, body = exchange.plan, exchange.head, exchange.stream.body
    assert plan is not None
    assert head is not None
    assert body is not None
    lines = plan.lines
    if head.part is not None:
        begin = len(exchange.around[0])
        body = body[begin : begin + exchange.stream.length]
    elif head.length is None and head.status not in NO_BODY:
        # It is known now, and a HEAD answered from the store has no other way to tell.
        lines = [*lines, (b"content-length", b"%d" % len(body))]
    return planned_entry(engine, exchange, plan, head.status, lines, body)


def refusal_of_layers(
    engine: Engine, exchange: Exchange, plan: Plan, length: int = 0, *, entry: Entry | None = None
) -> NotStored | None:
    """Why no layer takes what the exchange brings, as things are now: a body of ``length`` bytes, or
    this ``entry``, if that is known already. None: a layer takes it."""
    stack, key = engine.stack, exchange.primary
    if stack.purged_since(exchange.began.stamp, plan.tags, key):
        return NotStored.PURGED
    if plan.names:
        key = variant_key(key, exchange.secondary)
    else:
        present = stack.peek(key)
        if present is not None and isinstance(present.value, VariantIndex):
            key = variant_key(key, engine.settings.secondary((), exchange.request.fields))
    if entry is None:
        size = length + _ROOM
        for name, value in plan.lines:
            size += len(name) + len(value)
        if exchange.asked.rest is not None:
            size += exchange.asked.rest.entry.size
        taken = stack.takes(key, size, plan.tags)
    else:
        taken = stack.takes(key, entry.size, entry.tags)
    return None if taken else NotStored.NO_ROOM


def keep(engine: Engine, exchange: Exchange, entry: Entry) -> bytes | None:
    """Put a response into the top layer at once, so that the next request finds it while `commit`
    takes its time with the layers below. Returns the key; None if it takes more than that."""
    plan, lease, stack = exchange.plan, exchange.lease, engine.stack
    assert plan is not None
    if exchange.variance is not None or (lease is not None and not lease.sure):
        return None
    key, names = exchange.primary, plan.names
    present = stack.peek(key)
    value = None if present is None or present.expires <= engine.runtime.now() else present.value
    if names or isinstance(value, VariantIndex):
        key = variant_key(key, engine.settings.secondary(names, exchange.request.fields))
        if value is None:
            if not stack.keep(exchange.primary, first_index(engine, names, entry.expires)):
                return None
        elif not isinstance(value, VariantIndex) or names not in value.names:
            return None
    if entry is exchange.entry and key != exchange.asked.storage_key:
        return None  # a 304 that changes by what it is selected
    other = stack.peek(key)
    if other is not None and is_later(other, entry):
        return None
    return key if stack.keep(key, entry) else None


async def commit(engine: Engine, exchange: Exchange, plan: Plan, entry: Entry) -> bool:
    """Store a response in all layers. False if it was purged while it was fetched, if another instance
    has taken over its lease, or if there is no room for one more variant."""
    stack = engine.stack
    with engine.counters.span("store", parent=exchange.span, key=exchange.primary) as span:
        stored = await _commit(engine, exchange, plan, entry)
        span.note(stored=stored, size=entry.size)
    kept = exchange.kept
    if not stored and kept is not None:
        present = stack.top_peek(kept)
        if present is not None and present.value is entry.value:
            stack.unkeep(kept)
    return stored


async def _commit(engine: Engine, exchange: Exchange, plan: Plan, entry: Entry) -> bool:
    stack, settings = engine.stack, engine.settings
    if exchange.lease is not None and not await exchange.lease.confirm():
        exchange.refused = NotStored.SUPERSEDED
        count_not_stored(engine, exchange, NotStored.SUPERSEDED)
        return False
    request = exchange.request
    if exchange.state is State.ANSWERED and plan.names:
        await _give_up_older(engine, exchange, plan)
    kept = exchange.kept
    key = await _key_for(engine, exchange, plan.names, entry)
    if key is None:
        if kept is not None:
            stack.unkeep(kept)
        exchange.refused = NotStored.VARIANTS
        count_not_stored(engine, exchange, NotStored.VARIANTS)
        return False
    if isinstance(entry.value, PartialResponse) and exchange.state is not State.ANSWERED:
        found = await find(engine, key, is_complete)
        entry = combined(
            None if found is None or found.entry.doubtful else found.entry,
            entry,
            max_body=settings.max_body,
            max_tags=settings.max_tags,
            targets=settings.targets,
        )
    overtaken = await is_overtaken(engine, key, entry, below=kept == key)
    stored = not overtaken and await stack.store(key, entry)
    if stored and exchange.variance is not None and exchange.asked.primary == request.exact:
        await stack.discard(request.exact)  # which would be looked at first
    if stored and exchange.sights > 1:
        stack.peek(key)  # it has been asked for before: that counts as a read
    if stored and exchange.hit_for_miss:
        await end_hit_for_miss(engine, exchange)
    if not stored:
        engine.counters.on("refused", request=request, reason=NotStored.PURGED.token)
    return stored


async def _key_for(
    engine: Engine, exchange: Exchange, names: tuple[bytes, ...], entry: Entry
) -> bytes | None:
    """The key to store under; None if there is no room for one more variant.

    A target that varied once keeps its index. A response without Vary then is one more variant, looked
    at last, since "the cache SHOULD choose the most recent stored response with a valid Vary field
    value" (4.1).
    """
    primary, fields, kept = exchange.primary, exchange.request.fields, exchange.kept
    if not names:
        present = await entry_under(engine, primary, below=kept == primary)
        if present is None or not isinstance(present.value, VariantIndex):
            return primary
        if kept == primary:
            engine.stack.unkeep(primary)  # it would hide the index
    key = variant_key(primary, engine.settings.secondary(names, fields))
    if CODING in names and engine.settings.nominate_codings:
        engine.learned.codings.note(fields)
    has_room = await note_variant(
        engine, primary, names, fields, key, entry.expires, sights=exchange.sights
    )
    return key if has_room else None


async def is_overtaken(engine: Engine, key: bytes, entry: Entry, *, below: bool = False) -> bool:
    """True if what is stored under ``key`` is from a later fetch, or from after a purge that ``entry``
    did not see. "a cache MUST use the most recent one" (section 4), so the older must not replace it.
    ``below``: look below the top layer only."""
    present = await entry_under(engine, key, below=below)
    return present is not None and is_later(present, entry)


async def _give_up_older(engine: Engine, exchange: Exchange, plan: Plan) -> None:
    """Drop what a 304 with a longer Vary confirms, where it was stored until now: as a variant that
    fewer requests select it no longer answers the others."""
    primary, key = exchange.primary, exchange.asked.storage_key
    secondary, fields = engine.settings.secondary, exchange.request.fields
    if primary != exchange.asked.primary or key == variant_key(
        primary, secondary(plan.names, fields)
    ):
        return
    present = await entry_under(engine, key)
    if present is not None and isinstance(present.value, VariantIndex):
        # Since it was selected it has become one variant of several: the one without a Vary.
        key = variant_key(primary, secondary((), fields))
        present = await entry_under(engine, key)
    if present is None or not isinstance(present.value, StoredResponse):
        return
    await engine.stack.discard(key)
    if present.fresh_until > engine.runtime.now():
        # Other instances may hold a copy that is as fresh. This purge reaches what is about to be
        # stored as well: the next request fetches it.
        await invalidate_key(engine, key)
