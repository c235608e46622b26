"""Scenarios: which stored response a request selects, and what a validation makes of that.

RFC 9111 sections 4.1 (Vary), 4.3.1 (entity tags that are sent) and 4.3.4 (what a 304 updates).
"""

from __future__ import annotations

from tests.scenarios.table import (
    VARY,
    f,
    varied,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- 4.1: of a field that is not known to be a list, only the ends are trimmed ----------------------

for name_, other in (("comma-behind", "u1,"), ("comma-before", ",u1"), ("commas", "u1,,"), ("semicolon", "u1;")):
    varied(f"no-list-{name_}", VARY, f("u1"), f(other), match=False)
varied("no-list-space", VARY, f("a, b"), f("a,b"), match=False)
varied("no-list-ends", VARY, f("a,b"), f(" a,b\t"), match=True)
varied("list-empty-members", f("Prefer", name="Vary"), f("u1", name="Prefer"), f(",u1,", name="Prefer"), match=True)
