"""Compare the hit ratios of eviction policies on synthetic web traces.

    python benchmarks/eviction.py

The policies are the real `MemoryLayer` (S3-FIFO), SIEVE, LRU, FIFO and Belady's optimum. Every policy
gets the same requests, the same budget and the same charge per entry, and every miss is followed by a
store. Traces are seeded, so the table is the same on every run except for the S3-FIFO column. The ghost of
S3-FIFO contains hashes, which are salted per process. Set ``PYTHONHASHSEED`` to fix them; the ratios vary
by 0.1 at most.

The optimum evicts the object whose next request is the latest. It does not admit an object whose next
request is later than those of all objects that it would evict. This is exact for entries of equal size,
and a good approximation for mixed sizes.
"""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from layergate.core.entry import Entry
from layergate.layers.memory import OVERHEAD, MemoryLayer

SEED = 9111
REQUESTS = 120_000
OBJECTS = 20_000
BODY = 2048
# The charge of `MemoryLayer` for an entry with such a key; the other policies use the same charge.
KEY = "{:012d}"
CHARGE = OVERHEAD + KEY.format(0).__sizeof__()


class Request(NamedTuple):
    key: int
    size: int  # bytes charged


Trace = Sequence[Request]


class Policy(Protocol):
    def request(self, key: int, size: int) -> bool:
        """True for a hit. After a miss, the object has been offered to the cache."""
        ...


class S3Fifo:
    """The real layer, through its public methods."""

    def __init__(self, budget: int) -> None:
        self.layer = MemoryLayer(budget, max_entry=budget, clock=lambda: 0.0)

    def request(self, key: int, size: int) -> bool:
        name = KEY.format(key)
        if self.layer.peek(name) is not None:
            return True
        self.layer.set(name, Entry(None, created=0.0, fresh_until=1e9, size=size - CHARGE))
        return False


class Fifo:
    moves_on_hit = False

    def __init__(self, budget: int) -> None:
        self.room = budget
        self.sizes: OrderedDict[int, int] = OrderedDict()

    def request(self, key: int, size: int) -> bool:
        sizes = self.sizes
        if key in sizes:
            if self.moves_on_hit:
                sizes.move_to_end(key)
            return True
        while self.room < size:
            self.room += sizes.popitem(last=False)[1]
        sizes[key] = size
        self.room -= size
        return False


class Lru(Fifo):
    moves_on_hit = True


class Sieve:
    """Zhang et al., "SIEVE is simpler than LRU", NSDI 2024, with a budget in bytes."""

    def __init__(self, budget: int) -> None:
        self.room = budget
        # key -> [key, size, visited, younger, older]
        self.nodes: dict[int, list[Any]] = {}
        self.head: list[Any] | None = None
        self.tail: list[Any] | None = None
        self.hand: list[Any] | None = None

    def request(self, key: int, size: int) -> bool:
        node = self.nodes.get(key)
        if node is not None:
            node[2] = True
            return True
        while self.room < size:
            self.evict()
        node = [key, size, False, None, self.head]
        if self.head is not None:
            self.head[3] = node
        self.head = node
        if self.tail is None:
            self.tail = node
        self.nodes[key] = node
        self.room -= size
        return False

    def evict(self) -> None:
        node: Any = self.hand or self.tail
        while node[2]:
            node[2] = False
            node = node[3] or self.tail
        key, size, _, younger, older = node
        self.hand = younger
        if younger is not None:
            younger[4] = older
        else:
            self.head = older
        if older is not None:
            older[3] = younger
        else:
            self.tail = younger
        del self.nodes[key]
        self.room += size


class Belady:
    """Evicts the object whose next request is the latest. It knows the future, so it needs the trace."""

    def __init__(self, budget: int, trace: Trace) -> None:
        self.room = budget
        self.uses: dict[int, deque[int]] = {}
        for at, request in enumerate(trace):
            self.uses.setdefault(request.key, deque()).append(at)
        self.held: dict[int, tuple[int, int]] = {}  # key -> next use, size
        self.heap: list[tuple[int, int]] = []  # -next use, key; outdated ones are skipped

    def request(self, key: int, size: int) -> bool:
        uses = self.uses[key]
        uses.popleft()
        hit = key in self.held
        if not uses:
            if hit:
                self.room += self.held.pop(key)[1]
            return hit
        if not hit:
            victims = []
            room = self.room
            while room < size:
                negative, victim = heapq.heappop(self.heap)
                if self.held.get(victim, (0, 0))[0] != -negative:
                    continue
                victims.append((negative, victim))
                room += self.held[victim][1]
                if -negative < uses[0]:
                    for item in victims:
                        heapq.heappush(self.heap, item)
                    return False
            for _, victim in victims:
                del self.held[victim]
            self.room = room - size
        self.held[key] = (uses[0], size)
        heapq.heappush(self.heap, (-uses[0], key))
        return hit


def zipf(random_: random.Random, alpha: float, objects: int) -> Callable[[], int]:
    cumulative = list(accumulate(1 / rank**alpha for rank in range(1, objects + 1)))
    total = cumulative[-1]
    return lambda: bisect_left(cumulative, random_.random() * total)


def small_size(key: int) -> int:
    return CHARGE + BODY


def trace_zipf(alpha: float) -> Trace:
    draw = zipf(random.Random(SEED), alpha, OBJECTS)
    keys = (draw() for _ in range(REQUESTS))
    return [Request(key, small_size(key)) for key in keys]


def trace_scans() -> Trace:
    """Zipf(1.0). After every 10,000 requests, a crawler reads 4,000 pages that no client requests."""
    draw = zipf(random.Random(SEED), 1.0, OBJECTS)
    keys: list[int] = []
    page = OBJECTS
    while len(keys) < REQUESTS:
        keys += [draw() for _ in range(10_000)]
        keys += range(page, page + 4_000)
        page += 4_000
    return [Request(key, small_size(key)) for key in keys]


def trace_loop() -> Trace:
    """Zipf(1.0), alternating with a crawler that reads the same 6,000 pages again and again."""
    draw = zipf(random.Random(SEED), 1.0, OBJECTS)
    keys = [draw() if at % 2 else OBJECTS + at // 2 % 6_000 for at in range(REQUESTS)]
    return [Request(key, small_size(key)) for key in keys]


def trace_shifting() -> Trace:
    """Zipf(1.0) whose ranking shifts by 2,000 objects after every 20,000 requests."""
    draw = zipf(random.Random(SEED), 1.0, OBJECTS)
    keys = [(draw() + at // 20_000 * 2_000) % OBJECTS for at in range(REQUESTS)]
    return [Request(key, small_size(key)) for key in keys]


def trace_large() -> Trace:
    """Zipf(1.0) with log-normal sizes. One request in 50 is for a large object (2-8 % of the budget).

    Seven in eight large objects are never requested again.
    """
    random_ = random.Random(SEED)
    draw = zipf(random_, 1.0, OBJECTS)
    sizes = [CHARGE + min(int(random_.lognormvariate(8, 1)), 100_000) for _ in range(OBJECTS)]
    budget = sum(sizes) // 10
    trace = []
    once = OBJECTS + 1000
    for _ in range(REQUESTS):
        if random_.random() < 0.02:
            if random_.random() < 0.125:
                key = OBJECTS + random_.randrange(50)
                size = int(budget * (0.02 + key % 50 / 50 * 0.06))
            else:
                key = once
                once += 1
                size = int(budget * random_.uniform(0.02, 0.08))
        else:
            key = draw()
            size = sizes[key]
        trace.append(Request(key, size))
    return trace


UNIFORM_BUDGET = OBJECTS * (CHARGE + BODY) // 10


def large_budget(trace: Trace) -> int:
    return sum({key: size for key, size in trace if key < OBJECTS}.values()) // 10


def measure(policy: Policy, trace: Trace) -> tuple[float, float]:
    """The object hit ratio and the byte hit ratio."""
    hits = hit_bytes = total = 0
    for key, size in trace:
        total += size
        if policy.request(key, size):
            hits += 1
            hit_bytes += size
    return hits / len(trace), hit_bytes / total


def main() -> None:
    began = time.perf_counter()
    traces = {
        "Zipf 0.8": trace_zipf(0.8),
        "Zipf 1.0": trace_zipf(1.0),
        "Zipf 1.2": trace_zipf(1.2),
        "Zipf 1.0 + scans": trace_scans(),
        "Zipf 1.0 + loop": trace_loop(),
        "Zipf 1.0, shifting": trace_shifting(),
        "mixed sizes, large": trace_large(),
    }
    names = ("S3-FIFO", "SIEVE", "LRU", "FIFO", "Belady")
    print(f"{REQUESTS:,} requests or more per trace, budget 10 % of the regular objects, in %")
    print(f"{'trace':<20} {'ratio':<7}" + "".join(f"{name:>9}" for name in names))
    for title, trace in traces.items():
        mixed = title.startswith("mixed")
        budget = large_budget(trace) if mixed else UNIFORM_BUDGET
        policies = (S3Fifo(budget), Sieve(budget), Lru(budget), Fifo(budget), Belady(budget, trace))
        results = [measure(policy, trace) for policy in policies]
        row = "".join(f"{100 * objects:9.1f}" for objects, _ in results)
        print(f"{title:<20} {'object':<7}{row}", flush=True)
        if mixed:
            row = "".join(f"{100 * in_bytes:9.1f}" for _, in_bytes in results)
            print(f"{'':<20} {'byte':<7}{row}", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
