"""Layers on top of each other: backfill, partial writes, failures, purges that reach them all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate.assembly import CacheStack
from layergate.core.entry import Entry
from layergate.core.invalidation import Caught, Invalidation
from layergate.core.stack import Held, Stack
from layergate.errors import ConfigError, KeyRefused, PartialWriteError
from layergate.layers.memory import MemoryLayer
from tests.core.support import Boom, DictLayer, Events, TopLayer
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


@pytest.fixture
def stack(top: TopLayer, low: DictLayer, runtime: StillRuntime, events: Events) -> Stack:
    return Stack([top, low], runtime=runtime, hooks=[events])


def made(stack: Stack, value: object = "v", *, fresh: float = 60.0, tags=(), swr: float = 0.0):
    now = stack.runtime.now()
    return Entry(
        value,
        created=now,
        fresh_until=now + fresh,
        stale_while_revalidate=swr,
        tags=tags,
        stamp=stack.invalidations.position,
    )


# -- reading --------------------------------------------------------------------------------------


async def test_a_stored_entry_is_in_every_layer(stack, top, low) -> None:
    assert await stack.store("k", made(stack))
    assert set(top.data) == set(low.data) == {"k"}
    assert stack.peek("k").value == "v"
    assert (await stack.lookup("k")).layer == "top"


async def test_a_hit_below_is_copied_up(stack, top, low, events) -> None:
    await stack.store("k", made(stack))
    top.data.clear()
    assert stack.peek("k") is None
    assert (await stack.lookup("k")).layer == "low"
    assert stack.peek("k").value == "v"
    assert events.of("backfill") == [{"source": "low", "layer": "top"}]
    assert (await stack.lookup("k")).layer == "top"


async def test_two_memory_layers_backfill_too(runtime) -> None:
    upper, lower = MemoryLayer("1MB", name="upper"), MemoryLayer("1MB", name="lower")
    stack = CacheStack([upper, lower])
    await stack.set("k", "v", ttl=60)
    upper.delete("k")
    assert await stack.get("k") == "v"
    assert upper.peek("k") is not None


async def test_an_upper_layer_has_its_own_shorter_lifetime(runtime, events) -> None:
    top, low = TopLayer(ttl=10), DictLayer()
    stack: Any = Stack([top, low], runtime=runtime, hooks=[events])
    await stack.store("k", made(stack, fresh=60))
    assert top.data["k"].fresh_until == runtime.time + 10
    assert low.data["k"].fresh_until == runtime.time + 60
    await runtime.advance(40)
    assert (await stack.lookup("k")).layer == "low"
    assert top.data["k"].fresh_until == runtime.time + 10
    await runtime.advance(15)
    await stack.lookup("k")
    assert top.data["k"].fresh_until == runtime.time + 5, "never past the end of the whole"


async def test_a_stale_copy_above_does_not_hide_a_fresh_one_below(runtime) -> None:
    top, low = TopLayer(ttl=10), DictLayer()
    stack: Any = Stack([top, low], runtime=runtime)
    await stack.store("k", made(stack, fresh=60, swr=100))
    await runtime.advance(15)
    assert stack.peek("k").fresh_until < runtime.time
    found = await stack.lookup("k")
    assert found.layer == "low" and found.entry.fresh_until > runtime.time
    assert stack.peek("k").fresh_until > runtime.time
    top.data.pop("k")
    await runtime.advance(15)
    many = await stack.lookup_many(["k"])
    assert many["k"].layer == "low"


async def test_of_stale_copies_the_freshest_is_found(runtime) -> None:
    top, low = TopLayer(ttl=10), DictLayer()
    stack: Any = Stack([top, low], runtime=runtime)
    await stack.store("k", made(stack, fresh=20, swr=100))
    await runtime.advance(30)
    old = top.data["k"]
    assert (await stack.lookup("k")).layer == "low"
    top.data["k"] = old
    assert (await stack.lookup_many(["k"]))["k"].layer == "low"


async def test_the_cap_given_with_a_read_holds_for_the_backfill(stack, top, low, runtime) -> None:
    await stack.store("k", made(stack, fresh=600))
    top.data.clear()
    await stack.lookup("k", ttl={"top": 30})
    assert top.data["k"].fresh_until == runtime.time + 30


async def test_what_has_expired_is_not_found(stack, runtime) -> None:
    await stack.store("k", made(stack, fresh=10))
    await runtime.advance(10)
    assert await stack.lookup("k") is None
    assert await stack.lookup_many(["k"]) == {}


async def test_many_keys_cost_one_call_per_layer(stack, top, low) -> None:
    for key in "abc":
        await stack.store(key, made(stack, key))
    top.data.pop("b")
    top.data.pop("c")
    low.data.pop("c")
    top.calls.clear()
    low.calls.clear()
    found = await stack.lookup_many(["a", "b", "c", "a"])
    assert {key: (hit.entry.value, hit.layer) for key, hit in found.items()} == {
        "a": ("a", "top"),
        "b": ("b", "low"),
    }
    assert (top.calls["get_many"], low.calls["get_many"]) == (1, 1)
    assert top.calls["get"] == low.calls["get"] == 0
    assert "b" in top.data


# -- failures: a layer that fails is a miss (G5) ------------------------------------------------------


@pytest.mark.parametrize("operation", ["get", "get_many", "peek"])
async def test_g5_a_layer_that_raises_on_reading_is_a_miss(
    stack, top, low, events, operation
) -> None:
    await stack.store("k", made(stack))
    top.fail.add(operation)
    if operation == "peek":
        assert stack.peek("k") is None
    elif operation == "get":
        assert (await stack.lookup("k")).layer == "low"
    else:
        assert (await stack.lookup_many(["k"]))["k"].layer == "low"
    (fact,) = events.of("layer_error")
    assert fact["layer"] == "top" and fact["operation"] == operation
    assert isinstance(fact["error"], Boom)


async def test_g5_a_layer_that_answers_nonsense_is_a_miss(stack, top, low, events) -> None:
    await stack.store("k", made(stack))
    top.data["k"] = "no entry"
    assert (await stack.lookup("k")).layer == "low"
    top.data["k"] = "no entry"
    assert (await stack.lookup_many(["k"]))["k"].layer == "low"
    assert len(events.of("layer_error")) == 2


async def test_g5_all_layers_down_is_a_plain_miss(stack, top, low) -> None:
    for layer in (top, low):
        layer.fail |= {"get", "get_many", "set", "delete", "clear", "stats"}
    assert await stack.lookup("k") is None
    assert await stack.store("k", made(stack))
    assert await stack.delete("k") is False
    await stack.clear()
    assert stack.metrics()["layers"] == {"top": {}, "low": {}}


async def test_best_effort_keeps_what_can_be_kept(stack, top, low, events) -> None:
    low.fail.add("set")
    assert await stack.store("k", made(stack))
    assert "k" in top.data and "k" not in low.data
    assert events.of("store") == [{"layers": ("top",)}]
    assert events.of("write_error")[0]["layer"] == "low"


async def test_strict_says_who_failed_and_who_has_it(top, low, runtime) -> None:
    stack: Any = Stack([top, low], runtime=runtime, write_policy="strict")
    low.fail.add("set")
    with pytest.raises(PartialWriteError, match="low") as caught:
        await stack.store("k", made(stack))
    assert set(caught.value.failed) == {"low"} and caught.value.written == ("top",)
    assert stack.peek("k").value == "v"
    for operation in ("delete", "clear"):
        low.fail = {operation}
        with pytest.raises(PartialWriteError):
            await (stack.delete("k") if operation == "delete" else stack.clear())
    assert stack.peek("k") is None


async def test_a_layer_that_did_not_take_the_new_value_does_not_keep_the_old(
    stack, top, low, events
) -> None:
    await stack.store("k", made(stack, "old"))
    low.fail.add("set")
    await stack.store("k", made(stack, "new"))
    assert "k" not in low.data
    low.fail.add("delete")
    await stack.store("k", made(stack, "newer"))
    assert events.of("layer_error")[-1]["operation"] == "delete"


async def test_a_failing_backfill_does_not_lose_the_hit(stack, top, low, events) -> None:
    await stack.store("k", made(stack))
    top.data.clear()
    top.fail.add("set")
    assert (await stack.lookup("k")).entry.value == "v"
    assert events.of("backfill") == []


async def test_a_hook_that_raises_breaks_nothing(top, runtime, caplog) -> None:
    def hook(event: str, facts: dict) -> None:
        raise Boom

    stack: Any = Stack([top], runtime=runtime, hooks=[hook])
    assert await stack.store("k", made(stack))
    assert "failed on event 'store'" in caplog.text


# -- purges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [
        Invalidation("tag", "t"),
        Invalidation("key", "k"),
        Invalidation("glob", "k*"),
        Invalidation("prefix", "k"),
        Invalidation("all"),
    ],
)
async def test_g3_a_purge_reaches_every_layer_without_touching_it(stack, top, low, mark) -> None:
    await stack.store("k", made(stack, tags=("t",)))
    writes = top.calls["set"], low.calls["set"], top.calls["delete"]
    assert (await stack.invalidate((mark,)))[:4] == (1, 1, True, "process")
    assert stack.peek("k") is None
    assert await stack.lookup("k") is None
    assert await stack.lookup_many(["k"]) == {}
    assert (top.calls["set"], low.calls["set"], top.calls["delete"]) == writes


async def test_g3_what_was_fetched_before_the_purge_is_not_stored(stack, top, low) -> None:
    entry = made(stack, tags=("t",))
    await stack.invalidate((Invalidation("tag", "t"),))
    assert await stack.store("k", entry) is False
    assert not top.data and not low.data


async def test_g3_a_purge_between_the_writes_kills_the_later_ones(stack, top, low) -> None:
    low.gates["set"] = asyncio.Event()
    store = asyncio.create_task(stack.store("k", made(stack, tags=("t",))))
    await turns()
    await stack.invalidate((Invalidation("tag", "t"),))
    low.gates["set"].set()
    await store
    assert "k" in top.data and "k" in low.data
    assert stack.peek("k") is None
    assert await stack.lookup("k") is None


async def test_g3_a_purge_during_a_lookup_kills_what_it_copies_up(stack, top, low) -> None:
    await stack.store("k", made(stack, tags=("t",)))
    top.data.clear()
    top.gates["set"] = asyncio.Event()
    lookup = asyncio.create_task(stack.lookup("k"))
    await turns()
    await stack.invalidate((Invalidation("tag", "t"),))
    top.gates["set"].set()
    await lookup
    assert stack.peek("k") is None


async def test_a_soft_purge_makes_stale_in_every_layer(stack, top, low, runtime) -> None:
    await stack.store("k", made(stack, tags=("t",), swr=30))
    await runtime.advance(5)
    await stack.invalidate((Invalidation("tag", "t", soft=True),))
    await runtime.advance(5)
    assert stack.peek("k").stale_from == runtime.time - 5
    top.data.clear()
    found = await stack.lookup("k")
    assert found.layer == "low" and found.entry.stale_from == runtime.time - 5


async def test_delete_and_clear_empty_the_layers(stack, top, low) -> None:
    await stack.store("k", made(stack))
    assert await stack.delete("k") is True
    assert await stack.delete("k") is False
    await stack.store("k", made(stack))
    await stack.clear()
    assert not top.data and not low.data
    fill = made(stack)
    assert await stack.store("k", fill)
    assert stack.purged_since(0, (), "k")
    assert not stack.purged_since(stack.invalidations.position, (), "k")


async def test_a_refused_purge_purges_nothing(stack) -> None:
    await stack.store("k", made(stack, tags=("t",)))
    with pytest.raises(KeyRefused):
        await stack.invalidate((Invalidation("tag", "t"), Invalidation("glob", "")))
    assert stack.peek("k") is not None


# -- options and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": []}, "at least one layer"),
        ({"layers": TopLayer()}, "must be a list"),
        ({"layers": ["memory"]}, "Layer objects"),
        ({"layers": [TopLayer(), DictLayer("top")]}, "different names"),
        ({"write_policy": "maybe"}, "'maybe'"),
        ({"max_invalidations": 0}, "max_invalidations"),
        ({"max_patterns": True}, "max_patterns"),
        ({"hooks": print}, "hooks must be a list"),
        ({"hooks": [3]}, "got 3"),
        ({"hooks": [turns]}, "not async ones"),
        ({"ttl": -1}, "ttl"),
        ({"max_waiters": 0}, "max_waiters"),
        ({"max_refreshes": -1}, "max_refreshes"),
        ({"fetch_term": 0}, "fetch_term"),
        ({"fetch_term": "1m"}, "fetch_term"),
        ({"layer_timeout": 0}, "layer_timeout"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options, said) -> None:
    layers = options.pop("layers", [TopLayer()])
    with pytest.raises(ConfigError, match=said):
        CacheStack(layers, **options)


async def test_metrics_tell_events_layers_and_marks(stack) -> None:
    await stack.store("k", made(stack))
    await stack.invalidate((Invalidation("tag", "t"), Invalidation("glob", "x*", soft=True)))
    metrics = stack.metrics()
    assert metrics["events"]["store"] == 1 and metrics["events"]["hit"] == 0
    assert metrics["layers"]["top"] == {"entries": 1}
    assert metrics["invalidation"] == {
        "position": 1,
        "tags": 1,
        "keys": 0,
        "prefixes": 0,
        "patterns": 1,
    }


def has(text):
    return lambda entry: text in entry.value


async def test_a_lookup_goes_on_where_there_is_too_little(stack, top, low) -> None:
    await stack.store("k", made(stack, "ab"))
    top.data["k"] = made(stack, "a")
    assert (await stack.lookup("k")).entry.value == "a"
    found = await stack.lookup("k", enough=has("b"), quiet=True)
    assert (found.entry.value, found.layer) == ("ab", "low")
    assert stack.peek("k").value == "a", "quiet"
    found = await stack.lookup("k", enough=has("b"))
    assert (found.entry.value, found.layer) == ("ab", "low")
    assert stack.peek("k").value == "ab"


async def test_too_little_is_better_than_nothing(stack, top, low) -> None:
    top.data["k"] = made(stack, "a", fresh=60)
    low.data["k"] = made(stack, "b", fresh=50)
    found = await stack.lookup("k", enough=has("c"))
    assert (found.entry.value, found.layer) == ("a", "top")
    low.data["k"] = made(stack, "b", fresh=60)
    found = await stack.lookup("k", enough=has("c"))
    assert (found.entry.value, found.layer) == ("b", "low"), "it has seen more"


async def test_stale_and_enough_is_better_than_fresh_and_too_little(stack, top, low) -> None:
    top.data["k"] = made(stack, "a", fresh=60)
    low.data["k"] = made(stack, "ab", fresh=-1, swr=60)
    found = await stack.lookup("k", enough=has("b"))
    assert (found.entry.value, found.layer) == ("ab", "low")


# -- the order of the layers ------------------------------------------------------------------------


async def test_a_new_entry_is_at_the_bottom_before_it_is_at_the_top(stack, top, low) -> None:
    """A reader that finds it at the top may lose it there at once, and finds it below."""
    await stack.store("k", made(stack, "old"))
    low.gates["set"] = asyncio.Event()
    storing = asyncio.ensure_future(stack.store("k", made(stack, "new")))
    await turns()
    assert low.calls["set"] == 2
    assert stack.peek("k").value == "old"
    low.gates["set"].set()
    assert await storing
    assert (stack.peek("k").value, low.data["k"].value) == ("new", "new")


async def test_only_what_is_later_counts_after_an_entry(stack, top, low, runtime) -> None:
    """A copy of the very entry, as another instance holds it, is no later one."""
    seen = made(stack, "one")
    await stack.store("k", seen)
    assert (await stack.lookup("k")).entry.value == "one"
    assert await stack.lookup("k", after=seen) is None
    runtime.time += 1
    low.data["k"] = made(stack, "two")
    found = await stack.lookup("k", after=seen)
    assert (found.entry.value, found.layer) == ("two", "low")


@pytest.mark.parametrize(
    ("softs", "purged"),
    [((), False), ((True,), False), ((False,), True), ((True, False), True), ((True, True), False)],
)
def test_what_a_layer_holds_is_purged_by_a_hard_purge_alone(softs, purged) -> None:
    caught = tuple(Caught("tag", "t", soft, 1.0) for soft in softs)
    assert Held("low", caught=caught).purged is purged
