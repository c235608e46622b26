"""How far a purge has got: `CellsJournal.status`.

A record is final if a look finds it in the log, the incarnation is settled, and either all members have
acknowledged it, or their trust is over. `layergate.shared.ledger.rules` proves that this is enough.
Acknowledgements are collected *before* the look, so that what they claim is confirmed by it.
"""

from __future__ import annotations

import logging
import os

from layergate.core.ports import Runtime
from layergate.shared.journal import Appended, Place, Status
from layergate.shared.ledger import rules
from layergate.shared.ledger.acknowledgements import Acknowledgements
from layergate.shared.ledger.head import MARK_SIZE, Head, Member, suspected
from layergate.shared.ledger.observer import Look, Observer

__all__ = ["Finality", "new_mark"]

_logger = logging.getLogger("layergate")


def new_mark() -> bytes:
    """For a member that has to prove that it is alive."""
    return os.urandom(MARK_SIZE)


class Finality:
    """Tells how far records of one log have got."""

    def __init__(
        self, observer: Observer, acknowledgements: Acknowledgements, runtime: Runtime
    ) -> None:
        self._observer = observer
        self._acknowledgements = acknowledgements
        self._runtime = runtime
        # For each member that a purge waited for at last: up to where it had applied the log, and since when.
        self._since: dict[bytes, tuple[int, float]] = {}

    async def status(self, place: Place, record: Appended) -> Status:
        """See `Journal.status`."""
        told = []
        last = self._observer.last
        if last is not None and last.head.log == record.log:
            others = [one for one in self._live(last.head) if one.name != place.instance]
            told = await self._acknowledgements.collect(others, record.position)
        look = await self._observer.look(place)
        head = look.head
        if not self._has(look, record):
            return Status(head.log, found=False, instances=1, applied=0, final=False)
        self._acknowledgements.count(told)
        live = self._live(head)
        here = place.log == record.log and place.position >= record.position
        waiting = [
            one
            for one in live
            if self._acknowledgements.applied(one) < record.position
            and not (here and one.name == place.instance)
        ]
        since = self._runtime.monotonic() - record.at
        over = rules.waited_out(since, self._observer.term(head))
        silent = self._silent(waiting, self._observer.term(head))
        if silent:
            await self._suspect(look, silent)
        instances = {one.name for one in live} | {place.instance}
        missing = {one.name for one in waiting} | (set() if here else {place.instance})
        known_for = self._observer.known_for(look)
        all_have = not waiting and not self._observer.plain(head)
        return Status(
            head.log,
            found=True,
            instances=len(instances),
            applied=len(instances - missing),
            final=rules.is_settled(head, known_for) and (over or all_have),
            pause=self._pause(head, since, known_for, waiting),
        )

    def _silent(self, waiting: list[Member], term: float) -> list[Member]:
        """Those of these members that have acknowledged nothing for half of T while purges waited for them.

        A member that is alive does so at each heartbeat, and takes its mark away if it was only slow. So it is
        always safe to mark one. To wait for the whole of T would mean that purges that wait less never find
        out that a member is dead.
        """
        now = self._runtime.monotonic()
        before, self._since = self._since, {}
        for one in waiting:
            applied = self._acknowledgements.applied(one)
            known, since = before.get(one.name, (applied, now))
            self._since[one.name] = applied, since if known == applied else now
        return [one for one in waiting if now - self._since[one.name][1] >= term / 2]

    def _has(self, look: Look, record: Appended) -> bool:
        """The record is in the log that was found."""
        return (
            look.head.log == record.log
            and record.position <= look.head.position
            and look.trail.tip_at(record.position) == record.tip
        )

    def _live(self, head: Head) -> list[Member]:
        """The members that a purge waits for."""
        if self._observer.plain(head):
            return []
        term, known_for = self._observer.term(head), self._observer.mark_known_for
        return [one for one in head.members if not rules.is_out(one, known_for(one), term)]

    def _pause(self, head: Head, since: float, known_for: float, waiting: list[Member]) -> float:
        """Seconds in which nothing but time can make a record final."""
        settling = 0.0 if head.settled else head.settle * rules.MARGIN - known_for
        if self._observer.plain(head):
            settling = max(settling, self._observer.term(head) * rules.MARGIN - since)
        elif waiting:
            return 0.0
        return max(0.0, settling)

    async def _suspect(self, look: Look, silent: list[Member]) -> None:
        """Mark members that purges wait for in vain, so that later ones need not."""
        names = {one.name for one in silent if not one.mark}
        if names:
            try:
                await self._observer.swap(look, suspected(look.head, names, new_mark))
            except Exception as error:
                _logger.debug("silent members cannot be marked: %r", error)
