"""What an adapter feeds into an exchange, without any server or adapter.

`Delivery` says where the bytes go: SHARE (to every reader), COPY (to the client of the request, and kept),
FORWARD (to that client only), DROP (nowhere: a stored response answers).
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from layergate.config import Rule
from layergate.errors import OriginAborted, OriginUnreachable
from layergate.http.engine.driver import Serve, resolve
from layergate.http.engine.exchange import Delivery, State
from layergate.http.engine.uncacheable import KnownUnshareable
from tests.http.engine.support import FRESH, PRIVATE, World, body_of, lines_of, request_for

STALE = {"cache-control": "max-age=1, stale-if-error=600", "etag": '"a"'}
LENGTH = {**FRESH, "content-length": "4"}
TOKEN = b'<input type="hidden" name="csrf_token" value="b6Uo1yUvWv4xgdQ0XqN0">'


def _told(world: World) -> str:
    """Cache-Status of a request now."""
    step = world.ask().step
    assert isinstance(step, Serve), step
    return dict(step.response.lines)[b"cache-status"].decode()


@pytest.mark.parametrize(
    ("fields", "delivery", "opened", "stored"),
    [
        (LENGTH, Delivery.SHARE, True, True),
        (FRESH, Delivery.SHARE, False, True),  # its head waits for its length
        (PRIVATE, Delivery.FORWARD, True, False),
        ({"cache-control": "no-store"}, Delivery.FORWARD, True, False),
        ({**FRESH, "set-cookie": "a=b"}, Delivery.FORWARD, True, False),
        ({**LENGTH, "content-length": "nine"}, Delivery.FORWARD, True, False),
        (
            {"cache-control": "no-cache", "etag": '"a"', "content-length": "4"},
            Delivery.COPY,
            True,
            True,
        ),
    ],
)
def test_where_a_response_goes(
    fields: dict[str, str], delivery: Delivery, opened: bool, stored: bool
) -> None:
    world = World()
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    now = world.steps.now_done
    assert now(feed.head(200, lines_of(fields))) is delivery
    assert exchange.opened is opened
    assert now(feed.part(b"body", more=False)) is delivery
    now(feed.end())
    entry = world.cache.stack.inspect_top(exchange.asked.storage_key)
    assert (getattr(getattr(entry, "value", None), "body", None) == b"body") == stored
    world.assert_nothing_left()


def test_g4_who_waits_is_released_by_the_head_alone() -> None:
    world = World()
    leader, follower = world.ask(), world.ask()
    world.steps.now_done(world.feed(leader.fetch.exchange).head(200, lines_of(PRIVATE)))
    world.steps.run()
    assert follower.fetch.exchange.uncollapsed
    assert world.ask().fetch.exchange.uncollapsed  # a marker says so to whoever comes next


def test_a_body_that_is_late_does_not_hold_back_its_head() -> None:
    world = World()
    leader, follower = world.ask(), world.ask()
    exchange = leader.fetch.exchange
    feed = world.feed(exchange)
    world.steps.now_done(feed.head(200, lines_of(FRESH)))
    world.steps.run()
    assert follower.waits
    assert feed.overdue() is Delivery.SHARE
    world.steps.now_done(feed.remember())
    assert feed.overdue() is None  # once
    world.steps.run()
    assert not follower.waits
    world.steps.now_done(feed.part(b"body", more=False))
    assert body_of(follower.step) == b"body"
    assert body_of(world.ask().served) == b"body"


def test_nothing_is_overdue_of_an_exchange_that_failed() -> None:
    world = World()
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    world.steps.now_done(feed.head(200, lines_of(FRESH)))
    assert not feed.failed(ValueError("boom"))
    assert feed.overdue() is None


@pytest.mark.parametrize("page", [TOKEN, b"a page without"])
def test_g1_a_page_with_a_token_is_for_its_client_alone(page: bytes) -> None:
    """A rule's lifetime is not for what was made for one client; so the head waits for the page."""
    world = World(rules=[Rule("/", ttl=60)])
    leader, follower = world.ask(), world.ask()
    exchange = leader.fetch.exchange
    feed = world.feed(exchange)
    head = lines_of({"content-type": "text/html", "content-length": str(len(page))})
    assert world.steps.now_done(feed.head(200, head)) is Delivery.SHARE
    world.steps.run()
    assert follower.waits
    delivery = world.steps.now_done(feed.part(page, more=False))
    world.steps.run()
    if page is TOKEN:
        assert delivery is Delivery.FORWARD
        assert follower.fetch.exchange.uncollapsed
    else:
        assert delivery is Delivery.SHARE
        assert body_of(follower.step) == page
    world.steps.now_done(feed.end())
    world.assert_nothing_left()


@pytest.mark.parametrize("body_follows", [False, True])
def test_open_decides_before_anything_is_fed(body_follows: bool) -> None:
    """As under WSGI, where a server sends no head before the first part of the body."""
    world = World(rules=[Rule("/", ttl=60)])
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    now = world.steps.now_done
    head = lines_of({"content-type": "text/html"})
    assert now(feed.head(200, head, body_follows=body_follows)) is Delivery.SHARE
    assert now(feed.open(TOKEN, whole=True)) is Delivery.FORWARD
    assert now(feed.open(b"", whole=True)) is Delivery.FORWARD  # nothing more to decide
    assert world.count("refused", reason="token") == 1
    assert world.ask().fetch.exchange.uncollapsed  # a marker says so to whoever comes next


def test_a_token_that_middleware_has_made() -> None:
    world = World(rules=[Rule("/", ttl=60)])
    feed = world.feed(world.ask().fetch.exchange, token=True)
    assert world.steps.now_done(feed.head(200, [])) is Delivery.FORWARD


def test_what_the_app_knows_of_its_user() -> None:
    world = World(rules=[Rule("/", ttl=60)])
    feed = world.feed(world.ask().fetch.exchange)
    assert world.steps.now_done(feed.head(200, [], personal=True)) is Delivery.FORWARD


def test_trailers_are_not_stored() -> None:
    world = World()
    feed = world.feed(world.ask().fetch.exchange)
    assert world.steps.now_done(feed.head(200, lines_of(LENGTH), trailers=True)) is Delivery.FORWARD


def test_the_policy_of_a_route() -> None:
    world = World()
    feed = world.feed(world.ask().fetch.exchange)
    policy = World(rules=[Rule("/", ttl=60)]).cache.rules.match("/", b"")
    head = lines_of({"content-length": "4"})
    assert world.steps.now_done(feed.head(200, head, policy=policy)) is Delivery.SHARE


def test_a_head_freshens_what_is_stored() -> None:
    world = World()
    world.store({**FRESH, "content-length": "6", "etag": '"a"'})
    world.steps.advance(50)
    exchange = world.ask(method="HEAD", cache_control="no-cache").fetch.exchange
    feed = world.feed(exchange)
    head = lines_of({**FRESH, "content-length": "6", "etag": '"a"'})
    assert world.steps.now_done(feed.head(200, head)) is Delivery.FORWARD
    world.steps.now_done(feed.end())
    world.steps.advance(30)
    assert "hit" in _told(world)


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["3", "5"])
def test_g6_a_body_of_another_length_is_not_stored(length: str) -> None:
    world = World()
    leader = world.ask()
    world.respond(leader.fetch.exchange, 200, {**FRESH, "content-length": length}, b"bo", b"dy")
    assert world.stats["layers"]["memory0"]["entries"] == 0
    assert world.count("refused", reason="length-mismatch") == 1
    world.assert_nothing_left()


def test_g6_a_call_that_ends_too_early_stores_nothing_and_breaks_off_for_all() -> None:
    world = World()
    leader, follower = world.ask(), world.ask()
    feed = world.feed(leader.fetch.exchange)
    world.steps.now_done(feed.head(200, lines_of(LENGTH)))
    world.steps.now_done(feed.part(b"bo", more=True))
    world.steps.now_done(feed.end())
    world.steps.run()
    reader = follower.step.reader
    assert reader.take() == b"bo"
    walk = world.steps.begin(reader.more(1.0))
    with pytest.raises(OriginAborted):
        walk.result  # noqa: B018
    with reader:
        pass
    assert world.stats["layers"]["memory0"]["entries"] == 0
    world.assert_nothing_left()


def test_body_and_finish_for_an_adapter_that_learns_of_the_end_last() -> None:
    world = World()
    feed = world.feed(world.ask().fetch.exchange)
    world.steps.now_done(feed.head(200, lines_of(LENGTH)))
    feed.body(b"bo")
    feed.body(b"dy")
    world.steps.now_done(feed.finish())
    assert body_of(world.ask().served) == b"body"


def test_what_is_given_up_is_for_its_client_alone() -> None:
    world = World()
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    world.steps.now_done(
        feed.head(200, lines_of({**LENGTH, "cache-control": "no-cache", "etag": '"a"'}))
    )
    feed.body(b"bo")
    feed.give_up()
    assert feed.delivery is Delivery.FORWARD
    feed.body(b"dy")  # is not looked at
    world.steps.now_done(feed.finish())
    assert world.stats["layers"]["memory0"]["entries"] == 0
    world.assert_nothing_left()


def test_layers_that_take_time_are_written_to_in_the_background() -> None:
    world = World(layers=2)
    exchange = world.ask().fetch.exchange
    world.respond(exchange, 200, LENGTH, b"body")
    assert {walk.name for walk in world.steps.spawned} >= {"layergate remember", "layergate store"}
    assert body_of(world.ask().served) == b"body"


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("boom"), OriginUnreachable("away")])
def test_a_stored_response_stands_in_for_an_app_that_fails(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.store(STALE)
    world.steps.advance(10)
    leader, follower = world.ask(), world.ask()
    exchange = leader.fetch.exchange
    feed = world.feed(exchange)
    with caplog.at_level(logging.WARNING, "layergate"):
        assert feed.failed(error)
    (record,) = caplog.records
    # A connection that failed needs no traceback: there may be one for every request.
    assert bool(record.exc_info) == isinstance(error, ValueError)
    world.steps.now_done(feed.end())
    world.steps.run()
    step = resolve(world.cache, exchange)
    assert isinstance(step, Serve)
    assert body_of(step) == body_of(follower.served) == b"stored"
    assert world.count("fetch_error") == 1
    world.assert_nothing_left()


def test_an_app_that_fails_after_its_response_was_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As frameworks do, that send a page for an error and raise it again for the server's log."""
    world = World()
    world.store(STALE)
    world.steps.advance(10)
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    assert world.steps.now_done(feed.head(500, [])) is Delivery.DROP
    assert feed.failed(ValueError("boom"))
    assert not caplog.records  # that is for the adapter to say
    world.steps.now_done(feed.end())
    assert isinstance(resolve(world.cache, exchange), Serve)
    world.assert_nothing_left()


def test_without_a_stored_response_a_failure_is_one() -> None:
    world = World()
    exchange = world.ask().fetch.exchange
    feed = world.feed(exchange)
    assert not feed.failed(ValueError("boom"))
    assert exchange.state is State.FAILED
    assert resolve(world.cache, exchange) is None
    assert world.count("fetch_error") == 1
    world.assert_nothing_left()


def test_only_a_refresh_asks_whether_it_is_wanted() -> None:
    world = World()
    feed = world.feed(world.ask().fetch.exchange)
    assert world.steps.now_done(feed.wanted())
    assert world.count("refresh") == 0


# -- known as not shareable ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cache-control": "no-store"}, "no-store"),
        ({"cache-control": "private, max-age=60"}, "private"),
        ({"content-type": "text/html"}, "no-freshness"),
        (FRESH, None),
        ({"cdn-cache-control": "max-age=60"}, None),
    ],
)
def test_a_target_that_is_known_as_not_shareable(fields: dict[str, str], told: str | None) -> None:
    world = World()
    request = request_for()
    known = KnownUnshareable(world.cache, None, {b"host": b"example.org"})
    lines: Any = known.head(200, lines_of(fields))
    assert world.cache.stack.counters.forwarded == (told is not None)
    if told is not None:
        assert told in dict(lines)[b"cache-status"].decode()
        return
    assert lines is None
    exchange = world.steps.now_done(known.exchange(request))
    feed = world.feed(exchange)
    assert world.steps.now_done(feed.head(200, lines_of({**fields, "content-length": "4"}))) is (
        Delivery.COPY
    )
    world.steps.now_done(feed.part(b"body", more=False))
    assert body_of(world.ask().served) == b"body"


def test_g3_what_was_purged_while_it_was_forwarded_is_not_stored() -> None:
    world = World()
    known = KnownUnshareable(world.cache, None, {b"host": b"example.org"})
    world.steps.now_done(world.cache.purge(everything=True))
    exchange = world.steps.now_done(known.exchange(request_for()))
    world.respond(exchange, 200, FRESH, b"old")
    assert world.stats["layers"]["memory0"]["entries"] == 0
