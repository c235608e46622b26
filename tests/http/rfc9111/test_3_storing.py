"""RFC 9111 section 3: what may be stored, and the first reason why not."""

import re

import pytest

from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.freshness import UNDERSTOOD_STATUSES
from layergate.http.rfc9111.storing import NotStored, may_store


def refusal(cc=None, *lines, method="GET", status=200, request=(), lifetime=False, cookies=False):
    fields = Fields([*lines, *([] if cc is None else [(b"Cache-Control", cc)])])
    request_fields = Fields(request)
    return may_store(
        method=method,
        request_fields=request_fields,
        request_cc=parse_cache_control(request_fields.get(b"cache-control")),
        status=status,
        fields=fields,
        cc=parse_cache_control(fields.get(b"cache-control")),
        explicit_lifetime=lifetime,
        allow_set_cookie=cookies,
    )


EXPIRES = (b"Expires", b"Thu, 18 Aug 2050 02:01:18 GMT")
COOKIE = (b"Set-Cookie", b"a=b")
OK = b"max-age=60"

ROWS = [
    # "the request method is understood by the cache"
    ("get", "3", refusal(OK), None),
    *((method, "3", refusal(OK, method=method), NotStored.METHOD)
      for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", "M-SEARCH", "")),
    # "the response status code is final"
    *((f"status-{code}", "3", refusal(OK, status=code), NotStored.STATUS)
      for code in (-1, 0, 99, 100, 101, 103, 199, 600, 999)),
    # "if the response status code is 206 or 304 ...: the cache understands the response status code"
    ("206", "3", refusal(OK, status=206), NotStored.PARTIAL),
    ("206-must-understand", "3", refusal(b"max-age=60, must-understand", status=206),
     NotStored.PARTIAL),
    ("content-range", "RFC 9110 14.4", refusal(OK, (b"content-range", b"bytes 0-1/2")), None),
    ("content-range-asked", "3.3",
     refusal(OK, (b"content-range", b"bytes 0-1/2"), request=[(b"Range", b"bytes=0-1")]), NotStored.PARTIAL),
    ("304", "3", refusal(OK, status=304), NotStored.NOT_MODIFIED),
    # With explicit freshness every other final status code can be stored,
    *((f"status-{code}", "3", refusal(OK, status=code), None)
      for code in (200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 401, 403, 404, 410, 414, 499,
                   500, 501, 502, 503, 504, 599)),
    # except those that answer one request or one client only.
    *((f"status-{code}", "RFC 9110", refusal(OK, status=code), NotStored.STATUS)
      for code in (407, 408, 412, 416, 417, 425, 426)),
    *((f"status-{code}", "RFC 6585", refusal(OK, status=code), NotStored.STATUS)
      for code in (428, 429, 431, 511)),
    # "the no-store cache directive is not present in the response"
    ("no-store", "5.2.2.5", refusal(b"no-store"), NotStored.NO_STORE),
    ("no-store-fresh", "5.2.2.5", refusal(b"max-age=60, No-StOrE", EXPIRES), NotStored.NO_STORE),
    ("no-store-public", "5.2.2.5", refusal(b"public, no-store, s-maxage=9"), NotStored.NO_STORE),
    ("no-store-rule", "5.2.2.5", refusal(b"no-store", lifetime=True), NotStored.NO_STORE),
    ("no-store-request", "5.2.1.5", refusal(OK, request=[(b"Cache-Control", b"no-store")]),
     NotStored.REQUEST_NO_STORE),
    ("no-cache-request", "5.2.1.4", refusal(OK, request=[(b"Cache-Control", b"no-cache")]), None),
    # "the cache SHOULD ignore the no-store directive if it understands and implements the status
    # code's caching requirements"
    ("must-understand-200", "5.2.2.3", refusal(b"max-age=60, no-store, must-understand"), None),
    ("must-understand-599", "5.2.2.3",
     refusal(b"max-age=60, no-store, must-understand", status=599), NotStored.MUST_UNDERSTAND),
    ("must-understand-alone-599", "5.2.2.3", refusal(b"max-age=60, must-understand", status=599),
     NotStored.MUST_UNDERSTAND),
    ("must-understand-argument", "5.2.2.3", refusal(b"max-age=60, no-store, must-understand=x"),
     NotStored.NO_STORE),
    ("must-understand-request-no-store", "5.2.2.3",
     refusal(b"max-age=60, no-store, must-understand", request=[(b"cache-control", b"no-store")]),
     NotStored.REQUEST_NO_STORE),
    ("must-understand-private", "5.2.2.3", refusal(b"max-age=60, private, must-understand"),
     NotStored.PRIVATE),
    # "the private response directive is either not present or allows a shared cache to store a
    # modified response"
    ("private", "5.2.2.7", refusal(b"private, max-age=60"), NotStored.PRIVATE),
    ("private-public", "5.2.2.7", refusal(b"public, private, s-maxage=60"), NotStored.PRIVATE),
    ("private-rule", "5.2.2.7", refusal(b"private", lifetime=True), NotStored.PRIVATE),
    ("private-qualified", "5.2.2.7", refusal(b'private="x-user", max-age=60'), None),
    ("private-qualified-empty", "5.2.2.7", refusal(b'private="", max-age=60'), NotStored.PRIVATE),
    ("private-malformed", "G1", refusal(b"private; max-age=60", lifetime=True), NotStored.PRIVATE),
    # "the response contains at least one of the following: a public response directive; ..."
    ("public", "3", refusal(b"public"), None),
    ("public-599", "3", refusal(b"public", status=599), None),
    ("expires", "3", refusal(None, EXPIRES, status=599), None),
    ("expires-invalid", "3", refusal(None, (b"expires", b"0")), None),
    ("max-age", "3", refusal(b"max-age=60", status=599), None),
    ("max-age-0", "3", refusal(b"max-age=0"), None),
    ("max-age-invalid", "3", refusal(b"max-age=x", status=599), None),
    ("s-maxage", "3", refusal(b"s-maxage=60", status=599), None),
    ("lifetime-of-the-caller", "5.2.3", refusal(lifetime=True), None),
    ("lifetime-of-the-caller-599", "5.2.3", refusal(status=599, lifetime=True), None),
    # "a status code that is defined as heuristically cacheable", if the response mentions caching.
    ("nothing", "3", refusal(), NotStored.NO_FRESHNESS),
    ("nothing-etag", "3", refusal(None, (b"etag", b'"a"')), NotStored.NO_FRESHNESS),
    ("nothing-599", "3", refusal(status=599), NotStored.NO_FRESHNESS),
    ("no-cache", "5.2.2.4", refusal(b"no-cache", (b"etag", b'"a"')), None),
    ("no-cache-599", "5.2.2.4", refusal(b"no-cache", status=599), NotStored.NO_FRESHNESS),
    ("no-cache-302", "5.2.2.4", refusal(b"no-cache", status=302), NotStored.NO_FRESHNESS),
    ("must-revalidate", "5.2.2.2", refusal(b"must-revalidate"), NotStored.NO_FRESHNESS),
    ("extension", "5.2.3", refusal(b"foo"), NotStored.NO_FRESHNESS),
    ("stale-windows", "RFC 5861", refusal(b"stale-while-revalidate=9"), NotStored.NO_FRESHNESS),
    ("pragma", "5.4", refusal(OK, (b"pragma", b"no-cache")), None),
    # 4.1: 'a member "*" always fails to match'
    ("vary", "4.1", refusal(OK, (b"vary", b"accept")), None),
    ("vary-star", "4.1", refusal(OK, (b"vary", b"accept, *")), NotStored.VARY_STAR),
    ("vary-garbage", "4.1", refusal(OK, (b"vary", b"a b")), NotStored.VARY_STAR),
    # G1: cookies
    ("set-cookie", "G1", refusal(OK, COOKIE), NotStored.SET_COOKIE),
    ("set-cookie-public", "G1", refusal(b"public, s-maxage=60", COOKIE), NotStored.SET_COOKIE),
    ("set-cookie2", "G1", refusal(OK, (b"set-cookie2", b"a=b")), None),
    ("set-cookie-rule", "G1", refusal(None, COOKIE, lifetime=True), NotStored.SET_COOKIE),
    ("set-cookie-allowed", "7.3", refusal(OK, COOKIE, cookies=True), None),
    ("set-cookie-no-cache", "5.2.2.4", refusal(b'max-age=60, no-cache="set-cookie"', COOKIE), None),
    ("set-cookie-private", "5.2.2.7", refusal(b'max-age=60, private="Set-Cookie"', COOKIE), None),
    ("set-cookie-other-named", "G1", refusal(b'max-age=60, private="x"', COOKIE),
     NotStored.SET_COOKIE),
    ("request-cookie", "3", refusal(OK, request=[(b"Cookie", b"a=b")]), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("refused", "expected"), [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in ROWS]
)
def test_may_store(refused, expected):
    assert refused is expected


@pytest.mark.parametrize("reason", NotStored, ids=lambda reason: reason.name)
def test_every_reason_can_be_shown(reason):
    assert re.fullmatch(r"[a-z*][a-z0-9-]*", reason.token)  # an sf-token
    assert re.fullmatch(r"[1-7](\.\d+)*|RFC \d+ \d+(\.\d+)*|G\d+", reason.rfc)
    assert re.fullmatch(r"[A-Z][^\n]*\.", reason.explain)
    assert reason.explain.isascii()
    assert NotStored(reason.token) is reason  # type: ignore[call-arg]


def test_understood_status_codes_are_not_refused_for_themselves():
    assert {refusal(OK, status=code) for code in UNDERSTOOD_STATUSES} == {None}
