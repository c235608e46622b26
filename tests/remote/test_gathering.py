from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from layergate.core.events import Counters
from layergate.errors import LayerError, LayerTimeout, LayerUnavailable
from layergate.remote.gathering import GatheredBlobs
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.guard import Guard
from layergate.shared.ports import Limits


class Blobs:
    """They answer once they are let."""

    limits = Limits(largest=99)

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answers = asyncio.Event()
        self.fault: Exception | None = None

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        self.asked.append(list(names))
        await self.answers.wait()
        if self.fault is not None:
            raise self.fault
        return [None if name == "none" else name.encode() for name in names]

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        self.asked.append([name, str(data), str(seconds)])

    async def delete(self, name: str) -> bool:
        self.asked.append([name])
        return True

    async def clear(self) -> None:
        self.asked.append([])


def gathered(blobs: Blobs, timeout: float = 20.0) -> tuple[GatheredBlobs, Guard]:
    runtime = LoopRuntime()
    guard = Guard(runtime, Counters(), name="there", timeout=timeout, connect_timeout=1.0)
    return GatheredBlobs(blobs, guard, runtime), guard


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_reads_of_one_turn_are_one_round_trip():
    blobs = Blobs()
    blobs.answers.set()
    reads, _ = gathered(blobs)
    names = [f"n{number}" for number in range(64)]
    found = await asyncio.gather(*(reads.get_many([name]) for name in [*names, "none", "n7"]))
    assert found == [*((name.encode(),) for name in names), (None,), (b"n7",)]
    assert blobs.asked == [[*names, "none"]]  # and no name twice


async def test_many_at_once_pass_through():
    blobs = Blobs()
    blobs.answers.set()
    reads, _ = gathered(blobs)
    assert await reads.get_many(["a", "b"]) == [b"a", b"b"]
    await reads.set("a", b"x", 3.0)
    assert await reads.delete("a")
    await reads.clear()
    assert blobs.asked == [["a", "b"], ["a", "b'x'", "3.0"], ["a"], []]
    assert reads.limits.largest == 99


async def test_no_round_trip_has_more_than_512_names():
    blobs = Blobs()
    blobs.answers.set()
    reads, _ = gathered(blobs)
    await asyncio.gather(*(reads.get_many([f"n{number}"]) for number in range(1100)))
    assert [len(names) for names in blobs.asked] == [512, 512, 76]


async def test_reads_that_come_while_four_are_under_way_go_together():
    blobs = Blobs()
    reads, _ = gathered(blobs)
    tasks = []
    for number in range(7):
        tasks.append(asyncio.ensure_future(reads.get_many([f"n{number}"])))
        await turns()
    assert blobs.asked == [["n0"], ["n1"], ["n2"], ["n3"]]
    blobs.answers.set()
    assert [await task for task in tasks] == [(b"n%d" % number,) for number in range(7)]
    assert blobs.asked[4:] == [["n4", "n5", "n6"]]


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others():
    blobs = Blobs()
    reads, _ = gathered(blobs)
    one, other = (asyncio.ensure_future(reads.get_many([name])) for name in ("a", "b"))
    await turns()
    one.cancel()
    blobs.answers.set()
    assert await other == (b"b",)
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_what_nobody_waits_for_is_not_asked():
    blobs = Blobs()
    reads, _ = gathered(blobs)
    read = asyncio.ensure_future(reads.get_many(["a"]))
    await asyncio.sleep(0)
    read.cancel()
    await turns()
    assert blobs.asked == []


async def test_a_fault_reaches_each_caller_and_counts_once():
    blobs = Blobs()
    blobs.answers.set()
    blobs.fault = ConnectionError("gone")
    reads, guard = gathered(blobs)
    for count in (1, 2, 3):
        assert guard.breaker.state == "closed", count
        found = await asyncio.gather(
            *(reads.get_many([name]) for name in "abcdef"), return_exceptions=True
        )
        assert [type(one) for one in found] == [ConnectionError] * 6
    assert guard.breaker.state == "open"
    with pytest.raises(LayerUnavailable):
        await reads.get_many(["a"])


async def test_no_caller_waits_beyond_the_budget_even_for_its_turn():
    blobs = Blobs()
    reads, guard = gathered(blobs, timeout=0.05)
    tasks = []
    for number in range(6):
        tasks.append(asyncio.ensure_future(reads.get_many([f"n{number}"])))
        await turns()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} <= {LayerTimeout, LayerUnavailable}
    assert len(blobs.asked) in (4, 5)  # the fifth may get its turn in its last moment
    assert guard.breaker.state == "open"


async def test_a_refusal_to_answer_everything_is_a_fault():
    class Short(Blobs):
        async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
            return [b"one"]

    blobs = Short()
    reads, _ = gathered(blobs)
    found = await asyncio.gather(*(reads.get_many([name]) for name in "ab"), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError] * 2


async def test_the_end_of_a_loop_ends_what_is_under_way():
    blobs = Blobs()
    reads, _ = gathered(blobs)
    tasks = []
    for number in range(6):
        tasks.append(asyncio.ensure_future(reads.get_many([f"n{number}"])))
        await turns()
    await reads._gatherers.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [LayerError] * 6


def test_under_threads_each_read_is_its_own():
    class Blocking:
        limits = Limits()

        def __init__(self) -> None:
            self.asked: list[list[str]] = []

        def get_many(self, names: Sequence[str]) -> list[bytes | None]:
            self.asked.append(list(names))
            return [b"x" for _ in names]

        def set(self, name: str, data: bytes, seconds: float) -> None: ...

        def delete(self, name: str) -> bool:
            return True

        def clear(self) -> None: ...

    runtime = ThreadRuntime()
    guard = Guard(runtime, Counters(), name="there", timeout=1.0, connect_timeout=1.0)
    blobs = Blocking()
    assert run_blocking(GatheredBlobs(blobs, guard, runtime).get_many(["a"])) == [b"x"]
    assert blobs.asked == [["a"]]
