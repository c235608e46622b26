"""The names under which entries and leases are kept in a shared system.

A cache key never leaves the process, because it may hold what users typed, and may be long (G9). Only
a digest of it does. `SharedLayer` and `Leases` of this package make the names; the ports get them.

The digest stands in braces. A Redis Cluster hashes only what is in the braces, so the entry and the
lease of one key lie in one slot, and one script may touch both. Other systems ignore the braces.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from layergate.core.layer import Key

__all__ = ["blob_name", "blob_prefix", "digest", "head_name", "journal_prefix", "lease_name"]

_SIZE: Final = 20  # bytes: 2**80 entries before two are likely to share a digest


def digest(key: Key, secret: bytes = b"") -> str:
    """40 hex digits that stand for ``key``.

    With a ``secret`` (of any length; b"" for none) nobody can find out which key it is, not even by
    trying likely keys.
    """
    if len(secret) > blake2b.MAX_KEY_SIZE:
        secret = blake2b(secret).digest()
    # "a" and b"a" are two keys.
    data = b"s" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key
    return blake2b(data, digest_size=_SIZE, key=secret, person=b"layergate key").hexdigest()


def blob_prefix(namespace: str) -> str:
    """What the name of every entry in ``namespace`` begins with."""
    return namespace + ":e:{"


def blob_name(namespace: str, digested: str) -> str:
    """Where the entry of the key with this digest is kept."""
    return f"{namespace}:e:{{{digested}}}"


def lease_name(namespace: str, digested: str) -> str:
    """Where the lease of the key with this digest is kept."""
    return f"{namespace}:l:{{{digested}}}"


def journal_prefix(namespace: str) -> str:
    """What the names of the cells of a log begin with (`layergate.shared.ledger`)."""
    return f"{namespace}:j"


def head_name(namespace: str) -> str:
    """The cell of a log that its instances watch."""
    return f"{journal_prefix(namespace)}:head"
