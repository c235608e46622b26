"""Structured fields, as far as they are not http-sf's business."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.http.message.structured import parse_dictionary, parse_list
from tests.support.garbage import none_of_ours


def test_members_come_with_their_parameters() -> None:
    assert parse_dictionary(b"a=1;x, b, a=2") == {"a": (2, {}), "b": (True, {})}
    assert parse_list(b'"a";x=1, "b"') == [("a", {"x": 1}), ("b", {})]


@pytest.mark.parametrize(
    "value", [b"a =1", b"A=1", b"a=1,", b"a=9999999999999999", b'a="', b"\xff"]
)
def test_what_is_no_dictionary_is_none(value: bytes) -> None:
    assert parse_dictionary(value) is None


@pytest.mark.parametrize("value", [b"a,", b'"a', b"(a", b"1;A", b"\0"])
def test_what_is_no_list_is_none(value: bytes) -> None:
    assert parse_list(value) is None


@given(st.binary(max_size=64))
def test_nothing_raises(value: bytes) -> None:
    assert parse_dictionary(value) is None or isinstance(parse_dictionary(value), dict)
    assert parse_list(value) is None or isinstance(parse_list(value), list)


class Caller:
    """Whatever a caller has at hand."""


Caller.__module__ = "layergate.tests"


def test_a_malformed_value_keeps_nothing_of_its_callers() -> None:
    """http-sf's errors refer to the frames that raise them, and these to the errors."""

    def caller() -> object:
        at_hand = Caller()
        return parse_dictionary(b"max-age =60"), parse_list(b"(a"), at_hand

    with none_of_ours():
        assert caller() is not None
