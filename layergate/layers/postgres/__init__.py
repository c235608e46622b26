"""The layer that instances share, in a PostgreSQL."""

from __future__ import annotations

from layergate.layers.postgres.layer import PostgresLayer

__all__ = ["PostgresLayer"]
