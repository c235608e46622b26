"""RFC 9111 section 5.2.2, Response Directives."""

from __future__ import annotations

from tests.scenarios.dsl import (
    DAY,
    ETAG,
    fetch,
    hit,
    not_reused,
    ok,
    reused,
    row,
    unchanged,
    validated,
)
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

reused("fresh-s-maxage", "5.2.2.10", ok("s-maxage=60"), after=59)
reused("fresh-s-maxage-longer", "5.2.2.10", ok("max-age=1, s-maxage=60"), after=59)
not_reused("fresh-s-maxage-shorter", "5.2.2.10", ok("max-age=60, s-maxage=1"), after=2)
not_reused("fresh-s-maxage-0", "5.2.2.10", ok("max-age=60, s-maxage=0"))
reused("fresh-s-maxage-expires", "5.2.2.10", ok("s-maxage=60", ("Expires", at(-60)), DAY))

not_reused("no-store", "5.2.2.5", ok("no-store"), detail="no-store")
not_reused("no-store-case", "5.2.2.5", ok("No-StOrE, max-age=60"), detail="no-store")
not_reused("no-store-fresh", "5.2.2.5", ok("max-age=60, no-store", ("Expires", at(99)), DAY))
not_reused("no-store-argument", "5.2.2.5", ok('max-age=60, no-store="x"'))
not_reused("no-store-unclosed", "5.2.2.5", ok('max-age=60, x="a, no-store'))
not_reused("private", "5.2.2.7", ok("private, max-age=60"), detail="private")
not_reused("private-s-maxage", "5.2.2.7", ok("private, s-maxage=60"), detail="private")
not_reused("private-public", "5.2.2.7", ok("public, private, max-age=60"), detail="private")
not_reused("private-semicolon", "5.2.2.7", ok("private; max-age=60"))
row("private-field", "5.2.2.7",
    fetch(ok('private="x-user", max-age=60', ("X-User", "7"), ("X-All", "8")),
          has={"x-user": "7", "x-all": "8"}),
    hit(has={"x-user": None, "x-all": "8"}))
row("private-fields", "5.2.2.7",
    fetch(ok('private="x-user , x-more", max-age=60', ("X-User", "7"), ("X-More", "8"))),
    hit(has={"x-user": None, "x-more": None}))
row("private-field-token", "5.2.2.7", fetch(ok("private=x-user, max-age=60", ("X-User", "7"))),
    hit(has={"x-user": None}))
not_reused("private-field-content-type", "5.2.2.7", ok('private="content-type", max-age=60'))
row("no-cache-field", "5.2.2.4",
    fetch(ok('no-cache="x-user", max-age=60', ("X-User", "7"), ("X-All", "8"))),
    hit(has={"x-user": None, "x-all": "8"}))
row("no-cache-field-two-lines", "5.2.2.4",
    fetch(ok('no-cache="a, b"', ("Cache-Control", "max-age=60"), ("A", "1"), ("B", "2"), ("C", "3"))),
    hit(has={"a": None, "b": None, "c": "3"}))
row("no-cache-validates", "5.2.2.4", fetch(ok("no-cache, max-age=60", ETAG)),
    validated(unchanged("no-cache, max-age=60"), saw={"if-none-match": '"abc"'}),
    validated(unchanged()), fetch(ok("no-store", body=b"two")))
row("no-cache-alone-validates", "5.2.2.4", fetch(ok("no-cache", ETAG)), validated(unchanged()))
row("no-cache-case", "5.2.2.4", fetch(ok("max-age=60, No-CaChE", ETAG)), validated(unchanged()))
not_reused("no-cache-no-validator", "5.2.2.4", ok("max-age=60, no-cache"))
row("must-revalidate-fresh", "5.2.2.2", fetch(ok("max-age=60, must-revalidate")), hit(advance=59))
row("must-revalidate-stale", "5.2.2.2", fetch(ok("max-age=60, must-revalidate", ETAG)),
    validated(unchanged(), advance=60))
not_reused("must-understand-private", "5.2.2.3", ok("must-understand, private, max-age=60"), detail="private")
reused("must-understand", "5.2.2.3", ok("must-understand, no-store, max-age=60"))
not_reused("must-understand-unknown-status", "5.2.2.3",
           ok("must-understand, max-age=60", status=599), detail="must-understand")
not_reused("must-understand-no-store-unknown", "5.2.2.3",
           ok("must-understand, no-store, max-age=60", status=299), detail="must-understand")
