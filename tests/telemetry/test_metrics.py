"""Metrics: what is counted, that it is what `stats` says, and that nothing is counted twice."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest

from layergate import CacheStack, HttpCache, MemoryLayer, Rule
from layergate.core.events import EVERY
from layergate.telemetry import names
from tests.core.support import DictLayer
from tests.core.test_fleet import SharedDict
from tests.support.asgi import Gate, OriginCall, World
from tests.telemetry.support import Sdk, traced_world

SWR = {"cache-control": "max-age=10, stale-while-revalidate=60, stale-if-error=60"}


@pytest.fixture
def world(sdk: Sdk) -> World:
    return World(telemetry=sdk.telemetry)


def requests(sdk: Sdk) -> dict[str, int]:
    return {k: v for k, v in sdk.values("layergate.requests").items() if v}


# -- requests by outcome --------------------------------------------------------------------------


async def test_each_request_has_one_outcome(sdk: Sdk) -> None:
    world = World(telemetry=sdk.telemetry, rules=[Rule("/bypass", bypass=True)])
    gate = Gate()

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        if call.header("if-none-match"):
            await call.reply(b"", 304, {"cache-control": "max-age=10", "etag": '"1"'})
        else:
            await call.reply(b"body", 200, {**SWR, "etag": '"1"'})

    async with world.call("/a") as leader, world.call("/a") as follower:
        await world.waiting(1)
        gate.open()
        await leader.done()
        await follower.done()
    assert requests(sdk) == {"outcome=miss": 1, "outcome=collapsed": 1}
    await world.get("/a")  # the plain hit
    await world.get("/a", headers={"if-none-match": '"1"'})  # one to look closer at
    assert requests(sdk)["layer=memory outcome=hit"] == 2
    world.clock.advance(20)
    await world.get("/a")
    await world.idle()
    assert requests(sdk)["layer=memory outcome=stale"] == 1
    await world.get("/a", headers={"cache-control": "no-cache"})
    assert requests(sdk)["outcome=revalidated"] == 1
    await world.get("/bypass")
    await world.get("/a", headers={"if-match": '"1"'})
    assert requests(sdk)["outcome=bypass"] == 2
    assert sum(requests(sdk).values()) == 8


async def test_a_hit_further_down_counts_for_its_layer(sdk: Sdk) -> None:
    world = World(telemetry=sdk.telemetry, shared=DictLayer("below", later=True))
    await world.get("/a")
    await world.idle()
    world.cache.stack.layers[0].clear()
    for _ in range(3):
        assert (await world.get("/a")).hit
    assert requests(sdk) == {
        "layer=below outcome=hit": 1,
        "layer=memory outcome=hit": 2,
        "outcome=miss": 1,
    }
    assert sdk.values("layergate.backfills") == {"layer=memory source=below": 1}
    assert world.cache.stats()["events"]["hit"] == 3


async def test_what_is_known_not_to_be_shareable_is_a_miss(world: World, sdk: Sdk) -> None:
    world.origin.answers("/a", {"cache-control": "private"})
    for _ in range(4):
        await world.get("/a")
    assert requests(sdk) == {"outcome=miss": 4}
    assert sdk.values("layergate.refusals") == {"reason=hit-for-miss": 3, "reason=private": 1}


async def test_stale_in_place_of_an_error_is_stale(world: World, sdk: Sdk) -> None:
    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            raise LookupError
        await call.reply(b"body", 200, {"cache-control": "max-age=10, stale-if-error=60"})

    await world.get("/a")
    world.clock.advance(20)
    assert (await world.get("/a")).body == b"body"
    assert requests(sdk) == {"outcome=miss": 1, "outcome=stale": 1}
    assert sdk.values("layergate.stale") == {"reason=stale-if-error": 1}
    assert sdk.values("layergate.fetch.errors") == {"": 1}


async def test_an_app_that_fails_is_a_miss(world: World, sdk: Sdk) -> None:
    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await world.get("/a")
    assert requests(sdk) == {"outcome=miss": 1}


async def test_metrics_and_stats_are_the_same_numbers(world: World, sdk: Sdk) -> None:
    for path in ("/a", "/b", "/a"):
        await world.get(path)
    world.clock.advance(100)
    await world.get("/a")
    await world.cache.purge(tags=["x"])
    events = world.cache.stats()["events"]
    for event, instrument in names.COUNTS.items():
        assert sum(sdk.values(instrument.name).values()) == events[event], event
    counted = requests(sdk)
    assert counted["layer=memory outcome=hit"] == events["hit"] == 1
    assert counted["outcome=miss"] == events["miss"] == 3


async def test_what_may_happen_is_told_before_it_does(sdk: Sdk) -> None:
    world = World(telemetry=sdk.telemetry, shared=DictLayer("below", later=True))
    assert sdk.values("layergate.requests") == {
        "layer=memory outcome=hit": 0,
        "layer=below outcome=hit": 0,
        "layer=memory outcome=stale": 0,
        "layer=below outcome=stale": 0,
        "outcome=revalidated": 0,
        "outcome=miss": 0,
        "outcome=bypass": 0,
        "outcome=collapsed": 0,
    }
    assert sdk.values("layergate.write.errors") == {"layer=memory": 0, "layer=below": 0}
    assert sdk.values("layergate.fetch.errors") == {"": 0}
    assert world.origin.total == 0


# -- durations ------------------------------------------------------------------------------------


async def test_a_fetchs_duration_and_its_exemplar(sdk: Sdk) -> None:
    world = traced_world(sdk)
    await world.get("/a")
    world.origin.answers("/b", status=500)
    await world.get("/b")
    fetches = {span.context.span_id for span in sdk.all("layergate.fetch")}
    points = sdk.points("layergate.fetch.duration")  # (exemplars are told once)
    assert {one.span_id for point in points for one in point.exemplars} == fetches
    assert all(tuple(point.explicit_bounds)[:2] == (0.005, 0.01) for point in points)
    assert sdk.values("layergate.fetch.duration") == {
        "http.response.status_code=200 operation=fetch": 1,
        "error.type=500 http.response.status_code=500 operation=fetch": 1,
    }


async def test_a_waits_duration(world: World, sdk: Sdk) -> None:
    gate = Gate()

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"body", 200, SWR)

    async with world.call("/a") as leader, world.call("/a") as follower:
        await world.waiting(1)
        assert sdk.values("layergate.waiters") == {"": 1}
        assert sdk.values("layergate.flights") == {"": 1}
        gate.open()
        await leader.done()
        await follower.done()
    assert sdk.values("layergate.wait.duration") == {"wait.scope=process": 1}
    assert sdk.values("layergate.waiters") == {"": 0}


async def test_a_purges_time_to_applied(world: World, sdk: Sdk) -> None:
    await world.cache.purge(tags=["x"])
    assert sdk.values("layergate.purge.duration") == {"purge.final=True": 1}
    assert sdk.values("layergate.purges") == {"": 1}


async def test_one_hit_in_so_many_tells_its_age(world: World, sdk: Sdk) -> None:
    await world.get("/a")
    world.clock.advance(30)
    for _ in range(2 * (EVERY + 1) + 5):
        await world.get("/a")
    assert sdk.values("layergate.hit.age") == {"layer=memory": 2}
    assert sdk.points("layergate.hit.age")[0].sum == pytest.approx(60)


# -- state ----------------------------------------------------------------------------------------


class SickLayer(DictLayer):
    def stats(self) -> Mapping[str, int | float]:
        return {"breaker": 2, "errors": 5}


async def test_what_layers_say_of_themselves(sdk: Sdk) -> None:
    low = SickLayer("low", later=True)
    world = World(telemetry=sdk.telemetry, memory="1MB", shared=low)
    memory: Any = world.cache.stack.layers[0]
    low.fail.add("set")
    low.fail.add("get")
    await world.get("/a")
    await world.idle()
    assert sdk.values("layergate.layer.entries") == {"layer=memory": 1}
    assert sdk.values("layergate.layer.usage") == {"layer=memory": memory.bytes_used}
    assert sdk.values("layergate.layer.limit") == {"layer=memory": 1024**2}
    assert sdk.values("layergate.evictions") == {"layer=memory": 0}
    assert sdk.values("layergate.breaker.state") == {"layer=low": 2}
    assert sdk.values("layergate.write.errors") == {"layer=low": 1, "layer=memory": 0}
    assert sdk.values("layergate.layer.errors")["layer=low operation=get"] >= 1


class Told(SharedDict):
    def join(self, joining: Any) -> Any:
        log, leases = super().join(joining)
        log.stats = lambda: {"log_position": 12, "log_lag": 3, "log_outbox": 1, "log_trusted": 1}
        return log, leases


async def test_what_the_log_says_of_itself(sdk: Sdk) -> None:
    world = World(telemetry=sdk.telemetry, shared=Told("shared", later=True))
    assert sdk.values("layergate.log.position") == {"": 12}
    assert sdk.values("layergate.log.lag") == {"": 3}
    assert sdk.values("layergate.log.outbox") == {"": 1}
    assert sdk.values("layergate.log.trusted") == {"": 1}
    assert world.cache.stack.shared_log is not None


async def test_caches_that_cannot_be_told_apart_are_added_up(sdk: Sdk) -> None:
    worlds = [World(telemetry=sdk.telemetry) for _ in range(2)]
    other = World(telemetry=sdk.telemetry, name="other")
    for world in (*worlds, other):
        await world.get("/a")
    points = {
        point.attributes["layergate.cache.name"]: point.value
        for point in sdk.points("layergate.requests")
        if point.attributes["layergate.outcome"] == "miss"
    }
    assert points == {"LayerGate": 2, "other": 1}


def test_a_cache_that_is_gone_is_not_held(sdk: Sdk) -> None:
    kept = HttpCache(telemetry=sdk.telemetry, memory="1MB", name="kept")
    gone = HttpCache(telemetry=sdk.telemetry, memory="1MB", name="gone")
    assert len(sdk.points("layergate.layer.limit")) == 2
    del gone
    gc.collect()
    points = sdk.points("layergate.layer.limit")
    assert [point.attributes["layergate.cache.name"] for point in points] == ["kept"]
    assert kept.options.name == "kept"


async def test_a_stack_of_ones_own(sdk: Sdk) -> None:
    stack = CacheStack([MemoryLayer("1MB")], telemetry=sdk.telemetry, ttl=10, name="users")
    for _ in range(3):
        assert await stack.get("k", lambda: 1) == 1
    assert {k: v for k, v in sdk.values("layergate.requests").items() if v} == {
        "layer=memory outcome=hit": 2,
        "outcome=miss": 1,
    }
    assert sdk.values("layergate.fetch.duration") == {"operation=fetch": 1}
    assert {p.attributes["layergate.cache.name"] for p in sdk.points("layergate.stores")} == {
        "users"
    }
    await stack.aclose()


# -- names ----------------------------------------------------------------------------------------


def test_names_follow_the_conventions() -> None:
    instruments = {
        instrument
        for group in (names.DURATIONS, names.COUNTS, names.LAYERS, names.LOG, names.STATES)
        for instrument in group.values()
    } | {names.REQUESTS, names.AGES}
    all_names = [instrument.name for instrument in instruments]
    assert len(set(all_names)) == len(all_names)
    for instrument in instruments:
        assert instrument.name.startswith("layergate.")
        assert instrument.unit in {"s", "By"} or instrument.unit.startswith("{")
        # "Names SHOULD NOT coincide with namespaces."
        assert not any(name.startswith(instrument.name + ".") for name in all_names)
        assert instrument.description.endswith(".")
    assert set(names.BUCKETS) == {i.name for i in instruments if i.kind == "histogram"}
    assert set(names.DURATIONS) <= set(names.SPANS)
