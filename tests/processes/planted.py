"""Rules taken out, one at a time, to see that a history without them is found to be wrong.

The processes of a fleet and of a gateway do what ``FLEET_PLANTED`` names, and nothing if it is empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.stack import Stack
from layergate.shared.log import SharedLog

__all__ = ["PLANTED", "plant"]


def trusts_for_ever() -> None:
    """One that is cut off goes on as if nothing could be purged meanwhile."""
    SharedLog.trusted_until = property(lambda _: float("inf"), lambda *_: None)  # type: ignore[assignment]


def stores_what_was_purged() -> None:
    """What is purged while it is being fetched is stored as if it were fetched afterwards."""
    store = Stack.store

    async def later(self: Stack, key: Any, entry: Entry, **more: Any) -> bool:
        entry.stamp = entry.checked = self.invalidations.position
        return await store(self, key, entry, **more)

    Stack.store = later  # type: ignore[method-assign, assignment]


def hears_no_soft_purge() -> None:
    """What was purged softly is served as if it were fresh."""
    apply = Invalidations.apply

    def hard(
        self: Invalidations, position: int, invalidations: Iterable[Invalidation], time: float
    ) -> None:
        apply(self, position, [mark for mark in invalidations if not mark.soft], time)

    Invalidations.apply = hard  # type: ignore[method-assign]


PLANTED: Final[dict[str, Callable[[], None]]] = {
    one.__name__: one for one in (trusts_for_ever, stores_what_was_purged, hears_no_soft_purge)
}


def plant() -> None:
    if name := os.environ.get("FLEET_PLANTED"):
        PLANTED[name]()
