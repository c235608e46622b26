"""The values of the cells that hold leases, and what may be made of them.

Names of leases are without number, and cells are not: so each cell, a *shelf*, holds the leases of all
names with the same hash. All values are immutable; nothing here does I/O or reads a clock.
`layergate.shared.ledger.store` swaps the results into the cells.

    nobody ──acquire──> HELD ──release──> DONE or FREE ──acquire, by another──> HELD
                         │ ^                  (a trace, for one more term)
                   stood still for a term
                         └──acquire, by another──> HELD, with a higher fence

No clock of a server is used, and no two clocks are compared. A holder renews its lease, which changes
its `beat`. Another process takes the lease over only once it has seen it unchanged for a whole term, on
its own clock. The *fence* of a lease is higher than those of all leases before it on this shelf.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from layergate.errors import LayerRefused
from layergate.shared.ledger.head import LONGEST_TERM
from layergate.shared.ledger.wire import Kind, packed, unpacked

__all__ = ["SHELVES", "Lease", "Shelf", "State", "digest", "shelf_of"]

SHELVES: Final = 256
"""Cells that hold leases, at most."""
_ROOM: Final = 128  # leases on one shelf
_NAME: Final = 16  # bytes
_TOKEN: Final = 128
_LAST: Final = 2**53
_SHORTEST: Final = 0.001  # seconds


class State(enum.IntEnum):
    HELD = 0
    DONE = 1
    """It was released."""
    FREE = 2
    """It was released as one that nobody need take."""


class Lease(NamedTuple):
    """One lease, or the trace of one.

    ``name``   the digest of its name.
    ``token``  its holder's; of a trace, its last holder's.
    ``beat``   counts renewals.
    ``term``   seconds, as its holder gave them.
    """

    name: bytes
    token: bytes
    state: State
    beat: int
    fence: int
    term: float

    @property
    def mark(self) -> tuple[bytes, State, int, int]:
        """Changes with every sign of life, and never comes back. (A lease that ran out, was dropped, and
        is renewed after all begins with the first beat again, but has a higher fence.)"""
        return self.token, self.state, self.beat, self.fence


def digest(name: str) -> bytes:
    return blake2b(name.encode("ascii", "replace"), digest_size=_NAME, person=b"lg lease").digest()


def shelf_of(name: bytes) -> int:
    """The number of the shelf on which the lease with this digest lies."""
    return int.from_bytes(name[:2]) % SHELVES


class Shelf(NamedTuple):
    """The leases in one cell. ``fence``: the highest that was given out."""

    fence: int = 0
    leases: tuple[Lease, ...] = ()

    def find(self, name: bytes) -> Lease | None:
        return next((one for one in self.leases if one.name == name), None)

    def granted(self, name: bytes, token: bytes, term: float) -> Shelf:
        """The lease is this token's from now on."""
        fence = self.fence + 1
        lease = Lease(name, token, State.HELD, 0, fence, term)
        return Shelf(fence, (*self._others(name), lease))

    def renewed(self, name: bytes, term: float) -> Shelf:
        """The lease has shown a sign of life."""
        found = self.find(name)
        assert found is not None
        lease = found._replace(beat=found.beat + 1, term=term)
        return Shelf(self.fence, (*self._others(name), lease))

    def traced(self, name: bytes, token: bytes, term: float, *, free: bool) -> Shelf:
        """This token held it, and does not any more."""
        found = self.find(name)
        fence = found.fence if found is not None and found.token == token else self.fence
        state = State.FREE if free else State.DONE
        lease = Lease(name, token, state, 0, fence, term)
        return Shelf(self.fence, (*self._others(name), lease))

    def tidied(self, over: Callable[[Lease], bool], keep: Collection[bytes]) -> Shelf:
        """Without those that are ``over``, and without the oldest traces if there are too many; but with
        those that are to be kept.

        Raises LayerRefused if so many are held.
        """
        leases = [one for one in self.leases if one.name in keep or not over(one)]
        for one in list(leases):
            if len(leases) <= _ROOM:
                break
            if one.state is not State.HELD and one.name not in keep:
                leases.remove(one)
        if len(leases) > _ROOM:
            raise LayerRefused("shared", f"more than {_ROOM} leases are held in one cell")
        return Shelf(self.fence, tuple(leases))

    def _others(self, name: bytes) -> Iterable[Lease]:
        return (one for one in self.leases if one.name != name)

    def encode(self) -> bytes:
        flat: list[Any] = []
        for one in self.leases:
            flat += one.name, one.token, int(one.state), one.beat, one.fence, one.term
        return packed(Kind.LEASES, [self.fence, flat])

    @staticmethod
    def decode(data: bytes) -> Shelf:
        """Raises WireError."""
        reader = unpacked(Kind.LEASES, data)
        fence = reader.integer(0, _LAST)
        flat = reader.nested()
        reader.end()
        leases: dict[bytes, Lease] = {}
        while flat.more:
            lease = Lease(
                name=flat.octets(_NAME, _NAME),
                token=flat.octets(_TOKEN),
                state=State(flat.integer(0, 2)),
                beat=flat.integer(0, _LAST),
                fence=flat.integer(0, _LAST),
                term=flat.seconds(_SHORTEST, LONGEST_TERM),
            )
            leases[lease.name] = lease
        return Shelf(fence, tuple(leases.values()))
