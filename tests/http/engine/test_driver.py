"""The conversation of a request with the cache, without any server or adapter.

A *leader* is a client whose conversation has come to a `Fetch`; what the origin answers is fed by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layergate.http.engine.driver import MAX_TRIES, Attempt, Fetch, Forward, Serve, Stream, resolve
from layergate.http.engine.exchange import State
from tests.http.engine.support import FRESH, PRIVATE, World, body_of, lines_of

STALE = {"cache-control": "max-age=1, stale-if-error=600", "etag": '"a"'}
LENGTH = {**FRESH, "content-length": "4"}


def test_a_request_that_finds_nothing_fetches_and_one_that_finds_it_does_not() -> None:
    world = World()
    leader = world.ask()
    assert isinstance(leader.step, Fetch)
    assert leader.fetch.patience is None
    assert not leader.fetch.repeatable
    world.respond(leader.fetch.exchange, 200, FRESH, b"body")
    assert body_of(world.ask().served) == b"body"
    world.assert_nothing_left()


def test_what_is_none_of_the_caches_business_passes() -> None:
    world = World(max_key_length=100)
    step = world.ask("/" + "a" * 200).step
    assert isinstance(step, Forward)
    assert b"bypass" in dict(step.lines)[b"cache-status"]


def test_over_counts_what_became_of_a_request() -> None:
    world = World()
    world.store(FRESH)
    client = world.ask()
    client.conversation.over()
    assert world.cache.stack.counters.requests["hit", "memory0"] == 1


# -- following -------------------------------------------------------------------------------------


def _released(world: World, exchange: Any) -> None:
    world.respond(exchange, 200, PRIVATE, b"mine")


def _failed(world: World, exchange: Any) -> None:
    assert not world.feed(exchange).failed(ValueError("boom"))
    world.steps.run()


def _shared(world: World, exchange: Any) -> None:
    world.respond(exchange, 200, FRESH, b"body")


def _missing(world: World, exchange: Any) -> None:
    world.respond(exchange, 404, {"cache-control": "max-age=60"}, b"gone")


def _purged(world: World, exchange: Any) -> None:
    world.steps.now_done(world.cache.purge(everything=True))
    _shared(world, exchange)


def _gets(body: bytes, status: int = 200) -> Callable[[Any], None]:
    def check(step: Any) -> None:
        assert isinstance(step, Serve | Stream)
        head = step.response if isinstance(step, Serve) else step.head
        assert head.status == status
        assert body_of(step) == body

    return check


def _fetches(*, uncollapsed: bool) -> Callable[[Any], None]:
    def check(step: Any) -> None:
        assert isinstance(step, Fetch)
        assert step.exchange.uncollapsed == uncollapsed

    return check


@pytest.mark.parametrize(
    ("answer", "check", "others_wait"),
    [
        (_shared, _gets(b"body"), False),
        (_missing, _gets(b"gone", 404), False),
        # G4: what is not shareable is fetched by each of them at once.
        (_released, _fetches(uncollapsed=True), False),
        # A leader that fails is replaced by one follower; the others wait for that.
        (_failed, _fetches(uncollapsed=False), True),
        # They asked before the purge, so what they get was theirs to get; it is not stored.
        (_purged, _gets(b"body"), False),
    ],
    ids=["shared", "error", "private", "failed", "purged"],
)
def test_what_followers_do(
    answer: Callable[[World, Any], None],
    check: Callable[[Any], None],
    others_wait: bool,
) -> None:
    world = World()
    leader = world.ask()
    followers = [world.ask() for _ in range(3)]
    assert all(follower.waits for follower in followers)
    assert world.stats["waiters"] == 3
    answer(world, leader.fetch.exchange)
    first, *others = sorted(followers, key=lambda one: one.waits)
    check(first.step)
    for other in others:
        assert other.waits == others_wait
        if not others_wait:
            check(other.step)
    assert world.stats["waiters"] == (2 if others_wait else 0)


def test_g3_a_request_after_a_purge_does_not_wait_for_a_fetch_from_before() -> None:
    world = World()
    before = world.ask()
    world.steps.now_done(world.cache.purge(everything=True))
    after = world.ask()
    assert isinstance(after.step, Fetch)
    world.respond(before.fetch.exchange, 200, FRESH, b"old")
    world.respond(after.fetch.exchange, 200, FRESH, b"new")
    assert body_of(world.ask().served) == b"new"
    world.assert_nothing_left()


def test_a_follower_streams_along_before_the_end() -> None:
    world = World()
    leader, follower = world.ask(), world.ask()
    exchange = leader.fetch.exchange
    feed = world.feed(exchange)
    world.steps.now_done(feed.head(200, lines_of(LENGTH)))
    world.steps.run()
    step = follower.step
    assert isinstance(step, Stream)
    assert b"collapsed" in dict(step.head.lines)[b"cache-status"]
    world.steps.now_done(feed.part(b"bo", more=True))
    assert step.reader.take() == b"bo"
    world.steps.now_done(feed.part(b"dy", more=False))
    assert step.reader.take() == b"dy"
    assert step.reader.at_end
    assert exchange.stream.readers == 1
    with step.reader:
        pass
    assert exchange.stream.readers == 0
    assert world.count("collapsed") == 1
    world.assert_nothing_left()


def test_a_follower_that_has_it_gets_a_304_and_does_not_read_on() -> None:
    world = World()
    leader, follower = world.ask(), world.ask(if_none_match='"a"')
    feed = world.feed(leader.fetch.exchange)
    world.steps.now_done(feed.head(200, lines_of({**LENGTH, "etag": '"a"'})))
    world.steps.run()
    assert follower.served.response.status == 304
    assert leader.fetch.exchange.stream.readers == 0


def test_what_is_confirmed_answers_the_followers_too() -> None:
    world = World()
    world.store({**STALE, "x-tag": "1"})
    world.steps.advance(10)
    leader, follower = world.ask(), world.ask()
    assert leader.fetch.repeatable
    assert (b"if-none-match", b'"a"') in leader.fetch.exchange.asked.header_lines()
    world.respond(leader.fetch.exchange, 304, {**STALE})
    step = resolve(world.cache, leader.fetch.exchange)
    assert isinstance(step, Serve)
    for served in (step, follower.served):
        assert body_of(served) == b"stored"
    assert world.count("collapsed") == 1


def test_a_response_that_some_may_have_is_not_for_all_who_waited() -> None:
    """It varies on what the follower sent: that one decides anew, and leads a fetch of its own."""
    world = World()
    leader, same, other = (world.ask(accept_language=one) for one in ("en", "en", "de"))
    world.respond(leader.fetch.exchange, 200, {**FRESH, "vary": "accept-language"}, b"en")
    assert body_of(same.step) == b"en"
    assert not other.fetch.exchange.uncollapsed


@pytest.mark.parametrize("fallback", ["fetch", "504"])
def test_the_wait_for_a_leader_is_bounded(fallback: str) -> None:
    world = World(collapse_timeout=5, collapse_fallback=fallback)
    world.ask()
    follower = world.ask()
    world.steps.advance(4.9)
    assert follower.waits
    world.steps.advance(0.2)
    if fallback == "504":
        assert follower.served.response.status == 504
    else:
        assert follower.fetch.exchange.uncollapsed  # and waits for nobody any more
    assert world.count("wait_timeout") == 1
    assert world.stats["waiters"] == 0


def test_origin_timeout_gives_those_who_wait_what_is_stale() -> None:
    world = World(origin_timeout=2, collapse_timeout=60)
    world.store(STALE)
    world.steps.advance(10)
    leader, follower = world.ask(), world.ask()
    assert leader.fetch.patience == 2
    world.steps.advance(2.1)
    assert body_of(follower.served) == b"stored"
    assert world.count("stale", reason="origin-timeout") == 1
    assert world.stats["waiters"] == 0


def test_origin_timeout_gives_nothing_that_was_purged_meanwhile() -> None:
    world = World(origin_timeout=2, collapse_timeout=60)
    world.store(STALE)
    world.steps.advance(10)
    world.ask()
    follower = world.ask()
    world.steps.now_done(world.cache.purge(everything=True))
    world.steps.advance(2.1)
    assert follower.fetch.exchange.uncollapsed
    assert world.count("wait_timeout") == 1


def test_who_waits_for_one_that_gave_up_waits_no_longer() -> None:
    """A leader that waited for another instance as long as one may: its followers have waited as long."""
    world = World(collapse_fallback="504")
    leader, follower = world.ask(), world.ask()
    leader.fetch.exchange.gave_up = True
    _failed(world, leader.fetch.exchange)
    assert follower.served.response.status == 504


def test_a_request_waits_for_so_many_fetches_and_no_more() -> None:
    world = World()
    leader = world.ask()
    follower = world.ask()
    for _ in range(MAX_TRIES):
        assert follower.waits
        # Another request comes first, each time that the leader fails.
        others = world.ask()
        assert others.waits
        world.steps.walks.sort(key=lambda walk: walk is follower.walk)
        _failed(world, leader.fetch.exchange)
        leader = others
        assert isinstance(leader.step, Fetch)
    assert follower.fetch.exchange.uncollapsed
    assert world.stats["flights"] == 1


def test_a_follower_that_goes_away_leaves_nothing_behind() -> None:
    world = World()
    leader, follower = world.ask(), world.ask()
    follower.walk.cancel()
    assert world.stats["waiters"] == 0
    assert leader.fetch.exchange.stream.readers == 0


# -- leading ---------------------------------------------------------------------------------------


def test_a_leader_whose_fetch_is_complete_gets_all_of_it_at_once() -> None:
    world = World()
    leader = world.ask()
    exchange = leader.fetch.exchange
    with exchange.stream.reader(leader.request) as reader:
        walk = world.steps.begin(leader.conversation.lead(leader.fetch, reader))
        world.respond(exchange, 200, LENGTH, b"bo", b"dy")
        step = walk.result
    assert isinstance(step, Serve)
    assert body_of(step) == b"body"
    assert b"stored" in dict(step.response.lines)[b"cache-status"]


def test_a_leader_gets_a_304_if_it_has_what_came() -> None:
    world = World()
    leader = world.ask(if_none_match='"a"')
    exchange = leader.fetch.exchange
    assert not any(name == b"if-none-match" for name, _ in exchange.asked.header_lines())
    with exchange.stream.reader(leader.request) as reader:
        walk = world.steps.begin(leader.conversation.lead(leader.fetch, reader))
        world.respond(exchange, 200, {**FRESH, "etag": '"a"'}, b"body")
        assert walk.result.response.status == 304
    assert body_of(world.ask().served) == b"body"


@pytest.mark.parametrize(
    ("status", "fields", "state"),
    [(200, PRIVATE, State.RELEASED), (200, {**FRESH, "vary": "*"}, State.RELEASED)],
)
def test_what_is_not_shared_the_app_says_itself(
    status: int, fields: dict[str, str], state: State
) -> None:
    world = World()
    leader = world.ask()
    exchange = leader.fetch.exchange
    with exchange.stream.reader(leader.request) as reader:
        walk = world.steps.begin(leader.conversation.lead(leader.fetch, reader))
        world.respond(exchange, status, fields, b"body")
        assert walk.result is None
    assert exchange.state is state


def test_patience_ends_with_what_is_stale_and_the_fetch_goes_on() -> None:
    world = World(origin_timeout=2)
    world.store(STALE)
    world.steps.advance(10)
    leader = world.ask()
    exchange = leader.fetch.exchange
    with exchange.stream.reader(leader.request) as reader:
        walk = world.steps.begin(leader.conversation.lead(leader.fetch, reader))
        world.steps.advance(2.1)
        assert body_of(walk.result) == b"stored"
    assert exchange.state is State.PENDING
    world.respond(exchange, 200, FRESH, b"new")
    assert body_of(world.ask().served) == b"new"


def test_patience_goes_on_if_what_is_stale_was_purged_meanwhile() -> None:
    world = World(origin_timeout=2)
    world.store(STALE)
    world.steps.advance(10)
    leader = world.ask()
    exchange = leader.fetch.exchange
    with exchange.stream.reader(leader.request) as reader:
        walk = world.steps.begin(leader.conversation.lead(leader.fetch, reader))
        world.steps.now_done(world.cache.purge(everything=True))
        world.steps.advance(2.1)
        assert not walk.done()
        world.respond(exchange, 200, FRESH, b"new")
        assert body_of(walk.result) == b"new"


def test_a_304_for_something_else_has_the_app_called_again_without_validators() -> None:
    world = World()
    world.store(STALE)
    world.steps.advance(10)
    leader = world.ask()
    exchange = leader.fetch.exchange
    world.respond(exchange, 304, {"etag": '"b"'})
    assert resolve(world.cache, exchange) is Attempt.UNCONDITIONAL
    leader.again()
    assert not leader.fetch.repeatable
    assert not any(
        name == b"if-none-match" for name, _ in leader.fetch.exchange.asked.header_lines()
    )
    world.respond(leader.fetch.exchange, 200, FRESH, b"new")
    assert body_of(world.ask().served) == b"new"
    world.assert_nothing_left()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_of_the_origin_is_answered_with_what_is_stale(status: int) -> None:
    world = World()
    world.store(STALE)
    world.steps.advance(10)
    leader, follower = world.ask(), world.ask()
    world.respond(leader.fetch.exchange, status, {}, b"sorry")
    step = resolve(world.cache, leader.fetch.exchange)
    assert isinstance(step, Serve)
    for served in (step, follower.served):
        assert body_of(served) == b"stored"


def test_a_stale_response_within_its_window_comes_with_one_refresh() -> None:
    world = World()
    world.store({"cache-control": "max-age=1, stale-while-revalidate=60"})
    world.steps.advance(10)
    served = [world.ask().served for _ in range(3)]
    assert [body_of(one) for one in served] == [b"stored"] * 3
    refreshes = [one.refresh for one in served if one.refresh is not None]
    assert len(refreshes) == 1
    feed = world.feed(refreshes[0])
    assert world.steps.now_done(feed.wanted())
    world.respond(refreshes[0], 200, FRESH, b"new")
    assert body_of(world.ask().served) == b"new"
