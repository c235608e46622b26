"""RFC 9111 section 4.3.3, Handling a Validation Response."""

from __future__ import annotations

from tests.scenarios.dsl import FAIL, OLD, RAISES, fetch, hit, ok, row, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("200-replaces", "4.3.3", fetch(OLD),
    fetch(ok("max-age=60", ("ETag", '"new"'), body=b"new"), advance=10, cs={"fwd": "stale"}),
    hit(b"new"))
row("404-replaces", "4.3.3", fetch(OLD),
    fetch(ok("max-age=60", status=404, body=b"gone"), advance=10), hit(b"gone", status=404))
row("no-store-replaces", "4.3.3", fetch(OLD), fetch(ok("no-store", body=b"two"), advance=10),
    fetch(ok("no-store", body=b"three"), saw={"if-none-match": None}))
row("5xx-forwarded", "4.3.3", fetch(OLD), fetch(FAIL, advance=10))
row("5xx-keeps-stored", "4.3.3", fetch(OLD), fetch(ok(status=500, body=b"oops"), advance=10),
    validated(unchanged("max-age=60"), saw={"if-none-match": '"abc"'}), hit())
row("exception-keeps-stored", "4.3.3", fetch(OLD), fetch(RAISES, advance=10),
    validated(unchanged(), saw={"if-none-match": '"abc"'}))
