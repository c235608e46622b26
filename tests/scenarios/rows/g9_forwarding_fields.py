"""G9, injective keys: fields by which proxies tell the app its scheme, host, port, prefix, path or method."""

from __future__ import annotations

from layergate.http.privacy.forwarding import FORWARDING_FIELDS
from tests.scenarios.dsl import (
    COOKIE,
    ETAG,
    TWO,
    cc,
    fetch,
    hit,
    ok,
    purge,
    row,
    rule,
    unchanged,
    validated,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

THREE = ok("max-age=60", body=b"three")

for name in FORWARDING_FIELDS:
    a, b = ("proto=http", "proto=https") if name == "Forwarded" else ("a", "b")
    one, two = (name, a), (name, b)
    row(f"told-{name}", "G9, G3", fetch(ok("max-age=60"), one), fetch(TWO, two), fetch(THREE),
        hit(b"one", one), hit(b"two", two), hit(b"three"), purge(), fetch(ok("max-age=60"), one), fetch(TWO, two), fetch(THREE))

for name in ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Script-Name"):
    one, two = (name, "a"), (name, "b")
    row(
        f"told-{name}-after-nothing",
        "G9",
        fetch(ok("max-age=60")),
        fetch(TWO, one),
        hit(b"one"),
        hit(b"two", one),
    )
    row(
        f"told-{name}-rule",
        "G9",
        fetch(ok(), one),
        fetch(ok(body=b"two"), two),
        hit(b"one", one),
        rules=rule(ttl=60),
    )

HTTP, HTTPS = ("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")
EVIL = ("X-Forwarded-Host", "evil.example")
LOOP = ok("max-age=60", ("Location", "https://example.org/"), status=301)
row(
    "told-redirect-loop",
    "G9",
    fetch(LOOP, HTTP),
    fetch(TWO, HTTPS),
    hit(b"two", HTTPS),
    hit(None, HTTP, status=301),
)
row(
    "told-host-poison",
    "G9",
    fetch(ok("max-age=60", body=b"evil"), EVIL),
    fetch(TWO),
    hit(b"two"),
    hit(b"evil", EVIL),
)
for first, second in (
    (HTTPS, EVIL),
    (HTTPS, ("X-Script-Name", "/x")),
    (("X-Scheme", "https"), EVIL),
):
    row(f"told-more-{first[0]}-{second[0]}", "G9", fetch(ok("max-age=60"), first), fetch(TWO, first, second),
        fetch(THREE, second), hit(b"one", first), hit(b"two", first, second), hit(b"three", second))
row("told-twice", "G9", fetch(ok("max-age=60"), HTTPS), fetch(TWO, HTTP, HTTPS), hit(b"one", HTTPS))
row("told-with-vary", "G9, 4.1", fetch(ok("max-age=60", ("Vary", "Accept"), body=b"json"), HTTPS, ("Accept", "a/json")),
    fetch(ok("max-age=60", ("Vary", "Accept"), body=b"html"), HTTPS, ("Accept", "a/html")),
    fetch(ok("max-age=60", ("Vary", "Accept"), body=b"http"), HTTP, ("Accept", "a/html"), has={"vary": "Accept"}),
    hit(b"json", HTTPS, ("Accept", "a/json")), hit(b"html", HTTPS, ("Accept", "a/html")), hit(b"http", HTTP, ("Accept", "a/html"), has={"vary": "Accept"}))
row("told-validated", "G9, 4.3", fetch(ok("max-age=10", ETAG), HTTPS), validated(unchanged("max-age=10", ETAG), b"one", HTTPS, advance=11),
    hit(b"one", HTTPS), fetch(TWO, HTTP, saw={"if-none-match": None}))
row(
    "told-vary-itself",
    "4.1",
    fetch(ok("max-age=60", ("Vary", "X-Forwarded-Host")), EVIL),
    fetch(TWO, HTTPS),
    hit(b"one", EVIL),
    hit(b"two", HTTPS),
)
row("told-client", "G9", fetch(ok("max-age=60"), ("X-Forwarded-For", "192.0.2.1"), HTTPS),
    hit(b"one", ("X-Forwarded-For", "192.0.2.2"), HTTPS))
row("told-cookie-marker", "G1", fetch(ok(), HTTPS, COOKIE, cs={"detail": "cookie"}), fetch(ok(body=b"two"), HTTPS), hit(b"two", HTTPS),
    rules=rule(ttl=60))
row(
    "told-marker",
    "G4",
    fetch(ok("no-store"), EVIL),
    fetch(ok("max-age=60"), cs={"detail": None}),
    hit(),
    fetch(ok("no-store"), EVIL),
)
row("told-head", "4.3.5", fetch(ok("max-age=60", ETAG), HTTPS), hit(b"", HTTPS, method="HEAD"),
    fetch(ok("max-age=60", ("ETag", '"new"'), body=b""), HTTP, method="HEAD"), hit(b"one", HTTPS))
row(
    "told-unsafe",
    "4.4",
    fetch(ok("max-age=60"), HTTPS),
    fetch(ok(status=204, body=b""), HTTPS, method="DELETE"),
    fetch(TWO, HTTPS),
)
row(
    "told-no-cache",
    "5.2.1.4",
    fetch(ok("max-age=60"), HTTPS),
    fetch(TWO, HTTPS, cc("no-cache")),
    hit(b"two", HTTPS),
)

# Forwarded: the addresses of client and proxies select nothing, the rest does, where it stands.
for id_, a, b, same in (
    ("for", "for=192.0.2.1;proto=https", "for=192.0.2.2;proto=https", True),
    ("by", 'for="[::1]";by=x;host=a', 'for="[::2]";by=y;host=a', True),
    ("proto", "for=192.0.2.1;proto=https", "for=192.0.2.1;proto=http", False),
    ("host", "for=192.0.2.1;host=a", "for=192.0.2.1;host=b", False),
    ("position", "for=a;proto=https, for=b", "for=a, for=b;proto=https", False),
    ("quoted-host", 'for="a;host=b"', "for=a;host=b", False),
    ("malformed", "for=a;;=;host", "for=b;;=;host", False),
):
    row(f"forwarded-{id_}", "RFC 7239, G9", fetch(ok("max-age=60"), ("Forwarded", a)),
        hit(b"one", ("Forwarded", b)) if same else fetch(TWO, ("Forwarded", b)))
row("forwarded-vary", "4.1", fetch(ok("max-age=60", ("Vary", "Forwarded")), ("Forwarded", "for=a")),
    fetch(ok("max-age=60", ("Vary", "Forwarded"), body=b"two"), ("Forwarded", "for=b")),
    hit(b"one", ("Forwarded", "for=a")), hit(b"two", ("Forwarded", "for=b")))

row(
    "told-option-none",
    "G9",
    fetch(ok("max-age=60"), HTTPS),
    hit(b"one", HTTP),
    hit(),
    forwarding_fields=(),
)
row("told-option-own", "G9", fetch(ok("max-age=60"), ("X-My-Proto", "https")), fetch(TWO, ("X-My-Proto", "http")),
    hit(b"one", ("X-My-Proto", "https"), HTTP), forwarding_fields=["X-My-Proto"])
row("told-cap", "G7", *(fetch(ok("max-age=60", body=b"%d" % n), ("X-Forwarded-Host", f"h{n}")) for n in range(8)),
    hit(b"7", ("X-Forwarded-Host", "h7")), fetch(TWO, ("X-Forwarded-Host", "h0")), max_variants=4)
