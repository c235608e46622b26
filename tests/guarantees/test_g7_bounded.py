"""G7: everything that a client or an app could make grow has a cap."""

from __future__ import annotations

import asyncio

import pytest

from layergate import HttpCache, MemoryLayer, PurgeRefused
from layergate.core.invalidation import MAX_INVALIDATIONS, MAX_PATTERNS
from layergate.http.engine.added_lines import MEMO
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.clocks import LoopClock
from tests.support.waiting import until


async def test_entries_never_cost_more_than_the_memory_budget():
    world = World(memory="256KB")
    layer = world.cache.stack.layers[0]
    assert isinstance(layer, MemoryLayer)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"x" * 500, headers=FRESH)

    for number in range(2000):
        await world.get("/", query=b"%d" % number)
        assert layer.bytes_used <= layer.budget
    assert 0 < len(layer) < 2000
    assert layer.stats()["evictions"] > 0


async def test_one_huge_response_does_not_flush_the_rest():
    world = World(memory="256KB")
    for number in range(20):
        await world.get(f"/{number}")
        await world.get(f"/{number}")
    world.origin.answers("/huge", FRESH, b"x" * 250_000)
    await world.get("/huge")
    hits = [(await world.get(f"/{number}")).hit for number in range(20)]
    assert all(hits)


async def test_a_flood_of_variants_stays_within_max_variants():
    world = World(max_variants=8)
    world.origin.answers("/", {**FRESH, "vary": "user-agent"})
    for number in range(200):
        await world.get("/", headers={"user-agent": f"agent {number}"})
        assert world.entries <= 9  # the index, too
    assert (await world.get("/", headers={"user-agent": "agent 199"})).hit
    assert not (await world.get("/", headers={"user-agent": "agent 0"})).hit


async def test_a_flood_of_unshareable_variants_stays_bounded_too():
    world = World(max_variants=8)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        control = "max-age=60" if call.number == 1 else "private"
        await call.reply(b"x", headers={"cache-control": control, "vary": "user-agent"})

    for number in range(200):
        await world.get("/", headers={"user-agent": f"agent {number}"})
    assert world.entries <= 20


async def test_a_flood_of_what_a_target_varies_by_stays_bounded():
    world = World(max_variants=8)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"x", headers={**FRESH, "vary": f"x-{call.number}"})

    for number in range(100):
        await world.get("/", headers={"cache-control": "no-cache", f"x-{number}": "1"})
        assert world.entries <= 9


async def test_a_response_with_more_tags_than_max_tags_is_not_stored():
    world = World(max_tags=3)
    for count, hit in ((3, True), (4, False)):
        path = f"/{count}"
        tags = ", ".join(f"t{n}" for n in range(count))
        world.origin.answers(path, {**FRESH, "cache-tag": tags})
        await world.get(path)
        assert (await world.get(path)).hit is hit


async def test_the_same_tag_many_times_is_one_tag():
    world = World(max_tags=1)
    world.origin.answers("/", {**FRESH, "cache-tag": "a, a,a", "surrogate-key": "a a"})
    await world.get("/")
    assert (await world.get("/")).hit


@pytest.mark.parametrize(("length", "hit"), [(256, True), (257, False)])
async def test_a_tag_too_long_to_be_purged_by_is_not_stored(length, hit):
    world = World()
    world.origin.answers("/", {**FRESH, "cache-tag": "t" * length})
    await world.get("/")
    assert (await world.get("/")).hit is hit
    if hit:
        await world.cache.purge(tags=["t" * length])
        assert not (await world.get("/")).hit
    else:
        with pytest.raises(PurgeRefused, match="at most 256"):
            await world.cache.purge(tags=["t" * length])


async def test_a_target_longer_than_max_key_length_is_passed():
    world = World(max_key_length=200)
    for length, hit in ((100, True), (200, False)):
        path = "/" + "p" * length
        await world.get(path)
        assert (await world.get(path)).hit is hit
    long = await world.get("/", query=b"q" * 200)
    assert "detail=key-too-long" in long.cache_status
    assert world.entries == 1


async def test_followers_beyond_max_waiters_are_passed():
    world = World(max_waiters=3)
    gate, passed = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await (gate if call.number == 1 else passed).wait()
        await call.reply(b"x", headers=FRESH)

    leader = world.call("/")
    await gate.reached()
    calls = [world.call("/") for _ in range(10)]
    await passed.reached(7)
    assert world.stat("waiters") == 3
    gate.open()
    passed.open()
    for call in [leader, *calls]:
        assert (await call.done()).body == b"x"
    assert world.origin.total == 8
    world.assert_nothing_left()


async def test_no_waiters_at_all_means_nobody_waits():
    world = World(max_waiters=0)
    barrier = asyncio.Barrier(5)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await barrier.wait()
        await call.reply(b"x", headers=FRESH)

    calls = [world.call("/") for _ in range(5)]
    for call in calls:
        await call.done()


async def test_no_more_background_refreshes_run_than_the_cap_allows():
    world = World(background_refreshes=2)
    gate = Gate()

    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
        headers = {"cache-control": "max-age=10, stale-while-revalidate=60"}
        await call.reply(b"%d" % call.number, headers=headers)

    for number in range(5):
        world.origin.handlers[f"/{number}"] = handler
        await world.get(f"/{number}")
    world.clock.advance(20)
    for number in range(5):
        assert (await world.get(f"/{number}")).body == b"1"
    await gate.reached(2)
    assert world.stat("refreshing") == 2
    assert world.count("refresh_skipped") == 3
    gate.open()
    await world.idle()
    assert world.origin.total == 7
    world.assert_nothing_left()
    # The others are refreshed by a later request.
    for number in range(5):
        await world.get(f"/{number}")
        await world.idle()
    assert world.origin.total == 10


async def test_with_no_background_refreshes_stale_is_served_until_the_window_ends():
    world = World(background_refreshes=0)
    world.origin.answers("/", {"cache-control": "max-age=10, stale-while-revalidate=60"})
    await world.get("/")
    world.clock.advance(20)
    assert (await world.get("/")).hit
    assert world.origin.total == 1


async def test_a_body_under_way_does_not_hold_more_than_the_inflight_budget():
    world = World(max_inflight="20KB", max_body="1MB")
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        for _ in range(100):
            await call.chunk(b"x" * 10_240)
            assert world.stat("inflight_bytes") <= 20 * 1024
        await gate.wait()
        await call.end()

    call = world.call("/")
    await gate.reached()
    gate.open()
    assert len((await call.done()).body) == 1_024_000
    world.assert_nothing_left()


async def test_memo_tables_stay_bounded_under_a_flood_of_values():
    world = World()
    cache = world.cache
    status, learned = cache.settings.status, cache.engine.learned
    world.origin.answers("/v", {**FRESH, "vary": "x-a"})
    await world.get("/v")
    fields = {b"host": b"example.com"}
    from layergate.http.message.key import primary_key

    key = primary_key("http", b"example.com", "/v", b"/v", b"")
    for number in range(MEMO + 100):
        cache.peek(key, {**fields, b"x-a": b"%d" % number})
        status.hits[number]
        learned.shared_lines([(b"x", b"%d" % number)])
    for table in (cache._hits._secondaries, status.hits, learned._lines, status._bypassed):
        assert 0 <= len(table) <= MEMO
    assert (await world.get("/v")).hit


async def test_long_values_are_not_memoised():
    world = World()
    world.origin.answers("/v", {**FRESH, "vary": "x-a", "x-long": "y" * 10_000})
    for number in range(3):
        await world.get("/v", headers={"x-a": f"{number}" * 2000})
        await world.get("/v", headers={"x-a": f"{number}" * 2000})
    assert not world.cache._hits._secondaries
    assert all(len(value) <= 128 for _, value in world.cache.engine.learned._lines)


async def test_purges_do_not_grow_without_bound():
    world = World()
    invalidations = world.cache.stack.invalidations
    patterns = [f"/*/{number}/*" for number in range(MAX_PATTERNS + 500)]
    prefixes = [f"/{number}/*" for number in range(MAX_INVALIDATIONS + 500)]
    for start in range(0, len(patterns), 500):
        await world.cache.purge(patterns=patterns[start : start + 500])
    assert 0 < invalidations.counts()["patterns"] <= MAX_PATTERNS
    for start in range(0, len(prefixes), 500):
        await world.cache.purge(patterns=prefixes[start : start + 500])
    assert invalidations.counts()["prefixes"] <= MAX_INVALIDATIONS


async def test_a_stored_response_with_a_validator_is_kept_no_longer_than_keep():
    world = World(keep=100)
    world.origin.answers("/", {"cache-control": "max-age=10", "etag": '"1"'})
    await world.get("/")
    world.clock.advance(109)
    await world.get("/")
    assert world.origin.scopes[-1]["headers"][-1] == (b"if-none-match", b'"1"')
    world.clock.advance(111)
    await world.get("/")
    assert b"if-none-match" not in dict(world.origin.scopes[-1]["headers"])


async def test_an_abandoned_fetch_ends():
    world = World(abandoned_timeout=0.01)
    never = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await never.wait()

    for number in range(10):
        call = world.call("/", query=b"%d" % number)
        await never.reached(number + 1)
        await call.cancel()
    await until(lambda: not world.clock.pending())
    world.assert_nothing_left()


async def test_a_background_refresh_that_never_ends_is_ended():
    world = World(abandoned_timeout=0.01)
    never = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await never.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=10, stale-while-revalidate=600"})

    await world.get("/")
    world.clock.advance(20)
    assert (await world.get("/")).hit
    await never.reached()
    await until(lambda: not world.clock.pending())
    world.assert_nothing_left()
    # And the next request tries again.
    assert (await world.get("/")).hit
    await never.reached(2)


def test_the_defaults_are_what_the_documentation_says():
    options = HttpCache(runtime=LoopClock()).options
    assert options.memory == 64 * 1024**2
    assert options.max_body == 8 * 1024**2
    assert options.max_inflight == 64 * 1024**2
    assert (options.max_tags, options.max_variants, options.max_key_length) == (128, 32, 8192)
    assert (options.max_waiters, options.background_refreshes) == (100_000, 64)
