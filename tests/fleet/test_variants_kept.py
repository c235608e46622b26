"""Variants of one target over a fleet: a flood through one instance takes nothing from what is read."""

from __future__ import annotations

from typing import Any

from tests.fleet.support import Fleet
from tests.support.asgi import OriginCall, World

pytest_plugins = ("tests.support.redis_servers",)


def users(fleet: Fleet) -> None:
    headers = {"cache-control": "max-age=60", "vary": "x-shade"}

    @fleet.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply((call.header("x-shade") or "").encode(), 200, headers)


async def asked(fleet: Fleet, world: World, user: str) -> bool:
    call = await world.get("/", headers={"x-shade": user})
    await fleet.idle()
    assert call.body == user.encode()
    return call.hit


async def test_a_flood_through_one_displaces_nothing_that_is_read(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, max_variants=8) as fleet:
        users(fleet)
        one, other = fleet[0], fleet[1]
        await asked(fleet, one, "me")
        for _ in range(100):
            assert await asked(fleet, one, "me")
        for number in range(30):
            await asked(fleet, other, f"{number}")
            await asked(fleet, other, f"{number}")
        assert await asked(fleet, one, "me")
        assert await asked(fleet, other, "me")  # from the Redis
        for number in range(30):
            await asked(fleet, one, f"x{number}")
        assert await asked(fleet, other, "me") and await asked(fleet, one, "me")


async def test_what_two_instances_store_is_known_to_both(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, max_variants=8) as fleet:
        users(fleet)
        for number in range(8):
            await asked(fleet, fleet[number % 2], f"{number}")
        for number in range(8):
            assert await asked(fleet, fleet[0], f"{number}")
            assert await asked(fleet, fleet[1], f"{number}")
        assert fleet.origin.total == 8


async def test_of_more_than_fit_those_that_fit_are_hits(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, max_variants=8) as fleet:
        users(fleet)
        for turn in range(6):
            for number in range(12):
                await asked(fleet, fleet[(number + turn) % 2], f"{number}")
        hits = [await asked(fleet, fleet[number % 2], f"{number}") for number in range(12)]
        assert sum(hits) >= 8


async def test_what_has_ended_makes_room(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, max_variants=4) as fleet:
        users(fleet)
        for number in range(4):
            await asked(fleet, fleet[0], f"{number}")
            assert await asked(fleet, fleet[0], f"{number}")
        fleet.clock.advance(61)
        for number in range(4):
            assert not await asked(fleet, fleet[1], f"new{number}")
            assert await asked(fleet, fleet[1], f"new{number}")
