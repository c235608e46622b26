"""RFC 9111 section 3.3, Storing Incomplete Responses."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    BY_ENCODING,
    DIGITS,
    ETAG,
    FAIL,
    INM,
    SIE,
    SWR,
    TWO,
    VARY,
    accepting,
    bytes_,
    cc,
    cut,
    digits,
    fetch,
    field,
    hit,
    instead,
    not_reused,
    ok,
    part,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

not_reused("status-206", "3.3", ok("max-age=60", ("Content-Range", "bytes 0-2/9"), status=206),
           detail="partial")
not_reused("content-range-206", "3.3", ok("max-age=60", ("Content-Range", "bytes 0-1/9"), status=206), detail="partial")
row("body-short", "3.3, G6", fetch(ok("max-age=60", ("Content-Length", "9"))), fetch(TWO))
row("body-long", "3.3, G6", fetch(ok("max-age=60", ("Content-Length", "1"))), fetch(TWO))
row("body-lengths-differ", "3.3, G6",
    fetch(ok("max-age=60", ("Content-Length", "3"), ("Content-Length", "4"))), fetch(TWO))
row("part", "3.3", fetch(part(2, 5), bytes_("2-5"), saw={"range": "bytes=2-5"}, cs={"fwd": "uri-miss", "stored": True}),
    cut(2, 5, bytes_("2-5")), cut(3, 4, bytes_("3-4")), cut(5, 5, bytes_("5-5")),
    fetch(TWO, cs={"fwd": "partial", "stored": True}, saw={"range": None}), hit(b"two"))
row("part-suffix", "3.3", fetch(part(6, 9), bytes_("-4")), cut(6, 9, bytes_("-4")), cut(8, 9, bytes_("-2")), cut(7, 9, bytes_("7-")),
    cut(7, 9, bytes_("7-99")))
row("part-not-covering", "3.3", fetch(part(2, 5), bytes_("2-5")),
    fetch(part(6, 7), bytes_("6-7"), cs={"fwd": "partial"}), fetch(part(2, 5), bytes_("2-5")))
row("part-of-unknown-length", "3.3",
    fetch(ok("max-age=60", ("Content-Range", "bytes 2-5/*"), status=206, body=b"2345"), bytes_("2-5")),
    hit(b"34", bytes_("3-4"), status=206, has={"content-range": "bytes 3-4/*"}),
    fetch(part(4, 9), bytes_("4-"), cs={"fwd": "partial"}))
row("part-not-for-whole", "3.3", fetch(part(0, 8), bytes_("0-8")),
    Step(headers=(cc("only-if-cached"),), status=504, members=0),
    Step(headers=(cc("only-if-cached"), bytes_("4-9")), status=504, members=0),
    cut(4, 8, cc("only-if-cached"), bytes_("4-8")))
row("part-head", "3.3", fetch(part(0, 8), bytes_("0-8")), fetch(ok("max-age=60", body=b""), method="HEAD"))
row("part-if-range", "3.3", fetch(part(0, 4, ETAG), bytes_("0-4")), cut(0, 1, bytes_("0-1"), ("If-Range", '"abc"')),
    fetch(digits("max-age=60", ("ETag", '"new"')), bytes_("0-1"), ("If-Range", '"x"'), cs={"fwd": "partial"}))
row("part-not-modified", "4.3.2", fetch(part(0, 4, ETAG), bytes_("0-4")), hit(b"", bytes_("0-1"), INM, status=304))
row("part-multiple", "3.3", fetch(part(0, 4, ("Content-Type", "text/x")), bytes_("0-4")),
    hit(None, bytes_("0-1,3-3"), status=206, has={"content-range": None}),
    fetch(part(9, 9), bytes_("0-1,9-9"), cs={"fwd": "partial"}))
row("part-validated", "4.3.3", fetch(part(0, 4, ETAG, cc="max-age=10"), bytes_("0-4")),
    validated(unchanged("max-age=60"), b"01", bytes_("0-1"), advance=10, status=206,
              saw={"range": "bytes=0-1", "if-none-match": '"abc"'}),
    cut(0, 4, bytes_("0-4")))
row("part-swr", "RFC 5861 3", fetch(part(0, 4, ETAG, cc=SWR), bytes_("0-4")),
    stale(b"01", unchanged(SWR), bytes_("0-1"), advance=10, status=206,
          saw={"range": "bytes=0-1", "if-none-match": '"abc"'}),
    cut(0, 4, bytes_("0-4")))
row("part-sie", "RFC 5861 4", fetch(part(0, 4, cc=SIE), bytes_("0-4")), instead(b"01", FAIL, bytes_("0-1"), advance=20, status=206))
row("part-sie-not-covering", "RFC 5861 4", fetch(part(0, 4, cc=SIE), bytes_("0-4")), fetch(FAIL, bytes_("0-5"), advance=20))
row("part-stale", "3.3", fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4"), advance=60, cs={"fwd": "stale"}))
row("part-rule", "3.3", fetch(part(0, 4, cc=None), bytes_("0-4"), cs={"stored": True}), cut(0, 4, bytes_("0-4")), rules=rule(ttl=60))
row("part-vary", "4.1", fetch(part(0, 4, *VARY), bytes_("0-4"), *field("1")), fetch(part(0, 4, *VARY), bytes_("0-4"), *field("2")),
    cut(0, 4, bytes_("0-4"), *field("1")))
row("part-variant-and-default", "4.1", fetch(ok("max-age=60", *VARY), *field("1")), fetch(digits(), *field("2")), hit(DIGITS, *field("3")),
    fetch(part(0, 4, *VARY), bytes_("0-4"), cc("no-cache"), *field("3")), cut(0, 4, bytes_("0-4"), *field("3")),
    hit(DIGITS, *field("4")), fetch(TWO, *field("3"), cs={"fwd": "partial"}))
row("part-not-nominated", "4.3.1", fetch(digits("max-age=60", *BY_ENCODING, ("ETag", '"1"')), *accepting("1")),
    fetch(digits("max-age=60", *BY_ENCODING, ("ETag", '"2"'), body=b"abc"), *accepting("2")),
    fetch(part(0, 4, *BY_ENCODING, ("ETag", '"3"')), bytes_("0-4"), *accepting("3")),
    Step(headers=(*accepting("4"), bytes_("1-2")), origin=(unchanged("max-age=60", *BY_ENCODING, ("ETag", '"1"')),), status=206, content=b"12",
         cs={"hit": None}, saw={"if-none-match": '"2", "1"'}), nominate_codings=True)
row("part-purged", "G3", fetch(part(0, 4, ("Cache-Tag", "t")), bytes_("0-4")),
    fetch(ok(status=204, body=b""), method="DELETE"), fetch(part(0, 4), bytes_("0-4")))
row("part-of-200", "3.3", fetch(digits(), bytes_("0-4"), saw={"range": "bytes=0-4"}), hit(DIGITS), cut(0, 4, bytes_("0-4")))
row("part-collapse", "G2",
    Step(concurrent=4, headers=(bytes_("0-4"),), origin=(part(0, 4),), status=206, content=b"01234", cs={}),
    cut(0, 4, bytes_("0-4")))
row("part-collapse-multiple", "G4",
    Step(concurrent=2, headers=(bytes_("0-1,3-4"),), origin=(part(0, 4),) * 2, status=206, content=b"01234", cs={}))
row("part-suffix-exclusive-last", "3.3",
    fetch(ok("max-age=60", ("Content-Range", "bytes 4-9/10"), ("Content-Length", "5"), status=206, body=b"01234"), bytes_("-5")),
    hit(b"01234", bytes_("-5"), status=206, has={"content-range": "bytes 4-8/*"}),
    hit(b"234", bytes_("6-8"), status=206), hit(b"234", bytes_("6-"), status=206), hit(b"4", bytes_("-1"), status=206),
    fetch(TWO, saw={"range": None}))
for name, reply in (
    ("no-content-range", ok("max-age=60", status=206)), ("unit", ok("max-age=60", ("Content-Range", "lines 0-2/9"), status=206)),
    ("reversed", ok("max-age=60", ("Content-Range", "bytes 2-0/9"), status=206)),
    ("beyond", ok("max-age=60", ("Content-Range", "bytes 0-2/2"), status=206)),
    ("twice", ok("max-age=60", *field("bytes 0-2/9", "bytes 0-2/9", name="Content-Range"), status=206)),
    ("star", ok("max-age=60", ("Content-Range", "bytes */9"), status=206)),
    ("huge", ok("max-age=60", ("Content-Range", "bytes 0-2/" + "9" * 40), status=206)),
    ("multipart", ok("max-age=60", ("Content-Type", "multipart/byteranges; boundary=x"), status=206))):
    row(f"part-refused-{name}", "3.3", fetch(reply, bytes_("0-2"), cs={"detail": "partial", "stored": None}),
        fetch(reply, bytes_("0-2")))
for name, length in (("short", "3"), ("long", "99"), ("garbage", "x")):
    row(f"part-length-{name}", "G6", fetch(part(0, 4, ("Content-Length", length)), bytes_("0-4"), cs={"detail": "length-mismatch"}),
        fetch(part(0, 4), bytes_("0-4")))
row("part-body-short", "G6", fetch(part(0, 4, body=b"012"), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4")))
row("part-body-long", "G6", fetch(part(0, 4, body=b"0123456"), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4")))
for name, reply, detail in (("no-store", part(0, 4, cc="no-store"), "no-store"), ("private", part(0, 4, cc="private, max-age=9"), "private"),
                    ("set-cookie", part(0, 4, ("Set-Cookie", "a=b")), "set-cookie"), ("vary-star", part(0, 4, ("Vary", "*")), "vary-star"),
                    ("silent", part(0, 4, cc=None), "no-freshness")):
    row(f"part-private-{name}", "G1", fetch(reply, bytes_("0-4"), cs={"detail": detail, "stored": None}),
        fetch(part(0, 4), bytes_("0-4")))
row("part-private-authorization", "3.5", fetch(part(0, 4), bytes_("0-4"), AUTH), fetch(part(0, 4), bytes_("0-4")))
row("part-private-cookie", "G1", fetch(part(0, 4, cc=None), bytes_("0-4"), ("Cookie", "a=b")), fetch(part(0, 4, cc=None), bytes_("0-4")),
    rules=rule(ttl=60))
row("part-416", "RFC 9110 15.5.17", fetch(ok("max-age=60", ("Content-Range", "bytes */10"), status=416), bytes_("99-")),
    fetch(ok("max-age=60", ("Content-Range", "bytes */10"), status=416), bytes_("99-")), fetch(digits()))
