"""The layer of a system that is reached over a network, and offers `Blobs` and `Cells`.

It is a `CellsLayer` whose reads are gathered: see `layergate.remote.gathering`.
"""

from __future__ import annotations

from layergate.core.ports import Runtime
from layergate.remote.gathering import GatheredBlobs
from layergate.shared.cells_layer import CellsLayer
from layergate.shared.guard import Guard
from layergate.shared.ports import Blobs

__all__ = ["RemoteLayer"]


class RemoteLayer(CellsLayer):
    """See `CellsLayer`. Under asyncio the reads of one turn of the loop make one round trip."""

    def guarded(self, blobs: Blobs, guard: Guard, runtime: Runtime) -> Blobs:
        """See `CellsLayer.guarded`."""
        return GatheredBlobs(blobs, guard, runtime)
