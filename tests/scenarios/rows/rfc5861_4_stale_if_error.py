"""RFC 5861 section 4, The stale-if-error Cache-Control Extension."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    ETAG,
    FAIL,
    INM,
    OLD,
    RAISES,
    SIE,
    TWO,
    VARY,
    cc,
    fetch,
    field,
    hit,
    instead,
    ok,
    row,
    stale,
    unchanged,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

for status in (500, 502, 503, 504):
    row(f"sie-{status}", "RFC 5861 4", fetch(ok(SIE)),
        instead(b"one", ok("no-store", status=status), advance=20, has={"age": "20"},
                cs={"ttl": -10, "fwd-status": status}))
row("sie-exception", "RFC 5861 4", fetch(ok(SIE)), instead(b"one", RAISES, advance=20, cs={"ttl": -10}))
row("sie-again", "RFC 5861 4", fetch(ok(SIE)), instead(b"one", FAIL, advance=20),
    instead(b"one", FAIL, advance=1), fetch(TWO), hit(b"two"))
row("sie-validates", "RFC 5861 4", fetch(ok(SIE, ETAG)),
    instead(b"one", FAIL, advance=20, saw={"if-none-match": '"abc"'}))
row("sie-over", "RFC 5861 4", fetch(ok(SIE)), fetch(FAIL, advance=40))
row("sie-over-exception", "RFC 5861 4", fetch(ok(SIE)), fetch(RAISES, advance=40))
for status in (404, 400, 403, 429, 501, 505):
    row(f"sie-not-{status}", "RFC 5861 4", fetch(ok(SIE)), fetch(ok(status=status), advance=20))
for name in ("must-revalidate", "proxy-revalidate"):
    row(f"sie-{name}", "4.2.4", fetch(ok(f"{SIE}, {name}")), fetch(FAIL, advance=20))
    row(f"sie-request-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        fetch(FAIL, cc("stale-if-error=99"), advance=20))
row("sie-no-cache", "4.2.4", fetch(ok(f"{SIE}, no-cache", ETAG)), fetch(FAIL, advance=1))
row("sie-s-maxage", "4, 5.2.2.10", fetch(ok("s-maxage=10, stale-if-error=30")),
    instead(b"one", FAIL, advance=20))
row("sie-none", "4.2.4", fetch(OLD), fetch(FAIL, advance=20))
row("sie-request", "RFC 5861 4", fetch(OLD), instead(b"one", FAIL, cc("stale-if-error=30"), advance=20))
row("sie-request-over", "RFC 5861 4", fetch(OLD), fetch(FAIL, cc("stale-if-error=5"), advance=20))
row("sie-request-s-maxage", "4.2.4", fetch(ok("s-maxage=10", ETAG)),
    fetch(FAIL, cc("stale-if-error=30"), advance=20))
row("sie-head", "RFC 5861 4", fetch(ok(SIE)), instead(b"", FAIL, method="HEAD", advance=20))
row("sie-304-to-client", "RFC 5861 4", fetch(ok(SIE, ETAG)),
    instead(b"", FAIL, INM, advance=20, status=304))
row("sie-swr-then-error", "RFC 5861 4",
    fetch(ok("max-age=10, stale-while-revalidate=10, stale-if-error=60")),
    stale(b"one", FAIL, advance=15), instead(b"one", FAIL, advance=10))
row("sie-cacheable-error", "RFC 5861 4", fetch(ok(SIE)),
    instead(b"one", ok("max-age=60", status=503), advance=20), instead(b"one", FAIL))
row("sie-vary", "RFC 5861 4", fetch(ok(SIE, *VARY), *field("1")), instead(b"one", FAIL, *field("1"), advance=20),
    fetch(FAIL, *field("2")))
row("sie-only-public", "3.5", fetch(ok(SIE)), fetch(FAIL, AUTH, advance=20), instead(b"one", FAIL))
row("sie-after-mismatch", "4.3.4", fetch(ok(SIE, ETAG)),
    Step(advance=20, origin=(unchanged("max-age=60", ("ETag", '"x"')), FAIL), status=503,
         content=b"down", cs={"hit": None}))
row("sie-request-max-age", "RFC 5861 4", fetch(ok(SIE)), instead(b"one", FAIL, cc("max-age=100"), advance=20))
row("sie-no-stored", "RFC 5861 4", fetch(FAIL), fetch(RAISES))
