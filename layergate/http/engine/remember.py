"""Remember: what the head of a response tells the requests that come after it.

The `feed` calls `remember` once for each exchange whose head is known, beside sending that head. Of a
shareable response it notes by what it varies, and ends the markers of its target; of a response that
is not stored it leaves a hit-for-miss marker. The body is stored elsewhere; see `store`.
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.hit_for_miss import (
    end_hit_for_miss,
    has_hit_for_miss,
    leave_hit_for_miss,
)
from layergate.http.engine.purge import invalidate_key
from layergate.http.engine.variant_index import INDEX_LIFETIME, note_variant
from layergate.http.extensions.no_vary_search import SearchVariance, path_key
from layergate.http.rfc9111.storing import NotStored

__all__ = ["remember"]


async def remember(engine: Engine, exchange: Exchange) -> None:
    """Note what the head of the exchange's response says."""
    stack, learned = engine.stack, engine.learned
    if exchange.mismatched:
        # The origin has something else than what is stored. The next request asks without its
        # validators.
        if exchange.asked.nominees:
            learned.note_unnamed(exchange.primary)
        else:
            await stack.discard(exchange.asked.storage_key)
        return
    plan, reason = exchange.plan, exchange.refused
    if reason is NotStored.VALIDATOR:
        learned.note_strengthened(exchange.asked.storage_key)
        return
    if plan is not None and (reason is None or reason is NotStored.VARIANTS):
        if exchange.variance is not None:
            await _note_search_variance(engine, exchange, exchange.variance, plan.expires)
        if plan.names:
            await note_variant(engine, exchange.primary, plan.names, exchange.request.fields)
        if plan.shareable and (
            exchange.hit_for_miss or has_hit_for_miss(engine, exchange.asked.storage_key)
        ):
            await end_hit_for_miss(engine, exchange)
        return
    if reason is NotStored.VARY_STAR and exchange.state is State.ANSWERED:
        # What the 304 confirms for this request is no longer there for any other.
        await stack.discard(exchange.asked.storage_key)
        await invalidate_key(engine, exchange.asked.storage_key)
    if reason is not None:
        await leave_hit_for_miss(engine, exchange, reason)


async def _note_search_variance(
    engine: Engine, exchange: Exchange, variance: SearchVariance, expires: float
) -> None:
    """Keep what a response says about the queries of its path, until ``expires`` at least."""
    now, key = engine.runtime.now(), path_key(exchange.request.exact)
    present = await entry_under(engine, key)
    expires = max(expires, now + INDEX_LIFETIME)
    if present is not None:
        if present.value == variance and present.expires >= expires - INDEX_LIFETIME / 2:
            return
        if present.stamp > exchange.began.stamp and present.value != variance:
            return  # what was said later counts
        expires = max(expires, present.expires)
    said = Entry(
        variance,
        created=now,
        fresh_until=expires,
        stamp=exchange.began.stamp,
        size=64 + sum(map(len, variance.names)),
    )
    await engine.stack.store(key, said)
