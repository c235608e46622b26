"""What only ASGI can express of the RFCs, end to end: see `tests/scenarios` for the rest."""

import asyncio

import pytest

from layergate import HttpCache, LayerGate, MemoryLayer, Rule
from layergate.routes import cached
from tests.scenarios.asgi import Origin, ask
from tests.scenarios.model import Reply, Step, at
from tests.support.clocks import LoopClock

MAX_AGE = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"abc"')


class World:
    """A middleware, its origin and its clock."""

    def __init__(self, app=None, **options) -> None:
        self.clock = LoopClock()
        layers = [MemoryLayer("1MB", clock=self.clock.now)]
        self.cache = HttpCache(runtime=self.clock, layers=layers, **options)
        self.origin = Origin(self.clock)
        self.gate = LayerGate(app or self.origin, cache=self.cache)

    async def ask(self, step: Step, *replies: Reply, **scope):
        """The answer, and how often the origin was called."""
        self.origin.script = list(replies)
        self.origin.seen = []
        seen = await ask(self.gate, step, **scope)
        await self.cache.aclose()
        return seen, len(self.origin.seen)


def reply(*lines, body=b"one", **kw) -> Reply:
    return Reply(lines=lines or (MAX_AGE,), body=body, **kw)


GET = Step()


# -- targets: section 2, 4.4 -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/a b", "/caf\u00e9", "/100%", "/a?b", "/a#b", "/a/../b", "/"])
async def test_4_4_invalidates_without_a_raw_path(path):
    """``raw_path`` is optional in ASGI."""
    world = World()
    await world.ask(GET, reply(), path=path, raw_path=None)
    _, calls = await world.ask(GET, path=path, raw_path=None)
    assert calls == 0
    post = Step(method="POST")
    await world.ask(post, reply(status=204, body=b""), path=path, raw_path=None)
    seen, calls = await world.ask(GET, reply(body=b"two"), path=path, raw_path=None)
    assert (seen.body, calls) == (b"two", 1)


@pytest.mark.parametrize("headers", [[], [(b"host", b"")], [(b"host", b"a"), (b"host", b"b")]])
async def test_4_4_an_unusable_host_leaves_nothing_behind(headers):
    """HTTP/1.0 needs no Host. Nothing may be stored that no unsafe request could invalidate."""
    world = World()
    await world.ask(GET, reply(), headers=headers)
    await world.ask(Step(method="POST"), reply(status=204, body=b""), headers=headers)
    seen, calls = await world.ask(GET, reply(body=b"two"), headers=headers)
    assert (seen.body, calls) == (b"two", 1)


async def test_2_a_rewritten_path_is_another_target():
    """A middleware in front may change ``path`` and leave ``raw_path``; the app may look at both."""
    world = World()
    await world.ask(GET, reply(), path="/a", raw_path=b"/x")
    for path, raw in (("/b", b"/x"), ("/a", b"/a"), ("/a", b"/y")):
        _, calls = await world.ask(GET, reply(body=b"two"), path=path, raw_path=raw)
        assert calls == 1


# -- content of a GET: RFC 9110 9.3.1 --------------------------------------------------------------


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_get_with_content_that_no_field_announces(version):
    world = World()
    await world.ask(GET, reply(), http_version=version)
    _, calls = await world.ask(GET, http_version=version)
    assert calls == 0
    # No Content-Length, as HTTP/2 allows.
    step = Step(body=b"q=1")
    headers = [(b"host", b"example.org")]
    seen, calls = await world.ask(step, reply(body=b"two"), http_version=version, headers=headers)
    assert (seen.body, calls) == (b"two", 1)


# -- header lines ----------------------------------------------------------------------------------


async def test_header_lines_may_be_tuples_lists_and_of_any_case():
    async def app(scope, receive, send):
        headers = iter([[b"Cache-Control", b"max-age=60"], (b"ETag", b'"abc"'), [b"Vary", b"Foo"]])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one"})

    world = World(app)
    lines = ([b"host", b"example.org"], [b"foo", b"1"])
    first, _ = await world.ask(GET, headers=lines)
    assert first.get("cache-status") == "LayerGate; fwd=uri-miss; stored"
    again, _ = await world.ask(GET, headers=lines)
    assert again.get("cache-status") == "LayerGate; hit; ttl=60"
    assert again.get("etag") == '"abc"'


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    "name", [b"layergate-cache-control", b"LayerGate-Cache-Control", b"Layergate-Cache-Control"]
)
async def test_rfc9213_our_own_field_is_not_sent_on_in_whatever_case(method, name):
    async def app(scope, receive, send):
        headers = [(name, b"max-age=60"), (b"x-a", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    seen, _ = await World(app).ask(Step(method=method))
    assert (seen.get("x-a"), seen.get("layergate-cache-control")) == ("1", None)


async def test_a_response_without_headers_and_body_fields():
    """Both keys are optional in ASGI."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    world = World(app, rules=[Rule("*", ttl=60)])
    await world.ask(GET)
    seen, _ = await world.ask(GET)
    assert seen.get("cache-status") == "LayerGate; hit; ttl=60"
    assert seen.body == b""


async def test_early_hints_are_no_response_to_store():
    """3: "the response status code is final"."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"cache-control", b"max-age=60")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b"one"})

    async def outer(scope, receive, send):
        async def noting(message):
            sent.append(message["type"])
            await send(message)

        await world.gate(scope, receive, noting)

    world = World(app)
    first = await ask(outer, GET)
    await world.cache.aclose()
    again = await ask(outer, GET)
    assert first.status == again.status == 200
    assert again.get("cache-status") == "LayerGate; hit; ttl=60"
    assert sent == [
        "http.response.early_hint",
        *["http.response.start", "http.response.body"] * 2,
    ]


async def test_trailers_are_not_stored():
    """3.1: trailer fields "MUST NOT be combined" with the header unless it is known to be safe; a
    response that announces them is passed whole, and not stored."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "trailers": True, "headers": [
            (b"cache-control", b"max-age=60")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b"one"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    world = World(app)
    for _ in range(2):
        seen, _ = await world.ask(GET)
        assert seen.body == b"one"
        assert "detail=trailers" in (seen.get("cache-status") or "")


# -- policy next to a route ------------------------------------------------------------------------


def routed(origin: Origin, endpoint):
    """What a router does: note the endpoint in the scope, then run it."""

    async def app(scope, receive, send):
        scope["endpoint"] = endpoint
        scope["path_params"] = {"id": "7"}
        endpoint()
        await origin(scope, receive, send)

    return app


def route(**policy):
    @cached(60, **policy)
    def endpoint(): ...

    world = World()
    world.gate.app = routed(world.origin, endpoint)
    return world


async def test_4_3_5_head_freshens_what_a_routes_policy_stored():
    world = route()
    bare = Reply(lines=(ETAG,))
    await world.ask(GET, bare)
    head = Step(method="HEAD", headers=(("Cache-Control", "no-cache"),))
    _, calls = await world.ask(head, Reply(lines=(ETAG, ("Foo", "b"))))
    assert calls == 1
    seen, calls = await world.ask(GET)
    assert calls == 0
    assert seen.get("foo") == "b"


async def test_4_3_4_a_304_under_a_routes_policy():
    world = route(vary=["Foo"], tags=["p:{id}"])
    step = Step(headers=(("Foo", "1"),))
    await world.ask(step, Reply(lines=(ETAG, ("Cache-Tag", "own"))))
    world.clock.time += 60
    seen, calls = await world.ask(step, Reply(304, (ETAG,), b""))
    assert (seen.status, seen.body, calls) == (200, b"one", 1)
    assert seen.get("vary") == "foo"
    _, calls = await world.ask(step)
    assert calls == 0
    for tag in ("p:7", "own"):
        await world.cache.purge(tags=[tag])
        _, calls = await world.ask(step, Reply(lines=(ETAG, ("Cache-Tag", "own"))))
        assert calls == 1, tag


# -- variants live as long as they are kept --------------------------------------------------------


async def test_4_1_a_head_freshened_variant_is_found_for_as_long_as_it_is_fresh():
    world = World(keep=0)
    vary, modified = ("Vary", "Foo"), ("Last-Modified", at(-1000))
    step = Step(headers=(("Foo", "1"),))
    await world.ask(step, reply(("Cache-Control", "max-age=60"), vary, modified))
    world.clock.time += 1
    head = Step(method="HEAD", headers=(*step.headers, ("Cache-Control", "no-cache")))
    await world.ask(head, reply(("Cache-Control", "max-age=6000"), vary, modified))
    world.clock.time += 3000
    doubled = Step(headers=(*step.headers, ("X-Twice", "1"), ("X-Twice", "2")))
    for one in (step, doubled):
        seen, calls = await world.ask(one)
        assert calls == 0
        assert seen.get("cache-status") == "LayerGate; hit; ttl=3000"


async def test_4_1_a_revalidated_variant_is_found_for_as_long_as_it_is_fresh():
    world = World(keep=0)
    vary = ("Vary", "Foo")
    step = Step(headers=(("Foo", "1"),))
    await world.ask(step, reply(("Cache-Control", "max-age=10, stale-if-error=60"), vary, ETAG))
    world.clock.time += 20
    await world.ask(step, Reply(304, (("Cache-Control", "max-age=6000"), ETAG), b""))
    world.clock.time += 3000
    doubled = Step(headers=(*step.headers, ("X-Twice", "1"), ("X-Twice", "2")))
    for one in (step, doubled):
        _, calls = await world.ask(one)
        assert calls == 0


# -- stale: RFC 5861 -------------------------------------------------------------------------------

SWR = ("Cache-Control", "max-age=10, stale-while-revalidate=30")


async def test_one_refresh_for_many_requests():
    world = World()
    await world.ask(GET, reply(SWR))
    world.clock.time += 20
    world.origin.script = [reply(body=b"two")]
    world.origin.seen = []
    world.origin.gate = asyncio.Event()
    answers = [await ask(world.gate, GET) for _ in range(5)]
    assert [answer.body for answer in answers] == [b"one"] * 5
    await asyncio.sleep(0)
    assert len(world.origin.seen) == 1
    world.origin.gate.set()
    await world.cache.aclose()
    seen, calls = await world.ask(GET)
    assert (seen.body, calls) == (b"two", 0)


async def test_a_refresh_answered_with_another_304_is_made_again_without_validators():
    """4.3.4: that 304 updates nothing; asking the same again would not end before the window does."""
    etag = b'"abc"'

    async def app(scope, receive, send):
        tag, body = (b"etag", etag), b"for " + etag
        if any(name == b"if-none-match" for name, _ in scope["headers"]):
            await send({"type": "http.response.start", "status": 304, "headers": [tag]})
            body = b""
        else:
            control = (b"cache-control", SWR[1].encode())
            await send({"type": "http.response.start", "status": 200, "headers": [tag, control]})
        await send({"type": "http.response.body", "body": body})

    world = World(app)
    await world.ask(GET)
    etag = b'"new"'
    world.clock.time += 20
    seen, _ = await world.ask(GET)
    assert seen.body == b'for "abc"'
    # At the latest the request after that has no more to do with it.
    await world.ask(GET)
    seen, _ = await world.ask(GET)
    assert seen.body == b'for "new"'


async def test_stale_if_error_when_the_origin_is_slow():
    world = World(origin_timeout=0.01)
    await world.ask(GET, reply(("Cache-Control", "max-age=10, stale-if-error=30")))
    world.clock.time += 20
    world.origin.script = [reply(body=b"two")]
    world.origin.gate = asyncio.Event()
    seen = await ask(world.gate, GET)
    assert (seen.status, seen.body) == (200, b"one")
    # RFC 9211 2.1: it went forward, so it is no hit.
    member = (seen.get("cache-status") or "").split("; ")
    assert "hit" not in member and "fwd=stale" in member and "ttl=-10" in member
    world.origin.gate.set()
    await world.cache.aclose()
    seen, calls = await world.ask(GET)
    assert (seen.body, calls) == (b"two", 0)


async def test_stale_if_error_once_the_body_began_is_too_late():
    """4.2.4 is about responses; half of one cannot be taken back. It breaks off, and the stored one
    stays for the next request."""
    failing = False

    async def app(scope, receive, send):
        control = b"max-age=10, stale-if-error=30"
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"cache-control", control)]})  # fmt: skip
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if failing:
            raise ConnectionError("in the middle")
        await send({"type": "http.response.body"})

    world = World(app)
    await world.ask(GET)
    world.clock.time += 20
    failing = True
    with pytest.raises(ConnectionError):
        await ask(world.gate, GET)
    await world.cache.aclose()
    failing = False
    seen, _ = await world.ask(GET)
    assert seen.body == b"one"


# -- followers: 4, 4.3.2 ---------------------------------------------------------------------------


async def together(world: World, *steps: Step):
    world.origin.seen = []
    world.origin.gate = asyncio.Event()
    tasks = [asyncio.create_task(ask(world.gate, step)) for step in steps]
    for _ in range(20):
        await asyncio.sleep(0)
    world.origin.gate.set()
    answers = await asyncio.gather(*tasks)
    world.origin.gate = None
    await world.cache.aclose()
    return answers, len(world.origin.seen)


async def test_4_3_2_preconditions_of_those_who_share_a_fetch_are_their_own():
    world = World()
    world.origin.script = [reply(MAX_AGE, ETAG)]
    answers, calls = await together(
        world,
        Step(headers=(("If-None-Match", '"x"'),)),
        Step(headers=(("If-None-Match", '"abc"'),)),
        Step(),
    )
    assert calls == 1
    assert [(answer.status, answer.body) for answer in answers] == [
        (200, b"one"), (304, b""), (200, b"one")]  # fmt: skip


async def test_4_1_different_variants_do_not_share_a_fetch():
    world = World()
    world.origin.script = [reply(MAX_AGE, ("Vary", "Foo"), body=body) for body in (b"1", b"2")]
    answers, calls = await together(
        world, *(Step(headers=(("Foo", value),)) for value in ("a", "b", "a"))
    )
    assert calls == 2
    assert answers[0].body == answers[2].body == b"1"
    assert answers[1].body == b"2"


async def test_5_1_followers_get_an_age():
    """4: "the cache MUST generate an Age header field" for what it reuses without validation."""
    world = World()
    world.origin.script = [reply(MAX_AGE, ("Age", "7"))]
    answers, calls = await together(world, Step(), Step(), Step())
    assert calls == 1
    assert [answer.get("age") for answer in answers] == ["7", "7", "7"]


async def test_3_5_authorization_does_not_follow():
    world = World()
    world.origin.script = [reply(), reply(body=b"mine")]
    mine = Step(headers=(("Authorization", "Basic eDp5"),))
    answers, calls = await together(world, Step(), mine)
    assert calls == 2
    assert {answer.body for answer in answers} == {b"one", b"mine"}


async def test_5_2_1_5_no_store_is_not_a_leader():
    """5.2.1.5: nothing of this response may be stored, so nobody may wait for it."""
    world = World()
    world.origin.script = [reply(body=b"a"), reply(body=b"b")]
    quiet = Step(headers=(("Cache-Control", "no-store"),))
    answers, calls = await together(world, quiet, Step())
    assert calls == 2
    assert [answer.body for answer in answers] == [b"a", b"b"]
    seen, calls = await world.ask(GET)
    assert (seen.body, calls) == (b"b", 0)


async def test_5_2_1_4_no_cache_may_wait_for_a_fetch_but_not_take_what_is_stored():
    world = World()
    await world.ask(GET, reply())
    world.origin.script = [reply(body=b"two")]
    no_cache = Step(headers=(("Cache-Control", "no-cache"),))
    answers, calls = await together(world, no_cache, no_cache)
    assert calls == 1
    assert [answer.body for answer in answers] == [b"two", b"two"]


async def test_4_4_a_fetch_that_began_before_an_unsafe_request_is_not_stored():
    world = World()
    world.origin.script = [reply(), Reply(204, (), b""), reply(body=b"two")]
    world.origin.gate = asyncio.Event()
    reading = asyncio.create_task(ask(world.gate, GET))
    for _ in range(10):
        await asyncio.sleep(0)
    gate, world.origin.gate = world.origin.gate, None
    await ask(world.gate, Step(method="POST"))
    gate.set()
    assert (await reading).body == b"one"
    await world.cache.aclose()
    seen, calls = await world.ask(GET, reply(body=b"two"))
    assert (seen.body, calls) == (b"two", 1)


# -- header lines, on each way through -------------------------------------------------------------


@pytest.mark.parametrize("case", ["lower", "Mixed"])
@pytest.mark.parametrize("control", [None, "no-store", "max-age=60"])
@pytest.mark.parametrize(
    "step",
    [
        Step(),
        Step(method="HEAD"),
        Step(method="POST"),
        Step(method="OPTIONS"),
        Step(headers=(("Range", "bytes=0-1"),)),
        Step(headers=(("Cookie", "a=b"),)),
        Step(headers=(("Authorization", "x"),)),
        Step(headers=(("Cache-Control", "no-cache"),)),
    ],
    ids=["get", "head", "post", "options", "range", "cookie", "authorization", "no-cache"],
)
async def test_3_1_no_way_loses_a_header_line(step, control, case):
    """ASGI: ``headers`` is an iterable, one that may be read only once; and whoever writes names in
    capitals, against its letter, still means them."""

    async def app(scope, receive, send):
        lines = [("x-a", "1"), ("x-a", "2"), ("cache-tag", "t"), ("vary", "Foo")]
        if control is not None:
            lines.append(("cache-control", control))
        named = [(name.title() if case == "Mixed" else name, value) for name, value in lines]
        headers = iter([(name.encode(), value.encode()) for name, value in named])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one"})

    world = World(app)
    for _ in range(3):  # a miss, a hit or the way of what is known not to be shareable, once more
        seen, _ = await world.ask(step)
        lines = [(name.lower(), value) for name, value in seen.lines]
        assert [value for name, value in lines if name == "x-a"] == ["1", "2"]
        assert ("vary", "Foo") in lines
        assert control is None or ("cache-control", control) in lines
        assert all(name != "cache-tag" for name, _ in lines), "stripped by default"
        assert sum(name == "cache-status" for name, _ in lines) == 1
