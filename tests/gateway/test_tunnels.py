"""WebSockets: however many there are, and however long they last, other requests are answered."""

from __future__ import annotations

import asyncio

import pytest

from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Response
from tests.support.waiting import until

EVERY_LOOP = True

SWITCH = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
WEBSOCKET = ("Connection: upgrade", "Upgrade: websocket")


def _echo(origin: Origin) -> None:
    """``/ws``: a WebSocket that says what it hears."""

    async def handler(call: Call) -> None:
        await call.send(SWITCH)
        while data := await call.wire.reader.read(1000):
            await call.send(data)

    origin.handlers["/ws"] = handler


async def _open(gateway: Gateway) -> tuple[Client, Response]:
    client = await gateway.client()
    await client.request("/ws", *WEBSOCKET)
    return client, await client.begun()


async def test_idle_websockets_take_no_connections_of_other_requests():
    """Neither an upstream's nor the clients'."""
    async with (
        Origin() as origin,
        Gateway(
            origin,
            upstream={"max_connections": 1, "queue_timeout": 0.2},
            max_connections=3,
        ) as gateway,
    ):
        _echo(origin)
        tunnels = [await _open(gateway) for _ in range(8)]
        assert {head.status for _, head in tunnels} == {101}
        await until(lambda: gateway.server.service.tunnels == 8)
        for path in ("/a", "/b", "/c"):
            response = await gateway.ask(path)
            assert (response.status, response.body) == (200, f"{path} 1".encode())
        for client, _ in tunnels:
            await client.send(b"hello")
            assert await client.exactly(5) == b"hello"
        stats = gateway.worker.stats()
        assert stats["clients"]["tunnels"] == 8
        (upstream,) = stats["upstreams"].values()
        assert upstream["tunnels"] == 8
        for client, _ in tunnels:
            await client.close()
        await until(lambda: gateway.server.service.tunnels == 0)
        await until(lambda: gateway.proxy.pools[0].tunnels == 0)


async def test_one_websocket_too_many_is_refused_and_nothing_else():
    async with Origin() as origin, Gateway(origin, upstream={"max_tunnels": 2}) as gateway:
        _echo(origin)
        (first, _), (second, _) = await _open(gateway), await _open(gateway)
        _, refused = await _open(gateway)
        assert refused.status == 503
        assert "detail=too-many-tunnels" in refused.cache_status
        assert refused.header("retry-after") == "1"
        assert origin.calls["/ws"] == 2
        assert (await gateway.ask("/a")).status == 200
        await first.close()
        await until(lambda: gateway.proxy.pools[0].tunnels == 1)
        _, head = await _open(gateway)
        assert head.status == 101
        await second.send(b"still here")
        assert await second.exactly(10) == b"still here"


async def test_each_upstream_has_its_own():
    async with Origin() as one, Origin() as other:
        upstreams = (
            UpstreamOptions(one.url, hosts=["one.example"], max_tunnels=1),
            UpstreamOptions(other.url, max_tunnels=1),
        )
        async with Gateway(*upstreams) as gateway:
            _echo(one)
            _echo(other)
            for host in ("one.example", "other.example"):
                for status in (101, 503):
                    client = await gateway.client()
                    await client.request("/ws", *WEBSOCKET, host=host)
                    assert (await client.begun()).status == status


async def test_what_did_not_become_a_websocket_leaves_its_place():
    async with Origin() as origin, Gateway(origin, upstream={"max_tunnels": 1}) as gateway:
        origin.answers("/ws", b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno")
        for _ in range(3):
            client = await gateway.client()
            response = await client.ask("/ws", *WEBSOCKET)
            assert (response.status, response.body) == (426, b"no")
            await client.close()
        await until(lambda: gateway.proxy.pools[0].tunnels == 0)


async def test_those_that_are_still_being_opened_count():
    async with Origin() as origin, Gateway(origin, upstream={"max_tunnels": 1}) as gateway:
        go = asyncio.Event()

        async def handler(call: Call) -> None:
            await go.wait()
            await call.send(SWITCH)
            await call.wire.reader.read(1)

        origin.handlers["/ws"] = handler
        client = await gateway.client()
        await client.request("/ws", *WEBSOCKET)
        await origin.received(1, "/ws")
        _, refused = await _open(gateway)
        assert refused.status == 503
        go.set()
        assert (await client.begun()).status == 101


async def test_an_upstream_that_cannot_be_reached_takes_no_place():
    async with (
        Origin() as origin,
        Gateway(origin, upstream={"max_tunnels": 1, "retries": 0}) as gateway,
    ):
        origin.stop_listening()
        for _ in range(3):
            _, head = await _open(gateway)
            assert head.status == 502
        assert gateway.proxy.pools[0].tunnels == 0


@pytest.mark.parametrize("talks", ["nobody", "the client", "the upstream"])
async def test_a_websocket_in_which_nothing_passes_is_closed(talks):
    """Either direction is enough to keep it."""
    async with (
        Origin() as origin,
        Gateway(origin, upstream={"tunnel_idle_timeout": 0.6}) as gateway,
    ):
        heard: list[bytes] = []

        async def handler(call: Call) -> None:
            await call.send(SWITCH)

            async def talk() -> None:
                while talks == "the upstream":
                    await call.send(b"x")
                    await asyncio.sleep(0.02)

            talking = asyncio.create_task(talk())
            try:
                while data := await call.wire.reader.read(1000):
                    heard.append(data)
            finally:
                talking.cancel()

        origin.handlers["/ws"] = handler
        client, head = await _open(gateway)
        assert head.status == 101
        if talks == "nobody":
            await client.ended()
            await until(lambda: gateway.proxy.pools[0].tunnels == 0)
            return
        # Three times as long as it would be kept if nothing passed.
        loop = asyncio.get_running_loop()
        until_when = loop.time() + 1.8
        while loop.time() < until_when:
            if talks == "the client":
                await client.send(b"x")
                await asyncio.sleep(0.02)
            else:
                assert await client.exactly(1) == b"x"
        assert gateway.server.service.tunnels == 1


async def test_websockets_to_an_upstream_that_is_taken_out_go_on():
    async with Origin() as origin, Origin() as other, Gateway(origin) as gateway:
        _echo(origin)
        client, _ = await _open(gateway)
        gateway.reload(upstreams=[UpstreamOptions(other.url)])
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        assert (await gateway.ask("/a")).status == 200
        assert other.calls["/a"] == 1
