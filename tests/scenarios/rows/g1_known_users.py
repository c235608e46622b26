"""G1, privacy: users who are known by a field other than Authorization."""

from __future__ import annotations

from tests.scenarios.dsl import COOKIE, ETAG, TWO, fetch, hit, ok, post, posted, row, rule

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# By these proxies, gateways and clients say who asks; a few of each kind that patterns match.
IDENTITIES = (
    "X-API-Key", "Api-Key", "X-Key", "X-Rapidapi-Key", "Ocp-Apim-Subscription-Key", "token", "access_token",
    "X-Token", "Private-Token", "X-Shop-Access-Token", "X-Webhook-Token", "X-App-Secret", "X-Session-Id",
    "X-Auth-User", "X-Authenticated-Userid", "X-Authentik-Username", "X-Auth-Request-Email",
    "X-Consumer-Username", "X-Credential-Identifier", "X-Forwarded-User", "X-Forwarded-Email",
    "X-Forwarded-Client-Cert", "X-SSL-Client-S-DN", "SSL-Client-Cert", "X-Client-Cert",
    "X-Pomerium-Claim-Email", "Tailscale-User-Login", "X-Hasura-User-Id", "X-Hasura-Role", "Remote-User",
    "Remote-Email", "X-Remote-User", "X-WebAuth-User", "X-User-Id", "X-User", "X-Userinfo", "X-JWT-Assertion",
    "Cf-Access-Authenticated-User-Email", "X-Goog-IAP-JWT-Assertion", "X-Amzn-Oidc-Identity",
    "X-MS-Client-Principal-Name", "OIDC_CLAIM_sub", "X-Okta-User", "X-Vouch-User", "X-Original-Authorization",
)
# And these say nothing of who asks.
NOBODYS = (
    "User-Agent", "X-Request-Id", "Traceparent", "X-Amzn-Trace-Id", "X-Forwarded-For", "X-Real-Ip", "Via",
    "Sec-Fetch-Site", "Sec-CH-UA", "Accept-Language", "X-Requested-With", "Cf-Connecting-Ip", "Priority",
    "Sec-WebSocket-Key", "X-Author", "From", "Origin", "Referer", "DNT", "Save-Data", "X-User-Agent",
)

BY_COOKIE = ("Vary", "Cookie")
MINE = ok("max-age=60", BY_COOKIE, body=b"alice")

for name in IDENTITIES:
    alice, bob = (name, "alice"), (name, "bob")
    row(f"known-{name}", "G1", fetch(MINE, COOKIE, alice, cs={"detail": "user", "stored": None}), fetch(TWO, COOKIE, bob),
        fetch(ok("public, max-age=60", body=b"all"), alice, cs={"stored": True}), hit(b"all", bob), hit(b"all"))
    row(f"known-{name}-rule", "G1", fetch(ok(body=b"alice"), alice, cs={"detail": "cookie"}), fetch(ok(body=b"bob"), bob),
        fetch(ok(body=b"nobody")), hit(b"nobody"), fetch(ok(body=b"alice"), alice), rules=rule(ttl=60))

for name in ("X-API-Key", "Remote-User", "X-SSL-Client-S-DN"):
    alice, bob = (name, "alice"), (name, "bob")
    for what, mine in {
        "max-age": ok("max-age=60", body=b"alice"),
        "vary-itself": ok("max-age=60", ("Vary", name), body=b"alice"),
        "must-revalidate": ok("max-age=60, must-revalidate", BY_COOKIE, body=b"alice"),
    }.items():
        row(f"known-{name}-{what}", "G1",
            fetch(mine, COOKIE, alice, cs={"detail": "user", "stored": None}), fetch(TWO, COOKIE, bob), fetch(TWO, COOKIE, alice))
    row(
        f"known-{name}-s-maxage",
        "3.5, G1",
        fetch(ok("s-maxage=60"), alice, cs={"stored": True}),
        hit(b"one", bob),
        hit(),
    )
    row(f"known-{name}-not-what-is-anybodys", "G1", fetch(ok("max-age=60")),
        fetch(ok("max-age=60", body=b"alice"), alice, cs={"fwd": "request"}), hit())

for name in NOBODYS:
    row(f"nobodys-{name}", "G1", fetch(ok(), (name, "a")), hit(b"one", (name, "b")), hit(), rules=rule(ttl=60))

# A CSRF token goes with a session, as a cookie does: no rule's lifetime is for it, the app's own is.
for name in ("X-CSRF-Token", "X-XSRF-TOKEN", "X-CSRFToken"):
    row(f"csrf-{name}", "G1", fetch(ok("max-age=60"), (name, "a")), hit(b"one", (name, "b")))
    row(f"csrf-{name}-rule", "G1", fetch(ok(), (name, "a"), cs={"detail": "cookie"}), fetch(TWO, (name, "b")),
        rules=rule(ttl=60))

KEY = ("X-API-Key", "k")
row("known-rule-allows", "G1", fetch(ok(), KEY), hit(b"one", ("X-API-Key", "other")),
    rules=rule(ttl=60, allow_cookie=True))
row("known-head", "G1", fetch(ok("max-age=60", ETAG)), fetch(ok("max-age=60", ETAG, body=b""), KEY, method="HEAD", cs={"fwd": "request"}))
row("known-304", "G1, 4.3.3", fetch(ok("max-age=10, public", ETAG)),
    fetch(ok("max-age=10", ETAG, status=304, body=b""), KEY, status=200, content=b"one", cs={"stored": None}, advance=11),
    fetch(TWO))
row(
    "known-post",
    "G1",
    post(posted("max-age=60", BY_COOKIE), COOKIE, KEY),
    fetch(TWO, COOKIE, ("X-API-Key", "b")),
)
