"""A journal in Redis as the conformance suite needs it, also in a process of its own."""

from __future__ import annotations

from layergate.core.events import Counters
from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.journal import RedisJournal
from layergate.runtime.loop import LoopRuntime

__all__ = ["client_of", "journal_of"]


def client_of(url: str, namespace: str) -> RedisClient:
    client = RedisClient(url, connect_timeout=5.0, timeout=5.0, namespace=namespace)
    client.bind(LoopRuntime(), Counters())
    return client


def journal_of(url: str, namespace: str) -> RedisJournal:
    return RedisJournal(
        client_of(url, namespace), namespace=namespace, max_disconnected=0.6, log_length=1000
    )
