"""What one process remembers of the log's history: the tips at the last positions.

It tells whether a head continues what was known (`layergate.shared.ledger.rules.continues`), whether an
acknowledgement speaks of this history (`rules.counts`), and whether a record is in the log already. It
is kept by `layergate.shared.ledger.journal`, changes only under the journal's lock, and never does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from layergate.shared.journal import Addition, Record, chained
from layergate.shared.ledger.head import nonce_of

__all__ = ["Trail"]

_LENGTH: Final = 4096  # positions


class Trail:
    """The history of the incarnation ``log`` from ``base`` on. ``position``: as far as it is known."""

    __slots__ = ("_nonces", "_tips", "base", "log", "position")

    def __init__(self, log: bytes | None = None, base: int = 0, tip: bytes = b"") -> None:
        self.log = log
        self.base = self.position = base
        self._tips: dict[int, bytes] = {base: tip}
        self._nonces: dict[bytes, int] = {}

    @property
    def tip(self) -> bytes:
        return self._tips[self.position]

    def tip_at(self, position: int) -> bytes | None:
        """The tip at this position; None if it is not known."""
        return self._tips.get(position)

    def extend(self, records: Iterable[Record]) -> None:
        """Note the records among these that follow what is known."""
        for record in records:
            if record.before != self.position:
                continue
            self.position = record.position
            self._tips[record.position] = record.tip
            if record.nonce:
                self._nonces[record.nonce] = record.position
        while len(self._tips) > _LENGTH:
            del self._tips[self.base]
            self.base += 1
        while len(self._nonces) > _LENGTH:
            del self._nonces[next(iter(self._nonces))]

    def find(self, addition: Addition) -> Record | None:
        """The record of this addition, or the one that it repeats; None if it is not known to be in
        the log."""
        nonce = nonce_of(addition)
        position = self._nonces.get(nonce)
        if position is None or (before := self._tips.get(position - 1)) is None:
            return None
        tip = chained(before, nonce, addition.data)
        if tip != self._tips.get(position):
            return None
        return Record(position, position - 1, tip, addition.data, nonce)
