"""An entry or a record comes back as it was written; any other bytes are a WireError (G10)."""

from __future__ import annotations

import builtins
import contextlib
import copy
import enum
import math
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layergate.core.codec import (
    FAR,
    MAX_INVALIDATION_LENGTH,
    MAX_INVALIDATIONS,
    MAX_TAGS,
    Codec,
    ValueType,
)
from layergate.core.codec.entries import HEAD
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.errors import ConfigError, LayerGateError, WireError
from tests.snapshots.same import assert_same_entry, same

msgpack: Any = import_module("msgpack")
zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

KEY = b"key"
LOG = b"0123456789abcdef"
SECRET = "a secret of 16 bytes or more"
PLAIN_HEAD = HEAD.pack(LOG, 7, 0, 1.0, 2.0, 0.0, 0.0, 2.0)

thorough = settings(max_examples=75, deadline=None)


class Point(NamedTuple):
    x: int
    y: int


def _unpack_point(packed: Any) -> Point:
    x, y = packed
    if type(x) is not int or type(y) is not int:
        raise ValueError("a point has two ints")
    return Point(x, y)


POINT = ValueType(1, Point, list, _unpack_point)


def any_codec(**options: Any) -> Codec:
    return Codec([POINT], **options)


def entry(value: Any = "value", **fields: Any) -> Entry:
    return Entry(value, **{"created": 1.0, "fresh_until": 2.0, **fields})


def encoded(value: Any, **options: Any) -> bytes:
    return any_codec(**options).encode(KEY, entry(value), position=7, log=LOG)


def there_and_back(value: Any, **options: Any) -> Any:
    codec = any_codec(**options)
    return codec.decode(KEY, codec.encode(KEY, entry(value), position=7, log=LOG)).entry.value


def refused(data: bytes, match: str | None = None, **options: Any) -> None:
    """Decoding ``data`` raises WireError, as an entry and as a record."""
    codec = any_codec(**options)
    with pytest.raises(WireError, match=match):
        codec.decode(KEY, data)
    with pytest.raises(WireError):
        codec.decode_record(LOG, data)


def blob(body: bytes, head: bytes = PLAIN_HEAD) -> bytes:
    """An unsigned entry of which only the msgpack is arbitrary."""
    return b"\x01\x00" + head + body


def document(value: bytes, *, code: bytes = b"\x00", tags: bytes = b"\x90") -> bytes:
    return blob(b"\x93" + code + tags + value)


# -- what comes back ------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(st.characters(codec=None), max_size=40),
    st.binary(max_size=40),
    st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-3)))).map(
        lambda value: value.replace(fold=0)
    ),
    st.builds(Point, st.integers(-9, 9), st.integers(-9, 9)),
)
hashables = st.one_of(scalars, st.tuples(scalars, scalars), st.frozensets(scalars, max_size=3))
values = st.recursive(
    st.one_of(scalars, st.sets(hashables, max_size=3), hashables),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(hashables, inner, max_size=5),
    ),
    max_leaves=25,
)
moments = st.floats(-FAR, FAR)
windows = st.floats(0, FAR)
entries = st.builds(
    Entry,
    values,
    created=moments,
    fresh_until=moments,
    stale_while_revalidate=windows,
    stale_if_error=windows,
    expires=moments,
    tags=st.lists(st.text(st.characters(codec=None), max_size=20), max_size=5).map(tuple),
)
ways = st.fixed_dictionaries(
    {"secret": st.sampled_from([None, SECRET]), "compress_above": st.sampled_from([None, 0, 100])}
)


@thorough
@given(original=entries, position=st.integers(0, 2**64 - 1), key=st.binary(), way=ways)
def test_an_entry_comes_back_as_it_was(
    original: Entry, position: int, key: bytes, way: dict[str, Any]
) -> None:
    codec = any_codec(**way)
    before = copy.deepcopy(original.value)
    data = codec.encode(key, original, position=position, log=LOG)
    assert same(original.value, before)  # nothing was changed
    decoded = any_codec(**way).decode(key, data)
    assert_same_entry(decoded.entry, original)
    assert decoded[1:] == (position, LOG)


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, 1, 1.0, 0.0, -0.0, math.nan, math.inf, -math.inf, "", b"", (), [], {},
        2**64 - 1, -(2**63), set(), frozenset(), (None,), [()], ([],), [[()]], {1: "a", (1,): "b"},
        {"": None}, Point(1, 2), [Point(1, 2)], {Point(1, 2): (Point(3, 4),)}, {Point(0, 0)},
        ["\ud800", "a"], datetime(2024, 1, 1, tzinfo=UTC), datetime(1, 1, 1),  # noqa: DTZ001
        datetime.max,  # noqa: DTZ901
        datetime(2024, 1, 1, 1, 2, 3, 4, timezone(timedelta(hours=5, minutes=30))),
    ],
    ids=repr,
)  # fmt: skip
def test_types_stay_apart(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_an_entry_without_a_value_is_no_miss() -> None:
    decoded = any_codec().decode(KEY, encoded(None))
    assert decoded.entry.value is None
    assert decoded.entry.stamp == decoded.entry.checked == 0


def test_sizes_survive_unless_they_are_too_small_to_be_true() -> None:
    codec = any_codec()

    def back(size: int) -> int:
        data = codec.encode(KEY, entry(b"x" * 1000, size=size), position=0, log=LOG)
        return codec.decode(KEY, data).entry.size

    assert [back(0), back(900), back(10**6)] == [0, 900, 10**6]
    assert back(1) > 1000  # no budget is cheated with it


def test_bytes_like_values_are_bytes_afterwards() -> None:
    assert there_and_back([bytearray(b"a"), memoryview(b"b")]) == [b"a", b"b"]


def test_a_codec_is_safe_among_threads() -> None:
    codec = any_codec(secret=SECRET, compress_above=200)
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(200):
            value = (number, [turn] * 50, Point(number, turn))
            key = b"%d" % number
            data = codec.encode(key, entry(value), position=turn, log=LOG)
            if codec.decode(key, data).entry.value != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- what cannot travel ---------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Zone(tzinfo):
    """Stands for a ZoneInfo, whose data not every system has."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return None


Pair = namedtuple("Pair", "a b")  # noqa: PYI024
cycle: list[Any] = []
cycle.append(cycle)


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (object(), r"builtins\.object cannot be shared; store plain data"),
        ([{"a": object()}], "builtins.object"),
        (Decimal(1), r"decimal\.Decimal"),
        (Colour.RED, "Colour"),
        (Text("a"), "Text"),
        (OrderedDict(), "OrderedDict"),
        (Pair(1, 2), "Pair"),
        (1j, "complex"),
        (range(3), "range"),
        (lambda: None, "function"),
        (int, "builtins.type"),
        (2**64, "64 bits cannot be shared; store it as a str"),
        ([-(2**63) - 1], "64 bits"),
        (datetime(2024, 7, 1, tzinfo=Zone()), "astimezone"),
        (cycle, "nested too deeply"),
        (nested(2000), "nested too deeply"),
        (nested(2000, lambda inner: (inner,)), "nested too deeply"),
        (nested(2000, lambda inner: {"a": inner}), "nested too deeply"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_no_plain_data_is_refused_with_a_remedy(value: Any, match: str) -> None:
    with pytest.raises(WireError, match=match):
        encoded(value)


def test_a_value_type_that_is_nested_too_deeply_to_pack_is_refused_as_such() -> None:
    def broken(value: Any) -> Any:
        raise RecursionError("a tree of too many levels")

    codec = Codec([POINT._replace(pack=broken)])
    with pytest.raises(WireError, match="a value is nested too deeply"):
        codec.encode(KEY, entry(Point(1, 2)), position=0, log=LOG)


def test_a_value_type_that_cannot_pack_is_a_wire_error() -> None:
    def broken(value: Any) -> Any:
        raise RuntimeError("broken")

    codec = Codec([POINT._replace(pack=broken)])
    with pytest.raises(WireError, match="RuntimeError: broken"):
        codec.encode(KEY, entry(Point(1, 2)), position=0, log=LOG)


@pytest.mark.parametrize(
    "fields",
    [
        {"created": math.nan},
        {"created": -math.inf},
        {"fresh_until": math.inf},
        {"expires": math.nan},
        {"expires": 2 * FAR},
        {"stale_while_revalidate": -1.0},
        {"stale_if_error": math.nan},
        {"created": "1"},
        {"size": -1},
        {"size": 2**64},
        {"tags": ("a", b"b")},
        {"tags": "abc"},
        {"tags": ("t",) * (MAX_TAGS + 1)},
        {"tags": ("t" * 2**20, "t")},
    ],
    ids=str,
)
def test_an_entry_that_no_reader_would_take_is_not_written(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        any_codec().encode(KEY, entry(**fields), position=0, log=LOG)


@pytest.mark.parametrize(
    "fields",
    [
        {"created": FAR, "fresh_until": FAR, "expires": FAR},
        {"created": -FAR, "fresh_until": -FAR, "expires": -FAR},
        {"stale_while_revalidate": FAR, "stale_if_error": FAR, "expires": FAR},
        {"stale_while_revalidate": 0.0, "stale_if_error": 0.0},
        {"tags": ("t",) * MAX_TAGS},
        {"tags": ("t" * (2**20 - 1), "t")},
    ],
    ids=range(6),
)
def test_an_entry_at_its_limits_travels(fields: dict[str, Any]) -> None:
    """What one instance may write, every other one reads (G10)."""
    codec = any_codec()
    original = entry(**fields)
    decoded = codec.decode(KEY, codec.encode(KEY, original, position=0, log=LOG))
    assert_same_entry(decoded.entry, original)


@pytest.mark.parametrize(("position", "log"), [(-1, LOG), (2**64, LOG), (0, b""), (0, LOG + b"1")])
def test_positions_and_logs_have_their_form(position: int, log: bytes) -> None:
    with pytest.raises(WireError):
        any_codec().encode(KEY, entry(), position=position, log=log)


@pytest.mark.parametrize("compress_above", [None, 10])
def test_max_size_holds_both_ways(compress_above: int | None) -> None:
    value = b"x" * 1000
    size = len(encoded(value)) - 2
    roomy = any_codec(max_size=size, compress_above=compress_above)
    tight = any_codec(max_size=size - 1, compress_above=compress_above)
    data = roomy.encode(KEY, entry(value), position=7, log=LOG)
    assert roomy.decode(KEY, data).entry.value == value
    with pytest.raises(WireError, match="max_size"):
        tight.encode(KEY, entry(value), position=7, log=LOG)
    with pytest.raises(WireError, match="max_size"):
        tight.decode(KEY, data)


def test_what_compression_does_not_make_much_smaller_is_left_as_it_is() -> None:
    noise = random.Random(1).randbytes(1000)
    assert encoded(noise, compress_above=0)[1] == 0
    assert encoded(b"x" * 500, compress_above=0)[1] == 1
    assert encoded(b"x" * 500, compress_above=10_000)[1] == 0


# -- signatures -----------------------------------------------------------------------------------

SIGNED = any_codec(secret=SECRET)


def test_a_blob_under_another_key_is_refused() -> None:
    data = SIGNED.encode(b"mine", entry(), position=7, log=LOG)
    for key in (b"other", b"", b"mine\x00", b"min"):
        with pytest.raises(WireError, match="signature"):
            SIGNED.decode(key, data)


def test_a_key_cannot_grow_into_the_payload() -> None:
    data = SIGNED.encode(KEY, entry(), position=7, log=LOG)
    head, payload = data[:18], data[18:]
    with pytest.raises(WireError, match="signature"):
        SIGNED.decode(KEY + payload[:1], head + payload[1:])


def test_an_entry_is_no_record_and_a_record_is_no_entry() -> None:
    record = SIGNED.encode_record(LOG, (Invalidation("all"),), 1.0)
    with pytest.raises(WireError, match="signature"):
        SIGNED.decode(LOG, record)
    data = SIGNED.encode(LOG, entry(), position=7, log=LOG)
    with pytest.raises(WireError, match="signature"):
        SIGNED.decode_record(LOG, data)


def test_a_record_of_another_log_is_refused() -> None:
    record = SIGNED.encode_record(LOG, (Invalidation("all"),), 1.0)
    with pytest.raises(WireError, match="signature"):
        SIGNED.decode_record(LOG[::-1], record)


@pytest.mark.parametrize("compress_above", [None, 0])
def test_no_bit_can_be_flipped(compress_above: int | None) -> None:
    codec = any_codec(secret=SECRET, compress_above=compress_above)
    data = codec.encode(KEY, entry("x" * 100), position=7, log=LOG)
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(WireError):
                codec.decode(KEY, bytes(flipped))


def test_with_a_secret_nothing_unsigned_is_taken() -> None:
    refused(encoded("value"), "not signed", secret=SECRET)
    signed = encoded("value", secret=SECRET)
    refused(b"\x01\x00" + signed[18:], "not signed", secret=SECRET)  # the signature cut out
    with pytest.raises(WireError, match="not signed"):
        SIGNED.decode_record(LOG, any_codec().encode_record(LOG, (), 1.0))


def test_without_a_secret_nothing_signed_is_taken() -> None:
    refused(encoded("value", secret=SECRET), "no secret")
    with pytest.raises(WireError, match="no secret"):
        any_codec().decode_record(LOG, SIGNED.encode_record(LOG, (), 1.0))


def test_another_secret_is_another_signature() -> None:
    refused(encoded("value", secret=SECRET), "signature", secret=SECRET + "!")


def test_a_secret_of_sixteen_bytes_is_enough() -> None:
    data = encoded("value", secret="s" * 16)
    assert any_codec(secret=b"s" * 16).decode(KEY, data).entry.value == "value"


def test_a_str_secret_is_its_utf8() -> None:
    codec = any_codec(secret=SECRET.encode())
    assert codec.decode(KEY, encoded("value", secret=SECRET)).entry.value == "value"


def test_what_does_not_verify_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = any_codec(secret=SECRET)
    data = encoded("x" * 1000, secret=SECRET, compress_above=0)
    monkeypatch.setattr(codec._zstd, "_decompressor", lambda: pytest.fail("was decompressed"))
    monkeypatch.setattr(codec._values, "_unpackb", lambda *_, **__: pytest.fail("was unpacked"))
    with pytest.raises(WireError, match="signature"):
        codec.decode(KEY, data[:-1] + bytes([data[-1] ^ 1]))


# -- hostile bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x01\x00", b"\x01\x02", b"\x01\x00" + bytes(71), b"\x01\x02" + bytes(15)],
)
def test_next_to_nothing_is_refused(data: bytes) -> None:
    refused(data)
    refused(data, secret=SECRET)


@pytest.mark.parametrize("version", [0, 2, 3, 127, 255])
def test_another_version_is_refused(version: int) -> None:
    refused(bytes([version]) + encoded("value")[1:], f"version {version} is not known")
    signed = encoded("value", secret=SECRET)
    refused(bytes([version]) + signed[1:], "version", secret=SECRET)


@pytest.mark.parametrize("flags", [4, 8, 128, 255, 5])
def test_unknown_flags_are_refused(flags: int) -> None:
    refused(b"\x01" + bytes([flags]) + encoded("value")[2:], "flags")


def test_cut_at_any_length_it_is_refused() -> None:
    data = encoded([(1, 2), {"a": b"b"}, "x" * 40])
    squeezed = encoded("x" * 400, compress_above=0)
    for whole in (data, squeezed):
        for end in range(len(whole)):
            refused(whole[:end])
        refused(whole + b"\x00")
        refused(whole + whole)


def test_types_that_are_no_bytes_are_refused() -> None:
    wrong: Any
    for wrong in (None, "text", 5, [1, 0], {}):
        with pytest.raises(WireError):
            any_codec().decode(KEY, wrong)


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that Python held during the call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_defused() -> None:
    """A gigabyte of zeros in some 30 KB, with and without its size in the frame."""
    stream = zstd.ZstdCompressor()
    chunk = bytes(2**20)
    unsized = b"".join([stream.compress(chunk) for _ in range(1024)]) + stream.flush()
    sized = zstd.compress(bytes(2**27))
    for frame in (unsized, sized):
        codec = any_codec(max_size=2**20)

        def decode(codec: Codec = codec, frame: bytes = frame) -> None:
            with pytest.raises(WireError):
                codec.decode(KEY, b"\x01\x01" + frame)

        assert peak_of(decode) < 8 * 2**20


def test_a_frame_cannot_ask_for_a_large_window() -> None:
    options = {zstd.CompressionParameter.window_log: 27}
    stream = zstd.ZstdCompressor(options=options)
    frame = stream.compress(PLAIN_HEAD + b"\x93\x00\x90\xc0") + stream.flush()
    refused(b"\x01\x01" + frame, max_size=2**20)


def test_a_frame_cannot_lie_about_its_size() -> None:
    frame = bytearray(zstd.compress(PLAIN_HEAD + b"\x93\x00\x90\xa5hello" + bytes(0)))
    assert any_codec().decode(KEY, b"\x01\x01" + bytes(frame)).entry.value == "hello"
    assert frame[4] & 0x20  # single segment: the size is the next byte
    for size in (0, 1, 79, 255):
        frame[5] = size
        refused(b"\x01\x01" + bytes(frame))


def test_exactly_one_frame() -> None:
    frame = encoded("x" * 400, compress_above=0)[2:]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    for wrong in (frame + frame, frame + b"\x00", frame + skippable, frame[:-1], b"", skippable):
        refused(b"\x01\x01" + wrong)


def test_a_record_is_never_compressed() -> None:
    record = any_codec().encode_record(LOG, (Invalidation("tag", "x" * 500),), 1.0)
    with pytest.raises(WireError, match="compressed"):
        any_codec().decode_record(LOG, b"\x01\x01" + zstd.compress(record[2:]))


# Lists, tuples, sets, dicts and values, each in each other a million times or without an end.
TUPLE = b"\xd4\x00t"
SET = b"\xd4\x00s"
FROZEN = b"\xd4\x00f"
WHEN = b"\xd4\x00d"
POINT_MARKER = b"\xc7\x00\x01"


@pytest.mark.parametrize("depth", [1025, 1100, 100_000])
@pytest.mark.parametrize(
    "level",
    [b"\x91", b"\x81\xa1a", b"\x92" + TUPLE, b"\x92" + FROZEN, b"\x92" + POINT_MARKER, b"\x81"],
    ids=["list", "dict", "tuple", "frozenset", "value", "key"],
)
def test_depth_cannot_break_the_stack(level: bytes, depth: int) -> None:
    refused(document(level * depth + b"\xc0"))
    refused(document(level * depth))


def test_a_deep_value_that_is_accepted_does_no_harm() -> None:
    value = any_codec().decode(KEY, document((b"\x92" + TUPLE) * 900 + b"\xc0")).entry.value
    assert hash(value) == hash(copy.copy(value))
    assert there_and_back(nested(400)) == nested(400)


@pytest.mark.parametrize(
    "declared",
    [
        b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xde\xff\xff",
        b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x00",
        b"\xdd\x00\x0f\x42\x40", b"\xda\xff\xff", b"\xc5\xff\xff",
    ],
)  # fmt: skip
def test_lengths_that_are_only_declared_allocate_little(declared: bytes) -> None:
    for data in (document(declared), document(declared * 1000), blob(declared)):
        assert peak_of(partial(refused, data)) < 2**26


def test_nested_declarations_take_no_time() -> None:
    """A thousand lists in each other, each of which says to be as long as can be."""
    data = document(b"\xdd\x00\x0f\x42\x40" * 1000 + bytes(10**6))
    began = time.perf_counter()
    refused(data)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "value",
    [
        TUPLE,  # alone
        b"\x92\x01" + TUPLE,  # behind another item
        b"\x93" + TUPLE + TUPLE + b"\x01",
        b"\x81\xa1a" + TUPLE,  # a value of a dict
        b"\x81" + TUPLE + b"\x01",  # its key
        b"\x92" + SET + TUPLE,
        b"\x91\xd4\x00x",  # an unknown name
        b"\x91\xd4\x7ft",  # an unknown type, with a name
        b"\x92\xc7\x00\x7f\x01",  # without
        b"\x92\xd4\x01x\x92\x01\x02",  # a known type, with a name
        b"\x91" + POINT_MARKER,  # no value
        b"\x93" + POINT_MARKER + b"\x92\x01\x02\x01",  # more than one
        b"\x92" + POINT_MARKER + b"\x92\x01\xc3",  # one that its type refuses
        b"\x92" + POINT_MARKER + b"\x01",
        b"\x92" + SET + b"\x90",  # a set of a list
        b"\x93" + SET + b"\x01\x01",  # twice the same
        b"\x93" + SET + b"\x01\xc3",  # 1 and True are the same to a set
        b"\x81\x90\x01",  # a list as a key
        b"\x81\x80\x01",
        b"\x91" + WHEN,
        b"\x92" + WHEN + b"\x01",
        b"\x92" + WHEN + b"\xa5never",
        b"\x93" + WHEN + b"\xa1a\xa1b",
        b"\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",  # a time out of range
        b"\xd4\xff\x00",
        b"\xa2\xff\xfe",  # no UTF-8
        b"\xc1",  # never used in msgpack
    ],
)
def test_markers_and_values_have_one_form(value: bytes) -> None:
    refused(document(value))


def test_a_time_of_msgpack_itself_is_plain_data() -> None:
    assert any_codec().decode(KEY, document(b"\xd6\xff\x00\x00\x00\x00")).entry.value == datetime(
        1970, 1, 1, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "code", [b"\xc3", b"\xcb" + bytes(8), b"\xa1a", b"\xff", b"\x02", b"\xcc\x80", b"\xc0", b"\x90"]
)
def test_a_code_is_a_known_int(code: bytes) -> None:
    refused(document(b"\x92\x01\x02", code=code))


@pytest.mark.parametrize(
    "tags",
    [
        b"\xc0", b"\x80", b"\xa1a", b"\xc4\x01a", b"\x91\xc4\x01a", b"\x91\x01", b"\x91\xc0",
        b"\x91\x91\xa1a", b"\x00", b"\xc2", b"\x81\xa1a\xa1b", b"\xa0", b"\xc4\x00",
        b"\x92" + TUPLE + b"\x01", b"\xdc\x10\x01" + b"\xa1t" * (MAX_TAGS + 1),
        b"\x91\xdb\x00\x10\x00\x01" + b"t" * (2**20 + 1),
    ],
    ids=range(16),
)  # fmt: skip
def test_tags_are_a_list_of_str(tags: bytes) -> None:
    refused(document(b"\xc0", tags=tags))


@pytest.mark.parametrize(
    "body",
    [b"\xc0", b"\x90", b"\x92\x00\x90", b"\x94\x00\x90\xc0\xc0", b"\x83\x00\x90\x01\x90\x02\x90",
     b"\xa3abc", b"\xc4\x03abc", b"\x93\x00\x90\xc0\xc0", b""],
)  # fmt: skip
def test_a_document_is_three_things(body: bytes) -> None:
    refused(blob(body))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2 * FAR, -2 * FAR])
@pytest.mark.parametrize("at", range(5))
def test_times_are_finite(bad: float, at: int) -> None:
    times = [1.0, 2.0, 0.0, 0.0, 2.0]
    times[at] = bad
    refused(blob(b"\x93\x00\x90\xc0", HEAD.pack(LOG, 7, 0, *times)), "not finite")


@pytest.mark.parametrize("at", [2, 3])
def test_windows_are_not_negative(at: int) -> None:
    times = [1.0, 2.0, 0.0, 0.0, 2.0]
    times[at] = -1.0
    refused(blob(b"\x93\x00\x90\xc0", HEAD.pack(LOG, 7, 0, *times)), "negative")


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, RuntimeError, RecursionError, MemoryError, AssertionError]
)
@pytest.mark.parametrize("nest", [False, True])
def test_whatever_a_type_raises_is_a_wire_error(error: type[Exception], nest: bool) -> None:
    def raises(packed: Any) -> Any:
        raise error("x" * 10)

    data = encoded([Point(1, 2)] if nest else Point(1, 2))
    with pytest.raises(WireError):
        Codec([POINT._replace(unpack=raises)]).decode(KEY, data)


def test_an_unknown_type_is_a_miss() -> None:
    for value in (Point(1, 2), [Point(1, 2)]):
        with pytest.raises(WireError, match="type that is not known here"):
            Codec().decode(KEY, encoded(value))


def test_errors_do_not_carry_the_data() -> None:
    with pytest.raises(WireError) as caught:
        any_codec().decode(KEY, encoded("top secret") + b"\x00")
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 100


def test_nothing_is_ever_pickled_or_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    evil = pickle.dumps(Decimal(1))
    codec = any_codec()
    monkeypatch.setattr(builtins, "__import__", lambda *_: pytest.fail("an import"))
    refused_ones = [b"\x01\x00" + evil, b"\x01\x01" + evil, evil, document(evil), blob(evil)]
    for data in refused_ones:
        with pytest.raises(WireError):
            codec.decode(KEY, data)


CODECS = [any_codec(), any_codec(secret=SECRET)]


@thorough
@given(data=st.binary(max_size=300))
@example(data=b"\x01\x00" + bytes(72) + b"\x93\x00\x90\xc0")
def test_random_bytes(data: bytes) -> None:
    for codec in CODECS:
        for prefix in (b"", b"\x01\x00", b"\x01\x01", b"\x01\x02", b"\x01\x00" + PLAIN_HEAD):
            for decode in (codec.decode, codec.decode_record):
                with contextlib.suppress(WireError):
                    decode(LOG, prefix + data)


@thorough
@given(
    value=values,
    cuts=st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=6), st.integers(0, 6))),
    compress_above=st.sampled_from([None, 0]),
)
def test_mutations_of_what_is_valid(
    value: Any, cuts: list[tuple[int, bytes, int]], compress_above: int | None
) -> None:
    data = encoded(value, compress_above=compress_above)
    for where, inserted, removed in cuts:
        at = where % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    try:
        decoded = CODECS[0].decode(KEY, data)
    except WireError:
        return
    # If it is accepted it is an entry like any other: it can be written again.
    assert same(there_and_back(decoded.entry.value), decoded.entry.value)


# -- records --------------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=40)
invalidations = st.one_of(
    st.builds(Invalidation, st.sampled_from(["tag", "key", "prefix"]), texts, st.booleans()),
    st.builds(
        Invalidation,
        st.sampled_from(["glob", "path"]),
        texts.filter(lambda text: text and text.count("*") <= 16),
        st.booleans(),
    ),
    st.builds(Invalidation, st.just("all"), st.just(""), st.booleans()),
)


@thorough
@given(
    record=st.lists(invalidations, max_size=20).map(tuple),
    moment=moments,
    secret=st.sampled_from([None, SECRET]),
)
def test_a_record_comes_back_as_it_was(
    record: tuple[Invalidation, ...], moment: float, secret: str | None
) -> None:
    codec = any_codec(secret=secret)
    back, when = any_codec(secret=secret).decode_record(
        LOG, codec.encode_record(LOG, record, moment)
    )
    assert back == record
    assert all(type(invalidation) is Invalidation for invalidation in back)
    assert same(when, moment)
    Invalidations().apply(1, back, when)  # and is applied without an error


def test_what_is_too_long_becomes_a_shorter_prefix() -> None:
    """It purges more, never less."""
    long = "https://h/" + "x" * MAX_INVALIDATION_LENGTH
    for kind in ("key", "prefix"):
        record = any_codec().encode_record(LOG, (Invalidation(kind, long, True),), 1.0)
        (invalidation,), _ = any_codec().decode_record(LOG, record)
        assert invalidation == Invalidation("prefix", long[:MAX_INVALIDATION_LENGTH], True)


@pytest.mark.parametrize(
    ("record", "moment"),
    [
        ((Invalidation("all"),) * (MAX_INVALIDATIONS + 1), 1.0),
        ((Invalidation("tag", "x" * (MAX_INVALIDATION_LENGTH + 1)),), 1.0),
        ((Invalidation("glob", ""),), 1.0),
        ((Invalidation("path", "*" * 18),), 1.0),
        ((Invalidation("glob", "x" * 3000),), 1.0),
        ((Invalidation("tag", b"x"),), 1.0),  # type: ignore[arg-type]
        ((Invalidation("everything"),), 1.0),  # type: ignore[arg-type]
        ((), math.nan),
        ((), math.inf),
        ((), "now"),
    ],
    ids=range(10),
)
def test_a_record_that_nobody_would_take_is_not_written(
    record: tuple[Invalidation, ...], moment: float
) -> None:
    with pytest.raises(WireError):
        any_codec().encode_record(LOG, record, moment)


@pytest.mark.parametrize("moment", [-FAR, FAR])
def test_a_record_is_of_any_time_that_an_entry_may_have(moment: float) -> None:
    record = (Invalidation("all"),)
    codec = any_codec()
    assert codec.decode_record(LOG, codec.encode_record(LOG, record, moment)) == (record, moment)


def test_a_full_record_fits() -> None:
    record = (Invalidation("tag", "\U0001f600" * MAX_INVALIDATION_LENGTH),) * MAX_INVALIDATIONS
    codec = any_codec(max_size=1)  # that is for entries
    assert codec.decode_record(LOG, codec.encode_record(LOG, record, 1.0)) == (record, 1.0)


@pytest.mark.parametrize(
    "document",
    [
        None, 5, "text", {}, [], [1], ["now"], [True], [None], [math.nan], [math.inf], [2 * FAR],
        [1.0, 0], [1.0, 0, "tag"], [1.0, "tag", "a", False], [1.0, True, "a", False],
        [1.0, 6, "a", False], [1.0, -1, "a", False], [1.0, 0.0, "a", False], [1.0, 0, b"a", False],
        [1.0, 0, 5, False], [1.0, 0, "a", 0], [1.0, 0, "a", None], [1.0, 0, ["a"], False],
        [1.0, 3, "", False], [1.0, 4, "*" * 17, False], [1.0, 3, "x" * 2049, False],
        [1.0, 0, "x" * (MAX_INVALIDATION_LENGTH + 1), False], [1.0, *([5, "", False] * (MAX_INVALIDATIONS + 1))],
        [1.0, msgpack.ExtType(1, b"a"), "a", False], {1.0: 0}, b"abc", [1.0, 0, {}, False],
    ],
    ids=range(33),
)  # fmt: skip
def test_a_record_has_one_form(document: Any) -> None:
    with pytest.raises(WireError):
        any_codec().decode_record(LOG, b"\x01\x00" + msgpack.packb(document))


# -- made wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"secret": ""}, "secret must be"),
        ({"secret": b"x" * 15}, "token_urlsafe"),
        ({"secret": 5}, "secret must be"),
        ({"secret": bytearray(20)}, "secret must be"),
        ({"compress_above": -1}, "compress_above must be"),
        ({"compress_above": 1.5}, "compress_above must be"),
        ({"compress_above": True}, "compress_above must be"),
        ({"max_size": 0}, "max_size must be"),
        ({"max_size": "1MB"}, "max_size must be"),
        ({"values": [POINT, POINT]}, "code 1 is given to"),
        ({"values": [POINT, POINT._replace(code=2)]}, "has a code already"),
        ({"values": [POINT._replace(code=0)]}, "1 to 127"),
        ({"values": [POINT._replace(code=128)]}, "1 to 127"),
        ({"values": [POINT._replace(type=dict)]}, "has a code already"),
    ],
    ids=range(14),
)
def test_options_that_cannot_work(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        Codec(**options)
    assert "x" * 15 not in str(caught.value)  # never the secret itself


def test_without_msgpack_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ConfigError, match=r"pip install msgpack"):
        Codec()


def test_without_zstd_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("x" * 400, compress_above=0)
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'layergate\[zstd\]'"):
        Codec(compress_above=100)
    assert there_and_back("x" * 400) == "x" * 400  # nothing needs it
    refused(data, r"pip install 'layergate\[zstd\]'")


def test_the_module_imports_nothing_optional() -> None:
    script = (
        "import sys, layergate, layergate.core.codec, layergate.http.wire\n"
        "assert not {'msgpack', 'backports.zstd', 'compression.zstd', 'redis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_it_is_one_of_our_errors() -> None:
    assert issubclass(WireError, LayerGateError)
    assert not issubclass(WireError, ValueError)
