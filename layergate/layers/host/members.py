"""The processes that use a host's folder now: each holds a locked byte of the file ``members``.

Receipts and statistics count these. A process ID would say nothing: it is used again, and in a container
it is another one. The kernel gives the byte back when the process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from layergate.layers.host.locks import ByteLocks, locks_of

__all__ = ["NAME", "Members"]

NAME: Final = "members"
_MOST: Final = 4096


class Members:
    """The members of the folder, as one process sees them. ``make``: see `locks_of`. Nothing is opened
    before it is used. The caller serializes the calls.

    Every method but `leave` and `forked` raises OSError.
    """

    def __init__(self, folder: Path, make: Callable[[Path], ByteLocks] = locks_of) -> None:
        self._path = folder / NAME
        self._make = make
        self._locks: ByteLocks | None = None
        self.number: int | None = None

    def join(self) -> int:
        """Become a member. The number of this process: the lowest that nobody has, from 0."""
        if self.number is None:
            locks = self._opened()
            for number in range(_MOST):
                if locks.take(number):
                    self.number = number
                    break
            else:
                raise OSError(f"{self._path}: there are {_MOST} processes already")
        return self.number

    def others(self) -> list[int]:
        """The numbers of the other members, in ascending order."""
        return self._opened().others(_MOST)

    def count(self) -> int:
        """How many members there are, with this process if it is one."""
        return len(self.others()) + (self.number is not None)

    def leave(self) -> None:
        """Be no member any more, and close the file."""
        locks, self._locks, self.number = self._locks, None, None
        if locks is not None:
            locks.close()

    def _opened(self) -> ByteLocks:
        if self._locks is None:
            self._locks = self._make(self._path)
        return self._locks
