"""Fetch: the exchange for a request that goes to the origin, and the preconditions it carries.

`collapse`, `refresh`, `uncacheable` and `posting` call `new_exchange`. The `feed` feeds it with what the
origin answers.
"""

from __future__ import annotations

from functools import partial

from layergate.core.entry import Entry
from layergate.core.flight import Pulse
from layergate.http.engine.engine import Engine
from layergate.http.engine.entries import is_complete
from layergate.http.engine.exchange import Asked, Began, Exchange
from layergate.http.engine.lookup import Selected
from layergate.http.engine.markers import VariantIndex
from layergate.http.engine.stream import Stream
from layergate.http.engine.tally import count_cut
from layergate.http.message.etags import is_weak
from layergate.http.message.fields import Lines
from layergate.http.message.key import variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.rest import Rest, rest_of
from layergate.http.rfc9111.validation import conditional_lines
from layergate.http.rfc9111.variants import CODING, nominated
from layergate.http.rules import Match

__all__ = ["beginning", "missing_rest", "new_exchange", "nominees", "validators"]


def beginning(engine: Engine) -> Began:
    """Now, as the beginning of a fetch. Only what is purged from here on concerns it (G3)."""
    runtime, stack = engine.runtime, engine.stack
    monotonic = 0.0 if stack.shared_log is None else runtime.monotonic()
    return Began(stack.invalidations.position, runtime.now(), monotonic)


def new_exchange(
    engine: Engine,
    request: Request,
    selected: Selected,
    flight_key: bytes | None,
    entry: Entry | None,
    fwd: str,
    match: Match | None,
    *,
    began: Began | None = None,
    reload: bool = False,
    refreshes: bool = False,
) -> Exchange:
    """The exchange for ``request``. Arguments as the fields of `Asked`.

    ``entry``: what is to be validated, or may stand in for an error. ``began``: when the fetch began;
    None: now.
    """
    index, storage_key = selected.variants, selected.storage_key
    preconditions: Lines = []
    if entry is not None and isinstance(entry.value, StoredResponse):
        preconditions = validators(engine, storage_key, entry.value)
    asked = Asked(
        request,
        request.key,
        storage_key,
        flight_key,
        fwd,
        preconditions,
        nominees(engine, request, selected, entry, match) if index is not None else (),
        # What nobody shares is not looked into, but passed on.
        None if flight_key is None else selected.rest,
        index is not None and len(index.names) > 1,
        reload,
        refreshes,
        engine.counters.here() if refreshes else None,
    )
    runtime = engine.runtime
    stream = Stream(
        Pulse(runtime),
        runtime.lock(),
        runtime.monotonic,
        patience=engine.settings.slow_reader_timeout,
        cut=partial(count_cut, engine.counters),
    )
    return Exchange(asked, entry, match, beginning(engine) if began is None else began, stream)


def validators(engine: Engine, key: bytes, stored: StoredResponse) -> Lines:
    """The preconditions that validate what is stored under ``key``. Empty if what they bring again and
    again updates nothing (see `validation`)."""
    if engine.learned.weak_tag_is_useless(key) and is_weak(stored.fields.first(b"etag") or b""):
        return []
    return conditional_lines(stored.fields)


def nominees(
    engine: Engine,
    request: Request,
    selected: Selected,
    entry: Entry | None,
    match: Match | None,
) -> tuple[Entry, ...]:
    """The variants in the top layer that the origin may say are good for a request which selects none
    of them (4.1, 4.3.1). ``entry``: what it does select. Empty unless the option ``nominate_codings``
    is on; see `variants`."""
    index = selected.variants
    if not engine.settings.nominate_codings:
        return ()
    if entry is not None or index is None or not selected.vary_miss or selected.hit_for_miss:
        return ()
    if request.method != "GET" or request.directives.no_store:
        return ()
    if request.authorization or request.personal:
        return ()
    if not engine.learned.names_in_304(request.key):
        return ()
    keys = _differing_by_coding(engine, request, index, match)
    look = engine.stack.inspect_top
    present = [look(key) for key in reversed(index.variants) if key in keys]
    # Parts are not compared with wholes, nor could they answer for one.
    return nominated(request, (one for one in present if one is not None and is_complete(one)))


def _differing_by_coding(
    engine: Engine, request: Request, index: VariantIndex, match: Match | None
) -> set[bytes]:
    """The keys of the variants that this request would select with another Accept-Encoding."""
    settings = engine.settings
    names = index.names[0]  # by which the most recent response was selected
    said = set() if match is None else {name.encode("ascii") for name in match.rule.vary}
    if (
        CODING not in names
        or not said.issubset(names)
        or not settings.forwarding.covers(names, request.fields.names())
    ):
        return set()
    return {
        variant_key(request.key, settings.secondary(names, fields))
        for fields in engine.learned.codings.others(request.fields)
    }


def missing_rest(engine: Engine, request: Request, entry: Entry | None) -> Rest | None:
    """What is to be fetched to complete ``entry`` for this request; None if all is to be fetched. See
    `rest.rest_of`."""
    if entry is not None and entry.doubtful:
        return None  # what may have been purged is no part of an answer
    return rest_of(request, entry, max_body=engine.settings.max_body)
