"""The conformance suites, against a system in memory. (Against Redis: `tests/layers/redis`.)"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.journal import FencingLeaseStore, Grew, Journal, LeaseStore, Subscription
from layergate.testing.journals import JournalConformance
from layergate.testing.layers import LayerConformance
from layergate.testing.leases import LeaseConformance
from layergate.testing.memory import (
    MemoryBlobs,
    MemoryJournal,
    MemoryLayer,
    MemoryLeaseStore,
    MemorySystem,
)
from tests.support.nodes import Exact


class TestJournal(JournalConformance):
    def setup_method(self) -> None:
        self.system = MemorySystem(trust=0.6)
        super().setup_method()

    def make_journal(self) -> Journal:
        return MemoryJournal(self.system, LoopRuntime())

    def lose(self) -> bool:
        self.system.lose()
        return True

    def save(self) -> Any:
        return self.system.saved()

    def restore(self, saved: Any) -> None:
        self.system.restore(saved)


class TestLeases(LeaseConformance):
    def setup_method(self) -> None:
        self.system = MemorySystem()
        super().setup_method()

    def make_store(self) -> LeaseStore:
        store: FencingLeaseStore = MemoryLeaseStore(self.system)
        return store

    async def subscribe(self, instance: bytes) -> Subscription:
        return MemoryJournal(self.system, LoopRuntime()).subscribe(instance)

    def read_blob(self, name: str) -> bytes | None:
        return MemoryBlobs(self.system, self.namespace).get_many([name])[0]


class TestLayer(LayerConformance):
    stats_keys: ClassVar[frozenset[str]] = frozenset()

    def runtime(self) -> Any:
        return LoopRuntime()

    async def make_layer(self) -> Layer:
        layer = MemoryLayer(MemorySystem())
        self.world = self.runtime()
        log, _ = layer.join(Joining(Invalidations(), self.world, Counters(), ()))
        self.log = log
        assert await log.catch_up()
        assert layer._joined is not None
        layer._joined = layer._joined._replace(positions=Exact(log))  # type: ignore[arg-type]
        return layer

    async def close_layer(self, layer: Layer) -> None:
        await self.log.leave()
        await self.world.aclose(1.0)


class TestLayerOnThreads(TestLayer):
    def runtime(self) -> Any:
        return ThreadRuntime()

    def call(self, answer: Any) -> Any:
        return run_blocking(answer) if isinstance(answer, Awaitable) else answer  # type: ignore[arg-type]


def test_a_subscription_hears_what_comes_while_it_waits() -> None:
    async def scenario() -> None:
        system = MemorySystem()
        subscription = MemoryJournal(system, LoopRuntime()).subscribe(b"me")
        waiting = asyncio.ensure_future(subscription.next(20))
        await asyncio.sleep(0)
        news = Grew(None, 0)
        with system.lock:
            system.tell(news)
        assert await waiting == news
        assert await subscription.next(0) is None
        subscription.close()

    asyncio.run(scenario())
