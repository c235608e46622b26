"""The log of purges and the leases on nothing but linearizable cells (`layergate.shared.ports.Cells`).

`CellsJournal` is the log, and `rules` has its proof; `CellsLeaseStore` is the leases.
"""

from layergate.shared.ledger.journal import CellsJournal
from layergate.shared.ledger.store import CellsLeaseStore, FencingCellsLeaseStore

__all__ = ["CellsJournal", "CellsLeaseStore", "FencingCellsLeaseStore"]
