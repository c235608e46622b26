"""The table of scenarios, through the WSGI middleware."""

from __future__ import annotations

import threading
import time
from wsgiref.validate import validator

import pytest

from layergate import Admin, HttpCache, MemoryLayer, Rule
from layergate.wsgi import LayerGate
from tests.scenarios.checks import check_step
from tests.scenarios.model import TOKEN, Scenario
from tests.scenarios.table import SCENARIOS
from tests.scenarios.wsgi import Clock, Origin, ask, at_hand, valid

# Rows that WSGI cannot express, each with the reason.
NOT_IN_WSGI: dict[str, str] = {}

# A field that keeps a request off `Cache.peek` and means nothing here: whatever the hit path
# answers, the way through `Cache.open` answers the same.
CAREFUL = [("Pragma", "nothing")]


@pytest.mark.parametrize("extra", [[], CAREFUL], ids=["", "off-hit-path"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_scenario(scenario: Scenario, extra: list) -> None:
    if scenario.id in NOT_IN_WSGI:
        pytest.skip(NOT_IN_WSGI[scenario.id])
    clock = Clock()
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
        origin.script = [*step.origin, *([] if step.refresh is None else [step.refresh])]
        origin.seen = []
        if step.concurrent == 1:
            answers = [ask(app, step, extra, validate=validate)]
        else:
            answers = []
            origin.gate = threading.Event()

            def client(step=step, answers=answers) -> None:
                answers.append(ask(app, step, extra, validate=validate))

            threads = [threading.Thread(target=client) for _ in range(step.concurrent)]
            for thread in threads:
                thread.start()
            _until(lambda step=step: len(origin.seen) + cache.stats()["waiters"] == step.concurrent)
            origin.gate.set()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()
            origin.gate = None
        clock.close(5)
        check_step(f"{scenario.id}, step {number} ({scenario.rfc})", step, answers, origin.seen)


def _until(holds) -> None:
    limit = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < limit, "nobody waits, for the origin or for another request"
        time.sleep(0.0005)


def test_what_is_left_out_is_in_the_table() -> None:
    assert {scenario.id for scenario in SCENARIOS} >= set(NOT_IN_WSGI)
    assert all(NOT_IN_WSGI.values())
