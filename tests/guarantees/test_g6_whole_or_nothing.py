"""G6: only a complete, verified body is stored, and the client still gets every byte."""

from __future__ import annotations

import asyncio

import pytest

from layergate import OriginAborted
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.waiting import turns, until


async def not_stored(world: World, path: str = "/") -> None:
    """The next request calls the app again, and nothing is left of the last one."""
    before = world.origin.calls[path]
    world.origin.answers(path, FRESH, b"whole")
    call = await world.get(path)
    assert not call.hit and call.body == b"whole"
    assert world.origin.calls[path] == before + 1
    world.assert_nothing_left()


@pytest.mark.parametrize("length", [None, 10])
async def test_a_body_the_app_breaks_off_is_not_stored(length):
    world = World()
    headers = {**FRESH, **({} if length is None else {"content-length": str(length)})}

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, headers)
        await call.chunk(b"half")
        raise RuntimeError("boom")

    call = world.call("/")
    with pytest.raises(RuntimeError, match="boom"):
        await call.done()
    assert call.body == b"half" and not call.complete
    await not_stored(world)


async def test_a_body_without_an_end_is_not_stored():
    """The app returned without its last message."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"half")

    call = world.call("/")
    with pytest.raises(OriginAborted):
        await call.done()
    assert call.body == b"half" and not call.complete
    await not_stored(world)


@pytest.mark.parametrize(
    ("claimed", "body"),
    [
        ("5", b"four"),
        ("3", b"four"),
        ("0", b"four"),
        ("4, 4", b"fourfour"),
        ("-1", b""),
        ("x", b"x"),
    ],
)
async def test_a_body_that_is_not_as_long_as_it_says_is_not_stored(claimed, body):
    world = World()
    world.origin.answers("/", {**FRESH, "content-length": claimed}, body)
    call = await world.get("/")
    assert call.body == body and call.complete
    await not_stored(world)


async def test_two_different_lengths_are_not_stored():
    world = World()
    headers = [("cache-control", "max-age=60"), ("content-length", "4"), ("content-length", "5")]
    world.origin.answers("/", headers, b"four")
    assert (await world.get("/")).body == b"four"
    await not_stored(world)


async def test_the_right_length_is_stored():
    world = World()
    world.origin.answers("/", {**FRESH, "content-length": "4"}, b"four")
    await world.get("/")
    hit = await world.get("/")
    assert hit.hit and hit.body == b"four" and hit.all("content-length") == ["4"]


async def test_a_stored_response_without_a_length_says_it_from_then_on():
    world = World()
    world.origin.answers("/", FRESH, b"four")
    await world.get("/")
    assert (await world.get("/", method="HEAD")).all("content-length") == ["4"]
    assert (await world.get("/", method="HEAD")).body == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_content_needs_no_length(status):
    world = World()
    world.origin.answers("/", FRESH, b"", status)
    call = await world.get("/")
    assert call.status == status and call.complete


async def test_the_answer_to_head_is_never_stored_as_a_body():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        body = b"" if call.scope["method"] == "HEAD" else b"four"
        await call.reply(body, headers={**FRESH, "content-length": "4"})

    await world.get("/", method="HEAD")
    call = await world.get("/")
    assert call.body == b"four" and not call.hit


CAP = 10_000


def a_large_origin(world: World, gate: Gate, chunks: int = 50, size: int = 1000) -> bytes:
    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        for number in range(chunks):
            if number == 2:
                await gate.wait()
            await call.chunk(bytes([number]) * size)
        await call.end()

    return b"".join(bytes([number]) * size for number in range(chunks))


async def test_a_body_over_the_cap_reaches_leader_and_followers_to_the_last_byte():
    world = World(max_body=CAP)
    gate = Gate()
    whole = a_large_origin(world, gate)
    leader = world.call("/")
    await gate.reached()
    followers = [world.call("/") for _ in range(5)]
    for call in followers:
        await call.received(2000)
    gate.open()
    for call in [leader, *followers]:
        await call.done()
        assert call.body == whole and call.complete
    assert world.origin.calls["/"] == 1
    await not_stored(world)


async def test_a_body_over_the_cap_waits_for_slow_readers_and_gives_them_every_byte():
    world = World(max_body=100_000)
    gate = Gate()
    whole = a_large_origin(world, gate, chunks=100, size=20_000)
    leader = world.call("/")
    await gate.reached()
    slow = world.call("/", pause_after=1)
    quick = world.call("/")
    await until(lambda: slow.blocked and len(quick.body) == 40_000)
    gate.open()
    await turns(200)
    # Backpressure: the app is held back, and so is what LayerGate holds for the slow reader.
    assert world.origin.running == 1
    assert not leader.complete and not quick.complete
    assert len(leader.body) < 100_000 + 256 * 1024 + 3 * 20_000
    slow.resume()
    for call in (leader, slow, quick):
        await call.done()
        assert call.body == whole and call.complete
    await not_stored(world)


async def test_a_slow_leader_over_the_cap_gets_every_byte_as_well():
    world = World(max_body=100_000)
    gate = Gate()
    gate.open()
    whole = a_large_origin(world, gate, chunks=100, size=20_000)
    leader = world.call("/", pause_after=3)
    await until(lambda: leader.blocked)
    await turns(100)
    assert world.origin.running == 1
    leader.resume()
    assert (await leader.done()).body == whole
    await not_stored(world)


async def test_a_reader_that_blocks_the_others_is_cut_off_and_they_get_every_byte():
    world = World(max_body=100_000, slow_reader_timeout=0.02)
    gate = Gate()
    whole = a_large_origin(world, gate, chunks=100, size=20_000)
    leader = world.call("/")
    await gate.reached()
    stuck = world.call("/", pause_after=1)
    await until(lambda: stuck.blocked)
    gate.open()
    await leader.done()
    assert leader.body == whole and leader.complete
    assert world.count("stream_cut") == 1
    stuck.resume()
    with pytest.raises(OriginAborted):
        await stuck.done()
    assert not stuck.complete and whole.startswith(stuck.body)
    await not_stored(world)


async def test_a_reader_that_goes_away_frees_an_oversized_stream():
    world = World(max_body=100_000)
    gate = Gate()
    whole = a_large_origin(world, gate, chunks=100, size=20_000)
    leader = world.call("/")
    await gate.reached()
    stuck = world.call("/", pause_after=1)
    await until(lambda: stuck.blocked)
    gate.open()
    await turns(100)
    await stuck.cancel()
    assert (await leader.done()).body == whole
    await not_stored(world)


async def test_an_oversized_stream_that_every_reader_left_ends():
    world = World(max_body=CAP)
    ended: list[type[BaseException] | None] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        try:
            while True:
                await call.chunk(b"x" * 50_000)
        except OSError as error:  # what ASGI has servers raise
            ended.append(type(error))
            raise

    leader = world.call("/", pause_after=3)
    await until(lambda: leader.blocked)
    await leader.cancel()
    await world.idle()
    assert ended
    world.assert_nothing_left()


async def test_nobody_joins_an_oversized_stream_whose_beginning_is_gone():
    world = World(max_body=CAP)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"x" * 20_000)
        if call.number == 1:
            await gate.wait()
        await call.end(b"y")

    leader = world.call("/")
    await gate.reached()
    late = await world.get("/")
    assert late.body == b"x" * 20_000 + b"y"
    assert world.origin.calls["/"] == 2
    gate.open()
    assert (await leader.done()).complete


async def test_a_body_at_the_cap_is_stored_and_one_byte_more_is_not():
    for size, hit in ((CAP, True), (CAP + 1, False)):
        for announced in (True, False):
            world = World(max_body=CAP)
            headers = {**FRESH, **({"content-length": str(size)} if announced else {})}
            world.origin.answers("/", headers, b"x" * size)
            assert len((await world.get("/")).body) == size
            assert (await world.get("/")).hit is hit


async def test_bodies_under_way_stay_within_their_budget_and_are_whole():
    world = World(max_inflight=25_000)
    gate = Gate()

    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"x" * 10_000)
        await gate.wait()
        await call.end(b"y")

    for number in range(5):
        world.origin.handlers[f"/{number}"] = handler
    calls = [world.call(f"/{number}") for number in range(5)]
    await gate.reached(5)
    assert world.stat("inflight_bytes") == 20_000
    gate.open()
    for call in calls:
        await call.done()
        assert call.complete and call.body == b"x" * 10_000 + b"y"
    world.assert_nothing_left()
    hits = [(await world.get(f"/{number}")).hit for number in range(5)]
    assert sum(hits) == 2


async def test_a_leader_cancelled_in_a_private_body_frees_its_budget():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "no-cache", "etag": '"1"'})
        await call.chunk(b"x" * 1000)
        await gate.wait()

    leader = world.call("/")
    await gate.reached()
    assert world.stat("inflight_bytes") == 1000
    await leader.cancel()
    await world.idle()
    world.assert_nothing_left()


async def test_a_client_that_leaves_in_the_middle_gets_no_part_stored_for_others():
    """A fetch that is one request's alone: cancelled with it, its part is thrown away."""
    world = World(collapse=False)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"half")
        await gate.wait()
        await call.end()

    call = world.call("/")
    await gate.reached()
    await call.cancel()
    await world.idle()
    await not_stored(world)


async def test_a_response_with_trailers_is_not_stored():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH, trailers=True)
        await call.end(b"x")
        await call.send({"type": "http.response.trailers", "headers": [(b"x", b"1")]})

    call = await world.get("/", extensions={"http.response.trailers": {}})
    assert call.body == b"x"
    assert [m["type"] for m in call.messages][-1] == "http.response.trailers"
    await not_stored(world)


async def test_an_empty_body_is_whole():
    world = World()
    world.origin.answers("/", FRESH, b"")
    await world.get("/")
    hit = await world.get("/")
    assert hit.hit and hit.complete and hit.body == b""


async def test_bodies_may_be_any_bytes_like():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        buffer = bytearray(b"one")
        await call.send({"type": "http.response.body", "body": buffer, "more_body": True})
        buffer[:] = b"XXX"  # the app's to reuse
        await call.send({"type": "http.response.body", "body": memoryview(b"two")})

    assert (await world.get("/")).body == b"onetwo"
    assert (await world.get("/")).body == b"onetwo"


async def test_sends_after_the_end_change_nothing():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"whole", headers=FRESH)
        try:
            await call.chunk(b"more")
        except asyncio.CancelledError:
            raise
        except Exception:
            return

    await world.get("/")
    assert (await world.get("/")).body == b"whole"
