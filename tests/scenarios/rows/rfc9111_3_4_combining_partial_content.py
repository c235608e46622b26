"""RFC 9111 section 3.4, Combining Partial Content."""

from __future__ import annotations

from tests.scenarios.dsl import (
    AUTH,
    DAY,
    DIGITS,
    ETAG,
    LM,
    SWR,
    TWO,
    bytes_,
    cc,
    cut,
    digits,
    fetch,
    hit,
    ok,
    part,
    purge,
    row,
    stale,
    unchanged,
)
from tests.scenarios.model import Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("combine", "3.4", fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(6, 7, ETAG), bytes_("6-7"), cs={"fwd": "partial"}),
    cut(1, 2, bytes_("1-2")), cut(6, 7, bytes_("6-7")),
    fetch(part(3, 5, ETAG), bytes_("3-5")), cut(0, 7, bytes_("0-7")))
row("combine-date", "3.4", fetch(part(0, 2, LM, DAY), bytes_("0-2")), fetch(part(3, 9, LM, DAY), bytes_("3-9")), hit(DIGITS))
row("combine-complete", "RFC 9110 15.3.7.3", fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(5, 9, ETAG), bytes_("5-")),
    hit(DIGITS, has={"content-length": "10", "content-range": None, "etag": '"abc"'}), cut(3, 6, bytes_("3-6")))
row("combine-fields", "3.4", fetch(part(0, 4, ETAG, ("X-A", "1"), ("X-B", "1")), bytes_("0-4")),
    fetch(part(5, 9, ETAG, ("X-A", "2"), ("X-C", "3")), bytes_("5-")), hit(DIGITS, has={"x-a": "2", "x-b": "1", "x-c": "3"}))
row("combine-freshness", "3.4", fetch(part(0, 4, ETAG, cc="max-age=10"), bytes_("0-4")),
    fetch(part(5, 9, ETAG), bytes_("5-9"), advance=9), hit(DIGITS, advance=50))
for name, lines in (("other", (("ETag", '"new"'),)), ("weak", (("ETag", 'W/"abc"'),)), ("none", ()), ("date", (LM, DAY)),
                    ("coding", (ETAG, ("Content-Encoding", "gzip"))), ("unquoted", (("ETag", "abc"),))):
    row(f"combine-not-{name}", "3.4", fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(5, 9, *lines), bytes_("5-9")),
        cut(5, 9, bytes_("5-9")), fetch(part(0, 2), bytes_("0-2")))
row("combine-not-length", "G6", fetch(part(0, 2, ETAG), bytes_("0-2")),
    fetch(ok("max-age=60", ETAG, ("Content-Range", "bytes 5-9/11"), status=206, body=b"56789"), bytes_("5-9")),
    fetch(part(0, 2, ETAG), bytes_("0-2")))
row("combine-not-overlap", "G6", fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(3, 6, ETAG, body=b"XXXX"), bytes_("5-6")),
    fetch(part(0, 2, ETAG), bytes_("0-2")))
row("combine-whole-stays", "3.4", fetch(digits()), fetch(part(0, 2), bytes_("0-2"), cc("no-cache")), hit(DIGITS))
row("combine-whole-changed", "3.4", fetch(digits("max-age=60", ("Last-Modified", at(-50)))),
    fetch(part(0, 2, LM), bytes_("0-2"), cc("no-cache")), fetch(TWO))
row("rest-of-range", "3.4", fetch(part(0, 4, ETAG), bytes_("0-4")),
    Step(headers=(bytes_("2-7"),), origin=(part(5, 7, ETAG),), status=206, content=b"234567",
         has={"content-range": "bytes 2-7/10", "content-length": "6", "etag": '"abc"'},
         cs={"fwd": "partial", "stored": True, "fwd-status": None}, saw={"range": "bytes=5-7", "if-range": '"abc"'}),
    cut(0, 7, bytes_("0-7")))
row("rest-between", "3.4", fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(7, 9, ETAG), bytes_("7-9")),
    Step(headers=(bytes_("1-8"),), origin=(part(3, 6, ETAG),), status=206, content=b"12345678",
         has={"content-range": "bytes 1-8/10"}, cs={"fwd": "partial"}, saw={"range": "bytes=3-6"}),
    hit(DIGITS))
row("rest-of-whole", "3.4", fetch(part(0, 6, ETAG), bytes_("0-6")),
    Step(origin=(part(7, 9, ETAG, chunks=3),), content=DIGITS, has={"content-length": "10", "content-range": None},
         cs={"fwd": "partial", "fwd-status": 206, "stored": True}, saw={"range": "bytes=7-", "if-range": '"abc"'}),
    hit(DIGITS))
row("rest-of-whole-before", "3.4", fetch(part(4, 9, ETAG), bytes_("4-9")),
    Step(origin=(part(0, 3, ETAG),), content=DIGITS, cs={"fwd": "partial"}, saw={"range": "bytes=0-3"}), hit(DIGITS))
row("rest-collapse", "G2", fetch(part(0, 6, ETAG), bytes_("0-6")),
    Step(concurrent=4, origin=(part(7, 9, ETAG),), content=DIGITS, cs={}), hit(DIGITS))
row("rest-too-much", "3.4", fetch(part(0, 3, ETAG), bytes_("0-3")), fetch(digits(), saw={"range": None, "if-range": None}))
row("rest-two-pieces", "3.4", fetch(part(1, 8, ETAG), bytes_("1-8")), fetch(digits(), saw={"range": None}))
row("rest-changed", "3.4", fetch(part(0, 6, ETAG), bytes_("0-6")),
    fetch(digits("max-age=60", ("ETag", '"new"'), body=b"abcdefghij")), hit(b"abcdefghij"))
row("rest-changed-range", "3.4", fetch(part(0, 4, ETAG), bytes_("0-4")),
    fetch(digits("max-age=60", ("ETag", '"new"'), body=b"abcdefghij"), bytes_("2-7"), saw={"if-range": '"abc"'}),
    hit(b"abcdefghij"))
for name, reply in (("validator", part(7, 9, ("ETag", '"new"'))), ("no-validator", part(7, 9)), ("weak", part(7, 9, ("ETag", 'W/"abc"'))),
                    ("range", part(6, 9, ETAG)), ("less", part(7, 8, ETAG)), ("no-content-range", ok("max-age=60", ETAG, status=206, body=b"789")),
                    ("416", ok(None, ("Content-Range", "bytes */5"), status=416, body=b"")), ("private", part(7, 9, ETAG, cc="private")),
                    ("length", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-9/11"), status=206, body=b"789"))):
    row(f"rest-mismatch-{name}", "G6", fetch(part(0, 6, ETAG), bytes_("0-6")),
        Step(origin=(reply, digits(body=b"abcdefghij")), content=b"abcdefghij", cs={"fwd": "uri-miss"}, saw={"range": None}),
        hit(b"abcdefghij"))
row("rest-without-validator", "3.4", fetch(part(0, 4), bytes_("0-4")), fetch(TWO, saw={"range": "bytes=5-", "if-range": None}), hit(b"two"))
row("rest-without-validator-206", "3.4", fetch(part(0, 4), bytes_("0-4")),
    Step(origin=(part(5, 9), digits()), content=DIGITS, cs={"fwd": "uri-miss"}, saw={"range": None}), hit(DIGITS))
row("rest-without-validator-range", "3.4", fetch(part(0, 4), bytes_("0-4")), fetch(part(2, 7), bytes_("2-7"), saw={"range": "bytes=2-7"}))
row("rest-not-with-authorization", "G1", fetch(part(0, 6, ETAG, cc="public, max-age=60"), bytes_("0-6")),
    fetch(digits("public, max-age=60"), AUTH, saw={"range": None}))
row("rest-targeted", "RFC 9213 2.2", fetch(part(0, 6, ETAG, ("LayerGate-Cache-Control", "max-age=60"), cc="no-store"), bytes_("0-6")),
    Step(origin=(part(7, 9, ETAG, ("LayerGate-Cache-Control", "max-age=60"), cc="no-store"),), content=DIGITS,
         has={"cache-control": "no-store", "layergate-cache-control": None}, cs={"fwd": "partial", "stored": True}),
    hit(DIGITS, has={"cache-control": "no-store", "layergate-cache-control": None}))
for name, reply in (
    ("range-before", part(0, 2, ETAG)), ("two-ranges", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-9/*, bytes 1-2/*"), status=206, body=b"789")),
    ("star", ok("max-age=60", ETAG, ("Content-Range", "bytes */10"), status=206, body=b"789")),
    ("huge", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-" + "9" * 30 + "/" + "9" * 31), status=206, body=b"789")),
    ("content-length", part(7, 9, ETAG, ("Content-Length", "1"))), ("coding", part(7, 9, ETAG, ("Content-Encoding", "gzip"))),
    ("no-store", part(7, 9, ETAG, cc="no-store")), ("set-cookie", part(7, 9, ETAG, ("Set-Cookie", "a=b"))),
    ("vary-star", part(7, 9, ETAG, ("Vary", "*"))),
    ("multipart", ok("max-age=60", ETAG, ("Content-Type", "multipart/byteranges; boundary=x"), status=206, body=b"789"))):
    row(f"rest-lies-{name}", "G6", fetch(part(0, 6, ETAG), bytes_("0-6")),
        Step(origin=(reply, digits()), content=DIGITS, has={"set-cookie": None, "content-encoding": None}, cs={"fwd": "uri-miss"},
             saw={"range": None}), hit(DIGITS))
# A strong validator is one among the representations of one target, and nothing says any more that this is one.
for name, says in (("nothing", ()), ("more", (("No-Vary-Search", 'params=("utm" "b")'),))):
    row(f"rest-of-another-target-says-{name}", "RFC 9110 8.8.3",
        fetch(part(0, 6, ETAG, ("No-Vary-Search", 'params=("utm")')), bytes_("0-6"), target="/p?utm=1"),
        cut(0, 1, bytes_("0-1"), target="/p?utm=2"),
        Step(target="/p?utm=2", origin=(part(7, 9, ETAG, *says), digits()), content=DIGITS, cs={"fwd": "uri-miss"}, saw={"range": None}),
        no_vary_search=True)
# If-Range has a date, which is a strong validator by the part's Date, and by the 304's is not.
for name, dated in (("no-date", ()), ("another-date", (("Date", at(-1000)),))):
    row(f"part-weakened-by-304-{name}", "RFC 9110 8.8.2.2", fetch(part(0, 4, LM, DAY, cc="max-age=10"), bytes_("0-4"), ("If-Range", at(-1000))),
        Step(headers=(bytes_("0-4"), ("If-Range", at(-1000))), advance=20, origin=(unchanged("max-age=10", LM, *dated), part(0, 4, LM, DAY)),
             status=206, content=b"01234", cs={}, saw={"if-modified-since": None}))
row("part-swr-if-range", "RFC 9110 13.1.5", fetch(part(0, 4, ETAG, cc=SWR), bytes_("0-4"), ("If-Range", '"abc"')),
    stale(b"01234", digits("max-age=60", ("ETag", '"new"')), bytes_("0-4"), ("If-Range", '"abc"'), advance=20, status=206, saw={"if-range": None}),
    hit(DIGITS, bytes_("0-4"), ("If-Range", '"abc"'), has={"content-range": None}))
for name, purged in (("url", purge()), ("tag", purge(tags="t")), ("tag-of-another", purge(tags="u"))):
    row(f"part-purged-all-by-{name}", "G3", fetch(part(0, 2, ETAG, ("Cache-Tag", "t")), bytes_("0-2")),
        fetch(part(6, 7, ETAG, ("Cache-Tag", "u")), bytes_("6-7")), cut(0, 2, bytes_("0-2")), purged,
        fetch(part(0, 2), bytes_("0-2")), fetch(part(6, 7), bytes_("6-7")))
    row(f"rest-purged-by-{name}", "G3", fetch(part(0, 6, ETAG, ("Cache-Tag", "t")), bytes_("0-6")),
        Step(origin=(part(7, 9, ETAG, ("Cache-Tag", "u")),), content=DIGITS, cs={"stored": True}), hit(DIGITS), purged, fetch(digits()))
row("part-over-cap", "G7", *(fetch(part(0, 6), bytes_("0-6"), cs={"detail": "too-large", "stored": None}) for _ in range(2)), max_body=5)
row("parts-over-cap-together", "G7", fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(3, 5, ETAG), bytes_("3-5")),
    cut(3, 5, bytes_("3-5")), fetch(part(0, 2, ETAG), bytes_("0-2")), max_body=5)
row("range-over-cap-leaves-parts", "G7", fetch(part(0, 2, ETAG), bytes_("0-2")),
    fetch(part(0, 9, ETAG), bytes_("0-"), cs={"detail": "too-large"}), fetch(part(1, 8, ETAG), bytes_("1-8"), cs={"detail": "too-large"}),
    cut(0, 2, bytes_("0-2")), max_body=5)
for name, value in (("commas", "bytes=" + "," * 3000 + "0-1"), ("same", "bytes=" + ",".join(["0-1023"] * 1000)), ("open", "bytes=" + "0-," * 500)):
    row(f"range-flood-{name}", "RFC 9110 14.2", fetch(digits()), hit(DIGITS, ("Range", value), has={"content-range": None}))
row("range-flood-overlapping", "RFC 9110 15.3.7.2", fetch(digits()), cut(0, 9, bytes_(",".join(["0-"] * 32))))
row("rest-error", "3.4", fetch(part(0, 6, ETAG), bytes_("0-6")), fetch(ok(None, status=503)), cut(0, 6, bytes_("0-6")))
