"""MemoryLayer against a naive model: whatever the order of operations, what it holds is right."""

from __future__ import annotations

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from layergate.core.entry import Entry
from layergate.layers.memory import OVERHEAD, MemoryLayer
from layergate.layers.memory.queues import NIL, Node

KEYS = st.sampled_from([*(f"k{n}" for n in range(10)), b"k1", b"\xff"])
SIZES = st.one_of(st.integers(1, 400), st.sampled_from([500, 900, 1500, 2500, 4000]))
LIVES = st.one_of(
    st.sampled_from([-1.0, 0.0, 1e9, 3e10, float("inf"), float("nan")]),
    st.floats(0.001, 500.0),
)


class MemoryModel(RuleBasedStateMachine):
    """The model keeps, per key, the entry last offered; the layer may hold it, or nothing."""

    @initialize(budget=st.integers(4096, 12_000), max_entry=st.sampled_from([1000, 4096]))
    def start(self, budget: int, max_entry: int) -> None:
        self.now = 1_000_000.0
        self.max_entry = max_entry
        self.layer = MemoryLayer(budget, max_entry=max_entry, clock=lambda: self.now)
        self.model: dict[str | bytes, Entry] = {}
        self.number = 0

    @rule(key=KEYS, size=SIZES, life=LIVES)
    def set(self, key: str | bytes, size: int, life: float) -> None:
        self.number += 1
        room = self.layer.budget - self.layer.bytes_used
        old = self.layer._nodes.get(key)
        known = old is not None and old.entry.expires > self.now
        entry = Entry(
            self.number,
            created=self.now,
            fresh_until=self.now,
            expires=self.now + life,
            tags=("tag",) * (self.number % 3),
            size=size,
        )
        self.layer.set(key, entry)
        self.model[key] = entry
        cost = charge(key, entry)
        if size > self.max_entry or not entry.expires > self.now or cost > self.layer.budget:
            assert self.layer.peek(key) is None
        elif known or cost <= room:
            assert self.layer.peek(key) is entry

    @rule(key=KEYS)
    def delete(self, key: str | bytes) -> None:
        held = self.layer.get(key) is not None
        assert self.layer.delete(key) is held
        self.model.pop(key, None)
        assert self.layer.peek(key) is None

    @rule()
    def clear(self) -> None:
        self.layer.clear()
        self.model.clear()
        assert len(self.layer) == 0
        assert self.layer.bytes_used == 0

    @rule(keys=st.lists(KEYS, max_size=6), times=st.integers(1, 4))
    def read(self, keys: list[str | bytes], times: int) -> None:
        for _ in range(times):
            for key in keys:
                self.layer.peek(key)
        for key, entry in self.layer.get_many(keys).items():
            assert entry is self.model[key]
            assert entry.expires > self.now

    @rule(seconds=st.floats(-10.0, 700.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(0, 20))
    def reclaim(self, limit: int) -> None:
        before = len(self.layer)
        removed = self.layer.reclaim(limit)
        assert removed == before - len(self.layer) <= limit

    @rule()
    def far_in_the_future_all_mortal_entries_are_reclaimed(self) -> None:
        self.now += 1000.0
        self.layer.reclaim()
        for node in self.layer._nodes.values():
            assert node.entry.expires > self.now

    @invariant()
    def holds_only_the_latest(self) -> None:
        keys = self.layer.keys()
        assert len(keys) == len(self.layer) == self.layer.stats()["entries"]
        for key, node in self.layer._nodes.items():
            assert node.entry is self.model[key]
            assert node.key == key
            assert type(node.key) is type(key)

    @invariant()
    def accounts_for_every_byte(self) -> None:
        nodes = self.layer._nodes.values()
        assert all(node.cost == charge(node.key, node.entry) for node in nodes)
        assert self.layer.bytes_used == sum(node.cost for node in nodes)
        assert self.layer.bytes_used <= self.layer.budget

    @invariant()
    def queues_and_buckets_are_whole(self) -> None:
        layer = self.layer
        queued = []
        for queue in (layer._store.small, layer._store.main):
            nodes = ring(queue.ring, "next", "prev")
            assert all(node.queue is queue for node in nodes)
            assert sum(node.cost for node in nodes) == queue.bytes
            queued += nodes
        assert {id(node) for node in queued} == {id(node) for node in layer._nodes.values()}
        assert len(queued) == len(layer)
        assert all(0 <= node.freq <= 3 for node in queued)
        scheduled = 0
        for end, sentinel in layer._store.expiry.rings.items():
            for node in ring(sentinel, "exp_next", "exp_prev"):
                assert node.entry.expires <= end
                assert node in queued
                scheduled += 1
        assert scheduled == sum(node.exp_next is not NIL for node in queued)
        assert sorted(layer._store.expiry.ends) == sorted(layer._store.expiry.rings)
        assert NIL.next is NIL.prev is NIL.exp_next is NIL.exp_prev is NIL


def charge(key: str | bytes, entry: Entry) -> int:
    cost = OVERHEAD + sys.getsizeof(key) + entry.size
    if entry.tags:
        cost += sys.getsizeof(entry.tags) + sum(sys.getsizeof(tag) for tag in entry.tags)
    return cost


def ring(sentinel: Node, forth: str, back: str) -> list[Node]:
    nodes = []
    node = getattr(sentinel, forth)
    while node is not sentinel:
        assert getattr(getattr(node, forth), back) is node
        nodes.append(node)
        node = getattr(node, forth)
    return nodes


TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=70, stateful_step_count=40, deadline=None)
