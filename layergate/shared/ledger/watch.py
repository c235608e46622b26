"""News of the log: a subscription on the head cell.

It waits for a change where the cells can tell of one (`WaitableCells`), and else looks at intervals. It
tells nothing of leases, for there are too many cells of them.
"""

from __future__ import annotations

from layergate.core.ports import Runtime
from layergate.shared.journal import Grew, News
from layergate.shared.ledger.observer import Observer
from layergate.shared.ports import Cells, WaitableCells, answered

__all__ = ["Watch"]


class Watch:
    """`layergate.shared.journal.Subscription`. ``look_every``: seconds between two looks; None: as long
    as the caller waits."""

    def __init__(
        self, cells: Cells, observer: Observer, runtime: Runtime, look_every: float | None
    ) -> None:
        self._cells = cells
        self._observer = observer
        self._runtime = runtime
        self._look_every = look_every

    async def next(self, seconds: float) -> News | None:
        """See `Subscription.next`."""
        last = self._observer.last
        tag = None if last is None else last.tag
        cells = self._cells
        if isinstance(cells, WaitableCells):
            changed = await answered(cells.wait(self._observer.name, tag, seconds))
            return Grew(None, 0) if changed else None
        until = self._runtime.monotonic() + seconds
        while (left := until - self._runtime.monotonic()) > 0:
            await self._runtime.event().wait(min(left, self._look_every or left))
            loaded = await answered(cells.load(self._observer.name))
            if (None if loaded is None else loaded[1]) != tag:
                return Grew(None, 0)
        return None

    async def close(self) -> None:
        """See `Subscription.close`."""

    def abandon(self) -> None:
        """See `Subscription.abandon`."""
