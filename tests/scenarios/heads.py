"""Rows: what a head says of storing (G11), and lifetimes that are not for what has a token (G1)."""

from __future__ import annotations

import gzip
from typing import Any

from tests.scenarios.model import Reply, Scenario, Step
from tests.scenarios.table import SCENARIOS

RULE = ({"path": "*", "ttl": 60},)
HTML = ("Content-Type", "text/html; charset=utf-8")
TEN = b"0123456789"


def _reply(cc: str | None, *lines: tuple[str, str], **kw: Any) -> Reply:
    return Reply(lines=(*(() if cc is None else (("Cache-Control", cc),)), *lines), **kw)


def _fetch(reply: Reply, cs: dict[str, Any], **kw: Any) -> Step:
    kw.setdefault("content", reply.body)
    return Step(origin=(reply,), status=reply.status, cs={"hit": None, **cs}, **kw)


def _hit(content: bytes, **kw: Any) -> Step:
    return Step(content=content, cs={"hit": True, "fwd": None}, **kw)


def _row(id_: str, rfc: str, *steps: Step, rules: tuple = (), **options: Any) -> None:
    SCENARIOS.append(Scenario(id_, rfc, steps, rules, options))


# -- stored ----------------------------------------------------------------------------------------

STORED = {"stored": True, "detail": None}
UNSAID = {"stored": None, "detail": None}
LENGTH = ("Content-Length", "10")

_row(
    "stored-length-known", "G11", _fetch(_reply("max-age=60", LENGTH, body=TEN), STORED), _hit(TEN)
)
_row("stored-whole-in-hand", "G11", _fetch(_reply("max-age=60", body=TEN), STORED), _hit(TEN))
_row("stored-nothing", "G11", _fetch(_reply("max-age=60", body=b""), STORED), _hit(b""))
_row("stored-no-content", "G11", _fetch(_reply("max-age=60", status=204, body=b""), STORED))
_row(
    "stored-parts-of-known-length",
    "G11",
    _fetch(_reply("max-age=60", LENGTH, body=TEN, chunks=4), STORED),
    _hit(TEN),
)
_row(
    "stored-parts-of-unknown-length",
    "G11",
    _fetch(_reply("max-age=60", body=TEN, chunks=4), UNSAID),
    _hit(TEN),
)
_row(
    "stored-to-be-validated",
    "G11",
    _fetch(_reply("no-cache", ("ETag", '"a"'), body=TEN), STORED),
    Step(
        origin=(_reply("no-cache", ("ETag", '"a"'), status=304, body=b""),),
        content=TEN,
        cs={"fwd-status": 304, "stored": True},
    ),
)
_row(
    "stored-to-be-validated-unknown-length",
    "G11",
    _fetch(_reply("no-cache", ("ETag", '"a"'), body=TEN, chunks=4), UNSAID),
)
for what, lines, chunks in (
    ("whole", (), 1),
    ("announced", (LENGTH,), 1),
    ("announced-parts", (LENGTH,), 3),
):
    large = _reply("max-age=60", *lines, body=TEN, chunks=chunks)
    over = {"stored": None, "detail": "too-large"}
    _row(f"stored-too-large-{what}", "G11", _fetch(large, over), _fetch(large, over), max_body=5)
    full = {"stored": None, "detail": "budget"}
    _row(
        f"stored-over-budget-{what}",
        "G11",
        _fetch(large, full),
        _fetch(large, full),
        max_inflight=5,
    )
late = _reply("max-age=60", body=TEN, chunks=4)
_row(
    "stored-too-large-parts",
    "G11",
    _fetch(late, {"stored": None}),
    _fetch(late, {"stored": None}),
    max_body=5,
)

# -- tokens ----------------------------------------------------------------------------------------

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
    ("policy", _reply(None, HTML, POLICY, body=PAGE)),
    ("policy-of-anything", _reply(None, POLICY)),
    ("policy-report-only", _reply(None, HTML, REPORT, body=PAGE)),
    ("response-field", _reply(None, ("X-CSRF-Token", "aPq9"))),
    ("preload", _reply(None, ("Link", "</a.js>; rel=preload; as=script; nonce=aPq9"))),
    ("form", _reply(None, HTML, body=FIELD)),
    ("meta", _reply(None, HTML, body=META)),
    ("meta-policy", _reply(None, HTML, body=META_POLICY)),
    ("nonce", _reply(None, HTML, body=NONCE)),
    ("attribute", _reply(None, HTML, body=HTMX)),
    ("script", _reply(None, HTML, body=SCRIPT)),
    ("xhtml", _reply(None, ("Content-Type", "application/xhtml+xml"), body=FIELD)),
    ("json", _reply(None, ("Content-Type", "application/json"), body=b'{"csrfToken": "aPq9"}')),
    (
        "gzip",
        _reply(None, HTML, ("Content-Encoding", "gzip"), body=gzip.compress(FIELD, mtime=0)),
    ),
    ("unreadable", _reply(None, HTML, ("Content-Encoding", "br"), body=b"\x0b\x02\x80x\x03")),
    ("announced", _reply(None, HTML, ("Content-Length", str(len(FIELD))), body=FIELD)),
):  # fmt: skip
    _row(f"token-{what}", "G1", _fetch(reply, TOKEN), _fetch(reply, TOKEN), rules=RULE)
for what, reply in (
    ("app-says-so", _reply("max-age=60", HTML, POLICY, body=FIELD)),
    ("none", _reply(None, HTML, PLAIN, body=PAGE)),
    ("none-gzip", _reply(None, HTML, ("Content-Encoding", "gzip"), body=gzip.compress(PAGE, mtime=0))),
    ("of-no-page", _reply(None, ("Content-Type", "text/plain"), body=FIELD)),
    ("unset", _reply(None, HTML, body=b'<input name="csrf_token" value=""><script nonce="">')),
    ("of-a-cookie", _reply(None, HTML, body=b"<script>c = get('csrftoken')</script>")),
):  # fmt: skip
    _row(f"token-{what}", "G1", _fetch(reply, STORED), _hit(reply.body), rules=RULE)
_row(
    "token-override",
    "G1",
    *[_fetch(_reply("max-age=9", HTML, body=FIELD), TOKEN)] * 2,
    rules=({"path": "*", "ttl": 60, "override": True},),
)
_row(
    "token-guessed",
    "G1",
    *[
        _fetch(
            _reply(None, HTML, ("Last-Modified", "Mon, 01 Jan 2018 00:00:00 GMT"), body=FIELD),
            TOKEN,
        )
    ]
    * 2,
    heuristic=0.1,
)
# Who read along has it; who comes next does not.
parts = _reply(None, HTML, body=FIELD, chunks=5)
_row(
    "token-in-parts",
    "G1",
    _fetch(parts, {"stored": None}),
    _fetch(parts, {"stored": None}),
    rules=RULE,
)
ETAG = ("ETag", '"a"')
_row(
    "token-in-a-304",
    "G1",
    _fetch(_reply(None, HTML, ETAG, body=PAGE), STORED),
    Step(
        origin=(_reply(None, ETAG, POLICY, status=304, body=b""),),
        content=PAGE,
        advance=61,
        cs={"fwd-status": 304, **TOKEN},
    ),
    _fetch(_reply(None, HTML, ETAG, body=b"two"), {"stored": True}, advance=1),
    rules=RULE,
)
_row(
    "token-is-not-waited-for",
    "G1, G4",
    Step(
        concurrent=4,
        origin=tuple(_reply(None, HTML, body=FIELD + b"%d" % number) for number in range(4)),
        cs=TOKEN,
    ),
    rules=RULE,
)
