"""RFC 9111 section 4.1, Calculating Cache Keys with the Vary Header Field."""

from __future__ import annotations

from tests.scenarios.dsl import (
    BY_ENCODING,
    ETAG,
    INM,
    TWO,
    VARY,
    fetch,
    field,
    hit,
    not_reused,
    ok,
    row,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Lines, Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- which fields select, and how their values are compared ----------------------------------------


def varied(id_: str, vary: Lines, first: Lines, second: Lines, *, match: bool) -> None:
    reply = ok("max-age=60", *vary)
    follow = hit(b"one", *second) if match else fetch(TWO, *second, cs={"fwd": "vary-miss"})
    row(f"vary-{id_}", "4.1", fetch(reply, *first), follow)


TWO_WAY = field("Foo, Bar", name="Vary")
AL = field("Accept-Language", name="Vary")
varied("match", VARY, field("1"), field("1"), match=True)
varied("no-match", VARY, field("1"), field("2"), match=False)
varied("omitted", VARY, field("1"), (), match=False)
varied("added", VARY, (), field("1"), match=False)
varied("both-omitted", VARY, (), (), match=True)
varied("empty-is-not-absent", VARY, field(""), (), match=False)
varied("other-field", VARY, field("1") + field("2", name="Other"), field("1") + field("3", name="Other"), match=True)
varied("case-of-name", field("fOO", name="Vary"), field("1"), field("1", name="foo"), match=True)
varied("case-of-value", VARY, field("a"), field("A"), match=False)
varied("two-match", TWO_WAY, field("1") + field("2", name="Bar"), field("2", name="Bar") + field("1"), match=True)
varied("two-no-match", TWO_WAY, field("1") + field("2", name="Bar"), field("1") + field("3", name="Bar"), match=False)
varied("two-swapped", TWO_WAY, field("1") + field("2", name="Bar"), field("2") + field("1", name="Bar"), match=False)
varied("two-one-omitted", TWO_WAY, field("1"), field("1"), match=True)
varied("two-lines", field("Foo", "Bar", name="Vary"), field("1", name="Bar"), field("2", name="Bar"), match=False)
varied("two-lines-match", field("Foo", "Bar", name="Vary"), field("1", name="Bar"), field("1", name="Bar"),
       match=True)
varied("space", VARY, field("1,2"), field(" 1 , 2 "), match=False)
varied("combined", field("Accept-Charset", name="Vary"), field("1, 2", name="Accept-Charset"), field("1", "2", name="Accept-Charset"),
       match=True)
varied("order-of-lines", VARY, field("1", "2"), field("2", "1"), match=False)
# RFC 9110 12.5.4: "some recipients treat the order in which language tags are listed as an
# indication of descending priority, particularly for tags that are assigned equal quality values".
# The app may be one: then this order is significant.
varied("language-order", AL, field("en, de", name="Accept-Language"),
       field("de, en", name="Accept-Language"), match=False)
varied("accept-order", field("Accept", name="Vary"), field("text/html, application/json", name="Accept"),
       field("application/json, text/html", name="Accept"), match=False)
varied("encoding-weights", BY_ENCODING, field("gzip;q=0.5, br", name="Accept-Encoding"),
       field("br, gzip;q=0.5", name="Accept-Encoding"), match=True)
varied("language-case", AL, field("en, de", name="Accept-Language"),
       field("eN, De", name="Accept-Language"), match=True)
varied("language-weights", AL, field("en;q=0.5", name="Accept-Language"),
       field("en;q=0.50", name="Accept-Language"), match=True)
varied("language-other-weight", AL, field("en;q=0.5, de", name="Accept-Language"),
       field("en, de;q=0.5", name="Accept-Language"), match=False)
varied("encoding-space", BY_ENCODING, field("gzip,br", name="Accept-Encoding"),
       field("br,  gzip", name="Accept-Encoding"), match=True)
varied("user-agent-comma", field("User-Agent", name="Vary"), field("a,b", name="User-Agent"),
       field("a, b", name="User-Agent"), match=False)
varied("cookie", field("Cookie", name="Vary"), field("a=1", name="Cookie"), field("a=2", name="Cookie"),
       match=False)
varied("empty", field("", name="Vary"), field("1"), field("2"), match=True)
varied("empty-members", field(" ,Foo,, ", name="Vary"), field("1"), field("2"), match=False)
for name, values in (("star", ("*",)), ("star-list", ("Foo, *",)), ("star-line", ("Foo", "*")),
                     ("star-first", ("*, Foo",)), ("unreadable", ("Foo Bar",))):
    not_reused(f"vary-{name}", "4.1", ok("max-age=60", *field(*values, name="Vary")), detail="vary-star")
varied("host", field("Host", name="Vary"), (), (), match=True)
varied("no-normalisation-of-unknown", VARY, field("b, a"), field("a, b"), match=False)
varied("quoted", VARY, field('"a,b"'), field('"a, b"'), match=False)
row("vary-then-none-then-vary", "4.1",
    fetch(ok("max-age=10", *VARY), *field("1")), fetch(ok("max-age=10", body=b"all"), *field("2")),
    hit(b"all", *field("3")),
    fetch(ok("max-age=60", *VARY, body=b"new"), *field("1"), advance=10), hit(b"new", *field("1")),
    fetch(ok("max-age=60", *VARY, body=b"three"), *field("3")), hit(b"three", *field("3")))
row("vary-private-variant", "4.1", fetch(ok("max-age=60", *VARY), *field("1")),
    fetch(ok("private", *VARY, body=b"me"), *field("2")), hit(b"one", *field("1")),
    fetch(ok("private", *VARY, body=b"me"), *field("2")))
row("vary-swr-each", "RFC 5861 3", fetch(ok("max-age=10, stale-while-revalidate=30", *VARY), *field("1")),
    fetch(ok("max-age=10, stale-while-revalidate=30", *VARY, body=b"two"), *field("2")),
    stale(b"one", ok("max-age=60", *VARY, body=b"new"), *field("1"), advance=20, saw={"foo": "1"}),
    stale(b"two", ok("max-age=60", *VARY, body=b"newer"), *field("2"), saw={"foo": "2"}),
    hit(b"new", *field("1")), hit(b"newer", *field("2")))
row("vary-several", "4.1",
    fetch(ok("max-age=60", *VARY), *field("1")),
    fetch(ok("max-age=60", *VARY, body=b"two"), *field("2")),
    fetch(ok("max-age=60", *VARY, body=b"three")),
    hit(b"one", *field("1")), hit(b"two", *field("2")), hit(b"three"))
row("vary-changes", "4.1",
    fetch(ok("max-age=60", *VARY), *field("1")),
    fetch(ok("max-age=60", *field("Bar", name="Vary"), body=b"two"), *field("2"), ("Bar", "x")),
    hit(b"one", *field("1")), hit(b"two", *field("3"), ("Bar", "x")),
    fetch(ok("max-age=60", body=b"three"), *field("4"), ("Bar", "y"), cs={"fwd": "vary-miss"}))
# "When a cache has multiple stored responses for a target URI and one or more omits the Vary header
# field, the cache SHOULD choose the most recent stored response with a valid Vary field value."
row("vary-default-first", "4.1",
    fetch(ok("max-age=10", body=b"default")),
    fetch(ok("max-age=60", *VARY), *field("1"), advance=10), hit(b"one", *field("1")))
row("vary-default-later", "4.1",
    fetch(ok("max-age=60", *VARY), *field("1")),
    fetch(ok("max-age=60", body=b"default"), *field("2")),
    hit(b"one", *field("1")), hit(b"default", *field("3")), hit(b"default"))
row("vary-replaced", "4.1",
    fetch(ok("max-age=10", *VARY), *field("1")),
    fetch(ok("max-age=60", *VARY, body=b"new"), *field("1"), advance=10), hit(b"new", *field("1")))
row("vary-each-its-validator", "4.3.1",
    fetch(ok("max-age=10", *VARY, ("ETag", '"1"')), *field("1")),
    fetch(ok("max-age=10", *VARY, ("ETag", '"2"'), body=b"two"), *field("2")),
    validated(unchanged("max-age=10"), b"one", *field("1"), advance=10,
              saw={"if-none-match": '"1"', "foo": "1"}),
    validated(unchanged("max-age=10"), b"two", *field("2"), saw={"if-none-match": '"2"'}),
    fetch(ok("no-store"), *field("3"), saw={"if-none-match": None, "if-modified-since": None}))
row("vary-in-304", "4.1",
    fetch(ok("max-age=60", *VARY, ETAG), *field("1")),
    Step(headers=(*field("1"), INM), status=304, content=b"", cs={"hit": True}, has={"vary": "Foo"}))
row("vary-invalidates-all", "4.4",
    fetch(ok("max-age=60", *VARY), *field("1")), fetch(ok("max-age=60", *VARY, body=b"two"), *field("2")),
    fetch(ok(status=204, body=b""), method="DELETE"),
    fetch(ok("max-age=60", *VARY, body=b"three"), *field("1")), fetch(ok("max-age=60", *VARY), *field("2")))
row("vary-cap", "G7", *(fetch(ok("max-age=60", *VARY, body=b"%d" % n), *field(str(n))) for n in range(4)),
    hit(b"3", *field("3")), hit(b"2", *field("2")), fetch(ok("max-age=60", *VARY), *field("0")), max_variants=3)
row("vary-long-values", "G7", fetch(ok("max-age=60", *VARY), *field("x" * 5000)), hit(b"one", *field("x" * 5000)),
    fetch(TWO, *field("x" * 4999 + "y")))

# -- of a field that is not known to be a list, only the ends are trimmed --------------------------

for name_, other in (("comma-behind", "u1,"), ("comma-before", ",u1"), ("commas", "u1,,"), ("semicolon", "u1;")):
    varied(f"no-list-{name_}", VARY, field("u1"), field(other), match=False)
varied("no-list-space", VARY, field("a, b"), field("a,b"), match=False)
varied("no-list-ends", VARY, field("a,b"), field(" a,b\t"), match=True)
varied("list-empty-members", field("Prefer", name="Vary"), field("u1", name="Prefer"), field(",u1,", name="Prefer"), match=True)
