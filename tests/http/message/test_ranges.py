"""Byte ranges against an oracle that knows positions one by one: nothing raises, no octet is wrong."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import (
    MAX_RANGES,
    RangeSpec,
    if_range_holds,
    multipart,
    parse_content_range,
    parse_range,
    satisfiable,
    strong_validator,
)
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, Served, StoredResponse
from layergate.http.rfc9111.partial import covers, partial_content
from tests.support.dates import http_date

NOW = 1_700_000_000.0
thorough = settings(max_examples=100, deadline=None)


def request(value: bytes | None, *more: tuple[bytes, bytes], method: str = "GET") -> Request:
    lines = [*([] if value is None else [(b"range", value)]), *more]
    return Request(
        method=method,
        scheme="http",
        host=b"example.com",
        path="/",
        key=b"key",
        fields=Fields(lines),
        has_body=False,
        obey_directives=True,
    )


def whole(body: bytes, lines: Lines | None = None, status: int = 200) -> StoredResponse:
    stored = [(b"content-length", b"%d" % len(body)), *(lines or [])]
    return StoredResponse(status, stored, body, generated=NOW, response_time=NOW)


# -- an oracle -------------------------------------------------------------------------------------


def positions(value: bytes, length: int) -> list[set[int]] | None:
    """For each member of a Range, the positions it names in so many octets; None: malformed."""
    text = value.decode("latin-1")
    unit, equals, rest = text.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    named = []
    for spaced in rest.split(","):
        member = spaced.strip(" \t")
        if not member:
            continue
        first, hyphen, last = member.partition("-")
        if not hyphen or re.search("[^0-9]", first + last) or not first + last:
            return None
        if not first:
            named.append(set(range(max(0, length - int(last)), length)))
        elif last and int(last) < int(first):
            return None
        else:
            end = min(int(last), length - 1) if last else length - 1
            named.append(set(range(int(first), end + 1)))
    return named if 0 < len(named) <= MAX_RANGES else None


numbers = st.integers(0, 30) | st.sampled_from([10**17, 10**18, 10**19, 10**40])
members = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: b"%d-%d" % pair),
    numbers.map(lambda n: b"%d-" % n),
    numbers.map(lambda n: b"-%d" % n),
    st.sampled_from([b"", b" ", b"-", b"1", b"a-", b"-a", b"1--2", b"+1-2", b"1-2-3", b"\xb2-3", b"0x1-2"]),
)  # fmt: skip
ranges = st.one_of(
    st.lists(members, max_size=6).map(lambda them: b"bytes=" + b",".join(them)),
    st.lists(members, max_size=40).map(lambda them: b"Bytes = " + b" ,\t".join(them)),
    st.binary(max_size=20),
    st.binary(max_size=20).map(lambda text: b"bytes=" + text),
    st.text("bytes=0123456789-, ", max_size=20).map(str.encode),
)
bodies = st.binary(max_size=25)


@thorough
@given(value=ranges, length=st.integers(0, 30))
@example(value=b"bytes=3-4,1-2,0-0", length=9)
@example(value=b"bytes=0-0,2-2,1-1", length=9)
@example(value=b"bytes=" + b"9" * 3000 + b"-", length=9)
@example(value=b"bytes=0-0,-1," * 1000, length=9)
def test_what_is_asked_for_is_what_the_oracle_says(value: bytes, length: int) -> None:
    specs = parse_range(value)
    named = None if len(value) > 2048 else positions(value, length)
    if named is None:
        assert specs is None
        return
    assert specs is not None
    assert len(specs) == len(named) <= MAX_RANGES
    spans = satisfiable(specs, length)
    assert all(0 <= first < stop <= length for first, stop in spans)
    found = [set(range(*span)) for span in spans]
    assert set().union(*found) == set().union(*named)
    # None twice, and none that touch.
    assert sum(map(len, found)) == len(set().union(*found))
    assert all(stop != first for _, stop in spans for first, _ in spans)
    # In the order asked for: each begins with the first member that is in it.
    order = [min(i for i, one in enumerate(named) if one and one <= piece) for piece in found]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("value", "specs"),
    [
        (b"bytes=0-499", [(0, 499)]),
        (b"bytes=-500", [(None, 500)]),
        (b"bytes=9500-", [(9500, None)]),
        (b"bytes=0-0,-1", [(0, 0), (None, 1)]),
        (b"bytes= 0-999, 4500-5499, -1000", [(0, 999), (4500, 5499), (None, 1000)]),
        (b"BYTES=1-1", [(1, 1)]),
        (b"bytes=0-" + b"0" * 30 + b"5", [(0, 5)]),
        (b"bytes=" + b",".join([b"1-1"] * MAX_RANGES), [(1, 1)] * MAX_RANGES),
        (b"bytes=" + b",".join([b"1-1"] * (MAX_RANGES + 1)), None),
        (b"bytes=0-1\n", None),
        (b"bytes=0 - 1", None),
        (b"bytes", None),
        (b"bytes 0-1", None),
        (b"seconds=0-1", None),
        (b"", None),
        (None, None),
    ],
)
def test_ranges_are_read(value, specs):
    assert parse_range(value) == (None if specs is None else tuple(RangeSpec(*s) for s in specs))


# -- what is sent ----------------------------------------------------------------------------------


def parts_of(served: Served) -> list[tuple[int, bytes, int | None]]:
    """First position, octets and complete length of each part of a 206, as a client reads it."""
    fields = Fields(served.lines)
    assert isinstance(served.body, bytes)
    assert fields.all(b"content-length") == [b"%d" % len(served.body)]
    kind = fields.first(b"content-type") or b""
    if not kind.startswith(b"multipart/byteranges"):
        content = parse_content_range(fields.get(b"content-range"))
        assert content is not None
        assert content.span[1] - content.span[0] == len(served.body)
        return [(content.span[0], served.body, content.whole)]
    assert b"content-range" not in fields
    boundary = kind.partition(b"boundary=")[2]
    before, *pieces, end = served.body.split(b"--" + boundary)
    assert (before, end) == (b"", b"--\r\n")
    found = []
    for piece in pieces:
        head, _, octets = piece.partition(b"\r\n\r\n")
        assert octets.endswith(b"\r\n")
        (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Range: ")]
        content = parse_content_range(line.partition(b": ")[2])
        assert content is not None
        assert content.span[1] - content.span[0] == len(octets) - 2
        found.append((content.span[0], octets[:-2], content.whole))
    return found


@thorough
@given(value=ranges, body=bodies, typed=st.booleans())
def test_every_octet_is_the_right_one(value: bytes, body: bytes, typed: bool) -> None:
    stored = whole(body, [(b"content-type", b"text/plain")] if typed else None)
    named = None if len(value) > 2048 else positions(value, len(body))
    served = partial_content(request(value), stored, [(b"age", b"0")])
    if named is None or (not body and served is None):
        assert served is None
        return
    assert served is not None
    assert (b"age", b"0") in served.lines
    wanted = set().union(*named)
    if not wanted:
        assert served.status == 416
        assert Fields(served.lines).get(b"content-range") == b"bytes */%d" % len(body)
        assert served.body == b""
        return
    assert served.status == 206
    sent: dict[int, int] = {}
    for first, octets, length in parts_of(served):
        assert length == len(body)
        sent |= dict(enumerate(octets, first))
    assert sent == {position: body[position] for position in wanted}
    assert len(served.body) <= len(body) + MAX_RANGES * 200


@thorough
@given(value=ranges, body=st.binary(min_size=1, max_size=25), data=st.data())
def test_parts_answer_what_they_cover_and_nothing_else(value, body, data) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), min_size=2, max_size=7)))
    parts = tuple((a, body[a:b]) for a, b in zip(cuts[::2], cuts[1::2], strict=False))
    length = data.draw(st.sampled_from([None, len(body)]))
    stored = PartialResponse([], parts, length, generated=NOW, response_time=NOW)
    asked = request(value)
    named = None if len(value) > 2048 else positions(value, len(body))
    if not covers(asked, stored):
        if named and all(named) and length is not None:
            held = [set(range(first, first + len(octets))) for first, octets in parts]
            pieces = [set(range(*span)) for span in satisfiable(asked.ranges or (), len(body))]
            assert not all(any(piece <= one for one in held) for piece in pieces)
        return
    assert named
    assert all(named)
    served = partial_content(asked, stored, [])
    assert served is not None
    assert served.status == 206
    sent: dict[int, int] = {}
    for first, octets, known in parts_of(served):
        assert known == length
        sent |= dict(enumerate(octets, first))
    assert sent == {position: body[position] for position in set().union(*named)}


def test_a_multipart_body_is_as_in_the_rfc():
    served = partial_content(
        request(b"bytes=0-1, -2"), whole(b"0123456789", [(b"content-type", b"text/x")]), []
    )
    assert served is not None
    boundary = (Fields(served.lines).get(b"content-type") or b"").partition(b"boundary=")[2]
    assert isinstance(served.body, bytes)
    assert served.body == b"".join(
        multipart([(b"bytes 0-1/10", b"01"), (b"bytes 8-9/10", b"89")], b"text/x", boundary)
    )
    assert served.body.replace(boundary, b"B") == (
        b"--B\r\nContent-Type: text/x\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n"
        b"--B\r\nContent-Type: text/x\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n"
        b"--B--\r\n"
    )


def test_the_boundary_is_another_one_if_the_content_has_it(monkeypatch):
    drawn = iter(["one", "two", "three"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(drawn))
    served = partial_content(request(b"bytes=0-5,-5"), whole(b"one....twone"), [])
    assert served is not None
    assert (b"content-type", b"multipart/byteranges; boundary=three") in served.lines


def test_boundaries_differ():
    served = [partial_content(request(b"bytes=0-0,-1"), whole(b"123"), []) for _ in range(2)]
    assert served[0] != served[1]


@pytest.mark.parametrize("method", ["HEAD", "POST", "get"])
def test_only_get_has_ranges(method):
    assert request(b"bytes=0-1", method=method).ranges is None
    assert not request(b"lines=0-1", method=method).foreign_range


def test_two_field_lines_are_no_range():
    asked = request(b"bytes=0-1", (b"range", b"bytes=2-3"))
    assert asked.ranges is None
    assert asked.foreign_range


@pytest.mark.parametrize("status", [203, 206, 301, 404])
def test_only_a_200_has_ranges(status):
    assert partial_content(request(b"bytes=0-1"), whole(b"12345", status=status), []) is None


# -- Content-Range, and validators -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes 0-9/10", ((0, 10), 10)),
        (b"bytes 0-9/*", ((0, 10), None)),
        (b" Bytes  42-1233/1234\t", ((42, 1234), 1234)),
        (b"bytes 9-9/10", ((9, 10), 10)),
        (b"bytes 0-9/9", None),
        (b"bytes 5-4/10", None),
        (b"bytes */10", None),
        (b"bytes */*", None),
        (b"bytes 0-/10", None),
        (b"bytes -5/10", None),
        (b"bytes 0-9", None),
        (b"bytes=0-9/10", None),
        (b"lines 0-9/10", None),
        (b"bytes 0-9/10, bytes 0-9/10", None),
        (b"bytes 0-9/-1", None),
        (b"bytes 0-9/0x10", None),
        (b"bytes 0-" + b"9" * 19 + b"/*", None),
        (b"", None),
        (None, None),
    ],
)
def test_content_range(value, expected):
    assert parse_content_range(value) == expected


@given(st.binary(max_size=40) | st.text("bytes 0123456789-/*", max_size=30).map(str.encode))
def test_no_content_range_raises(value):
    content = parse_content_range(value)
    if content is not None:
        (first, stop), length = content
        assert 0 <= first < stop
        assert length is None or stop <= length


def at(seconds: float) -> bytes:
    return http_date(NOW + seconds)


VALIDATORS = [
    ("strong", [(b"etag", b'"a"')], b'"a"'),
    ("empty-tag", [(b"etag", b'""')], b'""'),
    ("weak", [(b"etag", b'W/"a"')], None),
    ("unquoted", [(b"etag", b"a")], None),
    ("half-quoted", [(b"etag", b'"')], None),
    ("two-tags", [(b"etag", b'"a"'), (b"etag", b'"b"')], None),
    ("list", [(b"etag", b'"a", "b"')], None),
    ("control", [(b"etag", b'"a\x01"')], None),
    ("line-break", [(b"etag", b'"a\r\nx: y"')], None),
    ("obs-text", [(b"etag", b'"\xe9"')], b'"\xe9"'),
    ("none", [], None),
    ("date", [(b"last-modified", at(-1)), (b"date", at(0))], at(-1)),
    ("date-equal", [(b"last-modified", at(0)), (b"date", at(0))], None),
    ("date-after", [(b"last-modified", at(5)), (b"date", at(0))], None),
    ("date-alone", [(b"last-modified", at(-1))], None),
    ("date-garbage", [(b"last-modified", b"yesterday"), (b"date", at(0))], None),
    ("weak-and-date", [(b"etag", b'W/"a"'), (b"last-modified", at(-1)), (b"date", at(0))], None),
    ("tag-and-date", [(b"etag", b'"a"'), (b"last-modified", at(-1)), (b"date", at(0))], b'"a"'),
]


@pytest.mark.parametrize(
    ("lines", "expected"), [pytest.param(*row[1:], id=row[0]) for row in VALIDATORS]
)
def test_strong_validators(lines, expected):
    assert strong_validator(Fields(lines)) == expected
    if expected is not None:
        assert if_range_holds(Fields([(b"if-range", expected)]), Fields(lines))


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=40))
def test_no_if_range_raises(condition, etag, modified):
    fields = Fields([(b"etag", etag), (b"last-modified", modified), (b"date", at(0))])
    holds = if_range_holds(Fields([(b"if-range", condition)]), fields)
    assert not holds or condition.strip(b" \t") in (etag, modified)
