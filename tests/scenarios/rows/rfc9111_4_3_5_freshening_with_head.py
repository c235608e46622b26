"""RFC 9111 section 4.3.5, Freshening Responses with HEAD."""

from __future__ import annotations

from tests.scenarios.dsl import (
    COOKIE,
    ETAG,
    INM,
    LM,
    OLD,
    TWO,
    VARY,
    cc,
    fetch,
    field,
    hit,
    ok,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("head-from-get", "4", fetch(ok("max-age=60", ("Content-Length", "3"))),
    hit(b"", method="HEAD", has={"content-length": "3"}))
row("head-from-get-length", "4", fetch(ok("max-age=60")),
    hit(b"", method="HEAD", has={"content-length": "3"}))
row("head-says-nothing-of-an-error", "4.3.5", fetch(ok("max-age=60", ETAG, status=404, body=b"gone")),
    fetch(ok("max-age=60", ("ETag", '"x"')), cc("no-cache"), method="HEAD"), hit(b"gone", status=404))
row("head-with-a-cookie-says-nothing-of-what-is-for-none", "4.3.5, G1", fetch(ok()),
    fetch(ok("max-age=60", ("Content-Length", "99")), COOKIE, method="HEAD"), hit(), rules=rule(ttl=60))
row("head-miss", "3", fetch(ok("max-age=60"), method="HEAD", cs={"stored": None}), fetch(TWO),
    hit(b"two"), hit(b"", method="HEAD"))
row("head-not-stored", "3", fetch(ok("max-age=60"), method="HEAD"),
    fetch(ok("max-age=60"), method="HEAD"))
row("head-stale-validates", "4.3.1", fetch(OLD),
    validated(unchanged("max-age=60"), b"", method="HEAD", advance=10,
              saw={"if-none-match": '"abc"'}), hit())
row("head-freshens", "4.3.5", fetch(ok("max-age=10", LM, ("Foo", "a"))),
    fetch(ok("max-age=60", LM, ("Foo", "b"), ("Content-Length", "3")), method="HEAD", advance=10),
    hit(advance=59, has={"foo": "b", "content-length": "3"}))
row("head-freshens-no-validator", "4.3.5",
    fetch(ok("max-age=10, stale-if-error=99", ("Foo", "a"))),
    fetch(ok("max-age=60", ("Foo", "b")), method="HEAD", advance=10), hit(has={"foo": "b"}))
# "the cache SHOULD update the stored response": a HEAD that says nothing new confirms it.
row("head-freshens-silent", "4.3.5", fetch(ok("max-age=10", ETAG, ("Foo", "a"))),
    fetch(ok(None, ETAG), cc("no-cache"), method="HEAD", advance=9), hit(advance=9, has={"foo": "a"}))
row("head-outdates-window", "4.3.5", fetch(ok("max-age=60, stale-while-revalidate=30", ETAG)),
    fetch(ok("max-age=60", ("ETag", '"x"')), cc("no-cache"), method="HEAD"),
    stale(b"one", TWO, advance=1), hit(b"two"))
row("head-variant", "4.3.5", fetch(ok("max-age=10", *VARY, LM), *field("1")),
    fetch(ok("max-age=10", *VARY, LM, body=b"two"), *field("2")),
    fetch(ok("max-age=60", *VARY, LM), *field("1"), cc("no-cache"), method="HEAD"),
    hit(b"one", *field("1"), advance=30), validated(unchanged(), b"two", *field("2")))
row("head-age", "4.2.3", fetch(ok("max-age=10", LM)),
    fetch(ok("max-age=60", LM, ("Age", "50")), method="HEAD", advance=10),
    hit(has={"age": "50"}, advance=0), fetch(TWO, advance=10))
for name, lines in (("etag", (("ETag", '"x"'),)), ("lm", (("Last-Modified", at(-5)),)),
                    ("length", (("Content-Length", "4"),))):
    row(f"head-other-{name}", "4.3.5", fetch(ok("max-age=60", ETAG, LM)),
        fetch(ok("max-age=60", *lines), ("Cache-Control", "no-cache"), method="HEAD"),
        fetch(TWO, cs={"fwd": "stale"}))
row("head-error-ignored", "4.3.5", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", status=500), ("Cache-Control", "no-cache"), method="HEAD"), hit())
row("head-swr", "RFC 5861 3", fetch(ok("max-age=10, stale-while-revalidate=30")),
    stale(b"", TWO, method="HEAD", advance=20), hit(b"two"))
row("head-asked-swr", "4.3.2", fetch(ok("max-age=10, stale-while-revalidate=30", ETAG)),
    stale(b"", TWO, INM, method="HEAD", advance=20, status=304), hit(b"two"))
row("head-not-unsafe", "4.4", fetch(ok("max-age=60")),
    fetch(TWO, method="HEAD", target="/other"), hit())
