"""A request that is over is gone, with its body, whatever became of it: nothing of it is left to the
garbage collector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from layergate import OriginAborted
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.garbage import none_of_ours
from tests.support.waiting import until

UNSHARED = {"cache-control": "no-store"}
STALE = {"cache-control": "max-age=0, stale-while-revalidate=60"}
STALE_IF_ERROR = {"cache-control": "max-age=0, stale-if-error=60"}

Handler = Callable[[OriginCall, Gate], Awaitable[None]]


class Failed(Exception):
    """The app's own."""


class Server:
    """What a server does with an app that fails: notes it, and goes on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.failed = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except (Failed, OriginAborted):
            self.failed += 1


def replies(headers: dict[str, str]) -> Handler:
    async def handler(call: OriginCall, gate: Gate) -> None:
        await gate.wait()
        await call.reply(b"x" * 1000, headers=headers)

    return handler


async def fails(call: OriginCall, gate: Gate) -> None:
    await gate.wait()
    raise Failed


def fails_in_the_body(headers: dict[str, str]) -> Handler:
    async def handler(call: OriginCall, gate: Gate) -> None:
        await call.start(headers=headers)
        await call.chunk(b"x" * 1000)
        await gate.wait()
        raise Failed

    return handler


async def fails_at_last(call: OriginCall, gate: Gate) -> None:
    await gate.wait()
    await call.reply(b"x", headers=FRESH)
    raise Failed


async def breaks_off(call: OriginCall, gate: Gate) -> None:
    await call.start(headers=FRESH)
    await call.chunk(b"x")
    await gate.wait()


async def one(world: World, gate: Gate, **request: Any) -> None:
    gate.open()
    call = world.call("/", **request)
    await until(call.task.done)


async def two(world: World, gate: Gate) -> None:
    await one(world, gate)
    await one(world, gate)
    await world.idle()


async def together(world: World, gate: Gate) -> None:
    calls = [world.call("/") for _ in range(3)]
    await gate.reached()
    gate.open()
    for call in calls:
        await until(call.task.done)


async def cancelled(world: World, gate: Gate) -> None:
    calls = [world.call("/") for _ in range(2)]
    await gate.reached()
    await calls[0].cancel()
    gate.open()
    await until(calls[1].task.done)


async def all_cancelled(world: World, gate: Gate) -> None:
    calls = [world.call("/") for _ in range(2)]
    await gate.reached()
    for call in calls:
        await call.cancel()
    gate.open()


async def left(world: World, gate: Gate) -> None:
    call = world.call("/")
    await gate.reached()
    call.leave()
    gate.open()
    await until(call.task.done)


async def post(world: World, gate: Gate) -> None:
    await one(world, gate, method="POST", body=[b"x"])


async def put(world: World, gate: Gate) -> None:
    await one(world, gate, method="PUT", body=[b"x"])


async def head(world: World, gate: Gate) -> None:
    await one(world, gate, method="HEAD")


async def authorized(world: World, gate: Gate) -> None:
    await one(world, gate, headers={"authorization": "Basic YTpi"})


CLIENTS = [one, two, together, cancelled, all_cancelled, left, post, put, head, authorized]
ORIGINS = [
    # what a first request is answered with, if there is one; what comes then
    pytest.param(None, replies(FRESH), id="for sharing"),
    pytest.param(None, replies(UNSHARED), id="not for sharing"),
    pytest.param(None, replies({**FRESH, "vary": "accept"}), id="a variant"),
    pytest.param(None, fails, id="fails"),
    pytest.param(None, fails_in_the_body(FRESH), id="fails in the body"),
    pytest.param(None, fails_in_the_body(UNSHARED), id="fails in a body not for sharing"),
    pytest.param(None, fails_at_last, id="fails at last"),
    pytest.param(None, breaks_off, id="breaks off"),
    pytest.param(STALE, replies(FRESH), id="a refresh"),
    pytest.param(STALE, fails, id="a refresh fails"),
    pytest.param(STALE, fails_in_the_body(FRESH), id="a refresh fails in the body"),
    pytest.param(STALE_IF_ERROR, fails, id="stale for an error"),
    pytest.param(STALE_IF_ERROR, fails_in_the_body(FRESH), id="a revalidation fails in the body"),
    pytest.param(UNSHARED, fails, id="known not to be for sharing, fails"),
    pytest.param(UNSHARED, replies(FRESH), id="known not to be for sharing, and is"),
]


@pytest.mark.parametrize(("before", "handler"), ORIGINS)
@pytest.mark.parametrize("clients", CLIENTS)
async def test_a_request_that_is_over_leaves_no_garbage(before, handler, clients):
    world = World(abandoned_timeout=0.01)
    world.app = Server(world.app)  # type: ignore[assignment]
    gate = Gate()

    @world.origin.on("/")
    async def at_origin(call: OriginCall) -> None:
        if before is not None and call.number == 1:
            await call.reply(b"x", headers=before)
        else:
            await handler(call, gate)

    with none_of_ours():
        if before is not None:
            await world.get("/")
        await clients(world, gate)
        await world.idle()
        world.origin.scopes.clear()
        world.events.clear()
