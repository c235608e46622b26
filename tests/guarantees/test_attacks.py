"""What attacks on the engine have brought to light, one test each, named after what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

import pytest

from layergate import ConfigError, Rule
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.errors import OriginAborted
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.rules import RuleSet
from tests.support.asgi import Gate, OriginCall, World, scope_of
from tests.support.routes import answer_as_routed
from tests.support.waiting import turns, until

FRESH = {"cache-control": "max-age=60"}


# -- one client spoils it for the others ---------------------------------------------------------


@pytest.mark.parametrize(
    ("request_headers", "response"),
    [
        ({"cookie": "a=b"}, {"set-cookie": "a=c"}),
        ({"cookie": "a=b"}, {"cache-control": "private"}),
        ({"authorization": "Bearer garbage"}, {"cache-control": "no-store"}),
    ],
)
@pytest.mark.parametrize("stored_first", [True, False])
async def test_a_known_client_does_not_take_the_anonymous_page_away(
    request_headers, response, stored_first
):
    world = World(rules=[Rule("/*", ttl=600)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.header("cookie") or call.header("authorization"):
            await call.reply(b"mine", headers=response)
            return
        if not stored_first:
            await gate.wait()
        await call.reply(b"everybody's")

    if stored_first:
        await world.get("/")
    for _ in range(2):
        assert (await world.get("/", headers=request_headers)).body == b"mine"
    before = world.origin.total
    calls = [world.call("/") for _ in range(20)]
    gate.open()
    assert {(await call.done()).body for call in calls} == {b"everybody's"}
    assert world.origin.total - before == (0 if stored_first else 1)


async def test_stale_if_error_keeps_an_anonymous_page_from_a_follower_with_a_cookie():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        answer_as_routed(call.scope, ttl=10, stale_if_error=600)
        if call.header("cookie"):
            await call.reply(b"alice")
        elif call.number == 1:
            await call.reply(b"please log in")
        else:
            await gate.wait()
            await call.reply(b"", status=500)

    await world.get("/")
    world.clock.advance(20)
    leader = world.call("/")
    await gate.reached()
    alice = world.call("/", headers={"cookie": "sid=alice"})
    await turns()
    gate.open()
    assert (await leader.done()).body == b"please log in"
    assert (await alice.done()).body == b"alice"


async def test_a_stalled_body_is_not_joined_for_ever():
    world = World(collapse_timeout=30)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        number = call.number
        await call.start(200, FRESH)
        await call.chunk(b"%d" % number)
        if number == 1:
            await gate.wait()
        await call.end()

    stalled = world.call("/")
    await stalled.received(1)
    world.clock.advance(31)
    assert (await world.get("/")).body == b"2"
    gate.open()
    await stalled.done()


# -- what a hostile request can cost --------------------------------------------------------------


def test_marks_are_bounded_in_bytes_as_well_as_in_number():
    invalidations = Invalidations()
    long = "http://h/?" + "x" * 60_000
    invalidations.apply(1, (Invalidation("key", long),), 0.0)
    assert invalidations.purged_since(0, (), long)
    assert not invalidations.purged_since(0, (), long + "y")
    assert all(len(value) < 100 for value in invalidations._hard.keys._exact)


async def test_a_post_to_a_url_too_long_to_be_stored_leaves_no_mark():
    world = World(max_key_length=1000)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"")

    position = world.cache.stack.invalidations.position
    await world.get("/", method="POST", query=b"q=" + b"x" * 2000)
    assert world.cache.stack.invalidations.position == position


def test_a_huge_cache_control_is_read_in_linear_time():
    """It was quadratic: 36 s for a megabyte."""
    value = b", ".join(b'private="a%d"' % number for number in range(40_000))
    assert len(parse_cache_control(value).private_fields) == 40_000


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/*/images/*/thumb/*.jpg", "/" + "/images/thumb" * 600),
        ("/{t:path}/a/*/b/*/c", "/" + "/a/b" * 2000),
        ("/{a}-{b}-{c}/x", "/" + "-" * 8000),
    ],
)
def test_a_hostile_path_does_not_make_rules_backtrack(rule, path):
    """These took seconds to hours."""
    assert RuleSet([Rule(rule, ttl=1)]).match(path, b"h") is None


@pytest.mark.parametrize("path", ["/{a}{b}", "/*/{a}/*/{b}/*"])
def test_a_rule_that_could_be_slow_is_refused(path):
    with pytest.raises(ConfigError, match="path has"):
        World(rules=[Rule(path, ttl=1)])


# -- streams and messages out of order --------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type", ["text/event-stream", "multipart/x-mixed-replace; boundary=a"]
)
async def test_a_rule_does_not_make_a_stream_of_events_shared(media_type):
    world = World(rules=[Rule("/*", ttl=60)])

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers={"content-type": media_type})

    first = await world.get("/")
    assert b"detail=stream" in dict(first.messages[0]["headers"])[b"cache-status"]
    assert (await world.get("/")).body == b"2"


async def test_a_body_before_its_head_is_an_error_and_hangs_nobody():
    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.body", "body": b"x"})

    world = World(app)
    with pytest.raises(RuntimeError, match=r"before http\.response\.start"):
        await world.get("/")
    world.assert_nothing_left()


async def test_an_app_that_cancels_itself_is_not_silently_without_response():
    async def app(scope, receive, send) -> None:
        raise asyncio.CancelledError

    world = World(app)
    with pytest.raises(OriginAborted):
        await world.get("/")
    world.assert_nothing_left()


async def test_a_fetch_cancelled_before_its_first_step_leaves_no_flight():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=FRESH)

    request = world.call("/")
    while not world.clock.pending():  # the fetch is spawned, and has not run
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_name() == "layergate fetch":
            task.cancel()
    with contextlib.suppress(OriginAborted):
        await request.done()
    gate.open()
    assert (await world.get("/")).body == b"x"
    world.assert_nothing_left()


async def test_a_receive_that_fails_does_not_cut_a_shared_body_short(monkeypatch):
    monkeypatch.setattr("layergate.asgi.sending._WATCH_AFTER", 0.01)
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"one ")
        await gate.wait()
        await call.chunk(b"two")
        await call.end()

    asked = asyncio.Event()
    sent: list[bytes] = []

    async def failing() -> dict[str, str]:
        asked.set()
        raise RuntimeError("no more messages")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    leader = asyncio.create_task(world.app(scope_of("/"), failing, send))
    follower = world.call("/")
    await until(lambda: len(follower.body) == 4)
    async with asyncio.timeout(10):
        await asked.wait()  # the watch has begun, and failed
    gate.open()
    assert (await follower.done()).body == b"one two"
    await leader
    assert b"".join(sent) == b"one two"


class _Broken:
    @property
    def is_authenticated(self) -> bool:
        raise NotImplementedError


async def test_a_user_object_that_fails_is_taken_for_a_user_and_breaks_nothing():
    world = World(rules=[Rule("/*", ttl=60)])

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number)

    for number in (1, 2):
        assert (await world.get("/", user=_Broken())).body == b"%d" % number


async def test_an_app_that_is_called_again_can_read_its_request_again():
    """A 304 for something else than was asked about, to a fetch in the request's own task."""
    world = World(collapse=False)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        assert (await call.receive())["type"] == "http.request"
        if call.header("if-none-match"):
            await call.reply(b"", status=304, headers={"etag": '"other"'})
        else:
            headers = {"cache-control": "max-age=10", "etag": f'"{call.number}"'}
            await call.reply(b"%d" % call.number, headers=headers)

    await world.get("/")
    world.clock.advance(20)
    assert (await world.get("/")).body == b"3"
