"""RFC 9111 section 2, Overview of Cache Operation: the cache key."""

from __future__ import annotations

from tests.scenarios.dsl import TWO, fetch, hit, ok, row

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# 2: keys
row("key-query", "2", fetch(ok("max-age=60"), target="/a?x=1"), hit(target="/a?x=1"),
    fetch(TWO, target="/a?x=2"), fetch(TWO, target="/a"), hit(target="/a?x=1"))
row("key-query-order", "2", fetch(ok("max-age=60"), target="/a?x=1&y=2"),
    fetch(TWO, target="/a?y=2&x=1"))
row("key-path-case", "2", fetch(ok("max-age=60"), target="/a"), fetch(TWO, target="/A"))
