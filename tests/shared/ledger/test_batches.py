"""Calls of one process that travel together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from layergate.errors import LayerTimeout
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.ledger import batches
from layergate.shared.ledger.batches import Batches


class Work:
    """Notes what was asked together; takes its time; fails if it is told to."""

    def __init__(self, runtime: Any, *, most: int = 100) -> None:
        self.asked: list[list[Any]] = []
        self.fails: list[Exception | None] = []
        self.batches: Batches[Any, Any] = Batches(
            runtime, self.work, kind=lambda item: str(type(item)), most=most
        )
        self.gate: asyncio.Event | None = None

    async def work(self, items: Sequence[Any]) -> list[Any]:
        self.asked.append(list(items))
        if self.gate is not None:
            await self.gate.wait()
        if self.fails and (error := self.fails.pop(0)) is not None:
            raise error
        return [f"{item}!" for item in items]


def run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_what_comes_meanwhile_travels_together() -> None:
    async def scenario() -> None:
        work = Work(LoopRuntime())
        work.gate = asyncio.Event()
        calls = [asyncio.create_task(work.batches.run(number)) for number in range(5)]
        await asyncio.sleep(0.01)
        work.gate.set()
        assert await asyncio.gather(*calls) == [f"{number}!" for number in range(5)]
        assert work.asked == [[0], [1, 2, 3, 4]]

    run(scenario)


def test_one_call_waits_for_nobody() -> None:
    async def scenario() -> None:
        work = Work(LoopRuntime())
        for number in range(3):
            assert await work.batches.run(number) == f"{number}!"
        assert work.asked == [[0], [1], [2]]

    run(scenario)


def test_kinds_and_the_most_at_once() -> None:
    async def scenario() -> None:
        work = Work(LoopRuntime(), most=3)
        work.gate = asyncio.Event()
        items = [0, "a", 1, 2, "b", 3, 4, 5]
        calls = [asyncio.create_task(work.batches.run(item)) for item in items]
        await asyncio.sleep(0.01)
        work.gate.set()
        assert await asyncio.gather(*calls) == [f"{item}!" for item in items]
        assert work.asked == [[0], ["a", "b"], [1, 2, 3], [4, 5]]

    run(scenario)


def test_a_failure_is_that_of_all_who_travelled_together() -> None:
    async def scenario() -> None:
        work = Work(LoopRuntime())
        work.gate = asyncio.Event()
        work.fails = [None, ValueError("no")]
        calls = [asyncio.create_task(work.batches.run(number)) for number in range(3)]
        await asyncio.sleep(0.01)
        work.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[0] == "0!"
        assert [repr(one) for one in answers[1:]] == ["ValueError('no')"] * 2
        assert await work.batches.run(3) == "3!"

    run(scenario)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_call_that_is_cancelled_does_not_stop_the_others(who: int) -> None:
    """0 works alone, 1 works for 2 and 3."""

    async def scenario() -> None:
        work = Work(LoopRuntime())
        gate = work.gate = asyncio.Event()
        calls = [asyncio.create_task(work.batches.run(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        if who:
            gate.set()
            work.gate = asyncio.Event()
            await asyncio.sleep(0.01)
            gate = work.gate
        assert work.asked == ([[0], [1, 2, 3]] if who else [[0]])
        calls[who].cancel()
        await asyncio.sleep(0.01)
        gate.set()
        work.gate = None
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[who], asyncio.CancelledError)
        del answers[who]
        assert answers == [f"{number}!" for number in range(4) if number != who]
        assert await work.batches.run(4) == "4!"

    run(scenario)


def test_a_call_that_waits_too_long_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PATIENCE", 0.02)

    async def scenario() -> None:
        work = Work(LoopRuntime())
        work.gate = asyncio.Event()
        first = asyncio.create_task(work.batches.run(1))
        await asyncio.sleep(0)
        with pytest.raises(LayerTimeout, match="in the way"):
            await work.batches.run(2)
        work.gate.set()
        assert await first == "1!"
        assert await work.batches.run(3) == "3!"
        assert work.asked == [[1], [3]]

    run(scenario)


def test_a_child_of_a_fork_begins_with_nobody_at_work() -> None:
    async def scenario() -> None:
        work = Work(LoopRuntime())
        work.gate = asyncio.Event()
        first = asyncio.create_task(work.batches.run(1))
        await asyncio.sleep(0)
        work.batches.forked()
        work.gate.set()
        assert await work.batches.run(2) == "2!"
        await first

    run(scenario)


def test_threads() -> None:
    runtime = ThreadRuntime()
    asked: list[int] = []

    async def work(items: Sequence[int]) -> list[int]:
        asked.append(len(items))
        time.sleep(0.002)  # noqa: ASYNC251 - this world blocks
        return [item + 1 for item in items]

    together: Batches[int, int] = Batches(runtime, work, kind=lambda _: 0, most=8)
    answers: dict[int, int] = {}

    def caller(start: int) -> None:
        for number in range(start, start + 20):
            answers[number] = run_blocking(together.run(number))

    threads = [threading.Thread(target=caller, args=(start,)) for start in range(0, 200, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number + 1 for number in range(200)}
    assert sum(asked) == 200
    assert len(asked) < 150
    assert max(asked) <= 8
