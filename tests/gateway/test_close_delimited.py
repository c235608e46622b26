"""Responses that end with their connection, which neither Content-Length nor chunks frame.

RFC 9112 8: such a response "is considered complete unless an error was indicated by the underlying
connection (e.g., an "incomplete close" in TLS would leave the response incomplete, as described in
Section 9.8)". Over TCP alone a FIN is the end, and a reset is none.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.gateways import Call, Gateway, Origin
from tests.support.http1 import Client, Truncated
from tests.support.waiting import until

EVERY_LOOP = True

HEAD = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\n\r\n"


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def _cut(call: Call) -> None:
    """End the TCP connection with a FIN, whatever is to be said above it: no close_notify."""
    call.closed = True
    call.wire.writer.transport.abort()


def _ending(origin: Origin, how: str, body: bytes, *, go: asyncio.Event | None = None) -> None:
    """``/x``: a response that ends with its connection, in this way."""

    async def handler(call: Call) -> None:
        await call.send(HEAD.encode())
        call.wire.writer.write(body)
        if go is not None:
            await go.wait()
        transport = call.wire.writer.transport
        await until(lambda: not transport.get_write_buffer_size(), "the body to be sent")
        if how == "whole":
            await call.close()
        elif how == "cut":
            _cut(call)
        else:
            call.reset()

    origin.handlers["/x"] = handler


async def _whole(client: Client, **more: str) -> bytes | None:
    """The body of /x; None if its connection shows that it broke off."""
    try:
        response = await client.ask("/x", **more)
    except Truncated:
        return None
    return response.body


ENDS = [
    # TLS, how the connection ends, whether that is the end of the response
    pytest.param(True, "whole", True, id="TLS, close_notify"),
    pytest.param(True, "cut", False, id="TLS, no close_notify"),
    pytest.param(True, "reset", False, id="TLS, reset"),
    pytest.param(False, "whole", True, id="TCP, FIN"),
    pytest.param(False, "reset", False, id="TCP, reset"),
]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("size", [5, 3_000_000])
@pytest.mark.parametrize(("tls", "how", "complete"), ENDS)
async def test_only_an_orderly_end_of_the_connection_is_the_end_of_the_response(
    authority, tmp_path, tls, how, complete, size, version
):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    async with Origin(tls=_tls(authority) if tls else None) as origin:
        upstream = UpstreamOptions(origin.url, tls_ca_file=str(file) if tls else None)
        async with Gateway(upstream) as gateway:
            body = b"x" * size
            _ending(origin, how, body)
            for number in (1, 2):
                client = await gateway.client()
                assert await _whole(client, version=version) == (body if complete else None)
                assert origin.calls["/x"] == (1 if complete else number)


async def test_those_who_share_a_response_that_was_cut_all_see_that_it_broke_off(
    authority, tmp_path
):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    async with Origin(tls=_tls(authority)) as origin:
        upstream = UpstreamOptions(origin.url, tls_ca_file=str(file))
        async with Gateway(upstream) as gateway:
            go = asyncio.Event()
            _ending(origin, "cut", b"x" * 100, go=go)
            clients = [await gateway.client() for _ in range(5)]
            for client in clients:
                await client.request("/x")
            heads = [await client.begun() for client in clients]
            assert {head.status for head in heads} == {200}
            assert origin.calls["/x"] == 1
            go.set()
            for client in clients:
                with pytest.raises(Truncated):
                    await client.chunked()
            _ending(origin, "whole", b"new")
            assert await _whole(await gateway.client()) == b"new"


@pytest.mark.parametrize("how", ["whole", "cut"])
async def test_an_end_that_came_while_nothing_was_read_is_told_apart(authority, tmp_path, how):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    async with Origin(tls=_tls(authority)) as origin:
        upstream = UpstreamOptions(origin.url, tls_ca_file=str(file))
        async with Gateway(upstream) as gateway:
            go = asyncio.Event()
            _ending(origin, how, b"", go=go)
            client = await gateway.client()
            await client.request("/x")
            await client.begun()
            (connection,) = gateway.proxy.pools[0]._busy
            connection.pause_reading()
            go.set()
            # Once the origin is through, what it sent last is in the gateway's socket, at least.
            await until(lambda: not origin.tasks or how == "whole", "the origin to be through")
            connection.resume_reading()
            if how == "whole":
                assert await client.chunked() == (b"", [])
            else:
                with pytest.raises(Truncated):
                    await client.chunked()
