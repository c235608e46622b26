"""RFC 9111 section 3.4, RFC 9110 section 15.3.7.3: parts combined, and the rest fetched."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.entry import Entry
from layergate.http.message.fields import Fields
from layergate.http.message.ranges import satisfiable
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.combining import MAX_PARTS, Received, combined
from layergate.http.rfc9111.partial import covers
from layergate.http.rfc9111.rest import rest_of

NOW = 1_700_000_000.0
ETAG = (b"etag", b'"a"')
thorough = settings(max_examples=75, deadline=None)


def entry(value, *, stamp=0, fresh=60.0, tags=()):
    return Entry(
        value, created=NOW, fresh_until=NOW + fresh, stamp=stamp, size=value.size, tags=tags
    )


def part(first, octets, whole=10, lines=(ETAG,), *, vague=False, at=NOW, **flags):
    what = {"generated": at, "response_time": at, **flags}
    return PartialResponse(list(lines), ((first, octets),), whole, vague=vague, **what)


def full(body, lines=(ETAG,), **flags):
    stored = [*lines, (b"content-length", b"%d" % len(body))]
    return StoredResponse(200, stored, body, generated=NOW, response_time=NOW, **flags)


def combine(present, new, *, max_body=1000, max_tags=10, **kw):
    present = None if present is None else entry(present, **kw)
    return combined(present, entry(new), max_body=max_body, max_tags=max_tags)


def get(value=None, *lines):
    return Request(
        method="GET",
        scheme="http",
        host=b"example.com",
        path="/",
        key=b"key",
        fields=Fields([*([] if value is None else [(b"range", value)]), *lines]),
        has_body=False,
        obey_directives=True,
    )


OLD = part(0, b"012")
GZIP = (b"content-encoding", b"gzip")
DATE = (b"date", b"Tue, 14 Nov 2023 22:13:20 GMT")
LM = (b"last-modified", b"Tue, 14 Nov 2023 22:13:19 GMT")
# What is stored, what comes, and what is held after: parts, or the whole.
ROWS = [
    ("apart", OLD, part(5, b"56"), ((0, b"012"), (5, b"56"))),
    ("before", part(5, b"56"), OLD, ((0, b"012"), (5, b"56"))),
    ("touching", OLD, part(3, b"34"), ((0, b"01234"),)),
    ("overlapping", OLD, part(2, b"234"), ((0, b"01234"),)),
    ("inside", part(0, b"01234"), part(1, b"12"), ((0, b"01234"),)),
    ("around", part(3, b"3"), part(2, b"234"), ((2, b"234"),)),
    ("same", OLD, OLD, ((0, b"012"),)),
    ("completed", part(0, b"01234"), part(5, b"56789"), b"0123456789"),
    ("into-whole", full(b"0123456789"), part(5, b"56"), b"0123456789"),
    ("by-date", part(0, b"0", lines=[LM, DATE]), part(1, b"1", lines=[LM, DATE]), ((0, b"01"),)),
    ("unknown-length", part(0, b"0", None), part(1, b"1"), ((0, b"01"),)),
    ("still-unknown", part(0, b"0", None), part(1, b"1", None), ((0, b"01"),)),
    ("alone", None, OLD, ((0, b"012"),)),
    ("complete-at-once", None, part(0, b"0123456789"), b"0123456789"),
    # Not one representation, as far as can be told: the newer stands alone.
    ("other-tag", OLD, part(3, b"34", lines=[(b"etag", b'"b"')]), ((3, b"34"),)),
    ("weak", part(0, b"0", lines=[(b"etag", b'W/"a"')]), part(1, b"1", lines=[(b"etag", b'W/"a"')]),
     ((1, b"1"),)),
    ("no-tag", part(0, b"0", lines=[]), part(1, b"1", lines=[]), ((1, b"1"),)),
    ("tag-vanished", OLD, part(3, b"3", lines=[LM, DATE]), ((3, b"3"),)),
    ("weak-date", part(0, b"0", lines=[LM]), part(1, b"1", lines=[LM, DATE]), ((1, b"1"),)),
    ("coding", OLD, part(3, b"34", lines=[ETAG, GZIP]), ((3, b"34"),)),
    ("length", OLD, part(3, b"34", 11), ((3, b"34"),)),
    ("beyond-length", part(0, b"0", 4), part(7, b"7", None), ((7, b"7"),)),
    ("length-too-short", part(7, b"7", None), part(0, b"0", 4), ((0, b"0"),)),
    ("overlap-differs", part(0, b"0123"), part(2, b"x"), ((2, b"x"),)),
    ("whole-overlap-differs", full(b"0123456789"), part(2, b"x"), ((2, b"x"),)),
    ("vague-stored", part(0, b"0", vague=True), part(1, b"1"), ((1, b"1"),)),
    ("vague-comes", part(0, b"0"), part(1, b"1", vague=True), ((1, b"1"),)),
    ("vague-never-whole", None, part(0, b"0123456789", vague=True), ((0, b"0123456789"),)),
    # A whole response is given up for a part only if something speaks against it.
    ("whole-stays", full(b"0123456789", []), part(2, b"x", lines=[]), b"0123456789"),
    ("whole-weak-stays", full(b"0123456789", [(b"etag", b'W/"a"')]),
     part(2, b"x", lines=[(b"etag", b'W/"a"')]), b"0123456789"),
    ("whole-other-tag", full(b"0123456789"), part(2, b"x", lines=[(b"etag", b'"b"')]), ((2, b"x"),)),
    ("whole-other-length", full(b"0123456789", []), part(2, b"x", 11, []), ((2, b"x"),)),
    ("whole-404", StoredResponse(404, [ETAG], b"no", generated=NOW, response_time=NOW), OLD,
     ((0, b"012"),)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("present", "new", "expected"), [pytest.param(*row[1:], id=f"3.4-{row[0]}") for row in ROWS]
)
def test_what_is_held(present, new, expected):
    value = combine(present, new).value
    if isinstance(expected, bytes):
        assert value.__class__ is StoredResponse
        assert value.body == expected
        assert value.fields.all(b"content-length") == [b"%d" % len(expected)]
    else:
        assert value.__class__ is PartialResponse
        assert value.parts == expected
        assert b"content-length" not in value.fields
    assert b"content-range" not in value.fields


def test_a_stale_whole_gives_way():
    value = combine(full(b"0123456789", []), part(2, b"x", lines=[]), fresh=0.0).value
    assert value.parts == ((2, b"x"),)


def test_the_oldest_part_says_what_purges_all():
    assert combine(OLD, part(3, b"3"), stamp=-5).stamp == -5
    made = combined(entry(OLD, stamp=9), entry(part(3, b"3"), stamp=4), max_body=99, max_tags=9)
    assert made.stamp == made.checked == 4


def test_tags_of_all_parts_purge_it():
    made = combined(
        entry(OLD, tags=("a", "b")), entry(part(3, b"3"), tags=("b", "c")), max_body=99, max_tags=3
    )
    assert made.tags == ("a", "b", "c")
    made = combined(
        entry(OLD, tags=("a", "b")), entry(part(3, b"3"), tags=("c",)), max_body=99, max_tags=2
    )
    assert made.tags == ("c",)
    assert made.value.parts == ((3, b"3"),)


def test_fields_are_updated():
    old = part(0, b"0", lines=[ETAG, (b"x-a", b"1"), (b"x-b", b"1"), GZIP])
    new = part(1, b"1", lines=[(b"x-a", b"2"), (b"x-a", b"3"), ETAG, (b"x-c", b"4"), GZIP])
    fields = combine(old, new).value.fields
    assert fields.all(b"x-a") == [b"2", b"3"]
    assert (fields.all(b"x-b"), fields.all(b"x-c")) == ([b"1"], [b"4"])
    assert fields.all(b"etag") == [b'"a"']
    assert fields.all(b"content-encoding") == [b"gzip"]


@pytest.mark.parametrize(
    "flag",
    [
        "no_cache",
        "must_revalidate",
        "without_credentials_only",
        "shared_with_authorization",
        "shared_with_users",
    ],
)
def test_what_allows_less_holds(flag):
    less = flag not in ("shared_with_authorization", "shared_with_users")
    for old, new in ((less, not less), (not less, less), (less, less), (not less, not less)):
        made = combine(part(0, b"0", **{flag: old}), part(1, b"1", **{flag: new}))
        assert getattr(made.value, flag) is (less if less in (old, new) else not less)


def test_a_combined_response_is_as_fresh_as_the_newest():
    made = combined(
        entry(OLD, fresh=5.0), entry(part(3, b"3", at=NOW + 3), fresh=60.0), max_body=99, max_tags=9
    )
    assert made.fresh_until == NOW + 60
    assert made.value.generated == made.value.response_time == NOW + 3


def test_too_much_together_is_the_new_part_alone():
    assert combine(part(0, b"0123"), part(5, b"567"), max_body=6).value.parts == ((5, b"567"),)


def test_no_more_parts_than_that():
    value = part(0, b"000", 10_000)
    for number in range(1, 3 * MAX_PARTS):
        value = combine(value, part(number * 10, b"x", 10_000)).value
        assert len(value.parts) <= MAX_PARTS
        assert (number * 10, b"x") in value.parts, "what was just fetched"
    assert value.parts[0] == (0, b"000"), "the largest of the others"


@thorough
@given(
    body=st.binary(min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 12)), max_size=30),
    data=st.data(),
)
def test_whatever_comes_every_octet_is_right(body, cuts, data):
    """In any order, of any overlap; and what a request then lacks is exactly what is fetched."""
    present, seen = None, set()
    for first, size in cuts:
        start = first % len(body)
        octets = body[start : start + size]
        whole = data.draw(st.sampled_from([len(body), len(body), None]))
        present = combined(present, entry(part(start, octets, whole)), max_body=100, max_tags=9)
        seen |= set(range(start, start + len(octets)))
        value = present.value
        end = -1
        for at, held in value.held:
            assert at > end
            assert held == body[at : at + len(held)]
            end = at + len(held)
        held = {at + n for at, octets in value.held for n in range(len(octets))}
        assert held <= seen
        if len(seen) <= MAX_PARTS:
            assert held == seen
        assert (value.__class__ is StoredResponse) == (
            held == set(range(len(body))) and value.length is not None
        )
        low = data.draw(st.integers(0, len(body)))
        asked = get(data.draw(st.sampled_from([b"bytes=%d-" % low, b"bytes=%d-%d" % (low, low + 5),
                                               b"bytes=-%d" % low, None])))  # fmt: skip
        rest = rest_of(asked, present, max_body=100)
        if rest is None:
            continue
        before, after = rest.around
        assert before + body[slice(*rest.missing)] + after == body[slice(*rest.span)]
        assert not covers(asked, value)
        assert not held & set(range(*rest.missing))
        assert rest.span == (
            (0, len(body)) if asked.ranges is None else satisfiable(asked.ranges, len(body))[0]
        )
        answer = Received(rest.missing, len(body), False, Fields([ETAG]), [])
        assert rest.brought_by(answer)
        for wrong in (
            answer._replace(span=(rest.missing[0], rest.missing[1] + 1)),
            answer._replace(whole=len(body) + 1),
            answer._replace(vague=True),
            answer._replace(fields=Fields([(b"etag", b'"b"')])),
            answer._replace(fields=Fields([(b"etag", b'W/"a"')])),
            answer._replace(fields=Fields([])),
            answer._replace(fields=Fields([ETAG, GZIP])),
        ):
            assert not rest.brought_by(wrong)


# What is stored of ten octets, what is asked for, and the Range that is sent; None: the client's.
REST = [
    ("more-than-half", [(0, b"012345")], None, b"bytes=6-"),
    ("half", [(0, b"01234")], None, b"bytes=5-"),
    ("less-than-half", [(0, b"0123")], None, None),
    ("first-half", [(5, b"56789")], None, b"bytes=0-4"),
    ("middle", [(0, b"0123"), (6, b"6789")], None, b"bytes=4-5"),
    ("two-gaps", [(1, b"12345678")], None, None),
    ("range", [(0, b"012")], b"bytes=1-5", b"bytes=3-5"),
    ("range-to-end", [(0, b"012")], b"bytes=1-", b"bytes=3-"),
    ("range-suffix", [(0, b"0123456")], b"bytes=-5", b"bytes=7-"),
    ("range-before", [(5, b"56")], b"bytes=2-6", b"bytes=2-4"),
    ("range-around", [(5, b"56")], b"bytes=2-8", None),
    ("range-elsewhere", [(5, b"56")], b"bytes=0-2", None),
    ("range-covered", [(5, b"56")], b"bytes=5-6", None),
    ("range-beyond", [(5, b"56")], b"bytes=10-", None),
    ("ranges-one", [(0, b"012")], b"bytes=1-3,4-5", b"bytes=3-5"),
    ("ranges", [(0, b"012")], b"bytes=1-3,6-7", None),
    ("ranges-one-beyond", [(0, b"012")], b"bytes=1-3,10-", None),
]


@pytest.mark.parametrize(
    ("parts", "asked", "sent"), [pytest.param(*row[1:], id=f"3.4-{row[0]}") for row in REST]
)
def test_what_is_fetched(parts, asked, sent):
    value = PartialResponse([ETAG], tuple(parts), 10, generated=NOW, response_time=NOW)
    rest = rest_of(get(asked), entry(value), max_body=100)
    assert (None if rest is None else rest.lines) == (
        None if sent is None else [(b"range", sent), (b"if-range", b'"a"')]
    )


@pytest.mark.parametrize(
    ("value", "request_"),
    [
        (None, get()),
        (full(b"0123456789"), get()),
        (part(0, b"01234567", None), get()),
        (part(0, b"01234567", vague=True), get()),
        (part(0, b"01234567", lines=[]), get(b"bytes=5-9")),
        (part(0, b"01234567"), get(b"lines=5-9")),
    ],
)
def test_nothing_less_than_asked_is_fetched(value, request_):
    there = None if value is None else entry(value)
    assert rest_of(request_, there, max_body=100) is None


def test_if_range_of_the_client_counts():
    there = entry(part(0, b"0123456"))
    holds = rest_of(get(b"bytes=5-9", (b"if-range", b'"a"')), there, max_body=100)
    assert holds is not None
    assert (holds.status, holds.span, holds.missing) == (206, (5, 10), (7, 10))
    fails = rest_of(get(b"bytes=5-9", (b"if-range", b'"b"')), there, max_body=100)
    assert fails is not None
    assert (fails.status, fails.span, fails.missing) == (200, (0, 10), (7, 10))


def test_a_rest_that_could_not_be_stored_is_not_fetched():
    there = entry(part(0, b"01234"))
    assert rest_of(get(), there, max_body=5) is not None
    assert rest_of(get(), there, max_body=4) is None
    assert rest_of(get(b"bytes=2-"), there, max_body=4) is None
