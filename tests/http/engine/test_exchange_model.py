"""The exchange on every order of events, alone: no cache, no store, no loop.

A model of four lines (the table in `exchange`) says what each event leads to. Held throughout: what the
table does not have raises and changes nothing; followers wake when the head is known; nothing says
``stored`` that is not stored.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from layergate.config import Options
from layergate.core.entry import Entry
from layergate.core.flight import Pulse
from layergate.http.engine.exchange import (
    TRANSITIONS,
    Asked,
    Began,
    Event,
    Exchange,
    Head,
    IllegalTransition,
    State,
)
from layergate.http.engine.stream import Stream
from layergate.http.message.fields import Fields
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.plan import Plan, plan_storage
from layergate.http.rfc9111.storing import NotStored
from tests.support.steps import Steps

NOW = 1_700_000_000.0


def a_request() -> Request:
    return Request(
        method="GET",
        scheme="http",
        host=b"example.com",
        path="/",
        key=b"key",
        fields=Fields([(b"host", b"example.com")]),
        has_body=False,
        obey_directives=True,
    )


def a_plan(request: Request) -> Plan:
    fields = Fields([(b"cache-control", b"max-age=60")])
    plan = plan_storage(request, 200, fields, None, Options(), request_time=NOW, response_time=NOW)
    assert isinstance(plan, Plan)
    return plan


def an_entry() -> Entry:
    stored = StoredResponse(200, [(b"etag", b'"a"')], b"old", generated=NOW, response_time=NOW)
    return Entry(stored, created=NOW, fresh_until=NOW)


def an_exchange(runtime: Steps, *, flight_key: bytes | None = b"key") -> Exchange:
    stream = Stream(
        Pulse(runtime),
        runtime.lock(),
        runtime.monotonic,
        patience=10.0,
        cut=lambda _: None,
    )
    asked = Asked(a_request(), b"key", b"key", flight_key, "uri-miss", [])
    return Exchange(asked, an_entry(), None, Began(0, NOW, 0.0), stream)


def snapshot(exchange: Exchange) -> dict[str, Any]:
    state = {name: getattr(exchange, name) for name in Exchange.__slots__}
    stream = exchange.stream
    return {**state, "_stream": (stream.keeps, stream.shared, stream.ended, stream.broken)}


class ExchangeMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        runtime = Steps(0.0)
        self.exchange = an_exchange(runtime)
        self.plan = a_plan(self.exchange.request)
        self.state = State.PENDING
        self.headed = False
        self.given_up = False
        self.follower = runtime.begin(self.exchange.wait_for_head(None))
        self.spectator = runtime.begin(self.exchange.wait_until_over())

    def teardown(self) -> None:
        self.follower.cancel()
        self.spectator.cancel()

    def feed(self, event: Event, act: Any) -> bool:
        """Feed an event, and hold the exchange to the table. True if it was legal."""
        follows = TRANSITIONS[self.state].get(event)
        before = snapshot(self.exchange)
        if follows is None:
            with pytest.raises(IllegalTransition):
                act()
            assert snapshot(self.exchange) == before
            return False
        act()
        self.state = follows
        return True

    @rule(status=st.sampled_from([200, 304, 404, 500]))
    def receive(self, status: int) -> None:
        if self.state is State.PENDING and not self.headed:
            self.exchange.receive(status, NOW + 1)
            assert self.exchange.origin_status == status
        else:
            with pytest.raises(IllegalTransition):
                self.exchange.receive(status, NOW + 1)

    @rule(length=st.sampled_from([None, 3]), opened=st.booleans())
    def keep(self, length: int | None, opened: bool) -> None:
        head = Head(200, [], [], None, length)
        if self.state is State.PENDING and not self.headed and not self.exchange.stream.broken:
            self.exchange.keep(self.plan, head, opened=opened)
            self.headed = True
            assert self.exchange.storing
        elif self.state is not State.PENDING or self.headed:
            with pytest.raises(IllegalTransition):
                self.exchange.keep(self.plan, head, opened=opened)

    @rule()
    def release_what_is_kept(self) -> None:
        storing = self.exchange.storing
        if self.feed(Event.RELEASE, self.exchange.release):
            assert self.exchange.storing is storing

    @rule(reason=st.sampled_from([NotStored.PRIVATE, NotStored.TOKEN]))
    def release_for_good(self, reason: NotStored) -> None:
        if self.feed(Event.RELEASE, lambda: self.exchange.release(Head(200, []), reason)):
            self.headed = self.given_up = True
            assert self.exchange.plan is None

    @rule()
    def open(self) -> None:
        exchange = self.exchange
        if exchange.plan is None:
            with pytest.raises(IllegalTransition):
                exchange.open()
        elif self.state is State.RELEASED:
            exchange.open()
            assert exchange.opened
        elif self.feed(Event.SHARE, exchange.open):
            assert exchange.opened
            assert exchange.stream.shared

    @rule(unkept=st.sampled_from([None, NotStored.NO_ROOM]))
    def admit(self, unkept: NotStored | None) -> None:
        self.exchange.admit(unkept)

    @rule(updates=st.booleans())
    def confirm(self, updates: bool) -> None:
        plan = self.plan if updates else None
        reason = None if updates else NotStored.NO_STORE
        act = lambda: self.exchange.confirm(an_entry(), plan, reason, [])  # noqa: E731
        if self.feed(Event.ANSWER, act):
            assert self.exchange.storing is updates
            self.given_up = not updates

    @rule(unreachable=st.booleans())
    def stand_in(self, unreachable: bool) -> None:
        act = lambda: self.exchange.stand_in(unreachable=unreachable)  # noqa: E731
        if self.feed(Event.ANSWER, act):
            self.given_up = True
            assert self.exchange.plan is None

    @rule()
    def mismatch(self) -> None:
        if self.feed(Event.FAIL, self.exchange.mismatch):
            assert self.exchange.mismatched

    @rule()
    def refuse(self) -> None:
        exchange = self.exchange
        could = exchange.storing and exchange.stream.keeps and self.state is not State.ANSWERED
        could = could and exchange.stream.body is None
        assert exchange.refuse(NotStored.BUDGET) is could
        self.given_up = self.given_up or could

    @rule(length=st.integers(1, 3))
    def send(self, length: int) -> None:
        stream = self.exchange.stream
        if not stream.ended and not stream.broken and stream.body is None:
            stream.add(b"x" * length)

    @rule()
    def end(self) -> None:
        """As the `feed` ends a body: verified, and then over."""
        exchange, stream = self.exchange, self.exchange.stream
        if stream.ended or stream.broken or self.state is State.PENDING:
            return
        if exchange.storing and self.state is not State.ANSWERED:
            head = exchange.head
            assert head is not None
            right = head.length is None or head.length == stream.length
            assert exchange.verify() is right
            self.given_up = self.given_up or not right
        stream.join()
        stream.end()

    @rule()
    def abort(self) -> None:
        stream = self.exchange.stream
        was_over = stream.ended or stream.broken
        before = snapshot(self.exchange)
        assert self.exchange.abort() is not was_over
        if was_over:
            assert snapshot(self.exchange) == before
            return
        self.given_up = True
        if self.state is State.PENDING:
            self.state = State.FAILED

    # -- what holds ----------------------------------------------------------------------------

    @invariant()
    def it_is_where_the_table_says(self) -> None:
        assert self.exchange.state is self.state

    @invariant()
    def followers_wake_when_the_head_is_known(self) -> None:
        for _ in range(2):
            self.follower.poll()
            self.spectator.poll()
        assert self.follower.done() is (self.state is not State.PENDING)
        if self.exchange.over:
            assert self.spectator.done()

    @invariant()
    def nothing_says_stored_that_is_not(self) -> None:
        exchange = self.exchange
        if self.given_up:
            assert not exchange.storing
            assert not exchange.stored
        if exchange.stored:
            assert exchange.admitted
            assert exchange.refused is None
            assert exchange.plan is not None

    @invariant()
    def only_a_shared_stream_is_read_along(self) -> None:
        assert self.exchange.stream.shared is (self.state is State.STREAMING)


ExchangeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestExchange = ExchangeMachine.TestCase


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(TRANSITIONS[State.PENDING]) == set(Event)


def test_a_lease_is_inherited_once() -> None:
    runtime = Steps(0.0)
    one, other = an_exchange(runtime), an_exchange(runtime)
    one.lease = lease = object()  # type: ignore[assignment]
    other.inherit(one)
    assert other.lease is lease
    assert one.lease is None


def test_what_goes_to_the_origin_has_the_clients_preconditions_if_it_is_for_the_client_alone() -> (
    None
):
    request = a_request()
    request.fields = Fields([(b"if-none-match", b'"c"'), (b"accept", b"*/*")])
    alone = Asked(request, b"key", b"key", None, "uri-miss", [])
    assert alone.header_lines() == request.fields.lines
    shared = alone._replace(flight_key=b"key")
    assert shared.header_lines() == [(b"accept", b"*/*")]
    validating = alone._replace(validators=[(b"if-none-match", b'"s"')])
    assert validating.header_lines() == [(b"accept", b"*/*"), (b"if-none-match", b'"s"')]
