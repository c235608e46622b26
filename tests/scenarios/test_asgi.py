"""All scenarios, through the ASGI middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from layergate import Admin, HttpCache, LayerGate, MemoryLayer, Rule
from tests.scenarios.asgi import Origin, ask
from tests.scenarios.checks import check_step, script_of
from tests.scenarios.model import TOKEN, Scenario
from tests.scenarios.rows import SCENARIOS
from tests.support.clocks import LoopClock

# A field that occurs twice keeps a request off `Cache.peek`: whatever the hit path answers, the way
# through `Cache.open` answers the same.
TWICE = [(b"x-twice", b"1"), (b"x-twice", b"2")]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all rows, none of which leaves anything on it."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_scenario(runner: asyncio.Runner, scenario: Scenario) -> None:
    runner.run(_check(scenario, []))
    runner.run(_check(scenario, TWICE))
    assert not asyncio.all_tasks(runner.get_loop())


async def _check(scenario: Scenario, extra: list) -> None:
    clock = LoopClock()
    layer = MemoryLayer("4MB", clock=clock.now)
    rules = [Rule(**rule) for rule in scenario.rules]
    cache = HttpCache(
        runtime=clock, layers=[layer], rules=rules, admin=Admin(token=TOKEN), **scenario.options
    )
    origin = Origin(clock)
    app = LayerGate(origin, cache=cache)
    for number, step in enumerate(scenario.steps, 1):
        clock.time += step.advance
        origin.script = script_of(step)
        origin.seen = []
        if step.concurrent == 1 and step.meanwhile is None:
            answers = [await ask(app, step, extra)]
        else:
            origin.gate = asyncio.Event()
            tasks = [asyncio.create_task(ask(app, step, extra)) for _ in range(step.concurrent)]
            await _all_wait()
            if step.meanwhile is not None:
                clock.time += step.meanwhile.advance
                tasks.append(asyncio.create_task(ask(app, step.meanwhile, extra)))
                await _all_wait()
            origin.gate.set()
            answers = list(await asyncio.gather(*tasks))
            origin.gate = None
        await cache.aclose()
        where = (
            f"{scenario.id}{', off the hit path' if extra else ''}, step {number} ({scenario.rfc})"
        )
        check_step(where, step, answers, origin.seen)


async def _all_wait() -> None:
    """Until each request waits, for the origin or for another request."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_ids_are_unique() -> None:
    ids = [scenario.id for scenario in SCENARIOS]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 200
