"""Waking and leading: no wake-up is missed, no waiter is left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from layergate.core.flight import Flights, Pulse
from layergate.runtime.loop import LoopRuntime
from tests.support.clocks import StillRuntime
from tests.support.waiting import turns


async def test_a_beat_wakes_all_who_wait() -> None:
    pulse = Pulse(LoopRuntime())
    waits = [asyncio.create_task(pulse.wait(0)) for _ in range(5)]
    await turns()
    assert pulse.waiting == 5
    pulse.beat()
    assert await asyncio.gather(*waits) == [True] * 5
    assert pulse.waiting == 0


async def test_a_beat_before_the_wait_is_not_missed() -> None:
    pulse = Pulse(LoopRuntime())
    seen = pulse.version
    pulse.beat()
    assert await pulse.wait(seen) is True


async def test_a_timeout_leaves_nothing_behind() -> None:
    runtime = StillRuntime()
    pulse = Pulse(runtime)
    wait = asyncio.create_task(pulse.wait(0, 3.0))
    await turns()
    await runtime.advance(2.9)
    assert not wait.done()
    await runtime.advance(0.2)
    assert await wait is False
    assert pulse.waiting == 0


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    pulse = Pulse(LoopRuntime())
    wait = asyncio.create_task(pulse.wait(0))
    await turns()
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert pulse.waiting == 0


async def test_a_beat_from_another_thread_wakes() -> None:
    pulse = Pulse(LoopRuntime())
    wait = asyncio.create_task(pulse.wait(0))
    await turns()
    thread = threading.Thread(target=pulse.beat)
    thread.start()
    assert await asyncio.wait_for(wait, 5) is True
    thread.join()


def test_one_leads_and_only_the_present_one_is_replaced() -> None:
    flights: Flights[object] = Flights(LoopRuntime())
    first, second, third = object(), object(), object()
    assert flights.lead("k", first) is first
    assert flights.lead("k", second) is first
    assert flights.lead("k", second, instead_of=third) is first
    assert flights.lead("k", second, instead_of=first) is second
    flights.land("k", first)  # it is not the key's flight any more
    assert flights.get("k") is second
    flights.land("k", second)
    assert flights.get("k") is None
    assert len(flights) == 0


def test_of_many_threads_one_leads() -> None:
    flights: Flights[object] = Flights(LoopRuntime())
    barrier = threading.Barrier(8)
    leaders: list[bool] = []

    def run() -> None:
        flight = object()
        barrier.wait()
        leaders.append(flights.lead("k", flight) is flight)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(leaders) == 1
