"""RFC 9111 section 5.5, Warning."""

from __future__ import annotations

from tests.scenarios.dsl import TWO, fetch, ok, row, stale

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# 5.5: Warning is obsolete, and not generated.
row("warning-none", "5.5", fetch(ok("max-age=10, stale-while-revalidate=60")),
    stale(b"one", TWO, advance=20, has={"warning": None}))
