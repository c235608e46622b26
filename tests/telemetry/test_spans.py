"""Which spans there are under ASGI, whose children they are, and what they link to."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode, TraceFlags

from layergate import CacheStack, HttpCache, MemoryLayer, Rule
from tests.core.support import DictLayer
from tests.support.asgi import Gate, OriginCall, World
from tests.support.clocks import LoopClock
from tests.telemetry.support import (
    Sdk,
    attributes,
    child_of,
    links_to,
    traced_world,
    traceparent_of,
)

SWR = {"cache-control": "max-age=10, stale-while-revalidate=60"}


@pytest.fixture
def world(sdk: Sdk) -> World:
    return traced_world(sdk)


def two_layers(sdk: Sdk, **options: Any) -> World:
    """Memory above a layer that takes time."""
    return traced_world(sdk, shared=DictLayer("below", later=True), **options)


def traced_origin(world: World, sdk: Sdk, path: str = "/a", **headers: str) -> None:
    """The app makes a span of its own."""

    @world.origin.on(path)
    async def handler(call: OriginCall) -> None:
        with sdk.app.start_as_current_span("query"):
            await call.reply(b"body", 200, {"cache-control": "max-age=60", **headers})


async def test_a_miss(world: World, sdk: Sdk) -> None:
    traced_origin(world, sdk)
    await world.get("/a")
    request, lookup = sdk.one("GET /a"), sdk.one("layergate.lookup")
    fetch, store = sdk.one("layergate.fetch"), sdk.one("layergate.store")
    assert child_of(lookup, request)
    assert child_of(fetch, request)
    assert child_of(sdk.one("query"), fetch)
    assert child_of(store, fetch)
    assert len(sdk.spans) == 5
    assert attributes(lookup)["layergate.result"] == "miss"
    assert attributes(fetch) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "layergate.cache.name": "LayerGate",
        "layergate.reason": "uri-miss",
    }
    assert attributes(store)["layergate.stored"] is True
    assert attributes(store)["layergate.size"] > 4
    assert fetch.status.status_code is StatusCode.UNSET


async def test_the_rule_that_matched_is_told_by_its_pattern(sdk: Sdk) -> None:
    world = traced_world(sdk, rules=[Rule("/users/{id}", ttl=60)])
    await world.get("/users/42")
    assert attributes(sdk.one("layergate.fetch"))["layergate.rule"] == "/users/{id}"
    assert "42" not in str([dict(attributes(span)) for span in sdk.spans])


async def test_a_hit_has_no_span_of_ours(world: World, sdk: Sdk) -> None:
    await world.get("/a")
    sdk.forget()
    assert (await world.get("/a")).hit
    assert sdk.names() == ["GET /a"]


async def test_a_hit_with_trace_hits_links_to_the_fetch(sdk: Sdk) -> None:
    world = traced_world(sdk, trace_hits=True)
    await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    sdk.forget()
    world.clock.advance(5)
    assert (await world.get("/a")).hit
    lookup = sdk.one("layergate.lookup")
    assert child_of(lookup, sdk.one("GET /a"))
    assert links_to(lookup, fetch)
    assert attributes(lookup)["layergate.result"] == "hit"
    assert attributes(lookup)["layergate.layer"] == "memory"
    assert lookup.start_time is not None
    assert lookup.end_time is not None
    assert 0 <= lookup.end_time - lookup.start_time < 1e9


async def test_a_share_of_the_hits(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.05, 0.5, 0.099, 0.1])
    monkeypatch.setattr(random, "random", lambda: next(draws))
    world = traced_world(sdk, trace_hits=0.1)
    await world.get("/a")  # (takes the first draw)
    sdk.forget()
    for _ in range(3):
        assert (await world.get("/a")).hit
    assert len(sdk.all("layergate.lookup")) == 1


async def test_a_hit_further_down(sdk: Sdk) -> None:
    world = two_layers(sdk)
    await world.get("/a")
    await world.idle()
    store, fetch = sdk.one("layergate.store"), sdk.one("layergate.fetch")
    assert child_of(store, fetch)  # though it was stored in the background
    world.cache.stack.layers[0].clear()
    sdk.forget()
    assert (await world.get("/a")).hit
    lookup, backfill = sdk.one("layergate.lookup"), sdk.one("layergate.backfill")
    assert child_of(lookup, sdk.one("GET /a"))
    assert child_of(backfill, lookup)
    assert links_to(lookup, fetch)
    assert attributes(lookup)["layergate.layer"] == "below"
    assert attributes(backfill)["layergate.source"] == "below"
    assert attributes(backfill)["layergate.layer"] == "memory"


async def test_a_background_refresh_is_a_trace_of_its_own(world: World, sdk: Sdk) -> None:
    traced_origin(world, sdk, **SWR)
    await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    sdk.forget()
    world.clock.advance(20)
    await world.get("/a")
    await world.idle()
    request, refresh = sdk.one("GET /a"), sdk.one("layergate.refresh")
    assert refresh.parent is None
    assert refresh.context.trace_id != request.context.trace_id
    assert links_to(refresh, request, fetch)
    assert child_of(sdk.one("query"), refresh)
    assert child_of(sdk.one("layergate.store"), refresh)
    lookup = sdk.one("layergate.lookup")
    assert child_of(lookup, request)
    assert attributes(lookup)["layergate.result"] == "stale"


async def test_a_revalidation(world: World, sdk: Sdk) -> None:
    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        headers = {"etag": '"1"', "cache-control": "max-age=10"}
        status = 304 if call.header("if-none-match") else 200
        await call.reply(b"" if status == 304 else b"body", status, headers)

    await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    sdk.forget()
    world.clock.advance(20)
    assert (await world.get("/a")).status == 200
    revalidate = sdk.one("layergate.revalidate")
    assert child_of(revalidate, sdk.one("GET /a"))
    assert links_to(revalidate, fetch)
    assert attributes(revalidate)["http.response.status_code"] == 304
    assert child_of(sdk.one("layergate.store"), revalidate)


async def test_a_follower_links_to_the_leaders_fetch(world: World, sdk: Sdk) -> None:
    gate = Gate()

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"body", 200, SWR)

    async with world.call("/a") as leader, world.call("/a") as follower:
        await world.waiting(1)
        gate.open()
        await leader.done()
        await follower.done()
    wait, fetch = sdk.one("layergate.wait"), sdk.one("layergate.fetch")
    first, second = sorted(sdk.all("GET /a"), key=lambda span: span.start_time or 0)
    assert child_of(fetch, first)
    assert child_of(wait, second)
    assert links_to(wait, fetch)
    assert attributes(wait)["layergate.wait.scope"] == "process"
    assert attributes(wait)["layergate.result"] == "streaming"


async def test_a_purge(world: World, sdk: Sdk) -> None:
    with sdk.app.start_as_current_span("publish"):
        await world.cache.purge(tags=["user:alice"], urls=["https://example.com/secret"])
    purge = sdk.one("layergate.purge")
    assert child_of(purge, sdk.one("publish"))
    assert attributes(purge) == {
        "layergate.cache.name": "LayerGate",
        "layergate.purge.applied": 1,
        "layergate.purge.final": True,
        "layergate.purge.instances": 1,
        "layergate.purge.kinds": ("key", "tag"),
        "layergate.purge.invalidations": 4,
        "layergate.purge.matched": 0,
        "layergate.purge.scope": "process",
    }


async def test_an_app_that_fails(world: World, sdk: Sdk) -> None:
    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        raise LookupError("the secret of alice")

    with pytest.raises(LookupError):
        await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    assert fetch.status.status_code is StatusCode.ERROR
    assert attributes(fetch)["error.type"] == "LookupError"
    ours = [span.to_json() for span in sdk.spans if span.name.startswith("layergate")]
    assert "alice" not in "".join(ours)


async def test_an_app_that_says_so(world: World, sdk: Sdk) -> None:
    world.origin.answers("/a", status=503)
    await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    assert fetch.status.status_code is StatusCode.ERROR
    assert attributes(fetch)["error.type"] == "503"
    assert attributes(fetch)["layergate.refused"] == "no-freshness"


async def test_a_body_that_breaks_off(world: World, sdk: Sdk) -> None:
    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        await call.start(200, SWR)
        await call.chunk(b"half")

    with pytest.raises(Exception, match="before its end"):
        await world.get("/a")
    assert attributes(sdk.one("layergate.fetch"))["error.type"] == "incomplete"
    assert not sdk.all("layergate.store")


async def test_a_client_that_is_cancelled_ends_every_span(world: World, sdk: Sdk) -> None:
    gate = Gate()

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"body", 200, SWR)

    async with world.call("/a") as leader, world.call("/a") as follower:
        await world.waiting(1)
        await leader.cancel()
        await follower.cancel()
    assert len(sdk.all("layergate.wait")) == 1
    gate.open()
    await world.idle()
    assert attributes(sdk.one("layergate.fetch"))["http.response.status_code"] == 200
    world.assert_nothing_left()


@pytest.mark.parametrize("headers", [{"cache-control": "private"}, {"cache-control": "no-store"}])
async def test_what_is_not_stored_says_why(world: World, sdk: Sdk, headers: dict[str, str]) -> None:
    world.origin.answers("/a", headers)
    await world.get("/a")
    fetch = sdk.one("layergate.fetch")
    assert attributes(fetch)["layergate.refused"] == headers["cache-control"]
    assert "error.type" not in attributes(fetch)
    assert not sdk.all("layergate.store")


async def test_what_cannot_be_shared_is_fetched_in_its_request(world: World, sdk: Sdk) -> None:
    traced_origin(world, sdk)
    await world.get("/a", headers={"authorization": "Bearer x", "cache-control": "no-cache"})
    fetch = sdk.one("layergate.fetch")
    assert child_of(fetch, sdk.one("GET /a"))
    assert child_of(sdk.one("query"), fetch)


# -- what an app that traces by header fields is told ---------------------------------------------

CLIENTS = "00-11111111111111111111111111111111-2222222222222222-01"
TRACED = {"traceparent": CLIENTS, "tracestate": "a=b", "baggage": "user=42"}


def told_by_header(world: World, path: str = "/a", **headers: str) -> list[tuple[str | None, ...]]:
    """What each call of the app has in its fields of a trace."""
    seen = []

    @world.origin.on(path)
    async def handler(call: OriginCall) -> None:
        seen.append(tuple(call.header(name) for name in TRACED))
        await call.reply(b"body", 200, {**SWR, **headers})

    return seen


async def test_the_app_is_called_as_part_of_the_fetch(world: World, sdk: Sdk) -> None:
    seen = told_by_header(world)
    # Shared; then in its request's own task.
    for alone in ({}, {"authorization": "Bearer x", "cache-control": "no-cache"}):
        sdk.forget()
        request = {**TRACED, **alone}
        answer = await world.get("/a", headers=request)
        assert answer.status == 200
        assert seen.pop() == (traceparent_of(sdk.one("layergate.fetch")), None, "user=42")
    assert seen == []


async def test_a_refresh_is_no_part_of_any_request(world: World, sdk: Sdk) -> None:
    seen = told_by_header(world)
    await world.get("/a", headers=TRACED)
    world.clock.advance(20)
    await world.get("/a", headers=TRACED)
    await world.idle()
    assert seen[1] == (traceparent_of(sdk.one("layergate.refresh")), None, None)


async def test_a_trace_that_nobody_has_taken_up_is_passed_on(sdk: Sdk) -> None:
    world = World(telemetry=sdk.telemetry)  # there is no span of the request
    seen = told_by_header(world)
    await world.get("/a", headers=TRACED)
    assert seen == [tuple(TRACED.values())]


async def test_that_a_trace_is_not_sampled_is_passed_on_too() -> None:
    sdk = Sdk(ALWAYS_OFF)
    world = traced_world(sdk)
    seen = told_by_header(world)
    await world.get("/a", headers=TRACED)
    ((traceparent, tracestate, baggage),) = seen
    assert traceparent is not None
    assert traceparent != CLIENTS
    assert not int(traceparent[-2:], 16) & TraceFlags.SAMPLED
    assert (tracestate, baggage) == (None, "user=42")
    sdk.close()


async def test_without_telemetry_nothing_is_changed() -> None:
    world = World(telemetry=False)
    seen = told_by_header(world)
    await world.get("/a", headers=TRACED)
    assert seen == [tuple(TRACED.values())]


async def test_a_broken_propagator_breaks_no_request(
    world: World, sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inject(*_: Any, **__: Any) -> None:
        raise RuntimeError("inject")

    monkeypatch.setattr(propagate.get_global_textmap(), "inject", inject)
    seen = told_by_header(world)
    await world.get("/a", headers=TRACED)
    assert seen == [tuple(TRACED.values())]


# -- what is not told -----------------------------------------------------------------------------


async def everything(world: World) -> None:
    """A little of all, with something secret wherever a client or an app can put it."""
    secret: dict[str, Any] = {
        "query": b"token=secret",
        "headers": {"cookie": "session=secret", "x-api-key": "secret", "accept": "secret"},
    }
    tagged = {**SWR, "cache-tag": "secret", "vary": "accept", "etag": '"secret"'}
    for path, headers in (("/secret/a", tagged), ("/secret/b", {"cache-control": "private"})):
        world.origin.answers(path, headers, b"secret")
        for _ in range(2):
            await world.get(path, **secret)
            await world.get(path)
    world.clock.advance(20)
    await world.get("/secret/a", **secret)
    await world.idle()
    await world.cache.purge(tags=["secret"], prefixes=["example.com/secret"])


@pytest.mark.parametrize("trace_keys", [False, True])
async def test_no_attribute_has_a_key_a_query_or_a_field(sdk: Sdk, trace_keys: bool) -> None:
    world = World(telemetry=sdk.telemetry, trace_hits=True, trace_keys=trace_keys)
    await everything(world)
    assert sdk.spans
    told = sdk.told()
    assert "secret" not in told
    assert "example.com" not in told
    assert ("layergate.key.hash" in told) is trace_keys


async def test_a_hashed_key_is_the_same_everywhere(sdk: Sdk) -> None:
    hashes = set()
    for _ in range(2):
        world = World(telemetry=sdk.telemetry, trace_keys=True)
        await world.get("/a")
        hashes |= {attributes(span).get("layergate.key.hash") for span in sdk.spans}
        sdk.forget()
    assert len(hashes) == 1
    await world.get("/b")
    assert attributes(sdk.one("layergate.fetch"))["layergate.key.hash"] not in hashes


async def test_what_is_not_sampled_is_not_referred_to() -> None:
    sdk = Sdk(ALWAYS_OFF)
    world = traced_world(sdk)
    await world.get("/a")
    entry = next(iter(world.cache.stack.layers[0]._nodes.values())).entry
    assert entry.value.traceparent is None
    assert not sdk.spans
    sdk.close()


async def test_off_is_off(sdk: Sdk) -> None:
    world = World(telemetry=False, trace_hits=True)
    assert world.cache.stack.counters.tracer is None
    assert world.cache.first_look == world.cache.peek
    await world.get("/a")


async def test_a_broken_processor_breaks_no_request(sdk: Sdk) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("on_start")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("on_end")

    world = World(telemetry=sdk.telemetry, trace_hits=True)
    sdk.tracers.add_span_processor(Broken())
    assert (await world.get("/a")).body == (await world.get("/a")).body
    assert (await world.get("/a")).hit
    await world.cache.purge(everything=True)


# -- CacheStack -----------------------------------------------------------------------------------


async def test_a_stack_traces_its_fetches(sdk: Sdk) -> None:
    clock = LoopClock()
    stack = CacheStack(
        [MemoryLayer("1MB", clock=clock.now)], runtime=clock, telemetry=sdk.telemetry, ttl=10
    )
    gate = asyncio.Event()

    async def fetch() -> str:
        with sdk.app.start_as_current_span("query"):
            await gate.wait()
        return "value"

    async def ask(name: str) -> Any:
        with sdk.app.start_as_current_span(name):
            return await stack.get("k", fetch, stale_while_revalidate=60)

    calls = [asyncio.create_task(ask(name)) for name in ("one", "two")]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*calls) == ["value", "value"]
    made, wait = sdk.one("layergate.fetch"), sdk.one("layergate.wait")
    assert child_of(made, sdk.one("one"))
    assert child_of(sdk.one("query"), made)
    assert child_of(sdk.one("layergate.store"), made)
    assert child_of(sdk.one("layergate.lookup"), sdk.one("one"))
    assert child_of(wait, sdk.one("two"))
    assert links_to(wait, made)
    sdk.forget()
    clock.advance(20)
    await ask("three")
    await stack.aclose()
    refresh = sdk.one("layergate.refresh")
    assert refresh.parent is None
    assert links_to(refresh, sdk.one("three"))
    assert child_of(sdk.one("query"), refresh)
    assert child_of(sdk.one("layergate.lookup"), refresh)


def test_one_object_serves_several_caches(sdk: Sdk) -> None:
    one, other = (HttpCache(telemetry=sdk.telemetry) for _ in range(2))
    assert one.stack.counters.tracer is not other.stack.counters.tracer
