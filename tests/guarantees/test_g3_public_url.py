"""Behind a proxy that tells the app of another host, a purge of the URL that clients know reaches what is
stored under the host that the app is asked by."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate import HttpCache
from layergate.http.message.fields import Fields
from layergate.http.privacy.forwarding import public_labels
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate
from tests.fleet.support import Fleet
from tests.support.asgi import Gate, OriginCall, World
from tests.support.wsgi import ask

pytest_plugins = ("tests.support.redis_servers",)

HEADERS = {"cache-control": "max-age=600"}
BEHIND = [
    ({"x-forwarded-host": "www.example.com"}, "https://www.example.com/x"),
    ({"x-forwarded-host": "WWW.example.com:443", "x-forwarded-proto": "https"},
     "https://www.example.com/x"),
    ({"x-forwarded-host": "www.example.com, proxy"}, "http://www.example.com/x"),
    ({"x-forwarded-host": "edge, www.example.com"}, "http://www.example.com/x"),
    ({"x-forwarded-host": "www.example.com", "x-forwarded-port": "8443"},
     "https://www.example.com:8443/x"),
    ({"x-forwarded-host": "www.example.com", "x-forwarded-prefix": "/shop/"},
     "https://www.example.com/shop/x"),
    ({"x-forwarded-prefix": "/shop"}, "https://internal:8000/shop/x"),
    ({"forwarded": 'for=10.0.0.1;host="www.example.com";proto=https'}, "https://www.example.com/x"),
    ({"x-original-host": "www.example.com"}, "https://www.example.com/x"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "url"), BEHIND)
@pytest.mark.parametrize("search", [False, True])
async def test_asgi(headers: dict[str, str], url: str, search: bool) -> None:
    world = World(no_vary_search=search)
    more = {"no-vary-search": "params"} if search else {}
    world.origin.answers("/x", {**HEADERS, **more})
    request: dict[str, Any] = {"host": "internal:8000", "headers": headers}
    await world.get("/x", **request)
    assert (await world.get("/x", **request)).hit
    receipt = await world.cache.purge(urls=["https://www.example.com/other"])
    assert (receipt.matched, receipt.seen) == (0, False)
    assert (await world.get("/x", **request)).hit
    receipt = await world.cache.purge(urls=[url])
    assert (receipt.matched, receipt.seen) == (1, True)
    assert not (await world.get("/x", **request)).hit
    # The target's own URL reaches it as ever, and with a soft purge it is stale.
    await world.cache.purge(urls=["http://internal:8000/x"])
    assert not (await world.get("/x", **request)).hit
    await world.idle()


@pytest.mark.parametrize(("headers", "url"), BEHIND)
def test_wsgi(headers: dict[str, str], url: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*HEADERS.items(), ("Content-Length", "1")])
        return [b"x"]

    gate = LayerGate(app, cache=HttpCache(runtime=ThreadRuntime()))
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    environ["HTTP_HOST"] = "internal:8000"
    ask(gate, "/x", **environ)
    assert "hit" in ask(gate, "/x", **environ).told
    assert gate.purge(urls=[url]).matched == 1
    assert "hit" not in ask(gate, "/x", **environ).told


async def test_a_fleet(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace) as fleet:
        fleet.origin.answers("/x", HEADERS)
        request: dict[str, Any] = {
            "host": "internal",
            "headers": {"x-forwarded-host": "www.example.com"},
        }
        await fleet[0].get("/x", **request)
        await fleet.idle()
        assert (await fleet[1].get("/x", **request)).hit
        assert (await fleet[0].cache.purge(urls=["https://www.example.com/x"])).final
        for world in fleet.worlds:
            calls = fleet.origin.total
            await world.get("/x", **request)
            await fleet.idle()
            assert fleet.origin.total == calls + (world is fleet[0])


async def test_what_is_under_way_is_not_joined_after_the_purge() -> None:
    world = World()
    gate = Gate()

    @world.origin.on("/x")
    async def handler(call: OriginCall) -> None:
        number = call.number
        if number == 1:
            await gate.wait()
        await call.reply(b"%d" % number, 200, HEADERS)

    request: dict[str, Any] = {
        "host": "internal",
        "headers": {"x-forwarded-host": "www.example.com"},
    }
    first = asyncio.ensure_future(world.get("/x", **request))
    await gate.reached()
    await world.cache.purge(urls=["https://www.example.com/x"])
    assert (await world.get("/x", **request)).body == b"2"
    gate.open()
    assert (await first).body == b"1"
    assert (await world.get("/x", **request)).body == b"2"


def test_labels_are_few_and_short() -> None:
    names = frozenset({b"x-forwarded-host", b"x-forwarded-prefix"})
    told = ", ".join(f"h{number}" for number in range(50)).encode()
    fields = Fields([(b"x-forwarded-host", told), (b"x-forwarded-prefix", b"/p")])
    assert len(public_labels("http://internal/x", fields, names)) == 4
    fields = Fields([(b"x-forwarded-host", b"h" * 1000)])
    assert public_labels("http://internal/x", fields, names) == ()
    fields = Fields([(b"x-forwarded-host", b"internal")])
    assert public_labels("http://internal/x", fields, names) == ()
    fields = Fields([(b"x-forwarded-host", b"\xff:x%zz")])
    assert len(public_labels("http://internal/x", fields, names)) <= 4
