"""Receive: what the head of the origin's response makes of a fetch.

    head ─▶ a 304?                validate ─▶ the answer is what is stored | ask again
         ─▶ a part to complete?   complete ─▶ what is stored and what comes | ask again
         ─▶ an error?             stand_in ─▶ the answer is what is stored
         ─▶ else                  plan     ─▶ kept and shared | kept | for its client alone

The `feed` calls `receive_head` with the head, and `receive_opening` with the first part of the body if
the head is not the last word. These functions ask the verbs that decide, feed the exchange with what
they say, and take or return its claims.
"""

from __future__ import annotations

from typing import Final

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN
from layergate.http.engine.claims import Claims
from layergate.http.engine.complete import plan_completion
from layergate.http.engine.entries import planned_entry
from layergate.http.engine.exchange import ORIGIN_ERRORS, Delivery, Head, State
from layergate.http.engine.plan import NO_BODY, Planned, locate, plan_head, plan_response
from layergate.http.engine.respond import leader_lines
from layergate.http.engine.stand_in import excuse, may_stand_in
from layergate.http.engine.store import keep, refusal_of_layers
from layergate.http.engine.tally import count_not_stored, end_span
from layergate.http.engine.validate import Outcome, validate
from layergate.http.engine.variant_index import room_for
from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import variant_key
from layergate.http.message.stored import StoredResponse
from layergate.http.privacy.tokens import may_have_token
from layergate.http.rfc9111.decision import NO_ANSWER
from layergate.http.rfc9111.partial import flight_suffix
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.selecting import with_vary
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["certainly_releases", "receive_head", "receive_opening", "stand_in_for_failure"]

_PARTIAL: Final = frozenset({206, 416})


def certainly_releases(claims: Claims, status: int, lines: Lines, route: Match | None) -> bool:
    """True if `receive_head` would certainly release all requests that wait. Changes nothing.

    For an adapter whose head is not final before the first part of the body comes (WSGI): requests do
    not wait that long for what is not shareable (G4). ``route``: as for `receive_head`.
    """
    engine, exchange = claims.engine, claims.exchange
    if exchange.conditional and status == 304:
        return False
    if status in ORIGIN_ERRORS and exchange.entry is not None:
        return False
    if exchange.request.method != "GET" or exchange.refused is not None:
        return True
    match = exchange.match if route is None else route
    planned, _ = plan_head(engine, exchange, match, status, Fields(lines), engine.runtime.now())
    return isinstance(planned, NotStored)


def receive_head(
    claims: Claims,
    status: int,
    lines: Lines,
    *,
    route: Match | None = None,
    personal: bool = False,
    trailers: bool = False,
) -> Delivery:
    """The head of the origin's response; returns where the response goes.

    ``route``: policy set next to the route, which takes the place of a rule. ``personal``: the app knows
    its user by other means than the request's and the response's fields. ``trailers``: trailer fields
    were announced.
    """
    engine, exchange = claims.engine, claims.exchange
    now = engine.runtime.now()
    fields = Fields(lines)
    exchange.receive(status, now)
    if exchange.span is not NO_SPAN:
        exchange.span.note(status=status)
    if personal:
        exchange.request.mark_personal(True)
    if route is not None:
        exchange.match = route
    if status == 304 and exchange.conditional:
        return _receive_304(claims, fields, now)
    if exchange.asked.rest is not None and status in _PARTIAL:
        return _receive_rest(claims, fields, now, trailers=trailers)
    if status in ORIGIN_ERRORS and stand_in_for_failure(
        claims, f"status {status}", unreachable=status in NO_ANSWER
    ):
        return Delivery.DROP
    shown = engine.settings.for_clients(fields.lines)
    if exchange.request.method != "GET":
        claims.land()
        exchange.release(Head(status, shown))
        return Delivery.FORWARD
    planned = plan_response(engine, exchange, status, fields, now, trailers=trailers)
    plan = planned.plan
    if isinstance(plan, NotStored):
        return _release(claims, Head(status, shown), plan)
    return _receive_storable(claims, planned, plan, status, fields, shown)


def receive_opening(claims: Claims, first: bytes | None, *, whole: bool = False) -> Delivery:
    """The first part of the body, for a head that is not the last word. ``whole``: it is the only one.
    None: it takes its time, and the head shall not wait for it.

    Not for None if the head has a ``scan``: the page must be looked at before any of it goes out.
    """
    exchange = claims.exchange
    head = exchange.head
    assert head is not None
    length = head.length
    if first is None:
        length = None
    else:
        whole = whole or len(first) == length
        if head.scan is not None:
            if exchange.has_token(first):
                exchange.opened = True
                return _release(claims, head, NotStored.TOKEN)
            if whole:
                exchange.scanned()
        if whole and length is None:
            length = len(first)
    shared = exchange.state is State.PENDING
    _open(claims, length)
    return Delivery.SHARE if shared else Delivery.COPY


def stand_in_for_failure(claims: Claims, error: object, *, unreachable: bool = False) -> bool:
    """The origin failed. True if a stored response stands in (RFC 5861 section 4), also for one that
    cannot be reached (RFC 9111 4.2.4): it says so, ``unreachable``, or ``error`` is one of a
    connection."""
    engine, exchange = claims.engine, claims.exchange
    entry, request = exchange.entry, exchange.request
    if entry is None or exchange.state is not State.PENDING:
        return False
    unreachable = unreachable or isinstance(error, ConnectionError)
    if not may_stand_in(engine, request, entry, unreachable=unreachable):
        return False
    claims.return_bytes()
    reason = excuse(engine, request, entry, unreachable=unreachable)
    engine.counters.on("stale", request=request, reason=reason, error=error)
    exchange.stand_in(unreachable=unreachable)
    return True


# -- a response for its client, or for all ---------------------------------------------------------


def _release(claims: Claims, head: Head, reason: NotStored) -> Delivery:
    """The response is for nobody but the client whose request was forwarded."""
    claims.exchange.refused = reason
    count_not_stored(claims.engine, claims.exchange, reason)
    claims.land()
    claims.exchange.release(head, reason)
    return Delivery.FORWARD


def _receive_storable(
    claims: Claims, planned: Planned, plan: Plan, status: int, fields: Fields, shown: Lines
) -> Delivery:
    engine, exchange = claims.engine, claims.exchange
    shown = with_vary(shown, plan.vary)
    plan = locate(engine, exchange, plan)
    _check_room(claims, plan)
    part = planned.part
    length = 0 if status in NO_BODY else planned.length
    scan = fields if plan.lent and length != 0 and may_have_token(fields) else None
    shared_lines = plan.lines if part is None else plan.lines + part.own
    head = Head(status, shown, shared_lines, part, planned.length, scan)
    opened = length is not None and scan is None
    exchange.keep(plan, head, opened=opened)
    # What is to be stored for validation only (no-cache, max-age=0), nobody else may have now.
    delivery = Delivery.SHARE
    if exchange.uncollapsed or not plan.shareable:
        delivery = Delivery.COPY
        claims.land()
        exchange.release()
    elif plan.names:
        # Now it is known which variant this is: requests for it that find the index of variants, and
        # no longer the bare target, find this flight as well.
        key = variant_key(exchange.primary, exchange.secondary)
        exchange.alias = key + flight_suffix(exchange.request)
        engine.flights.lead(exchange.alias, exchange)
    if opened:
        _open(claims, length)
        exchange.leader_lines = leader_lines(engine, exchange)
    return delivery


def _check_room(claims: Claims, plan: Plan) -> bool:
    """Whether the target has room for one more variant. If not, the response is not stored; those who
    wait for it now get it all the same."""
    engine, exchange = claims.engine, claims.exchange
    variant = variant_key(exchange.primary, exchange.secondary)
    room = room_for(engine, exchange.primary, plan.names, variant)
    exchange.sights = room.sights or exchange.sights
    if not room.there:
        exchange.refused = NotStored.VARIANTS
        count_not_stored(engine, exchange, NotStored.VARIANTS)
    return room.there


def _open(claims: Claims, length: int | None) -> None:
    """All that is said in the head is known. ``length``: of the body, bytes; None: unknown."""
    engine, exchange = claims.engine, claims.exchange
    exchange.open()
    if length is None:
        return
    if length > engine.settings.max_body:
        claims.refuse(NotStored.TOO_LARGE)
    elif not claims.reserve(length):
        claims.refuse(NotStored.BUDGET)
    else:
        assert exchange.plan is not None
        exchange.admit(refusal_of_layers(engine, exchange, exchange.plan, length))


# -- a part that completes what is stored ----------------------------------------------------------


def _receive_rest(claims: Claims, fields: Fields, now: float, *, trailers: bool) -> Delivery:
    """The answer is what is stored before the part, the part, and what is stored beyond it."""
    engine, exchange = claims.engine, claims.exchange
    rest = exchange.asked.rest
    assert rest is not None
    planned = plan_completion(engine, exchange, fields, now, trailers=trailers)
    if planned is None:
        # Of another response, or not for keeping, or what is stored has been purged since: ask again
        # for what the client asks for.
        engine.counters.on("refused", request=exchange.request, reason=NotStored.PARTIAL.token)
        return _mismatch(claims, NotStored.PARTIAL)
    assert isinstance(planned.plan, Plan)
    plan = locate(engine, exchange, planned.plan)
    own = [] if plan.own is None else [(LAYERGATE_CONTROL, plan.own)]
    lines = with_vary(rest.head([*plan.lines, *own], engine.settings.targets), plan.vary)
    shown = engine.settings.for_clients(lines)
    exchange.keep(plan, Head(rest.status, shown, lines, planned.part, planned.length), opened=True)
    exchange.stream.insert(rest.around[0])
    if not plan.shareable:  # to those who come now: `sharing.fits` tells those who wait already
        claims.land()
    _open(claims, planned.length)
    exchange.leader_lines = leader_lines(engine, exchange)
    return Delivery.SHARE


# -- a 304 -----------------------------------------------------------------------------------------


def _receive_304(claims: Claims, fields: Fields, now: float) -> Delivery:
    """4.3.3, 4.3.4: update the stored response and use it."""
    engine, exchange = claims.engine, claims.exchange
    found = validate(engine, exchange, fields, now)
    entry, plan = found.entry, found.plan
    if found.outcome is Outcome.UNCHANGED:
        assert entry is not None
        assert isinstance(plan, Plan)
        count_not_stored(engine, exchange, NotStored.VALIDATOR)
        exchange.unchanged = plan.shareable
        exchange.refused = NotStored.VALIDATOR
        claims.land()  # those who come later ask again
        return _confirm(claims, entry, None, NotStored.VALIDATOR, fields)
    if found.outcome is not Outcome.CONFIRMED:
        # A 304 for something else than we asked about, or for what has been purged since: what we
        # hold must not be used. Ask again, without validators.
        if found.outcome is not Outcome.UNCOVERED:
            token = NotStored.NOT_MODIFIED.token
            engine.counters.on("refused", request=exchange.request, reason=token)
        return _mismatch(claims, NotStored.NOT_MODIFIED)
    assert entry is not None
    if isinstance(plan, NotStored):
        # Valid for this request, not to be kept any longer.
        stored: StoredResponse = entry.value
        count_not_stored(engine, exchange, plan)
        answer = Entry(
            stored.renewed(found.lines, generated=now, response_time=now, no_cache=True),
            created=now,
            fresh_until=now,
            stamp=exchange.began.stamp,
        )
        return _confirm(claims, answer, None, plan, fields)
    return _update(claims, entry, plan, fields)


def _update(claims: Claims, entry: Entry, plan: Plan, fields: Fields) -> Delivery:
    engine, exchange = claims.engine, claims.exchange
    stored: StoredResponse = entry.value
    plan = exchange.plan = locate(engine, exchange, plan)
    updated = planned_entry(engine, exchange, plan, stored.status, plan.lines, stored.body, stored)
    there = _check_room(claims, plan)
    if there:
        exchange.admit(refusal_of_layers(engine, exchange, plan, entry=updated))
    exchange.confirmation = fields if exchange.asked.several else None
    exchange.entry = updated
    if there and not engine.stack.peek_is_enough:
        exchange.kept = keep(engine, exchange, updated)
    return _confirm(claims, updated, plan, exchange.refused, fields)


def _confirm(
    claims: Claims, entry: Entry, plan: Plan | None, reason: NotStored | None, fields: Fields
) -> Delivery:
    engine, exchange = claims.engine, claims.exchange
    # A cookie that came with the 304 is for the client whose request was forwarded.
    kept = entry.value.lines
    cookies = [line for line in fields.lines if line[0] == b"set-cookie" and line not in kept]
    engine.counters.on("revalidated", request=exchange.request)
    exchange.confirm(entry, plan, reason, cookies)
    return Delivery.DROP


def _mismatch(claims: Claims, reason: NotStored) -> Delivery:
    end_span(claims.exchange, reason.token)
    claims.land()
    claims.exchange.mismatch()
    return Delivery.DROP
