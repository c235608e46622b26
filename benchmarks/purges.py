"""Measures what purges cost in memory, and how many other entries a flood of purges voids.

    python benchmarks/purges.py

A purge that is kept exactly costs some hundred bytes, and `MAX_INVALIDATIONS` of each kind are kept so.
The others share a table of floors (`core/invalidation/floors.py`): an entry that no purge names counts
as purged if all three slots of its label are high by chance. The table is sized for floods that clients
can cause: each successful unsafe request to a new target purges two keys, one for http and one for
https.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc

from layergate.core.invalidation import (
    MAX_INVALIDATIONS,
    MAX_PATTERNS,
    Invalidation,
    Invalidations,
)
from layergate.core.invalidation.floors import Floors

SAMPLE = 5_000


def voided(known: Invalidations) -> float:
    """The share of older entries that count as purged although no purge names them."""
    met = sum(
        known.purged_since(0, (f"other {one}",), f"http://other/{one}") for one in range(SAMPLE)
    )
    return met / SAMPLE


def chance(purges: int, slots: int) -> float:
    """The share that the arithmetic of `Floors` predicts."""
    return float((1 - math.exp(-3 * purges / slots)) ** 3)


def flood(kind: str, count: int, shift: int = 0) -> None:
    tracemalloc.start()
    known = Invalidations()
    began = time.process_time()
    for position in range(1, count + 1):
        value = f"http://example.com/orders/{position}"
        if kind == "path":
            value = f"/orders/{position}/*"
        known.apply(position << shift, [Invalidation(kind, value)], 0.0)  # type: ignore[arg-type]
    took = time.process_time() - began
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    exact = min(count, MAX_PATTERNS + MAX_INVALIDATIONS if kind == "path" else MAX_INVALIDATIONS)
    in_floors = count - exact
    expected = chance(in_floors, 1 << 20) if kind != "path" else math.nan
    print(
        f"{kind:6} {count:>9,} purges: {held / 1e6:6.1f} MB ({held / count:6.0f} bytes each),"
        f" {took / count * 1e6:5.1f} us each (traced); voided {voided(known):7.2%}"
        + ("" if math.isnan(expected) else f", expected {expected:7.2%}")
    )


def main() -> None:
    print(
        f"kept exactly: {MAX_INVALIDATIONS:,} of each kind and severity, {MAX_PATTERNS:,} patterns"
    )
    floors = Floors(1 << 20, timed=False)
    print(f"a table of floors: {sys.getsizeof(floors._low) / 1e6:.1f} MB, made on first use")
    print(
        "an earlier design: 100,000 kept exactly, then 4,096 slots, one for each purge;"
        " 512 patterns, then a purge of everything"
    )
    for count in (10_000, 68_000, 100_000, 200_000, 500_000, 1_000_000):
        before = 1 - (1 - 1 / 4096) ** count
        print(
            f"  {count:>9,} purges in the floors void {chance(count, 1 << 20):7.2%};"
            f" in the earlier design {before:7.2%}"
        )
    for count in (1_000, 100_000, 200_000, 1_000_000):
        flood("key", count)
    flood("key", 200_000, shift=90)  # positions of a shared log after a failover
    for count in (600, 10_000, 100_000):
        flood("path", count)


if __name__ == "__main__":
    main()
