"""RFC 9111 section 3.5, Storing Responses to Authenticated Requests."""

from __future__ import annotations

from tests.scenarios.dsl import AUTH, DAY, TWO, fetch, hit, ok, row
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# 3.5 and G1
for name, value in (("public", "public, max-age=60"), ("s-maxage", "s-maxage=60"),
                 ("must-revalidate", "must-revalidate, max-age=60")):
    row(f"authorization-{name}", "3.5", fetch(ok(value), AUTH), hit(), hit(b"one", AUTH))
for name, value in (("max-age", "max-age=60"), ("proxy-revalidate", "proxy-revalidate, max-age=60"),
                 ("immutable", "immutable, max-age=60"), ("private", "private, max-age=60")):
    row(f"authorization-{name}", "3.5", fetch(ok(value), AUTH, cs={"stored": None}), fetch(TWO))
row("authorization-not-from-anonymous", "3.5, G1", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"mine"), AUTH, cs={"fwd": "request"}), hit())
row("authorization-expires", "3.5", fetch(ok(None, ("Expires", at(60)), DAY), AUTH), fetch(TWO))
