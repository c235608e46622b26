"""Final purges among the workers of one gateway, without a shared layer.

Each worker has a memory of its own, and a purge that reaches one of them is to be final for all (G3).
Their supervisor keeps them in touch: a purge goes to it (`Board.append`), it gives it a position, sends
it to every other worker, and answers when it is final. A worker serves what it holds only as long as
it is *trusted*, which the supervisor grants it for `TERM` seconds at a time, whenever it asks. Both
read the same clock, for they are on one machine.

**G3.** Purge R becomes final at the moment f. At t >= f worker W serves from memory what was fetched
before R. Then it was trusted at t, by a grant g > t. Grants and purges reach W in the order they were
sent, and R was made final when W had acknowledged it, or every grant made to W before R was appended
had run out, or W was gone.

- W had acknowledged R: then it had applied it before f. Contradiction.
- All grants before R had run out at f <= t < g: so g was sent after R, and W had applied R when it
  took g. Contradiction.
- W was gone: it had said that it serves no more, or had ended. Contradiction.
- W was started after R was appended: it began with nothing, so nothing it holds was fetched before R.

The worker that purges applies its purge at once, before it sends it: to the others it is one of the
log, and to itself it is never sent back. Positions in `Invalidations` are each worker's own, for entries never
go from one memory to another; the log's positions only number what is acknowledged.

A worker that stands still, is thus waited for no longer than `TERM`. When it goes on, it is not
trusted, and what is stored counts as stale until it has read all purges and a new grant behind them.
A worker whose supervisor is gone is never trusted again, and ends.

There are no leases: each worker fetches for itself. A lease could not hand on what was fetched, so N
workers would fetch N times all the same, one after the other. One fetch for all needs a shared layer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.shared import Joining, Log
from layergate.errors import ConfigError

__all__ = ["TERM", "Board", "Settled", "SiblingLog"]

TERM: Final = 2.0  # seconds that a worker is trusted without hearing from its supervisor
_NEVER: Final = float("-inf")
_PATIENCE: Final = 0.2  # seconds that a request waits for trust
_HOPELESS: Final = 0.25  # seconds that requests do not wait after that was in vain
_LONGEST: Final = 4 * 1024 * 1024  # characters of one purge; six bytes each at worst

Send: TypeAlias = Callable[[Mapping[str, Any]], None]


class SiblingLog:
    """`layergate.core.shared.Log` of one worker, on its loop.

    ``send``: takes messages for the supervisor; raises nothing. ``workers``: how many there are.
    """

    def __init__(self, send: Send, workers: int) -> None:
        self._send = send
        self._workers = workers
        self._joining: Joining | None = None
        # Until when the marks are complete (see `Log.trusted_until`). Read on the hit path.
        self.trusted_until = _NEVER
        self._granted = _NEVER  # ... by the supervisor
        self._gone = False  # no supervisor, or no wish to be trusted
        self._numbers = itertools.count()
        self._purges: dict[int, asyncio.Future[PurgeReceipt]] = {}
        self._asked: asyncio.Future[None] | None = None
        self._hopeless_until = _NEVER

    def joined(self, joining: Joining) -> Log:
        """Become the log of a stack. Raises ConfigError if it is one's already."""
        if self._joining is not None:
            raise ConfigError("log must belong to one cache; a worker has one, for all upstreams")
        self._joining = joining
        self.trusted_until = self._granted
        return self

    # -- the protocol of the core --------------------------------------------------------------

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """See `Log.append`. What is appended while no supervisor is there is not made up for: this
        worker ends, and so do the others."""
        assert self._joining is not None
        own = self._joining.invalidations
        own.apply(own.position + 1, invalidations, time)
        unknown = PurgeReceipt(1, self._workers, final=False, scope="host")
        if self._gone:
            return unknown
        number = next(self._numbers)
        self._send({"op": "purge", "id": number, "time": time, "marks": _packed(invalidations)})
        if wait is None:
            wait = TERM + 1.0
        elif wait <= 0:
            return unknown
        future: asyncio.Future[PurgeReceipt] = asyncio.get_running_loop().create_future()
        self._purges[number] = future
        try:
            done, _ = await asyncio.wait((future,), timeout=wait)
            return future.result() if done else unknown
        finally:
            del self._purges[number]

    async def catch_up(self) -> bool:
        """See `Log.catch_up`."""
        assert self._joining is not None
        monotonic = self._joining.runtime.monotonic
        now = monotonic()
        if now < self.trusted_until:
            return True
        if self._gone or now < self._hopeless_until:
            return False
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self._send({"op": "sync"})
        await asyncio.wait((self._asked,), timeout=_PATIENCE)
        trusted = monotonic() < self.trusted_until
        if not trusted:
            # What just failed would fail for every request, and each would pay for it.
            self._hopeless_until = monotonic() + _HOPELESS
            self._answered()  # the next one asks anew
        return trusted

    async def leave(self) -> None:
        """See `Log.leave`. It is for good: a worker that leaves ends."""
        if not self._gone:
            self.lost()
            self._send({"op": "leave"})

    def forked(self) -> None:
        """See `Log.forked`. A worker does not fork; whatever did cannot speak to the supervisor."""
        self._gone = True
        self.trusted_until = _NEVER

    def stats(self) -> dict[str, int | float]:
        """See `RedisLog.stats`; what is not known here is left out."""
        assert self._joining is not None
        return {"log_trusted": int(self._joining.runtime.monotonic() < self.trusted_until)}

    # -- what the supervisor says --------------------------------------------------------------

    def take(self, message: Mapping[str, Any]) -> None:
        """A message from the supervisor."""
        match message["op"]:
            case "purged":
                self._apply([Invalidation(*one) for one in message["marks"]], message["time"])
                self._send({"op": "applied", "n": message["n"]})
            case "grant":
                self._granted = message["until"]
                if self._joining is not None and not self._gone:
                    self.trusted_until = self._granted
                self._answered()
            case "final":
                future = self._purges.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(
                        PurgeReceipt(message["applied"], message["instances"], scope="host")
                    )
            case op:
                raise ValueError(f"the supervisor says {op!r}")

    def lost(self) -> None:
        """The supervisor is gone: nothing is trusted any more, no purge becomes final."""
        self._gone = True
        self.trusted_until = _NEVER
        self._answered()
        for future in self._purges.values():
            if not future.done():
                future.set_result(PurgeReceipt(1, self._workers, final=False, scope="host"))

    def _apply(self, invalidations: list[Invalidation], time: float) -> None:
        if self._joining is None:
            return  # nothing is stored yet
        own = self._joining.invalidations
        # By the clock here: made stale is made stale now, whoever set the clock meanwhile.
        own.apply(own.position + 1, invalidations, min(time, self._joining.runtime.now()))

    def _answered(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_result(None)


def _packed(invalidations: tuple[Invalidation, ...]) -> list[Invalidation]:
    """The marks, as JSON has them; those of a purge beyond all measure as one that purges no less."""
    if sum(len(invalidation.value) + 16 for invalidation in invalidations) > _LONGEST:
        return [Invalidation("all", soft=all(invalidation.soft for invalidation in invalidations))]
    return list(invalidations)


class Settled(NamedTuple):
    """A purge that is final.

    ``by``, ``number``: who asked for it, and what it calls it. ``applied``, ``instances``: as in
    `PurgeReceipt`.
    """

    by: int
    number: int
    applied: int
    instances: int


class _Purge:
    """One that is not final yet. ``waiting``: whom it waits for, and until when."""

    __slots__ = ("applied", "by", "instances", "number", "position", "waiting")

    def __init__(self, position: int, by: int, number: int, waiting: dict[int, float]) -> None:
        self.position = position
        self.by = by
        self.number = number
        self.waiting = waiting
        self.instances = 1 + len(waiting)  # with the one that purges
        self.applied = 1


class Board:
    """The supervisor's side: who is trusted until when, and which purges wait for whom. Pure.

    Workers are named by numbers that are never used twice. ``monotonic``: the clock of
    `Runtime.monotonic`.
    """

    def __init__(self, monotonic: Callable[[], float], *, term: float = TERM) -> None:
        self._monotonic = monotonic
        self._term = term
        self._until: dict[int, float] = {}
        self._purges: list[_Purge] = []
        self.position = 0

    def join(self, who: int) -> None:
        """A worker is about to be started: from now on it is sent every purge."""
        self._until[who] = _NEVER

    def leave(self, who: int) -> None:
        """A worker has ended, or said that it serves nothing any more."""
        self._until.pop(who, None)
        for purge in self._purges:
            if purge.waiting.pop(who, None) is not None:
                purge.instances -= 1

    def grant(self, who: int) -> float:
        """Trust a worker for another term: until when. To be sent to it after all that was appended
        before, and before all that will be. ``-inf`` for one that has left."""
        if who not in self._until:
            return _NEVER
        until = self._until[who] = self._monotonic() + self._term
        return until

    def append(self, by: int, number: int) -> int:
        """A purge: its position. The caller sends it to all workers but ``by``."""
        self.position += 1
        now = self._monotonic()
        waiting = {
            who: until for who, until in self._until.items() if who != by and until > now
        }  # (the others are not trusted: what they hold, they will not serve before they know of this)
        self._purges.append(_Purge(self.position, by, number, waiting))
        return self.position

    def applied(self, who: int, position: int) -> None:
        """A worker has applied everything up to this position."""
        for purge in self._purges:
            if purge.position <= position and purge.waiting.pop(who, None) is not None:
                purge.applied += 1

    def settled(self) -> list[Settled]:
        """The purges that have become final since this was last asked."""
        now = self._monotonic()
        done = []
        for purge in self._purges:
            lapsed = [who for who, until in purge.waiting.items() if until <= now]
            for who in lapsed:
                del purge.waiting[who]
                purge.instances -= 1
            if not purge.waiting:
                done.append(purge)
        if done:
            self._purges = [purge for purge in self._purges if purge.waiting]
        return [Settled(one.by, one.number, one.applied, one.instances) for one in done]

    def due(self) -> float | None:
        """When `settled` is worth asking again though nobody said anything: on the clock; None if
        nothing waits."""
        return min(
            (until for purge in self._purges for until in purge.waiting.values()), default=None
        )
