"""What the engine would do with a response, found by asking its own functions, without doing it.

`received` calls these functions, in the order in which `receive_head` asks the same questions. They feed
no response into the exchange, which is made for this and thrown away.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.http.engine.complete import plan_completion
from layergate.http.engine.decide import Decided
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import ORIGIN_ERRORS, Exchange
from layergate.http.engine.fetch import beginning, new_exchange
from layergate.http.engine.hit_for_miss import hit_for_miss_ttl
from layergate.http.engine.plan import Planned, locate, plan_response
from layergate.http.engine.stand_in import excuse, may_stand_in
from layergate.http.engine.store import refusal_of_layers
from layergate.http.engine.update import head_says
from layergate.http.engine.validate import Outcome, validate
from layergate.http.engine.variant_index import room_for
from layergate.http.explain.report import Response
from layergate.http.message.fields import Fields
from layergate.http.message.key import variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse
from layergate.http.rfc9111.decision import NO_ANSWER, Decision
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = [
    "Reaction",
    "Rehearsed",
    "begin",
    "hit_for_miss_seconds",
    "place",
    "react",
    "refusal_of_size",
]


class Reaction(enum.Enum):
    """The kinds of responses, by what the engine does with them."""

    NEW = enum.auto()  # it is the answer, and is planned
    COMPLETES = enum.auto()  # the answer is the stored parts with this one, and is planned
    CONFIRMS = enum.auto()  # a 304: the answer is the stored response, updated, and is planned
    CONFIRMS_VARIANT = enum.auto()  # the same, for a variant that the request does not select

    CONFIRMS_AS_IT_IS = (
        enum.auto()
    )  # a 304: the answer is the stored response, which is not updated
    STANDS_IN_FOR_ERROR = enum.auto()  # the answer is the stored response, which is stale
    STANDS_IN_UNREACHABLE = enum.auto()

    # The response is of no use, and the request goes to the app once more.
    NAMES_NO_VARIANT = enum.auto()
    NAMES_PURGED = enum.auto()
    NAMES_OTHER = enum.auto()
    RANGE_NO_LONGER_APPLIES = enum.auto()
    COMPLETES_NOTHING = enum.auto()

    # To HEAD: it is the answer, and is about what is stored for GET.
    HEAD_SAYS_NOTHING = enum.auto()
    HEAD_OUTDATES = enum.auto()
    HEAD_FRESHENS = enum.auto()


class Rehearsed(NamedTuple):
    """``planned``: how the answer is stored, or why it is not; None if that is not the question.
    ``status``: of the answer."""

    reaction: Reaction
    planned: Planned | None
    status: int


def begin(
    engine: Engine,
    request: Request,
    decided: Decided,
    match: Match | None,
    rest: Rest | None,
    response: Response,
    now: float,
) -> Exchange:
    """The exchange that the engine would make for the request. ``rest``: what it would fetch."""
    verdict, entry = decided.verdict, decided.entry
    if verdict.decision is Decision.STALE:
        assert entry is not None
        request = request.for_refresh(part=isinstance(entry.value, PartialResponse))
    exchange = new_exchange(
        engine,
        request,
        decided.selected,
        None,
        None if verdict.decision is Decision.MISS else entry,
        verdict.fwd,
        match,
        began=beginning(engine)._replace(request_time=now - response.took),
    )
    exchange.origin_status = response.status
    exchange.asked = exchange.asked._replace(rest=rest)
    return exchange


def react(
    engine: Engine, exchange: Exchange, selected: Entry | None, response: Response, now: float
) -> Rehearsed:
    """What the response is to the request. Asks in the order of `receive_head`.

    ``selected``: the stored response that the request selects, even if it may not be used.
    """
    status, fields, trailers = response.status, Fields(response.lines), response.trailers
    if exchange.conditional and status == 304:
        return _not_modified(engine, exchange, fields, now)
    if exchange.asked.rest is not None and status in (206, 416):
        completes = plan_completion(engine, exchange, fields, now, trailers=trailers)
        if completes is None:
            return Rehearsed(Reaction.COMPLETES_NOTHING, Planned(NotStored.PARTIAL), status)
        return Rehearsed(Reaction.COMPLETES, completes, status)
    entry, request = exchange.entry, exchange.request
    if status in ORIGIN_ERRORS and entry is not None:
        unreachable = status in NO_ANSWER
        if may_stand_in(engine, request, entry, unreachable=unreachable):
            by = excuse(engine, request, entry, unreachable=unreachable)
            return Rehearsed(_WINDOWS[by], None, entry.value.status)
    if request.method != "GET":
        return _head(engine, exchange, selected, status, fields, now)
    planned = plan_response(engine, exchange, status, fields, now, trailers=trailers)
    return Rehearsed(Reaction.NEW, planned, status)


_WINDOWS: Final = {
    "stale-if-error": Reaction.STANDS_IN_FOR_ERROR,
    "stale-if-unreachable": Reaction.STANDS_IN_UNREACHABLE,
}
_OUTCOMES: Final = {
    Outcome.CONFIRMED: Reaction.CONFIRMS,
    Outcome.UNCHANGED: Reaction.CONFIRMS_AS_IT_IS,
    Outcome.UNNAMED: Reaction.NAMES_NO_VARIANT,
    Outcome.PURGED: Reaction.NAMES_PURGED,
    Outcome.ANOTHER: Reaction.NAMES_OTHER,
    Outcome.UNCOVERED: Reaction.RANGE_NO_LONGER_APPLIES,
}


def _not_modified(engine: Engine, exchange: Exchange, fields: Fields, now: float) -> Rehearsed:
    found = validate(engine, exchange, fields, now)
    reaction = _OUTCOMES[found.outcome]
    if reaction is Reaction.CONFIRMS_AS_IT_IS:
        return Rehearsed(reaction, Planned(NotStored.VALIDATOR), 304)
    if reaction is not Reaction.CONFIRMS:
        return Rehearsed(reaction, Planned(NotStored.NOT_MODIFIED), 304)
    assert found.entry is not None
    if exchange.asked.nominees:
        reaction = Reaction.CONFIRMS_VARIANT
    return Rehearsed(reaction, Planned(found.plan), found.entry.value.status)


def _head(
    engine: Engine,
    exchange: Exchange,
    selected: Entry | None,
    status: int,
    fields: Fields,
    now: float,
) -> Rehearsed:
    says = head_says(engine, exchange, selected, status, fields, now)
    if says is None:
        return Rehearsed(Reaction.HEAD_SAYS_NOTHING, None, status)
    if isinstance(says, NotStored):
        return Rehearsed(Reaction.HEAD_OUTDATES, None, status)
    return Rehearsed(Reaction.HEAD_FRESHENS, None, status)


def hit_for_miss_seconds(engine: Engine, exchange: Exchange, reason: NotStored) -> float:
    """For how long the engine would leave a marker after a response that is not stored, for ``reason``;
    0 if it would leave none."""
    exchange.refused = reason
    return hit_for_miss_ttl(engine.settings, exchange)


def place(engine: Engine, exchange: Exchange, plan: Plan) -> Plan | NotStored:
    """The plan with the tags of its place, or why there is no place for one more variant."""
    plan = locate(engine, exchange, plan)
    variant = variant_key(exchange.primary, exchange.secondary)
    room = room_for(engine, exchange.primary, plan.names, variant, quiet=True)
    return plan if room.there else NotStored.VARIANTS


def refusal_of_size(
    engine: Engine, exchange: Exchange, plan: Plan, length: int
) -> NotStored | None:
    """Why a body of ``length`` bytes would not be stored, as things are now; None if it would."""
    if length > engine.settings.max_inflight:
        return NotStored.BUDGET
    return refusal_of_layers(engine, exchange, plan, length)
