"""What the author of a shared layer imports.

Write two things, `Blobs` and `Cells` (one class may be both), and a subclass of `CellsLayer` whose
`connect` gives them. No entry is ever built by hand: a layer hands bytes to its blobs, and gets bytes.
`Codec` is what turns an entry into bytes and back, should a layer of your own need it.

The suites of `layergate.testing` test the result: `CellsConformance`, `LayerConformance`, and, for a
system that implements the coordination itself (`SystemLayer.open`), `JournalConformance` and
`LeaseConformance`. `examples/shared_layer` is a whole layer.
"""

from __future__ import annotations

from layergate.core.codec import Codec
from layergate.core.shared import Joining
from layergate.errors import LayerRefused, LayerTimeout, LayerUnavailable
from layergate.shared.capabilities import Capabilities
from layergate.shared.cells_layer import CellsLayer
from layergate.shared.combined import Shared
from layergate.shared.guard import Guard
from layergate.shared.guarded import GuardedBlobs
from layergate.shared.journal import FencingLeaseStore, Journal, LeaseStore
from layergate.shared.layer import Bodies, System, SystemLayer, SystemOptions
from layergate.shared.ports import (
    MORE,
    Blobs,
    Cell,
    Cells,
    ConditionalBlobs,
    EpochCells,
    EpochLoadingCells,
    Limits,
    RemovableCells,
    Tag,
    WaitableCells,
)

__all__ = [
    "MORE",
    "Blobs",
    "Bodies",
    "Capabilities",
    "Cell",
    "Cells",
    "CellsLayer",
    "Codec",
    "ConditionalBlobs",
    "EpochCells",
    "EpochLoadingCells",
    "FencingLeaseStore",
    "Guard",
    "GuardedBlobs",
    "Joining",
    "Journal",
    "LayerRefused",
    "LayerTimeout",
    "LayerUnavailable",
    "LeaseStore",
    "Limits",
    "RemovableCells",
    "Shared",
    "System",
    "SystemLayer",
    "SystemOptions",
    "Tag",
    "WaitableCells",
]
