"""What becomes of a message on its way (RFC 9110): fields, 1xx, Expect, trailers, Upgrade."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime

import pytest

from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Truncated
from tests.support.waiting import until

EVERY_LOOP = True

HOST = b"Host: example.com\r\n"


# -- fields of one connection (RFC 9110 7.6.1) -----------------------------------------------------

TO_ORIGIN = [
    # request lines; what of them the origin sees
    pytest.param(["X-A: b", "Cookie: c"], {"x-a": "b", "cookie": "c"}, id="others pass"),
    pytest.param(["Connection: X-A", "X-A: b"], {"x-a": None, "connection": None}, id="named"),
    pytest.param(["Connection: x-a, X-B", "X-A: a", "X-B: b", "X-C: c"],
                 {"x-a": None, "x-b": None, "x-c": "c"}, id="named in a list"),
    pytest.param(["Connection: a", "Connection: X-A", "X-A: a"], {"x-a": None}, id="two lines"),
    pytest.param(["Keep-Alive: timeout=5"], {"keep-alive": None}, id="Keep-Alive"),
    pytest.param(["Proxy-Connection: keep-alive"], {"proxy-connection": None}, id="Proxy-Connection"),
    pytest.param(["TE: gzip"], {"te": None, "connection": None}, id="TE, a coding"),
    pytest.param(["TE: trailers", "Connection: TE"], {"te": "trailers", "connection": "te"}, id="TE"),
    pytest.param(["TE: gzip;q=1, trailers"], {"te": "trailers", "connection": "te"}, id="TE, of both"),
    pytest.param(["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAA"],
                 {"upgrade": None, "http2-settings": None, "connection": None}, id="h2c"),
    pytest.param(["Upgrade: websocket"], {"upgrade": None}, id="Upgrade that is not named"),
    pytest.param(["Connection: Host, Cookie, Authorization", "Cookie: c", "Authorization: d"],
                 {"cookie": "c", "authorization": "d"}, id="what may not be named"),
    pytest.param(["X-A: a", "X-A: b"], {"x-a": "a, b"}, id="5.3: the order of lines"),
    pytest.param(["X-A:"], {"x-a": ""}, id="an empty value"),
    pytest.param(["X-A: \xe4"], {"x-a": "\xe4"}, id="5.5: obs-text"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "seen"), TO_ORIGIN)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_fields_to_the_origin(lines, seen, method):
    async with Origin() as origin, Gateway(origin) as gateway:
        response = await gateway.ask("/", *lines, method=method)
        assert response.status == 200
        assert {name: origin.last.header(name) for name in seen} == seen
        assert origin.last.all("host") == ["example.com"]


TO_CLIENT = [
    pytest.param(["X-A: b", "Set-Cookie: c", "Set-Cookie: d"],
                 {"x-a": "b", "set-cookie": "c, d"}, id="others pass"),
    pytest.param(["Connection: X-A", "X-A: b"], {"x-a": None, "connection": None}, id="named"),
    pytest.param(["Connection: close"], {"connection": None}, id="close is the origin's"),
    pytest.param(["Keep-Alive: timeout=5"], {"keep-alive": None}, id="Keep-Alive"),
    pytest.param(["Upgrade: h2c", "Connection: upgrade"], {"upgrade": None}, id="Upgrade"),
    pytest.param(["TE: trailers"], {"te": None}, id="TE"),
    pytest.param(["Trailer: X-T"], {"trailer": None}, id="Trailer"),
    pytest.param(["Connection: Set-Cookie, Cache-Control, Vary", "Set-Cookie: c", "Vary: a"],
                 {"set-cookie": "c", "vary": "a", "cache-control": "no-store"}, id="not to be named"),
    pytest.param(["Proxy-Authenticate: Basic"], {"proxy-authenticate": "Basic"}, id="end to end here"),
    pytest.param(["Server: x"], {"server": "x"}, id="Server"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "seen"), TO_CLIENT)
async def test_fields_to_the_client(lines, seen):
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.reply(200, ["Cache-Control: no-store", *lines])

        response = await gateway.ask("/")
        assert {name: response.header(name) for name in seen} == seen


async def test_date_is_added():
    """RFC 9110 6.6.1: a recipient with a clock MUST, if the message is cached or forwarded."""
    async with Origin() as origin, Gateway(origin) as gateway:
        for control in ("no-store", "max-age=60"):
            origin.answers(
                f"/{control}",
                f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: 0\r\n\r\n".encode(),
            )
            first, second = [await gateway.ask(f"/{control}") for _ in (1, 2)]
            for response in (first, second):
                assert len(response.all("date")) == 1
                parsedate_to_datetime(response.header("date") or "")
            if second.hit:
                assert first.header("date") == second.header("date")


async def test_date_is_kept():
    async with Origin() as origin, Gateway(origin) as gateway:
        date = "Tue, 14 Nov 2023 22:13:20 GMT"

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.reply(200, [f"Date: {date}"])

        assert (await gateway.ask("/")).all("date") == [date]


VIA = [
    # option, request's version and Via; what the origin sees; the response's version and Via; what
    # the client sees
    pytest.param("layergate", "1.1", None, "1.1 layergate", "1.1", None, "1.1 layergate", id="added"),
    pytest.param("gw", "1.0", "1.1 a", "1.1 a, 1.0 gw", "1.0", "1.1 b", "1.1 b, 1.0 gw", id="versions"),
    pytest.param(None, "1.1", "1.1 a", "1.1 a", "1.1", "1.1 b", "1.1 b", id="none of ours"),
    pytest.param(None, "1.1", None, None, "1.1", None, None, id="none"),
]  # fmt: skip


@pytest.mark.parametrize(("via", "version", "told", "seen", "answered", "theirs", "shown"), VIA)
async def test_via(via, version, told, seen, answered, theirs, shown):
    """RFC 9110 7.6.3: "each of the received-protocol", both ways; on what is stored too."""
    async with Origin() as origin, Gateway(origin, via=via) as gateway:
        line = "" if theirs is None else f"Via: {theirs}\r\n"
        origin.answers(
            "/",
            f"HTTP/{answered} 200 OK\r\nCache-Control: max-age=60\r\n{line}"
            "Content-Length: 0\r\n\r\n".encode(),
        )
        for hit in (False, True):
            response = await gateway.ask(
                "/", *([] if told is None else [f"Via: {told}"]), version=version
            )
            assert (response.hit, response.header("via")) == (hit, shown)
        assert origin.last.header("via") == seen


async def test_a_loop():
    """RFC 9110 7.6.3: what has been here too often is not sent round again."""
    async with Origin() as origin, Gateway(origin) as gateway:
        response = await gateway.ask("/", "Via: " + ", ".join(["1.1 layergate"] * 8))
        assert response.status == 508
        assert (await gateway.ask("/", "Via: 1.1 layergate, 1.1 x")).status == 200
        assert len(origin.requests) == 1


MAX_FORWARDS = [
    pytest.param("OPTIONS", ["Max-Forwards: 0"], False, None, id="0 is answered here"),
    pytest.param("OPTIONS", ["Max-Forwards: 1"], True, "0", id="one less"),
    pytest.param("OPTIONS", ["Max-Forwards: 10"], True, "9", id="ten"),
    pytest.param("OPTIONS", ["Max-Forwards: x"], True, "x", id="no number"),
    pytest.param("OPTIONS", [], True, None, id="absent"),
    pytest.param("GET", ["Max-Forwards: 0"], True, "0", id="other methods ignore it"),
]


@pytest.mark.parametrize(("method", "lines", "forwarded", "seen"), MAX_FORWARDS)
async def test_max_forwards(method, lines, forwarded, seen):
    """RFC 9110 7.6.2."""
    async with Origin() as origin, Gateway(origin) as gateway:
        response = await gateway.ask("/", *lines, method=method)
        assert response.status == (200 if forwarded else 204)
        assert len(origin.requests) == forwarded
        if forwarded:
            assert origin.last.header("max-forwards") == seen


# -- 1xx (RFC 9110 15.2) ---------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_interim_responses_are_relayed_and_not_stored(control):
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 102 Processing\r\n\r\n"
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X\r\nX: y\r\n\r\n"
            )
            await call.reply(200, [f"Cache-Control: {control}", "X-Final: a"], b"final")

        client = await gateway.client()
        response = await client.ask("/")
        assert [interim.status for interim in response.interim] == [102, 103]
        assert response.interim[1].lines == [("link", "</a>; rel=preload")]
        assert response.body == b"final" and response.header("x-final") == "a"
        again = await client.ask("/")
        assert again.hit is (control != "no-store")
        if again.hit:
            assert not again.interim and "link" not in again


async def test_an_interim_response_does_not_wait_for_the_final_one():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await go_on.wait()
            await call.reply()

        client = await gateway.client()
        await client.request("/")
        assert (await client.head())[0] == "HTTP/1.1 103 Early Hints"
        go_on.set()
        assert (await client.response()).status == 200


async def test_http_1_0_gets_no_interim_response():
    """RFC 9110 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client." """
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers(
            "/", b"HTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        response = await gateway.ask("/", version="1.0")
        assert (response.status, response.interim, response.body) == (200, [], b"ok")


async def test_only_the_request_that_led_to_it_gets_an_interim_response():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await call.reply(200, ["Cache-Control: max-age=60"], b"a")

        clients = [await gateway.client() for _ in range(3)]
        for client in clients:
            await client.request("/")
        await until(lambda: gateway.worker.cache.stats()["waiters"] == 2)
        go_on.set()
        responses = [await client.response() for client in clients]
        assert [len(one.interim) for one in responses] == [1, 0, 0]
        assert origin.calls["/"] == 1


# -- Expect (RFC 9110 10.1.1) ----------------------------------------------------------------------


async def _expecting(client: Client, version: str = "1.1", length: int = 3) -> None:
    await client.request(
        "/", "Expect: 100-continue", f"Content-Length: {length}", method="POST", version=version
    )


async def test_the_origin_says_100():
    async with Origin() as origin, Gateway(origin, continue_within=60) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            assert call.request.header("expect") == "100-continue"
            await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await call.reply(200, [], await call.content())

        client = await gateway.client()
        await _expecting(client)
        assert (await client.head())[0] == "HTTP/1.1 100 Continue"
        await client.send(b"abc")
        response = await client.response()
        assert (response.body, response.interim) == (b"abc", [])
        assert (await client.ask("/other")).status == 200


@pytest.mark.parametrize("status", [417, 401, 413, 200])
async def test_the_origin_gives_a_final_response_instead(status):
    """The content is never sent, so the connection ends (RFC 9112 9.6)."""
    async with Origin() as origin, Gateway(origin, continue_within=60) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.reply(status, [], b"no")
            await call.wire.ended()
            call.closed = True

        client = await gateway.client()
        await _expecting(client)
        response = await client.response()
        assert (response.status, response.body, response.interim) == (status, b"no", [])
        assert response.header("connection") == "close"
        await client.ended()


async def test_the_origin_says_nothing():
    """RFC 9110 10.1.1: a client "SHOULD NOT wait for an indefinite period before sending the content":
    after a while it is asked for, and sent."""
    async with Origin() as origin, Gateway(origin, continue_within=0.05) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.reply(200, [], await call.content())

        client = await gateway.client()
        await _expecting(client)
        assert (await client.head())[0] == "HTTP/1.1 100 Continue"
        await client.send(b"abc")
        assert (await client.response()).body == b"abc"


async def test_a_late_100_is_not_relayed_twice():
    async with Origin() as origin, Gateway(origin, continue_within=0.02) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            content = await call.content()
            await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await call.reply(200, [], content)

        client = await gateway.client()
        await _expecting(client)
        assert (await client.head())[0] == "HTTP/1.1 100 Continue"
        await client.send(b"abc")
        assert (await client.response()).interim == []


async def test_who_does_not_wait_for_the_100():
    """RFC 9110 10.1.1: a server "MAY omit sending a 100 (Continue) response if it has already received
    some or all of the content"."""
    async with Origin() as origin, Gateway(origin, continue_within=60) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await call.reply(200, [], await call.content())

        client = await gateway.client()
        await client.send(
            b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\nabc"
        )
        response = await client.response()
        assert (response.body, response.interim) == (b"abc", [])


async def test_expect_in_http_1_0_is_ignored():
    async with Origin() as origin, Gateway(origin, continue_within=60) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            assert "expect" not in call.request
            await call.reply(200, [], await call.content())

        client = await gateway.client()
        await _expecting(client, "1.0")
        await client.send(b"abc")
        response = await client.response()
        assert (response.body, response.interim) == (b"abc", [])


async def test_expect_without_content():
    async with Origin() as origin, Gateway(origin, continue_within=60) as gateway:
        response = await gateway.ask("/", "Expect: 100-continue")
        assert (response.status, response.interim) == (200, [])
        assert "expect" not in origin.last


async def test_a_100_that_nobody_expects_is_relayed():
    """RFC 9110 15.2: "A proxy MUST forward 1xx responses"."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers(
            "/", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        )
        response = await gateway.ask("/")
        assert [interim.status for interim in response.interim] == [100]


async def test_a_final_response_while_the_client_still_sends():
    """RFC 9112 9.5, 9.6: it is relayed at once, the rest is not sent, and the connection ends so that
    the client gets it."""
    async with Origin() as origin, Gateway(origin, linger=5) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            assert await call.wire.exactly(1000)
            await call.reply(413, [], b"too large")
            await call.wire.rest()
            call.closed = True

        client = await gateway.client()
        await client.request("/", "Content-Length: 10000000", method="POST")
        await client.send(b"x" * 1000)
        response = await client.response()
        assert (response.status, response.body) == (413, b"too large")
        assert response.header("connection") == "close"
        await client.send(b"x" * 100_000)  # is read and forgotten
        await client.ended()
        await until(lambda: not origin.open)
        assert gateway.counts.upstream == 0


async def test_the_client_leaves_while_it_sends():
    """The origin must not take what there is for the whole."""
    async with Origin() as origin, Gateway(origin) as gateway:
        cut = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            with pytest.raises(Truncated):
                await call.content()
            cut.set()
            call.closed = True

        for number, line, part in (
            (1, "Content-Length: 10", b"abc"),
            (2, "Transfer-Encoding: chunked", b"3\r\nabc\r\n"),
        ):
            cut.clear()
            client = await gateway.client()
            await client.request("/", line, method="POST")
            await client.send(part)
            await origin.received(number)
            await client.close()
            await asyncio.wait_for(cut.wait(), 10)


# -- trailers (RFC 9110 6.5) -----------------------------------------------------------------------

TRAILERS = [
    # request lines, version, are they relayed?
    pytest.param(["TE: trailers"], "1.1", True, id="asked for"),
    pytest.param([], "1.1", False, id="not asked for"),
    pytest.param(["TE: trailers"], "1.0", False, id="HTTP/1.0"),
]


@pytest.mark.parametrize(("lines", "version", "relayed"), TRAILERS)
@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_trailers(lines, version, relayed, control):
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers(
            "/",
            f"HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nTrailer: X-Sum\r\n"
            "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n"
            "Connection: close\r\nKeep-Alive: a\r\n\r\n".encode(),
        )
        for _ in range(2):
            response = await gateway.ask("/", *lines, version=version)
            assert response.body == b"ok"
            assert response.trailers == ([("x-sum", "1")] if relayed else [])
            assert response.header("trailer") == ("X-Sum" if relayed else None)
            assert "x-sum" not in response and "set-cookie" not in response  # 6.5.1: not merged


# -- Upgrade (RFC 9110 7.8, RFC 6455) --------------------------------------------------------------

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
ASK = (
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc\r\nOrigin: http://x\r\n\r\n"
)


def _echo(origin: Origin, first: bytes = b"", extra: bytes = b"") -> None:
    @origin.on("/ws")
    async def handler(call: Call) -> None:
        assert call.request.header("upgrade") == "websocket"
        assert call.request.header("connection") == "upgrade"
        assert call.request.header("sec-websocket-key") == "abc"
        await call.send(SWITCH + b"Sec-WebSocket-Accept: xyz\r\n" + extra + b"\r\n" + first)
        call.closed = True
        while data := await call.wire.reader.read(65536):
            await call.send(data)


async def test_a_websocket():
    """Bytes both ways, the first of them in the same packet as the heads."""
    async with Origin() as origin, Gateway(origin) as gateway:
        _echo(origin, b"hello", b"Content-Length: 5\r\nKeep-Alive: x\r\n")
        client = await gateway.client()
        await client.send(ASK + b"early")
        head = await client.begun()
        assert head.status == 101
        assert (head.header("upgrade"), head.header("connection")) == ("websocket", "upgrade")
        assert head.header("sec-websocket-accept") == "xyz"
        assert "content-length" not in head and "keep-alive" not in head  # RFC 9110 8.6
        assert await client.exactly(10) == b"helloearly"
        for size in (1, 100_000, 3_000_000):
            data = b"x" * size
            sending = asyncio.create_task(client.send(data))
            assert await client.exactly(size) == data
            await sending
        await client.close()
        await until(lambda: not origin.open and gateway.counts[:2] == (0, 0))


async def test_the_origin_ends_a_websocket():
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/ws")
        async def handler(call: Call) -> None:
            await call.send(SWITCH + b"\r\nbye")
            await call.close()

        client = await gateway.client()
        await client.send(ASK)
        assert (await client.begun()).status == 101
        assert await client.rest() == b"bye"
        await until(lambda: gateway.counts[:2] == (0, 0))


async def test_websockets_are_not_collapsed_and_not_answered_from_the_store():
    async with Origin() as origin, Gateway(origin) as gateway:
        assert (await gateway.ask("/ws")).status == 200
        assert (await gateway.ask("/ws")).hit
        _echo(origin)
        clients = [await gateway.client() for _ in range(5)]
        for client in clients:
            await client.send(ASK)
        for number, client in enumerate(clients):
            assert (await client.begun()).status == 101
            await client.send(b"%d" % number)
            assert await client.exactly(1) == b"%d" % number
        assert origin.calls["/ws"] == 6


async def test_a_websocket_that_is_refused_by_the_origin():
    """RFC 9110 7.8: a server may ignore Upgrade: an ordinary response."""
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/ws")
        async def handler(call: Call) -> None:
            await call.reply(403, ["Cache-Control: max-age=60"], b"no")

        for _ in range(2):
            client = await gateway.client()
            await client.send(ASK)
            response = await client.response()
            assert (response.status, response.body, response.hit) == (403, b"no", False)
            assert response.header("connection") == "close"
            await client.ended()


async def test_another_protocol_than_was_asked_for():
    """RFC 9110 7.8: "MUST NOT switch to a protocol that was not indicated by the client"."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/ws", SWITCH.replace(b"websocket", b"h2c") + b"\r\n")
        client = await gateway.client()
        await client.send(ASK)
        assert (await client.response()).status == 502
        await until(lambda: not origin.open)


async def test_websockets_can_be_refused():
    async with Origin() as origin, Gateway(origin, pass_upgrades=False) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await client.response()).status == 501
        await client.ended()
        assert not origin.requests


async def test_a_websocket_that_nobody_reads():
    """Backpressure through a tunnel."""
    async with Origin() as origin, Gateway(origin) as gateway:
        sent = 0

        @origin.on("/ws")
        async def handler(call: Call) -> None:
            nonlocal sent
            call.closed = True
            await call.send(SWITCH + b"\r\n")
            for _ in range(1000):
                await call.send(b"x" * 65536)
                sent += 1

        client = await gateway.client(window=4096)
        await client.send(ASK)
        await client.begun()
        client.pause()
        steady = 0
        while steady < 10:  # until nothing has moved for a while
            before = sent
            await asyncio.sleep(0.02)
            steady = steady + 1 if sent == before else 0
        assert sent * 65536 < 16_000_000
        client.resume()
        await client.exactly(1_000_000)
        client.reset()
        await until(lambda: not origin.open and gateway.counts[:2] == (0, 0))


IGNORED = [
    # an upgrade that is not passed on: what is sent, and what the origin reads of it
    pytest.param(b"GET", b"h2c", b"", b"", id="h2c"),
    pytest.param(b"POST", b"h2c", b"Content-Length: 3\r\n", b"abc", id="h2c with content"),
    pytest.param(
        b"POST", b"h2c", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", id="in chunks"
    ),
    pytest.param(b"POST", b"websocket", b"Content-Length: 3\r\n", b"abc", id="websocket by POST"),
    pytest.param(b"POST", b"websocket", b"", b"", id="websocket by POST without content"),
    pytest.param(b"GET", b"websocket, h2c", b"", b"", id="two protocols"),
]


@pytest.mark.parametrize(("method", "protocol", "framing", "content"), IGNORED)
@pytest.mark.parametrize("parts", [1, 1000], ids=["byte by byte", "at once"])
async def test_an_upgrade_that_is_ignored(method, protocol, framing, content, parts):
    """RFC 9110 7.8: a server MAY ignore it: an ordinary request, and its connection goes on."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        data = (
            b"%b /a HTTP/1.1\r\n" % method + HOST + b"Connection: Upgrade, HTTP2-Settings\r\n"
            b"HTTP2-Settings: A\r\nUpgrade: %b\r\n%b\r\n%b" % (protocol, framing, content)
            + b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
        )  # fmt: skip
        for place in range(0, len(data), parts):
            await client.send(data[place : place + parts])
        assert (await client.response()).body == b"/a 1"
        assert (await client.response()).body == b"/next 1"
        first = origin.requests[0]
        assert first.content == (b"abc" if content else b"")
        assert "upgrade" not in first and "http2-settings" not in first


async def test_upgrade_in_http_1_0_is_ignored():
    """RFC 9110 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0
    request." """
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await client.response()).status == 200
        assert "upgrade" not in origin.last


async def test_a_websocket_with_content_is_refused():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK[:-2] + b"Content-Length: 3\r\n\r\nabc")
        assert (await client.response()).status == 400
        await client.ended()
        assert not origin.requests


# -- content ---------------------------------------------------------------------------------------

CONTENTS = [
    pytest.param(b"Content-Length: 3\r\n\r\nabc", "3", None, b"abc", id="length"),
    pytest.param(
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n",
        None, "chunked", b"abc", id="chunks",
    ),
    pytest.param(b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", None, "chunked", b"", id="no chunk"),
    pytest.param(b"Content-Length: 0\r\n\r\n", "0", None, b"", id="length 0"),
    pytest.param(b"\r\n", None, None, b"", id="none"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "length", "coding", "content"), CONTENTS)
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"GET"])
async def test_content_of_requests(data, length, coding, content, method):
    """RFC 9112 6: framed anew, its own way; nothing is added where there was none."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.send(method + b" / HTTP/1.1\r\n" + HOST + data)
        assert (await client.response()).status == 200
        request = origin.last
        assert request.content == content
        assert request.header("content-length") == length
        assert request.header("transfer-encoding") == coding
        assert (await client.ask("/other")).status == 200


async def test_an_unsafe_method_invalidates():
    """RFC 9111 4.4."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        assert (await client.ask("/a")).body == b"/a 1"
        assert (await client.ask("/a")).hit
        assert (await client.ask("/a", method="POST", content=b"x")).status == 200
        assert (await client.ask("/a")).body == b"/a 3"
