"""Rules: a lifetime by status, and the short one of a 404."""

from __future__ import annotations

from tests.scenarios.dsl import (
    ETAG,
    FAIL,
    TWO,
    fetch,
    hit,
    instead,
    ok,
    row,
    rule,
    stale,
    to,
    unchanged,
    validated,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

GONE = ok(status=404, body=b"gone")
HOUR = rule(ttl=3600, stale_while_revalidate=3600, stale_if_error=3600)
for status in (404, 410):
    missing = ok(status=status, body=b"gone")
    row(f"ttl-{status}-ten-seconds", "4.2.2, G1", fetch(missing), hit(b"gone", status=status, advance=9), fetch(TWO, advance=1), hit(b"two"), rules=HOUR)
    row(f"ttl-{status}-less-than-ten", "4.2.2, G1", fetch(missing), hit(b"gone", status=status, advance=2), fetch(TWO, advance=1), rules=rule(ttl=3))
    row(f"ttl-{status}-named", "4.2.2, G1", fetch(missing), hit(b"gone", status=status, advance=59), fetch(TWO, advance=1), rules=rule(ttl={200: 9, status: 60}))
    row(f"ttl-{status}-not-named", "4.2.2, G1", fetch(missing, cs={"detail": "no-freshness"}), fetch(ok(), advance=1), rules=rule(ttl={200: 60}))
    # What the app says of it is not touched, unless the rule overrides it.
    row(f"ttl-{status}-of-the-app", "4.2.2, G1", fetch(ok("max-age=60", status=status)), hit(status=status, advance=59), rules=HOUR)
    row(f"ttl-{status}-override", "4.2.2, G1", fetch(ok("max-age=60", status=status)), hit(status=status, advance=9), fetch(TWO, advance=1),
        rules=rule(ttl=3600, override=True))
    row(f"ttl-{status}-confirmed", "4.2.2, G1", fetch(ok(None, ETAG, status=status, body=b"gone")),
        validated(unchanged(), b"gone", advance=10, status=status, saw={"if-none-match": '"abc"'}), hit(b"gone", status=status, advance=9), fetch(TWO, advance=1),
        rules=HOUR)
    row(f"ttl-{status}-error", "4.2.2, G1", fetch(missing), fetch(FAIL, advance=10), rules=HOUR)
    row(f"ttl-{status}-named-windows", "4.2.2, G1", fetch(missing), stale(b"gone", TWO, advance=20, status=status), hit(b"two"),
        rules=rule(ttl={status: 10}, stale_while_revalidate=60))
row("ttl-200-windows", "4.2.2, G1", fetch(ok()), instead(b"one", FAIL, advance=3700), rules=rule(ttl=3600, stale_if_error=3600))
row("ttl-by-status", "4.2.2, G1", to("/a", fetch(ok())), to("/b", fetch(GONE)), to("/c", fetch(ok(status=302))),
    to("/a", hit(advance=59)), to("/b", fetch(TWO)), to("/c", hit(status=302)), rules=rule(ttl={200: 60, 404: 5, "302": 60}))
row("ttl-by-status-override", "4.2.2, G1", fetch(ok("max-age=1")), hit(advance=59), rules=rule(ttl={200: 60}, override=True))
row("ttl-by-status-override-not-named", "4.2.2, G1", fetch(ok("max-age=1", status=301)), fetch(TWO, advance=2), rules=rule(ttl={200: 60}, override=True))
# A 404, then a POST that makes what was not there: the same target, one that the response names, or neither.
CREATED = ok(None, status=201, body=b"")
row("ttl-404-created", "4.4", to("/items/5", fetch(GONE)), to("/items/5", fetch(CREATED, method="POST")), to("/items/5", fetch(TWO)), rules=HOUR)
row("ttl-404-created-elsewhere", "4.4", to("/items/5", fetch(GONE)),
    to("/items", fetch(ok(None, ("Location", "/items/5"), status=201, body=b""), method="POST")), to("/items/5", fetch(TWO)), rules=HOUR)
row("ttl-404-created-unsaid", "4.2.2, G1", to("/items/5", fetch(GONE)), to("/items", fetch(CREATED, method="POST")),
    to("/items/5", hit(b"gone", status=404, advance=9)), to("/items/5", fetch(TWO, advance=1)), rules=HOUR)
