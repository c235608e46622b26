"""RFC 9213, Targeted HTTP Cache Control."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    DAY,
    ETAG,
    FAIL,
    LM,
    TWO,
    cdn,
    fetch,
    hit,
    instead,
    not_reused,
    ok,
    reused,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off


def ours(value: str) -> tuple[str, str]:
    return ("LayerGate-Cache-Control", value)


LATE = ("Expires", at(10000))
PAST = ("Expires", at(-10000))
reused("cdn-max-age", "RFC 9213 2.2", ok(None, cdn("max-age=3600")), after=3599)
not_reused("cdn-max-age-over", "RFC 9213 2.2", ok(None, cdn("max-age=3600")), after=3600)
reused("cdn-max-age-2^31", "1.2.2", ok(None, cdn("max-age=2147483648")), after=3)
reused("cdn-max-age-huge", "1.2.2", ok(None, cdn("max-age=99999999999")), after=3)
not_reused("cdn-age-counts", "RFC 9213 2.2", ok(None, DAY, cdn("max-age=3600"), ("Age", "7200")), after=3)
not_reused("cdn-date-counts", "RFC 9213 2.2", ok(None, ("Date", at(-7200)), cdn("max-age=3600")), after=3)
not_reused("cdn-space-before", "RFC 9213 2.1", ok("max-age=1", cdn("max-age =100")), after=3)
not_reused("cdn-space-after", "RFC 9213 2.1", ok("max-age=1", cdn("max-age= 100")), after=3)
not_reused("cdn-upper-case", "RFC 9213 2.1", ok("max-age=1", cdn("MaX-aGe=3600")), after=3)
not_reused("cdn-max-age-0", "RFC 9213 2.2", ok(None, cdn("max-age=0")), after=3)
reused("cdn-extension", "RFC 9213 2.2", ok(None, cdn("foobar, max-age=3600")), after=3)
reused("cdn-expires-past", "RFC 9213 2.2", ok(None, cdn("max-age=3600"), PAST, DAY), after=3)
reused("cdn-expires-invalid", "RFC 9213 2.2", ok(None, cdn("max-age=3600"), ("Expires", "0"), DAY), after=3)
not_reused("cdn-max-age-0-expires", "RFC 9213 2.2", ok(None, cdn("max-age=0"), LATE, DAY), after=3)
not_reused("cdn-nothing-said-expires", "RFC 9213 2.2", ok(None, cdn("none"), LATE, DAY), detail="no-freshness")
reused("cdn-longer", "RFC 9213 2.2", ok("max-age=1", cdn("max-age=3600")), after=3)
not_reused("cdn-shorter", "RFC 9213 2.2", ok("max-age=3600", cdn("max-age=1")), after=3)
reused("cdn-over-s-maxage", "RFC 9213 2.2", ok("s-maxage=1", cdn("max-age=3600")), after=3)
not_reused("cdn-private", "RFC 9213 2.2", ok("max-age=10000", cdn("private"), LATE, DAY), detail="private")
not_reused("cdn-no-cache", "RFC 9213 2.2", ok("max-age=10000", cdn("no-cache"), LATE, DAY))
row("cdn-no-cache-validates", "RFC 9213 2.2", fetch(ok("max-age=10000", cdn("no-cache"), ETAG)),
    validated(unchanged(), saw={"if-none-match": '"abc"'}), validated(unchanged()))
not_reused("cdn-no-cache-max-age", "RFC 9213 2.2", ok(None, cdn("no-cache, max-age=60")))
not_reused("cdn-no-store", "RFC 9213 2.2", ok("max-age=10000", cdn("no-store"), LATE, DAY), detail="no-store")
not_reused("cdn-no-store-max-age", "RFC 9213 2.2", ok(None, cdn("no-store, max-age=60")), detail="no-store")
reused("cdn-over-no-store", "RFC 9213 3.1", ok("no-store", cdn("max-age=10000")), after=3)
reused("cdn-over-private", "RFC 9213 2.2", ok("private", cdn("max-age=10000")), after=3)
not_reused("cdn-no-dictionary", "RFC 9213 2.1", ok("no-store", cdn("max-age=10000, &&&&&")),
           detail="no-store")
not_reused("cdn-wrong-type", "RFC 9213 2.1", ok("no-store", cdn('max-age="10000"')))
not_reused("cdn-decimal", "RFC 9213 2.1", ok("max-age=60", cdn("max-age=60.0")))
not_reused("cdn-negative", "RFC 9213 2.1", ok("max-age=60", cdn("max-age=-60")))
reused("cdn-empty", "RFC 9213 2.1", ok("max-age=60", cdn("")), after=3)
reused("cdn-parameters", "RFC 9213 2.1", ok(None, cdn("max-age=3600;a=1;b")), after=3)
reused("cdn-two-lines", "RFC 9651 4.2", ok(None, cdn("max-age=3600"), cdn("public")), after=3)
not_reused("cdn-two-lines-last", "RFC 9651 4.2.2", ok(None, cdn("max-age=60"), cdn("max-age=1")),
           after=3)
not_reused("cdn-two-lines-bad", "RFC 9651 4.2", ok(None, cdn("max-age=3600"), cdn("A")), after=3)
reused("cdn-s-maxage", "RFC 9213 2.2", ok("no-store", cdn("s-maxage=60")), after=59)
row("cdn-stale-while-revalidate", "RFC 9213 2.2",
    fetch(ok("max-age=60", cdn("max-age=10, stale-while-revalidate=10"))),
    stale(b"one", TWO, advance=15), hit(b"two"))
row("cdn-stale-if-error", "RFC 9213 2.2", fetch(ok("max-age=60", cdn("max-age=10, stale-if-error=100"))),
    instead(b"one", FAIL, advance=15))
row("cdn-must-revalidate", "RFC 9213 2.2", fetch(ok(None, cdn("max-age=10, must-revalidate"), ETAG)),
    hit(advance=9), validated(unchanged(), advance=1))
reused("cdn-must-understand", "5.2.2.3", ok(None, cdn("must-understand, no-store, max-age=60")))
not_reused("cdn-must-understand-299", "5.2.2.3",
           ok(None, cdn("must-understand, max-age=60"), status=299), detail="must-understand")
reused("cdn-status-599", "RFC 9213 2.2", ok(None, cdn("max-age=60"), status=599))
row("cdn-private-field", "RFC 9213 2.2",
    fetch(ok(None, cdn('private="x-user", max-age=60'), ("X-User", "7"), ("X-All", "8"))),
    hit(has={"x-user": None, "x-all": "8"}))
# Cache-Control's lists are ignored with the rest of it.
row("cdn-private-field-ignored", "RFC 9213 2.2",
    fetch(ok('private="x-all"', cdn("max-age=60"), ("X-All", "8"))), hit(has={"x-all": "8"}))
# What the client hears is what the origin says to it, and the true age with it.
row("cdn-sent-on", "RFC 9213 3",
    fetch(ok("max-age=1", ("Expires", at(1)), cdn("max-age=10000"), DAY),
          has={"cdn-cache-control": "max-age=10000", "cache-control": "max-age=1"}),
    hit(advance=3, has={"cdn-cache-control": "max-age=10000", "cache-control": "max-age=1",
                        "age": "3", "date": at(0), "expires": at(1)}))
row("cdn-not-ours-sent-on", "RFC 9213 2.2",
    fetch(ok("max-age=60", ("ExampleCDN-Cache-Control", "no-store"), ("Surrogate-Control", "no-store"))),
    hit(has={"examplecdn-cache-control": "no-store", "surrogate-control": "no-store"}))
reused("layergate-first", "RFC 9213 2.2", ok("no-store", cdn("no-store"), ours("max-age=60")), after=59)
not_reused("layergate-no-store", "RFC 9213 2.2", ok("max-age=60", cdn("max-age=60"), ours("no-store")),
           detail="no-store")
reused("layergate-invalid-cdn", "RFC 9213 2.2", ok("no-store", cdn("max-age=60"), ours("&")), after=59)
reused("layergate-invalid-both", "RFC 9213 2.2", ok("max-age=60", cdn("&"), ours("")), after=59)
row("layergate-not-sent-on", "RFC 9213 2.2",
    fetch(ok("no-store", ours("max-age=60"), cdn("max-age=9")),
          has={"layergate-cache-control": None, "cdn-cache-control": "max-age=9"}),
    hit(has={"layergate-cache-control": None, "cdn-cache-control": "max-age=9"}),
    hit(b"", method="HEAD", has={"layergate-cache-control": None}))
row("layergate-not-sent-on-refused", "RFC 9213 2.2",
    fetch(ok(None, ours("no-store")), has={"layergate-cache-control": None}),
    fetch(ok(None, ours("no-store")), has={"layergate-cache-control": None}),
    fetch(ok("no-store", ours("x")), has={"layergate-cache-control": None}))
row("layergate-not-sent-on-passed", "RFC 9213 2.2",
    fetch(ok(None, ours("max-age=9"), status=204, body=b""), method="POST",
          has={"layergate-cache-control": None}),
    fetch(ok(None, ours("max-age=9")), method="OPTIONS", has={"layergate-cache-control": None}),
    fetch(ok(None, ours("max-age=9")), method="HEAD", has={"layergate-cache-control": None}))
row("targets-option", "RFC 9213 2.2", fetch(ok("no-store", ("Example-Cache-Control", "max-age=60")),
                               has={"example-cache-control": "max-age=60"}),
    hit(has={"example-cache-control": "max-age=60"}), targets=("Example-Cache-Control",))
row("targets-none", "RFC 9213 2.2",
    fetch(ok("max-age=60", ours("no-store"), cdn("no-store")),
          has={"layergate-cache-control": "no-store"}),
    hit(has={"layergate-cache-control": "no-store"}), targets=())
# G1: what does not depend on Cache-Control protects a response as before,
row("cdn-set-cookie", "7.3, G1", fetch(ok(None, cdn("max-age=60"), ("Set-Cookie", "a=b"))), fetch(TWO))
row("cdn-set-cookie-listed", "7.3",
    fetch(ok(None, cdn('max-age=60, private="set-cookie"'), ("Set-Cookie", "a=b"))),
    hit(has={"set-cookie": None}))
for name, value in (("public", "public, max-age=60"), ("s-maxage", "s-maxage=60"),
                    ("must-revalidate", "must-revalidate, max-age=60")):
    row(f"cdn-authorization-{name}", "3.5", fetch(ok("max-age=60", cdn(value)), AUTH), hit(),
        hit(b"one", AUTH))
row("cdn-authorization-max-age", "3.5",
    fetch(ok("public, s-maxage=60", cdn("max-age=60")), AUTH, cs={"stored": None}), fetch(TWO))
# and no lifetime of ours takes the place of what the origin withholds.
for name, value in (("private", "private"), ("no-store", "no-store, max-age=0")):
    row(f"cdn-none-rule-{name}", "G1", fetch(ok(value, cdn("none"))), fetch(TWO), rules=rule(ttl=60))
    row(f"cdn-none-override-{name}", "G1", fetch(ok(value, cdn("none"))), fetch(ok("no-store", body=b"two")),
        rules=rule(ttl=60, override=True))
    not_reused(f"cdn-none-heuristic-{name}", "G1", ok(value, cdn("none"), LM, DAY), heuristic=0.1)
row("cdn-override-private", "G1", fetch(ok("private", cdn("max-age=10"))), hit(advance=9),
    fetch(TWO, advance=1), rules=rule(ttl=60, override=True))
reused("cdn-none-rule", "RFC 9213 3.1", ok("max-age=1", cdn("none")), after=59, rules=rule(ttl=60))
reused("cdn-none-heuristic", "4.2.2", ok("max-age=1", cdn("none"), LM, DAY), after=59, heuristic=0.1)
# 3.2, 4.3.4: an update is of all fields, those that are not sent among them.
row("cdn-after-a-marker", "G4", fetch(ok("no-store")), fetch(ok("no-store")),
    fetch(ok("no-store", cdn("max-age=60"))), hit(advance=59))
row("cdn-private-after-a-marker", "G4", fetch(ok("no-store")), fetch(ok("max-age=9", cdn("private"))),
    fetch(ok("max-age=9", cdn("private"))))
row("cdn-304-keeps", "3.2", fetch(ok("no-store", cdn("max-age=10"), ETAG)),
    validated(unchanged(), advance=10), hit(advance=9), validated(unchanged(), advance=1))
row("cdn-304-keeps-over-cc", "3.2", fetch(ok("max-age=1", cdn("max-age=10"), ETAG)),
    validated(unchanged("max-age=99"), advance=10), hit(advance=9), validated(unchanged(), advance=1))
row("cdn-304-updates", "3.2", fetch(ok("max-age=99", cdn("max-age=10"), ETAG)),
    validated(unchanged(None, cdn("max-age=20")), advance=10), hit(advance=19),
    validated(unchanged(), advance=1))
row("cdn-304-takes-over", "3.2", fetch(ok("max-age=10", ETAG)),
    validated(unchanged(None, cdn("max-age=20")), advance=10), hit(advance=19))
row("layergate-304-keeps", "3.2", fetch(ok("max-age=99", ours("max-age=10"), ETAG)),
    validated(unchanged(), advance=10, has={"layergate-cache-control": None}), hit(advance=9),
    validated(unchanged("max-age=99"), advance=1), hit(advance=9), validated(unchanged(), advance=1))
row("layergate-304-updates", "3.2", fetch(ok(None, ours("max-age=10"), ETAG)),
    validated(unchanged(None, ours("max-age=20")), advance=10, has={"layergate-cache-control": None}),
    hit(advance=19), validated(unchanged(None, ours("no-store")), advance=1),
    fetch(ok(None, ours("no-store"), body=b"two")))
row("cdn-304-no-store", "3.2", fetch(ok(None, cdn("max-age=10"), ETAG)),
    validated(unchanged(None, cdn("no-store")), advance=10), fetch(TWO))
row("layergate-head-updates", "4.3.5", fetch(ok(None, ours("max-age=10"), ETAG)),
    fetch(ok(None, ours("max-age=30"), ETAG, body=b""), method="HEAD", advance=11,
          has={"layergate-cache-control": None}),
    hit(advance=25))
