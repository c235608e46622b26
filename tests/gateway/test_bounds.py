"""What the gateway holds for requests and responses is counted in bytes, with what the bytes are held in."""

from __future__ import annotations

import pytest

from layergate.gateway.clients import known as known_module
from layergate.gateway.upstreams.responses import ResponseReader
from tests.support.gateways import Gateway, Origin

EVERY_LOOP = True


def _with_head(size: int, age: int = 60) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=%d\r\nContent-Length: 1\r\nX-Long: %b\r\n\r\nx"
        % (age, b"x" * size)
    )


async def test_the_heads_of_what_is_known_by_heart_are_counted(
    monkeypatch: pytest.MonkeyPatch,
):
    limit = 400_000
    monkeypatch.setattr(known_module, "_MOST", limit)
    async with Origin() as origin, Gateway(origin) as gateway:
        server = gateway.server
        client = await gateway.client()
        for number in range(60):
            origin.answers(f"/{number}", _with_head(10_000))
            for _ in range(3):
                await client.ask(f"/{number}")
            held = [
                known for hits in server.service.known.groups.values() for known in hits.values()
            ]
            assert held
            assert sum(known.size for known in held) == server.service.known.size <= limit
            assert sum(len(known.block) for known in held) < limit


async def test_a_hit_with_a_very_long_head_is_not_known_by_heart():
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/long", _with_head(50_000))
        client = await gateway.client()
        for _ in range(3):
            response = await client.ask("/long")
        assert response.hit
        assert not any(gateway.server.service.known.groups.values())


async def test_one_whose_head_grows_is_counted_anew():
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers("/", _with_head(10, age=1))
        client = await gateway.client()
        for _ in range(3):
            await client.ask("/")
        before = gateway.server.service.known.size
        assert before
        origin.answers("/", _with_head(10_000))
        await gateway.worker.cache.purge(urls=["http://example.com/"])
        for _ in range(3):
            await client.ask("/")
        (known,) = [
            known
            for hits in gateway.server.service.known.groups.values()
            for known in hits.values()
        ]
        assert gateway.server.service.known.size == known.size > before + 10_000


async def test_a_body_in_tiny_chunks_is_not_held_in_as_many_parts(
    monkeypatch: pytest.MonkeyPatch,
):
    """Each part that waits to be taken costs more than the byte that is in it."""
    count = 100_000
    put = 0
    whole = ResponseReader._put_body

    def counted(self: ResponseReader) -> None:
        nonlocal put
        put += 1
        whole(self)

    monkeypatch.setattr(ResponseReader, "_put_body", counted)
    async with Origin() as origin, Gateway(origin) as gateway:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        origin.answers("/", head + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
        response = await gateway.ask("/")
        assert response.body == b"x" * count
        assert put < count / 100
