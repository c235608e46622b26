"""G1: the lifetime of a rule, or of a route's policy, is not for a path that somebody reads as another
one. What rules do is in the scenarios (``path-…``); this is about routes, mounts and the parts."""

from __future__ import annotations

import flask
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.routing import Mount, Route

from layergate import HttpCache, LayerGate, MemoryLayer, Rule, cached
from layergate.http.message.fields import Fields
from layergate.http.message.key import path_of, primary_key
from layergate.http.message.request import Request
from layergate.http.privacy.paths import is_doubtful, is_plain, readings
from layergate.http.rules import RuleSet
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.scenarios import asgi, wsgi
from tests.scenarios.model import Step
from tests.support.clocks import ThreadClock

DOUBTFUL = [
    "/static/..%2faccount",
    "/static/%2e%2e/account",
    "/static/x/..;/account",
    "/static/x%00",
]
CERTAIN = ["/static/account", "/static/a%20b", "/static/a//b", "/static/https://x", "/static/a;b"]


def told(answer) -> str:
    return answer.get("cache-status") or ""


@pytest.mark.parametrize("target", [*DOUBTFUL, *CERTAIN])
async def test_next_to_a_route_under_asgi(target):
    app = FastAPI()

    @app.get("/static/{name:path}")
    @cached(ttl=60)
    async def static(name: str) -> PlainTextResponse:
        return PlainTextResponse(name)

    gate = LayerGate(app, memory="1MB")
    first, second = [await asgi.ask(gate, Step(target=target)) for _ in range(2)]
    assert first.status == 200
    expected = ("detail=path", "detail=path") if target in DOUBTFUL else ("stored", "hit")
    assert expected[0] in told(first)
    assert expected[1] in told(second)


@pytest.mark.parametrize("target", [*DOUBTFUL, *CERTAIN])
def test_next_to_a_route_under_wsgi(target):
    app = flask.Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False

    @app.get("/static/<path:name>")
    @cached(ttl=60)
    def static(name):
        return name

    gate = WSGILayerGate(app.wsgi_app, memory="1MB")
    first, second = [wsgi.ask(gate, Step(target=target), validate=False) for _ in range(2)]
    assert first.status == 200
    expected = ("detail=path", "detail=path") if target in DOUBTFUL else ("stored", "hit")
    assert expected[0] in told(first)
    assert expected[1] in told(second)


async def test_below_a_mount():
    """The path that rules match has no prefix; the one that came has it."""

    async def page(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("x")

    inner = LayerGate(
        Starlette(routes=[Route("/{name:path}", page)]), rules=[Rule("/static/*", ttl=60)]
    )
    app = Starlette(routes=[Mount("/api", inner)])
    for target, certain in (
        ("/api/static/a%20b", True),
        ("/api/static/a", True),
        ("/api/static%2fa", False),
        ("/api/static/..%2fa", False),
        ("/api/static//a", True),
    ):
        answers = [await asgi.ask(app, Step(target=target)) for _ in range(2)]
        assert ("hit" in told(answers[1])) is certain, target
        assert ("detail=path" in told(answers[0])) is not certain, target


def test_below_a_script_name():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    clock = ThreadClock()
    cache = HttpCache(
        runtime=clock,
        layers=[MemoryLayer("1MB", clock=clock.now)],
        rules=[Rule("/static/*", ttl=60)],
    )
    gate = WSGILayerGate(app, cache=cache)

    def mounted(environ, start_response):
        environ["SCRIPT_NAME"] = "/api"
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/api")
        return gate(environ, start_response)

    for target, certain in (("/api/static/a%20b", True), ("/api/static/..%2fa", False)):
        answers = [wsgi.ask(mounted, Step(target=target), validate=False) for _ in range(2)]
        assert ("hit" in told(answers[1])) is certain, target
        assert ("detail=path" in told(answers[0])) is not certain, target


PATHS = st.text("ab./\\;%2eEfF5cC0?#\x00 \u00e9\uff0e", max_size=12).map("/".__add__)


@given(PATHS, PATHS)
def test_what_is_plain_is_read_in_one_way(raw, path):
    if is_plain(path):
        assert not is_doubtful(path, path)
        assert set(readings(path, path, "")) == {path}
    for reading in readings(raw, path, "/a"):
        assert isinstance(reading, str)
    assert is_doubtful(raw, path) in (True, False)


@given(st.text(min_size=1), st.text(), st.binary(), st.binary(), st.text())
def test_the_path_of_a_key(scheme, path, raw, query, root):
    try:
        root.encode()
        path.encode()
    except UnicodeEncodeError:
        return
    for one, prefix in (("http", ""), (scheme, root)):
        key = primary_key(one, b"h:1", path, raw, query, prefix)
        assert path_of(key) == (raw, prefix)


@pytest.mark.parametrize(
    ("pattern", "path", "before"),
    [
        ("/img/*", "/img/a//b", "/img/"),
        ("/img/{x:path}", "/img/a//b", "/img/"),
        ("*", "/a//b", ""),
        ("/{a}/*", "/x/a//b", "/x/"),
        ("*/static/*", "/a//static/b", "/a//static/"),
        ("*.css", "/a//b.css", "/a//b.css"),
        ("/p/{id}", "/p/7", "/p/7"),
        ("/p", "/p", "/p"),
    ],
)
def test_what_comes_before_the_last_wildcard(pattern, path, before):
    rules = RuleSet([Rule(pattern, ttl=1)])
    match = rules.match(path, b"h")
    assert match is not None
    assert rules.before_wildcard(match.rule, path) == before


def test_a_rule_for_one_host_is_compared_for_that_host():
    rules = RuleSet([Rule("/a/*", ttl=1, hosts=["b"]), Rule("*", ttl=1)])
    for host, path in ((b"b:80", "/a/*"), (b"c", "*")):
        request = Request(
            method="GET", scheme="http", host=host, path="/a/x y", fields=Fields([]), has_body=False,
            obey_directives=True, key=primary_key("http", host, "/a/x y", b"/a/x%20y", b""),
        )  # fmt: skip
        match = rules.match(request.path, host)
        assert match is not None
        assert match.rule.path == path
        assert match.is_certain(request)
