"""RFC 9111 section 4.3.4, Freshening Stored Responses upon Validation, and 3.2, Updating Stored Header Fields."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    DAY,
    DIGITS,
    ETAG,
    FAIL,
    INM,
    LM,
    OLD,
    ONE_TAG,
    RAISES,
    TWO,
    VARY,
    bytes_,
    cc,
    fetch,
    field,
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
)
from tests.scenarios.model import Lines, Reply, Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- a 304 updates ---------------------------------------------------------------------------------


def updates(id_: str, old: Lines, new: Lines, **has: str | None) -> None:
    expected = {name.replace("_", "-"): value for name, value in has.items()}
    row(f"304-{id_}", "4.3.4", fetch(ok("max-age=10", ETAG, *old)),
        validated(unchanged("max-age=60", ETAG, *new), advance=10, has=expected),
        hit(has=expected, advance=20))


updates("field", field("a"), field("b"), foo="b")
updates("field-added", (), field("b"), foo="b")
updates("field-kept", field("a"), (), foo="a")
updates("field-lines", field("a", "b"), field("c", "d"), foo="c, d")
updates("field-fewer-lines", field("a", "b"), field("c"), foo="c")
updates("field-empty", field("a"), field(""), foo="")
updates("content-type", field("text/a", name="Content-Type"), field("text/b", name="Content-Type"),
        content_type="text/b")
updates("content-length", field("3", name="Content-Length"), field("99", name="Content-Length"),
        content_length="3")
updates("content-length-0", field("3", name="Content-Length"), field("0", name="Content-Length"),
        content_length="3")
updates("content-length-none", (), field("0", name="Content-Length"), content_length="3")
updates("content-location", field("/a", name="Content-Location"), field("/b", name="Content-Location"),
        content_location="/b")
updates("csp", field("a", name="Content-Security-Policy"), field("b", name="Content-Security-Policy"),
        content_security_policy="b")
updates("frame-options", field("deny", name="X-Frame-Options"), field("sameorigin", name="X-Frame-Options"),
        x_frame_options="sameorigin")
for digest in ("Content-MD5", "Content-Digest", "Repr-Digest", "Digest"):
    updates(digest.lower(), field("a", name=digest), field("b", name=digest), **{digest.lower(): "a"})
updates("date", (DAY,), (("Date", at(10)),), date=at(10))
updates("connection", field("1", name="A"), (("Connection", "a, b"), ("A", "2"), ("B", "3")),
        connection=None, b=None)
# G1: a cookie that comes with a 304 is for the client whose request was forwarded, and for no other.
row("304-set-cookie", "4.3.4", fetch(ok("max-age=10", ETAG)),
    validated(unchanged("max-age=60", ("Set-Cookie", "a=b")), advance=10, has={"set-cookie": "a=b"}),
    hit(has={"set-cookie": None}))
row("304-date-kept-away", "RFC 9110 6.6.1", fetch(ok("max-age=10", ETAG, DAY)),
    validated(unchanged("max-age=20"), advance=10, has={"age": "0"}), hit(advance=19))
row("304-vary-star", "4.1", fetch(OLD), validated(unchanged("max-age=60", ("Vary", "*")), advance=10,
    cs={"stored": None}), fetch(TWO))
row("304-lifetime-shorter", "4.3.4", fetch(OLD), validated(unchanged("max-age=1"), advance=10),
    validated(unchanged(), advance=1))
row("304-no-cache-from-now-on", "4.3.4", fetch(OLD), validated(unchanged("no-cache"), advance=10),
    validated(unchanged()))
row("304-must-revalidate-from-now-on", "4.2.4", fetch(ok("max-age=10, stale-if-error=60", ETAG)),
    validated(unchanged("max-age=10, must-revalidate"), advance=10), fetch(FAIL, advance=10))
row("304-windows-from-now-on", "RFC 5861 3", fetch(OLD),
    validated(unchanged("max-age=10, stale-while-revalidate=30"), advance=10),
    stale(b"one", TWO, advance=20), hit(b"two"))
row("304-head-unasked", "4.3.1",
    Step(method="HEAD", headers=(INM,), origin=(unchanged("max-age=60", ETAG),), status=304,
         content=b"", cs={"hit": None, "stored": None}, saw={"if-none-match": '"abc"'}),
    fetch(TWO))
row("304-freshens", "4.3.4", fetch(OLD), validated(unchanged("max-age=60"), advance=10, has={"age": "0"}),
    hit(advance=59, has={"age": "59"}), validated(unchanged("max-age=60"), advance=1))
row("304-says-nothing", "4.3.4", fetch(OLD), validated(unchanged(), advance=10), hit(advance=9),
    validated(unchanged(), advance=1))
row("304-age", "4.2.3", fetch(OLD),
    validated(unchanged("max-age=60", ("Age", "30")), advance=10, has={"age": "30"}),
    hit(advance=29, has={"age": "59"}), validated(unchanged(), advance=1))
row("304-date-age", "4.2.3", fetch(OLD),
    validated(unchanged("max-age=60", ("Date", at(-30))), advance=10, has={"age": "40"}))
row("304-expires", "4.3.4", fetch(ok(None, ETAG, DAY, ("Expires", at(10)))),
    validated(unchanged(None, ("Date", at(10)), ("Expires", at(70))), advance=10,
              has={"expires": at(70)}),
    hit(advance=59), validated(unchanged(), advance=1))
row("304-private", "4.3.4", fetch(OLD), validated(unchanged("private"), advance=10, cs={"stored": None}),
    fetch(TWO, saw={"if-none-match": None}))
row("304-no-store", "4.3.4", fetch(OLD), validated(unchanged("no-store"), advance=10), fetch(TWO))
row("304-no-cache-field", "5.2.2.4", fetch(ok("max-age=10", ETAG, ("X-User", "7"))),
    validated(unchanged('max-age=60, no-cache="x-user"'), advance=10), hit(has={"x-user": None}))
row("304-vary-added", "4.1", fetch(OLD, *field("1")),
    validated(unchanged("max-age=60", *VARY), b"one", *field("1"), advance=10), hit(b"one", *field("1")))
row("304-vary-kept", "4.1", fetch(ok("max-age=10", ETAG, *VARY), *field("1")),
    validated(unchanged("max-age=60"), b"one", *field("1"), advance=10), hit(b"one", *field("1")),
    fetch(TWO, *field("2")))
row("304-same-lm", "4.3.4", fetch(ok("max-age=10", LM)),
    validated(unchanged("max-age=60", LM), advance=10), hit())
row("304-weak-same", "4.3.4", fetch(ok("max-age=10", ("ETag", 'W/"abc"'))),
    validated(unchanged("max-age=60", ("ETag", 'W/"abc"')), advance=10), hit())
# "the cache MUST NOT use the new response to update any stored responses"
for name, line in (("etag", ("ETag", '"other"')), ("lm", ("Last-Modified", at(-5)))):
    row(f"304-other-{name}", "4.3.4", fetch(ok("max-age=10", ETAG if name == "etag" else LM)),
        Step(advance=10, origin=(unchanged("max-age=60", line, ("Foo", "bad")),
                                 ok("max-age=60", body=b"new")),
             content=b"new", has={"foo": None}, cs={"hit": None, "fwd-status": None},
             saw={"if-none-match": None, "if-modified-since": None}),
        hit(b"new"))
row("304-to-client-only", "4.3.4", fetch(TWO), Step(
    target="/x", headers=(INM, AUTH), origin=(unchanged("max-age=60", ETAG),), status=304,
    content=b"", cs={"hit": None, "stored": None}, saw={"if-none-match": '"abc"'}),
    fetch(TWO, target="/x"))

# -- what selects a stored response after an update is what selected it before, and more (G1) ------

BY_BOTH = field("Foo, Bar", name="Vary")
ONE_X, ONE_Y = (*field("1"), ("Bar", "x")), (*field("1"), ("Bar", "y"))
NARROW, WIDE = ok("max-age=10", *BY_BOTH, ETAG), ok("max-age=10", *VARY, ETAG)
OTHERS = ok("max-age=60", *BY_BOTH, body=b"two")

for name_, less in (("one", VARY), ("empty", field("", name="Vary")), ("none", ()), ("other", field("Qux", name="Vary")),
                    ("hop-by-hop", (*VARY, ("Connection", "Vary")))):
    row(f"304-keeps-vary-{name_}", "4.3.4, G1", fetch(NARROW, *ONE_X),
        validated(unchanged("max-age=60", *less), b"one", *ONE_X, advance=10, cs={"stored": True}),
        fetch(OTHERS, *ONE_Y), hit(b"one", *ONE_X), hit(b"two", *ONE_Y))
row("304-keeps-vary-of-the-answer", "4.3.4", fetch(NARROW, *ONE_X),
    validated(unchanged("max-age=60", *VARY), b"one", *ONE_X, advance=10, has={"vary": "Foo, bar"}),
    hit(b"one", *ONE_X, has={"vary": "Foo, bar"}))
row("304-keeps-vary-cookie", "4.3.4, G1", fetch(ok("max-age=10", *field("Cookie, Origin", name="Vary"), ETAG), ("Cookie", "u=1")),
    validated(unchanged("max-age=60", *field("Origin", name="Vary")), b"one", ("Cookie", "u=1"), advance=10),
    fetch(TWO, ("Cookie", "u=2")), hit(b"one", ("Cookie", "u=1")))
row("304-keeps-vary-of-a-rule", "4.3.4, G1", fetch(OLD, *field("1")),
    validated(unchanged("max-age=60", *field("Bar", name="Vary")), b"one", *field("1"), advance=10), fetch(TWO, *field("2")),
    rules=rule(vary=["Foo"]))
row("304-keeps-vary-for-followers", "4.3.4, G1, G2", fetch(NARROW, *ONE_X),
    Step(headers=ONE_X, advance=10, concurrent=3, origin=(unchanged("max-age=60", *VARY),), content=b"one", cs={}),
    fetch(OTHERS, *ONE_Y))
# What the 304 adds selects it from then on; no copy stays that is selected by less.
row("304-adds-vary", "4.3.4, G1", fetch(WIDE, *ONE_X),
    validated(unchanged("max-age=60", *BY_BOTH), b"one", *ONE_X, advance=10), fetch(OTHERS, *ONE_Y), hit(b"one", *ONE_X))
for name_, first, more in (("one", WIDE, BY_BOTH), ("other", WIDE, field("Bar", name="Vary")), ("first", ok("max-age=60", ETAG), field("Bar", name="Vary"))):
    row(f"304-adds-vary-while-fresh-{name_}", "4.3.4, G1", fetch(first, *ONE_X),
        validated(unchanged("max-age=60", *more), b"one", *ONE_X, cc("no-cache")), fetch(OTHERS, *ONE_Y))
row("304-adds-vary-star-while-fresh", "4.1", fetch(ok("max-age=60", ETAG)),
    validated(unchanged("max-age=60", ("Vary", "*")), b"one", cc("no-cache"), cs={"stored": None}), fetch(TWO))
row("304-adds-vary-star-for-authorization", "4.1", fetch(ok("public, max-age=60", ETAG)),
    validated(unchanged("public, max-age=60", ("Vary", "*")), b"one", AUTH, cc("no-cache"), cs={"stored": None}), fetch(TWO))
row("304-updates-none-that-varies-on-less", "4.3.4, G1",
    fetch(ok("max-age=60", *VARY, ONE_TAG), *ONE_X), fetch(ok("max-age=60", *field("Bar", name="Vary"), ONE_TAG), *field("2"), ("Bar", "x")),
    validated(unchanged("max-age=60", *VARY, ONE_TAG), b"one", *ONE_X, cc("no-cache")), fetch(TWO, *field("3"), ("Bar", "x")))
for name_, less in (("one", VARY), ("none", ())):
    row(f"head-keeps-vary-{name_}", "4.3.5, G1", fetch(NARROW, *ONE_X),
        fetch(ok("max-age=60", *less, ETAG), *ONE_X, method="HEAD", advance=10), hit(b"one", *ONE_X), fetch(OTHERS, *ONE_Y))
SWR_ONE = ok("max-age=60, stale-while-revalidate=600, stale-if-error=600", *VARY, ETAG)
for name_, more in (("field", BY_BOTH), ("star", field("*", name="Vary"))):
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

# -- the 304 has a strong tag for what is stored with a weak one, and was sent no other ------------

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
row("304-strong-for-weak-swr", "RFC 5861 3", fetch(ok("max-age=10, stale-while-revalidate=600", WEAK)),
    stale(b"one", unchanged("max-age=60", STRONG), advance=20), stale(b"one", unchanged("max-age=60", STRONG), saw=SAW_WEAK),
    stale(b"one", TWO, saw=SAW_NONE), hit(b"two"))
row("304-strong-for-weak-swr-error", "RFC 5861 3", fetch(ok("max-age=10, stale-if-error=600", WEAK)), reused_(advance=10), instead(b"one", FAIL),
    instead(b"one", RAISES))
# A weak tag for a strong one renews what is stored, by the letter.
row("304-weak-for-strong", "4.3.4", fetch(ok("max-age=10", STRONG)),
    validated(unchanged("max-age=60", WEAK), advance=10, saw={"if-none-match": '"x"'}, cs={"stored": True}), hit())
# Ask again: what differs in more than strength, is not the one tag that was sent, or is for fewer clients.
NOT_THE_ONE: tuple[tuple[str, Lines, Lines], ...] = (
    ("other", (WEAK,), (("ETag", '"y"'),)), ("other-strength-case", (("ETag", 'w/"x"'),), (STRONG,)), ("two-in-304", (WEAK,), (STRONG, ("ETag", '"y"'))),
    ("two-stored", (WEAK, ("ETag", 'W/"y"')), (STRONG,)), ("list-stored", (("ETag", 'W/"x", W/"y"'),), (STRONG,)), ("private", (WEAK,), (STRONG, cc("private"))),
    ("no-store", (WEAK,), (STRONG, cc("no-store"))), ("vary", (WEAK,), (STRONG, *VARY)), ("vary-star", (WEAK,), (STRONG, *field("*", name="Vary"))))
for name_, tags_, lines_ in NOT_THE_ONE:
    row(f"304-strong-for-weak-not-{name_}", "4.3.4", fetch(ok("max-age=10", *tags_)),
        Step(advance=10, origin=(unchanged(None if cc("private")[0] in dict(lines_) else "max-age=60", *lines_), TWO), content=b"two",
             saw={"if-none-match": None}, cs={"hit": None}), hit(b"two"))
row("304-strong-for-weak-not-purged", "G3", fetch(WEAKLY), purge(), fetch(TWO, saw=SAW_NONE), hit(b"two"))
row("304-strong-for-weak-of-a-rule", "4.3.4", fetch(ok(None, WEAK)), reused_(unchanged(None, STRONG), advance=10), rules=rule(ttl=10))
row("304-strong-for-weak-by-cookie", "G1", fetch(ok("max-age=10", WEAK)), reused_(unchanged(None, STRONG), b"one", COOKIE, advance=10))
