"""What a fetch brings, for whom, and what it leaves: with a shared layer, and its log, beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate.assembly import CacheStack
from tests.core.support import Source, TopLayer
from tests.support.clocks import StillRuntime
from tests.support.shared import GrantedLease, LeasedLayer
from tests.support.waiting import turns


@pytest.fixture
def runtime() -> StillRuntime:
    return StillRuntime()


@pytest.fixture
def low() -> LeasedLayer:
    return LeasedLayer(later=True)


@pytest.fixture
def stack(runtime: StillRuntime, low: LeasedLayer) -> CacheStack:
    return CacheStack([TopLayer(), low], runtime=runtime)


@pytest.fixture
def lenient(runtime: StillRuntime, low: LeasedLayer) -> CacheStack:
    """One that may use what it has for 60 s after the log was last heard."""
    return CacheStack([TopLayer(), low], runtime=runtime, stale_if_untrusted=60)


def begin(stack: CacheStack, *args: Any, **options: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(stack.get(*args, **options))


def cut_off(low: LeasedLayer, runtime: StillRuntime) -> None:
    """The log has not been heard since now."""
    low.log.trusted_until = runtime.monotonic()


# -- leases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_g2_a_lease_is_given_back_after_the_fetch(stack, low, fails: bool) -> None:
    source = Source("a")
    source.error = ValueError("no") if fails else None
    gate = source.close_gate()
    asking = begin(stack, "k", source, ttl=60)
    await turns()
    (lease,) = low.leases.granted
    assert lease.released == 0
    gate.set()
    if fails:
        with pytest.raises(ValueError, match="no"):
            await asking
    else:
        assert await asking == "a"
    await turns()
    assert lease.released == 1


async def test_g2_a_lease_is_given_back_by_a_fetch_that_is_cancelled(stack, low) -> None:
    source = Source("a")
    source.close_gate()
    asking = begin(stack, "k", source, ttl=60)
    await turns()
    (fetch,) = [task for task in asyncio.all_tasks() if task.get_name() == "layergate fetch"]
    fetch.cancel()
    await asyncio.wait([asking])
    await turns()
    assert [lease.released for lease in low.leases.granted] == [1]


async def test_g3_what_was_fetched_under_a_lease_that_another_instance_took_is_not_stored(
    stack, low
) -> None:
    source = Source("a", "b")
    low.leases.script = [lambda: GrantedLease(confirmed=False)]
    assert await stack.get("k", source, ttl=60) == "a"
    assert low.data == {}
    assert await stack.get("k", source, ttl=60) == "b"
    assert low.data["k"].value == "b"


# -- cut off from the log --------------------------------------------------------------------------


async def test_g3_cut_off_who_comes_later_does_not_take_what_was_being_fetched(
    stack, low, runtime
) -> None:
    """A purge may have become final, unheard of here, between the two."""
    source = Source("old", "new")
    gate = source.close_gate()
    first = begin(stack, "k", source, ttl=60)
    await turns()
    await runtime.advance(1)
    cut_off(low, runtime)
    source.gate = None
    later = begin(stack, "k", source, ttl=60)
    await turns()
    gate.set()
    assert (await first, await later) == ("old", "new")
    assert source.calls == 2


async def test_g3_cut_off_while_waiting_who_came_later_fetches(stack, low, runtime) -> None:
    """It joined while the log was heard; when the fetch ends, nobody can tell any more."""
    source = Source("old", "new")
    gate = source.close_gate()
    first = begin(stack, "k", source, ttl=60)
    await turns()
    await asyncio.sleep(0.001)  # (departures are on the real monotonic clock)
    later = begin(stack, "k", source, ttl=60)
    await turns()
    assert source.calls == 1
    source.gate = None
    cut_off(low, runtime)
    gate.set()
    assert (await first, await later) == ("old", "new")
    assert source.calls == 2


async def test_while_the_log_is_heard_who_comes_later_shares_the_fetch(stack, low) -> None:
    source = Source("one")
    gate = source.close_gate()
    first = begin(stack, "k", source, ttl=60)
    await turns()
    later = begin(stack, "k", source, ttl=60)
    await turns()
    gate.set()
    assert (await first, await later) == ("one", "one")
    assert source.calls == 1


async def test_cut_off_what_a_layer_brings_is_for_all_who_wait(stack, low, runtime) -> None:
    """Only a fetch has a beginning that purges may have come after."""
    await stack.set("k", "kept", ttl=60)
    await turns()
    stack.layers[0].data.clear()
    gate = low.gates["get"] = asyncio.Event()
    source = Source("fetched")
    first = begin(stack, "k", source, ttl=60)
    await turns()
    later = begin(stack, "k", source, ttl=60)
    await turns()
    cut_off(low, runtime)
    gate.set()
    assert (await first, await later) == ("kept", "kept")
    assert source.calls == 0


@pytest.mark.parametrize(
    ("window", "stands_in"), [("stale_while_revalidate", False), ("stale_if_error", True)]
)
async def test_g3_cut_off_nothing_stale_is_served_but_for_an_error(
    lenient, low, runtime, window: str, stands_in: bool
) -> None:
    """What may have been purged is not served to save time, even where it may stand in for an
    origin that fails."""
    await lenient.set("k", "old", ttl=60, **{window: 600})
    await turns()
    await runtime.advance(61)
    cut_off(low, runtime)
    source = Source()
    source.error = ValueError("no")
    asking = begin(lenient, "k", source, ttl=60)
    if stands_in:
        assert await asking == "old"
    else:
        with pytest.raises(ValueError, match="no"):
            await asking
    assert source.calls == 1


@pytest.mark.parametrize(
    ("windows", "stands_in"),
    [
        pytest.param({"stale_while_revalidate": 600}, False, id="revalidate"),
        pytest.param({"stale_while_revalidate": 600, "stale_if_error": 600}, True, id="both"),
    ],
)
async def test_g3_cut_off_nothing_stale_is_served_while_it_is_refreshed(
    lenient, low, runtime, windows: dict[str, float], stands_in: bool
) -> None:
    """A refresh began while the log was heard. Who comes later waits for an answer, or for its
    ``soft_timeout``: then what may stand in for an error may stand in."""
    await lenient.set("k", "old", ttl=60, **windows)
    await runtime.advance(61)
    source = Source("new", "newer")
    gate = source.close_gate()
    assert await begin(lenient, "k", source, ttl=60) == "old"
    cut_off(low, runtime)
    later = begin(lenient, "k", source, ttl=60, soft_timeout=5)
    await turns()
    assert not later.done()
    await runtime.advance(5)
    assert later.done() is stands_in
    source.gate = None
    gate.set()
    assert await later == ("old" if stands_in else "newer")


async def test_while_the_log_is_heard_a_stale_value_is_served_at_once(lenient, runtime) -> None:
    await lenient.set("k", "old", ttl=60, stale_while_revalidate=600)
    await runtime.advance(61)
    source = Source("new")
    source.close_gate()
    assert await begin(lenient, "k", source, ttl=60) == "old"


# -- overtaken -------------------------------------------------------------------------------------


async def test_a_fetch_does_not_wait_for_an_older_one_that_is_not_storing(stack, runtime) -> None:
    """One that hangs at its source is given up after `fetch_term`; what was fetched since is stored
    and given to its callers without waiting as long again."""
    source = Source("late", "new")
    gate = source.close_gate()
    hangs = begin(stack, "k", source, ttl=60)
    await turns()
    await runtime.advance(60)
    source.gate = None
    later = begin(stack, "k", source, ttl=60)
    await turns()
    assert later.done()
    assert await later == "new"
    gate.set()
    assert await hangs == "late"
    assert await stack.get("k") == "new"


async def test_a_fetch_waits_for_an_older_one_that_is_storing_and_writes_last(
    stack, low, runtime
) -> None:
    source = Source("old", "new")
    gate = low.gates["set"] = asyncio.Event()
    older = begin(stack, "k", source, ttl=60)
    await turns()
    assert low.calls["set"] == 1
    await runtime.advance(60)  # overdue, and so no later call waits for it
    later = begin(stack, "k", source, ttl=60)
    await turns()
    assert source.calls == 2
    assert low.calls["set"] == 1, "both write at once: nobody knows which is the last"
    gate.set()
    assert (await older, await later) == ("old", "new")
    assert (low.data["k"].value, await stack.get("k")) == ("new", "new")


async def test_a_fetch_does_not_wait_for_an_older_one_that_has_stored(stack, low, runtime) -> None:
    """The older one ended while the newer one was being fetched."""
    source = Source("old", "new")
    storing = low.gates["set"] = asyncio.Event()
    older = begin(stack, "k", source, ttl=60)
    await turns()
    await runtime.advance(60)
    fetching = source.close_gate()
    later = begin(stack, "k", source, ttl=60)
    await turns()
    assert source.calls == 2
    storing.set()
    assert await older == "old"
    fetching.set()
    await turns()
    assert later.done()
    assert await later == "new"
    assert low.data["k"].value == "new"
