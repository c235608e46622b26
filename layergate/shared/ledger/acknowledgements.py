"""Acknowledgements: what members have applied of the log, each in a cell of its own.

`CellsJournal` tells those of its caller; `Finality` collects those of others. An acknowledgement is of
an incarnation, a position and a tip together, and counts only for that history (`rules.counts`). It is
written without compare-and-set, for only its member writes it. It is written only if it is news, so
a process that finds nothing new writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from layergate.errors import LayerRefused, WireError
from layergate.shared.journal import Place
from layergate.shared.ledger import rules
from layergate.shared.ledger.head import Acknowledgement, Member
from layergate.shared.ledger.observer import Observer
from layergate.shared.ledger.pages import Ask
from layergate.shared.ports import Cells

__all__ = ["Acknowledgements"]

_logger = logging.getLogger("layergate")


class Acknowledgements:
    """Those of one log. ``name``: what the names of their cells begin with."""

    def __init__(self, cells: Cells, ask: Ask, observer: Observer, *, name: str) -> None:
        self._cells = cells
        self._ask = ask
        self._observer = observer
        self._name = name
        self.forked()

    def forked(self) -> None:
        """The child of a fork has acknowledged nothing."""
        # What was told last, and in which slot.
        self._told: tuple[int, Acknowledgement] | None = None
        # Up to where members have applied the log, in the incarnation of this era.
        self._applied: tuple[int, dict[bytes, int]] = 0, {}

    def _cell(self, member: Member) -> str:
        return f"{self._name}{member.slot:03d}"

    def forget(self) -> None:
        """Tell it again: perhaps it was lost."""
        self._told = None

    async def tell(self, place: Place, *, probe: bool = False) -> None:
        """Acknowledge what the caller has applied, if it is a member, and if that is news.

        A store that refuses it makes purges wait longer. That is no reason not to read.
        """
        last = self._observer.last
        if last is None or place.log != last.head.log or (place.position and not place.tip):
            return
        member = last.head.member(place.instance)
        if member is None:
            return
        told = Acknowledgement(member.name, place.log, place.position, place.tip)
        if self._told == (member.slot, told):
            return
        try:
            await self._ask(self._cells.put, self._cell(member), told.encode(), probe=probe)
        except LayerRefused as error:
            _logger.debug("a purge cannot be acknowledged: %s", error)
            return
        self._told = member.slot, told

    async def collect(self, members: Iterable[Member], position: int) -> list[Acknowledgement]:
        """What those of these members say that are not known to have applied ``position``."""
        found = []
        for member in members:
            if self.applied(member) >= position:
                continue
            loaded = await self._ask(self._cells.load, self._cell(member))
            if loaded is None:
                continue
            try:
                told = Acknowledgement.decode(loaded[0])
            except WireError as error:
                _logger.debug("an acknowledgement is not readable: %s", error)
                continue
            if told.name == member.name:  # else it is of another member, who had the slot before
                found.append(told)
        return found

    def count(self, told: Iterable[Acknowledgement]) -> None:
        """Remember those of these that speak of the history that the last look has confirmed."""
        era, applied = self._applied
        if era != self._observer.era:
            self._applied = self._observer.era, (applied := {})
        for one in told:
            known = applied.get(one.name, 0)
            if one.position > known and rules.counts(one, self._observer.trail, known):
                applied[one.name] = one.position

    def applied(self, member: Member) -> int:
        """Up to where this member is known to have applied the log; -1 if nothing is known."""
        era, applied = self._applied
        return applied.get(member.name, -1) if era == self._observer.era else -1
