"""RFC 9111 section 4.2.1, Calculating Freshness Lifetime."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, ETAG, not_reused, ok, reused
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

reused("fresh-max-age", "4.2.1", ok("max-age=60"), after=59.5)
not_reused("fresh-max-age-over", "4.2.1", ok("max-age=60"), after=60)  # lifetime > current_age
not_reused("fresh-max-age-0", "4.2.1", ok("max-age=0"))
not_reused("fresh-none", "4.2.1", ok(), detail="no-freshness")
reused("fresh-expires-no-date", "4.2.1", ok(None, ("Expires", at(60))), after=59)
# Expires minus Date is a lifetime: what the origin's clock says does not matter. Its Date does for the age: see section 4.2.3.
reused("fresh-expires-slow-clock", "4.2.1", ok(None, ("Expires", at(9060)), ("Date", at(9000))), after=59)
not_reused("fresh-expires-slow-clock-over", "4.2.1",
           ok(None, ("Expires", at(9060)), ("Date", at(9000))), after=60)
not_reused("expires-two-different", "4.2.1", ok(None, ("Expires", at(60)), ("Expires", at(-9)), DAY))
reused("expires-two-equal", "4.2.1", ok(None, ("Expires", at(60)), ("Expires", at(60)), DAY))
# "Caches are encouraged to consider responses that have invalid freshness information to be stale"
for name, value in (
    ("negative", "max-age=-60"), ("float", "max-age=60.0"), ("text", "max-age=a60"),
    ("trailing", "max-age=60a"), ("empty", "max-age="), ("bare", "max-age"),
    ("space-before", "max-age =60"), ("space-after", "max-age= 60"), ("single", "max-age='60'"),
    ("hex", "max-age=0x60"), ("plus", "max-age=+60"), ("s-maxage", "max-age=60, s-maxage=x"),
):
    not_reused(f"cc-invalid-{name}", "4.2.1", ok(value, ETAG))
not_reused("cc-first-wins-low", "4.2.1", ok("max-age=1, max-age=60"), after=2)
