"""G1, privacy: rules for requests with credentials, ``allow_authorization="each"``."""

from __future__ import annotations

from tests.scenarios.dsl import AUTH, COOKIE, ETAG, fetch, hit, ok, row, rule, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

OTHER = ("Authorization", "Basic b3RoZXI6eA==")
EACH = rule(ttl=60, allow_authorization="each")

row(
    "rule-authorization-each",
    "G1",
    fetch(ok(), AUTH, has={"vary": "authorization"}),
    hit(b"one", AUTH),
    fetch(ok(body=b"other"), OTHER),
    hit(b"other", OTHER),
    hit(b"one", AUTH),
    rules=EACH,
)
row(
    "rule-authorization-each-not-for-none",
    "G1",
    fetch(ok(), AUTH),
    fetch(ok(body=b"public")),
    hit(b"public"),
    hit(b"one", AUTH),
    rules=EACH,
)
row(
    "rule-authorization-each-after-none",
    "G1",
    fetch(ok(body=b"public")),
    fetch(ok(), AUTH),
    hit(b"public"),
    hit(b"one", AUTH),
    rules=EACH,
)
row(
    "rule-authorization-each-beside-vary",
    "G1",
    fetch(ok(None, ("Vary", "Foo")), AUTH, ("Foo", "1")),
    fetch(ok(None, ("Vary", "Foo"), body=b"x"), AUTH, ("Foo", "2")),
    hit(b"one", AUTH, ("Foo", "1")),
    fetch(ok(body=b"y"), OTHER, ("Foo", "1")),
    rules=EACH,
)
row(
    "rule-authorization-each-refused-with-a-cookie",
    "G1",
    fetch(ok(), AUTH, COOKIE, cs={"detail": "cookie"}),
    fetch(ok(), AUTH),
    rules=EACH,
)
row(
    "rule-authorization-each-a-refusal-of-the-origin",
    "G1",
    fetch(ok(status=401, body=b"no"), OTHER),
    fetch(ok(), AUTH),
    fetch(ok(status=401, body=b"no"), OTHER),
    hit(b"one", AUTH),
    rules=EACH,
)
row(
    "rule-authorization-each-validated",
    "G1",
    fetch(ok(None, ETAG), AUTH),
    validated(unchanged(None, ETAG), b"one", AUTH, advance=61),
    hit(b"one", AUTH),
    fetch(ok(body=b"other"), OTHER),
    rules=EACH,
)
row(
    "rule-authorization-each-the-apps-own-word",
    "G1, 3.5",
    fetch(ok("public, max-age=60"), AUTH),
    hit(b"one", OTHER),
    hit(b"one"),
    rules=EACH,
)
