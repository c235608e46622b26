"""G2: N concurrent identical requests cost one origin call, and nobody hangs, whoever goes away."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from layergate import LayerGate, MemoryLayer, OriginAborted
from tests.core.support import DictLayer
from tests.support.asgi import FRESH, Call, Gate, OriginCall, World, scope_of
from tests.support.clocks import LoopClock
from tests.support.waiting import turns, until


async def test_ten_thousand_concurrent_tasks_on_one_cold_key_make_one_call():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"once", headers=FRESH)

    calls = [world.call("/") for _ in range(10_000)]
    await gate.reached()
    await world.waiting(9_999)
    gate.open()
    await asyncio.gather(*(call.task for call in calls))
    assert world.origin.total == 1
    assert all(call.body == b"once" and call.complete for call in calls)
    assert sum("collapsed" in call.cache_status for call in calls) == 9_999
    world.assert_nothing_left()


async def test_different_targets_do_not_wait_for_each_other():
    world = World()
    gate = Gate()

    @world.origin.on("/slow")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"slow", headers=FRESH)

    slow = world.call("/slow")
    await gate.reached()
    assert (await world.get("/fast")).status == 200
    gate.open()
    await slow.done()


@pytest.mark.parametrize("how", ["cancel", "leave", "leave-with-an-error"])
@pytest.mark.parametrize("when", ["before-the-head", "in-the-body"])
async def test_a_leader_that_goes_away_hands_the_response_to_its_followers(how, when):
    world = World()
    head, body = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await head.wait()
        await call.start(200, FRESH)
        await call.chunk(b"first ")
        await body.wait()
        await call.end(b"second")

    leader = world.call("/", raise_when_gone=how == "leave-with-an-error")
    await head.reached()
    followers = [world.call("/") for _ in range(5)]
    await world.waiting(5)
    if when == "in-the-body":
        head.open()
        await body.reached()
        await leader.received(6)
    if how == "cancel":
        await leader.cancel()
    else:
        leader.leave()
    head.open()
    await body.reached()
    body.open()
    for call in followers:
        await call.done()
        assert call.complete and call.body == b"first second"
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await leader.done()
    await world.idle()
    assert world.origin.total == 1
    assert (await world.get("/")).hit
    world.assert_nothing_left()


async def test_a_leader_cancelled_alone_still_fills_the_store():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    await leader.cancel()
    gate.open()
    await world.idle()
    assert (await world.get("/")).hit
    world.assert_nothing_left()


async def test_a_request_that_comes_after_the_leader_was_cancelled_follows_its_fetch():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    await leader.cancel()
    late = world.call("/")
    await world.waiting(1)
    gate.open()
    assert (await late.done()).body == b"x"
    assert world.origin.total == 1


async def test_a_private_response_of_a_cancelled_leader_releases_its_followers():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers={"cache-control": "private"})

    leader = world.call("/")
    await gate.reached()
    followers = [world.call("/") for _ in range(3)]
    await world.waiting(3)
    await leader.cancel()
    gate.open()
    assert {(await call.done()).body for call in followers} == {b"2", b"3", b"4"}
    await world.idle()
    world.assert_nothing_left()


async def test_a_cancelled_request_takes_its_private_response_with_it():
    """Not shareable: the app is this request's alone, and is cancelled as without a cache."""
    world = World()
    gate = Gate()
    ended: list[str] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "private"})
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    leader = world.call("/")
    await gate.reached()
    await leader.cancel()
    assert ended == ["cancelled"]
    world.assert_nothing_left()


async def test_a_slow_leader_holds_nobody_up():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        for _ in range(100):
            await call.chunk(b"x" * 1000)
        await call.end()

    leader = world.call("/", pause_after=0)
    await until(lambda: leader.blocked)
    follower = await world.get("/")
    assert follower.complete and len(follower.body) == 100_000
    assert not leader.messages
    leader.resume()
    assert len((await leader.done()).body) == 100_000
    assert world.origin.total == 1


async def test_a_slow_follower_holds_nobody_up():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.start(200, FRESH)
        for _ in range(100):
            await call.chunk(b"x" * 1000)
        await call.end()

    leader = world.call("/")
    await gate.reached()
    slow = world.call("/", pause_after=1)
    quick = world.call("/")
    await world.waiting(2)
    gate.open()
    assert len((await leader.done()).body) == 100_000
    assert len((await quick.done()).body) == 100_000
    assert not slow.complete
    slow.resume()
    assert len((await slow.done()).body) == 100_000


async def test_when_the_leader_fails_before_the_head_one_follower_leads_next():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
            raise RuntimeError("boom")
        await call.reply(b"second", headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    followers = [world.call("/") for _ in range(20)]
    await world.waiting(20)
    gate.open()
    with pytest.raises(RuntimeError, match="boom"):
        await leader.done()
    assert {(await call.done()).body for call in followers} == {b"second"}
    assert world.origin.total == 2
    world.assert_nothing_left()


async def test_an_app_that_always_fails_fails_for_everyone_and_nobody_hangs():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        raise RuntimeError("boom")

    calls = [world.call("/") for _ in range(50)]
    outcomes = await asyncio.gather(*(call.done() for call in calls), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RuntimeError}
    world.assert_nothing_left()


async def test_when_the_leader_fails_in_the_body_the_followers_break_off_and_nothing_is_stored():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"half")
        await gate.wait()
        raise RuntimeError("boom")

    leader = world.call("/")
    await gate.reached()
    follower = world.call("/")
    await follower.received(4)
    gate.open()
    with pytest.raises(RuntimeError, match="boom"):
        await leader.done()
    with pytest.raises(OriginAborted):
        await follower.done()
    assert not follower.complete and not leader.complete
    world.origin.answers("/", FRESH, b"whole")
    assert (await world.get("/")).body == b"whole"
    world.assert_nothing_left()


async def test_a_leader_that_streams_for_ever_lets_followers_read_along_and_leave():
    world = World(abandoned_timeout=0.0)
    ticks = 0
    beat = asyncio.Event()
    ended: list[bool] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        nonlocal ticks
        await call.start(200, FRESH)
        try:
            while True:
                await call.chunk(b"tick ")
                ticks += 1
                await beat.wait()
                beat.clear()
        finally:
            ended.append(True)

    leader = world.call("/")
    await leader.received(5)
    followers = [world.call("/") for _ in range(3)]
    for call in followers:
        await call.received(5)
    beat.set()
    for call in [leader, *followers]:
        await call.received(10)
        assert not call.complete
    for call in [*followers, leader]:
        await call.cancel()
    beat.set()
    await world.idle()
    assert ended
    world.assert_nothing_left()


async def test_a_fetch_nobody_waits_for_ends_after_the_abandoned_timeout():
    world = World(abandoned_timeout=0.01)
    never = asyncio.Event()
    ended: list[str] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    leader = world.call("/")
    await until(lambda: world.origin.total)
    await leader.cancel()
    await until(lambda: ended)
    await world.idle()
    world.assert_nothing_left()


async def test_a_cancelled_follower_leaves_nothing_behind():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.start(200, FRESH)
        await call.chunk(b"x")
        await gate.wait()
        await call.end()

    leader = world.call("/")
    await gate.reached()
    exchange = next(iter(world.cache.flights._flights.values()))
    followers = [world.call("/") for _ in range(10)]
    await world.waiting(10)
    assert exchange.stream.readers == 11
    assert exchange.pulse.waiting == 11
    for call in followers:
        await call.cancel()
    assert world.stat("waiters") == 0
    assert exchange.stream.readers == 1
    assert exchange.pulse.waiting == 1
    gate.open()
    await leader.done()
    assert world.origin.total == 1
    world.assert_nothing_left()


async def test_a_follower_cancelled_in_the_body_leaves_nothing_behind():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"x")
        await gate.wait()
        await call.end()

    leader = world.call("/")
    await gate.reached()
    exchange = next(iter(world.cache.flights._flights.values()))
    follower = world.call("/")
    await follower.received(1)
    await turns()
    await follower.cancel()
    assert exchange.stream.readers == 1
    assert exchange.pulse.waiting == 1
    gate.open()
    await leader.done()
    assert leader.complete


async def test_a_follower_waits_no_longer_than_the_collapse_timeout():
    world = World(collapse_timeout=0.01)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    assert (await world.get("/")).body == b"2"
    assert world.count("wait_timeout") == 1
    gate.open()
    assert (await leader.done()).body == b"1"
    world.assert_nothing_left()


async def test_followers_that_timed_out_run_side_by_side():
    world = World(collapse_timeout=0.01)
    barrier = asyncio.Barrier(11)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await barrier.wait()
        await call.reply(b"x", headers=FRESH)

    calls = [world.call("/") for _ in range(11)]
    for call in calls:
        assert (await call.done()).status == 200


async def test_a_fetch_that_is_over_is_joined_however_long_a_layer_takes_to_store_it():
    """A newcomer does not wait for an origin that has stood still for `collapse_timeout`. This one
    has not: all of its response is there."""
    below = DictLayer(later=True)
    storing = below.gates["set"] = asyncio.Event()
    clock = LoopClock()
    world = World(
        clock=clock, layers=[MemoryLayer("1MB", clock=clock.now), below], collapse_timeout=30
    )
    world.origin.answers(
        "/",
        {"cache-control": "max-age=600", "etag": '"1"', "content-range": "bytes 0-2/9"},
        b"one",
        206,
    )
    part = {"range": "bytes=0-2"}
    assert (await world.get("/", headers=part)).body == b"one"
    await until(lambda: below.calls["set"])
    clock.advance(31)
    joined = await world.get("/", headers=part)
    assert (joined.status, joined.body) == (206, b"one")
    assert "collapsed" in joined.cache_status
    storing.set()
    await world.idle()
    assert (await world.get("/", headers=part)).hit
    assert world.origin.calls["/"] == 1


async def test_without_collapsing_every_request_calls_the_app():
    world = World(collapse=False)
    barrier = asyncio.Barrier(5)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await barrier.wait()
        await call.reply(b"x", headers=FRESH)

    calls = [world.call("/") for _ in range(5)]
    for call in calls:
        await call.done()
    assert world.origin.total == 5
    assert (await world.get("/")).hit


async def test_concurrent_requests_for_a_stale_response_revalidate_once():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        headers = {"cache-control": "max-age=10", "etag": '"1"'}
        if call.number == 1:
            await call.reply(b"body", headers=headers)
            return
        assert call.header("if-none-match") == '"1"'
        await gate.wait()
        await call.reply(b"", 304, headers)

    await world.get("/")
    world.clock.advance(20)
    calls = [world.call("/") for _ in range(100)]
    await gate.reached()
    await world.waiting(99)
    gate.open()
    for call in calls:
        assert (await call.done()).body == b"body"
        assert call.status == 200
    assert world.origin.total == 2
    world.assert_nothing_left()


async def test_an_app_that_answers_nothing_breaks_off_for_all_and_is_asked_again_later():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
            return
        await call.reply(b"x", headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    follower = world.call("/")
    await world.waiting(1)
    gate.open()
    await leader.done()
    assert not leader.messages
    assert (await follower.done()).body == b"x"


async def test_two_middlewares_on_one_cache_share_their_fetches():
    world = World()
    gate = Gate()
    second = LayerGate(world.origin, cache=world.cache)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=FRESH)

    first_call = world.call("/")
    await gate.reached()
    second_call = Call(second, scope_of("/"))
    await world.waiting(1)
    gate.open()
    await first_call.done()
    assert (await second_call.done()).body == b"x"
    assert world.origin.total == 1


async def test_a_leader_that_is_cancelled_twice_still_leaves_nothing_behind():
    world = World()
    gate, slow_cleanup = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "private"})
        try:
            await gate.wait()
        finally:
            await slow_cleanup.wait()

    leader = world.call("/")
    await gate.reached()
    leader.task.cancel()
    await slow_cleanup.reached()
    await leader.cancel()
    slow_cleanup.open()
    await world.idle()
    world.assert_nothing_left()


async def test_a_long_poll_whose_only_client_leaves_before_the_head_hears_of_it():
    """As without a cache: an app that waits for http.disconnect instead of answering gets it."""
    world = World()
    heard: list[str] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        message = await call.receive()
        while message["type"] != "http.disconnect":
            message = await call.receive()
        heard.append("disconnect")

    client = world.call("/")
    await until(lambda: world.origin.total)
    await turns()
    client.leave()
    await turns()
    assert heard == ["disconnect"]
    await client.done()
    world.assert_nothing_left()


async def test_every_receive_that_waits_from_before_the_head_hears_of_the_disconnect():
    world = World()
    gate = Gate()
    heard: list[str] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.receive()

        async def listen(name: str) -> None:
            heard.append(f"{name} {(await call.receive())['type']}")

        async with asyncio.TaskGroup() as group:
            group.create_task(listen("a"))
            group.create_task(listen("b"))
            await turns()
            await call.start(200, {"cache-control": "private"})
            await gate.wait()

    client = world.call("/")
    await gate.reached()
    await client.begun()
    client.leave()
    await turns()
    assert sorted(heard) == ["a http.disconnect", "b http.disconnect"]
    gate.open()
    await client.done()


async def test_a_request_from_another_loop_does_not_wait_for_a_loop_that_ended():
    """Nothing asyncio is kept on shared objects: a flight of a loop that is gone is nobody's."""
    world = World(collapse_timeout=0.01)
    never = asyncio.Event()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await never.wait()
        await call.reply(b"x", headers=FRESH)

    def first_loop() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(world.app(scope_of("/"), _never_receive, _drop))
        loop.run_until_complete(asyncio.sleep(0))
        for pending in asyncio.all_tasks(loop):
            pending.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    await asyncio.to_thread(first_loop)
    assert (await world.get("/")).body == b"x"


async def _never_receive() -> dict:
    return {"type": "http.disconnect"}


async def _drop(message: object) -> None:
    return None
