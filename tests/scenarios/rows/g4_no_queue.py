"""G4, no queue for the uncacheable: hit-for-miss."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    DAY,
    DONE,
    ETAG,
    FAIL,
    INM,
    NO_TAGS,
    ORIGIN,
    RAISES,
    TAGS,
    TWO,
    VARY,
    WEEK,
    cc,
    fetch,
    field,
    hit,
    instead,
    ok,
    purge,
    row,
    rule,
    unchanged,
    validated,
)
from tests.scenarios.model import Reply, Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- what is fetched next shows that a response can be shared --------------------------------------

row("marker-then-shared", "G4", fetch(ok("no-store")), fetch(ok("no-store")), fetch(TWO), hit(b"two"))
row("marker-then-expires", "G4", fetch(ok()), fetch(ok()), fetch(ok(None, ("Expires", at(60)), DAY)), hit())
row("marker-then-varied", "G4", fetch(ok("no-store")), fetch(ok("max-age=60", *VARY), *field("1")), hit(b"one", *field("1")),
    fetch(TWO, *field("2")))
row("marker-then-validated", "G4", fetch(ok("no-store")), fetch(ok("no-cache", ETAG)), validated(unchanged()))
row("marker-then-set-cookie", "G1", fetch(ok()), fetch(ok("max-age=60", ("Set-Cookie", "a=b"))),
    fetch(TWO), hit(b"two"))
row("marker-then-private", "G1", fetch(ok()), fetch(ok("private, max-age=60")), fetch(TWO))
row("marker-then-authorization", "3.5", fetch(ok()), fetch(ok("max-age=60"), AUTH), fetch(TWO))
row("marker-then-no-store-request", "5.2.1.5", fetch(ok()), fetch(ok("max-age=60"), cc("no-store")),
    fetch(TWO))
row("marker-then-head", "G4", fetch(ok()), fetch(ok("max-age=60"), method="HEAD"), fetch(TWO))
row("marker-only-if-cached", "5.2.1.7", fetch(ok("no-store")),
    Step(headers=(cc("only-if-cached"),), status=504, members=0))
row("marker-conditional", "4.3.2", fetch(ok("no-store")),
    Step(headers=(INM,), origin=(unchanged("no-store", ETAG),), status=304, content=b"",
         saw={"if-none-match": '"abc"'}, cs={"hit": None}))
row("marker-304-nobody-asked", "3", fetch(ok()), fetch(unchanged("max-age=60")), fetch(TWO))
row("marker-length-mismatch", "G6", fetch(ok()), fetch(ok("max-age=60", ("Content-Length", "9"))), fetch(TWO))
row("marker-5xx", "G4", fetch(ok(status=500)), fetch(TWO), hit(b"two"))
row("marker-exception", "G4", fetch(ok()), fetch(RAISES), fetch(TWO), hit(b"two"))
row("marker-status-kept", "RFC 9211 2", fetch(ok(None, ORIGIN), members=2), fetch(ok(None, ORIGIN), members=2))
row("marker-tags", "G1", fetch(ok(None, *TAGS), has=NO_TAGS), fetch(ok(None, *TAGS), has=NO_TAGS),
    fetch(ok("max-age=60", *TAGS), has=NO_TAGS), hit(has=NO_TAGS), purge(tags="c"), fetch(TWO))
row("marker-age", "4.2.3", fetch(ok()), fetch(ok("max-age=600", ("Age", "5"), takes=10)),
    hit(has={"age": "15"}, cs={"ttl": 585}))
row("marker-ends", "G4", fetch(ok("no-store")),
    Step(advance=11, concurrent=3, origin=(ok("max-age=60"),), content=b"one", cs={}), hit_for_miss_ttl=10)
row("marker-not-collapsed", "G4", fetch(ok("no-store")),
    Step(advance=9, concurrent=3, origin=(ok("no-store"),) * 3, content=b"one", cs={}), hit_for_miss_ttl=10)
row("marker-rule", "G4", fetch(ok("no-store")), fetch(ok()), hit(), rules=rule(ttl=60))
row("marker-rule-cookie", "G1", fetch(ok("no-store")), fetch(ok(), COOKIE), fetch(ok()), hit(),
    rules=rule(ttl=60))
row("marker-rule-tags", "G3", fetch(ok("no-store")), fetch(ok("max-age=60")), hit(), purge(tags="r"),
    fetch(TWO), rules=rule(tags=["r"]))
row("marker-rule-vary", "4.1", fetch(ok("no-store")), fetch(ok(), *field("1"), has={"vary": "foo"}), hit(b"one", *field("1")),
    fetch(ok(body=b"two"), *field("2")), rules=rule(ttl=60, vary=["foo"]))
row("marker-heuristic", "4.2.2", fetch(ok("no-store")), fetch(ok(None, WEEK, DAY)), hit(), heuristic=0.1)
row("marker-cookie-explicit", "RFC 6265", fetch(ok(), COOKIE), fetch(ok("max-age=60"), COOKIE), hit(),
    hit(b"one", COOKIE), rules=rule(ttl=60))
row("marker-invalidated", "4.4", fetch(ok("no-store")), fetch(DONE, method="POST"),
    Step(concurrent=3, origin=(ok("max-age=60"),), content=b"one", cs={}))
row("marker-in-variant", "G4", fetch(ok("max-age=60", *VARY), *field("1")), fetch(ok("no-store", *VARY), *field("2")),
    fetch(ok("no-store", *VARY), *field("2")), hit(b"one", *field("1")),
    fetch(ok("max-age=60", *VARY, body=b"two"), *field("2")), hit(b"two", *field("2")), hit(b"one", *field("1")))

# -- one request's refusal is not the page's: what is stored stays, and the next ones share a fetch ---


FRESH = ok("max-age=60")
NO_CACHE = cc("no-cache")
ATTACKS: dict[str, tuple[tuple[tuple[str, str], ...], Reply]] = {
    "bad-cookie": ((("Cookie", "sid=bad"), NO_CACHE), ok("max-age=60", ("Set-Cookie", "sid=new"), body=b"his")),
    "large": ((("X-Large", "x" * 9000), NO_CACHE), ok(None, status=400)),
    "waf": ((("User-Agent", "sqlmap"), NO_CACHE), ok("no-store", status=403)),
    "waf-200": ((("User-Agent", "sqlmap"), NO_CACHE), ok("no-store")),
    "key": ((("X-API-Key", "bad"), NO_CACHE), ok("private", status=401)),
    "field": ((("X-Lang", "xx"), NO_CACHE), ok("private")),
    "error": ((("X-Debug", "1"), NO_CACHE), ok(None, status=500)),
}
for name, (lines, answer) in ATTACKS.items():
    row(f"marker-fresh-{name}", "G4", fetch(FRESH), Step(headers=lines, origin=(answer,), status=answer.status, cs={"stored": None}), hit(b"one"), hit(b"one", advance=30))
    # Nothing is stored, and something that is stale: the next ones make one call.
    row(f"marker-nothing-{name}", "G4", Step(headers=lines, origin=(answer,), status=answer.status, cs={"stored": None}),
        Step(concurrent=4, origin=(FRESH,), content=b"one", cs={}), hit(b"one"))
    row(f"marker-stale-{name}", "G4", fetch(FRESH), Step(headers=lines[:1], origin=(answer,), status=answer.status, cs={"stored": None}, advance=70),
        Step(concurrent=4, origin=(FRESH,), content=b"one", cs={}), hit(b"one"))
row("marker-validated", "G4", fetch(ok("max-age=10", ("ETag", '"abc"'))), Step(headers=(("X-Bad", "x"),), origin=(ok(None, status=403),), status=403, cs={"detail": "no-freshness"}, advance=20),
    validated(unchanged("max-age=10"), b"one"), hit(b"one"))
row("marker-stands-in", "G4", fetch(ok("max-age=10, stale-if-error=600", ("ETag", '"abc"'))), Step(headers=(("X-Bad", "x"),), origin=(ok("private"),), cs={"detail": "private"}, advance=20),
    instead(b"one", FAIL))
row("marker-rule-reload", "G4", fetch(ok()), Step(headers=(("Cookie", "a=1"), NO_CACHE), origin=(ok(),), cs={"detail": "cookie"}), hit(b"one"), rules=rule(ttl=60))
row("marker-variant", "G4", fetch(ok("max-age=60", ("Vary", "Foo")), ("Foo", "1")), fetch(ok("private"), ("Foo", "1"), NO_CACHE, ("X-Bad", "1")), hit(b"one", ("Foo", "1")))
row("marker-no-vary-search", "G4", fetch(ok("max-age=60", ("No-Vary-Search", 'params=("u")')), target="/?u=1"),
    fetch(ok("private"), NO_CACHE, ("X-Bad", "1"), target="/?u=2"), hit(b"one", target="/?u=3"), no_vary_search=True)
