"""The head cell as one process sees it: looks at it, changes it, and begins the log anew if it must.

`CellsJournal` owns the one `Observer` of a log in this process and decides what to swap into the
head; the observer makes sure that only a head that continues what is known is ever used. It remembers
since when this process has known the incarnation and each mark, on the process's own clock, and the
`Trail` of the log's history. It never trusts anything, and never applies a record.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from layergate.core.ports import Runtime
from layergate.errors import LayerError, LayerRefused, WireError
from layergate.shared.journal import Founding, Place
from layergate.shared.ledger import rules
from layergate.shared.ledger.head import LONGEST_EPOCH, Chain, Head, Member, Mode, founded
from layergate.shared.ledger.pages import Ask, Pages
from layergate.shared.ledger.trail import Trail
from layergate.shared.ledger.wire import LaterVersion
from layergate.shared.ports import Cells, EpochCells, EpochLoadingCells

__all__ = ["Configured", "Look", "Observer"]

_logger = logging.getLogger("layergate")

_TRIES: Final = 24
_PAUSE: Final = (0.002, 0.25)  # seconds: the first, and the longest
_FOUNDINGS: Final = 64  # remembered
_MARKS: Final = 2048  # remembered


class Configured(NamedTuple):
    """What this process is configured with, in case it founds the log."""

    term: float
    mode: Mode


class Look(NamedTuple):
    """A head that was found, or swapped in.

    ``at``     the monotonic time when the answer was there.
    ``chain``  the records of the head, after those from pages that the caller has missed.
    ``trail``  the history that this process remembers, which goes on up to here.
    """

    head: Head
    tag: Hashable
    at: float
    chain: Chain
    trail: Trail


class _Known(NamedTuple):
    """What was known when a load was sent. ``era`` counts the incarnations seen."""

    era: int
    log: bytes | None
    position: int
    tip: bytes


class Observer:
    """The head of one log. ``name``: of its cell. ``configured``: see `Configured`."""

    def __init__(
        self,
        cells: Cells,
        ask: Ask,
        runtime: Runtime,
        pages: Pages,
        *,
        name: str,
        configured: Configured,
    ) -> None:
        self._cells = cells
        self._ask = ask
        self._runtime = runtime
        self._pages = pages
        self.name: Final = name
        self._configured = configured
        self.last: Look | None = None
        """The newest look of the present incarnation."""
        self.trail = Trail()
        self.era = 0
        """Counts the incarnations that were seen."""
        self._since = 0.0
        self._marks: dict[bytes, float] = {}  # mark -> since when it has been known, monotonic
        self._foundings: deque[bytes] = deque(maxlen=_FOUNDINGS)
        self._older: tuple[bytes, int, Chain] | None = None  # log, after, and what was in pages
        self._warned: bytes | None = None
        self.forked()

    def forked(self) -> None:
        self._lock = self._runtime.lock()

    # -- what is known -------------------------------------------------------------------------

    def known_for(self, look: Look) -> float:
        """Seconds for which this process has known the incarnation of this look."""
        with self._lock:
            same = self.trail.log == look.head.log
            return self._runtime.monotonic() - self._since if same else 0.0

    def mark_known_for(self, member: Member) -> float:
        """Seconds for which this process has known the member's mark."""
        now = self._runtime.monotonic()
        return now - self._marks.get(member.mark, now)

    def term(self, head: Head) -> float:
        """T."""
        return rules.term_of(head, self._configured.term)

    def plain(self, head: Head) -> bool:
        """The log has no members: every purge waits for T."""
        return rules.mode_of(head, self._configured.mode) is Mode.PLAIN

    # -- looking -------------------------------------------------------------------------------

    async def look(self, place: Place, *, probe: bool = False) -> Look:
        """The head, which continues what is known here and at ``place``. Founds a new incarnation if
        there is no such head.

        Raises what the store raises, and LayerError if the head keeps changing.
        """
        for attempt in range(_TRIES):
            if attempt:
                await self.pause(attempt)
            known = self._snapshot()
            loaded, epoch = await self._load(probe)
            at = self._runtime.monotonic()
            head, tag = self._decoded(loaded)
            chain = await self._judged(head, epoch, known, place, probe)
            if head is not None and chain is not None:
                look = self._note(head, tag, at, chain, known.era)
                if look is not None:
                    return look
                continue
            await self._found(head, tag, epoch, place.founding, probe)
        raise self.overtaken()

    async def swap(self, look: Look, head: Head, *, probe: bool = False) -> Look | None:
        """Put ``head`` in the place of what was found; None if that has changed."""
        era = self.era
        tag = await self._ask(self._cells.swap, self.name, look.tag, head.encode(), probe=probe)
        if tag is None:
            return None
        chain = head.chain
        if look.chain.base < chain.base:
            chain = look.chain.followed_by(chain)
        at = self._runtime.monotonic()
        return self._note(head, tag, at, chain, era) or Look(head, tag, at, chain, look.trail)

    async def peek(self, *, probe: bool = False) -> tuple[Head, Hashable] | None:
        """The head as it is, with its tag, without judging it; None if there is none."""
        head, tag = self._decoded(await self._ask(self._cells.load, self.name, probe=probe))
        return None if head is None else (head, tag)

    async def pause(self, attempt: int) -> None:
        """Wait before another try, at random, so that processes do not stay in step."""
        first, longest = _PAUSE
        seconds = min(longest, first * 1.5**attempt) * self._runtime.random()
        await self._runtime.event().wait(seconds)

    @staticmethod
    def overtaken() -> LayerError:
        return LayerError("shared", "the log changed again and again during one operation")

    # -- inside --------------------------------------------------------------------------------

    async def _load(self, probe: bool) -> tuple[Any, bytes]:
        """The head cell, and the store's epoch after that: see `rules.same_epoch`."""
        cells: Any = self._cells
        if isinstance(cells, EpochLoadingCells):
            loaded, epoch = await self._ask(cells.load_at_epoch, self.name, probe=probe)
            return loaded, _bounded(epoch)
        loaded = await self._ask(cells.load, self.name, probe=probe)
        if not isinstance(cells, EpochCells):
            return loaded, b""
        return loaded, _bounded(await self._ask(cells.epoch, probe=probe))

    def _snapshot(self) -> _Known:
        with self._lock:
            trail = self.trail
            return _Known(self.era, trail.log, trail.position, trail.tip)

    def _decoded(self, loaded: Any) -> tuple[Head | None, Hashable | None]:
        if loaded is None:
            return None, None
        data, tag = loaded
        last = self.last
        if last is not None and last.tag == tag:  # a tag never repeats
            return last.head, tag
        try:
            return Head.decode(data), tag
        except LaterVersion as error:
            raise LayerRefused("shared", str(error)) from error
        except WireError as error:
            _logger.warning(
                "the head of the shared log is damaged (%s); the log begins anew", error
            )
            return None, tag

    async def _judged(
        self, head: Head | None, epoch: bytes, known: _Known, place: Place, probe: bool
    ) -> Chain | None:
        """The records from where the caller stands on, as far as they are there; None if the head
        must not be used."""
        if head is None or head.log == place.founding.refused or not rules.same_epoch(head, epoch):
            return None
        places: list[tuple[int, bytes | None]] = []
        if head.log == known.log:
            places.append((known.position, known.tip))
        if head.log == place.log:
            # A caller may not know the tip where it stands.
            places.append((place.position, place.tip if place.tip or not place.position else None))
        after = min(position for position, _ in places) if head.log == place.log else 0
        chain = head.chain
        if after < chain.base and all(one <= head.position for one, _ in places):
            chain = (await self._read_pages(head, after, probe)).followed_by(chain)
        return chain if all(rules.continues(chain, *one) for one in places) else None

    async def _read_pages(self, head: Head, after: int, probe: bool) -> Chain:
        """Records before those in the head. An instance that joins looks several times, so they are
        kept until the next look that needs none."""
        kept = self._older
        if kept is not None and kept[:2] == (head.log, after):
            older = kept[2]
            if (older.position, older.last_tip) == (head.chain.base, head.chain.tip):
                return older
        older = await self._pages.older(head, after, probe=probe)
        self._older = head.log, after, older
        return older

    def _note(self, head: Head, tag: Hashable, at: float, chain: Chain, era: int) -> Look | None:
        """Remember what was found. None if it is out of date: another incarnation was found since the
        call was sent."""
        with self._lock:
            if head.log != self.trail.log:
                if era != self.era:
                    return None
                self.era += 1
                self._since = at
                self.trail = Trail(head.log, chain.base, chain.tip)
                self.last = None
            elif self.trail.position < chain.base:  # a gap
                self.trail = Trail(head.log, chain.base, chain.tip)
            self.trail.extend(chain.after(self.trail.position))
            look = Look(head, tag, at, chain, self.trail)
            if chain is head.chain:
                self._older = None
            if self.last is None or self.last.head.position <= head.position:
                self.last = look
            for member in head.members:
                if member.mark:
                    self._marks.setdefault(member.mark, at)
            while len(self._marks) > _MARKS:
                del self._marks[next(iter(self._marks))]
        self._warn(head)
        return look

    async def _found(
        self, head: Head | None, tag: Hashable, epoch: bytes, founding: Founding, probe: bool
    ) -> None:
        """Begin a new incarnation in the place of what was found, unless that has changed."""
        if founding.log in self._foundings:
            # Its name must not be used twice: what was stored under it must never come back.
            raise self.overtaken()
        last = self.last
        before = [one for one in (head, None if last is None else last.head) if one is not None]
        term, mode = self._configured
        settle = rules.settle_after(term, before)
        new = founded(founding, term=term, mode=mode, settle=settle, epoch=epoch)
        self._foundings.append(founding.log)
        done = await self._ask(self._cells.swap, self.name, tag, new.encode(), probe=probe)
        if done is None:
            self._foundings.remove(founding.log)

    def _warn(self, head: Head) -> None:
        term, mode = self._configured
        if (head.term, head.mode) == (term, mode) or self._warned == head.log:
            return
        self._warned = head.log
        _logger.warning(
            "the shared log was founded with max_disconnected=%g (%s), and this process is configured"
            " with %g (%s): the log's values count, for all processes, until it begins anew",
            head.term,
            head.mode.name.lower(),
            term,
            mode.name.lower(),
        )


def _bounded(epoch: bytes) -> bytes:
    return epoch if len(epoch) <= LONGEST_EPOCH else blake2b(epoch).digest()
