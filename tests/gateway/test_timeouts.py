"""The states of a client's connection (`layergate.gateway.timeouts`), and that none lasts for ever."""

from __future__ import annotations

import asyncio

from layergate.gateway.timeouts import TIMEOUTS, State
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client
from tests.support.waiting import until

EVERY_LOOP = True
HALF = b"GET /half HTTP/1.1\r\nHost: exam"
SIZE = 6_000_000


def _state(gateway: Gateway) -> State:
    (connection,) = gateway.server.connections
    return connection.state


async def _reaches(gateway: Gateway, state: State) -> None:
    await until(lambda: _state(gateway) is state)


async def test_a_connection_goes_from_state_to_state() -> None:
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            await go_on.wait()
            await call.reply()

        client = await gateway.client()
        await until(lambda: gateway.server.connections)
        assert _state(gateway) is State.IDLE
        await client.send(b"POST / HTTP/1.1\r\n")
        await _reaches(gateway, State.HEAD)
        await client.send(b"Host: example.com\r\nContent-Length: 2\r\n\r\na")
        await _reaches(gateway, State.CONTENT)
        await client.send(b"b")
        await _reaches(gateway, State.ANSWERING)
        go_on.set()
        assert (await client.response("POST")).status == 200
        await _reaches(gateway, State.IDLE)
        go_on.clear()
        await client.request()
        await _reaches(gateway, State.ANSWERING)
        await client.shuts()
        await _reaches(gateway, State.HALF_CLOSED)
        go_on.set()
        assert (await client.response()).status == 200
        await client.ended()


async def _large(origin: Origin) -> None:
    origin.answers("/large", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + b"x" * SIZE)


async def _refused_for_time(client: Client) -> None:
    assert (await client.response()).status == 408
    await client.ended()


async def test_a_head_that_came_before_the_response_was_taken_has_its_time() -> None:
    """A client that goes on reading must finish the head that it has begun."""
    async with (
        Origin() as origin,
        Gateway(origin, head_timeout=0.2, keep_alive_timeout=60) as gateway,
    ):
        await _large(origin)
        client = await gateway.client(window=4096)
        client.pause()
        await client.request("/large")
        await _reaches(gateway, State.BLOCKED)
        await client.send(HALF)
        client.resume()
        assert len((await client.response()).body) == SIZE
        await _refused_for_time(client)


async def test_a_head_that_came_behind_a_request_has_its_time() -> None:
    async with (
        Origin() as origin,
        Gateway(origin, head_timeout=0.2, keep_alive_timeout=60) as gateway,
    ):
        client = await gateway.client()
        await client.send(b"GET /first HTTP/1.1\r\nHost: example.com\r\n\r\n" + HALF)
        assert (await client.response()).body == b"/first 1"
        await _refused_for_time(client)


async def test_content_that_stops_once_the_response_is_taken_has_its_time() -> None:
    async with (
        Origin() as origin,
        Gateway(origin, body_timeout=0.2, keep_alive_timeout=60) as gateway,
    ):

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE + 1))
            await call.send(b"x" * SIZE)
            await call.content()

        client = await gateway.client(window=4096)
        client.pause()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        await _reaches(gateway, State.BLOCKED)
        client.resume()
        assert len(await client.remains()) >= SIZE  # and then it is cut off


def test_each_limit_has_a_name_of_its_own() -> None:
    names = [each.name for each in TIMEOUTS]
    assert len(names) == len(set(names))
    assert all(each.default > 0 for each in TIMEOUTS)
