"""Clients of the gateway that take nothing of what others read too."""

from __future__ import annotations

import asyncio

from tests.support.gateways import Call, Gateway, Origin
from tests.support.waiting import until

PART = b"10000\r\n" + b"x" * 65536 + b"\r\n"


async def test_a_client_that_takes_nothing_is_left_behind():
    options = {"max_body": "1MB", "slow_reader_timeout": 0.3}
    async with Origin() as origin, Gateway(origin, cache=options) as gateway:
        go_on = asyncio.Event()

        @origin.on("/")
        async def handler(call: Call) -> None:
            await call.send(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            await call.send(PART)
            await go_on.wait()
            for _ in range(383):
                await call.send(PART)
            await call.send(b"0\r\n\r\n")

        stuck = await gateway.client(window=4096)
        others = [await gateway.client() for _ in range(3)]
        for client in (others[0], stuck, *others[1:]):
            await client.request("/")
            await client.begun()
        stuck.pause()
        go_on.set()
        answers = await asyncio.gather(*(client.chunked() for client in others))
        assert [len(body) for body, _ in answers] == [384 * 65536] * 3
        assert gateway.stat("stream_cut") == 1
        await stuck.close()
        await until(lambda: not gateway.server.connections or len(gateway.server.connections) == 3)


async def test_the_head_says_stored_only_if_it_is():
    async with Origin() as origin, Gateway(origin, cache={"max_body": 1000}) as gateway:
        for path, length, said in (
            ("/known", 10, "fwd=uri-miss; stored"),
            ("/large", 2000, "fwd=uri-miss; detail=too-large"),
        ):
            head = (
                f"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n"
            )
            origin.answers(path, head.encode() + b"x" * length)
            assert (await gateway.ask(path)).cache_status.endswith(said)
        head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
        origin.answers("/chunks", head.encode() + b"3\r\none\r\n0\r\n\r\n")
        assert (await gateway.ask("/chunks")).cache_status.endswith("stored")  # it was all at hand
        go_on = asyncio.Event()

        @origin.on("/slow")
        async def handler(call: Call) -> None:
            await call.send(head.encode() + b"3\r\none\r\n")
            await go_on.wait()
            await call.send(b"0\r\n\r\n")

        client = await gateway.client()
        await client.request("/slow")
        assert (await client.begun()).cache_status == "LayerGate; fwd=uri-miss"
        go_on.set()
        assert (await client.chunked())[0] == b"one"
        await until(lambda: gateway.stat("store") == 4)  # and a marker
        assert (await gateway.ask("/slow")).hit
