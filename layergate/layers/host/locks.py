"""Locks among processes that end with their holder: one lock per byte of a file.

The leases, the members, and the writers of the other files of a host's folder stand on these. They never
wait, and know nothing of what they protect.

`OfdLocks` locks bytes of one file by *open file description* (``F_OFD_SETLK``, Linux 3.15). The kernel
gives a lock back when the last descriptor of that description is closed, so at the latest when the
process ends, however it ends. Unlike POSIX record locks, such a lock is not lost when another part of the
process closes the same file. Where there are none (macOS), `FlockLocks` locks a small file per number.

Both survive a `fork`: the child has copies of the descriptors, and keeps the parent's locks alive until
it closes them. So a child closes its copies at once and opens the file anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import Final, Protocol

__all__ = ["ByteLocks", "FlockLocks", "OfdLocks", "has_ofd_locks", "locks_of"]

_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock of a 64-bit Linux
_FILES: Final = 16_384  # files that `FlockLocks` makes at most
_HELD: Final = frozenset((errno.EACCES, errno.EAGAIN))


class ByteLocks(Protocol):
    """Exclusive locks with numbers from 0 to 2**62.

    The caller remembers what it holds: to take a number twice through one object is not defined.
    """

    def take(self, number: int) -> bool:
        """Take the lock if nobody has it. Raises OSError."""
        ...

    def give(self, number: int) -> None:
        """Give the lock back. Does nothing if it is not held here."""
        ...

    def taken(self, number: int) -> bool:
        """True if somebody else has the lock: another process, or another object of this one. Raises
        OSError."""
        ...

    def others(self, below: int) -> list[int]:
        """The numbers less than ``below`` that somebody else has, in ascending order. Raises OSError."""
        ...

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...


def has_ofd_locks() -> bool:
    """True if this system locks bytes by open file description."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and hasattr(fcntl, "F_OFD_SETLK")


def locks_of(path: str | os.PathLike[str]) -> ByteLocks:
    """The locks at ``path``, of the kind that this system has. Raises OSError."""
    return OfdLocks(path) if has_ofd_locks() else FlockLocks(path)


class OfdLocks:
    """Locks on the bytes of the file ``path``, which is made if there is none, and stays empty."""

    __slots__ = ("_fd",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1  # for `close`, if the next line raises
        self._fd = os.open(path, _OPEN, 0o600)

    def take(self, number: int) -> bool:
        """See `ByteLocks.take`."""
        try:
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, number)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def give(self, number: int) -> None:
        """See `ByteLocks.give`."""
        if self._fd >= 0:
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, number)

    def taken(self, number: int) -> bool:
        """See `ByteLocks.taken`."""
        return self._found(number, number + 1) is not None

    def others(self, below: int) -> list[int]:
        """See `ByteLocks.others`."""
        return self._between(0, below)

    def _between(self, start: int, end: int) -> list[int]:
        # The kernel names one lock in a range, not always the first.
        found = self._found(start, end) if start < end else None
        if found is None:
            return []
        return [*self._between(start, found), found, *self._between(found + 1, end)]

    def _found(self, start: int, end: int) -> int | None:
        answer = self._ask(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start, end - start)
        kind, _, found, _, _ = _FLOCK.unpack(answer)
        return None if kind == fcntl.F_UNLCK else max(start, int(found))

    def close(self) -> None:
        """See `ByteLocks.close`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _ask(self, command: int, kind: int, start: int, length: int = 1) -> bytes:
        asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        return fcntl.fcntl(self._fd, command, asked)

    def __del__(self) -> None:
        self.close()


class FlockLocks:
    """Locks on files in the folder ``path``, which is made if there is none.

    There are at most 16,384 files, so two numbers may share one. Then one waits for the other, or counts
    as taken while the other is.
    """

    __slots__ = ("_held", "_path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._held: dict[int, int] = {}
        self._path = Path(path)
        self._path.mkdir(mode=0o700, exist_ok=True)

    def take(self, number: int) -> bool:
        """See `ByteLocks.take`."""
        if number % _FILES in self._held:
            return False
        fd = self._locked(number)
        if fd is None:
            return False
        self._held[number % _FILES] = fd
        return True

    def give(self, number: int) -> None:
        """See `ByteLocks.give`."""
        fd = self._held.pop(number % _FILES, None)
        if fd is not None:
            os.close(fd)

    def taken(self, number: int) -> bool:
        """See `ByteLocks.taken`."""
        if number % _FILES in self._held:
            return False
        fd = self._locked(number)
        if fd is None:
            return True
        os.close(fd)
        return False

    def others(self, below: int) -> list[int]:
        """See `ByteLocks.others`."""
        numbers = sorted(int(file.name) for file in self._path.iterdir() if file.name.isdecimal())
        return [number for number in numbers if number < below and self.taken(number)]

    def close(self) -> None:
        """See `ByteLocks.close`."""
        held, self._held = self._held, {}
        for fd in held.values():
            os.close(fd)

    def _locked(self, number: int) -> int | None:
        fd = os.open(self._path / str(number % _FILES), _OPEN, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in _HELD:
                return None
            raise
        return fd

    def __del__(self) -> None:
        self.close()
