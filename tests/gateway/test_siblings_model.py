"""The argument at the head of `layergate.gateway.siblings`, tried on every order of events.

A supervisor's `Members` and the `SiblingLog` of each worker, with queues between them that deliver
when the test says so, and a clock that only the test moves. Held throughout: who is trusted has
applied every purge that is final and of which it holds what was fetched before.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations, PurgeReceipt
from layergate.core.shared import Joining
from layergate.errors import ConfigError, KeyRefused
from layergate.gateway.siblings import TERM, SiblingLog
from layergate.runtime.threads import run_blocking
from layergate.shared.members import Members


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return 1_700_000_000 + self.time


def joining(clock: Any) -> Joining:
    return Joining(Invalidations(), clock, Counters(), ())


class Worker:
    """``out``: what it has sent, ``inbox``: what it is sent; both on their way."""

    def __init__(self, serial: int, clock: Clock, workers: int) -> None:
        self.serial = serial
        self.out: deque[dict[str, Any]] = deque()
        self.inbox: deque[dict[str, Any]] = deque()
        self.log = SiblingLog(lambda message: self.out.append(wired(message)), workers)
        self.joining = joining(clock)
        self.log.joined(self.joining)
        self.stored: dict[int, Entry] = {}  # by the number of the purge that is to end it
        self.dead = False

    def store(self, number: int, clock: Clock) -> None:
        stamp = self.joining.invalidations.position
        self.stored[number] = Entry(
            number, created=clock.now(), fresh_until=1e12, tags=(f"t{number}",), stamp=stamp
        )

    def serves(self, number: int, clock: Clock) -> bool:
        entry = self.stored.get(number)
        return (
            not self.dead
            and entry is not None
            and clock.monotonic() < self.log.trusted_until
            and self.joining.invalidations.admit(entry, "")
        )


def wired(message: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes out at the other end."""
    read: dict[str, Any] = json.loads(json.dumps(message))
    return read


class Siblings(RuleBasedStateMachine):
    """Workers and a supervisor."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.members: Members[int] = Members(self.clock.monotonic, term=TERM)
        self.all: dict[int, Worker] = {}
        self.serials = 0
        self.purges = 0
        self.final: set[int] = set()
        self.asked: dict[tuple[int, int], int] = {}  # who, its number -> number of the purge

    @initialize(target=workers)
    def two(self) -> MultipleResults[Worker]:
        return multiple(self.start(), self.start())

    @rule(target=workers)
    def another(self) -> Worker:
        return self.start()

    def start(self) -> Worker:
        self.serials += 1
        self.members.join(self.serials)
        worker = self.all[self.serials] = Worker(self.serials, self.clock, 3)
        worker.store(self.purges, self.clock)
        worker.out.append({"op": "sync"})
        return worker

    @rule(worker=workers)
    def stores(self, worker: Worker) -> None:
        """Something that the next purge is to end."""
        worker.store(self.purges, self.clock)

    @rule(worker=workers)
    def syncs(self, worker: Worker) -> None:
        if not worker.dead:
            worker.out.append({"op": "sync"})

    @rule(worker=workers)
    def purge(self, worker: Worker) -> None:
        if worker.dead:
            return
        number = self.purges
        waiting = len(worker.out)
        receipt = run_blocking(
            worker.log.append((Invalidation("tag", f"t{number}"),), self.clock.now(), wait=0.0)
        )
        assert not receipt.final
        if len(worker.out) > waiting:  # it has a supervisor to send it to
            self.asked[worker.serial, worker.out[-1]["id"]] = number
        self.purges += 1
        for one in self.all.values():
            # What begins to be fetched now is none of that purge's business, and the next one's.
            one.store(self.purges, self.clock)

    @rule(worker=workers, count=st.integers(1, 5))
    def is_heard(self, worker: Worker, count: int) -> None:
        for _ in range(count):
            if not worker.out or worker.serial not in self.all:
                return
            message = worker.out.popleft()
            if message["op"] == "sync":
                until = self.members.grant(worker.serial)
                worker.inbox.append(wired({"op": "grant", "until": until}))
            elif message["op"] == "purge":
                position = self.members.append(worker.serial, message["id"])
                for other in self.all.values():
                    if other is not worker:
                        other.inbox.append({**message, "op": "purged", "n": position})
            elif message["op"] == "applied":
                self.members.applied(worker.serial, message["n"])
            elif message["op"] == "leave":
                self.members.leave(worker.serial)
            self.settle()

    @rule(worker=workers, count=st.integers(1, 5))
    def hears(self, worker: Worker, count: int) -> None:
        for _ in range(count):
            if worker.inbox and not worker.dead:
                worker.log.take(worker.inbox.popleft())

    @rule(seconds=st.floats(0.1, TERM * 1.5))
    def waits(self, seconds: float) -> None:
        self.clock.time += seconds
        self.settle()

    @rule(worker=workers, fate=st.sampled_from(["none"] * 5 + ["dies", "leaves", "is cut off"]))
    def meets_its_fate(self, worker: Worker, fate: str) -> None:
        if worker.dead:
            return
        if fate == "dies":
            worker.dead = True
            self.members.leave(worker.serial)
            del self.all[worker.serial]
            self.settle()
        elif fate == "leaves":
            run_blocking(worker.log.leave())
        elif fate == "is cut off":
            worker.log.lost()

    def settle(self) -> None:
        for done in self.members.settled():
            assert 1 <= done.applied == done.instances
            self.final.add(self.asked[done.by, done.number])

    @invariant()
    def nothing_purged_is_served(self) -> None:
        for number in self.final:
            for worker in self.all.values():
                assert not worker.serves(number, self.clock), (number, worker.serial)

    def teardown(self) -> None:
        """Nothing waits for ever: not even for those who never answer."""
        self.clock.time += TERM
        self.settle()
        assert self.members.due() is None


TestSiblings = pytest.mark.filterwarnings("ignore")(Siblings.TestCase)
TestSiblings.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


def log_with(sent: list[dict[str, Any]], clock: Any) -> SiblingLog:
    log = SiblingLog(lambda message: sent.append(wired(message)), 3)
    log.joined(joining(clock))
    return log


def test_a_log_belongs_to_one_stack():
    log = log_with([], Clock())
    with pytest.raises(ConfigError, match="one cache"):
        log.joined(joining(Clock()))


def test_a_grant_that_came_before_the_stack_counts():
    log = SiblingLog(lambda _: None, 3)
    log.take({"op": "grant", "until": 7.0})
    assert log.joined(joining(Clock())).trusted_until == 7.0


def test_what_is_no_pattern_is_refused_and_not_sent():
    sent: list[dict[str, Any]] = []
    log = log_with(sent, Clock())
    with pytest.raises(KeyRefused):
        run_blocking(log.append((Invalidation("glob", ""),), 0.0, wait=0.0))
    assert not sent


def test_a_purge_beyond_all_measure_purges_everything():
    sent: list[dict[str, Any]] = []
    log = log_with(sent, Clock())
    invalidations = tuple(Invalidation("tag", f"{number:050}") for number in range(100_000))
    run_blocking(log.append(invalidations, 0.0, wait=0.0))
    assert sent[0]["marks"] == [["all", "", False]]


async def test_a_purge_that_nobody_answers_is_not_final():
    sent: list[dict[str, Any]] = []
    log = log_with(sent, Clock())
    mark = (Invalidation("tag", "\udc80"),)
    assert await log.append(mark, 0.0, wait=0.01) == PurgeReceipt(1, 3, final=False, scope="host")
    assert sent[0]["marks"] == [["tag", "\udc80", False]]
    log.take({"op": "final", "id": sent[0]["id"], "applied": 3, "instances": 3})  # too late
    assert not await log.catch_up()
    log.lost()
    assert await log.append(mark, 0.0) == PurgeReceipt(1, 3, final=False, scope="host")
    assert not await log.catch_up()
    assert [message["op"] for message in sent] == ["purge", "sync"]
    assert log.stats() == {"log_trusted": 0}
