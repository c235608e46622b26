"""The name under which one process is a member of the log.

Purges wait for members. So a process has to give its membership up when it ends, and it does so under
its own name. `SharedLog` owns one `Instance`. Nothing here does I/O.

Some memberships cannot be given up by their owner: the log object was garbage collected, or the attempt
to leave failed. Their names are kept as *orphans*, per log, until another log object of this process
removes them from the same log.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Hashable
from typing import Final

__all__ = ["Instance", "orphan", "take_orphans"]

_ORPHANS: Final = 256

_orphans: Final[deque[tuple[Hashable, bytes]]] = deque(maxlen=_ORPHANS)


def orphan(identity: Hashable, name: bytes) -> None:
    """The member ``name`` of the log with this identity (`Journal.identity`) could not leave."""
    _orphans.append((identity, name))


def take_orphans(identity: Hashable) -> list[bytes]:
    """The orphans of the log with this identity. They are forgotten here."""
    found = []
    for _ in range(len(_orphans)):
        where, name = one = _orphans.popleft()
        if where == identity:
            found.append(name)
        else:
            _orphans.append(one)
    return found


class Instance:
    """This process, as a member of one log. The caller holds the lock of the log, but for `pid`.

    ``identity``: of the journal.
    """

    def __init__(self, identity: Hashable) -> None:
        self._identity = identity
        self.pid: Final = os.getpid()
        # A call that makes it a member may have been sent.
        self.member = False
        self._name: bytes | None = None

    @property
    def is_here(self) -> bool:
        """False in the child of a fork that has not noticed yet."""
        return self.pid == os.getpid()

    @property
    def known(self) -> bytes | None:
        """The name, if it has one already. Needs no lock."""
        return self._name

    def name(self) -> bytes:
        """16 hex digits."""
        if self._name is None:
            self._name = os.urandom(8).hex().encode()
        return self._name

    def resign(self) -> bytes | None:
        """The name under which it may be a member; None if it is not.

        From now on it has another name, so a leave that arrives late ends no membership that began
        since.
        """
        if not self.member:
            return None
        self.member = False
        gone, self._name = self._name, None
        return gone

    def __del__(self) -> None:
        if self.member and self._name is not None and self.is_here:
            orphan(self._identity, self._name)


def _after_fork_in_child() -> None:
    _orphans.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
