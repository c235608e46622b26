"""What the conformance suites have in common: an event loop, and answers that may be awaitable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

__all__ = ["PATIENCE", "Harness"]

T = TypeVar("T")

PATIENCE = 20.0  # seconds; a wait that long is a hang


class Harness:
    """The base of a suite. All awaitables of one test run on one event loop, so a client that belongs
    to its loop works; the suites themselves are synchronous, and need no plugin and no fixture."""

    def setup_method(self) -> None:
        self._runner: asyncio.Runner | None = None

    def teardown_method(self) -> None:
        if self._runner is not None:
            self._runner.close()

    def call(self, answer: T | Awaitable[T]) -> T:
        """The answer, awaited if it is awaitable."""
        if not isawaitable(answer):
            return answer
        result: T = self._run(answer)
        return result

    def pause(self, seconds: float) -> None:
        """Let time pass, on the loop as well."""
        self._run(asyncio.sleep(seconds))

    def _run(self, work: Awaitable[Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_wait(work))

    def until(self, holds: Callable[[], object], *, pause: float = 0.01) -> None:
        """Wait until it holds. Fails after `PATIENCE`."""
        limit = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < limit, f"not within {PATIENCE} s"
            self.pause(pause)


async def _wait(answer: Awaitable[T]) -> T:
    return await answer
