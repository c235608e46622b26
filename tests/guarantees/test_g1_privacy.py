"""G1: nothing that is private to one request is stored or given to a waiting follower."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from layergate import Rule, cached
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.support import wsgi
from tests.support.asgi import Gate, OriginCall, World
from tests.support.routes import answer_as_routed
from tests.support.waiting import until, wait_until

PRIVATE = [
    pytest.param({"cache-control": "private, max-age=60"}, id="private"),
    pytest.param({"cache-control": "no-store"}, id="no-store"),
    pytest.param({"cache-control": "max-age=60, no-store"}, id="no-store-and-max-age"),
    pytest.param({"cache-control": "max-age=60", "set-cookie": "a=1"}, id="set-cookie"),
    pytest.param({"cache-control": "public, max-age=60", "set-cookie": "a=1"}, id="public-cookie"),
    pytest.param({"cache-control": "max-age=60", "vary": "*"}, id="vary-star"),
    pytest.param({"cache-control": "max-age=60", "vary": "accept, *"}, id="vary-star-in-list"),
    pytest.param([("cache-control", "max-age=60"), ("vary", "accept"), ("vary", "*")], id="vary-2"),
    pytest.param({}, id="says-nothing"),
    pytest.param({"cache-control": 'private="x, max-age=60'}, id="unclosed-quote"),
    pytest.param({"cache-control": "private; max-age=60"}, id="private-semicolon"),
    pytest.param({"cache-control": "PRIVATE, max-age=60"}, id="upper-case"),
    pytest.param({"cache-control": 'max-age=60, private=""'}, id="private-with-unusable-argument"),
]


@pytest.mark.parametrize("headers", PRIVATE)
async def test_a_private_response_is_never_stored(headers):
    world = World()
    world.origin.answers("/", headers, b"for one")
    for number in (1, 2, 3):
        call = await world.get("/")
        assert call.body == b"for one" and not call.hit
        assert world.origin.calls["/"] == number
    world.assert_nothing_left()


@pytest.mark.parametrize("headers", PRIVATE)
async def test_a_private_response_is_never_given_to_a_waiting_follower(headers):
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number == 1:
            await gate.wait()
        await call.reply(b"for %d" % call.number, headers=headers)

    leader = world.call("/")
    await gate.reached()
    followers = [world.call("/") for _ in range(5)]
    await world.waiting(5)
    gate.open()
    bodies = {(await call.done()).body for call in [leader, *followers]}
    assert bodies == {b"for %d" % number for number in range(1, 7)}
    world.assert_nothing_left()


# (A response that says nothing is what rules are for.)
@pytest.mark.parametrize("headers", [row for row in PRIVATE if row.id != "says-nothing"])
async def test_a_rule_does_not_make_a_private_response_public(headers):
    world = World(rules=[Rule("*", ttl=60)])
    world.origin.answers("/", headers)
    await world.get("/")
    assert not (await world.get("/")).hit
    assert world.origin.calls["/"] == 2


@pytest.mark.parametrize(
    "control", ["no-store", "private, max-age=60", "no-store, public", "must-understand, no-store"]
)
async def test_an_override_never_wins_over_no_store_and_private(control):
    world = World(rules=[Rule("*", ttl=60, override=True)])
    world.origin.answers("/", {"cache-control": control}, status=299)
    await world.get("/")
    assert not (await world.get("/")).hit


@pytest.mark.parametrize("control", ['private="x-user"', 'private="x-user", max-age=0'])
async def test_an_override_keeps_fields_that_are_private_out_of_the_store(control):
    world = World(rules=[Rule("*", ttl=60, override=True)])
    world.origin.answers("/", {"cache-control": control, "x-user": "alice"})
    assert (await world.get("/")).header("x-user") == "alice"
    assert (await world.get("/")).header("x-user") is None


@pytest.mark.parametrize(
    "control", ['private="x-user", max-age=60', 'no-cache="x-user", max-age=60']
)
async def test_a_qualified_field_goes_to_its_own_client_only(control):
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers={"cache-control": control, "x-user": "alice"})

    leader = world.call("/")
    await gate.reached()
    follower = world.call("/")
    await world.waiting(1)
    gate.open()
    assert (await leader.done()).header("x-user") == "alice"
    assert (await follower.done()).header("x-user") is None
    assert (await world.get("/")).header("x-user") is None
    assert world.origin.calls["/"] == 1


async def test_requests_with_authorization_never_wait_for_each_other():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        who = call.header("authorization") or ""
        await call.reply(who.encode(), headers={"cache-control": "public, max-age=9"})

    calls = [world.call("/", headers={"authorization": f"Bearer {n}"}) for n in range(10)]
    await gate.reached(10)
    gate.open()
    for number, call in enumerate(calls):
        assert (await call.done()).body == b"Bearer %d" % number


async def test_a_follower_with_authorization_does_not_get_an_anonymous_leaders_response():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        who = call.header("authorization") or "nobody"
        if who == "nobody":
            await gate.wait()
        await call.reply(who.encode(), headers={"cache-control": "max-age=60"})

    leader = world.call("/")
    await gate.reached()
    follower = await world.get("/", headers={"authorization": "Bearer a"})
    assert follower.body == b"Bearer a"
    gate.open()
    assert (await leader.done()).body == b"nobody"
    assert (await world.get("/")).body == b"nobody"


async def test_a_rules_response_for_anonymous_clients_is_not_given_to_a_follower_with_a_cookie():
    world = World(rules=[Rule("*", ttl=60)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        cookie = call.header("cookie") or "nobody"
        if call.number == 1:
            await gate.wait()
        await call.reply(cookie.encode())

    leader = world.call("/")
    await gate.reached()
    alice = world.call("/", headers={"cookie": "user=alice"})
    bob = world.call("/", headers={"cookie": "user=bob"})
    await until(lambda: world.origin.calls["/"] >= 2)
    gate.open()
    assert (await leader.done()).body == b"nobody"
    assert (await alice.done()).body == b"user=alice"
    assert (await bob.done()).body == b"user=bob"
    assert (await world.get("/")).body == b"nobody"
    assert (await world.get("/", headers={"cookie": "user=carol"})).body == b"user=carol"


async def test_a_leader_with_a_cookie_gives_nothing_to_anonymous_followers_by_a_routes_policy():
    """A route's policy is known only from the head: here the leader's cookie forbids it."""
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        answer_as_routed(call.scope, ttl=60)
        if call.number == 1:
            await gate.wait()
        await call.reply((call.header("cookie") or "nobody").encode())

    leader = world.call("/", headers={"cookie": "alice"})
    await gate.reached()
    followers = [world.call("/") for _ in range(3)]
    await world.waiting(3)
    gate.open()
    assert (await leader.done()).body == b"alice"
    assert {(await call.done()).body for call in followers} == {b"nobody"}
    assert (await world.get("/")).body == b"nobody"


async def test_an_anonymous_leader_gives_nothing_to_a_follower_with_a_cookie_by_a_routes_policy():
    """The reverse: here the follower's cookie forbids it."""
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        answer_as_routed(call.scope, ttl=60)
        if call.number == 1:
            await gate.wait()
        await call.reply((call.header("cookie") or "nobody").encode())

    leader = world.call("/")
    await gate.reached()
    names = [b"alice", b"bob"]
    followers = [world.call("/", headers={"cookie": name.decode()}) for name in names]
    also = world.call("/")
    await world.waiting(3)
    gate.open()
    assert (await leader.done()).body == (await also.done()).body == b"nobody"
    assert [(await call.done()).body for call in followers] == names
    assert (await world.get("/")).body == b"nobody"
    world.assert_nothing_left()


def test_an_anonymous_leader_gives_nothing_to_a_thread_with_a_cookie_by_a_routes_policy():
    gate = wsgi.Gate()

    @cached(ttl=60)
    def endpoint(environ, start_response):
        cookie = environ.get("HTTP_COOKIE", "nobody")
        if cookie == "nobody":
            gate.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [cookie.encode()]

    app = WSGILayerGate(endpoint)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(wsgi.ask, app)
        gate.reached()
        alice = pool.submit(wsgi.ask, app, HTTP_COOKIE="alice")
        wait_until(lambda: app.cache.stats()["waiters"] == 1)
        gate.open()
        assert leader.result(10).body == b"nobody"
        assert alice.result(10).body == b"alice"
    assert wsgi.ask(app).body == b"nobody"


async def test_an_override_does_not_undo_no_cache_for_a_request_with_a_cookie():
    """The rule's ttl does not apply to this request, so the app's own directives do."""
    world = World(rules=[Rule("*", ttl=60, override=True)])

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(
            (call.header("cookie") or "nobody").encode(),
            headers={"cache-control": "no-cache", "expires": "Wed, 15 Nov 2023 22:13:20 GMT"},
        )

    assert (await world.get("/", headers={"cookie": "alice"})).body == b"alice"
    assert (await world.get("/")).body == b"nobody"
    assert (await world.get("/", headers={"cookie": "bob"})).body == b"bob"


async def test_a_cookie_set_for_the_leader_is_never_replayed():
    world = World(rules=[Rule("*", ttl=60, allow_set_cookie=True)])
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", headers=[("set-cookie", "id=1"), ("set-cookie", "b=2")])

    leader = world.call("/")
    await gate.reached()
    follower = world.call("/")
    await world.waiting(1)
    gate.open()
    assert (await leader.done()).all("set-cookie") == ["id=1", "b=2"]
    assert (await follower.done()).all("set-cookie") == []
    hit = await world.get("/")
    assert hit.hit and hit.all("set-cookie") == []


async def test_a_304_that_sets_a_cookie_does_so_for_one_client():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        headers = {"cache-control": "max-age=10", "etag": '"1"'}
        if call.number == 1:
            await call.reply(b"x", headers=headers)
        else:
            await call.reply(b"", 304, {**headers, "set-cookie": "id=1"})

    await world.get("/")
    world.clock.advance(20)
    await world.get("/")
    assert world.origin.calls["/"] == 2
    for _ in range(2):
        assert (await world.get("/")).all("set-cookie") == []


async def test_a_request_that_says_no_store_is_not_stored_nor_shared():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        if call.number <= 2:
            await gate.wait()
        await call.reply(b"%d" % call.number, headers={"cache-control": "max-age=60"})

    first = world.call("/", headers={"cache-control": "no-store"})
    await gate.reached(1)
    second = world.call("/", headers={"cache-control": "no-store"})
    await gate.reached(2)
    gate.open()
    await first.done()
    await second.done()
    assert (await world.get("/")).body == b"3"


async def test_a_trace_of_the_key_or_the_client_is_not_in_cache_status():
    world = World()
    call = await world.get("/secret", query=b"token=hunter2", headers={"x-user": "alice"})
    assert "hunter2" not in call.cache_status and "secret" not in call.cache_status


async def test_a_private_response_replaces_a_stale_public_one():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        control = "max-age=10, stale-if-error=600" if call.number == 1 else "private"
        await call.reply(b"%d" % call.number, headers={"cache-control": control, "etag": '"1"'})

    await world.get("/")
    world.clock.advance(20)
    assert (await world.get("/")).body == b"2"
    assert (await world.get("/")).body == b"3"


async def test_early_hints_of_the_leader_reach_the_leader_only():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await gate.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=60"})

    extensions: dict = {"http.response.early_hint": {}}
    leader = world.call("/", extensions=extensions)
    await gate.reached()
    follower = world.call("/", extensions=extensions)
    await world.waiting(1)
    gate.open()
    await leader.done()
    await follower.done()
    assert leader.messages[0]["type"] == "http.response.early_hint"
    assert follower.messages[0]["type"] == "http.response.start"


@pytest.mark.parametrize(
    "name", ["x-api-key", "x-auth-token", "remote-user", "cf-access-jwt-assertion"]
)
async def test_a_rule_never_shares_with_a_field_that_commonly_holds_credentials(name):
    world = World(rules=[Rule("/account", ttl=60)])

    @world.origin.on("/account")
    async def handler(call: OriginCall) -> None:
        await call.reply((call.header(name) or "nobody").encode())

    assert (await world.get("/account", headers={name: "alice"})).body == b"alice"
    assert (await world.get("/account", headers={name: "bob"})).body == b"bob"
    assert (await world.get("/account")).body == b"nobody"
    assert (await world.get("/account")).hit
    assert (await world.get("/account", headers={name: "alice"})).body == b"alice"


class _Alice:
    is_authenticated = True


@pytest.mark.parametrize("known", [{"session": {"user": "alice"}}, {"user": _Alice()}])
async def test_a_user_known_from_outside_shares_only_what_is_public(known):
    """Session and login middleware outside of LayerGate: what it adds to responses is not seen."""
    world = World()

    @world.origin.on("/page")
    async def handler(call: OriginCall) -> None:
        who = b"alice" if call.scope.get("session") or call.scope.get("user") else b"nobody"
        await call.reply(who, headers={"cache-control": "max-age=60"})

    @world.origin.on("/logo")
    async def logo(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers={"cache-control": "public, max-age=60"})

    assert (await world.get("/page", **known)).body == b"alice"
    assert (await world.get("/page")).body == b"nobody"
    assert (await world.get("/page")).hit
    assert (await world.get("/page", **known)).body == b"alice"
    assert (await world.get("/page")).hit  # and what she got did not take its place
    await world.get("/logo", **known)
    assert (await world.get("/logo")).hit
    assert (await world.get("/logo", **known)).hit


@pytest.mark.parametrize("known", [{"session": {"user": "alice"}}, {"user": _Alice()}])
async def test_a_user_known_from_outside_is_not_given_what_a_rule_stored_for_everybody(known):
    world = World(rules=[Rule("/page", ttl=60)])

    @world.origin.on("/page")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"alice" if call.scope.get("session") or call.scope.get("user") else b"-")

    assert (await world.get("/page")).body == b"-"
    assert (await world.get("/page")).hit
    for _ in range(3):
        assert (await world.get("/page", **known)).body == b"alice"
    assert (await world.get("/page")).body == b"-"


async def test_a_user_found_out_inside_keeps_a_rules_lifetime_out():
    """By a field that is none of the usual ones: only the app's scope tells."""
    world = World(rules=[Rule("/page", ttl=60)])
    gate = Gate()

    @world.origin.on("/page")
    async def handler(call: OriginCall) -> None:
        who = call.header("x-house-badge")
        if who:
            call.scope["user"] = _Alice()
            await gate.wait()
        await call.reply((who or "-").encode())

    alice = world.call("/page", headers={"x-house-badge": "alice"})
    await gate.reached()
    others = [world.call("/page") for _ in range(3)]
    await world.waiting(3)
    gate.open()
    assert (await alice.done()).body == b"alice"
    for other in others:
        assert (await other.done()).body == b"-"
    assert (await world.get("/page")).body == b"-"


async def test_that_a_response_varies_by_a_cookie_does_not_say_that_the_cookie_is_the_user():
    world = World()

    @world.origin.on("/page")
    async def handler(call: OriginCall) -> None:
        call.scope["session"] = {"user": call.header("cookie")}
        headers = {"cache-control": "max-age=60", "vary": "cookie"}
        await call.reply((call.header("cookie") or "-").encode(), headers=headers)

    for who in ("sid=alice", "sid=bob"):
        assert (await world.get("/page", headers={"cookie": who})).body == who.encode()
        again = await world.get("/page", headers={"cookie": who})
        assert not again.hit and "detail=user" in (again.header("cache-status") or "")
    assert (await world.get("/page")).body == b"-"
