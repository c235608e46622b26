"""What the log is told: a line per decision at DEBUG, and warnings, not too many."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from layergate.telemetry import logs
from layergate.wsgi import LayerGate as WsgiLayerGate
from tests.core.support import DictLayer
from tests.support.asgi import World
from tests.support.wsgi import ask

SWR = {"cache-control": "max-age=10, stale-while-revalidate=60"}


def decisions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "layergate.decisions"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


async def test_one_line_per_decision(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "layergate")
    world = World()
    world.origin.answers("/a", SWR)
    world.origin.answers("/no", {"cache-control": "private"})
    await world.get("/a", query=b"token=secret", headers={"cookie": "secret"})
    await world.get("/a", query=b"token=secret")
    world.clock.advance(20)
    await world.get("/a", query=b"token=secret")
    await world.idle()
    await world.get("/no")
    await world.get("/a", headers={"range": "lines=0-1"})
    assert decisions(caplog) == [
        "miss GET '/a' reason=uri-miss",
        "hit 'http://example.com/a' layer=memory",
        "stale GET '/a' layer=memory",
        "miss GET '/no' reason=private",
        "bypass GET '/a' reason=range",
    ]
    assert "secret" not in caplog.text
    first = next(r for r in caplog.records if r.name == "layergate.decisions")
    assert vars(first)["layergate.outcome"] == "miss"
    assert vars(first)["layergate.reason"] == "uri-miss"


async def test_a_path_makes_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "layergate")
    await World().get("/a\nhit GET '/b'")
    assert len(decisions(caplog)) == 1
    assert "\n" not in decisions(caplog)[0]


async def test_nobody_listens_nothing_is_put_around_a_hit() -> None:
    world = World(telemetry=False)
    assert world.cache.first_look == world.cache.peek


def test_wsgi_says_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "layergate")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"body"]

    gate = WsgiLayerGate(app)
    for _ in range(2):
        ask(gate, "/a?token=secret")
    assert decisions(caplog) == [
        "miss GET '/a' reason=uri-miss",
        "hit 'http://example.org/a' layer=memory",
    ]


# -- LAYERGATE_DEBUG ------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Any:
    logger = logging.getLogger("layergate")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.parametrize("value", ["1", "true", "on"])
def test_the_environment_turns_it_on(logger: logging.Logger, value: str) -> None:
    logs.enable_debug({"LAYERGATE_DEBUG": value})
    assert logs.DECISIONS.isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize("environ", [{}, {"LAYERGATE_DEBUG": ""}, {"LAYERGATE_DEBUG": "0"}])
def test_otherwise_it_is_left_alone(logger: logging.Logger, environ: dict[str, str]) -> None:
    before = logger.level
    logs.enable_debug(environ)
    assert logger.level == before


def test_it_goes_to_stderr_where_nobody_handles_it(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda self: False)
    logs.enable_debug({"LAYERGATE_DEBUG": "1"})
    assert len(logger.handlers) == 1


# -- warnings -------------------------------------------------------------------------------------


def test_warnings_are_few(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    warn = logs.DegradedWarnings(lambda: now)
    for _ in range(1000):
        warn("layer_error", {"layer": "a", "operation": "get", "error": OSError("no\nroute")})
    assert warnings(caplog) == ["layer a: get failed: OSError('no\\nroute')"]
    warn("layer_error", {"layer": "b", "operation": "get", "error": OSError("x")})
    assert len(warnings(caplog)) == 2  # another layer is another matter
    now = logs.EVERY
    warn("layer_error", {"layer": "a", "operation": "get", "error": OSError("x")})
    assert warnings(caplog)[-1] == (
        "layer a: get failed: OSError('x') (999 more since the last such line)"
    )


def test_a_breaker_that_closes_may_be_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    warn = logs.DegradedWarnings(lambda: 0.0)
    for state in ("open", "half-open", "open", "closed", "open"):
        warn("breaker", {"layer": "redis", "was": "", "state": state})
    assert len(warnings(caplog)) == 2


def test_what_is_ordinary_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn = logs.DegradedWarnings(lambda: 0.0)
    warn("refresh_skipped", {"reason": "another instance does it"})
    warn("miss", {})
    warn("backfill", {"source": "a", "layer": "b"})
    assert not caplog.records


async def test_a_layer_that_fails_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    low = DictLayer("low", later=True)
    low.fail |= {"get", "set"}
    world = World(shared=low)
    for number in range(5):
        await world.get(f"/{number}")
    await world.idle()
    told = warnings(caplog)
    assert [line.split(":")[0] for line in told].count("layer low did not accept an entry") == 1
    assert sum("get failed" in line for line in told) == 1
