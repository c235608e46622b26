"""Waiting for what a test can see, with a bound that only a hang reaches.

`until` is for tests on a loop, and `wait_until` for those that may block. Both give the value that they
waited for, and a failure says what did not come. No test sleeps for a time instead: what it waits for is
a message, a counter or a barrier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["BOUND", "turns", "until", "wait_until"]

BOUND = 20.0  # seconds; a wait that long is a hang

# So often a loop goes on at once, which is enough for what happens on it. Then other processes may run.
_TURNS = 500
_PAUSE = 0.002  # seconds


async def until(
    holds: Callable[[], Any],
    what: object = "",
    *,
    bound: float = BOUND,
    pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Any:
    """Yield until ``holds()``, or what it awaits to, is true, and give its value. An awaitable has a
    bound of its own.

    ``pause`` is how it yields for so many seconds; a coroutine that no loop runs brings its own.
    """
    limit = time.monotonic() + bound
    turn = 0
    while True:
        value = holds()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > limit:
            raise AssertionError(_not_within(bound, holds, what))
        turn += 1
        await pause(0 if turn < _TURNS else _PAUSE)


async def turns(count: int = 30) -> None:
    """Let everything on the loop go on that can, as far as so many turns bring it."""
    for _ in range(count):
        await asyncio.sleep(0)


def wait_until(
    holds: Callable[[], Any],
    what: object = "",
    *,
    bound: float = BOUND,
    faults: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """Poll until ``holds()`` is true, and give its value. What raises one of ``faults`` does not hold yet."""
    limit = time.monotonic() + bound
    while True:
        fault: Exception | None = None
        try:
            if value := holds():
                return value
        except faults as error:
            fault = error
        if time.monotonic() > limit:
            raise AssertionError(_not_within(bound, holds, what)) from fault
        time.sleep(_PAUSE)


def _not_within(bound: float, holds: Callable[[], Any], what: object) -> str:
    """``what``, or where the condition is written. A callable says it when it did not come."""
    code = getattr(holds, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(holds)
    told = what() if callable(what) else what
    return f"not within {bound} s: {told or where}"
