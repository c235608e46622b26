"""A response to the request: what the engine does with it, and whether it is stored.

`walk.explain` calls `explain_response` last, for a response that it was given, as if that arrived now.
Steps: ``response``, ``upstream``, ``validation``, ``policy``, ``storable``, ``marker``; and for a response
that is stored those of `traits`, ``variants``, ``fields``, ``cookies``, ``tokens``, ``room``, ``shared``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layergate.http.engine.decide import Decided
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.plan import Planned
from layergate.http.explain.redaction import field_text, seconds_text, shown_lines
from layergate.http.explain.rehearsal import (
    Reaction,
    begin,
    hit_for_miss_seconds,
    place,
    react,
    refusal_of_size,
)
from layergate.http.explain.report import Response
from layergate.http.explain.trace import Trace
from layergate.http.explain.traits import (
    explain_age,
    explain_lifetime,
    explain_policy,
    explain_tags,
    explain_windows,
)
from layergate.http.message.fields import Fields
from layergate.http.privacy.tokens import may_have_token
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.storing import NotStored

__all__ = ["Storing", "explain_planned", "explain_response"]


class Storing(NamedTuple):
    """``stored``: whether the response is stored. ``refused``: the token of the reason why not, or None.
    ``text``: a sentence for the conclusion."""

    stored: bool
    refused: str | None
    text: str


class _Validation(NamedTuple):
    """The step ``validation`` for a `Reaction`, as a `Step` has it."""

    outcome: str
    rfc: str
    text: str
    good: bool | None


_VALIDATIONS: Final = {
    Reaction.CONFIRMS: _Validation(
        "confirmed",
        "4.3.4",
        "The stored response is still valid. Its fields are updated, and it is the answer.",
        True,
    ),
    Reaction.CONFIRMS_VARIANT: _Validation(
        "confirmed",
        "4.3.4",
        "The 304 names a stored variant, which is the answer to this request too.",
        True,
    ),
    Reaction.CONFIRMS_AS_IT_IS: _Validation(
        "reused",
        "4.3.4",
        "The stored response is unchanged and is the answer, but its fields are not updated.",
        None,
    ),
    Reaction.STANDS_IN_FOR_ERROR: _Validation(
        "stale-if-error",
        "RFC 5861 4",
        "The stored response stands in for the error, which is not stored.",
        True,
    ),
    Reaction.STANDS_IN_UNREACHABLE: _Validation(
        "stale-if-unreachable",
        "4.2.4",
        "The stored response stands in for the error, which is not stored.",
        True,
    ),
    Reaction.NAMES_NO_VARIANT: _Validation(
        "mismatch",
        "4.3.4",
        "The 304 names none of the stored variants, so the response is fetched again.",
        False,
    ),
    Reaction.NAMES_PURGED: _Validation(
        "mismatch",
        "4.3.4",
        "The stored response was purged meanwhile, so it is fetched again.",
        False,
    ),
    Reaction.NAMES_OTHER: _Validation(
        "mismatch",
        "4.3.4",
        "The 304 is about another response than the stored one, so the response is fetched again.",
        False,
    ),
    Reaction.RANGE_NO_LONGER_APPLIES: _Validation(
        "mismatch",
        "3.3",
        "With the updated fields the range no longer applies (If-Range), so the response is fetched"
        " again.",
        False,
    ),
    Reaction.COMPLETES_NOTHING: _Validation(
        "mismatch",
        "3.4",
        "The response does not complete the stored one, so what the client asks for is fetched.",
        False,
    ),
    Reaction.HEAD_SAYS_NOTHING: _Validation(
        "left",
        "4.3.5",
        "A response to HEAD is not stored, and this one does not change the stored response.",
        None,
    ),
    Reaction.HEAD_OUTDATES: _Validation(
        "outdated",
        "4.3.5",
        "The response differs from the one that is stored for GET, which becomes stale.",
        False,
    ),
    Reaction.HEAD_FRESHENS: _Validation(
        "freshened",
        "4.3.5",
        "The response confirms the one that is stored for GET, which becomes fresh again.",
        True,
    ),
}
_PLANNED: Final = frozenset({
    Reaction.NEW, Reaction.COMPLETES, Reaction.CONFIRMS, Reaction.CONFIRMS_VARIANT,
})  # fmt: skip
"""After these reactions the response, or the answer that it makes, is planned."""


def explain_response(
    trace: Trace, decided: Decided, rest: Rest | None, response: Response
) -> Storing:
    """``rest``: what would be fetched, if that is less than what the client asks for."""
    fields = Fields(response.lines)
    text = "The storing of this response is explained, as if it arrived now."
    trace.add("response", str(response.status), "3", text, headers=shown_lines(fields.lines))
    status = fields.get(b"cache-status")
    if status is not None:
        text = "The caches on the way report this."
        trace.add("upstream", field_text(status), "RFC 9211 2", text)
    engine, now = trace.engine, trace.now
    exchange = begin(engine, trace.request, decided, trace.match, rest, response, now)
    reaction, planned, answered = react(engine, exchange, decided.entry, response, now)
    step = _VALIDATIONS.get(reaction)
    if step is not None:
        trace.add("validation", *step)
    if reaction in _PLANNED:
        assert planned is not None
        return explain_planned(trace, exchange, planned, answered, fields)
    assert step is not None
    if reaction is Reaction.CONFIRMS_AS_IT_IS:
        return Storing(False, NotStored.VALIDATOR.token, NotStored.VALIDATOR.explain)
    reason = None if planned is None else planned.plan
    assert not isinstance(reason, Plan)
    return Storing(False, None if reason is None else reason.token, step.text)


# -- how it is stored ------------------------------------------------------------------------------


def explain_planned(
    trace: Trace, exchange: Exchange, planned: Planned, status: int, fields: Fields
) -> Storing:
    """``status``: of the response that is stored; ``fields``: those of the one that came."""
    explain_policy(trace, fields)
    if isinstance(planned.plan, NotStored):
        _explain_refused(trace, exchange, planned.plan)
        return _not_stored(planned.plan)
    placed = place(trace.engine, exchange, planned.plan)
    if isinstance(placed, NotStored):
        trace.add_reason("storable", placed)
        return _not_stored(placed)
    text = "Nothing forbids storing the response, and something allows it."
    trace.add("storable", "stored", "3", text, True, status=status)
    _explain_plan(trace, placed, fields)
    refused = _explain_room(trace, exchange, placed, planned.length, fields)
    if refused is not None:
        return _not_stored(refused)
    _explain_sharing(trace, placed)
    left = placed.fresh_until - trace.now
    if left > 0:
        return Storing(True, None, f"Stored, fresh for {seconds_text(round(left, 1))}.")
    return Storing(True, None, "Stored, to be validated before each use.")


def _not_stored(reason: NotStored) -> Storing:
    return Storing(False, reason.token, f"Not stored: {reason.explain}")


def _explain_refused(trace: Trace, exchange: Exchange, reason: NotStored) -> None:
    trace.add_reason("storable", reason)
    ttl = hit_for_miss_seconds(trace.engine, exchange, reason)
    if ttl:
        text = "For this long, requests for the target do not wait for each other."
        trace.add("marker", seconds_text(ttl), "G4", text, seconds=ttl)


def _explain_plan(trace: Trace, plan: Plan, fields: Fields) -> None:
    explain_lifetime(trace, plan.lifetime, plan.fresh_until - trace.now)
    explain_age(trace, plan.response_time - plan.generated)
    explain_windows(
        trace,
        stale_while_revalidate=plan.stale_while_revalidate,
        stale_if_error=plan.stale_if_error,
        must_revalidate=plan.must_revalidate,
        no_cache=plan.no_cache,
    )
    if plan.names:
        names = [field_text(name) for name in plan.names]
        text = "It is one variant of its target, for requests with the same values of these fields."
        trace.add("variants", ", ".join(names), "4.1", text, names=names)
    kept = {name for name, _ in plan.lines}
    dropped = sorted({field_text(name) for name, _ in fields.lines if name not in kept})
    if dropped:
        text = "These fields of the response are not stored with it."
        trace.add("fields", ", ".join(dropped), "3.1", text, dropped=dropped)
    if b"set-cookie" in kept:
        text = "Its Set-Cookie is stored and sent to every client, because the rule says keep."
        trace.add("cookies", "kept", "7.3", text)
    explain_tags(trace, plan.tags)


def _explain_room(
    trace: Trace, exchange: Exchange, plan: Plan, length: int | None, fields: Fields
) -> NotStored | None:
    """Returns why there is no room for the response, as far as its head tells; else None."""
    if plan.lent and may_have_token(fields):
        text = (
            "A rule or a heuristic gives the lifetime, so the response is not stored if its body has"
            " a CSRF token or a nonce."
        )
        trace.add("tokens", "not seen", "G1", text)
    if exchange.origin_status == 304:
        return None
    if length is None:
        text = "Cache-Status says 'stored' only if the whole body arrives together with the head."
        trace.add("room", "unknown length", "G11", text)
        return None
    refused = refusal_of_size(trace.engine, exchange, plan, length)
    if refused is None:
        trace.add("room", "yes", "G11", "A layer takes a response of this size.", True)
    else:
        trace.add_reason("room", refused)
    return refused


def _explain_sharing(trace: Trace, plan: Plan) -> None:
    clients = "every client"
    if plan.without_credentials_only:
        clients = "clients without cookies or other credentials"
    elif not plan.shared_with_authorization:
        clients = "requests without Authorization"
    if plan.shareable:
        text = f"It may be given to {clients}, including those that wait for it now."
        trace.add("shared", "yes", "4", text, True)
    else:
        text = f"It may be given to {clients} after validation, so those that wait now ask again."
        trace.add("shared", "no", "4", text, False)
