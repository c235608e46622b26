"""Engine coroutines on a thread that may block.

The engine is written once, as ``async def``, and awaits only ports. Under threads, the ``async def`` methods
of the ports block instead of suspending. So a coroutine runs to its end in one ``send(None)``.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_blocking"]

T = TypeVar("T")


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of an engine coroutine, run to its end on this thread.

    A coroutine that suspends was given the ports of another runtime, or awaits something that is no
    port. It is closed, and RuntimeError is raised.
    """
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError(
        f"{work!r} suspended where it must block; a layer or hook for asyncio cannot be used with"
        " the WSGI middleware"
    )
