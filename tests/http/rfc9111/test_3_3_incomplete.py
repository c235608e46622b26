"""RFC 9111 section 3.3: a 206 "MAY be stored as if it were an incomplete 200 (OK) response"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.http.message.fields import Fields
from layergate.http.message.ranges import parse_range
from layergate.http.rfc9111.combining import Received, received_part
from layergate.http.rfc9111.storing import NotStored


def content_range(value):
    return (b"Content-Range", value)


def length(value):
    return (b"Content-Length", value)


PART = content_range(b"bytes 2-5/10")
# What was asked for, the response's lines, and what it brings: (span, whole, vague), or why not.
ROWS = [
    ("plain", b"bytes=2-5", [PART], ((2, 6), 10, False)),
    ("length", b"bytes=2-5", [PART, length(b"4")], ((2, 6), 10, False)),
    ("length-twice", b"bytes=2-5", [PART, length(b"4"), length(b"4")], ((2, 6), 10, False)),
    ("unknown-length", b"bytes=2-5", [content_range(b"bytes 2-5/*")], ((2, 6), None, False)),
    ("another-range", b"bytes=0-1", [PART], ((2, 6), 10, False)),
    ("all-of-it", b"bytes=0-", [content_range(b"bytes 0-9/10")], ((0, 10), 10, False)),
    ("not-asked", None, [PART], NotStored.PARTIAL),
    ("several-asked", b"bytes=0-1,2-5", [PART], NotStored.PARTIAL),
    ("none-said", b"bytes=2-5", [], NotStored.PARTIAL),
    ("said-twice", b"bytes=2-5", [PART, PART], NotStored.PARTIAL),
    ("unsatisfied", b"bytes=2-5", [content_range(b"bytes */10")], NotStored.PARTIAL),
    ("unit", b"bytes=2-5", [content_range(b"lines 2-5/10")], NotStored.PARTIAL),
    ("invalid", b"bytes=2-5", [content_range(b"bytes 5-2/10")], NotStored.PARTIAL),
    ("beyond", b"bytes=2-5", [content_range(b"bytes 2-5/5")], NotStored.PARTIAL),
    ("too-short", b"bytes=2-5", [PART, length(b"3")], NotStored.LENGTH_MISMATCH),
    ("too-long", b"bytes=2-5", [PART, length(b"5")], NotStored.LENGTH_MISMATCH),
    ("two-lengths", b"bytes=2-5", [PART, length(b"4"), length(b"5")], NotStored.LENGTH_MISMATCH),
    ("no-length", b"bytes=2-5", [PART, length(b"four")], NotStored.LENGTH_MISMATCH),
    ("huge-length", b"bytes=2-5", [PART, length(b"9" * 40)], NotStored.LENGTH_MISMATCH),
    # A last-pos beyond the end, certain only for "the last so many".
    ("exclusive", b"bytes=-5", [content_range(b"bytes 4-9/10"), length(b"5")], ((4, 9), 9, True)),
    ("exclusive-unsized", b"bytes=-5", [content_range(b"bytes 4-9/10")], ((4, 10), 10, False)),
    ("exclusive-not-last", b"bytes=4-8", [content_range(b"bytes 4-9/10"), length(b"5")],
     NotStored.LENGTH_MISMATCH),
    ("exclusive-not-end", b"bytes=-5", [content_range(b"bytes 4-9/11"), length(b"5")],
     NotStored.LENGTH_MISMATCH),
    ("exclusive-other", b"bytes=-4", [content_range(b"bytes 4-9/10"), length(b"5")],
     NotStored.LENGTH_MISMATCH),
    ("off-by-two", b"bytes=-5", [content_range(b"bytes 3-9/10"), length(b"5")],
     NotStored.LENGTH_MISMATCH),
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "lines", "expected"), [pytest.param(*row[1:], id=f"3.3-{row[0]}") for row in ROWS]
)
def test_what_a_206_brings(asked, lines, expected):
    found = received_part(parse_range(asked), 206, Fields(lines))
    if isinstance(found, Received):
        assert (found.span, found.whole, found.vague) == expected
    else:
        assert found is expected


@pytest.mark.parametrize("status", [200, 203, 304, 404, 416, 503])
def test_what_is_no_206_is_no_part(status):
    assert received_part(parse_range(b"bytes=2-5"), status, Fields([PART])) is None


def test_what_speaks_of_the_part_is_not_of_the_whole():
    own = [PART, length(b"4"), (b"Content-Digest", b"sha-256=:AA==:"), (b"Content-MD5", b"AA==")]
    kept = [(b"ETag", b'"a"'), (b"Repr-Digest", b"sha-256=:AA==:"), (b"X-A", b"1")]
    found = received_part(parse_range(b"bytes=2-5"), 206, Fields([*own, *kept]))
    assert isinstance(found, Received)
    assert found.fields.lines == Fields(kept).lines
    assert found.own == Fields(own).lines


@given(st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=10))
def test_nothing_raises(asked, said, size):
    lines = [content_range(said), length(size)]
    found = received_part(parse_range(b"bytes=" + asked), 206, Fields(lines))
    assert isinstance(found, Received | NotStored)
