"""Has the calls of one process travel together, so that they do not compete with each other.

A swap of the head fails if anybody has changed it, also a neighbor in the same process. So of many
purges at once one caller does the work for all that wait, and then the next one for all that have come
meanwhile. `CellsJournal` appends through this; nothing here knows what the work is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from layergate.core.ports import Event, Runtime
from layergate.errors import LayerTimeout

__all__ = ["Batches"]

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE: Final = 30.0  # seconds that a caller waits for others; their work is bounded


class _Call(Generic[T, R]):
    """One call. ``leads``: it is its caller's turn to do the work."""

    __slots__ = ("answer", "error", "event", "item", "leads")

    def __init__(self, item: T, event: Event) -> None:
        self.item = item
        self.event = event
        self.leads = False
        self.answer: R | None = None
        self.error: Exception | None = None


class Batches(Generic[T, R]):
    """``work`` answers several items at once, in their order. It must be possible to do it again for an
    item if its first caller was cancelled. ``kind``: only items of one kind travel together. ``most``:
    how many of them.
    """

    def __init__(
        self,
        runtime: Runtime,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        kind: Callable[[T], Hashable],
        most: int,
    ) -> None:
        self._runtime = runtime
        self._work = work
        self._kind = kind
        self._most = most
        self.forked()

    def forked(self) -> None:
        """In the child of a fork nobody is at work."""
        self._lock = self._runtime.lock()
        self._waiting: list[_Call[T, R]] = []
        self._busy = False

    async def run(self, item: T) -> R:
        """The answer to this item. Raises what the work raises."""
        call: _Call[T, R] = _Call(item, self._runtime.event())
        with self._lock:
            self._waiting.append(call)
            if not self._busy:
                self._busy = call.leads = True
        try:
            if not call.leads and not await call.event.wait(_PATIENCE):
                raise LayerTimeout("shared", f"other calls are in the way for {_PATIENCE:g} s")
            if call.leads:
                await self._lead(call)
        finally:
            with self._lock:
                if call in self._waiting:  # given up
                    self._waiting.remove(call)
                if call.leads:
                    self._hand_over()
        if call.error is not None:
            raise call.error
        answer: R = call.answer  # type: ignore[assignment]  # set with the event
        return answer

    async def _lead(self, call: _Call[T, R]) -> None:
        kind = self._kind(call.item)
        with self._lock:
            others = [one for one in self._waiting if one is not call]
            same = [one for one in others if self._kind(one.item) == kind]
            batch = [call, *same[: self._most - 1]]
        error: Exception | None = None
        answers: Sequence[R] = ()
        try:
            answers = await self._work([one.item for one in batch])
        except Exception as raised:
            error = raised
        # (If this caller was cancelled, the others still wait, and the next one leads.)
        with self._lock:
            for number, one in enumerate(batch):
                one.error = error
                one.answer = None if error is not None else answers[number]
                if one in self._waiting:
                    self._waiting.remove(one)
        for one in batch:
            one.event.set()

    def _hand_over(self) -> None:
        """Under the lock."""
        self._busy = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].event.set()
