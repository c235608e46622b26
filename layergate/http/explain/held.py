"""The store: what each layer holds for a request, and the stored response that the request selects.

`walk.explain` calls `explain_held` when the request has been looked up. Steps: ``fleet``, ``layer`` (one
for each layer), ``variants``, ``language``, ``stored``, those of `traits`, and ``validators``.

Layers are asked in a way that counts no read, moves no entry and copies none (`Stack.inspect`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from layergate.core.entry import Entry
from layergate.core.stack import Held
from layergate.http.engine.fetch import validators
from layergate.http.engine.lookup import Selected
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.explain.redaction import (
    caught_data,
    digest,
    field_text,
    is_secret,
    purge_text,
    seconds_text,
    shown_lines,
    shown_parts,
    shown_value,
)
from layergate.http.explain.trace import Trace
from layergate.http.explain.traits import (
    explain_age,
    explain_lifetime,
    explain_policy,
    explain_tags,
    explain_windows,
)
from layergate.http.message.fields import Fields
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.freshness import Lifetime
from layergate.http.rfc9111.plan import Plan, plan_storage
from layergate.http.rfc9111.selecting import normalize
from layergate.http.rfc9111.validation import conditional_lines

__all__ = ["explain_held"]

_MAX_VARIANTS: Final = 32  # of a target, that are looked up one by one


async def explain_held(trace: Trace, selected: Selected) -> None:
    """``selected``: what the engine's lookup has found."""
    stack, request = trace.engine.stack, trace.request
    if not stack.trusted:
        text = "The shared layer has been unreachable for too long, so this copy counts as stale."
        trace.add("fleet", "cut off", "G3", text, False)
    held = await stack.inspect(request.key)
    for one in held:
        _explain_layer(trace, one, "target")
    if selected.storage_key != request.key:
        for one in await stack.inspect(selected.storage_key):
            _explain_layer(trace, one, "variant")
    index = next((value for one in held if (value := _index_in(one)) is not None), None)
    if index is not None:
        await _explain_variants(trace, index, selected)
    if selected.entry is not None:
        _explain_stored(trace, selected.entry, selected.storage_key)


def _index_in(held: Held) -> VariantIndex | None:
    if held.entry is None or held.purged:
        return None
    return held.entry.value if isinstance(held.entry.value, VariantIndex) else None


# -- layers ----------------------------------------------------------------------------------------


class _Content(NamedTuple):
    """What a layer holds, in the terms of a `Step`."""

    kind: str
    rfc: str
    good: bool
    text: str


def _explain_layer(trace: Trace, held: Held, of: str) -> None:
    """``of``: "target", or "variant" for the variant that the request selects."""
    entry, data = held.entry, {"layer": held.layer, "of": of}
    where = f"The layer {held.layer!r}"
    if held.error is not None:
        text = f"{where} failed ({type(held.error).__name__}), which counts as a miss."
        trace.add("layer", f"{held.layer}: failed", "G5", text, False, **data)
        return
    if entry is None:
        text = f"{where} holds nothing for this {of}."
        trace.add("layer", f"{held.layer}: nothing", "4", text, None, **data)
        return
    content = _content(entry, trace.now, where, of)
    if held.purged:
        by = purge_text(held.caught)
        text = f"{where} still holds an entry, but it was purged {by}."
        content = _Content("purged", "G3", False, text)
    elif held.caught and content.kind == "stale":
        by = purge_text(held.caught)
        content = content._replace(rfc="G3", text=f"{where} holds a response, made stale {by}.")
    trace.add(
        "layer",
        f"{held.layer}: {content.kind}",
        content.rfc,
        content.text,
        content.good,
        **data,
        ttl=round(-entry.staleness(trace.now), 3),
        kept=round(entry.expires - trace.now, 3),
        stamp=entry.stamp,
        position=trace.engine.stack.invalidations.position,
        purges=[caught_data(caught) for caught in held.caught],
        **_value_data(entry.value, trace.now),
    )


def _content(entry: Entry, now: float, where: str, of: str) -> _Content:
    value = entry.value
    if isinstance(value, StoredResponse):
        fresh = entry.fresh_until > now
        holds = "parts of a response" if isinstance(value, PartialResponse) else "a response"
        left = seconds_text(abs(round(-entry.staleness(now), 1)))
        if fresh:
            return _Content("fresh", "4.2", True, f"{where} holds {holds}, fresh for {left} more.")
        return _Content("stale", "4.2", False, f"{where} holds {holds}, stale for {left}.")
    if isinstance(value, VariantIndex):
        text = f"{where} holds an index of this target's variants."
        return _Content("index", "4.1", True, text)
    if isinstance(value, HitForMiss):
        text = f"{where} holds a marker: responses for this {of} are not shareable."
        return _Content("marker", "G4", False, text)
    return _Content("unknown", "4", False, f"{where} holds something that is not a response.")


def _value_data(value: object, now: float) -> dict[str, Any]:
    if isinstance(value, HitForMiss):
        return {"reason": value.reason.token}
    return _response_data(value, now) if isinstance(value, StoredResponse) else {}


def _response_data(stored: StoredResponse, now: float) -> dict[str, Any]:
    data: dict[str, Any] = {
        "status": stored.status,
        "bytes": sum(len(octets) for _, octets in stored.held),
        "age": round(now - stored.generated, 3),
    }
    return data | _parts_data(stored)


def _parts_data(stored: StoredResponse) -> dict[str, Any]:
    if not isinstance(stored, PartialResponse):
        return {}
    return {"parts": shown_parts(stored), "of_bytes": stored.length}


# -- variants --------------------------------------------------------------------------------------


async def _explain_variants(trace: Trace, index: VariantIndex, selected: Selected) -> None:
    selects = [_selecting(trace, names) for names in index.names]
    by = ", ".join(", ".join(one) or "nothing" for one in selects)
    found = selected.entry is not None
    number = "one" if found else "none"
    trace.add(
        "variants",
        by,
        "4.1",
        f"The target varies by {by}, and this request selects {number} of the stored variants.",
        found,
        selects=selects,
        count=len(index.variants),
        variants=[
            await _variant_data(trace, key, selected) for key in index.variants[-_MAX_VARIANTS:]
        ],
    )
    if selected.language:
        language = field_text(selected.language)
        text = (
            f"The client prefers {language!r} to every other language, so a response in it that is"
            " stored for other clients is used, as the option language_match allows."
        )
        trace.add("language", language, "RFC 9110 12.5.4", text, True)


def _selecting(trace: Trace, names: tuple[bytes, ...]) -> dict[str, str | None]:
    """The request's values of the fields that a variant is selected by."""
    fields, order = trace.request.fields, trace.settings.language_order
    values = {name: normalize(name, fields.all(name), language_order=order) for name in names}
    return {
        field_text(name): None if value is None else shown_value(name, value)
        for name, value in values.items()
    }


async def _variant_data(trace: Trace, key: bytes, selected: Selected) -> dict[str, Any]:
    found = await trace.engine.stack.lookup(key, quiet=True)
    entry = None if found is None else found.entry
    stored = entry is not None and isinstance(entry.value, StoredResponse)
    return {
        "digest": digest(key),
        "selected": key == selected.storage_key,
        "ttl": None if entry is None else round(-entry.staleness(trace.now), 3),
        "status": entry.value.status if entry is not None and stored else None,
    }


# -- the stored response ---------------------------------------------------------------------------


def _explain_stored(trace: Trace, entry: Entry, key: bytes) -> None:
    stored: StoredResponse = entry.value
    octets = sum(len(held) for _, held in stored.held)
    of = ""
    if isinstance(stored, PartialResponse):
        of = f" of {'more' if stored.length is None else stored.length}"
    trace.add(
        "stored",
        str(stored.status),
        "3",
        f"The request selects a stored response with status {stored.status} and {octets}{of} bytes"
        " of body.",
        True,
        status=stored.status,
        headers=shown_lines(stored.lines),
        bytes=octets,
        **_parts_data(stored),
        response_time=stored.response_time,
        stamp=entry.stamp,
    )
    explain_policy(trace, Fields(stored.all_lines))
    source = _source_of_lifetime(trace, entry, stored)
    # A rule's lifetime begins when the response came, all others when the origin generated it.
    begins = stored.response_time if source == "rule" else stored.generated
    lifetime = Lifetime(max(0.0, entry.stale_from - begins), source)
    explain_lifetime(trace, lifetime, -entry.staleness(trace.now))
    explain_age(trace, trace.now - stored.generated)
    explain_windows(
        trace,
        stale_while_revalidate=entry.stale_while_revalidate,
        stale_if_error=entry.stale_if_error,
        must_revalidate=stored.must_revalidate,
        no_cache=stored.no_cache,
    )
    _explain_validators(trace, stored, key)
    explain_tags(trace, entry.tags)


def _explain_validators(trace: Trace, stored: StoredResponse, key: bytes) -> None:
    conditional = conditional_lines(stored.fields)
    if not conditional:
        text = "It has no validator, so once stale it is fetched again."
        trace.add("validators", "none", "4.3.1", text)
        return
    names = " and ".join(field_text(name) for name, _ in conditional)
    text = f"Once stale it can be validated with {names}."
    if not validators(trace.engine, key, stored):
        text = (
            f"It could be validated with {names}, but earlier 304s updated nothing (reason"
            " 'validator'), so once stale it is fetched again."
        )
    trace.add("validators", names, "4.3.1", text, lines=shown_lines(conditional))


def _source_of_lifetime(trace: Trace, entry: Entry, stored: StoredResponse) -> str:
    """Where the lifetime of a stored response comes from.

    An entry does not carry that. So the response is planned once more, as if a client without
    credentials had asked for it, and its lifetime is compared; "other" if it differs.
    """
    request = trace.request
    asked = request.for_refresh()
    asked.fields = Fields([line for line in request.fields.lines if not is_secret(line[0])])
    asked.authorization = asked.cookie = asked.personal = False
    age = int(stored.response_time - stored.generated)
    planned = plan_storage(
        asked,
        stored.status,
        Fields([*stored.all_lines, (b"age", b"%d" % age)]),
        trace.match,
        trace.settings.options,
        request_time=stored.response_time,
        response_time=stored.response_time,
    )
    if isinstance(planned, Plan) and abs(planned.fresh_until - entry.stale_from) <= 1.0:
        return planned.lifetime.source
    return "other"
