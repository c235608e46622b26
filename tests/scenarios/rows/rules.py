"""Rules: lifetimes, overrides and the other options of `Rule`."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    DAY,
    ETAG,
    FAIL,
    LM,
    OLD,
    TWO,
    WEEK,
    cc,
    fetch,
    field,
    hit,
    instead,
    not_reused,
    ok,
    reused,
    row,
    rule,
    stale,
    unchanged,
    validated,
)
from tests.scenarios.model import Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

reused("rule-ttl", "rules", ok(), after=59, rules=rule(ttl=60))
not_reused("rule-ttl-over", "rules", ok(), after=60, rules=rule(ttl=60))
row("rule-other-path", "rules", fetch(ok(), target="/b"), fetch(ok(), target="/b"),
    rules=rule("/a", ttl=60))
row("rule-placeholder", "rules", fetch(ok(), target="/p/7"), hit(target="/p/7"),
    fetch(ok(), target="/p/7/x"), fetch(ok(), target="/p/7/x"), rules=rule("/p/{id}", ttl=60))
row("rule-first-wins", "rules", fetch(ok(), target="/a"), fetch(TWO, target="/a", advance=2),
    rules=rule("/a", ttl=1) + rule(ttl=60))
for status in (200, 203, 204, 300, 301, 308, 404, 410):
    body = b"" if status == 204 else b"one"
    reused(f"rule-status-{status}", "rules", ok(status=status, body=body), rules=rule(ttl=60))
for status in (201, 302, 307, 400, 401, 403, 405, 414, 500, 501, 503):
    not_reused(f"rule-not-status-{status}", "rules", ok(status=status), rules=rule(ttl=60))
reused("rule-statuses", "rules", ok(status=302), rules=rule(ttl={302: 60}))
not_reused("rule-statuses-only", "rules", ok(status=200), rules=rule(ttl={302: 60}))
not_reused("rule-explicit-wins", "rules", ok("max-age=1"), after=2, rules=rule(ttl=60))
reused("rule-explicit-longer", "rules", ok("max-age=100"), after=99, rules=rule(ttl=60))
not_reused("rule-expires-wins", "rules", ok(None, ("Expires", at(1)), DAY), after=2, rules=rule(ttl=60))
not_reused("rule-expires-0-wins", "rules", ok(None, ("Expires", "0")), rules=rule(ttl=60))
for name in ("no-store", "private", "no-cache", "max-age=0", "s-maxage=0"):
    not_reused(f"rule-{name}-wins", "rules", ok(name), rules=rule(ttl=60))
reused("rule-override-expires", "rules", ok(None, ("Expires", "0")), after=59,
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
    reused(f"rule-override-{name}", "rules", ok(name), after=59, rules=rule(ttl=60, override=True))
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
row("rule-vary", "4.1", fetch(ok(), *field("1"), has={"vary": "foo"}), hit(b"one", *field("1"), has={"vary": "foo"}),
    fetch(ok(body=b"two"), *field("2")), hit(b"two", *field("2")), rules=rule(ttl=60, vary=["Foo"]))
row("rule-vary-and-own", "4.1", fetch(ok(None, ("Vary", "Bar")), *field("1"), has={"vary": "Bar, foo"}),
    fetch(ok(None, ("Vary", "Bar")), *field("1"), ("Bar", "1")), rules=rule(ttl=60, vary=["Foo"]))
row("rule-vary-304", "4.1", fetch(ok(None, ETAG, ("Vary", "Bar")), *field("1")),
    validated(unchanged(None, ("Vary", "Bar")), b"one", *field("1"), advance=60, has={"vary": "Bar, foo"}),
    hit(b"one", *field("1"), has={"vary": "Bar, foo"}), rules=rule(ttl=60, vary=["Foo"]))
row("rule-swr", "RFC 5861 3", fetch(ok()), stale(b"one", ok(body=b"two"), advance=70), hit(b"two"),
    rules=rule(ttl=60, stale_while_revalidate=30))
row("rule-sie", "RFC 5861 4", fetch(ok()), instead(b"one", FAIL, advance=70),
    rules=rule(ttl=60, stale_if_error=30))
row("rule-swr-own-lifetime", "RFC 5861 3", fetch(ok("max-age=10")), stale(b"one", TWO, advance=20),
    rules=rule(ttl=60, stale_while_revalidate=30))
for name in ("must-revalidate", "proxy-revalidate", "s-maxage=10", "no-cache"):
    row(f"rule-swr-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        validated(unchanged(), advance=20), rules=rule(stale_while_revalidate=30))
    row(f"rule-sie-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)), fetch(FAIL, advance=20),
        rules=rule(stale_if_error=30))
row("rule-304", "4.3.4", fetch(ok(None, ETAG)), validated(unchanged(), advance=60), hit(advance=59),
    rules=rule(ttl=60))
row("rule-head-freshens", "4.3.5", fetch(ok(None, LM)),
    fetch(ok(None, LM, ("Foo", "b")), cc("no-cache"), method="HEAD"), hit(has={"foo": "b"}),
    rules=rule(ttl=60))
row("rule-bypass", "rules", fetch(ok("max-age=60"), cs={"fwd": "bypass", "detail": "rule"}), fetch(TWO),
    rules=rule(bypass=True))
row("rule-hosts", "rules", fetch(ok(), ("Host", "a.example")), hit(b"one", ("Host", "a.example")),
    fetch(ok()), fetch(ok()), rules=rule(ttl=60, hosts=["a.example"]))
row("rule-age", "RFC 9110 12.5.4", fetch(ok(None, ("Age", "500"))), hit(advance=59, has={"age": "559"}),
    rules=rule(ttl=60))
row("rule-head", "rules", fetch(ok(), method="HEAD"), fetch(ok()), hit(b"", method="HEAD"),
    rules=rule(ttl=60))
row("rule-post", "rules", fetch(ok(), method="POST"), fetch(ok()), fetch(ok(), method="POST"), fetch(ok()),
    rules=rule(ttl=60))
row("rule-heuristic", "4.2.2", fetch(ok(None, WEEK, DAY)), fetch(TWO, advance=6), rules=rule(ttl=5),
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
row("304-other-alone", "4.3.4", fetch(OLD),  # its app is called again within one request
    Step(advance=20, origin=(unchanged("max-age=60", ("ETag", '"other"')), ok("max-age=60", body=b"new")), content=b"new",
         cs={"hit": None}), hit(b"new"), collapse=False)
