"""RFC 9111 section 4.3.1, Sending a Validation Request."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    BY_ENCODING,
    COOKIE,
    ETAG,
    FAIL,
    LM,
    OLD,
    ONE_TAG,
    RAISES,
    TWO,
    TWO_TAG,
    VARY,
    accepting,
    cc,
    fetch,
    field,
    hit,
    ok,
    purge,
    row,
    rule,
    unchanged,
    validated,
)
from tests.scenarios.model import Lines, Reply, Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- variants that a request does not select, validated (4.1) --------------------------------------


def variants(*more: tuple[str, str], vary: Lines = BY_ENCODING, cc_: str | None = "max-age=10", tags: tuple[str, ...] = ('"1"', '"2"'),
             asks: tuple[Lines, Lines] = (accepting("1"), accepting("2")), **kw: Any) -> tuple[Step, Step]:
    """Two of them, for Accept-Encoding: 1 and Accept-Encoding: 2."""
    one, two = (tuple(("ETag", tag) for tag in text.split() if tag) for text in tags)
    return (fetch(ok(cc_, *vary, LM, *one, *more, **kw), *asks[0]),
            fetch(ok(cc_, *vary, LM, *two, *more, body=b"two", **kw), *asks[1]))


def nominated(id_: str, *steps: Step, rfc: str = "4.3.1", **kw: Any) -> None:
    row(f"nominated-{id_}", rfc, *steps, **{"nominate_codings": True, **kw})


def named(reply: Reply, content: bytes, *headers: tuple[str, str], **kw: Any) -> Step:
    """None is selected, and the origin says 304."""
    return validated(reply, content, *headers, **{"cs": {"fwd": "vary-miss"}, **kw})


def unnamed(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """None is selected, and the origin is not told of any."""
    saw = {"if-none-match": None, "if-modified-since": None}
    return fetch(reply, *headers, saw=saw, **{"cs": {"fwd": "vary-miss"}, **kw})


BOTH = {"if-none-match": '"2", "1"', "if-modified-since": None}
nominated("named", *variants(),
    named(unchanged("max-age=60", TWO_TAG, ("X", "new")), b"two", *accepting("3"), saw=BOTH, cs={"stored": True}, has={"x": "new"}),
    hit(b"two", *accepting("3"), advance=20, has={"x": "new"}),
    # What that request could not have chosen, its 304 does not update.
    validated(unchanged("max-age=10", TWO_TAG), b"two", *accepting("2"), has={"x": None}))
nominated("older-one", *variants(), named(unchanged("max-age=60", ONE_TAG), b"one", *accepting("3")), hit(b"one", *accepting("3")),
    hit(b"two", *accepting("2")), rfc="4.3.4")
nominated("none-of-them", *variants(), fetch(ok("max-age=60", *BY_ENCODING, body=b"three"), *accepting("3"), saw=BOTH),
    hit(b"three", *accepting("3")), hit(b"one", *accepting("1")), rfc="4.3.3")
nominated("stale", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", *accepting("3"), advance=20), hit(b"two", *accepting("3")))
nominated("to-a-client-that-has-it", *variants(), named(unchanged("max-age=60", TWO_TAG), b"", *accepting("3"),
    ("If-None-Match", '"2"'), status=304, saw=BOTH), hit(b"two", *accepting("3")))
nominated("to-a-client-that-has-another", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", *accepting("3"),
    ("If-None-Match", '"9"'), saw=BOTH))
nominated("collapsed", *variants(), Step(headers=accepting("3"), concurrent=4, origin=(unchanged("max-age=60", TWO_TAG),),
    content=b"two", cs={}), hit(b"two", *accepting("3")), rfc="4.3.4, G2")
nominated("not-to-be-kept", *variants(), named(unchanged("no-store", TWO_TAG), b"two", *accepting("3"), cs={"stored": None}),
    unnamed(TWO, *accepting("3")), rfc="5.2.2.5")
for name_, line in (("unknown", ("ETag", '"9"')), ("weak", ("ETag", 'W/"2"')), ("no", ("X", "y"))):
    nominated(f"{name_}-tag", *variants(),
        Step(headers=accepting("3"), origin=(unchanged("max-age=60", line), ok("max-age=60", *BY_ENCODING, body=b"three")),
             content=b"three", saw={"if-none-match": None}, cs={"fwd": "vary-miss", "fwd-status": None}),
        hit(b"three", *accepting("3")), hit(b"two", *accepting("2")), unnamed(ok("max-age=60", *BY_ENCODING), *accepting("4")), rfc="4.3.4")
nominated("single-one", variants()[0], named(unchanged("max-age=60", ONE_TAG), b"one", *accepting("3"), saw={"if-none-match": '"1"'}))
nominated("error", *variants(), fetch(FAIL, *accepting("3")), fetch(RAISES, *accepting("3"), advance=2), rfc="4.3.3")
for name_, text in (("weak", 'W/"1" W/"2"'), ("without-quotes", "1 2"), ("with-a-space", '"1\xa0" "2\t"'), ("none", " "),
                    ("empty", '"" ""'), ("star", "* *")):
    nominated(f"not-{name_}", *variants(tags=tuple(text.split(" "))), unnamed(TWO, *accepting("3")))
nominated("not-two-tags", *variants(tags=('"1" "3"', '"2" "4"')), unnamed(TWO, *accepting("3")))
nominated("not-404", *variants(status=404), unnamed(TWO, *accepting("3")))
for field_ in ("Cookie", "Authorization", "X-API-Key", "Origin"):
    extra, said = field(f"Accept-Encoding, {field_}", name="Vary"), ((field_, "x"),)
    nominated(f"not-by-{field_.lower()}", *variants(vary=extra, cc_="public, max-age=10", asks=((*accepting("1"), *said), (*accepting("2"), *said))),
        unnamed(ok("public, max-age=10", *extra), *said, *accepting("3")), rfc="G1")
nominated("not-for-authorization", *variants(cc_="public, max-age=10"), unnamed(ok("public, max-age=10"), AUTH, *accepting("3")), rfc="G1")
nominated("not-for-cookie-by-rule", *variants(cc_=None), unnamed(ok(None, *BY_ENCODING), COOKIE, *accepting("3")),
    rules=rule(ttl=10), rfc="G1")
nominated("for-cookie", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", COOKIE, *accepting("3")))
nominated("not-for-no-store", *variants(), unnamed(TWO, cc("no-store"), *accepting("3")), rfc="5.2.1.5")
nominated("not-for-head", *variants(), unnamed(ok("max-age=10", *BY_ENCODING), *accepting("3"), method="HEAD"))
nominated("not-purged", *variants(), purge(), unnamed(TWO, *accepting("3"), cs={"fwd": "uri-miss"}), rfc="G3")
# What the 304 varies on besides may have been another in the request that the stored one answered.
nominated("other-set-of-names", *variants(), Step(headers=(*accepting("3"), ("Bar", "x")), content=b"three", cs={"fwd": "vary-miss"},
    origin=(unchanged("max-age=60", TWO_TAG, *field("Accept-Encoding, Bar", name="Vary")), ok("max-age=60", *BY_ENCODING, body=b"three")), saw={"if-none-match": None}),
    hit(b"three", *accepting("3")), rfc="4.1, G1")
GZIP = ("Content-Encoding", "gzip")

for accepts, good in (("gzip, br", True), ("br, gzip;q=0.5", True), ("GZIP, deflate", True), ("br", False), ("*", False),
                      ("gzip;q=0", False), ("gzip; q=0.00, br", False), ("", False)):
    nominated(f"coding-{accepts}", *variants(GZIP, asks=(accepting("gzip"), accepting("gzip, x"))), named(unchanged("max-age=60", ONE_TAG), b"one", *accepting(accepts)) if good else
              unnamed(TWO, *accepting(accepts)), rfc="RFC 9110 12.5.3")
nominated("no-accept-encoding", *variants(GZIP, asks=(accepting("gzip"), accepting("gzip, x"))), unnamed(TWO), rfc="RFC 9110 12.5.3")
nominated("stored-without-accept-encoding", fetch(ok("max-age=10", *BY_ENCODING, ONE_TAG)), named(unchanged("max-age=60", ONE_TAG), b"one", *accepting("gzip")))
# Off unless asked for; and then for what differs by coding alone. The tag may be of a record: the 304 says nothing of the page.
nominated("off", *variants(), unnamed(TWO, *accepting("3")), nominate_codings=False, rfc="4.3.1, G1")
row("nominated-off-by-default", "4.3.1, G1", *variants(), unnamed(TWO, *accepting("3")))
for name_, vary_, one_, two_ in (
    ("foo", "Foo", field("1"), field("2")), ("foo-and-coding", "Foo, Accept-Encoding", (*field("1"), *accepting("gzip")), (*field("2"), *accepting("gzip"))),
    ("foo-and-other-coding", "Foo, Accept-Encoding", (*field("1"), *accepting("gzip")), (*field("2"), *accepting("br"))),
    ("region", "X-Region", field("a", name="X-Region"), field("b", name="X-Region")), ("language", "Accept-Language", field("de", name="Accept-Language"), field("en", name="Accept-Language")),
    ("currency", "Accept-Encoding, X-Currency", (*accepting("gzip"), ("X-Currency", "EUR")), (*accepting("br"), ("X-Currency", "USD"))),
    ("accept", "Accept", field("text/html", name="Accept"), field("application/json", name="Accept")), ("absent", "Foo, Accept-Encoding", (*field("1"), *accepting("gzip")), accepting("br"))):
    by = field(vary_, name="Vary")
    nominated(f"not-by-{name_}", *variants(vary=by, asks=(one_, two_)),
              fetch(ok("max-age=60", *by, body=b"three"), *accepting("x"), *field("3"), ("X-Region", "c"), ("X-Currency", "GBP"), ("Accept-Language", "fr"), ("Accept", "a/b"),
                    saw={"if-none-match": None, "if-modified-since": None}), rfc="4.3.1, G1")
nominated("not-by-a-rules-vary", *variants(asks=((*accepting("1"), ("X-Region", "a")), (*accepting("2"), ("X-Region", "a")))), unnamed(TWO, *accepting("3"), ("X-Region", "b")),
    rules=rule(vary=["X-Region"]), rfc="4.3.1, G1")
nominated("by-coding-beside-a-rules-vary", *variants(asks=((*accepting("1"), ("X-Region", "a")), (*accepting("2"), ("X-Region", "b")))),
    named(unchanged("max-age=60", TWO_TAG), b"two", *accepting("3"), ("X-Region", "b"), saw={"if-none-match": '"2"'}), rules=rule(vary=["X-Region"]))
nominated("by-coding-beside-foo", *variants(vary=field("Foo, Accept-Encoding", name="Vary"), asks=((*field("1"), *accepting("1")), (*field("2"), *accepting("2")))),
    named(unchanged("max-age=60", ONE_TAG), b"one", *field("1"), *accepting("3"), saw={"if-none-match": '"1"'}), hit(b"one", *field("1"), *accepting("3")))
nominated("not-by-what-a-proxy-tells", *variants(), unnamed(TWO, *accepting("3"), ("X-Forwarded-Host", "b.example")), rfc="4.3.1, G9")
nominated("not-by-an-older-vary", *variants(), fetch(ok("max-age=10", *field("Accept-Encoding, X-Region", name="Vary"), body=b"a"), *accepting("4"), ("X-Region", "a")),
    unnamed(TWO, *accepting("3"), ("X-Region", "b")), rfc="4.3.1, G1")
# The same tag for two bodies: what it names is not one representation.
nominated("one-tag-for-two-bodies", *variants(tags=('"1"', '"1"')), unnamed(TWO, *accepting("3")), rfc="RFC 9110 8.8.1")
nominated("one-tag-for-two-of-three", *variants(tags=('"1"', '"1"')), fetch(ok("max-age=10", *BY_ENCODING, TWO_TAG, body=b"three"), *accepting("3")),
    fetch(TWO, *accepting("4"), saw={"if-none-match": '"2"'}), rfc="RFC 9110 8.8.1")
nominated("two-tags-for-one-body", fetch(ok("max-age=10", *BY_ENCODING, ONE_TAG), *accepting("1")), fetch(ok("max-age=10", *BY_ENCODING, TWO_TAG), *accepting("2")),
    named(unchanged("max-age=60", ONE_TAG), b"one", *accepting("3"), saw=BOTH))
nominated("one-tag-for-one-body", *variants(), fetch(ok("max-age=10", *BY_ENCODING, ONE_TAG), *accepting("3")),
    named(unchanged("max-age=60", ONE_TAG), b"one", *accepting("4"), saw={"if-none-match": '"1", "2"'}), rfc="RFC 9110 8.8.1")
nominated("at-most-16", *(fetch(ok("max-age=60", *BY_ENCODING, ("ETag", f'"{n}"'), body=b"%d" % n), *accepting(f"x{n}")) for n in range(18)),
    fetch(TWO, *accepting("y"), saw={"if-none-match": ", ".join(f'"{n}"' for n in range(17, 1, -1))}), rfc="G7")
nominated("at-most-1024-bytes", *(fetch(ok("max-age=60", *BY_ENCODING, ("ETag", f'"{str(n) * 338}"'), body=b"%d" % n), *accepting(f"x{n}"))
                                 for n in range(4)),
    fetch(TWO, *accepting("y"), saw={"if-none-match": ", ".join(f'"{str(n) * 338}"' for n in (3, 2, 1))}), rfc="G7")
# Two sets of fields to select by: a request may find a response by each.
TWICE = (fetch(ok("max-age=10", *VARY, ONE_TAG), *field("1"), ("Bar", "x")),
         fetch(ok("max-age=10", *field("Bar", name="Vary"), ONE_TAG), *field("2"), ("Bar", "x")))
row("304-updates-all-that-could-be-chosen", "4.3.4", *TWICE,
    validated(unchanged("max-age=60", ONE_TAG, ("X", "new")), b"one", *field("1"), ("Bar", "x"), advance=10),
    hit(b"one", *field("1"), ("Bar", "y"), advance=20, has={"x": "new"}), hit(b"one", *field("3"), ("Bar", "x"), has={"x": "new"}))
row("304-weak-updates-the-most-recent", "4.3.4", *TWICE,
    validated(unchanged("max-age=60", ("ETag", 'W/"1"')), b"one", *field("1"), ("Bar", "x"), advance=10),
    validated(unchanged("max-age=60"), b"one", *field("1"), ("Bar", "y"), advance=1))
row("304-silent-updates-the-one-asked-about", "4.3.4", *TWICE,
    validated(unchanged("max-age=60"), b"one", *field("1"), ("Bar", "x"), advance=10),
    validated(unchanged("max-age=60"), b"one", *field("1"), ("Bar", "y"), advance=1))
row("head-freshens-all-that-could-be-chosen", "4.3.5", *TWICE,
    fetch(ok("max-age=60", ONE_TAG, ("X", "new")), *field("1"), ("Bar", "x"), cc("no-cache"), method="HEAD"),
    hit(b"one", *field("1"), ("Bar", "y"), advance=20, has={"x": "new"}), hit(b"one", *field("3"), ("Bar", "x"), has={"x": "new"}))
row("head-outdates-all-that-could-be-chosen", "4.3.5", *TWICE,
    fetch(ok("max-age=60", TWO_TAG), *field("1"), ("Bar", "x"), cc("no-cache"), method="HEAD"),
    validated(unchanged(), b"one", *field("1"), ("Bar", "y")), validated(unchanged(), b"one", *field("3"), ("Bar", "x")))

# -- which validators are sent ---------------------------------------------------------------------

row("sends-etag", "4.3.1", fetch(OLD),
    validated(unchanged(), advance=10, saw={"if-none-match": '"abc"', "if-modified-since": None},
              cs={"fwd": "stale", "stored": True}))
row("sends-last-modified", "4.3.1", fetch(ok("max-age=10", LM)),
    validated(unchanged(), advance=10, saw={"if-modified-since": at(-1000), "if-none-match": None}))
row("sends-both", "4.3.1", fetch(ok("max-age=10", LM, ETAG)),
    validated(unchanged(), advance=10,
              saw={"if-modified-since": at(-1000), "if-none-match": '"abc"'}))
row("sends-nothing", "4.3.1", fetch(ok("max-age=10")),
    fetch(TWO, advance=10, saw={"if-modified-since": None, "if-none-match": None}))
for name, value in (("weak", 'W/"abc"'), ("unquoted", "abc"), ("obs-text", '"abc\xfc"'),
                    ("comma", '"a,b"')):
    row(f"sends-etag-{name}", "4.3.1", fetch(ok("max-age=10", ("ETag", value))),
        validated(unchanged(), advance=10, saw={"if-none-match": value}))
row("sends-instead-of-clients", "4.3.1", fetch(OLD),
    validated(unchanged(), b"one", ("If-None-Match", '"mine"'), ("If-Modified-Since", at(0)),
              advance=10, saw={"if-none-match": '"abc"', "if-modified-since": None}))
row("kept-for-validation", "4.3", fetch(OLD), fetch(TWO, advance=70, saw={"if-none-match": None}),
    keep=60)
