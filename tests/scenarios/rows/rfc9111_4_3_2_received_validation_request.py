"""RFC 9111 section 4.3.2, Handling a Received Validation Request."""

from __future__ import annotations

from tests.scenarios.dsl import (
    DAY,
    ETAG,
    INM,
    LM,
    OLD,
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
from tests.scenarios.model import Lines, Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off


def asked(id_: str, stored: Lines, request: Lines, *, match: bool, rfc: str = "4.3.2") -> None:
    status, content = (304, b"") if match else (200, b"one")
    row(f"asked-{id_}", rfc, fetch(ok("max-age=60", *stored)),
        hit(content, *request, status=status, advance=1, has={"age": "1"}))


TAG = (ETAG,)
asked("etag", TAG, (INM,), match=True)
asked("etag-other", TAG, field('"x"', name="If-None-Match"), match=False)
asked("etag-list", TAG, field('"x", "abc"', name="If-None-Match"), match=True)
asked("etag-lines", TAG, field('"x"', '"abc"', name="If-None-Match"), match=True)
asked("etag-star", TAG, field("*", name="If-None-Match"), match=True)
asked("etag-star-no-etag", (), field("*", name="If-None-Match"), match=True)
asked("etag-none-stored", (), (INM,), match=False)
asked("etag-weak-request", TAG, field('W/"abc"', name="If-None-Match"), match=True)
asked("etag-weak-stored", field('W/"abc"', name="ETag"), (INM,), match=True)
asked("etag-weak-both", field('W/"abc"', name="ETag"), field('W/"abc"', name="If-None-Match"), match=True)
asked("etag-obs-text", field('"\xfc"', name="ETag"), field('"\xfc"', name="If-None-Match"), match=True)
asked("etag-unquoted", TAG, field("abc", name="If-None-Match"), match=False)
asked("etag-precedes-lm", (ETAG, LM), (INM, ("If-Modified-Since", at(-2000))), match=True)
asked("etag-precedes-lm-other", (ETAG, LM),
      (("If-None-Match", '"x"'), ("If-Modified-Since", at(0))), match=False)
asked("lm-equal", (LM,), (("If-Modified-Since", at(-1000)),), match=True)
asked("lm-later", (LM,), (("If-Modified-Since", at(-999)),), match=True)
asked("lm-earlier", (LM,), (("If-Modified-Since", at(-1001)),), match=False)
asked("lm-date", (DAY,), (("If-Modified-Since", at(0)),), match=True)
asked("lm-date-earlier", (DAY,), (("If-Modified-Since", at(-1)),), match=False)
asked("lm-received", (), (("If-Modified-Since", at(0)),), match=True)
asked("lm-received-earlier", (), (("If-Modified-Since", at(-1)),), match=False)
asked("lm-invalid", (LM,), (("If-Modified-Since", "yesterday"),), match=False)
asked("lm-two", (LM,), field(at(0), at(0), name="If-Modified-Since"), match=False)
asked("if-range-alone", TAG, (("If-Range", '"abc"'),), match=False, rfc="RFC 9110 13.1.5")
row("asked-404", "RFC 9110 13.2.1", fetch(ok("max-age=60", ETAG, status=404)), hit(b"one", INM, status=404))
row("asked-301", "RFC 9110 13.2.1", fetch(ok("max-age=60", ETAG, status=301)), hit(b"one", INM, status=301))
row("asked-stale-only-if-cached", "5.2.1.7", fetch(OLD),
    Step(headers=(INM, cc("only-if-cached")), advance=10, status=504, members=0))
row("asked-variant", "4.3.2", fetch(ok("max-age=60", *VARY, ETAG), *field("1")),
    fetch(ok("max-age=60", *VARY, ("ETag", '"2"'), body=b"two"), *field("2")),
    hit(b"", *field("1"), INM, status=304), hit(b"two", *field("2"), INM))
row("asked-head", "4.3.2", fetch(ok("max-age=60", ETAG)), hit(b"", INM, method="HEAD", status=304))
row("304-fields", "RFC 9110 15.4.5",
    fetch(ok("max-age=60", ETAG, DAY, LM, ("Content-Location", "/x"), ("Expires", at(9)),
             ("Content-Type", "text/x"), ("Content-Length", "3"), ("X-A", "1"))),
    hit(b"", INM, status=304, advance=2, has={
        "etag": '"abc"', "date": at(0), "content-location": "/x", "expires": at(9), "age": "2",
        "cache-control": "max-age=60", "content-type": None, "content-length": None, "x-a": "1"}))
row("asked-miss", "4.3.2", fetch(ok("max-age=60", ("ETag", '"new"')), INM), hit())
row("asked-miss-match", "4.3.2",
    Step(headers=(INM,), origin=(ok("max-age=60", ETAG),), status=304, content=b"",
         cs={"fwd": "uri-miss", "stored": True}),
    hit())
row("asked-validated", "4.3.3", fetch(OLD),
    Step(headers=(INM,), advance=10, origin=(unchanged("max-age=60"),), status=304, content=b"",
         cs={"fwd": "stale", "fwd-status": 304}),
    hit())
row("asked-validated-other", "4.3.3", fetch(OLD),
    validated(unchanged("max-age=60"), b"one", ("If-None-Match", '"x"'), advance=10))
row("asked-not-shareable", "4.3.1, G5", fetch(ok("no-store"), saw={"if-none-match": None}),
    Step(headers=(INM,), origin=(unchanged("no-store"),), status=304, content=b"",
         saw={"if-none-match": '"abc"'}, cs={"hit": None}))
for name in ("If-Match", "If-Unmodified-Since"):
    row(f"passes-{name.lower()}", "4.3.2", fetch(ok("max-age=60")),
        fetch(TWO, (name, at(0)), saw={name.lower(): at(0)},
              cs={"fwd": "bypass", "detail": "precondition"}), hit())
