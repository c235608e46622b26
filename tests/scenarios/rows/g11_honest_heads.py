"""G11, honest words: what a head says of storing."""

from __future__ import annotations

from tests.scenarios.dsl import STORED, fetch, hit, ok, row
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

TEN = b"0123456789"
UNSAID = {"stored": None, "detail": None}
LENGTH = ("Content-Length", "10")

row(
    "stored-length-known", "G11", fetch(ok("max-age=60", LENGTH, body=TEN), cs=STORED), hit(TEN)
)
row("stored-whole-in-hand", "G11", fetch(ok("max-age=60", body=TEN), cs=STORED), hit(TEN))
row("stored-nothing", "G11", fetch(ok("max-age=60", body=b""), cs=STORED), hit(b""))
row("stored-no-content", "G11", fetch(ok("max-age=60", status=204, body=b""), cs=STORED))
row(
    "stored-parts-of-known-length",
    "G11",
    fetch(ok("max-age=60", LENGTH, body=TEN, chunks=4), cs=STORED),
    hit(TEN),
)
row(
    "stored-parts-of-unknown-length",
    "G11",
    fetch(ok("max-age=60", body=TEN, chunks=4), cs=UNSAID),
    hit(TEN),
)
row(
    "stored-to-be-validated",
    "G11",
    fetch(ok("no-cache", ("ETag", '"a"'), body=TEN), cs=STORED),
    Step(
        origin=(ok("no-cache", ("ETag", '"a"'), status=304, body=b""),),
        content=TEN,
        cs={"fwd-status": 304, "stored": True},
    ),
)
row(
    "stored-to-be-validated-unknown-length",
    "G11",
    fetch(ok("no-cache", ("ETag", '"a"'), body=TEN, chunks=4), cs=UNSAID),
)
for what, lines, chunks in (
    ("whole", (), 1),
    ("announced", (LENGTH,), 1),
    ("announced-parts", (LENGTH,), 3),
):
    large = ok("max-age=60", *lines, body=TEN, chunks=chunks)
    over = {"stored": None, "detail": "too-large"}
    row(f"stored-too-large-{what}", "G11", fetch(large, cs=over), fetch(large, cs=over), max_body=5)
    full = {"stored": None, "detail": "budget"}
    row(
        f"stored-over-budget-{what}",
        "G11",
        fetch(large, cs=full),
        fetch(large, cs=full),
        max_inflight=5,
    )
late = ok("max-age=60", body=TEN, chunks=4)
row(
    "stored-too-large-parts",
    "G11",
    fetch(late, cs={"stored": None}),
    fetch(late, cs={"stored": None}),
    max_body=5,
)
