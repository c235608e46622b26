"""G11: what the receipt of a purge says is true of what it speaks of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from layergate import CacheStack, HttpCache, MemoryLayer, PurgeReceipt
from layergate.core.matching import MOST, MOST_BY_LABEL, PART
from layergate.layers.redis import RedisLayer
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate
from tests.fleet.support import Fleet
from tests.support.asgi import OriginCall, World
from tests.support.connections import Connection
from tests.support.gateway_processes import AUTHORIZED, GatewayProcesses
from tests.support.wsgi import ask

pytest_plugins = ("tests.support.redis_servers",)

HEADERS = {"cache-control": "max-age=600", "cache-tag": "all, page"}
URL = "http://example.com/a"


async def a_world() -> World:
    world = World()

    async def handler(call: OriginCall) -> None:
        tags = f"all, {call.path}"
        varies = {"vary": "accept-language"} if call.path == "/c" else {}
        await call.reply(b"x", 200, {**HEADERS, "cache-tag": tags, **varies})

    for path in ("/a", "/b", "/c"):
        world.origin.on(path)(handler)
        await world.get(path)
    await world.get("/c", headers={"accept-language": "de"})
    await world.idle()
    return world


@pytest.mark.parametrize(
    ("what", "matched", "seen"),
    [
        ({"tags": ["all"]}, 4, True),
        ({"tags": ["/a"]}, 1, True),
        ({"tags": ["/a", "/b"]}, 2, True),
        ({"tags": ["/a", "mistyped"]}, 1, False),
        ({"tags": ["mistyped"]}, 0, False),
        ({"urls": [URL]}, 1, True),
        ({"urls": ["https://EXAMPLE.com./%61"]}, 1, True),
        ({"urls": ["https://example.com/a"], "schemes": "exact"}, 0, False),
        ({"urls": ["http://example.com/c"]}, 2, True),  # a variant each
        ({"urls": [URL, "http://example.com/A"]}, 1, False),
        ({"hosts": ["example.com"]}, 4, True),
        ({"hosts": ["example.org"]}, 0, False),
        ({"prefixes": ["example.com/b"]}, 1, True),
        ({"patterns": ["/*"]}, 4, True),
        ({"everything": True}, 4, True),
        ({"tags": ["/a"], "urls": [URL], "patterns": ["/a*"]}, 1, True),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
async def test_what_it_met(what: Any, matched: int, seen: bool, soft: bool) -> None:
    world = await a_world()
    receipt = await world.cache.purge(**what, soft=soft)
    assert receipt == PurgeReceipt(1, 1, True, "process", matched, False, seen, ())
    if not soft:  # what is gone is not met again
        again = await world.cache.purge(**what)
        assert (again.matched, again.seen) == (0, seen)


async def test_what_has_expired_or_is_no_response_does_not_count() -> None:
    world = await a_world()
    world.origin.answers("/private", {"cache-control": "private"})
    await world.get("/private")  # a marker
    receipt = await world.cache.purge(urls=["http://example.com/private"], soft=True)
    assert (receipt.matched, receipt.seen) == (0, False)
    world.clock.advance(1e6)
    receipt = await world.cache.purge(everything=True)
    assert receipt.matched == 0 and receipt.seen is False


async def test_beyond_the_bound_of_the_look_it_is_a_lower_one() -> None:
    stack = CacheStack([MemoryLayer("64MB")], ttl=60)
    for number in range(MOST + 1):
        await stack.set(f"k{number}", 1, tags=["t", f"t{number}"])
    receipt = await stack.invalidate_by_tag("t", soft=True)
    assert (receipt.matched, receipt.matched_at_least, receipt.seen) == (MOST, True, True)
    receipt = await stack.invalidate_by_pattern("k*", soft=True)
    assert (receipt.matched, receipt.matched_at_least) == (MOST_BY_LABEL, True)
    receipt = await stack.invalidate_by_tag("mistyped")
    assert (receipt.matched, receipt.matched_at_least, receipt.seen) == (0, True, None)
    await stack.aclose()


async def test_others_go_on_while_it_looks() -> None:
    stack = CacheStack([MemoryLayer("64MB")], ttl=60)
    for number in range(2_000):
        await stack.set(f"k{number}", 1, tags=["t"])
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    before = turns
    assert (await stack.invalidate_by_tag("t")).matched == 2_000
    assert turns - before >= 2_000 // PART
    task.cancel()
    await stack.aclose()


async def test_layers_that_cannot_be_looked_through() -> None:
    class Broken(MemoryLayer):
        def scan(self, most: int) -> Any:
            raise OSError

    stack = CacheStack([Broken("1MB"), MemoryLayer("1MB", name="below")], ttl=60)
    receipt = await stack.invalidate_by_tag("t")
    assert receipt == PurgeReceipt(1, 1, True, "process", None, False, None, ("memory", "below"))
    await stack.aclose()


def test_wsgi() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*HEADERS.items(), ("Content-Length", "1")])
        return [b"x"]

    gate = LayerGate(app, cache=HttpCache(runtime=ThreadRuntime()))
    ask(gate, "/a", HTTP_HOST="example.com")
    assert gate.purge(urls=[URL, "http://example.com/b"]) == PurgeReceipt(
        1, 1, True, "process", 1, False, False, ()
    )


async def test_a_fleet(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace) as fleet:
        fleet.origin.answers("/a", HEADERS)
        await fleet[0].get("/a")
        await fleet.idle()
        receipt = await fleet[1].cache.purge(tags=["page"])
        # Of its own memory, which holds nothing; what the others hold it does not know.
        assert receipt == PurgeReceipt(2, 2, True, "fleet", 0, False, False, ("redis",))
        await fleet[0].get("/a")
        await fleet.idle()
        assert (await fleet[0].cache.purge(tags=["page"])).matched == 1


async def test_a_fleet_that_cannot_be_reached() -> None:
    layer = RedisLayer("redis://127.0.0.1:1/0")
    stack = CacheStack([MemoryLayer("1MB"), layer], ttl=60)
    receipt = await stack.invalidate_by_tag("t")
    assert receipt[:4] == (1, 1, False, "fleet")
    await stack.aclose()


async def test_the_workers_of_a_gateway(tmp_path: Path) -> None:
    async with GatewayProcesses(tmp_path, whole=True, workers=2) as gateway:

        async def handler(call: Any) -> None:
            await call.reply(b"x", HEADERS)

        gateway.origin.handlers["/"] = handler
        for method, path, body in (
            ("POST", "/_layergate/purge", b'{"tags": ["page"]}'),
            ("PURGE", "/a", b""),
        ):
            async with Connection(gateway.port) as connection:
                await connection.get("/a")
                connection.ask(path, method, AUTHORIZED, body)
                result = (await connection.answer()).json()["result"]
                assert result == {
                    "applied": 2,
                    "instances": 2,
                    "scope": "host",
                    "matched": 1,
                    "matched_at_least": False,
                    "seen": True,
                    "unknown": ["host"],
                }
