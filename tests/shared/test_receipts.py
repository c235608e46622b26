"""Waiting until a purge is final: what the receipt says when the journal fails, loses the record, or
takes too long (G11: `final` only where it is so)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.shared.journal import Appended, Founding, Place, Status, Terms
from layergate.shared.receipts import LOCAL, until_final
from layergate.shared.replay import repetition
from tests.core.support import Events
from tests.support.clocks import MonotonicStillRuntime as Runtime
from tests.support.waiting import turns as settle

LOG, LATER = b"L" * 16, b"O" * 16
PURGE = ((Invalidation("tag", "t"),), 7.0)
RECORD = Appended(LOG, 5, b"tip", 0.0)
LOST = Status(LOG, False, 1, 0, False)
FINALITY = 3.0


def reached(applied: int, *, final: bool = False, pause: float = 0.0, log: bytes = LOG) -> Status:
    return Status(log, True, 4, applied, final, pause)


class Fleet:
    """The journal, and the log of this instance. ``answers``: of `status`, the last one again and
    again."""

    def __init__(self, *answers: Status | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Appended] = []
        self.log = LOG
        self.refreshed = 0
        self.repeated: list[bytes] = []
        self.terms = Terms(2.0, 0.5, FINALITY)

    def status(self, place: Place, record: Appended) -> Status:
        self.asked.append(record)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def place(self, *, member: bool = False) -> Place:
        return Place(self.log, 5, b"tip", b"me", member, Founding(LATER, b"", b""))

    async def refresh(self) -> None:
        self.refreshed += 1
        self.log = LATER

    async def append_purge(self, invalidations: Any, time: float, again: bytes = b"") -> Appended:
        assert (invalidations, time) == PURGE
        self.repeated.append(again)
        return Appended(self.log, 5 + len(self.repeated), b"again", 0.0)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def wait(runtime: Runtime, events: Events) -> Any:
    def wait(fleet: Any, seconds: float | None = None) -> asyncio.Task[PurgeReceipt]:
        counters = Counters([events])
        return asyncio.ensure_future(
            until_final(fleet, fleet, runtime, counters, PURGE, RECORD, seconds)
        )

    return wait


def receipt(applied: int, instances: int, *, final: bool) -> PurgeReceipt:
    return PurgeReceipt(applied, instances, final=final, scope="fleet")


def test_a_purge_that_is_only_here_says_so() -> None:
    assert receipt(1, 1, final=False) == LOCAL


async def test_it_is_final_when_the_journal_says_so(wait: Any, runtime: Runtime) -> None:
    fleet = Fleet(reached(2), reached(3), reached(4, final=True))
    task = wait(fleet)
    await settle()
    await runtime.advance(0.001)
    await runtime.advance(0.001)
    assert task.result() == receipt(4, 4, final=True)


@pytest.mark.parametrize("seconds", [None, 2.0, 0.0])
async def test_the_wait_is_bounded_and_tells_how_far_it_got(
    wait: Any, runtime: Runtime, seconds: float | None
) -> None:
    """Without a bound of the caller: a second more than the journal may take."""
    bound = FINALITY + 1.0 if seconds is None else seconds
    task = wait(Fleet(reached(3, pause=99.0)), seconds)
    await settle()
    if bound:
        await runtime.advance(bound - 0.01)
        assert not task.done()
        await runtime.advance(0.01)
    assert task.result() == receipt(3, 4, final=False)


async def test_the_journal_is_not_asked_while_asking_brings_nothing_new(
    wait: Any, runtime: Runtime
) -> None:
    fleet = Fleet(reached(3, pause=1.5), reached(4, final=True))
    task = wait(fleet)
    await settle()
    await runtime.advance(1.4)
    assert len(fleet.asked) == 1
    await runtime.advance(0.1)
    assert task.result().final


async def test_three_failures_in_a_row_end_the_wait(
    wait: Any, runtime: Runtime, events: Events
) -> None:
    away = OSError("away")
    fleet = Fleet(away, away, reached(2), away, away, away, reached(4, final=True))
    task = wait(fleet)
    await settle()
    for _ in range(9):
        await runtime.advance(0.05)
    assert len(fleet.asked) == 6
    assert task.result() == receipt(2, 4, final=False)
    assert events.of("layer_error") == [{"layer": "shared", "operation": "wait", "error": away}]


async def test_two_failures_are_no_more_than_a_delay(
    wait: Any, runtime: Runtime, events: Events
) -> None:
    fleet = Fleet(OSError("away"), OSError("away"), reached(4, final=True))
    task = wait(fleet)
    await settle()
    for _ in range(9):
        await runtime.advance(0.05)
    assert task.result().final
    assert not events.seen


@pytest.mark.parametrize("later", [False, True], ids=["rolled back", "another incarnation"])
async def test_a_record_that_was_lost_is_appended_again(wait: Any, later: bool) -> None:
    """And the wait goes on for its new place. Everybody calls the repetition by one name."""
    log = LATER if later else LOG
    fleet = Fleet(LOST._replace(log=log), reached(4, final=True, log=log))
    assert (await wait(fleet)) == receipt(4, 4, final=True)
    assert fleet.repeated == [repetition(LOG, 5, b"tip")]
    assert fleet.asked == [RECORD, Appended(log, 6, b"again", 0.0)]
    assert fleet.refreshed == later  # an incarnation that this instance knows need not be read


async def test_a_record_of_another_incarnation_is_lost_even_if_one_is_found_there(
    wait: Any,
) -> None:
    fleet = Fleet(reached(4, final=True, log=LATER))
    assert (await wait(fleet)).final
    assert fleet.repeated == [repetition(LOG, 5, b"tip")]


async def test_a_record_is_appended_again_five_times(wait: Any) -> None:
    fleet = Fleet(LOST)
    assert await wait(fleet) == LOCAL
    assert len(fleet.repeated) == 5


@pytest.mark.parametrize("seconds", [None, 3.0])
async def test_a_repetition_has_as_long_as_the_first_unless_the_caller_is_in_a_hurry(
    wait: Any, runtime: Runtime, seconds: float | None
) -> None:
    fleet = Fleet(reached(1, pause=2.0), LOST, reached(1, pause=99.0))
    task = wait(fleet, seconds)
    await settle()
    await runtime.advance(2.0)
    assert len(fleet.repeated) == 1
    await runtime.advance(2.5)
    assert task.done() == (seconds is not None)
    await runtime.advance(1.5)
    assert task.result() == receipt(1, 4, final=False)


async def test_the_journal_is_asked_at_once_then_less_and_less_often(
    wait: Any, runtime: Runtime
) -> None:
    """Twenty times a second in the end, for as long as it takes."""
    fleet = Fleet(reached(3))
    task = wait(fleet, 60.0)
    await settle()
    assert len(fleet.asked) == 2
    for milliseconds in (1, 1, 2, 2, 4, 4, 8, 16, 32, 50, 50, 50):
        number = len(fleet.asked)
        await runtime.advance(milliseconds / 1000 - 0.0001)
        assert len(fleet.asked) == number
        await runtime.advance(0.00011)
        assert len(fleet.asked) == number + 1
    task.cancel()
