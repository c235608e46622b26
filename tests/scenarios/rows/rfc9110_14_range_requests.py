"""RFC 9110 section 14, Range Requests: a range of what is stored."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    DAY,
    DIGITS,
    ETAG,
    FAIL,
    INM,
    LM,
    SIE,
    SWR,
    TWO,
    VARY,
    bytes_,
    cc,
    cut,
    digits,
    fetch,
    field,
    hit,
    instead,
    ok,
    part,
    reused,
    row,
    stale,
    unchanged,
)
from tests.scenarios.model import Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

reused("content-range-200", "RFC 9110 14.4", ok("max-age=60", ("Content-Range", "bytes 0-1/9")))  # has no meaning there

for name, value, first, last in (
    ("first-last", "2-4", 2, 4), ("one", "0-0", 0, 0), ("open", "7-", 7, 9), ("suffix", "-3", 7, 9),
    ("all", "0-", 0, 9), ("beyond", "5-99", 5, 9), ("suffix-long", "-99", 0, 9),
    ("huge", "3-" + "9" * 40, 3, 9), ("one-satisfiable", "3-4,10-", 3, 4), ("overlapping", "1-4,3-6", 1, 6),
    ("touching", "3-4, 1-2", 1, 4), ("empty-members", ",, 8-8 ,", 8, 8)):
    row(f"range-{name}", "RFC 9110 14.2", fetch(digits()), cut(first, last, bytes_(value)))
for name, value in (("first", "10-"), ("last", "10-20"), ("suffix-0", "-0"), ("huge", "9" * 40 + "-"),
                    ("all", "10-11,20-")):
    row(f"range-416-{name}", "RFC 9110 15.5.17", fetch(digits("max-age=60", ETAG, ("X-A", "1"))),
        hit(b"", bytes_(value), status=416,
            has={"content-range": "bytes */10", "content-length": "0", "cache-control": None,
                 "etag": None, "x-a": "1"}))
row("range-empty", "RFC 9110 14.2", fetch(ok("max-age=60", body=b"")),
    hit(b"", bytes_("0-"), status=416, has={"content-range": "bytes */0"}),
    hit(b"", bytes_("-5"), has={"content-range": None}))
for name, value in (("unit", "lines=0-1"), ("no-unit", "0-1"), ("letters", "bytes=a-b"), ("plus", "bytes=+1-2"),
                    ("nothing", "bytes="), ("hyphen", "bytes=-"), ("reversed", "bytes=4-2"), ("float", "bytes=1.0-2"),
                    ("many", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 200, 2)))):
    row(f"range-ignored-{name}", "RFC 9110 14.2", fetch(digits()), hit(DIGITS, ("Range", value), has={"content-range": None}))
OF_CONTENT = (
    "Content-Digest", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-MD5",
    "Content-Type", "Digest", "ETag", "Expires", "Last-Modified", "Repr-Digest", "Surrogate-Control")
row("range-416-says-nothing-of-content", "RFC 9110 15.5.17",
    fetch(digits("max-age=60", ("X-A", "1"), *((name, '"x"') for name in OF_CONTENT))),
    hit(b"", bytes_("99-"), status=416, lines=(("content-range", "bytes */10"), ("content-length", "0"), ("x-a", "1"))))
row("range-head", "RFC 9110 14.2", fetch(digits()), hit(b"", bytes_("0-1"), method="HEAD", has={"content-length": "10"}))
row("range-404", "RFC 9110 14.2", fetch(digits(status=404)), hit(DIGITS, bytes_("0-1"), status=404))
row("range-fields", "RFC 9110 15.3.7",
    fetch(digits("max-age=60", ETAG, DAY, ("Content-Type", "text/x"), ("Content-Digest", "sha-256=:AA==:"),
                 ("Accept-Ranges", "bytes"), ("X-A", "1"))),
    cut(0, 1, bytes_("0-1"), advance=2,
        has={"etag": '"abc"', "date": at(0), "content-type": "text/x", "content-digest": None, "age": "2",
             "accept-ranges": "bytes", "x-a": "1", "cache-control": "max-age=60"}))
row("range-invents-nothing", "RFC 9110 14.3", fetch(digits()), cut(0, 1, bytes_("0-1"), has={"accept-ranges": None}))
row("range-not-modified", "RFC 9110 13.2.2", fetch(digits("max-age=60", ETAG)),
    hit(b"", bytes_("0-1"), INM, status=304), cut(0, 1, bytes_("0-1"), ("If-None-Match", '"x"')))
row("range-vary", "4.1", fetch(digits("max-age=60", *VARY), *field("1")), cut(0, 1, bytes_("0-1"), *field("1")),
    fetch(part(0, 1, *VARY), bytes_("0-1"), *field("2")))
row("range-stale-validated", "4.3.3", fetch(digits("max-age=10", ETAG)),
    Step(headers=(bytes_("2-3"),), advance=10, origin=(unchanged("max-age=60"),), status=206, content=b"23",
         cs={"hit": None, "fwd": "stale", "fwd-status": 304},
         saw={"range": "bytes=2-3", "if-none-match": '"abc"', "if-range": None}),
    cut(4, 5, bytes_("4-5")))
row("range-stale-changed", "4.3.3", fetch(digits("max-age=10", ETAG)),
    fetch(part(2, 3, ("ETag", '"new"')), bytes_("2-3"), advance=10), cut(2, 3, bytes_("2-3")), fetch(TWO))
row("range-stale-same-part", "3.4", fetch(digits("max-age=10", ETAG)),
    fetch(part(2, 3, ETAG), bytes_("2-3"), advance=10), cut(4, 5, bytes_("4-5")), hit(DIGITS))
row("range-swr", "RFC 5861 3", fetch(digits(SWR)),
    stale(b"23", digits(), bytes_("2-3"), advance=10, status=206), hit(DIGITS))
row("range-sie", "RFC 5861 4", fetch(digits(SIE)),
    instead(b"23", FAIL, bytes_("2-3"), advance=20, status=206))
row("range-max-stale", "5.2.1.2", fetch(digits("max-age=10", ETAG)),
    cut(0, 1, bytes_("0-1"), cc("max-stale"), advance=20))
row("range-authorization", "3.5", fetch(digits("public, max-age=60")), cut(0, 1, bytes_("0-1"), AUTH))
for name, lines, value, holds in (
    ("strong", (ETAG,), '"abc"', True), ("other", (ETAG,), '"x"', False), ("weak-both", (("ETag", 'W/"abc"'),), 'W/"abc"', False),
    ("weak-stored", (("ETag", 'W/"abc"'),), '"abc"', False), ("weak-asked", (ETAG,), 'W/"abc"', False),
    ("none-stored", (), '"abc"', False), ("list", (ETAG,), '"abc", "x"', False), ("unquoted", (("ETag", "abc"),), "abc", False),
    ("date", (LM, DAY), at(-1000), True), ("date-other", (LM, DAY), at(-999), False), ("date-later", (LM, DAY), at(0), False),
    ("date-weak", (("Last-Modified", at(0)), DAY), at(0), False), ("date-no-date", (LM,), at(-1000), False),
    ("date-and-tag", (LM, DAY, ETAG), at(-1000), True), ("garbage", (ETAG,), "yes", False), ("empty", (ETAG,), "", False)):
    row(f"if-range-{name}", "RFC 9110 13.1.5", fetch(digits("max-age=60", *lines)),
        cut(2, 3, bytes_("2-3"), ("If-Range", value)) if holds else
        hit(DIGITS, bytes_("2-3"), ("If-Range", value), has={"content-range": None}))

row("range-unit-passes", "RFC 9110 14.2",
    fetch(ok("max-age=60", ("Content-Range", "lines 0-1/3"), status=206, body=b"on"),
          ("Range", "lines=0-1"), saw={"range": "lines=0-1"}, cs={"fwd": "bypass", "detail": "range"}),
    fetch(ok("max-age=60")), hit(b"one", ("Range", "lines=0-1")))
row("range-malformed-passes", "RFC 9110 14.2", fetch(ok("max-age=60"), ("Range", "bytes=2-1")), fetch(TWO),
    hit(b"two", ("Range", "bytes=2-1")), hit(b"two", ("Range", "bytes=a-")), hit(b"two", ("Range", "bytes=-")),
    hit(b"two", ("Range", "bytes=0-0"), ("Range", "bytes=1-1")))
