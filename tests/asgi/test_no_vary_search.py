"""Requests that No-Vary-Search makes equivalent, at the same time: who shares, and who must not."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.asgi import Gate, OriginCall, World

SAID = {"cache-control": "max-age=10", "no-vary-search": 'params=("utm")'}


def a_world() -> World:
    return World(no_vary_search=True)


async def known(world: World, path: str = "/p") -> None:
    """Have the path say what it depends on; then what is stored is stale."""
    await world.get(path, query=b"utm=0")
    world.clock.advance(20)


def answering(world: World, headers: dict, gate: Gate, path: str = "/p") -> None:
    @world.origin.on(path)
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await gate.wait()
        query = call.scope["query_string"]
        await call.reply(query, headers=SAID if call.number == 1 else headers)


async def test_g2_equivalent_requests_share_one_fetch():
    world, gate = a_world(), Gate()
    answering(world, SAID, gate)
    await known(world)
    calls = [world.call("/p", query=b"utm=%d&a=1" % number) for number in range(20)]
    await world.waiting(19)
    gate.open()
    bodies = {(await call.done()).body for call in calls}
    assert len(bodies) == 1 and world.origin.total == 2
    world.assert_nothing_left()


@pytest.mark.parametrize(
    "headers",
    [{"cache-control": "max-age=10"}, {**SAID, "no-vary-search": "key-order"}],
    ids=["says-nothing", "says-something-else"],
)
async def test_g9_g4_what_turns_out_not_to_be_for_all_is_fetched_by_each_at_once(headers):
    world, first = a_world(), Gate()
    everyone = asyncio.Barrier(6)

    @world.origin.on("/p")
    async def handler(call: OriginCall) -> None:
        if call.number == 2:
            await first.wait()
        elif call.number > 2:
            await everyone.wait()  # all at once, or this never ends
        query = call.scope["query_string"]
        await call.reply(query, headers=SAID if call.number == 1 else headers)

    await known(world)
    queries = [b"utm=%d" % number for number in range(1, 7)]
    calls = [world.call("/p", query=query) for query in queries]
    await world.waiting(5)
    first.open()
    # The one that led, and five others; a seventh that asks for what the first did shares with it.
    await calls[0].done()
    calls.append(world.call("/p", query=b"utm=7"))
    for query, call in zip([*queries, b"utm=7"], calls, strict=True):
        assert (await call.done()).body == query
    world.assert_nothing_left()


async def test_g3_a_request_after_a_purge_of_an_equivalent_url_does_not_join_what_began_before():
    world, gate = a_world(), Gate()
    answering(world, SAID, gate)
    await known(world)
    before = world.call("/p", query=b"utm=1")
    await gate.reached()
    await world.cache.purge(urls=["http://example.com/p?utm=2"])
    after = world.call("/p", query=b"utm=3")
    await gate.reached(2)
    gate.open()
    assert (await before.done()).body == b"utm=1"
    assert (await after.done()).body == b"utm=3"
    assert (await world.get("/p", query=b"utm=4")).body == b"utm=3"
    world.assert_nothing_left()


@pytest.mark.parametrize("soft", [False, True])
async def test_g3_a_purge_of_an_equivalent_url_meets_what_is_being_fetched_for_the_first_time(soft):
    world, gate = a_world(), Gate()

    @world.origin.on("/p")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=SAID)

    before = world.call("/p", query=b"utm=1")
    await gate.reached()
    await world.cache.purge(urls=["http://example.com/p?utm=2"], soft=soft)
    gate.open()
    assert (await before.done()).body == b"1"
    assert (await world.get("/p", query=b"utm=3")).body == b"2"
    world.assert_nothing_left()


async def test_what_a_path_says_is_bounded():
    world = a_world()
    names = " ".join(f'"p{number}"' for number in range(1000))

    @world.origin.on("/p")
    async def handler(call: OriginCall) -> None:
        headers = {"cache-control": "max-age=10", "no-vary-search": f"params=({names})"}
        await call.reply(call.scope["query_string"], headers=headers)

    await world.get("/p", query=b"p1=1")
    assert (await world.get("/p", query=b"p1=2")).body == b"p1=2"
    for number in range(50):
        await world.get(f"/other{number}", query=b"utm=%d" % number)
    assert world.entries == 52
