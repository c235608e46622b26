"""RFC 9111 section 4.4, Invalidating Stored Responses."""

from __future__ import annotations

from tests.scenarios.dsl import DONE, FAIL, RAISES, TWO, fetch, hit, ok, row
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

for method in ("POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO", "MKCOL", "get"):
    row(f"invalidates-{method}", "4.4", fetch(ok("max-age=60")),
        fetch(DONE, method=method, cs={"fwd": "method"}), fetch(TWO))
for method in ("OPTIONS", "TRACE", "PROPFIND", "SEARCH", "REPORT", "QUERY"):
    row(f"safe-{method}", "4.4", fetch(ok("max-age=60")), fetch(DONE, method=method), hit())
for status in (200, 201, 202, 204, 205, 301, 302, 303, 307, 308):
    row(f"invalidates-status-{status}", "4.4", fetch(ok("max-age=60")),
        fetch(ok(status=status, body=b""), method="POST"), fetch(TWO))
for status in (400, 401, 403, 404, 409, 422, 500, 502, 503):
    row(f"keeps-status-{status}", "4.4", fetch(ok("max-age=60")),
        fetch(ok(status=status, body=b"no"), method="POST"), hit())
row("keeps-after-exception", "4.4", fetch(ok("max-age=60")),
    Step(method="POST", origin=(RAISES,), status=None), hit())
for name in ("Location", "Content-Location"):
    for kind, value in (
        ("absolute", "http://example.org/other"), ("path", "/other"), ("relative", "other"),
        ("authority", "//example.org/other"), ("port", "http://example.org:80/other"),
        ("host-case", "HTTP://EXAMPLE.org/other"), ("dots", "/a/../other"),
    ):
        row(f"invalidates-{name.lower()}-{kind}", "4.4", fetch(ok("max-age=60"), target="/other"),
            fetch(ok(None, (name, value), status=201), method="POST", target="/a"),
            fetch(TWO, target="/other"))
    for kind, value in (
        ("host", "http://example.com/other"), ("port", "http://example.org:81/other"),
        ("scheme", "https://example.org/other"), ("other-path", "/OTHER"), ("bad", "http://[/other"),
        ("query", "/other?x"),
    ):
        row(f"keeps-{name.lower()}-{kind}", "4.4", fetch(ok("max-age=60"), target="/other"),
            fetch(ok(None, (name, value), status=201), method="POST", target="/a"),
            hit(target="/other"))
    row(f"keeps-{name.lower()}-error", "4.4", fetch(ok("max-age=60"), target="/other"),
        fetch(ok(None, (name, "/other"), status=400), method="POST", target="/a"),
        hit(target="/other"))
    row(f"keeps-{name.lower()}-safe", "4.4", fetch(ok("max-age=60"), target="/other"),
        fetch(ok(None, (name, "/other"), status=201), target="/a"), hit(target="/other"))
row("invalidates-location-fragment", "4.4", fetch(ok("max-age=60"), target="/other"),
    fetch(ok(None, ("Location", "/other#x"), status=201), method="POST", target="/a"),
    fetch(TWO, target="/other"))
row("invalidates-location-blanks", "4.4", fetch(ok("max-age=60"), target="/other"),
    fetch(ok(None, ("Location", "  /other "), status=201), method="POST", target="/a"),
    fetch(TWO, target="/other"))
row("invalidates-location-query", "4.4", fetch(ok("max-age=60"), target="/other?x=1"),
    fetch(ok(None, ("Location", "/other?x=1"), status=303), method="POST", target="/a"),
    fetch(TWO, target="/other?x=1"))
row("invalidates-both-locations", "4.4", fetch(ok("max-age=60"), target="/x"),
    fetch(ok("max-age=60"), target="/y"), fetch(ok("max-age=60"), target="/a"),
    fetch(ok(None, ("Location", "/x"), ("Content-Location", "/y"), status=201), method="PUT",
          target="/a"),
    fetch(TWO, target="/x"), fetch(TWO, target="/y"), fetch(TWO, target="/a"))
row("invalidates-only-this", "4.4", fetch(ok("max-age=60"), target="/a"), fetch(DONE, method="POST", target="/a/b"),
    hit(target="/a"))
row("invalidates-then-stores", "4.4", fetch(ok("max-age=60")), fetch(DONE, method="POST"), fetch(TWO),
    hit(b"two"), fetch(DONE, method="POST"), fetch(ok("max-age=60")), hit())
row("keeps-other-query", "4.4", fetch(ok("max-age=60"), target="/a?x=1"),
    fetch(DONE, method="POST", target="/a"), hit(target="/a?x=1"))
row("invalidates-query", "4.4", fetch(ok("max-age=60"), target="/a?x=1"),
    fetch(DONE, method="POST", target="/a?x=1"), fetch(TWO, target="/a?x=1"))
row("invalidates-escaped", "4.4", fetch(ok("max-age=60"), target="/a%20b"),
    fetch(DONE, method="POST", target="/a%20b"), fetch(TWO, target="/a%20b"))
row("keeps-other-host", "4.4", fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(DONE, method="POST"), hit(b"one", ("Host", "a.example")))
row("invalidates-port", "4.4", fetch(ok("max-age=60"), ("Host", "a.example:8080")),
    fetch(DONE, ("Host", "a.example:8080"), method="POST"), fetch(TWO, ("Host", "a.example:8080")))
for host in ("example.org:080", "example.org:"):
    # However a target is spelled, what was stored for it goes.
    row(f"invalidates-host-{host}", "4.4",
        Step(headers=(("Host", host),), origin=(ok("max-age=60"),), cs={"hit": None}),
        Step(headers=(("Host", host),), method="POST", origin=(DONE,), status=204, cs={}),
        Step(headers=(("Host", host),), origin=(TWO,), content=b"two", cs={"hit": None}))
row("unsafe-not-stored", "3", fetch(ok("max-age=60"), method="POST"), fetch(TWO))
row("unsafe-not-answered", "4", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"posted"), method="POST"))
row("invalidates-stale-too", "4.4", fetch(ok("max-age=10, stale-while-revalidate=60")),
    fetch(DONE, method="POST", advance=20), fetch(TWO))
row("invalidates-sie-too", "4.4", fetch(ok("max-age=10, stale-if-error=60")),
    fetch(DONE, method="POST"), fetch(FAIL))
