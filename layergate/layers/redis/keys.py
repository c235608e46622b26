"""Names of the log and the waiters in Redis, beside those of `layergate.shared.names`.

All that belongs to one cache key carries one *hash tag* (``{digest}``), and so lies in one slot of a
Cluster: a script may touch the entry and its lease at once. All that belongs to the log carries the
namespace as its tag.
"""

from __future__ import annotations

from typing import Final

__all__ = ["digest_of", "log_key", "waiters_key"]

_DIGEST: Final = 40  # characters


def digest_of(lease: str) -> str:
    """The digest in the name of a lease."""
    return lease[-_DIGEST - 1 : -1]


def waiters_key(namespace: str, digest: str) -> bytes:
    """Which instances wait for the lease of the key with this digest."""
    return f"{namespace}:w:{{{digest}}}".encode()


def log_key(namespace: str, part: str) -> bytes:
    """``part`` of the log. ``namespace`` must not contain braces."""
    return f"{{{namespace}}}:{part}".encode()
