from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from layergate.core.events import Counters
from layergate.errors import LayerRefused, LayerTimeout, LayerUnavailable
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.guard import Guard


def guard_of(runtime: Any) -> Guard:
    return Guard(runtime, Counters(), name="there", timeout=0.05, connect_timeout=5.0)


async def _answer(value: str) -> str:
    await asyncio.sleep(0)
    return value


def _refuse() -> None:
    raise LayerRefused("there", "no room")


def _fail() -> None:
    raise ConnectionError("gone")


async def _never() -> None:
    await asyncio.Event().wait()


async def test_it_gives_the_answer_whether_it_comes_at_once_or_later():
    guard = guard_of(LoopRuntime())
    assert await guard.call(_answer, "later") == "later"
    assert await guard.call(str.upper, "at once") == "AT ONCE"


def test_it_works_under_threads():
    guard = guard_of(ThreadRuntime())
    assert run_blocking(guard.call(str.upper, "here")) == "HERE"


async def test_a_call_that_takes_too_long_raises_and_counts_as_a_failure():
    guard = guard_of(LoopRuntime())
    for _ in range(3):
        with pytest.raises(LayerTimeout, match=r"0\.05 s"):
            await guard.call(_never)
    assert guard.breaker.state == "open"
    with pytest.raises(LayerUnavailable):
        await guard.call(str.upper, "not asked")


async def test_a_timeout_of_the_client_library_is_one_of_the_layer():
    def late() -> None:
        raise TimeoutError("of a socket")

    with pytest.raises(LayerTimeout):
        await guard_of(LoopRuntime()).call(late)


async def test_a_refusal_is_an_answer():
    guard = guard_of(LoopRuntime())
    for _ in range(10):
        with pytest.raises(LayerRefused):
            await guard.call(_refuse)
    assert guard.breaker.state == "closed"


async def test_faults_open_the_breaker_and_a_probe_closes_it():
    guard = guard_of(LoopRuntime())
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await guard.call(_fail)
    with pytest.raises(LayerUnavailable):
        await guard.call(_answer, "x")
    assert await guard.call(_answer, "x", probe=True) == "x"
    assert guard.breaker.state == "closed"


async def test_a_probe_may_take_the_time_to_connect():
    async def connect() -> str:
        await asyncio.sleep(0.1)
        return "connected"

    assert await guard_of(LoopRuntime()).call(connect, probe=True) == "connected"


async def test_a_cancelled_call_has_no_outcome():
    guard = guard_of(LoopRuntime())
    for _ in range(5):
        task = asyncio.create_task(guard.call(_never))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert guard.breaker.state == "closed"


async def test_after_a_fork_the_breaker_is_a_new_one():
    guard = guard_of(LoopRuntime())
    before = guard.breaker
    guard.forked()
    assert guard.breaker is not before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_child_of_a_fork_does_not_wait_for_a_thread_of_its_parent():
    """A thread of the parent was at the breaker when another one forked. Whoever holds the guard, a layer on
    cells as well, need not think of it."""
    runtime = ThreadRuntime()
    lock = threading.Lock()
    runtime.lock = lambda: lock  # type: ignore[method-assign]
    guard = guard_of(runtime)
    runtime.lock = threading.Lock  # type: ignore[method-assign]
    with lock:
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(20)
                with pytest.raises(ConnectionError):  # which the breaker counts, under its lock
                    run_blocking(guard.call(_fail))
                os._exit(0)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
