"""What purges cost in memory, and what floods of them void: the arithmetic, and the same measured.

    python benchmarks/marks.py

A mark that is kept exactly costs some hundred bytes; so many are kept of each kind (`MAX_INVALIDATIONS`). The
others share a table of floors (`core/invalidation.py`, `_Floors`): an entry that no purge names is taken
for purged if all three slots of its label are high by chance. Made for floods that clients can cause: each
successful unsafe request to a new target is two key marks (http and https).
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
    _Floors,
)

SAMPLE = 5_000


def voided(known: Invalidations) -> float:
    """The share of entries older than all marks, and named by none, that count as purged."""
    met = sum(
        known.purged_since(0, (f"other {one}",), f"http://other/{one}") for one in range(SAMPLE)
    )
    return met / SAMPLE


def chance(invalidations: int, slots: int) -> float:
    return float((1 - math.exp(-3 * invalidations / slots)) ** 3)


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
    sunk = count - exact
    expected = chance(sunk, 1 << 20) if kind != "path" else math.nan
    print(
        f"{kind:6} {count:>9,} marks: {held / 1e6:6.1f} MB ({held / count:6.0f} bytes a mark),"
        f" {took / count * 1e6:5.1f} us each (traced); voided {voided(known):7.2%}"
        + ("" if math.isnan(expected) else f", expected {expected:7.2%}")
    )


def main() -> None:
    print(f"exact: {MAX_INVALIDATIONS:,} of a kind and severity, {MAX_PATTERNS:,} patterns")
    floors = _Floors(1 << 20, timed=False)
    print(f"a table of floors: {sys.getsizeof(floors._low) / 1e6:.1f} MB, made when it is needed")
    print(
        "before: 100,000 exact, then 4,096 slots, one for each mark; 512 patterns, then everything"
    )
    for sunk in (10_000, 68_000, 100_000, 200_000, 500_000, 1_000_000):
        before = 1 - (1 - 1 / 4096) ** sunk
        print(f"  {sunk:>9,} sunk marks void {chance(sunk, 1 << 20):7.2%}; before {before:7.2%}")
    for count in (1_000, 100_000, 200_000, 1_000_000):
        flood("key", count)
    flood("key", 200_000, shift=90)  # the positions of a shared log, after a failover
    for count in (600, 10_000, 100_000):
        flood("path", count)


if __name__ == "__main__":
    main()
