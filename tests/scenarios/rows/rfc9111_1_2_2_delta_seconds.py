"""RFC 9111 section 1.2.2, Delta Seconds."""

from __future__ import annotations

from tests.scenarios.dsl import not_reused, ok, reused

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# Overflow: 1.2.2, "the cache MUST consider the value to be 2147483648" or the largest it can do.
for name, value in (
    ("max", "2147483647"), ("max-1", "2147483648"), ("more", "99999999999"),
    ("huge", "9" * 400), ("zeros", "0" * 30 + "60"),
):
    reused(f"max-age-{name}", "1.2.2", ok(f"max-age={value}"), after=59)
    reused(f"s-maxage-{name}", "1.2.2", ok(f"s-maxage={value}"), after=59)
not_reused("age-huge", "1.2.2", ok("max-age=60", ("Age", "9" * 60)))
