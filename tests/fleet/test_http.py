"""Several instances of the HTTP cache on one real Redis, in one process: what one of them fetches,
stores, refuses or purges, the others know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from layergate import LayerGate, Rule
from layergate.asgi.scope import read_request
from layergate.core.invalidation import PurgeReceipt
from layergate.core.shared import Waited
from layergate.errors import OriginAborted
from layergate.http.explain.report import Explanation
from layergate.http.explain.walk import explain
from tests.fleet.support import Fleet
from tests.support.asgi import Gate, Lifespan, OriginCall, World, scope_of
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)

FRESH = {"cache-control": "max-age=60"}
SWR = {"cache-control": "max-age=10, stale-while-revalidate=60"}


@pytest.fixture
async def fleet(shared_valkey: Any) -> AsyncIterator[Fleet]:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, count=3) as fleet:
        yield fleet


async def settled(fleet: Fleet) -> None:
    await fleet.idle()
    for world in fleet.worlds:
        world.assert_nothing_left()


async def test_what_one_has_fetched_the_others_have(fleet: Fleet) -> None:
    first = await fleet[0].get("/a")
    await fleet.idle()
    second, third = await fleet[1].get("/a"), await fleet[2].get("/a")
    assert fleet.origin.total == 1
    assert first.body == second.body == third.body
    assert second.hit
    assert fleet[1].count("backfill") == 1
    again = await fleet[1].get("/a")  # from its own memory now
    assert again.hit
    assert fleet[1].count("backfill") == 1
    await settled(fleet)


async def test_what_a_304_names_for_one_the_others_have(shared_valkey: Any) -> None:
    namespace = shared_valkey.namespace
    async with Fleet(shared_valkey.url, namespace, count=3, nominate_codings=True) as fleet:

        @fleet.origin.on("/v")
        async def varies(call: OriginCall) -> None:
            coding = call.header("accept-encoding") or ""
            tag = f'"{coding}"' if call.header("if-none-match") is None else '"b"'
            headers = {"etag": tag, "vary": "Accept-Encoding", **FRESH}
            if call.header("if-none-match") is None or coding == "b":
                await call.reply(coding.encode(), 200, headers)
            else:
                await call.reply(b"", 304, {**headers, "x-new": "1"})

        for value in ("a", "b"):
            await fleet[0].get("/v", headers={"accept-encoding": value})
            await fleet.idle()
        named = await fleet[0].get("/v", headers={"accept-encoding": "c"})
        await fleet.idle()
        assert named.body == b"b" and "fwd=vary-miss; fwd-status=304; stored" in named.cache_status
        assert fleet.origin.total == 3
        for instance in (1, 2):
            there = await fleet[instance].get("/v", headers={"accept-encoding": "c"})
            assert there.hit and there.body == b"b" and there.header("x-new") == "1"
        # One that has stored none of the variants sends no tags, and gets a response of its own.
        other = await fleet[1].get("/v", headers={"accept-encoding": "d"})
        assert other.body == b"d" and fleet.origin.total == 4
        await settled(fleet)


async def test_what_no_vary_search_makes_one_is_one_for_all(shared_valkey: Any) -> None:
    namespace = shared_valkey.namespace
    async with Fleet(shared_valkey.url, namespace, count=3, no_vary_search=True) as fleet:

        @fleet.origin.on("/s")
        async def says(call: OriginCall) -> None:
            headers = {"no-vary-search": 'params=("utm")', **FRESH}
            await call.reply(call.scope["query_string"], 200, headers)

        await fleet[0].get("/s", query=b"utm=0")
        await fleet.idle()
        for instance in (0, 1, 2):
            there = await fleet[instance].get("/s", query=b"utm=x%d" % instance)
            assert there.hit and there.body == b"utm=0"
        receipt = await fleet[2].cache.purge(urls=["http://example.com/s?utm=other"])
        assert receipt.final
        for instance, body in ((0, b"utm=a0"), (1, b"utm=a0")):  # (G3) and one fetch for both
            again = await fleet[instance].get("/s", query=b"utm=a%d" % instance)
            await fleet.idle()
            assert again.body == body
        burst = [fleet[n % 3].get("/s", query=b"id=1&utm=%d" % n) for n in range(12)]
        assert len({call.body for call in await asyncio.gather(*burst)}) == 1
        assert fleet.origin.total == 3
        await settled(fleet)


async def test_g2_a_burst_over_all_is_one_fetch(fleet: Fleet) -> None:
    gate = Gate()

    @fleet.origin.on("/slow")
    async def slow(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"one", 200, FRESH)

    burst = asyncio.ensure_future(fleet.burst("/slow", each=20))
    await gate.reached()
    await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
    gate.open()
    calls = await burst
    assert fleet.origin.total == 1
    assert {call.body for call in calls} == {b"one"}
    await settled(fleet)


async def test_g2_a_body_that_takes_long_is_waited_for(fleet: Fleet) -> None:
    gate = Gate()

    @fleet.origin.on("/long")
    async def long(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"a")
        await gate.wait()
        await call.end(b"b")

    burst = asyncio.ensure_future(fleet.burst("/long", each=3))
    await gate.reached()
    await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
    gate.open()
    calls = await burst
    assert fleet.origin.total == 1
    assert {call.body for call in calls} == {b"ab"}
    await settled(fleet)


async def test_g4_what_is_not_shareable_queues_nowhere(fleet: Fleet) -> None:
    """The head of the first response lets everyone go, on every instance, while its body is still
    under way."""
    head, rest = Gate(), Gate()

    @fleet.origin.on("/private")
    async def private(call: OriginCall) -> None:
        if call.number == 1:
            await head.wait()
        await call.start(200, {"cache-control": "private"})
        await rest.wait()
        await call.end(b"%d" % call.number)

    burst = asyncio.ensure_future(fleet.burst("/private", each=2))
    await head.reached()
    await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
    head.open()
    await rest.reached(6)  # all at the same time
    assert fleet.origin.most_running == 6
    rest.open()
    calls = await burst
    assert len({call.body for call in calls}) == 6
    await fleet.idle()
    # The marker is known to those who have not asked yet.
    fleet.origin.most_running = 0
    await fleet.burst("/private", each=2)
    assert sum(world.count("lease_wait") for world in fleet.worlds) == 2
    await settled(fleet)


async def test_g2_another_instance_takes_over_from_one_whose_app_fails(fleet: Fleet) -> None:
    gate = Gate()

    @fleet.origin.on("/fails")
    async def fails(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
            raise RuntimeError("no")
        await call.reply(b"fine", 200, FRESH)

    first = asyncio.ensure_future(fleet[0].get("/fails"))
    await gate.reached()
    others = asyncio.ensure_future(asyncio.gather(fleet[1].get("/fails"), fleet[2].get("/fails")))
    await until(lambda: fleet[1].count("lease_wait") + fleet[2].count("lease_wait") == 2)
    gate.open()
    with pytest.raises(RuntimeError, match="no"):
        await first
    assert {call.body for call in await others} == {b"fine"}
    assert fleet.origin.total == 2
    await settled(fleet)


async def test_g2_a_request_cancelled_while_it_waits_for_a_lease_leaves_nothing(
    fleet: Fleet,
) -> None:
    gate = Gate()

    @fleet.origin.on("/slow")
    async def slow(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"one", 200, FRESH)

    leader = asyncio.ensure_future(fleet[0].get("/slow"))
    await gate.reached()
    waiter = fleet[1].call("/slow")
    await until(lambda: fleet[1].count("lease_wait") == 1)
    follower = asyncio.ensure_future(fleet[1].get("/slow"))
    await fleet[1].waiting(1)
    await waiter.cancel()
    await until(lambda: fleet[1].count("lease_wait") == 2)  # who followed it waits in its place
    gate.open()
    assert (await leader).body == (await follower).body == b"one"
    assert fleet.origin.total == 1
    await settled(fleet)


@pytest.mark.parametrize("fallback", ["fetch", "504"])
async def test_after_the_collapse_timeout(shared_valkey: Any, fallback: str) -> None:
    gate = Gate()
    options: dict[str, Any] = {"collapse_timeout": 0.2, "collapse_fallback": fallback}
    async with Fleet(shared_valkey.url, shared_valkey.namespace, **options) as fleet:

        @fleet.origin.on("/slow")
        async def slow(call: OriginCall) -> None:
            if call.number == 1:
                await gate.wait()
            await call.reply(b"%d" % call.number, 200, FRESH)

        first = asyncio.ensure_future(fleet[0].get("/slow"))
        await gate.reached()
        second = await fleet[1].get("/slow")
        if fallback == "504":
            assert second.status == 504
            assert (await fleet[0].get("/slow")).status == 504  # in the same instance as well
        else:
            assert second.body == b"2"
        gate.open()
        assert (await first).status == 200
        await settled(fleet)


@pytest.mark.parametrize("fallback", ["fetch", "504"])
async def test_after_the_collapse_timeout_stale_if_error_comes_first(
    shared_valkey: Any, fallback: str
) -> None:
    gate = Gate()
    options: dict[str, Any] = {"collapse_timeout": 0.2, "collapse_fallback": fallback}
    async with Fleet(shared_valkey.url, shared_valkey.namespace, **options) as fleet:

        @fleet.origin.on("/slow")
        async def slow(call: OriginCall) -> None:
            if call.number == 2:
                await gate.wait()
            await call.reply(
                b"%d" % call.number, 200, {"cache-control": "max-age=10, stale-if-error=60"}
            )

        await fleet[0].get("/slow")
        await fleet.idle()
        fleet.clock.advance(20)
        first = asyncio.ensure_future(fleet[0].get("/slow"))
        await gate.reached()
        second = await fleet[1].get("/slow")
        assert second.body == b"1"
        assert "stale" in second.cache_status
        gate.open()
        assert (await first).body == b"2"
        await settled(fleet)


async def test_a_stale_response_is_refreshed_once_in_the_fleet(fleet: Fleet) -> None:
    gate = Gate()

    @fleet.origin.on("/swr")
    async def swr(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, 200, SWR)

    await fleet[0].get("/swr")
    await fleet.idle()
    await fleet.everywhere("/swr")
    fleet.clock.advance(20)
    calls = await fleet.burst("/swr", each=3)
    assert {call.body for call in calls} == {b"1"}
    await gate.reached()
    await until(lambda: sum(world.count("refresh_skipped") for world in fleet.worlds) >= 2)
    gate.open()
    await fleet.idle()
    assert fleet.origin.total == 2
    calls = await fleet.everywhere("/swr")
    assert [call.body for call in calls] == [b"2"] * 3
    assert fleet.origin.total == 2
    await settled(fleet)


async def test_what_one_has_validated_is_fresh_for_all(fleet: Fleet) -> None:
    @fleet.origin.on("/etag")
    async def etag(call: OriginCall) -> None:
        headers = {"cache-control": "max-age=10", "etag": '"x"'}
        if call.header("if-none-match") == '"x"':
            await call.reply(b"", 304, headers)
        else:
            await call.reply(b"body", 200, headers)

    await fleet[0].get("/etag")
    await fleet.idle()
    await fleet.everywhere("/etag")
    fleet.clock.advance(20)
    calls = await fleet.burst("/etag", each=5)
    assert {call.body for call in calls} == {b"body"}
    assert fleet.origin.total == 2
    await fleet.idle()
    assert all(call.hit for call in await fleet.everywhere("/etag"))
    await settled(fleet)


async def test_variants_are_shared(fleet: Fleet) -> None:
    @fleet.origin.on("/vary")
    async def vary(call: OriginCall) -> None:
        language = call.header("accept-language") or "none"
        await call.reply(language.encode(), 200, {**FRESH, "vary": "accept-language"})

    for language in ("de", "fr"):
        calls = await fleet.burst("/vary", each=3, headers={"accept-language": language})
        assert {call.body for call in calls} == {language.encode()}
        await fleet.idle()
    assert fleet.origin.total == 2
    for language in ("de", "fr"):
        calls = await fleet.everywhere("/vary", headers={"accept-language": language})
        assert {call.body for call in calls} == {language.encode()}
    assert fleet.origin.total == 2
    await settled(fleet)


# -- purges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
async def test_g3_a_purge_through_one_is_seen_by_all(fleet: Fleet, soft: bool) -> None:
    fleet.origin.answers("/a", {**FRESH, "cache-tag": "t"}, b"old")
    await fleet.everywhere("/a")
    await fleet.idle()
    fleet.origin.answers("/a", {**FRESH, "cache-tag": "t"}, b"new")
    receipt = await fleet[1].cache.purge(tags=["t"], soft=soft)
    assert receipt[:4] == PurgeReceipt(3, 3, final=True, scope="fleet")[:4]
    calls = await fleet.everywhere("/a")
    assert [call.body for call in calls] == [b"new"] * 3
    await settled(fleet)


async def test_g3_a_fill_that_began_before_the_purge_dies_on_arrival(fleet: Fleet) -> None:
    """Whoever purges, and whoever fetches: what was read at the origin before the purge is served
    to nobody who asks after it."""
    gate = Gate()
    content = [b"old"]

    @fleet.origin.on("/race")
    async def race(call: OriginCall) -> None:
        body = content[0]
        if call.number == 1:
            await gate.wait()
        await call.reply(body, 200, {**FRESH, "cache-tag": "t"})

    first = asyncio.ensure_future(fleet[0].get("/race"))
    await gate.reached()
    waiting = asyncio.ensure_future(fleet[2].get("/race"))  # asked before the purge
    await until(lambda: fleet[2].count("lease_wait") == 1)
    content[0] = b"new"
    assert (await fleet[1].cache.purge(tags=["t"])).final
    later = asyncio.ensure_future(fleet.burst("/race"))
    gate.open()
    assert (await first).body == b"old"  # it asked before the purge, too
    await waiting
    assert {call.body for call in await later} == {b"new"}
    await fleet.idle()
    assert {call.body for call in await fleet.everywhere("/race")} == {b"new"}
    await settled(fleet)


async def test_an_unsafe_request_through_one_invalidates_for_all(fleet: Fleet) -> None:
    await fleet.everywhere("/item")
    await fleet.idle()
    await fleet[2].get("/item", method="POST")
    bodies = {call.body for call in await fleet.everywhere("/item")}
    assert bodies == {b"/item 3"}
    await settled(fleet)


OWN = {**FRESH, "content-location": "/item", "cache-tag": "a"}


async def test_what_answers_a_post_answers_gets_to_all(fleet: Fleet) -> None:
    await fleet.everywhere("/item")
    await fleet.idle()
    fleet.origin.answers("/item", OWN, b"posted")
    post = await fleet[2].get("/item", method="POST")
    assert post.cache_status == "LayerGate; fwd=method; stored"
    await fleet.idle()
    calls = await fleet.everywhere("/item")
    assert {call.body for call in calls} == {b"posted"}
    assert all(call.hit for call in calls)
    assert fleet.origin.total == 2
    await settled(fleet)


@pytest.mark.parametrize("what", [{"urls": ["http://example.com/item"]}, {"tags": ["a"]}], ids=str)
@pytest.mark.parametrize("when", ["before-the-head", "after-the-head"])
async def test_g3_a_purge_through_another_instance_while_a_post_is_answered(
    fleet: Fleet, when: str, what: dict[str, Any]
) -> None:
    head, body = Gate(), Gate()

    @fleet.origin.on("/item")
    async def item(call: OriginCall) -> None:
        if call.scope["method"] != "POST":
            await call.reply(b"got", 200, FRESH)
            return
        await head.wait()
        await call.start(200, OWN)
        await body.wait()
        await call.end(b"posted")

    post = asyncio.ensure_future(fleet[0].get("/item", method="POST"))
    await head.reached()
    if when == "after-the-head":
        head.open()
        await body.reached()
    assert (await fleet[1].cache.purge(**what)).final
    head.open()
    body.open()
    # (Its length was not known when the head went out, so that promises nothing.)
    assert "stored" not in (await post).cache_status
    await fleet.idle()
    assert {call.body for call in await fleet.everywhere("/item")} == {b"got"}
    await settled(fleet)


async def test_an_instance_that_has_left_is_not_waited_for(fleet: Fleet) -> None:
    await fleet[2].cache.aclose()
    assert (await fleet[0].cache.purge(tags=["t"]))[:4] == PurgeReceipt(
        2, 2, final=True, scope="fleet"
    )[:4]
    # It comes back with the next request.
    await fleet[2].get("/a")
    assert (await fleet[0].cache.purge(tags=["t"]))[:4] == PurgeReceipt(
        3, 3, final=True, scope="fleet"
    )[:4]


async def test_g1_what_is_for_one_client_takes_no_lease(shared_valkey: Any) -> None:
    rules = [Rule("/page", ttl=60)]
    async with Fleet(shared_valkey.url, shared_valkey.namespace, rules=rules) as fleet:
        gate = Gate()

        @fleet.origin.on("/page")
        async def page(call: OriginCall) -> None:
            await gate.wait()
            await call.reply((call.header("authorization") or "nobody").encode())

        async def ask(index: int, user: str) -> bytes:
            call = await fleet[index].get("/page", headers={"authorization": user})
            return call.body

        users = [ask(index % 2, f"user{index}") for index in range(6)]
        asking = asyncio.ensure_future(asyncio.gather(*users))
        await gate.reached(6)
        gate.open()
        assert await asking == [f"user{index}".encode() for index in range(6)]
        assert sum(world.count("lease_wait") for world in fleet.worlds) == 0
        await settled(fleet)


async def living(scope: Any, receive: Any, send: Any) -> None:
    """An app with a lifespan."""
    for word in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{word}"
        await send({"type": f"lifespan.{word}.complete"})


async def test_an_instance_joins_when_its_server_starts(shared_valkey: Any) -> None:
    fleet = Fleet(shared_valkey.url, shared_valkey.namespace)
    assert not fleet[0].cache.stack.trusted
    async with Lifespan(LayerGate(living, cache=fleet[0].cache)):
        await fleet.idle()
        assert fleet[0].cache.stack.trusted
    assert not fleet[0].cache.stack.trusted


async def test_g5_a_server_starts_without_its_redis() -> None:
    fleet = Fleet("redis://127.0.0.1:1/0", "nowhere", count=1)
    async with Lifespan(LayerGate(living, cache=fleet[0].cache)):
        await fleet.idle()
        assert not fleet[0].cache.stack.trusted
        assert (await fleet[0].get("/a")).status == 200
    assert fleet.origin.total == 1


async def test_nobody_waits_twice_for_another_instance(shared_valkey: Any) -> None:
    """Those who follow a request that itself waits for a lease have waited when it gives up."""
    gate = Gate()
    options: dict[str, Any] = {"collapse_timeout": 0.5, "collapse_fallback": "504"}
    async with Fleet(shared_valkey.url, shared_valkey.namespace, **options) as fleet:

        @fleet.origin.on("/hangs")
        async def hangs(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"late", 200, FRESH)

        first = asyncio.ensure_future(fleet[0].get("/hangs"))
        await gate.reached()
        waiting = [asyncio.ensure_future(fleet[1].get("/hangs")) for _ in range(5)]
        calls = await asyncio.gather(*waiting)
        assert [call.status for call in calls] == [504] * 5
        assert fleet[1].count("lease_wait") == 1
        gate.open()
        assert (await first).body == b"late"
        await settled(fleet)


async def test_g4_what_is_released_without_a_marker_queues_nowhere_either(fleet: Fleet) -> None:
    """A 429 says nothing about its target, so no marker is left; and yet nobody waits in turn."""
    head, rest = Gate(), Gate()

    @fleet.origin.on("/limited")
    async def limited(call: OriginCall) -> None:
        if call.number == 1:
            await head.wait()
        await call.start(429, {"cache-control": "max-age=60"})
        await rest.wait()
        await call.end()

    burst = asyncio.ensure_future(fleet.burst("/limited"))
    await head.reached()
    await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
    head.open()
    await rest.reached(3)  # all at the same time
    rest.open()
    assert {call.status for call in await burst} == {429}
    await settled(fleet)


async def test_g4_who_cannot_share_a_stream_does_not_wait_for_its_lease(fleet: Fleet) -> None:
    rest = Gate()

    @fleet.origin.on("/long")
    async def long(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"%d" % call.number)
        if call.number == 1:
            await rest.wait()
        await call.end(b"!")

    first = asyncio.ensure_future(fleet[0].get("/long"))
    await rest.reached()
    reload = await fleet[0].get("/long", headers={"cache-control": "no-cache"})
    assert reload.body == b"2!"
    rest.open()
    assert (await first).body == b"1!"
    await settled(fleet)


async def test_g4_a_body_that_grows_too_large_holds_up_nobody(shared_valkey: Any) -> None:
    rest = Gate()
    async with Fleet(shared_valkey.url, shared_valkey.namespace, max_body=10) as fleet:

        @fleet.origin.on("/huge")
        async def huge(call: OriginCall) -> None:
            await call.start(200, FRESH)
            await call.chunk(b"x" * 20)
            await rest.wait()
            await call.end()

        first = asyncio.ensure_future(fleet[0].get("/huge"))
        await rest.reached()
        others = [asyncio.ensure_future(fleet[index].get("/huge")) for index in (0, 1)]
        await rest.reached(3)
        rest.open()
        assert [(await call).body for call in (first, *others)] == [b"x" * 20] * 3
        await settled(fleet)


async def test_g3_cut_off_nothing_stale_is_for_those_who_would_take_it(valkey: Any) -> None:
    with Proxy(valkey.port) as proxy:
        urls = [proxy.url, valkey.url]
        layer = {"max_disconnected": 0.5, "timeout": 0.3}
        async with Fleet(urls, "cut", layer=layer) as fleet:
            fleet.origin.answers("/a", {**FRESH, "cache-tag": "t"}, b"old")
            await fleet.everywhere("/a")
            await fleet.idle()
            fleet.origin.answers("/a", {**FRESH, "cache-tag": "t"}, b"new")
            proxy.refuse()
            assert (await fleet[1].cache.purge(tags=["t"])).final
            for control in ("max-stale=60", "max-stale", "max-age=60"):
                call = await fleet[0].get("/a", headers={"cache-control": control})
                assert call.body == b"new", control
            proxy.resume()


async def test_who_leaves_with_work_under_way_is_gone(valkey: Any) -> None:
    gate = Gate()
    async with Fleet(valkey.url, "leaving") as fleet:

        @fleet.origin.on("/slow")
        async def slow(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"one", 200, FRESH)

        asking = asyncio.ensure_future(fleet[0].get("/slow"))
        await gate.reached()
        closing = asyncio.ensure_future(fleet[0].cache.aclose())
        await until(lambda: not fleet[0].cache.stack.trusted)
        gate.open()
        await asking
        await closing
        assert (await fleet[1].cache.purge(tags=["t"]))[:4] == PurgeReceipt(
            1, 1, final=True, scope="fleet"
        )[:4]


async def test_g2_nobody_waits_for_a_fetch_of_one_that_has_left(shared_valkey: Any) -> None:
    gate = Gate()
    layer = {"lease_term": 600.0}
    async with Fleet(shared_valkey.url, shared_valkey.namespace, layer=layer) as fleet:

        @fleet.origin.on("/slow")
        async def slow(call: OriginCall) -> None:
            if call.number == 1:
                await gate.wait()
            await call.reply(b"%d" % call.number, 200, FRESH)

        left = fleet[0].call("/slow")
        await gate.reached()
        waiting = asyncio.ensure_future(fleet[1].get("/slow"))
        await until(lambda: fleet[1].count("lease_wait") == 1)
        await fleet[0].cache.aclose(0.0)
        assert (await asyncio.wait_for(waiting, 20)).body == b"2"
        with pytest.raises(OriginAborted):
            await left.cancel()


async def explained(world: World, path: str = "/a") -> Explanation:
    return await explain(world.cache, read_request(scope_of(path), obey_directives=True))


async def test_cut_off_it_is_explained_why_nothing_is_fresh(valkey: Any) -> None:
    with Proxy(valkey.port) as proxy:
        layer = {"max_disconnected": 0.5, "timeout": 0.3}
        async with Fleet([proxy.url, valkey.url], "explained", layer=layer) as fleet:
            fleet.origin.answers("/a", FRESH)
            await fleet.everywhere("/a")
            await fleet.idle()
            assert (await explained(fleet[0])).conclusion.answer == "hit"
            proxy.refuse()
            assert (await fleet[1].cache.purge(tags=["t"])).final
            told = await explained(fleet[0])
            assert told.step("fleet") is not None
            layers = [step.outcome for step in told.steps if step.name == "layer"]
            assert layers == ["memory: fresh", "redis: failed"]
            (decision,) = [step for step in told.steps if step.name == "decision"]
            assert (decision.outcome, decision.section) == ("revalidate", "LayerGate guarantee G3")
            assert (await fleet[0].get("/a")).cache_status == "LayerGate; fwd=stale; stored"
            proxy.resume()


async def test_what_another_one_has_stored_is_explained_and_not_copied(fleet: Fleet) -> None:
    fleet.origin.answers("/a", {**FRESH, "cache-tag": "a"})
    await fleet[0].get("/a")
    await fleet.idle()
    for _ in range(2):
        told = await explained(fleet[1])
        layers = [step.outcome for step in told.steps if step.name == "layer"]
        assert layers == ["memory: nothing", "redis: fresh"]
        assert told.conclusion[:3] == ("hit", "", 60)
    assert fleet[1].count("backfill") == 0
    assert fleet[1].cache.stack.layers[1].stats()["hits"] == 0
    await fleet[2].app.purge(tags=["a"])
    told = await explained(fleet[1])
    held = [step for step in told.steps if step.name == "layer"][1]
    assert held.outcome == "redis: purged"
    assert "a purge of the tag 'a'" in held.text
    assert told.conclusion.answer == "miss"
    await settled(fleet)


async def test_a_cache_group_is_invalidated_everywhere(fleet: Fleet) -> None:
    """RFC 9875: its tags are in the entries that instances share, its purges in their log."""
    grouped = {"cache-control": "max-age=60", "cache-groups": '"a", "b"'}
    fleet.origin.answers("/one", grouped)
    fleet.origin.answers("/other", {**grouped, "cache-groups": '"c"'})
    fleet.origin.answers("/do", {"cache-group-invalidation": '"b"'}, b"", 204)
    for path in ("/one", "/other"):
        await fleet[0].get(path)
        await fleet.idle()
        assert all(call.hit for call in await fleet.everywhere(path))
    await fleet[1].get("/do", method="POST", host="other.example")
    assert all(call.hit for call in await fleet.everywhere("/one"))
    await fleet[2].get("/do", method="POST")
    assert not (await fleet[0].get("/one")).hit
    await fleet.idle()
    assert all(call.hit for call in await fleet.everywhere("/one"))
    assert all(call.hit for call in await fleet.everywhere("/other"))
    assert (fleet.origin.calls["/one"], fleet.origin.calls["/other"]) == (2, 1)
    await settled(fleet)


async def test_what_is_not_sent_on_is_shared(fleet: Fleet) -> None:
    """LayerGate-Cache-Control goes from instance to instance, since a 304 updates it too (3.2)."""
    ours = {"layergate-cache-control": "max-age=10", "cache-control": "max-age=99", "etag": '"1"'}
    fleet.origin.answers("/own", ours)
    await fleet[0].get("/own")
    await fleet.idle()
    assert (await fleet[1].get("/own")).hit
    fleet.clock.advance(11)
    fleet.origin.answers("/own", {"etag": '"1"'}, b"", 304)
    validated = await fleet[1].get("/own")
    assert validated.status == 200
    assert validated.header("layergate-cache-control") is None
    await fleet.idle()
    fleet.clock.advance(11)
    before = fleet.origin.total
    await fleet[2].get("/own")
    assert fleet.origin.total == before + 1
    await settled(fleet)


async def test_a_lease_that_is_granted_after_all_is_given_back(
    shared_valkey: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three fetches of others came to nothing for this request; then the lease was its own, and
    nobody held it: who asked next waited until it ran out."""
    leases = fleet[0].cache.stack.leases
    assert leases is not None
    answers: list[Any] = [Waited.LANDED] * 3
    acquire = leases.acquire

    async def acquired(*args: Any, **options: Any) -> Any:
        return answers.pop() if answers else await acquire(*args, **options)

    monkeypatch.setattr(leases, "acquire", acquired)
    await fleet[0].get("/")
    await settled(fleet)
    (lease,) = shared_valkey.cli("KEYS", f"{shared_valkey.namespace}:l:*")
    assert shared_valkey.cli("GET", lease).startswith((b"done:", b"free:"))
