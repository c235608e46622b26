"""The conformance suites, against a system in memory. (Against Redis: `tests/layers/redis`.)"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar

import pytest

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.journal import (
    Addition,
    Appended,
    FencingLeaseStore,
    Grew,
    Journal,
    LeaseStore,
    Place,
    Reply,
    Status,
    Subscription,
)
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


# -- the suites find what is wrong -----------------------------------------------------------------


class _Hasty(MemoryJournal):
    """Calls each purge final at once."""

    def status(self, place: Place, record: Appended) -> Status:
        return super().status(place, record)._replace(final=True)


class _Generous(MemoryJournal):
    """Grants more trust than purges wait for."""

    def sync(self, place: Place, *, probe: bool = False) -> Reply:
        reply = super().sync(place, probe=probe)
        return reply._replace(trusted_for=reply.trusted_for * 2)


class _Forgetful(MemoryJournal):
    """Does not know what it was told to repeat."""

    def append(self, place: Place, additions: Sequence[Addition], *, probe: bool = False) -> Reply:
        fresh = [one._replace(again=b"") for one in additions]
        return super().append(place, fresh, probe=probe)


class _Gapped(MemoryJournal):
    """Leaves out a record, and says that nothing is missing."""

    def sync(self, place: Place, *, probe: bool = False) -> Reply:
        reply = super().sync(place, probe=probe)
        return reply._replace(records=[*reply.records[:1], *reply.records[2:]])


class _Trusting(MemoryJournal):
    """Takes the acknowledgement of another history."""

    def _enter(self, place: Place) -> bool:
        self._system.members.applied(place.instance, place.position)
        return super()._enter(place)


class _Careless(MemorySystem):
    """Does not wait for the trust that was granted before a loss."""

    def _forget_members(self) -> None:
        super()._forget_members()
        self.settled = float("-inf")


@pytest.mark.parametrize(
    ("journal", "test"),
    [
        (_Hasty, "test_a_purge_is_not_final_while_a_member_is_trusted_that_lacks_it"),
        (_Generous, "test_a_purge_is_not_final_while_a_member_is_trusted_that_lacks_it"),
        (_Forgetful, "test_a_repetition_is_appended_once"),
        (_Gapped, "test_a_late_reader_misses_nothing"),
        (_Trusting, "test_an_acknowledgement_counts_for_its_own_history_only"),
        (None, "test_a_lost_log_is_another_one_and_waits_for_the_trust_of_the_old"),
        (None, "test_a_log_that_was_rolled_back_does_not_give_a_position_twice"),
    ],
)
def test_a_journal_that_breaks_a_rule_fails(journal: type[MemoryJournal] | None, test: str) -> None:
    class Broken(TestJournal):
        def setup_method(self) -> None:
            super().setup_method()
            if journal is None:
                self.system = _Careless(trust=0.6)

        def make_journal(self) -> Journal:
            return (journal or MemoryJournal)(self.system, LoopRuntime())

    suite = Broken()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError):
            getattr(suite, test)()
    finally:
        suite.teardown_method()
