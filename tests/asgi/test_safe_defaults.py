"""Safe by default: each sentence of it, through the middleware."""

from __future__ import annotations

import pytest

from layergate import Rule
from tests.support.asgi import Gate, OriginCall, World

COOKIE = {"cookie": "user=alice"}
AUTHORIZATION = {"authorization": "Bearer alice"}


async def is_cached(world: World, path: str = "/", **request) -> bool:
    await world.get(path, **request)
    return (await world.get(path, **request)).hit


# "a rule's TTL never applies to a request with Authorization or Cookie, or to a response with
# Set-Cookie, unless the rule says so explicitly"


@pytest.mark.parametrize("headers", [COOKIE, AUTHORIZATION, {**COOKIE, **AUTHORIZATION}], ids=str)
async def test_a_rules_ttl_never_applies_to_a_request_with_a_cookie_or_authorization(headers):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/")
    assert not await is_cached(world, headers=headers)
    # Nor is what anonymous clients are given an answer for them.
    assert await is_cached(world)
    assert not (await world.get("/", headers=headers)).hit
    assert (await world.get("/")).hit


@pytest.mark.parametrize(
    ("rule", "headers", "cached"),
    [
        (Rule("*", ttl=60, allow_cookie=True), COOKIE, True),
        (Rule("*", ttl=60, allow_cookie=True), AUTHORIZATION, False),
        (Rule("*", ttl=60, allow_authorization=True), AUTHORIZATION, True),
        (Rule("*", ttl=60, allow_authorization=True), COOKIE, False),
        (Rule("*", ttl=60, allow_authorization=True), {**COOKIE, **AUTHORIZATION}, False),
        (
            Rule("*", ttl=60, allow_authorization=True, allow_cookie=True),
            {**COOKIE, **AUTHORIZATION},
            True,
        ),
    ],
    ids=str,
)
async def test_unless_the_rule_says_so_explicitly(rule, headers, cached):
    world = World(rules=[rule])
    world.origin.answers("/")
    assert await is_cached(world, headers=headers) is cached


async def test_what_a_rule_allows_with_a_cookie_is_for_everyone():
    world = World(rules=[Rule("*", ttl=60, allow_cookie=True, allow_authorization=True)])
    world.origin.answers("/")
    await world.get("/", headers={**COOKIE, **AUTHORIZATION})
    for headers in ({}, COOKIE, AUTHORIZATION, {"cookie": "user=bob"}):
        assert (await world.get("/", headers=headers)).hit


@pytest.mark.parametrize(
    ("rule", "cached"),
    [(Rule("*", ttl=60), False), (Rule("*", ttl=60, allow_set_cookie=True), True)],
    ids=str,
)
async def test_a_rules_ttl_never_applies_to_a_response_with_set_cookie(rule, cached):
    world = World(rules=[rule])
    world.origin.answers("/", {"set-cookie": "a=1"})
    assert await is_cached(world) is cached
    assert (await world.get("/")).all("set-cookie") == ([] if cached else ["a=1"])


@pytest.mark.parametrize("cookie", ["set-cookie", "Set-Cookie"])
async def test_not_even_when_the_response_says_public(cookie):
    world = World(rules=[Rule("*", ttl=60, override=True)])
    world.origin.answers("/", {cookie: "a=1", "cache-control": "public, max-age=60"})
    assert not await is_cached(world)


# "the app's explicit directives win over a rule unless the rule says `override=True`"


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "no-store"},
        {"cache-control": "private"},
        {"cache-control": "no-cache"},
        {"cache-control": "max-age=0"},
        {"cache-control": "s-maxage=0, max-age=60"},
        {"cache-control": "max-age=nonsense"},
        {"expires": "0"},
        {"expires": "Tue, 14 Nov 2023 22:13:20 GMT"},
        {"cache-control": "must-revalidate", "expires": "0"},
    ],
    ids=str,
)
async def test_the_apps_explicit_directives_win_over_a_rule(headers):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", headers)
    assert not await is_cached(world)


@pytest.mark.parametrize("ttl", [5, 500])
async def test_the_apps_own_lifetime_is_neither_cut_nor_stretched_by_a_rule(ttl):
    world = World(rules=[Rule("*", ttl=ttl)])
    world.origin.answers("/", {"cache-control": "max-age=60"})
    await world.get("/")
    world.clock.advance(59)
    assert (await world.get("/")).hit
    world.clock.advance(2)
    assert not (await world.get("/")).hit


@pytest.mark.parametrize(
    ("control", "cached"),
    [
        ("no-cache", True),
        ("max-age=0", True),
        ("max-age=0, must-revalidate", True),
        ("no-store", False),
        ("private", False),
        ("no-store, max-age=60", False),
    ],
)
async def test_unless_the_rule_says_override(control, cached):
    world = World(rules=[Rule("*", ttl=60, override=True)])
    world.origin.answers("/", {"cache-control": control})
    assert await is_cached(world) is cached


async def test_an_override_sets_the_lifetime():
    world = World(rules=[Rule("*", ttl=10, override=True)])
    world.origin.answers("/", {"cache-control": "max-age=600"})
    await world.get("/")
    world.clock.advance(11)
    assert not (await world.get("/")).hit


# "only GET/HEAD are stored"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "QUERY", "TRACE", "X"])
async def test_only_get_is_stored(method):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", {"cache-control": "public, max-age=60"})
    assert not await is_cached(world, method=method)
    assert world.entries == 0
    assert not (await world.get("/")).hit


async def test_a_get_with_a_body_is_not_stored():
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/")
    for headers in ({"content-length": "1"}, {"transfer-encoding": "chunked"}):
        assert not await is_cached(world, headers=headers, body=[b"x"])
    assert world.entries == 0


async def test_head_is_answered_from_a_stored_get():
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", {}, b"body")
    await world.get("/")
    head = await world.get("/", method="HEAD")
    assert head.hit and head.body == b"" and head.header("content-length") == "4"


# "a rule's TTL covers 200, 203, 204, 300, 301, 308, 404, 410 only, others just where it names them"

COVERED = {200, 203, 204, 300, 301, 308, 404, 410}
STATUSES = [
    *sorted(COVERED),  # a set of constants has another order once it is compiled
    201, 202, 205, 206, 302, 303, 304, 305, 307, 400, 401, 403, 405, 406, 412, 414, 416, 418, 429,
    431, 451, 500, 501, 502, 503, 504, 511, 299, 599,
]  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
async def test_a_rules_ttl_covers_the_listed_statuses_only(status):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", {}, b"", status)
    assert await is_cached(world) is (status in COVERED)


@pytest.mark.parametrize("status", [201, 302, 307, 403, 405, 414, 418, 500, 503])
async def test_others_just_where_the_ttl_names_them(status):
    world = World(rules=[Rule("*", ttl={status: 60})])
    world.origin.answers("/", {}, b"", status)
    assert await is_cached(world)
    world.origin.answers("/other", {}, b"", 200)
    assert not await is_cached(world, "/other")


# "responses with explicit freshness follow RFC 9111"


@pytest.mark.parametrize("status", [200, 201, 302, 307, 404, 418, 500, 503, 599])
async def test_explicit_freshness_makes_any_final_status_storable(status):
    world = World()
    world.origin.answers("/", {"cache-control": "max-age=60"}, b"", status)
    assert await is_cached(world)


@pytest.mark.parametrize("status", [206, 304, 412, 416, 417, 428, 429, 431, 511])
async def test_but_for_those_that_answer_one_request(status):
    world = World()
    world.origin.answers("/", {"cache-control": "max-age=60"}, b"", status)
    assert not await is_cached(world)


async def test_explicit_freshness_is_shared_among_requests_with_cookies():
    world = World()
    world.origin.answers("/", {"cache-control": "max-age=60"})
    await world.get("/", headers=COOKIE)
    assert (await world.get("/", headers={"cookie": "user=bob"})).hit


@pytest.mark.parametrize(
    "headers", [{}, {"etag": '"1"'}, {"last-modified": "Tue, 14 Nov 2023 22:00:00 GMT"}]
)
async def test_a_response_that_says_nothing_is_not_stored(headers):
    world = World()
    world.origin.answers("/", headers)
    assert not await is_cached(world)


async def test_heuristic_freshness_is_off_unless_asked_for():
    headers = {
        "last-modified": "Tue, 14 Nov 2023 12:13:20 GMT",
        "date": "Tue, 14 Nov 2023 22:13:20 GMT",
    }
    for heuristic, cached in ((None, False), (0.1, True)):
        world = World(heuristic=heuristic)
        world.origin.answers("/", headers)
        assert await is_cached(world) is cached
    world.clock.advance(3599)
    assert (await world.get("/")).hit
    world.clock.advance(2)
    assert not (await world.get("/")).hit


async def test_a_heuristic_lifetime_is_no_more_for_cookies_than_a_rules():
    world = World(heuristic=0.1)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        headers = {
            "last-modified": "Tue, 14 Nov 2023 12:13:20 GMT",
            "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        }
        await call.reply((call.header("cookie") or "nobody").encode(), headers=headers)

    assert (await world.get("/", headers=COOKIE)).body == b"user=alice"
    assert (await world.get("/")).body == b"nobody"


# And around it.


async def test_the_first_rule_that_matches_wins():
    world = World(rules=[Rule("/a/{x}", bypass=True), Rule("/a/*", ttl=60), Rule("*", ttl=60)])
    for path, cached in (("/a/b", False), ("/a/b/c", True), ("/x", True)):
        world.origin.answers(path)
        assert await is_cached(world, path) is cached


async def test_a_bypass_is_neither_looked_up_nor_stored():
    world = World(rules=[Rule("/x", bypass=True)])
    assert not await is_cached(world, "/x")
    call = await world.get("/x")
    assert call.cache_status.startswith("LayerGate; fwd=bypass")
    assert world.entries == 0


async def test_a_rule_for_a_host_covers_that_host_on_any_port():
    world = World(rules=[Rule("*", ttl=60, hosts=["Static.example"])])
    world.origin.answers("/")
    assert await is_cached(world, host="static.example")
    assert await is_cached(world, host="static.example:8080")
    assert not await is_cached(world, host="www.example")


async def test_tags_are_kept_from_clients_unless_asked_for():
    for strip in (True, False):
        world = World(strip_tags=strip)
        world.origin.answers(
            "/", {"cache-control": "max-age=60", "cache-tag": "a", "surrogate-key": "b"}
        )
        for _ in range(2):
            call = await world.get("/")
            assert (call.header("cache-tag") is None) is strip
            assert (call.header("surrogate-key") is None) is strip
        head = await world.get("/", method="HEAD")
        assert (head.header("cache-tag") is None) is strip


async def test_followers_do_not_see_tags_either():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=60", "cache-tag": "a"})

    leader = world.call("/")
    await gate.reached()
    follower = world.call("/")
    await world.waiting(1)
    gate.open()
    assert (await leader.done()).header("cache-tag") is None
    assert (await follower.done()).header("cache-tag") is None


async def test_cache_status_can_be_turned_off_and_named():
    world = World(cache_status=False)
    for _ in range(2):
        for method in ("GET", "POST", "HEAD"):
            assert (await world.get("/", method=method)).cache_status == ""
    world = World(name="edge-1")
    assert (await world.get("/x")).cache_status.startswith("edge-1; fwd=uri-miss")
    assert (await world.get("/x")).cache_status == "edge-1; hit; ttl=60"


async def test_request_directives_can_be_ignored():
    world = World(request_directives=False)
    world.origin.answers("/", {"cache-control": "max-age=60"})
    await world.get("/")
    for headers in (
        {"cache-control": "no-cache"},
        {"cache-control": "max-age=0"},
        {"cache-control": "min-fresh=1000"},
        {"pragma": "no-cache"},
    ):
        assert (await world.get("/", headers=headers)).hit
    assert (await world.get("/n", headers={"cache-control": "only-if-cached"})).status == 200
