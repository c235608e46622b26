"""A stack with a shared layer: whose log it is, and what is believed while that cannot be reached."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from layergate.assembly import CacheStack
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.shared import Joining, SharedLayer, Waited
from layergate.core.stack import Stack
from layergate.errors import ConfigError, FetchAborted
from tests.core.support import DictLayer, Source, TopLayer
from tests.support.clocks import StillRuntime
from tests.support.waiting import turns


class Log:
    """Trusted for as long as the test says."""

    def __init__(self, joining: Joining) -> None:
        self.joining = joining
        self.trusted_until = math.inf
        self.back = False  # does the next try to catch up succeed?
        self.tries = 0
        self.left = 0

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        known = self.joining.invalidations
        known.apply(known.position + 1, invalidations, time)
        return PurgeReceipt(2, 3, final=False)

    def look(self) -> bool:
        return False

    async def catch_up(self) -> bool:
        self.tries += 1
        if self.back:
            self.trusted_until = math.inf
        return self.back

    async def leave(self) -> None:
        self.left += 1

    def forked(self) -> None: ...

    def stats(self) -> Mapping[str, int | float]:
        return {"lag": 7}


class NoLeases:
    async def acquire(self, key: Any, *, wait: float, **more: Any) -> Any:
        return Waited.TIMEOUT

    async def leave(self) -> None: ...


class SharedDict(DictLayer):
    log: Log

    def join(self, joining: Joining) -> Any:
        self.log = Log(joining)
        return self.log, NoLeases()


@pytest.fixture
def runtime() -> StillRuntime:
    return StillRuntime()


@pytest.fixture
def top() -> TopLayer:
    return TopLayer()


@pytest.fixture
def low() -> SharedDict:
    return SharedDict("shared", later=True)


@pytest.fixture
def stack(runtime: StillRuntime, top: TopLayer, low: SharedDict) -> Stack:
    return Stack([top, low], runtime=runtime)


def made(stack: Stack, **windows: Any) -> Entry:
    now = stack.runtime.now()
    windows.setdefault("fresh_until", now + 60)
    return Entry("v", created=now, stamp=stack.invalidations.position, **windows)


def test_the_shared_layer_brings_the_log(stack: Stack, low: SharedDict) -> None:
    assert isinstance(low, SharedLayer)
    assert stack.shared_log is low.log
    assert stack.leases is not None
    assert stack.metrics()["invalidation"]["lag"] == 7


def test_only_one_layer_may_be_shared(runtime: StillRuntime) -> None:
    with pytest.raises(ConfigError, match=r"at most one shared layer.*\['a', 'b'\]"):
        Stack([SharedDict("a"), SharedDict("b")], runtime=runtime)


async def test_the_receipt_is_the_logs(stack: Stack) -> None:
    assert await stack.invalidate((Invalidation("tag", "t"),)) == PurgeReceipt(2, 3, final=False)


async def test_while_trusted_the_log_is_not_asked(stack: Stack, low: SharedDict) -> None:
    await stack.store("k", made(stack))
    assert stack.peek("k") is not None
    assert await stack.lookup("k") is not None
    assert low.log.tries == 0


async def test_g3_cut_off_nothing_is_fresh(stack: Stack, low: SharedDict) -> None:
    now = stack.runtime.now()
    windows = {"stale_while_revalidate": 30.0, "stale_if_error": 40.0}
    await stack.store("k", made(stack, **windows))
    low.log.trusted_until = stack.runtime.monotonic()
    assert stack.peek("k") is None
    found = await stack.lookup("k")
    assert found is not None
    assert found.layer == "top"
    entry = found.entry
    assert entry.stale_from == now and entry.fresh_until == 0.0
    assert (entry.stale_while_revalidate, entry.stale_if_error) == (0.0, 40.0)
    assert low.calls["get"] == 0  # nor is the layer asked that does not answer
    assert low.log.tries == 1
    many = await stack.lookup_many(["k", "other"])
    assert many["k"].entry.stale_from == now
    assert "other" not in many


async def test_what_was_stored_is_whole_once_the_log_is_caught_up_with(
    stack: Stack, low: SharedDict
) -> None:
    await stack.store("k", made(stack))
    low.log.trusted_until = -math.inf
    await stack.lookup("k")
    low.log.back = True
    found = await stack.lookup("k")
    assert found is not None
    assert found.entry.fresh_until == stack.runtime.now() + 60
    assert stack.peek("k") is found.entry


async def test_g3_a_purge_heard_of_late_counts(stack: Stack, low: SharedDict) -> None:
    await stack.store("k", made(stack, tags=("t",)))
    low.log.trusted_until = -math.inf
    await stack.lookup("k")
    await low.log.append((Invalidation("tag", "t"),), stack.runtime.now())
    low.log.trusted_until = math.inf
    assert stack.peek("k") is None
    assert await stack.lookup("k") is None


async def test_g3_what_is_stamped_below_the_floor_is_gone(stack: Stack) -> None:
    await stack.store("k", made(stack))
    before = stack.invalidations.position
    stack.invalidations.rise(before + 5)
    assert stack.invalidations.position == before + 5
    assert stack.peek("k") is None
    assert await stack.lookup("k") is None
    assert stack.purged_since(before, (), "k")
    await stack.store("k", made(stack))
    assert stack.peek("k") is not None


async def test_an_entry_from_an_instance_that_is_ahead_is_valid(stack: Stack) -> None:
    entry = made(stack)
    entry.stamp = entry.checked = stack.invalidations.position + 3
    await stack.store("k", entry)
    assert stack.peek("k") is not None
    # The marks up to its stamp are older than it; those after it are not.
    position = stack.invalidations.position
    stack.invalidations.apply(position + 3, (Invalidation("key", "k"),), 0.0)
    assert stack.peek("k") is not None
    stack.invalidations.apply(position + 4, (Invalidation("key", "k"),), 0.0)
    assert stack.peek("k") is None


async def test_a_layers_own_windows_cap_the_entrys(runtime: StillRuntime) -> None:
    low = DictLayer("low")
    low.stale_while_revalidate = 5.0  # type: ignore[attr-defined]
    low.stale_if_error = 100.0  # type: ignore[attr-defined]
    stack = Stack([TopLayer(), low], runtime=runtime)
    await stack.store("k", made(stack, stale_while_revalidate=50.0, stale_if_error=60.0))
    entry = low.data["k"]
    assert (entry.stale_while_revalidate, entry.stale_if_error) == (5.0, 60.0)
    assert entry.expires == entry.fresh_until + 60.0
    low.stale_if_error = 0.0  # type: ignore[attr-defined]
    await stack.store("k", made(stack, stale_while_revalidate=50.0, stale_if_error=60.0))
    assert low.data["k"].expires == entry.fresh_until + 5.0


async def test_leaving_tells_the_log(stack: Stack, low: SharedDict) -> None:
    await stack.leave()
    assert low.log.left == 1


class GrantedLease:
    """One whose key somebody else has just fetched."""

    recent = True

    def __init__(self) -> None:
        self.released = 0

    @property
    def sure(self) -> bool:
        return True

    async def confirm(self) -> bool:
        return True

    async def release(self, *, free: bool = False) -> None:
        self.released += 1


class GrantingLeases(NoLeases):
    def __init__(self) -> None:
        self.granted: list[GrantedLease] = []
        self.then: Callable[[], object] = lambda: None

    async def acquire(self, key: Any, *, wait: float, **more: Any) -> Any:
        self.granted.append(GrantedLease())
        self.then()
        return self.granted[-1]


class LeasedDict(SharedDict):
    def join(self, joining: Joining) -> Any:
        self.leases = GrantingLeases()
        return super().join(joining)[0], self.leases


async def test_a_lease_is_given_back_by_who_is_cancelled_looking_once_more(
    runtime: StillRuntime, top: TopLayer
) -> None:
    low = LeasedDict("shared", later=True)
    stack = CacheStack([top, low], runtime=runtime)
    source = Source("a")
    low.leases.then = lambda: low.gates.__setitem__("get", asyncio.Event())
    asking = asyncio.ensure_future(stack.get("k", source, ttl=60))
    await turns()
    assert low.calls["get"] == 2
    (flight,) = [task for task in asyncio.all_tasks() if task.get_name() == "layergate fetch"]
    flight.cancel()
    with pytest.raises(FetchAborted):
        await asking
    await turns()
    assert [lease.released for lease in low.leases.granted] == [1]
    assert source.calls == 0


async def test_a_lease_is_given_back_by_who_finds_what_he_wanted(
    runtime: StillRuntime, top: TopLayer
) -> None:
    low = LeasedDict("shared", later=True)
    stack = CacheStack([top, low], runtime=runtime)
    source = Source("a")

    low.leases.then = lambda: low.data.update(k=made(stack))
    assert await stack.get("k", source, ttl=60) == "v"
    await turns()
    assert [lease.released for lease in low.leases.granted] == [1]
    assert source.calls == 0
