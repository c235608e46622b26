"""The index of a target's variants: which there are, by which request fields, and how many may be.

A target whose responses vary has, under its primary key, a `VariantIndex` in place of a response. `store`
finds the key for a response here, `remember` notes by what a target varies as soon as a head says so,
and `hit_for_miss` gives a marker its place. Which variant gives way in a full index, `admission` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from layergate.core.codec import FAR
from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under
from layergate.http.engine.markers import VariantIndex
from layergate.http.message.fields import Fields
from layergate.http.message.key import variant_key
from layergate.http.message.stored import StoredResponse

__all__ = ["INDEX_LIFETIME", "VariantRoom", "first_index", "note_variant", "room_for"]

INDEX_LIFETIME: Final = 60.0
"""Seconds that an index lives at least. It lives as long as its longest-lived variant."""
# Sets of request fields that responses of one target name in Vary, each with and without those by which
# proxies tell the app where it is (see `forwarding`).
_MAX_NAME_SETS: Final = 8


class VariantRoom(NamedTuple):
    """``there``: the response may become a variant of its target, or is one. ``sights``: how often its
    variant has come without being kept; 0 if that was not looked at. See `admission`."""

    there: bool
    sights: int = 0


_ROOM: Final = VariantRoom(True)


def room_for(
    engine: Engine,
    primary: bytes,
    names: tuple[bytes, ...],
    variant: bytes,
    *,
    quiet: bool = False,
) -> VariantRoom:
    """Whether a target has room for a response under the key ``variant``, selected by ``names``, as far
    as this process knows. ``quiet``: nothing is noted."""
    present = engine.stack.inspect_top(primary)
    index = None if present is None else present.value
    if not isinstance(index, VariantIndex) or variant in index.variants:
        return _ROOM
    admission, cap = engine.admission, engine.settings.max_variants
    sights = 0
    if len(index.variants) >= cap:
        sights = 1 if quiet else admission.sighted(variant)
        room = admission.room(index, variant, cap, sights=sights)
        if room is None:
            if not quiet:
                admission.fade(primary, index)
            return VariantRoom(False, sights)
    there = (
        names in index.names
        or len(index.names) < _MAX_NAME_SETS
        or admission.idle_names(index, index.names, engine.settings.forwarding) is not None
    )
    return VariantRoom(there, sights)


def first_index(engine: Engine, names: tuple[bytes, ...], expires: float) -> Entry:
    """The index of a target that varies by ``names`` and has no variant yet, to be kept until
    ``expires`` at least."""
    now = engine.runtime.now()
    return Entry(
        VariantIndex((names,), ()),
        created=now,
        fresh_until=max(expires, now + INDEX_LIFETIME),
        stamp=engine.stack.invalidations.position,
        size=64,
    )


async def note_variant(
    engine: Engine,
    primary: bytes,
    names: tuple[bytes, ...] | None,
    fields: Fields,
    variant: bytes | None = None,
    expires: float = 0.0,
    *,
    sights: int = 0,
    hit_for_miss: bool = False,
) -> bool:
    """Note in the index of a target that it varies by ``names``, and that it has ``variant``. False,
    with nothing noted, if there is no room.

    ``names``: None for those that the index has. ``fields``: those of the request. ``variant``: the
    key, or None to note the names alone; ``expires``: until when it is kept. ``sights``, ``hit_for_miss``:
    see `Admission.room`.
    """
    stack = engine.stack
    present = await entry_under(engine, primary)
    index = None if present is None else present.value
    if isinstance(index, VariantIndex):
        if variant is None and names in index.names:
            return True
        index = await _merged(engine, primary, index)
    elif names is None:
        return True
    else:
        index = VariantIndex((), ())
        if present is not None and isinstance(present.value, StoredResponse):
            # A response without Vary becomes one variant of several.
            default = variant_key(primary, engine.settings.secondary((), fields))
            was_read = stack.reads(primary)
            await stack.store(default, present)
            if was_read:
                stack.peek(default)
            index = VariantIndex(((),), (default,), (_end(present.expires),))
    sets = _with_names(engine, index, names)
    if sets is None:
        return False
    ends = dict(zip(index.variants, index.expires, strict=False))
    variants = list(index.variants)
    if variant is not None:
        cap = engine.settings.max_variants
        while variant not in variants and len(variants) >= cap:
            full = VariantIndex((), tuple(variants), _ends(variants, ends))
            room = engine.admission.room(
                full, variant, cap, sights=sights, hit_for_miss=hit_for_miss
            )
            if room is None or room.victim is None:
                return False
            variants.remove(room.victim)
            engine.admission.gave_way(room.victim)
            await stack.discard(room.victim)
        variants = [*(other for other in variants if other != variant), variant]
        ends[variant] = _end(expires)
    now = engine.runtime.now()
    lifetime = max(expires, now + INDEX_LIFETIME, 0.0 if present is None else present.expires)
    entry = Entry(
        VariantIndex(sets, tuple(variants), _ends(variants, ends)),
        created=now,
        fresh_until=lifetime,
        stamp=stack.invalidations.position,
        size=64 + sum(len(other) + 8 for other in variants),
    )
    await stack.store(primary, entry)
    return True


def _with_names(
    engine: Engine, index: VariantIndex, names: tuple[bytes, ...] | None
) -> tuple[tuple[bytes, ...], ...] | None:
    """The sets of field names of ``index`` with ``names`` as the most recent; None if there is no room
    for one more set. The empty set comes last."""
    sets = list(index.names)
    if names is not None:
        while names not in sets and len(sets) >= _MAX_NAME_SETS:
            idle = engine.admission.idle_names(index, sets, engine.settings.forwarding)
            if idle is None:
                return None
            sets.remove(idle)
        sets = [names, *(other for other in sets if other != names)]
    sets.sort(key=lambda item: item == ())  # stable
    return tuple(sets)


async def _merged(engine: Engine, primary: bytes, own: VariantIndex) -> VariantIndex:
    """This instance's index of a target joined with what other instances have made of it: theirs, and
    the variants that are read here. So no variant that is read is lost when two instances change the
    index at once."""
    stack = engine.stack
    if stack.peek_is_enough:
        return own
    held = [one.entry for one in (await stack.inspect(primary))[1:] if not one.purged]
    theirs = next((one.value for one in held if one is not None), None)
    if not isinstance(theirs, VariantIndex):
        return own
    names = [one for one in theirs.names if one]
    names += (one for one in own.names if one and one not in names)
    if () in theirs.names or () in own.names:
        names[_MAX_NAME_SETS - 1 :] = [()]
    ends = dict(zip(own.variants, own.expires, strict=False))
    ends |= dict(zip(theirs.variants, theirs.expires, strict=False))
    room = engine.settings.max_variants - len(theirs.variants)
    more = [
        one for one in reversed(own.variants) if one not in theirs.variants and stack.reads(one)
    ]
    variants = [*reversed(more[: max(room, 0)]), *theirs.variants]
    return VariantIndex(tuple(names[:_MAX_NAME_SETS]), tuple(variants), _ends(variants, ends))


def _end(expires: float) -> int:
    """When a variant ends, as its index has it: seconds since the epoch."""
    return int(min(max(expires, 0.0), FAR))


def _ends(variants: list[bytes], ends: Mapping[bytes, int]) -> tuple[int, ...]:
    """The ends of all ``variants``; empty if one of them is not known."""
    return tuple(ends[one] for one in variants) if all(one in ends for one in variants) else ()
