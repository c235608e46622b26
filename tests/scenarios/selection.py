"""Scenarios: which stored response a request selects, and what a validation makes of that.

RFC 9111 sections 4.1 (Vary), 4.3.1 (entity tags that are sent) and 4.3.4 (what a 304 updates).
"""

from __future__ import annotations

from typing import Any

from tests.scenarios.model import Lines, Reply, Step
from tests.scenarios.table import (
    AUTH,
    COOKIE,
    DIGITS,
    ETAG,
    FAIL,
    OLD,
    ONE_TAG,
    RAISES,
    TWO,
    VARY,
    W,
    bytes_,
    cc,
    f,
    fetch,
    hit,
    instead,
    ok,
    part,
    purge,
    row,
    rule,
    stale,
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

# -- 4.3.4: the 304 has a strong tag for what is stored with a weak one, and was sent no other ----------

WEAK, STRONG = ("ETag", 'W/"x"'), ("ETag", '"x"')
WEAKLY = ok("max-age=10", WEAK)
SAW_WEAK, SAW_NONE = {"if-none-match": 'W/"x"'}, {"if-none-match": None, "if-modified-since": None}


STRENGTHENED = unchanged("max-age=60", STRONG, ("X", "new"))


def reused_(reply: Reply = STRENGTHENED, content: bytes = b"one", *headers: tuple[str, str], **kw: Any) -> Step:
    """One call, and what is stored, as it was."""
    cs = {"fwd": "stale", "stored": None, "detail": "validator", **kw.pop("cs", {})}
    return validated(reply, content, *headers, cs=cs, **{"saw": SAW_WEAK, "has": {"x": None, "etag": 'W/"x"'}, **kw})


row("304-strong-for-weak", "4.3.4", fetch(WEAKLY), reused_(advance=10), reused_(),
    # From then on it is not asked again what brings nothing: once fetched, it is fresh.
    fetch(ok("max-age=10", WEAK, body=b"two"), saw=SAW_NONE), hit(b"two"), fetch(ok("max-age=10", WEAK), advance=10, saw=SAW_NONE),
    fetch(ok("max-age=10", STRONG, body=b"three"), advance=10, saw=SAW_NONE),
    validated(unchanged("max-age=60", STRONG), b"three", advance=10, saw={"if-none-match": '"x"'}, cs={"stored": True}))
row("304-strong-for-weak-then-another", "4.3.4", fetch(WEAKLY), reused_(advance=10), fetch(ok("max-age=60", WEAK, body=b"two"), saw=SAW_WEAK),
    hit(b"two"))
row("304-strong-for-weak-collapsed", "4.3.4, G2", fetch(WEAKLY),
    Step(advance=10, concurrent=4, origin=(unchanged("max-age=60", STRONG),), content=b"one", cs={}), reused_())
row("304-strong-for-weak-not-to-be-reused", "4.3.4, 5.2.2.4", fetch(WEAKLY), reused_(unchanged("no-cache", STRONG), advance=10))
row("304-strong-for-weak-has-it", "4.3.2", fetch(WEAKLY),
    reused_(unchanged("max-age=60", STRONG), b"", ("If-None-Match", 'W/"x"'), advance=10, status=304, has={"x": None}))
row("304-strong-for-weak-cookie", "G1", fetch(WEAKLY),
    reused_(unchanged("max-age=60", STRONG, ("Set-Cookie", "a=b")), advance=10, has={"set-cookie": "a=b"}), reused_(has={"set-cookie": None}))
row("304-strong-for-weak-head", "4.3.4", fetch(WEAKLY), reused_(unchanged("max-age=60", STRONG), b"", method="HEAD", advance=10))
row("304-strong-for-weak-swr", W, fetch(ok("max-age=10, stale-while-revalidate=600", WEAK)),
    stale(b"one", unchanged("max-age=60", STRONG), advance=20), stale(b"one", unchanged("max-age=60", STRONG), saw=SAW_WEAK),
    stale(b"one", TWO, saw=SAW_NONE), hit(b"two"))
row("304-strong-for-weak-swr-error", W, fetch(ok("max-age=10, stale-if-error=600", WEAK)), reused_(advance=10), instead(b"one", FAIL),
    instead(b"one", RAISES))
# A weak tag for a strong one renews what is stored, by the letter.
row("304-weak-for-strong", "4.3.4", fetch(ok("max-age=10", STRONG)),
    validated(unchanged("max-age=60", WEAK), advance=10, saw={"if-none-match": '"x"'}, cs={"stored": True}), hit())
# Ask again: what differs in more than strength, is not the one tag that was sent, or is for fewer clients.
NOT_THE_ONE: tuple[tuple[str, Lines, Lines], ...] = (
    ("other", (WEAK,), (("ETag", '"y"'),)), ("other-strength-case", (("ETag", 'w/"x"'),), (STRONG,)), ("two-in-304", (WEAK,), (STRONG, ("ETag", '"y"'))),
    ("two-stored", (WEAK, ("ETag", 'W/"y"')), (STRONG,)), ("list-stored", (("ETag", 'W/"x", W/"y"'),), (STRONG,)), ("private", (WEAK,), (STRONG, cc("private"))),
    ("no-store", (WEAK,), (STRONG, cc("no-store"))), ("vary", (WEAK,), (STRONG, *VARY)), ("vary-star", (WEAK,), (STRONG, *f("*", name="Vary"))))
for name_, tags_, lines_ in NOT_THE_ONE:
    row(f"304-strong-for-weak-not-{name_}", "4.3.4", fetch(ok("max-age=10", *tags_)),
        Step(advance=10, origin=(unchanged(None if cc("private")[0] in dict(lines_) else "max-age=60", *lines_), TWO), content=b"two",
             saw={"if-none-match": None}, cs={"hit": None}), hit(b"two"))
row("304-strong-for-weak-not-purged", "G3", fetch(WEAKLY), purge(), fetch(TWO, saw=SAW_NONE), hit(b"two"))
row("304-strong-for-weak-of-a-rule", "4.3.4", fetch(ok(None, WEAK)), reused_(unchanged(None, STRONG), advance=10), rules=rule(ttl=10))
row("304-strong-for-weak-by-cookie", "G1", fetch(ok("max-age=10", WEAK)), reused_(unchanged(None, STRONG), b"one", COOKIE, advance=10))

# -- language_match: in no other field may what is stored differ, by the most recent Vary ---------------

BY_LANGUAGE, BY_MORE = f("Accept-Language", name="Vary"), f("Accept-Language, X-Region", name="Vary")
EN_DE, LIKES_DE = f("en, de", name="Accept-Language"), f("de;q=1.0, fr;q=0.5", name="Accept-Language")
GERMAN = ("Content-Language", "de")
for name_, region, found in (("other", "2", False), ("same", "1", True)):
    row(f"language-by-more-{name_}", "4.1, G1", fetch(ok("max-age=60", *BY_MORE, GERMAN), *EN_DE, ("X-Region", "1")),
        hit(b"one", *LIKES_DE, ("X-Region", region)) if found else fetch(TWO, *LIKES_DE, ("X-Region", region)), language_match=True)
row("language-not-by-an-older-vary", "4.1, G1", fetch(ok("max-age=60", *BY_LANGUAGE, GERMAN), *EN_DE),
    fetch(ok("max-age=60", *BY_MORE, body=b"fr"), *f("fr", name="Accept-Language"), ("X-Region", "1")),
    fetch(TWO, *LIKES_DE, ("X-Region", "2")), language_match=True)
