"""The values of the ledger's cells, and what may be made of them: the head, its members, their
acknowledgements, and pages of older records.

All are immutable, and every transition is a function from one head to the next. Nothing here does I/O
or reads a clock. `layergate.shared.ledger.journal` swaps the results into the cells;
`layergate.shared.ledger.rules` says which of them are allowed, and why.

    head             the incarnation, T, mode, the last records, members
    page             records that the head has no room for any more
    acknowledgement  of one member: what it has applied

A member keeps its acknowledgement in a numbered cell, its *slot*. So the number of cells is bounded by
the largest number of members that there ever were at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from layergate.errors import WireError
from layergate.shared.journal import INCARNATION_SIZE, Addition, Founding, Record, chained
from layergate.shared.ledger.wire import Kind, Reader, packed, unpacked

__all__ = [
    "LONGEST_EPOCH",
    "LONGEST_NAME",
    "LONGEST_TERM",
    "MAX_MEMBERS",
    "SHORTEST_TERM",
    "Acknowledgement",
    "Chain",
    "Head",
    "Member",
    "Mode",
    "Page",
    "cleared",
    "extended",
    "founded",
    "joined",
    "nonce_of",
    "paged",
    "settled",
    "suspected",
    "without",
]

SHORTEST_TERM: Final = 0.05  # seconds
LONGEST_TERM: Final = 3600.0
LONGEST_NAME: Final = 64  # bytes, of a member
LONGEST_EPOCH: Final = 256  # bytes
MAX_MEMBERS: Final = 512
MARK_SIZE: Final = 8  # bytes
_NONCE: Final = 16  # bytes, at most
_TIP: Final = 40
_SEAL: Final = 64
_LAST: Final = 2**53
_OVERHEAD: Final = 32  # bytes of a record in a cell, beside its data


def nonce_of(addition: Addition) -> bytes:
    """The nonce under which a record stands in the log. It is the same for all repetitions of one lost
    record, so a repetition is found by it."""
    if not addition.again:
        return addition.nonce
    return blake2b(addition.again, digest_size=8).digest()


class Mode(enum.Enum):
    MEMBERS = 0
    """A purge waits until all members have acknowledged it."""
    PLAIN = 1
    """There are no members. A purge waits for T."""


class Member(NamedTuple):
    """An instance that purges wait for.

    ``name``  of the instance.
    ``slot``  the number of the cell that holds its acknowledgement.
    ``mark``  8 random bytes if it has to prove that it is alive, else b"".
    """

    name: bytes
    slot: int
    mark: bytes = b""


@dataclass(frozen=True, slots=True)
class Chain:
    """Records that follow one another. ``base`` and ``tip``: position and tip before the first."""

    base: int
    tip: bytes
    records: tuple[Record, ...] = ()

    @property
    def position(self) -> int:
        """Of the last record."""
        return self.base + len(self.records)

    @property
    def last_tip(self) -> bytes:
        return self.records[-1].tip if self.records else self.tip

    def tip_at(self, position: int) -> bytes | None:
        """The tip at this position; None if it is not in here."""
        if position == self.base:
            return self.tip
        if self.base < position <= self.position:
            return self.records[position - self.base - 1].tip
        return None

    def after(self, position: int) -> tuple[Record, ...]:
        """The records after this position."""
        return self.records[max(0, position - self.base) :]

    def until(self, position: int) -> Chain:
        """Without the records after this position."""
        return Chain(self.base, self.tip, self.records[: max(0, position - self.base)])

    def followed_by(self, later: Chain) -> Chain:
        """Both in one. ``later`` begins where this one ends, or with records that this one ends with."""
        return Chain(self.base, self.tip, self.until(later.base).records + later.records)

    def without(self, count: int) -> Chain:
        """Without its first ``count`` records."""
        if not count:
            return self
        return Chain(self.base + count, self.records[count - 1].tip, self.records[count:])

    def extended(self, additions: Iterable[tuple[bytes, bytes]]) -> Chain:
        """With records of these (nonce, data) at the end."""
        records = list(self.records)
        position, tip = self.position, self.last_tip
        for nonce, data in additions:
            tip = chained(tip, nonce, data)
            records.append(Record(position + 1, position, tip, data, nonce))
            position += 1
        return Chain(self.base, self.tip, tuple(records))

    @property
    def size(self) -> int:
        """Bytes that it takes in a cell, about."""
        return sum(len(one.data) + _OVERHEAD for one in self.records)

    def _items(self) -> list[Any]:
        flat: list[Any] = []
        for one in self.records:
            flat += one.nonce, one.data
        return [self.base, self.tip, flat]

    @staticmethod
    def _read(reader: Reader) -> Chain:
        start = Chain(reader.integer(0, _LAST), reader.octets(_TIP))
        flat = reader.nested()
        pairs = []
        while flat.more:
            pairs.append((flat.octets(_NONCE), flat.octets(_LAST, 1)))
        return start.extended(pairs)


@dataclass(frozen=True, slots=True)
class Head:
    """The head cell.

    ``log``      the incarnation; ``seal`` is its seal.
    ``epoch``    the store's epoch when it was founded; b"" if the store has none.
    ``term``     T: seconds for which an instance may trust what it has read.
    ``settle``   seconds for which this incarnation has to be known before a purge in it is final.
    ``settled``  a process has known it for that long.
    ``chain``    the last records.
    ``page``     the number of the newest page; 0 for none. Pages are numbered from 1.
    ``members``  those come last that joined, or took a mark away, last.
    """

    log: bytes
    seal: bytes
    epoch: bytes
    term: float
    mode: Mode
    settle: float
    settled: bool
    chain: Chain
    page: int
    members: tuple[Member, ...]

    @property
    def position(self) -> int:
        return self.chain.position

    def member(self, name: bytes) -> Member | None:
        return next((one for one in self.members if one.name == name), None)

    def encode(self) -> bytes:
        members: list[Any] = []
        for one in self.members:
            members += one
        return packed(
            Kind.HEAD,
            [
                self.log,
                self.seal,
                self.epoch,
                self.term,
                self.mode.value,
                self.settle,
                self.settled,
                *self.chain._items(),
                self.page,
                members,
            ],
        )

    @staticmethod
    def decode(data: bytes) -> Head:
        """Raises WireError."""
        reader = unpacked(Kind.HEAD, data)
        head = Head(
            log=reader.octets(INCARNATION_SIZE, INCARNATION_SIZE),
            seal=reader.octets(_SEAL),
            epoch=reader.octets(LONGEST_EPOCH),
            term=reader.seconds(SHORTEST_TERM, LONGEST_TERM),
            mode=Mode(reader.integer(0, 1)),
            settle=reader.seconds(SHORTEST_TERM, LONGEST_TERM),
            settled=reader.flag(),
            chain=Chain._read(reader),
            page=reader.integer(0, _LAST),
            members=_members(reader.nested()),
        )
        reader.end()
        return head


def _members(reader: Reader) -> tuple[Member, ...]:
    members = []
    while reader.more:
        name, slot = reader.octets(LONGEST_NAME, 1), reader.integer(0, MAX_MEMBERS - 1)
        members.append(Member(name, slot, reader.octets(MARK_SIZE)))
    if len({one.name for one in members}) < len(members):
        raise WireError("a member is listed twice")
    if len({one.slot for one in members}) < len(members):
        raise WireError("two members have one slot")
    return tuple(members)


# -- transitions ---------------------------------------------------------------------------------------


def founded(founding: Founding, *, term: float, mode: Mode, settle: float, epoch: bytes) -> Head:
    """The head of a new incarnation."""
    return Head(
        log=founding.log,
        seal=founding.seal,
        epoch=epoch,
        term=term,
        mode=mode,
        settle=settle,
        settled=False,
        chain=Chain(0, b""),
        page=0,
        members=(),
    )


def extended(head: Head, additions: Sequence[Addition]) -> Head:
    """With these records at its end."""
    chain = head.chain.extended((nonce_of(one), one.data) for one in additions)
    return replace(head, chain=chain)


def paged(head: Head, page: int, keep: int) -> Head:
    """With only the last ``keep`` records; the older ones are in pages, up to this one."""
    chain = head.chain.without(max(0, len(head.chain.records) - keep))
    return replace(head, chain=chain, page=page)


def joined(head: Head, name: bytes) -> Head | None:
    """With this member at the end of the list; None if there are too many."""
    slots = {one.slot for one in head.members}
    free = next((slot for slot in range(MAX_MEMBERS) if slot not in slots), None)
    if free is None:
        return None
    return replace(head, members=(*head.members, Member(name, free)))


def without(head: Head, names: Collection[bytes]) -> Head:
    """Without these members."""
    return replace(head, members=tuple(one for one in head.members if one.name not in names))


def cleared(head: Head, name: bytes) -> Head:
    """Without the mark of this member, which moves to the end of the list."""
    there = [one for one in head.members if one.name == name]
    others = without(head, {name})
    return replace(others, members=(*others.members, *(one._replace(mark=b"") for one in there)))


def suspected(head: Head, names: Collection[bytes], mark: Callable[[], bytes]) -> Head:
    """With a mark, from ``mark()``, on those of these members that have none."""
    members = tuple(
        one._replace(mark=mark()) if one.name in names and not one.mark else one
        for one in head.members
    )
    return replace(head, members=members)


def settled(head: Head) -> Head:
    """With the note that a process has known this incarnation for long enough."""
    return replace(head, settled=True)


# -- the other cells -----------------------------------------------------------------------------------


class Acknowledgement(NamedTuple):
    """The member ``name`` has applied the history of ``log`` up to ``position``, where the tip is
    ``tip``."""

    name: bytes
    log: bytes
    position: int
    tip: bytes

    def encode(self) -> bytes:
        return packed(Kind.ACKNOWLEDGEMENT, list(self))

    @staticmethod
    def decode(data: bytes) -> Acknowledgement:
        """Raises WireError."""
        reader = unpacked(Kind.ACKNOWLEDGEMENT, data)
        name, log = reader.octets(LONGEST_NAME), reader.octets(INCARNATION_SIZE)
        position, tip = reader.integer(0, _LAST), reader.octets(_TIP)
        reader.end()
        return Acknowledgement(name, log, position, tip)


class Page(NamedTuple):
    """Records that the head has no room for any more."""

    log: bytes
    number: int
    chain: Chain

    def encode(self) -> bytes:
        return packed(Kind.PAGE, [self.log, self.number, *self.chain._items()])

    @staticmethod
    def decode(data: bytes) -> Page:
        """Raises WireError."""
        reader = unpacked(Kind.PAGE, data)
        log, number = reader.octets(INCARNATION_SIZE), reader.integer(1, _LAST)
        page = Page(log, number, Chain._read(reader))
        reader.end()
        return page
