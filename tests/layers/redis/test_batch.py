from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.layers.redis.batch import LIMIT, Batcher
from tests.support.garbage import none_of_ours


class Wire:
    """The other end: keeps what was sent; answers when it is told to, or at once."""

    def __init__(self, *, merge: bool = True, timeout: float = 30.0) -> None:
        self.sent: list[list[Any]] = []
        self.wanted: list[Callable[[], bool]] = []
        self.settled: list[tuple[int, Any]] = []
        self.held: list[asyncio.Future[Any]] | None = None
        self.batcher = Batcher(
            asyncio.get_running_loop(),
            self.send,
            lambda ticket, outcome: self.settled.append((ticket, outcome)),
            merge=merge,
            timeout=timeout,
        )

    async def send(self, commands, probe, wanted):
        self.sent.append(commands)
        self.wanted.append(wanted)
        if self.held is not None:
            gate = asyncio.get_running_loop().create_future()
            self.held.append(gate)
            await gate
        return [self.reply(command) for command in commands]

    def reply(self, command):
        if command[0] == "MGET":
            return [self.reply(("GET", key)) for key in command[1:]]
        if command[-1] == b"bad":
            return ResponseError("bad")
        return b"=" + command[-1]

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                await asyncio.sleep(0)


async def test_one_get_is_a_get():
    wire = Wire()
    assert await wire.batcher.get(b"a", 0) == b"=a"
    assert wire.sent == [[("GET", b"a")]]


async def test_gets_of_one_tick_are_one_mget():
    wire = Wire()
    got = await asyncio.gather(*(wire.batcher.get(b"%d" % n, 0) for n in range(64)))
    assert got == [b"=%d" % n for n in range(64)]
    assert wire.sent == [[("MGET", *(b"%d" % n for n in range(64)))]]
    assert wire.batcher.trips == 1


async def test_unmerged_gets_are_a_pipeline():
    wire = Wire(merge=False)
    got = await asyncio.gather(*(wire.batcher.get(b"%d" % n, 0) for n in range(3)))
    assert got == [b"=0", b"=1", b"=2"]
    assert wire.sent == [[("GET", b"0"), ("GET", b"1"), ("GET", b"2")]]


async def test_everything_of_one_tick_travels_together_and_finds_its_asker():
    wire = Wire()
    replies = await asyncio.gather(
        wire.batcher.ask(("SET", b"x"), 0, probe=False),
        wire.batcher.get(b"a", 0),
        wire.batcher.ask_all([("ONE", b"1"), ("TWO", b"bad"), ("THREE", b"3")], 0),
        wire.batcher.get(b"b", 0),
        wire.batcher.ask(("DEL", b"y"), 0, probe=False),
    )
    assert len(wire.sent) == 1
    assert replies[0] == b"=x"
    assert replies[1] == b"=a"
    assert replies[2][0] == b"=1"
    assert isinstance(replies[2][1], ResponseError)
    assert replies[2][2] == b"=3"
    assert replies[3:] == [b"=b", b"=y"]


async def test_an_error_reply_is_its_askers_alone():
    wire = Wire()
    asked = wire.batcher.ask(("SET", b"bad"), 0, probe=False), wire.batcher.get(b"a", 0)
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], ResponseError)
    assert results[1] == b"=a"
    assert len(wire.settled) == 1


async def test_no_round_trip_is_larger_than_the_limit():
    wire = Wire()
    count = 2 * LIMIT + 10
    got = await asyncio.gather(*(wire.batcher.get(b"%d" % n, 0) for n in range(count)))
    assert got == [b"=%d" % n for n in range(count)]
    assert [len(commands[0]) - 1 for commands in wire.sent] == [LIMIT, LIMIT, 10]


async def test_what_comes_while_all_connections_are_busy_waits_and_goes_together():
    wire = Wire()
    wire.held = []
    first = []
    for number in range(4):
        first.append(wire.batcher.get(b"first-%d" % number, 0))
        await wire.until_sent(number + 1)
    later = []
    for number in range(20):
        later.append(wire.batcher.get(b"later-%d" % number, 0))
        await asyncio.sleep(0)
    assert len(wire.sent) == 4
    held, wire.held = wire.held, None
    held[2].set_result(None)
    assert await asyncio.gather(*later) == [b"=later-%d" % n for n in range(20)]
    assert len(wire.sent) == 5
    for gate in held:
        if not gate.done():
            gate.set_result(None)
    assert await asyncio.gather(*first) == [b"=first-%d" % n for n in range(4)]


async def test_whom_a_reply_has_woken_may_ask_at_once():
    """All connections answer in one turn; those who are woken ask before any callback has run."""
    wire = Wire()
    wire.held = []

    async def caller(name: bytes) -> bytes:
        await wire.batcher.get(name, 0)
        answer: bytes = await wire.batcher.get(name + b"!", 0)
        return answer

    callers = []
    for number in range(4):  # one round trip each
        callers.append(asyncio.create_task(caller(b"%d" % number)))
        await wire.until_sent(number + 1)
    gates, wire.held = wire.held, None
    for gate in gates:
        gate.set_result(None)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*callers) == [b"=%d!" % number for number in range(4)]


async def test_a_cancelled_caller_takes_nothing_from_the_others():
    wire = Wire()
    wire.held = []
    tasks = [asyncio.ensure_future(_wait(wire.batcher.get(b"%d" % n, 0))) for n in range(10)]
    await wire.until_sent(1)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.sleep(0)
    wire.held[0].set_result(None)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [b"=%d" % n for n in range(1, 10, 2)]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])


async def test_what_nobody_waits_for_any_more_is_not_sent():
    wire = Wire()
    wire.held = []
    busy = []
    for number in range(4):
        busy.append(wire.batcher.get(b"busy-%d" % number, 0))
        await wire.until_sent(number + 1)
    task = asyncio.ensure_future(_wait(wire.batcher.get(b"abandoned", 0)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    held, wire.held = wire.held, None
    for gate in held:
        gate.set_result(None)
    await asyncio.gather(*busy)
    assert await wire.batcher.get(b"after", 0) == b"=after"
    assert not any(b"abandoned" in command for commands in wire.sent for command in commands)


async def test_callers_are_told_when_their_time_is_over_whatever_the_wire_does():
    wire = Wire(timeout=0.02)
    wire.held = []
    results = await asyncio.gather(
        *(wire.batcher.get(b"%d" % n, 7) for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(result, RedisTimeoutError) for result in results)
    assert [ticket for ticket, _ in wire.settled] == [7], "one outcome for all of them"
    assert not wire.wanted[0]()
    wire.held[0].set_result(None)
    wire.held = None
    assert await wire.batcher.get(b"after", 8) == b"=after"
    assert [ticket for ticket, _ in wire.settled] == [7, 8]


@pytest.mark.parametrize("how", ["late", "fails", "well"])
async def test_what_is_over_leaves_no_garbage(how):
    """An error refers to the frames it has passed, down to the round trip's own."""
    wire = Wire(timeout=0.02 if how == "late" else 30.0)
    if how == "fails":
        wire.reply = lambda command: 1 / 0  # type: ignore[method-assign]
    elif how == "late":
        wire.held = []

    async def ask(number: int) -> bytes:
        value: bytes = await wire.batcher.get(b"%d" % number, 7)
        return value

    with none_of_ours():
        waiting = [asyncio.ensure_future(ask(number)) for number in range(5)]
        await asyncio.wait(waiting)
        assert all((task.exception() is None) is (how == "well") for task in waiting)
        del waiting
        wire.settled.clear()
        for gate in wire.held or ():
            gate.set_result(None)
        wire.held = None
        while [task for task in asyncio.all_tasks() if task.get_name() == "layergate-redis"]:
            await asyncio.sleep(0)
        wire.wanted.clear()


async def test_a_loop_that_was_busy_is_no_fault_of_the_wire():
    """The reply is there when the time is over, but has not been read: it takes some turns."""

    class Slow(Wire):
        async def send(self, commands, probe, wanted):
            replies = await super().send(commands, probe, wanted)
            for _ in range(3):
                await asyncio.sleep(0)
            return replies

    wire = Slow(timeout=0.05)
    wire.held = []
    answer = wire.batcher.get(b"a", 7)
    await wire.until_sent(1)
    wire.held[0].set_result(None)
    time.sleep(0.1)  # noqa: ASYNC251 - the loop stands still
    assert await answer == b"=a"
    assert [ticket for ticket, outcome in wire.settled if isinstance(outcome, list)] == [7]


async def test_a_round_trip_that_fails_fails_all_of_it_and_counts_once():
    wire = Wire()
    wire.reply = lambda command: 1 / 0  # type: ignore[method-assign]
    results = await asyncio.gather(
        *(wire.batcher.get(b"%d" % n, 3) for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(result, ZeroDivisionError) for result in results)
    assert len(wire.settled) == 1


@pytest.mark.parametrize("nonsense", [None, 5, b"value", [], [b"one"], [b"1", b"2", b"3"]])
async def test_nonsense_for_an_mget_is_a_fault_and_leaves_nobody_waiting(nonsense: Any):
    wire = Wire()
    wire.reply = lambda command: nonsense  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        results = await asyncio.gather(
            wire.batcher.get(b"a", 1), wire.batcher.get(b"b", 1), return_exceptions=True
        )
    assert all(isinstance(result, InvalidResponse) for result in results)
    assert [(ticket, type(outcome)) for ticket, outcome in wire.settled] == [(1, InvalidResponse)]


async def test_different_tickets_travel_apart():
    wire = Wire()
    await asyncio.gather(wire.batcher.get(b"a", 1), wire.batcher.get(b"b", 2))
    assert [ticket for ticket, _ in wire.settled] == [1, 2]


async def test_close_fails_what_is_under_way_and_leaves_no_task():
    wire = Wire()
    wire.held = []
    waiting = [wire.batcher.get(b"first-%d" % n, n) for n in range(6)]
    await wire.until_sent(4)
    await wire.batcher.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, RedisConnectionError) for result in results)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "layergate-redis"]


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12")
async def test_with_eager_tasks():
    factory = asyncio.eager_task_factory  # type: ignore[attr-defined] # 3.12
    asyncio.get_running_loop().set_task_factory(factory)
    wire = Wire()
    got = await asyncio.gather(*(wire.batcher.get(b"%d" % n, 0) for n in range(64)))
    assert got == [b"=%d" % n for n in range(64)]
    assert len(wire.sent) == 1


async def _wait(future: asyncio.Future[Any]) -> Any:
    return await future
