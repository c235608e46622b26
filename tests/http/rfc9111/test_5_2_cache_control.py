"""RFC 9111 section 5.2: Cache-Control, read. Each row: id, section, field value, what is set."""

import pytest

from layergate.http.message.cache_control import (
    DELTA_MAX,
    EMPTY,
    MAX_STALE_ANY,
    CacheControl,
    parse_cache_control,
)

HUGE = b"9" * 5000  # more digits than int() takes


def names(*fields: bytes) -> frozenset[bytes]:
    return frozenset(fields)


INVALID = {"invalid_freshness": True}

ROWS = [
    # 5.2: "Cache directives are identified by a token, to be compared case-insensitively"
    ("absent", "5.2", None, {}),
    ("empty", "5.2", b"", {}),
    ("blank", "5.2", b" , ,\t,", {}),
    ("case", "5.2", b"MaX-aGe=60, NO-STORE", {"max_age": 60, "no_store": True}),
    ("empty-members", "5.2", b",, public,,max-age=1,", {"public": True, "max_age": 1}),
    # 5.2: "have an optional argument that can use both token and quoted-string syntax ...
    # recipients ought to accept both forms, even if a specific form is required for generation."
    ("quoted-delta", "5.2", b'max-age="10"', {"max_age": 10}),
    ("quoted-s-maxage", "5.2", b'S-Maxage="10"', {"s_maxage": 10}),
    ("token-field-name", "5.2", b"private=X-User", {"private_fields": names(b"x-user")}),
    ("quoted-data", "5.2", b'x="max-age=100", max-age=1', {"max_age": 1}),
    ("quoted-data-after", "5.2", b'max-age=1, x="max-age=100"', {"max_age": 1}),
    ("quoted-data-both", "5.2", b'x="max-age=100", max-age="1"', {"max_age": 1}),
    ("quoted-no-store", "5.2", b'x="no-store, max-age=5", public', {"public": True}),
    ("quoted-escape", "5.2", b'x="a\\", no-store", max-age=5', {"max_age": 5}),
    ("quoted-private", "5.2", b'community="private"', {}),
    # 1.2.2: "delta-seconds = 1*DIGIT"; "greater than the greatest integer it can represent ... the
    # cache MUST consider the value to be 2147483648 (2^31)"
    ("delta-0", "1.2.2", b"max-age=0", {"max_age": 0}),
    ("delta-leading-zeros", "1.2.2", b"max-age=003600", {"max_age": 3600}),
    ("delta-many-zeros", "1.2.2", b"max-age=" + b"0" * 5000 + b"7", {"max_age": 7}),
    ("delta-only-zeros", "1.2.2", b"max-age=" + b"0" * 50, {"max_age": 0}),
    ("delta-2^31-1", "1.2.2", b"max-age=2147483647", {"max_age": 2147483647}),
    ("delta-2^31", "1.2.2", b"max-age=2147483648", {"max_age": DELTA_MAX}),
    ("delta-2^31+1", "1.2.2", b"max-age=2147483649", {"max_age": DELTA_MAX}),
    ("delta-overflow", "1.2.2", b"max-age=99999999999", {"max_age": DELTA_MAX}),
    ("delta-huge", "1.2.2", b"s-maxage=" + HUGE, {"s_maxage": DELTA_MAX}),
    # 4.2.1: "Caches are encouraged to consider responses that have invalid freshness information
    # (e.g., a max-age directive with non-integer content) to be stale."
    ("bad-missing", "4.2.1", b"max-age", INVALID),
    ("bad-empty", "4.2.1", b"max-age=", INVALID),
    ("bad-empty-quoted", "4.2.1", b'max-age=""', INVALID),
    ("bad-float", "4.2.1", b"max-age=3600.0", INVALID),
    ("bad-negative", "4.2.1", b"max-age=-1", INVALID),
    ("bad-plus", "4.2.1", b"max-age=+1", INVALID),
    ("bad-alpha", "4.2.1", b"max-age=a3600", INVALID),
    ("bad-trailing", "4.2.1", b"max-age=3600a", INVALID),
    ("bad-single-quotes", "4.2.1", b"max-age='3600'", INVALID),
    ("bad-half-quoted", "4.2.1", b'max-age="60', INVALID),
    ("bad-space-before", "4.2.1", b"max-age =60", INVALID),
    ("bad-space-after", "4.2.1", b"max-age= 60", INVALID),
    ("bad-tab-before", "4.2.1", b"max-age\t=60", INVALID),
    ("bad-arabic-digits", "4.2.1", "max-age=٣".encode(), INVALID),
    ("bad-nul", "4.2.1", b"max-age=6\x000", INVALID),
    ("bad-s-maxage", "4.2.1", b"s-maxage=x, max-age=60", {"max_age": 60, **INVALID}),
    # 4.2.1: "either the first occurrence should be used or the response should be considered stale"
    ("twice-longer-first", "4.2.1", b"max-age=1800, max-age=1", {"max_age": 1800}),
    ("twice-shorter-first", "4.2.1", b"max-age=1, max-age=1800", {"max_age": 1}),
    ("twice-bad-first", "4.2.1", b"max-age=x, max-age=60", INVALID),
    ("twice-bad-second", "4.2.1", b"max-age=60, max-age=x", {"max_age": 60}),
    ("twice-swr", "4.2.1", b"stale-while-revalidate=x, stale-while-revalidate=9", {}),
    # 5.2.1: request directives
    ("req-max-stale", "5.2.1.2", b"max-stale=10", {"max_stale": 10}),
    ("req-max-stale-any", "5.2.1.2", b"max-stale", {"max_stale": MAX_STALE_ANY}),
    ("req-max-stale-empty", "5.2.1.2", b"max-stale=", {}),
    ("req-max-stale-bad", "5.2.1.2", b"max-stale=x", {}),
    ("req-min-fresh", "5.2.1.3", b"min-fresh=20", {"min_fresh": 20}),
    ("req-min-fresh-bad", "5.2.1.3", b"min-fresh=-20", {}),
    ("req-no-cache", "5.2.1.4", b"no-cache", {"no_cache": True}),
    ("req-no-store", "5.2.1.5", b"no-store", {"no_store": True}),
    ("req-no-transform", "5.2.1.6", b"no-transform", {"no_transform": True}),
    ("req-only-if-cached", "5.2.1.7", b"only-if-cached", {"only_if_cached": True}),
    # 5.2.2: response directives
    ("must-revalidate", "5.2.2.2", b"must-revalidate", {"must_revalidate": True}),
    ("must-understand", "5.2.2.3", b"must-understand", {"must_understand": True}),
    ("must-understand-argument", "5.2.2.3", b"must-understand=1, no-store", {"no_store": True}),
    ("no-cache-unqualified", "5.2.2.4", b"no-cache", {"no_cache": True}),
    ("no-cache-one", "5.2.2.4", b'no-cache="A"', {"no_cache_fields": names(b"a")}),
    ("no-cache-some", "5.2.2.4", b'no-cache="a, B,"', {"no_cache_fields": names(b"a", b"b")}),
    ("no-cache-escaped", "5.2.2.4", b'no-cache="a\\b"', {"no_cache_fields": names(b"ab")}),
    ("no-cache-union", "5.2.2.4", b'no-cache="a", no-cache="b"',
     {"no_cache_fields": names(b"a", b"b")}),
    ("no-cache-both", "5.2.2.4", b'no-cache="a", no-cache',
     {"no_cache": True, "no_cache_fields": names(b"a")}),
    ("no-cache-empty", "5.2.2.4", b"no-cache=", {"no_cache": True}),
    ("no-cache-empty-quoted", "5.2.2.4", b'no-cache=""', {"no_cache": True}),
    ("no-cache-garbage", "5.2.2.4", b'no-cache="a b"', {"no_cache": True}),
    ("no-cache-half-quoted", "5.2.2.4", b'no-cache="a', {"no_cache": True}),
    ("no-cache-after-quote", "5.2.2.4", b'no-cache="a"b', {"no_cache": True}),
    ("no-cache-space", "5.2.2.4", b'no-cache = "a"', {"no_cache": True}),
    ("no-cache-indispensable", "5.2.2.4", b'no-cache="vary"', {"no_cache": True}),
    ("no-store-argument", "5.2.2.5", b"no-store=x", {"no_store": True}),
    ("private-unqualified", "5.2.2.7", b"private", {"private": True}),
    ("private-some", "5.2.2.7", b'private="Set-Cookie, X-User"',
     {"private_fields": names(b"set-cookie", b"x-user")}),
    ("private-empty", "5.2.2.7", b'private=" , "', {"private": True}),
    ("private-garbage", "5.2.2.7", b'private="\xff"', {"private": True}),
    ("private-indispensable", "5.2.2.7", b'private="x, Content-Encoding"', {"private": True}),
    ("proxy-revalidate", "5.2.2.8", b"proxy-revalidate", {"proxy_revalidate": True}),
    ("public", "5.2.2.9", b"public", {"public": True}),
    ("public-argument", "5.2.2.9", b"public=x", {}),
    ("s-maxage", "5.2.2.10", b"s-maxage=5, max-age=9", {"s_maxage": 5, "max_age": 9}),
    # 5.2.3: "A cache MUST ignore unrecognized cache directives."
    ("extension", "5.2.3", b'foobar, a=b, c="d", max-age=60', {"max_age": 60}),
    ("community", "5.2.3", b'private, community="UCI"', {"private": True}),
    ("swr", "RFC 5861 3", b"stale-while-revalidate=30", {"stale_while_revalidate": 30}),
    ("swr-no-value", "RFC 5861 3", b"stale-while-revalidate", {}),
    ("sie", "RFC 5861 4", b"stale-if-error=1200", {"stale_if_error": 1200}),
    # "If any arguments are present, they have no meaning and MUST be ignored."
    ("immutable", "RFC 8246 2", b"immutable=1", {"immutable": True}),
    # What no RFC covers: a malformed member never hides that a response is not for everyone (G1).
    ("semicolons", "G1", b"private; max-age=60", {"private": True}),
    ("semicolons-last", "G1", b"max-age=60; private", {"private": True, **INVALID}),
    ("spaces", "G1", b"no-store max-age=60", {"no_store": True}),
    ("spaces-last", "G1", b"max-age=60 no-cache", {"no_cache": True, **INVALID}),
    ("open-quote", "G1", b'x="a, no-store', {"no_store": True}),
    ("open-quote-case", "G1", b'x="a, Private, max-age=5', {"private": True}),
    ("control-char", "G1", b"private\x00", {"private": True}),
    ("malformed-with-quoted", "G1", b'x y="no-store"', {}),
    ("longer-name", "G1", b"no-store-ever, privately; max-age=1", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"), [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in ROWS]
)
def test_reads(value, expected):
    assert parse_cache_control(value) == CacheControl(**expected)


@pytest.mark.parametrize(
    ("value", "explicit"),
    [
        pytest.param(None, False, id="absent"),
        pytest.param(b"foo", False, id="unknown"),
        pytest.param(b"no-transform", False, id="no-transform"),
        pytest.param(b"must-revalidate", False, id="must-revalidate"),
        pytest.param(b"proxy-revalidate", False, id="proxy-revalidate"),
        pytest.param(b"immutable", False, id="immutable"),
        pytest.param(b"stale-while-revalidate=1, stale-if-error=1", False, id="stale-windows"),
        pytest.param(b"max-age=0", True, id="max-age-0"),
        pytest.param(b"s-maxage=0", True, id="s-maxage-0"),
        pytest.param(b"max-age=x", True, id="invalid"),
        pytest.param(b"public", True, id="public"),
        pytest.param(b"private", True, id="private"),
        pytest.param(b'private="a"', True, id="private-qualified"),
        pytest.param(b"no-cache", True, id="no-cache"),
        pytest.param(b'no-cache="a"', True, id="no-cache-qualified"),
        pytest.param(b"no-store", True, id="no-store"),
        pytest.param(b"must-understand", True, id="must-understand"),
    ],
)
def test_says_something_about_storing_or_freshness(value, explicit):
    assert parse_cache_control(value).has_explicit is explicit


def test_results_are_shared_and_cannot_be_changed():
    parsed = parse_cache_control(b"max-age=77")
    assert parse_cache_control(b"max-age=77") is parsed
    assert parse_cache_control(None) is EMPTY
    with pytest.raises(AttributeError):
        parsed.max_age = 78  # type: ignore[misc]


def test_long_values_are_read_but_not_kept():
    value = b"max-age=5, x=" + b"y" * 9000
    assert parse_cache_control(value) == CacheControl(max_age=5)
    assert parse_cache_control(value) is not parse_cache_control(value)
