"""What the memory layer holds, and which entry leaves when room is needed.

The algorithm is S3-FIFO, as described in Yang et al., "FIFO queues are all you need for cache
eviction", SOSP 2023, with the names of the paper: a *small* queue (10 % of the budget) on
probation, a *main* queue, a *ghost* queue of key hashes, and two bits of *freq* per entry. It was
chosen because a hit moves nothing, so `MemoryLayer.peek` needs no lock, and because most keys of a
web cache are requested only once: they leave through *small* without ever displacing *main*. SIEVE
has an equally cheap hit and one queue less, and was measured beside it (``benchmarks/eviction.py``,
hit ratios in % for S3-FIFO / SIEVE / LRU): nearly level on Zipf traffic (73.9 / 73.4 / 69.1),
behind where large one-hit wonders pass through (67.4 / 63.6 / 47.6), and behind where popularity
shifts (66.6 / 61.1 / 67.7).

This implementation differs from the paper in these points:

- Queues are measured in bytes, not in entries.
- *Large* entries cost more than a quarter of the small queue, which is 1/40 of the budget. They are
  kept while there is free room. When room must be made, a large entry is declined on first sight,
  remembered in the ghost queue, and admitted straight to *main* when it comes again ("cache on
  second hit", Maggs and Sitaraman, "Algorithmic nuggets in content delivery", CCR 2015). So a large
  one-hit wonder evicts nothing.
- One read on probation earns a place in *main*. The paper requires two; that measured lower.
- One eviction from *main* gives at most `_SECOND_CHANCES` entries another round. When everything is
  popular, one entry is as good a victim as the next, and no write walks the whole queue.
- An expired entry is dropped wherever it is met, and does not count as an eviction. If it was
  wanted (it was in *main*, or was read since it came), its ghost remains, so that the refetched
  entry goes straight to *main*.

An entry is charged for its key, its payload, its tags, and `OVERHEAD` bytes for everything around
them, so that the budget is close to what the process grows by.

`MemoryLayer` calls `S3Fifo` under its lock. Nothing here locks, reads a clock or frees memory:
whatever leaves is appended to ``dead``, and the caller frees it after the lock is released.
"""

from __future__ import annotations

import sys
from typing import Final

from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.layers.memory.expiry import ExpiryBuckets
from layergate.layers.memory.queues import Ghost, Node, Queue

__all__ = ["OVERHEAD", "S3Fifo", "cost_of"]

OVERHEAD: Final = 640
"""Bytes charged to every entry on top of key, payload and tags.

Measured (``benchmarks/memory_overhead.py``) as the growth of the resident set per entry, less the
sizes of key, payload and tags. It covers the node, its share of the dict, of the ghost queue and of
the buckets, the `Entry` with its numbers, and what the allocator rounds up.
"""

_SMALL_SHARE: Final = 10  # small is a tenth of the budget
_LARGE_SHARE: Final = 4  # an entry is large if it costs more than a quarter of small...
_LARGE_FLOOR: Final = 4096  # ...and more than this: tiny budgets have room for small entries only
_PROMOTE_FREQ: Final = 1  # reads on probation that earn a place in main
_SECOND_CHANCES: Final = 64


def cost_of(key: Key, payload: int, tags: tuple[str, ...]) -> int:
    """The bytes that an entry with a payload of ``payload`` bytes is charged."""
    cost = OVERHEAD + sys.getsizeof(key) + payload
    return cost + sys.getsizeof(tags) + sum(map(sys.getsizeof, tags)) if tags else cost


class S3Fifo:
    """Entries within a budget of bytes.

    ``nodes``       what is held, by key.
    ``large``       bytes; an entry that costs more is large.
    ``evictions``, ``expirations``, ``rejections``
                    see `MemoryLayer.stats`.

    Times are seconds since the epoch, costs are bytes.
    """

    __slots__ = (
        "_budget",
        "_small_target",
        "evictions",
        "expirations",
        "expiry",
        "ghost",
        "large",
        "main",
        "nodes",
        "rejections",
        "small",
    )

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._small_target = budget // _SMALL_SHARE
        self.large = max(self._small_target // _LARGE_SHARE, _LARGE_FLOOR)
        self.evictions = 0
        self.expirations = 0
        self.rejections = 0
        self._clear()

    def _clear(self) -> None:
        self.nodes: dict[Key, Node] = {}
        self.small = Queue()
        self.main = Queue()
        self.ghost = Ghost()
        self.expiry = ExpiryBuckets()

    def clear(self) -> tuple[dict[Key, Node], tuple[Node, ...]]:
        """Forget everything but the counters, without touching the nodes.

        Returns the nodes and the sentinels, so that the caller can cut their links outside the
        lock.
        """
        linked = self.nodes, (self.small.ring, self.main.ring, *self.expiry.rings.values())
        self._clear()
        return linked

    @property
    def bytes_used(self) -> int:
        return self.small.bytes + self.main.bytes

    def insert(self, key: Key, entry: Entry, cost: int, now: float, dead: list[object]) -> None:
        """Keep an entry under a key that is not held. A large one may be declined."""
        if self.ghost.take(key):
            queue = self.main
        elif cost > self.large and self.bytes_used + cost > self._budget:
            self._remember(key)
            self.rejections += 1
            return
        else:
            queue = self.small
        self._make_room(cost, now, dead)
        node = Node(key, entry, cost)
        queue.push(node)
        self.expiry.add(node, now)
        self.nodes[key] = node

    def replace(self, node: Node, entry: Entry, cost: int, now: float, dead: list[object]) -> None:
        """Put another entry in the place of one that is held."""
        # In place: a popular key that is refetched keeps its queue, its turn and its freq.
        queue = node.queue
        if self.bytes_used + cost - node.cost <= self._budget:
            queue.bytes += cost - node.cost
            node.cost = cost
        else:
            # Out of its queue while room is made, or it could be its own victim. A large entry goes
            # to main: it must not push everything else out of small, and it is wanted, as it came
            # again.
            queue.remove(node)
            self._make_room(cost, now, dead)
            node.cost = cost
            (self.main if cost > self.large else queue).push(node)
        self.expiry.remove(node)
        dead.append(node.entry)
        node.entry = entry
        self.expiry.add(node, now)

    def drop(self, node: Node, dead: list[object]) -> None:
        del self.nodes[node.key]
        node.queue.remove(node)
        self.expiry.remove(node)
        dead.append(node)

    def reclaim(self, now: float, limit: int, dead: list[object]) -> None:
        """Drop at most ``limit`` expired entries."""
        expiry = self.expiry
        while limit > 0 and expiry.ended(now):
            node = expiry.first()
            if node is not None:
                self._expire(node, dead)
                limit -= 1

    def _remember(self, key: Key) -> None:
        # As many ghosts as there are entries: the bound of the paper, in proportion to the memory
        # that OVERHEAD has charged for them.
        self.ghost.add(key, len(self.nodes) + 1)

    def _make_room(self, cost: int, now: float, dead: list[object]) -> None:
        small, main = self.small, self.main
        room = self._budget - cost
        while small.bytes + main.bytes > room:
            if small.bytes > self._small_target or not main.bytes:
                self._evict_small(now, dead)
            else:
                self._evict_main(now, dead)

    def _evict_small(self, now: float, dead: list[object]) -> None:
        """Take the oldest entry on probation: to main if it was read, out if it was not. May free
        nothing."""
        node = self.small.ring.next
        if not node.entry.expires > now:
            self._expire(node, dead)
        elif node.freq >= _PROMOTE_FREQ:
            self.small.remove(node)
            node.freq = 0
            self.main.push(node)
        else:
            self.drop(node, dead)
            self._remember(node.key)
            self.evictions += 1

    def _evict_main(self, now: float, dead: list[object]) -> None:
        """Drop the oldest entry of main that has not been read since its last turn."""
        main = self.main
        for _ in range(_SECOND_CHANCES):
            node = main.ring.next
            if not node.entry.expires > now:
                self._expire(node, dead)
                return
            freq = node.freq
            if freq == 0:
                break
            node.freq = freq - 1
            main.remove(node)
            main.push(node)
        self.drop(main.ring.next, dead)
        self.evictions += 1

    def _expire(self, node: Node, dead: list[object]) -> None:
        wanted = node.freq > 0 or node.queue is self.main
        self.drop(node, dead)
        if wanted:
            self._remember(node.key)
        self.expirations += 1
