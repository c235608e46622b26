"""CacheStack of two layers against a model that knows only when each value was made and purged.

The model allows a cache to forget at any time. It never allows a value that was purged, deleted or
overwritten, or that is older than its lifetime and windows.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from layergate.assembly import CacheStack
from tests.core.support import Boom, DictLayer, TopLayer
from tests.support.clocks import StillRuntime
from tests.support.waiting import turns

KEYS = ["a", "ab"]  # few, so that things meet
TAGS = ["t", "u"]
PATTERNS = ["*", "a*", "*b", "b", "a"]

keys = st.sampled_from(KEYS)
tag_lists = st.sampled_from([["t"], ["t", "u"], ["u"], []])
seconds = st.sampled_from([0, 5, 10, 20])


class Value:
    """What a fetch brought: when its fetch began and ended, and how long it may live."""

    def __init__(self, key, tags, began, ttl, swr, sie) -> None:
        self.key = key
        self.tags = tags
        self.began = began  # step number
        self.time = 0.0  # when it was made, seconds
        self.ttl = ttl
        self.swr = swr
        self.sie = sie


class Model(RuleBasedStateMachine):
    @initialize(top_ttl=st.sampled_from([None, 7]), later=st.booleans(), caps=st.booleans())
    def start(self, top_ttl, later, caps) -> None:
        self.loop = asyncio.new_event_loop()
        self.runtime = StillRuntime()
        self.top, self.low = TopLayer(ttl=top_ttl), DictLayer(later=later)
        small: dict[str, Any] = {"max_invalidations": 2, "max_patterns": 1} if caps else {}
        self.stack = CacheStack([self.top, self.low], runtime=self.runtime, **small)
        self.step = 0
        # (step, time, soft, matches(value))
        self.purges: list[tuple] = []
        # (call, what holds its fetch back)
        self.fetching: list[tuple[asyncio.Task, asyncio.Event]] = []

    def run(self, work):
        return self.loop.run_until_complete(work)

    def tick(self) -> int:
        self.step += 1
        return self.step

    def note(self, soft, matches) -> None:
        self.purges.append((self.tick(), self.runtime.time, soft, matches))

    def check(self, value: Value | None, asked: int, *, windows=("swr",)) -> None:
        """``asked``: the step at which the caller came."""
        if value is None:
            return
        fresh_until = value.time + value.ttl
        for step, time, soft, matches in self.purges:
            # Purges before the fetch began do not concern it; those after the call began need not.
            if value.began < step < asked and matches(value):
                assert soft, f"{value.key} was purged at step {step}, fetched at {value.began}"
                fresh_until = min(fresh_until, time)
        allowed = max(getattr(value, window) for window in windows)
        assert self.runtime.time <= fresh_until or self.runtime.time < fresh_until + allowed

    def source(self, key, tags, ttl, swr, sie, *, fail=False, gate=None):
        made: list[Value] = []

        async def fetch() -> Value:
            value = Value(key, tags, self.tick(), ttl, swr, sie)
            made.append(value)
            if gate is not None:
                await gate.wait()
            if fail:
                raise Boom
            value.time = self.runtime.time
            return value

        return fetch

    @rule(
        key=keys,
        tags=tag_lists,
        ttl=st.sampled_from([10, 20]),
        swr=seconds,
        sie=seconds,
        fail=st.booleans(),
        force=st.booleans(),
        computed=st.booleans(),
    )
    def get(self, key, tags, ttl, swr, sie, fail, force, computed) -> None:
        asked = self.tick()

        async def go():
            # A fetch of this key that is held back would hold this call back too: let it go on.
            call = asyncio.ensure_future(
                self.stack.get(
                    key,
                    self.source(key, tags, ttl, swr, sie, fail=fail),
                    ttl=ttl,
                    tags=(lambda value: value.tags) if computed else tags,
                    stale_while_revalidate=swr,
                    stale_if_error=sie,
                    force=force,
                )
            )
            await turns()
            if not call.done():
                for _, gate in self.fetching:
                    gate.set()
                await turns()
            try:
                return await asyncio.wait_for(call, 5)
            except Boom:
                return None
            finally:
                await turns()

        # A fetch that was joined may fail too.
        may_fail = fail or bool(self.fetching)
        value = self.run(go())
        self.check(value, asked, windows=("swr", "sie") if may_fail else ("swr",))

    @rule(key=keys)
    def get_stored(self, key) -> None:
        self.check(self.run(self.stack.get(key)), self.tick())

    @rule(wanted=st.lists(keys, max_size=4), fetch=st.booleans(), tags=tag_lists, ttl=seconds)
    def mget(self, wanted, fetch, tags, ttl) -> None:
        asked = self.tick()

        async def fetch_many(missing):
            began = self.tick()
            values = {key: Value(key, tags, began, ttl or 1, 0, 0) for key in missing}
            for value in values.values():
                value.time = self.runtime.time
            return values

        async def go():
            if not fetch:
                return await self.stack.mget(wanted)
            call = asyncio.ensure_future(
                self.stack.mget(wanted, fetch_many, ttl=ttl or 1, tags=tags)
            )
            await turns()
            if not call.done():
                for _, gate in self.fetching:
                    gate.set()
            try:
                return await asyncio.wait_for(call, 5)
            except Boom:
                return None  # it had joined a fetch that fails
            finally:
                await turns()

        windows = ("swr", "sie") if self.fetching else ("swr",)  # as in `get`
        values = self.run(go())
        if values is None:
            return
        assert not fetch or set(values) == set(wanted)
        for key, value in values.items():
            assert value.key == key
            self.check(value, asked, windows=windows)

    @rule(key=keys, tags=tag_lists, ttl=st.sampled_from([10, 20]), swr=seconds)
    def set(self, key, tags, ttl, swr) -> None:
        self.note(False, lambda value, key=key: value.key == key)
        value = Value(key, tags, self.tick(), ttl, swr, 0)
        value.time = self.runtime.time
        self.run(self.stack.set(key, value, ttl=ttl, tags=tags, stale_while_revalidate=swr))

    @precondition(lambda self: len(self.fetching) < 3)
    @rule(
        key=keys,
        tags=tag_lists,
        ttl=st.sampled_from([10, 20]),
        swr=seconds,
        sie=seconds,
        fail=st.booleans(),
        force=st.booleans(),
    )
    def get_slowly(self, key, tags, ttl, swr, sie, fail, force) -> None:
        self.begin_slow(key, tags, ttl=ttl, swr=swr, sie=sie, fail=fail, force=force)

    def begin_slow(self, key, tags, *, ttl, swr, sie, fail, force) -> None:
        """A get whose fetch, if it fetches, is held back while other things happen."""
        gate = asyncio.Event()
        asked = self.tick()

        async def call():
            value = await self.stack.get(
                key,
                self.source(key, tags, ttl, swr, sie, fail=fail, gate=gate),
                ttl=ttl,
                tags=tags,
                stale_while_revalidate=swr,
                stale_if_error=sie,
                force=force,
            )
            self.check(value, asked, windows=("swr", "sie"))
            return value

        async def go():
            task = asyncio.ensure_future(call())
            await turns()
            return task

        self.fetching.append((self.run(go()), gate))

    @precondition(lambda self: self.fetching)
    @rule(which=st.integers(0, 2), cancel=st.booleans())
    def end(self, which, cancel) -> None:
        self.end_slow(which, cancel=cancel)

    def end_slow(self, which, *, cancel) -> None:
        call, gate = self.fetching.pop(which % len(self.fetching))

        async def go():
            if cancel:
                call.cancel()
                await turns()
            gate.set()
            await turns()
            if not call.done():  # it waits for another that is held back
                for _, other in self.fetching:
                    other.set()
            return (await asyncio.gather(call, return_exceptions=True))[0]

        result = self.run(go())
        if isinstance(result, AssertionError):
            raise result
        assert isinstance(result, (Value, Boom, asyncio.CancelledError)), result

    @rule(
        key=keys,
        tags=tag_lists,
        swr=seconds,
        drop=st.booleans(),
        purge=st.sampled_from(["t", "u", "pattern", "delete", "soft", None]),
        between=st.sampled_from([0, 11]),
    )
    def overtake(self, key, tags, swr, drop, purge, between) -> None:
        """One fetch is held back, a purge comes, then two more callers: what do they get?"""
        if drop:
            self.delete(key)
        start = len(self.fetching)
        options = {"ttl": 10, "swr": swr, "sie": 0, "fail": False}
        self.begin_slow(key, tags, force=False, **options)
        if purge in TAGS:
            self.purge_tag(purge, False)
        elif purge == "pattern":
            self.purge_pattern("a*", False)
        elif purge == "soft":
            self.purge_tag("t", True)
        elif purge == "delete":
            self.delete(key)
        if between:
            self.wait(between)
        self.begin_slow(key, tags, force=False, **options)
        self.begin_slow(key, tags, force=False, **options)
        while len(self.fetching) > start:
            self.end_slow(start, cancel=False)

    @rule(tag=st.sampled_from(TAGS), soft=st.booleans())
    def invalidate_tag(self, tag, soft) -> None:
        self.purge_tag(tag, soft)

    def purge_tag(self, tag, soft) -> None:
        self.run(self.stack.invalidate_by_tag(tag, soft=soft))
        self.note(soft, lambda value, tag=tag: tag in value.tags)

    @rule(pattern=st.sampled_from(PATTERNS), soft=st.booleans())
    def invalidate_pattern(self, pattern, soft) -> None:
        self.purge_pattern(pattern, soft)

    def purge_pattern(self, pattern, soft) -> None:
        self.run(self.stack.invalidate_by_pattern(pattern, soft=soft))
        regex = re.compile(pattern.replace("*", ".*"))
        self.note(soft, lambda value: regex.fullmatch(value.key) is not None)

    @rule(key=keys)
    def remove(self, key) -> None:
        self.delete(key)

    def delete(self, key) -> None:
        self.run(self.stack.delete(key))
        self.note(False, lambda value, key=key: value.key == key)

    @rule()
    def clear(self) -> None:
        self.run(self.stack.clear())
        self.note(False, lambda value: True)

    @rule(amount=st.sampled_from([0.5, 3, 6, 11]))
    def pass_time(self, amount) -> None:
        self.wait(amount)

    def wait(self, amount) -> None:
        self.run(self.runtime.advance(amount))

    @rule(
        layer=st.sampled_from(["top", "low"]),
        failing=st.sampled_from(
            [(), (), (), ("get",), ("get_many",), ("set",), ("set", "delete"), ("delete", "clear")]
        ),
    )
    def fail(self, layer, failing) -> None:
        (self.top if layer == "top" else self.low).fail = {*failing}

    @rule(layer=st.sampled_from(["top", "low"]), key=keys)
    def evict(self, layer, key) -> None:
        (self.top if layer == "top" else self.low).data.pop(key, None)

    @rule(key=keys)
    def peek(self, key) -> None:
        entry = self.stack.peek(key)
        if entry is not None and self.runtime.time < entry.fresh_until:
            self.check(entry.value, self.tick())

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if hasattr(self, "stack") and not self.fetching:
            assert self.stack.metrics()["flights"] == {"under_way": 0, "refreshing": 0}

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for _, gate in self.fetching:
            gate.set()

        async def finish():
            await turns()
            await self.stack.aclose(1)
            await turns()
            calls = (call for call, _ in self.fetching)
            return await asyncio.gather(*calls, return_exceptions=True)

        results = self.run(finish())
        self.loop.close()
        for result in results:
            if isinstance(result, AssertionError):
                raise result


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCacheStackModel = Model.TestCase
