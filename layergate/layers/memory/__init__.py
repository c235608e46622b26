"""The in-process layer: a dict with a budget in bytes and S3-FIFO eviction.

layer     `MemoryLayer`: options, reads without a lock, writes under one, fork
s3fifo    what is held, and which entry leaves when room is needed
queues    the linked nodes, the FIFO queues and the ghost queue
expiry    buckets by end of life
estimate  how many bytes a Python object takes
"""

from __future__ import annotations

from layergate.layers.memory.estimate import estimate_size
from layergate.layers.memory.layer import MemoryLayer
from layergate.layers.memory.s3fifo import OVERHEAD

__all__ = ["OVERHEAD", "MemoryLayer", "estimate_size"]
