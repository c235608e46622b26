"""A rule's ``ttl`` by status: the option itself, next to a route under ASGI and WSGI, and in the gateway.

What requests see of it is in the scenarios (``ttl-…``).
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse

from layergate import ConfigError, HttpCache, MemoryLayer, Rule, cached
from layergate.config import DEFAULT_STATUSES, MISSING_TTL
from layergate.errors import SettingsError
from layergate.fastapi import cache_policy
from layergate.gateway.settings import load
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.scenarios import wsgi
from tests.scenarios.model import Step
from tests.support.asgi import World
from tests.support.clocks import ThreadClock

UP = "http://127.0.0.1:8000"
INSTEAD = r"statuses is no longer an option; write ttl=\{200: 60, 404: 5\}"


def test_a_number_covers_the_usual_statuses_and_is_short_for_what_is_missing():
    for ttl in (60, 60.0, timedelta(minutes=1), float("inf")):
        rule = Rule("/", ttl=ttl)
        whole = rule.ttl
        for status in range(200, 600):
            expected = None if status not in DEFAULT_STATUSES else whole
            expected = MISSING_TTL if status in (404, 410) else expected
            assert rule.lifetime(status) == expected, status
    assert Rule("/", ttl=3).lifetime(404) == 3.0
    assert Rule("/").lifetime(200) is None


def test_a_mapping_covers_what_it_names():
    given: dict[Any, Any] = {200: timedelta(minutes=1), "404": 600, 503: 0}
    rule = Rule("/", ttl=given)
    given.clear()
    assert rule.ttl == {200: 60.0, 404: 600.0, 503: 0.0}
    assert {status for status in range(200, 600) if rule.lifetime(status) is not None} == {
        200,
        404,
        503,
    }
    assert rule.is_brief(404) is False
    for twin in (copy.copy(rule), pickle.loads(pickle.dumps(rule)), dataclasses.replace(rule)):
        assert twin == rule
        assert hash(twin) == hash(rule)
    assert Rule("/", ttl={200: 1}) != rule


def test_statuses_says_what_to_write_instead():
    given: dict[str, Any] = {"ttl": 60, "statuses": [200]}
    for make in (
        lambda: Rule("/", **given),
        lambda: cached(**given),
        lambda: cache_policy(**given),
    ):
        with pytest.raises(ConfigError, match=INSTEAD):
            make()


async def seen(world: World, path: str) -> list[bool]:
    """Whether the second request, the one 9 seconds later and that after 11 are hits."""
    found = []
    await world.get(path)
    for seconds in (0, 9, 2):
        world.clock.advance(seconds)
        found.append((await world.get(path)).hit)
    return found


async def test_next_to_a_route_under_asgi():
    app = FastAPI()

    def answer(status: int) -> PlainTextResponse:
        return PlainTextResponse("x", status)

    @app.get("/number/{status}")
    @cached(ttl=60)
    async def number(status: int) -> PlainTextResponse:
        return answer(status)

    @app.get("/mapping/{status}")
    @cached(ttl={200: 60, 404: 10.5, 302: 60})
    def mapping(status: int) -> PlainTextResponse:
        return answer(status)

    @app.get("/dependency/{status}", dependencies=[Depends(cache_policy({404: 60}))])
    async def dependency(status: int) -> PlainTextResponse:
        return answer(status)

    world = World(app=app)
    assert await seen(world, "/number/200") == [True, True, True]
    assert await seen(world, "/number/404") == [True, True, False]
    assert await seen(world, "/number/302") == [False, False, False]
    assert await seen(world, "/mapping/404") == [True, True, False]
    assert await seen(world, "/mapping/302") == [True, True, True]
    assert await seen(world, "/mapping/410") == [False, False, False]
    assert await seen(world, "/dependency/404") == [True, True, True]
    assert await seen(world, "/dependency/200") == [False, False, False]


def test_next_to_a_route_under_wsgi():
    app = flask.Flask(__name__)

    @app.get("/number/<int:status>")
    @cached(ttl=60)
    def number(status):
        return "x", status

    @app.get("/mapping/<int:status>")
    @cached(ttl={404: 60})
    def mapping(status):
        return "x", status

    clock = ThreadClock()
    gate = WSGILayerGate(
        app.wsgi_app, cache=HttpCache(runtime=clock, layers=[MemoryLayer("1MB", clock=clock.now)])
    )

    def hits(path: str) -> list[bool]:
        found = []
        wsgi.ask(gate, Step(target=path))
        for seconds in (0, 9, 2):
            clock.time += seconds
            found.append("; hit" in (wsgi.ask(gate, Step(target=path)).get("cache-status") or ""))
        return found

    assert hits("/number/200") == [True, True, True]
    assert hits("/number/404") == [True, True, False]
    assert hits("/mapping/404") == [True, True, True]
    assert hits("/mapping/200") == [False, False, False]


def test_in_the_gateway(tmp_path: Path):
    path = tmp_path / "layergate.toml"
    expected = (Rule("/a", ttl={200: 60, 404: 5}), Rule("/b", ttl={410: 1}))
    for text in (
        '[[rules]]\npath = "/a"\nttl = {200 = 60, 404 = 5}\n[[rules]]\npath = "/b"\nttl.410 = 1\n',
        '[[rules]]\npath = "/a"\n[rules.ttl]\n"200" = 60\n404 = 5\n[[rules]]\npath = "/b"\nttl = {410 = 1}\n',
    ):
        path.write_text(text)
        rules = load(path, {}, {"upstream": UP}).options.cache.rules
        assert rules == expected
    given = '[{path = "/a", ttl = {200 = 60, 404 = 5}}, {path = "/b", ttl = {410 = 1}}]'
    assert load(None, {"LAYERGATE_RULES": given}, {"upstream": UP}).options.cache.rules == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("statuses = [200]", "rules[0] has no 'statuses'; write ttl = {200 = 60, 404 = 5}, seconds by status"),
        ("ttl = {200 = -1}", "rules[0].ttl[200] must be >= 0 seconds, got -1"),
        ("ttl = {}", "rules[0].ttl must name at least one status code, got {}"),
        ("ttl = {429 = 1}", "rules[0].ttl names 429, which applies to one request only and is never stored"),
    ],
)  # fmt: skip
def test_what_the_gateway_refuses(tmp_path: Path, line: str, told: str):
    path = tmp_path / "layergate.toml"
    path.write_text(f'upstream = "{UP}"\n[[rules]]\npath = "/a"\n{line}\n')
    with pytest.raises(SettingsError) as raised:
        load(path, {}, {})
    assert f"layergate.toml: {told}" in str(raised.value)
