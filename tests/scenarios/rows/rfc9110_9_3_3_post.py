"""RFC 9110 section 9.3.3, POST."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    DAY,
    DONE,
    ETAG,
    INM,
    LM,
    RAISES,
    TWO,
    cc,
    fetch,
    grouped,
    hit,
    ok,
    post,
    posted,
    purge,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Reply, Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off


def post_reused(id_: str, rfc: str, reply: Reply, *headers: tuple[str, str], **kw: Any) -> None:
    row(id_, rfc, post(reply, *headers, stored=True), hit(b"posted"), **kw)


def post_not_reused(id_: str, rfc: str, reply: Reply, *headers: tuple[str, str], **kw: Any) -> None:
    row(id_, rfc, post(reply, *headers), fetch(TWO, cs={"fwd": "uri-miss"}), **kw)


for what, reply in (
    ("max-age", posted()), ("s-maxage", posted("s-maxage=60")), ("public", posted("public, max-age=60")),
    ("expires", posted(None, DAY, ("Expires", at(60)))),
    ("cdn", posted("no-store", ("CDN-Cache-Control", "max-age=60"))),
):
    post_reused(f"post-{what}", "RFC 9110 9.3.3", reply)
for where in ("http://example.org/", "HTTP://EXAMPLE.org:80/", "//example.org", "/a/..", "."):
    post_reused(f"post-location-{where}", "RFC 9110 8.7", posted(where=where))
row("post-location-query", "RFC 9110 8.7", post(posted(where="?x=1"), target="/a?x=1", stored=True),
    hit(b"posted", target="/a?x=1"), fetch(TWO, target="/a"))
row("post-location-escaped", "RFC 9110 8.7", post(posted(where="/%7ea%2f"), target="/~a%2F", stored=True),
    hit(b"posted", target="/~a%2F"))
post_not_reused("post-location-none", "RFC 9110 8.7", posted(where=None))
for where in ("", "/other", "/?x", "https://example.org/", "http://example.com/",
              "http://example.org:81/", "/#x", "/, /", "http://[/", "//"):
    post_not_reused(f"post-location-{where}", "RFC 9110 8.7", posted(where=where))
post_not_reused("post-location-twice", "RFC 9110 8.7", posted("max-age=60", ("Content-Location", "/")))
for what, reply in (
    ("silent", posted(None)), ("public-alone", posted("public")), ("no-cache", posted("no-cache, max-age=60", ETAG)),
    ("max-age-0", posted("max-age=0", ETAG)), ("invalid", posted("max-age=x", ETAG)),
    ("old", posted("max-age=60", ("Age", "60"), ETAG)),
    ("no-store", posted("no-store, max-age=60")), ("private", posted("private, max-age=60")),
    ("set-cookie", posted("max-age=60", ("Set-Cookie", "a=b"))), ("vary-star", posted("max-age=60", ("Vary", "*"))),
    ("long-tag", posted("max-age=60", ("Cache-Tag", "a" * 300))),
    ("too-short", posted("max-age=60", ("Content-Length", "x"))),
):
    post_not_reused(f"post-{what}", "RFC 9110 9.3.3", reply)
for status in (201, 203, 204, 206, 301, 303, 400, 404, 500, 503):
    post_not_reused(f"post-status-{status}", "RFC 9110 9.3.3",
        Reply(status=status, lines=(cc("max-age=60"), ("Content-Location", "/")), body=b"" if status == 204 else b"one"))
for method in ("PUT", "PATCH", "DELETE", "post"):
    row(f"post-not-{method}", "RFC 9110 9.3.3", fetch(posted(), method=method, body=b"a=b", cs={"stored": None}), fetch(TWO))
post_not_reused("post-rule", "RFC 9110 9.3.3", posted(None), rules=rule(ttl=60))
post_not_reused("post-rule-override", "RFC 9110 9.3.3", posted(), rules=rule(ttl=60, override=True))
post_not_reused("post-heuristic", "RFC 9110 9.3.3", posted("public", LM, DAY), heuristic=0.1)
row("post-bypass", "RFC 9110 9.3.3", post(posted()), fetch(TWO, cs={"fwd": "bypass"}), rules=rule(bypass=True))
row("post-rule-vary", "RFC 9110 9.3.3", post(posted(), ("X-A", "1"), stored=True), hit(b"posted", ("X-A", "1")),
    fetch(TWO, ("X-A", "2")), rules=rule(vary=["X-A"]))
row("post-rule-tags", "RFC 9110 9.3.3", post(posted(), stored=True), purge(tags="x"), fetch(TWO), rules=rule(tags=["x"]))
post_not_reused("post-authorization", "3.5", posted(), AUTH)
post_reused("post-authorization-public", "3.5", posted("public, max-age=60"), AUTH)
# Who posts with credentials may be told what is his own: it takes what Authorization takes (3.5).
for name in ("Cookie", "X-Api-Key", "X-Forwarded-User"):
    post_not_reused(f"post-{name}", "3.5, G1", posted(), (name, "sid=1"))
    for value in ("public, max-age=60", "s-maxage=60"):
        post_reused(f"post-{name}-{value}", "3.5", posted(value), (name, "sid=1"))
    must_revalidate = posted("must-revalidate, max-age=60")
    if name == "Cookie":
        post_reused(f"post-{name}-must-revalidate", "3.5", must_revalidate, (name, "sid=1"))
    else:  # a known user: stricter than 3.5
        post_not_reused(f"post-{name}-must-revalidate", "G1", must_revalidate, (name, "sid=1"))
row("post-vary-cookie", "4.1, G1", post(posted("max-age=60", ("Vary", "Cookie")), COOKIE, stored=True),
    hit(b"posted", COOKIE), fetch(ok("max-age=60", ("Vary", "Cookie"), body=b"two"), ("Cookie", "sid=2")),
    fetch(ok("max-age=60", ("Vary", "Cookie"), body=b"three")), hit(b"posted", COOKIE), hit(b"two", ("Cookie", "sid=2")))
post_not_reused("post-vary-cookie-of-another-credential", "G1", posted("max-age=60", ("Vary", "Cookie")),
                ("X-Api-Key", "k"))
for name in ("X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override"):
    post_not_reused(f"post-{name}", "RFC 9110 9.3.3", posted("public, max-age=60"), (name, "PUT"))
post_not_reused("post-content-range", "3.3", posted("max-age=60", ("Content-Range", "bytes 0-5/99")), ("Range", "bytes=0-5"))
post_not_reused("post-content-range-unasked", "3.3", posted("max-age=60", ("Content-Range", "bytes 0-5/99")))
post_not_reused("post-request-no-store", "5.2.1.5", posted(), cc("no-store"))
for name, value in (("If-Match", '"x"'), ("If-None-Match", '"abc"'), ("Range", "bytes=0-1"), ("Pragma", "no-cache")):
    post_reused(f"post-{name}", "RFC 9110 9.3.3", posted("max-age=60", ETAG), (name, value))
row("post-upgrade", "RFC 9110 9.3.3", post(posted(), ("Connection", "upgrade"), ("Upgrade", "x")), fetch(TWO))
row("post-replaces", "RFC 9110 9.3.3", fetch(TWO), hit(b"two"), post(posted(), stored=True), hit(b"posted", cs={"ttl": 60}),
    hit(b"", method="HEAD", advance=5, has={"age": "5", "content-length": "6", "content-location": "/"}))
row("post-twice", "RFC 9110 9.3.3", post(posted(), stored=True), post(ok("max-age=60", ("Content-Location", "/"), body=b"again"), stored=True),
    hit(b"again"))
row("post-then-not-storable", "RFC 9110 9.3.3", post(posted(), stored=True), post(posted("no-store")), fetch(TWO))
row("post-then-error", "RFC 9110 9.3.3", post(posted(), stored=True), post(ok(status=500, body=b"no")), hit(b"posted"))
row("post-then-other", "RFC 9110 9.3.3", post(posted(), stored=True), fetch(DONE, method="DELETE"), fetch(TWO))
row("post-not-answered-by-it", "RFC 9110 9.3.3", post(posted(), stored=True), post(posted(), stored=True))
row("post-freshness", "RFC 9110 9.3.3", post(posted(takes=10), stored=True), hit(b"posted", advance=49), fetch(TWO, advance=1))
row("post-validated", "RFC 9110 9.3.3", post(posted("max-age=10", ETAG), stored=True),
    validated(unchanged("max-age=60"), b"posted", advance=10, saw={"if-none-match": '"abc"'}), hit(b"posted"))
row("post-conditional", "RFC 9110 9.3.3", post(posted("max-age=60", ETAG), stored=True), hit(b"", INM, status=304))
row("post-swr", "RFC 9110 9.3.3", post(posted("max-age=10, stale-while-revalidate=30"), stored=True), stale(b"posted", TWO, advance=20),
    hit(b"two"))
row("post-vary", "RFC 9110 9.3.3", post(posted("max-age=60", ("Vary", "Accept")), ("Accept", "a/b"), stored=True),
    hit(b"posted", ("Accept", "a/b")), fetch(TWO, ("Accept", "c/d")))
row("post-vary-content-type", "RFC 9110 9.3.3",  # of the POST's content, which no GET has
    post(posted("max-age=60", ("Vary", "Content-Type")), ("Content-Type", "text/plain"), stored=True), fetch(TWO))
row("post-tags", "RFC 9110 9.3.3", post(posted("max-age=60", ("Cache-Tag", "a")), stored=True, has={"cache-tag": None}), hit(b"posted"),
    purge(tags="a"), fetch(TWO))
row("post-own-group", "RFC 9110 9.3.3",  # it invalidates a group of its own, and is newer than that
    fetch(grouped('"a"'), target="/b"),
    post(posted("max-age=60", ("Cache-Groups", '"a"'), ("Cache-Group-Invalidation", '"a"')), stored=True),
    hit(b"posted"), fetch(TWO, target="/b"))
row("post-purged", "RFC 9110 9.3.3", post(posted(), stored=True), purge(), fetch(TWO))
row("post-marker", "RFC 9110 9.3.3", fetch(ok()), post(posted(), stored=True), hit(b"posted"))
row("post-exception", "RFC 9110 9.3.3", Step(method="POST", origin=(RAISES,), status=None), fetch(TWO))
row("post-chunks", "RFC 9110 9.3.3", post(posted(chunks=3)), hit(b"posted"))
row("post-too-large", "RFC 9110 9.3.3", post(posted()), fetch(TWO), max_body=5)
row("post-too-large-announced", "RFC 9110 9.3.3", post(posted("max-age=60", ("Content-Length", "6"))), fetch(TWO), max_body=5)
row("post-length-mismatch", "3.3", post(posted("max-age=60", ("Content-Length", "7")), stored=True), fetch(TWO))
row("post-own-stamp", "G3", post(posted(), stored=True), fetch(DONE, target="/else", method="POST"), hit(b"posted"))
