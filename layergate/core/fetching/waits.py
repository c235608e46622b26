"""Which fetch waits for which other, so that a fetch that waits for itself is refused.

A fetch function may ask the cache for other keys. If it asks, directly or in a circle, for a key
that only itself can give, it would wait forever.
"""

from __future__ import annotations

import contextvars
from typing import Final

__all__ = ["WaitNode", "current_node"]


class WaitNode:
    """One background task. ``waits``: the tasks that its fetch is waiting for, once for each
    wait."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits: list[WaitNode] = []

    def waits_for(self, other: WaitNode) -> bool:
        """Whether this task waits for ``other``, in however many steps."""
        seen: set[int] = set()
        todo = [self]
        while todo:
            node = todo.pop()
            if node is other:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                todo.extend(node.waits)
        return False


current_node: Final[contextvars.ContextVar[WaitNode | None]] = contextvars.ContextVar(
    "layergate_current_fetch", default=None
)
"""The task whose fetch the running code is part of; None outside of any fetch."""
