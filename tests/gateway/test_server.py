"""HTTP/1.1 towards clients (RFC 9112), over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from typing import cast

import pytest

from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Truncated
from tests.support.waiting import until

EVERY_LOOP = True

HOST = b"Host: example.com\r\n"


async def test_a_connection_carries_one_request_after_the_other():
    """RFC 9112 9.3: persistent by default, towards both sides."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        for number in (1, 2):
            response = await client.ask("/a")
            assert (response.status, response.body, response.hit) == (200, b"/a 1", number == 2)
            assert "connection" not in response
        for path in ("/b", "/c"):
            assert (await client.ask(path)).body == f"{path} 1".encode()
        assert origin.accepted == 1


CLOSING = [
    # request lines, version, is the connection kept?, what Connection says
    pytest.param((), "1.1", True, None, id="9.3 HTTP/1.1 persists"),
    pytest.param(("Connection: close",), "1.1", False, "close", id="9.6 close"),
    pytest.param(("Connection: Foo, CLOSE",), "1.1", False, "close", id="9.6 close in a list"),
    pytest.param((), "1.0", False, "close", id="9.3 HTTP/1.0 does not"),
    pytest.param(("Connection: keep-alive",), "1.0", True, "keep-alive", id="C.2.2 unless asked"),
    pytest.param(
        ("Connection: keep-alive, close",), "1.0", False, "close", id="9.3 close goes first"
    ),
]


@pytest.mark.parametrize(("lines", "version", "kept", "said"), CLOSING)
@pytest.mark.parametrize("hit", [False, True], ids=["miss", "hit"])
async def test_whether_a_connection_persists(lines, version, kept, said, hit):
    async with Origin() as origin, Gateway(origin) as gateway:
        if hit:
            await gateway.ask("/a")
        client = await gateway.client()
        response = await client.ask("/a", *lines, version=version)
        assert response.hit is hit
        assert response.header("connection") == said
        assert response.body == b"/a 1"
        if kept:
            assert (await client.ask("/b", *lines, version=version)).body == b"/b 1"
        else:
            await client.ended()


async def test_http_1_0_gets_no_chunks():
    """RFC 9112 6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the
    corresponding request indicates HTTP/1.1"."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers(
            "/", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        client = await gateway.client()
        response = await client.ask("/", "Connection: keep-alive", version="1.0")
        assert (response.body, response.header("connection")) == (b"abc", "close")
        await client.ended()


async def test_http_1_0_without_host():
    """RFC 9112 3.2: only HTTP/1.1 must have it. The upstream, HTTP/1.1, is sent one."""
    async with Origin() as origin, Gateway(origin) as gateway:
        response = await gateway.ask("/", version="1.0", host=None)
        assert response.status == 200
        assert origin.last.version == "HTTP/1.1"
        assert origin.last.all("host") == [f"127.0.0.1:{origin.port}"]
        assert "x-forwarded-host" not in origin.last


async def test_pipelined_requests_are_answered_in_order():
    """RFC 9112 9.3.2: "A server that receives pipelined requests ... MUST send the corresponding
    responses in the same order that the requests were received". Hits among misses, 200 at once."""
    async with Origin() as origin, Gateway(origin) as gateway:
        for number in range(0, 200, 3):
            await gateway.ask(f"/{number}")
        client = await gateway.client()
        before = len(origin.requests)
        paths = [f"/{number}" for number in range(200)]
        await client.send(
            b"".join(b"GET %b HTTP/1.1\r\n%b\r\n" % (p.encode(), HOST) for p in paths)
        )
        for number, path in enumerate(paths):
            response = await client.response()
            assert (response.body, response.hit) == (f"{path} 1".encode(), number % 3 == 0)
        assert [request.path for request in origin.requests[before:]] == [
            path for number, path in enumerate(paths) if number % 3
        ]


async def test_two_pipelined_hits_in_one_packet_are_two_requests():
    """Also when the same bytes come again: only a packet with one request is remembered."""
    async with Origin() as origin, Gateway(origin) as gateway:
        for path in ("/a", "/b"):
            await gateway.ask(path)
        client = await gateway.client()
        pair = b"GET /a HTTP/1.1\r\n%bGET /b HTTP/1.1\r\n%b" % (HOST + b"\r\n", HOST + b"\r\n")
        for _ in range(3):
            await client.send(pair)
            answers = [await client.response() for _ in range(2)]
            assert [(one.body, one.hit) for one in answers] == [(b"/a 1", True), (b"/b 1", True)]
        assert not any(pair in hits for hits in gateway.server.service.known.groups.values())


async def test_a_slow_response_holds_back_the_pipelined_hit_behind_it():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/slow")
        async def slow(call: Call) -> None:
            await go_on.wait()
            await call.reply(200, [], b"slow")

        await gateway.ask("/hit")
        client = await gateway.client()
        await client.request("/slow")
        await origin.received(1, "/slow")
        await client.request("/hit")
        assert (await gateway.ask("/hit")).hit
        go_on.set()
        assert (await client.response()).body == b"slow"
        assert (await client.response()).hit


async def test_a_pipeline_longer_than_a_head_may_be():
    """What is measured of a head is that head, not what came in one piece with it."""
    async with Origin() as origin, Gateway(origin, max_head="4KB") as gateway:
        await gateway.ask("/a")
        client = await gateway.client()
        one = b"GET /a HTTP/1.1\r\n" + HOST + b"X-Long: " + b"x" * 1000 + b"\r\n\r\n"
        count = 200
        data = one * count
        middle = len(one) * 3 + 500
        await client.send(data[:middle])
        for _ in range(3):
            assert (await client.response()).hit
        await client.send(data[middle:])
        for _ in range(count - 3):
            assert (await client.response()).status == 200


@pytest.mark.parametrize("path", ["/hit", "/miss"])
async def test_requests_that_come_byte_by_byte(path):
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/hit")
        client = await gateway.client()
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\nGET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HOST):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response()).body == f"{path} 1".encode()


HEAD_ROWS = [
    # origin's response to HEAD, lines that the client sees
    pytest.param("Content-Length: 7", ("content-length", "7"), id="with the length of the GET"),
    pytest.param("Transfer-Encoding: chunked", ("transfer-encoding", None), id="chunked"),
    pytest.param("X-A: b", ("content-length", None), id="without any framing"),
]


@pytest.mark.parametrize(("line", "seen"), HEAD_ROWS)
async def test_head(line, seen):
    """RFC 9110 9.3.2: "the server MUST NOT send content in the response"; both connections go on."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
        client = await gateway.client()
        for _ in range(2):
            response = await client.ask("/", method="HEAD")
            assert (response.status, response.header(seen[0])) == (200, seen[1])
        assert (await client.ask("/other")).body == b"/other 1"
        assert origin.accepted == 1


async def test_head_is_answered_from_a_stored_get():
    """RFC 9111 4: a stored GET may answer it; RFC 9110 9.3.2: with its fields."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.ask("/a")
        response = await client.ask("/a", method="HEAD")
        assert response.hit and response.header("content-length") == "4"
        assert (await client.ask("/a")).body == b"/a 1"
        assert len(origin.requests) == 1


EMPTY_ROWS = [
    pytest.param(204, "", id="9110 15.3.5: 204"),
    pytest.param(204, "Content-Length: 0\r\n", id="9110 8.6: no length in a 204"),
    pytest.param(304, 'ETag: "a"\r\nContent-Length: 10\r\n', id="9110 15.4.5: 304"),
    pytest.param(304, 'ETag: "a"\r\n', id="9112 6.3: 304 ends with its head"),
    pytest.param(205, "Content-Length: 0\r\n", id="9110 15.3.6: 205"),
]


@pytest.mark.parametrize(("status", "lines"), EMPTY_ROWS)
async def test_statuses_without_content(status, lines):
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())
        client = await gateway.client()
        for _ in range(2):
            response = await client.ask("/", 'If-None-Match: "a"')
            assert response.status == status and response.body == b""
            if status == 204:
                assert "content-length" not in response  # RFC 9110 8.6
            assert "transfer-encoding" not in response
        assert origin.accepted == 1


TARGETS = [
    # request line and Host, what the origin sees as target and Host
    pytest.param("GET http://a.example/x?y HTTP/1.1", "b.example", "/x?y", "a.example", id="3.2.2"),
    pytest.param("GET HTTP://a.example HTTP/1.1", "b.example", "/", "a.example", id="empty path"),
    pytest.param(
        "GET http://a.example?q HTTP/1.1", "a.example", "/?q", "a.example", id="query alone"
    ),
    pytest.param("OPTIONS * HTTP/1.1", "a.example", "*", "a.example", id="3.2.4"),
    pytest.param("OPTIONS http://a.example HTTP/1.1", "b", "*", "a.example", id="3.2.4 absolute"),
    pytest.param(
        "OPTIONS http://a.example/ HTTP/1.1", "b", "/", "a.example", id="3.2.4 with a path"
    ),
    pytest.param(
        "GET /%7Ea/../b;c?d?e HTTP/1.1", "a:8080", "/%7Ea/../b;c?d?e", "a:8080", id="3.2.1"
    ),
    pytest.param("GET //x HTTP/1.1", "[::1]:80", "//x", "[::1]:80", id="two slashes"),
]


@pytest.mark.parametrize(("line", "host", "target", "seen"), TARGETS)
async def test_request_targets(line, host, target, seen):
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(f"{line}\r\nHost: {host}\r\n\r\n".encode())
        assert (await client.response()).status == 200
        assert (origin.last.target, origin.last.all("host")) == (target, [seen])


async def test_absolute_form_is_the_same_resource():
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/a")
        response = await gateway.ask("http://example.com/a", host="other.example")
        assert response.hit and len(origin.requests) == 1


REFUSALS = [
    pytest.param("GET / HTTP/1.1\r\n\r\n", 400, id="9112 3.2: no Host"),
    pytest.param("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, id="9112 3.2: two Hosts"),
    pytest.param("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two Hosts in 1.0"),
    pytest.param("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="9112 3.2: invalid Host"),
    pytest.param("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, id="9110 4.2.1: empty host"),
    pytest.param("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="9110 4.2.4: userinfo"),
    pytest.param("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="fragment"),
    pytest.param("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="9112 3.2.4: * is for OPTIONS"),
    pytest.param("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="another scheme"),
    pytest.param("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="no form of target"),
    pytest.param("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="9110 9.3.6: CONNECT"),
    pytest.param("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="9110 9.3.8: TRACE"),
    pytest.param("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="9110 9.1: unknown method"),
    pytest.param("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="9110 15.6.6: another version"),
    pytest.param("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, id="an older version"),
    pytest.param("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2 with prior knowledge"),
    pytest.param("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417, id="9110 10.1.1"),
    pytest.param(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, id="9112 6.1"
    ),
    pytest.param(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="9112 6.1: 1.0"
    ),
    pytest.param("GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", 400, id="9112 5.2: obs-fold"),
]


@pytest.mark.parametrize(("data", "status"), REFUSALS)
async def test_refusals(data, status):
    """NotStored, and the connection closed: what follows could be anything. Nothing is forwarded."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(data.encode())
        response = await client.response()
        assert response.status == status
        assert response.header("connection") == "close"
        assert "date" in response  # RFC 9110 6.6.1
        await client.ended()
        assert not origin.requests


async def test_a_refused_head_gets_no_content():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n")
        assert (await client.response("HEAD")).status == 400
        await client.ended()


async def test_a_refusal_comes_after_the_answers_before_it():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\nGET /b HTTP/1.1\r\n\r\n")
        assert (await client.response()).body == b"/a 1"
        assert (await client.response()).status == 400
        await client.ended()


async def test_nothing_is_answered_after_close():
    """RFC 9112 9.6: the server "MUST NOT process any further requests received on that
    connection"."""
    async with Origin() as origin, Gateway(origin) as gateway:
        for hit in (False, True):
            client = await gateway.client()
            await client.send(
                b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
                b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n"
            )
            assert (await client.response()).hit is hit
            await client.ended()
        assert [request.path for request in origin.requests] == ["/a"]


LIMITS = [
    # what is sent, what is answered
    pytest.param(b"GET /%b HTTP/1.1\r\n" + HOST + b"\r\n", b"x" * 5000, 414, id="9110 15.5.15"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"A: %b\r\n\r\n", b"x" * 5000, 431, id="6585 5"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"%b\r\n", b"A: b\r\n" * 20, 431, id="fields"),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2000\r\n\r\n%b", b"", 413, id="15.5.14"
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n%b",
        b"x" * 2000,
        413,
        id="15.5.14 chunked",
    ),
]


@pytest.mark.parametrize(("data", "filling", "status"), LIMITS)
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in parts"])
async def test_limits(data, filling, status, whole):
    async with (
        Origin() as origin,
        Gateway(origin, max_head=4096, max_fields=10, max_content=1000) as gateway,
    ):
        client = await gateway.client()
        sent = data % filling
        size = len(sent) if whole else 700
        for place in range(0, len(sent), size):
            await client.send(sent[place : place + size])
            await asyncio.sleep(0)
        response = await client.response()
        assert (response.status, response.header("connection")) == (status, "close")
        await client.ended()


async def test_a_trailer_section_is_bounded():
    """So is everything else that comes beside content: it is dropped, but not for ever."""
    async with Origin() as origin, Gateway(origin, max_head=4096, linger=5) as gateway:
        client = await gateway.client()
        await client.send(
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        )
        for _ in range(100):
            await client.send(b"X: " + b"x" * 4000 + b"\r\n")
        assert (await client.response()).status == 431


async def test_request_trailers_are_dropped():
    """RFC 9110 6.5.1: a recipient "MAY ... discard" them; here the message stays whole."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nHost: evil\r\nX: y\r\n\r\nGET /next HTTP/1.1\r\n" + HOST + b"\r\n"
        )
        assert (await client.response()).status == 200
        assert (await client.response()).body == b"/next 1"
        assert (origin.requests[0].content, origin.requests[0].trailers) == (b"a", [])


async def test_max_connections():
    async with Origin() as origin, Gateway(origin, max_connections=2) as gateway:
        first, second = await gateway.client(), await gateway.client()
        await first.ask("/")
        await second.ask("/")
        third = await gateway.client()
        assert (await third.response()).status == 503
        await third.ended()
        await first.close()
        await until(lambda: len(gateway.server.connections) == 1)
        assert (await gateway.ask("/")).status == 200


# -- time ------------------------------------------------------------------------------------------


async def test_a_head_must_come_in_time():
    """However it trickles. RFC 9110 15.5.9."""
    async with Origin() as origin, Gateway(origin, head_timeout=0.1) as gateway:
        client = await gateway.client()
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.response()).status == 408
        await client.ended()


async def test_empty_lines_are_no_sign_of_life():
    """RFC 9112 2.2 has them ignored before a request line; they must not keep a connection."""
    async with Origin() as origin, Gateway(origin, head_timeout=0.1) as gateway:
        client = await gateway.client()

        async def trickle() -> None:
            while True:
                await client.send(b"\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        try:
            await client.ended()
        finally:
            trickling.cancel()
            await asyncio.wait([trickling])


async def test_content_must_go_on_in_time():
    async with Origin() as origin, Gateway(origin, body_timeout=0.1) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()

        client = await gateway.client()
        await client.request("/", "Content-Length: 10", method="POST")
        await client.send(b"abc")
        response = await client.response()
        assert (response.status, response.header("connection")) == (408, "close")
        await client.ended()


async def test_content_must_go_on_in_time_after_a_pause():
    """The time limit holds again when a paused client is read from again, and the client sends no more."""
    async with (
        Origin() as origin,
        Gateway(origin, upstream={"max_connections": 1}, body_timeout=0.1) as gateway,
    ):
        go_on = asyncio.Event()

        @origin.on("/busy")
        async def busy(call: Call) -> None:
            await go_on.wait()
            await call.reply()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()

        first = await gateway.client()
        await first.request("/busy")
        await origin.received(1)
        # The only connection to the origin is taken, so the content waits in the gateway.
        client = await gateway.client()
        await client.request("/", "Content-Length: 1000000", method="POST")
        await until(lambda: _reading(gateway), "the request's head")
        (connection,) = _reading(gateway)
        cycle = connection._newest
        sent = 0
        while not connection._reading_paused:
            await client.send(b"x" * 16_384)
            sent += 16_384
            await until(lambda: cycle._size == sent, "the content")  # noqa: B023
        assert not connection.deadline
        go_on.set()
        assert (await first.response()).status == 200
        response = await client.response()
        assert (response.status, response.header("connection")) == (408, "close")
        await client.ended()


def _reading(gateway):
    """The connections whose request has yet to be read to its end."""
    return [one for one in gateway.server.connections if one._newest is not None]


async def test_content_that_the_origin_does_not_take_is_not_the_clients_fault():
    # A busy machine may make the client, which is in this process, pause for some of that.
    async with Origin() as origin, Gateway(origin, body_timeout=1.0) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.content()
            await call.reply()

        client = await gateway.client()
        size = 24_000_000
        await client.request("/", f"Content-Length: {size}", method="POST")
        sending = asyncio.create_task(client.send(b"x" * size))
        connection = await _only(gateway)
        await until(lambda: connection._reading_paused)
        begun = gateway.server.service.now
        await until(lambda: gateway.server.service.now > begun + 1.2)
        go_on.set()
        await sending
        assert (await client.response()).status == 200


async def _only(gateway):
    await until(lambda: len(gateway.server.connections) == 1)
    return next(iter(gateway.server.connections))


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_an_idle_connection_is_closed_in_time(size):
    """After a small answer as after a large one, a hit or not."""
    async with Origin() as origin, Gateway(origin, keep_alive_timeout=0.15) as gateway:
        origin.answers(
            "/",
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % size
            + b"x" * size,
        )
        for hit in (False, True):
            client = await gateway.client(window=4096)
            assert (await client.ask("/")).hit is hit
            await client.ended()
        await until(lambda: not gateway.server.connections)


async def test_without_keep_alive_it_is_said():
    async with Origin() as origin, Gateway(origin, keep_alive_timeout=0) as gateway:
        for hit in (False, True):
            client = await gateway.client()
            response = await client.ask("/")
            assert (response.hit, response.header("connection")) == (hit, "close")
            await client.ended()


async def _stuck(gateway, *, window=4096):
    """A client that asks for 8 MB and reads nothing."""
    client = await gateway.client(window=window)
    client.pause()
    await client.request("/large")
    await until(lambda: any(one.out.blocked for one in gateway.server.connections))
    return client


def _large(origin, size=6_000_000, control="max-age=60"):
    origin.answers(
        "/large",
        f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: {size}\r\n\r\n".encode()
        + b"x" * size,
    )


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_a_client_that_takes_nothing_is_cut(control):
    async with Origin() as origin, Gateway(origin, send_timeout=0.1) as gateway:
        _large(origin, control=control)
        await _stuck(gateway)
        await until(lambda: not gateway.server.connections)


async def _leaves_little(connection, more):
    """Send a client that takes nothing ``more``, until some of it waits, and too little of it for a
    transport to say so."""
    while not connection._transport.get_write_buffer_size():
        await more()
    assert connection.out.blocked is None


@pytest.mark.parametrize("leaves", [False, True], ids=["idle", "half-closed"])
async def test_a_client_that_takes_nothing_of_the_last_of_it_is_cut(leaves):
    """However little that is: its connection is over, but would be closed when all is taken."""
    async with (
        Origin() as origin,
        Gateway(origin, send_timeout=0.1, keep_alive_timeout=60) as gateway,
    ):
        _large(origin, 16_384)
        await gateway.ask("/large")
        client = await gateway.client(window=4096)
        client.pause()
        connection = await _only(gateway)
        hit, hits = gateway.server.service.hit, 0

        def counted(*what):
            nonlocal hits
            hits += 1
            return hit(*what)

        gateway.server.service.hit = counted

        async def more():
            before = hits
            await client.request("/large")
            await until(lambda: hits > before)

        await _leaves_little(connection, more)
        if leaves:
            await client.shuts()
        else:
            connection.deadline = gateway.server.service.now  # it has been idle for long enough
        await until(lambda: not gateway.server.connections)


async def test_a_slow_client_that_takes_something_is_not_cut():
    """A hit of 6 MB is one write; it may take longer than the client's time to take something."""
    async with Origin() as origin, Gateway(origin, send_timeout=0.2) as gateway:
        _large(origin)
        await gateway.ask("/large")
        client = await gateway.client(window=4096)
        await client.request("/large")
        head = await client.begun()
        assert head.hit
        begun = gateway.server.service.now
        got = 0
        while got < 6_000_000:
            got += len(await client.exactly(min(60_000, 6_000_000 - got)))
            await asyncio.sleep(0.01)
        assert gateway.server.service.now > begun + 0.5


async def test_pipelined_hits_are_not_written_ahead_of_a_client_that_does_not_read():
    async with Origin() as origin, Gateway(origin) as gateway:
        _large(origin)
        await gateway.ask("/large")
        client = await gateway.client(window=4096)
        client.pause()
        await client.send((b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n") * 500)
        connection = await _only(gateway)
        await until(lambda: connection._pending)
        assert connection._transport.get_write_buffer_size() < 2 * 6_500_000


# -- streaming, backpressure, aborts ---------------------------------------------------------------


@pytest.mark.parametrize("control", ["max-age=60", "no-store", "max-age=0"])
async def test_the_first_byte_passes_before_the_last_is_produced(control):
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nTransfer-Encoding: chunked\r\n\r\n"
                "5\r\nfirst\r\n".encode()
            )
            await go_on.wait()
            await call.send(b"4\r\nlast\r\n0\r\n\r\n")

        client = await gateway.client()
        await client.request("/")
        assert (await client.begun()).status == 200
        assert await client.until(b"first\r\n") == b"5\r\nfirst\r\n"
        go_on.set()
        assert await client.chunked() == (b"last", [])


async def test_a_head_passes_before_the_first_byte_of_content():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            await go_on.wait()
            await call.send(b"a")

        client = await gateway.client()
        await client.request("/")
        assert (await client.begun()).status == 200
        go_on.set()
        assert await client.exactly(1) == b"a"


async def test_content_is_sent_on_as_it_comes():
    async with Origin() as origin, Gateway(origin) as gateway:
        seen = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            assert await call.wire.exactly(8) == b"3\r\nabc\r\n"
            seen.set()
            await call.content()
            await call.reply(200, [], b"ok")

        client = await gateway.client()
        await client.request("/", "Transfer-Encoding: chunked", method="POST")
        await client.send(b"3\r\nabc\r\n")
        await asyncio.wait_for(seen.wait(), 10)
        await client.send(b"3\r\ndef\r\n0\r\n\r\n")
        assert (await client.response()).body == b"ok"
        assert origin.last.content == b"def"


async def test_a_slow_reader_bounds_what_is_taken_from_the_origin():
    """What is not stored (over max_body, or no-store) is not piled up either."""
    for control in ("no-store", "max-age=60"):
        async with Origin() as origin, Gateway(origin, cache={"max_body": 100_000}) as gateway:
            sent = 0

            @origin.on("/")
            async def handler(call: Call) -> None:
                nonlocal sent
                await call.send(
                    f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\n"  # noqa: B023
                    "Transfer-Encoding: chunked\r\n\r\n".encode()
                )
                sock = call.wire.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
                for _ in range(1000):
                    await call.send(chunk)
                    sent += 1

            client = await gateway.client(window=4096)
            await client.request("/")
            await client.begun()
            client.pause()
            steady = 0
            while steady < 10:  # until nothing has moved for a while
                before = sent
                await asyncio.sleep(0.02)
                steady = steady + 1 if sent == before else 0
            # Socket buffers (the gateway's receive buffer may grow to 6 MB) and windows of ours.
            assert sent * 65536 < 16_000_000


async def test_a_client_that_leaves_ends_a_fetch_for_itself_alone():
    async with Origin() as origin, Gateway(origin, half_close=0.05) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 9\r\n\r\na"
            )
            await call.wire.ended()
            call.closed = True

        tasks = gateway.counts.tasks
        client = await gateway.client()
        await client.request("/")
        await client.begun()
        await client.close()
        await until(lambda: not origin.open)
        await until(lambda: gateway.counts == (0, 0, tasks))


async def test_a_client_that_leaves_does_not_end_a_fetch_for_the_store():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\na"
            )
            await go_on.wait()
            await call.send(b"b")

        client = await gateway.client()
        await client.request("/")
        await client.begun()
        client.reset()
        await until(lambda: not gateway.server.connections)
        go_on.set()
        await until(lambda: gateway.stat("store") == 1)
        response = await gateway.ask("/")
        assert response.hit and response.body == b"ab"


@pytest.mark.parametrize("moment", ["head", "content", "waiting"])
async def test_a_client_that_leaves_leaves_nothing_behind(moment):
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            try:
                await call.content()
            except Truncated:
                call.closed = True
                return
            await call.wire.ended()
            call.closed = True

        tasks = gateway.counts.tasks
        for _ in range(5):
            client = await gateway.client()
            count = len(origin.requests)
            if moment == "head":
                await client.send(b"GET / HTTP/1.1\r\nHost:")
                await _only(gateway)
            elif moment == "content":
                await client.request("/", "Content-Length: 10", method="POST")
                await client.send(b"abc")
                await origin.received(count + 1)
            else:
                await client.request("/", "Cookie: a=b", method="POST", content=b"abc")
                await origin.received(count + 1)
            client.reset()
            await until(lambda: gateway.counts == (0, 0, tasks) and not origin.open)


class _Late:
    """A transport whose client resets the connection in the very moment in which its other half is to
    be closed."""

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        self._transport = transport
        self._sock = sock

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write_eof(self) -> None:
        self._sock.close()
        self._transport.write_eof()


async def test_a_client_that_resets_while_the_gateway_hangs_up():
    """Found by the fuzzer."""
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            (connection,) = gateway.server.connections
            late = _Late(connection.out.transport, sock)
            connection.out.transport = cast(asyncio.Transport, late)
            await call.reply(200, [], b"early")
            await call.close()

        tasks = gateway.counts.tasks
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc")
        await until(lambda: sock.fileno() < 0)
        await until(lambda: gateway.counts == (0, 0, tasks))
    gc.collect()  # (an exception that nobody has retrieved is told then)
    assert not faults


# -- a client that has said all that it has to say -------------------------------------------------


async def _has_ended(gateway: Gateway) -> None:
    """The gateway has heard the end of what the only client says."""
    await until(
        lambda: [one._ended_at is None for one in gateway.server.connections] == [False], "slow"
    )


@pytest.mark.parametrize("kind", ["miss", "post", "no-store", "chunked", "head"])
async def test_a_half_closed_connection_gets_its_answer(kind):
    """As of ``printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | nc -N``."""
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()
        big = b"x" * 300_000

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            await go_on.wait()
            if kind == "chunked":
                await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(3):
                    await call.send(b"%x\r\n%b\r\n" % (len(big), big))
                await call.send(b"0\r\n\r\n")
            else:
                cc = "no-store" if kind == "no-store" else "max-age=60"
                await call.reply(200, [f"Cache-Control: {cc}"], b"" if kind == "head" else b"here")

        tasks = gateway.counts.tasks
        client = await gateway.client()
        method = {"post": "POST", "head": "HEAD"}.get(kind, "GET")
        await client.request("/", method=method, content=b"abc" if kind == "post" else None)
        await client.shuts()
        await origin.received(1)
        await _has_ended(gateway)
        go_on.set()
        response = await client.response(method)
        assert (response.status, response.header("connection")) == (200, "close")
        assert response.body == {"chunked": big * 3, "head": b""}.get(kind, b"here")
        await client.ended()
        await until(lambda: gateway.counts.clients == 0)
        await until(lambda: gateway.counts.tasks - gateway.counts.upstream == tasks)


async def test_all_that_was_asked_before_a_half_close_is_answered_in_order():
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/hit")
        client = await gateway.client()
        for target in ("/a", "/hit", "/b", "/hit"):
            await client.request(target)
        await client.shuts()
        for target in ("/a", "/hit", "/b"):
            response = await client.response()
            assert response.body == f"{target} 1".encode()
            assert "connection" not in response
        assert (await client.response()).body == b"/hit 1"
        await client.ended()


@pytest.mark.parametrize(
    "more",
    [
        b"GET /half HTTP/1.1\r\nHo",
        b"POST /half HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc",
    ],
    ids=["head", "content"],
)
async def test_half_a_request_before_a_half_close_is_none(more):
    async with Origin() as origin, Gateway(origin, head_timeout=1) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.reply(200, [], b"whole")

        client = await gateway.client()
        await client.request("/")
        await origin.received(1)
        await client.send(more)
        await client.shuts()
        if b"abc" in more:  # it is read no further than that before its turn
            await until(lambda: any(one._pending for one in gateway.server.connections))
        else:
            await _has_ended(gateway)
        go_on.set()
        assert (await client.response()).body == b"whole"
        await client.ended()
        await until(lambda: gateway.counts.clients == 0)
        await until(lambda: not gateway.worker.cache.stats()["flights"])
        if b"abc" not in more:
            assert origin.calls["/half"] == 0


async def test_what_is_malformed_before_a_half_close_is_refused():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.request("/a")
        await client.send(b"GET /b HTTP/1.1\r\nHost: a b\r\n\r\n")
        await client.shuts()
        assert (await client.response()).body == b"/a 1"
        assert (await client.response()).status == 400
        await client.ended()


async def test_who_has_left_altogether_is_noticed_by_the_first_thing_it_is_sent():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Semaphore(0)

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            while not call.wire.reader.at_eof():
                await go_on.acquire()
                await call.send(b"1\r\na\r\n")
            call.closed = True

        tasks = gateway.counts.tasks
        client = await gateway.client()
        await client.request("/")
        await client.begun()
        await client.close()
        await _has_ended(gateway)
        async with asyncio.timeout(10):
            while gateway.counts != (0, 0, tasks):
                go_on.release()  # something more that it is sent
                await asyncio.sleep(0.01)


async def test_who_has_left_altogether_is_not_waited_for_any_longer():
    async with Origin() as origin, Gateway(origin, half_close=0.1) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            await call.wire.ended()
            call.closed = True

        tasks = gateway.counts.tasks
        for leaves in (Client.close, Client.shuts):
            client = await gateway.client()
            await client.request("/", method="POST", content=b"abc")
            await origin.received(1)
            await leaves(client)
            await until(lambda: gateway.counts == (0, 0, tasks) and not origin.open)


async def test_who_takes_what_it_is_sent_is_there():
    """However long the rest takes."""
    async with Origin() as origin, Gateway(origin, half_close=1) as gateway:
        part, rest = asyncio.Event(), asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            head = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\n"
            await call.send(head)
            await part.wait()
            await call.send(b"a")
            await rest.wait()
            await call.send(b"b")

        client = await gateway.client()
        await client.request("/")
        await client.begun()
        await client.shuts()
        await _has_ended(gateway)
        part.set()
        assert await client.exactly(1) == b"a"
        (connection,) = gateway.server.connections
        await until(lambda: not connection.deadline)  # it has been looked after
        rest.set()
        assert await client.exactly(1) == b"b"
        await client.ended()


# -- stopping --------------------------------------------------------------------------------------


async def test_draining():
    """What has begun is answered, with Connection: close; idle connections are closed; nobody new is
    let in."""
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/slow")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.reply(200, [], b"done")

        await gateway.ask("/hit")
        idle, busy, half = [await gateway.client() for _ in range(3)]
        await idle.ask("/hit")
        await busy.request("/slow")
        await origin.received(1, "/slow")
        await half.ask("/hit")
        await half.send(b"GET /hit HTTP/1.1\r\n")
        await until(lambda: any(one._reader.in_head for one in gateway.server.connections))
        await gateway.drain()
        await idle.ended()
        await half.send(HOST + b"\r\n")
        last = await half.response()
        assert last.hit and last.header("connection") == "close"
        await half.ended()
        with pytest.raises(ConnectionRefusedError):
            await gateway.client()
        go_on.set()
        response = await busy.response()
        assert (response.body, response.header("connection")) == (b"done", "close")
        await busy.ended()
        await gateway.stopped()
        await until(lambda: not origin.open)


async def test_a_request_that_was_on_its_way_when_it_was_told_to_stop_is_answered():
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/hit")
        clients = [await gateway.client() for _ in range(2)]
        for client in clients:
            await client.ask("/hit")
        await gateway.drain()
        for client, target in zip(clients, ("/hit", "/miss"), strict=True):
            last = await client.ask(target)
            assert (last.status, last.header("connection")) == (200, "close")
            await client.ended()
        await gateway.stopped()


async def test_a_connection_that_was_accepted_just_before_it_was_told_to_stop_is_answered():
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.client()  # for which it stays a moment
        ours, theirs = socket.socketpair()
        await gateway.drain()
        await asyncio.get_running_loop().connect_accepted_socket(gateway.server.connection, theirs)
        client = Client(*await asyncio.open_connection(sock=ours))
        last = await client.ask("/miss")
        assert (last.status, last.header("connection")) == (200, "close")
        await client.ended()
        await client.close()
        await gateway.stopped()


async def test_draining_ends_in_time():
    async with Origin() as origin, Gateway(origin, drain_timeout=0.1) as gateway:

        @origin.on("/slow")
        async def handler(call: Call) -> None:
            await call.wire.ended()
            call.closed = True

        client = await gateway.client()
        await client.request("/slow")
        await origin.received(1)
        await gateway.drain()
        await gateway.stopped()
        await client.ended()
        await until(lambda: not origin.open)


async def test_pipelined_hits_while_draining():
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/hit")
        client = await gateway.client()
        await client.send(b"GET /hit HTTP/1.1\r\n")
        await until(lambda: any(one._reader.in_head for one in gateway.server.connections))
        await gateway.drain()
        await client.send(HOST + b"\r\n" + (b"GET /hit HTTP/1.1\r\n" + HOST + b"\r\n") * 5)
        assert (await client.response()).header("connection") == "close"
        await client.ended()
        await gateway.stopped()
