"""The layer that instances share, in one memcached or several."""

from __future__ import annotations

from layergate.layers.memcached.layer import MemcachedLayer

__all__ = ["MemcachedLayer"]
