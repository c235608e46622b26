"""One request's refusal is not the page's: what is stored stays, and the next ones share a fetch."""

from __future__ import annotations

from tests.scenarios.model import Reply, Step
from tests.scenarios.table import FAIL, cc, fetch, hit, instead, ok, row, rule, unchanged, validated

# fmt: off

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
