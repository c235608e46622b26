"""What was made stale stays stale, whatever the wall clock does, while its stale windows still run."""

from __future__ import annotations

from typing import Any

from layergate import CacheStack, HttpCache, MemoryLayer
from layergate.core.entry import Entry
from layergate.layers.redis import RedisLayer
from layergate.wsgi import LayerGate
from tests.fleet.support import Fleet
from tests.support.asgi import OriginCall, World
from tests.support.clocks import LoopClock, ThreadClock
from tests.support.waiting import wait_until
from tests.support.wsgi import ask

pytest_plugins = ("tests.support.redis_servers",)

HEADERS = {"cache-control": "max-age=60, stale-while-revalidate=600"}
URL = "http://example.com/page"


def test_no_clock_makes_it_fresh_again() -> None:
    entry = Entry("v", created=0.0, fresh_until=60.0, stale_while_revalidate=30.0)
    entry.outdate(40.0)
    for now in (-1e6, 0.0, 39.0, 40.0):
        assert entry.fresh_until <= now or now < 0  # what the hit path asks
        assert entry.staleness(now) == 0.0
    assert entry.staleness(50.0) == 10.0 and entry.stale_from == 40.0
    entry.outdate(55.0)  # the windows run from the first
    assert entry.stale_from == 40.0
    for copy in (entry.clipped(1e9), entry.windowed(5.0, None), entry.distrusted(1e9)):
        assert copy.fresh_until == 0.0 and copy.stale_from == 40.0
    assert entry.clipped(20.0).stale_from == 20.0
    assert entry.expires == 90.0 == entry.clipped(1e9).expires


def test_one_that_had_ended_when_it_was_purged_stays_so() -> None:
    """Its lifetime was over, by the clock of that moment."""
    entry = Entry("v", created=0.0, fresh_until=60.0, stale_while_revalidate=30.0)
    entry.outdate(70.0)
    assert entry.stale_from == 60.0 and entry.staleness(10.0) == 0.0 and entry.fresh_until == 0.0


async def test_asgi() -> None:
    world = World()
    world.origin.answers("/page", HEADERS)
    await world.get("/page")
    assert (await world.get("/page")).hit
    await world.cache.purge(urls=[URL], soft=True)
    world.clock.advance(-30)  # to a time at which it was fresh
    stale = await world.get("/page")
    assert "stale-while-revalidate" in stale.cache_status
    await world.idle()
    assert world.origin.total == 2


async def test_a_head_that_outdates() -> None:
    """The same, by another way: a HEAD says that the page has changed."""
    world = World()

    @world.origin.on("/page")
    async def page(call: OriginCall) -> None:
        await call.reply(b"", 200, {**HEADERS, "etag": f'"{call.number}"'})

    await world.get("/page")
    await world.get("/page", method="HEAD", headers={"cache-control": "no-cache"})
    await world.idle()
    world.clock.advance(-30)
    assert "stale-while-revalidate" in (await world.get("/page")).cache_status
    await world.idle()


def test_wsgi() -> None:
    calls = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        calls.append(1)
        start_response("200 OK", [*HEADERS.items(), ("Content-Length", "1")])
        return [b"x"]

    clock = ThreadClock()
    gate = LayerGate(app, cache=HttpCache(runtime=clock))
    ask(gate, "/page", HTTP_HOST="example.com")
    assert "hit" in ask(gate, "/page", HTTP_HOST="example.com").told
    gate.purge(urls=[URL], soft=True)
    clock.advance(-30)
    assert "stale-while-revalidate" in ask(gate, "/page", HTTP_HOST="example.com").told
    wait_until(lambda: len(calls) == 2)


async def test_in_a_fleet_and_in_the_layer_that_is_shared(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace) as fleet:
        fleet.origin.answers("/page", {"cache-control": "max-age=60, stale-if-error=600"})
        await fleet[0].get("/page")
        await fleet.idle()
        assert (await fleet[1].get("/page")).hit
        assert (await fleet[0].cache.purge(urls=[URL], soft=True)).final
        fleet.clock.advance(-30)
        fleet[1].cache.stack.layers[0].clear()  # so it comes from Redis
        fleet.origin.answers("/page", {}, status=503)
        for world in (fleet[1], fleet[0]):
            stale = await world.get("/page")
            assert stale.status == 200 and "stale-if-error" in stale.cache_status
        assert fleet.origin.total == 3


async def test_a_stack_of_values(shared_valkey: Any) -> None:
    runtime = LoopClock()
    layer = RedisLayer(shared_valkey.url, namespace=shared_valkey.namespace)
    stack = CacheStack([MemoryLayer("1MB"), layer], runtime=runtime, ttl=60)
    fetched: list[int] = []

    async def fetch() -> int:
        fetched.append(1)
        return len(fetched)

    options: dict[str, Any] = {"tags": ["t"], "stale_while_revalidate": 600}
    assert await stack.get("k", fetch, **options) == 1
    await stack.invalidate_by_tag("t", soft=True)
    runtime.advance(-30)
    stack.layers[0].clear()
    assert await stack.get("k", fetch, **options) == 1  # stale, and refreshed
    await runtime.aclose(5.0)
    assert fetched == [1, 1]
    await stack.aclose()
