"""The layer of a system that offers `Blobs` and `Cells`: all that most systems need.

A subclass implements `connect`. The log of purges and the leases then stand on the cells alone
(`layergate.shared.ledger`). A system that can do better implements `SystemLayer.open` instead, as a
layer on Redis does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

from layergate.core.ports import Runtime
from layergate.core.shared import Joining
from layergate.shared.guard import Guard
from layergate.shared.guarded import GuardedBlobs
from layergate.shared.layer import Bodies, System, SystemLayer
from layergate.shared.ledger import CellsJournal, CellsLeaseStore, FencingCellsLeaseStore
from layergate.shared.names import journal_prefix
from layergate.shared.ports import Blobs, Cells, ConditionalBlobs

__all__ = ["CellsLayer"]


class CellsLayer(SystemLayer):
    """Entries in the blobs of a system, the log and the leases in its cells. Options: see `SystemLayer`.

    Each operation is ended after ``timeout`` seconds under asyncio. Under threads the client library has
    to do that.
    """

    look_every: float | None = None
    """Seconds after which a process looks for new purges by itself, where the cells do not tell of changes
    (`WaitableCells`). None: at each heartbeat. A purge takes about this long to be final."""

    @abstractmethod
    def connect(self, joining: Joining) -> tuple[Blobs, Cells]:
        """The two ports of the system, perhaps one object. Called once, when the layer becomes part of
        a stack. Nothing may start, or connect, before a port is used."""

    @property
    def identity(self) -> Hashable:
        """Equal for two layers of one process that reach the same system; None if that is not known.
        Then the membership of a layer that was garbage collected lapses only by itself."""
        return None

    def guarded(self, blobs: Blobs, guard: Guard, runtime: Runtime) -> Blobs:  # noqa: ARG002
        """The blobs with the time budget and the breaker of ``guard``."""
        return GuardedBlobs(blobs, guard)

    def _guard(self, joining: Joining) -> Guard:
        return Guard(
            joining.runtime,
            joining.counters,
            name=self.name,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )

    def open_bodies(self, joining: Joining) -> Bodies:
        """See `SystemLayer.open_bodies`."""
        blobs, _ = self.connect(joining)
        guard = self._guard(joining)
        return Bodies(guard, self.guarded(blobs, guard, joining.runtime))

    def open(self, joining: Joining) -> System:
        """See `SystemLayer.open`."""
        blobs, cells = self.connect(joining)
        runtime = joining.runtime
        guard = self._guard(joining)
        journal = CellsJournal(
            cells,
            guard.call,
            runtime,
            prefix=journal_prefix(self.namespace),
            term=self.max_disconnected,
            identity=self.identity,
            look_every=self.look_every,
        )
        prefix = f"{self.namespace}:c"
        fence: FencingCellsLeaseStore | None = None
        if isinstance(blobs, ConditionalBlobs):
            fence = FencingCellsLeaseStore(cells, blobs, guard.call, runtime, prefix=prefix)
        leases = fence or CellsLeaseStore(cells, guard.call, runtime, prefix=prefix)
        return System(guard, self.guarded(blobs, guard, runtime), journal, leases, fence)
