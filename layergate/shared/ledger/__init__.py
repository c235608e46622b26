"""The log of purges and the leases on nothing but linearizable cells (`layergate.shared.ports.Cells`).

`rules` has the proof. `CellsJournal` is the log, `CellsLeaseStore` the leases.
"""
