"""The data structures of S3-FIFO: nodes in linked rings, FIFO queues, and the ghost queue."""

from __future__ import annotations

from collections import deque
from typing import Final

from layergate.core.entry import Entry
from layergate.core.layer import Key

__all__ = ["NIL", "Ghost", "Node", "Queue", "sentinel"]

_HASH_MASK: Final = (1 << 60) - 1  # two digits of a CPython int: 32 bytes instead of 48


class Node:
    """One entry's place in the dict, in a queue and in an expiry bucket.

    ``prev`` and ``next`` link the queue, ``exp_prev`` and ``exp_next`` the bucket. Both are rings
    around a sentinel. A node that is in no ring links to `NIL`, so that a reader that still holds
    one node does not keep a chain of removed ones alive.

    ``cost`` is in bytes. ``freq`` counts reads, up to 3.
    """

    __slots__ = (
        "cost",
        "entry",
        "exp_next",
        "exp_prev",
        "freq",
        "key",
        "next",
        "prev",
        "queue",
    )

    prev: Node
    next: Node
    exp_prev: Node
    exp_next: Node
    queue: Queue

    def __init__(self, key: Key, entry: Entry, cost: int) -> None:
        self.key = key
        self.entry = entry
        self.cost = cost
        self.freq = 0


def sentinel() -> Node:
    """An empty ring."""
    node = Node(b"", _NO_ENTRY, 0)
    node.prev = node.next = node.exp_prev = node.exp_next = node
    return node


class Queue:
    """A FIFO of nodes that counts their bytes.

    ``ring.next`` is the oldest node, ``ring.prev`` the youngest.
    """

    __slots__ = ("bytes", "ring")

    def __init__(self) -> None:
        self.bytes = 0
        self.ring = sentinel()

    def push(self, node: Node) -> None:
        ring = self.ring
        last = ring.prev
        node.prev = last
        node.next = ring
        last.next = node
        ring.prev = node
        node.queue = self
        self.bytes += node.cost

    def remove(self, node: Node) -> None:
        node.prev.next = node.next
        node.next.prev = node.prev
        node.prev = node.next = NIL
        self.bytes -= node.cost


_NO_ENTRY: Final = Entry(None, created=0.0, fresh_until=0.0)
NIL: Final = sentinel()
"""What a node that is in no ring links to."""


class Ghost:
    """The hashes of the keys that left last: a FIFO with a membership test."""

    __slots__ = ("_members", "_order")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._members: set[int] = set()

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: Key) -> bool:
        return hash(key) & _HASH_MASK in self._members

    def add(self, key: Key, limit: int) -> None:
        """Remember ``key``, and forget all but the latest ``limit`` keys."""
        digest = hash(key) & _HASH_MASK
        members = self._members
        if digest not in members:
            members.add(digest)
            self._order.append(digest)
        while len(self._order) > limit:
            members.discard(self._order.popleft())

    def take(self, key: Key) -> bool:
        """Forget ``key``. True if it was remembered."""
        digest = hash(key) & _HASH_MASK
        if digest not in self._members:
            return False
        # The key keeps its place in the order until its turn comes. If it returns to the ghost
        # queue before that, it is forgotten a little early; searching the order would cost more.
        self._members.remove(digest)
        return True
