"""Releases of leases that the shared system has not acknowledged yet.

Until a release is made, other instances wait for a fetch that has long ended. So a release that fails
is queued, and sent again with the next heartbeat that is answered, or right after the next lease that
is. It may be sent twice, and late: a token is never used again, so a late release takes nothing from a
later holder.

The same goes for a lease that may have been granted or not, because the system was asked for it and
did not answer. It may still grant it later. `Release.granted` is False then, and the release has to
prevent that the late request succeeds.

`SharedLeases` fills the queue and sends it. The queue is bounded; what falls out of it runs out by
itself after one term.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final, NamedTuple

from layergate.core.ports import Runtime
from layergate.errors import LayerRefused
from layergate.shared.journal import LeaseStore, Release
from layergate.shared.ports import answered

__all__ = ["Releases"]

_logger = logging.getLogger("layergate")

_BATCH: Final = 256  # releases sent at once
_QUEUED: Final = 4096
_UNDER_WAY: Final = 2.0  # seconds that a request may be under way after its sender has given up


class _Queued(NamedTuple):
    """``since``: monotonic."""

    release: Release
    since: float


class Releases:
    """The queue. ``term``: seconds that a lease lasts."""

    def __init__(self, store: LeaseStore, runtime: Runtime, term: float) -> None:
        self._store = store
        self._runtime = runtime
        self._term = term
        self._lock = runtime.lock()
        self._queue: dict[bytes, _Queued] = {}  # by token, the oldest first
        # They were sent, but what they release may be granted only now: they are sent once more.
        self._doubtful: dict[bytes, _Queued] = {}

    def __len__(self) -> int:
        """How many have to be sent, or sent once more."""
        return len(self._queue) + len(self._doubtful)

    @property
    def waiting(self) -> list[Release]:
        """Those that have to be sent, the oldest first."""
        return [one.release for one in self._queue.values()]

    def queue(self, release: Release) -> None:
        with self._lock:
            self._keep(self._queue, _Queued(release, self._runtime.monotonic()))

    async def send_now(self, release: Release) -> None:
        """Send one. It is queued if that fails, or is cancelled. Raises what the store raises."""
        queued = _Queued(release, self._runtime.monotonic())
        try:
            (found,) = await answered(self._store.release([release], self._term))
            if isinstance(found, Exception):
                raise found
            self._answered(queued, found)
        except BaseException:  # if it was cancelled, nobody knows whether it was sent
            with self._lock:
                self._keep(self._queue, queued)
            raise

    async def send(self, *, once_more: bool = False) -> None:
        """Send what is queued. Never raises an Exception: what fails stays in the queue.

        ``once_more``: also those that may have arrived before what they release.
        """
        if once_more and self._doubtful:
            with self._lock:
                for queued in self._doubtful.values():
                    self._keep(self._queue, queued)
                self._doubtful.clear()
        while self._queue:
            with self._lock:
                batch = dict(islice(self._queue.items(), _BATCH))
                for token in batch:
                    del self._queue[token]
            try:
                await self._send(batch)
            except Exception as error:
                _logger.debug("queued releases cannot be sent yet: %r", error)
            finally:
                with self._lock:
                    for queued in batch.values():
                        self._keep(self._queue, queued)
            if batch:
                return

    async def _send(self, batch: dict[bytes, _Queued]) -> None:
        """Take out of ``batch`` what was answered. Raises what the store raises."""
        sent = [*batch.values()]
        answers = await answered(self._store.release([one.release for one in sent], self._term))
        failed: Exception | None = None
        for queued, answer in zip(sent, answers, strict=True):
            if not isinstance(answer, Exception):
                self._answered(queued, answer)
            elif not (isinstance(answer, LayerRefused) and self._has_run_out(queued)):
                failed = answer
                continue
            del batch[queued.release.token]
        if failed is not None:
            raise failed

    def _has_run_out(self, queued: _Queued) -> bool:
        """What cannot be written now may be writable later, but the lease does not live forever."""
        return self._runtime.monotonic() - queued.since > 2 * self._term

    def _answered(self, queued: _Queued, found: bool) -> None:
        """If the lease was not found, it was not granted, or not yet: on another connection a request
        may be overtaken. The trace that then refuses it is one for all requests of this lease."""
        late = self._runtime.monotonic() - queued.since > _UNDER_WAY
        if not (found or queued.release.granted or late):
            with self._lock:
                self._keep(self._doubtful, queued)

    @staticmethod
    def _keep(kept: dict[bytes, _Queued], queued: _Queued) -> None:
        """Under the lock."""
        kept[queued.release.token] = queued
        if len(kept) > _QUEUED:
            del kept[next(iter(kept))]
