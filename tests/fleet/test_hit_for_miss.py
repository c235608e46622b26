"""Hit-for-miss markers over a fleet: whom they are for, and how they end."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fleet.support import Fleet
from tests.support.asgi import Gate, OriginCall
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)

FRESH = {"cache-control": "max-age=60"}


async def test_an_attack_on_one_switches_nothing_off_on_the_others(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, count=3) as fleet:

        @fleet.origin.on("/a")
        async def page(call: OriginCall) -> None:
            if call.header("x-bad"):
                await call.reply(b"", 200, {"cache-control": "private"})
            else:
                await call.reply(b"%d" % call.number, 200, FRESH)

        bad = {"x-bad": "1", "cache-control": "no-cache"}
        await fleet[0].get("/a", headers=bad)  # nothing is stored
        await fleet.idle()
        await fleet[1].get("/a", headers=bad)
        await fleet.idle()
        assert {call.body for call in await fleet.burst("/a", each=10)} == {b"3"}
        await fleet.idle()
        for world in fleet.worlds:
            await world.get("/a", headers=bad)
            await fleet.idle()
            before = fleet.origin.total
            for call in [*await fleet.everywhere("/a"), *await fleet.burst("/a", each=10)]:
                assert call.hit and call.body == b"3"
            assert fleet.origin.total == before


async def test_what_is_shareable_again_is_so_on_all_instances(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, count=3) as fleet:
        gate, shareable = Gate(), False

        @fleet.origin.on("/a")
        async def page(call: OriginCall) -> None:
            if not shareable:
                await call.reply(b"", 200, {"cache-control": "private"})
                return
            if call.number > 19:
                await gate.wait()
            await call.reply(b"%d" % call.number, 200, {"cache-control": "max-age=5"})

        for number in range(6):  # for all, and in each instance's memory
            for world in fleet.worlds:
                await world.get("/a", headers={"x-n": str(number)})
                await fleet.idle()
        shareable = True
        assert (await fleet[0].get("/a")).body == b"19"
        await fleet.idle()
        await until(
            lambda: len({world.cache.stack.invalidations.position for world in fleet.worlds}) == 1
        )
        fleet.clock.advance(6)
        burst = asyncio.ensure_future(fleet.burst("/a", each=5))
        await gate.reached()
        await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
        gate.open()
        assert {call.body for call in await burst} == {b"20"}
        await fleet.idle()
