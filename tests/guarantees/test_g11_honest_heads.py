"""G11: ``stored`` stands in a head only if a layer can take the response, and its length is known.

The rows that need no special cache are in `tests/scenarios/rows/g11_honest_heads.py`.
"""

from __future__ import annotations

import gzip
import threading
from typing import Any

import pytest

from layergate import HttpCache, LayerGate, MemoryLayer, Rule
from layergate.config import Options
from layergate.errors import ConfigError
from layergate.layers.redis import RedisLayer
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.support import wsgi
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.waiting import turns, until, wait_until

PAGE = {"content-type": "text/html"}
FIELD = b'<input type="hidden" name="csrf_token" value="%d">'


class Declining:
    """A layer below the memory, which keeps nothing, and may say so."""

    name = "declining"

    def __init__(self, takes: Any) -> None:
        self._takes = takes

    def __getattr__(self, name: str) -> Any:
        if name == "takes" and self._takes is not None:
            return self._takes
        raise AttributeError(name)

    def get(self, key: Any) -> None:
        return None

    def get_many(self, keys: Any) -> dict[Any, Any]:
        return {}

    def set(self, key: Any, entry: Any) -> None:
        pass

    def delete(self, key: Any) -> bool:
        return False

    def clear(self) -> None:
        pass

    def stats(self) -> dict[str, int]:
        return {}


def full_memory(clock: Any) -> MemoryLayer:
    """One that declines what is large and comes for the first time."""
    from layergate.core.entry import Entry

    layer = MemoryLayer("400KB", clock=clock)
    for number in range(100):
        entry = Entry(
            b"x", created=0.0, fresh_until=clock() + 900, expires=clock() + 900, size=4000
        )
        layer.set(b"%d" % number, entry)
    return layer


# -- what the layers take --------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False])
async def test_what_the_memory_declines_is_not_called_stored(announced: bool):
    world = World()
    layer = full_memory(world.clock.now)
    world = World(clock=world.clock, layers=[layer])
    length = {"content-length": "40000"} if announced else {}
    world.origin.answers("/", {**FRESH, **length}, b"x" * 40_000)
    first = await world.get("/")
    assert first.cache_status == "LayerGate; fwd=uri-miss; detail=no-room"
    second = await world.get("/")  # it is asked for again, so it is worth the room
    assert second.cache_status == "LayerGate; fwd=uri-miss; stored"
    assert (await world.get("/")).hit


def test_what_the_memory_declines_is_not_called_stored_under_threads():
    runtime = ThreadRuntime()
    cache = HttpCache(runtime=runtime, layers=[full_memory(runtime.now)])

    def origin(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("Content-Length", "40000")])
        return [b"x" * 40_000]

    app = WSGILayerGate(origin, cache=cache)
    assert wsgi.ask(app).told == "LayerGate; fwd=uri-miss; detail=no-room"
    assert wsgi.ask(app).told == "LayerGate; fwd=uri-miss; stored"
    assert "hit" in wsgi.ask(app).told


@pytest.mark.parametrize(
    ("takes", "said"),
    [(lambda *_: False, "detail=no-room"), (lambda *_: True, "stored"), (None, "stored")],
    ids=["no", "yes", "does not say"],
)
async def test_any_layer_will_do(takes: Any, said: str):
    """A layer that does not say what it takes is taken to take everything."""
    clock = World().clock
    world = World(clock=clock, layers=[full_memory(clock.now), Declining(takes)])
    world.origin.answers("/", FRESH, b"x" * 40_000)
    assert (await world.get("/")).cache_status == f"LayerGate; fwd=uri-miss; {said}"


async def test_a_layer_that_cannot_tell_takes_nothing():
    def takes(*_: Any) -> bool:
        raise OSError

    clock = World().clock
    world = World(clock=clock, layers=[full_memory(clock.now), Declining(takes)])
    world.origin.answers("/", FRESH, b"x" * 40_000)
    assert "stored" not in (await world.get("/")).cache_status
    assert world.count("layer_error") == 1


async def test_a_variant_and_an_update_are_asked_about_as_well():
    clock = World().clock
    world = World(clock=clock, layers=[full_memory(clock.now)])
    answers = {"cache-control": "max-age=1", "etag": '"a"', "vary": "accept"}
    world.origin.answers("/", answers, b"x" * 40_000)
    for said in ("detail=no-room", "stored"):
        told = (await world.get("/", headers={"accept": "text/html"})).cache_status
        assert told.endswith(said)
    told = (await world.get("/", headers={"accept": "text/plain"})).cache_status
    assert told.endswith("detail=no-room")
    clock.advance(2)
    world.origin.answers("/", answers, status=304)
    told = (await world.get("/", headers={"accept": "text/html"})).cache_status
    assert told == "LayerGate; fwd=stale; fwd-status=304; stored"


async def test_what_was_purged_while_it_was_fetched_is_not_called_stored():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"old", 200, {**FRESH, "cache-tag": "a"})

    call = world.call("/")
    await gate.reached()
    await world.cache.purge(tags=["a"])
    gate.open()
    assert (await call.done()).cache_status == "LayerGate; fwd=uri-miss; detail=purged"


# -- the budget of bodies under way ----------------------------------------------------------------


async def test_a_known_length_has_its_place_from_the_head_on():
    """Or else it would be said to be stored, and give up in the middle."""
    world = World(max_inflight=1000)
    gate = Gate()

    @world.origin.on("/one")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {**FRESH, "content-length": "800"})
        await call.chunk(b"x" * 10)
        await gate.wait()
        await call.end(b"x" * 790)

    world.origin.answers("/two", {**FRESH, "content-length": "300"}, b"y" * 300)
    first = world.call("/one")
    await gate.reached()
    assert world.stat("inflight_bytes") == 800
    assert (await world.get("/two")).cache_status == "LayerGate; fwd=uri-miss; detail=budget"
    gate.open()
    assert (await first.done()).cache_status == "LayerGate; fwd=uri-miss; stored"
    assert (await world.get("/two")).cache_status == "LayerGate; fwd=uri-miss; stored"
    world.assert_nothing_left()


# -- when the head goes out ------------------------------------------------------------------------


async def test_a_page_whose_body_takes_its_time_does_not_hold_back_its_head():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await gate.wait()
        await call.end(b"body")

    leader = await world.call("/").begun()
    follower = await world.call("/").begun()
    assert leader.cache_status == "LayerGate; fwd=uri-miss"
    assert follower.cache_status == "LayerGate; fwd=uri-miss; collapsed"
    gate.open()
    await leader.done()
    await follower.done()
    assert (await world.get("/")).hit
    world.assert_nothing_left()


async def test_who_waits_is_let_go_by_a_head_without_a_body():
    """G4, whatever the head still waits for."""
    world = World(rules=[Rule("*", ttl=60)])
    gates = [Gate(), Gate()]

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gates[0].wait()
        await call.start(200, {**PAGE, "set-cookie": "a=b"})
        await gates[1].wait()
        await call.end(b"<p>")

    calls = [world.call("/") for _ in range(4)]
    await gates[0].reached()
    await world.waiting(3)
    gates[0].open()
    await gates[1].reached(4)
    gates[1].open()
    for call in calls:
        await call.done()
    world.assert_nothing_left()


async def test_an_app_that_fails_between_head_and_body_is_stood_in_for():
    world = World()
    world.origin.answers("/", {"cache-control": "max-age=1, stale-if-error=60"}, b"old")
    await world.get("/")
    world.clock.advance(2)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        raise ValueError

    stale = await world.get("/")
    assert (stale.body, stale.complete) == (b"old", True)
    assert "detail=stale-if-error" in stale.cache_status
    world.assert_nothing_left()


async def test_an_app_that_fails_between_head_and_body_fails_for_all():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        raise ValueError

    calls = [world.call("/") for _ in range(3)]
    for call in calls:
        with pytest.raises(ValueError):
            await call.done()
    world.assert_nothing_left()


# -- tokens ----------------------------------------------------------------------------------------


async def test_nobody_waits_for_a_page_with_a_token():
    world = World(rules=[Rule("*", ttl=60)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        # As Starlette's BaseHTTPMiddleware does: in two messages, with time between them.
        page = FIELD % call.number
        await call.start(200, {**PAGE, "content-length": str(len(page))})
        await turns(5)
        await call.chunk(page)
        await turns(5)
        await call.end()

    calls = [world.call("/") for _ in range(5)]
    await gate.reached()
    await world.waiting(4)
    gate.open()
    pages = {(await call.done()).body for call in calls}
    assert len(pages) == 5
    assert all("detail=token" in call.cache_status for call in calls)
    assert world.entries == 1  # the marker
    world.assert_nothing_left()


async def test_a_page_in_parts_is_shared_with_those_who_wait_but_not_stored():
    world = World(rules=[Rule("*", ttl=60)])
    gates = [Gate(), Gate()]

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gates[0].wait()
        await call.start(200, PAGE)
        await call.chunk(b"<p>")
        await gates[1].wait()
        await call.end(FIELD % call.number)

    leader, follower = world.call("/"), world.call("/")
    await gates[0].reached()
    await world.waiting(1)
    gates[0].open()
    await leader.received(3)
    await follower.received(3)
    gates[1].open()
    assert (await leader.done()).body == (await follower.done()).body
    late = [await world.get("/") for _ in range(2)]
    assert world.origin.total == 3
    assert len({call.body for call in late}) == 2
    world.assert_nothing_left()


SCOPES = [
    {"csrftoken": lambda: "t"},  # asgi-csrf
    {"csrftoken": "t", "csrf_cookie_name": "csrftoken"},  # Piccolo's
    {"_csrf_token": "t"},  # Starlite's
    {"state": {"csp_nonce": "t"}},  # request.state, as home-made ones have it
    {"state": {"csrf_token": "t"}},
    {"state": {"nonce": b"t"}},
    {"state": {"_ls_connection_state": type("State", (), {"csrf_token": "t"})()}},  # Litestar's
]
NO_SCOPES: list[dict[str, Any]] = [
    {"csrftoken": None},
    {"state": {"csrf_enabled": True, "csp_nonce": ""}},
    {"state": {"_ls_connection_state": type("State", (), {})()}},
]


@pytest.mark.parametrize("given", SCOPES, ids=lambda given: next(iter(given)))
async def test_a_rule_is_not_for_what_outer_middleware_has_given_a_token(given: dict[str, Any]):
    world = World(rules=[Rule("/rule", ttl=60)])
    world.origin.answers("/rule", {}, b"page")
    for _ in range(2):
        assert "detail=token" in (await world.get("/rule", **given)).cache_status
    assert world.origin.total == 2
    await world.get("/own", **given)
    assert (await world.get("/own", **given)).hit  # the app's word


@pytest.mark.parametrize("given", NO_SCOPES)
async def test_what_is_no_token_keeps_nobody_from_a_hit(given: dict[str, Any]):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", {}, b"page")
    await world.get("/", **given)
    assert (await world.get("/", **given)).hit


@pytest.mark.parametrize(
    "given",
    [{"csrf_token": "t"}, {"CSRF_COOKIE": "t"}, {"moksha.csrf_token": "t"}, {"app.csp_nonce": "t"}],
    ids=lambda given: next(iter(given)),
)
def test_a_rule_is_not_for_what_outer_wsgi_middleware_has_given_a_token(given: dict[str, Any]):
    def origin(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    app = WSGILayerGate(origin, rules=[Rule("*", ttl=60)])
    for _ in range(2):
        assert "detail=token" in wsgi.ask(app, **given).told
    assert "stored" in wsgi.ask(app, "/2", csrf_token="").told


@pytest.mark.parametrize("used", [True, False])
def test_djangos_secret_counts_if_the_page_has_used_it(used: bool):
    def origin(environ: Any, start_response: Any) -> Any:
        environ["CSRF_COOKIE"] = "t"  # from the request's cookie, for every view
        if used:
            environ["CSRF_COOKIE_NEEDS_UPDATE"] = True
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    app = WSGILayerGate(origin, rules=[Rule("*", ttl=60, allow_cookie=True)])
    told = wsgi.ask(app, HTTP_COOKIE="csrftoken=t").told
    assert ("detail=token" in told) is used
    assert ("stored" in told) is not used


def test_nobody_waits_for_a_page_with_a_token_under_threads():
    numbers = iter(range(100))
    gate = threading.Barrier(5)

    def origin(environ: Any, start_response: Any) -> Any:
        number = next(numbers)
        if not number:
            gate.wait(10)
        page = gzip.compress(FIELD % number)
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Encoding", "gzip")])
        return [page]

    app = WSGILayerGate(origin, rules=[Rule("*", ttl=60)])

    def release() -> None:
        wait_until(lambda: app.cache.stats()["waiters"] == 4)
        for _ in range(4):
            threading.Thread(target=gate.wait, args=(10,)).start()

    threading.Thread(target=release).start()
    answers = wsgi.in_threads(5, lambda: wsgi.ask(app))
    assert len({answer.body for answer in answers}) == 5
    assert all("detail=token" in answer.told for answer in answers)


async def test_a_refresh_does_not_bring_a_token_in():
    world = World(rules=[Rule("*", ttl=10, stale_while_revalidate=60)])
    world.origin.answers("/", PAGE, b"<p>")
    await world.get("/")
    world.clock.advance(20)
    world.origin.answers("/", PAGE, FIELD % 1)
    assert (await world.get("/")).body == b"<p>"
    await world.idle()
    answers = [await world.get("/") for _ in range(3)]
    assert [answer.body for answer in answers if answer.hit] in ([], [b"<p>"] * 3)


# -- what is refused at start-up -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_body": "9MB"},
        {"memory": "8MB", "max_body": "2MB"},
        {"memory": "8MB", "shared": "redis://localhost", "max_body": "16MB"},
        {"layers": [MemoryLayer("8MB", max_entry="1MB")], "max_body": "2MB"},
        {
            "layers": [MemoryLayer("8MB"), RedisLayer("redis://localhost", max_size="3MB")],
            "max_body": "3MB",
        },
    ],
    ids=["default memory", "memory", "shared", "layer", "layers"],
)
def test_a_max_body_that_no_layer_takes_is_refused(options: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"max_body must be at most \d+ bytes here, .* got"):
        Options(**options)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 8 << 20),
        ({"memory": "8MB"}, 1 << 20),
        ({"memory": "1GB"}, 8 << 20),
        ({"memory": "8MB", "shared": "redis://localhost"}, 8 << 20),
        ({"layers": [MemoryLayer("8MB", max_entry="4MB")]}, 4 << 20),
        ({"layers": [MemoryLayer("8MB"), Declining(None)]}, 8 << 20),
        ({"memory": "1GB", "max_body": "100MB"}, 100 << 20),
    ],
)
def test_the_default_is_what_a_layer_takes(options: dict[str, Any], most: int):
    assert Options(**options).max_body == most


def test_a_reload_is_held_to_it_too():
    cache = HttpCache(memory="8MB")
    with pytest.raises(ConfigError, match="max_body must be at most 1048576 bytes here"):
        cache.reload(max_body="2MB")
    assert cache.options.max_body == 1 << 20
    cache.reload(max_body="1KB")
    cache.reload(keep=5)
    assert cache.options.max_body == cache.settings.max_body == 1024
    app = LayerGate(World().origin, cache=cache)
    assert app.cache.settings.max_body == 1024


async def test_a_stream_that_turns_out_too_large_is_never_called_stored():
    world = World(max_body=1000)
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await call.chunk(b"x" * 800)
        await gate.wait()
        await call.end(b"x" * 800)

    call = world.call("/")
    await gate.reached()
    gate.open()
    assert "stored" not in (await call.done()).cache_status
    assert len(call.body) == 1600
    await until(lambda: not world.entries)
    world.assert_nothing_left()
