"""The scenarios: one row per behaviour, each with the section it is from.

Data, for every adapter's runner (`test_asgi`). Sections without a name are of RFC 9111; G1 to G10
are guarantees of our own, where we refuse what the RFC would allow.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.scenarios.model import TOKEN, Lines, Reply, Scenario, Step, at

SCENARIOS: list[Scenario] = []


def ok(cc: str | None = None, *lines: tuple[str, str], **kw: Any) -> Reply:
    """A reply, with this Cache-Control."""
    return Reply(lines=(*(() if cc is None else (("Cache-Control", cc),)), *lines), **kw)


def unchanged(cc: str | None = None, *lines: tuple[str, str], **kw: Any) -> Reply:
    """A 304."""
    return ok(cc, *lines, status=304, body=b"", **kw)


def fetch(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin is called once, and the client gets what it says."""
    kw.setdefault("content", b"" if kw.get("method") == "HEAD" else reply.body)
    kw.setdefault("status", None if reply.raises or reply.lost else reply.status)
    kw["cs"] = {"hit": None, **(kw.get("cs") or {})}
    return Step(headers=headers, origin=(reply,), **kw)


def hit(content: bytes | None = b"one", *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin is not called."""
    kw["cs"] = {"hit": True, "fwd": None, **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, **kw)


def validated(reply: Reply, content: bytes = b"one", *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin says 304, and the client gets what is stored."""
    kw["cs"] = {"hit": None, "fwd-status": 304, **(kw.get("cs") or {})}
    return Step(headers=headers, origin=(reply,), content=content, **kw)


def stale(content: bytes, refresh: Reply | None, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale, while ``refresh`` comes in the background."""
    detail = "stale-while-revalidate"
    kw["cs"] = {"hit": True, "fwd": None, "detail": detail, **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, refresh=refresh, **kw)


def instead(content: bytes, failure: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale in place of the origin's ``failure``. RFC 9211 2.1: a hit "was not forwarded"."""
    kw["cs"] = {"hit": None, "fwd": "stale", "detail": "stale-if-error", **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, origin=(failure,), **kw)


def unreachable(content: bytes, failure: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale, since the origin cannot be reached."""
    kw["cs"] = {"detail": "stale-if-unreachable", **(kw.get("cs") or {})}
    return instead(content, failure, *headers, **kw)


def row(id_: str, rfc: str, *steps: Step, rules: tuple = (), **options: Any) -> None:
    SCENARIOS.append(Scenario(id_, rfc, steps, rules, options))


def reused(id_: str, rfc: str, reply: Reply, *, after: float = 1, **options: Any) -> None:
    """Stored, and used ``after`` so many seconds."""
    row(id_, rfc, fetch(reply), hit(reply.body, advance=after, status=reply.status), **options)


def not_reused(
    id_: str, rfc: str, reply: Reply, *, after: float = 1, detail: str | None = None, **options: Any
) -> None:
    """Not used without asking the origin."""
    cs = {} if detail is None else {"detail": detail, "stored": None}
    row(
        id_, rfc, fetch(reply, cs=cs), fetch(ok("max-age=9", body=b"two"), advance=after), **options
    )


def cc(value: str) -> tuple[str, str]:
    return ("Cache-Control", value)


TWO = ok("max-age=60", body=b"two")
ETAG = ("ETag", '"abc"')
LM = ("Last-Modified", at(-1000))
INM = ("If-None-Match", '"abc"')
AUTH = ("Authorization", "Basic eDp5")
COOKIE = ("Cookie", "sid=1")
FAIL = ok("no-store", status=503, body=b"down")
RAISES = Reply(raises=True)
LOST = Reply(lost=True)
OLD = ok("max-age=10", ETAG)
DAY = ("Date", at(0))


def rule(path: str = "*", **kw: Any) -> tuple[dict[str, Any], ...]:
    return ({"path": path, **kw},)


def purge(*, tags: str = "", **kw: Any) -> Step:
    """The PURGE method, on tags or on the target."""
    headers = [("Authorization", f"Bearer {TOKEN}")]
    if tags:
        headers.append(("Surrogate-Key", tags))
    return Step(method="PURGE", headers=tuple(headers), members=0, **kw)


def purge_all(**what: list[str] | bool) -> Step:
    """The endpoint, by what it names."""
    headers = (("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/json"))
    body = json.dumps(what).encode()
    return Step("POST", "/_layergate/purge", headers, body, members=0)


# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- 4.2.1: freshness lifetime ---------------------------------------------------------------------

F = "4.2.1"
reused("fresh-max-age", F, ok("max-age=60"), after=59.5)
not_reused("fresh-max-age-over", F, ok("max-age=60"), after=60)  # lifetime > current_age
not_reused("fresh-max-age-0", F, ok("max-age=0"))
not_reused("fresh-none", F, ok(), detail="no-freshness")
not_reused("fresh-none-lm", "4.2.2", ok(None, LM, DAY), detail="no-freshness")
reused("fresh-s-maxage", "5.2.2.10", ok("s-maxage=60"), after=59)
reused("fresh-s-maxage-longer", "5.2.2.10", ok("max-age=1, s-maxage=60"), after=59)
not_reused("fresh-s-maxage-shorter", "5.2.2.10", ok("max-age=60, s-maxage=1"), after=2)
not_reused("fresh-s-maxage-0", "5.2.2.10", ok("max-age=60, s-maxage=0"))
reused("fresh-s-maxage-expires", "5.2.2.10", ok("s-maxage=60", ("Expires", at(-60)), DAY))
reused("fresh-expires", "5.3", ok(None, ("Expires", at(60)), DAY), after=59)
not_reused("fresh-expires-over", "5.3", ok(None, ("Expires", at(60)), DAY), after=60)
not_reused("fresh-expires-past", "5.3", ok(None, ("Expires", at(-60)), DAY))
not_reused("fresh-expires-equal", "5.3", ok(None, ("Expires", at(0)), DAY))
not_reused("fresh-expires-0", "5.3", ok(None, ("Expires", "0"), DAY))
reused("fresh-expires-no-date", F, ok(None, ("Expires", at(60))), after=59)
# "max-age ... overrides Expires"
reused("fresh-max-age-expires-past", "5.3", ok("max-age=60", ("Expires", at(-9)), DAY), after=59)
not_reused("fresh-max-age-0-expires", "5.3", ok("max-age=0", ("Expires", at(99)), DAY))
# Expires minus Date is a lifetime: what the origin's clock says does not matter,
reused("fresh-expires-slow-clock", F, ok(None, ("Expires", at(9060)), ("Date", at(9000))), after=59)
not_reused("fresh-expires-slow-clock-over", F,
           ok(None, ("Expires", at(9060)), ("Date", at(9000))), after=60)
# but apparent_age does.
not_reused("fresh-expires-fast-clock", "4.2.3",
           ok(None, ("Expires", at(-8940)), ("Date", at(-9000))))
not_reused("fresh-old-date", "4.2.3", ok("max-age=60", ("Date", at(-61))))
reused("fresh-older-date", "4.2.3", ok("max-age=60", ("Date", at(-50))), after=9)
for name, value in (
    ("rfc850", "Tuesday, 14-Nov-23 22:14:20 GMT"),
    ("asctime", "Tue Nov 14 22:14:20 2023"),
    ("lower-case", "tue, 14 nov 2023 22:14:20 gmt"),
):
    reused(f"expires-{name}", "RFC 9110 5.6.7", ok(None, ("Expires", value), DAY), after=59)
for name, value in (
    ("text", "soon"), ("empty", ""), ("number", "60"), ("no-time", "Tue, 14 Nov 2023"),
    ("bad-month", "Tue, 14 Nob 2033 22:14:20 GMT"), ("utc-offset", "Tue, 14 Nov 2033 22:14:20 +0"),
):
    not_reused(f"expires-invalid-{name}", "5.3", ok(None, ("Expires", value), DAY))
not_reused("expires-two-different", F, ok(None, ("Expires", at(60)), ("Expires", at(-9)), DAY))
reused("expires-two-equal", F, ok(None, ("Expires", at(60)), ("Expires", at(60)), DAY))

# Overflow: 1.2.2, "the cache MUST consider the value to be 2147483648" or the largest it can do.
for name, value in (
    ("max", "2147483647"), ("max-1", "2147483648"), ("more", "99999999999"),
    ("huge", "9" * 400), ("zeros", "0" * 30 + "60"),
):
    reused(f"max-age-{name}", "1.2.2", ok(f"max-age={value}"), after=59)
    reused(f"s-maxage-{name}", "1.2.2", ok(f"s-maxage={value}"), after=59)
# "Caches are encouraged to consider responses that have invalid freshness information to be stale"
for name, value in (
    ("negative", "max-age=-60"), ("float", "max-age=60.0"), ("text", "max-age=a60"),
    ("trailing", "max-age=60a"), ("empty", "max-age="), ("bare", "max-age"),
    ("space-before", "max-age =60"), ("space-after", "max-age= 60"), ("single", "max-age='60'"),
    ("hex", "max-age=0x60"), ("plus", "max-age=+60"), ("s-maxage", "max-age=60, s-maxage=x"),
):
    not_reused(f"cc-invalid-{name}", F, ok(value, ETAG))
for name, value in (
    ("quoted", 'max-age="60"'), ("case", "MaX-aGe=60"), ("list", "a, b=c,,max-age=60, d"),
    ("quoted-comma", 'x="a,b", max-age=60'), ("before-unknown", "max-age=60, x=\"no-store\""),
    ("first-wins", "max-age=60, max-age=1"), ("tabs", "max-age=60\t,\tpublic"),
    ("unknown", "max-age=60, immutable, foo=bar, ext"), ("semicolon-other", "max-age=60, a;b"),
    ("no-transform", "no-transform, max-age=60"),
):
    reused(f"cc-{name}", "5.2", ok(value), after=59)
not_reused("cc-first-wins-low", F, ok("max-age=1, max-age=60"), after=2)
not_reused("cc-other-name", "5.2", ok("x-max-age=60"))
not_reused("cc-inside-quotes", "5.2", ok('x="max-age=60"'))
reused("cc-two-lines", "RFC 9110 5.3", ok("public", ("Cache-Control", "max-age=60")), after=59)
not_reused("cc-two-lines-no-store", "RFC 9110 5.3", ok("max-age=60", ("Cache-Control", "no-store")),
           detail="no-store")
not_reused("cdn-pragma-response", "5.4", ok(None, ("Pragma", "max-age=60")))
reused("pragma-in-response-ignored", "5.4", ok("max-age=60", ("Pragma", "no-cache")))

# -- 4.2.2: heuristic freshness, behind an option --------------------------------------------------

H = "4.2.2"
WEEK = ("Last-Modified", at(-1000))
for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501):
    body = b"" if status == 204 else b"one"
    reused(f"heuristic-{status}", H, ok(None, WEEK, DAY, status=status, body=body), after=99,
           heuristic=0.1)
for status in (201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599):
    not_reused(f"heuristic-not-{status}", H, ok(None, WEEK, DAY, status=status), heuristic=0.1)
for status in (201, 302, 403, 502, 599):
    reused(f"heuristic-public-{status}", H, ok("public", WEEK, DAY, status=status), after=99,
           heuristic=0.1)
not_reused("heuristic-over", H, ok(None, WEEK, DAY), after=100, heuristic=0.1)
not_reused("heuristic-off", H, ok("public", WEEK, DAY), after=1)
not_reused("heuristic-future", H, ok(None, ("Last-Modified", at(99)), DAY), heuristic=0.1)
not_reused("heuristic-explicit-first", H, ok("max-age=1", WEEK, DAY), after=2, heuristic=0.1)
not_reused("heuristic-expires-first", H, ok(None, WEEK, DAY, ("Expires", "0")), heuristic=0.1)
row("heuristic-cookie", "G1", fetch(ok(None, WEEK, DAY), ("Cookie", "a=b")),
    fetch(ok(None, WEEK, DAY, body=b"two")), hit(b"two"), heuristic=0.1)
row("heuristic-authorization", "3.5", fetch(ok(None, WEEK, DAY), ("Authorization", "x")),
    fetch(ok(None, WEEK, DAY, body=b"two")), hit(b"two"), heuristic=0.1)
reused("heuristic-query", H, ok(None, WEEK, DAY), heuristic=0.1)

# -- 4.2.3, 5.1: Age -------------------------------------------------------------------------------

A = "4.2.3"
row("age-grows", "5.1", fetch(ok("max-age=60"), has={"age": None}),
    hit(advance=0.5, has={"age": "0"}), hit(advance=1, has={"age": "1"}),
    hit(advance=40, has={"age": "41"}))
row("age-upstream", A, fetch(ok("max-age=600", ("Age", "30")), has={"age": "30"}),
    hit(advance=5, has={"age": "35"}, cs={"ttl": 565}))
row("age-upstream-expires", A, fetch(ok(None, ("Expires", at(600)), DAY, ("Age", "30"))),
    hit(advance=5, has={"age": "35"}, cs={"ttl": 565}))
not_reused("age-uses-up-lifetime", A, ok("max-age=60", ("Age", "60")))
not_reused("age-over-lifetime", A, ok("max-age=60", ("Age", "7200")))
not_reused("age-over-expires", A, ok(None, ("Expires", at(60)), DAY, ("Age", "60")))
row("age-apparent", A, fetch(ok("max-age=600", ("Date", at(-40)))), hit(has={"age": "40"}))
row("age-greater-of-two", A, fetch(ok("max-age=600", ("Date", at(-40)), ("Age", "70"))),
    hit(has={"age": "70"}))
row("age-clock-ahead", A, fetch(ok("max-age=600", ("Date", at(400)))), hit(has={"age": "0"}))
row("age-response-delay", A, fetch(ok("max-age=600", ("Age", "5"), takes=10)),
    hit(has={"age": "15"}, cs={"ttl": 585}))
row("age-list", "5.1", fetch(ok("max-age=60", ("Age", "30, 9999"))), hit(has={"age": "30"}))
row("age-two-lines", "5.1", fetch(ok("max-age=60", ("Age", "30"), ("Age", "9999"))),
    hit(has={"age": "30"}))
for name, value in (
    ("float", "30.5"), ("negative", "-7200"), ("text", "abc"), ("empty", ""), ("quoted", '"99"'),
    ("parameter", "7200;a=b"),
):
    row(f"age-invalid-{name}", "5.1", fetch(ok("max-age=60", ("Age", value))), hit(has={"age": "0"}))
not_reused("age-huge", "1.2.2", ok("max-age=60", ("Age", "9" * 60)))
row("age-one-line", "4", fetch(ok("max-age=600", ("Age", "3"), ("age", "4"))), hit(has={"age": "3"}))
row("date-unchanged", "RFC 9110 6.6.1", fetch(ok("max-age=60", DAY)),
    hit(advance=20, has={"date": at(0)}))

# -- 3: storing ------------------------------------------------------------------------------------

for status in (200, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 409, 410,
               414, 418, 451, 499, 500, 501, 502, 503, 504, 599):
    body = b"" if status == 204 else b"one"
    reused(f"status-{status}", "3", ok("max-age=60", status=status, body=body))
for status in (201, 202, 302, 303, 307, 403, 500, 503, 599):
    not_reused(f"status-{status}-none", "3", ok(status=status))
for status in (408, 412, 416, 417, 425, 426, 428, 429, 431, 511):
    not_reused(f"status-{status}-one-request", "RFC 6585, 9110", ok("max-age=60", status=status),
               detail="status")
not_reused("status-206", "3.3", ok("max-age=60", ("Content-Range", "bytes 0-2/9"), status=206),
           detail="partial")
not_reused("status-304-unasked", "3", unchanged("max-age=60"), detail="not-modified")

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
row("immutable-stale", "RFC 8246 2", fetch(ok("max-age=60, immutable", ETAG)),
    hit(advance=59), validated(unchanged(), advance=1))

M = "5.2.2.3"
not_reused("must-understand-private", M, ok("must-understand, private, max-age=60"), detail="private")
row("public-validates", "3, 4.3", fetch(ok("public", ETAG)), validated(unchanged(), advance=1))
reused("content-range-200", "RFC 9110 14.4", ok("max-age=60", ("Content-Range", "bytes 0-1/9")))  # has no meaning there
not_reused("content-range-206", "3.3", ok("max-age=60", ("Content-Range", "bytes 0-1/9"), status=206), detail="partial")
row("age-passes", "5.1", fetch(ok("no-store", ("Age", "7")), has={"age": "7"}))
row("event-stream", "G8", fetch(ok(None, ("Content-Type", "text/event-stream"))),
    fetch(ok(None, ("Content-Type", "text/event-stream"))), rules=rule(ttl=60))
reused("must-understand", M, ok("must-understand, no-store, max-age=60"))
not_reused("must-understand-unknown-status", M,
           ok("must-understand, max-age=60", status=599), detail="must-understand")
not_reused("must-understand-no-store-unknown", M,
           ok("must-understand, no-store, max-age=60", status=299), detail="must-understand")

# 3.5 and G1
for name, value in (("public", "public, max-age=60"), ("s-maxage", "s-maxage=60"),
                 ("must-revalidate", "must-revalidate, max-age=60")):
    row(f"authorization-{name}", "3.5", fetch(ok(value), AUTH), hit(), hit(b"one", AUTH))
for name, value in (("max-age", "max-age=60"), ("proxy-revalidate", "proxy-revalidate, max-age=60"),
                 ("private", "private, max-age=60")):
    row(f"authorization-{name}", "3.5", fetch(ok(value), AUTH, cs={"stored": None}), fetch(TWO))
row("authorization-not-from-anonymous", "3.5, G1", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"mine"), AUTH, cs={"fwd": "request"}), hit())
row("authorization-expires", "3.5", fetch(ok(None, ("Expires", at(60)), DAY), AUTH), fetch(TWO))
row("cookie-request", "RFC 6265", fetch(ok("max-age=60")), hit(b"one", ("Cookie", "a=b")))
row("cookie-request-stores", "RFC 6265", fetch(ok("max-age=60"), ("Cookie", "a=b")), hit())
row("set-cookie", "7.3, G1",
    fetch(ok("max-age=60", ("Set-Cookie", "a=b")), cs={"detail": "set-cookie"},
          has={"set-cookie": "a=b"}),
    fetch(TWO, has={"set-cookie": None}))
row("set-cookie2", "3.1",  # obsolete: no client acts on it, so it is a field like any other,
    fetch(ok("max-age=60", ("Set-Cookie2", "a=b"))), hit(has={"set-cookie2": "a=b"}))
row("set-cookie2-beside", "7.3, G1",  # but for one that goes with a cookie
    fetch(ok('max-age=60, private="set-cookie"', ("Set-Cookie", "a=b"), ("Set-Cookie2", "a=b"))),
    hit(has={"set-cookie2": None, "set-cookie": None}))
row("set-cookie2-304", "G1", fetch(ok("max-age=10", ETAG, ("Set-Cookie2", "a=b"))),
    validated(unchanged("max-age=60", ("Set-Cookie2", "c=d")), advance=10), hit(has={"set-cookie2": "a=b"}))
row("set-cookie-public", "7.3, G1", fetch(ok("public, max-age=60", ("Set-Cookie", "a=b"))), fetch(TWO))
for value in ('no-cache="set-cookie"', 'private="Set-Cookie"'):
    row(f"set-cookie-{value[:8].rstrip('=')}", "7.3",
        fetch(ok(f"max-age=60, {value}", ("Set-Cookie", "a=b")), has={"set-cookie": "a=b"}),
        hit(has={"set-cookie": None}))

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
row("body-empty", "3", fetch(ok("max-age=60", body=b"")), hit(b""))
row("body-chunks", "3", fetch(ok("max-age=60", body=b"0123456789", chunks=4)), hit(b"0123456789"))
row("body-short", "3.3, G6", fetch(ok("max-age=60", ("Content-Length", "9"))), fetch(TWO))
row("body-long", "3.3, G6", fetch(ok("max-age=60", ("Content-Length", "1"))), fetch(TWO))
row("body-lengths-differ", "3.3, G6",
    fetch(ok("max-age=60", ("Content-Length", "3"), ("Content-Length", "4"))), fetch(TWO))
row("body-over-cap", "G7", fetch(ok("max-age=60", body=b"x" * 2000)),
    fetch(ok("max-age=60", body=b"y" * 2000)), max_body=1000)

# 2: keys
row("key-query", "2", fetch(ok("max-age=60"), target="/a?x=1"), hit(target="/a?x=1"),
    fetch(TWO, target="/a?x=2"), fetch(TWO, target="/a"), hit(target="/a?x=1"))
row("key-query-order", "2", fetch(ok("max-age=60"), target="/a?x=1&y=2"),
    fetch(TWO, target="/a?y=2&x=1"))
row("key-path-case", "2", fetch(ok("max-age=60"), target="/a"), fetch(TWO, target="/A"))
row("key-path-escape", "G9", fetch(ok("max-age=60"), target="/a%2Fb"), fetch(TWO, target="/a/b"))
row("key-host", "G9", fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(TWO, ("Host", "b.example")), hit(b"one", ("Host", "a.example")))
row("key-port", "G9", fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(TWO, ("Host", "a.example:8080")))
row("key-scheme", "G9", fetch(ok("max-age=60")), fetch(TWO, scheme="https"))
row("key-slashes", "G9", fetch(ok("max-age=60"), target="/a"), fetch(TWO, target="/a/"),
    fetch(ok("max-age=9", body=b"three"), target="//a"))

# -- RFC 9213: targeted fields ---------------------------------------------------------------------


def cdn(value: str) -> tuple[str, str]:
    return ("CDN-Cache-Control", value)


def ours(value: str) -> tuple[str, str]:
    return ("LayerGate-Cache-Control", value)


T = "RFC 9213 2.2"
LATE = ("Expires", at(10000))
PAST = ("Expires", at(-10000))
reused("cdn-max-age", T, ok(None, cdn("max-age=3600")), after=3599)
not_reused("cdn-max-age-over", T, ok(None, cdn("max-age=3600")), after=3600)
reused("cdn-max-age-2^31", "1.2.2", ok(None, cdn("max-age=2147483648")), after=3)
reused("cdn-max-age-huge", "1.2.2", ok(None, cdn("max-age=99999999999")), after=3)
not_reused("cdn-age-counts", T, ok(None, DAY, cdn("max-age=3600"), ("Age", "7200")), after=3)
not_reused("cdn-date-counts", T, ok(None, ("Date", at(-7200)), cdn("max-age=3600")), after=3)
not_reused("cdn-space-before", "RFC 9213 2.1", ok("max-age=1", cdn("max-age =100")), after=3)
not_reused("cdn-space-after", "RFC 9213 2.1", ok("max-age=1", cdn("max-age= 100")), after=3)
not_reused("cdn-upper-case", "RFC 9213 2.1", ok("max-age=1", cdn("MaX-aGe=3600")), after=3)
not_reused("cdn-max-age-0", T, ok(None, cdn("max-age=0")), after=3)
reused("cdn-extension", T, ok(None, cdn("foobar, max-age=3600")), after=3)
reused("cdn-expires-past", T, ok(None, cdn("max-age=3600"), PAST, DAY), after=3)
reused("cdn-expires-invalid", T, ok(None, cdn("max-age=3600"), ("Expires", "0"), DAY), after=3)
not_reused("cdn-max-age-0-expires", T, ok(None, cdn("max-age=0"), LATE, DAY), after=3)
not_reused("cdn-nothing-said-expires", T, ok(None, cdn("none"), LATE, DAY), detail="no-freshness")
reused("cdn-longer", T, ok("max-age=1", cdn("max-age=3600")), after=3)
not_reused("cdn-shorter", T, ok("max-age=3600", cdn("max-age=1")), after=3)
reused("cdn-over-s-maxage", T, ok("s-maxage=1", cdn("max-age=3600")), after=3)
not_reused("cdn-private", T, ok("max-age=10000", cdn("private"), LATE, DAY), detail="private")
not_reused("cdn-no-cache", T, ok("max-age=10000", cdn("no-cache"), LATE, DAY))
row("cdn-no-cache-validates", T, fetch(ok("max-age=10000", cdn("no-cache"), ETAG)),
    validated(unchanged(), saw={"if-none-match": '"abc"'}), validated(unchanged()))
not_reused("cdn-no-cache-max-age", T, ok(None, cdn("no-cache, max-age=60")))
not_reused("cdn-no-store", T, ok("max-age=10000", cdn("no-store"), LATE, DAY), detail="no-store")
not_reused("cdn-no-store-max-age", T, ok(None, cdn("no-store, max-age=60")), detail="no-store")
reused("cdn-over-no-store", "RFC 9213 3.1", ok("no-store", cdn("max-age=10000")), after=3)
reused("cdn-over-private", "RFC 9213 2.2", ok("private", cdn("max-age=10000")), after=3)
not_reused("cdn-no-dictionary", "RFC 9213 2.1", ok("no-store", cdn("max-age=10000, &&&&&")),
           detail="no-store")
not_reused("cdn-wrong-type", "RFC 9213 2.1", ok("no-store", cdn('max-age="10000"')))
not_reused("cdn-decimal", "RFC 9213 2.1", ok("max-age=60", cdn("max-age=60.0")))
not_reused("cdn-negative", "RFC 9213 2.1", ok("max-age=60", cdn("max-age=-60")))
reused("cdn-empty", "RFC 9213 2.1", ok("max-age=60", cdn("")), after=3)
reused("cdn-parameters", "RFC 9213 2.1", ok(None, cdn("max-age=3600;a=1;b")), after=3)
reused("cdn-two-lines", "RFC 9651 4.2", ok(None, cdn("max-age=3600"), cdn("public")), after=3)
not_reused("cdn-two-lines-last", "RFC 9651 4.2.2", ok(None, cdn("max-age=60"), cdn("max-age=1")),
           after=3)
not_reused("cdn-two-lines-bad", "RFC 9651 4.2", ok(None, cdn("max-age=3600"), cdn("A")), after=3)
reused("cdn-s-maxage", T, ok("no-store", cdn("s-maxage=60")), after=59)
row("cdn-stale-while-revalidate", T,
    fetch(ok("max-age=60", cdn("max-age=10, stale-while-revalidate=10"))),
    stale(b"one", TWO, advance=15), hit(b"two"))
row("cdn-stale-if-error", T, fetch(ok("max-age=60", cdn("max-age=10, stale-if-error=100"))),
    instead(b"one", FAIL, advance=15))
row("cdn-must-revalidate", T, fetch(ok(None, cdn("max-age=10, must-revalidate"), ETAG)),
    hit(advance=9), validated(unchanged(), advance=1))
reused("cdn-must-understand", "5.2.2.3", ok(None, cdn("must-understand, no-store, max-age=60")))
not_reused("cdn-must-understand-299", "5.2.2.3",
           ok(None, cdn("must-understand, max-age=60"), status=299), detail="must-understand")
reused("cdn-status-599", T, ok(None, cdn("max-age=60"), status=599))
row("cdn-private-field", T,
    fetch(ok(None, cdn('private="x-user", max-age=60'), ("X-User", "7"), ("X-All", "8"))),
    hit(has={"x-user": None, "x-all": "8"}))
# Cache-Control's lists are ignored with the rest of it.
row("cdn-private-field-ignored", T,
    fetch(ok('private="x-all"', cdn("max-age=60"), ("X-All", "8"))), hit(has={"x-all": "8"}))
# What the client hears is what the origin says to it, and the true age with it.
row("cdn-sent-on", "RFC 9213 3",
    fetch(ok("max-age=1", ("Expires", at(1)), cdn("max-age=10000"), DAY),
          has={"cdn-cache-control": "max-age=10000", "cache-control": "max-age=1"}),
    hit(advance=3, has={"cdn-cache-control": "max-age=10000", "cache-control": "max-age=1",
                        "age": "3", "date": at(0), "expires": at(1)}))
row("cdn-not-ours-sent-on", "RFC 9213 2.2",
    fetch(ok("max-age=60", ("ExampleCDN-Cache-Control", "no-store"), ("Surrogate-Control", "no-store"))),
    hit(has={"examplecdn-cache-control": "no-store", "surrogate-control": "no-store"}))
reused("layergate-first", T, ok("no-store", cdn("no-store"), ours("max-age=60")), after=59)
not_reused("layergate-no-store", T, ok("max-age=60", cdn("max-age=60"), ours("no-store")),
           detail="no-store")
reused("layergate-invalid-cdn", T, ok("no-store", cdn("max-age=60"), ours("&")), after=59)
reused("layergate-invalid-both", T, ok("max-age=60", cdn("&"), ours("")), after=59)
row("layergate-not-sent-on", T,
    fetch(ok("no-store", ours("max-age=60"), cdn("max-age=9")),
          has={"layergate-cache-control": None, "cdn-cache-control": "max-age=9"}),
    hit(has={"layergate-cache-control": None, "cdn-cache-control": "max-age=9"}),
    hit(b"", method="HEAD", has={"layergate-cache-control": None}))
row("layergate-not-sent-on-refused", T,
    fetch(ok(None, ours("no-store")), has={"layergate-cache-control": None}),
    fetch(ok(None, ours("no-store")), has={"layergate-cache-control": None}),
    fetch(ok("no-store", ours("x")), has={"layergate-cache-control": None}))
row("layergate-not-sent-on-passed", T,
    fetch(ok(None, ours("max-age=9"), status=204, body=b""), method="POST",
          has={"layergate-cache-control": None}),
    fetch(ok(None, ours("max-age=9")), method="OPTIONS", has={"layergate-cache-control": None}),
    fetch(ok(None, ours("max-age=9")), method="HEAD", has={"layergate-cache-control": None}))
row("targets-option", T, fetch(ok("no-store", ("Example-Cache-Control", "max-age=60")),
                               has={"example-cache-control": "max-age=60"}),
    hit(has={"example-cache-control": "max-age=60"}), targets=("Example-Cache-Control",))
row("targets-none", T,
    fetch(ok("max-age=60", ours("no-store"), cdn("no-store")),
          has={"layergate-cache-control": "no-store"}),
    hit(has={"layergate-cache-control": "no-store"}), targets=())
# G1: what does not depend on Cache-Control protects a response as before,
row("cdn-set-cookie", "7.3, G1", fetch(ok(None, cdn("max-age=60"), ("Set-Cookie", "a=b"))), fetch(TWO))
row("cdn-set-cookie-listed", "7.3",
    fetch(ok(None, cdn('max-age=60, private="set-cookie"'), ("Set-Cookie", "a=b"))),
    hit(has={"set-cookie": None}))
for name, value in (("public", "public, max-age=60"), ("s-maxage", "s-maxage=60"),
                    ("must-revalidate", "must-revalidate, max-age=60")):
    row(f"cdn-authorization-{name}", "3.5", fetch(ok("max-age=60", cdn(value)), AUTH), hit(),
        hit(b"one", AUTH))
row("cdn-authorization-max-age", "3.5",
    fetch(ok("public, s-maxage=60", cdn("max-age=60")), AUTH, cs={"stored": None}), fetch(TWO))
# and no lifetime of ours takes the place of what the origin withholds.
for name, value in (("private", "private"), ("no-store", "no-store, max-age=0")):
    row(f"cdn-none-rule-{name}", "G1", fetch(ok(value, cdn("none"))), fetch(TWO), rules=rule(ttl=60))
    row(f"cdn-none-override-{name}", "G1", fetch(ok(value, cdn("none"))), fetch(ok("no-store", body=b"two")),
        rules=rule(ttl=60, override=True))
    not_reused(f"cdn-none-heuristic-{name}", "G1", ok(value, cdn("none"), LM, DAY), heuristic=0.1)
row("cdn-override-private", "G1", fetch(ok("private", cdn("max-age=10"))), hit(advance=9),
    fetch(TWO, advance=1), rules=rule(ttl=60, override=True))
reused("cdn-none-rule", "RFC 9213 3.1", ok("max-age=1", cdn("none")), after=59, rules=rule(ttl=60))
reused("cdn-none-heuristic", "4.2.2", ok("max-age=1", cdn("none"), LM, DAY), after=59, heuristic=0.1)
# 3.2, 4.3.4: an update is of all fields, those that are not sent among them.
row("cdn-after-a-marker", "G4", fetch(ok("no-store")), fetch(ok("no-store")),
    fetch(ok("no-store", cdn("max-age=60"))), hit(advance=59))
row("cdn-private-after-a-marker", "G4", fetch(ok("no-store")), fetch(ok("max-age=9", cdn("private"))),
    fetch(ok("max-age=9", cdn("private"))))
row("cdn-304-keeps", "3.2", fetch(ok("no-store", cdn("max-age=10"), ETAG)),
    validated(unchanged(), advance=10), hit(advance=9), validated(unchanged(), advance=1))
row("cdn-304-keeps-over-cc", "3.2", fetch(ok("max-age=1", cdn("max-age=10"), ETAG)),
    validated(unchanged("max-age=99"), advance=10), hit(advance=9), validated(unchanged(), advance=1))
row("cdn-304-updates", "3.2", fetch(ok("max-age=99", cdn("max-age=10"), ETAG)),
    validated(unchanged(None, cdn("max-age=20")), advance=10), hit(advance=19),
    validated(unchanged(), advance=1))
row("cdn-304-takes-over", "3.2", fetch(ok("max-age=10", ETAG)),
    validated(unchanged(None, cdn("max-age=20")), advance=10), hit(advance=19))
row("layergate-304-keeps", "3.2", fetch(ok("max-age=99", ours("max-age=10"), ETAG)),
    validated(unchanged(), advance=10, has={"layergate-cache-control": None}), hit(advance=9),
    validated(unchanged("max-age=99"), advance=1), hit(advance=9), validated(unchanged(), advance=1))
row("layergate-304-updates", "3.2", fetch(ok(None, ours("max-age=10"), ETAG)),
    validated(unchanged(None, ours("max-age=20")), advance=10, has={"layergate-cache-control": None}),
    hit(advance=19), validated(unchanged(None, ours("no-store")), advance=1),
    fetch(ok(None, ours("no-store"), body=b"two")))
row("cdn-304-no-store", "3.2", fetch(ok(None, cdn("max-age=10"), ETAG)),
    validated(unchanged(None, cdn("no-store")), advance=10), fetch(TWO))
row("layergate-head-updates", "4.3.5", fetch(ok(None, ours("max-age=10"), ETAG)),
    fetch(ok(None, ours("max-age=30"), ETAG, body=b""), method="HEAD", advance=11,
          has={"layergate-cache-control": None}),
    hit(advance=25))

# -- RFC 9875: cache groups ------------------------------------------------------------------------

GR = "RFC 9875"


def grouped(value: str, body: bytes = b"one") -> Reply:
    return ok("max-age=60", ("Cache-Groups", value), body=body)


def invalidating(value: str, **kw: Any) -> Reply:
    return ok(None, ("Cache-Group-Invalidation", value), **{"status": 204, "body": b"", **kw})


def group_row(id_: str, groups: str, invalidated: str, *, gone: bool, **kw: Any) -> None:
    """What is in these groups is gone, or not, after a POST to somewhere else."""
    post = {"target": "/else", "method": "POST", **kw}
    reply = invalidating(invalidated, **post.pop("reply", {}))
    other = fetch(reply, *post.pop("headers", ()), **post)
    then = fetch(TWO, target="/a") if gone else hit(target="/a")
    row(f"group-{id_}", GR, fetch(grouped(groups), target="/a"), other, then)


group_row("one", '"scripts"', '"scripts"', gone=True)
group_row("other", '"scripts"', '"styles"', gone=False)
group_row("one-of-many", '"a", "b", "c"', '"x", "c"', gone=True)
group_row("case", '"scripts"', '"Scripts"', gone=False)
group_row("parameters", '"scripts";v=1', '"scripts";w', gone=True)
group_row("no-string", "scripts", "scripts", gone=False)
group_row("no-strings-alone", '"scripts"', '"scripts", 1', gone=False)
group_row("32", ", ".join(f'"{n:032}"' for n in range(32)), f'"{31:032}"', gone=True)
group_row("32-invalidated", f'"{31:032}"', ", ".join(f'"{n:032}"' for n in range(32)), gone=True)
group_row("very-many-invalidated", '"a"', ", ".join(f'"{n}"' for n in range(200)), gone=True)
group_row("error", '"a"', '"a"', gone=True, reply={"status": 500})
group_row("put", '"a"', '"a"', gone=True, method="PUT")
group_row("unknown-method", '"a"', '"a"', gone=True, method="M-SEARCH")
group_row("safe-method", '"a"', '"a"', gone=False, method="OPTIONS")
group_row("get", '"a"', '"a"', gone=False, method="GET", reply={"status": 200})
group_row("other-scheme", '"a"', '"a"', gone=False, scheme="https")
group_row("other-host", '"a"', '"a"', gone=False, headers=(("Host", "b.example"),))
group_row("no-tag", '"a"', '""', gone=False)
row("group-sent-on", GR, fetch(grouped('"a"'), has={"cache-groups": '"a"'}),
    hit(has={"cache-groups": '"a"'}),
    fetch(invalidating('"b"'), method="POST", target="/else",
          has={"cache-group-invalidation": '"b"'}), hit())
row("group-no-cascade", "RFC 9875 2.2.1", fetch(grouped('"a", "b"'), target="/a"),
    fetch(grouped('"b"'), target="/b"), fetch(invalidating('"a"'), method="POST", target="/else"),
    fetch(TWO, target="/a"), hit(target="/b"))
row("group-not-by-uri", "RFC 9875 2.2.1", fetch(grouped('"a"'), target="/a"),
    fetch(grouped('"a"'), target="/b"), fetch(ok(status=204, body=b""), method="POST", target="/a"),
    hit(target="/b"), fetch(TWO, target="/a"))
row("group-is-no-tag", GR, fetch(ok("max-age=60", ("Cache-Tag", "a"), ("Surrogate-Key", "a"))),
    fetch(invalidating('"a"'), method="POST", target="/else"), hit())
row("group-is-not-purged-as-a-tag", GR, fetch(grouped('"a"')), purge(tags="a"), hit())
row("group-too-many", "G7", fetch(grouped(", ".join(f'"{n}"' for n in range(129))),
                                  cs={"detail": "tags"}), fetch(TWO))
row("group-beside-tags", "G7",
    fetch(ok("max-age=60", ("Cache-Tag", "a, b"), ("Cache-Groups", '"c", "d"'))), hit(), max_tags=2)
row("group-304-keeps", "3.2", fetch(ok("max-age=10", ETAG, ("Cache-Groups", '"a"'))),
    validated(unchanged(), advance=10), hit(),
    fetch(invalidating('"a"'), method="POST", target="/else"), fetch(TWO))
row("group-304-updates", "3.2", fetch(ok("max-age=10", ETAG, ("Cache-Groups", '"a"'))),
    validated(unchanged(None, ("Cache-Groups", '"b"')), advance=10),
    fetch(invalidating('"a"'), method="POST", target="/else"), hit(has={"cache-groups": '"b"'}),
    fetch(invalidating('"b"'), method="POST", target="/else"), fetch(TWO))
VARY_FOO = ("Vary", "Foo")
row("group-variants", GR, fetch(ok("max-age=60", VARY_FOO, ("Cache-Groups", '"a"')), ("Foo", "1")),
    fetch(ok("max-age=60", VARY_FOO, ("Cache-Groups", '"b"'), body=b"two"), ("Foo", "2")),
    fetch(invalidating('"a"'), method="POST", target="/else"),
    hit(b"two", ("Foo", "2")), fetch(TWO, ("Foo", "1")))

# -- what a shared cache does with the rest --------------------------------------------------------

# RFC 8246 2: "proxies SHOULD skip conditionally revalidating fresh responses ... unless there is a
# signal from the client that a validation is necessary (e.g., a no-cache ... directive"
IMM = ok("max-age=60, immutable", ETAG)
row("immutable-reload", "RFC 8246 2", fetch(IMM), hit(b"one", cc("max-age=0"), advance=5))
row("immutable-reload-304", "RFC 8246 2", fetch(IMM),
    hit(b"", cc("max-age=0"), INM, status=304))
row("immutable-force-reload", "RFC 8246 2", fetch(IMM),
    validated(unchanged(), b"one", cc("no-cache")),
    validated(unchanged(), b"one", cc("no-cache, max-age=0"), advance=2),
    validated(unchanged(), b"one", ("Pragma", "no-cache"), advance=2))
row("immutable-older", "5.2.1.1", fetch(IMM), validated(unchanged(), b"one", cc("max-age=3"), advance=5))
row("immutable-reload-stale", "RFC 8246 2", fetch(IMM),
    validated(unchanged(), b"one", cc("max-age=0"), advance=60))
row("immutable-reload-no-cache", "RFC 8246 2", fetch(ok("no-cache, immutable", ETAG)),
    validated(unchanged(), b"one", cc("max-age=0")))
# 5.5: Warning is obsolete, and not generated.
row("warning-none", "5.5", fetch(ok("max-age=10, stale-while-revalidate=60")),
    stale(b"one", TWO, advance=20, has={"warning": None}))
row("mutable-reload", "5.2.1.1", fetch(OLD), validated(unchanged(), b"one", cc("max-age=0")))
row("immutable-cdn", "RFC 8246 2", fetch(ok(None, cdn("max-age=60, immutable"), ETAG)),
    hit(b"one", cc("max-age=0")))

# -- 4.1: Vary -------------------------------------------------------------------------------------

V = "4.1"
W = "RFC 5861 3"


def varied(id_: str, vary: Lines, first: Lines, second: Lines, *, match: bool) -> None:
    reply = ok("max-age=60", *vary)
    follow = hit(b"one", *second) if match else fetch(TWO, *second, cs={"fwd": "vary-miss"})
    row(f"vary-{id_}", V, fetch(reply, *first), follow)


def f(*values: str, name: str = "Foo") -> Lines:
    return tuple((name, value) for value in values)


VARY = f("Foo", name="Vary")
TWO_WAY = f("Foo, Bar", name="Vary")
AL = f("Accept-Language", name="Vary")
AE = f("Accept-Encoding", name="Vary")
varied("match", VARY, f("1"), f("1"), match=True)
varied("no-match", VARY, f("1"), f("2"), match=False)
varied("omitted", VARY, f("1"), (), match=False)
varied("added", VARY, (), f("1"), match=False)
varied("both-omitted", VARY, (), (), match=True)
varied("empty-is-not-absent", VARY, f(""), (), match=False)
varied("other-field", VARY, f("1") + f("2", name="Other"), f("1") + f("3", name="Other"), match=True)
varied("case-of-name", f("fOO", name="Vary"), f("1"), f("1", name="foo"), match=True)
varied("case-of-value", VARY, f("a"), f("A"), match=False)
varied("two-match", TWO_WAY, f("1") + f("2", name="Bar"), f("2", name="Bar") + f("1"), match=True)
varied("two-no-match", TWO_WAY, f("1") + f("2", name="Bar"), f("1") + f("3", name="Bar"), match=False)
varied("two-swapped", TWO_WAY, f("1") + f("2", name="Bar"), f("2") + f("1", name="Bar"), match=False)
varied("two-one-omitted", TWO_WAY, f("1"), f("1"), match=True)
varied("two-lines", f("Foo", "Bar", name="Vary"), f("1", name="Bar"), f("2", name="Bar"), match=False)
varied("two-lines-match", f("Foo", "Bar", name="Vary"), f("1", name="Bar"), f("1", name="Bar"),
       match=True)
varied("space", VARY, f("1,2"), f(" 1 , 2 "), match=False)
varied("combined", f("Accept-Charset", name="Vary"), f("1, 2", name="Accept-Charset"), f("1", "2", name="Accept-Charset"),
       match=True)
varied("order-of-lines", VARY, f("1", "2"), f("2", "1"), match=False)
# RFC 9110 12.5.4: "some recipients treat the order in which language tags are listed as an
# indication of descending priority, particularly for tags that are assigned equal quality values".
# The app may be one: then this order is significant.
varied("language-order", AL, f("en, de", name="Accept-Language"),
       f("de, en", name="Accept-Language"), match=False)
varied("accept-order", f("Accept", name="Vary"), f("text/html, application/json", name="Accept"),
       f("application/json, text/html", name="Accept"), match=False)
varied("encoding-weights", AE, f("gzip;q=0.5, br", name="Accept-Encoding"),
       f("br, gzip;q=0.5", name="Accept-Encoding"), match=True)
varied("language-case", AL, f("en, de", name="Accept-Language"),
       f("eN, De", name="Accept-Language"), match=True)
varied("language-weights", AL, f("en;q=0.5", name="Accept-Language"),
       f("en;q=0.50", name="Accept-Language"), match=True)
varied("language-other-weight", AL, f("en;q=0.5, de", name="Accept-Language"),
       f("en, de;q=0.5", name="Accept-Language"), match=False)
varied("encoding-space", AE, f("gzip,br", name="Accept-Encoding"),
       f("br,  gzip", name="Accept-Encoding"), match=True)
varied("user-agent-comma", f("User-Agent", name="Vary"), f("a,b", name="User-Agent"),
       f("a, b", name="User-Agent"), match=False)
varied("cookie", f("Cookie", name="Vary"), f("a=1", name="Cookie"), f("a=2", name="Cookie"),
       match=False)
varied("empty", f("", name="Vary"), f("1"), f("2"), match=True)
varied("empty-members", f(" ,Foo,, ", name="Vary"), f("1"), f("2"), match=False)
for name, values in (("star", ("*",)), ("star-list", ("Foo, *",)), ("star-line", ("Foo", "*")),
                     ("star-first", ("*, Foo",)), ("unreadable", ("Foo Bar",))):
    not_reused(f"vary-{name}", V, ok("max-age=60", *f(*values, name="Vary")), detail="vary-star")
varied("host", f("Host", name="Vary"), (), (), match=True)
varied("no-normalisation-of-unknown", VARY, f("b, a"), f("a, b"), match=False)
varied("quoted", VARY, f('"a,b"'), f('"a, b"'), match=False)
row("vary-then-none-then-vary", V,
    fetch(ok("max-age=10", *VARY), *f("1")), fetch(ok("max-age=10", body=b"all"), *f("2")),
    hit(b"all", *f("3")),
    fetch(ok("max-age=60", *VARY, body=b"new"), *f("1"), advance=10), hit(b"new", *f("1")),
    fetch(ok("max-age=60", *VARY, body=b"three"), *f("3")), hit(b"three", *f("3")))
row("vary-private-variant", V, fetch(ok("max-age=60", *VARY), *f("1")),
    fetch(ok("private", *VARY, body=b"me"), *f("2")), hit(b"one", *f("1")),
    fetch(ok("private", *VARY, body=b"me"), *f("2")))
row("vary-swr-each", W, fetch(ok("max-age=10, stale-while-revalidate=30", *VARY), *f("1")),
    fetch(ok("max-age=10, stale-while-revalidate=30", *VARY, body=b"two"), *f("2")),
    stale(b"one", ok("max-age=60", *VARY, body=b"new"), *f("1"), advance=20, saw={"foo": "1"}),
    stale(b"two", ok("max-age=60", *VARY, body=b"newer"), *f("2"), saw={"foo": "2"}),
    hit(b"new", *f("1")), hit(b"newer", *f("2")))
row("vary-several", V,
    fetch(ok("max-age=60", *VARY), *f("1")),
    fetch(ok("max-age=60", *VARY, body=b"two"), *f("2")),
    fetch(ok("max-age=60", *VARY, body=b"three")),
    hit(b"one", *f("1")), hit(b"two", *f("2")), hit(b"three"))
row("vary-changes", V,
    fetch(ok("max-age=60", *VARY), *f("1")),
    fetch(ok("max-age=60", *f("Bar", name="Vary"), body=b"two"), *f("2"), ("Bar", "x")),
    hit(b"one", *f("1")), hit(b"two", *f("3"), ("Bar", "x")),
    fetch(ok("max-age=60", body=b"three"), *f("4"), ("Bar", "y"), cs={"fwd": "vary-miss"}))
# "When a cache has multiple stored responses for a target URI and one or more omits the Vary header
# field, the cache SHOULD choose the most recent stored response with a valid Vary field value."
row("vary-default-first", V,
    fetch(ok("max-age=10", body=b"default")),
    fetch(ok("max-age=60", *VARY), *f("1"), advance=10), hit(b"one", *f("1")))
row("vary-default-later", V,
    fetch(ok("max-age=60", *VARY), *f("1")),
    fetch(ok("max-age=60", body=b"default"), *f("2")),
    hit(b"one", *f("1")), hit(b"default", *f("3")), hit(b"default"))
row("vary-replaced", V,
    fetch(ok("max-age=10", *VARY), *f("1")),
    fetch(ok("max-age=60", *VARY, body=b"new"), *f("1"), advance=10), hit(b"new", *f("1")))
row("vary-each-its-validator", "4.3.1",
    fetch(ok("max-age=10", *VARY, ("ETag", '"1"')), *f("1")),
    fetch(ok("max-age=10", *VARY, ("ETag", '"2"'), body=b"two"), *f("2")),
    validated(unchanged("max-age=10"), b"one", *f("1"), advance=10,
              saw={"if-none-match": '"1"', "foo": "1"}),
    validated(unchanged("max-age=10"), b"two", *f("2"), saw={"if-none-match": '"2"'}),
    fetch(ok("no-store"), *f("3"), saw={"if-none-match": None, "if-modified-since": None}))
row("vary-in-304", V,
    fetch(ok("max-age=60", *VARY, ETAG), *f("1")),
    Step(headers=(*f("1"), INM), status=304, content=b"", cs={"hit": True}, has={"vary": "Foo"}))
row("vary-invalidates-all", "4.4",
    fetch(ok("max-age=60", *VARY), *f("1")), fetch(ok("max-age=60", *VARY, body=b"two"), *f("2")),
    fetch(ok(status=204, body=b""), method="DELETE"),
    fetch(ok("max-age=60", *VARY, body=b"three"), *f("1")), fetch(ok("max-age=60", *VARY), *f("2")))
row("vary-cap", "G7", *(fetch(ok("max-age=60", *VARY, body=b"%d" % n), *f(str(n))) for n in range(4)),
    hit(b"3", *f("3")), hit(b"2", *f("2")), fetch(ok("max-age=60", *VARY), *f("0")), max_variants=3)
row("vary-long-values", "G7", fetch(ok("max-age=60", *VARY), *f("x" * 5000)), hit(b"one", *f("x" * 5000)),
    fetch(TWO, *f("x" * 4999 + "y")))

# -- 4.1, 4.3.1: variants that a request does not select, validated -----------------------------------

N = "4.3.1"
ONE_TAG, TWO_TAG = ("ETag", '"1"'), ("ETag", '"2"')


def ae(value: str) -> Lines:
    return f(value, name="Accept-Encoding")


def variants(*more: tuple[str, str], vary: Lines = AE, cc_: str | None = "max-age=10", tags: tuple[str, ...] = ('"1"', '"2"'),
             asks: tuple[Lines, Lines] = (ae("1"), ae("2")), **kw: Any) -> tuple[Step, Step]:
    """Two of them, for Accept-Encoding: 1 and Accept-Encoding: 2."""
    one, two = (tuple(("ETag", tag) for tag in text.split() if tag) for text in tags)
    return (fetch(ok(cc_, *vary, LM, *one, *more, **kw), *asks[0]),
            fetch(ok(cc_, *vary, LM, *two, *more, body=b"two", **kw), *asks[1]))


def nominated(id_: str, *steps: Step, rfc: str = N, **kw: Any) -> None:
    row(f"nominated-{id_}", rfc, *steps, **{"nominate_codings": True, **kw})


def named(reply: Reply, content: bytes, *headers: tuple[str, str], **kw: Any) -> Step:
    """None is selected, and the origin says 304."""
    return validated(reply, content, *headers, **{"cs": {"fwd": "vary-miss"}, **kw})


def unnamed(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """None is selected, and the origin is not told of any."""
    saw = {"if-none-match": None, "if-modified-since": None}
    return fetch(reply, *headers, saw=saw, **{"cs": {"fwd": "vary-miss"}, **kw})


BOTH = {"if-none-match": '"2", "1"', "if-modified-since": None}
nominated("named", *variants(),
    named(unchanged("max-age=60", TWO_TAG, ("X", "new")), b"two", *ae("3"), saw=BOTH, cs={"stored": True}, has={"x": "new"}),
    hit(b"two", *ae("3"), advance=20, has={"x": "new"}),
    # What that request could not have chosen, its 304 does not update.
    validated(unchanged("max-age=10", TWO_TAG), b"two", *ae("2"), has={"x": None}))
nominated("older-one", *variants(), named(unchanged("max-age=60", ONE_TAG), b"one", *ae("3")), hit(b"one", *ae("3")),
    hit(b"two", *ae("2")), rfc="4.3.4")
nominated("none-of-them", *variants(), fetch(ok("max-age=60", *AE, body=b"three"), *ae("3"), saw=BOTH),
    hit(b"three", *ae("3")), hit(b"one", *ae("1")), rfc="4.3.3")
nominated("stale", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", *ae("3"), advance=20), hit(b"two", *ae("3")))
nominated("to-a-client-that-has-it", *variants(), named(unchanged("max-age=60", TWO_TAG), b"", *ae("3"),
    ("If-None-Match", '"2"'), status=304, saw=BOTH), hit(b"two", *ae("3")))
nominated("to-a-client-that-has-another", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", *ae("3"),
    ("If-None-Match", '"9"'), saw=BOTH))
nominated("collapsed", *variants(), Step(headers=ae("3"), concurrent=4, origin=(unchanged("max-age=60", TWO_TAG),),
    content=b"two", cs={}), hit(b"two", *ae("3")), rfc="4.3.4, G2")
nominated("not-to-be-kept", *variants(), named(unchanged("no-store", TWO_TAG), b"two", *ae("3"), cs={"stored": None}),
    unnamed(TWO, *ae("3")), rfc="5.2.2.5")
for name_, line in (("unknown", ("ETag", '"9"')), ("weak", ("ETag", 'W/"2"')), ("no", ("X", "y"))):
    nominated(f"{name_}-tag", *variants(),
        Step(headers=ae("3"), origin=(unchanged("max-age=60", line), ok("max-age=60", *AE, body=b"three")),
             content=b"three", saw={"if-none-match": None}, cs={"fwd": "vary-miss", "fwd-status": None}),
        hit(b"three", *ae("3")), hit(b"two", *ae("2")), unnamed(ok("max-age=60", *AE), *ae("4")), rfc="4.3.4")
nominated("single-one", variants()[0], named(unchanged("max-age=60", ONE_TAG), b"one", *ae("3"), saw={"if-none-match": '"1"'}))
nominated("error", *variants(), fetch(FAIL, *ae("3")), fetch(RAISES, *ae("3"), advance=2), rfc="4.3.3")
for name_, text in (("weak", 'W/"1" W/"2"'), ("without-quotes", "1 2"), ("with-a-space", '"1\xa0" "2\t"'), ("none", " "),
                    ("empty", '"" ""'), ("star", "* *")):
    nominated(f"not-{name_}", *variants(tags=tuple(text.split(" "))), unnamed(TWO, *ae("3")))
nominated("not-two-tags", *variants(tags=('"1" "3"', '"2" "4"')), unnamed(TWO, *ae("3")))
nominated("not-404", *variants(status=404), unnamed(TWO, *ae("3")))
for field_ in ("Cookie", "Authorization", "X-API-Key", "Origin"):
    extra, said = f(f"Accept-Encoding, {field_}", name="Vary"), ((field_, "x"),)
    nominated(f"not-by-{field_.lower()}", *variants(vary=extra, cc_="public, max-age=10", asks=((*ae("1"), *said), (*ae("2"), *said))),
        unnamed(ok("public, max-age=10", *extra), *said, *ae("3")), rfc="G1")
nominated("not-for-authorization", *variants(cc_="public, max-age=10"), unnamed(ok("public, max-age=10"), AUTH, *ae("3")), rfc="G1")
nominated("not-for-cookie-by-rule", *variants(cc_=None), unnamed(ok(None, *AE), COOKIE, *ae("3")),
    rules=rule(ttl=10), rfc="G1")
nominated("for-cookie", *variants(), named(unchanged("max-age=60", TWO_TAG), b"two", COOKIE, *ae("3")))
nominated("not-for-no-store", *variants(), unnamed(TWO, cc("no-store"), *ae("3")), rfc="5.2.1.5")
nominated("not-for-head", *variants(), unnamed(ok("max-age=10", *AE), *ae("3"), method="HEAD"))
nominated("not-purged", *variants(), purge(), unnamed(TWO, *ae("3"), cs={"fwd": "uri-miss"}), rfc="G3")
# What the 304 varies on besides may have been another in the request that the stored one answered.
nominated("other-set-of-names", *variants(), Step(headers=(*ae("3"), ("Bar", "x")), content=b"three", cs={"fwd": "vary-miss"},
    origin=(unchanged("max-age=60", TWO_TAG, *f("Accept-Encoding, Bar", name="Vary")), ok("max-age=60", *AE, body=b"three")), saw={"if-none-match": None}),
    hit(b"three", *ae("3")), rfc="4.1, G1")
GZIP = ("Content-Encoding", "gzip")


for accepts, good in (("gzip, br", True), ("br, gzip;q=0.5", True), ("GZIP, deflate", True), ("br", False), ("*", False),
                      ("gzip;q=0", False), ("gzip; q=0.00, br", False), ("", False)):
    nominated(f"coding-{accepts}", *variants(GZIP, asks=(ae("gzip"), ae("gzip, x"))), named(unchanged("max-age=60", ONE_TAG), b"one", *ae(accepts)) if good else
              unnamed(TWO, *ae(accepts)), rfc="RFC 9110 12.5.3")
nominated("no-accept-encoding", *variants(GZIP, asks=(ae("gzip"), ae("gzip, x"))), unnamed(TWO), rfc="RFC 9110 12.5.3")
nominated("stored-without-accept-encoding", fetch(ok("max-age=10", *AE, ONE_TAG)), named(unchanged("max-age=60", ONE_TAG), b"one", *ae("gzip")))
# Off unless asked for; and then for what differs by coding alone. The tag may be of a record: the 304 says nothing of the page.
nominated("off", *variants(), unnamed(TWO, *ae("3")), nominate_codings=False, rfc="4.3.1, G1")
row("nominated-off-by-default", "4.3.1, G1", *variants(), unnamed(TWO, *ae("3")))
for name_, vary_, one_, two_ in (
    ("foo", "Foo", f("1"), f("2")), ("foo-and-coding", "Foo, Accept-Encoding", (*f("1"), *ae("gzip")), (*f("2"), *ae("gzip"))),
    ("foo-and-other-coding", "Foo, Accept-Encoding", (*f("1"), *ae("gzip")), (*f("2"), *ae("br"))),
    ("region", "X-Region", f("a", name="X-Region"), f("b", name="X-Region")), ("language", "Accept-Language", f("de", name="Accept-Language"), f("en", name="Accept-Language")),
    ("currency", "Accept-Encoding, X-Currency", (*ae("gzip"), ("X-Currency", "EUR")), (*ae("br"), ("X-Currency", "USD"))),
    ("accept", "Accept", f("text/html", name="Accept"), f("application/json", name="Accept")), ("absent", "Foo, Accept-Encoding", (*f("1"), *ae("gzip")), ae("br"))):
    by = f(vary_, name="Vary")
    nominated(f"not-by-{name_}", *variants(vary=by, asks=(one_, two_)),
              fetch(ok("max-age=60", *by, body=b"three"), *ae("x"), *f("3"), ("X-Region", "c"), ("X-Currency", "GBP"), ("Accept-Language", "fr"), ("Accept", "a/b"),
                    saw={"if-none-match": None, "if-modified-since": None}), rfc="4.3.1, G1")
nominated("not-by-a-rules-vary", *variants(asks=((*ae("1"), ("X-Region", "a")), (*ae("2"), ("X-Region", "a")))), unnamed(TWO, *ae("3"), ("X-Region", "b")),
    rules=rule(vary=["X-Region"]), rfc="4.3.1, G1")
nominated("by-coding-beside-a-rules-vary", *variants(asks=((*ae("1"), ("X-Region", "a")), (*ae("2"), ("X-Region", "b")))),
    named(unchanged("max-age=60", TWO_TAG), b"two", *ae("3"), ("X-Region", "b"), saw={"if-none-match": '"2"'}), rules=rule(vary=["X-Region"]))
nominated("by-coding-beside-foo", *variants(vary=f("Foo, Accept-Encoding", name="Vary"), asks=((*f("1"), *ae("1")), (*f("2"), *ae("2")))),
    named(unchanged("max-age=60", ONE_TAG), b"one", *f("1"), *ae("3"), saw={"if-none-match": '"1"'}), hit(b"one", *f("1"), *ae("3")))
nominated("not-by-what-a-proxy-tells", *variants(), unnamed(TWO, *ae("3"), ("X-Forwarded-Host", "b.example")), rfc="4.3.1, G9")
nominated("not-by-an-older-vary", *variants(), fetch(ok("max-age=10", *f("Accept-Encoding, X-Region", name="Vary"), body=b"a"), *ae("4"), ("X-Region", "a")),
    unnamed(TWO, *ae("3"), ("X-Region", "b")), rfc="4.3.1, G1")
# The same tag for two bodies: what it names is not one representation.
nominated("one-tag-for-two-bodies", *variants(tags=('"1"', '"1"')), unnamed(TWO, *ae("3")), rfc="RFC 9110 8.8.1")
nominated("one-tag-for-two-of-three", *variants(tags=('"1"', '"1"')), fetch(ok("max-age=10", *AE, TWO_TAG, body=b"three"), *ae("3")),
    fetch(TWO, *ae("4"), saw={"if-none-match": '"2"'}), rfc="RFC 9110 8.8.1")
nominated("two-tags-for-one-body", fetch(ok("max-age=10", *AE, ONE_TAG), *ae("1")), fetch(ok("max-age=10", *AE, TWO_TAG), *ae("2")),
    named(unchanged("max-age=60", ONE_TAG), b"one", *ae("3"), saw=BOTH))
nominated("one-tag-for-one-body", *variants(), fetch(ok("max-age=10", *AE, ONE_TAG), *ae("3")),
    named(unchanged("max-age=60", ONE_TAG), b"one", *ae("4"), saw={"if-none-match": '"1", "2"'}), rfc="RFC 9110 8.8.1")
nominated("at-most-16", *(fetch(ok("max-age=60", *AE, ("ETag", f'"{n}"'), body=b"%d" % n), *ae(f"x{n}")) for n in range(18)),
    fetch(TWO, *ae("y"), saw={"if-none-match": ", ".join(f'"{n}"' for n in range(17, 1, -1))}), rfc="G7")
nominated("at-most-1024-bytes", *(fetch(ok("max-age=60", *AE, ("ETag", f'"{str(n) * 338}"'), body=b"%d" % n), *ae(f"x{n}"))
                                 for n in range(4)),
    fetch(TWO, *ae("y"), saw={"if-none-match": ", ".join(f'"{str(n) * 338}"' for n in (3, 2, 1))}), rfc="G7")
# Two sets of fields to select by: a request may find a response by each.
TWICE = (fetch(ok("max-age=10", *VARY, ONE_TAG), *f("1"), ("Bar", "x")),
         fetch(ok("max-age=10", *f("Bar", name="Vary"), ONE_TAG), *f("2"), ("Bar", "x")))
row("304-updates-all-that-could-be-chosen", "4.3.4", *TWICE,
    validated(unchanged("max-age=60", ONE_TAG, ("X", "new")), b"one", *f("1"), ("Bar", "x"), advance=10),
    hit(b"one", *f("1"), ("Bar", "y"), advance=20, has={"x": "new"}), hit(b"one", *f("3"), ("Bar", "x"), has={"x": "new"}))
row("304-weak-updates-the-most-recent", "4.3.4", *TWICE,
    validated(unchanged("max-age=60", ("ETag", 'W/"1"')), b"one", *f("1"), ("Bar", "x"), advance=10),
    validated(unchanged("max-age=60"), b"one", *f("1"), ("Bar", "y"), advance=1))
row("304-silent-updates-the-one-asked-about", "4.3.4", *TWICE,
    validated(unchanged("max-age=60"), b"one", *f("1"), ("Bar", "x"), advance=10),
    validated(unchanged("max-age=60"), b"one", *f("1"), ("Bar", "y"), advance=1))
row("head-freshens-all-that-could-be-chosen", "4.3.5", *TWICE,
    fetch(ok("max-age=60", ONE_TAG, ("X", "new")), *f("1"), ("Bar", "x"), cc("no-cache"), method="HEAD"),
    hit(b"one", *f("1"), ("Bar", "y"), advance=20, has={"x": "new"}), hit(b"one", *f("3"), ("Bar", "x"), has={"x": "new"}))
row("head-outdates-all-that-could-be-chosen", "4.3.5", *TWICE,
    fetch(ok("max-age=60", TWO_TAG), *f("1"), ("Bar", "x"), cc("no-cache"), method="HEAD"),
    validated(unchanged(), b"one", *f("1"), ("Bar", "y")), validated(unchanged(), b"one", *f("3"), ("Bar", "x")))

# -- 4.3.1, 4.3.3: validation, sent ----------------------------------------------------------------

S = "4.3.1"
row("sends-etag", S, fetch(OLD),
    validated(unchanged(), advance=10, saw={"if-none-match": '"abc"', "if-modified-since": None},
              cs={"fwd": "stale", "stored": True}))
row("sends-last-modified", S, fetch(ok("max-age=10", LM)),
    validated(unchanged(), advance=10, saw={"if-modified-since": at(-1000), "if-none-match": None}))
row("sends-both", S, fetch(ok("max-age=10", LM, ETAG)),
    validated(unchanged(), advance=10,
              saw={"if-modified-since": at(-1000), "if-none-match": '"abc"'}))
row("sends-nothing", S, fetch(ok("max-age=10")),
    fetch(TWO, advance=10, saw={"if-modified-since": None, "if-none-match": None}))
for name, value in (("weak", 'W/"abc"'), ("unquoted", "abc"), ("obs-text", '"abc\xfc"'),
                    ("comma", '"a,b"')):
    row(f"sends-etag-{name}", S, fetch(ok("max-age=10", ("ETag", value))),
        validated(unchanged(), advance=10, saw={"if-none-match": value}))
row("sends-instead-of-clients", S, fetch(OLD),
    validated(unchanged(), b"one", ("If-None-Match", '"mine"'), ("If-Modified-Since", at(0)),
              advance=10, saw={"if-none-match": '"abc"', "if-modified-since": None}))
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
# What is said of one request says nothing of what is stored.
for status in (429, 408, 428, 431):
    row(f"{status}-keeps-stored", "3, RFC 6585", fetch(OLD),
        fetch(ok(status=status, body=b"wait"), advance=10),
        validated(unchanged(), saw={"if-none-match": '"abc"'}))
row("exception-keeps-stored", "4.3.3", fetch(OLD), fetch(RAISES, advance=10),
    validated(unchanged(), saw={"if-none-match": '"abc"'}))
row("kept-for-validation", "4.3", fetch(OLD), fetch(TWO, advance=70, saw={"if-none-match": None}),
    keep=60)

# -- 4.3.2: validation, received -------------------------------------------------------------------


def asked(id_: str, stored: Lines, request: Lines, *, match: bool, rfc: str = "4.3.2") -> None:
    status, content = (304, b"") if match else (200, b"one")
    row(f"asked-{id_}", rfc, fetch(ok("max-age=60", *stored)),
        hit(content, *request, status=status, advance=1, has={"age": "1"}))


TAG = (ETAG,)
asked("etag", TAG, (INM,), match=True)
asked("etag-other", TAG, f('"x"', name="If-None-Match"), match=False)
asked("etag-list", TAG, f('"x", "abc"', name="If-None-Match"), match=True)
asked("etag-lines", TAG, f('"x"', '"abc"', name="If-None-Match"), match=True)
asked("etag-star", TAG, f("*", name="If-None-Match"), match=True)
asked("etag-star-no-etag", (), f("*", name="If-None-Match"), match=True)
asked("etag-none-stored", (), (INM,), match=False)
asked("etag-weak-request", TAG, f('W/"abc"', name="If-None-Match"), match=True)
asked("etag-weak-stored", f('W/"abc"', name="ETag"), (INM,), match=True)
asked("etag-weak-both", f('W/"abc"', name="ETag"), f('W/"abc"', name="If-None-Match"), match=True)
asked("etag-obs-text", f('"\xfc"', name="ETag"), f('"\xfc"', name="If-None-Match"), match=True)
asked("etag-unquoted", TAG, f("abc", name="If-None-Match"), match=False)
asked("etag-precedes-lm", (ETAG, LM), (INM, ("If-Modified-Since", at(-2000))), match=True)
asked("etag-precedes-lm-other", (ETAG, LM),
      (("If-None-Match", '"x"'), ("If-Modified-Since", at(0))), match=False)
asked("lm-equal", (LM,), (("If-Modified-Since", at(-1000)),), match=True)
asked("lm-later", (LM,), (("If-Modified-Since", at(-999)),), match=True)
asked("lm-earlier", (LM,), (("If-Modified-Since", at(-1001)),), match=False)
asked("lm-date", (DAY,), (("If-Modified-Since", at(0)),), match=True)
asked("lm-date-earlier", (DAY,), (("If-Modified-Since", at(-1)),), match=False)
asked("lm-received", (), (("If-Modified-Since", at(0)),), match=True)
asked("lm-received-earlier", (), (("If-Modified-Since", at(-1)),), match=False)
asked("lm-invalid", (LM,), (("If-Modified-Since", "yesterday"),), match=False)
asked("lm-two", (LM,), f(at(0), at(0), name="If-Modified-Since"), match=False)
asked("if-range-alone", TAG, (("If-Range", '"abc"'),), match=False, rfc="RFC 9110 13.1.5")
row("asked-404", "RFC 9110 13.2.1", fetch(ok("max-age=60", ETAG, status=404)), hit(b"one", INM, status=404))
row("asked-301", "RFC 9110 13.2.1", fetch(ok("max-age=60", ETAG, status=301)), hit(b"one", INM, status=301))
row("asked-stale-only-if-cached", "5.2.1.7", fetch(OLD),
    Step(headers=(INM, cc("only-if-cached")), advance=10, status=504, members=0))
row("asked-variant", "4.3.2", fetch(ok("max-age=60", *VARY, ETAG), *f("1")),
    fetch(ok("max-age=60", *VARY, ("ETag", '"2"'), body=b"two"), *f("2")),
    hit(b"", *f("1"), INM, status=304), hit(b"two", *f("2"), INM))
row("asked-head", "4.3.2", fetch(ok("max-age=60", ETAG)), hit(b"", INM, method="HEAD", status=304))
row("304-fields", "RFC 9110 15.4.5",
    fetch(ok("max-age=60", ETAG, DAY, LM, ("Content-Location", "/x"), ("Expires", at(9)),
             ("Content-Type", "text/x"), ("Content-Length", "3"), ("X-A", "1"))),
    hit(b"", INM, status=304, advance=2, has={
        "etag": '"abc"', "date": at(0), "content-location": "/x", "expires": at(9), "age": "2",
        "cache-control": "max-age=60", "content-type": None, "content-length": None, "x-a": "1"}))
row("asked-miss", "4.3.2", fetch(ok("max-age=60", ("ETag", '"new"')), INM), hit())
row("asked-miss-match", "4.3.2",
    Step(headers=(INM,), origin=(ok("max-age=60", ETAG),), status=304, content=b"",
         cs={"fwd": "uri-miss", "stored": True}),
    hit())
row("asked-validated", "4.3.3", fetch(OLD),
    Step(headers=(INM,), advance=10, origin=(unchanged("max-age=60"),), status=304, content=b"",
         cs={"fwd": "stale", "fwd-status": 304}),
    hit())
row("asked-validated-other", "4.3.3", fetch(OLD),
    validated(unchanged("max-age=60"), b"one", ("If-None-Match", '"x"'), advance=10))
row("asked-not-shareable", "4.3.1, G5", fetch(ok("no-store"), saw={"if-none-match": None}),
    Step(headers=(INM,), origin=(unchanged("no-store"),), status=304, content=b"",
         saw={"if-none-match": '"abc"'}, cs={"hit": None}))
for name in ("If-Match", "If-Unmodified-Since"):
    row(f"passes-{name.lower()}", "4.3.2", fetch(ok("max-age=60")),
        fetch(TWO, (name, at(0)), saw={name.lower(): at(0)},
              cs={"fwd": "bypass", "detail": "precondition"}), hit())

# -- 3.2, 4.3.4: a 304 updates ---------------------------------------------------------------------

U = "4.3.4"


def updates(id_: str, old: Lines, new: Lines, **has: str | None) -> None:
    expected = {name.replace("_", "-"): value for name, value in has.items()}
    row(f"304-{id_}", U, fetch(ok("max-age=10", ETAG, *old)),
        validated(unchanged("max-age=60", ETAG, *new), advance=10, has=expected),
        hit(has=expected, advance=20))


updates("field", f("a"), f("b"), foo="b")
updates("field-added", (), f("b"), foo="b")
updates("field-kept", f("a"), (), foo="a")
updates("field-lines", f("a", "b"), f("c", "d"), foo="c, d")
updates("field-fewer-lines", f("a", "b"), f("c"), foo="c")
updates("field-empty", f("a"), f(""), foo="")
updates("content-type", f("text/a", name="Content-Type"), f("text/b", name="Content-Type"),
        content_type="text/b")
updates("content-length", f("3", name="Content-Length"), f("99", name="Content-Length"),
        content_length="3")
updates("content-length-0", f("3", name="Content-Length"), f("0", name="Content-Length"),
        content_length="3")
updates("content-length-none", (), f("0", name="Content-Length"), content_length="3")
updates("content-location", f("/a", name="Content-Location"), f("/b", name="Content-Location"),
        content_location="/b")
updates("csp", f("a", name="Content-Security-Policy"), f("b", name="Content-Security-Policy"),
        content_security_policy="b")
updates("frame-options", f("deny", name="X-Frame-Options"), f("sameorigin", name="X-Frame-Options"),
        x_frame_options="sameorigin")
for digest in ("Content-MD5", "Content-Digest", "Repr-Digest", "Digest"):
    updates(digest.lower(), f("a", name=digest), f("b", name=digest), **{digest.lower(): "a"})
updates("date", (DAY,), (("Date", at(10)),), date=at(10))
updates("connection", f("1", name="A"), (("Connection", "a, b"), ("A", "2"), ("B", "3")),
        connection=None, b=None)
# G1: a cookie that comes with a 304 is for the client whose request was forwarded, and for no other.
row("304-set-cookie", U, fetch(ok("max-age=10", ETAG)),
    validated(unchanged("max-age=60", ("Set-Cookie", "a=b")), advance=10, has={"set-cookie": "a=b"}),
    hit(has={"set-cookie": None}))
row("304-date-kept-away", "RFC 9110 6.6.1", fetch(ok("max-age=10", ETAG, DAY)),
    validated(unchanged("max-age=20"), advance=10, has={"age": "0"}), hit(advance=19))
row("304-vary-star", V, fetch(OLD), validated(unchanged("max-age=60", ("Vary", "*")), advance=10,
    cs={"stored": None}), fetch(TWO))
row("304-lifetime-shorter", U, fetch(OLD), validated(unchanged("max-age=1"), advance=10),
    validated(unchanged(), advance=1))
row("304-no-cache-from-now-on", U, fetch(OLD), validated(unchanged("no-cache"), advance=10),
    validated(unchanged()))
row("304-must-revalidate-from-now-on", "4.2.4", fetch(ok("max-age=10, stale-if-error=60", ETAG)),
    validated(unchanged("max-age=10, must-revalidate"), advance=10), fetch(FAIL, advance=10))
row("304-windows-from-now-on", W, fetch(OLD),
    validated(unchanged("max-age=10, stale-while-revalidate=30"), advance=10),
    stale(b"one", TWO, advance=20), hit(b"two"))
row("304-head-unasked", "4.3.1",
    Step(method="HEAD", headers=(INM,), origin=(unchanged("max-age=60", ETAG),), status=304,
         content=b"", cs={"hit": None, "stored": None}, saw={"if-none-match": '"abc"'}),
    fetch(TWO))
row("304-freshens", U, fetch(OLD), validated(unchanged("max-age=60"), advance=10, has={"age": "0"}),
    hit(advance=59, has={"age": "59"}), validated(unchanged("max-age=60"), advance=1))
row("304-says-nothing", U, fetch(OLD), validated(unchanged(), advance=10), hit(advance=9),
    validated(unchanged(), advance=1))
row("304-age", "4.2.3", fetch(OLD),
    validated(unchanged("max-age=60", ("Age", "30")), advance=10, has={"age": "30"}),
    hit(advance=29, has={"age": "59"}), validated(unchanged(), advance=1))
row("304-date-age", "4.2.3", fetch(OLD),
    validated(unchanged("max-age=60", ("Date", at(-30))), advance=10, has={"age": "40"}))
row("304-expires", U, fetch(ok(None, ETAG, DAY, ("Expires", at(10)))),
    validated(unchanged(None, ("Date", at(10)), ("Expires", at(70))), advance=10,
              has={"expires": at(70)}),
    hit(advance=59), validated(unchanged(), advance=1))
row("304-private", U, fetch(OLD), validated(unchanged("private"), advance=10, cs={"stored": None}),
    fetch(TWO, saw={"if-none-match": None}))
row("304-no-store", U, fetch(OLD), validated(unchanged("no-store"), advance=10), fetch(TWO))
row("304-no-cache-field", "5.2.2.4", fetch(ok("max-age=10", ETAG, ("X-User", "7"))),
    validated(unchanged('max-age=60, no-cache="x-user"'), advance=10), hit(has={"x-user": None}))
row("304-vary-added", V, fetch(OLD, *f("1")),
    validated(unchanged("max-age=60", *VARY), b"one", *f("1"), advance=10), hit(b"one", *f("1")))
row("304-vary-kept", V, fetch(ok("max-age=10", ETAG, *VARY), *f("1")),
    validated(unchanged("max-age=60"), b"one", *f("1"), advance=10), hit(b"one", *f("1")),
    fetch(TWO, *f("2")))
row("304-same-lm", U, fetch(ok("max-age=10", LM)),
    validated(unchanged("max-age=60", LM), advance=10), hit())
row("304-weak-same", U, fetch(ok("max-age=10", ("ETag", 'W/"abc"'))),
    validated(unchanged("max-age=60", ("ETag", 'W/"abc"')), advance=10), hit())
# "the cache MUST NOT use the new response to update any stored responses"
for name, line in (("etag", ("ETag", '"other"')), ("lm", ("Last-Modified", at(-5)))):
    row(f"304-other-{name}", U, fetch(ok("max-age=10", ETAG if name == "etag" else LM)),
        Step(advance=10, origin=(unchanged("max-age=60", line, ("Foo", "bad")),
                                 ok("max-age=60", body=b"new")),
             content=b"new", has={"foo": None}, cs={"hit": None, "fwd-status": None},
             saw={"if-none-match": None, "if-modified-since": None}),
        hit(b"new"))
row("304-to-client-only", U, fetch(TWO), Step(
    target="/x", headers=(INM, AUTH), origin=(unchanged("max-age=60", ETAG),), status=304,
    content=b"", cs={"hit": None, "stored": None}, saw={"if-none-match": '"abc"'}),
    fetch(TWO, target="/x"))

# -- HEAD: 3, 4, 4.3.5 -----------------------------------------------------------------------------

E = "4.3.5"
row("head-from-get", "4", fetch(ok("max-age=60", ("Content-Length", "3"))),
    hit(b"", method="HEAD", has={"content-length": "3"}))
row("head-from-get-length", "4", fetch(ok("max-age=60")),
    hit(b"", method="HEAD", has={"content-length": "3"}))
row("head-says-nothing-of-an-error", "4.3.5", fetch(ok("max-age=60", ETAG, status=404, body=b"gone")),
    fetch(ok("max-age=60", ("ETag", '"x"')), cc("no-cache"), method="HEAD"), hit(b"gone", status=404))
row("head-with-a-cookie-says-nothing-of-what-is-for-none", "4.3.5, G1", fetch(ok()),
    fetch(ok("max-age=60", ("Content-Length", "99")), COOKIE, method="HEAD"), hit(), rules=rule(ttl=60))
row("head-miss", "3", fetch(ok("max-age=60"), method="HEAD", cs={"stored": None}), fetch(TWO),
    hit(b"two"), hit(b"", method="HEAD"))
row("head-not-stored", "3", fetch(ok("max-age=60"), method="HEAD"),
    fetch(ok("max-age=60"), method="HEAD"))
row("head-stale-validates", "4.3.1", fetch(OLD),
    validated(unchanged("max-age=60"), b"", method="HEAD", advance=10,
              saw={"if-none-match": '"abc"'}), hit())
row("head-freshens", E, fetch(ok("max-age=10", LM, ("Foo", "a"))),
    fetch(ok("max-age=60", LM, ("Foo", "b"), ("Content-Length", "3")), method="HEAD", advance=10),
    hit(advance=59, has={"foo": "b", "content-length": "3"}))
row("head-freshens-no-validator", E,
    fetch(ok("max-age=10, stale-if-error=99", ("Foo", "a"))),
    fetch(ok("max-age=60", ("Foo", "b")), method="HEAD", advance=10), hit(has={"foo": "b"}))
# "the cache SHOULD update the stored response": a HEAD that says nothing new confirms it.
row("head-freshens-silent", E, fetch(ok("max-age=10", ETAG, ("Foo", "a"))),
    fetch(ok(None, ETAG), cc("no-cache"), method="HEAD", advance=9), hit(advance=9, has={"foo": "a"}))
row("head-outdates-window", E, fetch(ok("max-age=60, stale-while-revalidate=30", ETAG)),
    fetch(ok("max-age=60", ("ETag", '"x"')), cc("no-cache"), method="HEAD"),
    stale(b"one", TWO, advance=1), hit(b"two"))
row("head-variant", E, fetch(ok("max-age=10", *VARY, LM), *f("1")),
    fetch(ok("max-age=10", *VARY, LM, body=b"two"), *f("2")),
    fetch(ok("max-age=60", *VARY, LM), *f("1"), cc("no-cache"), method="HEAD"),
    hit(b"one", *f("1"), advance=30), validated(unchanged(), b"two", *f("2")))
row("head-age", "4.2.3", fetch(ok("max-age=10", LM)),
    fetch(ok("max-age=60", LM, ("Age", "50")), method="HEAD", advance=10),
    hit(has={"age": "50"}, advance=0), fetch(TWO, advance=10))
lines: tuple[tuple[str, str], ...]
for name, lines in (("etag", (("ETag", '"x"'),)), ("lm", (("Last-Modified", at(-5)),)),
                    ("length", (("Content-Length", "4"),))):
    row(f"head-other-{name}", E, fetch(ok("max-age=60", ETAG, LM)),
        fetch(ok("max-age=60", *lines), ("Cache-Control", "no-cache"), method="HEAD"),
        fetch(TWO, cs={"fwd": "stale"}))
row("head-error-ignored", E, fetch(ok("max-age=60")),
    fetch(ok("max-age=60", status=500), ("Cache-Control", "no-cache"), method="HEAD"), hit())
row("head-swr", "RFC 5861 3", fetch(ok("max-age=10, stale-while-revalidate=30")),
    stale(b"", TWO, method="HEAD", advance=20), hit(b"two"))
row("head-asked-swr", "4.3.2", fetch(ok("max-age=10, stale-while-revalidate=30", ETAG)),
    stale(b"", TWO, INM, method="HEAD", advance=20, status=304), hit(b"two"))
row("head-not-unsafe", "4.4", fetch(ok("max-age=60")),
    fetch(TWO, method="HEAD", target="/other"), hit())

# -- 4.4: invalidation -----------------------------------------------------------------------------

I = "4.4"  # noqa: E741 - the section's letter
DONE = ok(status=204, body=b"")
for method in ("POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO", "MKCOL", "get"):
    row(f"invalidates-{method}", I, fetch(ok("max-age=60")),
        fetch(DONE, method=method, cs={"fwd": "method"}), fetch(TWO))
for method in ("OPTIONS", "TRACE", "PROPFIND", "SEARCH", "REPORT", "QUERY"):
    row(f"safe-{method}", I, fetch(ok("max-age=60")), fetch(DONE, method=method), hit())
for status in (200, 201, 202, 204, 205, 301, 302, 303, 307, 308):
    row(f"invalidates-status-{status}", I, fetch(ok("max-age=60")),
        fetch(ok(status=status, body=b""), method="POST"), fetch(TWO))
for status in (400, 401, 403, 404, 409, 422, 500, 502, 503):
    row(f"keeps-status-{status}", I, fetch(ok("max-age=60")),
        fetch(ok(status=status, body=b"no"), method="POST"), hit())
row("keeps-after-exception", I, fetch(ok("max-age=60")),
    Step(method="POST", origin=(RAISES,), status=None), hit())
for name in ("Location", "Content-Location"):
    for kind, value in (
        ("absolute", "http://example.org/other"), ("path", "/other"), ("relative", "other"),
        ("authority", "//example.org/other"), ("port", "http://example.org:80/other"),
        ("host-case", "HTTP://EXAMPLE.org/other"), ("dots", "/a/../other"),
    ):
        row(f"invalidates-{name.lower()}-{kind}", I, fetch(ok("max-age=60"), target="/other"),
            fetch(ok(None, (name, value), status=201), method="POST", target="/a"),
            fetch(TWO, target="/other"))
    for kind, value in (
        ("host", "http://example.com/other"), ("port", "http://example.org:81/other"),
        ("scheme", "https://example.org/other"), ("other-path", "/OTHER"), ("bad", "http://[/other"),
        ("query", "/other?x"),
    ):
        row(f"keeps-{name.lower()}-{kind}", I, fetch(ok("max-age=60"), target="/other"),
            fetch(ok(None, (name, value), status=201), method="POST", target="/a"),
            hit(target="/other"))
    row(f"keeps-{name.lower()}-error", I, fetch(ok("max-age=60"), target="/other"),
        fetch(ok(None, (name, "/other"), status=400), method="POST", target="/a"),
        hit(target="/other"))
    row(f"keeps-{name.lower()}-safe", I, fetch(ok("max-age=60"), target="/other"),
        fetch(ok(None, (name, "/other"), status=201), target="/a"), hit(target="/other"))
row("invalidates-location-fragment", I, fetch(ok("max-age=60"), target="/other"),
    fetch(ok(None, ("Location", "/other#x"), status=201), method="POST", target="/a"),
    fetch(TWO, target="/other"))
row("invalidates-location-blanks", I, fetch(ok("max-age=60"), target="/other"),
    fetch(ok(None, ("Location", "  /other "), status=201), method="POST", target="/a"),
    fetch(TWO, target="/other"))
row("invalidates-location-query", I, fetch(ok("max-age=60"), target="/other?x=1"),
    fetch(ok(None, ("Location", "/other?x=1"), status=303), method="POST", target="/a"),
    fetch(TWO, target="/other?x=1"))
row("invalidates-both-locations", I, fetch(ok("max-age=60"), target="/x"),
    fetch(ok("max-age=60"), target="/y"), fetch(ok("max-age=60"), target="/a"),
    fetch(ok(None, ("Location", "/x"), ("Content-Location", "/y"), status=201), method="PUT",
          target="/a"),
    fetch(TWO, target="/x"), fetch(TWO, target="/y"), fetch(TWO, target="/a"))
row("invalidates-only-this", I, fetch(ok("max-age=60"), target="/a"), fetch(DONE, method="POST", target="/a/b"),
    hit(target="/a"))
row("invalidates-then-stores", I, fetch(ok("max-age=60")), fetch(DONE, method="POST"), fetch(TWO),
    hit(b"two"), fetch(DONE, method="POST"), fetch(ok("max-age=60")), hit())
row("keeps-other-query", I, fetch(ok("max-age=60"), target="/a?x=1"),
    fetch(DONE, method="POST", target="/a"), hit(target="/a?x=1"))
row("invalidates-query", I, fetch(ok("max-age=60"), target="/a?x=1"),
    fetch(DONE, method="POST", target="/a?x=1"), fetch(TWO, target="/a?x=1"))
row("invalidates-escaped", I, fetch(ok("max-age=60"), target="/a%20b"),
    fetch(DONE, method="POST", target="/a%20b"), fetch(TWO, target="/a%20b"))
row("keeps-other-host", I, fetch(ok("max-age=60"), ("Host", "a.example")),
    fetch(DONE, method="POST"), hit(b"one", ("Host", "a.example")))
row("invalidates-port", I, fetch(ok("max-age=60"), ("Host", "a.example:8080")),
    fetch(DONE, ("Host", "a.example:8080"), method="POST"), fetch(TWO, ("Host", "a.example:8080")))
for host in ("example.org:080", "example.org:"):
    # However a target is spelled, what was stored for it goes.
    row(f"invalidates-host-{host}", I,
        Step(headers=(("Host", host),), origin=(ok("max-age=60"),), cs={"hit": None}),
        Step(headers=(("Host", host),), method="POST", origin=(DONE,), status=204, cs={}),
        Step(headers=(("Host", host),), origin=(TWO,), content=b"two", cs={"hit": None}))
row("unsafe-not-stored", "3", fetch(ok("max-age=60"), method="POST"), fetch(TWO))
row("unsafe-not-answered", "4", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"posted"), method="POST"))
row("invalidates-stale-too", I, fetch(ok("max-age=10, stale-while-revalidate=60")),
    fetch(DONE, method="POST", advance=20), fetch(TWO))
row("invalidates-sie-too", I, fetch(ok("max-age=10, stale-if-error=60")),
    fetch(DONE, method="POST"), fetch(FAIL))

# -- RFC 9110 9.3.3: POST --------------------------------------------------------------------------

P = "RFC 9110 9.3.3"


def posted(
    cc: str | None = "max-age=60", *lines: tuple[str, str], where: str | None = "/", **kw: Any
) -> Reply:
    """A response to POST, with this Content-Location."""
    location = () if where is None else (("Content-Location", where),)
    return ok(cc, *location, *lines, body=b"posted", **kw)


def post(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """It is not stored, unless ``stored``."""
    stored = kw.pop("stored", None)
    kw = {"method": "POST", "body": b"a=b", **kw}
    return fetch(reply, *headers, cs={"fwd": "method", "stored": stored}, **kw)


def post_reused(id_: str, rfc: str, reply: Reply, *headers: tuple[str, str], **kw: Any) -> None:
    row(id_, rfc, post(reply, *headers, stored=True), hit(b"posted"), **kw)


def post_not_reused(id_: str, rfc: str, reply: Reply, *headers: tuple[str, str], **kw: Any) -> None:
    row(id_, rfc, post(reply, *headers), fetch(TWO, cs={"fwd": "uri-miss"}), **kw)


for what, reply in (
    ("max-age", posted()), ("s-maxage", posted("s-maxage=60")), ("public", posted("public, max-age=60")),
    ("expires", posted(None, DAY, ("Expires", at(60)))),
    ("cdn", posted("no-store", ("CDN-Cache-Control", "max-age=60"))),
):
    post_reused(f"post-{what}", P, reply)
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
    post_not_reused(f"post-{what}", P, reply)
for status in (201, 203, 204, 206, 301, 303, 400, 404, 500, 503):
    post_not_reused(f"post-status-{status}", P,
        Reply(status=status, lines=(cc("max-age=60"), ("Content-Location", "/")), body=b"" if status == 204 else b"one"))
for method in ("PUT", "PATCH", "DELETE", "post"):
    row(f"post-not-{method}", P, fetch(posted(), method=method, body=b"a=b", cs={"stored": None}), fetch(TWO))
post_not_reused("post-rule", P, posted(None), rules=rule(ttl=60))
post_not_reused("post-rule-override", P, posted(), rules=rule(ttl=60, override=True))
post_not_reused("post-heuristic", P, posted("public", LM, DAY), heuristic=0.1)
row("post-bypass", P, post(posted()), fetch(TWO, cs={"fwd": "bypass"}), rules=rule(bypass=True))
row("post-rule-vary", P, post(posted(), ("X-A", "1"), stored=True), hit(b"posted", ("X-A", "1")),
    fetch(TWO, ("X-A", "2")), rules=rule(vary=["X-A"]))
row("post-rule-tags", P, post(posted(), stored=True), purge(tags="x"), fetch(TWO), rules=rule(tags=["x"]))
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
    post_not_reused(f"post-{name}", P, posted("public, max-age=60"), (name, "PUT"))
post_not_reused("post-content-range", "3.3", posted("max-age=60", ("Content-Range", "bytes 0-5/99")), ("Range", "bytes=0-5"))
post_not_reused("post-content-range-unasked", "3.3", posted("max-age=60", ("Content-Range", "bytes 0-5/99")))
post_not_reused("post-request-no-store", "5.2.1.5", posted(), cc("no-store"))
for name, value in (("If-Match", '"x"'), ("If-None-Match", '"abc"'), ("Range", "bytes=0-1"), ("Pragma", "no-cache")):
    post_reused(f"post-{name}", P, posted("max-age=60", ETAG), (name, value))
row("post-upgrade", P, post(posted(), ("Connection", "upgrade"), ("Upgrade", "x")), fetch(TWO))
row("post-replaces", P, fetch(TWO), hit(b"two"), post(posted(), stored=True), hit(b"posted", cs={"ttl": 60}),
    hit(b"", method="HEAD", advance=5, has={"age": "5", "content-length": "6", "content-location": "/"}))
row("post-twice", P, post(posted(), stored=True), post(ok("max-age=60", ("Content-Location", "/"), body=b"again"), stored=True),
    hit(b"again"))
row("post-then-not-storable", P, post(posted(), stored=True), post(posted("no-store")), fetch(TWO))
row("post-then-error", P, post(posted(), stored=True), post(ok(status=500, body=b"no")), hit(b"posted"))
row("post-then-other", P, post(posted(), stored=True), fetch(DONE, method="DELETE"), fetch(TWO))
row("post-not-answered-by-it", P, post(posted(), stored=True), post(posted(), stored=True))
row("post-freshness", P, post(posted(takes=10), stored=True), hit(b"posted", advance=49), fetch(TWO, advance=1))
row("post-validated", P, post(posted("max-age=10", ETAG), stored=True),
    validated(unchanged("max-age=60"), b"posted", advance=10, saw={"if-none-match": '"abc"'}), hit(b"posted"))
row("post-conditional", P, post(posted("max-age=60", ETAG), stored=True), hit(b"", INM, status=304))
row("post-swr", P, post(posted("max-age=10, stale-while-revalidate=30"), stored=True), stale(b"posted", TWO, advance=20),
    hit(b"two"))
row("post-vary", P, post(posted("max-age=60", ("Vary", "Accept")), ("Accept", "a/b"), stored=True),
    hit(b"posted", ("Accept", "a/b")), fetch(TWO, ("Accept", "c/d")))
row("post-vary-content-type", P,  # of the POST's content, which no GET has
    post(posted("max-age=60", ("Vary", "Content-Type")), ("Content-Type", "text/plain"), stored=True), fetch(TWO))
row("post-tags", P, post(posted("max-age=60", ("Cache-Tag", "a")), stored=True, has={"cache-tag": None}), hit(b"posted"),
    purge(tags="a"), fetch(TWO))
row("post-own-group", P,  # it invalidates a group of its own, and is newer than that
    fetch(grouped('"a"'), target="/b"),
    post(posted("max-age=60", ("Cache-Groups", '"a"'), ("Cache-Group-Invalidation", '"a"')), stored=True),
    hit(b"posted"), fetch(TWO, target="/b"))
row("post-purged", P, post(posted(), stored=True), purge(), fetch(TWO))
row("post-marker", P, fetch(ok()), post(posted(), stored=True), hit(b"posted"))
row("post-exception", P, Step(method="POST", origin=(RAISES,), status=None), fetch(TWO))
row("post-chunks", P, post(posted(chunks=3)), hit(b"posted"))
row("post-too-large", P, post(posted()), fetch(TWO), max_body=5)
row("post-too-large-announced", P, post(posted("max-age=60", ("Content-Length", "6"))), fetch(TWO), max_body=5)
row("post-length-mismatch", "3.3", post(posted("max-age=60", ("Content-Length", "7")), stored=True), fetch(TWO))
row("post-own-stamp", "G3", post(posted(), stored=True), fetch(DONE, target="/else", method="POST"), hit(b"posted"))

# -- RFC 9110 12.5.4: Accept-Language --------------------------------------------------------------

LANG = ("Vary", "Accept-Language")


def al(value: str) -> tuple[str, str]:
    return ("Accept-Language", value)


def german(cc: str = "max-age=60", *lines: tuple[str, str], tag: str | None = "de", vary: str = "Accept-Language") -> Reply:
    return ok(cc, ("Vary", vary), *(() if tag is None else (("Content-Language", tag),)), *lines)


A = "RFC 9110 12.5.4"
row("lang-order", A, fetch(german(), al("en, de")), fetch(TWO, al("de, en")))
row("lang-order-off", A, fetch(german(), al("en, de")), hit(b"one", al("de, en")), hit(b"one", al("DE;q=1,en")),
    fetch(TWO, al("de, en;q=0.9")), language_order=False)
row("lang-order-off-weights", A, fetch(german(), al("fr;q=0.5, en, de")), hit(b"one", al("de, en, fr;q=0.5")),
    fetch(TWO, al("de, en;q=0.5, fr")), language_order=False)
ACCEPT = ("Vary", "Accept")
row("lang-order-off-is-not-about-media-types", A, fetch(ok("max-age=60", ACCEPT), ("Accept", "text/html, text/plain")),
    fetch(TWO, ("Accept", "text/plain, text/html")), language_order=False)
MATCH: dict[str, Any] = {"language_match": True}


def spoken(id_: str, reply: Reply, *headers: tuple[str, str], asked: tuple = (al("en, de"),), **kw: Any) -> None:
    """Stored for ``asked``, and used for a request with these headers."""
    row(f"lang-{id_}", A, fetch(reply, *asked), hit(b"one", *headers), hit(b"one", *asked), **MATCH, **kw)


def not_spoken(id_: str, reply: Reply, *headers: tuple[str, str], asked: tuple = (al("en, de"),), **kw: Any) -> None:
    row(f"lang-not-{id_}", A, fetch(reply, *asked),
        fetch(german(), *headers, cs={"fwd": "vary-miss"}), **{**MATCH, **kw})


for value in ("de", "de;q=0.1", "fr;q=0.5, de;q=1.0", "de, *;q=0.5", "DE,en;q=0.9", "de,de-AT;q=0.9,en;q=0.9", "fr;q=0, de;q=0.001"):
    spoken(f"prefers-{value}", german(), al(value))
for value in ("de, fr", "*", "de, *", "de-AT", "de-AT, de;q=0.9", "fr, de;q=0.9", "de;q=0", "de;q=2", "de;x=1", "de;q=1;x=1",
              "d\xe9", "", ",", "de, de", "x" * 1100 + ";q=0.1, de", "de_DE", "toolonglanguage"):
    not_spoken(f"prefers-{value[:20]}", german(), al(value))
not_spoken("silent", german())
not_spoken("without-the-option", german(), al("de"), language_match=False)
for tag in (None, "de-AT", "de, en", "en", "", "*", "german-language"):
    not_spoken(f"content-{tag}", german(tag=tag), al("de"))
spoken("content-case", german(tag="DE-at"), al("de-AT"))
BOTH_VARY = {"vary": "Accept-Language, X-A"}
spoken("others-agree", german(**BOTH_VARY), al("de"), ("X-A", "1"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("others-differ", german(**BOTH_VARY), al("de"), ("X-A", "2"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("others-absent", german(**BOTH_VARY), al("de"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("authorization", german(), al("de"), AUTH)
not_spoken("cookie-varies", german(vary="Accept-Language, Cookie"), al("de"), COOKIE)
row("lang-not-other-vary", A, fetch(german(vary="X-A"), ("X-A", "1"), al("en, de")), fetch(TWO, ("X-A", "2"), al("de")), **MATCH)
row("lang-stale", A, fetch(german("max-age=10, stale-while-revalidate=60", ETAG), al("en, de")),
    fetch(german(), al("de"), advance=20, saw={"if-none-match": None}), **MATCH)
row("lang-no-cache", A, fetch(german("no-cache", ETAG), al("en, de")), fetch(german(), al("de"), saw={"if-none-match": None}), **MATCH)
row("lang-request-no-cache", A, fetch(german("max-age=60", ETAG), al("en, de")),
    fetch(german(), al("de"), cc("no-cache"), saw={"if-none-match": None}), **MATCH)
row("lang-purged", A, fetch(german(), al("en, de")), hit(b"one", al("de")), purge(), fetch(german(), al("de")), **MATCH)
row("lang-own-first", A, fetch(german(), al("en, de")), fetch(ok("max-age=60", LANG, ("Content-Language", "en"), body=b"own"), al("en")),
    hit(b"own", al("en")), hit(b"one", al("en, de")), hit(b"one", al("de")), **MATCH)
row("lang-most-recent", A, fetch(german(), al("en, de")), fetch(ok("max-age=60", LANG, ("Content-Language", "de"), body=b"new"), al("fr, de")),
    hit(b"new", al("de")), **MATCH)
row("lang-head-304", A, fetch(german("max-age=60", ETAG), al("en, de")), hit(b"", al("de"), method="HEAD"),
    hit(b"", al("de"), INM, status=304), **MATCH)
row("lang-only-if-cached", A, fetch(german(), al("en, de")), hit(b"one", al("de"), cc("only-if-cached")), **MATCH)
row("lang-marker", "G4", fetch(german(), al("en, de")), fetch(ok("no-store", LANG), al("fr")), hit(b"one", al("de")), **MATCH)

# -- 5.2.1: request directives ---------------------------------------------------------------------


FRESH = ok("max-age=600", ETAG)
AGED = ok("max-age=600", ("Age", "300"))
row("req-no-cache", "5.2.1.4", fetch(ok("max-age=60")), fetch(TWO, cc("no-cache"), cs={"fwd": "request"}),
    hit(b"two"))
row("req-no-cache-etag", "5.2.1.4", fetch(FRESH),
    validated(unchanged(), b"one", cc("no-cache"), saw={"if-none-match": '"abc"'},
              cs={"fwd": "request"}), hit())
row("req-no-cache-lm", "5.2.1.4", fetch(ok("max-age=600", LM, DAY)),
    validated(unchanged(), b"one", cc("no-cache"), saw={"if-modified-since": at(-1000)}))
row("req-no-cache-case", "5.2", fetch(ok("max-age=60")), fetch(TWO, cc("No-Cache")))
row("req-max-age-0", "5.2.1.1", fetch(FRESH), validated(unchanged(), b"one", cc("max-age=0"), advance=1))
row("req-max-age-0-at-once", "5.2.1.1", fetch(FRESH), validated(unchanged(), b"one", cc("max-age=0")))
row("req-max-age", "5.2.1.1", fetch(FRESH), hit(b"one", cc("max-age=10"), advance=9),
    validated(unchanged(), b"one", cc("max-age=10"), advance=2, cs={"fwd": "request"}))
# "a response whose age is less than or equal to the specified number of seconds"
row("req-max-age-equal", "5.2.1.1", fetch(FRESH), hit(b"one", cc("max-age=10"), advance=10))
row("req-max-age-aged", "5.2.1.1", fetch(AGED), hit(b"one", cc("max-age=301")),
    fetch(TWO, cc("max-age=299")))
row("req-max-age-larger", "5.2.1.1", fetch(OLD), hit(b"one", cc("max-age=999"), advance=9),
    validated(unchanged(), b"one", cc("max-age=999"), advance=1, cs={"fwd": "stale"}))
row("req-max-age-invalid", "5.2.1.1", fetch(FRESH), hit(b"one", cc("max-age=x")))
row("req-min-fresh", "5.2.1.3", fetch(FRESH), hit(b"one", cc("min-fresh=600")),
    hit(b"one", cc("min-fresh=590"), advance=10),
    validated(unchanged(), b"one", cc("min-fresh=591"), cs={"fwd": "request"}))
row("req-min-fresh-aged", "5.2.1.3", fetch(AGED), hit(b"one", cc("min-fresh=300")),
    fetch(TWO, cc("min-fresh=301")))
row("req-max-stale", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-stale=20"), advance=30, cs={"ttl": -20}, has={"age": "30"}),
    validated(unchanged(), b"one", cc("max-stale=20"), advance=1))
row("req-max-stale-any", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-stale"), advance=1000, cs={"ttl": -990}))
row("req-max-stale-aged", "5.2.1.2", fetch(ok("max-age=1500", ("Age", "2000"), ETAG)),
    hit(b"one", cc("max-stale=1000"), cs={"ttl": -500}))
row("req-max-stale-invalid", "5.2.1.2", fetch(OLD),
    validated(unchanged(), b"one", cc("max-stale=x"), advance=30))
for name in ("must-revalidate", "proxy-revalidate", "s-maxage=10"):
    row(f"req-max-stale-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        validated(unchanged(), b"one", cc("max-stale"), advance=11))
row("req-max-stale-no-cache", "4.2.4", fetch(ok("max-age=10, no-cache", ETAG)),
    validated(unchanged(), b"one", cc("max-stale"), advance=11))
row("req-max-age-max-stale", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-age=5, max-stale=10"), advance=9),
    hit(b"one", cc("max-age=99, max-stale=10"), advance=10),
    validated(unchanged(), b"one", cc("max-age=5, max-stale=10")))
row("req-max-stale-beats-window", "5.2.1.2",
    fetch(ok("max-age=10, stale-while-revalidate=60", ETAG)),
    validated(unchanged(), b"one", cc("max-stale=1"), advance=20))
# RFC 5861 3: inside the window "the cache SHOULD attempt to revalidate it while still serving".
row("req-max-stale-in-window", "RFC 5861 3",
    fetch(ok("max-age=10, stale-while-revalidate=60")),
    Step(headers=(cc("max-stale=30"),), advance=20, content=b"one", refresh=TWO,
         cs={"hit": True, "ttl": -10}),
    hit(b"two"))
row("req-max-age-beats-window", "5.2.1.1",
    fetch(ok("max-age=10, stale-while-revalidate=60", ETAG)),
    validated(unchanged(), b"one", cc("max-age=100"), advance=20))
row("req-no-store", "5.2.1.5", fetch(ok("max-age=60"), cc("no-store"), cs={"stored": None}), fetch(TWO),
    hit(b"two"))
row("req-no-store-must-understand", "5.2.1.5",
    fetch(ok("must-understand, max-age=60"), cc("no-store")), fetch(TWO))
row("req-no-store-keeps-stored", "5.2.1.5", fetch(OLD),
    validated(unchanged("max-age=60"), b"one", cc("no-store"), advance=10, cs={"stored": None}),
    validated(unchanged("max-age=60")))
row("req-only-if-cached", "5.2.1.7",
    Step(headers=(cc("only-if-cached"),), status=504, members=0),
    fetch(ok("max-age=60")), hit(b"one", cc("only-if-cached")),
    Step(headers=(cc("only-if-cached"),), status=504, advance=60, members=0))
row("req-only-if-cached-max-stale", "5.2.1.7", fetch(OLD),
    hit(b"one", cc("only-if-cached, max-stale=99"), advance=30))
row("req-only-if-cached-window", "5.2.1.7", fetch(ok("max-age=10, stale-while-revalidate=60")),
    Step(headers=(cc("only-if-cached"),), advance=20, refresh=TWO, content=b"one", cs={"hit": True}))
row("req-only-if-cached-no-cache", "5.2.1.7", fetch(FRESH),
    Step(headers=(cc("only-if-cached, no-cache"),), status=504, members=0))
row("req-only-if-cached-head", "5.2.1.7",
    Step(method="HEAD", headers=(cc("only-if-cached"),), status=504, content=b"", members=0))
row("req-only-if-cached-range", "5.2.1.7",
    Step(headers=(cc("only-if-cached"), ("Range", "bytes=0-1")), status=504, members=0))
row("req-pragma", "5.4", fetch(ok("max-age=60")), fetch(TWO, ("Pragma", "no-cache")))
row("req-pragma-with-cc", "5.4", fetch(ok("max-age=60")),
    hit(b"one", ("Pragma", "no-cache"), cc("max-age=60")))
row("req-pragma-other", "5.4", fetch(ok("max-age=60")), hit(b"one", ("Pragma", "foo")))
row("req-unknown", "5.2.3", fetch(ok("max-age=60")), hit(b"one", cc("foo, bar=1")))
row("req-ignored", "5.2.1", fetch(ok("max-age=60")), hit(b"one", cc("no-cache, max-age=0")),
    hit(b"one", ("Pragma", "no-cache")), request_directives=False)
row("req-two-lines", "RFC 9110 5.3", fetch(ok("max-age=60")),
    fetch(TWO, cc("max-age=60"), cc("no-cache")))

# -- RFC 5861 section 3: stale-while-revalidate ----------------------------------------------------

SWR = "max-age=10, stale-while-revalidate=30"
row("swr", W, fetch(ok(SWR)), stale(b"one", TWO, advance=10, has={"age": "10"}, cs={"ttl": 0}),
    hit(b"two"))
row("swr-last", W, fetch(ok(SWR)), stale(b"one", TWO, advance=39, cs={"ttl": -29}), hit(b"two"))
row("swr-over", W, fetch(ok(SWR)), fetch(TWO, advance=40))
row("swr-over-validates", W, fetch(ok(SWR, ETAG)), validated(unchanged(), advance=40))
row("swr-refresh-validates", W, fetch(ok(SWR, ETAG)),
    stale(b"one", unchanged("max-age=60"), advance=20,
          saw={"if-none-match": '"abc"', "cookie": None}),
    hit(has={"age": "0"}))
row("swr-refresh-clean", W, fetch(ok(SWR, ETAG)),
    Step(headers=(("If-None-Match", '"x"'), ("If-Modified-Since", at(0)), ("X-A", "1")), advance=20,
         refresh=TWO, content=b"one", cs={"hit": True},
         saw={"if-none-match": '"abc"', "if-modified-since": None, "x-a": "1"}),
    hit(b"two"))
row("swr-304-to-client", W, fetch(ok(SWR, ETAG)),
    Step(headers=(INM,), advance=20, refresh=TWO, status=304, content=b"", cs={"hit": True}))
row("swr-refresh-fails", W, fetch(ok(SWR)), stale(b"one", FAIL, advance=20),
    stale(b"one", RAISES, advance=1), stale(b"one", TWO, advance=1), hit(b"two"))
row("swr-refresh-private", W, fetch(ok(SWR)), stale(b"one", ok("private", body=b"me"), advance=20),
    fetch(TWO))
row("swr-refresh-304-mismatch", W, fetch(ok(SWR, ETAG)),
    stale(b"one", unchanged("max-age=60", ("ETag", '"x"')), advance=20), fetch(TWO, advance=20))
row("swr-own-age", W, fetch(ok(SWR, ("Age", "5"))), stale(b"one", TWO, advance=5))
row("swr-vary", W, fetch(ok(SWR, *VARY), *f("1")),
    stale(b"one", ok("max-age=60", *VARY, body=b"two"), *f("1"), advance=20, saw={"foo": "1"}),
    hit(b"two", *f("1")), fetch(ok("max-age=60", *VARY, body=b"three"), *f("2")))
for name in ("must-revalidate", "proxy-revalidate"):
    row(f"swr-{name}", "4.2.4", fetch(ok(f"{SWR}, {name}")), fetch(TWO, advance=20))
row("swr-no-cache", "4.2.4", fetch(ok(f"{SWR}, no-cache", ETAG)), validated(unchanged(), advance=20))
# "a cache extension can override any of the requirements listed" (section 4): the origin that says
# both means both; our reading of a case in which 4.2.4 would forbid it.
row("swr-s-maxage", "4, 5.2.2.10", fetch(ok("s-maxage=10, stale-while-revalidate=30")),
    stale(b"one", TWO, advance=20))
row("swr-s-maxage-must-revalidate", "4.2.4",
    fetch(ok("s-maxage=10, must-revalidate, stale-while-revalidate=30")), fetch(TWO, advance=20))
for name, value in (("invalid", "x"), ("negative", "-1"), ("zero", "0")):
    row(f"swr-{name}", W, fetch(ok(f"max-age=10, stale-while-revalidate={value}")),
        fetch(TWO, advance=11))
row("swr-request-no-cache", "5.2.1.4", fetch(ok(SWR)), fetch(TWO, cc("no-cache"), advance=20))
row("swr-request-min-fresh", "5.2.1.3", fetch(ok(SWR)), fetch(TWO, cc("min-fresh=1"), advance=20))
row("swr-max-age-0", W, fetch(ok("max-age=0, stale-while-revalidate=30")),
    stale(b"one", TWO, advance=1))
row("swr-huge", "1.2.2", fetch(ok("max-age=10, stale-while-revalidate=99999999999")),
    stale(b"one", TWO, advance=10**8), hit(b"two"))
row("swr-quoted", W, fetch(ok('max-age=10, stale-while-revalidate="30"')), stale(b"one", TWO, advance=20))
row("swr-expires", W, fetch(ok("stale-while-revalidate=30", ("Expires", at(10)), DAY)),
    stale(b"one", TWO, advance=20), hit(b"two"))
row("swr-refresh-5xx-keeps-validator", W, fetch(ok(SWR, ETAG)), stale(b"one", FAIL, advance=20),
    validated(unchanged("max-age=60"), advance=30, saw={"if-none-match": '"abc"'}), hit())
row("swr-authorization", "3.5", fetch(ok(f"public, {SWR}"), AUTH),
    stale(b"one", ok(f"public, {SWR}", body=b"two"), AUTH, advance=20), hit(b"two", AUTH), hit(b"two"))
row("swr-only-public", "3.5", fetch(ok(SWR)), fetch(ok(SWR, body=b"mine"), AUTH, advance=20),
    stale(b"one", TWO))
row("swr-alone", W, fetch(ok("stale-while-revalidate=30")), fetch(TWO, advance=1))
row("swr-no-refreshes", "G7", fetch(ok(SWR)), stale(b"one", None, advance=20),
    stale(b"one", None, advance=1), background_refreshes=0)

# -- RFC 5861 section 4: stale-if-error ------------------------------------------------------------

X = "RFC 5861 4"
SIE = "max-age=10, stale-if-error=30"
for status in (500, 502, 503, 504):
    row(f"sie-{status}", X, fetch(ok(SIE)),
        instead(b"one", ok("no-store", status=status), advance=20, has={"age": "20"},
                cs={"ttl": -10, "fwd-status": status}))
row("sie-exception", X, fetch(ok(SIE)), instead(b"one", RAISES, advance=20, cs={"ttl": -10}))
row("sie-again", X, fetch(ok(SIE)), instead(b"one", FAIL, advance=20),
    instead(b"one", FAIL, advance=1), fetch(TWO), hit(b"two"))
row("sie-validates", X, fetch(ok(SIE, ETAG)),
    instead(b"one", FAIL, advance=20, saw={"if-none-match": '"abc"'}))
row("sie-over", X, fetch(ok(SIE)), fetch(FAIL, advance=40))
row("sie-over-exception", X, fetch(ok(SIE)), fetch(RAISES, advance=40))
for status in (404, 400, 429, 501, 505):
    row(f"sie-not-{status}", X, fetch(ok(SIE)), fetch(ok(status=status), advance=20))
for name in ("must-revalidate", "proxy-revalidate"):
    row(f"sie-{name}", "4.2.4", fetch(ok(f"{SIE}, {name}")), fetch(FAIL, advance=20))
    row(f"sie-request-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        fetch(FAIL, cc("stale-if-error=99"), advance=20))
row("sie-no-cache", "4.2.4", fetch(ok(f"{SIE}, no-cache", ETAG)), fetch(FAIL, advance=1))
row("sie-s-maxage", "4, 5.2.2.10", fetch(ok("s-maxage=10, stale-if-error=30")),
    instead(b"one", FAIL, advance=20))
row("sie-none", "4.2.4", fetch(OLD), fetch(FAIL, advance=20))
row("sie-request", X, fetch(OLD), instead(b"one", FAIL, cc("stale-if-error=30"), advance=20))
row("sie-request-over", X, fetch(OLD), fetch(FAIL, cc("stale-if-error=5"), advance=20))
row("sie-request-s-maxage", "4.2.4", fetch(ok("s-maxage=10", ETAG)),
    fetch(FAIL, cc("stale-if-error=30"), advance=20))
row("sie-head", X, fetch(ok(SIE)), instead(b"", FAIL, method="HEAD", advance=20))
row("sie-304-to-client", X, fetch(ok(SIE, ETAG)),
    instead(b"", FAIL, INM, advance=20, status=304))
row("sie-swr-then-error", X,
    fetch(ok("max-age=10, stale-while-revalidate=10, stale-if-error=60")),
    stale(b"one", FAIL, advance=15), instead(b"one", FAIL, advance=10))
row("sie-cacheable-error", X, fetch(ok(SIE)),
    instead(b"one", ok("max-age=60", status=503), advance=20), instead(b"one", FAIL))
row("sie-vary", X, fetch(ok(SIE, *VARY), *f("1")), instead(b"one", FAIL, *f("1"), advance=20),
    fetch(FAIL, *f("2")))
row("sie-only-public", "3.5", fetch(ok(SIE)), fetch(FAIL, AUTH, advance=20), instead(b"one", FAIL))
row("sie-after-mismatch", U, fetch(ok(SIE, ETAG)),
    Step(advance=20, origin=(unchanged("max-age=60", ("ETag", '"x"')), FAIL), status=503,
         content=b"down", cs={"hit": None}))
row("sie-request-max-age", X, fetch(ok(SIE)), instead(b"one", FAIL, cc("max-age=100"), advance=20))
row("sie-no-stored", X, fetch(FAIL), fetch(RAISES))

# -- 4.2.4: an origin that cannot be reached -------------------------------------------------------

D = "4.2.4"
PLAIN = ok("max-age=10")


def disconnected(id_: str, *steps: Step, rfc: str = D, **kw: Any) -> None:
    row(f"unreachable-{id_}", rfc, *steps, **{"stale_if_unreachable": 60, **kw})


disconnected("closed", fetch(PLAIN), unreachable(b"one", LOST, advance=20, has={"age": "20"},
    cs={"ttl": -10, "fwd-status": None}), unreachable(b"one", LOST, advance=1), fetch(TWO), hit(b"two"))
for status in (502, 503, 504):
    disconnected(f"{status}", fetch(PLAIN), unreachable(b"one", ok("no-store", status=status), advance=20,
        cs={"fwd-status": status}), rfc="4.3.3")
for status in (500, 501, 505, 404):
    disconnected(f"not-{status}", fetch(PLAIN), fetch(ok("no-store", status=status), advance=20))
disconnected("not-any-error", fetch(PLAIN), fetch(RAISES, advance=20))
disconnected("off", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=20), stale_if_unreachable=None)
disconnected("zero", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=20), stale_if_unreachable=0)
disconnected("over", fetch(PLAIN), fetch(LOST, advance=70))
disconnected("over-but-kept", fetch(ok("max-age=10", ETAG)), fetch(LOST, advance=70),
    validated(unchanged(), advance=1))
disconnected("at-the-end", fetch(PLAIN), unreachable(b"one", LOST, advance=69))
disconnected("validates", fetch(ok("max-age=10", ETAG)),
    unreachable(b"one", LOST, advance=20, saw={"if-none-match": '"abc"'}))
for cc_ in ("must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache", "no-cache=\"x\", must-revalidate"):
    disconnected(f"not-{cc_}", fetch(ok(f"max-age=10, {cc_}", ETAG)), fetch(LOST, advance=20))
    disconnected(f"nor-kept-{cc_}", fetch(ok(f"max-age=10, {cc_}")), fetch(LOST, advance=20))
disconnected("never-fresh", fetch(ok("max-age=0", ETAG)), unreachable(b"one", LOST, advance=20))
disconnected("never-fresh-nor-kept", fetch(ok("max-age=0"), cs={"detail": "expired"}), fetch(LOST, advance=1))
disconnected("after-a-purge", fetch(PLAIN), purge(), fetch(LOST, advance=20))
disconnected("after-an-unsafe-request", fetch(PLAIN), fetch(ok(status=204, body=b""), method="POST"),
    fetch(LOST, advance=20))
disconnected("longer-than-stale-if-error", fetch(ok("max-age=10, stale-if-error=20")),
    instead(b"one", LOST, advance=20), unreachable(b"one", LOST, advance=20))
disconnected("shorter-than-stale-if-error", fetch(ok("max-age=10, stale-if-error=99")),
    instead(b"one", LOST, advance=80))
disconnected("stale-if-error-0", fetch(ok("max-age=10, stale-if-error=0")), unreachable(b"one", LOST, advance=20))
disconnected("authorization", fetch(PLAIN), fetch(LOST, AUTH, advance=20), unreachable(b"one", LOST), rfc="3.5")
disconnected("rule-for-no-cookies", fetch(ok()), fetch(LOST, COOKIE, advance=20), unreachable(b"one", LOST),
    rfc="G1", rules=rule(ttl=10))
disconnected("head", fetch(PLAIN), unreachable(b"", LOST, method="HEAD", advance=20))
disconnected("other-variant", fetch(ok("max-age=10", *VARY), *f("1")), fetch(LOST, *f("2"), advance=20),
    unreachable(b"one", LOST, *f("1")))
disconnected("nothing-stored", fetch(LOST))
disconnected("then-304", fetch(ok("max-age=10", ETAG)), unreachable(b"one", LOST, advance=20),
    validated(unchanged("max-age=10")), hit(), unreachable(b"one", LOST, advance=20))
disconnected("head-freshens-later", fetch(PLAIN), fetch(ok("max-age=60"), method="HEAD", advance=20), hit(),
    rfc="4.3.5")
disconnected("collapsed", fetch(PLAIN), Step(concurrent=4, advance=20, origin=(LOST,), content=b"one",
    cs={"detail": "stale-if-unreachable"}))
disconnected("refresh", fetch(ok("max-age=10, stale-while-revalidate=20")), stale(b"one", LOST, advance=20),
    unreachable(b"one", LOST, advance=20), rfc=W)

# -- RFC 9211: Cache-Status ------------------------------------------------------------------------

C = "RFC 9211 2"
row("cs-hit", "RFC 9211 2.1, 2.4", fetch(ok("max-age=60")),
    hit(advance=10, cs={"ttl": 50, "stored": None, "detail": None, "key": None}))
row("cs-uri-miss", "RFC 9211 2.2", fetch(ok("max-age=60"), cs={"fwd": "uri-miss", "stored": True}))
row("cs-vary-miss", "RFC 9211 2.2", fetch(ok("max-age=60", *VARY), *f("1")),
    fetch(ok("max-age=60", *VARY), *f("2"), cs={"fwd": "vary-miss", "stored": True}))
row("cs-stale", "RFC 9211 2.2", fetch(OLD),
    fetch(TWO, advance=10, cs={"fwd": "stale", "fwd-status": None, "stored": True}))
row("cs-request", "RFC 9211 2.2", fetch(FRESH), fetch(TWO, cc("no-cache"), cs={"fwd": "request"}))
row("cs-request-on-stale", "RFC 9211 2.2", fetch(OLD),
    fetch(TWO, cc("min-fresh=1"), advance=10, cs={"fwd": "stale"}))
row("cs-method", "RFC 9211 2.2", fetch(DONE, method="POST", cs={"fwd": "method", "stored": None}))
row("cs-bypass", "RFC 9211 2.2", fetch(ok(), ("Range", "lines=0-1"), cs={"fwd": "bypass"}))
row("cs-refused", "RFC 9211 2.8", fetch(ok("no-store"),
    cs={"fwd": "uri-miss", "detail": "no-store", "stored": None}))
row("cs-validated", "RFC 9211 2.3", fetch(OLD),
    validated(unchanged(), advance=10, cs={"fwd": "stale", "stored": True}))
ORIGIN = ("Cache-Status", "Origin; fwd=miss")
row("cs-appended", C,
    fetch(ok("max-age=60", ORIGIN), members=2, cs={"fwd": "uri-miss"}), hit(members=2))
row("cs-appended-lines", C,
    fetch(ok("max-age=60", ORIGIN, ("Cache-Status", "Inner; hit")), members=3), hit(members=3))
row("cs-appended-pass", C, fetch(ok(None, ORIGIN), ("Range", "lines=0-1"), members=2),
    fetch(ok(None, ORIGIN), method="POST", members=2))
row("cs-appended-refused", C, fetch(ok("no-store", ORIGIN), members=2))
row("cs-appended-304", C, fetch(ok("max-age=60", ORIGIN, ETAG), members=2),
    Step(headers=(INM,), status=304, content=b"", cs={"hit": True}, members=2))
row("cs-off", C, *(Step(origin=(ok("max-age=60"),) if n == 0 else (), content=b"one")
                   for n in range(2)), cache_status=False)

# -- collapsed forwarding --------------------------------------------------------------------------

G = "4, G2"
row("collapse", G, Step(concurrent=5, origin=(ok("max-age=60"),), content=b"one", cs={}), hit())
row("collapse-chunks", "G8",
    Step(concurrent=5, origin=(ok("max-age=60", body=b"0123456789", chunks=4),),
         content=b"0123456789", cs={}))
row("collapse-not-shareable", "G4",
    Step(concurrent=3, origin=(ok("no-store"),) * 3, content=b"one", cs={}))
row("collapse-vary", "4.1", Step(concurrent=3, headers=f("1"), origin=(ok("max-age=60", *VARY),),
                                 content=b"one", cs={}), fetch(TWO, *f("2")))
row("collapse-validation", "4.3", fetch(OLD),
    Step(concurrent=4, advance=10, origin=(unchanged("max-age=60"),), content=b"one", cs={}), hit())
row("collapse-set-cookie", "G1",
    Step(concurrent=3, origin=(ok("max-age=60", ("Set-Cookie", "a=b")),) * 3, content=b"one", cs={}))
row("collapse-sie", X, fetch(ok(SIE)),
    Step(concurrent=3, advance=20, origin=(FAIL,), content=b"one", cs={}))
row("collapse-authorization", "3.5",
    Step(concurrent=2, headers=(AUTH,), origin=(ok("public, max-age=60"),) * 2, content=b"one", cs={}))
row("collapse-off", G, Step(concurrent=3, origin=(ok("max-age=60"),) * 3, content=b"one", cs={}),
    collapse=False)

# -- RFC 9110 14 and 15.3.7: a range of what is stored ---------------------------------------------

R = "RFC 9110 14.2"
DIGITS = b"0123456789"


def bytes_(value: str) -> tuple[str, str]:
    return ("Range", f"bytes={value}")


def digits(cc: str = "max-age=60", *lines: tuple[str, str], **kw: Any) -> Reply:
    """All ten of them."""
    return ok(cc, *lines, **{"body": DIGITS, **kw})


def part(
    first: int, last: int, *lines: tuple[str, str], cc: str | None = "max-age=60", **kw: Any
) -> Reply:
    """Some of them, as a 206."""
    kw = {"status": 206, "body": DIGITS[first : last + 1], **kw}
    return ok(cc, ("Content-Range", f"bytes {first}-{last}/10"), *lines, **kw)


def cut(first: int, last: int, *headers: tuple[str, str], **kw: Any) -> Step:
    """That range, from the store."""
    kw = {"has": {}, **kw}
    kw["has"] = {"content-range": f"bytes {first}-{last}/10", "content-length": str(last - first + 1),
                 **kw["has"]}
    return hit(DIGITS[first : last + 1], *headers, **{"status": 206, **kw})


for name, value, first, last in (
    ("first-last", "2-4", 2, 4), ("one", "0-0", 0, 0), ("open", "7-", 7, 9), ("suffix", "-3", 7, 9),
    ("all", "0-", 0, 9), ("beyond", "5-99", 5, 9), ("suffix-long", "-99", 0, 9),
    ("huge", "3-" + "9" * 40, 3, 9), ("one-satisfiable", "3-4,10-", 3, 4), ("overlapping", "1-4,3-6", 1, 6),
    ("touching", "3-4, 1-2", 1, 4), ("empty-members", ",, 8-8 ,", 8, 8)):
    row(f"range-{name}", R, fetch(digits()), cut(first, last, bytes_(value)))
for name, value in (("first", "10-"), ("last", "10-20"), ("suffix-0", "-0"), ("huge", "9" * 40 + "-"),
                    ("all", "10-11,20-")):
    row(f"range-416-{name}", "RFC 9110 15.5.17", fetch(digits("max-age=60", ETAG, ("X-A", "1"))),
        hit(b"", bytes_(value), status=416,
            has={"content-range": "bytes */10", "content-length": "0", "cache-control": None,
                 "etag": None, "x-a": "1"}))
row("range-empty", R, fetch(ok("max-age=60", body=b"")),
    hit(b"", bytes_("0-"), status=416, has={"content-range": "bytes */0"}),
    hit(b"", bytes_("-5"), has={"content-range": None}))
for name, value in (("unit", "lines=0-1"), ("no-unit", "0-1"), ("letters", "bytes=a-b"), ("plus", "bytes=+1-2"),
                    ("nothing", "bytes="), ("hyphen", "bytes=-"), ("reversed", "bytes=4-2"), ("float", "bytes=1.0-2"),
                    ("many", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 200, 2)))):
    row(f"range-ignored-{name}", R, fetch(digits()), hit(DIGITS, ("Range", value), has={"content-range": None}))
OF_CONTENT = (
    "Content-Digest", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-MD5",
    "Content-Type", "Digest", "ETag", "Expires", "Last-Modified", "Repr-Digest", "Surrogate-Control")
row("range-416-says-nothing-of-content", "RFC 9110 15.5.17",
    fetch(digits("max-age=60", ("X-A", "1"), *((name, '"x"') for name in OF_CONTENT))),
    hit(b"", bytes_("99-"), status=416, lines=(("content-range", "bytes */10"), ("content-length", "0"), ("x-a", "1"))))
row("range-head", R, fetch(digits()), hit(b"", bytes_("0-1"), method="HEAD", has={"content-length": "10"}))
row("range-404", R, fetch(digits(status=404)), hit(DIGITS, bytes_("0-1"), status=404))
row("range-fields", "RFC 9110 15.3.7",
    fetch(digits("max-age=60", ETAG, DAY, ("Content-Type", "text/x"), ("Content-Digest", "sha-256=:AA==:"),
                 ("Accept-Ranges", "bytes"), ("X-A", "1"))),
    cut(0, 1, bytes_("0-1"), advance=2,
        has={"etag": '"abc"', "date": at(0), "content-type": "text/x", "content-digest": None, "age": "2",
             "accept-ranges": "bytes", "x-a": "1", "cache-control": "max-age=60"}))
row("range-invents-nothing", "RFC 9110 14.3", fetch(digits()), cut(0, 1, bytes_("0-1"), has={"accept-ranges": None}))
row("range-not-modified", "RFC 9110 13.2.2", fetch(digits("max-age=60", ETAG)),
    hit(b"", bytes_("0-1"), INM, status=304), cut(0, 1, bytes_("0-1"), ("If-None-Match", '"x"')))
row("range-vary", "4.1", fetch(digits("max-age=60", *VARY), *f("1")), cut(0, 1, bytes_("0-1"), *f("1")),
    fetch(part(0, 1, *VARY), bytes_("0-1"), *f("2")))
row("range-stale-validated", "4.3.3", fetch(digits("max-age=10", ETAG)),
    Step(headers=(bytes_("2-3"),), advance=10, origin=(unchanged("max-age=60"),), status=206, content=b"23",
         cs={"hit": None, "fwd": "stale", "fwd-status": 304},
         saw={"range": "bytes=2-3", "if-none-match": '"abc"', "if-range": None}),
    cut(4, 5, bytes_("4-5")))
row("range-stale-changed", "4.3.3", fetch(digits("max-age=10", ETAG)),
    fetch(part(2, 3, ("ETag", '"new"')), bytes_("2-3"), advance=10), cut(2, 3, bytes_("2-3")), fetch(TWO))
row("range-stale-same-part", "3.4", fetch(digits("max-age=10", ETAG)),
    fetch(part(2, 3, ETAG), bytes_("2-3"), advance=10), cut(4, 5, bytes_("4-5")), hit(DIGITS))
row("range-swr", W, fetch(digits(SWR)),
    stale(b"23", digits(), bytes_("2-3"), advance=10, status=206), hit(DIGITS))
row("range-sie", X, fetch(digits(SIE)),
    instead(b"23", FAIL, bytes_("2-3"), advance=20, status=206))
row("range-max-stale", "5.2.1.2", fetch(digits("max-age=10", ETAG)),
    cut(0, 1, bytes_("0-1"), cc("max-stale"), advance=20))
row("range-authorization", "3.5", fetch(digits("public, max-age=60")), cut(0, 1, bytes_("0-1"), AUTH))

# 13.1.5
IF_RANGE = "RFC 9110 13.1.5"
for name, lines, value, holds in (
    ("strong", (ETAG,), '"abc"', True), ("other", (ETAG,), '"x"', False), ("weak-both", (("ETag", 'W/"abc"'),), 'W/"abc"', False),
    ("weak-stored", (("ETag", 'W/"abc"'),), '"abc"', False), ("weak-asked", (ETAG,), 'W/"abc"', False),
    ("none-stored", (), '"abc"', False), ("list", (ETAG,), '"abc", "x"', False), ("unquoted", (("ETag", "abc"),), "abc", False),
    ("date", (LM, DAY), at(-1000), True), ("date-other", (LM, DAY), at(-999), False), ("date-later", (LM, DAY), at(0), False),
    ("date-weak", (("Last-Modified", at(0)), DAY), at(0), False), ("date-no-date", (LM,), at(-1000), False),
    ("date-and-tag", (LM, DAY, ETAG), at(-1000), True), ("garbage", (ETAG,), "yes", False), ("empty", (ETAG,), "", False)):
    row(f"if-range-{name}", IF_RANGE, fetch(digits("max-age=60", *lines)),
        cut(2, 3, bytes_("2-3"), ("If-Range", value)) if holds else
        hit(DIGITS, bytes_("2-3"), ("If-Range", value), has={"content-range": None}))

# -- 3.3: parts, stored ----------------------------------------------------------------------------

P = "3.3"
row("part", P, fetch(part(2, 5), bytes_("2-5"), saw={"range": "bytes=2-5"}, cs={"fwd": "uri-miss", "stored": True}),
    cut(2, 5, bytes_("2-5")), cut(3, 4, bytes_("3-4")), cut(5, 5, bytes_("5-5")),
    fetch(TWO, cs={"fwd": "partial", "stored": True}, saw={"range": None}), hit(b"two"))
row("part-suffix", P, fetch(part(6, 9), bytes_("-4")), cut(6, 9, bytes_("-4")), cut(8, 9, bytes_("-2")), cut(7, 9, bytes_("7-")),
    cut(7, 9, bytes_("7-99")))
row("part-not-covering", P, fetch(part(2, 5), bytes_("2-5")),
    fetch(part(6, 7), bytes_("6-7"), cs={"fwd": "partial"}), fetch(part(2, 5), bytes_("2-5")))
row("part-of-unknown-length", P,
    fetch(ok("max-age=60", ("Content-Range", "bytes 2-5/*"), status=206, body=b"2345"), bytes_("2-5")),
    hit(b"34", bytes_("3-4"), status=206, has={"content-range": "bytes 3-4/*"}),
    fetch(part(4, 9), bytes_("4-"), cs={"fwd": "partial"}))
row("part-not-for-whole", P, fetch(part(0, 8), bytes_("0-8")),
    Step(headers=(cc("only-if-cached"),), status=504, members=0),
    Step(headers=(cc("only-if-cached"), bytes_("4-9")), status=504, members=0),
    cut(4, 8, cc("only-if-cached"), bytes_("4-8")))
row("part-head", P, fetch(part(0, 8), bytes_("0-8")), fetch(ok("max-age=60", body=b""), method="HEAD"))
row("part-if-range", P, fetch(part(0, 4, ETAG), bytes_("0-4")), cut(0, 1, bytes_("0-1"), ("If-Range", '"abc"')),
    fetch(digits("max-age=60", ("ETag", '"new"')), bytes_("0-1"), ("If-Range", '"x"'), cs={"fwd": "partial"}))
row("part-not-modified", "4.3.2", fetch(part(0, 4, ETAG), bytes_("0-4")), hit(b"", bytes_("0-1"), INM, status=304))
row("part-multiple", P, fetch(part(0, 4, ("Content-Type", "text/x")), bytes_("0-4")),
    hit(None, bytes_("0-1,3-3"), status=206, has={"content-range": None}),
    fetch(part(9, 9), bytes_("0-1,9-9"), cs={"fwd": "partial"}))
row("part-validated", "4.3.3", fetch(part(0, 4, ETAG, cc="max-age=10"), bytes_("0-4")),
    validated(unchanged("max-age=60"), b"01", bytes_("0-1"), advance=10, status=206,
              saw={"range": "bytes=0-1", "if-none-match": '"abc"'}),
    cut(0, 4, bytes_("0-4")))
row("part-swr", W, fetch(part(0, 4, ETAG, cc=SWR), bytes_("0-4")),
    stale(b"01", unchanged(SWR), bytes_("0-1"), advance=10, status=206,
          saw={"range": "bytes=0-1", "if-none-match": '"abc"'}),
    cut(0, 4, bytes_("0-4")))
row("part-sie", X, fetch(part(0, 4, cc=SIE), bytes_("0-4")), instead(b"01", FAIL, bytes_("0-1"), advance=20, status=206))
row("part-sie-not-covering", X, fetch(part(0, 4, cc=SIE), bytes_("0-4")), fetch(FAIL, bytes_("0-5"), advance=20))
row("part-stale", P, fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4"), advance=60, cs={"fwd": "stale"}))
row("part-rule", P, fetch(part(0, 4, cc=None), bytes_("0-4"), cs={"stored": True}), cut(0, 4, bytes_("0-4")), rules=rule(ttl=60))
row("part-vary", "4.1", fetch(part(0, 4, *VARY), bytes_("0-4"), *f("1")), fetch(part(0, 4, *VARY), bytes_("0-4"), *f("2")),
    cut(0, 4, bytes_("0-4"), *f("1")))
row("part-variant-and-default", "4.1", fetch(ok("max-age=60", *VARY), *f("1")), fetch(digits(), *f("2")), hit(DIGITS, *f("3")),
    fetch(part(0, 4, *VARY), bytes_("0-4"), cc("no-cache"), *f("3")), cut(0, 4, bytes_("0-4"), *f("3")),
    hit(DIGITS, *f("4")), fetch(TWO, *f("3"), cs={"fwd": "partial"}))
row("part-not-nominated", "4.3.1", fetch(digits("max-age=60", *AE, ("ETag", '"1"')), *ae("1")),
    fetch(digits("max-age=60", *AE, ("ETag", '"2"'), body=b"abc"), *ae("2")),
    fetch(part(0, 4, *AE, ("ETag", '"3"')), bytes_("0-4"), *ae("3")),
    Step(headers=(*ae("4"), bytes_("1-2")), origin=(unchanged("max-age=60", *AE, ("ETag", '"1"')),), status=206, content=b"12",
         cs={"hit": None}, saw={"if-none-match": '"2", "1"'}), nominate_codings=True)
row("part-purged", "G3", fetch(part(0, 4, ("Cache-Tag", "t")), bytes_("0-4")),
    fetch(ok(status=204, body=b""), method="DELETE"), fetch(part(0, 4), bytes_("0-4")))
row("part-of-200", "3.3", fetch(digits(), bytes_("0-4"), saw={"range": "bytes=0-4"}), hit(DIGITS), cut(0, 4, bytes_("0-4")))
row("part-collapse", "G2",
    Step(concurrent=4, headers=(bytes_("0-4"),), origin=(part(0, 4),), status=206, content=b"01234", cs={}),
    cut(0, 4, bytes_("0-4")))
row("part-collapse-multiple", "G4",
    Step(concurrent=2, headers=(bytes_("0-1,3-4"),), origin=(part(0, 4),) * 2, status=206, content=b"01234", cs={}))
row("part-suffix-exclusive-last", P,
    fetch(ok("max-age=60", ("Content-Range", "bytes 4-9/10"), ("Content-Length", "5"), status=206, body=b"01234"), bytes_("-5")),
    hit(b"01234", bytes_("-5"), status=206, has={"content-range": "bytes 4-8/*"}),
    hit(b"234", bytes_("6-8"), status=206), hit(b"234", bytes_("6-"), status=206), hit(b"4", bytes_("-1"), status=206),
    fetch(TWO, saw={"range": None}))
for name, reply in (
    ("no-content-range", ok("max-age=60", status=206)), ("unit", ok("max-age=60", ("Content-Range", "lines 0-2/9"), status=206)),
    ("reversed", ok("max-age=60", ("Content-Range", "bytes 2-0/9"), status=206)),
    ("beyond", ok("max-age=60", ("Content-Range", "bytes 0-2/2"), status=206)),
    ("twice", ok("max-age=60", *f("bytes 0-2/9", "bytes 0-2/9", name="Content-Range"), status=206)),
    ("star", ok("max-age=60", ("Content-Range", "bytes */9"), status=206)),
    ("huge", ok("max-age=60", ("Content-Range", "bytes 0-2/" + "9" * 40), status=206)),
    ("multipart", ok("max-age=60", ("Content-Type", "multipart/byteranges; boundary=x"), status=206))):
    row(f"part-refused-{name}", P, fetch(reply, bytes_("0-2"), cs={"detail": "partial", "stored": None}),
        fetch(reply, bytes_("0-2")))
for name, length in (("short", "3"), ("long", "99"), ("garbage", "x")):
    row(f"part-length-{name}", "G6", fetch(part(0, 4, ("Content-Length", length)), bytes_("0-4"), cs={"detail": "length-mismatch"}),
        fetch(part(0, 4), bytes_("0-4")))
row("part-body-short", "G6", fetch(part(0, 4, body=b"012"), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4")))
row("part-body-long", "G6", fetch(part(0, 4, body=b"0123456"), bytes_("0-4")), fetch(part(0, 4), bytes_("0-4")))
for name, reply, detail in (("no-store", part(0, 4, cc="no-store"), "no-store"), ("private", part(0, 4, cc="private, max-age=9"), "private"),
                    ("set-cookie", part(0, 4, ("Set-Cookie", "a=b")), "set-cookie"), ("vary-star", part(0, 4, ("Vary", "*")), "vary-star"),
                    ("silent", part(0, 4, cc=None), "no-freshness")):
    row(f"part-private-{name}", "G1", fetch(reply, bytes_("0-4"), cs={"detail": detail, "stored": None}),
        fetch(part(0, 4), bytes_("0-4")))
row("part-private-authorization", "3.5", fetch(part(0, 4), bytes_("0-4"), AUTH), fetch(part(0, 4), bytes_("0-4")))
row("part-private-cookie", "G1", fetch(part(0, 4, cc=None), bytes_("0-4"), ("Cookie", "a=b")), fetch(part(0, 4, cc=None), bytes_("0-4")),
    rules=rule(ttl=60))
row("part-416", "RFC 9110 15.5.17", fetch(ok("max-age=60", ("Content-Range", "bytes */10"), status=416), bytes_("99-")),
    fetch(ok("max-age=60", ("Content-Range", "bytes */10"), status=416), bytes_("99-")), fetch(digits()))

# -- 3.4: parts, combined; the rest, fetched -------------------------------------------------------

K = "3.4"
row("combine", K, fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(6, 7, ETAG), bytes_("6-7"), cs={"fwd": "partial"}),
    cut(1, 2, bytes_("1-2")), cut(6, 7, bytes_("6-7")),
    fetch(part(3, 5, ETAG), bytes_("3-5")), cut(0, 7, bytes_("0-7")))
row("combine-date", K, fetch(part(0, 2, LM, DAY), bytes_("0-2")), fetch(part(3, 9, LM, DAY), bytes_("3-9")), hit(DIGITS))
row("combine-complete", "RFC 9110 15.3.7.3", fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(5, 9, ETAG), bytes_("5-")),
    hit(DIGITS, has={"content-length": "10", "content-range": None, "etag": '"abc"'}), cut(3, 6, bytes_("3-6")))
row("combine-fields", K, fetch(part(0, 4, ETAG, ("X-A", "1"), ("X-B", "1")), bytes_("0-4")),
    fetch(part(5, 9, ETAG, ("X-A", "2"), ("X-C", "3")), bytes_("5-")), hit(DIGITS, has={"x-a": "2", "x-b": "1", "x-c": "3"}))
row("combine-freshness", K, fetch(part(0, 4, ETAG, cc="max-age=10"), bytes_("0-4")),
    fetch(part(5, 9, ETAG), bytes_("5-9"), advance=9), hit(DIGITS, advance=50))
for name, lines in (("other", (("ETag", '"new"'),)), ("weak", (("ETag", 'W/"abc"'),)), ("none", ()), ("date", (LM, DAY)),
                    ("coding", (ETAG, ("Content-Encoding", "gzip"))), ("unquoted", (("ETag", "abc"),))):
    row(f"combine-not-{name}", K, fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(5, 9, *lines), bytes_("5-9")),
        cut(5, 9, bytes_("5-9")), fetch(part(0, 2), bytes_("0-2")))
row("combine-not-length", "G6", fetch(part(0, 2, ETAG), bytes_("0-2")),
    fetch(ok("max-age=60", ETAG, ("Content-Range", "bytes 5-9/11"), status=206, body=b"56789"), bytes_("5-9")),
    fetch(part(0, 2, ETAG), bytes_("0-2")))
row("combine-not-overlap", "G6", fetch(part(0, 4, ETAG), bytes_("0-4")), fetch(part(3, 6, ETAG, body=b"XXXX"), bytes_("5-6")),
    fetch(part(0, 2, ETAG), bytes_("0-2")))
row("combine-whole-stays", K, fetch(digits()), fetch(part(0, 2), bytes_("0-2"), cc("no-cache")), hit(DIGITS))
row("combine-whole-changed", K, fetch(digits("max-age=60", ("Last-Modified", at(-50)))),
    fetch(part(0, 2, LM), bytes_("0-2"), cc("no-cache")), fetch(TWO))
row("rest-of-range", K, fetch(part(0, 4, ETAG), bytes_("0-4")),
    Step(headers=(bytes_("2-7"),), origin=(part(5, 7, ETAG),), status=206, content=b"234567",
         has={"content-range": "bytes 2-7/10", "content-length": "6", "etag": '"abc"'},
         cs={"fwd": "partial", "stored": True, "fwd-status": None}, saw={"range": "bytes=5-7", "if-range": '"abc"'}),
    cut(0, 7, bytes_("0-7")))
row("rest-between", K, fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(7, 9, ETAG), bytes_("7-9")),
    Step(headers=(bytes_("1-8"),), origin=(part(3, 6, ETAG),), status=206, content=b"12345678",
         has={"content-range": "bytes 1-8/10"}, cs={"fwd": "partial"}, saw={"range": "bytes=3-6"}),
    hit(DIGITS))
row("rest-of-whole", K, fetch(part(0, 6, ETAG), bytes_("0-6")),
    Step(origin=(part(7, 9, ETAG, chunks=3),), content=DIGITS, has={"content-length": "10", "content-range": None},
         cs={"fwd": "partial", "fwd-status": 206, "stored": True}, saw={"range": "bytes=7-", "if-range": '"abc"'}),
    hit(DIGITS))
row("rest-of-whole-before", K, fetch(part(4, 9, ETAG), bytes_("4-9")),
    Step(origin=(part(0, 3, ETAG),), content=DIGITS, cs={"fwd": "partial"}, saw={"range": "bytes=0-3"}), hit(DIGITS))
row("rest-collapse", "G2", fetch(part(0, 6, ETAG), bytes_("0-6")),
    Step(concurrent=4, origin=(part(7, 9, ETAG),), content=DIGITS, cs={}), hit(DIGITS))
row("rest-too-much", K, fetch(part(0, 3, ETAG), bytes_("0-3")), fetch(digits(), saw={"range": None, "if-range": None}))
row("rest-two-pieces", K, fetch(part(1, 8, ETAG), bytes_("1-8")), fetch(digits(), saw={"range": None}))
row("rest-changed", K, fetch(part(0, 6, ETAG), bytes_("0-6")),
    fetch(digits("max-age=60", ("ETag", '"new"'), body=b"abcdefghij")), hit(b"abcdefghij"))
row("rest-changed-range", K, fetch(part(0, 4, ETAG), bytes_("0-4")),
    fetch(digits("max-age=60", ("ETag", '"new"'), body=b"abcdefghij"), bytes_("2-7"), saw={"if-range": '"abc"'}),
    hit(b"abcdefghij"))
for name, reply in (("validator", part(7, 9, ("ETag", '"new"'))), ("no-validator", part(7, 9)), ("weak", part(7, 9, ("ETag", 'W/"abc"'))),
                    ("range", part(6, 9, ETAG)), ("less", part(7, 8, ETAG)), ("no-content-range", ok("max-age=60", ETAG, status=206, body=b"789")),
                    ("416", ok(None, ("Content-Range", "bytes */5"), status=416, body=b"")), ("private", part(7, 9, ETAG, cc="private")),
                    ("length", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-9/11"), status=206, body=b"789"))):
    row(f"rest-mismatch-{name}", "G6", fetch(part(0, 6, ETAG), bytes_("0-6")),
        Step(origin=(reply, digits(body=b"abcdefghij")), content=b"abcdefghij", cs={"fwd": "uri-miss"}, saw={"range": None}),
        hit(b"abcdefghij"))
row("rest-without-validator", K, fetch(part(0, 4), bytes_("0-4")), fetch(TWO, saw={"range": "bytes=5-", "if-range": None}), hit(b"two"))
row("rest-without-validator-206", K, fetch(part(0, 4), bytes_("0-4")),
    Step(origin=(part(5, 9), digits()), content=DIGITS, cs={"fwd": "uri-miss"}, saw={"range": None}), hit(DIGITS))
row("rest-without-validator-range", K, fetch(part(0, 4), bytes_("0-4")), fetch(part(2, 7), bytes_("2-7"), saw={"range": "bytes=2-7"}))
row("rest-not-with-authorization", "G1", fetch(part(0, 6, ETAG, cc="public, max-age=60"), bytes_("0-6")),
    fetch(digits("public, max-age=60"), AUTH, saw={"range": None}))
row("rest-targeted", "RFC 9213 2.2", fetch(part(0, 6, ETAG, ("LayerGate-Cache-Control", "max-age=60"), cc="no-store"), bytes_("0-6")),
    Step(origin=(part(7, 9, ETAG, ("LayerGate-Cache-Control", "max-age=60"), cc="no-store"),), content=DIGITS,
         has={"cache-control": "no-store", "layergate-cache-control": None}, cs={"fwd": "partial", "stored": True}),
    hit(DIGITS, has={"cache-control": "no-store", "layergate-cache-control": None}))
for name, reply in (
    ("range-before", part(0, 2, ETAG)), ("two-ranges", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-9/*, bytes 1-2/*"), status=206, body=b"789")),
    ("star", ok("max-age=60", ETAG, ("Content-Range", "bytes */10"), status=206, body=b"789")),
    ("huge", ok("max-age=60", ETAG, ("Content-Range", "bytes 7-" + "9" * 30 + "/" + "9" * 31), status=206, body=b"789")),
    ("content-length", part(7, 9, ETAG, ("Content-Length", "1"))), ("coding", part(7, 9, ETAG, ("Content-Encoding", "gzip"))),
    ("no-store", part(7, 9, ETAG, cc="no-store")), ("set-cookie", part(7, 9, ETAG, ("Set-Cookie", "a=b"))),
    ("vary-star", part(7, 9, ETAG, ("Vary", "*"))),
    ("multipart", ok("max-age=60", ETAG, ("Content-Type", "multipart/byteranges; boundary=x"), status=206, body=b"789"))):
    row(f"rest-lies-{name}", "G6", fetch(part(0, 6, ETAG), bytes_("0-6")),
        Step(origin=(reply, digits()), content=DIGITS, has={"set-cookie": None, "content-encoding": None}, cs={"fwd": "uri-miss"},
             saw={"range": None}), hit(DIGITS))
# A strong validator is one among the representations of one target, and nothing says any more that this is one.
for name, says in (("nothing", ()), ("more", (("No-Vary-Search", 'params=("utm" "b")'),))):
    row(f"rest-of-another-target-says-{name}", "RFC 9110 8.8.3",
        fetch(part(0, 6, ETAG, ("No-Vary-Search", 'params=("utm")')), bytes_("0-6"), target="/p?utm=1"),
        cut(0, 1, bytes_("0-1"), target="/p?utm=2"),
        Step(target="/p?utm=2", origin=(part(7, 9, ETAG, *says), digits()), content=DIGITS, cs={"fwd": "uri-miss"}, saw={"range": None}),
        no_vary_search=True)
# If-Range has a date, which is a strong validator by the part's Date, and by the 304's is not.
for name, dated in (("no-date", ()), ("another-date", (("Date", at(-1000)),))):
    row(f"part-weakened-by-304-{name}", "RFC 9110 8.8.2.2", fetch(part(0, 4, LM, DAY, cc="max-age=10"), bytes_("0-4"), ("If-Range", at(-1000))),
        Step(headers=(bytes_("0-4"), ("If-Range", at(-1000))), advance=20, origin=(unchanged("max-age=10", LM, *dated), part(0, 4, LM, DAY)),
             status=206, content=b"01234", cs={}, saw={"if-modified-since": None}))
row("part-swr-if-range", IF_RANGE, fetch(part(0, 4, ETAG, cc=SWR), bytes_("0-4"), ("If-Range", '"abc"')),
    stale(b"01234", digits("max-age=60", ("ETag", '"new"')), bytes_("0-4"), ("If-Range", '"abc"'), advance=20, status=206, saw={"if-range": None}),
    hit(DIGITS, bytes_("0-4"), ("If-Range", '"abc"'), has={"content-range": None}))
for name, purged in (("url", purge()), ("tag", purge(tags="t")), ("tag-of-another", purge(tags="u"))):
    row(f"part-purged-all-by-{name}", "G3", fetch(part(0, 2, ETAG, ("Cache-Tag", "t")), bytes_("0-2")),
        fetch(part(6, 7, ETAG, ("Cache-Tag", "u")), bytes_("6-7")), cut(0, 2, bytes_("0-2")), purged,
        fetch(part(0, 2), bytes_("0-2")), fetch(part(6, 7), bytes_("6-7")))
    row(f"rest-purged-by-{name}", "G3", fetch(part(0, 6, ETAG, ("Cache-Tag", "t")), bytes_("0-6")),
        Step(origin=(part(7, 9, ETAG, ("Cache-Tag", "u")),), content=DIGITS, cs={"stored": True}), hit(DIGITS), purged, fetch(digits()))
row("part-over-cap", "G7", *(fetch(part(0, 6), bytes_("0-6"), cs={"detail": "too-large", "stored": None}) for _ in range(2)), max_body=5)
row("parts-over-cap-together", "G7", fetch(part(0, 2, ETAG), bytes_("0-2")), fetch(part(3, 5, ETAG), bytes_("3-5")),
    cut(3, 5, bytes_("3-5")), fetch(part(0, 2, ETAG), bytes_("0-2")), max_body=5)
row("range-over-cap-leaves-parts", "G7", fetch(part(0, 2, ETAG), bytes_("0-2")),
    fetch(part(0, 9, ETAG), bytes_("0-"), cs={"detail": "too-large"}), fetch(part(1, 8, ETAG), bytes_("1-8"), cs={"detail": "too-large"}),
    cut(0, 2, bytes_("0-2")), max_body=5)
for name, value in (("commas", "bytes=" + "," * 3000 + "0-1"), ("same", "bytes=" + ",".join(["0-1023"] * 1000)), ("open", "bytes=" + "0-," * 500)):
    row(f"range-flood-{name}", "RFC 9110 14.2", fetch(digits()), hit(DIGITS, ("Range", value), has={"content-range": None}))
row("range-flood-overlapping", "RFC 9110 15.3.7.2", fetch(digits()), cut(0, 9, bytes_(",".join(["0-"] * 32))))
row("rest-error", K, fetch(part(0, 6, ETAG), bytes_("0-6")), fetch(ok(None, status=503)), cut(0, 6, bytes_("0-6")))

# -- what passes -----------------------------------------------------------------------------------

row("range-unit-passes", "RFC 9110 14.2",
    fetch(ok("max-age=60", ("Content-Range", "lines 0-1/3"), status=206, body=b"on"),
          ("Range", "lines=0-1"), saw={"range": "lines=0-1"}, cs={"fwd": "bypass", "detail": "range"}),
    fetch(ok("max-age=60")), hit(b"one", ("Range", "lines=0-1")))
row("range-malformed-passes", "RFC 9110 14.2", fetch(ok("max-age=60"), ("Range", "bytes=2-1")), fetch(TWO),
    hit(b"two", ("Range", "bytes=2-1")), hit(b"two", ("Range", "bytes=a-")), hit(b"two", ("Range", "bytes=-")),
    hit(b"two", ("Range", "bytes=0-0"), ("Range", "bytes=1-1")))
row("get-with-body", "G9", fetch(ok("max-age=60")),
    fetch(ok("max-age=60", body=b"search"), body=b"q=1", cs={"fwd": "bypass", "detail": "request-body"}),
    hit())
row("get-with-body-not-stored", "G9", fetch(ok("max-age=60"), body=b"q=1"), fetch(TWO))
row("get-empty-body", "G9", fetch(ok("max-age=60"), ("Content-Length", "0")),
    hit(b"one", ("Content-Length", "0")))
row("get-chunked", "G9", fetch(ok("max-age=60")),
    fetch(TWO, ("Transfer-Encoding", "chunked"), cs={"fwd": "bypass"}))
row("upgrade-passes", "G8", fetch(ok("max-age=60")),
    fetch(TWO, ("Upgrade", "foo"), ("Connection", "upgrade"), cs={"fwd": "bypass", "detail": "upgrade"}))
row("key-too-long", "G7", *(fetch(ok("max-age=60"), target="/" + "x" * 300,
                                  cs={"detail": "key-too-long"}) for _ in range(2)), max_key_length=200)
row("host-case-passes", "G9", *(fetch(ok("max-age=60"), ("Host", "Example.org"), cs={"fwd": "bypass"})
                                for _ in range(2)))

# -- tags ------------------------------------------------------------------------------------------

TAGS = (("Cache-Tag", "a, b"), ("Surrogate-Key", "c d"))
NO_TAGS = {"cache-tag": None, "surrogate-key": None}
row("tags-stripped", "G1", fetch(ok("max-age=60", ETAG, *TAGS), has=NO_TAGS), hit(has=NO_TAGS),
    Step(headers=(INM,), status=304, content=b"", cs={"hit": True}, has=NO_TAGS))
row("tags-stripped-uncacheable", "G1", fetch(ok("no-store", *TAGS), has=NO_TAGS),
    fetch(ok("no-store", *TAGS), method="HEAD", has=NO_TAGS))
row("tags-stripped-304", "G1", fetch(ok("max-age=10", ETAG, *TAGS)),
    validated(unchanged("max-age=60", *TAGS), advance=10, has=NO_TAGS), hit(has=NO_TAGS))
row("tags-stripped-304-refused", "G1", fetch(ok("max-age=10", ETAG)),
    validated(unchanged("no-store", *TAGS), advance=10, has=NO_TAGS))
row("tags-stripped-other-methods", "G1", fetch(ok(None, *TAGS), method="POST", has=NO_TAGS))
row("tags-stripped-passed", "G1", fetch(ok(None, *TAGS), ("Range", "bytes=0-1"), has=NO_TAGS))
row("tags-shown", "G1", fetch(ok("max-age=60", *TAGS), has={"cache-tag": "a, b"}),
    hit(has={"cache-tag": "a, b", "surrogate-key": "c d"}), strip_tags=False)
row("tags-too-many", "G7", fetch(ok("max-age=60", ("Cache-Tag", "a,b,c")), cs={"detail": "tags"}),
    fetch(TWO), max_tags=2)
for name, line in (("cache-tag", ("Cache-Tag", "x, a ,y")), ("surrogate-key", ("Surrogate-Key", "x a"))):
    row(f"purge-{name}", "G3", fetch(ok("max-age=60", line), target="/1"),
        fetch(ok("max-age=60"), target="/2"), purge(tags="a"),
        fetch(TWO, target="/1"), hit(target="/2"))
row("purge-tag-lines", "G3", fetch(ok("max-age=60", ("Cache-Tag", "a"), ("Cache-Tag", "b"))),
    purge(tags="z b"), fetch(TWO))
row("purge-url", "G3", fetch(ok("max-age=60"), target="/1?x"), fetch(ok("max-age=60"), target="/1"),
    purge(target="/1?x"), fetch(TWO, target="/1?x"), hit(target="/1"))
row("purge-url-variants", "G3", fetch(ok("max-age=60", *VARY), *f("1")), purge(),
    fetch(ok("max-age=60", *VARY), *f("1")))
row("purge-url-escaped", "G3", fetch(ok("max-age=60"), target="/a%20b"), purge(target="/a%20b"),
    fetch(TWO, target="/a%20b"))
# A host is meant on all its ports, and is itself no part of another one's name.
for name, host, reached in (
    ("a-port", "example.org:8080", True), ("the-default-port", "example.org", True), ("longer", "example.org.uk", False),
    ("below", "www.example.org", False), ("longer-port", "example.org.uk:8080", False)):
    at_host = ("Host", host)
    row(f"purge-host-{name}", "G3", fetch(ok("max-age=60"), at_host), purge_all(hosts=["example.org"]),
        fetch(TWO, at_host) if reached else hit(b"one", at_host))
for name, host, reached in (
    ("itself", "example.org:8080", True), ("shorter", "example.org:808", False),
    ("none", "example.org", False)):
    at_host = ("Host", host)
    row(f"purge-host-and-port-{name}", "G3", fetch(ok("max-age=60"), at_host), purge_all(hosts=["example.org:8080"]),
        fetch(TWO, at_host) if reached else hit(b"one", at_host))
row("purge-ends-stale-windows", "G3",
    fetch(ok("max-age=10, stale-while-revalidate=60, stale-if-error=60", ("Cache-Tag", "a"))),
    purge(tags="a", advance=20), fetch(FAIL))
SOFT = Step(method="PURGE", members=0, headers=(
    ("Authorization", f"Bearer {TOKEN}"), ("Surrogate-Key", "a"), ("Fastly-Soft-Purge", "1")))
SOFT_TAG = ("Cache-Tag", "a")
row("soft-purge-validates", "G3", fetch(ok("max-age=60", ETAG, SOFT_TAG)), SOFT,
    validated(unchanged(), saw={"if-none-match": '"abc"'}), hit())
row("soft-purge-swr", "G3", fetch(ok("max-age=60, stale-while-revalidate=30", SOFT_TAG)), SOFT,
    stale(b"one", TWO, advance=1), hit(b"two"))
row("soft-purge-sie", "G3", fetch(ok("max-age=60, stale-if-error=30", SOFT_TAG)), SOFT,
    instead(b"one", FAIL), fetch(TWO, advance=31))
# A 304 that says nothing of tags leaves them as they are; one that does replaces them (3.2).
row("tags-304-kept", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60"), advance=10), hit(), purge(tags="a"), fetch(TWO))
row("tags-304-kept-beside-rule", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60"), advance=10), hit(), purge(tags="a"), fetch(TWO),
    rules=rule(tags=["r"]))
row("tags-304-rule-kept", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60", ("Cache-Tag", "b")), advance=10), hit(), purge(tags="r"),
    fetch(TWO), rules=rule(tags=["r"]))
row("tags-304-replaced", "3.2, G3", fetch(ok("max-age=10", ETAG, ("Cache-Tag", "a"))),
    validated(unchanged("max-age=60", ("Cache-Tag", "b")), advance=10),
    purge(tags="a"), hit(), purge(tags="b"), fetch(TWO))
row("tags-head-kept-beside-rule", "4.3.5, G3", fetch(ok("max-age=10", LM, ("Cache-Tag", "a"))),
    fetch(ok("max-age=60", LM), method="HEAD", advance=10), hit(), purge(tags="a"), fetch(TWO),
    rules=rule(tags=["r"]))
row("tags-rule", "G3", fetch(ok("max-age=60"), target="/p/7"), fetch(ok("max-age=60"), target="/p/8"),
    purge(tags="p:7"), fetch(TWO, target="/p/7"), hit(target="/p/8"),
    rules=rule("/p/{id}", tags=["p:{id}"]))

# -- rules -----------------------------------------------------------------------------------------

R = "rules"

reused("rule-ttl", R, ok(), after=59, rules=rule(ttl=60))
not_reused("rule-ttl-over", R, ok(), after=60, rules=rule(ttl=60))
row("rule-other-path", R, fetch(ok(), target="/b"), fetch(ok(), target="/b"),
    rules=rule("/a", ttl=60))
row("rule-placeholder", R, fetch(ok(), target="/p/7"), hit(target="/p/7"),
    fetch(ok(), target="/p/7/x"), fetch(ok(), target="/p/7/x"), rules=rule("/p/{id}", ttl=60))
row("rule-first-wins", R, fetch(ok(), target="/a"), fetch(TWO, target="/a", advance=2),
    rules=rule("/a", ttl=1) + rule(ttl=60))
for status in (200, 203, 204, 300, 301, 308, 404, 410):
    body = b"" if status == 204 else b"one"
    reused(f"rule-status-{status}", R, ok(status=status, body=body), rules=rule(ttl=60))
for status in (201, 302, 307, 400, 401, 403, 405, 414, 500, 501, 503):
    not_reused(f"rule-not-status-{status}", R, ok(status=status), rules=rule(ttl=60))
reused("rule-statuses", R, ok(status=302), rules=rule(ttl={302: 60}))
not_reused("rule-statuses-only", R, ok(status=200), rules=rule(ttl={302: 60}))
not_reused("rule-explicit-wins", R, ok("max-age=1"), after=2, rules=rule(ttl=60))
reused("rule-explicit-longer", R, ok("max-age=100"), after=99, rules=rule(ttl=60))
not_reused("rule-expires-wins", R, ok(None, ("Expires", at(1)), DAY), after=2, rules=rule(ttl=60))
not_reused("rule-expires-0-wins", R, ok(None, ("Expires", "0")), rules=rule(ttl=60))
for name in ("no-store", "private", "no-cache", "max-age=0", "s-maxage=0"):
    not_reused(f"rule-{name}-wins", R, ok(name), rules=rule(ttl=60))
reused("rule-override-expires", R, ok(None, ("Expires", "0")), after=59,
       rules=rule(ttl=60, override=True))
row("rule-override-cookie", "G1", fetch(ok("no-cache", ("Expires", at(60))), COOKIE), fetch(ok()),
    rules=rule(ttl=60, override=True))
row("rule-validates", "4.3", fetch(ok(None, ETAG)), fetch(TWO, advance=60, saw={"if-none-match": '"abc"'}),
    rules=rule(ttl=60))
row("rule-request-directives", "5.2.1", fetch(ok()), fetch(ok(body=b"two"), cc("no-cache")), hit(b"two"),
    rules=rule(ttl=60))
row("rule-cookie-then-shared", "G2", fetch(ok(), ("Cookie", "a")), fetch(ok(), ("Cookie", "a")),
    Step(concurrent=3, origin=(ok(),), content=b"one", cs={}), hit(), rules=rule(ttl=60))
row("rule-session-keeps-page", "G2", fetch(ok()), hit(),
    fetch(ok(None, ("Set-Cookie", "a=c")), ("Cookie", "a=b")), hit(),
    fetch(ok("private"), ("Cookie", "a=b")), hit(), fetch(ok("no-store", status=401), AUTH), hit(),
    rules=rule(ttl=60))
for name in ("max-age=1", "no-cache", "max-age=0", "s-maxage=1", "must-revalidate, max-age=1"):
    reused(f"rule-override-{name}", R, ok(name), after=59, rules=rule(ttl=60, override=True))
for name in ("no-store", "private", "private, max-age=60"):
    not_reused(f"rule-override-not-{name}", "G1", ok(name), rules=rule(ttl=60, override=True))
row("rule-override-private-field", "5.2.2.7, G1",
    fetch(ok('max-age=1, private="x-user"', ("X-User", "7"))),
    hit(advance=30, has={"x-user": None}), rules=rule(ttl=60, override=True))
row("rule-override-vary-star", "4.1", fetch(ok("max-age=60", ("Vary", "*"))), fetch(TWO),
    rules=rule(ttl=60, override=True))
row("rule-cookie", "G1", fetch(ok(), COOKIE, cs={"detail": "cookie"}), fetch(ok()), hit(),
    fetch(ok(body=b"mine"), COOKIE, cs={"fwd": "request"}), hit(), rules=rule(ttl=60))
row("rule-allow-cookie", "G1", fetch(ok(), COOKIE), hit(), hit(b"one", ("Cookie", "sid=2")),
    rules=rule(ttl=60, allow_cookie=True))
row("rule-authorization", "G1", fetch(ok(), AUTH), fetch(ok()), hit(), fetch(ok(body=b"mine"), AUTH),
    hit(), rules=rule(ttl=60))
row("rule-allow-authorization", "G1", fetch(ok(), AUTH), hit(), hit(b"one", AUTH),
    rules=rule(ttl=60, allow_authorization=True))
row("rule-set-cookie", "G1", fetch(ok(None, ("Set-Cookie", "a=b"))), fetch(ok()), hit(),
    rules=rule(ttl=60))
row("rule-allow-set-cookie", "G1", fetch(ok(None, ("Set-Cookie", "a=b")), has={"set-cookie": "a=b"}),
    hit(has={"set-cookie": None}), rules=rule(ttl=60, allow_set_cookie=True))
KEEP: dict[str, Any] = {"rules": rule(allow_set_cookie="keep")}
SETS = (("Set-Cookie", "a=b"), ("Set-Cookie", "c=d; Path=/"))
BOTH = {"set-cookie": "a=b, c=d; Path=/"}
row("rule-keep-set-cookie", "7.3", fetch(ok("max-age=60", *SETS, ("Set-Cookie2", "e=f")), has=BOTH),
    hit(has={**BOTH, "set-cookie2": "e=f"}),
    hit(b"", method="HEAD", has={**BOTH, "set-cookie2": "e=f"}), **KEEP)
row("rule-keep-set-cookie-collapsed", "7.3",
    Step(concurrent=3, origin=(ok("max-age=60", *SETS),), content=b"one", has=BOTH, cs={}), **KEEP)
row("rule-keep-set-cookie-listed", "7.3",
    fetch(ok('max-age=60, private="set-cookie"', *SETS)), hit(has={"set-cookie": None}), **KEEP)
row("rule-keep-set-cookie-private", "5.2.2.7", fetch(ok("private, max-age=60", *SETS)), fetch(TWO), **KEEP)
row("rule-keep-set-cookie-validated", "3.2", fetch(ok("max-age=10", ETAG, *SETS)),
    validated(unchanged("max-age=10"), advance=10, has=BOTH),
    validated(unchanged("max-age=10", ("Set-Cookie", "a=x")), advance=10, has={"set-cookie": "a=x"}),
    hit(has={"set-cookie": "a=x"}),
    validated(unchanged('max-age=10, private="set-cookie"', ("Set-Cookie", "a=y")), advance=10, has={"set-cookie": "a=y"}),
    hit(has={"set-cookie": None}), **KEEP)
row("rule-vary", V, fetch(ok(), *f("1"), has={"vary": "foo"}), hit(b"one", *f("1"), has={"vary": "foo"}),
    fetch(ok(body=b"two"), *f("2")), hit(b"two", *f("2")), rules=rule(ttl=60, vary=["Foo"]))
row("rule-vary-and-own", V, fetch(ok(None, ("Vary", "Bar")), *f("1"), has={"vary": "Bar, foo"}),
    fetch(ok(None, ("Vary", "Bar")), *f("1"), ("Bar", "1")), rules=rule(ttl=60, vary=["Foo"]))
row("rule-vary-304", V, fetch(ok(None, ETAG, ("Vary", "Bar")), *f("1")),
    validated(unchanged(None, ("Vary", "Bar")), b"one", *f("1"), advance=60, has={"vary": "Bar, foo"}),
    hit(b"one", *f("1"), has={"vary": "Bar, foo"}), rules=rule(ttl=60, vary=["Foo"]))
row("rule-swr", W, fetch(ok()), stale(b"one", ok(body=b"two"), advance=70), hit(b"two"),
    rules=rule(ttl=60, stale_while_revalidate=30))
row("rule-sie", X, fetch(ok()), instead(b"one", FAIL, advance=70),
    rules=rule(ttl=60, stale_if_error=30))
row("rule-swr-own-lifetime", W, fetch(ok("max-age=10")), stale(b"one", TWO, advance=20),
    rules=rule(ttl=60, stale_while_revalidate=30))
for name in ("must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache"):
    row(f"rule-swr-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        validated(unchanged(), advance=20), rules=rule(stale_while_revalidate=30))
    row(f"rule-sie-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)), fetch(FAIL, advance=20),
        rules=rule(stale_if_error=30))
row("rule-304", U, fetch(ok(None, ETAG)), validated(unchanged(), advance=60), hit(advance=59),
    rules=rule(ttl=60))
row("rule-head-freshens", E, fetch(ok(None, LM)),
    fetch(ok(None, LM, ("Foo", "b")), cc("no-cache"), method="HEAD"), hit(has={"foo": "b"}),
    rules=rule(ttl=60))
row("rule-bypass", R, fetch(ok("max-age=60"), cs={"fwd": "bypass", "detail": "rule"}), fetch(TWO),
    rules=rule(bypass=True))
row("rule-hosts", R, fetch(ok(), ("Host", "a.example")), hit(b"one", ("Host", "a.example")),
    fetch(ok()), fetch(ok()), rules=rule(ttl=60, hosts=["a.example"]))
row("rule-age", A, fetch(ok(None, ("Age", "500"))), hit(advance=59, has={"age": "559"}),
    rules=rule(ttl=60))
row("rule-head", R, fetch(ok(), method="HEAD"), fetch(ok()), hit(b"", method="HEAD"),
    rules=rule(ttl=60))
row("rule-post", R, fetch(ok(), method="POST"), fetch(ok()), fetch(ok(), method="POST"), fetch(ok()),
    rules=rule(ttl=60))
row("rule-heuristic", H, fetch(ok(None, WEEK, DAY)), fetch(TWO, advance=6), rules=rule(ttl=5),
    heuristic=0.1)
# Who is known does not take everybody's page away, whichever is there first.
for name, known, mine in (
    ("set-cookie", COOKIE, ok(None, ("Set-Cookie", "a=c"), body=b"mine")), ("private", COOKIE, ok("private", body=b"mine")),
    ("authorization", AUTH, ok("no-store", body=b"mine"))):
    row(f"rule-known-client-{name}", "G1", fetch(ok()), fetch(mine, known), fetch(mine, known), hit(), rules=rule(ttl=60))
    row(f"rule-known-client-first-{name}", "G1", fetch(mine, known), fetch(mine, known),
        Step(concurrent=4, origin=(ok(),), content=b"one", cs={}), hit(), rules=rule(ttl=60))
for name in ("text/event-stream", "multipart/x-mixed-replace; boundary=a"):
    row(f"rule-stream-{name[:9]}", "G8", *(fetch(ok(None, ("Content-Type", name)), cs={"detail": "stream"}) for _ in range(2)),
        rules=rule(ttl=60))
row("304-other-alone", U, fetch(OLD),  # its app is called again within one request
    Step(advance=20, origin=(unchanged("max-age=60", ("ETag", '"other"')), ok("max-age=60", body=b"new")), content=b"new",
         cs={"hit": None}), hit(b"new"), collapse=False)

# -- hit-for-miss ----------------------------------------------------------------------------------

P = "G4"
row("marker-then-shared", P, fetch(ok("no-store")), fetch(ok("no-store")), fetch(TWO), hit(b"two"))
row("marker-then-expires", P, fetch(ok()), fetch(ok()), fetch(ok(None, ("Expires", at(60)), DAY)), hit())
row("marker-then-varied", P, fetch(ok("no-store")), fetch(ok("max-age=60", *VARY), *f("1")), hit(b"one", *f("1")),
    fetch(TWO, *f("2")))
row("marker-then-validated", P, fetch(ok("no-store")), fetch(ok("no-cache", ETAG)), validated(unchanged()))
row("marker-then-set-cookie", "G1", fetch(ok()), fetch(ok("max-age=60", ("Set-Cookie", "a=b"))),
    fetch(TWO), hit(b"two"))
row("marker-then-private", "G1", fetch(ok()), fetch(ok("private, max-age=60")), fetch(TWO))
row("marker-then-authorization", "3.5", fetch(ok()), fetch(ok("max-age=60"), AUTH), fetch(TWO))
row("marker-then-no-store-request", "5.2.1.5", fetch(ok()), fetch(ok("max-age=60"), cc("no-store")),
    fetch(TWO))
row("marker-then-head", P, fetch(ok()), fetch(ok("max-age=60"), method="HEAD"), fetch(TWO))
row("marker-only-if-cached", "5.2.1.7", fetch(ok("no-store")),
    Step(headers=(cc("only-if-cached"),), status=504, members=0))
row("marker-conditional", "4.3.2", fetch(ok("no-store")),
    Step(headers=(INM,), origin=(unchanged("no-store", ETAG),), status=304, content=b"",
         saw={"if-none-match": '"abc"'}, cs={"hit": None}))
row("marker-304-nobody-asked", "3", fetch(ok()), fetch(unchanged("max-age=60")), fetch(TWO))
row("marker-length-mismatch", "G6", fetch(ok()), fetch(ok("max-age=60", ("Content-Length", "9"))), fetch(TWO))
row("marker-5xx", P, fetch(ok(status=500)), fetch(TWO), hit(b"two"))
row("marker-exception", P, fetch(ok()), fetch(RAISES), fetch(TWO), hit(b"two"))
row("marker-status-kept", "RFC 9211 2", fetch(ok(None, ORIGIN), members=2), fetch(ok(None, ORIGIN), members=2))
row("marker-tags", "G1", fetch(ok(None, *TAGS), has=NO_TAGS), fetch(ok(None, *TAGS), has=NO_TAGS),
    fetch(ok("max-age=60", *TAGS), has=NO_TAGS), hit(has=NO_TAGS), purge(tags="c"), fetch(TWO))
row("marker-age", "4.2.3", fetch(ok()), fetch(ok("max-age=600", ("Age", "5"), takes=10)),
    hit(has={"age": "15"}, cs={"ttl": 585}))
row("marker-ends", P, fetch(ok("no-store")),
    Step(advance=11, concurrent=3, origin=(ok("max-age=60"),), content=b"one", cs={}), hit_for_miss_ttl=10)
row("marker-not-collapsed", P, fetch(ok("no-store")),
    Step(advance=9, concurrent=3, origin=(ok("no-store"),) * 3, content=b"one", cs={}), hit_for_miss_ttl=10)
row("marker-rule", P, fetch(ok("no-store")), fetch(ok()), hit(), rules=rule(ttl=60))
row("marker-rule-cookie", "G1", fetch(ok("no-store")), fetch(ok(), COOKIE), fetch(ok()), hit(),
    rules=rule(ttl=60))
row("marker-rule-tags", "G3", fetch(ok("no-store")), fetch(ok("max-age=60")), hit(), purge(tags="r"),
    fetch(TWO), rules=rule(tags=["r"]))
row("marker-rule-vary", V, fetch(ok("no-store")), fetch(ok(), *f("1"), has={"vary": "foo"}), hit(b"one", *f("1")),
    fetch(ok(body=b"two"), *f("2")), rules=rule(ttl=60, vary=["foo"]))
row("marker-heuristic", H, fetch(ok("no-store")), fetch(ok(None, WEEK, DAY)), hit(), heuristic=0.1)
row("marker-cookie-explicit", "RFC 6265", fetch(ok(), COOKIE), fetch(ok("max-age=60"), COOKIE), hit(),
    hit(b"one", COOKIE), rules=rule(ttl=60))
row("marker-invalidated", "4.4", fetch(ok("no-store")), fetch(DONE, method="POST"),
    Step(concurrent=3, origin=(ok("max-age=60"),), content=b"one", cs={}))
row("marker-in-variant", P, fetch(ok("max-age=60", *VARY), *f("1")), fetch(ok("no-store", *VARY), *f("2")),
    fetch(ok("no-store", *VARY), *f("2")), hit(b"one", *f("1")),
    fetch(ok("max-age=60", *VARY, body=b"two"), *f("2")), hit(b"two", *f("2")), hit(b"one", *f("1")))

# -- No-Vary-Search ------------------------------------------------------------------------------------

Q = "4"


def nvs(value: str) -> tuple[str, str]:
    return ("No-Vary-Search", value)


UTM = nvs('params=("utm")')
SOLD = ok("max-age=60", UTM)
OTHER = ok("max-age=60", UTM, body=b"two")


def search(id_: str, *steps: Step, rfc: str = Q, **kw: Any) -> None:
    row(f"search-{id_}", rfc, *steps, **{"no_vary_search": True, **kw})


def at_(target: str, step: Step) -> Step:
    return replace(step, target=target)


search("same-query", at_("/p?a=1", fetch(SOLD)), at_("/p?a=1", hit()), at_("/p?a=1", hit()))
search("equivalent", at_("/p?a=1&utm=x", fetch(SOLD)), at_("/p?a=1&utm=y", hit()), at_("/p?utm&a=1", hit()),
    at_("/p?a=1", hit(has={"no-vary-search": 'params=("utm")'})))
search("no-query", at_("/p", fetch(SOLD)), at_("/p?utm=y", hit()), at_("/p?", hit()))
search("not-equivalent", at_("/p?a=1&utm=x", fetch(SOLD)), at_("/p?a=2&utm=x", fetch(OTHER)),
    at_("/p?a=1&utm=z", hit(b"one")), at_("/p?utm=z&a=2", hit(b"two")), rfc="G9")
search("other-path", at_("/p?utm=x", fetch(SOLD)), at_("/q?utm=x", fetch(OTHER)), rfc="G9")
search("other-host", at_("/p?utm=x", fetch(SOLD)), at_("/p?utm=x", fetch(OTHER, ("Host", "b.example"))), rfc="G9")
search("other-scheme", at_("/p?utm=x", fetch(SOLD)), at_("/p?utm=x", fetch(OTHER, scheme="https")), rfc="G9")
search("off", at_("/p?utm=x", fetch(SOLD)), at_("/p?utm=y", fetch(OTHER)), at_("/p?utm=x", hit()), no_vary_search=False)
for void in ("params=(utm)", 'params=("utm"), except=("a")', "params=", "utm", 'except=("a")'):
    search(f"void-{void}", at_("/p?utm=x", fetch(ok("max-age=60", nvs(void)))), at_("/p?utm=y", fetch(TWO)))
search("order", at_("/p?a=1&b=2", fetch(ok("max-age=60", nvs("key-order")))), at_("/p?b=2&a=1", hit()),
    at_("/p?b=1&a=2", fetch(TWO)))
search("only", at_("/p?id=1&a=2", fetch(ok("max-age=60", nvs('params, except=("id")')))), at_("/p?b=3&id=1", hit()),
    at_("/p?id=2", fetch(TWO)), at_("/p?a=2", fetch(TWO)))
search("said-last", at_("/p?utm=1", fetch(SOLD)), at_("/p?id=1&s=1", fetch(ok("max-age=60", nvs('params=("s")'), body=b"two"))),
    at_("/p?s=2&id=1", hit(b"two")), at_("/p?utm=2", fetch(ok("max-age=60", body=b"three"))))
search("said-by-one-only", at_("/p?utm=1&a=1", fetch(SOLD)), at_("/p?utm=1&a=2", fetch(TWO)), at_("/p?utm=1&a=2", hit(b"two")),
    at_("/p?utm=2&a=2", fetch(ok("max-age=60", body=b"three"))), at_("/p?utm=2&a=1", hit(b"one")), rfc="G9")
search("said-later", at_("/p?utm=1", fetch(ok("max-age=10"))), at_("/p?utm=1", fetch(OTHER, advance=10)),
    at_("/p?utm=2", hit(b"two")), at_("/p?utm=1", hit(b"two")))
search("said-later-for-a-stale-one", at_("/p?utm=1", fetch(ok("max-age=10", ETAG))),
    at_("/p?utm=1", fetch(OTHER, advance=10)), at_("/p?utm=1", hit(b"two")), at_("/p?utm=2", hit(b"two")))
search("said-in-304", at_("/p?utm=1", fetch(ok("max-age=10", ETAG))),
    at_("/p?utm=1", validated(unchanged("max-age=60", UTM), advance=10)), at_("/p?utm=2", hit()), at_("/p?utm=1", hit()))
search("validated", at_("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG))),
    at_("/p?utm=2", validated(unchanged("max-age=60"), advance=10, saw={"if-none-match": '"abc"'})), at_("/p?utm=3", hit()))
search("stale-if-error", at_("/p?utm=1", fetch(ok("max-age=10, stale-if-error=60", UTM))),
    at_("/p?utm=2", instead(b"one", FAIL, advance=20)), rfc=X)
search("stale-while-revalidate", at_("/p?utm=1", fetch(ok("max-age=10, stale-while-revalidate=60", UTM))),
    at_("/p?utm=2", stale(b"one", OTHER, advance=20)), at_("/p?utm=3", hit(b"two")), rfc=W)
search("vary", at_("/p?utm=1", fetch(ok("max-age=60", UTM, *VARY), *f("1"))), at_("/p?utm=2", hit(b"one", *f("1"))),
    at_("/p?utm=3", fetch(ok("max-age=60", UTM, *VARY, body=b"two"), *f("2"), cs={"fwd": "vary-miss"})),
    at_("/p?utm=4", hit(b"two", *f("2"))), at_("/p?utm=5", hit(b"one", *f("1"))))
search("vary-then-said", at_("/p?utm=1", fetch(ok("max-age=10", *VARY), *f("1"))),
    at_("/p?utm=1", fetch(ok("max-age=60", UTM, *VARY, body=b"two"), *f("1"), advance=10)),
    at_("/p?utm=1", hit(b"two", *f("1"))), at_("/p?utm=2", hit(b"two", *f("1"))))
search("head", at_("/p?utm=1", fetch(SOLD)), at_("/p?utm=2", hit(b"", method="HEAD")))
search("head-freshens", at_("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG))),
    at_("/p?utm=2", fetch(ok("max-age=60", UTM, ETAG), cc("no-cache"), method="HEAD")), at_("/p?utm=3", hit(advance=30)), rfc="4.3.5")
search("head-says-otherwise", at_("/p?utm=1", fetch(ok("max-age=60", UTM, ETAG))),
    at_("/p?utm=2", fetch(ok("max-age=60", nvs("key-order"), ETAG), cc("no-cache"), method="HEAD")),
    at_("/p?x=1", fetch(TWO)), rfc="G9")
search("not-stored", at_("/p?utm=1", fetch(ok("private", UTM))), at_("/p?utm=2", fetch(ok("private", UTM))), rfc="G1")
search("cookie", at_("/p?utm=1", fetch(ok("max-age=60", UTM, ("Set-Cookie", "a=b")))), at_("/p?utm=2", fetch(SOLD)), rfc="G1")
search("authorization", at_("/p?utm=1", fetch(SOLD)), at_("/p?utm=2", fetch(ok("private", body=b"mine"), AUTH)),
    at_("/p?utm=3", hit()), rfc="3.5")
search("public-for-authorization", at_("/p?utm=1", fetch(ok("public, max-age=60", UTM))), at_("/p?utm=2", hit(b"one", AUTH)), rfc="3.5")
for spelled in ("/p?utm=1&a=1", "/p?a=1", "/p?a=1&utm=2", "/p?%61=1&utm", "/p"):
    search(f"purge-{spelled}", at_("/p?utm=1&a=1", fetch(SOLD)), at_(spelled, purge()), at_("/p?utm=2&a=1", fetch(OTHER)), rfc="G3")
    search(f"unsafe-{spelled}", at_("/p?utm=1&a=1", fetch(SOLD)), at_(spelled, fetch(DONE, method="POST")),
        at_("/p?utm=2&a=1", fetch(OTHER)), rfc="4.4")
# What was posted to one target is not what is given out for another (RFC 9110 9.3.3).
search("posted", at_("/p?utm=1", post(posted("max-age=60", UTM, where="/p?utm=1"))), at_("/p?utm=1", fetch(SOLD)), rfc=P)
search("posted-elsewhere", at_("/p?a=1", fetch(SOLD)), at_("/p?utm=1", post(posted("max-age=60", UTM, where="/p?utm=1"))),
    at_("/p?utm=2", fetch(OTHER)), rfc=P)
search("posted-without", at_("/p?utm=1", fetch(SOLD)),
    at_("/p?utm=1", post(posted("max-age=60", where="/p?utm=1"), stored=True)), at_("/p?utm=1", hit(b"posted")),
    at_("/p?utm=2", fetch(OTHER)), rfc=P)
search("purge-other-path", at_("/p?utm=1", fetch(SOLD)), at_("/q?utm=1", purge()), at_("/p?utm=2", hit()), rfc="G3")
# What matches with some query reaches what is stored for all of them, whatever is left of theirs.
for name, meant in (
    ("pattern", {"patterns": ["http://example.org/p?utm=2*"]}), ("pattern-path", {"patterns": ["/p?utm=2"]}),
    ("pattern-path-star", {"patterns": ["/p?*utm=2"]}), ("pattern-any-host", {"patterns": ["*/p?utm=*"]}),
    ("pattern-no-query", {"patterns": ["/p"]}), ("pattern-any-path", {"patterns": ["/*?utm=2"]}),
    ("pattern-in-the-query", {"patterns": ["/p*2"]}), ("pattern-soft", {"patterns": ["/p?utm=2"], "soft": True}),
    ("prefix", {"prefixes": ["example.org/p?utm=2"]}), ("prefix-of-the-query", {"prefixes": ["example.org/p?u"]}),
    ("prefix-question", {"prefixes": ["http://example.org/p?"]}), ("prefix-path", {"prefixes": ["example.org/"]}),
    ("host", {"hosts": ["example.org"]}), ("everything", {"purge_everything": True})):
    search(f"purge-by-{name}", at_("/p?utm=1&a=1", fetch(SOLD)), at_("/p?utm=2&a=1", hit()), purge_all(**meant),
        at_("/p?utm=2&a=1", fetch(OTHER)), at_("/p?a=1&utm=3", hit(b"two")), rfc="G3")
for name, meant in (
    ("pattern", {"patterns": ["/q?utm=2", "/P?*", "/p/*", "/pp*", "/", "https://example.org/p?*", "http://example.com/*"]}),
    ("prefix", {"prefixes": ["example.org/q?utm=1", "example.org/pp", "example.org/p/", "example.com/", "https://example.org/p?"]})):
    search(f"purge-others-by-{name}", at_("/p?utm=1", fetch(SOLD)), purge_all(**meant), at_("/p?utm=2", hit()), rfc="G3")
search("purge-by-pattern-not-the-exact-ones", at_("/p?a=1", fetch(ok("max-age=60"))), purge_all(patterns=["/p?a=2", "/*/p"]),
    at_("/p?a=1", hit()), rfc="G3")
search("purge-tag", at_("/p?utm=1", fetch(ok("max-age=60", UTM, ("Cache-Tag", "t")))), purge(tags="t"),
    at_("/p?utm=2", fetch(OTHER)), rfc="G3")
search("purge-not-the-exact-ones", at_("/p?a=1", fetch(ok("max-age=60"))), at_("/p?a=2", purge()), at_("/p?a=1", hit()), rfc="G3")
search("most-tags", at_("/p?utm=1", fetch(ok("max-age=10", UTM, ETAG, ("Cache-Tag", "a, b")))),
    at_("/p?utm=1", validated(unchanged("max-age=10"), advance=10, cs={"stored": True})), at_("/p?utm=1", hit()), max_tags=2, rfc="G7")
search("collapsed", at_("/p?utm=1", fetch(ok("max-age=10", UTM))),
    Step(target="/p?utm=1", concurrent=4, advance=10, origin=(OTHER,), content=b"two", cs={}), rfc="G2")
search("unreachable", at_("/p?utm=1", fetch(ok("max-age=10", UTM))), at_("/p?utm=2", unreachable(b"one", LOST, advance=20)),
    rfc=D, stale_if_unreachable=60)

# Subjects with a file of their own, which add their rows to these.
import tests.scenarios.credentials  # noqa: E402 - they need what is above
import tests.scenarios.forwarding  # noqa: E402
import tests.scenarios.heads  # noqa: E402
import tests.scenarios.known_users  # noqa: E402
import tests.scenarios.lifetimes  # noqa: E402
import tests.scenarios.markers  # noqa: E402
import tests.scenarios.reloads  # noqa: E402
import tests.scenarios.selection  # noqa: E402
import tests.scenarios.stale_reloads  # noqa: E402
import tests.scenarios.together  # noqa: E402, F401
