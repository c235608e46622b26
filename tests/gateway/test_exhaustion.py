"""What a client or an origin can make the gateway spend: time, connections and memory have limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from tests.support.gateways import FRESH, Call, Gateway, gateway
from tests.support.http1 import Client, reply, request
from tests.support.waiting import BOUND, until

SHORT: dict[str, Any] = {"head_timeout": 0.2, "body_timeout": 0.2, "send_timeout": 0.2}
POST = request(b"/", b"Content-Length: 10", method=b"POST", body=b"h")


async def _dribble(client: Client, data: bytes, gate: Gateway) -> None:
    """A byte every now and then, for as long as the gateway takes them."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.02)
            if not gate.server.connections:
                return


async def _flood(client: Client, data: bytes) -> None:
    """As much as the gateway takes."""
    with contextlib.suppress(ConnectionError):
        while True:
            await client.send(data)


@pytest.mark.parametrize(
    "data",
    [request(b"/", *[b"X-%d: y" % n for n in range(90)]), b"\r\n" * 500, b"G" * 1000],
    ids=["fields", "empty-lines", "method"],
)
async def test_slowloris(data):
    """The time for a head runs from its first byte, however many more come."""
    async with gateway(**SHORT) as gate:
        client = await gate.client()
        sending = asyncio.create_task(_dribble(client, data, gate))
        await until(lambda: not gate.server.connections, "the connection to be closed")
        await sending
        assert not gate.origin.seen
        assert (await gate.get(b"/a")).status == 200


async def test_slowloris_behind_an_answered_request():
    async with gateway(**SHORT) as gate:
        client = await gate.client()
        for target in (b"/a", b"/a", b"/b"):  # a miss, a hit, a miss
            assert (await client.exchange(request(target))).status == 200
        # A request that is answered at once, and the beginning of the next in the same packet.
        await client.send(request(b"/a") + b"GET /a HT")
        assert (await client.response()).hit
        assert (await client.response()).status == 408
        await client.closed()


async def test_a_connection_without_a_request_is_closed():
    async with gateway(**SHORT) as gate:
        client = await gate.client()
        await client.closed()


async def test_slow_body():
    async with gateway(**SHORT) as gate:
        client = await gate.client()
        await client.send(POST)
        response = await client.response()
        assert response.status == 408
        await client.closed()
        assert not gate.origin.seen


async def test_slow_body_of_trailers():
    """Trailer fields are no content: they do not give it more time."""
    async with gateway(**SHORT) as gate:
        client = await gate.client()
        head = request(b"/", b"Transfer-Encoding: chunked", method=b"POST")
        await client.send(head + b"1\r\nx\r\n0\r\n")
        sending = asyncio.create_task(_dribble(client, b"X: y\r\n" * 500, gate))
        assert (await client.response()).status == 408
        await client.remains()
        await sending


@pytest.mark.parametrize("stored", [True, False])
async def test_slow_reader(stored):
    """Who takes nothing of what it is sent is cut off, and holds nothing of the origin's."""
    async with gateway(**SHORT, cache={"max_body": "32MB", "memory": "256MB"}) as gate:
        size = 30 * 1024 * 1024
        gate.origin.otherwise = reply(b"x" * size, *((FRESH,) if stored else ()))
        if stored:
            assert len((await gate.get(b"/")).body) == size
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", gate.port))
        await loop.sock_sendall(raw, request(b"/"))
        await until(lambda: gate.server.connections, "it to be connected")
        await until(lambda: not gate.server.connections, "it to be cut off")
        raw.close()
        await gate.idle()


async def test_a_slow_reader_is_an_idle_client_once_it_has_read():
    async with gateway(keep_alive_timeout=0.2) as gate:
        size = 8 * 1024 * 1024
        gate.origin.otherwise = reply(b"x" * size, FRESH)
        await gate.get(b"/")
        loop = asyncio.get_running_loop()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await loop.sock_connect(raw, ("127.0.0.1", gate.port))
        await loop.sock_sendall(raw, request(b"/"))
        await until(lambda: any(c.out.blocked for c in gate.server.connections), "it to be full")
        got = 0
        while data := await asyncio.wait_for(loop.sock_recv(raw, 2**20), BOUND):
            got += len(data)
        assert got > size
        raw.close()


async def test_pipelined_hits_that_nobody_reads():
    """A packet of small requests for a large response: no more of them is made than is taken."""
    async with gateway(send_timeout=0.4) as gate:
        size = 1024 * 1024
        gate.origin.otherwise = reply(b"x" * size, FRESH)
        await gate.get(b"/")
        one = request(b"/", host=b"a")
        await gate.exchange(one)
        for packets in ([one * 1000], [one] * 200):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", gate.port))
            await until(lambda: gate.server.connections, "it to be connected")
            (connection,) = gate.server.connections
            most = 0
            for packet in packets:
                await loop.sock_sendall(raw, packet)
                for _ in range(5):
                    await asyncio.sleep(0)
                    most = max(most, connection._transport.get_write_buffer_size())
            await until(lambda: not gate.server.connections, "it to be cut off")
            raw.close()
            assert most < 3 * size
        client = await gate.client()
        await client.send(one * 20)
        for _ in range(20):
            assert len((await client.response()).body) == size


async def test_header_size_limit():
    async with gateway() as gate:
        await gate.refused(request(b"/", b"X: " + b"x" * 40_000), 431)
        await gate.refused(request(b"/" + b"x" * 40_000), 414)
        await gate.refused(request(b"/", *[b"X: y"] * 200), 431)
        assert not gate.origin.seen


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX"])
async def test_a_head_without_end(begin):
    async with gateway() as gate:
        client = await gate.client()
        await client.send(begin)
        flood = asyncio.create_task(_flood(client, b"x" * 65536))
        assert (await client.response()).status in (400, 414, 431, 501)
        await client.remains()
        await flood
        assert not gate.origin.seen


async def test_many_small_requests_are_no_large_head():
    """What is counted is one head, not what has come with it."""
    async with gateway() as gate:
        one = request(b"/", host=b"a")
        await gate.exchange(one)
        client = await gate.client()
        data = one * 3000
        for start in range(0, len(data), 10_007):
            await client.send(data[start : start + 10_007])
        for _ in range(3000):
            assert (await client.response()).status == 200


async def test_a_trailer_section_without_end():
    async with gateway() as gate:
        for more in (b"x" * 65536, b"X: y\r\n" * 10_000):
            client = await gate.client()
            head = request(b"/", b"Transfer-Encoding: chunked", method=b"POST")
            await client.send(head + b"1\r\nx\r\n0\r\nX: ")
            flood = asyncio.create_task(_flood(client, more))
            assert (await client.response()).status == 431
            await client.remains()
            await flood
        assert not gate.origin.seen


async def test_body_size_limit():
    async with gateway(max_content=1000) as gate:
        await gate.refused(
            request(b"/", b"Content-Length: 1001", method=b"POST", body=b"x" * 1001), 413
        )
        chunk = b"1f4\r\n" + b"x" * 500 + b"\r\n"
        chunked = request(b"/", b"Transfer-Encoding: chunked", method=b"POST", body=chunk * 3)
        client = await gate.client()
        await client.send(chunked + b"0\r\n\r\n")
        assert (await client.response()).status == 413
        await client.closed()
        assert not gate.origin.seen
        fits = request(b"/", b"Content-Length: 1000", method=b"POST", body=b"x" * 1000)
        assert (await gate.exchange(fits)).status == 200


async def test_content_that_the_origin_does_not_take_is_not_piled_up():
    release = asyncio.Event()

    async def sink(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    listener = await asyncio.start_server(sink, "127.0.0.1", 0, limit=1024)
    port = listener.sockets[0].getsockname()[1]
    async with gateway(body_timeout=0.2) as gate:
        pool = gate.proxy.pools[0]
        pool.options = type(pool.options)(f"http://127.0.0.1:{port}")
        client = await gate.client()
        await client.send(request(b"/", b"Content-Length: 1000000000", method=b"POST"))
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                async with asyncio.timeout(1.0):
                    await client.send(b"x" * 65536)
                sent += 65536
        assert sent < 50_000_000
        # It is not the client that is slow.
        assert gate.server.connections
        release.set()
        assert (await client.response()).status == 502
    listener.close()


async def test_too_many_connections():
    async with gateway(max_connections=3) as gate:
        held = [await gate.client() for _ in range(3)]
        for client in held:
            assert (await client.exchange(request(b"/"))).status == 200
        client = await gate.client()
        assert (await client.response()).status == 503
        await client.closed()
        await held[0].close()
        await until(lambda: len(gate.server.connections) < 3, "one to be closed")
        assert (await gate.get(b"/")).status == 200


async def test_too_many_requests_for_the_origin():
    """Those who wait too long for a connection are told so; who comes after them is served."""
    async with gateway(upstream={"max_connections": 2, "queue_timeout": 0.3}) as gate:
        go = asyncio.Event()

        async def script(seen: Call) -> None:
            await go.wait()
            seen.writer.write(reply(b"x"))

        gate.origin.otherwise = script
        asked = [asyncio.create_task(gate.get(b"/%d" % number)) for number in range(6)]
        await until(lambda: sum(one.done() for one in asked) == 4, "four to be refused")
        go.set()
        responses = [await one for one in asked]
        statuses = sorted(response.status for response in responses)
        assert statuses == [200, 200, 503, 503, 503, 503]
        assert all(r.get(b"retry-after") for r in responses if r.status == 503)
        assert (await gate.get(b"/again")).status == 200


@pytest.mark.parametrize("when", ["before", "head", "content"])
async def test_an_origin_that_hangs(when):
    limits = {"first_byte_timeout": 0.2, "read_timeout": 0.2}
    async with gateway(upstream=limits) as gate:
        never = asyncio.Event()

        async def script(seen: Call) -> None:
            sent = {
                "before": b"",
                "head": b"HTTP/1.1 200 OK\r\nContent-",
                "content": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
            }[when]
            seen.writer.write(sent)
            await never.wait()

        gate.origin.otherwise = script
        client = await gate.client()
        await client.send(request(b"/"))
        if when == "content":
            with pytest.raises(EOFError):
                await client.response()
        else:
            assert (await client.response()).status == 504
        await gate.idle()


async def test_an_origin_that_accepts_and_closes():
    """Whatever the moment at which it does, the answer is not a matter of a time limit."""
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            seen.writer.transport.abort()

        gate.origin.otherwise = script
        async with asyncio.timeout(5):
            for number in range(50):
                assert (await gate.get(b"/%d" % number)).status == 502


async def test_an_origin_that_closes_every_connection_at_once():
    class Closing(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.abort()

    listener = await asyncio.get_running_loop().create_server(Closing, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with gateway() as gate:
        pool = gate.proxy.pools[0]
        pool.options = type(pool.options)(f"http://127.0.0.1:{port}")
        async with asyncio.timeout(10):
            asked = [gate.get(b"/%d" % number) for number in range(50)]
            assert {one.status for one in await asyncio.gather(*asked)} == {502}
    listener.close()


async def test_clients_that_leave_hold_nothing():
    async with gateway(quiet=False) as gate:
        never = asyncio.Event()

        async def script(seen: Call) -> None:
            await never.wait()

        gate.origin.otherwise = script
        clients = [await gate.client() for _ in range(20)]
        for number, client in enumerate(clients):
            lines = [b"Authorization: x"] if number % 2 else []
            await client.send(request(b"/%d" % number, *lines))
        await until(lambda: len(gate.origin.seen) == 20, "all to be forwarded")
        for client in clients:
            client.writer.transport.abort()
        await until(lambda: not gate.server.connections, "them to be gone")
        # What nobody else could use is given up at once.
        pool = gate.proxy.pools[0]
        await until(lambda: pool.open == 10, "the private ones to be given up")
        await gate.origin.hang_up()
        await gate.idle()


async def test_known_by_heart_is_bounded():
    """Requests that were hits are remembered by their bytes; a client can vary these at will."""
    async with gateway() as gate:
        client = await gate.client()
        await client.exchange(request(b"/"))
        for number in range(200):
            assert (await client.exchange(request(b"/", b"X: %d" % number + b"x" * 1900))).hit
        server = gate.server
        size = sum(2 * len(data) + 1536 for data in server.service.known.groups["http", False])
        assert size <= server.service.known.size <= 32 * 1024 * 1024
        assert not any(len(data) > 2048 for data in server.service.known.groups["http", False])


async def test_loop():
    """A gateway that forwards to itself."""
    async with gateway(via="me", cache={"collapse": False}) as gate:
        pool = gate.proxy.pools[0]
        pool.options = type(pool.options)(f"http://127.0.0.1:{gate.port}")
        assert (await gate.get(b"/")).status == 508
        # Nobody can make it forget where a request has been.
        assert (await gate.get(b"/2", b"Connection: Via")).status == 508
        gate.proxy.close()
