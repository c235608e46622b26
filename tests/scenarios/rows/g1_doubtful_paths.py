"""G1, privacy: no lifetime of a rule for a target that may be taken for another one."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import COOKIE, ETAG, fetch, hit, ok, row, rule, to, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

STATIC = rule("/static/*", ttl=60)
SECRET = ok(None, body=b"account")


def no_lifetime(id_: str, target: str, rules: tuple[dict[str, Any], ...] = STATIC) -> None:
    row(f"path-{id_}", "G1", to(target, fetch(SECRET, cs={"detail": "path", "stored": None})), to(target, fetch(ok(None, body=b"two"))),
        # What the app says of its response holds.
        to(target, fetch(ok("max-age=60"))), to(target, hit()), rules=rules)


def lifetime(id_: str, target: str, rules: tuple[dict[str, Any], ...] = STATIC) -> None:
    row(f"path-{id_}", "3", to(target, fetch(ok())), to(target, hit()), rules=rules)


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
row("path-cookie-first", "G1", to("/static/../a", fetch(ok(), COOKIE, cs={"detail": "cookie"})), to("/static/../a", fetch(ok(), cs={"detail": "path"})),
    rules=STATIC)
row("path-confirmed", "G1", to("/static/../a", fetch(ok("max-age=10", ETAG))),
    to("/static/../a", validated(unchanged(), advance=10)), to("/static/../a", hit(advance=9)), rules=rule("/static/*", ttl=600))
