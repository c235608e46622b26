"""Reloads (G2, G7): what a client says with no-cache costs one call of the app for all who say so, and
not more often than the option ``reload_pause`` allows."""

from __future__ import annotations

import pytest

from tests.support.asgi import FRESH, Gate, OriginCall, World

RELOAD = {"cache-control": "no-cache"}


async def test_twenty_reloads_in_a_row_cost_one_call():
    world = World()
    await world.get("/")
    calls = [await world.get("/", headers=RELOAD) for _ in range(20)]
    assert world.origin.total == 2
    assert {call.body for call in calls} == {b"/ 2"}
    assert all(
        "hit" in call.cache_status and "reload-pause" in call.cache_status for call in calls[1:]
    )


@pytest.mark.parametrize("pause", [None, 0, 10])
async def test_reloads_at_once_cost_one_call(pause):
    world = World(reload_pause=pause)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=FRESH)

    await world.get("/")
    for turn in (2, 3):
        world.clock.advance(20)
        gate = Gate()
        calls = [world.call("/", headers=RELOAD) for _ in range(20)]
        await gate.reached()
        await world.waiting(19)
        gate.open()
        assert {(await call.done()).body for call in calls} == {b"%d" % turn}
    assert world.origin.total == 3
    world.assert_nothing_left()


async def test_what_is_half_here_is_not_for_a_reload_that_comes_now():
    """5.2.1.4: it was not fetched for this client. The next one shares what is fetched for it."""
    world = World(reload_pause=None)
    rest = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"%d" % call.number)
        await rest.wait()
        await call.end()

    first = await world.call("/").begun()
    second = await world.call("/", headers=RELOAD).begun()
    await rest.reached(2)
    rest.open()
    assert ((await first.done()).body, (await second.done()).body) == (b"1", b"2")


async def test_one_that_is_under_way_is_waited_for_in_the_pause_too():
    world = World(reload_pause=10)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 2:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=FRESH)

    await world.get("/")
    first = world.call("/", headers=RELOAD)
    await gate.reached()
    world.clock.advance(5)
    second = world.call("/", headers=RELOAD)
    await world.waiting(1)
    gate.open()
    assert (await first.done()).body == (await second.done()).body == b"2"


async def test_a_reload_that_the_app_refuses_is_a_reload_too():
    """Else each costs a call: what it brings does not become what is stored."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.header("x-large"):
            await call.reply(b"", 400)
        else:
            await call.reply(b"%d" % call.number, headers=FRESH)

    await world.get("/")
    large = {**RELOAD, "x-large": "x" * 9000}
    statuses = [(await world.get("/", headers=large)).status for _ in range(20)]
    assert statuses == [400] + [200] * 19
    assert world.origin.total == 2


async def test_clients_with_authorization_do_not_each_reload():
    world = World()
    world.origin.answers("/", {"cache-control": "public, max-age=60"})
    for number in range(20):
        await world.get("/", headers={**RELOAD, "authorization": f"Bearer {number}"})
    assert world.origin.total == 2


async def test_the_pause_can_be_changed_while_it_runs():
    world = World()
    await world.get("/")
    await world.get("/", headers=RELOAD)
    world.cache.reload(reload_pause=None)
    assert not (await world.get("/", headers=RELOAD)).hit
    assert world.origin.total == 3


async def test_what_is_known_of_reloads_is_bounded():
    learned = World().cache.engine.learned
    for number in range(8300):
        learned.note_reload(b"%d" % number)
    assert len(learned._reloads) == 8192
    assert learned.last_reload(b"8299") > 0 and learned.last_reload(b"0") == 0
