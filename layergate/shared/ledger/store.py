"""Leases on cells: `layergate.shared.journal.LeaseStore` for any system that has `Cells`.

`layergate.shared.leases` calls it. Each operation loads a cell, makes a new shelf of what is there
(`layergate.shared.ledger.leasing`), and swaps that in; if another process was quicker, again. It sends
no messages: whoever waits for a lease looks again.

Two leases of one name are never both held: a swap grants a lease, and it fails if the cell has changed
since the process saw that nobody holds it. A lease runs out when a process has seen it unchanged for a
term of its own clock (`rules.stood_still`); so a holder that renews it three times a term, and takes it
for lost after four fifths of a term without an answer, is never overtaken while it is sure.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

from layergate.core.ports import Runtime
from layergate.errors import LayerError, LayerRefused, WireError
from layergate.shared.journal import Held, Observed, Release, Taken
from layergate.shared.ledger import rules
from layergate.shared.ledger.leasing import Lease, Shelf, State, digest, shelf_of
from layergate.shared.ledger.pages import Ask
from layergate.shared.ledger.wire import LaterVersion
from layergate.shared.ports import Cells, ConditionalBlobs

__all__ = ["CellsLeaseStore", "FencingCellsLeaseStore"]

_logger = logging.getLogger("layergate")

_TRIES: Final = 24
_PAUSE: Final = (0.002, 0.25)  # seconds: the first, and the longest
_SEEN: Final = 8192  # leases that are remembered
_ANEW: Final = 1.0  # seconds of a lease that was lost, and stands in its cell again


class _Look(NamedTuple):
    """What was in a cell."""

    shelf: Shelf
    tag: Hashable | None


class _Seen(NamedTuple):
    """Since when a lease has looked like this, monotonic."""

    mark: Hashable
    since: float


class CellsLeaseStore:
    """`LeaseStore` on ``cells``.

    ``ask``     the `Guard.call` of the system.
    ``prefix``  what the names of its cells begin with.
    """

    def __init__(self, cells: Cells, ask: Ask, runtime: Runtime, *, prefix: str) -> None:
        self._cells = cells
        self._ask = ask
        self._runtime = runtime
        self._prefix = prefix
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._fences: OrderedDict[bytes, int] = OrderedDict()  # by token
        self.forked()

    def forked(self) -> None:
        """See `LeaseStore.forked`."""
        self._lock = self._runtime.lock()

    # -- the port ------------------------------------------------------------------------------

    async def acquire(self, name: str, token: bytes, term: float, waiter: bytes) -> Taken | Held:  # noqa: ARG002
        """See `LeaseStore.acquire`. There are no messages, so ``waiter`` is of no use."""
        key = digest(name)
        answer: Taken | Held = Held(token, 0.0)

        def change(shelf: Shelf) -> Shelf:
            nonlocal answer
            there = shelf.find(key)
            if there is not None and there.token == token:
                # Granted before; or released before, and the release has overtaken this request.
                held = there.state is State.HELD
                answer = Taken(recent=False) if held else Held(token, 0.0)
                return shelf
            if there is not None and there.state is State.HELD and not self._over(there):
                answer = Held(there.token, self._left(there))
                return shelf
            traced = there is not None and there.state is not State.HELD
            answer = Taken(recent=there is not None and traced and not self._over(there))
            return shelf.granted(key, token, term)

        shelf = await self._change(shelf_of(key), change, {key})
        if isinstance(answer, Taken) and (lease := shelf.find(key)) is not None:
            with self._lock:
                self._fences[token] = lease.fence
                while len(self._fences) > _SEEN:
                    self._fences.popitem(last=False)
        return answer

    async def look(self, name: str, holder: bytes, term: float, waiter: bytes) -> Observed:  # noqa: ARG002
        """See `LeaseStore.look`."""
        key = digest(name)
        shelf, _ = await self._look(shelf_of(key))
        there = shelf.find(key)
        if there is None or there.token != holder:
            return Observed(None)
        if there.state is not State.HELD:
            return Observed(None, free=there.state is State.FREE)
        return Observed(None if self._over(there) else self._left(there))

    async def renew(
        self, leases: Sequence[tuple[str, bytes]], term: float
    ) -> Sequence[bool | Exception]:
        """See `LeaseStore.renew`. Two operations for each cell concerned."""
        answers: list[bool | Exception] = [False] * len(leases)
        for number, places in _by_shelf([name for name, _ in leases]).items():
            keys = {digest(leases[place][0]) for place in places}

            def change(shelf: Shelf, places: Sequence[int] = places) -> Shelf:
                for place in places:
                    name, token = leases[place]
                    key = digest(name)
                    there = shelf.find(key)
                    if there is None:  # it was lost, or ran out, and nobody has taken it
                        shelf = shelf.granted(key, token, term)
                    ours = there is None or (there.token, there.state) == (token, State.HELD)
                    if there is not None and ours:
                        shelf = shelf.renewed(key, term)
                    answers[place] = ours
                return shelf

            try:
                await self._change(number, change, keys)
            except Exception as error:
                for place in places:
                    answers[place] = error
        return answers

    async def release(self, releases: Sequence[Release], term: float) -> Sequence[bool | Exception]:
        """See `LeaseStore.release`. Two operations for each cell concerned."""
        answers: list[bool | Exception] = [False] * len(releases)
        for number, places in _by_shelf([one.name for one in releases]).items():
            keys = {digest(releases[place].name) for place in places}

            def change(shelf: Shelf, places: Sequence[int] = places) -> Shelf:
                for place in places:
                    shelf, answers[place] = _released(shelf, releases[place], term)
                return shelf

            try:
                await self._change(number, change, keys)
            except Exception as error:
                for place in places:
                    answers[place] = error
        with self._lock:
            for one in releases:
                self._fences.pop(one.token, None)
        return answers

    # -- inside --------------------------------------------------------------------------------

    def _cell(self, number: int) -> str:
        return f"{self._prefix}:l{number:03d}"

    async def _look(self, number: int) -> _Look:
        loaded = await self._ask(self._cells.load, self._cell(number))
        if loaded is None:
            return _Look(Shelf(), None)
        data, tag = loaded
        try:
            shelf = Shelf.decode(data)
        except LaterVersion as error:
            raise LayerRefused("shared", str(error)) from error
        except WireError as error:
            _logger.warning("leases of the shared layer are damaged (%s): they are void", error)
            shelf = Shelf()
        self._note(shelf)
        return _Look(shelf, tag)

    async def _change(
        self, number: int, change: Callable[[Shelf], Shelf], keep: set[bytes]
    ) -> Shelf:
        """Replace the shelf by what ``change`` makes of it, which it may be asked several times. It
        answers with the same shelf if there is nothing to do."""
        for attempt in range(_TRIES):
            if attempt:
                await self._pause(attempt)
            shelf, tag = await self._look(number)
            changed = change(shelf)
            if changed is shelf:
                return shelf
            changed = changed.tidied(self._over, keep)
            new = await self._ask(self._cells.swap, self._cell(number), tag, changed.encode())
            if new is not None:
                self._note(changed)
                return changed
        raise LayerError("shared", "a lease changed again and again during one operation")

    async def _pause(self, attempt: int) -> None:
        first, longest = _PAUSE
        seconds = min(longest, first * 1.5**attempt) * self._runtime.random()
        await self._runtime.event().wait(seconds)

    def _note(self, shelf: Shelf) -> None:
        now = self._runtime.monotonic()
        with self._lock:
            for one in shelf.leases:
                seen = self._seen.get(one.name)
                if seen is None or seen.mark != one.mark:
                    self._seen[one.name] = _Seen(one.mark, now)
                self._seen.move_to_end(one.name)
            while len(self._seen) > _SEEN:
                self._seen.popitem(last=False)

    def _still_for(self, lease: Lease) -> float:
        """For how long this process has seen the lease as it is."""
        seen = self._seen.get(lease.name)
        if seen is None or seen.mark != lease.mark:
            return 0.0
        return self._runtime.monotonic() - seen.since

    def _over(self, lease: Lease) -> bool:
        return rules.stood_still(self._still_for(lease), lease.term)

    def _left(self, lease: Lease) -> float:
        return max(0.0, min(lease.term, lease.term * rules.MARGIN - self._still_for(lease)))


class FencingCellsLeaseStore(CellsLeaseStore):
    """`FencingLeaseStore`, where ``blobs`` can be written in one transaction with the cells."""

    def __init__(
        self, cells: Cells, blobs: ConditionalBlobs, ask: Ask, runtime: Runtime, *, prefix: str
    ) -> None:
        super().__init__(cells, ask, runtime, prefix=prefix)
        self._blobs = blobs

    async def fenced_set(
        self, name: str, token: bytes, blob: str, data: bytes, seconds: float
    ) -> bool:
        """See `FencingLeaseStore.fenced_set`. Where nothing tells any more who had the lease, it is not
        written if any lease in this cell was granted since."""
        key = digest(name)
        number = shelf_of(key)

        def grant(shelf: Shelf) -> Shelf:
            return shelf if shelf.find(key) is not None else shelf.granted(key, token, _ANEW)

        for attempt in range(_TRIES):
            if attempt:
                await self._pause(attempt)
            shelf, tag = await self._look(number)
            there = shelf.find(key)
            if there is not None and there.token != token:
                return False
            if there is None and shelf.fence > self._fences.get(token, -1):
                return False
            if tag is None:
                # Lost, and with it whatever could contradict: make a cell that a swap can check.
                await self._change(number, grant, {key})
                continue
            if await self._ask(self._blobs.set_if, self._cell(number), tag, blob, data, seconds):
                return True
        raise LayerError("shared", "a lease changed again and again during one operation")


def _by_shelf(names: Sequence[str]) -> dict[int, list[int]]:
    """Which of these lie on which shelf."""
    found: dict[int, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(shelf_of(digest(name)), []).append(place)
    return found


def _released(shelf: Shelf, release: Release, term: float) -> tuple[Shelf, bool]:
    key, token, free = digest(release.name), release.token, release.free
    there = shelf.find(key)
    ours = there is not None and (there.token, there.state) == (token, State.HELD)
    held = there is not None and there.state is State.HELD
    if ours or (there is None and release.granted):
        return shelf.traced(key, token, term, free=free), True
    if not release.granted and not held:
        # Its trace refuses the request that may still come.
        return shelf.traced(key, token, term, free=free), False
    return shelf, False
