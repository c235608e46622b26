"""The layer that instances share, in a MongoDB."""

from __future__ import annotations

from layergate.layers.mongodb.layer import MongoLayer

__all__ = ["MongoLayer"]
