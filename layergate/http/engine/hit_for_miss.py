"""Hit-for-miss markers: read, left and ended (guarantee G4).

A marker says that what a target answers is not shareable, so that requests for it do not wait for
each other. `remember` leaves one after a response that was not stored, and ends it when a shareable
response comes; `collapse` reads it. For which requests a marker is, and which refusals leave one, see
`witness`.

A marker never takes the place of a stored response: one that is fresh answers all requests that a
marker could keep from waiting, and one that is stale may yet be validated, or stand in for an error.
So a marker is stored under the storage key, or with `_BESIDE` while a stale response is stored there,
or with `WITH_COOKIE` if it is for requests that carry cookies.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from layergate.config import ONE_REQUEST_STATUSES
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.lookup import Selected
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.settings import Settings
from layergate.http.engine.stand_in import may_stand_in
from layergate.http.engine.variant_index import note_variant
from layergate.http.engine.witness import (
    credentials_witness,
    joined,
    live_hit_for_miss,
    speaks_of_target,
    witness,
)
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.storing import NotStored

__all__ = [
    "REQUEST_ONLY",
    "WITH_COOKIE",
    "concerns_one_request",
    "end_hit_for_miss",
    "find_hit_for_miss",
    "has_hit_for_miss",
    "hit_for_miss_ttl",
    "leave_hit_for_miss",
    "recent_reason",
]

WITH_COOKIE: Final = b"\x00cookie"
"""Appended to a key: for the markers of requests that carry cookies, and for their flights where a
rule's lifetime is not for them. A key tells its own length, so this is never another target's key."""
_BESIDE: Final = b"\x00marker"
_SUFFIXES: Final = (b"", _BESIDE, WITH_COOKIE)

REQUEST_ONLY: Final = frozenset({
    NotStored.REQUEST_NO_STORE, NotStored.AUTHORIZATION, NotStored.COOKIE, NotStored.USER, NotStored.METHOD,
    NotStored.REQUEST_BODY, NotStored.RANGE, NotStored.BUDGET, NotStored.PURGED, NotStored.NOT_MODIFIED,
    NotStored.INCOMPLETE, NotStored.LENGTH_MISMATCH, NotStored.VALIDATOR, NotStored.VARIANTS,
})  # fmt: skip
"""The reasons that say something about one request, and nothing about its target."""
_RANGE_ONLY: Final = frozenset(
    {NotStored.PARTIAL, NotStored.TOO_LARGE}
)  # about the range asked for
# A marker after an error is short: what comes back may well be shareable. Seconds.
_ERROR_TTL: Final = 1.0


# -- reading ---------------------------------------------------------------------------------------


async def find_hit_for_miss(
    engine: Engine, request: Request, selected: Selected, *, quiet: bool = False
) -> HitForMiss | None:
    """The marker that keeps this request from waiting for others, or None."""
    marker, key = selected.hit_for_miss, selected.storage_key
    lines, now = request.fields.lines, engine.runtime.now
    if marker is None and selected.entry is not None:
        marker = live_hit_for_miss(
            now(), lines, await entry_under(engine, key + _BESIDE, quiet=quiet)
        )
    if marker is None and request.cookie:
        found = await entry_under(engine, key + WITH_COOKIE, quiet=quiet)
        marker = live_hit_for_miss(now(), lines, found, credentials=True)
    return marker


async def recent_reason(engine: Engine, selected: Selected) -> NotStored | None:
    """Why a response that some request would have got for this was recently not stored, or None. For
    `explain`: nothing is counted, copied or changed."""
    for suffix in _SUFFIXES:
        entry = await entry_under(engine, selected.storage_key + suffix, quiet=True)
        if entry is not None and entry.fresh_until > engine.runtime.now():
            if isinstance(entry.value, HitForMiss):
                return entry.value.reason
    return None


def has_hit_for_miss(engine: Engine, key: bytes) -> bool:
    """True if this instance's memory has a marker for what is stored under ``key``, for any request."""
    for suffix in _SUFFIXES:
        entry = engine.stack.inspect_top(key + suffix)
        if entry is not None and isinstance(entry.value, HitForMiss):
            return True
    return False


# -- leaving ---------------------------------------------------------------------------------------


async def leave_hit_for_miss(engine: Engine, exchange: Exchange, reason: NotStored) -> None:
    """Leave a marker for the target of an exchange whose response was not stored, beside what is
    stored; unless ``reason`` says nothing about the target."""
    ttl = hit_for_miss_ttl(engine.settings, exchange)
    if not ttl:
        return
    request, now = exchange.request, engine.runtime.now()
    key, lines = exchange.asked.storage_key, request.fields.lines
    if request.cookie:
        # What a client with cookies gets says nothing about what the others share.
        key += WITH_COOKIE
    stored = await entry_under(engine, key)
    if stored is not None and not isinstance(stored.value, HitForMiss):
        if (
            stored.fresh_until > now
            or stored.stamp > exchange.began.stamp  # it is newer
            or not isinstance(stored.value, StoredResponse)
        ):
            return
        if await _is_of_use(engine, exchange, key, stored):
            key += _BESIDE
            stored = await entry_under(engine, key)
        else:
            stored = None
    own = credentials_witness(lines) if request.cookie else witness(lines)
    status, present = exchange.origin_status or 0, None
    if stored is not None:
        if stored.stamp > exchange.began.stamp:  # what is stored is newer
            return
        left = stored.fresh_until - now
        if left > ttl / 2 and live_hit_for_miss(now, lines, stored, credentials=request.cookie):
            return
        if left >= ttl and not speaks_of_target(status):
            return
        if left > 0 and (left > _ERROR_TTL or ttl <= _ERROR_TTL):
            present = stored.value
    value = joined(present, reason, own, status)
    if exchange.asked.storage_key != exchange.primary:
        # One of many variants, and bounded in number like those that are stored.
        told = engine.settings.forwarding.told(request.fields.names()) or None
        has_room = await note_variant(
            engine, exchange.primary, told, request.fields, key, now + ttl, hit_for_miss=True
        )
        if not has_room:
            return
    marker = Entry(
        value,
        created=now,
        fresh_until=now + ttl,
        tags=() if engine.stack.shared_log is None else (_hit_for_miss_tag(exchange.primary),),
        stamp=engine.stack.invalidations.position,
        size=64 + sum(map(len, value.witnesses)),
    )
    await engine.stack.store(key, marker)


def hit_for_miss_ttl(settings: Settings, exchange: Exchange) -> float:
    """For how many seconds the reason why this response was not stored keeps others from waiting for
    its like. 0: the reason says nothing about the target."""
    request, reason, status = exchange.request, exchange.refused, exchange.origin_status or 0
    if reason is None or request.method != "GET" or status in ONE_REQUEST_STATUSES:
        return 0.0
    if (
        request.authorization
        or request.personal
        or (reason in REQUEST_ONLY and reason is not NotStored.COOKIE)
        or (reason in _RANGE_ONLY and request.ranges is not None)
    ):
        return 0.0
    ttl = settings.hit_for_miss_ttl
    if status >= 500:
        # An error does not replace what may be validated later.
        stored = exchange.entry is not None or exchange.asked.fwd == "partial"
        return 0.0 if stored else min(ttl, _ERROR_TTL)
    return ttl if speaks_of_target(status) else min(ttl, _ERROR_TTL)


async def _is_of_use(engine: Engine, exchange: Exchange, key: bytes, stored: Entry) -> bool:
    """Whether what is ``stored`` under ``key``, which is stale, is of any use after this response.

    An error says nothing about it. Any other response is what the origin has in its place, so its
    validator is outdated and it is no longer served unasked, but it may stand in while the origin
    fails. A 304 that says that it is not to be shared is about the stored response itself.
    """
    if not speaks_of_target(exchange.origin_status or 0):
        return True
    if exchange.state is State.ANSWERED:
        return False
    if not may_stand_in(engine, exchange.request, stored, unreachable=True):
        return False
    if stored.stale_while_revalidate:
        asked = stored.windowed(0.0, None)
        asked.checked = stored.checked
        await engine.stack.store(key, asked)
    return True


def concerns_one_request(exchange: Exchange, request: Request) -> bool:
    """True if the response that released those who waited for ``exchange`` may well be due to what its
    own request says and ``request`` does not. Then ``request`` decides anew, and may wait again."""
    status = exchange.origin_status or 0
    if not 400 <= status <= 500 or speaks_of_target(status):
        return False
    return witness(request.fields.lines) != witness(exchange.request.fields.lines)


# -- ending ----------------------------------------------------------------------------------------


async def end_hit_for_miss(engine: Engine, exchange: Exchange) -> None:
    """A shareable response has come for this target: drop its markers, here and on every other
    instance."""
    exchange.hit_for_miss = False
    for suffix in _SUFFIXES:
        key = exchange.asked.storage_key + suffix
        entry = await entry_under(engine, key)
        if entry is not None and isinstance(entry.value, HitForMiss):
            await engine.stack.discard(key)
    if engine.stack.shared_log is not None:
        tag = _hit_for_miss_tag(exchange.primary)
        await engine.stack.invalidate((Invalidation("tag", tag),), wait=0.0)


def _hit_for_miss_tag(primary: bytes) -> str:
    """What the markers of a target are tagged with. No response can be tagged so, since a field's
    value has no NUL."""
    return f"\x00marker {blake2b(primary, digest_size=16).hexdigest()}"
