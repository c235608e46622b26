"""RFC 9111 section 5.4, Pragma."""

from __future__ import annotations

from tests.scenarios.dsl import not_reused, ok, reused

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

not_reused("cdn-pragma-response", "5.4", ok(None, ("Pragma", "max-age=60")))
reused("pragma-in-response-ignored", "5.4", ok("max-age=60", ("Pragma", "no-cache")))
