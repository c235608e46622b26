"""Responses to POST that answer later GETs (RFC 9110 9.3.3), and the guarantees they keep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate import cached
from layergate.http.engine.posting import encloses_target
from layergate.http.message.fields import Fields
from tests.support.asgi import Gate, OriginCall, World

FRESH = {"cache-control": "max-age=60"}
OWN = {**FRESH, "content-location": "/", "cache-tag": "a"}


def a_world(gate: Gate | None = None, body: Gate | None = None, **options: Any) -> World:
    """POSTs to / wait at ``gate`` before their head, and at ``body`` after it."""
    world = World(**options)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.scope["method"] != "POST":
            await call.reply(b"got %d" % call.number, 200, FRESH)
            return
        if gate is not None:
            await gate.wait()
        await call.start(200, OWN)
        if body is not None:
            await body.wait()
        await call.end(b"posted %d" % call.number)

    return world


async def test_it_is_stored_and_its_client_is_told() -> None:
    world = a_world()
    call = await world.get("/", method="POST", body=[b"a=b"])
    assert call.cache_status == "LayerGate; fwd=method; stored"
    assert call.body == b"posted 1"
    assert (await world.get("/")).body == b"posted 1"
    assert (await world.get("/")).hit
    world.assert_nothing_left()


# -- G3 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"urls": ["http://example.com/"]}, id="its-url"),
        pytest.param({"tags": ["a"]}, id="its-tag"),
        pytest.param({"everything": True}, id="everything"),
        pytest.param({"patterns": ["*"], "soft": True}, id="soft"),
        pytest.param({"tags": ["other"]}, id="another"),  # which cannot be told apart
    ],
)
async def test_g3_a_purge_while_the_app_works(what: dict[str, Any]) -> None:
    gate = Gate()
    world = a_world(gate)
    post = world.call("/", method="POST")
    await gate.reached()
    await world.cache.purge(**what)
    gate.open()
    assert "stored" not in (await post.done()).cache_status
    assert (await world.get("/")).body == b"got 2"
    world.assert_nothing_left()


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        pytest.param({"urls": ["http://example.com/"]}, False, id="its-url"),
        pytest.param({"tags": ["a"]}, False, id="its-tag"),
        pytest.param({"tags": ["other"]}, True, id="another"),
    ],
)
async def test_g3_a_purge_between_head_and_end(what: dict[str, Any], kept: bool) -> None:
    body = Gate()
    world = a_world(body=body)
    post = world.call("/", method="POST")
    await body.reached()
    await world.cache.purge(**what)
    body.open()
    await post.done()
    assert (await world.get("/")).body == (b"posted 1" if kept else b"got 2")


async def test_g3_a_purge_in_the_midst_of_its_own() -> None:
    """Between the moment when the head is judged and when its own purge is applied."""
    world = a_world()
    stack = world.cache.stack
    append = stack._log.append

    async def slow(invalidations: Any, time: float, *, wait: float | None = None) -> Any:
        stack._log.append = append  # type: ignore[method-assign]
        await world.cache.purge(urls=["http://example.com/"])
        return await append(invalidations, time, wait=wait)

    stack._log = Slow(append=slow)  # type: ignore[assignment]
    assert "stored" not in (await world.get("/", method="POST")).cache_status
    assert (await world.get("/")).body == b"got 2"


class Slow:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_g3_another_unsafe_request_meanwhile(method: str) -> None:
    gate = Gate()
    world = a_world(gate)
    first = world.call("/", method="POST")
    await gate.reached()
    if method == "PUT":
        await world.get("/", method="PUT")
        gate.open()
        assert "stored" not in (await first.done()).cache_status
    else:
        second = world.call("/", method="POST")
        await gate.reached(2)
        gate.open()
        # Of two at once, nobody knows which the origin took for the later one.
        await asyncio.gather(first.done(), second.done())
    assert (await world.get("/")).body == b"got 3"


async def test_g3_the_app_purges_in_its_handler() -> None:
    world = a_world()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await world.cache.purge(tags=["a"])
        await call.reply(b"%d" % call.number, 200, OWN)

    await world.get("/", method="POST")
    assert (await world.get("/")).body == b"2"


async def test_a_get_that_began_before_does_not_replace_it() -> None:
    head, rest = Gate(), Gate()
    world = a_world()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.scope["method"] == "POST":
            await call.reply(b"posted", 200, OWN)
            return
        await head.wait()
        await call.start(200, FRESH)
        await rest.wait()
        await call.end(b"old")

    early = world.call("/")
    await head.reached()
    await world.get("/", method="POST")
    assert (await world.get("/")).body == b"posted"
    head.open()
    rest.open()
    assert (await early.done()).body == b"old"
    await world.idle()
    assert (await world.get("/")).body == b"posted"
    world.assert_nothing_left()


async def test_a_get_that_began_after_its_purge_is_the_newer_one() -> None:
    body = Gate()
    world = a_world(body=body)
    post = world.call("/", method="POST")
    await body.reached()
    world.clock.advance(1)
    assert (await world.get("/")).body == b"got 2"
    body.open()
    await post.done()
    assert (await world.get("/")).body == b"got 2"


# -- G1, G6, G8 -------------------------------------------------------------------------------------


async def test_g1_a_user_that_the_app_knows() -> None:
    world = a_world()
    call = await world.get("/", method="POST", session={"user": 1})
    assert "stored" not in call.cache_status

    @world.origin.on("/")
    async def login(call: OriginCall) -> None:
        call.scope["session"] = {"user": 1}
        await call.reply(b"%d" % call.number, 200, OWN)

    assert "stored" not in (await world.get("/", method="POST")).cache_status
    assert (await world.get("/")).body == b"3"


@pytest.mark.parametrize("inside", [False, True])
async def test_g1_a_user_is_known_before_or_inside_and_the_client_is_told_the_same(
    inside: bool,
) -> None:
    """A user who is known only once the app ran is known all the same: the response is no more a
    candidate for the store than if the server had named them."""
    world = a_world()
    known = {"session": {"user": 1}}

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        call.scope.update(known)
        await call.reply(b"%d" % call.number, 200, {**OWN, "vary": "cookie"})

    before = {} if inside else known
    cookie = {"cookie": "sid=1"}
    call = await world.get("/", method="POST", headers=cookie, **before)
    assert call.cache_status == "LayerGate; fwd=method"
    assert call.header("vary") == "cookie"
    assert not world.count("refused")
    assert (await world.get("/", headers=cookie)).body == b"2"


async def test_g1_a_policy_next_to_the_route_counts() -> None:
    @cached(vary=["x-tenant"], tags=["t"])
    async def endpoint(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, 200, OWN)

    world = a_world()

    @world.origin.on("/")
    async def routed(call: OriginCall) -> None:
        call.scope["endpoint"] = endpoint
        await endpoint(call=call)

    await world.get("/", method="POST", headers={"x-tenant": "1"})
    assert (await world.get("/", headers={"x-tenant": "1"})).body == b"1"
    assert (await world.get("/", headers={"x-tenant": "2"})).body == b"2"
    await world.cache.purge(tags=["t"])
    assert (await world.get("/", headers={"x-tenant": "1"})).body == b"3"


async def test_an_app_that_changes_its_scope_changes_no_key() -> None:
    world = a_world()

    @world.origin.on("/a")
    async def mounted(call: OriginCall) -> None:
        call.scope.update(root_path="/a", path="/elsewhere", raw_path=b"/elsewhere")
        await call.reply(b"posted", 200, {**FRESH, "content-location": "/a"})

    await world.get("/a", method="POST")
    assert (await world.get("/a")).hit


async def test_g6_one_that_breaks_off_is_not_stored() -> None:
    world = a_world()

    @world.origin.on("/")
    async def breaks(call: OriginCall) -> None:
        if call.scope["method"] == "POST":
            await call.start(200, OWN)
            await call.chunk(b"half")
            raise RuntimeError("no")
        await call.reply(b"got", 200, FRESH)

    with pytest.raises(RuntimeError):
        await world.get("/", method="POST")
    assert (await world.get("/")).body == b"got"
    world.assert_nothing_left()


async def test_g6_one_whose_app_just_ends_is_not_stored() -> None:
    world = a_world()

    @world.origin.on("/")
    async def ends(call: OriginCall) -> None:
        await call.start(200, OWN)
        await call.chunk(b"half")

    await world.get("/", method="POST")
    assert world.entries == 0
    world.assert_nothing_left()


async def test_g8_it_is_passed_on_as_it_comes() -> None:
    world, gate = a_world(), Gate()

    @world.origin.on("/")
    async def slow(call: OriginCall) -> None:
        message = await call.receive()
        assert message["body"] == b"a=b"
        await call.start(200, OWN)
        await call.chunk(b"one")
        await gate.wait()
        await call.end(b"two")

    post = world.call("/", method="POST", body=[b"a=b"])
    await post.received(3)
    gate.open()
    assert (await post.done()).body == b"onetwo"
    assert (await world.get("/")).body == b"onetwo"


@given(
    st.one_of(st.binary(), st.from_regex(rb"(https?:)?(//example\.org)?(:80)?/?[.a/%?#]*")),
    st.text(),
)
def test_any_content_location_is_judged(value: bytes, target: str) -> None:
    fields = Fields([(b"content-location", value)])
    assert encloses_target(target, 200, fields) in (True, False)
    # "?" alone means the target itself, with an empty query.
    assert encloses_target("https://example.org/other", 200, fields) is (value == b"?")
