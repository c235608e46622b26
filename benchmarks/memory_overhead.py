"""Measure OVERHEAD: the memory of an entry in `MemoryLayer` beyond its key and payload.

    python benchmarks/memory_overhead.py

The script fills a layer in a fresh process and divides the growth of the resident set by the number of
entries. ``fill`` stores each key once and stays within the budget. ``churn`` stores three times as many
keys, so that the ghost is full and the heap is as fragmented as in production. Linux only, because it
reads ``/proc``.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from layergate.core.entry import Entry
from layergate.layers.memory import OVERHEAD, MemoryLayer


def resident() -> int:
    """Bytes of physical memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def key(number: int) -> bytes:
    return b"%032d" % number


def fill(entries: int, payload: int, rounds: int) -> tuple[float, float, float]:
    """Bytes per entry: growth, charge, and growth minus key and payload."""
    key_size = sys.getsizeof(key(0))
    now = 1_000_000.0
    budget = entries * (OVERHEAD + key_size + payload) + 4096
    layer = MemoryLayer(budget, clock=lambda: now)
    gc.collect()
    before = resident()
    for number in range(entries * rounds):
        # Every time and stamp is a separate number, as in production.
        now += 0.001
        layer.set(
            key(number),
            Entry(
                bytes(payload),
                created=now,
                fresh_until=now + 3000,
                stale_while_revalidate=60.0,
                expires=now + 1e9,
                stamp=number + 1000,
                size=payload,
            ),
        )
    gc.collect()
    grown = (resident() - before) / len(layer)
    return grown, layer.bytes_used / len(layer), grown - key_size - payload


def main() -> None:
    if len(sys.argv) == 4:
        print(*fill(*map(int, sys.argv[1:])))
        return
    print(f"OVERHEAD = {OVERHEAD} bytes")
    print(
        f"{'entries':>9}{'payload':>9}  {'':<7}{'RSS/entry':>10}{'charged':>9}{'ratio':>7}{'other':>8}"
    )
    for entries, payload in ((100_000, 2048), (160_000, 2048), (100_000, 200), (400_000, 200)):
        for title, rounds in (("fill", 1), ("churn", 3)):
            command = [sys.executable, __file__, str(entries), str(payload), str(rounds)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            grown, charged, beside = map(float, answer.split())
            print(
                f"{entries:>9,}{payload:>9,}  {title:<7}{grown:>10.0f}{charged:>9.0f}"
                f"{grown / charged:>7.2f}{beside:>8.0f}"
            )


if __name__ == "__main__":
    main()
