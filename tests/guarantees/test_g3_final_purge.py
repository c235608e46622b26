"""G3: when a purge has returned, no response whose fetch began before it is served.

In one process: whatever is named, hard or soft, stored or under way.
"""

from __future__ import annotations

import pytest

from layergate import MemoryLayer, PurgeRefused, Rule
from tests.support.asgi import Gate, OriginCall, World
from tests.support.clocks import LoopClock
from tests.support.waiting import turns, until

HOST = "example.com"
URL = "http://example.com/shop/item"
PURGES = [
    pytest.param({"tags": ["blue"]}, id="tag"),
    pytest.param({"tags": ["other", "blue"]}, id="tags"),
    pytest.param({"urls": [URL]}, id="url"),
    pytest.param({"urls": ["https://example.com/shop/item"]}, id="url-of-another-scheme"),
    pytest.param({"urls": ["HTTP://EXAMPLE.COM:80/shop/item#x"]}, id="url-unusual"),
    pytest.param({"prefixes": ["example.com/shop"]}, id="prefix"),
    pytest.param({"prefixes": ["http://Example.com/shop/"]}, id="prefix-with-scheme"),
    pytest.param({"prefixes": ["example.com"]}, id="prefix-host-only"),
    pytest.param({"hosts": ["EXAMPLE.com"]}, id="host"),
    pytest.param({"patterns": ["*/shop/*"]}, id="pattern"),
    pytest.param({"patterns": ["/shop/*"]}, id="pattern-of-a-path"),
    pytest.param({"everything": True}, id="everything"),
]
MISSES = [
    pytest.param({"tags": ["blu", "bluer", "BLUE"]}, id="tag"),
    pytest.param({"urls": ["http://example.com/shop/Item"]}, id="url"),
    pytest.param({"prefixes": ["example.com/shopping", "example.co/"]}, id="prefix"),
    pytest.param({"hosts": ["example.co", "www.example.com", "example.com:8080"]}, id="host"),
    pytest.param({"patterns": ["/shop", "*/shop"]}, id="pattern"),
]
TAGGED = {"cache-control": "max-age=60", "cache-tag": "red, blue"}
SOFT = [pytest.param(False, id="hard"), pytest.param(True, id="soft")]


def a_world(**options) -> World:
    world = World(**options)

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers=TAGGED)

    return world


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("what", PURGES)
async def test_a_purged_response_is_fetched_again(what, soft):
    world = a_world()
    await world.get("/shop/item")
    assert (await world.get("/shop/item")).body == b"1"
    receipt = await world.cache.purge(**what, soft=soft)
    assert (receipt.applied, receipt.instances) == (1, 1)
    assert (await world.get("/shop/item")).body == b"2"
    assert (await world.get("/shop/item")).hit


@pytest.mark.parametrize("what", MISSES)
async def test_what_is_not_named_stays(what):
    world = a_world()
    await world.get("/shop/item")
    await world.cache.purge(**what)
    assert (await world.get("/shop/item")).body == b"1"


@pytest.mark.parametrize("what", PURGES)
async def test_every_variant_goes(what):
    world = World()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers={**TAGGED, "vary": "accept-language"})

    for language in ("en", "de"):
        await world.get("/shop/item", headers={"accept-language": language})
        assert (await world.get("/shop/item", headers={"accept-language": language})).hit
    await world.cache.purge(**what)
    for language in ("en", "de"):
        assert not (await world.get("/shop/item", headers={"accept-language": language})).hit


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("what", PURGES)
async def test_a_fill_under_way_dies_on_arrival(what, soft):
    """Tags of a fill are learned only from its head, so this covers them too."""
    world = World()
    gate = Gate()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=TAGGED)

    leader = world.call("/shop/item")
    await gate.reached()
    await world.cache.purge(**what, soft=soft)
    gate.open()
    assert (await leader.done()).body == b"1"
    assert (await world.get("/shop/item")).body == b"2"
    assert (await world.get("/shop/item")).body == b"2"


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("what", PURGES)
async def test_a_request_after_the_purge_is_not_given_a_fetch_that_began_before(what, soft):
    world = World()
    gate = Gate()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=TAGGED)

    leader = world.call("/shop/item")
    await gate.reached()
    early = world.call("/shop/item")
    await world.waiting(1)
    await world.cache.purge(**what, soft=soft)
    late = [world.call("/shop/item") for _ in range(3)]
    await until(lambda: world.stat("waiters") == 4 or all(call.task.done() for call in late))
    gate.open()
    for call in late:
        assert (await call.done()).body == b"2"
    assert (await leader.done()).body == b"1"
    assert (await early.done()).complete
    assert (await world.get("/shop/item")).body == b"2"
    assert world.origin.calls["/shop/item"] == 2
    world.assert_nothing_left()


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("what", PURGES)
async def test_a_request_after_the_purge_does_not_join_in_the_middle_of_a_body(what, soft):
    world = World()
    gate = Gate()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        await call.start(200, TAGGED)
        await call.chunk(b"%d" % call.number)
        if call.number == 1:
            await gate.wait()
        await call.end()

    leader = world.call("/shop/item")
    await leader.received(1)
    await world.cache.purge(**what, soft=soft)
    assert (await world.get("/shop/item")).body == b"2"
    gate.open()
    assert (await leader.done()).body == b"1"
    assert (await world.get("/shop/item")).body == b"2"


@pytest.mark.parametrize("what", PURGES)
async def test_a_fetch_that_began_before_does_not_replace_one_that_began_after(what):
    world = World()
    gate = Gate()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=TAGGED)

    leader = world.call("/shop/item")
    await gate.reached()
    await world.cache.purge(**what)
    late = world.call("/shop/item")
    # A purge by tag may concern the fetch under way; that is known only from its head.
    await until(lambda: late.task.done() or world.stat("waiters") == 1)
    gate.open()
    assert (await late.done()).body == b"2"
    await leader.done()
    hit = await world.get("/shop/item")
    assert hit.hit and hit.body == b"2"


def a_revalidating_world(second: dict, gate: Gate, **options) -> World:
    """Stale after 10 s; from the second call on the origin waits, then does as ``second`` says."""
    world = World(**options)
    headers = {
        "cache-control": "max-age=10, stale-if-error=600",
        "cache-tag": "blue",
        "etag": '"1"',
    }

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await call.reply(b"1", headers=headers)
            return
        if call.number == 2:
            await gate.wait()
            if "error" in second:
                raise RuntimeError(second["error"])
            if second["status"] == 304 and call.header("if-none-match"):
                await call.reply(b"", 304, headers)
                return
            if second["status"] >= 500:
                await call.reply(b"broken", second["status"])
                return
        await call.reply(b"%d" % call.number, headers={**headers, "etag": '"2"'})

    return world


@pytest.mark.parametrize("what", PURGES)
async def test_a_revalidation_under_way_does_not_bring_the_purged_body_back(what):
    gate = Gate()
    world = a_revalidating_world({"status": 304}, gate)
    await world.get("/shop/item")
    world.clock.advance(20)
    leader = world.call("/shop/item")
    await gate.reached()
    early = world.call("/shop/item")
    await world.waiting(1)
    await world.cache.purge(**what)
    late = world.call("/shop/item")
    gate.open()
    assert (await late.done()).body not in (b"1", b"")
    # The body was fetched before the purge, which has returned: it is gone for everyone.
    assert (await leader.done()).body not in (b"1", b"")
    assert (await early.done()).body not in (b"1", b"")
    assert (await world.get("/shop/item")).body != b"1"
    world.assert_nothing_left()


@pytest.mark.parametrize("what", PURGES)
async def test_a_purge_during_a_revalidation_is_final_even_if_it_is_soft(what):
    gate = Gate()
    world = a_revalidating_world({"status": 304}, gate)
    await world.get("/shop/item")
    world.clock.advance(20)
    leader = world.call("/shop/item")
    await gate.reached()
    await world.cache.purge(**what, soft=True)
    gate.open()
    await leader.done()
    # Made stale: the validation began before the purge, so it takes another one.
    assert not (await world.get("/shop/item")).hit
    assert world.origin.calls["/shop/item"] == 3


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"status": 503}, id="503"),
        pytest.param({"error": "boom"}, id="exception"),
    ],
)
@pytest.mark.parametrize("what", PURGES)
async def test_a_purged_response_does_not_stand_in_for_an_error(what, second):
    gate = Gate()
    world = a_revalidating_world(second, gate)
    await world.get("/shop/item")
    world.clock.advance(20)
    leader = world.call("/shop/item")
    await gate.reached()
    await world.cache.purge(**what)
    gate.open()
    if "error" in second:
        with pytest.raises(RuntimeError):
            await leader.done()
    else:
        assert (await leader.done()).status == 503
    assert leader.body != b"1"


async def test_a_purged_response_does_not_stand_in_for_an_app_that_is_too_slow():
    world = World(origin_timeout=0.02)
    gate = Gate()
    headers = {"cache-control": "max-age=10, stale-if-error=600", "cache-tag": "blue"}

    async def handler(call: OriginCall) -> None:
        if call.number == 2:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=headers)

    for path in ("/purged", "/other"):
        world.origin.handlers[path] = handler
        await world.get(path)
    world.clock.advance(20)
    leader = world.call("/purged")
    await gate.reached()
    await world.cache.purge(urls=["http://example.com/purged"])
    # Its timer began later, so when it gets its stale response, that of the first has run out too.
    other = await world.get("/other")
    assert other.body == b"1" and "stale-if-error" in other.cache_status
    await turns()
    assert not leader.started
    gate.open()
    assert (await leader.done()).body == b"2"
    await world.idle()


@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("what", PURGES)
async def test_a_background_refresh_under_way_dies_on_arrival(what, soft):
    world = World()
    gate = Gate()
    headers = {"cache-control": "max-age=10, stale-while-revalidate=600", "cache-tag": "blue"}

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        if call.number == 2:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers=headers)

    await world.get("/shop/item")
    world.clock.advance(20)
    assert (await world.get("/shop/item")).body == b"1"
    await gate.reached()
    await world.cache.purge(**what, soft=soft)
    if not soft:
        late = world.call("/shop/item")
        await until(lambda: late.task.done() or world.stat("waiters") == 1)
        gate.open()
        assert (await late.done()).body == b"3"
    gate.open()
    await world.idle()
    if soft:  # the refresh brought what was fetched before the purge: stale, and refreshed again
        await world.get("/shop/item")
        await world.idle()
        assert world.origin.calls["/shop/item"] == 3
    assert (await world.get("/shop/item")).body == b"3"
    world.assert_nothing_left()


async def test_a_soft_purged_response_is_still_good_for_its_stale_windows():
    world = World()
    headers = {
        "cache-control": "max-age=60, stale-while-revalidate=30, stale-if-error=300",
        "cache-tag": "blue",
    }

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 3:
            await call.reply(b"", 500)
        else:
            await call.reply(b"%d" % call.number, headers=headers)

    await world.get("/")
    await world.cache.purge(tags=["blue"], soft=True)
    world.clock.advance(10)
    stale = await world.get("/")
    assert stale.body == b"1" and "stale-while-revalidate" in stale.cache_status
    await world.idle()
    assert (await world.get("/")).body == b"2"
    await world.cache.purge(tags=["blue"], soft=True)
    world.clock.advance(40)
    stale = await world.get("/")
    assert stale.body == b"2" and "stale-if-error" in stale.cache_status


async def test_a_soft_purged_response_is_revalidated_with_its_validator():
    gate = Gate()
    gate.open()
    world = a_revalidating_world({"status": 304}, gate)
    await world.get("/shop/item")
    await world.cache.purge(tags=["blue"], soft=True)
    call = await world.get("/shop/item")
    assert call.body == b"1" and "fwd-status=304" in call.cache_status
    assert (await world.get("/shop/item")).hit


async def test_a_hard_purge_after_a_soft_one_is_hard():
    world = World()
    control = {"cache-control": "max-age=60, stale-while-revalidate=600", "cache-tag": "blue"}

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers=control)

    await world.get("/")
    await world.cache.purge(tags=["blue"], soft=True)
    await world.cache.purge(tags=["blue"])
    assert (await world.get("/")).body == b"2"


async def test_a_purge_reaches_the_lower_layer_too():
    clock = LoopClock()
    top, below = (
        MemoryLayer(name="top", clock=clock.now),
        MemoryLayer(name="below", clock=clock.now),
    )
    world = World(layers=[top, below])
    world.clock.time = clock.time
    await world.get("/a")
    top.clear()
    assert (await world.get("/a")).hit  # backfilled
    top.clear()
    await world.cache.purge(urls=["http://example.com/a"])
    assert (await world.get("/a")).body == b"/a 2"
    top.clear()
    assert (await world.get("/a")).body == b"/a 2"


async def test_tags_from_a_rule_purge_what_is_under_way():
    world = World(rules=[Rule("/products/{id}", ttl=60, tags=["products", "product:{id}"])])
    gate = Gate()

    @world.origin.on("/products/7")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"%d" % call.number)

    leader = world.call("/products/7")
    await gate.reached()
    await world.cache.purge(tags=["product:7"])
    late = world.call("/products/7")
    await world.waiting(1)
    gate.open()
    await leader.done()
    assert (await late.done()).body == b"2"
    assert (await world.get("/products/7")).body == b"2"


async def test_a_handler_that_purges_and_answers_is_not_stored_from_before():
    """A write's own purge, from inside of a GET handler of the same target: it began before."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await world.cache.purge(urls=["http://example.com/"])
        await call.reply(b"%d" % call.number, headers={"cache-control": "max-age=60"})

    assert (await world.get("/")).body == b"1"
    assert (await world.get("/")).body == b"2"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "FROBNICATE"])
async def test_an_unsafe_method_invalidates_what_is_stored_and_what_is_under_way(method):
    world = World()
    gate = Gate()
    world.origin.answers("/x", {"cache-control": "max-age=60"}, b"stored")
    await world.get("/x")

    @world.origin.on("/x")
    async def handler(call: OriginCall) -> None:
        if call.scope["method"] != "GET":
            await call.reply(b"", 204)
            return
        number = world.origin.calls["/x"]
        if number == 3:
            await gate.wait()
        await call.reply(b"%d" % number, headers={"cache-control": "max-age=60"})

    await world.get("/x", method=method)  # call 2
    under_way = world.call("/x")  # call 3
    await gate.reached()
    await world.get("/x", method=method)  # call 4
    assert (await world.get("/x")).body == b"5"
    gate.open()
    await under_way.done()
    assert (await world.get("/x")).body == b"5"


@pytest.mark.parametrize(
    ("host", "path", "raw_path", "url"),
    [
        ("example.com", "/a b", b"/a%20b", "http://example.com/a%20b"),
        ("example.com", "/caf\u00e9", b"/caf%C3%A9", "http://example.com/caf%C3%A9"),
        ("example.com", "/caf\u00e9", b"/caf%C3%A9", "http://example.com/caf\u00e9"),
        ("example.com", "/a b", None, "http://example.com/a%20b"),
        ("example.com", "/caf\u00e9", None, "http://example.com/caf%C3%A9"),
        ("example.com", "/caf\u00e9", None, "http://example.com/caf\u00e9"),
        ("example.com", "/50%", None, "http://example.com/50%25"),
        ("example.com", "", b"", "http://example.com/"),
        ("example.com:8080", "/x", b"/x", "http://example.com:8080/x"),
        ("EXAMPLE.com", "/x", b"/x", "http://example.com/x"),
        ("example.com:80", "/x", b"/x", "http://example.com/x"),
        ("example.com:", "/x", b"/x", "http://example.com/x"),
        ("example.com:0080", "/x", b"/x", "http://example.com/x"),
        ("example.com:08080", "/x", b"/x", "http://example.com:8080/x"),
        ("[::1]", "/x", b"/x", "http://[::1]/x"),
        ("[2001:DB8::1]:8080", "/x", b"/x", "http://[2001:db8::1]:8080/x"),
    ],
)
async def test_a_url_purge_finds_the_target_however_it_was_asked_for(host, path, raw_path, url):
    world = World()
    request = {"host": host, "raw_path": raw_path}
    await world.get(path, **request)
    await world.cache.purge(urls=[url])
    assert not (await world.get(path, **request)).hit


@pytest.mark.parametrize(
    ("host", "path", "raw_path"),
    [
        (None, "/x", b"/x"),
        ("", "/x", b"/x"),
        ("example.com:", "/x", b"/x"),
        ("example.com:0080", "/x", b"/x"),
        ("exa mple.com", "/x", b"/x"),
        ("example.com", "/a b", None),
        ("example.com", "/a\u00e9", None),
        ("example.com", '/"', b'/"'),
        ("example.com", "/a|b", b"/a|b"),
        ("example.com", "/a#b", b"/a%23b"),
        ("example.com", "/a?b", b"/a%3Fb"),
        ("example.com", "/a#b", None),
        ("example.com", "/a?b", None),
        ("example.com", "//evil.com/x", b"//evil.com/x"),
    ],
)
async def test_an_unsafe_request_invalidates_its_target_however_it_is_spelled(host, path, raw_path):
    world = World()
    request = {"host": host, "raw_path": raw_path}
    await world.get(path, **request)
    await world.get(path, method="POST", **request)
    assert not (await world.get(path, **request)).hit
    assert world.origin.calls[path] == 3


async def test_ten_thousand_purges_of_other_things_change_nothing():
    world = a_world()
    await world.get("/shop/item")
    for number in range(10_000):
        await world.cache.purge(tags=[f"t{number}"])
    assert (await world.get("/shop/item")).hit
    await world.cache.purge(tags=["blue"])
    for number in range(10_000):
        await world.cache.purge(tags=[f"u{number}"])
    assert not (await world.get("/shop/item")).hit


@pytest.mark.parametrize("pattern", ["shop/*", "example.com/shop/*"])
async def test_a_pattern_that_could_never_match_is_refused(pattern):
    world = a_world()
    with pytest.raises(PurgeRefused, match="begin with"):
        await world.cache.purge(patterns=[pattern])


@pytest.mark.parametrize("url", ["http://example.com/~u", "http://example.com/%7eu"])
async def test_a_url_is_purged_in_whatever_encoding_it_was_asked_for(url):
    world = World()

    @world.origin.on("/~u")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers=TAGGED)

    await world.get("/~u", raw_path=b"/%7Eu")
    assert (await world.get("/~u", raw_path=b"/%7Eu")).hit
    await world.cache.purge(urls=[url])
    assert (await world.get("/~u", raw_path=b"/%7Eu")).body == b"2"


async def test_the_fetch_that_began_first_does_not_replace_one_that_began_later():
    """RFC 9111 section 4: "a cache MUST use the most recent one". No purge is involved."""
    world = World(collapse_timeout=0.01)
    gate = Gate()

    @world.origin.on("/shop/item")
    async def handler(call: OriginCall) -> None:
        number = call.number
        if number == 1:
            await gate.wait()
        await call.reply(b"%d" % number, headers=TAGGED)

    leader = world.call("/shop/item")
    await gate.reached()
    world.clock.advance(1)
    assert (await world.get("/shop/item")).body == b"2"  # it waited in vain
    gate.open()
    assert (await leader.done()).body == b"1"
    assert (await world.get("/shop/item")).body == b"2"
