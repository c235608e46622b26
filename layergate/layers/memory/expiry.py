"""Nodes in buckets by the time their entries expire.

The width of a bucket is at most a sixteenth of the lifetime, and at least one second. So there are
some hundreds of buckets however many entries, a node is unlinked in O(1), and an entry is
reclaimable no later than 1/16 of its lifetime after its end.
"""

from __future__ import annotations

import heapq
from typing import Final

from layergate.layers.memory.queues import NIL, Node, sentinel

__all__ = ["ExpiryBuckets"]

_NEVER: Final = 1e10  # seconds; a lifetime of three centuries needs no bucket


class ExpiryBuckets:
    """``rings``: the nodes of each bucket, by the end of the bucket (seconds since the epoch).
    ``ends``: a heap of these ends."""

    __slots__ = ("ends", "rings")

    def __init__(self) -> None:
        self.rings: dict[int, Node] = {}
        self.ends: list[int] = []

    def add(self, node: Node, now: float) -> None:
        expires = node.entry.expires
        life = expires - now
        if life >= _NEVER:
            node.exp_prev = node.exp_next = NIL
            return
        # The largest power of two that is at most life/16. Distant ends share wide buckets, so the
        # number of buckets grows only with the logarithm of the lifetime.
        width = 1 << max(0, int(life).bit_length() - 5)
        end = (int(expires) // width + 1) * width
        ring = self.rings.get(end)
        if ring is None:
            ring = self.rings[end] = sentinel()
            heapq.heappush(self.ends, end)
        last = ring.exp_prev
        node.exp_prev = last
        node.exp_next = ring
        last.exp_next = node
        ring.exp_prev = node

    def remove(self, node: Node) -> None:
        if node.exp_next is not NIL:
            node.exp_prev.exp_next = node.exp_next
            node.exp_next.exp_prev = node.exp_prev
            node.exp_prev = node.exp_next = NIL

    def ended(self, now: float) -> bool:
        """Whether the bucket that ends first has ended."""
        return bool(self.ends) and self.ends[0] <= now

    def first(self) -> Node | None:
        """A node of the bucket that ends first. None if that bucket is empty; then it is
        dropped."""
        ring = self.rings[self.ends[0]]
        node = ring.exp_next
        if node is not ring:
            return node
        del self.rings[heapq.heappop(self.ends)]
        ring.exp_prev = ring.exp_next = ring.prev = ring.next = NIL
        return None
