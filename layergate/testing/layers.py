"""The conformance suite of a layer.

    from layergate.testing.layers import LayerConformance

    class TestMyLayer(LayerConformance):
        def make_layer(self):
            return MyLayer(...)

pytest then runs every ``test_*`` method against a fresh, empty layer. Methods of the layer may
answer at once or with an awaitable: `LayerConformance.call` handles both. All awaitables of one
test run on one event loop, so a client that belongs to its loop works; the suite itself is
synchronous and needs no plugin and no fixture.
"""

from __future__ import annotations

import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, ClassVar

from layergate.core.entry import Entry
from layergate.core.layer import Key, Layer, PeekableLayer
from layergate.testing.harness import Harness

__all__ = ["LayerConformance"]


class LayerConformance(Harness, ABC):
    """What every layer must do. Subclass it, and override `make_layer`.

    Class attributes to adjust:

    ``values``              values that must survive a round trip. The default keeps to what any
                            data-only codec can carry.
    ``big``                 bytes of the largest value that is tried.
    ``distinct_key_types``  whether ``"k"`` and ``b"k"`` are two keys. They are for every layer that
                            does not say otherwise in its documentation.
    ``stats_keys``          keys that `stats` must have, of those that `Layer.stats` names. A layer
                            leaves out what it cannot tell without I/O.
    """

    values: ClassVar[tuple[Any, ...]] = (
        None,
        b"",
        b"\x00\xff binary \r\n",
        "",
        "text \N{SNOWMAN} \N{PILE OF POO}",
        0,
        -1,
        2**53,
        1.5,
        True,
        False,
        [1, "two", b"three", None],
        {"status": 200, "headers": [[b"etag", b'"a"']], "body": b"x"},
    )
    big: ClassVar[int] = 512 * 1024
    distinct_key_types: ClassVar[bool] = True
    stats_keys: ClassVar[frozenset[str]] = frozenset()

    KNOWN_STATS: ClassVar[frozenset[str]] = frozenset(
        {"entries", "bytes", "budget", "evictions", "expirations", "rejections"}
    )

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def make_layer(self) -> Layer | Awaitable[Layer]:
        """A fresh, empty layer with room for a hundred small entries and one of ``big`` bytes."""

    def close_layer(self, layer: Layer) -> object:  # noqa: ARG002 - for who overrides it
        """Release what `make_layer` opened. May return an awaitable."""
        return None

    def now(self) -> float:
        """The layer's clock, in seconds since the Unix epoch."""
        return time.time()

    def advance(self, seconds: float) -> bool:  # noqa: ARG002 - for who overrides it
        """Move the layer's clock on. False if it cannot be moved: what needs it is skipped."""
        return False

    # -- harness ----------------------------------------------------------------------------------

    def setup_method(self) -> None:
        super().setup_method()
        self.layer: Layer = self.call(self.make_layer())

    def teardown_method(self) -> None:
        try:
            self.call(self.close_layer(self.layer))
        finally:
            super().teardown_method()

    def entry(self, value: Any = b"value", *, lifetime: float = 3600.0, **fields: Any) -> Entry:
        """An entry created now that is fresh for ``lifetime`` seconds."""
        now = self.now()
        return Entry(value, created=now, fresh_until=now + lifetime, **fields)

    def set(self, key: Key, entry: Entry) -> None:
        self.call(self.layer.set(key, entry))

    def get(self, key: Key) -> Entry | None:
        return self.call(self.layer.get(key))

    def found(self, key: Key) -> Entry:
        entry = self.get(key)
        assert entry is not None, f"nothing under {key!r}"
        return entry

    # -- the protocol -----------------------------------------------------------------------------

    def test_is_a_layer(self) -> None:
        assert isinstance(self.layer, Layer)

    def test_name_is_a_constant_string(self) -> None:
        name = self.layer.name
        assert isinstance(name, str)
        assert name
        assert self.layer.name == name

    # -- get and set ------------------------------------------------------------------------------

    def test_a_key_never_set_is_a_miss(self) -> None:
        assert self.get("absent") is None
        assert self.get(b"absent") is None

    def test_a_look_is_a_get_that_leaves_no_trace(self) -> None:
        look = getattr(self.layer, "inspect", None)
        if look is None:
            raise unittest.SkipTest("the layer has no inspect")
        self.set("k", self.entry(b"v", tags=("t",)))
        counted = ("entries", "hits", "misses", "errors")
        before = {name: self.layer.stats().get(name) for name in counted}
        seen = self.call(look("k"))
        assert seen is not None
        assert (seen.value, seen.tags) == (b"v", ("t",))
        assert self.call(look("absent")) is None
        assert {name: self.layer.stats().get(name) for name in counted} == before
        self.set("dead", self.entry(lifetime=-1.0))
        assert self.call(look("dead")) is None

    def test_round_trip_of_values(self) -> None:
        for number, value in enumerate(self.values):
            self.set(f"value-{number}", self.entry(value))
        for number, value in enumerate(self.values):
            read = self.found(f"value-{number}").value
            assert read == value
            assert type(read) is type(value)

    def test_none_is_a_value_and_not_a_miss(self) -> None:
        self.set("negative", self.entry(None))
        assert self.found("negative").value is None
        assert self.call(self.layer.get_many(["negative"])).keys() == {"negative"}
        assert self.call(self.layer.delete("negative")) is True

    def test_a_big_value_is_kept_whole(self) -> None:
        value = bytes(range(256)) * (self.big // 256)
        self.set("big", self.entry(value))
        assert self.found("big").value == value

    def test_set_replaces(self) -> None:
        self.set("key", self.entry(b"old", tags=("old",), stamp=1))
        self.set("key", self.entry(b"new", tags=("new",), stamp=2))
        entry = self.found("key")
        assert (entry.value, entry.tags, entry.stamp) == (b"new", ("new",), 2)

    def test_set_replaces_with_a_shorter_value_and_a_shorter_life(self) -> None:
        self.set("key", self.entry(b"long" * 1000, lifetime=7200.0))
        short = self.entry(b"s", lifetime=60.0)
        self.set("key", short)
        entry = self.found("key")
        assert entry.value == b"s"
        assert entry.expires == short.expires

    def test_tags_stamp_and_times_are_preserved(self) -> None:
        now = self.now()
        written = Entry(
            b"value",
            created=now - 10.125,
            fresh_until=now + 60.25,
            stale_while_revalidate=30.5,
            stale_if_error=86400.75,
            expires=now + 100_000.5,
            tags=("product:1", "shop", "with space", "\N{SNOWMAN}"),
            stamp=2**53 - 1,
        )
        self.set("key", written)
        read = self.found("key")
        for name in (
            "created",
            "fresh_until",
            "stale_while_revalidate",
            "stale_if_error",
            "expires",
            "tags",
            "stamp",
        ):
            assert getattr(read, name) == getattr(written, name), name
        assert isinstance(read.tags, tuple)

    def test_checked_never_comes_back_below_the_stamp(self) -> None:
        self.set("key", self.entry(stamp=7))
        assert self.found("key").checked >= 7

    def test_peek_answers_at_once(self) -> None:
        layer = self.layer
        if not isinstance(layer, PeekableLayer):
            raise unittest.SkipTest("this layer cannot be read without I/O")
        assert layer.peek("key") is None
        self.set("key", self.entry(b"value", lifetime=30.0))
        entry = layer.peek("key")
        assert isinstance(entry, Entry)
        assert entry.value == b"value"
        self.call(layer.delete("key"))
        assert layer.peek("key") is None

    # -- keys -------------------------------------------------------------------------------------

    def test_keys_of_any_characters(self) -> None:
        texts = [
            "plain",
            "with space",
            "a:b/c?d=e&f#g",
            "quote'\"`;--",
            "line\r\nbreak",
            "nul\x00byte",
            "nul",
            "{curly}*[brackets]?",
            "\N{SNOWMAN}",
            "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
            "cafe\N{COMBINING ACUTE ACCENT}",
            "\N{PILE OF POO}",
            "UPPER",
            "upper",
            "k" * 500,
        ]
        for number, key in enumerate(texts):
            self.set(key, self.entry(number))
        assert [self.found(key).value for key in texts] == list(range(len(texts)))

    def test_binary_keys(self) -> None:
        keys = [b"\x00", b"\x00\x00", b"\xff", b"\xff\xfe", b"\r\n", b"a b", bytes(range(256))]
        for number, key in enumerate(keys):
            self.set(key, self.entry(number))
        assert [self.found(key).value for key in keys] == list(range(len(keys)))

    def test_text_and_bytes_are_different_keys(self) -> None:
        if not self.distinct_key_types:
            raise unittest.SkipTest("this layer documents that it does not tell them apart")
        self.set("key", self.entry(b"text"))
        assert self.get(b"key") is None
        self.set(b"key", self.entry(b"bytes"))
        assert self.found("key").value == b"text"
        assert self.call(self.layer.delete(b"key")) is True
        assert self.found("key").value == b"text"

    # -- get_many ---------------------------------------------------------------------------------

    def test_get_many_leaves_out_what_is_missing(self) -> None:
        self.set("a", self.entry(1))
        self.set("c", self.entry(3))
        found = self.call(self.layer.get_many(["a", "b", "c"]))
        assert {key: entry.value for key, entry in found.items()} == {"a": 1, "c": 3}

    def test_get_many_answers_with_the_keys_it_was_given(self) -> None:
        keys: list[Key] = ["text", b"bytes", "\N{SNOWMAN}", b"\xff"]
        for key in keys:
            self.set(key, self.entry(repr(key)))
        found = self.call(self.layer.get_many(keys))
        assert {key: entry.value for key, entry in found.items()} == {k: repr(k) for k in keys}

    def test_get_many_of_nothing_and_of_the_same_key_twice(self) -> None:
        assert dict(self.call(self.layer.get_many([]))) == {}
        self.set("a", self.entry(1))
        assert set(self.call(self.layer.get_many(["a", "a"]))) == {"a"}

    # -- delete and clear -------------------------------------------------------------------------

    def test_delete_says_whether_there_was_an_entry(self) -> None:
        self.set("key", self.entry())
        assert self.call(self.layer.delete("key")) is True
        assert self.get("key") is None
        assert self.call(self.layer.delete("key")) is False
        assert self.call(self.layer.delete("never")) is False

    def test_delete_leaves_the_others(self) -> None:
        self.set("a", self.entry(1))
        self.set("ab", self.entry(2))
        self.call(self.layer.delete("a"))
        assert self.found("ab").value == 2

    def test_a_deleted_key_can_be_set_again(self) -> None:
        self.set("key", self.entry(b"one"))
        self.call(self.layer.delete("key"))
        self.set("key", self.entry(b"two"))
        assert self.found("key").value == b"two"

    def test_clear_removes_everything(self) -> None:
        keys: list[Key] = [*(f"key-{number}" for number in range(50)), b"\xff"]
        for key in keys:
            self.set(key, self.entry())
        self.call(self.layer.clear())
        assert dict(self.call(self.layer.get_many(keys))) == {}
        self.call(self.layer.clear())
        self.set("after", self.entry(b"new"))
        assert self.found("after").value == b"new"

    # -- expiry -----------------------------------------------------------------------------------

    def test_an_entry_that_has_expired_is_a_miss(self) -> None:
        self.set("dead", self.entry(lifetime=-5.0))
        assert self.get("dead") is None
        assert dict(self.call(self.layer.get_many(["dead"]))) == {}

    def test_an_expired_entry_does_not_leave_the_older_one(self) -> None:
        self.set("key", self.entry(b"old"))
        self.set("key", self.entry(b"new", lifetime=-5.0))
        assert self.get("key") is None

    def test_a_stale_entry_is_kept_until_it_expires(self) -> None:
        self.set("stale", self.entry(lifetime=-5.0, stale_if_error=3600.0))
        assert self.found("stale").fresh_until < self.now()

    def test_an_entry_without_end_is_kept(self) -> None:
        self.set("for ever", self.entry(lifetime=3e9))
        assert self.found("for ever").value == b"value"

    def test_expiry_comes_with_time(self) -> None:
        self.set("short", self.entry(lifetime=30.0))
        self.set("long", self.entry(lifetime=90.0))
        if not self.advance(60.0):
            raise unittest.SkipTest("the clock of this layer cannot be moved")
        assert self.get("short") is None
        assert self.found("long").value == b"value"
        assert set(self.call(self.layer.get_many(["short", "long"]))) == {"long"}

    def test_a_replacement_has_its_own_expiry(self) -> None:
        self.set("key", self.entry(b"short", lifetime=30.0))
        self.set("key", self.entry(b"long", lifetime=90.0))
        if not self.advance(60.0):
            raise unittest.SkipTest("the clock of this layer cannot be moved")
        assert self.found("key").value == b"long"

    # -- stats ------------------------------------------------------------------------------------

    def test_stats_are_numbers_under_known_names(self) -> None:
        self.set("key", self.entry())
        stats = self.layer.stats()
        assert self.stats_keys <= stats.keys()
        for name, number in stats.items():
            assert isinstance(name, str)
            assert isinstance(number, (int, float)), name
            assert not isinstance(number, bool), name
            if name in self.KNOWN_STATS:
                assert number >= 0, name

    def test_stats_follow_the_entries(self) -> None:
        if "entries" not in self.stats_keys:
            raise unittest.SkipTest("this layer does not count its entries")
        before = self.layer.stats()["entries"]
        self.set("a", self.entry())
        self.set("b", self.entry())
        self.set("b", self.entry())
        assert self.layer.stats()["entries"] == before + 2
        self.call(self.layer.delete("a"))
        assert self.layer.stats()["entries"] == before + 1
        self.call(self.layer.clear())
        assert self.layer.stats()["entries"] == 0
