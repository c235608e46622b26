"""A request that is over is gone, with its body, whatever became of it: nothing of it is left to the
garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from tests.support.garbage import none_of_ours
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Truncated
from tests.support.waiting import until

EVERY_LOOP = True

FRESH = "Cache-Control: max-age=60"
STALE = "Cache-Control: max-age=0, stale-while-revalidate=60"
STALE_IF_ERROR = "Cache-Control: max-age=0, stale-if-error=60"


class Scene:
    """The parts of a test."""

    def __init__(self, origin: Origin, gateway: Gateway, client: Client) -> None:
        self.origin = origin
        self.gateway = gateway
        self.client = client


def reply(*lines: str, status: int = 200, body: bytes = b"x" * 1000) -> Callable:
    async def handler(call: Call) -> None:
        await call.content()
        await call.reply(status, lines, body)

    return handler


async def broken(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nx")
    await call.close()


async def broken_unshared(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 9\r\n\r\nx")
    await call.close()


async def closed(call: Call) -> None:
    await call.close()


async def hung(call: Call) -> None:
    await call.wire.ended()


async def malformed(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 600 + b"\r\n")
    await call.wire.ended()


async def more_than_asked(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n")
    await call.wire.ended()


async def unchanged(call: Call) -> None:
    if "if-none-match" in call.request:
        await call.reply(304, ['ETag: "a"', "Cache-Control: max-age=0"], None)
    else:
        await call.reply(200, ['ETag: "a"', "Cache-Control: max-age=0"], b"x")


def once(then: Callable[[Call], Awaitable[None]], *lines: str) -> Callable:
    """A response with these lines; from the second time on, something else."""

    async def handler(call: Call) -> None:
        await (reply(*lines) if call.number == 1 else then)(call)

    return handler


async def asked(scene: Scene, *lines: str, method: str = "GET", **more: object) -> None:
    try:
        response = await scene.client.ask("/a", *lines, method=method, **more)
    except Truncated:
        response = None
    if response is None or response.header("connection") == "close":
        await scene.client.close()
        scene.client = await scene.gateway.client()


async def twice(scene: Scene) -> None:
    await asked(scene)
    await asked(scene)


async def without_cache(scene: Scene) -> None:
    await asked(scene, "Authorization: Basic YTpi")


async def head(scene: Scene) -> None:
    await asked(scene, method="HEAD")


async def post(scene: Scene) -> None:
    await asked(scene, method="POST", content=b"x")


async def two_at_once(scene: Scene) -> None:
    other = await scene.gateway.client()
    await other.request("/a")
    await scene.origin.received(1)
    await asked(scene)
    with contextlib.suppress(Truncated):
        await other.response()
    await other.close()


async def gone_in_the_middle(scene: Scene) -> None:
    await scene.client.request("/a")
    await scene.origin.received(1)
    scene.client.reset()
    await until(lambda: not scene.gateway.server.connections)


async def gone_with_many_to_come(scene: Scene) -> None:
    await scene.client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
    await scene.client.response()
    scene.client.reset()
    await until(lambda: not scene.gateway.server.connections)


async def gone_in_content(scene: Scene) -> None:
    await scene.client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx")
    await scene.origin.received(1)
    scene.client.reset()
    await until(lambda: not scene.gateway.server.connections)


async def part(scene: Scene) -> None:
    await asked(scene, "Range: bytes=0-9")


async def content_unended(call: Call) -> None:
    await call.wire.rest()
    call.closed = True


def under_way(origin: Origin) -> int:
    """How many tasks there are, besides the origin's, which has one for each connection."""
    return sum(not task.done() for task in asyncio.all_tasks() - origin.tasks)


CASES = [
    pytest.param(reply(FRESH), asked, id="a miss"),
    pytest.param(reply(FRESH), twice, id="a miss and a hit"),
    pytest.param(reply(FRESH), head, id="HEAD"),
    pytest.param(reply(FRESH), part, id="a range"),
    pytest.param(reply(FRESH), post, id="POST"),
    pytest.param(reply(FRESH), without_cache, id="Authorization"),
    pytest.param(reply(FRESH), two_at_once, id="two that collapse"),
    pytest.param(reply(FRESH, "Vary: Accept"), twice, id="a variant"),
    pytest.param(reply("Cache-Control: no-store"), twice, id="not for sharing, then known"),
    pytest.param(reply("Cache-Control: no-store"), two_at_once, id="two that do not collapse"),
    pytest.param(once(reply(FRESH), "Cache-Control: no-store"), twice, id="for sharing after all"),
    pytest.param(reply(STALE), twice, id="a refresh in the background"),
    pytest.param(once(closed, STALE), twice, id="a refresh that fails"),
    pytest.param(once(closed, STALE_IF_ERROR), twice, id="stale for an error"),
    pytest.param(once(broken, "Cache-Control: no-cache"), twice, id="a revalidation that breaks off"),
    pytest.param(unchanged, twice, id="a 304"),
    pytest.param(reply(status=500), asked, id="a 500"),
    pytest.param(closed, asked, id="closed at once"),
    pytest.param(closed, two_at_once, id="closed at once, for two"),
    pytest.param(closed, post, id="closed at once, POST"),
    pytest.param(closed, without_cache, id="closed at once, Authorization"),
    pytest.param(once(closed, "Cache-Control: no-store"), twice, id="closed at once, known"),
    pytest.param(broken, asked, id="truncated"),
    pytest.param(broken, two_at_once, id="truncated, for two"),
    pytest.param(broken, post, id="truncated, POST"),
    pytest.param(broken, without_cache, id="truncated, Authorization"),
    pytest.param(broken_unshared, asked, id="truncated, not for sharing"),
    pytest.param(broken_unshared, twice, id="truncated, not for sharing, then known"),
    pytest.param(hung, asked, id="hung"),
    pytest.param(hung, two_at_once, id="hung, for two"),
    pytest.param(malformed, asked, id="malformed"),
    pytest.param(more_than_asked, twice, id="more than was asked for"),
    pytest.param(hung, gone_in_the_middle, id="the client leaves"),
    pytest.param(reply("Cache-Control: no-store"), gone_with_many_to_come, id="the client leaves requests"),
    pytest.param(content_unended, gone_in_content, id="the client leaves its content"),
]  # fmt: skip


@pytest.mark.parametrize(("handler", "clients"), CASES)
async def test_a_request_that_is_over_leaves_no_garbage(handler, clients):
    limits = {"first_byte_timeout": 0.2, "read_timeout": 0.2, "retries": 0}
    async with (
        Origin() as origin,
        Gateway(origin, upstream=limits, cache={"abandoned_timeout": 0.2}) as gateway,
    ):
        origin.handlers["/a"] = handler
        tasks = under_way(origin)
        with none_of_ours():
            scene = Scene(origin, gateway, await gateway.client())
            await clients(scene)
            await scene.client.close()
            del scene
            await until(lambda: not gateway.server.connections)
            await until(lambda: under_way(origin) <= tasks)


async def test_an_upstream_that_is_away_leaves_no_garbage():
    async with Origin() as origin, Gateway(origin, upstream={"retries": 0}) as gateway:
        origin.stop_listening()
        with none_of_ours():
            client = await gateway.client()
            responses = [await client.ask(path) for path in ("/a", "/b")]
            assert [response.status for response in responses] == [502, 502]
            await client.close()
            await until(lambda: not gateway.server.connections)


def test_what_is_found_is_said():
    async def circle() -> None:
        async with Origin() as origin, Gateway(origin) as gateway:
            with none_of_ours():
                round_and_round: list[object] = [gateway.worker.server.connection()]
                round_and_round.append(round_and_round)
                del round_and_round

    with pytest.raises(AssertionError, match=r"in circles: .*ClientConnection"):
        asyncio.run(circle())
