"""RFC 9110 sections 8.8.3 and 13.1.2: entity tags."""

import pytest

from layergate.http.message.etags import is_weak, parse_etag_list, strong_match, weak_match

LISTS = [
    ("one", b'"xyzzy"', [b'"xyzzy"']),
    ("weak", b'W/"xyzzy"', [b'W/"xyzzy"']),
    ("some", b'"a", W/"b","c"', [b'"a"', b'W/"b"', b'"c"']),
    ("empty-tag", b'""', [b'""']),
    ("empty", b"", []),
    ("empty-members", b' , "a",,\t"b" ,', [b'"a"', b'"b"']),
    ("separators", b", ,\t,", []),
    ("star", b"*", None),
    ("star-blanks", b" * ", None),
    ("star-comma", b"*,", None),
    ("star-and-tag", b'*, "a"', [b'"a"']),
    ("star-star", b"*, *", []),
    ("quoted-star", b'"*"', [b'"*"']),
    ("comma", b'"a,b", "c"', [b'"a,b"', b'"c"']),
    ("space", b'"a b"', [b'"a b"']),
    # "etagc = %x21 / %x23-7E / obs-text": a backslash escapes nothing
    ("backslash", b'"a\\", "b"', [b'"a\\"', b'"b"']),
    ("obs-text", b'"\xc3\xa9\xff"', [b'"\xc3\xa9\xff"']),
    ("unquoted", b"abc, def", [b"abc", b"def"]),
    ("unterminated", b'"a, "b"', [b'"a, "', b'b"']),
    ("unterminated-last", b'"a", "b, c', [b'"a"', b'"b', b"c"]),
    ("after-tag", b'"a"x, "b"', [b'"a"', b"x", b'"b"']),
    ("no-comma", b'"a" "b"', [b'"a"', b'"b"']),
    ("lower-case-w", b'w/"a"', [b'w/"a"']),
    ("no-slash", b'W"a"', [b'W"a"']),
    ("weak-unquoted", b"W/a", [b"W/a"]),
]


@pytest.mark.parametrize(
    ("value", "expected"), [pytest.param(*row[1:], id=row[0]) for row in LISTS]
)
def test_lists(value, expected):
    assert parse_etag_list(value) == expected


# RFC 9110 8.8.3.2, table 3, and what is no entity tag
MATCHES = [
    ("weak-weak", b'W/"1"', b'W/"1"', False, True),
    ("weak-weak-other", b'W/"1"', b'W/"2"', False, False),
    ("weak-strong", b'W/"1"', b'"1"', False, True),
    ("strong-strong", b'"1"', b'"1"', True, True),
    ("strong-strong-other", b'"1"', b'"2"', False, False),
    ("case", b'"a"', b'"A"', False, False),
    ("empty-tag", b'""', b'""', True, True),
    ("unquoted", b"1", b"1", True, True),
    ("unquoted-quoted", b"1", b'"1"', False, False),
    ("lower-case-w", b'w/"1"', b'w/"1"', True, True),
    ("lower-case-w-strong", b'w/"1"', b'"1"', False, False),
    ("nothing", b"", b"", False, False),
    ("only-weak", b"W/", b"W/", False, False),
]


@pytest.mark.parametrize(
    ("a", "b", "strong", "weak"), [pytest.param(*row[1:], id=row[0]) for row in MATCHES]
)
def test_comparison(a, b, strong, weak):
    assert strong_match(a, b) is strong_match(b, a) is strong
    assert weak_match(a, b) is weak_match(b, a) is weak


def test_weakness_is_case_sensitive():
    assert is_weak(b'W/"1"')
    assert not is_weak(b'w/"1"')
    assert not is_weak(b'"W/1"')
