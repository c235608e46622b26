"""G9, injective keys: targets that the app can tell apart."""

from __future__ import annotations

from tests.scenarios.dsl import TWO, fetch, hit, ok, row

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("key-path-escape", "G9", fetch(ok("max-age=60"), target="/a%2Fb"), fetch(TWO, target="/a/b"))
row("key-host", "G9", fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(TWO, ("Host", "b.example")), hit(b"one", ("Host", "a.example")))
row("key-port", "G9", fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(TWO, ("Host", "a.example:8080")))
row("key-scheme", "G9", fetch(ok("max-age=60")), fetch(TWO, scheme="https"))
row("key-slashes", "G9", fetch(ok("max-age=60"), target="/a"), fetch(TWO, target="/a/"),
    fetch(ok("max-age=9", body=b"three"), target="//a"))
row("get-with-body", "G9", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"search"), body=b"q=1", cs={"fwd": "bypass", "detail": "request-body"}),
    hit())
row("get-with-body-not-stored", "G9", fetch(ok("max-age=60"), body=b"q=1"), fetch(TWO))
row("get-empty-body", "G9", fetch(ok("max-age=60"), ("Content-Length", "0")),
    hit(b"one", ("Content-Length", "0")))
row("get-chunked", "G9", fetch(ok("max-age=60")),
    fetch(TWO, ("Transfer-Encoding", "chunked"), cs={"fwd": "bypass"}))
row("host-case-passes", "G9", *(fetch(ok("max-age=60"), ("Host", "Example.org"), cs={"fwd": "bypass"})
                                for _ in range(2)))
