"""RFC 9111 section 4.2.2, Calculating Heuristic Freshness: the option ``heuristic``."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, LM, WEEK, fetch, hit, not_reused, ok, reused, row
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

not_reused("fresh-none-lm", "4.2.2", ok(None, LM, DAY), detail="no-freshness")
for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501):
    body = b"" if status == 204 else b"one"
    reused(f"heuristic-{status}", "4.2.2", ok(None, WEEK, DAY, status=status, body=body), after=99,
           heuristic=0.1)
for status in (201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599):
    not_reused(f"heuristic-not-{status}", "4.2.2", ok(None, WEEK, DAY, status=status), heuristic=0.1)
for status in (201, 302, 403, 502, 599):
    reused(f"heuristic-public-{status}", "4.2.2", ok("public", WEEK, DAY, status=status), after=99,
           heuristic=0.1)
not_reused("heuristic-over", "4.2.2", ok(None, WEEK, DAY), after=100, heuristic=0.1)
not_reused("heuristic-off", "4.2.2", ok("public", WEEK, DAY), after=1)
not_reused("heuristic-future", "4.2.2", ok(None, ("Last-Modified", at(99)), DAY), heuristic=0.1)
not_reused("heuristic-explicit-first", "4.2.2", ok("max-age=1", WEEK, DAY), after=2, heuristic=0.1)
not_reused("heuristic-expires-first", "4.2.2", ok(None, WEEK, DAY, ("Expires", "0")), heuristic=0.1)
row("heuristic-cookie", "G1", fetch(ok(None, WEEK, DAY), ("Cookie", "a=b")),
    fetch(ok(None, WEEK, DAY, body=b"two")), hit(b"two"), heuristic=0.1)
row("heuristic-authorization", "3.5", fetch(ok(None, WEEK, DAY), ("Authorization", "x")),
    fetch(ok(None, WEEK, DAY, body=b"two")), hit(b"two"), heuristic=0.1)
reused("heuristic-query", "4.2.2", ok(None, WEEK, DAY), heuristic=0.1)
