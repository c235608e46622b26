"""The right to fetch one key, for one process of a host at a time: `layergate.core.shared.Leases`.

A lease is a locked byte of the file ``leases``, at a place that a digest of the key chooses. To take one
costs a system call. The kernel gives it back when its holder ends, so there is nothing to renew and no
term to wait for; a holder that is stopped keeps it, and the others wait no longer than they were told.
Two keys with one place (one chance in 2**62) would wait for each other, no more.

Whoever waits looks again each few milliseconds, all waits of a process together: a look at one key takes
two system calls. To be woken by the holder would take a message to every process for every fetch that
ends, since the holder cannot know who waits, and a dead holder sends none. `benchmarks/host_leases.py`, on
two busy cores: a look goes on 3.1 ms after the release (p99 8.7), a datagram's reader 0.3 ms (p99 6.1), for
87 us of the holder's per release with 15 processes; looking at 200 keys takes 21 % of a CPU together, 47 %
each on its own.

Beside the locks, the file ``lease-notes`` has a slot for each of 4,096 places, for what a lock cannot say:
that a lease was released as *free* (nobody need wait, because what was fetched is not shared), and the
holder's span. A slot is a hint. One that was overwritten by another key's costs a wait, or a link.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Final

from layergate.core.layer import Key
from layergate.core.ports import Event
from layergate.core.shared import Joining, Waited
from layergate.layers.host.locks import ByteLocks, locks_of

__all__ = ["NAME", "NOTES", "HostLease", "HostLeases"]

NAME: Final = "leases"
NOTES: Final = "lease-notes"

_SLOTS: Final = 4096
_SLOT: Final = struct.Struct("=Qd80s")  # place, when it was released as free (0: it was not), note
_NO_SLOT: Final = _SLOT.pack(0, 0.0, b"")
_LEAST, _MOST = 0.0005, 0.005  # seconds between two looks
_SAFETY: Final = 0.25  # seconds after which a wait looks for itself
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class HostLease:
    """`layergate.core.shared.Lease`. One that is garbage is given back."""

    __slots__ = ("__weakref__", "_leases", "_place", "_released")

    recent: Final = True
    """Another process may have fetched since the holder looked: to look again costs microseconds."""
    sure: Final = True
    """The kernel takes nothing from a process that lives."""

    def __init__(self, leases: HostLeases, place: int) -> None:
        self._leases = leases
        self._place = place
        self._released = False

    async def confirm(self) -> bool:
        """See `Lease.confirm`. False in the child of a fork, and once the folder was replaced."""
        return self._leases.has(self)

    async def release(self, *, free: bool = False) -> None:
        """See `Lease.release`."""
        if not self._released:
            self._released = True
            self._leases.give_back(self, free=free)

    @property
    def place(self) -> int:
        return self._place

    def __del__(self) -> None:
        if not self._released:
            self._leases.give_back(self, free=False)


class _Wait:
    """One call that waits for the lease at ``place``, since ``began`` (`Runtime.monotonic`)."""

    __slots__ = ("began", "event", "looks", "outcome", "place")

    def __init__(self, place: int, began: float, event: Event) -> None:
        self.place = place
        self.began = began
        self.event = event
        self.looks = False  # it looks for all waits of this process
        self.outcome: Waited | None = None


class HostLeases:
    """The leases in ``folder``, as one process uses them. Nothing is opened before it is used.

    ``make``: see `locks_of`.
    """

    def __init__(
        self,
        folder: Path,
        joining: Joining,
        make: Callable[[Path], ByteLocks] = locks_of,
    ) -> None:
        self._folder = folder
        self._runtime = joining.runtime
        self._counters = joining.counters
        self._make = make
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = self._runtime.lock()
        self._locks: ByteLocks | None = None
        self._notes: _Notes | None = None
        # A lock says nothing about two parts of one process. By place: the id of the lease.
        self._held: dict[int, int] = {}
        self._waits: list[_Wait] = []

    # -- the protocol of the core --------------------------------------------------------------

    async def acquire(
        self,
        key: Key,
        *,
        wait: float,
        note: str = "",
        held: Callable[[str], object] | None = None,
    ) -> HostLease | Waited:
        """See `Leases.acquire`. Raises OSError when the folder cannot be used."""
        if self._pid != os.getpid():
            self.forked()
        place = _place(key)
        began = self._runtime.monotonic()
        lease = self._taken(place, note)
        if lease is not None:
            return lease
        if wait <= 0:
            return Waited.TIMEOUT
        self._counters.on("lease_wait", key=key)
        if held is not None:
            held(self._note(place))
        return await self._wait(_Wait(place, began, self._runtime.event()), began + wait)

    async def leave(self) -> None:
        """See `Leases.leave`."""
        self.reopen()

    def reopen(self) -> None:
        """Give back everything, and open the files anew when they are needed: the folder may have been
        replaced."""
        with self._lock:
            # They are closed when no thread uses them any more: until then their numbers are not another
            # file's.
            self._locks = self._notes = None
            self._held.clear()

    def forked(self) -> None:
        """This is the child of a fork: it holds nothing, and its copies must not keep the parent's locks
        alive."""
        locks, notes = self._locks, self._notes
        self._begin()
        if locks is not None:
            locks.close()
        if notes is not None:
            notes.close()

    # -- holding -------------------------------------------------------------------------------

    def has(self, lease: HostLease) -> bool:
        """True if the lease is held here."""
        return self._pid == os.getpid() and self._held.get(lease.place) == id(lease)

    def give_back(self, lease: HostLease, *, free: bool) -> None:
        """See `Lease.release`. Never raises. Takes no lock: the garbage collector may call it while this
        thread has it."""
        place, locks = lease.place, self._locks
        if not self.has(lease) or locks is None:
            return
        with contextlib.suppress(OSError):  # else it is given back when the file is closed
            if free:  # before anybody else can have it
                slot = self._slot(place)
                self._write(place, self._runtime.monotonic(), b"" if slot is None else slot[1])
            locks.give(place)
        # Only now: until here no other part of this process takes it, which the kernel would allow.
        self._held.pop(place, None)

    def _taken(self, place: int, note: str) -> HostLease | None:
        with self._lock:
            if place in self._held:
                return None
            if self._locks is None:
                self._locks = self._make(self._folder / NAME)
            if not self._locks.take(place):
                return None
            lease = HostLease(self, place)
            self._held[place] = id(lease)
            if note:
                with contextlib.suppress(OSError):
                    slot = self._slot(place)
                    # Kept for those who began to wait before a free release, and have not looked since.
                    freed = 0.0 if slot is None else slot[0]
                    self._write(place, freed, note.encode("ascii", "replace")[:80])
            return lease

    # -- waiting -------------------------------------------------------------------------------

    async def _wait(self, wait: _Wait, until: float) -> Waited:
        with self._lock:
            wait.looks = not self._waits
            self._waits.append(wait)
        try:
            while True:
                now = self._runtime.monotonic()
                if now >= until:
                    return Waited.TIMEOUT
                pause = self._pause(now) if wait.looks else _SAFETY
                await wait.event.wait(min(pause, until - now))
                if wait.event.is_set():  # perhaps because its turn to look has come
                    wait.event = self._runtime.event()
                if wait.outcome is None:
                    for each in list(self._waits) if wait.looks else (wait,):
                        self._look_at(each)
                if wait.outcome is not None:
                    return wait.outcome
        finally:
            with self._lock:
                if wait in self._waits:
                    self._waits.remove(wait)
                if wait.looks and self._waits:
                    following = self._waits[0]
                    following.looks = True
                    following.event.set()

    def _pause(self, now: float) -> float:
        """Short while a wait is young: most fetches are short."""
        youngest = max((wait.began for wait in list(self._waits)), default=now)
        return min(max((now - youngest) / 4, _LEAST), _MOST)

    def _look_at(self, wait: _Wait) -> None:
        """See whether a wait is over, and wake it if it is."""
        if wait.outcome is not None:
            return
        try:
            if self._freed_since(wait):
                wait.outcome = Waited.FREE
            elif not self._busy(wait.place):
                # Released as free since the last line?
                wait.outcome = Waited.FREE if self._freed_since(wait) else Waited.LANDED
        except OSError:  # nobody can tell: then nobody waits
            wait.outcome = Waited.FREE
        if wait.outcome is not None:
            wait.event.set()

    def _freed_since(self, wait: _Wait) -> bool:
        slot = self._slot(wait.place)
        return slot is not None and slot[0] >= wait.began

    def _busy(self, place: int) -> bool:
        """True if the lease is held, here or elsewhere. Raises OSError."""
        with self._lock:
            if self._locks is None:
                self._locks = self._make(self._folder / NAME)
            return place in self._held or self._locks.taken(place)

    # -- notes ---------------------------------------------------------------------------------

    def _note(self, place: int) -> str:
        slot = self._slot(place)
        return "" if slot is None else slot[1].decode("ascii", "replace")

    def _slot(self, place: int) -> tuple[float, bytes] | None:
        """When the lease was last released as free, and its note; None if the slot is another's."""
        try:
            return self._opened_notes().read(place)
        except OSError:
            return None

    def _write(self, place: int, freed: float, note: bytes) -> None:
        self._opened_notes().write(place, freed, note)

    def _opened_notes(self) -> _Notes:
        notes = self._notes
        if notes is None:
            notes = self._notes = _Notes(self._folder / NOTES)
        return notes


class _Notes:
    """The file with a slot for each place; see the head of this module. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = -1  # for `close`, if it cannot be opened
        self._fd = os.open(path, _OPEN, 0o600)

    def read(self, place: int) -> tuple[float, bytes] | None:
        """When the lease was last released as free, and its note; None if the slot is another's."""
        data = os.pread(self._fd, _SLOT.size, place % _SLOTS * _SLOT.size)
        if len(data) < _SLOT.size:
            return None
        owner, freed, note = _SLOT.unpack(data)
        return (freed, note.rstrip(b"\0")) if owner == place and data != _NO_SLOT else None

    def write(self, place: int, freed: float, note: bytes) -> None:
        os.pwrite(self._fd, _SLOT.pack(place, freed, note), place % _SLOTS * _SLOT.size)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _place(key: Key) -> int:
    # "a" and b"a" are two keys.
    data = b"s" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key
    return int.from_bytes(blake2b(data, digest_size=8).digest()) >> 2
