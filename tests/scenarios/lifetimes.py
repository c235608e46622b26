"""Scenarios: which responses the lifetime of a rule is for, by their status and by the path that was
asked for."""

from __future__ import annotations

from typing import Any

from tests.scenarios.table import (
    COOKIE,
    ETAG,
    FAIL,
    TWO,
    at_,
    fetch,
    hit,
    instead,
    ok,
    row,
    rule,
    stale,
    unchanged,
    validated,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- by status ------------------------------------------------------------------------------------

L = "4.2.2, G1"
GONE = ok(status=404, body=b"gone")
HOUR = rule(ttl=3600, stale_while_revalidate=3600, stale_if_error=3600)
for status in (404, 410):
    missing = ok(status=status, body=b"gone")
    row(f"ttl-{status}-ten-seconds", L, fetch(missing), hit(b"gone", status=status, advance=9), fetch(TWO, advance=1), hit(b"two"), rules=HOUR)
    row(f"ttl-{status}-less-than-ten", L, fetch(missing), hit(b"gone", status=status, advance=2), fetch(TWO, advance=1), rules=rule(ttl=3))
    row(f"ttl-{status}-named", L, fetch(missing), hit(b"gone", status=status, advance=59), fetch(TWO, advance=1), rules=rule(ttl={200: 9, status: 60}))
    row(f"ttl-{status}-not-named", L, fetch(missing, cs={"detail": "no-freshness"}), fetch(ok(), advance=1), rules=rule(ttl={200: 60}))
    # What the app says of it is not touched, unless the rule overrides it.
    row(f"ttl-{status}-of-the-app", L, fetch(ok("max-age=60", status=status)), hit(status=status, advance=59), rules=HOUR)
    row(f"ttl-{status}-override", L, fetch(ok("max-age=60", status=status)), hit(status=status, advance=9), fetch(TWO, advance=1),
        rules=rule(ttl=3600, override=True))
    row(f"ttl-{status}-confirmed", L, fetch(ok(None, ETAG, status=status, body=b"gone")),
        validated(unchanged(), b"gone", advance=10, status=status, saw={"if-none-match": '"abc"'}), hit(b"gone", status=status, advance=9), fetch(TWO, advance=1),
        rules=HOUR)
    row(f"ttl-{status}-error", L, fetch(missing), fetch(FAIL, advance=10), rules=HOUR)
    row(f"ttl-{status}-named-windows", L, fetch(missing), stale(b"gone", TWO, advance=20, status=status), hit(b"two"),
        rules=rule(ttl={status: 10}, stale_while_revalidate=60))
row("ttl-200-windows", L, fetch(ok()), instead(b"one", FAIL, advance=3700), rules=rule(ttl=3600, stale_if_error=3600))
row("ttl-by-status", L, at_("/a", fetch(ok())), at_("/b", fetch(GONE)), at_("/c", fetch(ok(status=302))),
    at_("/a", hit(advance=59)), at_("/b", fetch(TWO)), at_("/c", hit(status=302)), rules=rule(ttl={200: 60, 404: 5, "302": 60}))
row("ttl-by-status-override", L, fetch(ok("max-age=1")), hit(advance=59), rules=rule(ttl={200: 60}, override=True))
row("ttl-by-status-override-not-named", L, fetch(ok("max-age=1", status=301)), fetch(TWO, advance=2), rules=rule(ttl={200: 60}, override=True))
# A 404, then a POST that makes what was not there: the same target, one that the response names, or neither.
CREATED = ok(None, status=201, body=b"")
row("ttl-404-created", "4.4", at_("/items/5", fetch(GONE)), at_("/items/5", fetch(CREATED, method="POST")), at_("/items/5", fetch(TWO)), rules=HOUR)
row("ttl-404-created-elsewhere", "4.4", at_("/items/5", fetch(GONE)),
    at_("/items", fetch(ok(None, ("Location", "/items/5"), status=201, body=b""), method="POST")), at_("/items/5", fetch(TWO)), rules=HOUR)
row("ttl-404-created-unsaid", L, at_("/items/5", fetch(GONE)), at_("/items", fetch(CREATED, method="POST")),
    at_("/items/5", hit(b"gone", status=404, advance=9)), at_("/items/5", fetch(TWO, advance=1)), rules=HOUR)

# -- by path: none for a target that somebody may take for another one ------------------------------

STATIC = rule("/static/*", ttl=60)
SECRET = ok(None, body=b"account")


def no_lifetime(id_: str, target: str, rules: tuple[dict[str, Any], ...] = STATIC) -> None:
    row(f"path-{id_}", "G1", at_(target, fetch(SECRET, cs={"detail": "path", "stored": None})), at_(target, fetch(ok(None, body=b"two"))),
        # What the app says of its response holds.
        at_(target, fetch(ok("max-age=60"))), at_(target, hit()), rules=rules)


def lifetime(id_: str, target: str, rules: tuple[dict[str, Any], ...] = STATIC) -> None:
    row(f"path-{id_}", "3", at_(target, fetch(ok())), at_(target, hit()), rules=rules)


for name_, target in (
    ("dots", "/static/../account"), ("dots-encoded", "/static/%2e%2e/account"), ("dots-half-encoded", "/static/.%2E/account"),
    ("slash-encoded", "/static/..%2faccount"), ("slash-encoded-upper", "/static/..%2Faccount"), ("all-encoded", "/static/%2e%2e%2faccount"),
    ("double-encoded", "/static/%252e%252e%252faccount"), ("double-encoded-slash", "/static/..%252faccount"),
    ("triple-encoded", "/static/%25252e%25252e/account"), ("encoded-without-end", "/static/%" + "25" * 12 + "2e"),
    ("backslash", "/static/..\\account"), ("backslash-encoded", "/static/..%5caccount"), ("backslash-double-encoded", "/static/..%255caccount"),
    ("doubled-slash-dots", "/static//../account"), ("parameter", "/static/..;/account"), ("parameter-encoded", "/static/..%3b/account"),
    ("parameter-named", "/static/..;x=1/account"), ("one-dot", "/static/./account"), ("one-dot-encoded", "/static/%2e/account"),
    ("dots-last", "/static/a/.."), ("dots-last-encoded", "/static/a/%2e%2e"), ("three-dots", "/static/.../account"), ("dots-space", "/static/..%20/account"),
    ("nul", "/static/x%00/../account"), ("nul-alone", "/static/x%00.css"), ("newline", "/static/x%0a"), ("newline-double-encoded", "/static/x%250a"),
    ("delete", "/static/x%7f"), ("overlong", "/static/%c0%ae%c0%ae/account"), ("overlong-slash", "/static/..%c0%afaccount"),
    ("overlong-backslash", "/static/..%c1%9caccount"), ("overlong-three", "/static/%e0%80%ae%e0%80%ae/account"), ("iis", "/static/%u002e%u002e/account"),
    ("full-width", "/static/%ef%bc%8e%ef%bc%8e/account"), ("two-dot-leader", "/static/%e2%80%a5/account")):
    no_lifetime(name_, target, rule(ttl=60))
no_lifetime("rule", "/static/..%2faccount", STATIC)
no_lifetime("override", "/static/..%2faccount", rule("/static/*", ttl=60, override=True))
SUFFIX = rule("*.css", ttl=60)
for name_, target in (
    ("parameter", "/account;x.css"), ("parameter-encoded", "/account%3bx.css"), ("question-mark", "/account%3fx.css"),
    ("question-mark-double-encoded", "/account%253fx.css"), ("fragment", "/account%23x.css"), ("doubled", "//account/x.css"),
    ("doubled-inside", "/account//x.css"), ("doubled-encoded", "/account/%2fx.css"), ("backslashes", "/account%5c%5cx.css"), ("dots", "/x/..%2faccount.css"),
    ("parameter-after-slash", "/account/;x.css")):
    no_lifetime(f"suffix-{name_}", target, SUFFIX)
no_lifetime("encoded-slash", "/static%2faccount")
no_lifetime("encoded-backslash", "/static/x%5cy", rule("/static/{name}", ttl=60))
no_lifetime("double-encoded-slash-in-a-segment", "/p/a%252fb", rule("/p/{id}", ttl=60))
no_lifetime("doubled-before-the-wildcard", "/account//static/x", rule("*/static/*", ttl=60))
no_lifetime("doubled-behind-the-wildcard", "/static/account//x.css", rule("/static/*.css", ttl=60))
# Another rule is for what it may be taken for.
PRIVATE = rule("/account/*", bypass=True) + rule(ttl=60)
for name_, target in (("doubled", "//account/x"), ("backslash", "/account%5cx"), ("parameter", "/account;a/x"), ("encoded-slash", "/account%252fx"),
                      ("encoded", "/%2561ccount/x")):
    no_lifetime(f"of-another-rule-{name_}", target, PRIVATE)
no_lifetime("of-another-lifetime", "/a;b", rule("/a", ttl=1) + rule(ttl=60))
# Ordinary ones, and what lies within the wildcard that ends the pattern.
for name_, target in (
    ("url", "/img/https://x.example/a.png"), ("url-encoded", "/img/https%3A%2F%2Fx.example%2Fa.png"), ("doubled", "/img//x"), ("encoded", "/img/%C3%A9t%C3%A9"),
    ("encoded-percent", "/img/100%25"), ("double-encoded", "/img/a%2520b"), ("space", "/img/a%20b"), ("parameter", "/img/w=1;h=2/x"), ("hidden", "/img/.well-known/x"),
    ("dot-inside", "/img/a..b/c.d"), ("question-mark", "/img/what%3f"), ("fragment", "/img/c%23"), ("latin-1", "/img/%e9t%e9"), ("ellipsis", "/img/%e2%80%a6x"),
    ("backslash", "/img/a%5cb"), ("query", "/img/x?a=/../b&c=%2e%2e/"), ("tilde", "/img/~a/:@&=+$,!'()*"), ("last-slash", "/img/x/")):
    lifetime(f"plain-{name_}", target, rule("/img/*", ttl=60))
    lifetime(f"plain-{name_}-named", target, rule("/img/{rest:path}", ttl=60))
    lifetime(f"plain-{name_}-any", target, rule(ttl=60))
lifetime("plain-non-ascii-rule", "/caf%C3%A9/x", rule("/caf\u00e9/*", ttl=60))
lifetime("plain-segment", "/p/a%20b", rule("/p/{id}", ttl=60))
lifetime("plain-segments", "/p/a%2Fb", rule("/p/{id:path}", ttl=60))
lifetime("plain-suffix", "/a/b/x.css", SUFFIX)
row("path-cookie-first", "G1", at_("/static/../a", fetch(ok(), COOKIE, cs={"detail": "cookie"})), at_("/static/../a", fetch(ok(), cs={"detail": "path"})),
    rules=STATIC)
row("path-confirmed", "G1", at_("/static/../a", fetch(ok("max-age=10", ETAG))),
    at_("/static/../a", validated(unchanged(), advance=10)), at_("/static/../a", hit(advance=9)), rules=rule("/static/*", ttl=600))
