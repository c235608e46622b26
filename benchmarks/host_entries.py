"""Measure the entries that the processes of one host share: hit ratios, and the time of each operation.

    python benchmarks/host_entries.py [--folder /dev/shm]

The hit ratios are those of the real ring (`layergate.layers.host.ring`), on the traces of `eviction.py`, beside
the policies that were considered for it: a queue; a queue with a second chance, where an entry that was read
is written again at the end; S3-FIFO in memory; and the optimum. Every policy gets the same requests, the same
budget, and the same charge per entry.

The second table has the same traces behind four workers. Each has a memory of its own, of a twentieth of the
folder's budget, and asks the folder for what it misses. A hit is a request that neither went to the app.

The times are the least of many short blocks, without the codec. A file system of its own, such as
``/dev/shm``, keeps the disk out of them.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from pathlib import Path

from eviction import (
    REQUESTS,
    UNIFORM_BUDGET,
    Belady,
    Fifo,
    Policy,
    S3Fifo,
    Trace,
    large_budget,
    measure,
    trace_large,
    trace_loop,
    trace_scans,
    trace_shifting,
    trace_zipf,
)
from layergate.layers.host.entries import Entries
from layergate.layers.host.ring import NAME_SIZE, Ring
from layergate.runtime.threads import ThreadRuntime

WORKERS = 4
MEMORY = 1 / 20
RECORD = 48  # bytes that the ring adds to a value
FAR = 4e9  # seconds since the epoch


def name_of(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=NAME_SIZE).digest()


class SecondChance:
    """A queue that counts two reads of an entry, and writes it again at the end for each."""

    def __init__(self, budget: int) -> None:
        self.room = budget
        self.sizes: OrderedDict[int, int] = OrderedDict()
        self.reads: dict[int, int] = {}

    def request(self, key: int, size: int) -> bool:
        if key in self.sizes:
            self.reads[key] = min(2, self.reads.get(key, 0) + 1)
            return True
        while self.room < size:
            oldest, freed = self.sizes.popitem(last=False)
            reads = self.reads.pop(oldest, 0)
            if reads:
                self.sizes[oldest] = freed
                self.reads[oldest] = reads - 1
            else:
                self.room += freed
        self.sizes[key] = size
        self.room -= size
        return False


class TheRing:
    """The real ring, through its public methods."""

    def __init__(self, budget: int, folder: Path) -> None:
        runtime = ThreadRuntime()
        self.ring = Ring(
            folder / "ring",
            budget,
            largest=budget // 8,
            lock=runtime.lock(),
            now=runtime.now,
            monotonic=runtime.monotonic,
        )
        self.bytes = bytes(budget)

    def request(self, key: int, size: int) -> bool:
        name = name_of(key)
        if self.ring.get(name) is not None:
            return True
        self.ring.set(name, self.bytes[: size - RECORD], FAR)
        return False


class Workers:
    """Several memories in front of what they share."""

    def __init__(self, shared: Policy, budget: int) -> None:
        self.shared = shared
        self.memories = [S3Fifo(int(budget * MEMORY)) for _ in range(WORKERS)]
        self.random = random.Random(WORKERS)

    def request(self, key: int, size: int) -> bool:
        memory = self.random.choice(self.memories)
        return memory.request(key, size) or self.shared.request(key, size)


class Nothing:
    def request(self, key: int, size: int) -> bool:
        return False


def ratios(title: str, traces: dict[str, Trace], folder: Path, *, workers: bool) -> None:
    names = ["ring", "S3-FIFO", "2nd chance", "FIFO", "no folder" if workers else "Belady"]
    print(f"\n{title}\n{'trace':<20}" + "".join(f"{name:>11}" for name in names))
    for trace_name, trace in traces.items():
        budget = large_budget(trace) if trace_name.startswith("mixed") else UNIFORM_BUDGET
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            policies: Sequence[Policy] = (
                TheRing(budget, place),
                S3Fifo(budget),
                SecondChance(budget),
                Fifo(budget),
                Nothing() if workers else Belady(budget, trace),
            )
            if workers:
                policies = [Workers(policy, budget) for policy in policies]
            row = [measure(policy, trace)[0] for policy in policies]
        print(f"{trace_name:<20}" + "".join(f"{100 * ratio:11.1f}" for ratio in row), flush=True)


def least(operation: Callable[[], object], calls: int = 200, blocks: int = 100) -> float:
    """Microseconds of a call: of the fastest block."""
    best = float("inf")
    for _ in range(blocks):
        began = time.perf_counter()
        for _ in range(calls):
            operation()
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def bare(folder: Path) -> float:
    """Microseconds that the system takes to read 2 KB of a file."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, bytes(4096), 0)
        return least(lambda: os.pread(fd, 2048, 0))
    finally:
        os.close(fd)


def times(folder: Path) -> None:
    entries = Entries(folder, size=64 << 20, large=256 << 20, runtime=ThreadRuntime())
    value = os.urandom(2048)
    numbers: Iterator[int] = iter(range(10**9))
    for _ in range(2000):
        assert entries.set(name_of(next(numbers)), value, FAR)
    name, missing = name_of(5), name_of(-1)
    assert entries.get(name) == value
    assert entries.get(missing) is None
    rows = [("pread of 2 KB, bare", bare(folder))]
    rows.append(("get, 2 KB, hit", least(lambda: entries.get(name))))
    rows.append(("get, miss", least(lambda: entries.get(missing))))
    names = iter([name_of(next(numbers)) for _ in range(120_000)])

    def store() -> None:
        assert entries.set(next(names), value, FAR)

    rows.append(("set, 2 KB, not full", least(store, 64, 200)))
    for _ in range(80_000):
        store()
    assert entries.stats()["evictions"]
    rows.append(("set, 2 KB, full", least(store, 64, 200)))
    hot = [name_of(number) for number in range(100_000, 120_000)]

    def hit_and_store() -> None:
        number = next(numbers)
        entries.get(hot[number % len(hot)])
        entries.set(name_of(number), value, FAR)

    rows.append(("get and set, 2 KB, full", least(hit_and_store, 64, 200)))
    for size, calls in ((100 << 10, 20), (8 << 20, 1)):
        big = os.urandom(size)
        assert entries.set(name, big, FAR)
        assert entries.get(name) == big
        get, put = partial(entries.get, name), partial(entries.set, name, big, FAR)
        rows.append((f"get, {size >> 10:,} KB, hit", least(get, calls, 20)))
        rows.append((f"set, {size >> 10:,} KB", least(put, calls, 20)))
    print("\nmicroseconds")
    for title, took in rows:
        print(f"{title:<26}{took:10.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the files are made")
    folder = parser.parse_args().folder
    traces = {
        "Zipf 0.8": trace_zipf(0.8),
        "Zipf 1.0": trace_zipf(1.0),
        "Zipf 1.2": trace_zipf(1.2),
        "Zipf 1.0 + scans": trace_scans(),
        "Zipf 1.0 + loop": trace_loop(),
        "Zipf 1.0, shifting": trace_shifting(),
        "mixed sizes, large": trace_large(),
    }
    with tempfile.TemporaryDirectory(dir=folder) as place:
        times(Path(place))
        budget = f"{REQUESTS:,} requests or more per trace, budget 10 % of the regular objects, hits in %"
        ratios(budget, traces, Path(place), workers=False)
        ratios(
            f"The same behind {WORKERS} workers with memories of {MEMORY:.0%} of the budget",
            traces,
            Path(place),
            workers=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
