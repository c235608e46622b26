"""What one client of a WSGI application cannot do to the others: switch a page off, or crowd it out."""

from __future__ import annotations

from typing import Any

import pytest

from layergate import HttpCache, MemoryLayer
from layergate.wsgi import LayerGate
from tests.support.clocks import ThreadClock
from tests.support.waiting import wait_until
from tests.support.wsgi import Gate, ask, in_threads

FRESH = ("Cache-Control", "max-age=60")
ATTACKS = [
    pytest.param({"HTTP_COOKIE": "sid=bad"}, "200 OK", [FRESH, ("Set-Cookie", "sid=new")], id="bad-cookie"),
    pytest.param({"HTTP_X_BAD": "x" * 9000}, "400 Bad Request", [], id="400"),
    pytest.param({"HTTP_X_BAD": "sqlmap"}, "403 Forbidden", [("Cache-Control", "no-store")], id="403"),
]  # fmt: skip


class Site:
    def __init__(self, status: str, lines: list[tuple[str, str]]) -> None:
        self.calls = 0
        self.bad = status, lines
        self.gate: Gate | None = None
        self.clock = ThreadClock()
        layer = MemoryLayer("4MB", clock=self.clock.now)
        self.cache = HttpCache(runtime=self.clock, layers=[layer])
        self.app = LayerGate(self, cache=self.cache)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        if self.gate is not None:
            self.gate.wait()
        if environ.get("HTTP_COOKIE") or environ.get("HTTP_X_BAD"):
            start_response(*self.bad)
            return [b"for one"]
        lines = [FRESH, *([("Vary", "X-Shade")] if environ.get("HTTP_X_SHADE") else [])]
        start_response("200 OK", lines)
        return [environ.get("HTTP_X_SHADE", "for all").encode()]


@pytest.mark.parametrize(("attack", "status", "lines"), ATTACKS)
def test_one_request_does_not_switch_a_page_off(attack: Any, status: str, lines: Any) -> None:
    site = Site(status, lines)
    ask(site.app)
    ask(site.app, HTTP_CACHE_CONTROL="no-cache", **attack)
    for _ in range(60):
        assert "; hit" in ask(site.app).told
    assert site.calls == 2


@pytest.mark.parametrize(("attack", "status", "lines"), ATTACKS)
def test_the_next_ones_at_once_cost_one_call(attack: Any, status: str, lines: Any) -> None:
    site = Site(status, lines)
    ask(site.app, **attack)
    site.gate = gate = Gate()

    def opener() -> None:
        gate.reached()
        wait_until(lambda: site.cache.stats()["waiters"] == 7)
        gate.open()

    def work() -> bytes:
        return ask(site.app).body

    numbers = iter(range(9))
    answers = in_threads(9, lambda: opener() if next(numbers) == 0 else work())
    assert answers.count(b"for all") == 8
    assert site.calls == 2


def test_a_flood_of_variants_does_not_displace_what_is_read() -> None:
    site = Site("200 OK", [])
    for _ in range(100):
        ask(site.app, HTTP_X_SHADE="me")
    for number in range(200):
        ask(site.app, HTTP_X_SHADE=str(number))
    before = site.calls
    assert ask(site.app, HTTP_X_SHADE="me").body == b"me"
    assert site.calls == before


def test_those_that_do_not_fit_are_not_said_to_be_stored() -> None:
    site = Site("200 OK", [])
    for _ in range(4):
        for number in range(40):
            answer = ask(site.app, HTTP_X_SHADE=str(number))
    told = [ask(site.app, HTTP_X_SHADE=str(number)).told for number in range(40)]
    assert answer.body == b"39"
    assert sum("; hit" in one for one in told) == 32
    assert sum("detail=variants" in one and "stored" not in one for one in told) == 8
