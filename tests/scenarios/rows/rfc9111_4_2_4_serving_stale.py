"""RFC 9111 section 4.2.4, Serving Stale Responses: an origin that cannot be reached."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    ETAG,
    LOST,
    RAISES,
    TWO,
    VARY,
    fetch,
    field,
    hit,
    instead,
    ok,
    purge,
    row,
    rule,
    stale,
    unchanged,
    unreachable,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

PLAIN = ok("max-age=10")


def disconnected(id_: str, *steps: Step, rfc: str = "4.2.4", **kw: Any) -> None:
    row(f"unreachable-{id_}", rfc, *steps, **{"stale_if_unreachable": 60, **kw})


disconnected("closed", fetch(PLAIN), unreachable(b"one", LOST, advance=20, has={"age": "20"},
    cs={"ttl": -10, "fwd-status": None}), unreachable(b"one", LOST, advance=1), fetch(TWO), hit(b"two"))
for status in (502, 503, 504):
    disconnected(f"{status}", fetch(PLAIN), unreachable(b"one", ok("no-store", status=status), advance=20,
        cs={"fwd-status": status}), rfc="4.3.3")
for status in (500, 501, 505, 404):
    disconnected(f"not-{status}", fetch(PLAIN), fetch(ok("no-store", status=status), advance=20))
disconnected("not-any-error", fetch(PLAIN), fetch(RAISES, advance=20))
disconnected("off", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=20), stale_if_unreachable=None)
disconnected("zero", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=20), stale_if_unreachable=0)
disconnected("over", fetch(PLAIN), fetch(LOST, advance=70))
disconnected("over-but-kept", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=70),
    validated(unchanged(), advance=1))
disconnected("at-the-end", fetch(PLAIN), unreachable(b"one", LOST, advance=69))
disconnected("validates", fetch(ok("max-age=10", ETAG)),
    unreachable(b"one", LOST, advance=20, saw={"if-none-match": '"abc"'}))
for cc_ in ("must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache", "no-cache=\"x\", must-revalidate"):
    disconnected(f"not-{cc_}", fetch(ok(f"max-age=10, {cc_}", ETAG)), fetch(LOST, advance=20))
    disconnected(f"nor-kept-{cc_}", fetch(ok(f"max-age=10, {cc_}")), fetch(LOST, advance=20))
disconnected("never-fresh", fetch(ok("max-age=0", ETAG)), unreachable(b"one", LOST, advance=20))
disconnected("never-fresh-nor-kept", fetch(ok("max-age=0"), cs={"detail": "expired"}), fetch(LOST, advance=1))
disconnected("after-a-purge", fetch(PLAIN), purge(), fetch(LOST, advance=20))
disconnected("after-an-unsafe-request", fetch(PLAIN), fetch(ok(status=204, body=b""), method="POST"),
    fetch(LOST, advance=20))
disconnected("longer-than-stale-if-error", fetch(ok("max-age=10, stale-if-error=20")),
    instead(b"one", LOST, advance=20), unreachable(b"one", LOST, advance=20))
disconnected("shorter-than-stale-if-error", fetch(ok("max-age=10, stale-if-error=99")),
    instead(b"one", LOST, advance=80))
disconnected("stale-if-error-0", fetch(ok("max-age=10, stale-if-error=0")), unreachable(b"one", LOST, advance=20))
disconnected("authorization", fetch(PLAIN), fetch(LOST, AUTH, advance=20), unreachable(b"one", LOST), rfc="3.5")
disconnected("rule-for-no-cookies", fetch(ok()), fetch(LOST, COOKIE, advance=20), unreachable(b"one", LOST),
    rfc="G1", rules=rule(ttl=10))
disconnected("head", fetch(PLAIN), unreachable(b"", LOST, method="HEAD", advance=20))
disconnected("other-variant", fetch(ok("max-age=10", *VARY), *field("1")), fetch(LOST, *field("2"), advance=20),
    unreachable(b"one", LOST, *field("1")))
disconnected("nothing-stored", fetch(LOST))
disconnected("then-304", fetch(ok("max-age=10", ETAG)), unreachable(b"one", LOST, advance=20),
    validated(unchanged("max-age=10")), hit(), unreachable(b"one", LOST, advance=20))
disconnected("head-freshens-later", fetch(PLAIN), fetch(ok("max-age=60"), method="HEAD", advance=20), hit(),
    rfc="4.3.5")
disconnected("collapsed", fetch(PLAIN), Step(concurrent=4, advance=20, origin=(LOST,), content=b"one",
    cs={"detail": "stale-if-unreachable"}))
disconnected("refresh", fetch(ok("max-age=10, stale-while-revalidate=20")), stale(b"one", LOST, advance=20),
    unreachable(b"one", LOST, advance=20), rfc="RFC 5861 3")
