"""The log of purges of one host: `layergate.core.shared.Log` on a `JournalFile`.

`HostLayer` makes one for its stack. It opens, reads, replaces and follows the file; what a hit asks of it
is one memory access and one comparison.

**G3.** A purge is final when its record is published, that is when the end of the log has moved past it.
Suppose that the purge has returned, and that a process serves a request which began after that. Before it
uses what it holds, it reads `trusted_until`. This compares the end of the log with what was applied here,
and applies what is new on the spot; `Invalidations` then refuses what the purge names. There is nothing
to wait for, so no acknowledgement, no heartbeat, and no lost message. Two things can go wrong:

- *The process looks at another file than the purger's*: the folder was deleted or renamed, or the file
  was replaced. So a process trusts what it has open only for `BOUND` seconds after it last compared it
  with the file at the path; a process that stood still has to compare first. A process that goes over to
  another file drops everything it holds. The purger compares, too, after it has published: if the file at
  the path is another one by then, it purges there once more. So when the purge returns, its record is in
  a file that was the one at the path after the record was published. Whoever has that file open sees the
  record. Whoever opens a later file drops what it held when it does. And whoever still has an earlier
  file open has compared less than `BOUND` seconds ago: so a purge in a file that has not been the one at
  the path for that long waits until it has.
- *Records were overwritten before they were read here*: then everything that is held is dropped.

A process that begins with a file reads all records that are left, up to the end, before it uses any
entry. Entries that were stamped before the oldest of these count as purged, so a restart serves nothing
that was purged while it was down, and everything else.

A writer that is killed has published its record or has not, and gave its lock back. One that is stopped
with the lock is not waited for longer than `PATIENCE` seconds: then a new file takes the place of the old
one. A purge that cannot be written at all is applied in this process only, its receipt is not final, and
it is written as soon as that works.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from layergate.core.codec import Codec
from layergate.core.invalidation import Invalidation, PurgeReceipt, matcher
from layergate.core.shared import Joining
from layergate.errors import ConfigError, WireError
from layergate.layers.host import folder as folders
from layergate.layers.host.calls import Answering, Report, asked
from layergate.layers.host.journal import END, LARGEST, NAME, Damaged, JournalFile, replaced
from layergate.layers.host.members import Members
from layergate.shared.outbox import EVERYTHING, Outbox, Waiting
from layergate.shared.positions import Positions
from layergate.shared.records import parts_of

__all__ = ["BOUND", "PATIENCE", "HostLog"]

_logger = logging.getLogger("layergate")

BOUND: Final = 0.1
"""Seconds for which a file counts as the one at its path, after it was compared."""
PATIENCE: Final = 1.0
"""Seconds that a purge waits for another writer before it replaces the file."""

_MARGIN: Final = 0.01  # seconds that a purge waits beyond `BOUND`
_ANSWER: Final = 0.5  # seconds that other processes have to tell their statistics
_PAUSE: Final = 0.0005  # seconds between two tries to take the lock
_RETRY: Final = 0.2  # seconds until a folder that could not be used is tried again
_RETRIES: Final = 8
_NEVER: Final = float("-inf")
_FAULTS: Final = (OSError, Damaged, ConfigError)


class HostLog:
    """The log in ``folder``, as one process follows it.

    ``member``  True: this process holds entries. False: it only purges (a command).
    ``create``  make the folder if there is none.

    Any thread may call it. Nothing is opened before it is used.
    """

    def __init__(
        self,
        folder: Path,
        joining: Joining,
        codec: Codec,
        *,
        durable: bool = False,
        member: bool = True,
        create: bool = True,
    ) -> None:
        self.folder: Final = folder
        self._path = folder / NAME
        self._codec = codec
        self._durable = durable
        self._is_member = member
        self._create = create
        self._invalidations = joining.invalidations
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._monotonic = joining.runtime.monotonic
        self.positions: Final = Positions()
        self._outbox = Outbox(self.positions, joining.runtime.now)
        self._members = Members(folder)
        self._lock = joining.runtime.lock()
        self._file: JournalFile | None = None
        # Of the page of `_file`, or of the last one: reading it needs no check that there is one.
        self.end = memoryview(bytes(8)).cast("Q")
        self.applied = 0  # the virtual offset behind the last record that was applied here
        self.until = _NEVER
        self._opened = 0.0  # when `_file` was opened
        self._retry_at = _NEVER
        self._pid = os.getpid()
        self._files = 0  # how many logs have been followed
        self._events: list[tuple[str, dict[str, Any]]] = []
        self.on_moved: list[Callable[[], object]] = []
        """Called when another log is followed: perhaps the folder is another one. Under the lock."""
        self.report: Report | None = None
        """What other processes are told when they ask for statistics; None: they are not answered."""
        self._answering: Answering | None = None

    # -- the protocol of the core --------------------------------------------------------------

    @property
    def trusted_until(self) -> float:
        """See `Log.trusted_until`. Applies what is new."""
        if self.end[0] != self.applied:
            self._take()
        return self.until

    def look(self) -> bool:
        """See `Log.look`: compares the file with the one at the path."""
        file, now = self._file, self._monotonic()
        if file is None or self._pid != os.getpid():
            return False
        if self._outbox and now >= self._retry_at:
            return False  # so that `ready` is called
        try:
            if not file.is_current():
                return False
        except OSError:
            return False
        with self._lock:
            if self._file is not file:  # another thread has gone over to another file
                return False
            self.until = max(self.until, now + BOUND)
        return self.trusted_until > now

    async def catch_up(self) -> bool:
        """See `Log.catch_up`."""
        return self.ready()

    def ready(self) -> bool:
        """As `catch_up`, for nothing here has to be waited for. Never raises."""
        self._check_process()
        if self.look():
            return True
        if self._monotonic() < self._retry_at:
            return False
        try:
            with self._lock:
                file = self._follow()
                if self._outbox and file.lock():
                    try:
                        self._write(file, ())
                    finally:
                        file.unlock()
        except _FAULTS as error:
            self._failed(error)
        finally:
            self._tell()
        return self.look()

    def begin(self) -> None:
        """Follow the log, as `ready` does. Raises OSError, `Damaged` and ConfigError."""
        with self._lock:
            self._follow()

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """See `Log.append`. ``instances`` are the processes that use the folder now; each of them applies
        the purge before it serves anything else."""
        for invalidation in invalidations:
            matcher(invalidation)  # raises KeyRefused
        self._check_process()
        began = self._monotonic()
        try:
            file = await self._append(Waiting(invalidations, time, b"", None))
        except _FAULTS as error:
            self._put_off(invalidations, time)
            self._failed(error)
            why = f"the log in {self.folder} cannot be written to: {error}"
            return PurgeReceipt(1, max(1, self._counted()), final=False, scope="host", reason=why)
        finally:
            self._tell()
        final = await self._settled(file, None if wait is None else began + wait)
        members = self._counted()
        reason = (
            None if final else f"the log in {self.folder} is new, and there was no time to wait"
        )
        return PurgeReceipt(members, members, final=final, scope="host", reason=reason)

    async def leave(self) -> None:
        """See `Log.leave`."""
        with self._lock:
            self.until = _NEVER
            self._close()

    def forked(self) -> None:
        """See `Log.forked`. What was applied stays, for the child holds what its parent held."""
        self._pid = os.getpid()
        self._lock = self._runtime.lock()
        self.until = self._retry_at = _NEVER
        if self._answering is not None:
            self._answering.forked()
            self._answering = None
        self._close()

    def stats(self) -> Mapping[str, int | float]:
        """``log_trusted``: 1 if every final purge has been applied here. ``log_position``: bytes of the
        log that were applied; ``log_lag``: that were not. ``log_pending``: purges that could not be
        written yet. ``log_replaced``: how often another log has taken the place of the one that was
        followed. ``members``: processes that use the folder."""
        trusted = self._monotonic() < self.trusted_until or self.look()
        return {
            "log_trusted": int(trusted),
            "log_position": self.applied,
            "log_lag": max(0, self.end[0] - self.applied),
            "log_pending": len(self._outbox),
            "log_replaced": max(0, self._files - 1),
            "members": self._counted(),
        }

    async def reports(self) -> tuple[list[dict[str, Any]], int]:
        """The statistics of this process and of those that answer, each with its number as ``worker`` and
        its ``pid``; and how many processes there are."""
        own: dict[str, Any] = {} if self.report is None else dict(self.report())
        try:
            with self._lock:
                number, others = self._members.number, self._members.others()
        except OSError:
            number, others = None, []
        mine = {**own, "worker": 0 if number is None else number, "pid": os.getpid()}
        answers = await asked(self.folder, others, self._runtime, _ANSWER)
        return [mine, *answers], 1 + len(others)

    # -- following a file ----------------------------------------------------------------------
    # The caller of these has the lock. They raise OSError, `Damaged` and ConfigError.

    def _follow(self) -> JournalFile:
        """The file at the path, with all of it applied. Makes one if there is none."""
        for _ in range(_RETRIES):
            file = self._file
            if file is None or not file.is_current():
                file = self._opened_file()
                if file is None:
                    continue
                if file.incarnation == self.positions.log:
                    self._resume(file)
                else:
                    self._begin(file)
            now = self._monotonic()
            try:
                self._catch(file)
            except Damaged as error:
                self._replace(error, over=True)
                continue
            if file.is_current():
                self.until = max(self.until, now + BOUND)
                return file
        raise Damaged(f"{self._path} is replaced again and again")

    def _opened_file(self) -> JournalFile | None:
        """None if a file was made, and has to be opened."""
        try:
            return JournalFile(self._path, durable=self._durable)
        except FileNotFoundError:
            if not self._create:
                raise
            folders.made(self.folder)
            self._replace(None, over=False)
        except Damaged as error:
            if not self._create:
                raise
            self._replace(error, over=True)
        return None

    def _replace(self, error: Damaged | None, *, over: bool) -> None:
        """Put a new file at the path."""
        if error is not None:
            _logger.warning("the log of purges in %s is made anew: %s", self.folder, error)
        if replaced(self._path, over=over, durable=self._durable):
            # For purges that begin soon: note when it was there.
            file = JournalFile(self._path, durable=self._durable)
            now = self._monotonic()
            if file.is_current():
                file.settle(now)
            file.close()

    def _resume(self, file: JournalFile) -> None:
        """Go on in the same log: in the child of a fork, or after `leave`."""
        self._close()
        self.end = file.words[END : END + 1]
        self._adopt(file)

    def _begin(self, file: JournalFile) -> None:
        """Go over to another log. Everything that is held is dropped, and nothing is trusted meanwhile."""
        self._close()
        self.until = _NEVER
        oldest, records = file.oldest, None
        for _ in range(_RETRIES):
            oldest, end = file.oldest, file.end
            records = file.read(oldest, end)
            if records is not None:
                break
        else:  # purges come too fast, or the records are damaged
            oldest = end
        base = self.positions.base_above(self._invalidations.position)
        # The floor first: no entry is ever stamped, or read, below what is held.
        self._invalidations.rise(self.positions.start(base + oldest))
        self.positions.begin(file.incarnation, base, oldest)
        for position, data in records or ():
            self._apply(file, position, data)
        self.applied = end
        self.end = file.words[END : END + 1]
        self._files += 1
        if self._files > 1:
            self._events.append(("log_reset", {}))
            for moved in self.on_moved:
                moved()
        self._adopt(file)

    def _adopt(self, file: JournalFile) -> None:
        self._file = file
        self._opened = self._monotonic()
        if self._is_member:
            number = self._members.join()
            if self.report is not None and self._runtime.background():
                try:
                    self._answering = Answering(self.folder, number, self.report)
                except (OSError, RuntimeError) as error:
                    _logger.debug("other processes are told no statistics: %s", error)

    def _close(self) -> None:
        file, self._file = self._file, None
        answering, self._answering = self._answering, None
        if file is not None:
            file.close()
        if answering is not None:
            answering.close()
        self._members.leave()

    def _catch(self, file: JournalFile) -> None:
        """Apply what is new in the file that is followed."""
        for _ in range(_RETRIES):
            end = file.end
            if end == self.applied:
                return
            records = file.read(self.applied, end)
            if records is not None:
                for position, data in records:
                    self._apply(file, position, data)
                self.applied = end
                return
            # The end may have been half written when it was read.
            if file.end == end:
                break
        end = file.end
        if end < self.applied:
            raise Damaged("it has become shorter")
        # Overwritten before they were read here, or damaged: nobody knows what was purged.
        self._invalidations.rise(self.positions.local(end))
        self.applied = end
        self._events.append(("log_trimmed", {}))

    def _apply(self, file: JournalFile, position: int, data: bytes) -> None:
        now = self._runtime.now()
        try:
            purged, time = self._codec.decode_record(file.incarnation, data)
        except WireError as error:
            # Of a later version, or signed with another secret. It may be any purge.
            purged, time = EVERYTHING, now
            self._events.append(("record_refused", {"error": error}))
        # By this process's clock: what is made stale is stale now, not in an hour.
        self._invalidations.apply(self.positions.local(position), purged, min(time, now))

    def _take(self) -> None:
        """Apply what is new. Takes the lock, and never raises."""
        try:
            with self._lock:
                file = self._file
                if file is None:
                    self.until = _NEVER
                    return
                try:
                    self._catch(file)
                except Damaged as error:  # `ready` replaces it
                    self.until = _NEVER
                    self._close()
                    self._events.append(_fault(error))
        except OSError as error:
            self.until = _NEVER
            self._failed(error)
        finally:
            self._tell()

    # -- purging -------------------------------------------------------------------------------

    async def _append(self, purge: Waiting) -> JournalFile:
        """Publish a purge, and apply it here. The file that it is in."""
        end = self._monotonic() + PATIENCE
        for _ in range(_RETRIES):
            while True:
                with self._lock:
                    file = self._follow()
                    if file.lock():
                        try:
                            if self._write(file, (purge,)):
                                return file
                        except Damaged as error:
                            self._replace(error, over=True)
                        finally:
                            file.unlock()
                        break
                if self._monotonic() >= end:
                    self._bypass(file)
                    end = self._monotonic() + PATIENCE
                    break
                await self._runtime.event().wait(_PAUSE)
        raise Damaged(f"{self._path} cannot be written to, however often it is replaced")

    def _bypass(self, file: JournalFile) -> None:
        """The holder of the lock does not go on: leave the file to it."""
        with self._lock:
            if file.is_current():  # else somebody has replaced it already
                self._replace(Damaged("a process that does not go on has it locked"), over=True)

    def _write(self, file: JournalFile, purges: Sequence[Waiting]) -> bool:
        """Publish what waits, and these. False if the file is not the one at the path any more, so that
        it does not count. The caller also has the lock of the file."""
        waiting = self._outbox.first(len(self._outbox))
        for purge in (*waiting, *purges):
            file.append(self._records(file, purge))
        self._catch(file)
        if not file.is_current():
            return False
        self._outbox.appended(waiting)
        return True

    def _records(self, file: JournalFile, purge: Waiting) -> list[bytes]:
        invalidations, time, _, _ = purge
        everything = (Invalidation("all", soft=all(one.soft for one in invalidations)),)
        try:
            records = [
                self._codec.encode_record(file.incarnation, part, time)
                for part in parts_of(invalidations, LARGEST)
            ]
            if max(map(len, records)) <= LARGEST and sum(map(len, records)) <= file.ring // 4:
                return records
        except WireError as error:
            _logger.debug("a purge cannot be encoded: %s", error)
        # A tag that is too long, or too many of them: purge too much, not too little.
        return [self._codec.encode_record(file.incarnation, everything, time)]

    async def _settled(self, file: JournalFile, end: float | None) -> bool:
        """Wait until no process can have an earlier file open and trust it. False if that would be after
        ``end``."""
        now = self._monotonic()
        since = file.settled
        since = min(since, self._opened) if 0 < since <= now else self._opened
        left = since + BOUND + _MARGIN - now
        if left <= 0:
            return True
        if end is not None and now + left > end:
            return False
        await self._runtime.event().wait(left)
        return True

    def _put_off(self, invalidations: tuple[Invalidation, ...], time: float) -> None:
        """Apply here what could not be written, and write it later."""
        with self._lock:
            below = self._invalidations.position
            for part in parts_of(invalidations, LARGEST):
                self._outbox.add(Waiting(part, time, b"", below))
            self._invalidations.apply(below + 1, invalidations, time)

    # -- around --------------------------------------------------------------------------------

    def _check_process(self) -> None:
        """Some servers fork without telling Python."""
        if self._pid != os.getpid():
            self.forked()

    def _counted(self) -> int:
        try:
            with self._lock:
                return self._members.count()
        except OSError:
            return 0

    def _failed(self, error: Exception) -> None:
        self._retry_at = self._monotonic() + _RETRY
        self._events.append(_fault(error))
        self._tell()

    def _tell(self) -> None:
        """Emit what happened, without the lock: hooks are user code."""
        if self._events:
            events, self._events = self._events, []
            for event, facts in events:
                self._counters.on(event, **facts)


def _fault(error: Exception) -> tuple[str, dict[str, Any]]:
    return "layer_error", {"layer": "host", "operation": "log", "error": error}
