"""What a worker does with each message of its supervisor: rules of `layergate.gateway.siblings`.

`test_siblings_model` tries every order of events; these are the orders that it finds too rarely.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.shared import Joining
from layergate.gateway.siblings import TERM, SiblingLog
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import run_blocking


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return 1_700_000_000 + self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log_of(clock: Any, sent: list[Any] | None = None) -> SiblingLog:
    log = SiblingLog((lambda _: None) if sent is None else sent.append, 3)
    log.joined(Joining(Invalidations(), clock, Counters(), ()))
    return log


@pytest.mark.parametrize("how", ["left", "lost", "forked"])
def test_no_grant_makes_trusted_once_it_is_over(clock: Clock, how: str) -> None:
    log = log_of(clock)
    log.take({"op": "grant", "until": clock.time + TERM})
    assert clock.time < log.trusted_until
    if how == "left":
        run_blocking(log.leave())
    else:
        getattr(log, how)()
    assert not clock.time < log.trusted_until
    log.take({"op": "grant", "until": clock.time + TERM})  # was on its way
    assert not clock.time < log.trusted_until


def test_a_purge_of_a_sibling_reaches_what_was_stored_before(clock: Clock) -> None:
    sent: list[Any] = []
    log = log_of(clock, sent)
    assert log._joining is not None
    known = log._joining.invalidations
    entry = Entry("v", created=clock.now(), fresh_until=1e12, tags=("t",), stamp=known.position)
    entry.checked = known.position
    purged = {"op": "purged", "n": 7, "time": clock.now(), "marks": [["tag", "t", False]]}
    log.take(purged)
    assert entry.checked != known.position
    assert not known.admit(entry, "")
    assert sent == [{"op": "applied", "n": 7}]


@pytest.mark.parametrize(
    ("ahead", "stale_for"),
    [
        pytest.param(-5.0, 5.0, id="made-5-s-ago"),
        pytest.param(0.0, 0.0, id="made-now"),
        pytest.param(3600.0, 0.0, id="by-a-clock-that-was-ahead"),
    ],
)
def test_a_soft_purge_of_a_sibling_makes_stale_now_at_the_latest(
    clock: Clock, ahead: float, stale_for: float
) -> None:
    log = log_of(clock)
    assert log._joining is not None
    known = log._joining.invalidations
    entry = Entry(
        "v", created=clock.now() - 60, fresh_until=clock.now() + 600, tags=("t",), stamp=0
    )
    log.take({"op": "purged", "n": 1, "time": clock.now() + ahead, "marks": [["tag", "t", True]]})
    assert known.admit(entry, "")
    assert entry.staleness(clock.now()) == stale_for
    clock.time += 10
    assert entry.staleness(clock.now()) == stale_for + 10


async def test_a_request_goes_on_as_soon_as_its_worker_is_trusted() -> None:
    sent: list[Any] = []
    runtime = LoopRuntime()
    log = log_of(runtime, sent)
    asking = asyncio.create_task(log.catch_up())
    await asyncio.sleep(0)
    assert sent == [{"op": "sync"}]
    log.take({"op": "grant", "until": runtime.monotonic() + 60})
    for _ in range(5):  # and not after its patience
        await asyncio.sleep(0)
    assert asking.done()
    assert await asking


async def test_every_request_that_waits_for_trust_goes_on_when_the_supervisor_is_gone() -> None:
    log = log_of(LoopRuntime())
    asking = [asyncio.create_task(log.catch_up()) for _ in range(3)]
    await asyncio.sleep(0)
    log.lost()
    for _ in range(5):
        await asyncio.sleep(0)
    assert all(one.done() for one in asking)
    assert [await one for one in asking] == [False] * 3


async def test_a_grant_that_nobody_waits_for_wakes_nobody() -> None:
    runtime = LoopRuntime()
    log = log_of(runtime)
    for _ in range(2):
        log.take({"op": "grant", "until": runtime.monotonic() + 60})
    assert await log.catch_up()


async def test_a_purge_of_its_own_is_final_when_the_supervisor_says_so() -> None:
    sent: list[Any] = []
    log = log_of(LoopRuntime(), sent)
    asked = asyncio.create_task(log.append((Invalidation("tag", "t"),), 1.0))
    await asyncio.sleep(0)
    (purge,) = sent
    log.take({"op": "final", "id": purge["id"] + 1, "applied": 2, "instances": 2})  # another one
    assert not asked.done()
    log.take({"op": "final", "id": purge["id"], "applied": 3, "instances": 3})
    receipt = await asked
    assert (receipt.applied, receipt.instances, receipt.final, receipt.scope) == (
        3,
        3,
        True,
        "host",
    )
