"""Redis and Valkey as a shared layer. Needs redis and msgpack: ``pip install 'layergate[redis]'``."""

from __future__ import annotations

from layergate.core.backoff import Backoff
from layergate.layers.redis.layer import RedisLayer

__all__ = ["Backoff", "RedisLayer"]
