"""All scenarios, through the WSGI middleware."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from wsgiref.validate import validator

import pytest

from layergate import Admin, HttpCache, MemoryLayer, Rule
from layergate.wsgi import LayerGate
from tests.scenarios.checks import Seen, check_step, script_of
from tests.scenarios.model import TOKEN, Scenario, Step
from tests.scenarios.rows import SCENARIOS
from tests.scenarios.wsgi import Origin, ask, at_hand, valid
from tests.support.clocks import ThreadClock
from tests.support.waiting import wait_until

# Rows that WSGI cannot express, each with the reason.
NOT_IN_WSGI: dict[str, str] = {}

# A field that keeps a request off `Cache.peek` and means nothing here: whatever the hit path
# answers, the way through `Cache.open` answers the same.
CAREFUL = [("Pragma", "nothing")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_scenario(scenario: Scenario) -> None:
    if scenario.id in NOT_IN_WSGI:
        pytest.skip(NOT_IN_WSGI[scenario.id])
    _check(scenario, [])
    _check(scenario, CAREFUL)


def _check(scenario: Scenario, extra: list) -> None:
    clock = ThreadClock()
    layer = MemoryLayer("4MB", clock=clock.now)
    rules = [Rule(**rule) for rule in scenario.rules]
    cache = HttpCache(
        runtime=clock, layers=[layer], rules=rules, admin=Admin(token=TOKEN), **scenario.options
    )
    origin = Origin(clock)
    validate = valid(scenario)
    app = LayerGate(at_hand(validator(origin)) if validate else origin, cache=cache)
    for number, step in enumerate(scenario.steps, 1):
        clock.time += step.advance
        origin.script = script_of(step)
        origin.seen = []
        if step.concurrent == 1 and step.meanwhile is None:
            answers = [ask(app, step, extra, validate=validate)]
        else:
            origin.gate = threading.Event()
            with ThreadPoolExecutor(step.concurrent + 1) as pool:
                asked: list[Future[Seen]] = []

                def begin(step: Step, count: int, asked=asked, pool=pool) -> None:
                    asked += [
                        pool.submit(ask, app, step, extra, validate=validate) for _ in range(count)
                    ]
                    wait_until(
                        lambda: len(origin.seen) + cache.stats()["waiters"] == len(asked),
                        "each request to wait, for the origin or for another request",
                    )

                begin(step, step.concurrent)
                if step.meanwhile is not None:
                    clock.time += step.meanwhile.advance
                    begin(step.meanwhile, 1)
                origin.gate.set()
                answers = [one.result(10) for one in asked]
            origin.gate = None
        clock.close(5)
        where = (
            f"{scenario.id}{', off the hit path' if extra else ''}, step {number} ({scenario.rfc})"
        )
        check_step(where, step, answers, origin.seen)


def test_what_is_left_out_is_in_the_table() -> None:
    assert {scenario.id for scenario in SCENARIOS} >= set(NOT_IN_WSGI)
    assert all(NOT_IN_WSGI.values())
