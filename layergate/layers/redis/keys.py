"""Names in Redis.

What belongs to one cache key carries one *hash tag* (``{digest}``), and so lies in one slot of a
cluster: a script may touch the entry and its lease at once. What belongs to the log carries the
namespace as its tag.

Cache keys themselves never leave the process (G9): they may hold what users typed, and be long.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from layergate.core.layer import Key

__all__ = ["digest", "entry_key", "lease_key", "log_key", "waiters_key"]

_SIZE: Final = 20  # bytes: 2**80 entries before two are likely to share a digest


def digest(key: Key, secret: bytes = b"") -> bytes:
    """What ``key`` is called in Redis: 40 hex digits. With a ``secret`` (any length, empty for
    none) nobody can tell from it which key it is, not even by trying those that are likely.
    """
    if len(secret) > blake2b.MAX_KEY_SIZE:
        secret = blake2b(secret).digest()
    # "a" and b"a" are two keys.
    data = b"s" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key
    name = blake2b(data, digest_size=_SIZE, key=secret, person=b"layergate key")
    return name.hexdigest().encode()


def entry_key(namespace: bytes, name: bytes) -> bytes:
    """Where the entry of the key with digest ``name`` lies."""
    return b"%b:e:{%b}" % (namespace, name)


def lease_key(namespace: bytes, name: bytes) -> bytes:
    """Where its lease lies."""
    return b"%b:l:{%b}" % (namespace, name)


def waiters_key(namespace: bytes, name: bytes) -> bytes:
    """Which instances wait for that lease."""
    return b"%b:w:{%b}" % (namespace, name)


def log_key(namespace: bytes, part: bytes) -> bytes:
    """``part`` of the log. ``namespace`` must not contain braces."""
    return b"{%b}:%b" % (namespace, part)
