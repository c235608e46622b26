"""Validate: what a 304 says of what is stored (RFC 9111 4.3.3, 4.3.4).

`receive` asks for the response of a fetch, and `explain` for one that it is asked about. Nothing is
changed here.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.plan import fit_to_lend
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.partial import covers
from layergate.http.rfc9111.plan import Plan, plan_update
from layergate.http.rfc9111.selecting import vary_names
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.validation import freshens, same_but_for_strength
from layergate.http.rfc9111.variants import named

__all__ = ["Outcome", "Validation", "validate"]


class Outcome(enum.Enum):
    """What the 304 is about."""

    CONFIRMED = enum.auto()
    """What is stored: it is updated, and the answer."""
    UNCHANGED = enum.auto()
    """What is stored, which answers this request as it is. Nothing is updated (see `validation`)."""
    UNNAMED = enum.auto()
    """None of the variants whose entity tags were sent."""
    PURGED = enum.auto()
    """What was stored, and has been purged meanwhile."""
    ANOTHER = enum.auto()
    """Another response than the stored one."""
    UNCOVERED = enum.auto()
    """What is stored in parts, to which the request's If-Range no longer applies."""


class Validation(NamedTuple):
    """``entry``: what is stored, if the 304 is about it. ``plan``: how that is to be stored from now
    on, or why it is not. ``lines``: its updated fields as they are sent."""

    outcome: Outcome
    entry: Entry | None = None
    plan: Plan | NotStored = NotStored.NOT_MODIFIED
    lines: Lines = []  # noqa: RUF012  # never changed


def validate(engine: Engine, exchange: Exchange, fields: Fields, now: float) -> Validation:
    """What a 304 with these fields, received at ``now``, means for this exchange."""
    asked, entry = exchange.asked, exchange.entry
    if entry is None:
        entry = named(asked.nominees, fields)
        if entry is None:
            return Validation(Outcome.UNNAMED)
    elif not freshens(entry.value.fields, fields):
        unchanged = _plan_unchanged(engine, exchange, entry, fields, now)
        if unchanged is None:
            return Validation(Outcome.ANOTHER)
        return Validation(Outcome.UNCHANGED, entry, unchanged)
    if not engine.stack.admits(asked.storage_key, entry):
        return Validation(Outcome.PURGED)
    plan, lines = _updated(engine, exchange, entry, fields, now)
    if not _still_covered(asked.request, entry.value, plan, lines):
        return Validation(Outcome.UNCOVERED, entry, plan, lines)
    return Validation(Outcome.CONFIRMED, entry, plan, lines)


def _plan_unchanged(
    engine: Engine, exchange: Exchange, entry: Entry, fields: Fields, now: float
) -> Plan | None:
    """How the response would be kept that the 304 confirms without updating what is stored; None if it
    is not about that, or restricts who may have it."""
    stored: StoredResponse = entry.value
    if not same_but_for_strength(stored.fields, fields):
        return None
    plan, _ = _updated(engine, exchange, entry, fields, now)
    if (
        isinstance(plan, NotStored)
        or plan.vary != vary_names(stored.fields)
        or not engine.stack.admits(exchange.asked.storage_key, entry)
    ):
        return None
    same = (
        plan.without_credentials_only == stored.without_credentials_only
        and plan.shared_with_authorization == stored.shared_with_authorization
        and plan.shared_with_users == stored.shared_with_users
    )
    return plan if same else None


def _updated(
    engine: Engine, exchange: Exchange, entry: Entry, fields: Fields, now: float
) -> tuple[Plan | NotStored, Lines]:
    planned, lines = plan_update(
        exchange.request,
        entry,
        fields,
        exchange.match,
        engine.settings.options,
        request_time=exchange.began.request_time,
        response_time=now,
    )
    return fit_to_lend(exchange, planned, fields), lines


def _still_covered(
    request: Request, stored: StoredResponse, planned: Plan | NotStored, lines: Lines
) -> bool:
    """True if what is stored, with its updated fields, answers the request that it was selected for.
    Parts do not if their validator is no longer one that this request's If-Range takes."""
    updated = planned.lines if isinstance(planned, Plan) else lines
    renewed = stored.renewed(
        updated, generated=stored.generated, response_time=stored.response_time
    )
    return covers(request, renewed)
