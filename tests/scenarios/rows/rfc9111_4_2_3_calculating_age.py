"""RFC 9111 section 4.2.3, Calculating Age."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, fetch, hit, not_reused, ok, reused, row
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# A lifetime does not depend on the origin's clock (4.2.1), but apparent_age does.
not_reused("fresh-expires-fast-clock", "4.2.3",
           ok(None, ("Expires", at(-8940)), ("Date", at(-9000))))
not_reused("fresh-old-date", "4.2.3", ok("max-age=60", ("Date", at(-61))))
reused("fresh-older-date", "4.2.3", ok("max-age=60", ("Date", at(-50))), after=9)
row("age-upstream", "4.2.3", fetch(ok("max-age=600", ("Age", "30")), has={"age": "30"}),
    hit(advance=5, has={"age": "35"}, cs={"ttl": 565}))
row("age-upstream-expires", "4.2.3", fetch(ok(None, ("Expires", at(600)), DAY, ("Age", "30"))),
    hit(advance=5, has={"age": "35"}, cs={"ttl": 565}))
not_reused("age-uses-up-lifetime", "4.2.3", ok("max-age=60", ("Age", "60")))
not_reused("age-over-lifetime", "4.2.3", ok("max-age=60", ("Age", "7200")))
not_reused("age-over-expires", "4.2.3", ok(None, ("Expires", at(60)), DAY, ("Age", "60")))
row("age-apparent", "4.2.3", fetch(ok("max-age=600", ("Date", at(-40)))), hit(has={"age": "40"}))
row("age-greater-of-two", "4.2.3", fetch(ok("max-age=600", ("Date", at(-40)), ("Age", "70"))),
    hit(has={"age": "70"}))
row("age-clock-ahead", "4.2.3", fetch(ok("max-age=600", ("Date", at(400)))), hit(has={"age": "0"}))
row("age-response-delay", "4.2.3", fetch(ok("max-age=600", ("Age", "5"), takes=10)),
    hit(has={"age": "15"}, cs={"ttl": 585}))
row("age-one-line", "4", fetch(ok("max-age=600", ("Age", "3"), ("age", "4"))), hit(has={"age": "3"}))
