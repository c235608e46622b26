"""RFC 5861 section 3, The stale-while-revalidate Cache-Control Extension."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    DAY,
    ETAG,
    FAIL,
    INM,
    RAISES,
    SWR,
    TWO,
    VARY,
    cc,
    fetch,
    field,
    hit,
    ok,
    row,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("swr", "RFC 5861 3", fetch(ok(SWR)), stale(b"one", TWO, advance=10, has={"age": "10"}, cs={"ttl": 0}),
    hit(b"two"))
row("swr-last", "RFC 5861 3", fetch(ok(SWR)), stale(b"one", TWO, advance=39, cs={"ttl": -29}), hit(b"two"))
row("swr-over", "RFC 5861 3", fetch(ok(SWR)), fetch(TWO, advance=40))
row("swr-over-validates", "RFC 5861 3", fetch(ok(SWR, ETAG)), validated(unchanged(), advance=40))
row("swr-refresh-validates", "RFC 5861 3", fetch(ok(SWR, ETAG)),
    stale(b"one", unchanged("max-age=60"), advance=20,
          saw={"if-none-match": '"abc"', "cookie": None}),
    hit(has={"age": "0"}))
row("swr-refresh-clean", "RFC 5861 3", fetch(ok(SWR, ETAG)),
    Step(headers=(("If-None-Match", '"x"'), ("If-Modified-Since", at(0)), ("X-A", "1")), advance=20,
         refresh=TWO, content=b"one", cs={"hit": True},
         saw={"if-none-match": '"abc"', "if-modified-since": None, "x-a": "1"}),
    hit(b"two"))
row("swr-304-to-client", "RFC 5861 3", fetch(ok(SWR, ETAG)),
    Step(headers=(INM,), advance=20, refresh=TWO, status=304, content=b"", cs={"hit": True}))
row("swr-refresh-fails", "RFC 5861 3", fetch(ok(SWR)), stale(b"one", FAIL, advance=20),
    stale(b"one", RAISES, advance=1), stale(b"one", TWO, advance=1), hit(b"two"))
row("swr-refresh-private", "RFC 5861 3", fetch(ok(SWR)), stale(b"one", ok("private", body=b"me"), advance=20),
    fetch(TWO))
row("swr-refresh-304-mismatch", "RFC 5861 3", fetch(ok(SWR, ETAG)),
    stale(b"one", unchanged("max-age=60", ("ETag", '"x"')), advance=20), fetch(TWO, advance=20))
row("swr-own-age", "RFC 5861 3", fetch(ok(SWR, ("Age", "5"))), stale(b"one", TWO, advance=5))
row("swr-vary", "RFC 5861 3", fetch(ok(SWR, *VARY), *field("1")),
    stale(b"one", ok("max-age=60", *VARY, body=b"two"), *field("1"), advance=20, saw={"foo": "1"}),
    hit(b"two", *field("1")), fetch(ok("max-age=60", *VARY, body=b"three"), *field("2")))
for name in ("must-revalidate", "proxy-revalidate"):
    row(f"swr-{name}", "4.2.4", fetch(ok(f"{SWR}, {name}")), fetch(TWO, advance=20))
row("swr-no-cache", "4.2.4", fetch(ok(f"{SWR}, no-cache", ETAG)), validated(unchanged(), advance=20))
# "a cache extension can override any of the requirements listed" (section 4): the origin that says
# both means both; our reading of a case in which 4.2.4 would forbid it.
row("swr-s-maxage", "4, 5.2.2.10", fetch(ok("s-maxage=10, stale-while-revalidate=30")),
    stale(b"one", TWO, advance=20))
row("swr-s-maxage-must-revalidate", "4.2.4",
    fetch(ok("s-maxage=10, must-revalidate, stale-while-revalidate=30")), fetch(TWO, advance=20))
for name, value in (("invalid", "x"), ("negative", "-1"), ("zero", "0")):
    row(f"swr-{name}", "RFC 5861 3", fetch(ok(f"max-age=10, stale-while-revalidate={value}")),
        fetch(TWO, advance=11))
row("swr-request-no-cache", "5.2.1.4", fetch(ok(SWR)), fetch(TWO, cc("no-cache"), advance=20))
row("swr-request-max-age", "5.2.1.1", fetch(ok(SWR)), fetch(TWO, cc("max-age=10"), advance=20))
row("swr-request-min-fresh", "5.2.1.3", fetch(ok(SWR)), fetch(TWO, cc("min-fresh=1"), advance=20))
row("swr-max-age-0", "RFC 5861 3", fetch(ok("max-age=0, stale-while-revalidate=30")),
    stale(b"one", TWO, advance=1))
row("swr-huge", "1.2.2", fetch(ok("max-age=10, stale-while-revalidate=99999999999")),
    stale(b"one", TWO, advance=10**8), hit(b"two"))
row("swr-quoted", "RFC 5861 3", fetch(ok('max-age=10, stale-while-revalidate="30"')), stale(b"one", TWO, advance=20))
row("swr-expires", "RFC 5861 3", fetch(ok("stale-while-revalidate=30", ("Expires", at(10)), DAY)),
    stale(b"one", TWO, advance=20), hit(b"two"))
row("swr-refresh-5xx-keeps-validator", "RFC 5861 3", fetch(ok(SWR, ETAG)), stale(b"one", FAIL, advance=20),
    validated(unchanged("max-age=60"), advance=30, saw={"if-none-match": '"abc"'}), hit())
row("swr-authorization", "3.5", fetch(ok(f"public, {SWR}"), AUTH),
    stale(b"one", ok(f"public, {SWR}", body=b"two"), AUTH, advance=20), hit(b"two", AUTH), hit(b"two"))
row("swr-only-public", "3.5", fetch(ok(SWR)), fetch(ok(SWR, body=b"mine"), AUTH, advance=20),
    stale(b"one", TWO))
row("swr-alone", "RFC 5861 3", fetch(ok("stale-while-revalidate=30")), fetch(TWO, advance=1))
row("swr-no-refreshes", "G7", fetch(ok(SWR)), stale(b"one", None, advance=20),
    stale(b"one", None, advance=1), background_refreshes=0)
