"""RFC 9111 section 7.3, Caching of Sensitive Information."""

from __future__ import annotations

from tests.scenarios.dsl import ETAG, TWO, fetch, hit, ok, row, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("set-cookie", "7.3, G1",
    fetch(ok("max-age=60", ("Set-Cookie", "a=b")), cs={"detail": "set-cookie"},
          has={"set-cookie": "a=b"}),
    fetch(TWO, has={"set-cookie": None}))
row("set-cookie2-beside", "7.3, G1",  # a field like any other, but for one that goes with a cookie
    fetch(ok('max-age=60, private="set-cookie"', ("Set-Cookie", "a=b"), ("Set-Cookie2", "a=b"))),
    hit(has={"set-cookie2": None, "set-cookie": None}))
row("set-cookie2-304", "G1", fetch(ok("max-age=10", ETAG, ("Set-Cookie2", "a=b"))),
    validated(unchanged("max-age=60", ("Set-Cookie2", "c=d")), advance=10), hit(has={"set-cookie2": "a=b"}))
row("set-cookie-public", "7.3, G1", fetch(ok("public, max-age=60", ("Set-Cookie", "a=b"))), fetch(TWO))
for value in ('no-cache="set-cookie"', 'private="Set-Cookie"'):
    row(f"set-cookie-{value[:8].rstrip('=')}", "7.3",
        fetch(ok(f"max-age=60, {value}", ("Set-Cookie", "a=b")), has={"set-cookie": "a=b"}),
        hit(has={"set-cookie": None}))
