"""Purges as an ordered log, and what one instance remembers of that log.

Every purge is one append to the log. An entry carries a *stamp*: the log position that its instance
had applied when the fetch of the entry began. A purge with a later position that matches the entry
invalidates it. Therefore:

- A purge costs the same for one entry and for a million.
- A fill that began before a purge is discarded on arrival, however late it ends.
- A hit compares two integers (`Entry.checked` and `Invalidations.position`). It looks closer only
  if there was a purge since this entry was last checked.

Positions alone decide; clocks are never compared. A purge also has a wall-clock time, for one
reason: a *soft* purge makes an entry stale from that time on, and the stale windows of the entry
are counted from the first soft purge that matched it.

    records    `Invalidation`: one thing that is purged
    globs      patterns with ``*``
    tables     the purges of one kind, bounded in number; `floors` takes the oldest
    state      `Invalidations`: all purges that one instance has applied
    receipts   `PurgeReceipt`: the answer to a purge
    local      `LocalLog`: the log of a single process

The stack applies and checks purges; the log of a shared layer feeds them in. Nothing here does I/O.
"""

from __future__ import annotations

from layergate.core.invalidation.globs import MAX_PATTERN_LENGTH, Glob, glob
from layergate.core.invalidation.local import LocalLog
from layergate.core.invalidation.receipts import PurgeReceipt, Scope
from layergate.core.invalidation.records import Caught, Invalidation, InvalidationKind, matcher
from layergate.core.invalidation.state import MAX_INVALIDATIONS, MAX_PATTERNS, Invalidations

__all__ = [
    "MAX_INVALIDATIONS",
    "MAX_PATTERNS",
    "MAX_PATTERN_LENGTH",
    "Caught",
    "Glob",
    "Invalidation",
    "InvalidationKind",
    "Invalidations",
    "LocalLog",
    "PurgeReceipt",
    "Scope",
    "glob",
    "matcher",
]
