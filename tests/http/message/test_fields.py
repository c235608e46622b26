"""RFC 9110 sections 5.1 to 5.3 and 5.6.1: fields, their lines and their lists."""

import pytest

from layergate.http.message.fields import Fields, split_list

FIELDS = Fields([(b"A", b"1"), (b"b", b"2"), (b"a", b"3, 4"), (b"X-\xff", b"")])


def test_lines_keep_order_and_names_lose_case():
    assert FIELDS.lines == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3, 4"), (b"x-\xff", b"")]
    assert list(FIELDS) == FIELDS.lines
    assert list(FIELDS.names()) == [b"a", b"b", b"x-\xff"]


def test_lines_of_one_name():
    """RFC 9110 5.2: "the combined field value" is "a comma-separated list of its line values"."""
    assert FIELDS.all(b"a") == [b"1", b"3, 4"]
    assert FIELDS.get(b"a") == b"1, 3, 4"
    assert FIELDS.first(b"a") == b"1"
    assert FIELDS.get(b"b") == b"2"
    assert b"a" in FIELDS


def test_absent_and_empty():
    assert FIELDS.all(b"c") == []
    assert FIELDS.get(b"c") is None
    assert FIELDS.first(b"c") is None
    assert b"c" not in FIELDS
    assert FIELDS.get(b"x-\xff") == b""
    assert not Fields([]).lines


# "#element => [ element ] *( OWS "," OWS [ element ] )"
LISTS = [
    ("example", b"foo ,bar,", [b"foo", b"bar"]),
    ("empty-members", b"foo , ,bar,charlie", [b"foo", b"bar", b"charlie"]),
    ("empty", b"", []),
    ("comma", b",", []),
    ("commas", b",   ,", []),
    ("tabs", b"\tfoo\t,\tbar\t", [b"foo", b"bar"]),
    ("inner-space", b"a b,c", [b"a b", b"c"]),
    ("other-space", b"\x0ba,\xa0b", [b"\x0ba", b"\xa0b"]),
    ("quoted-comma", b'a="b,c",d', [b'a="b,c"', b"d"]),
    ("quoted-quote", b'a="b\\",c",d', [b'a="b\\",c"', b"d"]),
    ("quoted-backslash", b'a="b\\\\",d', [b'a="b\\\\"', b"d"]),
    ("backslash-outside", b'a\\",b",c', [b'a\\",b"', b"c"]),
    ("empty-quoted", b'"",a', [b'""', b"a"]),
    ("unterminated", b'a,"b,c', [b"a", b'"b,c']),
    ("unterminated-escape", b'a,"b,c\\', [b"a", b'"b,c\\']),
]


@pytest.mark.parametrize(
    ("value", "expected"), [pytest.param(*row[1:], id=row[0]) for row in LISTS]
)
def test_split_list(value, expected):
    assert split_list(value) == expected
