"""`HttpCache.reload`: other options for a running cache, with all that it holds."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import pytest

from layergate import Admin, ConfigError, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.config import FIXED_OPTIONS, Options
from tests.support.asgi import Gate, Origin, OriginCall, World


def plain(world: World) -> None:
    """An origin that says nothing about caching."""

    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, 200, {"cache-tag": "t"})

    for path in ("/a", "/b"):
        world.origin.handlers[path] = handler


async def test_rules_change_and_what_is_stored_stays_as_it_was_stored():
    world = World(rules=[Rule("/a", ttl=60, tags=["old"])])
    plain(world)
    await world.get("/a")
    world.cache.reload(rules=[Rule("/a", ttl=5, tags=["new"]), Rule("/b", ttl=5)])
    world.clock.advance(30)
    assert (await world.get("/a")).hit  # by the plan it was stored with
    await world.cache.purge(tags=["new"])
    assert (await world.get("/a")).hit
    await world.cache.purge(tags=["old"])
    assert (await world.get("/a")).body == b"2"
    await world.cache.purge(tags=["new"])
    assert (await world.get("/a")).body == b"3"
    world.clock.advance(6)
    assert (await world.get("/a")).body == b"4"  # by the new one
    await world.get("/b")
    assert (await world.get("/b")).hit


async def test_a_path_becomes_bypassed_and_is_not_any_more():
    world = World()
    await world.get("/x")
    world.cache.reload(rules=[Rule("/x", bypass=True)])
    assert (await world.get("/x")).body == b"/x 2"
    assert world.cache.stats()["events"]["bypass"] == 1
    world.cache.reload(rules=[])
    call = await world.get("/x")
    assert call.hit
    assert call.body == b"/x 1"


async def test_a_target_that_was_not_shareable_becomes_so():
    world = World()
    plain(world)
    await world.get("/a")
    assert (await world.get("/a")).cache_status.endswith("detail=no-freshness")  # by a marker
    world.cache.reload(rules=[Rule("/a", ttl=60)])
    await world.get("/a")
    assert (await world.get("/a")).hit


async def test_what_is_said_and_heard_changes_with_its_options():
    world = World()
    plain(world)
    assert (await world.get("/a")).header("cache-tag") is None
    await world.get("/x")
    assert not (await world.get("/x", headers={"cache-control": "no-cache"})).hit
    post = await world.get("/a", method="POST")
    assert post.cache_status == "LayerGate; fwd=method"
    world.cache.reload(strip_tags=False, cache_status=False, request_directives=False)
    call = await world.get("/a")
    assert call.header("cache-tag") == "t"
    assert call.cache_status == ""
    assert (await world.get("/a", method="POST")).cache_status == ""
    assert world.origin.calls["/x"] == 2
    await world.get("/x", headers={"cache-control": "no-cache"})
    assert world.origin.calls["/x"] == 2
    # What is not named stays.
    world.cache.reload(cache_status=True)
    assert (await world.get("/x", headers={"cache-control": "no-cache"})).hit
    assert (await world.get("/a", method="POST")).cache_status == "LayerGate; fwd=method"
    assert (await world.get("/a")).header("cache-tag") == "t"


async def test_the_endpoint_comes_changes_its_token_and_goes():
    world = World()

    async def status(token: str) -> int:
        fields = {"authorization": f"Bearer {token}"}
        return (await world.get("/_layergate/stats", headers=fields)).status

    async def origin_asked() -> int:
        return world.origin.calls["/_layergate/stats"]

    await status("one")
    assert await origin_asked() == 1
    world.cache.reload(admin=Admin(token="one"))
    assert await status("one") == 200
    world.cache.reload(admin=Admin(token="two"))
    assert await status("one") == 403
    assert await status("two") == 200
    assert await origin_asked() == 1
    world.cache.reload(admin=None)
    await status("two")
    assert await origin_asked() == 2


async def test_a_fetch_under_way_ends_by_the_rules_it_began_with():
    world = World(rules=[Rule("/a", ttl=60)])
    gate = Gate()

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"%d" % call.number)

    async with world.call("/a") as call:
        await gate.reached()
        world.cache.reload(rules=[])
        gate.open()
        await call.done()
    assert (await world.get("/a")).hit
    world.assert_nothing_left()


async def test_one_cache_of_several_middlewares_reloads_them_all():
    world = World()
    other = LayerGate(world.origin, cache=world.cache)
    gone = LayerGate(world.origin, cache=world.cache)
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None  # the cache does not keep it
    world.cache.reload(rules=[Rule("/x", bypass=True)])
    for app in (world.app, other):
        world.app = app
        assert (await world.get("/x")).cache_status == "LayerGate; fwd=bypass; detail=rule"


WRONG: list[dict[str, Any]] = [
    {"rules": [Rule("/y", bypass=True), Rule("/{a}{b}", ttl=1)]},  # found when it is compiled
    {"rules": "x"},
    {"keep": -1},
    {"strip_tags": False, "max_body": "huge"},
    {"no_such_option": 1},
    *({name: None} for name in sorted(FIXED_OPTIONS)),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
async def test_what_is_wrong_changes_nothing(wrong):
    world = World(rules=[Rule("/x", bypass=True)])
    options, rules = world.cache.options, world.cache.rules
    named = {"rules": "rules must|path has two"}.get(name := next(reversed(wrong)), name)
    with pytest.raises(ConfigError, match=named):
        world.cache.reload(**wrong)
    assert world.cache.options is options
    assert world.cache.rules is rules
    assert (await world.get("/x")).cache_status == "LayerGate; fwd=bypass; detail=rule"
    assert (await world.get("/y")).cache_status == "LayerGate; fwd=uri-miss; stored"


def test_every_other_option_can_be_reloaded_with_what_it_is():
    for given in ({}, {"layers": [MemoryLayer("1MB")]}, {"memory": "1MB"}):
        cache = HttpCache(**given)
        names = {field.name for field in dataclasses.fields(Options)}
        assert names > FIXED_OPTIONS
        before = cache.options
        cache.reload(**{name: getattr(before, name) for name in names - FIXED_OPTIONS})
        assert cache.options == before


def test_an_origin_of_its_own():
    # (A cache without a middleware has nobody to tell.)
    cache = HttpCache()
    cache.reload(rules=[Rule("/x", ttl=1)])
    assert len(cache.rules) == 1
    assert LayerGate(Origin(), cache=cache).cache is cache


OTHERS: dict[str, Any] = {
    "rules": [Rule("/x", ttl=1)],
    "admin": Admin(token="t"),
    "heuristic": 0.2,
    "request_directives": False,
    "cache_status": False,
    "strip_tags": False,
    "collapse": False,
    "targets": ("CDN-Cache-Control",),
    "max_key_length": 99,
    "collapse_fallback": "504",
}


def test_a_reloaded_cache_is_as_one_made_so():
    """What is derived from the options when a cache is made is derived anew when it is reloaded."""
    reloaded = LayerGate(Origin())
    reloaded.cache.reload(**OTHERS)
    made = LayerGate(Origin(), **OTHERS)
    for one, other in (
        (reloaded.cache.settings, made.cache.settings),
        (reloaded.cache._hits, made.cache._hits),
        (reloaded, made),
    ):
        derived = {
            name: value
            for name in getattr(other, "__slots__", None) or vars(other)
            if isinstance(value := getattr(other, name), bool | int | str | frozenset | Options)
        }
        assert len(derived) > 2
        assert {name: getattr(one, name) for name in derived} == derived
