from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layergate.core.entry import Entry
from layergate.core.layer import PeekableLayer
from layergate.errors import ConfigError
from layergate.layers.memory import OVERHEAD, MemoryLayer, estimate_size
from layergate.testing.layers import LayerConformance
from tests.support.clocks import Clock

START = 1_000_000.0


def entry(size: int = 100, *, value: Any = b"", lifetime: float = 3600.0, **fields: Any) -> Entry:
    """An entry that says it is ``size`` bytes, whatever its value."""
    now = fields.pop("now", START)
    return Entry(value, created=now, fresh_until=now + lifetime, size=size, **fields)


def key_for(number: int) -> str:
    return f"key-{number:06d}"


COST = OVERHEAD + sys.getsizeof(key_for(0)) + 100  # of entry() under key_for()


def layer_for(entries: int, **options: Any) -> MemoryLayer:
    """A layer with room for exactly so many of the usual entries."""
    return MemoryLayer(entries * COST, **{"clock": Clock(START), **options})


def fill(layer: MemoryLayer, numbers: range) -> None:
    for number in numbers:
        layer.set(key_for(number), entry())


def held(layer: MemoryLayer, numbers: range) -> int:
    return sum(key_for(number) in layer for number in numbers)


def request(layer: MemoryLayer, number: int, size: int = 100) -> bool:
    """What a cache does: look, and store after a miss. True for a hit."""
    if layer.peek(key_for(number)) is not None:
        return True
    layer.set(key_for(number), entry(size))
    return False


class TestConformance(LayerConformance):
    stats_keys = LayerConformance.KNOWN_STATS

    def make_layer(self) -> MemoryLayer:
        self.clock = Clock(START)
        return MemoryLayer("8MB", clock=self.clock)

    def now(self) -> float:
        return self.clock.time

    def advance(self, seconds: float) -> bool:
        self.clock.time += seconds
        return True


class AwaitedMemoryLayer:
    """The same behind awaitables, as a client library answers: the suite's other half."""

    name = "awaited"

    def __init__(self, clock: Clock) -> None:
        self.inner = MemoryLayer("8MB", clock=clock)
        self.stats = self.inner.stats

    async def get(self, key: Any) -> Entry | None:
        return self.inner.get(key)

    async def get_many(self, keys: Any) -> dict[Any, Entry]:
        return self.inner.get_many(keys)

    async def set(self, key: Any, entry: Entry) -> None:
        self.inner.set(key, entry)

    async def delete(self, key: Any) -> bool:
        return self.inner.delete(key)

    async def clear(self) -> None:
        self.inner.clear()


class TestConformanceAwaited(LayerConformance):
    closed = 0

    async def make_layer(self) -> AwaitedMemoryLayer:
        self.clock = Clock(START)
        return AwaitedMemoryLayer(self.clock)

    async def close_layer(self, layer: Any) -> None:
        type(self).closed += 1

    def now(self) -> float:
        return self.clock.time


class TestReading:
    def test_is_peekable(self) -> None:
        assert isinstance(MemoryLayer(), PeekableLayer)

    def test_peek_returns_the_very_entry(self) -> None:
        layer = layer_for(10)
        first, second = entry(), entry()
        layer.set("key", first)
        assert layer.peek("key") is first
        layer.set("key", second)
        assert layer.peek("key") is second

    def test_peek_ignores_expiry_and_get_does_not(self) -> None:
        clock = Clock(START)
        layer = layer_for(10, clock=clock)
        layer.set("key", entry(lifetime=10.0))
        clock.time += 10.0
        assert layer.peek("key") is not None
        assert "key" in layer
        assert layer.get("key") is None
        assert layer.get_many(["key"]) == {}
        assert layer.delete("key") is False
        assert "key" not in layer

    def test_peek_takes_no_lock(self) -> None:
        layer = layer_for(10)
        layer.set("key", entry())
        with layer._lock:
            assert layer.peek("key") is not None
            assert layer.get("key") is not None
            assert layer.get_many(["key", "other"]).keys() == {"key"}
            assert "key" in layer
            assert len(layer) == 1
            assert layer.stats()["entries"] == 1
            assert layer.bytes_used > 0

    def test_keys_is_a_snapshot(self) -> None:
        layer = layer_for(10)
        layer.set("a", entry())
        layer.set(b"a", entry())
        keys = layer.keys()
        layer.clear()
        assert sorted(keys, key=repr) == ["a", b"a"]

    def test_freq_saturates_at_three(self) -> None:
        layer = layer_for(10)
        layer.set("key", entry())
        for _ in range(10):
            layer.peek("key")
        assert layer._nodes["key"].freq == 3


class TestEviction:
    def test_the_budget_holds(self) -> None:
        layer = layer_for(50)
        for number in range(500):
            layer.set(key_for(number), entry())
            assert layer.bytes_used <= layer.budget
        assert len(layer) == 50
        assert layer.stats()["evictions"] == 450

    def test_nothing_is_evicted_while_there_is_room(self) -> None:
        layer = layer_for(50)
        fill(layer, range(50))
        assert len(layer) == 50
        assert layer.stats()["evictions"] == 0

    def test_what_was_read_outlives_what_was_not(self) -> None:
        layer = layer_for(100)
        fill(layer, range(100))
        for number in range(50):
            layer.peek(key_for(number))
        fill(layer, range(1000, 1050))
        assert held(layer, range(50)) == 50
        assert held(layer, range(50, 100)) == 0

    def test_one_hit_wonders_pass_by_what_is_popular(self) -> None:
        layer = layer_for(100)
        fill(layer, range(80))
        for number in range(80):
            layer.peek(key_for(number))
        fill(layer, range(1000, 11_000))
        assert held(layer, range(80)) == 80

    def test_a_scan_costs_nearly_nothing(self) -> None:
        rng = random.Random(5)
        layer = layer_for(200)

        def hits(rounds: int) -> int:
            return sum(request(layer, int(rng.paretovariate(1.0))) for _ in range(rounds))

        hits(20_000)
        before = hits(2000)
        fill(layer, range(100_000, 102_000))
        assert hits(2000) > 0.95 * before

    def test_a_key_that_comes_back_goes_straight_to_main(self) -> None:
        layer = layer_for(20)
        fill(layer, range(21))
        assert key_for(0) not in layer
        layer.set(key_for(0), entry())
        assert layer._nodes[key_for(0)].queue is layer._store.main
        fill(layer, range(1000, 2000))
        assert key_for(0) in layer

    def test_promotion_to_main_starts_the_count_anew(self) -> None:
        layer = layer_for(20)
        fill(layer, range(20))
        for _ in range(3):
            layer.peek(key_for(0))
        fill(layer, range(20, 21))
        node = layer._nodes[key_for(0)]
        assert node.queue is layer._store.main
        assert node.freq == 0

    def test_the_ghost_forgets(self) -> None:
        layer = layer_for(20)
        fill(layer, range(1000))
        layer.set(key_for(0), entry())
        assert layer._nodes[key_for(0)].queue is layer._store.small
        assert len(layer._store.ghost) <= 21

    def test_the_ghost_is_emptied_by_clear(self) -> None:
        layer = layer_for(20)
        fill(layer, range(30))
        layer.clear()
        assert len(layer._store.ghost) == 0

    def test_main_gives_up_what_is_no_longer_read(self) -> None:
        layer = layer_for(100)
        for old in range(100):
            request(layer, old)
            request(layer, old)
        for _ in range(5):
            for new in range(1000, 1100):
                request(layer, new)
                request(layer, new)
        assert held(layer, range(100)) == 0
        assert held(layer, range(1000, 1100)) >= 80

    def test_main_keeps_an_entry_for_as_many_turns_as_it_was_read(self) -> None:
        layer = layer_for(20, max_entry=20 * COST)
        fill(layer, range(20))
        for number in range(20):
            layer.peek(key_for(number))
        fill(layer, range(100, 103))
        kept = range(3, 20)  # these moved to main, in this order
        assert held(layer, kept) == len(layer) - 3 == len(kept)
        for number in (*kept, 3, 3):  # the oldest of them three times
            layer.peek(key_for(number))
        gone: list[int] = []
        for more in range(1, len(kept)):
            # What grows on probation takes its room from main, an entry at a time.
            layer.set(key_for(102), entry(100 + more * COST))
            gone += [n for n in kept if n not in gone and key_for(n) not in layer]
        assert gone == list(kept)[1:]
        assert key_for(3) in layer

    def test_a_write_does_bounded_work_when_everything_is_popular(self) -> None:
        layer = layer_for(1000)
        fill(layer, range(1000))
        for number in range(1000):
            for _ in range(3):
                layer.peek(key_for(number))
        fill(layer, range(1000, 1002))  # moves what is popular to main
        for number in range(1000):
            for _ in range(3):
                layer.peek(key_for(number))
        touched = 0
        main = layer._store.main
        original = main.__class__.push

        def push(queue: Any, node: Any) -> None:
            nonlocal touched
            touched += 1
            original(queue, node)

        patch = pytest.MonkeyPatch()
        with patch.context() as context:
            context.setattr(main.__class__, "push", push)
            # A replacement that grows by a few entries' worth has to evict from main.
            layer.set(key_for(999), entry(100 + 3 * COST))
        assert layer.bytes_used <= layer.budget
        assert touched < 300

    def test_a_replacement_keeps_its_standing(self) -> None:
        layer = layer_for(20)
        fill(layer, range(20))
        layer.peek(key_for(3))
        layer.set(key_for(3), entry())
        fill(layer, range(100, 120))
        assert key_for(3) in layer
        assert layer.stats()["entries"] == len(layer.keys()) == 20

    def test_a_replacement_that_grows_makes_room_and_is_not_its_own_victim(self) -> None:
        layer = layer_for(40)
        fill(layer, range(40))
        grown = entry(100 + 3 * COST)
        layer.set(key_for(0), grown)
        assert layer.peek(key_for(0)) is grown
        assert layer.stats()["evictions"] == 3
        assert layer.bytes_used == layer.budget

    def test_a_replacement_that_shrinks_gives_room_back(self) -> None:
        layer = layer_for(40)
        layer.set(key_for(0), entry(100 + 3 * COST))
        assert layer.bytes_used == 4 * COST
        layer.set(key_for(0), entry())
        assert layer.bytes_used == COST


class TestLargeEntries:
    def test_over_max_entry_is_declined(self) -> None:
        layer = MemoryLayer("1MB", max_entry="10KB", clock=Clock(START))
        layer.set("fits", entry(10 * 1024))
        layer.set("over", entry(10 * 1024 + 1))
        assert "fits" in layer
        assert "over" not in layer
        assert layer.stats()["rejections"] == 1

    def test_over_max_entry_removes_what_was_there(self) -> None:
        layer = MemoryLayer("1MB", max_entry="10KB", clock=Clock(START))
        layer.set("key", entry())
        layer.set("key", entry(20 * 1024))
        assert layer.peek("key") is None
        assert layer.bytes_used == 0

    def test_the_default_is_an_eighth_of_the_budget(self) -> None:
        assert MemoryLayer("64MB").max_entry == 8 * 1024 * 1024

    def test_what_could_never_fit_is_declined(self) -> None:
        layer = MemoryLayer(8192, max_entry=8192, clock=Clock(START))
        fill(layer, range(5))
        layer.set("key", entry(8192))
        assert "key" not in layer
        assert len(layer) == 5

    def test_kept_at_once_while_there_is_free_room(self) -> None:
        layer = layer_for(100)
        layer.set("large", entry(10 * COST))
        assert "large" in layer
        assert layer.stats()["rejections"] == 0

    def test_large_one_hit_wonders_evict_nothing(self) -> None:
        layer = layer_for(100)
        fill(layer, range(100))
        for number in range(50):
            layer.set(f"large-{number}", entry(10 * COST))
        assert held(layer, range(100)) == 100
        assert layer.stats()["evictions"] == 0
        assert layer.stats()["rejections"] == 50

    def test_admitted_when_they_come_again(self) -> None:
        layer = layer_for(100)
        fill(layer, range(100))
        layer.set("large", entry(10 * COST))
        assert "large" not in layer
        layer.set("large", entry(10 * COST))
        assert "large" in layer
        assert layer.bytes_used <= layer.budget
        fill(layer, range(1000, 1100))
        assert "large" in layer

    def test_a_small_one_that_grows_large_does_not_flush_the_small_queue(self) -> None:
        layer = layer_for(100)
        for number in range(90):
            request(layer, number)
            request(layer, number)
        fill(layer, range(1000, 1010))
        layer.set(key_for(1009), entry(10 * COST))
        assert key_for(1009) in layer
        fill(layer, range(2000, 2010))
        assert key_for(1009) in layer
        assert held(layer, range(2000, 2010)) == 10

    def test_mixed_with_large_one_hit_wonders_the_popular_stay(self) -> None:
        rng = random.Random(7)
        layer = layer_for(300)
        hits = large = 0
        for step in range(20_000):
            if rng.random() < 0.02:
                large += 1
                request(layer, 10_000 + large, 20 * COST)
            else:
                hit = request(layer, int(rng.paretovariate(1.0)) % 5000)
                hits += hit and step >= 10_000
        assert hits > 0.85 * 9800


class TestExpiry:
    def test_writes_reclaim_what_has_expired(self) -> None:
        clock = Clock(START)
        layer = layer_for(1000, clock=clock)
        for number in range(500):
            layer.set(key_for(number), entry(lifetime=60.0))
        clock.time += 120.0
        for number in range(1000, 1100):
            layer.set(key_for(number), entry(now=clock.time))
        assert held(layer, range(500)) == 0
        assert len(layer) == 100
        assert layer.stats()["expirations"] == 500
        assert layer.stats()["evictions"] == 0

    def test_one_write_reclaims_a_bounded_number(self) -> None:
        clock = Clock(START)
        layer = layer_for(1000, clock=clock)
        for number in range(500):
            layer.set(key_for(number), entry(lifetime=60.0))
        clock.time += 120.0
        layer.set("one more", entry(now=clock.time))
        assert 480 <= len(layer) < 501

    def test_reclaim_on_request(self) -> None:
        clock = Clock(START)
        layer = layer_for(1000, clock=clock)
        for number in range(500):
            layer.set(key_for(number), entry(lifetime=60.0 + number % 7))
        assert layer.reclaim() == 0
        clock.time += 120.0
        assert layer.reclaim(100) == 100
        assert layer.reclaim(limit=1000) == 400
        assert layer.reclaim() == 0
        assert layer.bytes_used == 0

    def test_an_entry_is_never_reclaimed_early_and_at_most_a_sixteenth_late(self) -> None:
        clock = Clock(START)
        layer = layer_for(1000, clock=clock)
        for lifetime in (0.5, 1.0, 7.0, 59.9, 3600.0, 86_400.5, 31_536_000.0):
            clock.time = START + 0.25
            layer.set("key", entry(now=clock.time, lifetime=lifetime))
            clock.time = START + 0.25 + lifetime * 0.999
            assert layer.reclaim() == 0
            clock.time = START + 0.25 + lifetime + max(1.0, lifetime / 16)
            assert layer.reclaim() == 1

    def test_immortal_entries_take_no_bucket(self) -> None:
        clock = Clock(START)
        layer = layer_for(10, clock=clock)
        layer.set("inf", entry(lifetime=float("inf")))
        layer.set("far", entry(lifetime=1e300))
        assert layer._store.expiry.rings == {}
        layer.set("inf", entry(lifetime=5.0))
        assert len(layer._store.expiry.rings) == 1
        layer.set("inf", entry(lifetime=float("inf")))
        clock.time += 1e9
        layer.reclaim()
        assert len(layer) == 2

    def test_dead_on_arrival_is_declined(self) -> None:
        layer = layer_for(10)
        for lifetime in (0.0, -1.0, float("nan"), float("-inf")):
            layer.set("key", entry())
            layer.set("key", entry(lifetime=lifetime))
            assert layer.peek("key") is None
        assert layer.stats()["rejections"] == 4

    def test_an_expired_entry_is_evicted_before_a_live_one_and_in_spite_of_its_reads(self) -> None:
        clock = Clock(START)
        layer = layer_for(20, clock=clock)
        for number in range(20):
            layer.set(key_for(number), entry(lifetime=32.0 if number < 10 else 1e6))
            layer.peek(key_for(number))
        clock.time += 32.5  # expired, but their bucket has not ended
        for number in range(100, 105):
            layer.set(key_for(number), entry(now=clock.time))
        assert held(layer, range(10, 20)) == 10
        assert held(layer, range(10)) == 5
        assert layer.stats()["expirations"] == 5
        assert layer.stats()["evictions"] == 0

    def test_a_wanted_entry_that_expired_comes_back_to_main(self) -> None:
        clock = Clock(START)
        layer = layer_for(20, clock=clock)
        layer.set("wanted", entry(lifetime=10.0))
        layer.set("unwanted", entry(lifetime=10.0))
        layer.peek("wanted")
        clock.time += 20.0
        assert layer.reclaim() == 2
        for key in ("wanted", "unwanted"):
            layer.set(key, entry(now=clock.time))
        assert layer._nodes["wanted"].queue is layer._store.main
        assert layer._nodes["unwanted"].queue is layer._store.small

    def test_a_clock_that_goes_back_does_no_harm(self) -> None:
        clock = Clock(START)
        layer = layer_for(20, clock=clock)
        layer.set("key", entry(lifetime=60.0))
        clock.time -= 10_000.0
        layer.set("other", entry(now=clock.time, lifetime=60.0))
        assert layer.reclaim() == 0
        clock.time += 30_000.0
        assert layer.reclaim() == 2


class TestChurn:
    @pytest.mark.parametrize("how", ["overwrite", "delete", "evict"])
    def test_structures_stay_bounded(self, how: str) -> None:
        layer = layer_for(1000)
        rng = random.Random(3)

        def turn() -> None:
            for number in range(1000):
                key = key_for(number if how != "evict" else rng.randrange(10**9) % 10**6)
                layer.set(key, entry(lifetime=rng.uniform(10.0, 1e8)))
                if how == "delete":
                    layer.delete(key)
                elif rng.random() < 0.3:
                    layer.peek(key)

        turn()
        gc.collect()
        tracemalloc.start()
        turn()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            turn()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert after - before < 1000 * COST / 2
        assert len(layer._store.expiry.rings) < 700
        assert len(layer._store.expiry.ends) == len(layer._store.expiry.rings)
        assert len(layer._store.ghost) <= 1001
        assert len(layer._store.ghost._members) <= 1001
        assert layer.bytes_used <= layer.budget

    def test_time_passing_does_not_gather_buckets(self) -> None:
        clock = Clock(START)
        layer = layer_for(1000, clock=clock)
        rng = random.Random(4)
        for number in range(20_000):
            clock.time += 10.0
            layer.set(key_for(number % 100), entry(now=clock.time, lifetime=rng.uniform(1.0, 1e6)))
        assert len(layer._store.expiry.rings) < 500

    def test_what_leaves_is_freed_at_once(self) -> None:
        class Value:
            pass

        clock = Clock(START)
        layer = MemoryLayer(4096, clock=clock)

        def expire() -> None:
            clock.time += 7200.0
            layer.reclaim()

        gc.disable()
        try:
            for leave in (
                lambda: layer.delete("key"),
                lambda: layer.set("key", entry()),
                lambda: layer.set("key", entry(4096)),
                lambda: layer.clear(),
                lambda: fill(layer, range(10)),
                expire,
            ):
                value = Value()
                alive = weakref.ref(value)
                layer.clear()
                layer.set("key", entry(value=value))
                layer.set("beside", entry())
                del value
                assert alive() is not None
                leave()
                assert alive() is None
        finally:
            gc.enable()

    def test_clear_leaves_nothing_to_the_garbage_collector(self) -> None:
        layer = MemoryLayer("1GB", clock=Clock(START))
        shared = entry()
        for number in range(100_000):
            layer.set(key_for(number), shared)
        gc.collect()
        gc.disable()
        try:
            layer.clear()
            assert gc.collect() < 20
        finally:
            gc.enable()
        assert len(layer) == 0
        assert layer.bytes_used == 0
        assert layer._store.expiry.rings == {}
        layer.set("after", shared)
        assert layer.peek("after") is shared

    def test_a_reader_that_holds_one_node_holds_no_chain(self) -> None:
        layer = layer_for(10)
        fill(layer, range(10))
        node = layer._nodes[key_for(0)]
        other = weakref.ref(layer)
        layer.delete(key_for(0))
        assert node.next is node.prev is node.exp_next is node.exp_prev
        del layer
        gc.collect()
        assert other() is None


class TestAccounting:
    def test_charges_key_payload_tags_and_overhead(self) -> None:
        layer = MemoryLayer("1MB", clock=Clock(START))
        tags = ("one", "two")
        layer.set(b"key", entry(1000, tags=tags))
        expected = OVERHEAD + sys.getsizeof(b"key") + 1000
        expected += sys.getsizeof(tags) + 2 * sys.getsizeof("one")
        assert layer.bytes_used == expected
        layer.delete(b"key")
        assert layer.bytes_used == 0

    def test_a_value_without_a_size_is_estimated(self) -> None:
        layer = MemoryLayer("1MB", clock=Clock(START))
        layer.set("key", entry(0, value=b"x" * 5000))
        assert layer.bytes_used == OVERHEAD + sys.getsizeof("key") + sys.getsizeof(b"x" * 5000)

    def test_sizeof_is_asked_only_without_a_size(self) -> None:
        asked: list[object] = []

        def sizeof(value: object) -> int:
            asked.append(value)
            return 7

        layer = MemoryLayer("1MB", clock=Clock(START), sizeof=sizeof)
        layer.set("a", entry(100, value="known"))
        layer.set("b", entry(0, value="unknown"))
        assert asked == ["unknown"]
        assert layer._nodes["b"].cost == OVERHEAD + sys.getsizeof("b") + 7

    @pytest.mark.parametrize("wrong", [-1, RuntimeError("broken")])
    def test_a_broken_sizeof_leaves_nothing_under_the_key(self, wrong: Any) -> None:
        def sizeof(value: object) -> int:
            if isinstance(wrong, Exception):
                raise wrong
            return int(wrong)

        layer = MemoryLayer("1MB", clock=Clock(START), sizeof=sizeof)
        layer.set("key", entry(100))
        with pytest.raises((ValueError, RuntimeError)):
            layer.set("key", entry(0))
        assert layer.peek("key") is None
        assert layer.bytes_used == 0

    @pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")  # noqa: PTH110
    @pytest.mark.parametrize("rounds", [1, 2])
    def test_the_budget_is_what_the_process_grows_by(self, rounds: int) -> None:
        program = f"""if True:
            import gc, os
            from layergate.core.entry import Entry
            from layergate.layers.memory import MemoryLayer
            def resident():
                with open("/proc/self/statm") as statm:
                    return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            now = 1e6
            layer = MemoryLayer(40_000 * {OVERHEAD + 33 + 32 + 2048}, clock=lambda: now)
            gc.collect()
            before = resident()
            for number in range(40_000 * {rounds}):
                now += 0.001
                layer.set(b"%032d" % number, Entry(bytes(2048), created=now,
                    fresh_until=now + 300, stale_if_error=now, size=2048, stamp=number + 999))
                if now > 1e6 + 290: now = 1e6
            gc.collect()
            print(resident() - before, layer.bytes_used, len(layer))
        """
        root = Path(__file__).parents[3]
        answer = subprocess.run(
            [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
        )
        grown, used, entries = map(int, answer.stdout.split())
        assert entries >= 39_600
        assert grown == pytest.approx(used, rel=0.1)

    def test_the_layers_own_structures_are_small(self) -> None:
        numbers = range(20_000)
        keys = [key_for(number) for number in numbers]
        entries = [entry(lifetime=3600.0 + number) for number in numbers]
        layer = layer_for(10_000)
        tracemalloc.start()
        for key, one in zip(keys, entries, strict=True):
            layer.set(key, one)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(layer) == len(layer._store.ghost) == 10_000
        assert used / len(layer) < 400


class TestEstimate:
    @pytest.mark.parametrize(
        "value",
        [None, 0, 2**100, 1.5, True, b"", b"x" * 1000, "x" * 1000, bytearray(500), "\u2603"],
    )
    def test_exact_for_flat_values(self, value: object) -> None:
        assert estimate_size(value) == sys.getsizeof(value)

    def test_containers_with_their_content(self) -> None:
        body = b"x" * 1000
        inner = [body, "text"]
        outer = {"key": inner}
        parts = (outer, "key", inner, body, "text")
        assert estimate_size(outer) == sum(map(sys.getsizeof, parts))
        assert estimate_size((body,)) == sys.getsizeof((body,)) + sys.getsizeof(body)
        assert estimate_size(frozenset({body})) > 1000

    def test_the_same_object_counts_once(self) -> None:
        body = b"x" * 1000
        assert estimate_size([body] * 5) == sys.getsizeof([body] * 5) + sys.getsizeof(body)

    def test_cycles_end(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        assert estimate_size(loop) == sys.getsizeof(loop)

    def test_objects_through_dict_and_slots(self) -> None:
        class Plain:
            def __init__(self) -> None:
                self.body = b"x" * 1000

        class Base:
            __slots__ = ("__hidden", "unset")

            def __init__(self) -> None:
                self.__hidden = b"x" * 1000

        class Slotted(Base):
            __slots__ = ("more",)

            def __init__(self) -> None:
                super().__init__()
                self.more = b"y" * 500

            @property
            def trap(self) -> bytes:
                raise AssertionError("a property is not storage")

        assert 1000 < estimate_size(Plain()) < 1600
        assert 1500 < estimate_size(Slotted()) < 1800

    def test_a_memoryview_counts_what_it_keeps_alive(self) -> None:
        assert estimate_size(memoryview(b"x" * 1000)[:10]) > 1000

    def test_classes_functions_and_modules_are_shared(self) -> None:
        assert estimate_size([int, len, os, time.time]) == sys.getsizeof([int, len, os, time.time])

    def test_the_rest_of_something_huge_is_extrapolated(self) -> None:
        body = [bytes([n % 256]) * 100 + str(n).encode() for n in range(100_000)]
        real = sys.getsizeof(body) + sum(map(sys.getsizeof, body))
        assert estimate_size(body) == pytest.approx(real, rel=0.2)
        pairs = {str(n): n for n in range(100_000)}
        real = sum(sys.getsizeof(key) + sys.getsizeof(n) for key, n in pairs.items())
        assert estimate_size(pairs) == pytest.approx(real + sys.getsizeof(pairs), rel=0.2)
        nested = [[bytes(n % 7 + 50) for n in range(10)] for _ in range(20_000)]
        real = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row)) for row in nested)
        assert estimate_size(nested) == pytest.approx(real + sys.getsizeof(nested), rel=0.2)

    def test_depth_is_no_problem(self) -> None:
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        assert estimate_size(deep) > 5000 * 56


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"budget": "12XB"}, "budget must be a size such as '256MB'"),
            ({"budget": 0}, "budget must be at least 1 byte"),
            ({"budget": True}, "budget must be a size"),
            ({"budget": 4095}, "budget must be at least 4096 bytes, got 4095"),
            ({"max_entry": "x"}, "max_entry must be a size such as"),
            ({"max_entry": "65MB"}, "max_entry must not exceed the budget of 67108864 bytes"),
            ({"name": ""}, "name must be a non-empty string, got ''"),
            ({"name": None}, "name must be a non-empty string, got None"),
            ({"ttl": 0}, "ttl must be a positive number of seconds"),
            ({"ttl": -1.5}, "ttl must be a positive number of seconds"),
            ({"ttl": float("nan")}, "ttl must be a positive number of seconds"),
            ({"ttl": float("inf")}, "ttl must be a positive number of seconds"),
            ({"ttl": True}, "ttl must be a positive number of seconds"),
            ({"ttl": "60"}, "ttl must be a positive number of seconds"),
            ({"clock": 5}, "clock must be a function"),
            ({"sizeof": 5}, "sizeof must be a function"),
        ],
    )
    def test_what_cannot_work_is_refused(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigError) as caught:
            MemoryLayer(**options)
        assert str(caught.value).startswith(named)

    def test_defaults(self) -> None:
        layer = MemoryLayer()
        assert (layer.name, layer.ttl, layer.budget) == ("memory", None, 64 * 1024 * 1024)

    def test_stats_of_an_empty_layer(self) -> None:
        assert MemoryLayer(ttl=30, name="l1").stats() == {
            "entries": 0,
            "bytes": 0,
            "budget": 64 * 1024 * 1024,
            "evictions": 0,
            "expirations": 0,
            "rejections": 0,
        }


def run_threads(*targets: Callable[[], None]) -> None:
    """All at once; the first exception of any of them is raised here."""
    barrier = threading.Barrier(len(targets), timeout=30.0)
    failures: list[BaseException] = []

    def run(target: Callable[[], None]) -> None:
        try:
            barrier.wait()
            target()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class TestThreads:
    def test_readers_never_see_anothers_value_or_an_older_one(self) -> None:
        layer = layer_for(60)
        interval = sys.getswitchinterval()
        done = threading.Event()

        def writer(seed: int) -> Callable[[], None]:
            def run() -> None:
                # Writers own disjoint keys, so each key's versions only go up.
                rng = random.Random(seed)
                try:
                    for version in range(4000):
                        number = rng.randrange(50) * 2 + seed
                        action = rng.random()
                        if action < 0.85:
                            size = rng.choice([100, 100, 300, 2000])
                            layer.set(key_for(number), entry(size, value=(number, version)))
                        elif action < 0.99:
                            layer.delete(key_for(number))
                        elif action < 0.995:
                            layer.reclaim()
                        else:
                            layer.clear()
                finally:
                    done.set()

            return run

        def reader() -> None:
            rng = random.Random()
            latest: dict[int, int] = {}
            while not done.is_set():
                number = rng.randrange(100)
                found = layer.peek(key_for(number))
                if found is not None:
                    owner, version = found.value
                    assert owner == number
                    assert version >= latest.get(number, -1)
                    latest[number] = version
                layer.get_many([key_for(number), key_for(number // 2)])

        try:
            sys.setswitchinterval(1e-5)
            run_threads(writer(0), writer(1), reader, reader)
        finally:
            sys.setswitchinterval(interval)
        assert layer.bytes_used == sum(node.cost for node in layer._nodes.values())
        assert layer.bytes_used <= layer.budget
        assert len(layer.keys()) == len(layer)

    def test_what_was_deleted_is_gone_for_every_thread(self) -> None:
        layer = layer_for(60)
        rounds = 300
        barrier = threading.Barrier(3, timeout=30.0)

        def deleter() -> None:
            for number in range(rounds):
                layer.set(key_for(number), entry())
                barrier.wait()
                layer.delete(key_for(number))
                barrier.wait()
                barrier.wait()

        def reader() -> None:
            for number in range(rounds):
                barrier.wait()
                layer.peek(key_for(number))
                barrier.wait()
                assert layer.peek(key_for(number)) is None
                barrier.wait()

        run_threads(deleter, reader, reader)

    def test_a_finalizer_may_use_the_layer(self) -> None:
        layer = MemoryLayer(4096, clock=Clock(START))
        calls: list[bool] = []

        class Value:
            def __del__(self) -> None:
                calls.append(layer.delete("other"))

        for leave in (
            lambda: layer.set("key", entry()),
            lambda: layer.delete("key"),
            lambda: fill(layer, range(10)),
            lambda: layer.clear(),
        ):
            layer.set("key", entry(value=Value()))
            thread = threading.Thread(target=leave, daemon=True)
            thread.start()
            thread.join(10.0)
            assert not thread.is_alive(), "deadlock"
        assert len(calls) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFork:
    PROGRAM = """if True:
        import os
        from layergate.core.entry import Entry
        from layergate.layers.memory import MemoryLayer
        layer = MemoryLayer("1MB")
        layer.set("key", Entry(b"value", created=0.0, fresh_until=4e9))
        {before}
        pid = os.fork()
        if pid == 0:
            found = layer.peek("key")
            layer.set("new", Entry(b"new", created=0.0, fresh_until=4e9))
            assert layer.get("new") is not None
            os._exit(10 if found is not None else 20)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """

    @pytest.mark.parametrize(
        ("before", "code"),
        [("pass", "10"), ("layer._lock.acquire()", "20")],
        ids=["between writes", "in the midst of one"],
    )
    def test_the_child_keeps_only_what_is_whole(self, before: str, code: str) -> None:
        answer = subprocess.run(
            [sys.executable, "-c", self.PROGRAM.format(before=before)],
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert answer.stdout.strip() == code
