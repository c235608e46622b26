"""Histories that nobody has thought of: see `tests.shared.ledger.simulation`.

Each seed is a world of its own: a kind of store, configurations, and the faults that happen in it. A
few run always, hundreds in `make test-systems`, and thousands in `make soak`. The last tests take a rule
out, and see that the search finds that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from layergate.shared.ledger import head as head_module
from layergate.shared.ledger import rules
from layergate.shared.ledger.head import Head
from tests.shared.ledger.simulation import (
    FAULTS,
    Instance,
    Store,
    Violation,
    World,
)
from tests.shared.ledger.test_histories import KeepsEverything, swap_is_enough, without

STEPS = 400
SEEDS = 100  # in one test


def from_seed(number: int, *, systems: int, soak: int) -> Any:
    """A parameter that `make test-systems` or `make soak` runs, from these numbers on."""
    marks = [pytest.mark.soak] if number >= soak else [pytest.mark.systems] * (number >= systems)
    return pytest.param(number, marks=marks)


def explore(seeds: range, **options: Any) -> int:
    """How many purges were final in these worlds. Raises Violation."""
    finals = 0
    for seed in seeds:
        world = World.of(seed, **options)
        try:
            world.random_history(STEPS)
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}\n" + "\n".join(world.told)) from None
        finals += len(world.finals)
    return finals


@pytest.mark.parametrize("block", [from_seed(block, systems=1, soak=5) for block in range(100)])
def test_no_final_purge_is_undone(block: int) -> None:
    finals = explore(range(block * SEEDS, (block + 1) * SEEDS))
    assert finals > SEEDS, "the histories prove nothing"


@pytest.mark.parametrize("seed", [from_seed(seed, systems=10, soak=50) for seed in range(500)])
def test_in_the_end_all_is_well(seed: int) -> None:
    """Whatever happened: once the store answers, all trust what they hold, and purges are final."""
    world = World.of(seed)
    world.random_history(150)
    world.settle_down()
    for instance in world.instances:
        assert instance.trusted
        assert not instance.tasks, [task.name for task in instance.tasks]
    assert len({(one.log, one.position, one.tip) for one in world.instances}) == 1
    purger = world.instances[0]
    before = len(world.finals)
    world.start(purger, purger.purge(), "the last purge")
    world.settle_down()
    assert len(world.finals) > before


class Watched(Store):
    """Notes the incarnations."""

    logs: set[bytes]

    def _put(self, name: str, data: bytes) -> Any:
        if name.endswith("head"):
            self.logs = {*getattr(self, "logs", ()), Head.decode(data).log}
        return super()._put(name, data)


def test_the_log_begins_anew_only_if_it_must() -> None:
    """What instances do, and what becomes of them, is no reason to let go of what anybody holds."""
    harmless = set(FAULTS) - {"empty", "lose_cell", "fail_over", "restart"}
    for seed in range(30):
        world = World(seed)
        world.store = Watched(epochs=True)
        world.faults = harmless
        for _ in range(3):
            world.new()
        world.random_history(STEPS)
        assert isinstance(world.store, Watched)
        assert len(world.store.logs) == 1


def test_the_number_of_cells_is_bounded() -> None:
    """Members come and go, and records too."""
    world = World(1)
    world.faults = {"kill", "leave", "pass_long"}
    for _ in range(3):
        world.new()
    world.random_history(6000)
    kinds = [name[2] for name in world.store.cells]
    assert kinds.count("h") == 1
    assert kinds.count("p") <= world.sizes.pages
    assert kinds.count("m") < 40 < world.names


def test_the_dead_are_found_where_nobody_purges() -> None:
    world = World(1)
    survivor = world.new()
    for _ in range(200):
        instance = world.new()
        for _ in range(3):
            world.run(instance, instance.sync())
            world.run(survivor, survivor.sync())
            world.wait(0.1)
        world.kill(instance)
    assert len(Head.decode(world.store.cells["n:head"][0]).members) <= 24


def test_a_process_that_has_just_started_purges_without_waiting() -> None:
    """Others have known the log for long, and have written that down."""
    world = World(1)
    one = world.new()
    for _ in range(9):
        world.run(one, one.sync())
        world.wait(0.15)
    started = world.new()
    began = world.time
    task = world.start(started, started.purge())
    while not task.over:
        world.step(started, task)
        world.run(one, one.sync())
    assert len(world.finals) == 1
    assert world.time - began < 0.2
    assert Head.decode(world.store.cells["n:head"][0]).settled


def test_a_full_list_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody died before anybody could notice that others had."""
    monkeypatch.setattr(head_module, "MAX_MEMBERS", 20)
    world = World(1)
    survivor = world.new()
    world.run(survivor, survivor.sync())
    for _ in range(19):
        instance = world.new()
        world.run(instance, instance.sync())
        world.kill(instance)
    late = world.new()
    for _ in range(8):
        for instance in (late, survivor):
            world.run(instance, instance.sync())
        assert survivor.trusted
        world.wait(0.2)
    world.run(late, late.sync())
    assert late.trusted
    assert len(Head.decode(world.store.cells["n:head"][0]).members) == 2


BROKEN: dict[str, tuple[Callable[[], Any], type[Instance], int]] = {
    "term_of": (without("term_of", lambda _, own: own), Instance, 60),
    "mode_of": (without("mode_of", lambda _, own: own), Instance, 60),
    "must_clear": (without("must_clear", lambda _: False), Instance, 60),
    "waited_out": (without("waited_out", lambda since, term: since > term * 0.5), Instance, 60),
    "joining drops what is held": (contextlib.nullcontext, KeepsEverything, 60),
    "is_settled": (without("is_settled", lambda *_: True), Instance, 1000),
    "is_out": (without("is_out", lambda member, *_: bool(member.mark)), Instance, 1000),
    "same_epoch": (without("same_epoch", lambda *_: True), Instance, 1000),
    "settle_after": (without("settle_after", lambda term, _: term), Instance, 2000),
    "a swap founds trust": (swap_is_enough, Instance, 1000),
    "counts": (
        without("counts", lambda one, trail, position: one.position >= position),
        Instance,
        2000,
    ),
}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=() if BROKEN[rule][2] < 100 else pytest.mark.soak)
        for rule in BROKEN
    ],
)
def test_the_search_finds_a_missing_rule(rule: str) -> None:
    broken, instance, seeds = BROKEN[rule]
    with broken(), pytest.raises(Violation):
        explore(range(seeds), instance=instance)


def test_a_store_that_throttles_breaks_no_promise() -> None:
    """It refuses calls, also such as it has carried out. (That answers are lost, late, and in any order is in
    all of these histories.)"""
    assert explore(range(60), throttles=True) > 10


def test_the_search_finds_reads_that_are_behind() -> None:
    """What a missing option of a client library does: reads of a replica, or a cached response."""
    with pytest.raises(Violation):
        explore(range(40), stale=True)


@pytest.mark.soak
def test_the_search_finds_a_tag_that_repeats() -> None:
    with pytest.raises(Violation):
        explore(range(2000), tags_repeat=True)


def test_the_rules_that_are_taken_out_exist() -> None:
    for rule in BROKEN:
        if " " not in rule:
            with mock.patch.object(rules, rule):
                pass
