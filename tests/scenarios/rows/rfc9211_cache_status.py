"""RFC 9211, The Cache-Status HTTP Response Header Field."""

from __future__ import annotations

from tests.scenarios.dsl import (
    DONE,
    ETAG,
    INM,
    OLD,
    ORIGIN,
    TEN_MINUTES,
    TWO,
    VARY,
    cc,
    fetch,
    field,
    hit,
    ok,
    row,
    unchanged,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("cs-hit", "RFC 9211 2.1, 2.4", fetch(ok("max-age=60")),
    hit(advance=10, cs={"ttl": 50, "stored": None, "detail": None, "key": None}))
row("cs-uri-miss", "RFC 9211 2.2", fetch(ok("max-age=60"), cs={"fwd": "uri-miss", "stored": True}))
row("cs-vary-miss", "RFC 9211 2.2", fetch(ok("max-age=60", *VARY), *field("1")),
    fetch(ok("max-age=60", *VARY), *field("2"), cs={"fwd": "vary-miss", "stored": True}))
row("cs-stale", "RFC 9211 2.2", fetch(OLD),
    fetch(TWO, advance=10, cs={"fwd": "stale", "fwd-status": None, "stored": True}))
row("cs-request", "RFC 9211 2.2", fetch(TEN_MINUTES), fetch(TWO, cc("no-cache"), cs={"fwd": "request"}))
row("cs-request-on-stale", "RFC 9211 2.2", fetch(OLD),
    fetch(TWO, cc("min-fresh=1"), advance=10, cs={"fwd": "stale"}))
row("cs-method", "RFC 9211 2.2", fetch(DONE, method="POST", cs={"fwd": "method", "stored": None}))
row("cs-bypass", "RFC 9211 2.2", fetch(ok(), ("Range", "lines=0-1"), cs={"fwd": "bypass"}))
row("cs-refused", "RFC 9211 2.8", fetch(ok("no-store"),
    cs={"fwd": "uri-miss", "detail": "no-store", "stored": None}))
row("cs-validated", "RFC 9211 2.3", fetch(OLD),
    validated(unchanged(), advance=10, cs={"fwd": "stale", "stored": True}))
row("cs-appended", "RFC 9211 2",
    fetch(ok("max-age=60", ORIGIN), members=2, cs={"fwd": "uri-miss"}), hit(members=2))
row("cs-appended-lines", "RFC 9211 2",
    fetch(ok("max-age=60", ORIGIN, ("Cache-Status", "Inner; hit")), members=3), hit(members=3))
row("cs-appended-pass", "RFC 9211 2", fetch(ok(None, ORIGIN), ("Range", "lines=0-1"), members=2),
    fetch(ok(None, ORIGIN), method="POST", members=2))
row("cs-appended-refused", "RFC 9211 2", fetch(ok("no-store", ORIGIN), members=2))
row("cs-appended-304", "RFC 9211 2", fetch(ok("max-age=60", ORIGIN, ETAG), members=2),
    Step(headers=(INM,), status=304, content=b"", cs={"hit": True}, members=2))
row("cs-off", "RFC 9211 2", *(Step(origin=(ok("max-age=60"),) if n == 0 else (), content=b"one")
                   for n in range(2)), cache_status=False)
