from __future__ import annotations

import threading
from typing import Any

import pytest

from layergate.core.breaker import Breaker


class World:
    """A clock and a dice in the test's hands, and what the breaker told."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.dice = 0.0
        self.told: list[tuple[str, str]] = []
        self.breaker = Breaker(
            clock=lambda: self.now,
            random=lambda: self.dice,
            lock=threading.Lock(),
            changed=lambda was, now: self.told.append((was, now)),
            **options,
        )

    @property
    def state(self) -> str:
        return self.breaker.state

    def fail(self) -> None:
        self.breaker.failed(self.enter())

    def succeed(self) -> None:
        self.breaker.succeeded(self.enter())

    def enter(self, **options: Any) -> int:
        ticket = self.breaker.enter(**options)
        assert ticket is not None
        return ticket

    def open(self) -> None:
        for _ in range(3):
            self.fail()
        assert self.state == "open"


def test_it_is_closed_at_first_and_lets_everybody_through():
    world = World()
    assert world.state == "closed"
    assert world.breaker.number == 0
    assert all(world.breaker.enter() is not None for _ in range(10))


def test_failures_in_a_row_open_it():
    world = World()
    world.fail()
    world.fail()
    assert world.state == "closed"
    world.fail()
    assert world.state == "open"
    assert world.breaker.number == 2
    assert world.breaker.enter() is None
    assert world.told == [("closed", "open")]
    assert world.breaker.opened == 1


def test_a_success_in_between_begins_the_count_anew():
    world = World()
    for _ in range(5):
        world.fail()
        world.fail()
        world.succeed()
    assert world.state == "closed"
    assert world.told == []


def test_after_the_retry_time_one_probe_is_let_through():
    world = World(retry=2.0)
    world.open()
    world.now += 1.999
    assert world.breaker.enter() is None
    world.now += 0.001
    assert world.breaker.enter() is not None
    assert world.state == "half-open"
    assert world.breaker.number == 1
    assert world.breaker.enter() is None


def test_a_probe_that_succeeds_closes_it():
    world = World()
    world.open()
    world.now += 2.0
    world.succeed()
    assert world.state == "closed"
    assert world.told == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    # and the count begins at nothing
    world.fail()
    world.fail()
    assert world.state == "closed"


def test_each_probe_that_fails_doubles_the_wait_up_to_the_cap():
    world = World(retry=2.0, cap=7.0)
    world.open()
    for wait in (2.0, 4.0, 7.0, 7.0):
        world.now += wait - 0.01
        assert world.breaker.enter() is None
        world.now += 0.01
        world.fail()
    world.now += 7.0
    world.succeed()
    world.open()
    world.now += 2.0
    assert world.breaker.enter() is not None, "a recovery begins with the first interval again"
    assert world.breaker.opened == 2


def test_the_wait_is_jittered():
    world = World(retry=2.0)
    world.dice = 0.999
    world.open()
    world.now += 2.4
    assert world.breaker.enter() is None
    world.now += 0.1
    assert world.breaker.enter() is not None


def test_a_probe_without_an_outcome_is_replaced_after_another_interval():
    world = World(retry=2.0)
    world.open()
    world.now += 2.0
    lost = world.enter()
    world.now += 1.9
    assert world.breaker.enter() is None
    world.now += 0.1
    second = world.enter()
    world.breaker.succeeded(second)
    assert world.state == "closed"
    world.breaker.failed(lost)
    world.fail()
    world.fail()
    assert world.state == "closed", "the lost one's failure counts no more"


def test_a_forced_probe_is_let_through_at_any_time():
    world = World()
    world.open()
    ticket = world.enter(probe=True)
    assert world.breaker.enter() is None
    world.breaker.failed(ticket)
    assert world.state == "open"
    world.breaker.succeeded(world.enter(probe=True))
    assert world.state == "closed"


def test_of_a_thousand_failures_in_flight_the_first_few_count():
    world = World(retry=2.0, cap=1000.0)
    tickets = [world.enter() for _ in range(1000)]
    for ticket in tickets:
        world.breaker.failed(ticket)
    assert world.told == [("closed", "open")]
    world.now += 2.0
    assert world.breaker.enter() is not None, (
        "the wait is the first interval, not doubled 997 times"
    )


@pytest.mark.parametrize("late", ["failed", "succeeded"])
def test_outcomes_from_before_it_opened_count_no_more(late):
    world = World()
    old = [world.enter() for _ in range(100)]
    world.open()
    for ticket in old:
        getattr(world.breaker, late)(ticket)
    assert world.state == "open"
    world.now += 2.0
    world.succeed()
    for ticket in old:
        getattr(world.breaker, late)(ticket)
    assert world.state == "closed"


def test_threads_that_fail_at_once_open_it_once():
    world = World()
    together = threading.Barrier(16)

    def work() -> None:
        together.wait(10)
        for _ in range(200):
            ticket = world.breaker.enter()
            if ticket is not None:
                world.breaker.failed(ticket)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert world.told == [("closed", "open")]
    assert world.breaker.opened == 1


def test_threads_get_one_probe():
    world = World()
    world.open()
    world.now += 2.0
    together = threading.Barrier(16)
    tickets: list[int | None] = []

    def work() -> None:
        together.wait(10)
        tickets.append(world.breaker.enter())

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len([ticket for ticket in tickets if ticket is not None]) == 1
