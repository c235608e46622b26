"""Clients that take little or nothing of a large response: what they cost, and what they get in the end.

A body that is stored is there once, however many clients are sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client
from tests.support.waiting import until

EVERY_LOOP = True

MB = 1024 * 1024
SIZE = 8_000_000
READERS = 60
BOUND = 110 * MB  # of what sixty readers of 8 MB may hold; in whole bodies it would be 480
CACHE: dict[str, Any] = {"max_body": "32MB", "memory": "256MB", "max_inflight": "256MB"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _resident() -> int:
    """Bytes of memory of this process, in which the gateway is."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


@contextlib.asynccontextmanager
async def _readers(
    port: int, request: bytes, tls: ssl.SSLContext | None
) -> AsyncIterator[list[socket.socket]]:
    """So many clients that have sent a request, and read nothing of what comes. They cost this process
    nothing beside their sockets."""

    def connect() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10.0)
        sock.connect(("127.0.0.1", port))
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname="example.com")
        sock.sendall(request)
        return sock

    readers: list[socket.socket] = []
    try:
        for _ in range(READERS):
            readers.append(await asyncio.to_thread(connect))
        yield readers
    finally:
        for sock in readers:
            sock.close()


@pytest.fixture(params=["tcp", "tls"])
def secured(request, tmp_path, authority: trustme.CA):
    """Options of the gateway, and how a client speaks TLS with it (or None)."""
    if request.param == "tcp":
        return {}, None
    file = tmp_path / "cert.pem"
    authority.issue_cert("example.com").private_key_and_cert_chain_pem.write_to_path(file)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"tls_cert": str(file)}, context


KINDS = {
    "a hit": b"",
    "a hit with a field twice": b"X-A: 1\r\nX-A: 2\r\n",
    "what several share": b"",
    "a range": b"Range: bytes=1-\r\n",
    "two ranges": b"Range: bytes=0-1, 3-\r\n",
}


AT_LENGTH = {"a hit with a field twice", "a range"}  # these are sent as two others are


@linux
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.systems] * (kind in AT_LENGTH)) for kind in KINDS],
)
async def test_sixty_readers_of_one_response_hold_it_once(kind, secured):
    options, tls = secured
    request = b"GET /x HTTP/1.1\r\nHost: example.com\r\n" + KINDS[kind] + b"\r\n"
    async with Origin() as origin, Gateway(origin, cache=CACHE, **options) as gateway:
        go = asyncio.Event()

        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % SIZE
            )
            await go.wait()
            part = bytes(MB)
            for start in range(0, SIZE, MB):
                await call.send(part[: SIZE - start])

        origin.handlers["/x"] = handler
        shared = kind == "what several share"
        if not shared:
            go.set()
            client = await gateway.client(tls=tls)
            assert len((await client.ask("/x")).body) == SIZE
            await client.close()
        gc.collect()
        before = _resident()
        async with _readers(gateway.port, request, tls) as readers:
            connections = gateway.server.connections
            if shared:
                await until(
                    lambda: all(one._cycle is not None for one in connections), "all to ask"
                )
                go.set()
            await until(
                lambda: (
                    len([one for one in connections if one.out.blocked is not None]) == len(readers)
                ),
                "all to be sent what they take",
            )
            if shared:
                await until(lambda: not len(gateway.worker.cache.flights), "it to be stored")
            assert _resident() - before < BOUND
            assert origin.calls["/x"] == 1


@pytest.mark.parametrize(
    "size",
    [
        10_000,
        pytest.param(100_000, marks=pytest.mark.systems),
        300_000,
        pytest.param(5_000_001, marks=pytest.mark.systems),
    ],
)
async def test_every_byte_comes_in_order_however_slowly_it_is_taken(size, secured):
    options, tls = secured
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with Origin() as origin, Gateway(origin, cache=CACHE, **options) as gateway:

        async def handler(call: Call) -> None:
            await call.reply(200, ["Cache-Control: max-age=60"], body)

        origin.handlers["/x"] = handler
        await (await gateway.client(tls=tls)).ask("/x")
        for lines in ((), ("X-A: 1", "X-A: 2")):  # known by heart or not
            for _ in range(2):
                client = await gateway.client(tls=tls, window=4096)
                await client.request("/x", *lines)
                head = await client.begun()
                assert head.hit
                got = b""
                while len(got) < size:
                    got += await client.exactly(min(30_000, size - len(got)))
                assert got == body
        assert origin.calls["/x"] == 1
        client = await gateway.client(tls=tls, window=4096)
        await client.request("/x", "Range: bytes=7-")
        head = await client.begun()
        assert head.status == 206
        assert await client.exactly(int(head.header("content-length") or 0)) == body[7:]


LARGE = 8 * MB


@contextlib.asynccontextmanager
async def _large(
    *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[Gateway, Origin]]:
    """A gateway that holds ``/large``, of eight megabytes: more than the sockets between the two hold."""
    async with Origin() as origin, Gateway(origin, cache=CACHE, **options) as gateway:

        async def handler(call: Call) -> None:
            await call.reply(200, ["Cache-Control: max-age=60"], bytes(LARGE))

        origin.handlers["/large"] = handler
        client = await gateway.client(tls=tls)
        await client.ask("/large")
        await client.close()
        yield gateway, origin


async def _stuck(gateway: Gateway, *requests: str) -> Client:
    """A client that has sent these requests at once, and has yet to take what answers the first."""
    client = await gateway.client(window=4096)
    client.pause()
    await client.send("".join(requests).encode())
    await until(
        lambda: any(one.out.unsent is not None for one in gateway.server.connections),
        "it to be sent",
    )
    return client


def _get(path: str, version: str = "1.1") -> str:
    return f"GET {path} HTTP/{version}\r\nHost: example.com\r\n\r\n"


async def test_what_is_asked_for_behind_a_large_hit_is_answered_behind_it():
    async with _large() as (gateway, origin):
        await gateway.ask("/small")
        client = await _stuck(
            gateway, _get("/large"), _get("/small"), _get("/miss"), _get("/large")
        )
        assert origin.calls["/miss"] == 0
        client.resume()
        assert len((await client.response()).body) == LARGE
        assert (await client.response()).body == b"/small 1"
        assert (await client.response()).body == b"/miss 1"
        assert len((await client.response()).body) == LARGE
        assert (await client.ask("/small")).hit


async def test_a_request_that_comes_while_a_large_hit_is_sent_waits():
    """Also one whose very bytes are known to be a hit."""
    async with _large() as (gateway, _):
        for _ in range(2):
            await gateway.ask("/small")
        client = await _stuck(gateway, _get("/large"))
        await client.request("/small")
        (connection,) = [one for one in gateway.server.connections if one.out.unsent is not None]
        await until(lambda: connection._pending, "it to be read")
        client.resume()
        assert len((await client.response()).body) == LARGE
        assert (await client.response()).body == b"/small 1"


async def test_a_malformed_request_behind_a_large_hit_is_refused_behind_it():
    async with _large(linger=5.0) as (gateway, _):
        client = await _stuck(gateway, _get("/large"), "GET nonsense HTTP/1.1\r\n\r\n")
        client.resume()
        assert len((await client.response()).body) == LARGE
        assert (await client.response()).status == 400
        await client.ended()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_client_that_has_sent_its_last_gets_all_of_a_large_hit(version):
    async with _large() as (gateway, _):
        client = await _stuck(gateway, _get("/large", version))
        await client.shuts()
        (connection,) = [one for one in gateway.server.connections if one.out.unsent is not None]
        await until(lambda: connection.closing, "that to be noticed")
        client.resume()
        assert len((await client.response()).body) == LARGE
        await client.ended()


async def test_one_that_asked_for_more_before_gets_that_too():
    async with _large() as (gateway, origin):
        client = await _stuck(gateway, _get("/large"), _get("/miss"), "GET /never HT")
        await client.shuts()
        client.resume()
        assert len((await client.response()).body) == LARGE
        assert (await client.response()).body == b"/miss 1"
        await client.ended()
        assert "/never" not in origin.calls


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind():
    async with _large() as (gateway, _):
        client = await _stuck(gateway, _get("/large"), _get("/miss"))
        client.reset()
        await until(lambda: not gateway.server.connections, "the connection to be gone")
        assert len((await gateway.ask("/large")).body) == LARGE


async def test_a_client_that_takes_nothing_of_a_large_hit_is_cut_off():
    async with _large(send_timeout=0.2) as (gateway, _):
        await _stuck(gateway, _get("/large"))
        await until(lambda: not gateway.server.connections, "it to be cut off")


@linux
async def test_a_client_that_takes_a_little_at_a_time_is_not_cut_off(secured):
    """However little that is beside what the sockets hold."""
    options, tls = secured
    async with _large(tls=tls, send_timeout=0.5, **options) as (gateway, _):
        client = await gateway.client(tls=tls, window=4096)
        await client.request("/large")
        await client.begun()
        begun = gateway.server.service.now
        while gateway.server.service.now < begun + 2.0:
            await client.exactly(5_000)
            await asyncio.sleep(0.02)
        client.pause()
        await until(lambda: not gateway.server.connections)


async def test_a_large_hit_is_sent_whole_when_the_gateway_stops():
    async with _large() as (gateway, _):
        client = await _stuck(gateway, _get("/large"))
        await gateway.drain()
        client.resume()
        assert len((await client.response()).body) == LARGE
        await client.ended()
        await gateway.stopped()
