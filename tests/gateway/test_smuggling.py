"""Messages that two parsers could read as different ones: none gets through, in either direction."""

from __future__ import annotations

import pytest

from tests.support.gateways import FRESH, Call, gateway
from tests.support.http1 import Response, reply, request
from tests.support.waiting import until

CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = request(b"/smuggled")


def post(*lines: bytes, body: bytes) -> bytes:
    return request(b"/", *lines, method=b"POST", body=body)


# -- requests ----------------------------------------------------------------------------------------

FRAMING = {
    "cl-te": post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nG"),
    "te-cl": post(CHUNKED, b"Content-Length: 4", body=b"5c\r\n"),
    "te-te": post(CHUNKED, b"Transfer-Encoding: x", body=b"0\r\n\r\n"),
    "te-te-first-obscure": post(b"Transfer-Encoding: x", CHUNKED, body=b"0\r\n\r\n"),
    "te-twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "te-list": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "te-list-twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "te-gzip": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "te-identity": post(b"Transfer-Encoding: identity", body=b""),
    "te-unknown": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "te-quoted": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "te-parameter": post(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n"),
    "te-empty": post(b"Transfer-Encoding:", body=b"0\r\n\r\n"),
    "te-vertical-tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "te-form-feed": post(b"Transfer-Encoding: chunked\x0c", body=b"0\r\n\r\n"),
    "te-nul": post(b"Transfer-Encoding: chunked\0", body=b"0\r\n\r\n"),
    "te-space-before-colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "te-tab-before-colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "te-folded": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "te-behind-bare-lf": post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "te-behind-bare-cr": post(b"X: y\rTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "two-lengths": post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    "two-equal-lengths": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "length-list": post(b"Content-Length: 5,5", body=b"hello"),
    "length-plus": post(b"Content-Length: +5", body=b"hello"),
    "length-minus": post(b"Content-Length: -5", body=b"hello"),
    "length-hexadecimal": post(b"Content-Length: 0x5", body=b"hello"),
    "length-inner-space": post(b"Content-Length: 5 0", body=b"hello"),
    "length-empty": post(b"Content-Length:", body=b"hello"),
    "length-overflow": post(b"Content-Length: 18446744073709551621", body=b"hello"),
    "length-space-before-colon": post(b"Content-Length : 5", body=b"hello"),
    "te-in-http-1-0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "websocket-with-content": request(
        b"/", b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5", body=b"hello"
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", FRAMING)
async def test_a_request_framed_in_two_ways_is_refused(attack):
    async with gateway() as gate:
        await gate.refused(FRAMING[attack], 400, 501)


HEADS = {
    "bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-lf-in-fields": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare-lf-at-the-end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare-cr": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "fold-before-the-first-field": b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "no-name": b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "name-with-octet-over-127": b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: x\r\n\r\n",
    "nul-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "control-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "delete-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
    "http-0-9": b"GET /\r\nHost: a\r\n\r\n",
    "http-0-9-named": b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    "http-2-0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-1-2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "http-1-10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "http-in-lower-case": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "space-after-version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "tab-in-target": b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    "space-in-target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "octet-over-127-in-target": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment-in-target": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "no-slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk-for-get": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown-method": b"GETX / HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
}


@pytest.mark.parametrize("attack", HEADS)
async def test_a_head_that_is_not_what_it_should_be_is_refused(attack):
    async with gateway() as gate:
        await gate.refused(HEADS[attack], 400, 405, 501, 505)


CHUNKS = {
    "bare-lf-after-size": b"5\nhello\r\n0\r\n\r\n",
    "bare-lf-after-data": b"5\r\nhello\n0\r\n\r\n",
    "nothing-after-data": b"5\r\nhello0\r\n\r\n",
    "longer-than-its-size": b"5\r\nhello!\r\n0\r\n\r\n",
    "lf-in-extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "cr-in-extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "nul-in-extension": b"5;\0\r\nhello\r\n0\r\n\r\n",
    "line-break-in-quotes": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
    "space-before-size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space-after-size": b"5 \r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-1\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "no-size": b"\r\nhello\r\n0\r\n\r\n",
    "overflow": b"FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n",
    "overflow-to-five": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "bare-lf-at-the-end": b"5\r\nhello\r\n0\n\n",
    "bare-lf-in-trailers": b"5\r\nhello\r\n0\r\nX: a\n\r\n",
    "folded-trailer": b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("together", [True, False], ids=["one-packet", "two-packets"])
async def test_chunks_that_are_none_are_refused(chunks, together):
    async with gateway() as gate:
        head = post(CHUNKED, body=b"")
        if together:
            await gate.refused(head + CHUNKS[chunks], 400)
            return
        client = await gate.client()
        await client.send(head)
        await until(lambda: gate.origin.bytes, "the head to be forwarded")
        await client.send(CHUNKS[chunks] + SMUGGLED)
        assert (await client.response()).status == 400
        await client.closed()
        assert not gate.origin.seen
        assert b"/smuggled" not in gate.origin.bytes


async def test_what_is_forwarded_is_framed_by_the_gateway():
    """Lenient spellings that are allowed do not go any further: nothing of the client's framing
    does."""
    async with gateway() as gate:
        for lines, body in [
            ((b"Content-Length: 5",), b"hello"),
            ((b"Content-Length: 005",), b"hello"),
            ((b"tRANSFER-eNCODING:\tChunked ",), b"5;a=b\r\nhello\r\n0\r\nX-Trailer: a\r\n\r\n"),
            ((CHUNKED,), b"00000000000000000002\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ]:
            client = await gate.client()
            await client.send(post(*lines, body=body) + request(b"/next"))
            assert (await client.response()).status == 200
            assert (await client.response()).body.startswith(b"/next")
        posts = [seen for seen in gate.origin.seen if seen.method == b"POST"]
        assert [seen.body for seen in posts] == [b"hello"] * 4
        for seen in posts:
            framing = seen.all(b"content-length") + seen.all(b"transfer-encoding")
            assert len(framing) == 1
        assert b"a=b" not in gate.origin.bytes
        assert b"x-trailer" not in gate.origin.bytes.lower()


HOP_BY_HOP = {
    "content-length": (b"Connection: Content-Length", b"Content-Length: 5"),
    "transfer-encoding": (b"Connection: close, Transfer-Encoding", CHUNKED),
    "host": (b"Connection: Host", b"Content-Length: 5"),
}


@pytest.mark.parametrize("name", HOP_BY_HOP)
async def test_connection_cannot_take_the_framing_or_the_address_off(name):
    lines = HOP_BY_HOP[name]
    body = b"5\r\nhello\r\n0\r\n\r\n" if CHUNKED in lines else b"hello"
    async with gateway() as gate:
        assert (await gate.exchange(post(*lines, body=body))).status == 200
        (seen,) = gate.origin.seen
        assert seen.body == b"hello"
        assert seen.all(b"host") == [b"shop.test"]
        assert not seen.all(b"connection")


@pytest.mark.parametrize(
    "field", [b"Cookie: sid=1", b"Authorization: Basic YTpi", b"Cache-Control: no-store"]
)
async def test_connection_cannot_make_a_private_request_an_anonymous_one(field):
    """What would be taken off on the way to the origin only, would be answered for everybody."""
    name = field.partition(b":")[0]
    async with gateway() as gate:
        gate.origin.otherwise = reply(b"x", b"Cache-Control: max-age=60", b"Vary: Cookie")
        await gate.get(b"/", b"Connection: " + name, field)
        assert gate.origin.seen[0].all(name.lower())
        assert not (await gate.get(b"/")).hit


async def test_pipelined_requests_are_answered_in_order_and_each_once():
    async with gateway() as gate:
        targets = [b"/%d" % number for number in range(50)]
        client = await gate.client()
        await client.send(b"".join([request(target) for target in targets * 2]))
        bodies = [(await client.response()).body for _ in targets * 2]
        assert bodies == [b"%b 1" % target for target in targets * 2]


async def test_a_pipelined_request_behind_a_refused_one_is_nobodys():
    async with gateway() as gate:
        client = await gate.client()
        await client.send(request(b"/good") + HEADS["obs-fold"] + SMUGGLED)
        assert (await client.response()).body == b"/good 1"
        assert (await client.response()).status == 400
        await client.closed()
        assert gate.origin.targets == [b"/good"]


async def test_a_head_in_single_bytes_is_the_same_head():
    async with gateway() as gate:
        client = await gate.client()
        for byte in post(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n") + request(b"/next"):
            await client.send(bytes([byte]))
        assert (await client.response()).status == 200
        assert (await client.response()).body == b"/next 1"


# -- other protocols ---------------------------------------------------------------------------------

WEBSOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_a_tunnel_is_opened_by_a_real_101_only():
    """An origin that does not agree to the new protocol answers an ordinary request; what the client
    has sent behind it must not reach the origin as a request of its own."""
    async with gateway() as gate:
        gate.origin.otherwise = reply(b"no", b"Sec-WebSocket-Version: 13", status=b"426 No")
        client = await gate.client()
        await client.send(request(b"/chat", *WEBSOCKET))
        assert (await client.response()).status == 426
        await client.send(SMUGGLED)
        await client.closed()
        client = await gate.client()
        await client.send(request(b"/chat", *WEBSOCKET) + SMUGGLED)
        assert (await client.response()).status == 426
        await client.closed()
        assert gate.origin.targets == [b"/chat", b"/chat"]


async def test_a_tunnel_carries_what_it_is_given_and_ends_with_either_end():
    async with gateway() as gate:

        async def echo(seen: Call) -> None:
            seen.writer.write(SWITCHING + b"hello")
            while data := await seen.reader.read(100):
                seen.writer.write(data)
            seen.writer.close()

        gate.origin.otherwise = echo
        client = await gate.client()
        await client.send(request(b"/chat", *WEBSOCKET) + b"early")
        head = await client.exactly(len(SWITCHING) - 20)
        while b"\r\n\r\n" not in head:
            head += await client.exactly(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert await client.exactly(10) == b"helloearly"
        await client.send(b"x" * 100_000)
        assert await client.exactly(100_000) == b"x" * 100_000
        await client.close()
        await until(lambda: not gate.origin.open, "the origin's end to be closed")


@pytest.mark.parametrize(
    "lines",
    [
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"),
        (b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"),
        (b"Connection: HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"),
        (b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
        (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
    ],
)
async def test_h2c_smuggling(lines):
    """An origin that hears of it could speak HTTP/2 with the client, past the cache and its rules."""
    async with gateway() as gate:
        client = await gate.client()
        await client.send(request(b"/a", *lines) + request(b"/b"))
        assert (await client.response()).body == b"/a 1"
        assert (await client.response()).body == b"/b 1"
        for seen in gate.origin.seen:
            names = {name for name, _ in seen.lines}
            assert not names & {b"upgrade", b"http2-settings", b"connection"}


@pytest.mark.parametrize(
    ("line", "body"),
    [
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_upgrade_with_content(line, body):
    """One that is not passed on is an ordinary request: its content is its content, to the byte."""
    async with gateway() as gate:
        upgrade = (b"Connection: upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
        client = await gate.client()
        await client.send(post(*upgrade, line, body=body) + request(b"/next"))
        assert (await client.response()).status == 200
        assert (await client.response()).body == b"/next 1"
        assert [seen.body for seen in gate.origin.seen] == [b"hello", b""]


async def test_a_refused_request_behind_an_upgrade_is_told_why():
    async with gateway() as gate:
        upgrade = request(b"/a", b"Connection: upgrade", b"Upgrade: h2c")
        client = await gate.client()
        await client.send(upgrade + request(b"/b", method=b"TRACE"))
        assert (await client.response()).body == b"/a 1"
        assert (await client.response()).status == 501


async def test_a_thousand_upgrades_in_one_packet():
    """Each makes the parser stop; they once were a recursion."""
    async with gateway() as gate:
        one = request(b"/", b"Connection: upgrade", b"Upgrade: x", host=b"a")
        await gate.exchange(one)
        client = await gate.client()
        await client.send(one * 1500)
        for _ in range(1500):
            assert (await client.response()).status == 200


async def test_a_101_that_nobody_asked_for():
    async with gateway() as gate:
        gate.origin.scripts[b"/a"] = SWITCHING + reply(b"poison", FRESH)
        assert (await gate.get(b"/a")).status == 502
        gate.origin.scripts[b"/b"] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        assert (await gate.get(b"/b")).status == 502
        assert (await gate.get(b"/c")).body == b"/c 1"


async def test_a_101_does_not_frame_anything():
    async with gateway() as gate:
        gate.origin.otherwise = SWITCHING[:-2] + b"Content-Length: 5\r\nKeep-Alive: x\r\n\r\n"
        client = await gate.client()
        await client.send(request(b"/chat", *WEBSOCKET))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.exactly(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"content-length" not in head
        assert b"keep-alive" not in head


# -- responses ---------------------------------------------------------------------------------------

RESPONSES = {
    "cl-te": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-cl": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length-plus": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    "te-gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-not-last": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare-cr-in-field": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "lf-in-field": b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http-0-9": b"<html>hello</html>",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "status-099": b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
    "status-999": b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    "status-2000": b"HTTP/1.1 2000 No\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "interim-with-content": b"HTTP/1.1 150 Odd\r\nContent-Length: 5\r\n\r\nhello" + reply(b"x"),
    "interim-with-chunks": b"HTTP/1.1 150 Odd\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + reply(b"x"),
}


@pytest.mark.parametrize("attack", RESPONSES)
async def test_a_response_that_two_could_read_differently_is_a_502(attack):
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            seen.writer.write(RESPONSES[attack])
            await seen.writer.drain()
            seen.writer.close()

        gate.origin.scripts[b"/a"] = script
        client = await gate.client()
        for _ in range(2):
            response = await client.exchange(request(b"/a"))
            assert response.status == 502
            assert not response.hit
        del gate.origin.scripts[b"/a"]
        assert (await client.exchange(request(b"/a"))).body.startswith(b"/a ")


POISON = reply(b"poison", FRESH)
EXTRA = {
    "a-response": POISON,
    "half-a-response": POISON[:30],
    "one-byte": b"H",
    "an-interim-response": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    "garbage": b"garbage",
}


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize(
    "first",
    [
        reply(b"first", FRESH),
        (
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nfirst\r\n0\r\n\r\n"
        ),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    ],
    ids=["length", "chunked", "204", "304"],
)
async def test_what_follows_a_response_is_not_the_next_one(first, extra):
    """Response queue poisoning: one response too many on a connection that is used again."""
    async with gateway() as gate:
        gate.origin.scripts[b"/a"] = first + EXTRA[extra]
        client = await gate.client()
        assert (await client.exchange(request(b"/a"))).status in (200, 204, 304)
        await gate.idle()
        assert not gate.proxy.pools[0].open
        for target in (b"/b", b"/c", b"/b", b"/c"):
            assert (await client.exchange(request(target))).body == target + b" 1"


async def test_data_on_an_idle_connection_is_no_response():
    async with gateway() as gate:
        await gate.get(b"/a")
        await gate.idle()
        (writer,) = [wire.writer for wire in gate.origin.open]
        writer.write(POISON)
        await until(lambda: not gate.proxy.pools[0].open, "the connection to be given up")
        assert (await gate.get(b"/b")).body == b"/b 1"
        assert {seen.connection for seen in gate.origin.seen} == {0, 1}


async def test_a_response_that_comes_before_its_request_is_whole():
    """A response to content that has not been sent yet ends that connection: the rest of the content
    cannot be taken back, and would be the beginning of the next request."""
    async with gateway() as gate:
        gate.origin.early[b"/"] = reply(b"too early", status=b"413 No")
        client = await gate.client()
        await client.send(post(b"Content-Length: 1000", body=b"x"))
        assert (await client.response()).status == 413
        await client.send(b"y" * 999 + SMUGGLED)
        await client.closed()
        await gate.idle()
        assert not gate.proxy.pools[0].open
        assert (await gate.get(b"/b")).body == b"/b 1"
        assert gate.origin.targets == [b"/b"]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_status_without_content_has_none(status):
    """Content behind it would be the beginning of the next response, here or at the client."""
    async with gateway() as gate:
        gate.origin.scripts[b"/a"] = reply(POISON, FRESH, status=status)
        client = await gate.client()
        response = await client.exchange(request(b"/a"))
        assert response.status == int(status[:3])
        assert response.body == b""
        if status[:3] == b"204":  # RFC 9110 8.6
            assert response.get(b"content-length") is None
        assert (await client.exchange(request(b"/b"))).body == b"/b 1"


async def test_request_tunnelling_through_head():
    """Content that an origin sends with its response to HEAD is no response to anybody."""
    async with gateway() as gate:
        gate.origin.scripts[b"/a"] = reply(POISON, FRESH)
        client = await gate.client()
        response = await client.exchange(request(b"/a", method=b"HEAD"))
        assert response.get(b"content-length") == b"%d" % len(POISON)
        await gate.idle()
        for target in (b"/b", b"/c"):
            assert (await client.exchange(request(target))).body == target + b" 1"


async def test_interim_responses_carry_no_framing():
    """RFC 9110 8.6: "A server MUST NOT send a Content-Length header field in any response with a
    status code of 1xx". A client that heeds one would wait for content, or find it."""
    async with gateway() as gate:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 0\r\n\r\n"
        gate.origin.scripts[b"/a"] = early + reply(b"x", FRESH)
        response = await gate.get(b"/a", b"Authorization: Basic YTpi")
        assert response.body == b"x"
        for status, lines in [(one.status, one.raw) for one in response.interim]:
            assert (status, lines) == (103, [(b"link", b"</x>")])


async def test_an_interim_response_is_never_stored_nor_given_to_another():
    async with gateway() as gate:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </private>\r\nCache-Control: max-age=60\r\n\r\n"
        gate.origin.scripts[b"/a"] = early + reply(b"x", FRESH)
        await gate.get(b"/a")
        response = await gate.get(b"/a")
        assert response.hit
        assert response.interim == []
        assert response.get(b"link") is None


async def test_a_flood_of_interim_responses_ends():
    async with gateway() as gate:

        async def flood(seen: Call) -> None:
            while not seen.writer.is_closing():
                seen.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                await seen.writer.drain()

        gate.origin.scripts[b"/a"] = flood
        assert (await gate.get(b"/a")).status == 502
        assert (await gate.get(b"/b")).body == b"/b 1"


@pytest.mark.parametrize("where", ["field", "fields", "trailer", "reason"])
async def test_a_head_without_end_from_an_origin_ends(where):
    async with gateway() as gate:

        async def endless(seen: Call) -> None:
            begin, more = {
                "field": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
                "fields": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
                "trailer": (
                    b"HTTP/1.1 200 OK\r\n" + FRESH + b"\r\n" + CHUNKED + b"\r\n\r\n0\r\nX: ",
                    b"x" * 65536,
                ),
                "reason": (b"HTTP/1.1 200 ", b"x" * 65536),
            }[where]
            seen.writer.write(begin)
            for _ in range(2000):
                seen.writer.write(more)
                await seen.writer.drain()
            raise AssertionError("it took 100 MB")

        gate.origin.scripts[b"/a"] = endless
        client = await gate.client()
        await client.send(request(b"/a"))
        if where == "trailer":
            await client.remains()  # the head is out: all there is to do is to break off
        else:
            assert (await client.response()).status == 502
        assert (await gate.get(b"/b")).body == b"/b 1"


TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nhello",
    "chunk": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"64\r\nhello",
    "no-last-chunk": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "no-end-of-trailers": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "chunk-overflow": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF1\r\nhello",
}


@pytest.mark.parametrize("how", TRUNCATED)
async def test_a_truncated_response_is_neither_whole_for_the_client_nor_stored(how):
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            seen.writer.write(TRUNCATED[how])
            await seen.writer.drain()
            seen.writer.close()

        gate.origin.scripts[b"/a"] = script
        client = await gate.client()
        await client.send(request(b"/a"))
        try:
            response: Response | None = await client.response()
        except EOFError:
            response = None
        assert response is None or response.status == 502
        del gate.origin.scripts[b"/a"]
        assert (await gate.get(b"/a")).body == b"/a 2"


async def test_a_client_that_leaves_in_the_middle_of_its_content_leaves_no_request_behind():
    """What it has sent is not to be completed by somebody else's request."""
    async with gateway() as gate:
        client = await gate.client()
        await client.send(post(b"Content-Length: 100", body=b"POST /evil HTTP/1.1\r\n"))
        await until(lambda: b"/evil" in gate.origin.bytes, "the content to be forwarded")
        await client.close()
        assert (await gate.get(b"/b")).body == b"/b 1"
        await until(lambda: not gate.proxy.pools[0]._busy, "the connection to be given up")
        assert gate.origin.targets == [b"/b"]
