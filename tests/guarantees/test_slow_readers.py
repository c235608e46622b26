"""What a client that takes its time costs the others: time (G2), room (G7), and memory."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from layergate.errors import OriginAborted
from layergate.http.message.ranges import PIECE
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.support import wsgi
from tests.support.asgi import FRESH, Call, Gate, OriginCall, World, scope_of
from tests.support.waiting import turns, until, wait_until

PART = 64 * 1024


def streams(world: World, parts: int, gate: Gate, *, length: bool = False) -> bytes:
    """An origin that waits at the gate after the first of so many parts; the whole body."""
    whole = b"".join(bytes([number % 251]) * PART for number in range(parts))

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        more = {"content-length": str(len(whole))} if length else {}
        await call.start(200, {**FRESH, **more})
        for start in range(0, len(whole), PART):
            await call.chunk(whole[start : start + PART])
            if not start:
                await gate.wait()
        await call.end()

    return whole


class Trickling(Call):
    """A client that takes one message of each `PIECE` a tick, again and again."""

    ticks = 0

    async def _send(self, message: Any) -> None:
        self.ticks += 1
        await asyncio.sleep(0.02)
        await super()._send(message)


# -- time ------------------------------------------------------------------------------------------


async def test_a_reader_that_trickles_is_cut_off_as_well():
    """However often it moves: it is the time in all that counts."""
    world = World(max_body=100_000, slow_reader_timeout=0.2)
    gate = Gate()
    whole = streams(world, 400, gate)  # 25 MB: at a piece a tick that would take two seconds
    others = [world.call("/") for _ in range(3)]
    await gate.reached()
    slow = Trickling(world.app, scope_of("/"))
    await until(lambda: slow.ticks >= 2)
    gate.open()
    for other in others:
        assert (await other.done()).body == whole
    assert world.count("stream_cut") == 1
    with pytest.raises(OriginAborted):
        await slow.done()
    world.assert_nothing_left()


async def test_other_readers_that_look_up_do_not_put_it_off(monkeypatch: pytest.MonkeyPatch):
    """They wait for more, in vain, and wait again: as they do every five seconds."""
    monkeypatch.setattr("layergate.asgi.sending._WATCH_AFTER", 0.01)
    world = World(max_body=100_000, slow_reader_timeout=0.1)
    gate = Gate()
    whole = streams(world, 20, gate)
    others = [world.call("/") for _ in range(3)]
    await gate.reached()
    stuck = world.call("/", pause_after=1)
    await until(lambda: stuck.blocked)
    gate.open()
    for other in others:
        assert (await other.done()).body == whole
    assert world.count("stream_cut") == 1
    await stuck.cancel()
    world.assert_nothing_left()


async def test_two_that_take_nothing_are_both_cut_off():
    world = World(max_body=100_000, slow_reader_timeout=0.05)
    gate = Gate()
    whole = streams(world, 20, gate)
    other = world.call("/")
    await gate.reached()
    stuck = [world.call("/", pause_after=1) for _ in range(2)]
    await until(lambda: all(call.blocked for call in stuck))
    gate.open()
    assert (await other.done()).body == whole
    assert world.count("stream_cut") == 2
    for call in stuck:
        await call.cancel()
    world.assert_nothing_left()


async def test_readers_that_are_all_slow_hold_up_nobody():
    """Nobody waits for more than it has."""
    world = World(max_body=100_000, slow_reader_timeout=0.0)
    gate = Gate()
    whole = streams(world, 20, gate)
    calls = [world.call("/", pause_after=1), world.call("/", pause_after=1)]
    await gate.reached()
    await until(lambda: all(call.blocked for call in calls))
    gate.open()
    await turns(50)
    assert world.count("stream_cut") == 0
    for call in calls:
        await call.cancel()
    assert whole
    await world.idle()
    world.assert_nothing_left()


# -- room ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False])
async def test_slow_readers_of_what_is_stored_hold_no_room(length: bool):
    world = World(max_inflight="2MB", memory="64MB")
    size = 256 * 1024

    def answer(path: str) -> None:
        more = {"content-length": str(size)} if length else {}

        @world.origin.on(path)
        async def handler(call: OriginCall) -> None:
            await call.start(200, {**FRESH, **more})
            await call.chunk(b"x" * (size // 2))
            await call.end(b"y" * (size // 2))

    for number in range(9):
        answer(f"/{number}")
    slow = [world.call(f"/{number}", pause_after=1) for number in range(8)]
    await until(lambda: all(call.blocked for call in slow))
    assert world.stat("inflight_bytes") == 0
    assert not length or all(call.cache_status.endswith("; stored") for call in slow)
    await world.get("/8")
    for number in range(9):
        assert (await world.get(f"/{number}")).hit
    for call in slow:
        call.resume()
        assert len((await call.done()).body) == size
    world.assert_nothing_left()


async def test_a_client_for_whom_alone_it_is_fetched_gives_its_room_to_others():
    """Its fetch goes on at its own pace; what it took is needed after ``slow_reader_timeout``."""
    world = World(max_inflight="300KB", slow_reader_timeout=0.01)
    length = {"content-length": str(4 * PART)}

    @world.origin.on("/alone")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "no-cache", "etag": '"a"', **length})
        for _ in range(4):
            await call.chunk(b"x" * PART)
        await call.end()

    world.origin.answers("/", {**FRESH, **length}, b"y" * 4 * PART)
    slow = world.call("/alone", pause_after=2)
    await until(lambda: slow.blocked)
    assert world.stat("inflight_bytes") == 4 * PART
    deadline = time.monotonic() + 5
    while "stored" not in (await world.get("/")).cache_status:
        assert time.monotonic() < deadline
    assert world.stat("inflight_bytes") == 0
    slow.resume()
    assert len((await slow.done()).body) == 4 * PART
    assert world.entries == 1
    world.assert_nothing_left()


# -- memory ----------------------------------------------------------------------------------------


async def test_followers_hold_no_copies_of_a_body():
    """What is sent at once is a piece, and the rest is held once."""
    world = World()
    gate = Gate()
    whole = streams(world, 100, gate, length=True)
    calls = [world.call("/", pause_after=1) for _ in range(20)]
    await gate.reached()
    await until(lambda: all(call.blocked for call in calls))
    gate.open()
    await world.idle()
    entry = next(iter(world.cache.stack.layers[0]._nodes.values())).entry
    assert entry.value.body == whole
    for call in calls:
        call.resume()
    for call in calls:
        assert (await call.done()).body == whole
        assert max(len(message.get("body", b"")) for message in call.messages) <= PIECE
    world.assert_nothing_left()


async def test_a_hit_is_sent_in_pieces_and_a_small_one_as_it_is():
    world = World()
    whole = bytes(range(256)) * 4096  # 1 MB
    world.origin.answers("/large", FRESH, whole)
    world.origin.answers("/small", FRESH, b"small" * 100)
    for path in ("/large", "/small"):
        await world.get(path)
    for headers in ({}, {"pragma": "nothing"}):  # by the hit path, and off it
        large = await world.get("/large", headers=headers)
        sizes = [len(message["body"]) for message in large.messages[1:]]
        assert (large.hit, large.complete, large.body) == (True, True, whole)
        assert sizes == [PIECE] * 4
        head = await world.get("/large", method="HEAD", headers=headers)
        assert (head.complete, head.body) == (True, b"")
    entry = next(
        node.entry
        for node in world.cache.stack.layers[0]._nodes.values()
        if node.entry.value.body == b"small" * 100
    )
    assert (await world.get("/small")).messages[1]["body"] is entry.value.body


def test_followers_under_threads_get_the_stored_body_itself():
    gate = wsgi.Gate()
    whole = b"x" * 300_000

    def origin(environ: Any, start_response: Any) -> Any:
        gate.wait()
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [whole[:1000], whole[1000:]]

    app = WSGILayerGate(origin)
    bodies: list[Any] = []

    def client() -> None:
        iterable, _ = wsgi.start(app)
        bodies.append(list(iterable))
        iterable.close() if hasattr(iterable, "close") else None

    threads = [threading.Thread(target=client) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.reached()
    wait_until(lambda: app.cache.stats()["waiters"] == 4)
    gate.open()
    for thread in threads:
        thread.join(10)
    assert all(b"".join(body) == whole for body in bodies)
    entry = next(iter(app.cache.stack.layers[0]._nodes.values())).entry
    followers = [body for body in bodies if len(body) == 1]
    assert len(followers) == 4
    assert all(body[0] is entry.value.body for body in followers)
    hit, _ = wsgi.start(app)
    assert hit[0] is entry.value.body
