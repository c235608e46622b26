"""RFC 9213, read: targeted fields, and which field decides. End to end: `tests/scenarios/rows/rfc9213_targeted_fields.py`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layergate import HttpCache
from layergate.config import Options
from layergate.errors import ConfigError
from layergate.http.extensions.targeted import parse_targeted, policy_of
from layergate.http.message.cache_control import DELTA_MAX, EMPTY, LAYERGATE_CONTROL, CacheControl
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.plan import internal_fields, targets_of

TARGETS = (b"layergate-cache-control", b"cdn-cache-control")


def names(*fields: bytes) -> frozenset[bytes]:
    return frozenset(fields)


# id, section, field value, what is set; None: the field is ignored
ROWS: list[tuple[str, str, bytes, dict[str, Any] | None]] = [
    # 2.1: "If a targeted field in a given response is empty, or a parsing error is encountered, that
    # field MUST be ignored"
    ("empty", "2.1", b"", None),
    ("blank", "2.1", b"   ", None),
    ("no-dictionary", "2.1", b"max-age=10000, &&&&&", None),
    ("upper-case", "2.1", b"MaX-aGe=60", None),
    ("upper-case-later", "2.1", b"max-age=60, No-Store", None),
    ("space-before", "2.1", b"max-age =60", None),
    ("space-after", "2.1", b"max-age= 60", None),
    ("trailing-comma", "2.1", b"max-age=60,", None),
    ("leading-comma", "2.1", b",max-age=60", None),
    ("double-comma", "2.1", b"max-age=60,,public", None),
    ("semicolon", "2.1", b"private; max-age=60, =1", None),
    ("no-value", "2.1", b"max-age=", None),
    ("unclosed", "2.1", b'x="a, no-store', None),
    ("bad-escape", "2.1", b'x="\\a", max-age=60', None),
    ("sixteen-digits", "2.1", b"max-age=1000000000000000", None),
    ("obs-text", "2.1", b'x="\xfc", max-age=60', None),
    ("single-quotes", "2.1", b"max-age='60'", None),
    ("plus", "2.1", b"max-age=+60", None),
    ("bad-boolean", "2.1", b"no-store=?2", None),
    # Integers
    ("max-age", "2.1", b"max-age=60", {"max_age": 60}),
    ("spaces-around", "2.1", b"  max-age=60  ", {"max_age": 60}),
    ("tabs", "2.1", b"max-age=60\t,\tpublic", {"max_age": 60, "public": True}),
    ("zero", "2.1", b"max-age=0", {"max_age": 0}),
    ("minus-zero", "2.1", b"max-age=-0", {"max_age": 0}),
    ("leading-zeros", "2.1", b"max-age=000060", {"max_age": 60}),
    ("s-maxage", "2.1", b"s-maxage=60", {"s_maxage": 60}),
    ("fifteen-digits", "2.1", b"max-age=999999999999999", {"max_age": DELTA_MAX}),
    ("over-2^31", "2.1", b"max-age=99999999999", {"max_age": DELTA_MAX}),
    ("windows", "2.1", b"stale-while-revalidate=1, stale-if-error=2",
     {"stale_while_revalidate": 1, "stale_if_error": 2}),
    # "Implementations SHOULD NOT consume values that violate these inferred constraints."
    ("string", "2.1", b'max-age="60"', {}),
    ("decimal", "2.1", b"max-age=60.0", {}),
    ("decimal-and-others", "2.1", b"max-age=1.5, s-maxage=7", {"s_maxage": 7}),
    ("negative", "2.1", b"max-age=-1, public", {"public": True}),
    ("token", "2.1", b"max-age=soon", {}),
    ("boolean", "2.1", b"max-age", {}),
    ("false", "2.1", b"max-age=?0", {}),
    ("date", "2.1", b"max-age=@60", {}),
    ("bytes", "2.1", b"max-age=:YQ==:", {}),
    ("display-string", "2.1", b'max-age=%"60"', {}),
    ("inner-list", "2.1", b"max-age=(60 70)", {}),
    ("public-string", "2.1", b'public="yes"', {}),
    ("public-false", "2.1", b"public=?0", {}),
    ("must-understand-1", "2.1", b"must-understand=1", {}),
    # "directives that have no value will be mapped to a Boolean"
    ("booleans", "2.1", b"no-store, private, public, must-revalidate, proxy-revalidate",
     {"no_store": True, "private": True, "public": True, "must_revalidate": True,
      "proxy_revalidate": True}),
    ("true", "2.1", b"no-store=?1", {"no_store": True}),
    ("not-meant", "2.1", b"no-store=?0, private=?0, no-cache=?0, max-age=60", {"max_age": 60}),
    ("must-understand", "2.1", b"must-understand, no-store",
     {"must_understand": True, "no_store": True}),
    ("immutable", "RFC 8246 2", b"immutable=1", {"immutable": True}),
    ("no-transform", "2.1", b"no-transform", {"no_transform": True}),
    # What restricts counts, whatever is said with it.
    ("no-store-1", "G1", b"no-store=1", {"no_store": True}),
    ("private-token", "G1", b"private=x-user", {"private": True}),
    ("private-list", "G1", b'private=("x-user")', {"private": True}),
    ("no-cache-decimal", "G1", b"no-cache=1.5", {"no_cache": True}),
    # "no-cache has a value that can be either Boolean true or a string containing a comma-delimited
    # list of field names"
    ("no-cache", "2.1", b"no-cache", {"no_cache": True}),
    ("no-cache-fields", "2.1", b'no-cache="A, b"', {"no_cache_fields": names(b"a", b"b")}),
    ("private-fields", "2.1", b'private="x-user"', {"private_fields": names(b"x-user")}),
    ("no-cache-empty", "2.1", b'no-cache=""', {"no_cache": True}),
    ("no-cache-no-name", "2.1", b'no-cache="a b"', {"no_cache": True}),
    ("private-indispensable", "2.1", b'private="content-type"', {"private": True}),
    # "Parameters received on cache directives are to be ignored"
    ("parameter", "2.1", b"max-age=60;x=1;y", {"max_age": 60}),
    ("parameter-of-boolean", "2.1", b"no-store;x=?0", {"no_store": True}),
    # "unrecognized extension directives are ignored"
    ("extension", "2.2", b"foobar, max-age=60, x=(1 2);y", {"max_age": 60}),
    ("none", "3.1", b"none", {}),
    # What means something in requests only
    ("of-requests", "2.1", b"only-if-cached, min-fresh=5, max-stale", {}),
    # RFC 9651 4.2.2: of two with one name, the last
    ("twice", "RFC 9651 4.2.2", b"max-age=60, max-age=1", {"max_age": 1}),
    ("twice-wrong", "RFC 9651 4.2.2", b'max-age=60, max-age="1"', {}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), [row[2:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_how_a_targeted_field_is_read(value: bytes, expected: dict[str, Any] | None) -> None:
    assert parse_targeted(value) == (None if expected is None else EMPTY._replace(**expected))


def test_what_is_too_long_to_be_remembered_is_read_all_the_same() -> None:
    assert parse_targeted(b"max-age=60, x" + b"x" * 9000) == EMPTY._replace(max_age=60)


@given(st.binary(max_size=80))
@example(b"@99999999999999")
@example(b"a=@999999999999999")
@example(b'a=%"%ff"')
@example(b"a=:\xff:")
def test_any_bytes_are_read_or_ignored(value: bytes) -> None:
    directives = parse_targeted(value)
    assert directives is None or isinstance(directives, CacheControl)


members = st.sampled_from([
    b"max-age=60", b"max-age=-1", b"max-age=1.5", b'max-age="1"', b"no-store", b"private=?0", b"X",
    b"private", b"a=(b c);d", b'no-cache="x"', b"public", b"s-maxage=5", b"", b"max-age",
])  # fmt: skip


@given(st.lists(members, max_size=5).map(b", ".join))
def test_durations_are_never_negative_and_always_integers(value: bytes) -> None:
    directives = parse_targeted(value)
    if directives is None:
        return
    for seconds in (directives.max_age, directives.s_maxage, directives.stale_if_error):
        assert seconds is None or (type(seconds) is int and 0 <= seconds <= DELTA_MAX)
    assert not directives.invalid_freshness


# -- 2.2: which field decides ----------------------------------------------------------------------

CC = (b"cache-control", b"max-age=1")
CDN = (b"cdn-cache-control", b"max-age=2")
OURS = (LAYERGATE_CONTROL, b"max-age=3")


@pytest.mark.parametrize(
    ("lines", "by", "max_age"),
    [
        ([], b"", None),
        ([CC], b"cache-control", 1),
        ([CC, CDN], b"cdn-cache-control", 2),
        ([CDN, OURS, CC], LAYERGATE_CONTROL, 3),
        ([CC, OURS], LAYERGATE_CONTROL, 3),
        # "the first (in target-list order) field with a valid, non-empty value"
        ([CDN, (LAYERGATE_CONTROL, b"")], b"cdn-cache-control", 2),
        ([CDN, (LAYERGATE_CONTROL, b"Max-Age=3")], b"cdn-cache-control", 2),
        ([CC, (LAYERGATE_CONTROL, b","), (b"cdn-cache-control", b"&")], b"cache-control", 1),
        ([(b"cdn-cache-control", b"&")], b"", None),
        ([CC, (LAYERGATE_CONTROL, b"none")], LAYERGATE_CONTROL, None),
        # Lines of one field are one value, and one bad line spoils it.
        ([CDN, (b"cdn-cache-control", b"public")], b"cdn-cache-control", 2),
        ([CC, CDN, (b"cdn-cache-control", b"&")], b"cache-control", 1),
        ([CC, CDN, (b"cdn-cache-control", b"")], b"cache-control", 1),
        # "Targeted fields that are not on a cache's target list MUST NOT change that cache's behavior"
        ([CC, (b"examplecdn-cache-control", b"max-age=9")], b"cache-control", 1),
        ([CC, (b"surrogate-control", b"max-age=9")], b"cache-control", 1),
    ],
)
def test_2_2_the_first_valid_field_decides(lines, by, max_age) -> None:
    policy = policy_of(Fields(lines), TARGETS)
    assert (policy.decided_by, policy.directives.max_age) == (by, max_age)
    assert policy.targeted == (by not in (b"", b"cache-control"))


def test_2_2_expires_is_ignored_beside_a_valid_one_only() -> None:
    expires = (b"expires", b"0")
    assert b"expires" not in policy_of(Fields([CDN, expires]), TARGETS).fields
    assert b"expires" in policy_of(Fields([CC, expires]), TARGETS).fields
    bad = (b"cdn-cache-control", b"&")
    assert b"expires" in policy_of(Fields([bad, expires]), TARGETS).fields


@pytest.mark.parametrize("control", [b"private", b"no-store, max-age=0", b"private; x"])
def test_what_cache_control_withholds_is_known(control: bytes) -> None:
    fields = Fields([CDN, (b"cache-control", control)])
    assert policy_of(fields, TARGETS).withheld
    assert not policy_of(Fields([CDN, CC]), TARGETS).withheld
    assert not policy_of(Fields([(b"cache-control", control)]), TARGETS).withheld


# -- the option ------------------------------------------------------------------------------------


def test_the_target_list_is_an_option() -> None:
    assert targets_of(Options()) == TARGETS
    mine = Options(targets=["CDN-Cache-Control", "Example-Cache-Control", "cdn-cache-control"])
    assert targets_of(mine) == (b"cdn-cache-control", b"example-cache-control")
    assert targets_of(Options(targets=())) == ()


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({}, {b"cache-tag", b"surrogate-key", LAYERGATE_CONTROL}),
        ({"strip_tags": False}, {LAYERGATE_CONTROL}),
        ({"strip_tags": False, "targets": ["CDN-Cache-Control"]}, set()),
        ({"targets": ()}, {b"cache-tag", b"surrogate-key"}),
    ],
)
def test_only_our_own_field_is_kept_from_clients(options, hidden) -> None:
    assert internal_fields(Options(**options)) == hidden


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ("CDN-Cache-Control", "targets must be a list of strings"),
        ([""], "non-empty strings"),
        (["a b"], "must name response fields"),
        (["Cache-Control"], "fields of RFC 9213"),
        (["Surrogate-Control"], "fields of RFC 9213"),
        (5, "targets must be a list of strings"),
    ],
)
def test_a_target_list_that_cannot_be_one_is_refused(targets, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        HttpCache(targets=targets)
