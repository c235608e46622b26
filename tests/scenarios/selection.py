"""Scenarios: which stored response a request selects, and what a validation makes of that.

RFC 9111 sections 4.1 (Vary), 4.3.1 (entity tags that are sent) and 4.3.4 (what a 304 updates).
"""

from __future__ import annotations

from tests.scenarios.model import Step
from tests.scenarios.table import (
    AUTH,
    DIGITS,
    ETAG,
    OLD,
    ONE_TAG,
    TWO,
    VARY,
    bytes_,
    cc,
    f,
    fetch,
    hit,
    ok,
    part,
    row,
    rule,
    unchanged,
    validated,
    varied,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- 4.1: of a field that is not known to be a list, only the ends are trimmed ----------------------

for name_, other in (("comma-behind", "u1,"), ("comma-before", ",u1"), ("commas", "u1,,"), ("semicolon", "u1;")):
    varied(f"no-list-{name_}", VARY, f("u1"), f(other), match=False)
varied("no-list-space", VARY, f("a, b"), f("a,b"), match=False)
varied("no-list-ends", VARY, f("a,b"), f(" a,b\t"), match=True)
varied("list-empty-members", f("Prefer", name="Vary"), f("u1", name="Prefer"), f(",u1,", name="Prefer"), match=True)

# -- 4.3.4, G1: what selects a stored response after an update is what selected it before, and more -----

BY_BOTH = f("Foo, Bar", name="Vary")
ONE_X, ONE_Y = (*f("1"), ("Bar", "x")), (*f("1"), ("Bar", "y"))
NARROW, WIDE = ok("max-age=10", *BY_BOTH, ETAG), ok("max-age=10", *VARY, ETAG)
OTHERS = ok("max-age=60", *BY_BOTH, body=b"two")

for name_, less in (("one", VARY), ("empty", f("", name="Vary")), ("none", ()), ("other", f("Qux", name="Vary")),
                    ("hop-by-hop", (*VARY, ("Connection", "Vary")))):
    row(f"304-keeps-vary-{name_}", "4.3.4, G1", fetch(NARROW, *ONE_X),
        validated(unchanged("max-age=60", *less), b"one", *ONE_X, advance=10, cs={"stored": True}),
        fetch(OTHERS, *ONE_Y), hit(b"one", *ONE_X), hit(b"two", *ONE_Y))
row("304-keeps-vary-of-the-answer", "4.3.4", fetch(NARROW, *ONE_X),
    validated(unchanged("max-age=60", *VARY), b"one", *ONE_X, advance=10, has={"vary": "Foo, bar"}),
    hit(b"one", *ONE_X, has={"vary": "Foo, bar"}))
row("304-keeps-vary-cookie", "4.3.4, G1", fetch(ok("max-age=10", *f("Cookie, Origin", name="Vary"), ETAG), ("Cookie", "u=1")),
    validated(unchanged("max-age=60", *f("Origin", name="Vary")), b"one", ("Cookie", "u=1"), advance=10),
    fetch(TWO, ("Cookie", "u=2")), hit(b"one", ("Cookie", "u=1")))
row("304-keeps-vary-of-a-rule", "4.3.4, G1", fetch(OLD, *f("1")),
    validated(unchanged("max-age=60", *f("Bar", name="Vary")), b"one", *f("1"), advance=10), fetch(TWO, *f("2")),
    rules=rule(vary=["Foo"]))
row("304-keeps-vary-for-followers", "4.3.4, G1, G2", fetch(NARROW, *ONE_X),
    Step(headers=ONE_X, advance=10, concurrent=3, origin=(unchanged("max-age=60", *VARY),), content=b"one", cs={}),
    fetch(OTHERS, *ONE_Y))
# What the 304 adds selects it from then on; no copy stays that is selected by less.
row("304-adds-vary", "4.3.4, G1", fetch(WIDE, *ONE_X),
    validated(unchanged("max-age=60", *BY_BOTH), b"one", *ONE_X, advance=10), fetch(OTHERS, *ONE_Y), hit(b"one", *ONE_X))
for name_, first, more in (("one", WIDE, BY_BOTH), ("other", WIDE, f("Bar", name="Vary")), ("first", ok("max-age=60", ETAG), f("Bar", name="Vary"))):
    row(f"304-adds-vary-while-fresh-{name_}", "4.3.4, G1", fetch(first, *ONE_X),
        validated(unchanged("max-age=60", *more), b"one", *ONE_X, cc("no-cache")), fetch(OTHERS, *ONE_Y))
row("304-adds-vary-star-while-fresh", "4.1", fetch(ok("max-age=60", ETAG)),
    validated(unchanged("max-age=60", ("Vary", "*")), b"one", cc("no-cache"), cs={"stored": None}), fetch(TWO))
row("304-adds-vary-star-for-authorization", "4.1", fetch(ok("public, max-age=60", ETAG)),
    validated(unchanged("public, max-age=60", ("Vary", "*")), b"one", AUTH, cc("no-cache"), cs={"stored": None}), fetch(TWO))
row("304-updates-none-that-varies-on-less", "4.3.4, G1",
    fetch(ok("max-age=60", *VARY, ONE_TAG), *ONE_X), fetch(ok("max-age=60", *f("Bar", name="Vary"), ONE_TAG), *f("2"), ("Bar", "x")),
    validated(unchanged("max-age=60", *VARY, ONE_TAG), b"one", *ONE_X, cc("no-cache")), fetch(TWO, *f("3"), ("Bar", "x")))
for name_, less in (("one", VARY), ("none", ())):
    row(f"head-keeps-vary-{name_}", "4.3.5, G1", fetch(NARROW, *ONE_X),
        fetch(ok("max-age=60", *less, ETAG), *ONE_X, method="HEAD", advance=10), hit(b"one", *ONE_X), fetch(OTHERS, *ONE_Y))
SWR_ONE = ok("max-age=60, stale-while-revalidate=600, stale-if-error=600", *VARY, ETAG)
for name_, more in (("field", BY_BOTH), ("star", f("*", name="Vary"))):
    row(f"head-adds-vary-{name_}", "4.3.5, G1", fetch(SWR_ONE, *ONE_X),
        fetch(ok("max-age=60", *more, ETAG), *ONE_X, cc("no-cache"), method="HEAD"), fetch(OTHERS, *ONE_Y))
# Parts: what completes a stored part is for those who select both.
PART_BY_BOTH, PART = part(0, 6, ETAG, *BY_BOTH), part(7, 9, ETAG, *VARY)
row("rest-keeps-vary", "3.4, G1", fetch(PART_BY_BOTH, *ONE_X, bytes_("0-6")),
    fetch(PART, *ONE_X, content=DIGITS, status=200, saw={"range": "bytes=7-"}, has={"vary": "Foo, bar"}),
    hit(DIGITS, *ONE_X), fetch(OTHERS, *ONE_Y))
row("rest-keeps-vary-for-followers", "3.4, G1, G2", fetch(PART_BY_BOTH, *ONE_X, bytes_("0-6")),
    Step(headers=ONE_X, concurrent=3, origin=(PART,), content=DIGITS, cs={}), fetch(OTHERS, *ONE_Y))
row("rest-adds-vary", "3.4, G1", fetch(part(0, 6, ETAG, *VARY), *ONE_X, bytes_("0-6")),
    Step(headers=ONE_Y, origin=(part(7, 9, ETAG, *BY_BOTH), OTHERS), content=b"two", saw={"range": None}, cs={"hit": None}),
    hit(b"two", *ONE_Y), fetch(TWO, *ONE_X))
row("combine-vary", "3.4, G1", fetch(part(0, 4, ETAG, *VARY), *ONE_X, bytes_("0-4")),
    fetch(part(5, 9, ETAG, *BY_BOTH), *ONE_Y, bytes_("5-9")), fetch(OTHERS, *ONE_Y))
# Fields that were private to one client.
row("304-keeps-private-fields", "5.2.2.7, G1", fetch(ok('max-age=10, private="x-user"', ETAG, ("X-User", "a")), has={"x-user": "a"}),
    validated(unchanged("max-age=60", ("X-User", "b")), advance=10, has={"x-user": None}), hit(has={"x-user": None}),
    validated(unchanged("max-age=60", ("X-User", "c")), advance=60, has={"x-user": None}), hit(has={"x-user": None}))
