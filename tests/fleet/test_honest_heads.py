"""G11 with a layer that instances share: a head says ``stored`` if that, or the memory, takes it."""

from __future__ import annotations

from typing import Any

from tests.fleet.support import Fleet
from tests.support.proxy import Proxy

pytest_plugins = ("tests.support.redis_servers",)

FRESH = {"cache-control": "max-age=60"}
STORED = "LayerGate; fwd=uri-miss; stored"
NO_ROOM = "LayerGate; fwd=uri-miss; detail=no-room"


async def test_what_redis_takes_is_stored_though_the_memory_does_not(shared_valkey: Any) -> None:
    layer = {"max_size": "100KB", "timeout": 5.0, "max_disconnected": 20.0}
    namespace = shared_valkey.namespace
    async with Fleet(shared_valkey.url, namespace, memory="400KB", layer=layer) as fleet:
        for path, size, said in (("/small", 10, STORED), ("/large", 80_000, STORED)):
            fleet.origin.answers(path, FRESH, b"x" * size)
            assert (await fleet[0].get(path)).cache_status == said
            await fleet.idle()
            assert (await fleet[1].get(path)).hit
        assert (
            fleet[0].cache.options.max_body == 99 * 1024
        )  # what Redis takes, the larger of the two
        fleet.origin.answers("/too-large", FRESH, b"x" * 102_000)
        told = (await fleet[0].get("/too-large")).cache_status
        assert told == "LayerGate; fwd=uri-miss; detail=too-large"


async def test_a_redis_that_does_not_answer_stores_nothing(proxy: Proxy) -> None:
    """What the memory takes is stored all the same."""
    layer = {"timeout": 5.0, "max_disconnected": None}
    async with Fleet(proxy.url, "honest", count=1, memory="400KB", layer=layer) as fleet:
        world = fleet[0]
        breaker = world.cache.stack.layers[1]._client.breaker
        proxy.refuse()
        fleet.origin.answers("/large", FRESH, b"x" * 80_000)  # more than an eighth of the memory
        fleet.origin.answers("/small", FRESH, b"x" * 10)
        for number in range(20):
            await world.get(f"/{number}")
            if breaker.state == "open":
                break
        assert breaker.state == "open"
        assert (await world.get("/large")).cache_status == NO_ROOM
        assert (await world.get("/small")).cache_status == STORED
        assert (await world.get("/small")).hit
