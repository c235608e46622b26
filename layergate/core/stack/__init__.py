"""The layered stack: entries kept in layers, read from the top, backfilled upward, purged in order.

`Stack` knows entries, layers, and purges. `layergate.core.loader` reads *through* it (collapsed fetches,
stale windows, refreshes); `layergate.http.engine` is the HTTP cache on it.
"""

from layergate.core.invalidation import PurgeReceipt
from layergate.core.stack.base import WritePolicy
from layergate.core.stack.reading import Found
from layergate.core.stack.stack import Held, Stack

__all__ = ["Found", "Held", "PurgeReceipt", "Stack", "WritePolicy"]
