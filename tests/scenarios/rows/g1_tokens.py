"""G1, privacy: no lifetime of a rule for a page with a CSRF token or a nonce."""

from __future__ import annotations

import gzip

from tests.scenarios.dsl import STORED, fetch, hit, ok, row
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

RULE = ({"path": "*", "ttl": 60},)
HTML = ("Content-Type", "text/html; charset=utf-8")

TOKEN = {"stored": None, "detail": "token"}
POLICY = ("Content-Security-Policy", "script-src 'nonce-4AEemGb0xJptoIGFP3Nd' 'self'")
REPORT = ("Content-Security-Policy-Report-Only", "script-src 'nonce-4AEemGb0xJptoIGFP3Nd'")
PLAIN = ("Content-Security-Policy", "script-src 'self'")
FIELD = b'<form><input type="hidden" name="csrfmiddlewaretoken" value="aPq9"></form>'
META = b'<head><meta name="csrf-token" content="aPq9"></head>'
META_POLICY = (
    b'<meta http-equiv="Content-Security-Policy" content="script-src &#39;nonce-aPq9&#39;">'
)
NONCE = b'<script nonce="aPq9">run()</script>'
HTMX = b'<body hx-headers=\'{"X-CSRFToken": "aPq9"}\'>'
SCRIPT = b"<script>window.csrfToken = 'aPq9'</script>"
PAGE = b"<p>what a nonce is, and a csrf token</p><input name=q>"

for what, reply in (
    ("policy", ok(None, HTML, POLICY, body=PAGE)),
    ("policy-of-anything", ok(None, POLICY)),
    ("policy-report-only", ok(None, HTML, REPORT, body=PAGE)),
    ("response-field", ok(None, ("X-CSRF-Token", "aPq9"))),
    ("preload", ok(None, ("Link", "</a.js>; rel=preload; as=script; nonce=aPq9"))),
    ("form", ok(None, HTML, body=FIELD)),
    ("meta", ok(None, HTML, body=META)),
    ("meta-policy", ok(None, HTML, body=META_POLICY)),
    ("nonce", ok(None, HTML, body=NONCE)),
    ("attribute", ok(None, HTML, body=HTMX)),
    ("script", ok(None, HTML, body=SCRIPT)),
    ("xhtml", ok(None, ("Content-Type", "application/xhtml+xml"), body=FIELD)),
    ("json", ok(None, ("Content-Type", "application/json"), body=b'{"csrfToken": "aPq9"}')),
    (
        "gzip",
        ok(None, HTML, ("Content-Encoding", "gzip"), body=gzip.compress(FIELD, mtime=0)),
    ),
    ("unreadable", ok(None, HTML, ("Content-Encoding", "br"), body=b"\x0b\x02\x80x\x03")),
    ("announced", ok(None, HTML, ("Content-Length", str(len(FIELD))), body=FIELD)),
):
    row(f"token-{what}", "G1", fetch(reply, cs=TOKEN), fetch(reply, cs=TOKEN), rules=RULE)
for what, reply in (
    ("app-says-so", ok("max-age=60", HTML, POLICY, body=FIELD)),
    ("none", ok(None, HTML, PLAIN, body=PAGE)),
    ("none-gzip", ok(None, HTML, ("Content-Encoding", "gzip"), body=gzip.compress(PAGE, mtime=0))),
    ("of-no-page", ok(None, ("Content-Type", "text/plain"), body=FIELD)),
    ("unset", ok(None, HTML, body=b'<input name="csrf_token" value=""><script nonce="">')),
    ("of-a-cookie", ok(None, HTML, body=b"<script>c = get('csrftoken')</script>")),
):
    row(f"token-{what}", "G1", fetch(reply, cs=STORED), hit(reply.body), rules=RULE)
row(
    "token-override",
    "G1",
    *[fetch(ok("max-age=9", HTML, body=FIELD), cs=TOKEN)] * 2,
    rules=({"path": "*", "ttl": 60, "override": True},),
)
row(
    "token-guessed",
    "G1",
    *[
        fetch(
            ok(None, HTML, ("Last-Modified", "Mon, 01 Jan 2018 00:00:00 GMT"), body=FIELD),
            cs=TOKEN,
        )
    ]
    * 2,
    heuristic=0.1,
)
# Who read along has it; who comes next does not.
parts = ok(None, HTML, body=FIELD, chunks=5)
row(
    "token-in-parts",
    "G1",
    fetch(parts, cs={"stored": None}),
    fetch(parts, cs={"stored": None}),
    rules=RULE,
)
ETAG = ("ETag", '"a"')
row(
    "token-in-a-304",
    "G1",
    fetch(ok(None, HTML, ETAG, body=PAGE), cs=STORED),
    Step(
        origin=(ok(None, ETAG, POLICY, status=304, body=b""),),
        content=PAGE,
        advance=61,
        cs={"fwd-status": 304, **TOKEN},
    ),
    fetch(ok(None, HTML, ETAG, body=b"two"), cs={"stored": True}, advance=1),
    rules=RULE,
)
row(
    "token-is-not-waited-for",
    "G1, G4",
    Step(
        concurrent=4,
        origin=tuple(ok(None, HTML, body=FIELD + b"%d" % number) for number in range(4)),
        cs=TOKEN,
    ),
    rules=RULE,
)
