"""Which tests are run for which module, and what keeps them from being run for a mutant.

`tools.mutants.campaign` asks `tests_of` once for each module. Within what the table names it runs
only tests that were seen to enter the mutated function, the cheapest first; so a row says where to
look, not in which order. Patterns, not names: files may move within their folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MODULES: Final = ("http/rfc9111", "http/engine", "core", "shared", "layers/host", "gateway")

# A folder below layergate/: patterns below tests/. The longest row that begins a module's path counts.
SUITES: Final[dict[str, tuple[str, ...]]] = {
    "http/rfc9111": (
        "http/**/test_*.py",
        "scenarios/test_[aw]*.py",
        "guarantees/test_g[16]*.py",
        "guarantees/test_ranges.py",
    ),
    "http/engine": (
        "http/**/test_*.py",
        "scenarios/test_*.py",
        "guarantees/test_*.py",
        "asgi/test_*.py",
        "wsgi/test_[!de]*.py",
        "fleet/test_*.py",
    ),
    "core": (
        "core/**/test_*.py",
        "layers/test_*.py",
        "layers/memory/test_*.py",
        "faults/test_*.py",
        "scenarios/test_[aw]*.py",
        "guarantees/test_g[23459]*.py",
        "guarantees/test_g11_receipts.py",
        "guarantees/test_leases.py",
        "guarantees/test_posting.py",
        "fleet/test_*.py",
        "telemetry/test_[fms]*.py",
    ),
    "shared": (
        "shared/test_*.py",
        "shared/*/test_*.py",
        "core/test_fleet.py",
        "layers/redis/test_layer.py",
        "fleet/test_*.py",
        "guarantees/test_g[23]*.py",
        "guarantees/test_leases.py",
    ),
    "layers/host": ("layers/host/test_*.py", "cli/test_purge_host.py"),
    "gateway": ("gateway/**/test_*.py", "cli/test_serve.py"),
}

# Files that say nothing about one function, or take minutes.
LEFT_OUT: Final = (
    "test_end_to_end_oracle.py",
    "test_g7_memos.py",
    "test_packaging.py",
    "test_slow_large_bodies.py",
)


def tests_of(module: str, root: Path) -> list[Path]:
    """The test files for a module or a file of it, in the order of the table."""
    rows = [row for row in SUITES if module == row or module.startswith(f"{row}/")]
    if not rows:
        raise ValueError(f"no tests are known for {module!r}; the table has {', '.join(SUITES)}")
    found: dict[Path, None] = {}
    for pattern in SUITES[max(rows, key=len)]:
        for path in sorted((root / "tests").glob(pattern)):
            if path.name not in LEFT_OUT:
                found.setdefault(path)
    return list(found)
