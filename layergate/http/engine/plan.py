"""Plan: whether a response is stored, how, and where, by its head.

The one decision that `receive` makes for the response of a fetch, `explain` for one that it is asked
about, and `update` for a response to HEAD. The policy itself is `rfc9111.plan`; here it is given the
engine's side of the question: parts, tokens, lengths, and keys. Nothing is changed, except that `locate`
notes its finding in the exchange.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.keys import place_of
from layergate.http.message.fields import Fields
from layergate.http.privacy.tokens import may_have_token
from layergate.http.rfc9111.combining import Received, received_part
from layergate.http.rfc9111.plan import Plan, plan_storage
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["NO_BODY", "Planned", "fit_to_lend", "locate", "plan_head", "plan_response"]

NO_BODY: Final = frozenset({204, 205, 304})
"""The statuses of responses without content."""


class Planned(NamedTuple):
    """``plan``: how the response is to be stored, or why it is not. ``part``: what it is a part of, if
    it is a 206. ``length``: of its content, bytes; None if the head does not tell."""

    plan: Plan | NotStored
    part: Received | None = None
    length: int | None = None


def plan_response(
    engine: Engine,
    exchange: Exchange,
    status: int,
    fields: Fields,
    now: float,
    *,
    trailers: bool = False,
) -> Planned:
    """How a whole response with this head, received at ``now``, is to be stored. ``trailers``: trailer
    fields were announced; they cannot be stored with the rest, so nothing is (3.1)."""
    if exchange.refused is not None:
        return Planned(exchange.refused)
    plan, part = plan_head(engine, exchange, exchange.match, status, fields, now)
    if isinstance(plan, NotStored):
        return Planned(plan, part)
    if trailers:
        return Planned(NotStored.TRAILERS, part)
    length: int | None = None
    if part is not None:
        length = part.span[1] - part.span[0]
    elif status not in NO_BODY:
        lengths = set(fields.all(b"content-length"))
        if lengths:
            value = lengths.pop()
            if lengths or not value.isdigit() or len(value) > 18:
                return Planned(NotStored.LENGTH_MISMATCH, part)
            length = int(value)
    if length is not None and length > engine.settings.max_body:
        return Planned(NotStored.TOO_LARGE, part, length)
    return Planned(plan, part, length)


def plan_head(
    engine: Engine,
    exchange: Exchange,
    match: Match | None,
    status: int,
    fields: Fields,
    now: float,
) -> tuple[Plan | NotStored, Received | None]:
    """As `plan_response` by the rule ``match``, without a look at what the request or the length rules
    out."""
    asked = exchange.asked
    part: Received | None = None
    if status == 206:
        ranges = asked.request.ranges if asked.rest is None else asked.rest.ranges
        received = received_part(ranges, status, fields)
        if isinstance(received, NotStored):
            return received, None
        part = received
    if part is not None:  # 3.3: "stored as if it were an incomplete 200 (OK) response"
        status, fields = 200, part.fields
    planned = plan_storage(
        asked.request,
        status,
        fields,
        match,
        engine.settings.options,
        request_time=exchange.began.request_time,
        response_time=now,
    )
    return fit_to_lend(exchange, planned, fields, part), part


def fit_to_lend(
    exchange: Exchange, planned: Plan | NotStored, fields: Fields, part: Received | None = None
) -> Plan | NotStored:
    """``planned``, unless its lifetime is a rule's or a guess, and the response was made for one client
    (see `tokens`)."""
    if isinstance(planned, NotStored) or not planned.lent:
        return planned
    if exchange.tokens is not None and exchange.tokens():
        return NotStored.TOKEN
    # (of a part nobody can tell what the whole has)
    return NotStored.TOKEN if part is not None and may_have_token(fields) else planned


def locate(engine: Engine, exchange: Exchange, plan: Plan) -> Plan:
    """Note in the exchange where the response belongs; the plan with the tags that follow from it."""
    settings, request = engine.settings, exchange.request
    primary, variance, tags = place_of(settings, request, plan)
    exchange.locate(primary, settings.secondary(plan.names, request.fields), variance)
    return plan._replace(tags=(*plan.tags, *tags)) if tags else plan
