"""The No-Vary-Search HTTP Caching Extension (an Internet-Draft): the option ``no_vary_search``."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    DONE,
    ETAG,
    FAIL,
    LOST,
    TWO,
    VARY,
    cc,
    fetch,
    field,
    hit,
    instead,
    ok,
    post,
    posted,
    purge,
    purge_all,
    row,
    stale,
    to,
    unchanged,
    unreachable,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off


def nvs(value: str) -> tuple[str, str]:
    return ("No-Vary-Search", value)


UTM = nvs('params=("utm")')
SOLD = ok("max-age=60", UTM)
OTHER = ok("max-age=60", UTM, body=b"two")


def search(id_: str, *steps: Step, rfc: str = "4", **kw: Any) -> None:
    row(f"search-{id_}", rfc, *steps, **{"no_vary_search": True, **kw})


search("same-query", to("/p?a=1", fetch(SOLD)), to("/p?a=1", hit()), to("/p?a=1", hit()))
search("equivalent", to("/p?a=1&utm=x", fetch(SOLD)), to("/p?a=1&utm=y", hit()), to("/p?utm&a=1", hit()),
    to("/p?a=1", hit(has={"no-vary-search": 'params=("utm")'})))
search("no-query", to("/p", fetch(SOLD)), to("/p?utm=y", hit()), to("/p?", hit()))
search("not-equivalent", to("/p?a=1&utm=x", fetch(SOLD)), to("/p?a=2&utm=x", fetch(OTHER)),
    to("/p?a=1&utm=z", hit(b"one")), to("/p?utm=z&a=2", hit(b"two")), rfc="G9")
search("other-path", to("/p?utm=x", fetch(SOLD)), to("/q?utm=x", fetch(OTHER)), rfc="G9")
search("other-host", to("/p?utm=x", fetch(SOLD)), to("/p?utm=x", fetch(OTHER, ("Host", "b.example"))), rfc="G9")
search("other-scheme", to("/p?utm=x", fetch(SOLD)), to("/p?utm=x", fetch(OTHER, scheme="https")), rfc="G9")
search("off", to("/p?utm=x", fetch(SOLD)), to("/p?utm=y", fetch(OTHER)), to("/p?utm=x", hit()), no_vary_search=False)
for void in ("params=(utm)", 'params=("utm"), except=("a")', "params=", "utm", 'except=("a")'):
    search(f"void-{void}", to("/p?utm=x", fetch(ok("max-age=60", nvs(void)))), to("/p?utm=y", fetch(TWO)))
search("order", to("/p?a=1&b=2", fetch(ok("max-age=60", nvs("key-order")))), to("/p?b=2&a=1", hit()),
    to("/p?b=1&a=2", fetch(TWO)))
search("only", to("/p?id=1&a=2", fetch(ok("max-age=60", nvs('params, except=("id")')))), to("/p?b=3&id=1", hit()),
    to("/p?id=2", fetch(TWO)), to("/p?a=2", fetch(TWO)))
search("said-last", to("/p?utm=1", fetch(SOLD)), to("/p?id=1&s=1", fetch(ok("max-age=60", nvs('params=("s")'), body=b"two"))),
    to("/p?s=2&id=1", hit(b"two")), to("/p?utm=2", fetch(ok("max-age=60", body=b"three"))))
search("said-by-one-only", to("/p?utm=1&a=1", fetch(SOLD)), to("/p?utm=1&a=2", fetch(TWO)), to("/p?utm=1&a=2", hit(b"two")),
    to("/p?utm=2&a=2", fetch(ok("max-age=60", body=b"three"))), to("/p?utm=2&a=1", hit(b"one")), rfc="G9")
search("said-later", to("/p?utm=1", fetch(ok("max-age=10"))), to("/p?utm=1", fetch(OTHER, advance=10)),
    to("/p?utm=2", hit(b"two")), to("/p?utm=1", hit(b"two")))
search("said-later-for-a-stale-one", to("/p?utm=1", fetch(ok("max-age=10", ETAG))),
    to("/p?utm=1", fetch(OTHER, advance=10)), to("/p?utm=1", hit(b"two")), to("/p?utm=2", hit(b"two")))
search("said-in-304", to("/p?utm=1", fetch(ok("max-age=10", ETAG))),
    to("/p?utm=1", validated(unchanged("max-age=60", UTM), advance=10)), to("/p?utm=2", hit()), to("/p?utm=1", hit()))
search("validated", to("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG))),
    to("/p?utm=2", validated(unchanged("max-age=60"), advance=10, saw={"if-none-match": '"abc"'})), to("/p?utm=3", hit()))
search("stale-if-error", to("/p?utm=1", fetch(ok("max-age=10, stale-if-error=60", UTM))),
    to("/p?utm=2", instead(b"one", FAIL, advance=20)), rfc="RFC 5861 4")
search("stale-while-revalidate", to("/p?utm=1", fetch(ok("max-age=10, stale-while-revalidate=60", UTM))),
    to("/p?utm=2", stale(b"one", OTHER, advance=20)), to("/p?utm=3", hit(b"two")), rfc="RFC 5861 3")
search("vary", to("/p?utm=1", fetch(ok("max-age=60", UTM, *VARY), *field("1"))), to("/p?utm=2", hit(b"one", *field("1"))),
    to("/p?utm=3", fetch(ok("max-age=60", UTM, *VARY, body=b"two"), *field("2"), cs={"fwd": "vary-miss"})),
    to("/p?utm=4", hit(b"two", *field("2"))), to("/p?utm=5", hit(b"one", *field("1"))))
search("vary-then-said", to("/p?utm=1", fetch(ok("max-age=10", *VARY), *field("1"))),
    to("/p?utm=1", fetch(ok("max-age=60", UTM, *VARY, body=b"two"), *field("1"), advance=10)),
    to("/p?utm=1", hit(b"two", *field("1"))), to("/p?utm=2", hit(b"two", *field("1"))))
search("head", to("/p?utm=1", fetch(SOLD)), to("/p?utm=2", hit(b"", method="HEAD")))
search("head-freshens", to("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG))),
    to("/p?utm=2", fetch(ok("max-age=60", UTM, ETAG), cc("no-cache"), method="HEAD")), to("/p?utm=3", hit(advance=30)), rfc="4.3.5")
search("head-says-otherwise", to("/p?utm=1", fetch(ok("max-age=60", UTM, ETAG))),
    to("/p?utm=2", fetch(ok("max-age=60", nvs("key-order"), ETAG), cc("no-cache"), method="HEAD")),
    to("/p?x=1", fetch(TWO)), rfc="G9")
search("not-stored", to("/p?utm=1", fetch(ok("private", UTM))), to("/p?utm=2", fetch(ok("private", UTM))), rfc="G1")
search("cookie", to("/p?utm=1", fetch(ok("max-age=60", UTM, ("Set-Cookie", "a=b")))), to("/p?utm=2", fetch(SOLD)), rfc="G1")
search("authorization", to("/p?utm=1", fetch(SOLD)), to("/p?utm=2", fetch(ok("private", body=b"mine"), AUTH)),
    to("/p?utm=3", hit()), rfc="3.5")
search("public-for-authorization", to("/p?utm=1", fetch(ok("public, max-age=60", UTM))), to("/p?utm=2", hit(b"one", AUTH)), rfc="3.5")
for spelled in ("/p?utm=1&a=1", "/p?a=1", "/p?a=1&utm=2", "/p?%61=1&utm", "/p"):
    search(f"purge-{spelled}", to("/p?utm=1&a=1", fetch(SOLD)), to(spelled, purge()), to("/p?utm=2&a=1", fetch(OTHER)), rfc="G3")
    search(f"unsafe-{spelled}", to("/p?utm=1&a=1", fetch(SOLD)), to(spelled, fetch(DONE, method="POST")),
        to("/p?utm=2&a=1", fetch(OTHER)), rfc="4.4")
# What was posted to one target is not what is given out for another (RFC 9110 9.3.3).
search("posted", to("/p?utm=1", post(posted("max-age=60", UTM, where="/p?utm=1"))), to("/p?utm=1", fetch(SOLD)), rfc="G4")
search("posted-elsewhere", to("/p?a=1", fetch(SOLD)), to("/p?utm=1", post(posted("max-age=60", UTM, where="/p?utm=1"))),
    to("/p?utm=2", fetch(OTHER)), rfc="G4")
search("posted-without", to("/p?utm=1", fetch(SOLD)),
    to("/p?utm=1", post(posted("max-age=60", where="/p?utm=1"), stored=True)), to("/p?utm=1", hit(b"posted")),
    to("/p?utm=2", fetch(OTHER)), rfc="G4")
search("purge-other-path", to("/p?utm=1", fetch(SOLD)), to("/q?utm=1", purge()), to("/p?utm=2", hit()), rfc="G3")
# What matches with some query reaches what is stored for all of them, whatever is left of theirs.
for name, meant in (
    ("pattern", {"patterns": ["http://example.org/p?utm=2*"]}), ("pattern-path", {"patterns": ["/p?utm=2"]}),
    ("pattern-path-star", {"patterns": ["/p?*utm=2"]}), ("pattern-any-host", {"patterns": ["*/p?utm=*"]}),
    ("pattern-no-query", {"patterns": ["/p"]}), ("pattern-any-path", {"patterns": ["/*?utm=2"]}),
    ("pattern-in-the-query", {"patterns": ["/p*2"]}), ("pattern-soft", {"patterns": ["/p?utm=2"], "soft": True}),
    ("prefix", {"prefixes": ["example.org/p?utm=2"]}), ("prefix-of-the-query", {"prefixes": ["example.org/p?u"]}),
    ("prefix-question", {"prefixes": ["http://example.org/p?"]}), ("prefix-path", {"prefixes": ["example.org/"]}),
    ("host", {"hosts": ["example.org"]}), ("everything", {"purge_everything": True})):
    search(f"purge-by-{name}", to("/p?utm=1&a=1", fetch(SOLD)), to("/p?utm=2&a=1", hit()), purge_all(**meant),
        to("/p?utm=2&a=1", fetch(OTHER)), to("/p?a=1&utm=3", hit(b"two")), rfc="G3")
for name, meant in (
    ("pattern", {"patterns": ["/q?utm=2", "/P?*", "/p/*", "/pp*", "/", "https://example.org/p?*", "http://example.com/*"]}),
    ("prefix", {"prefixes": ["example.org/q?utm=1", "example.org/pp", "example.org/p/", "example.com/", "https://example.org/p?"]})):
    search(f"purge-others-by-{name}", to("/p?utm=1", fetch(SOLD)), purge_all(**meant), to("/p?utm=2", hit()), rfc="G3")
search("purge-by-pattern-not-the-exact-ones", to("/p?a=1", fetch(ok("max-age=60"))), purge_all(patterns=["/p?a=2", "/*/p"]),
    to("/p?a=1", hit()), rfc="G3")
search("purge-tag", to("/p?utm=1", fetch(ok("max-age=60", UTM, ("Cache-Tag", "t")))), purge(tags="t"),
    to("/p?utm=2", fetch(OTHER)), rfc="G3")
search("purge-not-the-exact-ones", to("/p?a=1", fetch(ok("max-age=60"))), to("/p?a=2", purge()), to("/p?a=1", hit()), rfc="G3")
search("most-tags", to("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG, ("Cache-Tag", "a, b")))),
    to("/p?utm=1", validated(unchanged("max-age=10"), advance=10, cs={"stored": True})), to("/p?utm=1", hit()), max_tags=2, rfc="G7")
search("collapsed", to("/p?utm=1", fetch(ok("max-age=10", UTM))),
    Step(target="/p?utm=1", concurrent=4, advance=10, origin=(OTHER,), content=b"two", cs={}), rfc="G2")
search("unreachable", to("/p?utm=1", fetch(ok("max-age=10", UTM))), to("/p?utm=2", unreachable(b"one", LOST, advance=20)),
    rfc="4.2.4", stale_if_unreachable=60)
