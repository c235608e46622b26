"""Bytes from a hostile peer: nothing raises, nothing is slow, and keys stay injective."""

import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.http.extensions.cache_status import forward_value, hit_value
from layergate.http.message.cache_control import DELTA_MAX, CacheControl, parse_cache_control
from layergate.http.message.dates import parse_http_date
from layergate.http.message.etags import parse_etag_list, strong_match, weak_match
from layergate.http.message.fields import Fields, split_list
from layergate.http.message.uri import canonical_uri, origin_of, resolve_uri
from layergate.http.rfc9111.freshness import freshness_lifetime, initial_age
from layergate.http.rfc9111.invalidation import invalidated_uris, invalidates
from layergate.http.rfc9111.selecting import normalize, secondary_key, vary_names
from layergate.http.rfc9111.storing import NotStored, may_store, storable_fields
from layergate.http.rfc9111.validation import (
    conditional_lines,
    freshens,
    has_validator,
    head_matches,
    not_modified,
    not_modified_lines,
    updated_fields,
)
from tests.support.dates import http_date

settings.register_profile("hostile", max_examples=75, deadline=None)
hostile = settings(settings.get_profile("hostile"))

NOW = 1_700_000_000.0

# Arbitrary bytes rarely get past the first check of a parser; pieces of the real thing do.
PIECES = [
    b"max-age", b"s-maxage", b"no-cache", b"private", b"no-store", b"public", b"=", b'"', b"\\",
    b",", b";", b" ", b"\t", b"0", b"60", b"-1", b"9" * 20, b"*", b"W/", b'"a"', b"q=0.5", b"q=",
    b"gzip", b"text/html", b"en", b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sun", b"Nov", b"GMT",
    b"http://h", b"//", b"/", b"..", b"?", b"#", b"@", b"[", b"]", b":", b"\x00", b"\r\n", b"\xff",
    b"vary", b"a",
]  # fmt: skip
NAMES = [
    b"Cache-Control", b"Expires", b"Date", b"Age", b"Vary", b"ETag", b"Last-Modified",
    b"If-None-Match", b"If-Modified-Since", b"Connection", b"Content-Length", b"Content-Range",
    b"Set-Cookie", b"Location", b"Content-Location", b"Authorization", b"Accept", b"Cookie",
]  # fmt: skip


# Everything is built from one draw of bytes: a byte stands for a piece, or for itself. Strategies
# nested in lists and alternatives would say the same, but Hypothesis can mutate those in circles.
def to_value(drawn: bytes) -> bytes:
    return b"".join(PIECES[b] if b < len(PIECES) else bytes([b]) for b in drawn)


def to_lines(drawn: bytes) -> list[tuple[bytes, bytes]]:
    lines = []
    for line in drawn.split(b"\xfe"):
        if line:
            name = NAMES[line[0]] if line[0] < len(NAMES) else line[:2]
            lines.append((name, to_value(line[1:])))
    return lines


VALUES = st.binary(max_size=40).map(to_value)
LINES = st.binary(max_size=100).map(to_lines)
STATUSES = st.integers(min_value=-1, max_value=1000)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "get", "", "\ud800"])


@hostile
@given(VALUES)
def test_cache_control(value):
    cc = parse_cache_control(value)
    assert isinstance(cc, CacheControl)
    assert isinstance(cc.has_explicit, bool)
    for seconds in (cc.max_age, cc.s_maxage, cc.min_fresh, cc.max_stale):
        assert seconds is None or 0 <= seconds <= DELTA_MAX
    assert parse_cache_control(value.swapcase()) == cc


@hostile
@given(VALUES, VALUES)
def test_cache_control_never_forgets_a_restriction(before, after):
    """Whatever stands before or after it, a directive outside of quotes counts."""
    if b'"' not in before:
        assert parse_cache_control(before + b",no-store").no_store
        assert parse_cache_control(before + b", private, " + after).private
    assert parse_cache_control(b"no-cache," + after).no_cache


@hostile
@given(VALUES, st.floats() | st.none())
def test_dates(value, now):
    parsed = parse_http_date(value, now=now)
    if parsed is not None:
        assert parse_http_date(http_date(parsed)) == parsed


@hostile
@given(LINES, STATUSES, st.floats(), st.floats(), st.floats() | st.none())
def test_freshness(lines, status, request_time, response_time, fraction):
    fields = Fields(lines)
    cc = parse_cache_control(fields.get(b"cache-control"))
    lifetime = freshness_lifetime(
        fields, cc, status, response_time=response_time, heuristic_fraction=fraction
    )
    assert 0.0 <= lifetime.seconds <= DELTA_MAX
    age = initial_age(fields, request_time=request_time, response_time=response_time)
    assert age >= 0.0


@hostile
@given(LINES, LINES, STATUSES, METHODS)
def test_storing(request_lines, lines, status, method):
    request, response = Fields(request_lines), Fields(lines)
    cc = parse_cache_control(response.get(b"cache-control"))
    refused = may_store(
        method=method,
        request_fields=request,
        request_cc=parse_cache_control(request.get(b"cache-control")),
        status=status,
        fields=response,
        cc=cc,
        explicit_lifetime=True,
    )
    assert refused is None or isinstance(refused, NotStored)
    stored = storable_fields(response, cc)
    assert [line for line in response.lines if line in stored] == stored
    if refused is None:
        assert not {b"set-cookie", b"age", b"connection"}.intersection(name for name, _ in stored)


@hostile
@given(LINES, LINES)
def test_validation(stored_lines, new_lines):
    stored, new = Fields(stored_lines), Fields(new_lines)
    cc = parse_cache_control(new.get(b"cache-control"))
    not_modified(new, stored, response_time=NOW)
    freshens(stored, new)
    head_matches(stored, new)
    head_matches(stored, new, stored_length=3)
    not_modified_lines(stored.lines)
    added = updated_fields([], new, cc)
    assert not {b"set-cookie", b"age", b"connection"}.intersection(name for name, _ in added)
    updated_fields(stored.lines, new, cc)
    sent = conditional_lines(stored)
    assert has_validator(stored) is bool(sent)
    for _, value in sent:
        assert b"\n" not in value
        assert b"\r" not in value
        assert value != b"*"


@hostile
@given(VALUES, VALUES)
def test_etags(value, other):
    tags = parse_etag_list(value)
    for tag in tags or []:
        assert tag in value
        assert weak_match(tag, other) is weak_match(other, tag)
        assert not strong_match(tag, other) or weak_match(tag, other)


TEXT = VALUES.map(lambda value: value.decode("latin-1")) | st.text(max_size=40)


@hostile
@given(TEXT, TEXT, LINES)
def test_uris(uri, reference, lines):
    for result in (canonical_uri(uri), resolve_uri(uri, reference), resolve_uri("http://h", uri)):
        if result is not None:
            assert canonical_uri(result) == result
            assert origin_of(result) is not None
    assert invalidated_uris(uri, Fields(lines))
    uris = invalidated_uris("http://h/", Fields(lines))
    assert {origin_of(each) for each in uris} == {("http", "h", 80)}
    assert invalidates(uri, 200) in {True, False}


@hostile
@given(TEXT, TEXT, st.integers(), st.booleans() | st.none())
def test_cache_status(key, detail, number, flag):
    for value in (
        hit_value(b"L", number, detail),
        forward_value(
            b"L", "miss", fwd_status=number, ttl=number, stored=flag, collapsed=flag, key=key,
            detail=detail,
        ),
    ):  # fmt: skip
        assert all(0x20 <= octet <= 0x7E for octet in value)


@hostile
@given(LINES)
def test_vary(lines):
    names = vary_names(Fields(lines))
    if names is not None:
        assert list(names) == sorted(set(names))
        assert all(name == name.lower() and name for name in names)
        secondary_key(names, Fields(lines))


@hostile
@given(VALUES)
def test_split_list_round_trips(value):
    members = split_list(value)
    assert split_list(b", ".join(members)) == members
    assert split_list(b" ,\t,".join(members)) == members
    assert all(member and member == member.strip(b" \t") for member in members)


@hostile
@given(LINES)
def test_split_list_of_lines(lines):
    values = [value for _, value in lines if b'"' not in value]
    expected = [member for value in values for member in split_list(value)]
    assert split_list(b", ".join(values)) == expected


SELECTING = [b"a", b"ab", b"accept", b"accept-encoding", b"accept-language", b"cookie"]
# Few values, so that equal ones are met, and some that look like a key's own punctuation.
SMALL = [
    b"", b",", b"1", b"1,2", b"1, 2", b"2,1", b"-", b"=1:1", b"1:a", b"1:a=1:1", b"gzip;q=0.50",
    b"gzip;q=0.5", b"GZIP;q=.5", b"\x00", b'"1, 2"', b'"1,2"', b"x" * 1100, b"x" * 1101,
]  # fmt: skip


def to_request(drawn: bytes) -> list[tuple[bytes, bytes]]:
    """Two bytes a line: which name, which value (or the byte itself)."""
    return [
        (SELECTING[name % len(SELECTING)], SMALL[value] if value < len(SMALL) else bytes([value]))
        for name, value in zip(drawn[::2], drawn[1::2], strict=False)
    ]


REQUESTS = st.binary(max_size=8).map(to_request)
NAME_TUPLES = st.sampled_from(
    [names for size in range(4) for names in combinations(SELECTING, size)]
)


@settings(hostile, max_examples=150)
@given(NAME_TUPLES, REQUESTS, REQUESTS)
def test_secondary_keys_are_injective(names, one, other):
    def normalized(request):
        return [normalize(name, Fields(request).all(name)) for name in names]

    same = secondary_key(names, Fields(one)) == secondary_key(names, Fields(other))
    assert same is (normalized(one) == normalized(other))


@hostile
@given(st.sampled_from(SELECTING), LINES)
def test_normalising_twice_changes_nothing(name, lines):
    values = [value for _, value in lines] or [b""]
    once = normalize(name, values)
    assert once is not None
    if len(once) < 1024 and not once.startswith(b"\x00"):
        assert normalize(name, [once]) == once


BIG = 100_000
FLOODS = [
    b"," * BIG, b" " * BIG, b'"' * BIG, b'"' + b'\\"' * BIG, b"\\" * BIG, b'x y="' + b'\\"' * BIG,
    b'"a' * BIG, b"=" * BIG, b"a," * BIG, b'W/"' * BIG, b"W/" * BIG, b"/." * BIG, b"../" * BIG,
    b"0" * BIG, b"9" * BIG, b";" * BIG, b"a;q=0" * BIG, b" ," * BIG + b"x", b"max-age=1;" * BIG,
]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: repr(flood[:8]))
def test_no_value_takes_more_than_linear_time(flood):
    """Half a megabyte in well under a second; anything quadratic would take minutes."""
    lines = [(name, flood) for name in (
        b"cache-control", b"expires", b"date", b"age", b"vary", b"etag", b"last-modified",
        b"if-none-match", b"if-modified-since", b"connection", b"location", b"accept", b"a",
    )]  # fmt: skip
    fields = Fields(lines)
    start = time.process_time()
    cc = parse_cache_control(flood)
    freshness_lifetime(fields, cc, 200, response_time=NOW, heuristic_fraction=0.1)
    initial_age(fields, request_time=NOW, response_time=NOW)
    storable_fields(fields, cc)
    vary_names(fields)
    secondary_key((b"a", b"accept"), fields)
    not_modified(fields, fields, response_time=NOW)
    conditional_lines(fields)
    invalidated_uris("http://h/", fields)
    canonical_uri("http://h/" + flood.decode("latin-1"))
    assert time.process_time() - start < 5.0
