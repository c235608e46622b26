"""The in-process layer: a byte-budgeted dict with S3-FIFO eviction.

**Eviction.** S3-FIFO, as described in Yang et al., "FIFO queues are all you need for cache
eviction", SOSP 2023, with the paper's names: a *small* queue (10 % of the budget) on probation, a
*main* queue, a *ghost* queue of key hashes, and two bits of *freq* per entry. It was chosen
because a hit moves nothing, so `MemoryLayer.peek` needs no lock, and because most keys of a web
cache are asked for once: those leave through *small* without ever displacing *main*. SIEVE has
the same cheap hit and one queue less, and was measured beside it (``benchmarks/eviction.py``, hit
ratios in % for S3-FIFO / SIEVE / LRU): near level on Zipf traffic (73.9 / 73.4 / 69.1), behind
where large one-hit wonders pass through (67.4 / 63.6 / 47.6) and where popularity shifts (66.6 /
61.1 / 67.7). Where this differs from the paper:

- Queues are measured in bytes, not in entries.
- *Large* entries - those that cost more than a quarter of the small queue, 1/40 of the budget -
  are kept while there is free room. When room must be made, they are declined on first sight, remembered in the ghost,
  and admitted straight to *main* when they come again ("cache on second hit", Maggs and Sitaraman,
  "Algorithmic nuggets in content delivery", CCR 2015). So a large one-hit wonder evicts nothing.
- One read on probation earns a place in *main*. The paper asks for two; that measured lower.
- One eviction from *main* gives at most `_SECOND_CHANCES` entries another round. When everything
  is popular, one entry is as good a victim as the next, and no write walks the whole queue.
- An expired entry is no one's victim: it is dropped wherever it is met. If it was wanted (in
  *main*, or read since it came) its ghost remains, so that the refetch goes straight to *main*.

**Expiry.** Entries hang in buckets by the time they end. The width of a bucket is a sixteenth of
the lifetime or less (at least one second), so there are some hundreds of buckets however many
entries, a delete unlinks in O(1), and space is reclaimed at the latest 1/16 of the lifetime after
its end. Each write reclaims a few; `MemoryLayer.reclaim` does more on request.

**Accounting.** An entry is charged for its key, payload, tags, and `OVERHEAD` bytes for everything
around them, so that the budget is close to what the process really grows by.
"""

from __future__ import annotations

import heapq
import math
import os
import sys
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final

from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.errors import ConfigError
from layergate.sizes import parse_size

__all__ = ["OVERHEAD", "MemoryLayer", "estimate_size"]

OVERHEAD: Final = 640
"""Bytes charged to every entry on top of key, payload and tags.

Derived by measurement (``benchmarks/memory_overhead.py``): the growth of the resident set per
entry, less the sizes of key, payload and tags. It covers the node, its share of the dict, of the
ghost and of the buckets, the `Entry` with its numbers, and what the allocator rounds up.
"""

_MIN_BUDGET: Final = 4096
_SMALL_SHARE: Final = 10  # small is a tenth of the budget
_LARGE_SHARE: Final = 4  # large is what costs more than a quarter of small...
_LARGE_FLOOR: Final = 4096  # ...and more than this: tiny budgets have room for small entries only
_PROMOTE_FREQ: Final = 1  # reads on probation that earn a place in main
_SECOND_CHANCES: Final = 64
_RECLAIM_PER_WRITE: Final = 8
_NEVER: Final = 1e10  # seconds; a lifetime of three centuries needs no bucket
_HASH_MASK: Final = (1 << 60) - 1  # two digits of a CPython int: 32 bytes instead of 48
_ESTIMATE_NODES: Final = 10_000


class _Node:
    """One entry's place in the dict, in a queue and in an expiry bucket.

    ``prev`` and ``next`` link the queue, ``exp_prev`` and ``exp_next`` the bucket; both are rings
    around a sentinel. A node that is out of a ring links to ``_NIL``, so that a reader that still
    holds one node does not hold a chain of dead ones.
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

    prev: _Node
    next: _Node
    exp_prev: _Node
    exp_next: _Node
    queue: _Queue

    def __init__(self, key: Key, entry: Entry, cost: int) -> None:
        self.key = key
        self.entry = entry
        self.cost = cost
        self.freq = 0


def _sentinel() -> _Node:
    node = _Node(b"", _NO_ENTRY, 0)
    node.prev = node.next = node.exp_prev = node.exp_next = node
    return node


class _Queue:
    """A FIFO of nodes that knows its bytes.

    ``ring.next`` is the oldest node, ``ring.prev`` the youngest.
    """

    __slots__ = ("bytes", "ring")

    def __init__(self) -> None:
        self.bytes = 0
        self.ring = _sentinel()

    def push(self, node: _Node) -> None:
        ring = self.ring
        last = ring.prev
        node.prev = last
        node.next = ring
        last.next = node
        ring.prev = node
        node.queue = self
        self.bytes += node.cost

    def remove(self, node: _Node) -> None:
        node.prev.next = node.next
        node.next.prev = node.prev
        node.prev = node.next = _NIL
        self.bytes -= node.cost


_NO_ENTRY: Final = Entry(None, created=0.0, fresh_until=0.0)
_NIL: Final = _sentinel()


class _Ghost:
    """The last few keys that left, by hash: a FIFO with membership."""

    __slots__ = ("_members", "_order")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._members: set[int] = set()

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: Key) -> bool:
        return hash(key) & _HASH_MASK in self._members

    def add(self, key: Key, limit: int) -> None:
        """Remember ``key``, and of all keys only the latest ``limit``."""
        invalidation = hash(key) & _HASH_MASK
        members = self._members
        if invalidation not in members:
            members.add(invalidation)
            self._order.append(invalidation)
        while len(self._order) > limit:
            members.discard(self._order.popleft())

    def take(self, key: Key) -> bool:
        """True if ``key`` was remembered; it is no longer."""
        invalidation = hash(key) & _HASH_MASK
        if invalidation not in self._members:
            return False
        # Its place in the order stays until its turn comes. Should the key return to the ghost
        # before, it is forgotten a little early; a search through the order would cost more.
        self._members.remove(invalidation)
        return True


class MemoryLayer:
    """Entries in this process, within a budget of bytes. A `PeekableLayer`.

    ``budget``     what all entries together may cost: bytes, or a size such as ``"64MB"`` (see
                   `layergate.sizes.parse_size`); at least 4 KiB. Never exceeded.
    ``name``       unique within a stack; the key of metrics.
    ``ttl``        seconds; the stack keeps no entry in this layer fresh for longer. None: no cap.
                   The layer itself only carries the attribute.
    ``max_entry``  the largest payload accepted: bytes, or a size. None: an eighth of the budget.
    ``clock``      seconds since the Unix epoch. Must be the clock that entries' times come from.
    ``sizeof``     bytes of a value, asked for entries whose ``size`` is 0. None: `estimate_size`.

    Raises `ConfigError` for an option that cannot work.

    Safe for threads. Reads take no lock; writes share one, and hold it for a bounded time (but
    for `keys`, which copies). What a reader gets during a concurrent write is the entry from
    before or from after it. A fork taken in the midst of a write empties the child's copy.
    Not for signal handlers: a write from one would wait for the write it interrupted.
    """

    def __init__(
        self,
        budget: int | str = "64MB",
        *,
        name: str = "memory",
        ttl: float | None = None,
        max_entry: int | str | None = None,
        clock: Callable[[], float] = time.time,
        sizeof: Callable[[object], int] | None = None,
    ) -> None:
        self.budget: Final = parse_size(budget, option="budget")
        if self.budget < _MIN_BUDGET:
            raise ConfigError(
                f"budget must be at least {_MIN_BUDGET} bytes, got {budget!r}; every entry costs"
                f" {OVERHEAD} bytes on top of its payload"
            )
        if max_entry is None:
            self.max_entry = self.budget // 8
        else:
            self.max_entry = parse_size(max_entry, option="max_entry")
            if self.max_entry > self.budget:
                raise ConfigError(
                    f"max_entry must not exceed the budget of {self.budget} bytes, got"
                    f" {max_entry!r}; lower it or raise the budget"
                )
        if not _is_name(name):
            raise ConfigError(f"name must be a non-empty string, got {name!r}")
        if ttl is not None and not _is_duration(ttl):
            raise ConfigError(
                f"ttl must be a positive number of seconds, or None for no cap, got {ttl!r}"
            )
        if not callable(clock):
            raise ConfigError(
                f"clock must be a function that returns seconds since the epoch, got {clock!r}"
            )
        if sizeof is not None and not callable(sizeof):
            raise ConfigError(
                f"sizeof must be a function from a value to its bytes, or None to estimate,"
                f" got {sizeof!r}"
            )
        self.name: Final = name
        self.ttl: Final = ttl
        self._clock = clock
        self._sizeof = estimate_size if sizeof is None else sizeof
        self._small_target = self.budget // _SMALL_SHARE
        self._large = max(self._small_target // _LARGE_SHARE, _LARGE_FLOOR)
        self._evictions = 0
        self._expirations = 0
        self._rejections = 0
        self._lock = threading.Lock()
        self._reset()
        _layers.add(self)

    def _reset(self) -> None:
        self._nodes: dict[Key, _Node] = {}
        self._small = _Queue()
        self._main = _Queue()
        self._ghost = _Ghost()
        self._buckets: dict[int, _Node] = {}
        self._bucket_ends: list[int] = []

    # -- reading: no lock, no node moves ----------------------------------------------------------

    def peek(self, key: Key) -> Entry | None:
        """The entry as it stands, even past its ``expires``; None if there is none."""
        node = self._nodes.get(key)
        if node is None:
            return None
        # freq saturates at 3, the paper's two bits. Two threads may lose a count between them;
        # eviction needs no better.
        if node.freq < 3:
            node.freq += 1
        return node.entry

    def get(self, key: Key) -> Entry | None:
        """The entry, or None when there is none or its ``expires`` has passed."""
        entry = self.peek(key)
        if entry is None or not entry.expires > self._clock():
            return None
        return entry

    def look(self, key: Key) -> Entry | None:
        """As `get`, but it does not count as a read."""
        node = self._nodes.get(key)
        return None if node is None or not node.entry.expires > self._clock() else node.entry

    def reads(self, key: Key) -> int | None:
        """How often an entry has been read of late: 0 for not since it was stored, and never above 4;
        None if there is none, or it has expired. Does not count as a read itself."""
        node = self._nodes.get(key)
        if node is None or not node.entry.expires > self._clock():
            return None
        # Who has come to main was read before, and lost the count of it there.
        return node.freq + (node.queue is self._main)

    def fade(self, key: Key) -> None:
        """Forget one read of an entry, if there is one to forget."""
        node = self._nodes.get(key)
        if node is not None and node.freq:
            node.freq -= 1

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries found and not expired. Missing keys are left out."""
        now = self._clock()
        found: dict[Key, Entry] = {}
        for key in keys:
            entry = self.peek(key)
            if entry is not None and entry.expires > now:
                found[key] = entry
        return found

    @property
    def largest(self) -> int:
        """The largest payload that is ever kept, bytes: ``max_entry``, if the budget has room for it."""
        return min(self.max_entry, self.budget - OVERHEAD)

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:
        """Would `set` keep an entry with a payload of ``size`` bytes, as things are now?"""
        cost = _cost(key, size, tags)
        if size > self.max_entry or cost > self.budget:
            return False
        return (
            cost <= self._large
            or key in self._nodes
            or self.bytes_used + cost <= self.budget
            or key in self._ghost
        )

    def __contains__(self, key: object) -> bool:
        """True if `peek` would find an entry, expired or not. Does not count as a read."""
        return key in self._nodes

    def __len__(self) -> int:
        """Entries held, those included that have expired and are not reclaimed yet."""
        return len(self._nodes)

    @property
    def bytes_used(self) -> int:
        """What the entries held cost together, in bytes; never above ``budget``."""
        return self._small.bytes + self._main.bytes

    def keys(self) -> list[Key]:
        """The keys held, as they are now. Takes the lock and O(n) time; not for the hit path."""
        with self._lock:
            return list(self._nodes)

    def scan(self, most: int) -> tuple[list[tuple[Key, Entry]], bool]:
        """At most so many of the keys held, with their entries, and whether these are all. Takes the
        lock and O(most) time, and does not count as a read."""
        with self._lock:
            found = [(key, node.entry) for key, node in islice(self._nodes.items(), most)]
            return found, len(found) == len(self._nodes)

    def stats(self) -> Mapping[str, int | float]:
        """``entries``, ``bytes`` and ``budget`` as they are now (bytes), and since construction:

        ``evictions``    removed to make room,
        ``expirations``  reclaimed because their ``expires`` had passed,
        ``rejections``   declined: too large, large and seen for the first time, or dead on arrival.
        """
        return {
            "entries": len(self._nodes),
            "bytes": self.bytes_used,
            "budget": self.budget,
            "evictions": self._evictions,
            "expirations": self._expirations,
            "rejections": self._rejections,
        }

    # -- writing: one lock ------------------------------------------------------------------------

    def set(self, key: Key, entry: Entry) -> None:
        """Keep the entry, replacing any other under this key.

        Declined, so that nothing is under the key afterwards: a payload over ``max_entry``, a cost
        over the budget, an entry whose ``expires`` has passed, and a large entry (over 1/40 of
        the budget, at least 4 KiB) that is new here while there is no free room for it.

        Raises what ``sizeof`` raises, `ValueError` if it returns a negative size; then, too,
        nothing is under the key afterwards.
        """
        try:
            payload = entry.size
            if payload <= 0:
                payload = self._sizeof(entry.value)
                if payload < 0:
                    raise ValueError(f"sizeof returned a negative size: {payload!r}")
            cost = _cost(key, payload, entry.tags)
        except BaseException:
            self.delete(key)
            raise
        now = self._clock()
        # What leaves is gathered here and freed after the lock is released: freeing may take
        # long, and may run a finalizer that uses this very layer.
        dead: list[object] = []
        with self._lock:
            self._reclaim(now, _RECLAIM_PER_WRITE, dead)
            node = self._nodes.get(key)
            if payload > self.max_entry or cost > self.budget or not entry.expires > now:
                self._rejections += 1
                if node is not None:
                    self._drop(node, dead)
            elif node is not None:
                self._replace(node, entry, cost, now, dead)
            else:
                self._insert(key, entry, cost, now, dead)

    def delete(self, key: Key) -> bool:
        """Remove the key. True if there was an entry that had not expired."""
        dead: list[object] = []
        with self._lock:
            node = self._nodes.get(key)
            if node is None:
                return False
            self._drop(node, dead)
        return node.entry.expires > self._clock()

    def clear(self) -> None:
        """Remove every entry, and the memory of those evicted. The counters stay."""
        with self._lock:
            nodes = self._nodes
            rings = (self._small.ring, self._main.ring, *self._buckets.values())
            self._reset()
        # Cut the rings here, without the lock: left to the garbage collector, millions of linked
        # nodes would be one long pause for every thread.
        for node in chain(nodes.values(), rings):
            node.prev = node.next = node.exp_prev = node.exp_next = _NIL

    def reclaim(self, limit: int = 1000) -> int:
        """Remove at most ``limit`` expired entries; returns how many were removed.

        Writes do this in passing. Call it from time to time where writes are rare. An entry may
        stay for up to a sixteenth of its lifetime (at least a second) after its ``expires``.
        """
        dead: list[object] = []
        now = self._clock()
        with self._lock:
            self._reclaim(now, limit, dead)
        return len(dead)

    # -- below here the lock is held --------------------------------------------------------------

    def _insert(self, key: Key, entry: Entry, cost: int, now: float, dead: list[object]) -> None:
        if self._ghost.take(key):
            queue = self._main
        elif cost > self._large and self.bytes_used + cost > self.budget:
            self._remember(key)
            self._rejections += 1
            return
        else:
            queue = self._small
        self._make_room(cost, now, dead)
        node = _Node(key, entry, cost)
        queue.push(node)
        self._schedule(node, now)
        self._nodes[key] = node

    def _replace(
        self, node: _Node, entry: Entry, cost: int, now: float, dead: list[object]
    ) -> None:
        # In place: a popular key that is refetched keeps its queue, its turn and its freq.
        queue = node.queue
        if self.bytes_used + cost - node.cost <= self.budget:
            queue.bytes += cost - node.cost
            node.cost = cost
        else:
            # Out of its queue while room is made, lest it be its own victim. A large one must not
            # push everything else out of small; that it is wanted again, it has just shown.
            queue.remove(node)
            self._make_room(cost, now, dead)
            node.cost = cost
            (self._main if cost > self._large else queue).push(node)
        self._unschedule(node)
        dead.append(node.entry)
        node.entry = entry
        self._schedule(node, now)

    def _drop(self, node: _Node, dead: list[object]) -> None:
        del self._nodes[node.key]
        node.queue.remove(node)
        self._unschedule(node)
        dead.append(node)

    def _remember(self, key: Key) -> None:
        # As many ghosts as there are entries; the paper's bound, and in proportion to the memory
        # that OVERHEAD has charged for them.
        self._ghost.add(key, len(self._nodes) + 1)

    # Eviction

    def _make_room(self, cost: int, now: float, dead: list[object]) -> None:
        small, main = self._small, self._main
        room = self.budget - cost
        while small.bytes + main.bytes > room:
            if small.bytes > self._small_target or not main.bytes:
                self._evict_small(now, dead)
            else:
                self._evict_main(now, dead)

    def _evict_small(self, now: float, dead: list[object]) -> None:
        """The oldest on probation: to main if it was read, else out. May free nothing."""
        node = self._small.ring.next
        if not node.entry.expires > now:
            self._expire(node, dead)
        elif node.freq >= _PROMOTE_FREQ:
            self._small.remove(node)
            node.freq = 0
            self._main.push(node)
        else:
            self._drop(node, dead)
            self._remember(node.key)
            self._evictions += 1

    def _evict_main(self, now: float, dead: list[object]) -> None:
        """The oldest of main that has not been read since its last turn."""
        main = self._main
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
        self._drop(main.ring.next, dead)
        self._evictions += 1

    # Expiry

    def _schedule(self, node: _Node, now: float) -> None:
        """Hang the node into the bucket of its end of life."""
        expires = node.entry.expires
        life = expires - now
        if life >= _NEVER:
            node.exp_prev = node.exp_next = _NIL
            return
        # The largest power of two that is at most life/16: far ends share wide buckets, so their
        # number grows with the logarithm of the lifetime only.
        width = 1 << max(0, int(life).bit_length() - 5)
        end = (int(expires) // width + 1) * width
        ring = self._buckets.get(end)
        if ring is None:
            ring = self._buckets[end] = _sentinel()
            heapq.heappush(self._bucket_ends, end)
        last = ring.exp_prev
        node.exp_prev = last
        node.exp_next = ring
        last.exp_next = node
        ring.exp_prev = node

    def _unschedule(self, node: _Node) -> None:
        if node.exp_next is not _NIL:
            node.exp_prev.exp_next = node.exp_next
            node.exp_next.exp_prev = node.exp_prev
            node.exp_prev = node.exp_next = _NIL

    def _reclaim(self, now: float, limit: int, dead: list[object]) -> None:
        ends = self._bucket_ends
        while limit > 0 and ends and ends[0] <= now:
            ring = self._buckets[ends[0]]
            node = ring.exp_next
            if node is ring:
                del self._buckets[heapq.heappop(ends)]
                ring.exp_prev = ring.exp_next = ring.prev = ring.next = _NIL
            else:
                self._expire(node, dead)
                limit -= 1

    def _expire(self, node: _Node, dead: list[object]) -> None:
        wanted = node.freq > 0 or node.queue is self._main
        self._drop(node, dead)
        if wanted:
            self._remember(node.key)
        self._expirations += 1


def _cost(key: Key, payload: int, tags: tuple[str, ...]) -> int:
    """What an entry is charged for, bytes."""
    cost = OVERHEAD + sys.getsizeof(key) + payload
    return cost + sys.getsizeof(tags) + sum(map(sys.getsizeof, tags)) if tags else cost


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def estimate_size(value: object) -> int:
    """About how many bytes of memory ``value`` takes, with everything it refers to.

    Exact for None, numbers, str, bytes and bytearray. Containers are walked through (each object
    once, so cycles end), other objects through ``__dict__`` and ``__slots__``. Classes, functions
    and modules count nothing: they are shared. After some ten thousand objects the rest is
    extrapolated.
    """
    if value.__class__ in _FLAT:
        return sys.getsizeof(value)
    total = visited = 0
    seen: set[int] = set()
    walks = [_Walk((value,), 1, 0)]
    while walks:
        walk = walks[-1]
        for child in walk.children:
            if id(child) in seen or isinstance(child, _SHARED):
                walk.done += 1
                continue
            if visited >= _ESTIMATE_NODES:
                return _extrapolated(walks, total)
            walk.done += 1
            seen.add(id(child))
            visited += 1
            total += sys.getsizeof(child, 64)
            if child.__class__ not in _FLAT:
                inner, count = _children(child)
                if inner:
                    walks.append(_Walk(inner, count, total))
                    break
        else:
            walks.pop()
    return total


class _Walk:
    """A container that `estimate_size` is in: ``done`` of ``count`` children are looked at.

    ``start`` is the total in bytes before the first of them.
    """

    __slots__ = ("children", "count", "done", "start")

    def __init__(self, children: Sequence[object], count: int, start: int) -> None:
        self.children: Iterator[object] = iter(children)
        self.count = count
        self.done = 0
        self.start = start


def _extrapolated(walks: Sequence[_Walk], total: int) -> int:
    """The total, as if in every open container the rest were like what has been seen of it."""
    for walk in reversed(walks):
        if walk.done:
            total += (total - walk.start) * (walk.count - walk.done) // walk.done
    return total


_FLAT: Final = frozenset({bytes, str, bytearray, int, float, complex, bool, type(None)})
_SHARED: Final = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)


def _children(value: object) -> tuple[Sequence[object], int]:
    """What ``value`` refers to, and how many that is.

    A copy, so that a container may change while it is walked; no longer than what will be looked
    at, so it may be shorter than the count.
    """
    cut = _ESTIMATE_NODES + 1
    found: list[object] = []
    count = 0
    if isinstance(value, dict):
        for pair in list(islice(value.items(), cut)):
            found.extend(pair)
        count = 2 * len(value)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        found.extend(islice(value, cut))
        count = len(value)
    elif isinstance(value, memoryview):
        return (value.obj,), 1
    attributes: list[object] = []
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        attributes.append(own)
    for cls in type(value).__mro__:
        # Slots are found by their descriptors: that sees mangled names, and calls no property.
        for member in cls.__dict__.values():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    attributes.append(member.__get__(value, cls))
                except AttributeError:
                    continue  # a slot that was never set
    return attributes + found, len(attributes) + count


# -- fork -----------------------------------------------------------------------------------------

_layers: weakref.WeakSet[MemoryLayer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        if layer._lock.acquire(blocking=False):
            layer._lock.release()
        else:
            # The thread that held it does not exist here, and left the queues half linked.
            layer._lock = threading.Lock()
            layer._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
