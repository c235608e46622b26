"""Which variants are kept (G7): what is read does not give way to what has only come, and what is not
kept is not said to be ``stored``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.asgi import FRESH, Gate, OriginCall, World

VARIES = {**FRESH, "vary": "x-shade"}


def users(*, lifetime: int = 60, **options: Any) -> World:
    world = World(**options)
    headers = {"cache-control": f"max-age={lifetime}", "vary": "x-shade"}

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply((call.header("x-shade") or "").encode(), headers=headers)

    return world


async def asked(world: World, user: object) -> bool:
    """True if ``user`` is answered from the store, as himself."""
    call = await world.get("/", headers={"x-shade": str(user)})
    assert call.body == str(user).encode()
    return call.hit


@pytest.mark.parametrize("flood", [33, 500])
async def test_a_flood_does_not_displace_what_is_read(flood):
    world = users()
    await asked(world, "me")
    for _ in range(1000):
        assert await asked(world, "me")
    for number in range(flood):
        await asked(world, number)
        if number % 2:
            await asked(world, number)
    assert await asked(world, "me")


async def test_of_more_than_fit_those_that_fit_are_hits():
    world = users()
    for _ in range(2):  # in which it is seen that they come back
        for user in range(40):
            await asked(world, user)
    for _ in range(5):
        assert sum([await asked(world, user) for user in range(40)]) == 32


async def test_those_that_do_not_fit_are_not_said_to_be_stored():
    world = users(max_variants=4)
    for _ in range(4):
        for user in range(6):
            await asked(world, user)
    told = []
    for user in range(6):
        call = await world.get("/", headers={"x-shade": str(user)})
        told.append(call.cache_status)
        if not call.hit:
            assert "stored" not in call.cache_status and "detail=variants" in call.cache_status
            assert not await asked(world, user)
    assert sum("detail=variants" in status for status in told) == 2


async def test_what_is_said_to_be_stored_is():
    world = users(max_variants=4)
    for turn in range(6):
        for user in range(7):
            call = await world.get("/", headers={"x-shade": str(user)})
            assert call.hit or ("stored" in call.cache_status) is await asked(world, user), turn


async def test_what_is_not_kept_is_shared_by_those_who_wait_all_the_same():
    world = World(max_variants=1)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=VARIES)

    await world.get("/", headers={"x-shade": "a"})
    await world.get("/", headers={"x-shade": "a"})
    calls = [world.call("/", headers={"x-shade": "b"}) for _ in range(20)]
    await gate.reached()
    await world.waiting(19)
    gate.open()
    assert {(await call.done()).body for call in calls} == {b"2"}
    assert "detail=variants" in calls[0].cache_status
    assert (await world.get("/", headers={"x-shade": "a"})).hit
    world.assert_nothing_left()


async def test_what_nobody_reads_any_more_gives_way_in_time():
    world = users(max_variants=2, lifetime=100_000)
    for user in ("a", "b"):
        await asked(world, user)
        assert await asked(world, user)
    for _ in range(3):
        assert not await asked(world, "c")
    for _ in range(8):
        world.clock.advance(61)
        await asked(world, "c")
    assert await asked(world, "c")


async def test_a_page_that_was_read_before_it_varied_is_kept():
    world = World(max_variants=8)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        vary = {"vary": "x-shade"} if call.header("x-shade") else {}
        await call.reply(b"%d" % call.number, headers={**FRESH, **vary})

    for _ in range(10):
        await world.get("/")
    await world.get("/", headers={"x-shade": "first", "cache-control": "no-cache"})
    for number in range(33):
        await world.get("/", headers={"x-shade": str(number), "cache-control": "no-cache"})
    assert (await world.get("/")).body == b"1"


async def test_markers_do_not_displace_variants():
    world = World(max_variants=4)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        user = call.header("x-shade") or ""
        control = "private" if user.startswith("bad") else "max-age=60"
        await call.reply(user.encode(), headers={"cache-control": control, "vary": "x-shade"})

    for user in range(4):
        await asked(world, user)
    for number in range(100):
        await asked(world, f"bad{number}")
    for user in range(4):
        assert await asked(world, user)
    assert world.entries <= 6


async def test_variants_displace_markers():
    world = World(max_variants=4)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        user = call.header("x-shade") or ""
        control = "private" if user.startswith("bad") else "max-age=60"
        await call.reply(user.encode(), headers={"cache-control": control, "vary": "x-shade"})

    await asked(world, "first")
    for number in range(10):
        await asked(world, f"bad{number}")
    for user in range(3):
        await asked(world, user)
        assert await asked(world, user)


async def test_what_a_target_varies_by_is_kept_while_it_is_read():
    """A response may vary by another field for each request that is crafted so."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        name = call.header("x-by") or "accept-language"
        await call.reply(b"%d" % call.number, headers={**FRESH, "vary": name})

    page = {"accept-language": "de"}
    await world.get("/", headers=page)
    for _ in range(10):
        assert (await world.get("/", headers=page)).hit
    for number in range(20):
        crafted = {"x-by": f"x-{number}", f"x-{number}": "1", "cache-control": "no-cache"}
        await world.get("/", headers=crafted)
        world.clock.advance(1)
        assert (await world.get("/", headers=page)).body == b"1"


async def test_what_is_remembered_of_variants_is_bounded():
    world = World()
    admission = world.cache.engine.admission
    for number in range(17_000):
        admission.sighted(b"%d" % number)
        admission.gave_way(b"x%d" % number)
    assert len(admission._sights) == 16_384
