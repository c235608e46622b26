"""Stale responses: served at once inside of the window, one refresh per key; stale-if-error."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest

from layergate import OriginUnreachable, Rule
from tests.support.asgi import Gate, OriginCall, World
from tests.support.waiting import turns, until

SWR = {"cache-control": "max-age=10, stale-while-revalidate=30"}
SIE = {"cache-control": "max-age=10, stale-if-error=300"}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="layergate")


def numbered(world: World, headers: dict, gate: Gate | None = None, path: str = "/") -> None:
    @world.origin.on(path)
    async def handler(call: OriginCall) -> None:
        if gate is not None and call.number > 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=headers)


# -- stale-while-revalidate ------------------------------------------------------------------------


async def test_stale_is_served_at_once_and_refreshed_behind_it():
    world = World()
    gate = Gate()
    numbered(world, SWR, gate)
    await world.get("/")
    world.clock.advance(15)
    stale = await world.get("/")  # ends although the app has not answered
    assert stale.body == b"1" and stale.header("age") == "15"
    assert "hit; ttl=-5" in stale.cache_status
    await gate.reached()
    gate.open()
    await world.idle()
    fresh = await world.get("/")
    assert fresh.body == b"2" and fresh.header("age") == "0" and "ttl=10" in fresh.cache_status
    world.assert_nothing_left()


async def test_many_requests_cause_one_refresh():
    world = World()
    gate = Gate()
    numbered(world, SWR, gate)
    await world.get("/")
    world.clock.advance(15)
    calls = [world.call("/") for _ in range(100)]
    for call in calls:
        assert (await call.done()).body == b"1"
    assert world.origin.total == 2
    gate.open()
    await world.idle()
    world.assert_nothing_left()


async def test_each_key_and_each_variant_has_its_own_refresh():
    world = World()
    gate = Gate()
    numbered(world, {**SWR, "vary": "x-a"}, gate)
    gate.open()
    for value in ("1", "2"):
        await world.get("/", headers={"x-a": value})
    world.clock.advance(15)
    for value in ("1", "2", "1"):
        await world.get("/", headers={"x-a": value})
    await world.idle()
    assert world.origin.total == 4
    assert (await world.get("/", headers={"x-a": "1"})).hit


async def test_a_refresh_validates_with_what_is_stored_and_a_304_renews_it():
    world = World()
    seen: list[str | None] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        seen.append(call.header("if-none-match"))
        headers = {**SWR, "etag": '"1"', "x-number": str(call.number)}
        if call.number == 1:
            await call.reply(b"body", headers=headers)
        else:
            await call.reply(b"", 304, headers)

    await world.get("/", headers={"if-none-match": '"client"'})
    world.clock.advance(15)
    await world.get("/", headers={"if-none-match": '"client"'})
    await world.idle()
    assert seen == [None, '"1"']
    fresh = await world.get("/")
    assert fresh.hit and fresh.body == b"body" and fresh.header("x-number") == "2"


async def test_a_refresh_is_a_plain_get_even_behind_a_head_with_directives():
    world = World()
    seen: list[Any] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        seen.append((call.scope["method"], call.header("cache-control"), call.header("x-a")))
        await call.reply(b"%d" % call.number, headers=SWR)

    await world.get("/")
    world.clock.advance(15)
    headers = {"cache-control": "max-stale=100", "x-a": "1"}
    await world.get("/", method="HEAD", headers={"x-a": "1"})
    await world.idle()
    assert seen[1:] == [("GET", None, "1")]
    world.clock.advance(15)
    await world.get("/", headers=headers)
    assert (await world.get("/")).body in (b"2", b"3")


async def test_a_refresh_runs_in_a_clean_context_with_a_scope_of_its_own():
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="clean")
    world = World()
    gate = Gate()
    seen: list[Any] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
            seen.append((var.get(), call.scope["state"], call.scope["session"]))
            call.scope["state"]["x"] = "from the refresh"
        # (public, since a known user has no part in what is not)
        await call.reply(b"x", headers={"cache-control": "public, " + SWR["cache-control"]})

    await world.get("/", session={})
    world.clock.advance(15)
    state = {"x": "as it was"}
    session = {"user": "alice"}
    var.set("of the request")
    await world.get("/", state=state, session=session)
    state["x"] = "changed later"
    session.clear()
    await gate.reached()
    gate.open()
    await world.idle()
    assert seen == [("clean", {"x": "from the refresh"}, {"user": "alice"})]
    assert state == {"x": "changed later"}


async def test_a_refresh_gets_an_empty_body_and_then_a_client_that_stays_until_the_end():
    world = World()
    seen: list[Any] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            seen.append(await call.receive())
            waiting = asyncio.create_task(call.receive())
            await turns()
            seen.append(waiting.done())
            waiting.cancel()
        await call.reply(b"x", headers=SWR)

    await world.get("/")
    world.clock.advance(15)
    await world.get("/")
    await world.idle()
    assert seen == [{"type": "http.request", "body": b"", "more_body": False}, False]


async def test_the_refresh_outlives_the_request_that_caused_it():
    world = World()
    gate = Gate()
    numbered(world, SWR, gate)
    await world.get("/")
    world.clock.advance(15)
    call = world.call("/")
    await call.done()
    call.leave()
    await gate.reached()
    gate.open()
    await world.idle()
    assert (await world.get("/")).body == b"2"


@pytest.mark.parametrize("fault", ["exception", "500", "broken-body", "nothing"])
async def test_a_failed_refresh_keeps_the_stale_response_and_is_tried_again(fault):
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 2:
            if fault == "exception":
                raise RuntimeError("boom")
            if fault == "500":
                await call.reply(b"", 500)
            elif fault == "broken-body":
                await call.start(200, SWR)
                await call.chunk(b"half")
            return
        await call.reply(b"%d" % call.number, headers=SWR)

    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"1"
    await world.idle()
    assert (await world.get("/")).body == b"1"
    await world.idle()
    assert (await world.get("/")).body == b"3"
    world.assert_nothing_left()


async def test_a_refresh_that_finds_the_response_private_makes_it_unavailable():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        headers = SWR if call.number == 1 else {"cache-control": "private"}
        await call.reply(b"%d" % call.number, headers=headers)

    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"1"
    await world.idle()
    assert (await world.get("/")).body == b"3"
    assert (await world.get("/")).body == b"4"


async def test_a_request_beyond_the_window_joins_the_refresh_under_way():
    world = World()
    gate = Gate()
    numbered(world, SWR, gate)
    await world.get("/")
    world.clock.advance(15)
    await world.get("/")
    await gate.reached()
    world.clock.advance(26)
    calls = [world.call("/") for _ in range(5)]
    await world.waiting(5)
    gate.open()
    for call in calls:
        assert (await call.done()).body == b"2"
    assert world.origin.total == 2


async def test_a_rule_grants_windows_and_the_responses_own_win():
    world = World(rules=[Rule("*", ttl=10, stale_while_revalidate=30)])
    numbered(world, {})
    numbered(world, {"cache-control": "max-age=10, stale-while-revalidate=0"}, path="/own")
    for path in ("/", "/own"):
        await world.get(path)
    world.clock.advance(15)
    assert (await world.get("/")).body == b"1"
    assert (await world.get("/own")).body == b"2"
    await world.idle()


# -- stale-if-error --------------------------------------------------------------------------------


def failing(world: World, how: Any, headers: dict = SIE, gate: Gate | None = None) -> None:
    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"1", headers=headers)
            return
        if gate is not None:
            await gate.wait()
        if isinstance(how, int):
            await call.reply(b"error", how)
        else:
            raise how


@pytest.mark.parametrize("how", [500, RuntimeError("boom"), OSError("db")], ids=str)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stale_response_stands_in_for_an_error(how, method):
    world = World()
    failing(world, how)
    await world.get("/")
    world.clock.advance(100)
    call = await world.get("/", method=method)
    assert call.status == 200 and call.body == (b"1" if method == "GET" else b"")
    assert "stale-if-error" in call.cache_status and call.complete
    world.assert_nothing_left()


@pytest.mark.parametrize("how", [500, RuntimeError("boom")], ids=str)
async def test_it_stands_in_for_every_follower_and_the_origin_is_asked_once(how):
    world = World()
    gate = Gate()
    failing(world, how, gate=gate)
    await world.get("/")
    world.clock.advance(100)
    calls = [world.call("/") for _ in range(50)]
    await world.waiting(49)
    gate.open()
    for call in calls:
        assert (await call.done()).body == b"1"
    assert world.origin.total == 2
    world.assert_nothing_left()


LOST = (
    ConnectionResetError("gone"),
    ConnectionRefusedError("no"),
    OriginUnreachable("closed"),
    503,
)


@pytest.mark.parametrize("how", LOST, ids=str)
async def test_it_stands_in_for_every_follower_of_an_origin_that_cannot_be_reached(how):
    world = World(stale_if_unreachable=60)
    gate = Gate()
    failing(world, how, {"cache-control": "max-age=10"}, gate)
    await world.get("/")
    world.clock.advance(50)
    calls = [world.call("/") for _ in range(20)]
    await world.waiting(19)
    gate.open()
    for call in calls:
        assert (await call.done()).body == b"1"
        assert "fwd=stale" in call.cache_status and "stale-if-unreachable" in call.cache_status
    assert world.origin.total == 2
    world.assert_nothing_left()


@pytest.mark.parametrize("how", LOST[:3], ids=str)
async def test_a_refresh_that_cannot_reach_the_origin_is_no_silent_one(how):
    world = World(stale_if_unreachable=60)
    failing(world, how, SWR)
    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"1"
    await world.idle()
    reported = isinstance(how, OriginUnreachable)  # another OSError may be our own: nobody listens
    assert world.count("fetch_error") == reported
    world.clock.advance(30)
    assert "stale-if-unreachable" in (await world.get("/")).cache_status


async def test_an_error_in_the_body_comes_through_since_the_head_is_out():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"1", headers=SIE)
            return
        await call.start(200, SIE)
        await call.chunk(b"half")
        raise RuntimeError("boom")

    await world.get("/")
    world.clock.advance(100)
    call = world.call("/")
    with pytest.raises(RuntimeError):
        await call.done()
    assert call.body == b"half" and not call.complete


@pytest.mark.parametrize("collapse", [True, False])
async def test_an_error_page_that_is_raised_as_well(collapse: bool):
    """As frameworks do: the client gets what is stored, and the server what was raised."""
    world = World(collapse=collapse)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await call.reply(b"sorry", 500)
            raise ValueError("boom")
        await call.reply(b"stored", headers=SIE)

    await world.get("/")
    world.clock.advance(20)
    call = world.call("/")
    with pytest.raises(ValueError, match="boom"):
        await call.done()
    assert (call.status, call.body) == (200, b"stored")
    assert call.complete and "stale-if-error" in call.cache_status
    assert world.count("fetch_error") == 1
    await world.idle()
    world.assert_nothing_left()


# -- timeouts --------------------------------------------------------------------------------------


def hanging(world: World, gate: Gate, headers: dict = SIE) -> None:
    numbered(world, headers, gate)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stale_response_stands_in_for_an_app_that_is_too_slow(method):
    world = World(origin_timeout=0.01)
    gate = Gate()
    hanging(world, gate)
    await world.get("/")
    world.clock.advance(100)
    call = await world.get("/", method=method)
    assert call.status == 200 and "stale-if-error" in call.cache_status
    assert call.body == (b"1" if method == "GET" else b"")
    gate.open()
    await world.idle()
    if method == "GET":  # the fetch went on, and its answer is not lost
        assert (await world.get("/")).body == b"2"
    world.assert_nothing_left()


async def test_followers_wait_no_longer_than_that_either():
    world = World(origin_timeout=0.01, collapse_timeout=60)
    gate = Gate()
    hanging(world, gate)
    await world.get("/")
    world.clock.advance(100)
    calls = [world.call("/") for _ in range(10)]
    for call in calls:
        await call.done()
        assert call.body == b"1" and "stale-if-error" in call.cache_status
    assert world.origin.total == 2
    gate.open()
    await world.idle()
    world.assert_nothing_left()


async def test_a_request_that_comes_later_waits_no_longer_than_that_either():
    world = World(origin_timeout=0.01, collapse_timeout=60)
    gate = Gate()
    hanging(world, gate)
    await world.get("/")
    world.clock.advance(100)
    await world.get("/")
    late = await world.get("/")
    assert late.body == b"1"
    assert world.origin.total == 2
    gate.open()
    await world.idle()


async def test_without_a_stale_response_there_is_no_such_limit():
    world = World(origin_timeout=0.0)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=SIE)

    call = world.call("/")
    await gate.reached()
    await turns()
    assert not call.started
    gate.open()
    assert (await call.done()).body == b"x"


async def test_a_stale_response_of_a_requests_own_fetch_is_limited_too():
    """With Authorization nobody shares the fetch; the limit holds all the same."""
    world = World(origin_timeout=0.01)
    gate = Gate()
    hanging(world, gate, {"cache-control": "public, max-age=10, stale-if-error=300"})
    await world.get("/", headers={"authorization": "a"})
    world.clock.advance(100)
    call = world.call("/", headers={"authorization": "b"})
    try:
        await until(lambda: call.started or call.task.done())
        assert call.body == b"1"
    finally:
        gate.open()
        await call.done()
        await world.idle()


async def test_what_the_app_says_late_does_not_reach_a_client_that_has_the_stale_response():
    """origin_timeout: the client is slow to take the stale response while the app answers, for
    this client alone."""
    world = World(origin_timeout=0.01)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"old", headers={"cache-control": "max-age=10, stale-if-error=600"})
            return
        await gate.wait()
        await call.reply(b"private", headers={"cache-control": "private", "set-cookie": "a=b"})

    await world.get("/")
    world.clock.advance(20)
    slow = world.call("/", pause_after=0)
    await until(lambda: slow.blocked == 1)
    gate.open()
    await until(lambda: world.origin.running == 0)
    slow.resume()
    assert (await slow.done()).body == b"old"
    assert [message["type"] for message in slow.messages].count("http.response.start") == 1


async def test_a_reload_does_not_join_what_is_half_here_already():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        number = call.number
        await call.start(200, {"cache-control": "max-age=60"})
        await call.chunk(b"%d" % number)
        if number == 1:
            await gate.wait()
        await call.end()

    leader = world.call("/")
    await leader.received(1)
    assert (await world.get("/", headers={"cache-control": "no-cache"})).body == b"2"
    gate.open()
    await leader.done()


async def test_background_tasks_of_the_app_do_not_hold_the_room_for_bodies():
    world = World(max_inflight=1000)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"x" * 800, headers={"cache-control": "max-age=60"})
        await gate.wait()

    first = world.call("/")
    await gate.reached()
    await until(lambda: len(first.body) == 800)
    assert world.stat("inflight_bytes") == 0
    gate.open()
    await first.done()


@pytest.mark.parametrize("options", [{}, {"origin_timeout": 0.01}], ids=["refresh", "timeout"])
async def test_a_fetch_that_goes_on_without_its_client_does_not_go_on_for_ever(options: dict):
    """A background refresh; a fetch whose client has got a stale response in its place."""
    world = World(abandoned_timeout=0.01, **options)
    never = asyncio.Event()
    ended: list[str] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"stored", headers=SIE if options else SWR)
            return
        try:
            await never.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"stored"
    await until(lambda: ended)
    await world.idle()
    world.assert_nothing_left()
