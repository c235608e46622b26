"""The gateway in operation: health, purging, statistics, reload, TLS, Unix sockets, access log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl
from typing import Any

import pytest
import trustme

from layergate.config import Rule
from layergate.errors import ConfigError
from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Truncated
from tests.support.waiting import until

EVERY_LOOP = True

TOKEN = "Authorization: Bearer secret"


async def test_health():
    """Without a token, at the admin path, whatever the origin does; readyz tells of draining."""
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        for name in ("healthz", "readyz"):
            response = await client.ask(f"/_layergate/{name}")
            assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})
            assert response.header("cache-control") == "no-store" and "date" in response
            assert (await client.ask(f"/_layergate/{name}", method="HEAD")).status == 200
            refused = await client.ask(f"/_layergate/{name}", method="POST")
            assert (refused.status, refused.header("allow")) == (405, "GET, HEAD")
        assert not origin.requests
        await client.send(b"GET /_layergate/readyz HTTP/1.1\r\n")
        await until(lambda: any(one._reader.in_head for one in gateway.server.connections))
        second = await gateway.client()
        await second.send(b"GET /_layergate/healthz HTTP/1.1\r\n")
        await until(
            lambda: sum(one._reader.in_head for one in gateway.server.connections) == 2, "slow"
        )
        await gateway.drain()
        await client.send(b"Host: a\r\n\r\n")
        assert (await client.response()).status == 503
        await second.send(b"Host: a\r\n\r\n")
        assert (await second.response()).status == 200


async def test_health_at_another_path():
    async with Origin() as origin, Gateway(origin, admin_path="/.cache") as gateway:
        assert (await gateway.ask("/.cache/healthz")).status == 200
        assert (await gateway.ask("/_layergate/healthz")).body == b"/_layergate/healthz 1"


async def test_purging_through_the_gateway():
    async with Origin() as origin, Gateway(origin, admin_token="secret") as gateway:

        @origin.on("/a")
        async def handler(call: Call) -> None:
            body = f"{call.number}".encode()
            await call.reply(200, ["Cache-Control: max-age=60", "Cache-Tag: t"], body)

        client = await gateway.client()

        async def stored() -> bytes:
            assert (await client.ask("/a")).body == (await client.ask("/a")).body
            response = await client.ask("/a")
            assert response.hit and "cache-tag" not in response
            return response.body

        assert await stored() == b"1"
        refused = await client.ask("/a", method="PURGE")
        assert refused.status == 401
        assert await stored() == b"1"
        assert (await client.ask("/a", TOKEN, method="PURGE")).status == 200
        assert await stored() == b"2"
        for number, what in enumerate(
            [
                {"tags": ["t"]},
                {"files": ["http://example.com/a"]},
                {"patterns": ["*/a"]},
                {"purge_everything": True},
            ],
            3,
        ):
            response = await client.ask(
                "/_layergate/purge", TOKEN, method="POST", content=json.dumps(what).encode()
            )
            assert response.status == 200, response.body
            assert await stored() == str(number).encode()
        assert {request.path for request in origin.requests} == {"/a"}


async def test_statistics():
    async with Origin() as origin, Gateway(origin, admin_token="secret") as gateway:
        client = await gateway.client()
        for _ in range(3):
            await client.ask("/a")
        assert (await client.ask("/_layergate/stats")).status == 401
        response = await client.ask("/_layergate/stats", TOKEN)
        events = json.loads(response.body)["events"]
        assert (events["hit"], events["miss"]) == (2, 1)


async def test_a_hit_of_every_kind():
    """By the parser, by known bytes, through a task: the same answer."""
    async with Origin() as origin, Gateway(origin) as gateway:
        first = await gateway.ask("/a")
        answers = [await gateway.ask("/a") for _ in range(3)]
        answers.append(await gateway.ask("/a", "X-A: b", "X-A: c"))  # a field twice: no plain hit
        answers.append(await gateway.ask("http://example.com/a"))
        for answer in answers:
            assert (answer.hit, answer.body) == (True, first.body)
            assert answer.header("age") is not None
            assert len(answer.all("date")) == len(answer.all("content-length")) == 1
            assert len(answer.all("cache-status")) == 1
            names = {name for name, _ in answer.lines}
            assert names == {name for name, _ in answers[0].lines}
        assert len(origin.requests) == 1


async def test_preconditions_and_ranges_through_the_gateway():
    """RFC 9110 13, 14: the same connection goes on after a 304, a 206, a 416."""
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            assert "range" not in call.request, "a range of what is stored whole"
            await call.reply(200, ["Cache-Control: max-age=60", 'ETag: "a"'], b"0123456789")

        client = await gateway.client()
        await client.ask("/")
        assert (await client.ask("/", 'If-None-Match: "a"')).status == 304
        assert (await client.ask("/")).body == b"0123456789"
        assert (await client.ask("/", 'If-None-Match: "b"')).status == 200


# -- reload ----------------------------------------------------------------------------------------


async def test_upstreams_are_replaced_while_serving():
    async with Origin() as old, Origin() as new, Gateway(old) as gateway:
        go_on = asyncio.Event()

        @old.on("/slow")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.reply(200, [], b"old")

        busy, client = await gateway.client(), await gateway.client()
        await client.ask("/a")
        await busy.request("/slow")
        await old.received(1, "/slow")
        assert gateway.reload(upstreams=[UpstreamOptions(new.url)]) == []
        await until(lambda: len(old.open) == 1)  # idle connections are closed
        assert (await client.ask("/a")).hit  # what is stored stays
        assert (await client.ask("/b")).body == b"/b 1"
        assert new.requests and "/b" not in old.calls
        go_on.set()
        assert (await busy.response()).body == b"old"
        await until(lambda: not old.open)
        assert gateway.reload(upstreams=[UpstreamOptions(new.url)]) == []
        assert (await client.ask("/c")).body == b"/c 1"
        assert new.accepted == 1  # an upstream that stays keeps its connections


async def test_time_limits_hold_on_for_what_is_under_way_on_an_upstream_that_is_gone():
    async with (
        Origin() as old,
        Origin() as new,
        Gateway(old, upstream={"first_byte_timeout": 0.3}) as gateway,
    ):

        @old.on("/slow")
        async def handler(call: Call) -> None:
            await call.wire.ended()
            call.closed = True

        client = await gateway.client()
        await client.request("/slow")
        await old.received(1)
        gateway.reload(upstreams=[UpstreamOptions(new.url)])
        assert (await client.response()).status == 504


async def test_options_are_replaced_while_serving():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        await client.ask("/a")
        assert (await client.ask("/a")).hit
        names = gateway.reload(
            max_content=2,
            via="other",
            admin_token="secret",
            cache={"rules": [Rule(path="/a", bypass=True)], "name": "Other"},
            workers=3,
            listen=["127.0.0.1:1"],
        )
        assert names == ["listen", "name", "workers"]
        assert not (await client.ask("/a")).hit
        assert (await client.ask("/b")).header("via") == "1.1 other"
        assert (await client.ask("/_layergate/stats", TOKEN)).status == 200
        assert (await gateway.ask("/", method="POST", content=b"abc")).status == 413


# -- where it listens ------------------------------------------------------------------------------


def _pair(authority: trustme.CA, folder, name: str = "example.com") -> dict[str, Any]:
    issued = authority.issue_cert(name)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return {"tls_cert": str(cert), "tls_key": str(key)}


def _client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_tls(authority, tmp_path):
    context = _client_context(authority)
    async with Origin() as origin, Gateway(origin, **_pair(authority, tmp_path)) as gateway:
        client = await gateway.client(tls=context)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for hit in (False, True, True):
            response = await client.ask("/a")
            assert (response.body, response.hit) == (b"/a 1", hit)
        assert origin.last.header("x-forwarded-proto") == "https"
        body = b"x" * 3_000_000
        origin.handlers["/echo"] = lambda call: _echo(call)
        assert (await client.ask("/echo", method="POST", content=body)).body == body
        plain = await gateway.client()
        await plain.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await plain.ended()
        await client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        assert (await client.response()).status == 400
        await client.ended()


async def _echo(call: Call) -> None:
    await call.reply(200, [], await call.content())


async def test_a_certificate_is_renewed_by_a_reload(authority, tmp_path):
    first = _pair(authority, tmp_path, "example.com")
    second = _pair(authority, tmp_path, "example.org")
    async with Origin() as origin, Gateway(origin, **first) as gateway:
        context = _client_context(authority)
        await (await gateway.client(tls=context)).ask("/")
        assert gateway.reload(**second) == []
        with pytest.raises(ssl.SSLCertVerificationError):
            await gateway.client(tls=context)
        with pytest.raises(ConfigError, match="fits"):
            gateway.reload(tls_cert=first["tls_cert"], tls_key=second["tls_key"])
        assert gateway.reload(**first) == []
        assert (await (await gateway.client(tls=context)).ask("/")).status == 200
        assert gateway.reload(tls_cert=None, tls_key=None) == ["tls_cert"]


async def test_tls_has_no_half_close(authority, tmp_path):
    """Who closes such a connection is gone, and what was fetched for it alone with it."""
    async with Origin() as origin, Gateway(origin, **_pair(authority, tmp_path)) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.content()
            await call.wire.ended()
            call.closed = True

        tasks = gateway.counts.tasks
        client = await gateway.client(tls=_client_context(authority))
        await client.request("/", method="POST", content=b"abc")
        await origin.received(1)
        closing = asyncio.create_task(client.close())
        await until(lambda: gateway.counts.clients == 0 and not origin.open)
        await closing
        await until(lambda: gateway.counts.tasks == tasks)


async def test_a_unix_socket_beside_tls(authority, tmp_path):
    """It speaks no TLS, so what comes by it did not come by https."""
    async with (
        Origin() as origin,
        Gateway(origin, path=str(tmp_path / "gw.sock"), **_pair(authority, tmp_path)) as gateway,
    ):
        client = await gateway.client()
        for hit in (False, True, True):
            assert (await client.ask("/")).hit is hit
        assert origin.last.header("x-forwarded-proto") == "http"
        assert origin.last.header("x-forwarded-for") == "unknown"


def _logged(caplog) -> list[str]:
    """The lines of the access log, without the seconds and the lifetimes that are left."""
    lines = [one.getMessage() for one in caplog.records if one.name == "layergate.access"]
    assert all(re.search(r" \d+\.\d{3} ", line) for line in lines)
    return [re.sub(r" \d+\.\d{3} ", " ", re.sub(r"ttl=\d+", "ttl", line)) for line in lines]


async def test_access_log(caplog):
    """A line says what became of its request, as Cache-Status does."""
    caplog.set_level(logging.INFO, "layergate.access")
    async with Origin() as origin, Gateway(origin, access_log=True) as gateway:
        origin.answers(
            "/no", b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nno"
        )
        client = await gateway.client()
        for _ in range(3):
            await client.ask('/a?"x"')
        await client.ask('/a?"x"', "Cache-Control: no-cache")
        await client.ask('/a?"x"', "Pragma: nothing")
        await client.ask("/b", method="HEAD")
        await client.ask("/no")
        await client.ask("/c", method="POST", content=b"abc")
        await client.ask("/d", "Cache-Control: only-if-cached")
        await client.ask("/_layergate/healthz")
        await until(lambda: len(_logged(caplog)) == 10, "slow")
        assert _logged(caplog) == [
            '127.0.0.1 "GET /a?"x"" 200 8 "fwd=uri-miss; stored"',
            *['127.0.0.1 "GET /a?"x"" 200 8 "hit; ttl"'] * 2,
            '127.0.0.1 "GET /a?"x"" 200 8 "fwd=request; stored"',
            '127.0.0.1 "GET /a?"x"" 200 8 "hit; ttl"',
            '127.0.0.1 "HEAD /b" 200 0 "fwd=uri-miss"',
            '127.0.0.1 "GET /no" 200 2 "fwd=uri-miss; detail=no-store"',
            '127.0.0.1 "POST /c" 200 4 "fwd=method"',
            '127.0.0.1 "GET /d" 504 0 "-"',
            '127.0.0.1 "GET /_layergate/healthz" 200 20 "-"',
        ]


async def test_access_log_without_cache_status(caplog):
    caplog.set_level(logging.INFO, "layergate.access")
    cache = {"cache_status": False}
    async with Origin() as origin, Gateway(origin, access_log=True, cache=cache) as gateway:
        said = b"Cache-Status: LayerGate; hit\r\nContent-Length: 1\r\nCache-Control: max-age=60\r\n\r\na"
        origin.answers("/", b"HTTP/1.1 200 OK\r\n" + said)
        for _ in range(2):
            await gateway.ask("/")
        await until(lambda: len(_logged(caplog)) == 2, "slow")
        assert _logged(caplog) == ['127.0.0.1 "GET /" 200 1 "-"'] * 2


async def test_access_log_of_what_another_cache_says(caplog):
    """Whatever an origin, or a cache in front of it, calls itself: ours is the last word."""
    caplog.set_level(logging.INFO, "layergate.access")
    async with Origin() as origin, Gateway(origin, access_log=True) as gateway:
        said = b"Cache-Status: LayerGate; hit, Other; hit\r\nContent-Length: 1\r\nCache-Control: max-age=60\r\n\r\na"
        origin.answers("/", b"HTTP/1.1 200 OK\r\n" + said)
        for _ in range(2):
            await gateway.ask("/")
        await until(lambda: len(_logged(caplog)) == 2, "slow")
        assert _logged(caplog) == [
            '127.0.0.1 "GET /" 200 1 "fwd=uri-miss; stored"', '127.0.0.1 "GET /" 200 1 "hit; ttl"'
        ]  # fmt: skip


async def test_nothing_is_left_behind():
    """Requests of all kinds; afterwards the same tasks, no connections, no callbacks that hold one."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/bad", b"hello\r\n\r\n")
        origin.answers("/cut", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", close=True)
        await gateway.ask("/warm")
        tasks = gateway.counts.tasks
        for _ in range(20):
            await gateway.ask("/a")
            await gateway.ask("/bad")
            await gateway.ask("/b", method="POST", content=b"abc")
            client = await gateway.client()
            await client.request("/cut")
            await client.begun()
            client.reset()
        await until(lambda: not gateway.server.connections)
        await until(lambda: gateway.counts.tasks <= tasks)
        assert not gateway.worker.cache.stats()["flights"]
        assert gateway.worker.cache.stats()["inflight_bytes"] == 0


async def test_a_burst_for_one_target_is_one_fetch():
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await go_on.wait()
            await call.reply(200, ["Cache-Control: max-age=60"], b"once")

        clients = [await gateway.client() for _ in range(50)]
        for client in clients:
            await client.request("/")
        await until(lambda: gateway.worker.cache.stats()["waiters"] == 49)
        go_on.set()
        for client in clients:
            assert (await client.response()).body == b"once"
        assert len(origin.requests) == 1


async def test_a_connection_that_ends_before_it_says_anything():
    async with Origin() as origin, Gateway(origin) as gateway:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", gateway.port)):
                pass
        await until(lambda: not gateway.server.connections)
        assert (await gateway.ask("/")).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_truncation_through_tls(authority, tmp_path, framing):
    async with Origin() as origin, Gateway(origin, **_pair(authority, tmp_path)) as gateway:
        origin.answers(
            "/", f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n2\r\nok\r\n".encode()[:-3], close=True
        )
        client = await gateway.client(tls=_client_context(authority))
        with pytest.raises(Truncated):
            await client.ask("/")


def _echoes(origin: Origin) -> None:
    """A WebSocket at / that says what it hears, until it hears ``bye``."""

    @origin.on("/")
    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while (data := await call.wire.reader.read(100)) not in (b"", b"bye"):
            await call.send(data)
        await call.close()


async def _websocket(gateway: Gateway) -> Client:
    client = await gateway.client()
    await client.request("/", "Connection: upgrade", "Upgrade: websocket")
    assert (await client.begun()).status == 101
    return client


async def test_a_websocket_goes_on_while_draining():
    """Until either end closes it."""
    async with Origin() as origin, Gateway(origin, drain_timeout=30) as gateway:
        _echoes(origin)
        client, other = await _websocket(gateway), await _websocket(gateway)
        idle = await gateway.client()
        await gateway.drain()
        await idle.ended()  # what is idle is closed first
        await client.send(b"still here")
        assert await client.exactly(10) == b"still here"
        await other.close()
        await client.send(b"bye")
        await client.ended()
        await gateway.stopped()  # with the last of them, and no later
        await until(lambda: not origin.open)


@pytest.mark.parametrize("how", ["in time", "at once"])
async def test_a_websocket_is_ended_with_the_time_for_draining(how):
    timeout = 0.3 if how == "in time" else 30
    async with Origin() as origin, Gateway(origin, drain_timeout=timeout) as gateway:
        _echoes(origin)
        client = await _websocket(gateway)
        begun = asyncio.get_running_loop().time()
        await gateway.drain()
        if how == "at once":  # the second signal
            gateway.channel.stop(now=True)
        await client.ended()
        await gateway.stopped()
        if how == "in time":
            assert asyncio.get_running_loop().time() - begun >= 0.29
        await until(lambda: not origin.open)


async def test_a_websocket_that_nobody_reads_is_ended_in_time_too():
    async with Origin() as origin, Gateway(origin, drain_timeout=0.3) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            while True:  # (until the gateway has left)
                await call.send(b"x" * 65536)

        client = await gateway.client(window=4096)
        await client.request("/", "Connection: upgrade", "Upgrade: websocket")
        assert (await client.begun()).status == 101
        client.pause()
        await gateway.drain()
        await gateway.stopped()
        await until(lambda: not origin.open)
        client.reset()


async def test_content_that_is_not_taken_is_not_piled_up():
    async with Origin() as origin, Gateway(origin) as gateway:

        @origin.on("/")
        async def handler(call: Call) -> None:
            await asyncio.Event().wait()

        client = await gateway.client()
        await client.request("/", "Content-Length: 100000000", method="POST")
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                await client.send(b"x" * 65536)
                sent += 65536

        pouring = asyncio.create_task(pour())
        steady = 0
        while steady < 10:  # until nothing has moved for a while
            before = sent
            await asyncio.sleep(0.02)
            steady = steady + 1 if sent == before else 0
        assert 0 < sent < 24_000_000  # socket buffers of both connections, for the most part
        pouring.cancel()
        await asyncio.wait([pouring])
        client.reset()  # a close would wait until the gateway gives up
