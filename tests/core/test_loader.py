"""Reading through: one fetch, stale windows, refreshes, purges that no value outruns."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from layergate.assembly import CacheStack
from layergate.errors import (
    ConfigError,
    FetchAborted,
    FetchRecursion,
    FetchTimeout,
    KeyRefused,
    PartialWriteError,
    PurgeRefused,
)
from layergate.layers.memory import MemoryLayer
from tests.core.support import Boom, DictLayer, Events, Source, TopLayer
from tests.support.clocks import StillRuntime
from tests.support.waiting import turns


@pytest.fixture
def runtime() -> StillRuntime:
    return StillRuntime()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def top() -> TopLayer:
    return TopLayer()


@pytest.fixture
def low() -> DictLayer:
    return DictLayer(later=True)


@pytest.fixture(params=["one layer", "two layers", "no peek"])
def stack(request, top, low, runtime, events) -> CacheStack:
    layers = {"one layer": [top], "two layers": [top, low], "no peek": [low]}[request.param]
    return CacheStack(layers, runtime=runtime, hooks=[events])


@pytest.fixture
def two(top, low, runtime, events) -> CacheStack:
    return CacheStack([top, low], runtime=runtime, hooks=[events])


def begin(stack: CacheStack, *args, **options) -> asyncio.Task:
    return asyncio.ensure_future(stack.get(*args, **options))


def idle(stack: CacheStack) -> bool:
    return stack.metrics()["flights"] == {"under_way": 0, "refreshing": 0}


# -- values, None, misses -----------------------------------------------------------------------------


async def test_a_value_is_fetched_once_and_then_kept(stack, runtime) -> None:
    source = Source("a", "b")
    assert await stack.get("k", source, ttl=60) == "a"
    await runtime.advance(59.9)
    assert await stack.get("k", source, ttl=60) == "a"
    assert await stack.get("k") == "a"
    await runtime.advance(0.1)
    assert await stack.get("k", source, ttl=60) == "b"
    assert source.calls == 2
    assert idle(stack)


async def test_without_a_fetch_a_miss_is_the_default(stack) -> None:
    marker = object()
    assert await stack.get("k") is None
    assert await stack.get("k", default=marker) is marker
    await stack.set("k", None, ttl=60)
    assert await stack.get("k", default=marker) is None, "a cached None is not a miss"


async def test_a_fetched_none_is_kept_like_any_value(stack, runtime) -> None:
    source = Source(None, "b")
    assert await stack.get("k", source, ttl=60) is None
    await runtime.advance(59)
    assert await stack.get("k", source, ttl=60) is None
    assert source.calls == 1


async def test_a_fetched_none_has_a_lifetime_of_its_own_and_no_windows(stack, runtime) -> None:
    source = Source(None, None, "c")
    options: dict[str, Any] = {
        "ttl": 60,
        "negative_ttl": 15,
        "stale_while_revalidate": 100,
        "stale_if_error": 100,
    }
    assert await stack.get("k", source, **options) is None
    await runtime.advance(14.9)
    assert await stack.get("k", source, **options) is None
    assert source.calls == 1
    await runtime.advance(0.2)
    assert await stack.get("k", source, **options) is None
    assert source.calls == 2
    await runtime.advance(15)
    assert await stack.get("k", source, **options) == "c"
    await runtime.advance(59)
    assert await stack.get("k", source, **options) == "c"


async def test_negative_ttl_zero_keeps_no_none(stack, events) -> None:
    source = Source(None, "b")
    assert await stack.get("k", source, ttl=60, negative_ttl=0) is None
    assert events.of("refused") == [{"key": "k", "reason": "negative"}]
    assert await stack.get("k", source, ttl=60, negative_ttl=0) == "b"


async def test_without_a_fetch_a_stale_value_counts_within_its_window(stack, runtime) -> None:
    await stack.set("k", "v", ttl=10, stale_while_revalidate=5, stale_if_error=50)
    await runtime.advance(14)
    assert await stack.get("k") == "v"
    await runtime.advance(2)
    assert await stack.get("k") is None


# -- what may be a fetch --------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_worker_thread(stack) -> None:
    threads = []

    def fetch() -> str:
        threads.append(threading.get_ident())
        return "v"

    assert await stack.get("k", fetch, ttl=60) == "v"
    assert threads and threads[0] != threading.get_ident()


async def test_a_lambda_that_gives_a_coroutine_is_awaited(stack) -> None:
    async def load(number: int) -> int:
        return number

    assert await stack.get("k", lambda: load(7), ttl=60) == 7


async def test_a_fetch_runs_in_a_copy_of_the_first_callers_context(stack) -> None:
    tenant = contextvars.ContextVar("tenant", default="none")

    async def fetch() -> str:
        seen = tenant.get()
        tenant.set("changed")
        return seen

    tenant.set("mine")
    assert await stack.get("k", fetch, ttl=60) == "mine"
    assert tenant.get() == "mine"


# -- one fetch (G2) ----------------------------------------------------------------------------------------


async def test_g2_ten_thousand_at_once_cost_one_fetch() -> None:
    stack = CacheStack([MemoryLayer("1MB"), DictLayer(later=True)])
    source = Source("v")
    gate = source.close_gate()
    calls = [begin(stack, "k", source, ttl=60) for _ in range(10_000)]
    await turns()
    assert source.calls == 1
    gate.set()
    assert set(await asyncio.gather(*calls)) == {"v"}
    assert source.calls == 1
    assert stack.metrics()["events"]["collapsed"] == 9_999
    assert idle(stack)


async def test_g2_slow_layers_let_no_second_fetch_slip_in(two, low) -> None:
    """The lookup is part of the flight: it cannot miss, wait, and then fetch beside another."""
    source = Source("a", "b")
    low.gates["get"] = asyncio.Event()
    first = begin(two, "k", source, ttl=60)
    await turns()
    second = begin(two, "k", source, ttl=60)
    await turns()
    assert low.calls["get"] == 1
    low.gates.pop("get").set()
    assert await first == await second == "a"
    assert source.calls == 1


async def test_different_keys_do_not_wait_for_each_other(stack) -> None:
    slow, quick = Source("slow"), Source("quick")
    gate = slow.close_gate()
    waiting = begin(stack, "a", slow, ttl=60)
    await turns()
    assert await stack.get("b", quick, ttl=60) == "quick"
    gate.set()
    assert await waiting == "slow"


async def test_g2_a_cancelled_leader_leaves_the_flight_intact(stack) -> None:
    source = Source("v")
    gate = source.close_gate()
    leader = begin(stack, "k", source, ttl=60)
    await turns()
    follower = begin(stack, "k", source, ttl=60)
    await turns()
    leader.cancel()
    await turns()
    assert leader.cancelled() and source.running == 1
    gate.set()
    assert await follower == "v"
    assert await stack.get("k") == "v"
    assert source.calls == 1


async def test_g2_a_leader_alone_that_is_cancelled_still_fills_the_cache(stack) -> None:
    source = Source("v")
    gate = source.close_gate()
    leader = begin(stack, "k", source, ttl=60)
    await turns()
    leader.cancel()
    gate.set()
    await turns()
    assert await stack.get("k") == "v"
    assert idle(stack)


async def test_g2_a_cancelled_follower_leaves_no_waiter(stack) -> None:
    source = Source("v")
    gate = source.close_gate()
    leader = begin(stack, "k", source, ttl=60)
    await turns()
    followers = [begin(stack, "k", source, ttl=60) for _ in range(5)]
    await turns()
    flight = stack._fetches.table.get("k")
    assert flight.pulse.waiting == 6
    for follower in followers:
        follower.cancel()
    await turns()
    assert flight.pulse.waiting == 1
    gate.set()
    assert await leader == "v"


async def test_an_exception_reaches_all_and_is_not_kept(stack, events) -> None:
    source = Source("a", "b")
    source.error = Boom("first")
    gate = source.close_gate()
    calls = [begin(stack, "k", source, ttl=60) for _ in range(3)]
    await turns()
    gate.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [Boom] * 3
    assert [error.args for error in errors] == [("first",)] * 3
    assert len({id(error) for error in errors}) == 3, "each caller raises its own"
    assert source.calls == 1 and len(events.of("fetch_error")) == 1
    source.error = None
    assert await stack.get("k", source, ttl=60) == "b"


async def test_an_exception_that_cannot_be_copied_collects_no_tracebacks(two) -> None:
    class Awkward(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__("awkward")
            self.code = code

    source = Source()
    source.error = Awkward(code=3)
    gate = source.close_gate()
    calls = [begin(two, "k", source, ttl=60) for _ in range(50)]
    await turns()
    gate.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {getattr(error, "code", None) for error in errors} == {3}
    depth, trace = 0, errors[0].__traceback__
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next
    assert depth < 15


async def test_a_cause_survives_the_copy(two) -> None:
    async def fetch() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise Boom("outer") from error

    with pytest.raises(Boom) as caught:
        await two.get("k", fetch, ttl=60)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "fetch" in [entry.name for entry in caught.traceback]


async def test_a_fetch_that_is_cancelled_from_within_raises_fetch_aborted(stack) -> None:
    source = Source()
    source.error = asyncio.CancelledError()
    with pytest.raises(FetchAborted):
        await stack.get("k", source, ttl=60)
    assert idle(stack)


async def test_g2_followers_of_an_aborted_fetch_fetch_themselves(stack) -> None:
    dying, living = Source(), Source("v")
    dying.error = asyncio.CancelledError()
    gate = dying.close_gate()
    leader = begin(stack, "k", dying, ttl=60)
    await turns()
    follower = begin(stack, "k", living, ttl=60)
    await turns()
    gate.set()
    assert await follower == "v"
    with pytest.raises(FetchAborted):
        await leader


async def test_closing_releases_every_caller(stack) -> None:
    source = Source("v")
    source.close_gate()
    calls = [begin(stack, "k", source, ttl=60) for _ in range(3)]
    await turns()
    await stack.aclose(0.01)
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(result) for result in results} == {FetchAborted}
    assert idle(stack)


async def test_waiters_beyond_the_cap_fetch_for_themselves(top, runtime, events) -> None:
    stack = CacheStack([top], runtime=runtime, hooks=[events], max_waiters=2)
    source = Source("a", "b", "c")
    gate = source.close_gate()
    calls = []
    for _ in range(4):
        calls.append(begin(stack, "k", source, ttl=60))
        await turns()
    assert source.calls == 3
    assert len(events.of("bypass")) == 2
    gate.set()
    assert await asyncio.gather(*calls) == ["a", "a", "b", "c"]
    assert await stack.get("k") == "a"


async def test_g2_a_flight_that_never_lands_is_given_up(stack, runtime, events) -> None:
    hung, source = Source("late"), Source("v")
    gate = hung.close_gate()
    first = begin(stack, "k", hung, ttl=600)
    await turns()
    await runtime.advance(59)
    second = begin(stack, "k", source, ttl=600)
    await turns()
    assert source.calls == 0
    await runtime.advance(1)
    assert await stack.get("k", source, ttl=600) == "v"
    gate.set()
    assert await first == "late" and await second == "late"
    await turns()
    assert await stack.get("k") == "v", "what was given up is not stored"
    assert events.of("refused") == [{"key": "k", "reason": "superseded"}]


# -- recursion -------------------------------------------------------------------------------------------


async def test_a_fetch_that_asks_for_its_own_key_is_told(stack) -> None:
    async def fetch() -> object:
        return await stack.get("k", fetch, ttl=60)

    with pytest.raises(FetchRecursion, match="'k'"):
        await asyncio.wait_for(stack.get("k", fetch, ttl=60), 5)
    assert idle(stack)


async def test_fetches_that_wait_for_each_other_in_a_circle_are_told(stack) -> None:
    both = asyncio.Event()
    begun = []

    def asks(key: str):
        async def fetch() -> object:
            begun.append(key)
            if len(begun) == 2:
                both.set()
            await both.wait()
            return await stack.get(key, Source("never"), ttl=60)

        return fetch

    calls = [begin(stack, "a", asks("b"), ttl=60), begin(stack, "b", asks("a"), ttl=60)]
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert any(isinstance(result, FetchRecursion) for result in results)
    assert idle(stack)


async def test_a_fetch_may_read_other_keys(stack) -> None:
    part = Source("part")

    async def whole() -> str:
        parts = await asyncio.gather(
            stack.get("p", part, ttl=60), stack.get("p", part, ttl=60), stack.get("q", part, ttl=60)
        )
        return "+".join(str(each) for each in parts)

    assert await stack.get("w", whole, ttl=60) == "part+part+2"


# -- purges (G3) --------------------------------------------------------------------------------------------


async def purge_by(stack: CacheStack, how: str) -> None:
    if how == "delete":
        await stack.delete("key")
    elif how == "tag":
        await stack.invalidate_by_tag("t", "other")
    elif how == "pattern":
        await stack.invalidate_by_pattern("k*")
    elif how == "soft tag":
        await stack.invalidate_by_tag("t", soft=True)
    elif how == "soft pattern":
        await stack.invalidate_by_pattern("*y", soft=True)
    elif how == "set":
        await stack.set("key", "set", ttl=60, tags=["t"])
    else:
        await stack.clear()


HOW = ["delete", "tag", "pattern", "clear", "soft tag", "soft pattern"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("tags", [["t"], lambda value: ["t"]], ids=["listed", "computed"])
async def test_g3_who_comes_after_a_purge_gets_nothing_older(stack, how, tags) -> None:
    source = Source("before", "after")
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60, tags=tags)
    await turns()
    joined = begin(stack, "key", source, ttl=60, tags=tags)
    await turns()
    await purge_by(stack, how)
    late = [begin(stack, "key", source, ttl=60, tags=tags) for _ in range(3)]
    await turns()
    gate.set()
    assert await early == await joined == "before"
    assert await asyncio.gather(*late) == ["after"] * 3
    assert source.calls == 2
    await turns()
    assert await stack.get("key", source, ttl=60) == "after"
    assert idle(stack)


@pytest.mark.parametrize("how", HOW)
async def test_g3_a_purge_while_nobody_else_asks_leaves_nothing_stored(stack, how, events) -> None:
    source = Source("before", "after")
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60, tags=["t"])
    await turns()
    await purge_by(stack, how)
    gate.set()
    assert await early == "before"
    if not how.startswith("soft"):
        assert events.of("refused") == [{"key": "key", "reason": "purged"}]
    assert await stack.get("key", source, ttl=60) == "after"


async def test_g3_a_purge_of_something_else_costs_no_second_fetch(stack) -> None:
    source = Source("v")
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60, tags=["t"])
    await turns()
    await stack.invalidate_by_tag("other")
    await stack.invalidate_by_pattern("other*")
    await stack.delete("other")
    late = begin(stack, "key", source, ttl=60, tags=["t"])
    await turns()
    gate.set()
    assert await early == await late == "v"
    assert source.calls == 1


async def test_g3_purges_that_go_on_do_not_starve_a_caller(stack) -> None:
    source = Source()
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60, tags=["t"])
    await turns()
    await stack.invalidate_by_tag("t")
    late = begin(stack, "key", source, ttl=60, tags=["t"])
    await turns()
    gate.set()
    gate = source.close_gate()
    for _ in range(3):
        await turns()
        await stack.invalidate_by_tag("t")
    gate.set()
    assert await early == 1
    assert await late == 2, "its own fetch began after it came; later purges are not its business"


@pytest.mark.parametrize("how", ["delete", "pattern", "clear", "soft pattern"])
async def test_g3_who_comes_after_a_purge_does_not_wait_for_what_it_will_not_take(
    stack, how
) -> None:
    source = Source("before", "after")
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60)
    await turns()
    await purge_by(stack, how)
    source.gate = None
    assert await asyncio.wait_for(stack.get("key", source, ttl=60), 5) == "after"
    gate.set()
    assert await early == "before"
    await turns()
    assert await stack.get("key") == "after"


async def test_g3_a_lookup_in_a_lower_layer_is_overtaken_by_a_purge(two, top, low) -> None:
    await two.set("key", "old", ttl=60, tags=["t"])
    top.data.clear()
    top.gates["set"] = asyncio.Event()
    source = Source("new")
    early = begin(two, "key", source, ttl=60, tags=["t"])
    await turns()  # found below, being copied up
    await two.invalidate_by_tag("t")
    late = begin(two, "key", source, ttl=60, tags=["t"])
    await turns()
    assert source.calls == 0 and two.metrics()["events"]["collapsed"] == 1
    top.gates.pop("set").set()
    # It began before the purge and might have had the old one; but it was found out in time.
    assert await early == "new"
    assert await late == "new"
    assert await two.get("key") == "new"


async def test_a_set_is_the_last_word_over_a_fetch_that_began_before(stack) -> None:
    source = Source("fetched")
    gate = source.close_gate()
    early = begin(stack, "key", source, ttl=60)
    await turns()
    assert await stack.set("key", "set", ttl=60)
    gate.set()
    assert await early == "fetched"
    await turns()
    assert await stack.get("key") == "set"


async def test_a_set_is_the_last_word_over_a_write_under_way(two, low) -> None:
    low.gates["set"] = asyncio.Event()
    early = begin(two, "key", Source("fetched"), ttl=60)
    await turns()
    gate = low.gates.pop("set")
    assert await two.set("key", "set", ttl=60)
    gate.set()
    await early
    assert await two.get("key") != "fetched"


async def test_a_soft_purge_serves_stale_within_the_windows_only(stack, runtime) -> None:
    source = Source("a", "b", "c")
    options: dict[str, Any] = {"ttl": 60, "tags": ["t"], "stale_while_revalidate": 10}
    await stack.get("k", source, **options)
    await stack.invalidate_by_tag("t", soft=True)
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert await stack.get("k", source, **options) == "b"
    await stack.invalidate_by_tag("t", soft=True)
    await runtime.advance(10)
    assert await stack.get("k", source, **options) == "c"


async def test_a_purge_must_name_something_that_can_be_purged(stack) -> None:
    with pytest.raises(PurgeRefused):
        await stack.invalidate_by_tag()
    for bad in ("", "x" * 257, 7, None):
        with pytest.raises(KeyRefused):
            await stack.invalidate_by_tag(bad)
    with pytest.raises(KeyRefused):
        await stack.invalidate_by_pattern("")
    receipt = await stack.invalidate_by_tag(*[f"t{number}" for number in range(200)])
    assert receipt[:4] == (1, 1, True, "process")


# -- stale-while-revalidate ------------------------------------------------------------------------------------


async def test_stale_at_once_and_one_refresh_behind_it(stack, runtime, events) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(60)
    gate = source.close_gate()
    for _ in range(5):
        assert await stack.get("k", source, **options) == "a"
    await turns()
    assert source.calls == 2
    assert len(events.of("refresh")) == 1
    assert len(events.of("stale")) == 5
    assert stack.metrics()["flights"]["refreshing"] == 1
    gate.set()
    await turns()
    assert await stack.get("k", source, **options) == "b"
    assert source.calls == 2
    assert idle(stack)


async def test_after_the_window_the_caller_waits(stack, runtime) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(90)
    gate = source.close_gate()
    waiting = begin(stack, "k", source, **options)
    await turns()
    assert not waiting.done()
    gate.set()
    assert await waiting == "b"


async def test_a_refresh_under_way_when_the_window_ends_is_waited_for(stack, runtime) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(89)
    gate = source.close_gate()
    assert await stack.get("k", source, **options) == "a"
    await runtime.advance(1)
    waiting = begin(stack, "k", source, **options)
    await turns()
    assert not waiting.done()
    gate.set()
    assert await waiting == "b"
    assert source.calls == 2


async def test_a_refresh_that_fails_is_logged_and_the_stale_value_stays(
    stack, runtime, events, caplog
) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(60)
    source.error = Boom("down")
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert "background refresh of 'k' failed" in caplog.text
    assert len(events.of("fetch_error")) == 1
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert idle(stack)


async def test_a_hard_purge_during_a_refresh_takes_the_stale_value_away(stack, runtime) -> None:
    source = Source("a", "b", "c")
    options: dict[str, Any] = {
        "ttl": 60,
        "stale_while_revalidate": 30,
        "stale_if_error": 30,
        "tags": ["t"],
    }
    await stack.get("k", source, **options)
    await runtime.advance(60)
    gate = source.close_gate()
    assert await stack.get("k", source, **options) == "a"
    await turns()
    await stack.invalidate_by_tag("t")
    late = begin(stack, "k", source, **options)
    await turns()
    gate.set()
    assert await late == "c"


async def test_refreshes_beyond_the_cap_are_skipped(top, runtime, events) -> None:
    stack = CacheStack([top], runtime=runtime, hooks=[events], max_refreshes=2)
    source = Source()
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    keys = ["a", "b", "c"]
    for key in keys:
        await stack.get(key, source, **options)
    await runtime.advance(60)
    gate = source.close_gate()
    assert [await stack.get(key, source, **options) for key in keys] == [1, 2, 3]
    await turns()
    assert source.calls == 5
    assert events.of("refresh_skipped") == [{"key": "c", "reason": "too many"}]
    gate.set()
    await turns()
    assert idle(stack)


async def test_refreshes_beyond_the_cap_are_skipped_below_too(low, runtime, events) -> None:
    stack = CacheStack([low], runtime=runtime, hooks=[events], max_refreshes=0)
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(60)
    assert await stack.get("k", source, **options) == "a"
    assert source.calls == 1 and len(events.of("refresh_skipped")) == 1
    assert idle(stack)


async def test_a_refresh_takes_what_a_lower_layer_has_fresh(runtime, events) -> None:
    top, low = TopLayer(), DictLayer(later=True)
    stack = CacheStack([top, low], runtime=runtime, hooks=[events])
    source = Source("a")
    options: dict[str, Any] = {"ttl": {"top": 30, "low": 600}, "stale_while_revalidate": 30}
    await stack.get("k", source, **options)
    await runtime.advance(40)
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert source.calls == 1
    assert top.data["k"].fresh_until == runtime.time + 30
    assert low.data["k"].fresh_until == runtime.time + 560


# -- stale-if-error ----------------------------------------------------------------------------------------------


async def test_an_error_gives_the_stale_value_within_the_window(stack, runtime, events) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 300}
    await stack.get("k", source, **options)
    source.error = Boom("down")
    await runtime.advance(359)
    gate = source.close_gate()
    calls = [begin(stack, "k", source, **options) for _ in range(3)]
    await turns()
    assert not any(call.done() for call in calls), "it is tried first"
    gate.set()
    assert await asyncio.gather(*calls) == ["a"] * 3
    assert events.of("stale") == [{"key": "k", "reason": "stale-if-error"}] * 3
    await runtime.advance(1)
    with pytest.raises(Boom):
        await stack.get("k", source, **options)


async def test_cancellation_is_no_error_to_hide(stack, runtime) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 300}
    await stack.get("k", source, **options)
    await runtime.advance(60)
    source.error = asyncio.CancelledError()
    with pytest.raises(FetchAborted):
        await stack.get("k", source, **options)


async def test_a_purged_value_is_no_help_against_an_error(stack, runtime) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 300, "tags": ["t"]}
    await stack.get("k", source, **options)
    await runtime.advance(60)
    source.error = Boom("down")
    gate = source.close_gate()
    waiting = begin(stack, "k", source, **options)
    await turns()
    await stack.invalidate_by_tag("t")
    gate.set()
    with pytest.raises(Boom):
        await waiting


async def test_a_forced_fetch_that_fails_falls_back_too(stack, runtime) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 300}
    await stack.get("k", source, **options)
    await runtime.advance(61)
    source.error = Boom("down")
    assert await stack.get("k", source, **options, force=True) == "a"
    await stack.delete("k")
    with pytest.raises(Boom):
        await stack.get("k", source, **options, force=True)


# -- timeouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["stale_while_revalidate", "stale_if_error"])
async def test_a_slow_fetch_gives_the_stale_value_and_goes_on(
    stack, runtime, events, window
) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": 60, "soft_timeout": 0.2, window: 100}
    await stack.get("k", source, **options)
    await runtime.advance(61)
    gate = source.close_gate()
    waiting = begin(stack, "k", source, **options, force=window == "stale_while_revalidate")
    await turns()
    await runtime.advance(0.1)
    assert not waiting.done()
    await runtime.advance(0.2)
    assert await waiting == "a"
    assert events.of("soft_timeout") == [{"key": "k"}]
    gate.set()
    await turns()
    assert await stack.get("k") == "b"


async def test_a_slow_fetch_with_nothing_stale_is_waited_for(stack, runtime) -> None:
    source = Source("a")
    gate = source.close_gate()
    waiting = begin(stack, "k", source, ttl=60, soft_timeout=0.2)
    await turns()
    await runtime.advance(5)
    assert not waiting.done()
    gate.set()
    assert await waiting == "a"


async def test_a_callers_timeout_is_its_own(stack, runtime, events) -> None:
    source = Source("a")
    gate = source.close_gate()
    hasty = begin(stack, "k", source, ttl=60, timeout=1)
    await turns()
    patient = begin(stack, "k", source, ttl=60)
    await turns()
    await runtime.advance(0.9)
    assert not hasty.done()
    await runtime.advance(0.2)
    with pytest.raises(FetchTimeout, match="'k' within 1"):
        await hasty
    assert isinstance(hasty.exception(), TimeoutError)
    assert len(events.of("wait_timeout")) == 1
    assert stack._fetches.table.get("k").pulse.waiting == 1
    gate.set()
    assert await patient == "a"


async def test_a_timeout_gives_the_stale_value_of_the_error_window(stack, runtime) -> None:
    source = Source("a")
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 100, "timeout": 2, "soft_timeout": 3}
    await stack.get("k", source, **options)
    await runtime.advance(61)
    source.close_gate()
    waiting = begin(stack, "k", source, **options)
    await turns()
    await runtime.advance(2)
    assert await waiting == "a"
    await stack.aclose(0)


# -- refresh ahead, jitter, force ---------------------------------------------------------------------------------------


async def test_a_late_hit_starts_one_refresh(stack, runtime, events) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": 100, "refresh_ahead": 0.8}
    await stack.get("k", source, **options)
    await runtime.advance(79)
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert source.calls == 1
    await runtime.advance(1)
    gate = source.close_gate()
    for _ in range(3):
        assert await stack.get("k", source, **options) == "a"
    await turns()
    assert source.calls == 2
    assert events.of("refresh") == [{"key": "k", "reason": "ahead"}]
    gate.set()
    await turns()
    assert await stack.get("k", source, **options) == "b"
    assert (await stack.lookup("k")).entry.fresh_until == runtime.time + 100


async def test_a_copy_with_a_short_life_is_late_by_the_life_of_the_whole(runtime) -> None:
    top = TopLayer()
    stack = CacheStack([top, DictLayer()], runtime=runtime)
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": {"top": 10, "low": 100}, "refresh_ahead": 0.8}
    await stack.get("k", source, **options)
    await runtime.advance(9)
    assert await stack.get("k", source, **options) == "a"
    await turns()
    assert source.calls == 1


async def test_jitter_only_shortens(stack, top, low, runtime) -> None:
    lifetimes = set()
    for dice in (0.0, 0.5, 0.999999):
        runtime.dice = dice
        await stack.get(f"k{dice}", Source("v"), ttl=100, jitter=0.1)
        found = await stack.lookup(f"k{dice}")
        lifetimes.add(round(found.entry.fresh_until - runtime.time, 3))
    assert lifetimes == {100.0, 95.0, 90.0}


async def test_jitter_shortens_the_caps_of_layers_too(two, top, low, runtime) -> None:
    runtime.dice = 0.5
    await two.set("k", "v", ttl={"top": 10, "low": 100}, jitter=0.2)
    assert round(top.data["k"].fresh_until - runtime.time, 3) == 9.0
    assert round(low.data["k"].fresh_until - runtime.time, 3) == 90.0


async def test_force_fetches_in_any_case_and_with_a_fetch_of_its_own(stack, runtime) -> None:
    source = Source("a", "b", "c")
    await stack.get("k", source, ttl=60)
    assert await stack.get("k", source, ttl=60, force=True) == "b"
    assert await stack.get("k", source, ttl=60) == "b"
    old = Source("old")
    gate = old.close_gate()
    early = begin(stack, "k", old, ttl=60, force=True)
    await turns()
    assert await stack.get("k", source, ttl=60, force=True) == "c"
    gate.set()
    assert await early == "old"
    await turns()
    assert await stack.get("k") == "c", "a fetch that began before does not undo a forced one"


async def test_force_waits_for_a_write_under_way_and_writes_last(two, low) -> None:
    low.gates["set"] = asyncio.Event()
    early = begin(two, "k", Source("old"), ttl=60)
    await turns()
    late = begin(two, "k", Source("new"), ttl=60, force=True)
    await turns()
    low.gates.pop("set").set()
    assert await early == "old" and await late == "new"
    assert await two.get("k") == "new"
    assert low.data["k"].value == "new"


# -- failing layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["best-effort", "strict"])
async def test_g5_a_read_never_fails_because_a_layer_did(top, low, runtime, policy) -> None:
    stack = CacheStack([top, low], runtime=runtime, write_policy=policy)
    for layer in (top, low):
        layer.fail |= {"peek", "get", "get_many", "set", "delete"}
    source = Source("a", "b")
    assert await stack.get("k", source, ttl=60) == "a"
    assert await stack.get("k", source, ttl=60) == "b"
    assert await stack.mget(["k"], lambda keys: dict.fromkeys(keys, "m"), ttl=60) == {"k": "m"}
    assert idle(stack)


async def test_strict_is_about_what_is_written_on_purpose(top, low, runtime) -> None:
    stack = CacheStack([top, low], runtime=runtime, write_policy="strict")
    low.fail.add("set")
    with pytest.raises(PartialWriteError):
        await stack.set("k", "v", ttl=60)
    failing = DictLayer("failing")
    failing.fail.add("set")
    good = DictLayer("good")
    best_effort = CacheStack([good, failing], runtime=runtime)
    assert await best_effort.set("k", "v", ttl=60)
    assert await best_effort.get("k") == "v"


async def test_a_layer_belongs_to_one_stack(top, low, runtime) -> None:
    """Its entries' stamps are positions in that stack's log of purges."""
    stack = CacheStack([top, low], runtime=runtime)
    with pytest.raises(ConfigError, match="'top' is already in another"):
        CacheStack([top], runtime=runtime)
    assert await stack.get("k") is None


# -- tags and limits ------------------------------------------------------------------------------------------------------------


async def test_tags_may_be_computed_from_the_value(stack) -> None:
    source = Source({"id": 7}, {"id": 8})
    tags = lambda user: ["user", f"user:{user['id']}"]  # noqa: E731
    assert await stack.get("k", source, ttl=60, tags=tags) == {"id": 7}
    await stack.invalidate_by_tag("user:8")
    assert await stack.get("k") == {"id": 7}
    await stack.invalidate_by_tag("user:7")
    assert await stack.get("k") is None


@pytest.mark.parametrize("tags", [[str(n) for n in range(65)], ["x" * 257], [""], "user", [7]])
async def test_tags_that_cannot_be_are_refused(stack, tags, events) -> None:
    with pytest.raises(KeyRefused):
        await stack.get("k", Source("v"), ttl=60, tags=tags)
    with pytest.raises(KeyRefused):
        await stack.set("k", "v", ttl=60, tags=tags)
    # Computed ones depend on the data: the value is given, but not stored where no purge finds it.
    assert await stack.get("k", Source("v"), ttl=60, tags=lambda value: tags) == "v"
    assert events.of("refused") == [{"key": "k", "reason": "tags"}]
    assert await stack.get("k") is None
    assert idle(stack)


async def test_tags_at_the_limit_are_purged_by(stack) -> None:
    """64 different tags, each up to 256 characters; one that is named twice counts once."""
    tags = [*(str(n) for n in range(62)), "x" * 256, "y", "y"]
    await stack.get("k", Source("v"), ttl=60, tags=tags)
    assert await stack.get("k") == "v"
    await stack.invalidate_by_tag("x" * 256)
    assert await stack.get("k") is None


async def test_a_tag_function_that_raises_is_a_failed_fetch(stack) -> None:
    with pytest.raises(TypeError):
        await stack.get("k", Source(None), ttl=60, tags=lambda user: [user["id"]])
    assert idle(stack)


@pytest.mark.parametrize("key", ["", b"", 7, None, ["k"], "x" * 4097, "é" * 2049, b"x" * 4097])
async def test_keys_that_cannot_be_are_refused(stack, key) -> None:
    for call in (
        stack.get(key),
        stack.get(key, Source("v"), ttl=60),
        stack.set(key, "v", ttl=60),
        stack.delete(key),
        stack.mget([key]),
        stack.mget([key], lambda keys: {}, ttl=60),
    ):
        with pytest.raises(KeyRefused):
            await call


async def test_keys_at_the_limit_and_of_bytes_work(stack) -> None:
    for key in ("x" * 4096, "é" * 2048, b"x" * 4096, "\ud800"):
        assert await stack.get(key, Source("v"), ttl=60) == "v"
        assert await stack.get(key) == "v"
        assert await stack.delete(key) is True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": "60"},
        {"ttl": True},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"ttl": {}},
        {"ttl": {"nope": 3}},
        {"ttl": {"top": 0}},
        {"ttl": 60, "stale_while_revalidate": -1},
        {"ttl": 60, "stale_if_error": None},
        {"ttl": 60, "negative_ttl": -1},
        {"ttl": 60, "jitter": 1},
        {"ttl": 60, "jitter": "a"},
        {"ttl": 60, "refresh_ahead": 0},
        {"ttl": 60, "refresh_ahead": 1},
        {"ttl": 60, "soft_timeout": -0.1},
        {"ttl": 60, "timeout": 0},
        {"ttl": 60, "force": "yes"},
    ],
)
async def test_options_that_cannot_work_are_refused(two, options) -> None:
    """By name, with the value and what to write instead."""
    wrong = next(iter({name: value for name, value in options.items() if value != 60} or ["ttl"]))
    source = Source("v")
    with pytest.raises(ConfigError, match=rf"^{wrong}.* (must|got) .*; |^ttl must name") as caught:
        await two.get("k", source, **options)
    assert source.calls == 0
    if options:
        assert repr(options[wrong]) in str(caught.value) or "top" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 2**31},
        {"ttl": 60, "stale_while_revalidate": 2**31, "stale_if_error": 0},
        {"ttl": 60, "negative_ttl": 0, "jitter": 0, "soft_timeout": 0},
        {"ttl": 60, "jitter": 0.99, "refresh_ahead": 0.01, "timeout": 0.1, "force": True},
    ],
)
async def test_options_at_their_limits_are_taken(two, options) -> None:
    assert await two.get("k", Source("v"), **options) == "v"


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"ttl": 2**31 + 1}, "more than 0 and at most"),
        ({"ttl": 60, "stale_if_error": 2**31 + 1}, "at least 0 and at most"),
        ({"ttl": 60, "timeout": 0}, "more than 0 and at most"),
        ({"ttl": 60, "jitter": 1}, "at least 0 and less than 1"),
        ({"ttl": 60, "refresh_ahead": 0}, "more than 0 and less than 1"),
    ],
)
async def test_a_refused_option_says_which_values_are_taken(two, options, bound) -> None:
    with pytest.raises(ConfigError, match=bound):
        await two.get("k", Source("v"), **options)


async def test_a_fetch_must_be_callable(two) -> None:
    with pytest.raises(ConfigError, match="fetch"):
        await two.get("k", 7, ttl=60)
    with pytest.raises(ConfigError, match="fetch_many"):
        await two.mget(["k"], 7, ttl=60)
    with pytest.raises(TypeError, match="mapping"):
        await two.mget(["k"], lambda keys: ["v"], ttl=60)


async def test_a_lifetime_may_be_the_stacks_or_the_layers(runtime) -> None:
    stack: Any = CacheStack([TopLayer()], runtime=runtime, ttl=30)
    await stack.set("k", "v")
    assert stack.peek("k").fresh_until == runtime.time + 30
    layered: Any = CacheStack([TopLayer(ttl=10), DictLayer(ttl=100)], runtime=runtime)
    await layered.set("k", "v")
    assert layered.peek("k").fresh_until == runtime.time + 10
    assert layered.layers[1].data["k"].fresh_until == runtime.time + 100


async def test_a_lifetime_per_layer(two, top, low, runtime) -> None:
    source = Source("a", "b")
    options: dict[str, Any] = {"ttl": {"top": 30, "low": 600}}
    assert await two.get("k", source, **options) == "a"
    await runtime.advance(40)
    assert await two.get("k", source, **options) == "a"
    assert top.data["k"].fresh_until == runtime.time + 30, "the copy up is capped again"
    await runtime.advance(560)
    assert await two.get("k", source, **options) == "b"


# -- many at once ------------------------------------------------------------------------------------------------------------------


class Many:
    def __init__(self, **values) -> None:
        self.values = values
        self.asked: list[list] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self, keys: list) -> dict:
        self.asked.append(keys)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


async def test_mget_asks_each_layer_once_and_the_source_once(two, top, low) -> None:
    many = Many(b=2, c=3)
    await two.set("a", 1, ttl=60)
    top.calls.clear()
    low.calls.clear()
    assert await two.mget(["c", "a", "b", "a"], many, ttl=60) == {"c": 3, "a": 1, "b": 2}
    assert many.asked == [["c", "b"]]
    assert (top.calls["get_many"], low.calls["get_many"]) == (1, 1)
    assert top.calls["get"] == low.calls["get"] == 0
    assert list(await two.mget(["b", "a", "c"])) == ["b", "a", "c"]
    assert await two.mget(["x", "a"]) == {"a": 1}
    assert idle(two)


async def test_mget_of_one_key_that_is_left_out_ends(stack) -> None:
    many = Many()
    assert await asyncio.wait_for(stack.mget(["a"], many, ttl=60), 5) == {}
    assert await stack.mget([], many, ttl=60) == {}
    assert many.asked == [["a"]]
    assert idle(stack)


async def test_mget_keeps_what_is_left_out_as_none_if_asked_to(stack) -> None:
    many = Many(a=1)
    options: dict[str, Any] = {"ttl": 60, "negative_ttl": 15}
    assert await stack.mget(["a", "b"], many, **options) == {"a": 1, "b": None}
    assert await stack.mget(["a", "b"], many, **options) == {"a": 1, "b": None}
    assert many.asked == [["a", "b"]]
    assert await stack.get("b", default="none") is None


async def test_mget_and_get_share_their_flights(stack) -> None:
    many, source = Many(a=1, b=2), Source("source")
    many.gate = asyncio.Event()
    gate = source.close_gate()
    bulk = asyncio.ensure_future(stack.mget(["a", "b"], many, ttl=60))
    await turns()
    single = begin(stack, "a", source, ttl=60)
    other = begin(stack, "c", source, ttl=60)
    await turns()
    second = asyncio.ensure_future(stack.mget(["b", "c", "d"], many, ttl=60))
    await turns()
    assert many.asked == [["a", "b"], ["d"]]
    many.gate.set()
    gate.set()
    assert await bulk == {"a": 1, "b": 2}
    assert await single == 1
    assert await other == "source"
    assert await second == {"b": 2, "c": "source"}
    assert source.calls == 1


async def test_a_get_whose_key_a_bulk_fetch_leaves_out_fetches_itself(stack) -> None:
    many, source = Many(), Source("own")
    many.gate = asyncio.Event()
    bulk = asyncio.ensure_future(stack.mget(["a", "b"], many, ttl=60))
    await turns()
    single = begin(stack, "a", source, ttl=60)
    await turns()
    many.gate.set()
    assert await bulk == {}
    assert await single == "own"


async def test_mget_serves_stale_and_refreshes_in_one_call(stack, runtime) -> None:
    many = Many(a=1, b=2)
    options: dict[str, Any] = {"ttl": 60, "stale_while_revalidate": 30}
    await stack.mget(["a", "b"], many, **options)
    await runtime.advance(61)
    many.values = {"a": 10, "b": 20, "c": 30}
    assert await stack.mget(["a", "b"], many, **options) == {"a": 1, "b": 2}
    await turns()
    assert many.asked == [["a", "b"]] * 2
    assert await stack.mget(["a", "b"], many, **options) == {"a": 10, "b": 20}
    await runtime.advance(61)
    assert (await stack.mget(["a", "b", "c"], many, **options))["c"] == 30
    assert many.asked[2:] == [["a", "b", "c"]]


async def test_mget_refreshes_ahead(two, runtime) -> None:
    many = Many(a=1, b=2)
    options: dict[str, Any] = {"ttl": 100, "refresh_ahead": 0.5}
    await two.mget(["a", "b"], many, **options)
    await runtime.advance(60)
    assert await two.mget(["a", "b"], many, **options) == {"a": 1, "b": 2}
    await turns()
    assert many.asked == [["a", "b"]] * 2


async def test_mget_falls_back_to_stale_values_or_raises(stack, runtime) -> None:
    many = Many(a=1)
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 100}
    await stack.mget(["a"], many, **options)
    await runtime.advance(61)
    many.error = Boom("down")
    assert await stack.mget(["a"], many, **options) == {"a": 1}
    with pytest.raises(Boom):
        await stack.mget(["a", "b"], many, **options)
    assert idle(stack)


async def test_g3_mget_after_a_purge_takes_nothing_older(stack) -> None:
    many = Many(a="old", b="old")
    many.gate = asyncio.Event()
    options: dict[str, Any] = {"ttl": 60, "tags": ["t"]}
    early = asyncio.ensure_future(stack.mget(["a", "b"], many, **options))
    await turns()
    await stack.invalidate_by_tag("t")
    late = asyncio.ensure_future(stack.mget(["a", "b"], many, **options))
    await turns()
    many.gate.set()
    await turns()
    assert await early == {"a": "old", "b": "old"}
    await late
    assert many.asked == [["a", "b"]] * 2


async def test_mget_takes_a_plain_function_and_force(stack) -> None:
    calls = []

    def load(keys: list) -> dict:
        calls.append(keys)
        return {key: len(calls) for key in keys}

    assert await stack.mget(["a"], load, ttl=60) == {"a": 1}
    assert await stack.mget(["a"], load, ttl=60) == {"a": 1}
    assert await stack.mget(["a"], load, ttl=60, force=True) == {"a": 2}
    with pytest.raises(KeyRefused, match="list of keys"):
        await stack.mget("abc")


async def test_metrics_count_hits_misses_and_flights(stack) -> None:
    source = Source("v")
    await stack.get("k", source, ttl=60)
    await stack.get("k", source, ttl=60)
    await stack.get("k")
    events = stack.metrics()["events"]
    assert (events["hit"], events["miss"], events["fetch"], events["store"]) == (2, 1, 1, 1)
