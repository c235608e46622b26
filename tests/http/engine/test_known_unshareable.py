"""The short way for targets that are known not to be shareable agrees with the storing policy.

Whatever `unshared_head` refuses, `plan_storage` refuses for the same reason.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from layergate import Rule
from layergate.config import Options
from layergate.http.engine.settings import Settings
from layergate.http.engine.uncacheable import unshared_head
from layergate.http.message.fields import Fields
from layergate.http.message.request import Request
from layergate.http.rfc9111.plan import plan_storage
from layergate.http.rfc9111.storing import NotStored

NOW = 1_700_000_000.0
CONTROLS = [b"no-store", b"private", b"max-age=60", b"public", b"no-cache", b"must-understand",
            b"no-store, must-understand", b"private, max-age=5", b"no-transform", b""]  # fmt: skip
FIELDS = [
    *((b"cache-control", one) for one in CONTROLS),
    (b"expires", b"Tue, 14 Nov 2033 22:13:20 GMT"), (b"set-cookie", b"a=b"), (b"vary", b"*"),
    (b"etag", b'"x"'), (b"last-modified", b"Tue, 14 Nov 2023 22:13:20 GMT"),
    (b"cdn-cache-control", b"max-age=9"), (b"cdn-cache-control", b"no-store"),
    (b"content-type", b"text/html"), (b"content-range", b"bytes 0-1/5"),
]  # fmt: skip
RULES = [
    None,
    Rule("*", vary=["accept"]),
    Rule("*", ttl=20),
    Rule("*", ttl=20, override=True),
    Rule("*", ttl=20, allow_cookie=True),
    Rule("*", ttl=20, allow_authorization=True),
    Rule("*", ttl={200: 20, 404: 5}),
]
WHO = [(), ((b"cookie", b"s=1"),), ((b"authorization", b"Basic x"),)]


@given(
    status=st.sampled_from([200, 204, 206, 304, 301, 404, 412, 500]),
    lines=st.lists(st.sampled_from(FIELDS), max_size=4, unique_by=lambda line: line[0]),
    rule=st.sampled_from(RULES),
    who=st.sampled_from(WHO),
    heuristic=st.sampled_from([None, 0.1]),
)
def test_what_it_refuses_the_policy_refuses(status, lines, rule, who, heuristic) -> None:
    options = Options.of({"rules": () if rule is None else (rule,), "heuristic": heuristic})
    settings = Settings.of(options)
    request = Request(
        method="GET",
        scheme="http",
        host=b"example.com",
        path="/",
        key=b"http\0example.com\0/",
        fields=Fields([(b"host", b"example.com"), *who]),
        has_body=False,
        obey_directives=True,
    )
    match = settings.rules.match("/", b"example.com") if rule is not None else None
    told = unshared_head(
        settings,
        match,
        status,
        lines,
        cookie=request.cookie,
        authorization=request.authorization,
    )
    if told is None:
        return
    planned = plan_storage(
        request, status, Fields(lines), match, options, request_time=NOW, response_time=NOW
    )
    assert isinstance(planned, NotStored)
    (detail,) = [value for name, value in told if name == b"cache-status"]
    assert b"detail=" + planned.token.encode() in detail
