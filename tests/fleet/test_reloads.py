"""Reloads over a fleet: one call of the app for those of all instances, and a pause that all share."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fleet.support import Fleet
from tests.support.asgi import Gate, OriginCall
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)

FRESH = {"cache-control": "max-age=60"}
RELOAD = {"cache-control": "no-cache"}


async def test_reloads_through_all_instances_at_once_are_one_call(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, count=3) as fleet:
        gate = Gate()

        @fleet.origin.on("/a")
        async def page(call: OriginCall) -> None:
            if call.number > 1:
                await gate.wait()
            await call.reply(b"%d" % call.number, 200, FRESH)

        await fleet[0].get("/a")
        await fleet.idle()
        await fleet.everywhere("/a")  # each has a copy of its own
        fleet.clock.advance(5)
        burst = asyncio.ensure_future(fleet.burst("/a", each=5, headers=RELOAD))
        await gate.reached()
        await until(lambda: sum(world.count("lease_wait") for world in fleet.worlds) == 2)
        gate.open()
        assert {call.body for call in await burst} == {b"2"}
        assert fleet.origin.total == 2
        await fleet.idle()
        for world in fleet.worlds:
            world.assert_nothing_left()


async def test_the_pause_after_a_reload_is_that_of_all_instances(shared_valkey: Any) -> None:
    async with Fleet(shared_valkey.url, shared_valkey.namespace, count=3) as fleet:

        @fleet.origin.on("/a")
        async def page(call: OriginCall) -> None:
            await call.reply(b"%d" % call.number, 200, FRESH)

        await fleet[0].get("/a")
        await fleet.idle()
        await fleet.everywhere("/a")
        assert (await fleet[0].get("/a", headers=RELOAD)).body == b"2"
        await fleet.idle()
        for call in await fleet.everywhere("/a", headers=RELOAD):
            assert call.body == b"2" and call.hit
            assert "detail=reload-pause" in call.cache_status
        assert fleet.origin.total == 2
        fleet.clock.advance(1.5)
        assert (await fleet[1].get("/a", headers=RELOAD)).body == b"3"
