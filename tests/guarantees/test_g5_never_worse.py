"""G5: any fault of a layer costs a miss, never an error to the client."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from layergate import MemoryLayer
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.clocks import LoopClock

HANG = 1.5  # seconds; what a client may lose to a layer that hangs, all its operations together


class FailingLayer:
    """A layer over a memory layer whose methods fail as they are told to."""

    def __init__(self, name: str = "failing", *, clock: Any) -> None:
        self.name = name
        self._below = MemoryLayer(name=name, clock=clock)
        self.faults: dict[str, Any] = {}
        self.calls: list[str] = []

    def _do(self, operation: str, *arguments: Any) -> Any:
        self.calls.append(operation)
        fault = self.faults.get(operation)
        if fault is None:
            return getattr(self._below, operation)(*arguments)
        return fault(*arguments)

    def get(self, key):
        return self._do("get", key)

    def get_many(self, keys):
        return self._do("get_many", keys)

    def set(self, key, entry):
        return self._do("set", key, entry)

    def delete(self, key):
        return self._do("delete", key)

    def clear(self):
        return self._do("clear")

    def stats(self):
        return self._do("stats")


class PeekableFailingLayer(FailingLayer):
    def peek(self, key):
        return self._do("peek", key)


def raising(*_: Any) -> Any:
    raise ConnectionError("the layer is down")


async def raising_later(*_: Any) -> Any:
    await asyncio.sleep(0)
    raise ConnectionError("the layer is down")


def timing_out(*_: Any) -> Any:
    raise TimeoutError


def garbage(*_: Any) -> Any:
    return "not an entry"


def a_number(*_: Any) -> Any:
    return 7


def nothing(*_: Any) -> Any:
    return None


async def garbage_later(*_: Any) -> Any:
    return object()


FAULTS = [raising, raising_later, timing_out, garbage, a_number, nothing, garbage_later]
SETS = [
    pytest.param(operations, id="+".join(operations))
    for operations in (
        ("get",),
        ("set",),
        ("delete",),
        ("set", "delete"),
        ("get", "set", "delete", "get_many", "clear", "stats"),
    )
]
SHAPES = ["alone", "peekable-alone", "top", "peekable-top", "bottom"]


def a_world(shape: str, **options: Any) -> tuple[World, FailingLayer]:
    clock = LoopClock()
    kind = PeekableFailingLayer if shape.startswith("peekable") else FailingLayer
    failing = kind(clock=clock.now)
    memory = MemoryLayer(clock=clock.now)
    layers = {"bottom": [memory, failing]}.get(
        shape, [failing, memory] if "top" in shape else [failing]
    )
    world = World(layers=layers, **options)
    world.clock.time = clock.time
    return world, failing


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="layergate")


async def converse(world: World) -> None:
    """Everything a client may ask for; every answer must be the app's."""
    for _ in range(2):
        call = await world.get("/a")
        assert call.status == 200 and call.body.startswith(b"/a ") and call.complete
    assert (await world.get("/a", method="HEAD")).status == 200
    assert (await world.get("/a", method="POST")).status == 200
    assert (await world.get("/a", headers={"cache-control": "no-cache"})).status == 200
    assert (await world.get("/a", headers={"authorization": "x"})).status == 200
    calls = [world.call("/b") for _ in range(5)]
    for call in calls:
        assert (await call.done()).complete
    world.origin.answers("/v", {"cache-control": "max-age=60", "vary": "x-a"})
    for value in ("1", "2", "1"):
        assert (await world.get("/v", headers={"x-a": value})).status == 200
    world.origin.answers("/p", {"cache-control": "private"})
    for _ in range(2):
        assert (await world.get("/p")).status == 200
    world.origin.answers(
        "/s", {"cache-control": "max-age=10, stale-while-revalidate=60", "etag": '"1"'}
    )
    await world.get("/s")
    world.clock.advance(20)
    assert (await world.get("/s")).status == 200
    world.clock.advance(200)
    assert (await world.get("/s")).status == 200
    await world.cache.purge(tags=["x"], urls=["http://example.com/a"], everything=True)
    assert (await world.get("/a")).status == 200
    world.cache.stats()
    await world.idle()
    world.assert_nothing_left()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operations", SETS)
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_layer_that_fails_costs_a_miss_and_no_error(shape, operations, fault):
    world, layer = a_world(shape)
    layer.faults = dict.fromkeys(operations, fault)
    if "stats" in operations:
        layer.faults["stats"] = raising  # the one that is never awaited
    await converse(world)


@pytest.mark.parametrize("fault", [raising, timing_out, garbage, a_number, nothing])
@pytest.mark.parametrize("shape", ["peekable-alone", "peekable-top"])
async def test_a_peek_that_fails_costs_a_miss_and_no_error(shape, fault):
    world, layer = a_world(shape)
    await world.get("/a")
    layer.faults = {"peek": fault}
    await converse(world)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_layer_that_recovers_serves_again(shape):
    world, layer = a_world(shape)
    layer.faults = dict.fromkeys(("get", "set", "delete", "peek"), raising)
    await world.get("/a")
    await world.get("/a")
    layer.faults = {}
    await world.get("/a")
    assert (await world.get("/a")).hit


@pytest.mark.parametrize("shape", ["top", "peekable-top", "bottom"])
async def test_one_layer_down_leaves_the_other_at_work(shape):
    world, layer = a_world(shape)
    layer.faults = dict.fromkeys(("get", "set", "delete", "peek"), raising)
    await world.get("/a")
    assert (await world.get("/a")).hit
    assert world.origin.calls["/a"] == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_purge_while_a_layer_is_down_is_not_lost(shape):
    world, layer = a_world(shape)
    await world.get("/a")
    layer.faults = dict.fromkeys(("get", "set", "delete", "peek"), raising)
    await world.cache.purge(urls=["http://example.com/a"])
    layer.faults = {}
    assert (await world.get("/a")).body == b"/a 2"


@pytest.mark.parametrize("shape", ["alone", "bottom"])
@pytest.mark.parametrize("operation", ["get", "set"])
async def test_a_layer_that_hangs_costs_no_more_than_a_time_budget(shape, operation):
    """ "Any fault of a layer costs a miss within a time budget"."""
    world, layer = a_world(shape)
    never = asyncio.Event()

    async def hanging(*_: Any) -> None:
        await never.wait()

    layer.faults = {operation: hanging}
    try:
        async with asyncio.timeout(HANG):
            assert (await world.get("/a")).status == 200
            assert (await world.get("/a")).status == 200
            world.clock.advance(61)
            assert (await world.get("/a")).status == 200
    finally:
        never.set()


@pytest.mark.parametrize("shape", ["alone", "bottom"])
async def test_a_write_that_hangs_does_not_keep_the_client_waiting_for_its_last_byte(shape):
    world, layer = a_world(shape)
    gate = Gate()

    async def hanging(*_: Any) -> None:
        await gate.wait()

    layer.faults = {"set": hanging}
    call = world.call("/a")
    await gate.reached()
    try:
        async with asyncio.timeout(HANG):
            await call.done()
        assert call.complete
    finally:
        gate.open()


async def test_a_layer_that_changes_what_it_was_given_harms_nobody():
    """An entry of something else under our key: a foreign value is a miss."""
    clock = LoopClock()
    layer = FailingLayer(clock=clock.now)
    world = World(layers=[layer])

    def foreign(key: Any) -> Any:
        entry = layer._below.get(key)
        if entry is not None:
            entry.value = {"not": "a response"}
        return entry

    await world.get("/a")
    layer.faults = {"get": foreign}
    assert (await world.get("/a")).body == b"/a 2"


async def test_a_hook_that_raises_harms_nobody():
    def hook(event: str, facts: dict) -> None:
        raise RuntimeError(event)

    world = World(hooks=[hook])
    await world.get("/a")
    assert (await world.get("/a")).hit


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "max-age=" + "9" * 400},
        {"cache-control": 'max-age="60'},
        {"cache-control": "\u00ff\u00fe,=,;,max-age"},
        {"cache-control": ",,,,"},
        {"expires": "0"},
        {"expires": "Wed, 99 Foo 9999 99:99:99 GMT", "date": "x"},
        {"vary": "\u00ff"},
        {"vary": ",,,"},
        {"etag": '"', "cache-control": "max-age=1"},
        {"age": "-1", "cache-control": "max-age=60"},
        {"age": "9" * 400, "cache-control": "max-age=60"},
        {"content-length": "x", "cache-control": "max-age=60"},
        {"cache-tag": "\u00ff,,\u00fe", "cache-control": "max-age=60"},
        {"surrogate-key": " " * 1000, "cache-control": "max-age=60"},
        {"connection": "cache-control, \u00ff", "cache-control": "max-age=60"},
        {"": "", "cache-control": "max-age=60"},
        {"location": "http://[", "content-location": "\u00ff"},
    ],
    ids=lambda headers: ",".join(headers) or "empty",
)
async def test_a_response_with_malformed_fields_reaches_its_client(headers):
    world = World()
    world.origin.answers("/", headers, b"body")
    for request in ({}, {}, {"method": "HEAD"}, {"method": "POST"}):
        call = await world.get("/", **request)
        assert call.status == 200
    world.clock.advance(100)
    assert (await world.get("/")).body == b"body"


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "max-age=x, min-fresh=" + "9" * 300},
        {"cache-control": "\u00ff"},
        {"if-none-match": '"'},
        {"if-none-match": "W/"},
        {"if-modified-since": "yesterday"},
        {"if-modified-since": "Wed, 99 Foo 9999 99:99:99 GMT"},
        {"content-length": "x"},
        {"accept-encoding": ";q=;,;q=2,\u00ff"},
        {"cookie": "\u00ff" * 5000},
        {"pragma": "\u00ff"},
        {"range": "bytes=x"},
        {"host": "other.example"},
        {"": ""},
    ],
    ids=lambda headers: ",".join(headers) or "empty",
)
async def test_a_request_with_malformed_fields_is_answered(headers):
    world = World()
    world.origin.answers(
        "/", {"cache-control": "max-age=10", "vary": "accept-encoding", "etag": '"1"'}
    )
    for _ in range(2):
        assert (await world.get("/", headers=headers)).status in (200, 304)
    world.clock.advance(20)
    assert (await world.get("/", headers=headers)).status in (200, 304)


async def test_a_scope_with_only_what_asgi_requires_is_served():
    """Scheme, raw_path, root_path, client, extensions and state are optional in ASGI 3."""
    from tests.support.asgi import Call

    world = World()
    for _ in range(2):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/a",
            "query_string": b"",
            "headers": ((b"host", b"example.com"),),
        }
        call = await Call(world.app, scope).done()
        assert call.body == b"/a 1"
    assert call.hit


async def test_the_app_sees_its_own_request_unchanged():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        assert call.header("x-a") == "1"
        assert call.scope["query_string"] == b"q=1"
        assert call.scope["client"] == ("192.0.2.1", 1234)
        message = await call.receive()
        assert message == {"type": "http.request", "body": b"", "more_body": False}
        await call.reply(b"x", headers=FRESH)

    assert (await world.get("/", query=b"q=1", headers={"x-a": "1"})).status == 200
