"""The cells of the ledger, as anybody may have written them."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.errors import LayerError, WireError
from layergate.shared.journal import Addition, Founding
from layergate.shared.ledger import head as head_module
from layergate.shared.ledger.head import (
    Acknowledgement,
    Chain,
    Head,
    Member,
    Mode,
    Page,
    cleared,
    extended,
    founded,
    joined,
    paged,
    settled,
    suspected,
    without,
)
from layergate.shared.ledger.leasing import Shelf
from layergate.shared.ledger.wire import Kind, LaterVersion, packed, unpacked
from tests.shared.ledger.simulation import World

msgpack: Any = import_module("msgpack")
DECODERS: list[Any] = [Head.decode, Page.decode, Acknowledgement.decode, Shelf.decode]
FOUNDING = Founding(b"i" * 16, b"seal", b"")


def a_head(records: int = 3, **changes: Any) -> Head:
    made: dict[str, Any] = {"term": 1.0, "mode": Mode.MEMBERS, "settle": 2.0, "epoch": b"e"}
    head = founded(FOUNDING, **made | changes)
    head = extended(head, [Addition(os.urandom(8), b"", b"data %d" % n) for n in range(records)])
    for name in (b"one", b"two", b"three"):
        after = joined(head, name)
        assert after is not None
        head = after
    return suspected(head, {b"two"}, lambda: b"m" * 8)


CELLS = [
    a_head().encode(),
    settled(paged(a_head(), 7, 1)).encode(),
    Page(b"i" * 16, 3, a_head().chain).encode(),
    Acknowledgement(b"one", b"i" * 16, 3, a_head().chain.last_tip).encode(),
    Shelf().granted(b"n" * 16, b"token", 10.0).encode(),
]


def test_what_is_written_can_be_read() -> None:
    head = a_head()
    for one in (head, paged(head, 7, 1), paged(head, 7, 0), settled(head), a_head(mode=Mode.PLAIN)):
        assert Head.decode(one.encode()) == one
    page = Page(b"i" * 16, 3, head.chain)
    assert Page.decode(page.encode()) == page
    told = Acknowledgement(b"one", b"i" * 16, 3, head.chain.last_tip)
    assert Acknowledgement.decode(told.encode()) == told


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(WireError):
            decode(data)


@settings(max_examples=100)
@given(st.sampled_from(CELLS), st.randoms(use_true_random=False))
def test_damaged_bytes(cell: bytes, chance: random.Random) -> None:
    data = bytearray(cell)
    for _ in range(chance.randint(1, 4)):
        how, at = chance.randrange(3), chance.randrange(len(data))
        if how == 0:
            data[at] = chance.randrange(256)
        elif how == 1:
            del data[at:]
        else:
            data[at:at] = chance.randbytes(3)
        if not data:
            break
    for decode in DECODERS:
        try:
            read = decode(bytes(data))
        except WireError:
            continue
        assert decode(read.encode()) == read


@settings(max_examples=100)
@given(
    st.sampled_from(list(Kind)),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(),
        lambda inner: st.lists(inner, max_size=12),
        max_leaves=30,
    ),
)
def test_any_items(kind: Kind, items: Any) -> None:
    data = packed(kind, items)
    for decode in DECODERS:
        try:
            read = decode(data)
        except WireError:
            continue
        assert decode(read.encode()) == read


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 100_000,  # lists in lists
        b"\xdd\xff\xff\xff\xff",  # a list of 2**32 - 1 items
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\xdf\x00\x00\x00\x01",
        b"\xc7\x01\x01x",
        b"\xa1x",
        b"\xc4\x01",
        msgpack.packb([1]) + b"\xc0",
        msgpack.packb({}),
        msgpack.packb(b"data"),
    ],
)
def test_hostile_msgpack(body: bytes) -> None:
    for kind, decode in zip(Kind, DECODERS, strict=True):
        with pytest.raises(WireError):
            decode(b"lgl\x01%c%b" % (kind, body))


def test_a_cell_of_another_kind() -> None:
    for cell in CELLS:
        fits = 0
        for decode in DECODERS:
            try:
                decode(cell)
            except WireError:
                continue
            fits += 1
        assert fits == 1


@pytest.mark.parametrize(
    "change",
    [
        {"term": 0.0},
        {"term": float("nan")},
        {"term": float("inf")},
        {"term": 1e9},
        {"settle": -1.0},
        {"epoch": b"e" * 300},
        {"term": 1},
    ],
)
def test_a_head_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        Head.decode(a_head(**change).encode())


@pytest.mark.parametrize(
    "members",
    [
        (Member(b"one", 0), Member(b"one", 1)),
        (Member(b"one", 0), Member(b"two", 0)),
        (Member(b"", 0),),
        (Member(b"x" * 100, 0),),
        (Member(b"one", head_module.MAX_MEMBERS),),
        (Member(b"one", -1),),
        (Member(b"one", 0, b"m" * 20),),
    ],
)
def test_members_that_cannot_be(members: tuple[Member, ...]) -> None:
    with pytest.raises(WireError):
        Head.decode(replace(a_head(), members=members).encode())


def test_a_record_is_never_empty() -> None:
    """That is a leap, which a ledger has none of."""
    head = extended(a_head(0), [Addition(b"n" * 8, b"", b"")])
    with pytest.raises(WireError):
        Head.decode(head.encode())


def test_a_later_version() -> None:
    for kind, decode in zip(Kind, DECODERS, strict=True):
        with pytest.raises(LaterVersion, match="a later version of LayerGate"):
            decode(b"lgl\x02%canything" % kind)
    with pytest.raises(WireError, match="another kind"):
        unpacked(Kind.HEAD, b"lgl\x00\x01")


# -- the transitions -----------------------------------------------------------------------------------


def test_slots_are_used_again() -> None:
    head = a_head()
    assert [one.slot for one in head.members] == [0, 1, 2]
    after = joined(without(head, {b"two"}), b"four")
    assert after is not None
    assert [(one.name, one.slot) for one in after.members] == [
        (b"one", 0),
        (b"three", 2),
        (b"four", 1),
    ]


def test_a_list_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "MAX_MEMBERS", 3)
    assert joined(a_head(), b"four") is None


def test_marks() -> None:
    head = a_head()
    assert [one.mark for one in head.members] == [b"", b"m" * 8, b""]
    again = suspected(head, {b"two", b"three"}, lambda: b"n" * 8)
    assert [one.mark for one in again.members] == [b"", b"m" * 8, b"n" * 8]
    after = cleared(again, b"two")
    assert after.members == (Member(b"one", 0), Member(b"three", 2, b"n" * 8), Member(b"two", 1))
    assert cleared(after, b"nobody") == after


def test_chains() -> None:
    chain = a_head(5).chain
    assert chain.position == 5
    assert [chain.tip_at(n) is None for n in range(-1, 8)] == [True, *[False] * 6, True, True]
    assert chain.after(3) == chain.records[3:]
    assert chain.after(9) == ()
    assert chain.after(-1) == chain.records
    assert chain.without(2).followed_by(Chain(5, chain.last_tip)) == chain.without(2)
    assert chain.until(3).followed_by(chain.without(3)) == chain
    assert chain.until(4).followed_by(chain.without(2)) == chain
    assert chain.without(0) is chain
    assert chain.until(0) == Chain(0, b"")


# -- a store with such cells ---------------------------------------------------------------------------


def test_a_damaged_head_is_another_incarnation(caplog: pytest.LogCaptureFixture) -> None:
    world = World(1)
    one, other = world.new(), world.new()
    for junk in (b"", b"lgl", b"x" * 5000, CELLS[2], CELLS[0][:-4], b"lgl\x01\x01\x90"):
        for instance in (one, other):
            world.run(instance, instance.sync())
            world.run(instance, instance.sync())
        assert one.trusted
        assert one.log == other.log
        before = one.log
        world.store.do("put", "n:head", junk)
        for instance in (one, other):
            world.run(instance, instance.sync())
        assert one.trusted
        assert one.log == other.log != before
    assert "is damaged" in caplog.text


def test_other_damaged_cells_cost_time_only() -> None:
    world = World(1)
    one, other = world.new(), world.new()
    for instance in (one, other):
        world.run(instance, instance.sync())
    for _ in range(30):
        for name in list(world.store.cells):
            if name != "n:head":
                world.store.do("put", name, b"junk")
        world.run(one, one.purge())
        world.run(other, other.sync())
    assert len(world.finals) == 30
    assert (one.log, one.position) == (other.log, other.position)


def test_a_head_that_somebody_has_changed_is_refused() -> None:
    """Well formed, and with another record at a position that was read already."""
    world = World(1)
    one, other = world.new(), world.new()
    for instance in (one, other):
        world.run(instance, instance.sync())
    world.run(one, one.purge())
    world.run(other, other.sync())
    log = one.log
    head = Head.decode(world.store.cells["n:head"][0])
    forged = Head.decode(CELLS[0])
    world.store.do("put", "n:head", replace(head, chain=forged.chain).encode())
    world.run(other, other.sync())
    assert other.log != log


def test_a_head_of_a_later_version_is_left_alone() -> None:
    world = World(1)
    one = world.new()
    world.run(one, one.sync())
    later = b"lgl\x02\x01of a later version"
    world.store.do("put", "n:head", later)
    errors: list[Exception] = []

    async def work() -> None:
        try:
            await one.sync()
        except LayerError as error:
            errors.append(error)

    world.run(one, work())
    assert "a later version" in str(errors[0])
    assert world.store.cells["n:head"][0] == later
