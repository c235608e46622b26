"""One request without credentials does not switch a page off (G2, G4, G7): what it is told is for
requests that say the same, displaces nothing that is stored, and ends with the first response that is
shareable."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate import Rule
from tests.support.asgi import FRESH, Gate, OriginCall, World

SWR = {"cache-control": "max-age=10, stale-while-revalidate=60", "etag": '"1"'}
# What one client can send, and what the origin makes of it.
ATTACKS = [
    pytest.param(
        {"cookie": "session=bad", "cache-control": "no-cache"},
        200,
        {"cache-control": "max-age=60", "set-cookie": "session=new"},
        id="bad-cookie",
    ),
    pytest.param({"x-large": "x" * 9000}, 400, {}, id="400"),
    pytest.param({"x-large": "x" * 9000}, 431, {}, id="431"),
    pytest.param({"user-agent": "sqlmap"}, 403, {"cache-control": "no-store"}, id="403-of-a-waf"),
    pytest.param({"user-agent": "sqlmap"}, 200, {"cache-control": "no-store"}, id="200-of-a-waf"),
    pytest.param({"x-debug": "1"}, 500, {}, id="500"),
    pytest.param({"x-lang": "xx"}, 200, {**FRESH, "set-cookie": "lang=xx"}, id="a-field"),
    pytest.param({"accept": "x/y"}, 406, {}, id="406"),
    pytest.param({"accept": "x/y"}, 200, {"cache-control": "private"}, id="private"),
    pytest.param({"x-debug": "1"}, 302, {"location": "/login"}, id="302"),
    pytest.param({"x-debug": "1"}, 404, {}, id="404"),
    pytest.param({"x-api-key": "bad"}, 401, {}, id="401"),
]


def site(attack: dict, status: int, headers: dict, **options: Any) -> World:
    """A page that is fresh for a minute, but not for the attack."""
    world = World(**options)
    name, value = next(iter(attack.items()))

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.header(name) == value:
            await call.reply(b"for one", status, headers)
        else:
            await call.reply(b"for all", headers=FRESH)

    return world


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize(("attack", "status", "headers"), ATTACKS)
async def test_what_is_fresh_stays(attack, status, headers, reload):
    world = site(attack, status, headers)
    await world.get("/")
    attacking = {**attack, "cache-control": "no-cache"} if reload else attack
    for _ in range(5):
        world.clock.advance(2)
        await world.get("/", headers=attacking)
    before = world.origin.total
    for _ in range(60):
        assert (await world.get("/")).hit
    assert world.origin.total == before


@pytest.mark.parametrize("stored", ["nothing", "stale"])
@pytest.mark.parametrize(("attack", "status", "headers"), ATTACKS)
async def test_the_next_sixty_at_once_cost_one_call(attack, status, headers, stored):
    """Though nothing fresh is stored."""
    world = site(attack, status, headers)
    if stored == "stale":
        await world.get("/")
        world.clock.advance(100)
    await world.get("/", headers=attack)
    before = world.origin.total
    calls = [world.call("/") for _ in range(60)]
    assert {(await call.done()).body for call in calls} == {b"for all"}
    assert world.origin.total == before + 1
    for _ in range(60):
        assert (await world.get("/")).hit


async def test_a_marker_after_an_attack_is_for_the_same_request():
    """G4: what is refused again and again does not queue, not even for a head."""
    world = World()
    barrier = asyncio.Barrier(10)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 1:
            await barrier.wait()
        await call.reply(b"", 403)

    await world.get("/", headers={"user-agent": "sqlmap"})
    for call in [world.call("/", headers={"user-agent": "sqlmap"}) for _ in range(10)]:
        assert (await call.done()).status == 403


@pytest.mark.parametrize("with_cookies", [False, True])
async def test_what_different_requests_were_refused_is_for_all(with_cookies):
    """After four of them nobody waits, whoever it is."""
    world = World()
    barrier = asyncio.Barrier(20)
    name = "cookie" if with_cookies else "user-agent"

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number > 4:
            await barrier.wait()
        await call.reply(b"%d" % call.number, headers={"cache-control": "private"})

    for number in range(4):
        await world.get("/", headers={name: f"a={number}"})
    calls = [world.call("/", headers={name: f"b={number}"}) for number in range(20)]
    assert len({(await call.done()).body for call in calls}) == 20


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_errors_of_single_requests_are_never_for_all(status):
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        bad = call.header("x-bad") is not None
        await call.reply(b"", status if bad else 200, {} if bad else FRESH)

    for number in range(10):
        await world.get("/", headers={"x-bad": str(number)})
    calls = [world.call("/") for _ in range(60)]
    for call in calls:
        await call.done()
    assert world.origin.calls["/"] == 11


async def test_one_cookie_says_nothing_about_another():
    world = site({"cookie": "session=bad"}, 200, {**FRESH, "set-cookie": "a=b"})
    await world.get("/", headers={"cookie": "session=bad"})
    calls = [world.call("/", headers={"cookie": f"_ga={number}"}) for number in range(60)]
    assert {(await call.done()).body for call in calls} == {b"for all"}
    assert world.origin.total == 2


async def test_those_who_waited_for_an_attack_do_not_all_call_the_app():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        bad = call.header("x-large") is not None
        await call.reply(b"", 400 if bad else 200, {} if bad else FRESH)

    attack = world.call("/", headers={"x-large": "x" * 9000})
    await gate.reached()
    calls = [world.call("/") for _ in range(60)]
    await world.waiting(60)
    gate.open()
    assert (await attack.done()).status == 400
    for call in calls:
        assert (await call.done()).status == 200
    assert world.origin.total == 2
    world.assert_nothing_left()


@pytest.mark.parametrize("headers", [{}, {"cookie": "a=1"}], ids=["anonymous", "cookie"])
async def test_the_first_shareable_head_ends_a_marker(headers):
    """Those who come while its body is under way share a fetch again."""
    world = World()
    rest, second = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number <= 5:
            await call.reply(b"private", headers={"cache-control": "private"})
            return
        await call.start(200, FRESH)
        await (rest if call.number == 6 else second).wait()
        await call.end(b"%d" % call.number)

    for _ in range(5):
        await world.get("/", headers=headers)
    first = await world.call("/", headers=headers).begun()
    await rest.reached()
    calls = [world.call("/", headers=headers) for _ in range(10)]
    await second.reached()
    second.open()
    for call in calls:
        assert (await call.done()).body == b"7"
    rest.open()
    await first.done()
    assert world.origin.total == 7
    # And nothing is left of it.
    world.clock.advance(61)
    calls = [world.call("/", headers=headers) for _ in range(10)]
    for call in calls:
        await call.done()
    assert world.origin.total == 8


async def test_what_is_stale_may_be_validated_after_an_error():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.header("x-bad"):
            await call.reply(b"", 403)
        elif call.header("if-none-match"):
            await call.reply(b"", 304, SWR)
        else:
            await call.reply(b"page", headers=SWR)

    await world.get("/")
    world.clock.advance(100)
    await world.get("/", headers={"x-bad": "1"})
    again = await world.get("/")
    assert again.body == b"page" and "fwd-status=304" in again.cache_status


@pytest.mark.parametrize("more", ["", ", stale-if-error=600"])
async def test_what_a_refresh_found_to_be_private_is_served_no_more_and_queues_nowhere(more):
    world = World()
    barrier = asyncio.Barrier(10)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            control = "max-age=10, stale-while-revalidate=60" + more
            await call.reply(b"page", headers={"cache-control": control})
            return
        if call.number > 2:
            await barrier.wait()
        await call.reply(b"mine", headers={"cache-control": "private"})

    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"page"
    await world.idle()
    for call in [world.call("/") for _ in range(10)]:
        assert (await call.done()).body == b"mine"


async def test_what_may_stand_in_does_so_after_an_attack():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"page", headers={"cache-control": "max-age=10, stale-if-error=600"})
        elif call.header("x-bad"):
            await call.reply(b"", headers={"cache-control": "private"})
        else:
            await call.reply(b"", 503)

    await world.get("/")
    world.clock.advance(100)
    await world.get("/", headers={"x-bad": "1"})
    again = await world.get("/")
    assert again.body == b"page" and "stale-if-error" in again.cache_status


@pytest.mark.parametrize("explicit", [False, True])
async def test_a_rule_s_page_stays_when_a_cookie_is_bad(explicit):
    """With a rule's lifetime as with the app's own."""
    world = World(rules=[Rule("*", ttl=60)])

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        own = FRESH if explicit else {}
        cookie = {"set-cookie": "a=b"} if call.header("cookie") else {}
        await call.reply(b"page", headers={**own, **cookie})

    await world.get("/")
    await world.get("/", headers={"cookie": "bad=1", "cache-control": "no-cache"})
    for _ in range(60):
        assert (await world.get("/")).hit
    assert world.origin.total == 2


async def test_witnesses_are_bounded():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"", 403)

    for number in range(100):
        await world.get("/", headers={"x-n": str(number)})
    (key,) = world.cache.stack.layers[0].keys()
    entry = world.cache.stack.peek(key)
    assert entry is not None
    assert len(entry.value.witnesses) <= 4
