"""G4: requests for what turns out not to be shareable run concurrently, never one after the other."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from layergate import Rule
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.support import wsgi
from tests.support.asgi import Gate, OriginCall, World
from tests.support.waiting import wait_until

UNSHAREABLE = [
    pytest.param(200, {}, id="says-nothing"),
    pytest.param(200, {"cache-control": "no-store"}, id="no-store"),
    pytest.param(200, {"cache-control": "private"}, id="private"),
    pytest.param(200, {"cache-control": "no-cache"}, id="no-cache"),
    pytest.param(200, {"cache-control": "no-cache", "etag": '"1"'}, id="no-cache-with-validator"),
    pytest.param(200, {"cache-control": "max-age=0", "etag": '"1"'}, id="stale-on-arrival"),
    pytest.param(200, {"cache-control": "max-age=60", "set-cookie": "a=1"}, id="set-cookie"),
    pytest.param(200, {"cache-control": "max-age=60", "vary": "*"}, id="vary-star"),
    pytest.param(500, {}, id="500"),
    pytest.param(404, {}, id="404"),
    pytest.param(
        200, {"cache-control": "max-age=60", "content-length": "99999999999"}, id="too-large"
    ),
]


async def test_a_thousand_requests_for_an_uncacheable_target_all_run_at_once():
    world = World()
    gate = Gate()
    barrier = asyncio.Barrier(999)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        else:
            await barrier.wait()
        await call.reply(b"%d" % call.number, headers={"cache-control": "no-store"})

    calls = [world.call("/") for _ in range(1000)]
    await gate.reached()
    await world.waiting(999)
    gate.open()
    await asyncio.gather(*(call.task for call in calls))
    assert len({call.body for call in calls}) == 1000
    assert world.origin.most_running >= 999
    world.assert_nothing_left()


@pytest.mark.parametrize(("status", "headers"), UNSHAREABLE)
async def test_followers_are_released_by_the_head_and_run_side_by_side(status, headers):
    world = World()
    head, body = Gate(), Gate()
    barrier = asyncio.Barrier(20)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await head.wait()
            await call.start(status, headers)
            await body.wait()  # the leader's body is still under way
            await call.end(b"x")
            return
        await barrier.wait()
        await call.reply(b"x", status, headers)

    leader = world.call("/")
    await head.reached()
    followers = [world.call("/") for _ in range(20)]
    await world.waiting(20)
    head.open()
    for call in followers:
        assert (await call.done()).status == status
    body.open()
    await leader.done()


@pytest.mark.parametrize(("status", "headers"), UNSHAREABLE)
async def test_a_marker_lets_the_next_requests_run_at_once(status, headers):
    """Nobody waits, not even for the head of the first of them."""
    world = World()
    barrier = asyncio.Barrier(10)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await barrier.wait()
        await call.reply(b"x", status, headers)

    await world.get("/")
    calls = [world.call("/") for _ in range(10)]
    for call in calls:
        assert (await call.done()).status == status


async def test_a_marker_ends_and_requests_are_collapsed_again():
    world = World(hit_for_miss_ttl=10)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"private", headers={"cache-control": "private"})
            return
        await gate.wait()
        await call.reply(b"shared", headers={"cache-control": "max-age=60"})

    await world.get("/")
    world.clock.advance(11)
    calls = [world.call("/") for _ in range(10)]
    await gate.reached()
    await world.waiting(9)
    gate.open()
    for call in calls:
        assert (await call.done()).body == b"shared"
    assert world.origin.total == 2


async def test_behind_a_marker_a_response_that_became_cacheable_is_stored():
    world = World()
    world.origin.answers("/", {"cache-control": "private"})
    await world.get("/")
    world.origin.answers("/", {"cache-control": "max-age=60"})
    await world.get("/")
    assert (await world.get("/")).hit


async def test_without_a_hit_for_miss_ttl_requests_are_collapsed_each_time():
    world = World(hit_for_miss_ttl=0)
    world.origin.answers("/", {"cache-control": "private"})
    await world.get("/")
    assert world.entries == 0


async def test_an_error_is_remembered_for_a_second_only():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"", 500)
            return
        await gate.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=60"})

    await world.get("/")
    world.clock.advance(1.5)
    calls = [world.call("/") for _ in range(5)]
    await gate.reached()
    await world.waiting(4)
    gate.open()
    for call in calls:
        await call.done()
    assert world.origin.total == 2


async def test_requests_with_authorization_never_queue():
    world = World()
    barrier = asyncio.Barrier(20)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await barrier.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=60"})

    calls = [world.call("/", headers={"authorization": f"Bearer {n}"}) for n in range(20)]
    for call in calls:
        await call.done()


@pytest.mark.parametrize("cold", [True, False])
async def test_requests_with_a_cookie_that_a_rule_is_not_for_do_not_hold_each_other_up(cold):
    world = World(rules=[Rule("*", ttl=60)])
    gate = Gate()
    barrier = asyncio.Barrier(20)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        else:
            await barrier.wait()
        await call.reply(b"%d" % call.number)

    leader = world.call("/", headers={"cookie": "user=0"})
    await gate.reached()
    if not cold:
        gate.open()
        await leader.done()
    calls = [world.call("/", headers={"cookie": f"user={n}"}) for n in range(20)]
    if cold:
        await world.waiting(20)
        gate.open()
    bodies = {(await call.done()).body for call in calls}
    assert len(bodies) == 20


async def test_requests_with_cookies_do_not_hold_up_those_without():
    world = World(rules=[Rule("*", ttl=60)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.header("cookie"):
            await gate.wait()
        await call.reply(b"x")

    slow = world.call("/", headers={"cookie": "user=0"})
    await gate.reached()
    assert (await world.get("/")).body == b"x"
    assert (await world.get("/")).hit
    gate.open()
    await slow.done()


async def test_what_cookies_made_unshareable_stays_shared_for_those_without():
    """The marker of the one class is not the marker of the other."""
    world = World(rules=[Rule("*", ttl=60)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if not call.header("cookie"):
            await gate.wait()
        await call.reply(b"x")

    await world.get("/", headers={"cookie": "user=0"})
    calls = [world.call("/") for _ in range(10)]
    await gate.reached()
    await world.waiting(9)
    gate.open()
    for call in calls:
        await call.done()
    assert world.origin.total == 2


async def test_mixed_variants_of_a_cold_target_do_not_queue_up():
    """One leads; when its head tells what the target varies by, the others go on at once."""
    world = World()
    gate = Gate()
    barrier = asyncio.Barrier(20)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        elif call.number <= 21:
            await barrier.wait()
        language = call.header("accept-language") or ""
        await call.reply(
            language.encode(), headers={"cache-control": "max-age=60", "vary": "accept-language"}
        )

    leader = world.call("/", headers={"accept-language": "x0"})
    await gate.reached()
    calls = [world.call("/", headers={"accept-language": f"x{n}"}) for n in range(21)]
    await world.waiting(21)
    gate.open()
    for number, call in enumerate(calls):
        assert (await call.done()).body == b"x%d" % number
    await leader.done()
    # The one that asked for the leader's own variant was given it.
    assert world.origin.total == 21


async def test_two_requests_for_each_variant_of_a_cold_target_cost_one_call_each():
    world = World()
    gate, second = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await (gate if call.number == 1 else second).wait()
        language = call.header("accept-language") or ""
        await call.reply(
            language.encode(), headers={"cache-control": "max-age=60", "vary": "accept-language"}
        )

    calls = [world.call("/", headers={"accept-language": f"x{n % 10}"}) for n in range(20)]
    await gate.reached()
    await world.waiting(19)
    gate.open()
    await second.reached(9)
    second.open()
    for number, call in enumerate(calls):
        assert (await call.done()).body == b"x%d" % (number % 10)
    assert world.origin.total == 10
    world.assert_nothing_left()


async def test_one_variant_that_is_not_shareable_does_not_make_the_others_so():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        language = call.header("accept-language") or ""
        control = "private" if language == "en" else "max-age=60"
        await call.reply(
            language.encode(), headers={"cache-control": control, "vary": "accept-language"}
        )

    await world.get("/", headers={"accept-language": "de"})
    await world.get("/", headers={"accept-language": "en"})
    assert (await world.get("/", headers={"accept-language": "de"})).hit
    assert not (await world.get("/", headers={"accept-language": "en"})).hit


async def test_head_requests_do_not_queue():
    world = World()
    barrier = asyncio.Barrier(5)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await barrier.wait()
        await call.reply(b"", headers={"cache-control": "max-age=60"})

    calls = [world.call("/", method="HEAD") for _ in range(5)]
    for call in calls:
        await call.done()


async def test_leaders_that_fail_one_after_the_other_do_not_make_a_queue():
    """A follower waits for three fetches that come to nothing, and no more: then all who are left
    call the app side by side."""
    world = World()
    first, rest = Gate(), Gate()

    @world.origin.on("/")
    async def fails(call: OriginCall) -> None:
        if call.number == 1:
            await first.wait()
        if call.number > 3:
            await rest.wait()
        raise ConnectionError("no")

    calls = [world.call("/") for _ in range(10)]
    await first.reached()
    await world.waiting(9)
    first.open()
    await rest.reached(7)
    assert world.stat("waiters") == 0
    rest.open()
    for call in calls:
        with pytest.raises(ConnectionError):
            await call.done()
    assert world.origin.calls["/"] == 10
    world.assert_nothing_left()


def test_leaders_that_fail_one_after_the_other_do_not_make_a_queue_of_threads():
    rest = wsgi.Gate()
    calls = itertools.count(1)
    events: list[str] = []
    # Each request looks for a response, and again after each leader that failed.
    looked = {1: 10, 2: 10 + 9, 3: 10 + 9 + 8}

    def fails(environ, start_response):
        number = next(calls)
        if number > 3:
            rest.wait()
        else:  # until all the others wait for this call
            wait_until(lambda: events.count("miss") == looked[number])
            wait_until(lambda: app.cache.stats()["waiters"] == 10 - number)
        raise ConnectionError("no")

    app = WSGILayerGate(fails, hooks=[lambda event, facts: events.append(event)])
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(wsgi.ask, app) for _ in range(10)]
        for _ in range(7):
            rest.reached()
        assert app.cache.stats()["waiters"] == 0
        rest.open()
        assert {type(one.exception(10)) for one in asked} == {ConnectionError}
    assert next(calls) == 11
