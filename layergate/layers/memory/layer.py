"""`MemoryLayer`: reads without a lock, writes under one. What is held is in `s3fifo`."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Final

from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.errors import ConfigError
from layergate.layers.memory.estimate import estimate_size
from layergate.layers.memory.queues import NIL, Node
from layergate.layers.memory.s3fifo import OVERHEAD, S3Fifo, cost_of
from layergate.sizes import parse_size

__all__ = ["MemoryLayer"]

_MIN_BUDGET: Final = 4096
_RECLAIM_PER_WRITE: Final = 8


class MemoryLayer:
    """Entries in this process, within a budget of bytes. A `PeekableLayer`.

    ``budget``     what all entries together may cost: bytes, or a size such as ``"64MB"`` (see
                   `layergate.sizes.parse_size`); at least 4 KiB. Never exceeded.
    ``name``       unique within a stack; the key of metrics.
    ``ttl``        seconds. The stack keeps no entry in this layer fresh for longer; the layer
                   itself only carries the attribute. None: no cap.
    ``max_entry``  the largest payload accepted: bytes, or a size. None: an eighth of the budget.
    ``clock``      seconds since the Unix epoch. Must be the clock that the times of entries come
                   from.
    ``sizeof``     a function from a value to its bytes, called for entries whose ``size`` is 0.
                   None: `estimate_size`.

    Raises `ConfigError` for an option that cannot work.

    Safe for threads. Reads take no lock. Writes share one, and hold it for a bounded time, except
    `keys`, which copies all keys. During a concurrent write a reader gets the entry from before or
    from after it. A fork during a write empties the copy of the child. Not safe in signal handlers:
    a write from one would wait for the write that it interrupted.
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
        self._lock = threading.Lock()
        self._store = S3Fifo(self.budget)
        # The dict of the store: one attribute less on the hit path.
        self._nodes: dict[Key, Node] = self._store.nodes
        _layers.add(self)

    # -- reading: no lock, no node moves ----------------------------------------------------------

    def peek(self, key: Key) -> Entry | None:
        """The entry, even past its ``expires``; None if there is none."""
        node = self._nodes.get(key)
        if node is None:
            return None
        # freq saturates at 3, the two bits of the paper. Two threads may lose a count between them,
        # which is accurate enough for eviction.
        if node.freq < 3:
            node.freq += 1
        return node.entry

    def get(self, key: Key) -> Entry | None:
        """The entry; None if there is none, or if its ``expires`` has passed."""
        entry = self.peek(key)
        if entry is None or not entry.expires > self._clock():
            return None
        return entry

    def inspect(self, key: Key) -> Entry | None:
        """As `get`, but not counted as a read."""
        node = self._nodes.get(key)
        return None if node is None or not node.entry.expires > self._clock() else node.entry

    def reads(self, key: Key) -> int | None:
        """How often an entry has been read lately: 0 if not since it was stored, at most 4. None if
        there is no entry, or if it has expired. Not counted as a read."""
        node = self._nodes.get(key)
        if node is None or not node.entry.expires > self._clock():
            return None
        # An entry in main was read before, and its freq was reset when it moved there.
        return node.freq + (node.queue is self._store.main)

    def fade(self, key: Key) -> None:
        """Forget one read of an entry, if one was counted."""
        node = self._nodes.get(key)
        if node is not None and node.freq:
            node.freq -= 1

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries that are found and have not expired. Missing keys are left out."""
        now = self._clock()
        found: dict[Key, Entry] = {}
        for key in keys:
            entry = self.peek(key)
            if entry is not None and entry.expires > now:
                found[key] = entry
        return found

    @property
    def largest(self) -> int:
        """The largest payload that is ever kept, in bytes: ``max_entry``, if the budget has room
        for it."""
        return min(self.max_entry, self.budget - OVERHEAD)

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:
        """Whether `set` would keep an entry with a payload of ``size`` bytes now."""
        cost = cost_of(key, size, tags)
        if size > self.max_entry or cost > self.budget:
            return False
        return (
            cost <= self._store.large
            or key in self._nodes
            or self.bytes_used + cost <= self.budget
            or key in self._store.ghost
        )

    def __contains__(self, key: object) -> bool:
        """True if `peek` would find an entry, expired or not. Not counted as a read."""
        return key in self._nodes

    def __len__(self) -> int:
        """How many entries are held, including expired ones that are not reclaimed yet."""
        return len(self._nodes)

    @property
    def bytes_used(self) -> int:
        """What the entries held cost together, in bytes. Never above ``budget``."""
        return self._store.bytes_used

    def keys(self) -> list[Key]:
        """The keys that are held now. Takes the lock and O(n) time, so not for the hit path."""
        with self._lock:
            return list(self._nodes)

    def scan(self, most: int) -> tuple[list[tuple[Key, Entry]], bool]:
        """At most ``most`` keys with their entries, and whether these are all. Takes the lock and
        O(most) time. Not counted as reads."""
        with self._lock:
            found = [(key, node.entry) for key, node in islice(self._nodes.items(), most)]
            return found, len(found) == len(self._nodes)

    def stats(self) -> Mapping[str, int | float]:
        """``entries``, ``bytes`` and ``budget`` as they are now (bytes), and since construction:

        ``evictions``    entries removed to make room,
        ``expirations``  entries reclaimed because their ``expires`` had passed,
        ``rejections``   entries declined: too large, large and seen for the first time, or expired
                         on arrival.
        """
        store = self._store
        return {
            "entries": len(self._nodes),
            "bytes": store.bytes_used,
            "budget": self.budget,
            "evictions": store.evictions,
            "expirations": store.expirations,
            "rejections": store.rejections,
        }

    # -- writing: one lock ------------------------------------------------------------------------

    def set(self, key: Key, entry: Entry) -> None:
        """Keep the entry, replacing any other under this key.

        The layer declines a payload over ``max_entry``, a cost over the budget, an entry whose
        ``expires`` has passed, and a large entry (over 1/40 of the budget, at least 4 KiB) that is
        new here while there is no free room for it. Then nothing is under the key afterwards.

        Raises whatever ``sizeof`` raises, and `ValueError` if it returns a negative size. Then,
        too, nothing is under the key afterwards.
        """
        try:
            payload = entry.size
            if payload <= 0:
                payload = self._sizeof(entry.value)
                if payload < 0:
                    raise ValueError(f"sizeof returned a negative size: {payload!r}")
            cost = cost_of(key, payload, entry.tags)
        except BaseException:
            self.delete(key)
            raise
        now = self._clock()
        # What leaves is collected here and freed after the lock is released: freeing may take long,
        # and may run a finalizer that uses this very layer.
        dead: list[object] = []
        store = self._store
        with self._lock:
            store.reclaim(now, _RECLAIM_PER_WRITE, dead)
            node = self._nodes.get(key)
            if payload > self.max_entry or cost > self.budget or not entry.expires > now:
                store.rejections += 1
                if node is not None:
                    store.drop(node, dead)
            elif node is not None:
                store.replace(node, entry, cost, now, dead)
            else:
                store.insert(key, entry, cost, now, dead)

    def delete(self, key: Key) -> bool:
        """Remove the key. True if there was an entry that had not expired."""
        dead: list[object] = []
        with self._lock:
            node = self._nodes.get(key)
            if node is None:
                return False
            self._store.drop(node, dead)
        return node.entry.expires > self._clock()

    def clear(self) -> None:
        """Remove every entry, and forget which ones were evicted. The counters stay."""
        with self._lock:
            nodes, rings = self._store.clear()
            self._nodes = self._store.nodes
        # The rings are cut here, outside the lock. Left to the garbage collector, millions of
        # linked nodes would be one long pause for every thread.
        for node in chain(nodes.values(), rings):
            node.prev = node.next = node.exp_prev = node.exp_next = NIL

    def reclaim(self, limit: int = 1000) -> int:
        """Remove at most ``limit`` expired entries, and return how many were removed.

        Writes do this in passing. Call it from time to time where writes are rare. An entry may
        stay for up to a sixteenth of its lifetime (at least a second) after its ``expires``.
        """
        dead: list[object] = []
        now = self._clock()
        with self._lock:
            self._store.reclaim(now, limit, dead)
        return len(dead)

    # -- fork -------------------------------------------------------------------------------------

    def _forked(self) -> None:
        """In the child: if a thread of the parent was writing, start empty with a new lock."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            # The thread that held the lock does not exist here, and left the queues half linked.
            self._lock = threading.Lock()
            self._store.clear()
            self._nodes = self._store.nodes


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


_layers: weakref.WeakSet[MemoryLayer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        layer._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
