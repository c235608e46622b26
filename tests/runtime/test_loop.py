"""The asyncio runtime: threads, several loops, closed loops, an orderly end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from layergate.assembly import CacheStack
from layergate.runtime.loop import LoopRuntime
from tests.core.support import DictLayer
from tests.support.waiting import turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


async def test_an_event_set_before_the_wait() -> None:
    event = LoopRuntime().event()
    event.set()
    event.set()
    assert event.is_set()
    assert await event.wait(0) is True


async def test_an_event_times_out_and_can_be_waited_on_again() -> None:
    event = LoopRuntime().event()
    assert await event.wait(0) is False
    wait = asyncio.create_task(event.wait())
    await turns()
    event.set()
    assert await wait is True


async def test_an_event_set_from_another_thread() -> None:
    event = LoopRuntime().event()
    thread = threading.Thread(target=event.set)
    wait = asyncio.create_task(event.wait(10))
    await turns()
    thread.start()
    assert await wait is True
    thread.join()


def test_events_set_across_threads_are_never_missed() -> None:
    runtime = LoopRuntime()

    async def rounds() -> int:
        woken = 0
        for _ in range(300):
            event = runtime.event()
            thread = threading.Thread(target=event.set)
            thread.start()
            woken += await event.wait(10)
            thread.join()
        return woken

    assert asyncio.run(rounds()) == 300


def test_an_event_of_a_closed_loop_may_be_set() -> None:
    runtime = LoopRuntime()

    async def make() -> Any:
        return runtime.event()

    event = asyncio.run(make())
    event.set()
    assert event.is_set()


def test_no_event_and_no_task_without_a_loop() -> None:
    runtime = LoopRuntime()
    with pytest.raises(RuntimeError):
        runtime.event()

    async def work() -> None:
        raise AssertionError("never begun")

    with pytest.raises(RuntimeError):
        runtime.spawn(work(), name="w")  # and no warning of a coroutine never awaited


async def test_background_work_runs_in_a_clean_context_or_in_the_one_given() -> None:
    runtime = LoopRuntime()
    variable.set("mine")
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    await runtime.spawn(look(), name="clean")
    await runtime.spawn(look(), name="given", context=contextvars.copy_context())
    assert seen == ["clean", "mine"]


async def test_what_background_work_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    runtime = LoopRuntime()

    async def fail() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR, "layergate"):
        runtime.spawn(fail(), name="the work")
        await turns()
    assert "the work" in caplog.text
    assert "broken" in caplog.text
    assert runtime.pending() == 0


async def test_call_blocks_nobody_and_keeps_the_context() -> None:
    runtime = LoopRuntime()
    variable.set("mine")
    release = threading.Event()

    def block() -> tuple[str, int]:
        assert release.wait(10)
        return variable.get(), threading.get_ident()

    call = asyncio.create_task(runtime.call(block))
    await turns()
    assert not call.done()
    release.set()
    value, thread = await call
    assert value == "mine"
    assert thread != threading.get_ident()


async def test_call_of_a_function_that_raises_stop_iteration_ends() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(LoopRuntime().call(lambda: next(iter(()))), 5)


async def test_aclose_waits_then_cancels() -> None:
    runtime = LoopRuntime()
    ended: list[str] = []
    never = asyncio.Event()

    async def short() -> None:
        await asyncio.sleep(0)
        ended.append("short")

    async def long() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            ended.append("long cancelled")
            raise

    runtime.spawn(short(), name="short")
    task = runtime.spawn(long(), name="long")
    assert runtime.pending() == 2
    await runtime.aclose(0.02)
    assert task.cancelled()
    assert sorted(ended) == ["long cancelled", "short"]
    assert runtime.pending() == 0
    await runtime.aclose(0.02)


async def test_aclose_reaches_work_that_work_has_started() -> None:
    runtime = LoopRuntime()
    done: list[str] = []

    async def child() -> None:
        await asyncio.sleep(0)
        done.append("child")

    async def parent() -> None:
        await asyncio.sleep(0)
        runtime.spawn(child(), name="child")

    runtime.spawn(parent(), name="parent")
    await runtime.aclose(5)
    assert done == ["child"]


async def test_aclose_may_be_called_from_background_work() -> None:
    runtime = LoopRuntime()
    await asyncio.wait_for(runtime.spawn(runtime.aclose(1), name="closer"), 5)


def test_each_loop_has_its_own_background_work() -> None:
    runtime = LoopRuntime()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    gate = asyncio.Event()

    async def start() -> Any:
        return runtime.spawn(gate.wait(), name="wait")

    async def count_and_close() -> int:
        count = runtime.pending()
        await runtime.aclose(0)
        await turns()
        return count

    try:
        task = first.run_until_complete(start())
        assert second.run_until_complete(count_and_close()) == 0
        assert not task.done()
        assert first.run_until_complete(count_and_close()) == 1
        assert task.cancelled()
    finally:
        first.close()
        second.close()


def test_a_loop_closed_over_a_fetch_does_not_leave_its_key_hanging() -> None:
    runtime = LoopRuntime()
    stack = CacheStack([DictLayer()], runtime=runtime)
    stuck: list[asyncio.Event] = []

    async def hang() -> str:
        stuck.append(asyncio.Event())
        await stuck[0].wait()
        return "never"

    async def begin() -> None:
        asyncio.ensure_future(stack.get("k", hang, ttl=60))  # noqa: RUF006 - left to die with its loop
        await turns()

    def run(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
        return loop.run_until_complete(work)

    dead = asyncio.new_event_loop()
    dead.set_exception_handler(lambda *_: None)  # it will be told of the pending task
    run(begin(), dead)
    waiter = [task for task in asyncio.all_tasks(dead) if task.get_name() != "layergate fetch"]
    for task in waiter:
        task.cancel()
    dead.run_until_complete(asyncio.gather(*waiter, return_exceptions=True))
    assert stack.metrics()["flights"]["under_way"] == 1
    dead.close()

    async def answer() -> str:
        return "here"

    alive = asyncio.new_event_loop()
    try:
        assert run(asyncio.wait_for(stack.get("k", answer, ttl=60), 5), alive) == "here"
    finally:
        alive.close()
    assert stack.metrics()["flights"]["under_way"] == 0


def test_two_loops_in_two_threads_share_one_fetch() -> None:
    stack = CacheStack([DictLayer()])
    fetching, joined = threading.Event(), threading.Event()
    calls: list[int] = []

    def fetch() -> str:
        calls.append(1)
        fetching.set()
        assert joined.wait(10)
        return "shared"

    results: list[Any] = []

    def lead() -> None:
        results.append(asyncio.run(stack.get("k", fetch, ttl=60)))

    def follow() -> None:
        async def join() -> Any:
            wait = asyncio.create_task(stack.get("k", fetch, ttl=60))
            await turns()
            joined.set()
            return await wait

        assert fetching.wait(10)
        results.append(asyncio.run(join()))

    threads = [threading.Thread(target=lead), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == ["shared", "shared"]
    assert len(calls) == 1
