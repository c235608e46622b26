"""Final purges among the workers of one gateway, without a shared layer.

Each worker has a memory of its own, and a purge that reaches one of them must be final for all (G3).
Their supervisor connects them. A purge goes to the supervisor, which gives it a position
(`layergate.shared.members`), sends it to every other worker, and answers when it is final. A worker
serves what it holds only while it is *trusted*. The supervisor grants that for `TERM` seconds at a time,
whenever a worker asks. All read the same clock, because they are on one machine.

**G3.** Purge R becomes final at the moment f. Suppose that at t >= f worker W serves from memory what was
fetched before R. Then it was trusted at t, by a grant g > t. Grants and purges reach W in the order they
were sent, and R was made final when W had acknowledged it, or every grant made to W before R was
appended had run out, or W was gone.

- W had acknowledged R: then it had applied it before f. Contradiction.
- All grants before R had run out at f <= t < g: so g was sent after R, and W had applied R when it took
  g. Contradiction.
- W was gone: it had said that it serves no more, or had ended. Contradiction.
- W was started after R was appended: it began with nothing, so nothing it holds was fetched before R.

The worker that purges applies its purge at once, before it sends it. The supervisor never sends a purge
back to its maker. Positions in `Invalidations` are each worker's own, because entries never go from one
memory to another; the positions of the supervisor only number what is acknowledged.

A worker that stands still is waited for no longer than `TERM`. When it goes on, it is not trusted, and
what it stores counts as stale until it has read all purges and a new grant behind them. A worker whose
supervisor is gone is never trusted again, and ends.

There are no leases: each worker fetches for itself. A lease could not hand on what was fetched, so N
workers would fetch N times all the same, one after the other. One fetch for all needs a shared layer.

**What is shared with `layergate.shared`, and what is not.** The worker stands on `Trust` and `Patience`,
the supervisor on `Members`. `Tail`, `Replay` and `Outbox` do not fit: they repair a log that can be
trimmed, lost or rolled back, while the supervisor's order of messages cannot break as long as it lives,
and does not outlive it. `until_final` does not fit either: it asks a system that cannot call back, while
the supervisor sends one message when a purge is final. So a purge costs each worker one message here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.shared import Joining, Log
from layergate.errors import ConfigError
from layergate.shared.trust import NEVER, Patience, Trust

__all__ = ["TERM", "SiblingLog"]

TERM: Final = 2.0  # seconds that a worker is trusted without hearing from its supervisor
_PATIENCE: Final = 0.2  # seconds that a request waits for trust
_LONGEST: Final = 4 * 1024 * 1024  # characters of one purge; six bytes each at worst

Send: TypeAlias = Callable[[Mapping[str, Any]], None]


class SiblingLog(Trust):
    """`layergate.core.shared.Log` of one worker, on its loop.

    ``send``: takes messages for the supervisor; raises nothing. ``workers``: how many there are.
    """

    def __init__(self, send: Send, workers: int) -> None:
        super().__init__()
        self._send = send
        self._workers = workers
        self._joining: Joining | None = None
        self._granted = NEVER  # until when the supervisor trusts this worker
        self._gone = False  # there is no supervisor, or this worker has left
        self._numbers = itertools.count()
        self._purges: dict[int, asyncio.Future[PurgeReceipt]] = {}
        self._asked: asyncio.Future[None] | None = None
        self._patience = Patience()

    def joined(self, joining: Joining) -> Log:
        """Become the log of a stack. Raises ConfigError if it is one's already."""
        if self._joining is not None:
            raise ConfigError("log must belong to one cache; a worker has one, for all upstreams")
        self._joining = joining
        self.trust(self._granted, self.departures)
        return self

    # -- the protocol of the core --------------------------------------------------------------

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """See `Log.append`. A purge that is made while there is no supervisor is not sent later: this
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

    def look(self) -> bool:
        """See `Log.look`. There is nothing to see without asking the supervisor."""
        return False

    async def catch_up(self) -> bool:
        """See `Log.catch_up`."""
        assert self._joining is not None
        monotonic = self._joining.runtime.monotonic
        now = monotonic()
        if now < self.trusted_until:
            return True
        if self._gone or self._patience.hopeless(now):
            return False
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self._send({"op": "sync"})
        await asyncio.wait((self._asked,), timeout=_PATIENCE)
        trusted = monotonic() < self.trusted_until
        if not trusted:
            self._patience.failed(monotonic())
            self._answered()  # the next one asks anew
        return trusted

    async def leave(self) -> None:
        """See `Log.leave`. A worker that leaves ends, so it never comes back."""
        if not self._gone:
            self.lost()
            self._send({"op": "leave"})

    def forked(self) -> None:
        """See `Log.forked`. A worker does not fork; a child could not reach the supervisor."""
        self._gone = True
        self.depart()

    def stats(self) -> dict[str, int | float]:
        """See `SharedLog.stats`. What is not known here is left out."""
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
                    self.trust(self._granted, self.departures)
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
        self.depart()
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
    """The invalidations as JSON has them. Of a purge that is too large, one that purges no less."""
    if sum(len(invalidation.value) + 16 for invalidation in invalidations) > _LONGEST:
        return [Invalidation("all", soft=all(invalidation.soft for invalidation in invalidations))]
    return list(invalidations)
