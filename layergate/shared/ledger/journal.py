"""The log of purges on cells: `layergate.shared.journal.Journal` for any system that has `Cells`.

The machinery of `layergate.shared` calls it. It acknowledges, looks at the head, swaps what has to
change into it, and tells how far a record has got. Why a purge that it reports as final is final is
proved in `layergate.shared.ledger.rules`, whose rules it asks at every turn. It applies no record and
trusts nothing itself; that is its caller's part.

A sync without news is one load. A purge is a load, a swap, and one load per member and look.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from layergate.core.ports import Runtime
from layergate.errors import WireError
from layergate.shared.journal import (
    Addition,
    Appended,
    End,
    Place,
    Record,
    Reply,
    Status,
    Terms,
)
from layergate.shared.ledger import rules
from layergate.shared.ledger.acknowledgements import Acknowledgements
from layergate.shared.ledger.batches import Batches
from layergate.shared.ledger.finality import Finality, new_mark
from layergate.shared.ledger.head import (
    LONGEST_NAME,
    LONGEST_TERM,
    SHORTEST_TERM,
    Head,
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
from layergate.shared.ledger.watch import Watch
from layergate.shared.ports import Cells, WaitableCells

__all__ = ["CellsJournal"]

_logger = logging.getLogger("layergate")

_TRIES: Final = 24
_TOGETHER: Final = 32  # calls that append at once
_HEARTBEATS: Final = 4  # in one T
_CROWD: Final = 16  # members from which on each that joins has the two oldest prove that they live
_UNBOUNDED: Final = 30.0  # seconds of T where instances trust for ever
_FOR_EVER: Final = float("inf")


class _Step(enum.Enum):
    OVERTAKEN = enum.auto()
    """Another process has changed the head."""
    FORWARD = enum.auto()
    """Something was done, and something is left."""


class _Append(NamedTuple):
    """A call of `CellsJournal.append`."""

    place: Place
    additions: Sequence[Addition]
    probe: bool

    @property
    def kind(self) -> Hashable:
        """Calls with the same one can be made together."""
        return self.place.log, self.place.instance, self.place.member, self.probe


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
        self._sizes = sizes
        self._for_ever = term is None
        term = _UNBOUNDED if term is None else min(max(term, SHORTEST_TERM), LONGEST_TERM)
        mode = Mode.MEMBERS if getattr(cells, "cheap_puts", True) else Mode.PLAIN
        self._configured = Configured(term, mode)
        self._pages = Pages(cells, ask, f"{prefix}:p", sizes)
        self._observer = Observer(
            cells, ask, runtime, self._pages, name=f"{prefix}:head", configured=self._configured
        )
        self._acknowledgements = Acknowledgements(cells, ask, self._observer, name=f"{prefix}:m")
        self._finality = Finality(self._observer, self._acknowledgements, runtime)
        self._identity = (cells if identity is None else identity, prefix)
        self._look_every = look_every
        self._appends: Batches[_Append, Reply] = Batches(
            runtime, self._append_all, kind=lambda one: one.kind, most=_TOGETHER
        )
        self.forked()

    def forked(self) -> None:
        """See `Journal.forked`."""
        self._observer.forked()
        self._appends.forked()
        self._acknowledgements.forked()

    @property
    def identity(self) -> Hashable:
        return self._identity

    @property
    def terms(self) -> Terms:
        last = self._observer.last
        term = self._configured.term
        settle = term
        if last is not None:
            term = self._observer.term(last.head)
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
        found, look = await self._run(place, (), probe)
        return self._reply(place, found, look, ())

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
        return await self._appends.run(_Append(place, additions, probe))

    async def _append_all(self, appends: Sequence[_Append]) -> list[Reply]:
        """Append for several calls that stand in one log."""
        lowest = min(appends, key=lambda one: one.place.position)
        additions = [addition for one in appends for addition in one.additions]
        found, look = await self._run(lowest.place, additions, lowest.probe)
        return [self._reply(one.place, found, look, one.additions) for one in appends]

    async def _run(
        self, place: Place, additions: Sequence[Addition], probe: bool
    ) -> tuple[Look, Look]:
        """Acknowledge, become a member, append. Returns the look that trust is founded on, and the one
        with what was appended since."""
        await self._acknowledgements.tell(place, probe=probe)
        observer = self._observer
        attempt = 0
        while attempt < _TRIES:
            if attempt:
                await observer.pause(attempt)
            attempt += 1
            look = found = await observer.look(place, probe=probe)
            if place.member and not await self._is_member(place, look, probe):
                continue  # what was swapped founds no trust: look again
            if additions and look.head.log == place.log:
                step = await self._append_some(look, additions, probe)
                if not isinstance(step, Look):
                    attempt = 0 if step is _Step.FORWARD else attempt
                    continue
                look = step
            await self._tidy(look, place, probe)
            return found, look
        raise observer.overtaken()

    def _reply(self, place: Place, found: Look, look: Look, additions: Sequence[Addition]) -> Reply:
        """``found``: the look that trust is founded on. ``look``: with what was appended since."""
        head = look.head
        after = place.position if head.log == place.log else 0
        member = self._trusts(found.head, place)
        last: Record | None = None
        if additions and head.log == place.log:
            last = look.trail.find(additions[-1])
        return Reply(
            log=head.log,
            seal=head.seal,
            last=head.position,
            records=look.chain.after(after),
            complete=True,
            member=member and not self._observer.plain(head),
            trusted_for=self._trusted_for(found.head) if member else 0.0,
            appended=0 if last is None else last.position,
            tip=b"" if last is None else last.tip,
        )

    def _trusts(self, head: Head, place: Place) -> bool:
        """The caller may trust what it has applied once it has applied all of this head."""
        if self._observer.plain(head):
            return True
        member = head.member(place.instance) if place.member else None
        return member is not None and not rules.must_clear(member)

    def _trusted_for(self, head: Head) -> float:
        return _FOR_EVER if self._for_ever else self._observer.term(head)

    async def _append_some(
        self, look: Look, additions: Sequence[Addition], probe: bool
    ) -> Look | _Step:
        """A look with all of these in the log, or how far one swap has got."""
        missing = [one for one in additions if look.trail.find(one) is None]
        if not missing:
            return look
        batch = _batch(missing, self._sizes)
        if self._pages.full(look.head, len(batch), sum(len(one.data) for one in batch)):
            page = await self._pages.spill(look.head, probe=probe)
            if page is None:
                return _Step.OVERTAKEN
            kept = paged(look.head, page, self._pages.keep(look.head))
            done = await self._observer.swap(look, kept, probe=probe)
            return _Step.OVERTAKEN if done is None else _Step.FORWARD
        grown = await self._observer.swap(look, extended(look.head, batch), probe=probe)
        if grown is None:
            return _Step.OVERTAKEN
        return grown if len(batch) == len(missing) else _Step.FORWARD

    # -- members -------------------------------------------------------------------------------

    async def _is_member(self, place: Place, look: Look, probe: bool) -> bool:
        """The caller is a member without a mark in this head, or cannot be one. If not, it is made
        one, if nobody else changes the head meanwhile."""
        head, name = look.head, place.instance
        if self._observer.plain(head) or not 0 < len(name) <= LONGEST_NAME:
            return True
        member = head.member(name)
        if member is not None and not rules.must_clear(member):
            return True
        self._acknowledgements.forget()  # perhaps nobody has waited for what was told
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
        """With this member; without it if there is no room, and None if all that helps is to wait.

        Where no purges are made, nobody would ever notice that a member has died. So two that have not
        proved for the longest time that they are alive must do so; and all, if the list is full.
        """
        unmarked = [one.name for one in head.members if not one.mark]
        if len(head.members) >= _CROWD:
            head = suspected(head, unmarked[:2], new_mark)
        changed = joined(head, name)
        if changed is not None and len(changed.encode()) <= self._sizes.cell:
            return changed
        return suspected(head, unmarked, new_mark) if unmarked else None

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
        term = self._observer.term(head)
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
        await self._acknowledgements.tell(place)
        return await self._finality.status(place, record)

    # -- news ----------------------------------------------------------------------------------

    async def end(self) -> End | None:
        """See `Journal.end`."""
        found = await self._observer.peek(probe=True)
        return None if found is None else End(found[0].log, found[0].position)

    def subscribe(self, instance: bytes, *, probe: bool = False) -> Watch | None:  # noqa: ARG002
        """See `Journal.subscribe`."""
        if not isinstance(self._cells, WaitableCells) and self._look_every is None:
            return None
        return Watch(self._cells, self._observer, self._runtime, self._look_every)


def _batch(additions: Sequence[Addition], sizes: Sizes) -> Sequence[Addition]:
    """As many of these as are appended in one swap."""
    size = 0
    for number, one in enumerate(additions):
        size += len(one.data)
        if number == sizes.head or (number and size > sizes.cell // 4):
            return additions[:number]
    return additions
