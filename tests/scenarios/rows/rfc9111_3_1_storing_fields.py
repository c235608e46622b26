"""RFC 9111 section 3.1, Storing Header and Trailer Fields."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, fetch, hit, ok, row
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("set-cookie2", "3.1",  # obsolete: no client acts on it, so it is a field like any other
    fetch(ok("max-age=60", ("Set-Cookie2", "a=b"))), hit(has={"set-cookie2": "a=b"}))

# 3.1: which fields
row("fields-kept", "3.1",
    fetch(ok("max-age=60", ("X-A", "1"), ("X-A", "2"), ("X-B", ""), ("X-C", "\xfc"), DAY,
             ("Content-Type", "text/x"), ("Content-Length", "3"), ("Link", "</a>, </b>"),
             ("WWW-Authenticate", "Basic"), ("Clear-Site-Data", "cookies"))),
    hit(lines=(("cache-control", "max-age=60"), ("x-a", "1"), ("x-a", "2"), ("x-b", ""),
               ("x-c", "\xfc"), ("date", at(0)), ("content-type", "text/x"), ("content-length", "3"),
               ("link", "</a>, </b>"), ("www-authenticate", "Basic"),
               ("clear-site-data", "cookies"))))
row("fields-connection", "3.1",
    fetch(ok("max-age=60", ("Connection", "A, b"), ("A", "1"), ("B", "2"), ("C", "3"))),
    hit(has={"a": None, "b": None, "c": "3", "connection": None}))
row("fields-connection-lines", "3.1",
    fetch(ok("max-age=60", ("Connection", "close"), ("Connection", "a"), ("A", "1"))),
    hit(has={"a": None, "connection": None}))
for name in ("Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade", "Proxy-Authenticate",
             "Proxy-Authentication-Info", "Proxy-Authorization"):
    row(f"fields-{name.lower()}", "3.1", fetch(ok("max-age=60", (name, "x"))),
        hit(has={name.lower(): None}))
row("fields-disposition", "3.1",
    fetch(ok("max-age=60", ("Content-Disposition", "attachment; filename=a"))),
    hit(has={"content-disposition": "attachment; filename=a"}))
