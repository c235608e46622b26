"""RFC 9111 section 3.1: which fields of a response are stored."""

import pytest

from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.storing import storable_fields


def stored(*lines, drop=frozenset()):
    fields = Fields(lines)
    cc = parse_cache_control(fields.get(b"cache-control"))
    return storable_fields(fields, cc, drop=drop)


# "Caches MUST include all received response header fields — including unrecognized ones"
KEPT = [
    b"test-header", b"x-test-header", b"content-foo", b"x-content-foo", b"cache-control",
    b"content-encoding", b"content-length", b"content-location", b"content-md5",
    b"content-security-policy", b"content-type", b"clear-site-data", b"date", b"etag", b"expires",
    b"last-modified", b"public-key-pins", b"set-cookie", b"set-cookie2", b"vary", b"via",
    b"warning", b"www-authenticate", b"x-frame-options", b"x-xss-protection", b"\xff", b"",
]  # fmt: skip

DROPPED = [
    # "The Connection header field and fields whose names are listed in it"; RFC 9110 7.6.1
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade",
    # "Proxy-Authenticate ..., Proxy-Authentication-Info ..., and Proxy-Authorization"
    b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
    # Section 4: "a cache MUST generate an Age header field ..., replacing any present"
    b"age",
]  # fmt: skip


@pytest.mark.parametrize("name", KEPT, ids=repr)
def test_stored(name):
    assert stored((name.upper(), b"x")) == [(name.lower(), b"x")]


@pytest.mark.parametrize("name", DROPPED, ids=repr)
def test_not_stored(name):
    assert stored((b"A", b"1"), (name.title(), b"x"), (b"b", b"2")) == [(b"a", b"1"), (b"b", b"2")]


A, B, C = (b"a", b"1"), (b"b", b"2"), (b"c", b"3")
ROWS = [
    ("order-and-duplicates", [C, A, C, A], [C, A, C, A]),
    ("connection-lists", [(b"Connection", b"a, B"), A, B, C], [C]),
    ("connection-lines", [A, B, C, (b"connection", b"close"), (b"connection", b"b")], [A, C]),
    ("connection-garbage", [(b"connection", b'"a, b", \xff,,'), A, B], [A, B]),
]


@pytest.mark.parametrize(
    ("lines", "expected"), [pytest.param(*row[1:], id=f"3.1-{row[0]}") for row in ROWS]
)
def test_lines(lines, expected):
    assert stored(*lines) == expected


# "The no-cache (Section 5.2.2.4) and private (Section 5.2.2.7) cache directives can have arguments
# that prevent storage of header fields by all caches and shared caches, respectively."
QUALIFIED = [
    ("no-cache-one", b'no-cache="a"', [B, C]),
    ("no-cache-two", b'no-cache="a, b"', [C]),
    ("no-cache-case", b'No-Cache="A"', [B, C]),
    ("private-one", b'private="c"', [A, B]),
    ("both", b'private="c", no-cache="b"', [A]),
    ("token", b"private=c", [A, B]),
    ("unqualified", b"no-cache", [A, B, C]),
    ("absent-field", b'no-cache="z"', [A, B, C]),
]


@pytest.mark.parametrize(
    ("value", "expected"), [pytest.param(*row[1:], id=f"3.1-{row[0]}") for row in QUALIFIED]
)
def test_qualified(value, expected):
    lines = stored(A, B, (b"Cache-Control", value), C)
    assert [line for line in lines if line[0] != b"cache-control"] == expected
    assert (b"cache-control", value) in lines


def test_the_caller_may_drop_more():
    assert stored(A, B, C, drop=frozenset({b"b"})) == [A, C]
