"""RFC 9111 section 5.3, Expires."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, not_reused, ok, reused
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

reused("fresh-expires", "5.3", ok(None, ("Expires", at(60)), DAY), after=59)
not_reused("fresh-expires-over", "5.3", ok(None, ("Expires", at(60)), DAY), after=60)
not_reused("fresh-expires-past", "5.3", ok(None, ("Expires", at(-60)), DAY))
not_reused("fresh-expires-equal", "5.3", ok(None, ("Expires", at(0)), DAY))
not_reused("fresh-expires-0", "5.3", ok(None, ("Expires", "0"), DAY))
# "max-age ... overrides Expires"
reused("fresh-max-age-expires-past", "5.3", ok("max-age=60", ("Expires", at(-9)), DAY), after=59)
not_reused("fresh-max-age-0-expires", "5.3", ok("max-age=0", ("Expires", at(99)), DAY))
for name, value in (
    ("text", "soon"), ("empty", ""), ("number", "60"), ("no-time", "Tue, 14 Nov 2023"),
    ("bad-month", "Tue, 14 Nob 2033 22:14:20 GMT"), ("utc-offset", "Tue, 14 Nov 2033 22:14:20 +0"),
):
    not_reused(f"expires-invalid-{name}", "5.3", ok(None, ("Expires", value), DAY))
