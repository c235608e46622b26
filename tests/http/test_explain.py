"""`explain` says beforehand what the engine then does, for every row of the scenarios."""

from __future__ import annotations

import re

import pytest

from layergate import Admin, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.asgi.scope import read_request
from layergate.http.explain import Explanation, Response, explain
from tests.scenarios.asgi import Clock, Origin, ask, scope_of
from tests.scenarios.checks import Seen, our_member
from tests.scenarios.model import TOKEN, Reply, Scenario, Step
from tests.scenarios.table import SCENARIOS

SECTION = re.compile(r"RFC [0-9]+ section [0-9]+(\.[0-9]+)*|LayerGate guarantee G[0-9]+")
SENTENCE = re.compile(r"[A-Z3-9][^\n]*[.]")


class World:
    """A cache behind a scripted origin."""

    def __init__(self, scenario: Scenario) -> None:
        self.clock = Clock()
        self.cache = HttpCache(
            runtime=self.clock,
            layers=[MemoryLayer("4MB", clock=self.clock.now)],
            rules=[Rule(**rule) for rule in scenario.rules],
            admin=Admin(token=TOKEN),
            **scenario.options,
        )
        self.origin = Origin(self.clock)
        self.app = LayerGate(self.origin, cache=self.cache)

    async def explain(self, step: Step, reply: Reply | None = None) -> Explanation:
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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
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
        if reply is not None and not reply.raises:
            told = await world.explain(step, reply)
            check_form(told)
        world.origin.script = [*step.origin, *([] if step.refresh is None else [step.refresh])]
        world.origin.seen = []
        answers = [await ask(world.app, step) for _ in range(step.concurrent)]
        await world.cache.aclose()
        if explained is not None:
            check(explained, told, answers[0], step)


def check(explained: Explanation, told: Explanation | None, answer: Seen, step: Step) -> None:
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
    if detail == "stale-if-error":
        assert validation is not None and validation.outcome == "stale-if-error", shown
    elif conclusion.answer == "pass":
        assert detail in (None, told.conclusion.refused), shown
    else:
        assert told.conclusion.refused == detail, shown
        assert told.conclusion.stored == ("stored" in member), shown
