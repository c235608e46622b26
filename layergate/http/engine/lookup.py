"""Look up: what is stored for a request, through the variants of its target (RFC 9111 section 4.1).

`select` is called once for each decision on a request, and again after a wait for another fetch. It
finds; `decide` says what the find is good for. Nothing here changes what is stored, apart from
copies that a lookup makes in upper layers.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import entry_under, find
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.engine.witness import live_hit_for_miss
from layergate.http.extensions.languages import in_language
from layergate.http.extensions.no_vary_search import SearchVariance, class_key, path_key
from layergate.http.message.key import variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.partial import covers
from layergate.http.rfc9111.rest import Rest

__all__ = ["Selected", "newest", "select", "select_exactly", "selectable"]


class Selected(NamedTuple):
    """What is stored for a request.

    ``entry``        the entry that the request selects, or None.
    ``storage_key``  the key that such an entry has or would have.
    ``hit_for_miss`` the marker found in its place, or None.
    ``vary_miss``    the target has variants, and the request selects none of them.
    ``layer``        the name of the layer that has the entry, or "".
    ``variants``     the index of a target that has variants.
    ``rest``         what is to be fetched for an answer, if that is less than what the client asks
                     for.
    ``language``     what the entry was chosen for, if it is of another variant (see `languages`), or
                     b"".
    """

    entry: Entry | None
    storage_key: bytes
    hit_for_miss: HitForMiss | None
    vary_miss: bool
    layer: str = ""
    variants: VariantIndex | None = None
    rest: Rest | None = None
    language: bytes = b""


async def select(engine: Engine, request: Request, *, quiet: bool = False) -> Selected:
    """What may answer this request: what it selects, or if nothing, and the option ``language_match``
    allows it, what is stored in the language that the client prefers.

    ``quiet``: nothing is counted, copied or changed (see `Stack.lookup`).
    """
    settings, stack = engine.settings, engine.stack
    selected = await select_exactly(engine, request, quiet=quiet)
    index = selected.variants
    if not settings.language_match or index is None or not selected.vary_miss:
        return selected
    if selected.hit_for_miss is not None:  # what it selects is not shareable
        return selected
    own = [
        variant_key(request.key, settings.secondary(names, request.fields))
        for names in index.names
        if settings.forwarding.covers(names, request.fields.names())
    ][:1]  # what was selected by fewer fields before may be for another client
    now = engine.runtime.now()
    found = in_language(request, reversed(index.variants), own, stack.inspect_top, now)
    if found is None:
        return selected
    if not quiet:
        stack.peek(found.key)  # it is in use
    return selected._replace(
        entry=found.entry, vary_miss=False, layer=engine.top, language=found.language
    )


async def select_exactly(engine: Engine, request: Request, *, quiet: bool = False) -> Selected:
    """What this request selects by RFC 9111 section 4.1. ``quiet``: as for `select`."""
    forwarding = engine.settings.forwarding
    fields = request.fields
    now = engine.runtime.now
    if engine.settings.no_vary_search:
        request.key = await _search_key(engine, request, quiet=quiet)
    key = request.key
    told = forwarding.told(fields.names())

    def enough(entry: Entry) -> bool:
        value = entry.value
        if isinstance(value, VariantIndex):  # another instance's may know of more
            return any(forwarding.part_of(names) == told for names in value.names)
        if isinstance(value, HitForMiss):  # (of others: what they share may lie below)
            return live_hit_for_miss(now(), fields.lines, entry) is not None
        return not isinstance(value, PartialResponse) or covers(request, value)

    default = variant_key(key, engine.settings.secondary(told, fields)) if told else key
    found = await find(engine, key, enough, quiet=quiet)
    if found is None or not isinstance(found.entry.value, VariantIndex):
        if told:
            # What is stored there is for requests by which the app is told nothing.
            entry = await entry_under(engine, default, quiet=quiet)
            marker = live_hit_for_miss(now(), fields.lines, entry)
            return Selected(None, default, marker, found is not None)
        if found is None:
            return Selected(None, key, None, False)
        if isinstance(found.entry.value, StoredResponse):
            return Selected(found.entry, key, None, False, found.layer)
        return Selected(None, key, live_hit_for_miss(now(), fields.lines, found.entry), False)
    index = found.entry.value
    first: bytes | None = None
    marker = None
    for names in index.names:
        if not forwarding.covers(names, fields.names()):
            continue
        variant = variant_key(key, engine.settings.secondary(names, fields))
        first = variant if first is None else first
        found = await find(engine, variant, enough, quiet=quiet)
        if found is None:
            continue
        if isinstance(found.entry.value, StoredResponse):
            return Selected(found.entry, variant, None, False, found.layer, index)
        marker = live_hit_for_miss(now(), fields.lines, found.entry) or marker
    return Selected(None, first or default, marker, True, "", index)


async def _search_key(engine: Engine, request: Request, *, quiet: bool) -> bytes:
    """The key to look under: of the request's own target, or of all the targets that No-Vary-Search
    makes equivalent to it."""
    exact = request.exact
    if request.exactly:
        return exact
    own = await entry_under(engine, exact, quiet=quiet)
    if own is not None and not isinstance(own.value, HitForMiss):
        return exact
    said = await entry_under(engine, path_key(exact), quiet=quiet)
    if said is None or not isinstance(said.value, SearchVariance):
        return exact
    return class_key(exact, said.value)


async def newest(
    engine: Engine, request: Request, selected: Selected, *, quiet: bool = False
) -> Selected:
    """What is selected for a reload: ``selected``, or what another instance has replaced it with since
    it was copied here. This instance's own copy is fresh, so nothing else makes it look below.
    ``quiet``: as for `select`."""
    seen = selected.entry
    if engine.stack.shared_log is None or seen is None or selected.layer != engine.top:
        return selected

    def enough(entry: Entry) -> bool:
        return (
            entry.value is not seen.value
            and entry.created >= seen.created
            and isinstance(entry.value, StoredResponse)
            and covers(request, entry.value)
        )

    found = await engine.stack.lookup(selected.storage_key, enough=enough, quiet=quiet)
    if found is None or not enough(found.entry):
        return selected
    return selected._replace(entry=found.entry, layer=found.layer)


async def selectable(engine: Engine, request: Request) -> list[tuple[bytes, Entry]]:
    """All stored responses that this request may select, with their keys, most recent Vary first."""
    selected = await select_exactly(engine, request)
    index = selected.variants
    if index is None or len(index.names) < 2:
        return [] if selected.entry is None else [(selected.storage_key, selected.entry)]
    found: list[tuple[bytes, Entry]] = []
    for names in index.names:
        if not engine.settings.forwarding.covers(names, request.fields.names()):
            continue
        key = variant_key(request.key, engine.settings.secondary(names, request.fields))
        entry = await entry_under(engine, key)
        if entry is not None and isinstance(entry.value, StoredResponse):
            found.append((key, entry))
    return found
