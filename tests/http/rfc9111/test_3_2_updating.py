"""RFC 9111 section 3.2: updating a stored response's fields from a 304 or a HEAD."""

import pytest

from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.validation import updated_fields


def updated(stored, new, **options):
    fields = Fields(new)
    cc = parse_cache_control(fields.get(b"cache-control"))
    return updated_fields(stored, fields, cc, **options)


A, B = b"value-a", b"value-b"

# "the cache MUST add each header field in the provided response to the stored response, replacing
# field values that are already present"
UPDATED = [
    b"test-header", b"x-test-header", b"content-foo", b"x-content-foo", b"cache-control",
    b"content-location", b"content-security-policy", b"content-type",
    b"clear-site-data", b"date", b"etag", b"expires", b"last-modified", b"public-key-pins",
    b"x-frame-options", b"x-xss-protection",
]  # fmt: skip

# "with the following exceptions: Header fields excepted from storage in Section 3.1, Header fields
# that the cache's stored response depends upon ..., Header fields that are automatically processed
# and removed by the recipient ..., and The Content-Length header field."
NOT_UPDATED = [
    b"content-length", b"content-encoding", b"content-range",
    # "... such omission ... necessary to assure integrity of the stored response": digests of it.
    b"content-md5", b"content-digest", b"repr-digest", b"digest",
]  # fmt: skip
NEVER_STORED = [
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info",
    b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"age",
]  # fmt: skip


@pytest.mark.parametrize("name", UPDATED, ids=repr)
def test_replaced(name):
    assert updated([(b"x", b"0"), (name, A)], [(name.title(), B)]) == [(b"x", b"0"), (name, B)]


@pytest.mark.parametrize("name", UPDATED, ids=repr)
def test_added(name):
    assert updated([(b"x", b"0")], [(name, B)]) == [(b"x", b"0"), (name, B)]


@pytest.mark.parametrize("name", NOT_UPDATED, ids=repr)
def test_left_as_stored(name):
    assert updated([(name, A)], [(name, B)]) == [(name, A)]
    assert updated([], [(name, B)]) == []


@pytest.mark.parametrize("name", NEVER_STORED, ids=repr)
def test_never_stored(name):
    assert updated([(b"x", b"0")], [(name, B)]) == [(b"x", b"0")]


DATE = (b"date", b"Tue, 14 Nov 2023 22:13:20 GMT")
ROWS = [
    ("omitted-is-kept", [DATE, (b"x", A)], [DATE], {}, [(b"x", A), DATE]),
    ("all-lines-replaced", [(b"x", A), (b"y", A), (b"x", A)], [(b"X", B)], {},
     [(b"y", A), (b"x", B)]),
    ("duplicates-added", [(b"x", A)], [(b"x", B), (b"x", A)], {}, [(b"x", B), (b"x", A)]),
    # RFC 9110 6.6.1: the stored Date is that of the older message.
    ("no-date", [DATE, (b"x", A)], [(b"x", B)], {}, [(b"x", B)]),
    # 3.1, of the new response and of the stored one
    ("connection", [(b"a", A)], [(b"Connection", b"b"), (b"b", B)], {}, [(b"a", A)]),
    ("qualified-new", [(b"a", A), (b"c", A)],
     [(b"cache-control", b'no-cache="a"'), (b"a", B)], {},
     [(b"c", A), (b"cache-control", b'no-cache="a"')]),
    ("qualified-stored", [(b"cache-control", b'private="a"')], [(b"a", B)], {},
     [(b"cache-control", b'private="a"')]),
    # G1: an update takes nothing away from what keeps a response, or a field, from others.
    ("qualified-stored-stays", [(b"cache-control", b'private="a, b", no-cache="c"')],
     [(b"cache-control", b'max-age=1, private="b"'), (b"a", B), (b"b", B), (b"c", B)], {},
     [(b"cache-control", b'max-age=1, private="b"'), (b"cache-control", b'private="a"'),
      (b"cache-control", b'no-cache="c"')]),
    ("qualified-by-a-target", [(b"cdn-cache-control", b'private="a"')],
     [(b"cdn-cache-control", b"max-age=1"), (b"a", B)], {"targets": (b"cdn-cache-control",)},
     [(b"cdn-cache-control", b"max-age=1"), (b"cache-control", b'private="a"')]),
    ("vary-added", [(b"x", A)], [(b"vary", b"foo")], {}, [(b"x", A), (b"vary", b"foo")]),
    ("vary-kept", [(b"vary", b"foo")], [(b"x", A)], {}, [(b"vary", b"foo"), (b"x", A)]),
    ("vary-narrower", [(b"vary", b"Cookie, Origin")], [(b"vary", b"Origin")], {},
     [(b"vary", b"Origin"), (b"vary", b"cookie")]),
    ("vary-wider", [(b"vary", b"Origin")], [(b"vary", b"Cookie, Origin")], {},
     [(b"vary", b"Cookie, Origin")]),
    ("vary-empty", [(b"vary", b"foo")], [(b"vary", b"")], {}, [(b"vary", b""), (b"vary", b"foo")]),
    ("vary-star", [(b"vary", b"foo")], [(b"vary", b"*")], {}, [(b"vary", b"*")]),
    ("vary-hop-by-hop", [(b"vary", b"foo")], [(b"connection", b"vary"), (b"vary", b"bar")], {},
     [(b"vary", b"bar"), (b"vary", b"foo")]),
    ("vary-hop-by-hop-only", [(b"vary", b"foo")], [(b"connection", b"vary")], {}, [(b"vary", b"foo")]),
    ("dropped-by-caller", [], [(b"a", B), (b"b", B)], {"drop": frozenset({b"a"})}, [(b"b", B)]),
    # G1: a cookie of a 304 is for the client that asked.
    ("set-cookie", [], [(b"Set-Cookie", B), (b"set-cookie2", B)], {}, []),
    ("set-cookie-stored", [(b"set-cookie", A)], [(b"set-cookie", B)], {}, [(b"set-cookie", A)]),
    ("set-cookie-allowed", [(b"set-cookie", A)], [(b"set-cookie", B)],
     {"allow_set_cookie": True}, [(b"set-cookie", B)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "new", "options", "expected"),
    [pytest.param(*row[1:], id=f"3.2-{row[0]}") for row in ROWS],
)
def test_rows(stored, new, options, expected):
    before = list(stored)
    assert updated(stored, new, **options) == expected
    assert stored == before
