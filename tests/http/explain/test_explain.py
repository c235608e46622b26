"""`explain` says beforehand what the engine then does, for every row of the scenarios."""

from __future__ import annotations

import ast
import inspect
import json
import re
from typing import Any

import pytest

from layergate import Admin, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.asgi.scope import read_request
from layergate.errors import ExplainRefused
from layergate.http.engine import decide, sharing
from layergate.http.explain import received, wording
from layergate.http.explain.rehearsal import Reaction
from layergate.http.explain.report import Explanation, Response, Step, section
from layergate.http.explain.walk import explain
from layergate.http.message.described import DescribedRequest as AskedRequest
from layergate.http.rfc9111 import decision, freshness
from layergate.http.rfc9111.storing import NotStored
from tests.scenarios.asgi import Origin, ask, scope_of
from tests.scenarios.checks import Seen, our_member
from tests.scenarios.model import TOKEN, Reply, Scenario
from tests.scenarios.model import Step as Row
from tests.scenarios.rows import SCENARIOS
from tests.support import asgi
from tests.support.clocks import START, LoopClock

SECTION = re.compile(r"RFC [0-9]+ section [0-9]+(\.[0-9]+)*|LayerGate guarantee G[0-9]+")
SENTENCE = re.compile(r"[A-Z3-9][^\n]*[.]")


class World:
    """A cache behind a scripted origin."""

    def __init__(self, scenario: Scenario) -> None:
        self.clock = LoopClock()
        self.cache = HttpCache(
            runtime=self.clock,
            layers=[MemoryLayer("4MB", clock=self.clock.now)],
            rules=[Rule(**rule) for rule in scenario.rules],
            admin=Admin(token=TOKEN),
            **scenario.options,
        )
        self.origin = Origin(self.clock)
        self.app = LayerGate(self.origin, cache=self.cache)

    async def explain(self, step: Row, reply: Reply | None = None) -> Explanation:
        request = read_request(scope_of(step), obey_directives=self.app.obey_directives)
        before = self.cache.stats()
        if reply is None:
            explanation = await explain(self.cache, request)
        else:
            lines = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in reply.lines]
            self.clock.time += reply.takes
            response = Response(reply.status, lines, reply.takes)
            explanation = await explain(self.cache, request, response)
            self.clock.time -= reply.takes
        assert self.cache.stats() == before, "explaining has changed something"
        return explanation


def check_form(explanation: Explanation) -> None:
    assert explanation.steps[0].name == "key"
    for step in explanation.steps:
        assert SECTION.fullmatch(step.section), step
        assert SENTENCE.fullmatch(step.text), step
        assert step.outcome, step
    assert SENTENCE.fullmatch(explanation.conclusion.text), explanation.conclusion
    assert Explanation.of_json(explanation.as_json()).conclusion == explanation.conclusion


# Every third row; all of them in `make test-systems`.
ROWS = [
    pytest.param(row, id=row.id, marks=[pytest.mark.systems] * (number % 3 > 0))
    for number, row in enumerate(SCENARIOS)
]


@pytest.mark.parametrize("scenario", ROWS)
async def test_what_is_explained_is_what_happens(scenario: Scenario) -> None:
    world = World(scenario)
    for step in scenario.steps:
        world.clock.time += step.advance
        explained = None
        reply = None
        if step.concurrent == 1 and step.method != "PURGE":
            explained = await world.explain(step)
            check_form(explained)
            reply = step.origin[0] if step.origin else step.refresh
        told = None
        if reply is not None and not (reply.raises or reply.lost):
            told = await world.explain(step, reply)
            check_form(told)
        world.origin.script = [*step.origin, *([] if step.refresh is None else [step.refresh])]
        world.origin.seen = []
        answers = [await ask(world.app, step) for _ in range(step.concurrent)]
        await world.cache.aclose()
        if explained is not None:
            check(explained, told, answers[0], step)


def check(explained: Explanation, told: Explanation | None, answer: Seen, step: Row) -> None:
    shown = f"{step}\n{explained}\n{told}\n{answer}"
    conclusion = explained.conclusion
    if answer.status is None:
        assert conclusion.answer in ("miss", "revalidate", "pass"), shown
        return
    if step.members == 0 or step.cs is None:
        if answer.status == 504 and not step.origin:
            assert conclusion.answer == "only-if-cached", shown
        return
    member = our_member(answer.get("cache-status"))
    detail = member.get("detail")
    if "hit" in member:
        expected = "stale" if detail == "stale-while-revalidate" else "hit"
        assert conclusion.answer == expected, shown
        assert conclusion.ttl == member["ttl"], shown
        return
    assert conclusion.answer in ("miss", "revalidate", "pass"), shown
    validation = None if told is None else told.step("validation")
    if validation is not None and validation.outcome == "mismatch":
        assert len(step.origin) == 2, shown  # it was fetched anew, which is another answer
        return
    # What is known not to be shareable is forwarded without a look at what is stored.
    quick = explained.step("marker") or explained.step("credentials")
    assert conclusion.fwd == member["fwd"] or (quick and member["fwd"] in ("miss", "request")), (
        shown
    )
    if told is None:
        return
    room = told.step("room")
    if told.step("tokens") and detail == "token":
        return  # which only the content shows
    if room is not None and room.outcome == "unknown length" and "stored" not in member:
        assert detail in (None, "too-large", "budget"), shown
        return
    if detail in ("stale-if-error", "stale-if-unreachable"):
        assert validation is not None and validation.outcome == detail, shown
    elif conclusion.answer == "pass":
        assert detail in (None, told.conclusion.refused), shown
        assert told.conclusion.stored == ("stored" in member), shown
    else:
        assert told.conclusion.refused == detail, shown
        assert told.conclusion.stored == ("stored" in member), shown


# -- what it tells ----------------------------------------------------------------------------------


class Asked(asgi.World):
    """A world that can be asked."""

    async def explain(
        self, path: str = "/", response: Response | None = None, **request: Any
    ) -> Explanation:
        scope = asgi.scope_of(path, **request)
        explanation = await explain(self.cache, read_request(scope, obey_directives=True), response)
        check_form(explanation)
        return explanation


def a_world(*rules: Rule, **options: Any) -> Asked:
    return Asked(rules=list(rules), **options)


def names(explanation: Explanation) -> list[str]:
    return [step.name for step in explanation.steps]


def steps(explanation: Explanation, name: str) -> list[Step]:
    return [step for step in explanation.steps if step.name == name]


def the(explanation: Explanation, name: str) -> Step:
    step = explanation.step(name)
    assert step is not None, f"no {name} in {names(explanation)}"
    return step


def outcome(explanation: Explanation, name: str) -> str:
    (step,) = steps(explanation, name)
    return step.outcome


def ok(control: str | None = None, *lines: tuple[str, str], status: int = 200) -> Response:
    named = [*([] if control is None else [("cache-control", control)]), *lines]
    return Response(status, [(n.encode(), v.encode()) for n, v in named])


async def test_nothing_is_stored() -> None:
    told = await a_world().explain("/a", query=b"b=c")
    assert names(told) == ["key", "request", "layer", "decision", "flight"]
    assert outcome(told, "key") == told.url == "http://example.com/a?b=c"
    assert outcome(told, "layer") == "memory: nothing"
    assert outcome(told, "flight") == "leads"
    assert told.conclusion == (
        "miss",
        "uri-miss",
        None,
        None,
        None,
        "MISS: the request goes to the app.",
    )


async def test_what_is_stored_is_told_without_its_body() -> None:
    world = a_world()
    headers = {
        "cache-control": "max-age=60, stale-while-revalidate=30",
        "etag": '"1"',
        "cache-tag": "a, b",
        "x-shown": "yes",
    }
    world.origin.answers("/", headers, b"the-body")
    await world.get()
    world.clock.advance(20)
    told = await world.explain()
    assert told.conclusion[:3] == ("hit", "", 40)
    assert outcome(told, "layer") == "memory: fresh"
    assert the(told, "lifetime").data == {"seconds": 60.0, "source": "max-age", "ttl": 40.0}
    assert the(told, "lifetime").section == "RFC 9111 section 5.2.2.1"
    assert outcome(told, "age") == "20 s"
    assert outcome(told, "stale-windows") == "stale-while-revalidate 30 s"
    assert outcome(told, "validators") == "if-none-match"
    assert the(told, "tags").data == {"tags": ["a", "b"]}
    assert ["x-shown", "yes"] in the(told, "stored").data["headers"]
    assert "the-body" not in str(told)


@pytest.mark.parametrize(
    ("headers", "options", "source", "rfc"),
    [
        ({"cache-control": "max-age=9, s-maxage=60"}, {}, "s-maxage", "5.2.2.10"),
        ({"expires": "Tue, 14 Nov 2023 22:14:20 GMT"}, {}, "expires", "5.3"),
        ({"cache-control": "max-age=0", "etag": '"1"'}, {}, "max-age", "5.2.2.1"),
        ({}, {"rules": [Rule("/", ttl=60)]}, "rule", "4.2.1"),
        (
            {"last-modified": "Tue, 14 Nov 2023 22:03:20 GMT"},
            {"heuristic": 0.1},
            "heuristic",
            "4.2.2",
        ),
        ({"cache-control": "max-age=60", "age": "15"}, {}, "max-age", "5.2.2.1"),
    ],
)
async def test_the_source_of_a_lifetime(
    headers: dict[str, str], options: dict[str, Any], source: str, rfc: str
) -> None:
    world = Asked(**options)
    world.origin.answers("/", headers)
    given = await world.explain(response=ok(None, *headers.items()))
    await world.get()
    stored = await world.explain()
    for told in (given, stored):
        step = told.step("lifetime")
        assert step is not None
        assert step.data["source"] == source
        assert step.section == f"RFC 9111 section {rfc}"
    assert the(given, "lifetime").data == the(stored, "lifetime").data


@pytest.mark.parametrize(
    ("purge", "kind"),
    [
        ({"tags": ["a"]}, "tag"),
        ({"urls": ["http://example.com/"]}, "key"),
        ({"hosts": ["example.com"]}, "prefix"),
        ({"patterns": ["/*"]}, "path"),
        ({"patterns": ["http://*"]}, "glob"),
        ({"everything": True}, "all"),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
async def test_purges_are_named(purge: dict[str, Any], kind: str, soft: bool) -> None:
    world = a_world()
    world.origin.answers("/", {"cache-control": "max-age=60", "cache-tag": "a", "etag": '"1"'})
    await world.get()
    await world.cache.purge(tags=["another"])
    world.clock.advance(5)
    await world.cache.purge(**purge, soft=soft)
    world.clock.advance(5)
    for _ in range(2):  # a look at it changes nothing
        told = await world.explain()
        (held,) = steps(told, "layer")
        assert held.outcome == ("memory: stale" if soft else "memory: purged")
        assert held.section == "LayerGate guarantee G3"
        (caught,) = held.data["purges"]
        assert (caught["kind"], caught["soft"]) == (kind, soft)
        assert caught["time"] == START + 5
        assert ("a soft purge of" if soft else "a purge of") in held.text
        assert told.conclusion.answer == ("revalidate" if soft else "miss")
    stats = world.cache.stats()["events"]
    assert stats["hit"] == stats["stale"] == 0


async def test_variants() -> None:
    world = a_world()
    world.origin.answers("/", {"cache-control": "max-age=60", "vary": "accept-language, cookie"})
    for language in ("en", "de"):
        await world.get(headers={"accept-language": language, "cookie": "secret-1"})
    told = await world.explain(headers={"accept-language": "de", "cookie": "secret-1"})
    assert told.conclusion.answer == "hit"
    variants = the(told, "variants")
    assert variants.outcome == "accept-language, cookie"
    assert variants.section == "RFC 9111 section 4.1"
    assert variants.data["selects"] == [{"accept-language": "de", "cookie": "…"}]
    assert [variant["selected"] for variant in variants.data["variants"]] == [False, True]
    assert [step.outcome for step in steps(told, "layer")] == ["memory: index", "memory: fresh"]
    none = await world.explain(headers={"accept-language": "fr", "cookie": "secret-1"})
    assert none.conclusion[:2] == ("miss", "vary-miss")
    assert "secret-1" not in str(told) + str(none)


async def test_nobodys_credentials_are_shown() -> None:
    world = a_world()
    headers = {
        "cookie": "sid=s3cret",
        "authorization": "Bearer s3cret",
        "x-api-key": "s3cret",
        "x-plain": "shown",
    }
    told = await world.explain(
        headers=headers, response=ok("max-age=60", ("set-cookie", "sid=s3cret"))
    )
    assert "s3cret" not in str(told.as_json())
    assert ["x-plain", "shown"] in the(told, "key").data["headers"]
    assert the(told, "credentials").data["fields"] == ["authorization", "cookie", "x-api-key"]
    assert told.conclusion.refused == "authorization"


async def test_a_marker_says_why() -> None:
    world = a_world()
    world.origin.answers("/", {"cache-control": "max-age=60", "set-cookie": "a=b"})
    await world.get()
    told = await world.explain()
    assert outcome(told, "layer") == "memory: marker"
    marker = the(told, "marker")
    assert (marker.outcome, marker.section) == ("set-cookie", "LayerGate guarantee G1")
    assert "allow_set_cookie" in marker.data["remedy"]
    assert outcome(told, "flight") == "alone"
    assert "The response sets a cookie" in told.conclusion.text


async def test_flights_and_refreshes() -> None:
    world = a_world()
    gate = asgi.Gate()

    @world.origin.on("/")
    async def slow(call: asgi.OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", 200, {"cache-control": "max-age=10, stale-while-revalidate=60"})

    async with world.call() as leader:
        await gate.reached()
        told = await world.explain()
        assert outcome(told, "flight") == "follows"
        assert the(told, "flight").data == {"readers": 1}
        gate.open()
        await leader.done()
    world.clock.advance(20)
    assert outcome(await world.explain(), "refresh") == "begins"
    gate = asgi.Gate()
    await world.get()
    await gate.reached()
    told = await world.explain()
    assert (told.conclusion.answer, outcome(told, "refresh")) == ("stale", "under way")
    gate.open()
    await world.idle()
    assert (await world.explain()).conclusion.answer == "hit"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_what_an_unsafe_method_purges(method: str) -> None:
    world = a_world()
    told = await world.explain("/a", method=method)
    assert told.conclusion[:5] == ("pass", "method", None, False, "method")
    assert the(told, "invalidation").data["purged"] == ["http://example.com/a"]
    location = ("location", "/b")
    told = await world.explain("/a", method=method, response=ok(None, location, status=201))
    assert the(told, "invalidation").data["purged"] == [
        "http://example.com/a",
        "http://example.com/b",
    ]
    told = await world.explain("/a", method=method, response=ok(None, location, status=400))
    assert the(told, "invalidation").data["purged"] == []


async def test_rules() -> None:
    world = a_world(
        Rule("/static/*", bypass=True),
        Rule("/products/{id}", ttl=60, tags=["product:{id}"], vary=["x-site"]),
    )
    told = await world.explain("/static/a.js")
    assert told.conclusion[:5] == ("pass", "bypass", None, False, "rule")
    told = await world.explain("/products/7", response=ok())
    rule = the(told, "rule")
    assert rule.data["params"] == {"id": "7"}
    assert rule.data["rule"] == {
        "path": "/products/{id}",
        "ttl": 60.0,
        "tags": ("product:{id}",),
        "vary": ("x-site",),
    }
    assert the(told, "tags").data == {"tags": ["product:7"]}
    assert outcome(told, "variants") == "x-site"
    told = await world.explain("/products/7", headers={"cookie": "a=b"}, response=ok())
    assert told.conclusion.refused == "cookie"
    assert outcome(await world.explain("/other"), "rule") == "none"


async def test_a_bypass_comes_before_everything_else() -> None:
    world = a_world(Rule("/static/*", bypass=True))
    headers = {"range": "bytes=0-1"}
    told = await world.explain("/static/a.js", headers=headers)
    answer = await world.get("/static/a.js", headers=headers)
    assert told.conclusion.refused == "rule"
    assert f"fwd={told.conclusion.fwd}; detail={told.conclusion.refused}" in answer.cache_status


async def test_what_a_client_may_not_have_is_not_validated_for_it() -> None:
    world = a_world(Rule("/", ttl=60))
    world.origin.answers("/", {"etag": '"1"'})
    await world.get()
    cookie = {"cookie": "a=b"}
    told = await world.explain(headers=cookie, response=ok(None, ("etag", '"1"'), status=304))
    assert told.conclusion[:5] == ("miss", "request", 60, False, "not-modified")
    assert told.step("validation") is None


async def test_a_refresh_asks_without_what_the_client_asked_of_this_answer() -> None:
    world = a_world()
    world.origin.answers("/", {"cache-control": "max-age=10, stale-while-revalidate=60"})
    await world.get()
    world.clock.advance(20)
    headers = {"cache-control": "no-store"}
    told = await world.explain(headers=headers, response=ok("max-age=30"))
    assert (told.conclusion.answer, told.conclusion.stored) == ("stale", True)
    await world.get(headers=headers)
    await world.idle()
    assert (await world.explain()).conclusion.ttl == 10


async def test_a_soft_purge_is_looked_at_in_a_copy() -> None:
    world = a_world()
    await world.get()
    layer: Any = world.cache.stack.layers[0]
    (key,) = layer.keys()
    node = layer._nodes[key]
    await world.cache.purge(everything=True, soft=True)
    before = node.freq, node.entry.checked, node.entry.fresh_until
    assert (await world.explain()).conclusion.answer == "revalidate"
    assert (node.freq, node.entry.checked, node.entry.fresh_until) == before


def test_there_is_a_sentence_for_every_reason_to_decide() -> None:
    sources = inspect.getsource(decision), inspect.getsource(decide)
    verdicts = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Verdict"
    ]
    sections = {
        leaf.value
        for verdict in verdicts
        for leaf in ast.walk(verdict.args[2])
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    }
    assert sections == set(wording.DECIDED)


def test_there_is_a_sentence_for_every_reason_not_to_share_a_fetch() -> None:
    reasons = {
        leaf.value
        for node in ast.walk(ast.parse(inspect.getsource(sharing.why_uncollapsed)))
        if isinstance(node, ast.Return) and node.value is not None
        for leaf in ast.walk(node.value)
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    }
    assert {*reasons, "waiters"} == set(wording.UNCOLLAPSED)


def test_there_is_a_sentence_for_every_source_of_a_lifetime() -> None:
    constants = {
        node.value
        for node in ast.walk(ast.parse(inspect.getsource(freshness)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(wording.SOURCES) - {"rule", "other"} <= constants
    assert {*wording.SUMMARIES} == {*decision.Decision}


def test_there_is_a_step_for_every_reaction_to_a_response() -> None:
    assert {*received._VALIDATIONS} | received._PLANNED == {*Reaction}
    for outcome, rfc, text, _ in received._VALIDATIONS.values():
        assert outcome
        assert SECTION.fullmatch(section(rfc))
        assert SENTENCE.fullmatch(text)


async def test_too_many_waiting_requests() -> None:
    world = a_world(max_waiters=1)
    gate = asgi.Gate()

    @world.origin.on("/")
    async def slow(call: asgi.OriginCall) -> None:
        await gate.wait()
        await call.reply(b"x", 200, {"cache-control": "max-age=10"})

    async with world.call() as leader:
        await gate.reached()
        assert outcome(await world.explain(), "flight") == "follows"
        async with world.call() as follower:
            await world.waiting(1)
            flight = the(await world.explain(), "flight")
            assert (flight.outcome, flight.data) == ("alone", {"why": "waiters"})
            gate.open()
            await leader.done()
            await follower.done()


class Broken(MemoryLayer):
    def inspect(self, key: Any) -> Any:
        raise OSError("the disk is gone")


async def test_each_layer_is_told_and_none_is_written() -> None:
    clock = LoopClock()
    top = MemoryLayer("4MB", clock=clock.now, name="top")
    low = MemoryLayer("4MB", clock=clock.now, name="low", ttl=30)
    broken = Broken("4MB", clock=clock.now, name="broken")
    world = a_world(clock=clock, layers=[top, broken, low])
    await world.get()
    top.clear()
    before = world.cache.stats()
    told = await world.explain()
    assert [step.outcome for step in steps(told, "layer")] == [
        "top: nothing",
        "broken: failed",
        "low: fresh",
    ]
    assert told.conclusion[:3] == ("hit", "", 30)
    assert the(told, "lifetime").data["source"] == "other"  # the layer's own ttl
    assert world.cache.stats() == before
    assert len(top) == 0


async def test_json_there_and_back() -> None:
    world = a_world(Rule("/", ttl={200: 60, 404: 5}))
    told = await world.explain(response=ok())
    text = json.dumps(told.as_json())
    again = Explanation.of_json(json.loads(text))
    assert json.dumps(again.as_json()) == text
    wrongs: tuple[Any, ...] = (
        None,
        {},
        [],
        {"steps": 1},
        {**told.as_json(), "url": 1},
        {"steps": [{}]},
    )
    odd = told.as_json()
    odd["steps"][0]["good"] = "x"
    for wrong in (*wrongs, odd):
        with pytest.raises(ValueError, match="not an explanation"):
            Explanation.of_json(wrong)


@pytest.mark.parametrize("reason", NotStored, ids=lambda reason: reason.token)
def test_every_refusal_has_a_section(reason: NotStored) -> None:
    assert SECTION.fullmatch(section(reason.rfc))
    assert SENTENCE.fullmatch(reason.explain)


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://a.example", "a.example", b"/"),
        ("HTTP://A.Example:80?x=1#f", "a.example", b"/?x=1"),
        ("https://a.example:8443/b/%7Ec?d=%2F", "a.example:8443", b"/b/%7Ec?d=%2F"),
        ("https://[::1]:443/", "[::1]", b"/"),
        (
            "http://a.example/caf\N{LATIN SMALL LETTER E WITH ACUTE} x",
            "a.example",
            b"/caf%C3%A9%20x",
        ),
    ],
)
def test_what_is_asked(url: str, authority: str, target: bytes) -> None:
    asked = AskedRequest.of("GET", url, {"X-A": "b"})
    assert asked.authority == authority
    assert asked.path + (b"?" + asked.query if asked.query else b"") == target
    assert asked.lines == [(b"host", authority.encode()), (b"x-a", b"b")]
    assert AskedRequest.of("GET", url, [["Host", "other"]]).lines == [(b"host", b"other")]


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (("G T", "http://a", None), "method"),
        ((None, "http://a", None), "method"),
        (("GET", None, None), "url"),
        (("GET", "/path", None), "url"),
        (("GET", "ftp://a/", None), "url"),
        (("GET", "http://\ud800/", None), "url"),
        (("GET", "http://a", "x"), "headers"),
        (("GET", "http://a", 5), "headers"),
        (("GET", "http://a", ["x"]), "headers"),
        (("GET", "http://a", [["x"]]), "headers"),
        (("GET", "http://a", {"a b": "c"}), "headers"),
        (("GET", "http://a", {"a": 1}), "headers"),
        (("GET", "http://a", {"a": "\u2603"}), "latin-1"),
        (("GET", "http://a", {"a": "secret\r\nb: c"}), "headers"),
    ],
)
def test_what_could_not_be_sent_is_refused(arguments: Any, mentions: str) -> None:
    with pytest.raises(ExplainRefused, match=mentions) as refused:
        AskedRequest.of(*arguments)
    assert "secret" not in str(refused.value)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ExplainRefused) as refused:
        AskedRequest.of("GET", "http://user:s3cret@a.example/", None)
    assert "s3cret" not in str(refused.value)


# -- targeted fields and cache groups --------------------------------------------------------------

CDN, OURS = "cdn-cache-control", "layergate-cache-control"


@pytest.mark.parametrize(
    ("response", "field", "ignored"),
    [
        (ok("no-store", (CDN, "max-age=9")), CDN, []),
        (ok(None, (CDN, "max-age=9"), (OURS, "max-age=7")), OURS, []),
        (ok(None, (CDN, "max-age=9"), (OURS, "Max-Age=7")), CDN, [OURS]),
        (ok("max-age=60", (CDN, "")), "cache-control", [CDN]),
        (ok(None, ("expires", "0"), (CDN, "&")), "expires", [CDN]),
        (ok(None, (CDN, "&")), "none", [CDN]),
    ],
)
async def test_which_field_decides(response: Response, field: str, ignored: list[str]) -> None:
    told = await a_world().explain(response=response)
    step = the(told, "policy")
    assert (step.outcome, step.data["field"], step.data["ignored"]) == (field, field, ignored)
    assert step.section == "RFC 9213 section 2.2"


async def test_without_a_targeted_field_there_is_nothing_to_tell() -> None:
    assert (await a_world().explain(response=ok("max-age=60"))).step("policy") is None


async def test_which_field_decided_about_what_is_stored() -> None:
    world = a_world()
    world.origin.answers("/", {"cache-control": "no-store", OURS: "max-age=7"})
    await world.get("/")
    told = await world.explain("/")
    assert told.conclusion.answer == "hit"
    assert the(told, "policy").outcome == OURS
    assert the(told, "lifetime").data["source"] == "max-age"


async def test_groups_are_named() -> None:
    world = a_world()
    groups = {"cache-control": "max-age=60", "cache-groups": '"a", "b c"'}
    told = await world.explain("/", ok(None, *groups.items()))
    assert the(told, "groups").data["groups"] == ["a", "b c"]
    assert told.step("tags") is None
    world.origin.answers("/", groups)
    await world.get("/")
    assert the(await world.explain("/"), "groups").outcome == '"a", "b c"'
    invalidating = ok("no-store", ("cache-group-invalidation", '"b c"'))
    told = await world.explain("/else", invalidating, method="POST")
    groups_step = steps(told, "invalidation")[1]
    assert (groups_step.outcome, groups_step.section) == ('"b c"', "RFC 9875 section 3")
