"""What the HTTP cache stores comes back as it was; poisoned bytes bring no line that is not one."""

from __future__ import annotations

import math
import struct
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.codec import FAR, Codec
from layergate.core.entry import Entry
from layergate.errors import WireError
from layergate.http import wire
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.extensions.no_vary_search import MAX_FIELD, MAX_PARAMS, SearchVariance
from layergate.http.message.fields import Lines
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.combining import MAX_PARTS
from layergate.http.rfc9111.storing import NEVER_STORED_FIELDS, NotStored
from layergate.http.wire import VALUES
from tests.snapshots.same import same

msgpack: Any = import_module("msgpack")

KEY = b"key"
LOG = bytes(16)
CODEC = Codec(VALUES)
BY_TYPE = {value.type: value for value in VALUES}
HEAD = struct.Struct("<HB3d")
NOW = 1_700_000_000.0
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"

thorough = settings(max_examples=75, deadline=None)


def there_and_back(value: Any) -> Any:
    entry = Entry(value, created=NOW, fresh_until=NOW)
    return CODEC.decode(KEY, CODEC.encode(KEY, entry, position=0, log=LOG)).entry.value


def response(lines: Lines, body: bytes = b"", **fields: Any) -> StoredResponse:
    status = fields.pop("status", 200)
    return StoredResponse(status, lines, body, **{"generated": NOW, "response_time": NOW, **fields})


def packed(
    block: Any = b"", body: Any = b"", *, status: int = 200, flags: int = 0, at: float = NOW
) -> list[Any]:
    return [HEAD.pack(status, flags, at, at, at), block, body]


def unpack(kind: type, data: Any) -> Any:
    """As the codec would: on its way through an entry, anything that is raised is a WireError."""
    return BY_TYPE[kind].unpack(data)


# -- what comes back ------------------------------------------------------------------------------

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
names = (
    st.lists(st.sampled_from(TOKEN), min_size=1, max_size=20)
    .map(bytes)
    .filter(lambda name: name not in {*NEVER_STORED_FIELDS, b"content-length"})
)
field_values = st.binary(max_size=200).map(
    lambda value: bytes(byte for byte in value if byte not in b"\r\n\0")
)
bodies = st.binary(max_size=100)
moments = st.floats(-FAR, FAR)
switches = st.booleans()
responses = st.builds(
    StoredResponse,
    st.integers(100, 999),
    st.lists(st.tuples(names, field_values), max_size=12),
    bodies,
    generated=moments,
    response_time=moments,
    request_time=moments,
    no_cache=switches,
    must_revalidate=switches,
    without_credentials_only=switches,
    shared_with_authorization=switches,
    shared_with_users=switches,
    immutable=switches,
    reloaded=switches,
    traceparent=st.none()
    | st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    own=st.none() | field_values,
)


@thorough
@given(original=responses, sized=switches)
def test_a_response_comes_back_as_it_was(original: StoredResponse, sized: bool) -> None:
    if sized:
        original.lines.append((b"content-length", b"%d" % len(original.body)))
    back = there_and_back(original)
    assert same(back, original)
    assert back.fields.lines == original.lines
    assert back.size == original.size


@st.composite
def partial_responses(draw: st.DrawFn) -> PartialResponse:
    parts, end = [], -1
    for gap, octets in draw(
        st.lists(st.tuples(st.integers(1, 10**6), st.binary(min_size=1)), min_size=1, max_size=16)
    ):
        parts.append((end + gap, octets))
        end = parts[-1][0] + len(octets)
    like = draw(responses)
    whole = draw(st.none() | st.integers(end, 10**18 - 1))
    vague = draw(switches)
    return PartialResponse(like.lines, tuple(parts), whole, vague=vague, **like.attributes())


@thorough
@given(original=partial_responses())
def test_parts_come_back_as_they_were(original: PartialResponse) -> None:
    back = there_and_back(original)
    assert same(back, original)
    assert back.size == original.size
    assert back.length == original.length


FLAGS = (
    "no_cache", "must_revalidate", "without_credentials_only", "shared_with_authorization", "shared_with_users", "immutable", "reloaded",
)  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [False, True])
def test_each_flag_is_its_own(flag: str, value: bool) -> None:
    options: dict[str, Any] = dict.fromkeys(FLAGS, not value)
    options[flag] = value
    assert same(there_and_back(response([], **options)), response([], **options))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b":",
        b"a:b",
        b" padded ",
        b"\t",
        b"\xff\xfe",
        b"caf\xe9",
        b"x" * 5000,
        b"\x7f\x01",
    ],
)
def test_values_are_kept_byte_for_byte(value: bytes) -> None:
    lines = [(b"x-a", value), (b"x-a", value), (b"x-b", b"1")]
    assert there_and_back(response(lines)).lines == lines


@given(
    index=st.builds(
        VariantIndex,
        st.lists(st.lists(names, max_size=4).map(tuple), max_size=4).map(tuple),
        st.lists(st.binary(min_size=1, max_size=40), max_size=5).map(tuple),
        st.just(()),
    ),
    end=st.integers(0, 2**40),
    ends=switches,
)
def test_an_index_comes_back_as_it_was(index: VariantIndex, end: int, ends: bool) -> None:
    if ends:  # (older ones have none)
        index = index._replace(expires=(end,) * len(index.variants))
    assert same(there_and_back(index), index)


@pytest.mark.parametrize("reason", NotStored)
def test_a_marker_comes_back_as_it_was(reason: NotStored) -> None:
    assert there_and_back(HitForMiss(reason)) == HitForMiss(reason)
    of_some = HitForMiss(reason, (bytes(16), b"x" * 16))
    assert there_and_back(of_some) == of_some


def test_equal_lines_are_kept_once() -> None:
    lines = [(b"content-type", b"text/html"), (b"x-long", b"x" * 500)]
    one, other = (there_and_back(response(lines)) for _ in range(2))
    assert one.lines[0] is other.lines[0]
    assert one.lines is not other.lines
    assert one.lines[1] == other.lines[1]


def test_the_memo_of_lines_is_bounded() -> None:
    for number in range(3 * wire._MEMO):
        there_and_back(response([(b"x-a", b"%d" % number), (b"x-b", b"x" * 1000)]))
    assert len(wire._lines) <= wire._MEMO
    assert all(len(written) <= wire._MEMO_LINE for written in wire._lines)


def test_codes_are_for_ever() -> None:
    assert [(value.code, value.type) for value in VALUES] == [
        (1, StoredResponse),
        (2, VariantIndex),
        (3, HitForMiss),
        (4, PartialResponse),
        (6, SearchVariance),
    ]


def test_every_field_of_a_response_travels() -> None:
    """Who adds one has to think of the wire: a new flag, or a new code."""
    assert set(StoredResponse.__slots__) - {"_fields", "audience", "large"} == {
        "without_credentials_only", "shared_with_authorization", "body", "shared_with_users", "generated", "immutable", "lines",
        "must_revalidate", "own", "response_time", "reloaded", "request_time", "no_cache", "status", "traceparent",
    }  # fmt: skip
    assert set(PartialResponse.__slots__) == {"parts", "vague", "whole"}
    assert VariantIndex._fields == ("names", "variants", "expires")
    assert HitForMiss._fields == ("reason", "witnesses")
    assert SearchVariance._fields == ("ordered", "only", "names")


@given(st.booleans(), st.booleans(), st.sets(st.binary(max_size=20), max_size=MAX_PARAMS))
def test_what_no_vary_search_said_comes_back(ordered: bool, only: bool, names: set[bytes]) -> None:
    variance = SearchVariance(ordered, only, tuple(sorted(names)))
    assert there_and_back(variance) == variance


# -- what is not written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        (b"x-a", b"1\nset-cookie:stolen=1"),
        (b"x-a", b"1\r\nset-cookie: stolen=1"),
        (b"x-a", b"1\r"),
        (b"x-a", b"1\n"),
        (b"x-a", b"\n"),
        (b"x-a", b"a\0b"),
        (b"x-a:b", b"1"),
        (b"x-a\nx-b", b"1"),
        (b"x a", b"1"),
        (b"x-a ", b"1"),
        (b"X-A", b"1"),
        (b"", b"1"),
        (b"x-\xe9", b"1"),
        (b":status", b"200"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"age", b"5"),
        (b"content-length", b"4"),
        (b"content-length", b"6"),
        (b"content-length", b"-5"),
        (b"content-length", b"5, 5"),
        (b"content-length", b""),
        (b"content-length", b"0x5"),
        (b"content-length", "\u0665".encode()),
        (b"content-length", b"0" * 18 + b"5"),
        (b"content-length", b"9" * 5000),
    ],
)
def test_a_line_that_must_not_be_sent_goes_neither_way(line: tuple[bytes, bytes]) -> None:
    lines = [(b"x-before", b"1"), line, (b"x-after", b"2")]
    with pytest.raises(WireError):
        there_and_back(response(lines, b"12345"))
    with pytest.raises(WireError):
        there_and_back(response([line], b"12345"))
    name, value = line
    # Whatever comes out of such bytes is a list of lines that are each what HTTP allows.
    try:
        lines = unpack(StoredResponse, packed(b"x-before:1\n%b:%b\nx-after:2" % (name, value),
                                              b"12345")).lines  # fmt: skip
    except ValueError:
        return
    assert line not in lines
    assert all(wire._TOKEN(name) and not set(value) & set(b"\r\n\0") for name, value in lines)


def test_two_lengths_that_agree_are_one() -> None:
    lines = [(b"content-length", b"5"), (b"content-length", b"005")]
    assert there_and_back(response(lines, b"12345")).lines == lines


@pytest.mark.parametrize(
    "value",
    [
        response([], status=99),
        response([], status=1000),
        response([], status=-1),
        response([], status=70_000),
        response([], generated=math.nan),
        response([], response_time=math.inf),
        response([], request_time=2 * FAR),
        response([(b"x", b"1")] * 1001),
        response([(b"x", "1")]),  # type: ignore[list-item]
        response([], "text"),  # type: ignore[arg-type]
        VariantIndex(((b"Accept",),), ()),
        VariantIndex(((b"",),), ()),
        VariantIndex((("accept",),), ()),  # type: ignore[arg-type]
        VariantIndex((), (b"",)),
        VariantIndex((), (b"a",), (1, 2)),
        VariantIndex((), (b"a",), (-1,)),
        VariantIndex((), (b"a",), (2**41,)),
        VariantIndex((), (b"a",), (1.0,)),  # type: ignore[arg-type]
        HitForMiss(NotStored.PRIVATE, (b"short",)),
        HitForMiss(NotStored.PRIVATE, ("x" * 16,)),  # type: ignore[arg-type]
        HitForMiss(NotStored.PRIVATE, (bytes(16),) * 65),
        VariantIndex((), ("a",)),  # type: ignore[arg-type]
        SearchVariance(1, False, ()),  # type: ignore[arg-type]
        SearchVariance(True, None, ()),  # type: ignore[arg-type]
        SearchVariance(True, False, ("a",)),  # type: ignore[arg-type]
        SearchVariance(True, False, (b"b", b"a")),
        SearchVariance(True, False, (b"a", b"a")),
        SearchVariance(True, False, (b"x" * (MAX_FIELD + 1),)),
        SearchVariance(True, False, tuple(b"%03d" % n for n in range(MAX_PARAMS + 1))),
    ],
    ids=range(29),
)
def test_what_no_reader_would_take_is_not_written(value: Any) -> None:
    with pytest.raises(WireError):
        there_and_back(value)


@pytest.mark.parametrize(
    ("block", "flags"),
    [(b"set-cookie:a=1", 0), (b"set-cookie2:a=1", 0), (b"x-a:1", 64), (b"", 64)],
)
def test_a_cookie_that_no_rule_wanted_kept_is_refused(block: bytes, flags: int) -> None:
    with pytest.raises(ValueError):
        unpack(StoredResponse, packed(block, flags=flags))
    assert unpack(StoredResponse, packed(b"set-cookie:a=1", flags=64)).lines == [
        (b"set-cookie", b"a=1")
    ]


# -- poisoned bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"\n", b"x-a:1\n", b"\nx-a:1", b"x-a:1\n\nx-b:2", b"x-a", b":", b":1", b"x-a\n:1",
        b"x-a:1\r\nx-b:2", b"x-a:1\rx-b:2", b"x-a:\0", b"x-a:1\0", b"X-A:1", b"x a:1", b" x-a:1",
        b"x-a:1\n folded", b"x-a :1", b"x-\xc3\xa9:1", b"transfer-encoding:chunked",
        b"connection:x-b", b"set-cookie:a=1", b"upgrade:h2c", b"age:1", b"te:trailers",
        b"content-length:1", b"content-length:", b"content-length: 0", b"content-length:+0",
        b"content-length:0\ncontent-length:1", b"x-a:1\n" * 1000 + b"x-a:1",
        b"HTTP/1.1 200 OK\nx-a:1", b"\n\n<script>",
    ],
)  # fmt: skip
def test_a_poisoned_header_section_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(StoredResponse, packed(block))


@thorough
@given(block=st.lists(st.sampled_from([b"x-a", b":", b"\n", b"\r", b"\0", b" ", b"1", b"X"])))
def test_what_is_accepted_can_be_sent(block: list[bytes]) -> None:
    try:
        lines = unpack(StoredResponse, packed(b"".join(block))).lines
    except ValueError:
        return
    for name, value in lines:
        assert type(name) is type(value) is bytes
        assert name and set(name) <= set(TOKEN)
        assert not set(value) & set(b"\r\n\0")


def test_a_long_line_is_checked_every_time() -> None:
    block = b"x-a:" + b"x" * 1000 + b"\r"
    for _ in range(2):
        with pytest.raises(ValueError):
            unpack(StoredResponse, packed(block))


@pytest.mark.parametrize(
    "data",
    [
        packed(status=0),
        packed(status=99),
        packed(status=1000),
        packed(status=65535),
        packed(flags=64),
        packed(flags=255),
        packed(at=math.nan),
        packed(at=math.inf),
        packed(at=-math.inf),
        packed(at=2 * FAR),
        packed(block="x-a:1"),
        packed(block=None),
        packed(block=[]),
        packed(body="text"),
        packed(body=None),
        packed(body=5),
        [HEAD.pack(200, 0, NOW, NOW, NOW) + b"\0", b"", b""],
        [HEAD.pack(200, 0, NOW, NOW, NOW)[:-1], b"", b""],
        [b"", b"", b""],
        ["x" * 27, b"", b""],
        [None, b"", b""],
        [200, b"", b""],
        packed()[:2],
        [*packed(), b""],
        [*packed(), ""],
        [*packed(), None],
        [*packed(), TRACEPARENT, TRACEPARENT],
        [*packed(), TRACEPARENT.encode()],
        [*packed(), TRACEPARENT.upper()],
        [*packed(), TRACEPARENT + "\n"],
        [*packed(), "01" + TRACEPARENT[2:]],
        [*packed(), None, None],
        [*packed(), None, "max-age=1"],
        [*packed(), None, b"max-age=1\r\nset-cookie: a=1"],
        [*packed(), None, b"\0"],
        [*packed(), "", b"max-age=1"],
        [*packed(), None, b"max-age=1", None],
        [],
        None,
        5,
        b"abc",
        "abc",
        {1: 2, 3: 4, 5: 6},
    ],
    ids=range(43),
)
def test_a_response_has_one_form(data: Any) -> None:
    through_the_codec(1, data)


def parted(items: Any = (0, b"a"), whole: Any = 9, vague: Any = False, **rest: Any) -> list[Any]:
    return [whole, vague, list(items) if type(items) is tuple else items, *packed(**rest)]


@pytest.mark.parametrize(
    "data",
    [
        None, 5, b"abcdef", [], packed(), parted()[1:], [*parted(), None], parted(whole=0), parted(whole=-1),
        parted(whole=True), parted(whole="9"), parted(whole=10**18), parted(whole=9.0), parted(vague=0),
        parted(vague=None), parted(()), parted((0,)), parted((0, b"a", 5)), parted((0, b"")),
        parted((-1, b"a")), parted((0, "a")), parted((0.0, b"a")), parted((False, b"a")), parted((b"a", 0)),
        parted((0, b"aa", 1, b"a")), parted((0, b"aa", 2, b"a")), parted((5, b"a", 0, b"a")), parted((9, b"a")),
        parted((8, b"ab")), parted((10**18, b"a"), None), parted(None), parted(b"ab"), parted({0: b"a", 1: b"b"}),
        parted(tuple(x for n in range(MAX_PARTS + 1) for x in (2 * n, b"a")), 99),
        parted(body=b"a"), parted(status=404), parted(status=206), parted(flags=64),
        parted(block=b"content-length:9"), parted(block=b"content-length:0"), parted(block=b"content-range:bytes 0-0/9"),
        parted(block=b"set-cookie:a=1"), parted(block=b"\n"),
    ],
    ids=range(43),
)  # fmt: skip
def test_parts_have_one_form(data: Any) -> None:
    through_the_codec(4, data)


def test_parts_that_fit_are_read() -> None:
    back = unpack(PartialResponse, parted((0, b"aa", 3, b"a", 7, b"bb")))
    assert back.parts == ((0, b"aa"), (3, b"a"), (7, b"bb"))


@pytest.mark.parametrize(
    "data",
    [
        None, 5, b"ab", "ab", [], [[]], [[], [], []], [None, []], [[], None], ["ab", []],
        [[], "ab"], [[], b"ab"], [[b"a"], []], [["a"], []], [[["a"]], []], [[[b"A"]], []],
        [[[b""]], []], [[[b"a\n"]], []], [[[b"a:b"]], []], [[[b"*", b"\xff"]], []], [[[5]], []],
        [[[None]], []], [[[[b"a"]]], []], [[], [""]], [[], [b""]], [[], [5]], [[], [[b"a"]]],
        [[[]] * 65, []], [[[b"a"] * 257], []], [[], [b"a"] * 10_001], [[], [b"a" * (2**20 + 1)]],
        {0: 0, 1: 1}, [{}, {}], [[{}], []],
    ],
    ids=range(34),
)  # fmt: skip
def test_an_index_has_one_form(data: Any) -> None:
    through_the_codec(2, data)


@pytest.mark.parametrize(
    "data",
    [None, 5, "", "private ", "PRIVATE", "unknown", b"private", ["private"], {"private": 1}, True],
    ids=str,
)
def test_a_marker_has_one_form(data: Any) -> None:
    through_the_codec(3, data)


def through_the_codec(code: int, data: Any) -> None:
    """An unsigned entry with this as the value of type ``code`` is a WireError, wherever it is."""
    entry = Entry(None, created=NOW, fresh_until=NOW)
    head = CODEC.encode(KEY, entry, position=0, log=LOG)[:74]
    for document in (
        [code, [], data],
        [0, [], [msgpack.ExtType(code, b""), data]],
        [0, [], {"a": [[msgpack.ExtType(code, b""), data]]}],
    ):
        with pytest.raises(WireError):
            CODEC.decode(KEY, head + msgpack.packb(document))


@thorough
@given(
    original=responses | partial_responses(),
    cuts=st.lists(st.tuples(st.integers(0, 2**12), st.binary(max_size=4), st.integers(0, 4))),
)
def test_mutations_raise_nothing_else(
    original: StoredResponse, cuts: list[tuple[int, bytes, int]]
) -> None:
    entry = Entry(original, created=NOW, fresh_until=NOW)
    data = CODEC.encode(KEY, entry, position=0, log=LOG)
    for where, inserted, removed in cuts:
        at = where % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    try:
        value = CODEC.decode(KEY, data).entry.value
    except WireError:
        return
    if isinstance(value, StoredResponse):
        assert same(there_and_back(value), value)
