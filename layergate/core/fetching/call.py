"""One `get` or `mget` that missed: which flights it joins, and how long it waits for them."""

from __future__ import annotations

from typing import Any

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Span
from layergate.core.fetching.entries import due_for_refresh
from layergate.core.fetching.flights import Fetches, Flight
from layergate.core.fetching.source import Load
from layergate.core.fetching.task import FetchTask, refresh
from layergate.core.fetching.waits import current_node
from layergate.core.layer import Key
from layergate.core.policy import Policy
from layergate.core.stack import Stack
from layergate.errors import FetchAborted, FetchRecursion, FetchTimeout

__all__ = ["Call"]


class _Retry(Exception):
    """This flight is not for this caller: find another."""


class _LeftOut(Exception):
    """A bulk fetch did not return this key."""


class Call:
    """A caller that needs values, as of now. Make one for each call.

    ``bulk``: the caller is an `mget`, whose function may leave keys out.
    """

    __slots__ = (
        "_bulk",
        "_deadline",
        "_fetches",
        "_load",
        "_policy",
        "_position",
        "_soft_deadline",
        "_stack",
        "_started",
    )

    def __init__(
        self, stack: Stack, fetches: Fetches, load: Load, policy: Policy, *, bulk: bool
    ) -> None:
        self._stack = stack
        self._fetches = fetches
        self._load = load
        self._policy = policy
        self._bulk = bulk
        now = stack.runtime.now()
        # Log position when the call began; inf if the log was out of reach then.
        self._position = stack.invalidations.position if stack.trusted else float("inf")
        self._started = stack.runtime.monotonic()
        # Seconds since the epoch.
        self._soft_deadline = None if policy.soft_timeout is None else now + policy.soft_timeout
        self._deadline = None if policy.timeout is None else now + policy.timeout

    async def values(self, keys: list[Key]) -> dict[Key, Any]:
        """Join or begin the flights of these keys, and wait for their values."""
        stack, fetches, policy = self._stack, self._fetches, self._policy
        values: dict[Key, Any] = {}
        bypassing: list[Key] = []
        turn = 0
        while keys:
            task = FetchTask(
                stack, fetches, self._load, policy, "forced" if policy.force else "miss"
            )
            waits: list[Flight] = []
            for key in keys:
                # After a first retry, only a flight that is certainly new enough will do. After a
                # second one, only a flight of this call, because bulk fetches left the key out.
                own = policy.force or (turn > 1 and not self._bulk)
                flight = self._join(key, task, strict=turn > 0, own=own)
                if flight.node is not task.node:
                    if flight.pulse.waiting >= fetches.max_waiters:
                        stack.counters.on("bypass", key=key, reason="too many waiters")
                        bypassing.append(key)
                        continue
                    stack.counters.on("collapsed", key=key)
                waits.append(flight)
            if task.flights:
                task.start()
            keys = []
            due: dict[Key, Entry] = {}
            for flight in waits:
                try:
                    led = flight.node is task.node
                    values[flight.key] = await self._traced_outcome(flight, led)
                    found = None if flight.fetched else flight.entry
                    if found is not None and due_for_refresh(found, policy, stack.runtime.now()):
                        due[flight.key] = found
                except _Retry:
                    keys.append(flight.key)
                except _LeftOut:
                    if not self._bulk:
                        keys.append(flight.key)  # left out by the bulk fetch of another call
            if due:
                refresh(stack, fetches, due, self._load, policy, "ahead")
            turn += 1
        if bypassing:
            values.update(await self._load(bypassing))
        return values

    # -- joining -------------------------------------------------------------------------------

    def _join(self, key: Key, task: FetchTask, *, strict: bool, own: bool) -> Flight:
        """The flight to wait for: the one under way if it is new enough, or else a new one of
        ``task``. ``own``: never the one under way."""
        while True:
            present = self._fetches.table.get(key)
            if present is not None and not own and self._may_join(present, strict):
                return present
            flight = task.new_flight(key, present)
            if flight is not None:
                return flight

    def _may_join(self, flight: Flight, strict: bool) -> bool:
        if flight.done or self._fetches.is_overdue(flight):
            return False
        if flight.fetch_began >= self._started:
            return True
        if strict and not self._is_safe(flight):
            return False
        return flight.stamp >= self._position or not (
            strict or self._stack.purged_since(flight.stamp, (), flight.key, soft=True)
        )

    def _is_safe(self, flight: Flight) -> bool:
        """Whether no purge can have become final, without reaching this instance, between the start
        of this fetch and the start of this call. While the log is out of reach, a call takes only
        what is fetched after the call began."""
        return self._stack.trusted or flight.fetch_began >= self._started

    # -- waiting -------------------------------------------------------------------------------

    async def _traced_outcome(self, flight: Flight, led: bool) -> Any:
        """As `_outcome`, with a span for the wait if another call began the flight."""
        span: Span = NO_SPAN
        if not led:
            span = self._stack.counters.span("wait", key=flight.key, scope="process")
        try:
            return await self._outcome(flight, led)
        finally:
            span.link(flight.span.reference)
            span.end()

    async def _outcome(self, flight: Flight, led: bool) -> Any:
        """Wait for the flight, at most until the deadlines.

        ``led``: this call began the flight. Raises `_Retry` if this call needs another flight,
        `_LeftOut` if a bulk fetch left the key out.
        """
        stack, policy = self._stack, self._policy
        key = flight.key
        pulse = flight.pulse
        soft, limit = self._soft_deadline, self._deadline
        while True:
            seen = pulse.version  # read first, so that a change from here on ends the wait at once
            if not policy.force and flight.entry is None:
                # Also if the flight has failed by now: the window must not depend on who wakes
                # first.
                entry = self._usable_stale(flight, "stale_while_revalidate")
                if entry is not None:
                    self._count_use(key, entry)
                    return entry.value
            if flight.done:
                break
            nearest = limit if soft is None else soft if limit is None else min(soft, limit)
            if nearest is None:
                await self._wait(flight, seen, None)
                continue
            left = nearest - stack.runtime.now()
            if (left > 0 and await self._wait(flight, seen, left)) or flight.done:
                continue
            if policy.force and flight.stored is None:
                found = await stack.lookup(key, ttl=policy.per_layer)
                flight.stored = None if found is None else found.entry
            if nearest == soft:
                soft = None
                entry = self._usable_stale(flight, "stale_while_revalidate", "stale_if_error")
                if entry is not None:
                    stack.counters.on("soft_timeout", key=key)
                    return entry.value
            else:
                stack.counters.on("wait_timeout", key=key)
                if (entry := self._usable_stale(flight, "stale_if_error")) is not None:
                    stack.counters.on("stale", key=key, reason="timeout")
                    return entry.value
                raise FetchTimeout(f"no value for {key!r} within {policy.timeout} seconds")
        if flight.aborted:
            if led:
                raise FetchAborted(f"the fetch of {key!r} was cancelled")
            raise _Retry
        if flight.error is not None:
            if (entry := self._usable_stale(flight, "stale_if_error")) is not None:
                stack.counters.on("stale", key=key, reason="stale-if-error")
                return entry.value
            flight.raise_error()
        if flight.entry is None:
            raise _LeftOut
        entry = flight.entry
        if (
            flight.fetch_began < self._started
            and flight.stamp < self._position
            and stack.purged_since(flight.stamp, entry.tags, key, soft=True)
        ):
            raise _Retry
        if flight.fetched and not self._is_safe(flight):
            raise _Retry
        if not flight.fetched:
            self._count_use(key, entry)
        return entry.value

    def _count_use(self, key: Key, entry: Entry) -> None:
        if self._stack.runtime.now() < entry.fresh_until:
            self._stack.counters.hits += 1
        else:
            self._stack.counters.on("stale", key=key, reason="stale-while-revalidate")

    def _usable_stale(self, flight: Flight, *windows: str) -> Entry | None:
        """The stored entry of the flight, if it is not purged, and fresh or within one of these
        windows."""
        if not self._stack.trusted:  # checked before purges are, see `Stack.peek`
            windows = tuple(window for window in windows if window == "stale_if_error")
        entry = flight.stored
        grace = self._fetches.stale_if_untrusted
        if entry is None or not self._stack.vouches(flight.key, entry, grace):
            return None
        past = entry.staleness(self._stack.runtime.now())  # now that a soft purge has been applied
        return entry if any(past < getattr(entry, window) for window in windows) else None

    async def _wait(self, flight: Flight, seen: int, seconds: float | None) -> bool:
        """Wait for the next change of the flight. False if ``seconds`` passed first.

        Raises FetchRecursion if this call is part of a fetch that the flight itself waits for.
        """
        node = current_node.get()
        if node is None:
            return await flight.pulse.wait(seen, seconds)
        if flight.node.waits_for(node):
            raise FetchRecursion(
                f"the fetch of {flight.key!r} waits, directly or in a circle, for itself; call the"
                f" function itself, or use another key"
            )
        node.waits.append(flight.node)
        try:
            return await flight.pulse.wait(seen, seconds)
        finally:
            node.waits.remove(flight.node)
