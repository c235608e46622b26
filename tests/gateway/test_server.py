"""HTTP/1.1 towards clients (RFC 9112), over real sockets."""

from __future__ import annotations

from tests.gateway.support import Gateway, Origin

EVERY_LOOP = True


async def test_a_request_and_a_hit():
    async with Origin() as origin, Gateway(origin) as gateway:
        client = await gateway.client()
        first = await client.ask("/a")
        assert (first.status, first.body, first.hit) == (200, b"/a 1", False)
        second = await client.ask("/a")
        assert (second.status, second.body, second.hit) == (200, b"/a 1", True)
        assert origin.accepted == 1
