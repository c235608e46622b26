"""G3, final purge: by URL and by tag, hard and soft."""

from __future__ import annotations

from tests.scenarios.dsl import (
    ETAG,
    FAIL,
    INM,
    LM,
    NO_TAGS,
    SOFT,
    SOFT_TAG,
    TAGS,
    TWO,
    VARY,
    fetch,
    field,
    hit,
    instead,
    ok,
    purge,
    purge_all,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("tags-stripped", "G1", fetch(ok("max-age=60", ETAG, *TAGS), has=NO_TAGS), hit(has=NO_TAGS),
    Step(headers=(INM,), status=304, content=b"", cs={"hit": True}, has=NO_TAGS))
row("tags-stripped-uncacheable", "G1", fetch(ok("no-store", *TAGS), has=NO_TAGS),
    fetch(ok("no-store", *TAGS), method="HEAD", has=NO_TAGS))
row("tags-stripped-304", "G1", fetch(ok("max-age=10", ETAG, *TAGS)),
    validated(unchanged("max-age=60", *TAGS), advance=10, has=NO_TAGS), hit(has=NO_TAGS))
row("tags-stripped-304-refused", "G1", fetch(ok("max-age=10", ETAG)),
    validated(unchanged("no-store", *TAGS), advance=10, has=NO_TAGS))
row("tags-stripped-other-methods", "G1", fetch(ok(None, *TAGS), method="POST", has=NO_TAGS))
row("tags-stripped-passed", "G1", fetch(ok(None, *TAGS), ("Range", "bytes=0-1"), has=NO_TAGS))
row("tags-shown", "G1", fetch(ok("max-age=60", *TAGS), has={"cache-tag": "a, b"}),
    hit(has={"cache-tag": "a, b", "surrogate-key": "c d"}), strip_tags=False)
row("tags-too-many", "G7", fetch(ok("max-age=60", ("Cache-Tag", "a,b,c")), cs={"detail": "tags"}),
    fetch(TWO), max_tags=2)
for name, line in (("cache-tag", ("Cache-Tag", "x, a ,y")), ("surrogate-key", ("Surrogate-Key", "x a"))):
    row(f"purge-{name}", "G3", fetch(ok("max-age=60", line), target="/1"),
        fetch(ok("max-age=60"), target="/2"), purge(tags="a"),
        fetch(TWO, target="/1"), hit(target="/2"))
row("purge-tag-lines", "G3", fetch(ok("max-age=60", ("Cache-Tag", "a"), ("Cache-Tag", "b"))),
    purge(tags="z b"), fetch(TWO))
row("purge-url", "G3", fetch(ok("max-age=60"), target="/1?x"), fetch(ok("max-age=60"), target="/1"),
    purge(target="/1?x"), fetch(TWO, target="/1?x"), hit(target="/1"))
row("purge-url-variants", "G3", fetch(ok("max-age=60", *VARY), *field("1")), purge(),
    fetch(ok("max-age=60", *VARY), *field("1")))
row("purge-url-escaped", "G3", fetch(ok("max-age=60"), target="/a%20b"), purge(target="/a%20b"),
    fetch(TWO, target="/a%20b"))
# A host is meant on all its ports, and is itself no part of another one's name.
for name, host, reached in (
    ("a-port", "example.org:8080", True), ("the-default-port", "example.org", True), ("longer", "example.org.uk", False),
    ("below", "www.example.org", False), ("longer-port", "example.org.uk:8080", False)):
    at_host = ("Host", host)
    row(f"purge-host-{name}", "G3", fetch(ok("max-age=60"), at_host), purge_all(hosts=["example.org"]),
        fetch(TWO, at_host) if reached else hit(b"one", at_host))
for name, host, reached in (
    ("itself", "example.org:8080", True), ("shorter", "example.org:808", False),
    ("none", "example.org", False)):
    at_host = ("Host", host)
    row(f"purge-host-and-port-{name}", "G3", fetch(ok("max-age=60"), at_host), purge_all(hosts=["example.org:8080"]),
        fetch(TWO, at_host) if reached else hit(b"one", at_host))
row("purge-ends-stale-windows", "G3",
    fetch(ok("max-age=10, stale-while-revalidate=60, stale-if-error=60", ("Cache-Tag", "a"))),
    purge(tags="a", advance=20), fetch(FAIL))
row("soft-purge-validates", "G3", fetch(ok("max-age=60", ETAG, SOFT_TAG)), SOFT,
    validated(unchanged(), saw={"if-none-match": '"abc"'}), hit())
row("soft-purge-swr", "G3", fetch(ok("max-age=60, stale-while-revalidate=30", SOFT_TAG)), SOFT,
    stale(b"one", TWO, advance=1), hit(b"two"))
row("soft-purge-sie", "G3", fetch(ok("max-age=60, stale-if-error=30", SOFT_TAG)), SOFT,
    instead(b"one", FAIL), fetch(TWO, advance=31))
# A 304 that says nothing of tags leaves them as they are; one that does replaces them (3.2).
row("tags-304-kept", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60"), advance=10), hit(), purge(tags="a"), fetch(TWO))
row("tags-304-kept-beside-rule", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60"), advance=10), hit(), purge(tags="a"), fetch(TWO),
    rules=rule(tags=["r"]))
row("tags-304-rule-kept", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60", ("Cache-Tag", "b")), advance=10), hit(), purge(tags="r"),
    fetch(TWO), rules=rule(tags=["r"]))
row("tags-304-replaced", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60", ("Cache-Tag", "b")), advance=10),
    purge(tags="a"), hit(), purge(tags="b"), fetch(TWO))
row("tags-head-kept-beside-rule", "4.3.5, G3", fetch(ok("max-age=10", LM, ("Cache-Tag", "a"))),
    fetch(ok("max-age=60", LM), method="HEAD", advance=10), hit(), purge(tags="a"), fetch(TWO),
    rules=rule(tags=["r"]))
row("tags-rule", "G3", fetch(ok("max-age=60"), target="/p/7"), fetch(ok("max-age=60"), target="/p/8"),
    purge(tags="p:7"), fetch(TWO, target="/p/7"), hit(target="/p/8"),
    rules=rule("/p/{id}", tags=["p:{id}"]))
