"""The log of purges on cells: `layergate.shared.journal.Journal` for any system that has `Cells`.

The machinery of `layergate.shared` calls it. It acknowledges, looks at the head, swaps what has to
change into it, and tells how far a record has got. Why a purge that it reports as final is final is
proved in `layergate.shared.ledger.rules`, whose rules it asks at every turn. It applies no record and
trusts nothing itself; that is its caller's part.

A sync without news is one load. A purge is a load, a swap, and one load per member and look.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Sequence
from typing import Final

from layergate.core.ports import Runtime
from layergate.errors import LayerRefused, WireError
from layergate.shared.journal import (
    Addition,
    Appended,
    End,
    Grew,
    News,
    Place,
    Record,
    Reply,
    Status,
    Terms,
)
from layergate.shared.ledger import rules
from layergate.shared.ledger.head import (
    LONGEST_TERM,
    MARK_SIZE,
    SHORTEST_TERM,
    Acknowledgement,
    Head,
    Member,
    Mode,
    cleared,
    extended,
    joined,
    paged,
    settled,
    suspected,
    without,
)
from layergate.shared.ledger.observer import Configured, Look, Observer
from layergate.shared.ledger.pages import Ask, Pages, Sizes
from layergate.shared.ports import Cells, WaitableCells, answered

__all__ = ["CellsJournal"]

_logger = logging.getLogger("layergate")

_TRIES: Final = 24
_HEARTBEATS: Final = 4  # in one T
_CROWD: Final = 16  # members from which on each that joins has the two oldest prove that they live
_UNBOUNDED: Final = 30.0  # seconds of T where instances trust for ever
_FOR_EVER: Final = float("inf")


class CellsJournal:
    """`Journal` on ``cells``.

    ``ask``         the `Guard.call` of the system.
    ``prefix``      what the names of its cells begin with.
    ``term``        T, in seconds, if this process founds the log: for how long an instance may trust
                    what it has read. None: for ever; then a purge is not final for an instance
                    that is cut off.
    ``identity``    see `Journal.identity`; None: the cells object.
    ``look_every``  seconds after which a process that cannot be told of changes looks by itself; None:
                    at each heartbeat.
    """

    def __init__(
        self,
        cells: Cells,
        ask: Ask,
        runtime: Runtime,
        *,
        prefix: str,
        term: float | None,
        identity: Hashable = None,
        look_every: float | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        largest = cells.limits.largest
        sizes = sizes or Sizes()
        if largest is not None:
            sizes = sizes._replace(cell=min(sizes.cell, largest))
        self._cells = cells
        self._ask = ask
        self._runtime = runtime
        self._prefix = prefix
        self._sizes = sizes
        self._for_ever = term is None
        term = _UNBOUNDED if term is None else min(max(term, SHORTEST_TERM), LONGEST_TERM)
        mode = Mode.MEMBERS if getattr(cells, "cheap_puts", True) else Mode.PLAIN
        self._configured = Configured(term, mode)
        self._pages = Pages(cells, ask, f"{prefix}:p", sizes)
        self._observer = Observer(
            cells, ask, runtime, self._pages, name=f"{prefix}:head", configured=self._configured
        )
        self._identity = (cells if identity is None else identity, prefix)
        self._look_every = look_every
        self.forked()

    def forked(self) -> None:
        """See `Journal.forked`."""
        self._observer.forked()
        # What was acknowledged last, and in which slot.
        self._told: tuple[int, Acknowledgement] | None = None
        # Up to where members have acknowledged, in this incarnation.
        self._applied: tuple[int, dict[bytes, int]] = 0, {}

    @property
    def identity(self) -> Hashable:
        return self._identity

    @property
    def terms(self) -> Terms:
        last = self._observer.last
        term = self._configured.term
        settle = term
        if last is not None:
            term = rules.term_of(last.head, term)
            settle = max(term, last.head.settle)
        return Terms(
            trust=_FOR_EVER if self._for_ever else term,
            heartbeat=term / _HEARTBEATS,
            finality=settle * rules.MARGIN + term / _HEARTBEATS,
        )

    @property
    def largest_record(self) -> int:
        """Bytes of the largest record that `append` takes."""
        return self._sizes.record

    # -- reading and appending -----------------------------------------------------------------

    async def sync(self, place: Place, *, probe: bool = False) -> Reply:
        """See `Journal.sync`."""
        return await self._run(place, (), probe)

    async def append(
        self, place: Place, additions: Sequence[Addition], *, probe: bool = False
    ) -> Reply:
        """See `Journal.append`. Raises WireError, with nothing appended, for a record of more than
        `largest_record` bytes."""
        for one in additions:
            if len(one.data) > self._sizes.record:
                raise WireError(
                    f"a record of {len(one.data)} bytes is too large for this system, whose cells"
                    f" take records of {self._sizes.record} bytes; purge less at once"
                )
        return await self._run(place, additions, probe)

    async def _run(self, place: Place, additions: Sequence[Addition], probe: bool) -> Reply:
        await self._acknowledge(place, probe)
        observer = self._observer
        for attempt in range(_TRIES):
            if attempt:
                await observer.pause(attempt)
            look = found = await observer.look(place, probe=probe)
            if place.member and not await self._is_member(place.instance, look, probe):
                continue  # what was swapped founds no trust: look again
            if additions and look.head.log == place.log:
                grown = await self._append(look, additions, probe)
                if grown is None:
                    continue
                look = grown
            await self._tidy(look, place, probe)
            return self._reply(place, found, look, additions)
        raise observer.overtaken()

    def _reply(self, place: Place, found: Look, look: Look, additions: Sequence[Addition]) -> Reply:
        """``found``: the look that trust is founded on. ``look``: with what was appended since."""
        head = look.head
        after = place.position if head.log == place.log else 0
        member = self._trusts(found.head, place)
        last: Record | None = None
        if additions and head.log == place.log:
            last = self._observer.trail.find(additions[-1])
        return Reply(
            log=head.log,
            seal=head.seal,
            last=head.position,
            records=look.chain.after(after),
            complete=True,
            member=member and rules.mode_of(head, self._configured.mode) is Mode.MEMBERS,
            trusted_for=self._trusted_for(found.head) if member else 0.0,
            appended=0 if last is None else last.position,
            tip=b"" if last is None else last.tip,
        )

    def _trusts(self, head: Head, place: Place) -> bool:
        """The caller may trust what it has applied once it has applied all of this head."""
        if rules.mode_of(head, self._configured.mode) is Mode.PLAIN:
            return True
        member = head.member(place.instance) if place.member else None
        return member is not None and not rules.must_clear(member)

    def _trusted_for(self, head: Head) -> float:
        return _FOR_EVER if self._for_ever else rules.term_of(head, self._configured.term)

    async def _append(self, look: Look, additions: Sequence[Addition], probe: bool) -> Look | None:
        """The head with all of these in the log; None if it changed meanwhile, or more are left."""
        missing = [one for one in additions if self._observer.trail.find(one) is None]
        if not missing:
            return look
        batch = _batch(missing, self._sizes)
        if self._pages.full(look.head, len(batch), sum(len(one.data) for one in batch)):
            page = await self._pages.spill(look.head, probe=probe)
            if page is not None:
                kept = paged(look.head, page, self._pages.keep(look.head))
                await self._observer.swap(look, kept, probe=probe)
            return None
        grown = await self._observer.swap(look, extended(look.head, batch), probe=probe)
        return grown if len(batch) == len(missing) else None

    # -- members -------------------------------------------------------------------------------

    async def _is_member(self, name: bytes, look: Look, probe: bool) -> bool:
        """The caller is a member without a mark in this head, or cannot be one. If not, it is made
        one, if nobody else changes the head meanwhile."""
        head = look.head
        if rules.mode_of(head, self._configured.mode) is Mode.PLAIN:
            return True
        member = head.member(name)
        if member is not None and not rules.must_clear(member):
            return True
        self._told = None  # nobody may have waited for what was told
        changed = self._joined(head, name) if member is None else cleared(head, name)
        if changed is None:
            _logger.warning(
                "the shared log has %d members, and takes no more: this process cannot trust what it"
                " holds, and asks the layers below instead",
                len(head.members),
            )
            return True
        await self._observer.swap(look, changed, probe=probe)
        return False

    def _joined(self, head: Head, name: bytes) -> Head | None:
        """With this member; None if there is no room, and no other way to make some than to wait.

        Where no purges are made, nobody would ever notice that a member has died. So two that have not
        proved for the longest time that they are alive must do so; and all, if the list is full.
        """
        unmarked = [one.name for one in head.members if not one.mark]
        if len(head.members) >= _CROWD:
            head = suspected(head, unmarked[:2], _mark)
        changed = joined(head, name)
        if changed is None and unmarked:
            return suspected(head, unmarked, _mark)
        return changed

    async def _acknowledge(self, place: Place, probe: bool) -> None:
        """Tell what the caller has applied, if that is news."""
        last = self._observer.last
        if last is None or place.log != last.head.log:
            return
        member = last.head.member(place.instance)
        if member is None or (place.position and not place.tip):
            return
        acknowledgement = Acknowledgement(member.name, place.log, place.position, place.tip)
        if self._told == (member.slot, acknowledgement):
            return
        try:
            await self._ask(
                self._cells.put, self._slot(member), acknowledgement.encode(), probe=probe
            )
        except LayerRefused as error:
            # Purges wait longer then; that is no reason not to read.
            _logger.debug("a purge cannot be acknowledged: %s", error)
            return
        self._told = member.slot, acknowledgement

    def _slot(self, member: Member) -> str:
        return f"{self._prefix}:m{member.slot:03d}"

    async def leave(self, place: Place) -> None:
        """See `Journal.leave`."""
        for attempt in range(_TRIES):
            if attempt:
                await self._observer.pause(attempt)
            found = await self._observer.peek()
            if found is None or found[0].member(place.instance) is None:
                return
            gone = without(found[0], {place.instance}).encode()
            if await self._ask(self._cells.swap, self._observer.name, found[1], gone) is not None:
                return
        raise self._observer.overtaken()

    async def _tidy(self, look: Look, place: Place, probe: bool) -> None:
        """Write down for others what this process has known for long enough. One try: there is time."""
        head, observer = look.head, self._observer
        term = rules.term_of(head, self._configured.term)
        changed = head
        if not head.settled and rules.is_settled(head, observer.known_for(look)):
            changed = settled(changed)
        gone = {
            one.name
            for one in head.members
            if rules.is_out(one, observer.mark_known_for(one), term)
        }
        if gone:
            changed = without(changed, gone)
        if changed != head and place.member:
            try:
                await observer.swap(look, changed, probe=probe)
            except Exception as error:
                _logger.debug("the shared log cannot be tidied up: %r", error)

    # -- finality ------------------------------------------------------------------------------

    async def status(self, place: Place, record: Appended) -> Status:
        """See `Journal.status`."""
        await self._acknowledge(place, probe=False)
        told = await self._acknowledgements(place, record)
        look = await self._observer.look(place)  # after the acknowledgements were loaded
        head = look.head
        if not self._has(look, record):
            return Status(head.log, found=False, instances=1, applied=0, final=False)
        self._count(told)
        here = place.log == record.log and place.position >= record.position
        waiting = [
            one
            for one in self._live(head)
            if self._position(one) < record.position and not (here and one.name == place.instance)
        ]
        listed = {one.name for one in self._live(head)} | {place.instance}
        term = rules.term_of(head, self._configured.term)
        since = self._runtime.monotonic() - record.at
        over = rules.waited_out(since, term)
        known_for = self._observer.known_for(look)
        final = rules.is_settled(head, known_for) and (
            over or (not waiting and rules.mode_of(head, self._configured.mode) is Mode.MEMBERS)
        )
        missing = len(waiting) + (0 if here or place.instance in {w.name for w in waiting} else 1)
        if over and waiting:
            await self._suspect(look, waiting)
        return Status(
            head.log,
            found=True,
            instances=len(listed),
            applied=len(listed) - missing,
            final=final,
            pause=self._pause(head, since, known_for, not waiting),
        )

    def _pause(self, head: Head, since: float, known_for: float, all_told: bool) -> float:
        """Seconds in which nothing but time can make a record final."""
        settling = 0.0 if head.settled else head.settle * rules.MARGIN - known_for
        term = rules.term_of(head, self._configured.term)
        if rules.mode_of(head, self._configured.mode) is Mode.PLAIN:
            settling = max(settling, term * rules.MARGIN - since)
        elif not all_told:
            return 0.0
        return max(0.0, settling)

    def _has(self, look: Look, record: Appended) -> bool:
        """The record is in the log that was found."""
        trail = self._observer.trail
        return (
            look.head.log == record.log == trail.log
            and record.position <= look.head.position
            and trail.tip_at(record.position) == record.tip
        )

    def _live(self, head: Head) -> list[Member]:
        """The members that a purge waits for."""
        if rules.mode_of(head, self._configured.mode) is Mode.PLAIN:
            return []
        term = rules.term_of(head, self._configured.term)
        known_for = self._observer.mark_known_for
        return [one for one in head.members if not rules.is_out(one, known_for(one), term)]

    async def _acknowledgements(self, place: Place, record: Appended) -> list[Acknowledgement]:
        """What the members say that have not acknowledged the record yet, as far as it is known here."""
        last = self._observer.last
        if last is None or last.head.log != record.log:
            return []
        found = []
        for member in self._live(last.head):
            if member.name == place.instance or self._position(member) >= record.position:
                continue
            loaded = await self._ask(self._cells.load, self._slot(member))
            if loaded is None:
                continue
            try:
                told = Acknowledgement.decode(loaded[0])
            except WireError as error:
                _logger.debug("an acknowledgement is not readable: %s", error)
                continue
            if told.name == member.name:
                found.append(told)
        return found

    def _count(self, told: list[Acknowledgement]) -> None:
        trail = self._observer.trail
        era, applied = self._applied
        if era != self._observer.era:
            self._applied = self._observer.era, (applied := {})
        for one in told:
            known = applied.get(one.name, 0)
            if one.position > known and rules.counts(one, trail, known):
                applied[one.name] = one.position

    def _position(self, member: Member) -> int:
        """Up to where this member is known to have applied the log."""
        era, applied = self._applied
        return applied.get(member.name, -1) if era == self._observer.era else -1

    async def _suspect(self, look: Look, silent: list[Member]) -> None:
        """Mark the members that a purge has waited for in vain, so that the next one need not."""
        names = {one.name for one in silent if not one.mark}
        if names:
            marked = suspected(look.head, names, _mark)
            await self._observer.swap(look, marked)

    # -- news ----------------------------------------------------------------------------------

    async def end(self) -> End | None:
        """See `Journal.end`."""
        found = await self._observer.peek(probe=True)
        return None if found is None else End(found[0].log, found[0].position)

    def subscribe(self, instance: bytes, *, probe: bool = False) -> _Watch | None:  # noqa: ARG002
        """See `Journal.subscribe`."""
        if not isinstance(self._cells, WaitableCells) and self._look_every is None:
            return None
        return _Watch(self._cells, self._observer, self._runtime, self._look_every)


class _Watch:
    """`Subscription`: waits until the head changes, or looks whether it has."""

    def __init__(
        self, cells: Cells, observer: Observer, runtime: Runtime, look_every: float | None
    ) -> None:
        self._cells = cells
        self._observer = observer
        self._runtime = runtime
        self._look_every = look_every

    async def next(self, seconds: float) -> News | None:
        """See `Subscription.next`."""
        last = self._observer.last
        tag = None if last is None else last.tag
        cells = self._cells
        if isinstance(cells, WaitableCells):
            changed = await answered(cells.wait(self._observer.name, tag, seconds))
            return Grew(None, 0) if changed else None
        until = self._runtime.monotonic() + seconds
        while (left := until - self._runtime.monotonic()) > 0:
            await self._runtime.event().wait(min(left, self._look_every or left))
            loaded = await answered(cells.load(self._observer.name))
            if (None if loaded is None else loaded[1]) != tag:
                return Grew(None, 0)
        return None

    async def close(self) -> None:
        """See `Subscription.close`."""

    def abandon(self) -> None:
        """See `Subscription.abandon`."""


def _mark() -> bytes:
    return os.urandom(MARK_SIZE)


def _batch(additions: Sequence[Addition], sizes: Sizes) -> Sequence[Addition]:
    """As many of these as are appended in one swap."""
    size = 0
    for number, one in enumerate(additions):
        size += len(one.data)
        if number and size > sizes.cell // 4:
            return additions[:number]
    return additions
