"""RFC 9875, read: cache groups as tags and marks. End to end: `tests/scenarios/rows/rfc9875_cache_groups.py`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.core.invalidation import Invalidation
from layergate.errors import PurgeRefused
from layergate.http.engine.purge import purge_invalidations
from layergate.http.extensions.groups import (
    MAX_GROUP_LENGTH,
    MAX_GROUPS,
    group_invalidations,
    group_name,
    group_tags,
    without_groups,
)
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.plan import response_tags
from layergate.http.rules import fill_tags


def tags(
    value: bytes, scheme: str = "https", host: bytes = b"example.com"
) -> tuple[str, ...] | None:
    return group_tags(scheme, host, Fields([(b"cache-groups", value)]))


def invalidations(
    value: bytes, target: str = "https://example.com/a", method: str = "POST", status: int = 200
) -> tuple[Invalidation, ...]:
    return group_invalidations(
        target, method, status, Fields([(b"cache-group-invalidation", value)])
    )


def named(value: bytes) -> list[str | None]:
    return [group_name(tag) for tag in tags(value) or ()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'"scripts"', ["scripts"]),
        (b'"a", "B" ,\t"b"', ["a", "B", "b"]),  # 2.1: "case sensitive"
        (b'"a", "a"', ["a"]),
        (b'"a b", "", "\\"\\\\", "a,b"', ["a b", "", '"\\', "a,b"]),
        (b'"a";x=1;y, "b";z', ["a", "b"]),  # 2: "Unrecognised Parameters are to be ignored."
        # RFC 9651 2.2: "When parsing fails, the entire field is ignored", and "When field-specific
        # constraints are violated, the entire field is also ignored".
        (b"", []),
        (b"scripts", []),
        (b'"a", scripts', []),
        (b'"a", 1', []),
        (b'"a", ("b" "c")', []),
        (b'"a", ?1', []),
        (b'"a", %"b"', []),
        (b'"a",', []),
        (b'"a" "b"', []),
        (b'"\xfc"', []),
        (b"'a'", []),
    ],
)
def test_2_a_list_of_strings(value: bytes, expected: list[str]) -> None:
    assert named(value) == expected


def test_2_lines_are_combined() -> None:
    lines = [(b"cache-groups", b'"a"'), (b"cache-groups", b'"b"')]
    found = group_tags("https", b"example.com", Fields(lines))
    assert [group_name(tag) for tag in found or ()] == ["a", "b"]
    assert group_tags("https", b"example.com", Fields([])) == ()


def test_2_at_least_32_groups_of_32_characters() -> None:
    many = b", ".join(b'"%032d"' % number for number in range(32))
    assert len(tags(many) or ()) == 32
    assert len(invalidations(many)) == 32


def test_what_could_not_be_invalidated_is_not_stored() -> None:
    def listed(count: int) -> bytes:
        return b", ".join(b'"%d"' % number for number in range(count))

    assert len(tags(listed(MAX_GROUPS)) or ()) == MAX_GROUPS
    assert tags(listed(MAX_GROUPS + 1)) is None
    longest = b'"%b"' % (b"x" * MAX_GROUP_LENGTH)
    assert len(tags(longest) or ()) == 1
    assert tags(longest[:-1] + b'x"') is None
    # Nothing is stored under a longer name, so there is nothing to purge;
    assert invalidations(longest[:-1] + b'x"') == ()
    # of too many names, all are purged that could be meant.
    assert invalidations(listed(MAX_GROUPS + 1)) == (
        Invalidation("prefix", "https://example.com/"),
    )
    port = invalidations(listed(MAX_GROUPS + 1), "http://Example.com:8080/x?y")
    assert port == (Invalidation("prefix", "http://example.com:8080/"),)
    assert len(invalidations(listed(MAX_GROUPS))) == MAX_GROUPS


@pytest.mark.parametrize(
    ("target", "same"),
    [
        ("https://example.com/other?x=1", True),
        ("HTTPS://EXAMPLE.com:443/", True),
        ("http://example.com/a", False),
        ("https://example.com:8443/a", False),
        ("https://www.example.com/a", False),
        ("https://example.co/m", False),
    ],
)
def test_2_1_of_one_origin(target: str, same: bool) -> None:
    (tag,) = tags(b'"scripts"') or ("",)
    assert (invalidations(b'"scripts"', target) == (Invalidation("tag", tag),)) == same
    assert len(invalidations(b'"scripts"', target)) == 1


def test_what_has_no_origin_has_no_groups() -> None:
    assert tags(b'"a"', host=b"") == ()
    assert tags(b'"a"', host=b"a b") == ()
    assert tags(b'"a"', scheme="ftp") == ()
    assert invalidations(b'"a"', "/a") == ()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"])
def test_3_ignored_in_responses_to_safe_methods(method: str) -> None:
    """ "The Cache-Group-Invalidation header field MUST be ignored on responses to requests that have
    a safe method"."""
    assert invalidations(b'"a"', method=method) == ()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", "M-SEARCH"])
@pytest.mark.parametrize("status", [200, 204, 303, 404, 500])
def test_3_followed_in_responses_to_unsafe_ones(method: str, status: int) -> None:
    assert len(invalidations(b'"a", "b"', method=method, status=status)) == 2
    assert invalidations(b'"a"', method=method, status=103) == ()
    assert invalidations(b"a", method=method, status=status) == ()


# -- no tag of somebody's is that of a group -------------------------------------------------------


@given(st.binary(max_size=40), st.text(max_size=40))
def test_a_tag_of_a_field_a_rule_or_a_purge_is_no_group(value: bytes, text: str) -> None:
    lines = [(b"cache-tag", value), (b"surrogate-key", value)]
    for tag in response_tags(Fields(lines)) or ():
        assert group_name(tag) is None
    for tag in fill_tags(["{x}"], {"x": text}) or ():
        assert group_name(tag) is None


def test_a_group_is_no_tag_that_a_purge_may_name() -> None:
    (tag,) = tags(b'"scripts"') or ("",)
    with pytest.raises(PurgeRefused, match="NUL"):
        purge_invalidations(tags=[tag])
    assert response_tags(Fields([(b"cache-tag", tag.encode())])) is None
    assert fill_tags(["{x}"], {"x": tag}) is None
    assert without_groups((tag, "scripts", "\0marker x")) == ("scripts", "\0marker x")
