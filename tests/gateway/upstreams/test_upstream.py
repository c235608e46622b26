"""HTTP/1.1 towards upstreams (RFC 9112): framing, pools, faults, limits; over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from typing import Any

import pytest
import trustme

from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.upstreams.connection import Connection
from layergate.gateway.upstreams.errors import UpstreamClosed
from layergate.gateway.upstreams.pool import Pool
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Truncated
from tests.support.waiting import BOUND, until

EVERY_LOOP = True


def ok(*lines: str, body: bytes = b"ok", control: str = "no-store") -> bytes:
    head = ["HTTP/1.1 200 OK", f"Cache-Control: {control}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


# -- framing ---------------------------------------------------------------------------------------

FRAMINGS = [
    # what the origin sends, whether it closes, what the client gets, connections for two requests
    pytest.param(ok("Content-Length: 2"), False, b"ok", 1, id="6.2 length"),
    pytest.param(
        ok("Transfer-Encoding: chunked", body=b"1\r\no\r\n1;a=b\r\nk\r\n0\r\n\r\n"),
        False, b"ok", 1, id="7.1 chunks, an extension",
    ),
    pytest.param(
        ok("Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\nX-T: a\r\n\r\n"),
        False, b"ok", 1, id="7.1.2 a trailer",
    ),
    pytest.param(ok(), True, b"ok", 2, id="6.3 until the connection ends"),
    pytest.param(ok("Content-Length: 2", "Connection: close"), False, b"ok", 2, id="9.6 close"),
    pytest.param(ok("Content-Length: 0", body=b""), False, b"", 1, id="no content"),
    pytest.param(
        ok("Content-Length: 2").replace(b"1.1", b"1.0", 1), False, b"ok", 2, id="HTTP/1.0"
    ),
    pytest.param(
        ok("Content-Length: 2", "Connection: keep-alive").replace(b"1.1", b"1.0", 1),
        False, b"ok", 1, id="9.3 HTTP/1.0 that persists",
    ),
    pytest.param(
        ok(
            "Transfer-Encoding: chunked", "Connection: keep-alive", body=b"2\r\nok\r\n0\r\n\r\n"
        ).replace(b"1.1", b"1.0", 1),
        False, b"ok", 2, id="6.1 chunks in HTTP/1.0",
    ),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nCache-Control: no-store\r\n\r\nok", True, b"ok", 2, id="old and plain"
    ),
    pytest.param(
        b"HTTP/1.1 200\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok",
        False, b"ok", 1, id="4 without a reason phrase",
    ),
    pytest.param(
        ok("Content-Length: 2", body=b"ok\r\n"), False, b"ok", 1, id="an empty line behind it"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "close", "body", "connections"), FRAMINGS)
@pytest.mark.parametrize("stored", [False, True], ids=["passed", "stored"])
async def test_framing_of_responses(data, close, body, connections, stored):
    if stored:
        data = data.replace(b"no-store", b"max-age=60")
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", data, close=close)
        client = await gateway.client()
        for number in (0, 1):
            response = await client.ask("/")
            assert (response.status, response.body, response.hit) == (200, body, stored and number)
        await client.ask("/other")
        assert origin.accepted == (
            connections + 1 if not stored and connections > 1 else connections
        )


@pytest.mark.parametrize("step", [1, 7])
async def test_a_response_in_small_parts(step):
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            data = ok(
                "Transfer-Encoding: chunked", body=b"1\r\no\r\n1;a=b\r\nk\r\n0\r\nA: b\r\n\r\n"
            )
            for place in range(0, len(data), step):
                await call.send(data[place : place + step])
                await asyncio.sleep(0)

        client = await gateway.client()
        for _ in range(2):
            assert (await client.ask("/")).body == b"ok"
        assert origin.accepted == 1


TRUNCATED = [
    pytest.param(ok("Content-Length: 5", control="max-age=60"), id="8 content-length"),
    pytest.param(
        ok("Transfer-Encoding: chunked", body=b"2\r\nok\r\n", control="max-age=60"), id="8 chunked"
    ),
    pytest.param(
        ok("Transfer-Encoding: chunked", body=b"5\r\nok", control="max-age=60"), id="in a chunk"
    ),
]


@pytest.mark.parametrize("data", TRUNCATED)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_truncated_response(data, version, how):
    """RFC 9112 8: "incomplete"; RFC 9111 3.3: not stored as a whole. The client gets what there is,
    and can see that it is not all, in HTTP/1.0 too."""
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            if call.number > 1:
                await call.reply(200, ["Cache-Control: max-age=60"], b"whole")
                return
            await call.send(data)
            await seen.wait()
            await call.close() if how == "closed" else call.reset()

        seen = asyncio.Event()
        client = await gateway.client()
        await client.request("/", version=version)
        head = await client.begun()
        assert head.status == 200
        chunked = "transfer-encoding" in head
        begun = b"2\r\nok\r\n" if chunked else b"ok"
        assert await client.exactly(len(begun)) == begun
        seen.set()
        if chunked:
            remaining: Awaitable[Any] = client.chunked()
        elif "content-length" in head:
            remaining = client.exactly(3)
        else:  # what is read until the end of the connection must not just end
            remaining = client.rest()
        with pytest.raises(Truncated):
            await remaining
        response = await gateway.ask("/")
        assert (response.body, response.hit) == (b"whole", False)


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_a_slow_client_gets_all_there_is_of_a_truncated_response(control):
    size = 1_000_000
    async with Origin() as origin, Gateway(origin) as gateway:
        data = ok(f"Content-Length: {2 * size}", body=b"x" * size, control=control)
        origin.answers("/", data, close=True)
        client = await gateway.client(window=4096)
        await client.request("/")
        await client.begun()
        await until(lambda: not origin.open)
        assert len(await client.exactly(size)) == size
        with pytest.raises(Truncated):
            await client.exactly(1)


MALFORMED = [
    pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", id="9112 2.2 bare LF"),
    pytest.param(b"hello\r\n\r\n", id="no HTTP"),
    pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", id="another version"),
    pytest.param(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", id="9110 15: no status"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", id="5.2 obs-fold"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n", id="5.1 space, colon"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="6.3 two lengths"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        id="6.3 length and coding",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="6.1 a coding"
    ),
    pytest.param(b"HTTP/1.1 101 X\r\n\r\n", id="9110 15.2.2: 101 to nothing"),
    pytest.param(
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", id="7.8: not asked"
    ),
    pytest.param(b"HTTP/1.1 102 X\r\n\r\n" * 40, id="interim responses without end"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 600 + b"\r\n", id="fields without end"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 800_000, id="a head without end"),
]


@pytest.mark.parametrize("data", MALFORMED)
async def test_malformed_responses(data):
    """RFC 9110 15.6.3: 502, and with which detail in Cache-Status (RFC 9211 2.8)."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", data)
        client = await gateway.client()
        response = await client.ask("/")
        assert response.status == 502
        assert response.cache_status == "LayerGate; fwd=miss; detail=upstream-malformed"
        assert response.header("cache-control") == "no-store"
        assert "date" in response
        assert (await client.ask("/other")).status == 200
        await until(lambda: len(origin.open) == 1)


async def test_a_trailer_section_without_end():
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(ok("Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nX: "))
            try:
                for _ in range(1000):
                    await call.send(b"x" * 65536)
            except OSError:
                call.closed = True
                raise
            pytest.fail("64 MB of trailers were taken")

        client = await gateway.client()
        with pytest.raises(Truncated):
            await client.ask("/")


@pytest.mark.parametrize(
    "behind",
    [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\r\n\r\nHTTP/1.1 2"],
    ids=["a byte", "a response", "the beginning of one"],
)
async def test_what_follows_a_response_is_not_the_next_answer(behind):
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", ok("Content-Length: 2") + behind)
        for path in ("/", "/other", "/"):
            response = await gateway.ask(path)
            assert response.body == (b"ok" if path == "/" else b"/other 1")
        assert origin.accepted == 2


async def test_what_an_idle_connection_says_is_not_the_next_answer():
    """So too what comes only after the response was given away (a 408, as some servers do)."""
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(ok("Content-Length: 2"))
            await go_on.wait()
            await call.send(b"HTTP/1.1 408 X\r\nContent-Length: 4\r\n\r\nevil")
            await call.wire.ended()
            call.closed = True

        client = await gateway.client()
        assert (await client.ask("/")).body == b"ok"
        await until(lambda: gateway.counts.upstream == 1)
        go_on.set()
        await until(lambda: gateway.counts.upstream == 0)
        assert (await client.ask("/other")).body == b"/other 1"


async def test_content_in_a_response_to_head():
    """RFC 9110 9.3.2: there is none, whatever comes; the connection is not used again."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", ok("Content-Length: 2"))
        client = await gateway.client()
        for _ in range(2):
            assert (await client.ask("/", method="HEAD")).status == 200
        assert (await client.ask("/other")).body == b"/other 1"
        assert origin.accepted == 3


# -- pooled connections ----------------------------------------------------------------------------


async def _warm(gateway: Gateway, origin: Origin) -> None:
    """One idle connection in the pool."""
    assert (await gateway.ask("/warm", method="POST")).status == 200
    await until(lambda: gateway.counts.upstream == 1)


RETRIES = [
    # method, content, how often the origin sees the request, what the client gets
    pytest.param("GET", None, 2, 200, id="9.2.2 GET"),
    pytest.param("HEAD", None, 2, 200, id="HEAD"),
    pytest.param("OPTIONS", None, 2, 200, id="OPTIONS"),
    pytest.param("DELETE", None, 2, 200, id="DELETE"),
    pytest.param("POST", None, 1, 502, id="POST"),
    pytest.param("POST", b"abc", 1, 502, id="POST with content"),
    pytest.param("PATCH", b"abc", 1, 502, id="PATCH"),
]


@pytest.mark.parametrize(("method", "content", "times", "status"), RETRIES)
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_pooled_connection_that_ends_instead_of_answering(
    method, content, times, status, how
):
    """RFC 9112 9.3.1 and RFC 9110 9.2.2: what is idempotent is sent once more; "a proxy MUST NOT
    automatically retry non-idempotent requests"."""
    async with Origin() as origin, Gateway(origin) as gateway:
        await _warm(gateway, origin)

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            if call.number > 1:
                await call.reply(200, [], b"" if method == "HEAD" else b"second")
            elif how == "closed":
                await call.close()
            else:
                call.reset()

        response = await gateway.ask("/", method=method, content=content)
        assert response.status == status
        assert origin.calls["/"] == times
        if status == 502:
            assert response.cache_status.endswith("detail=upstream-closed")


async def test_content_that_was_taken_is_not_sent_again():
    """An idempotent PUT is not retried once its content has been read: it is gone."""
    async with Origin() as origin, Gateway(origin) as gateway:
        for lines, content in ((("Transfer-Encoding: chunked",), b"0\r\n\r\n"), ((), b"")):
            await _warm(gateway, origin)

            @origin.on("/")
            async def handler(call: Call) -> None:
                await call.content()
                await call.close()

            origin.calls.clear()
            client = await gateway.client()
            if lines:
                await client.request("/", *lines, method="PUT")
                await client.send(content)
            else:
                await client.request("/", method="PUT", content=b"abc")
            assert (await client.response()).status == 502
            assert origin.calls["/"] == 1


async def test_a_new_connection_that_ends_is_not_retried():
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.close()

        assert (await gateway.ask("/")).status == 502
        assert origin.calls["/"] == 1


async def test_a_connection_that_is_closed_while_idle_is_not_used():
    async with Origin() as origin, Gateway(origin) as gateway:
        await _warm(gateway, origin)
        for wire in [*origin.open]:
            wire.writer.close()
        await until(lambda: gateway.counts.upstream == 0)
        assert (await gateway.ask("/", method="POST", content=b"a")).status == 200
        assert origin.calls["/"] == 1


async def test_idle_connections_are_closed_in_time():
    async with Origin() as origin, Gateway(origin, upstream={"idle_timeout": 0.1}) as gateway:
        await _warm(gateway, origin)
        await until(lambda: not origin.open and gateway.counts.upstream == 0)


async def test_connections_are_not_kept_where_none_shall_be():
    async with Origin() as origin, Gateway(origin, upstream={"idle_timeout": 0}) as gateway:
        for path in ("/a", "/b"):
            await gateway.ask(path)
            await until(lambda: not origin.open)


class _Held:
    """Requests that are answered when a test says so."""

    def __init__(self, origin: Origin, path: str = "/held") -> None:
        self.origin = origin
        self.path = path
        self.go_on = asyncio.Semaphore(0)
        self.under_way = self.most = 0
        origin.handlers[path] = self._answer

    async def _answer(self, call: Call) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.go_on.acquire()
        self.under_way -= 1
        await call.reply(200, ["Cache-Control: no-store"], call.request.target.encode())


async def test_concurrency_is_bounded_and_connections_are_handed_on():
    async with Origin() as origin, Gateway(origin, upstream={"max_connections": 3}) as gateway:
        held = _Held(origin)
        clients = [await gateway.client() for _ in range(10)]
        for number, client in enumerate(clients):
            await client.request(f"/held?{number}")
        await origin.received(3)
        for _ in range(10):
            held.go_on.release()
        for number, client in enumerate(clients):
            assert (await client.response()).body == f"/held?{number}".encode()
        assert held.most == 3
        assert origin.accepted == 3  # whoever waits gets the connection that is free


async def test_a_full_queue():
    """RFC 9110 15.6.4: 503, with Retry-After; who waits too long is let go."""
    async with (
        Origin() as origin,
        Gateway(origin, upstream={"max_connections": 1, "queue_timeout": 0.1}) as gateway,
    ):
        held = _Held(origin)
        first = await gateway.client()
        await first.request("/held?1")
        await origin.received(1)
        response = await gateway.ask("/held?2")
        assert (response.status, response.header("retry-after")) == (503, "1")
        assert response.cache_status == "LayerGate; fwd=miss; detail=upstream-busy"
        held.go_on.release()
        assert (await first.response()).status == 200
        held.go_on.release()
        assert (await gateway.ask("/held?3")).status == 200
        assert len(origin.requests) == 2 and origin.accepted == 1


async def test_who_leaves_the_queue_takes_no_place_with_it():
    async with Origin() as origin, Gateway(origin, upstream={"max_connections": 1}) as gateway:
        held = _Held(origin)
        first = await gateway.client()
        await first.request("/held?1")
        await origin.received(1)
        pool = gateway.proxy.pools[0]
        for number in range(5):
            client = await gateway.client()
            await client.request(f"/held?x{number}", method="POST")
            await until(lambda: any(not w.done() for w, _ in pool._queue), "slow")
            client.reset()
            await until(lambda: all(w.done() for w, _ in pool._queue), "slow")
        held.go_on.release()
        assert (await first.response()).status == 200
        held.go_on.release()
        assert (await gateway.ask("/held?2")).status == 200
        assert len(origin.requests) == 2


async def test_a_place_that_is_given_to_who_leaves_at_that_moment():
    pool = Pool(UpstreamOptions("http://127.0.0.1:1", max_connections=1))
    pool._slots = 0
    waiting = asyncio.create_task(pool.take())
    await until(lambda: pool._queue)
    pool._free_slot()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool._slots == 1 and not pool._queue


async def test_a_connection_that_is_given_to_who_leaves_at_that_moment():
    async with Origin() as origin, Gateway(origin, upstream={"max_connections": 1}) as gateway:
        await _warm(gateway, origin)
        pool = gateway.proxy.pools[0]
        connection = await pool.take()
        waiting = asyncio.create_task(pool.take())
        await until(lambda: pool._queue)
        connection.reusable = True
        pool.give(connection)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await pool.take() is connection
        pool.give(connection)


async def test_an_idle_connection_that_is_just_being_closed():
    async with Origin() as origin, Gateway(origin, upstream={"max_connections": 1}) as gateway:
        await _warm(gateway, origin)
        pool = gateway.proxy.pools[0]
        idle = pool._idle[-1]
        assert idle.transport is not None
        idle.transport.close()
        connection = await pool.take()
        assert connection is not idle
        pool.give(connection)
        await until(lambda: idle.lost and pool._slots + pool.open == 1)


async def test_a_connection_that_is_lost_before_it_is_used():
    async with Origin() as origin, Gateway(origin) as gateway:
        pool = gateway.proxy.pools[0]
        connection = await pool.take()
        assert connection.transport is not None
        connection.transport.abort()
        await until(lambda: connection.lost)
        connection.begin(head_only=False)
        connection.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(UpstreamClosed):
            await asyncio.wait_for(connection.next(), 10)
        pool.give(connection)


async def test_places_are_given_back_whatever_happens():
    """Faults of all kinds through a pool of one: none of them takes its place along."""
    async with Origin() as origin, Gateway(origin, upstream={"max_connections": 1}) as gateway:
        origin.answers("/malformed", b"hello\r\n\r\n")
        origin.answers("/cut", b"", close=True)
        origin.answers("/close", ok("Connection: close", "Content-Length: 2"))
        origin.answers("/extra", ok("Content-Length: 2") + b"HTTP")
        origin.answers("/truncated", ok("Content-Length: 3"), close=True)
        for _ in range(3):
            for path in ("/malformed", "/ok", "/cut", "/close", "/extra", "/truncated", "/cut"):
                client = await gateway.client()
                try:
                    await client.ask(f"{path}?{_}")
                except Truncated:
                    assert path == "/truncated"
        pool = gateway.proxy.pools[0]
        await until(lambda: pool._slots + pool.open == 1)


# -- faults and limits -----------------------------------------------------------------------------


async def test_a_refused_connection():
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.stop_listening()
        response = await gateway.ask("/")
        assert response.status == 502
        assert response.cache_status == "LayerGate; fwd=miss; detail=upstream-unreachable"
        assert "retry-after" not in response


async def test_a_connection_that_takes_too_long():
    """RFC 9110 15.6.5: 504."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        # A backlog that is full has further SYNs dropped.
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            upstream = UpstreamOptions(f"http://127.0.0.1:{port}", connect_timeout=0.1, retries=0)
            async with Gateway(upstream) as gateway:
                response = await gateway.ask("/")
                assert response.status == 504
                assert response.cache_status == "LayerGate; fwd=miss; detail=upstream-timeout"
        finally:
            for filler in fillers:
                filler.close()


async def test_no_first_byte():
    async with Origin() as origin, Gateway(origin, upstream={"first_byte_timeout": 0.1}) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            await call.wire.ended()
            call.closed = True

        for content in (None, b"abc"):
            response = await gateway.ask("/", method="POST", content=content)
            assert response.status == 504
            assert response.cache_status == "LayerGate; fwd=miss; detail=upstream-timeout"
        await until(lambda: not origin.open)
        assert origin.calls["/"] == 2  # RFC 9110 9.2.2: a POST is not repeated


async def test_the_first_byte_is_waited_for_from_the_end_of_the_request_on():
    """However long its client takes to send it; an interim response begins nothing."""
    async with (
        Origin() as origin,
        Gateway(
            origin, upstream={"first_byte_timeout": 0.15, "read_timeout": 0.15}, body_timeout=10
        ) as gateway,
    ):

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await call.content()
            await call.reply(200, [], b"ok")

        client = await gateway.client()
        await client.request("/", "Content-Length: 3", method="POST")
        for byte in (b"a", b"b", b"c"):
            begun = gateway.server.service.now
            await until(lambda: gateway.server.service.now > begun + 0.2)  # noqa: B023
            await client.send(byte)
        assert (await client.response()).body == b"ok"


async def test_a_response_that_stops():
    async with Origin() as origin, Gateway(origin, upstream={"read_timeout": 0.1}) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(ok("Content-Length: 5", control="max-age=60"))
            await call.wire.ended()
            call.closed = True

        client = await gateway.client()
        with pytest.raises(Truncated):
            await client.ask("/")


async def test_content_that_is_not_taken():
    # The client is given time to read the answer while it sends: all of this is one process.
    upstream = {"read_timeout": 0.15}
    async with Origin() as origin, Gateway(origin, upstream=upstream, linger=BOUND) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await asyncio.Event().wait()

        client = await gateway.client()
        size = 24_000_000
        await client.request("/", f"Content-Length: {size}", method="POST")
        sending = asyncio.create_task(client.send(b"x" * size))
        response = await client.response()
        assert response.status == 504
        sending.cancel()
        await asyncio.wait([sending])


async def test_what_an_upstream_never_takes_holds_no_connection():
    """It has answered early, so its connection is closed: when all is taken that was written, or then."""
    async with Origin() as origin, Gateway(origin, upstream={"read_timeout": 0.2}) as gateway:
        done = asyncio.Event()
        connections: list[Connection] = []

        @origin.on("/")
        async def handler(call: Call) -> None:
            call.wire.pause()
            (connection,) = gateway.proxy.pools[0]._busy
            connections.append(connection)
            await until(lambda: connection.blocked is not None)
            await call.reply(200, [], b"early")
            await done.wait()
            call.closed = True

        client = await gateway.client()
        await client.request("/", "Content-Length: 100000000", method="POST")
        await origin.received(1)
        sending = asyncio.create_task(client.send(b"x" * 20_000_000))
        assert (await client.response()).body == b"early"
        await until(lambda: gateway.counts == (0, 0, gateway.counts.tasks))
        await until(lambda: connections[0].lost)
        done.set()
        sending.cancel()
        await asyncio.wait([sending])


async def test_a_tunnel_ends_when_the_upstream_takes_no_more():
    """As long as it does not, the client is not read from, and may long be gone."""
    async with Origin() as origin, Gateway(origin, upstream={"read_timeout": 0.2}) as gateway:
        done = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            call.wire.pause()
            await done.wait()
            call.closed = True

        client = await gateway.client()
        await client.request("/", "Connection: upgrade", "Upgrade: websocket")
        await client.exactly(12)
        sending = asyncio.create_task(client.send(b"x" * 50_000_000))
        await until(lambda: any(one.blocked for one in gateway.proxy.pools[0]._tunnels))
        await until(lambda: gateway.counts == (0, 0, gateway.counts.tasks))
        done.set()
        sending.cancel()
        await asyncio.wait([sending])


async def test_a_client_that_reads_slowly_is_not_the_origins_fault():
    async with Origin() as origin, Gateway(origin, upstream={"read_timeout": 0.1}) as gateway:
        size = 20_000_000
        origin.answers("/", ok(f"Content-Length: {size}", body=b"x" * size))
        client = await gateway.client(window=4096)
        await client.request("/")
        await client.begun()
        client.pause()
        pool = gateway.proxy.pools[0]
        await until(lambda: any(one._reading_paused for one in pool._busy))
        begun = gateway.server.service.now
        await until(lambda: gateway.server.service.now > begun + 0.3)
        assert pool._busy
        client.resume()
        assert len(await client.exactly(3_000_000)) == 3_000_000


STALE = [
    pytest.param("unreachable", id="refused"),
    pytest.param("closed", id="closed"),
    pytest.param("malformed", id="malformed"),
    pytest.param("timeout", id="no first byte"),
    pytest.param("503", id="RFC 5861 4: 503"),
]


@pytest.mark.parametrize("fault", STALE)
@pytest.mark.parametrize("allowed", [True, False])
async def test_stale_if_error(fault, allowed):
    """RFC 5861 4, RFC 9111 4.2.4: something stale is better than an error, where that is allowed."""
    control = "max-age=0, stale-if-error=60" if allowed else "max-age=0, must-revalidate"
    async with Origin() as origin, Gateway(origin, upstream={"first_byte_timeout": 0.1}) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            if call.number == 1:
                await call.reply(200, [f"Cache-Control: {control}", 'ETag: "a"'], b"stale")
            elif fault == "503":
                await call.reply(503, [], b"busy")
            elif fault == "malformed":
                await call.send(b"hello\r\n\r\n")
            elif fault == "timeout":
                await call.wire.ended()
                call.closed = True
            else:
                await call.close()

        assert (await gateway.ask("/")).body == b"stale"
        if fault == "unreachable":
            origin.stop_listening()
            for wire in [*origin.open]:
                wire.writer.close()
            await until(lambda: gateway.counts.upstream == 0)
        response = await gateway.ask("/")
        if allowed:
            assert (response.status, response.body) == (200, b"stale")
        else:
            expected = {"timeout": 504, "503": 503}.get(fault, 502)
            assert (response.status, response.body == b"stale") == (expected, False)


# -- several upstreams, TLS, Unix sockets ----------------------------------------------------------


async def test_several_upstreams():
    async with Origin() as shop, Origin() as api, Origin() as rest:
        upstreams = [
            UpstreamOptions(api.url, name="api", hosts=["shop.example"], path="/api"),
            UpstreamOptions(shop.url, name="shop", hosts=["shop.example", "*.shop.example"]),
            UpstreamOptions(rest.url, name="rest", path="/public/"),
        ]
        async with Gateway(*upstreams) as gateway:
            rows = [
                ("shop.example", "/", shop),
                ("SHOP.example:8080", "/x", shop),
                ("de.shop.example", "/api", shop),
                ("shop.example", "/api", api),
                ("shop.example", "/api/x?y", api),
                ("shop.example", "/%61pi/x", api),
                ("shop.example", "/apis", shop),
                ("other.example", "/public/x", rest),
                ("[::1]:80", "/public/x", rest),
                ("other.example", "/public", None),
                ("other.example", "/", None),
            ]
            for host, target, origin in rows:
                before = {one: len(one.requests) for one in (shop, api, rest)}
                response = await gateway.ask(target, host=host)
                asked = [one for one in before if len(one.requests) > before[one]]
                assert asked == ([] if origin is None else [origin]), (host, target)
                assert response.status == (421 if origin is None else 200)
            client = await gateway.client()
            await client.send(b"OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n")
            assert (await client.response()).status == 200
            assert shop.last.target == "*"


HOSTS = [
    pytest.param("preserve", "example.com", id="the client's"),
    pytest.param("upstream", None, id="the upstream's"),
    pytest.param("internal.example:81", "internal.example:81", id="a literal"),
]


@pytest.mark.parametrize(("policy", "seen"), HOSTS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_host_policy(policy, seen, version):
    async with Origin() as origin, Gateway(origin, upstream={"host": policy}) as gateway:
        await gateway.ask("/", version=version, host="example.com" if version == "1.1" else None)
        if version == "1.0" and policy == "preserve":
            seen = None  # there is none to preserve
        assert origin.last.all("host") == [seen or f"127.0.0.1:{origin.port}"]


def _tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


TLS = [
    # certificate's name, options, status
    pytest.param("127.0.0.1", {}, 200, id="the URL's host"),
    pytest.param("backend.example", {}, 502, id="a certificate for another"),
    pytest.param("backend.example", {"tls_server_name": "backend.example"}, 200, id="SNI"),
    pytest.param("127.0.0.1", {"tls_ca_file": None}, 502, id="an unknown authority"),
    pytest.param("x.example", {"tls_ca_file": None, "tls_verify": False}, 200, id="not verified"),
]


@pytest.mark.parametrize(("name", "options", "status"), TLS)
async def test_an_upstream_with_tls(authority, tmp_path, name, options, status):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    options = {"tls_ca_file": str(file), **options}
    async with (
        Origin(tls=_tls(authority, name)) as origin,
        Gateway(origin, upstream=options) as gateway,
    ):
        client = await gateway.client()
        for path in ("/a", "/b"):
            response = await client.ask(path)
            assert response.status == status
            if status == 502:
                assert response.cache_status.endswith("detail=upstream-unreachable")
        if status == 200:
            assert origin.accepted == 1
            assert origin.last.header("x-forwarded-proto") == "http"


async def test_an_upstream_behind_a_unix_socket(tmp_path):
    async with Origin(path=str(tmp_path / "origin.sock")) as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        for path in ("/a", "/b"):
            assert (await client.ask(path)).status == 200
        assert origin.accepted == 1
        assert origin.last.header("host") == "example.com"


async def test_a_large_response_and_a_large_request():
    size = 5_000_000
    async with Origin() as origin, Gateway(origin, cache={"max_body": "8MB"}) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.reply(200, ["Cache-Control: no-store"], await call.content())

        for method in ("POST", "PUT"):
            body = bytes(range(250)) * (size // 250)
            assert (await gateway.ask("/", method=method, content=body)).body == body
