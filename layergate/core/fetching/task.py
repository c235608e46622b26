"""The background task of one or several flights: look into the layers, take the lease, fetch,
store.

`FetchTask.start` runs it. Whatever happens, every flight of the task gets an outcome.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Span
from layergate.core.fetching.entries import new_entry
from layergate.core.fetching.flights import Fetches, Flight
from layergate.core.fetching.source import Load
from layergate.core.fetching.waits import WaitNode, current_node
from layergate.core.layer import Key
from layergate.core.policy import Policy
from layergate.core.shared import Lease, Waited
from layergate.core.stack import Stack
from layergate.errors import KeyRefused, PartialWriteError

__all__ = ["FetchTask", "refresh"]

_logger = logging.getLogger("layergate")

# Reasons to fetch a value although no caller waits for it.
_BACKGROUND: Final = frozenset({"ahead", "stale"})


class FetchTask:
    """Fetches the keys of ``flights`` with one call of ``load``.

    ``reason``  why: ``miss`` or ``forced`` for a call that waits; ``stale`` or ``ahead`` (see
                ``refresh_ahead``) for a refresh in the background.
    """

    __slots__ = ("_fetches", "_load", "_policy", "_reason", "_stack", "flights", "node")

    def __init__(
        self, stack: Stack, fetches: Fetches, load: Load, policy: Policy, reason: str
    ) -> None:
        self._stack = stack
        self._fetches = fetches
        self._load = load
        self._policy = policy
        self._reason = reason
        self.node = WaitNode()
        self.flights: list[Flight] = []

    def new_flight(self, key: Key, previous: Flight | None) -> Flight | None:
        """A flight of this task, in place of ``previous``; None if another one took its place."""
        stack = self._stack
        flight = Flight(
            key, self._fetches.runtime, self.node, stack.invalidations.position, previous
        )
        if self._fetches.table.lead(key, flight, instead_of=previous) is not flight:
            return None
        self.flights.append(flight)
        return flight

    def start(self) -> None:
        """Run in the background, in a copy of the caller's context."""
        try:
            run = self._run_detached if self._reason in _BACKGROUND else self._run
            self._fetches.runtime.spawn(
                run(), name="layergate fetch", context=contextvars.copy_context()
            )
        except BaseException:
            for flight in self.flights:
                self._fetches.abort(flight)
            raise

    async def _run_detached(self) -> None:
        """Run in a trace of its own, linked to what caused it, because no caller waits."""
        here = self._stack.counters.here()
        with self._span(self.flights, "refresh", root=True, links=(here,)):
            await self._run()

    async def _run(self) -> None:
        stack, fetches, reason = self._stack, self._fetches, self._reason
        current_node.set(self.node)
        look = reason in ("miss", "stale")
        pending = {flight.key: flight for flight in self.flights}
        lease: Lease | None = None
        try:
            if look:
                await self._look(pending)
            span: Span = NO_SPAN
            if pending and reason not in _BACKGROUND:  # before the lease, which names the span
                span = self._span(pending.values(), "fetch")
            if reason != "forced" and len(pending) == 1 and stack.leases is not None:
                lease = await self._take_lease(pending)
            if not pending:
                return
            if stack.leases is not None:
                span.ready()
            for flight in pending.values():
                flight.stamp = stack.invalidations.position
                flight.fetch_began = fetches.runtime.monotonic()
                why = "stale" if reason == "miss" and flight.stored is not None else reason
                stack.counters.on("fetch", key=flight.key, reason=why)
            with span:
                values = await self._load(list(pending))
            for key, flight in list(pending.items()):
                if key in values:
                    try:
                        await self._store(flight, values[key], lease)
                    except Exception as error:
                        self._fail(flight, error)
                fetches.finish(flight)
                del pending[key]
        except Exception as error:
            for key, flight in list(pending.items()):
                self._fail(flight, error)
                if flight.stored is None and not look:  # a stale value may be there all the same
                    found = await stack.lookup(key, ttl=self._policy.per_layer)
                    flight.stored = None if found is None else found.entry
                fetches.finish(flight)
                del pending[key]
        finally:
            # Flights that are left: the task was cancelled, or the process ends.
            for flight in pending.values():
                fetches.abort(flight)
            if lease is not None:
                self._release(lease)

    def _span(self, flights: Collection[Flight], name: str, **how: Any) -> Span:
        """A span for fetching all of these."""
        keys = [flight.key for flight in flights]
        key = keys[0] if len(keys) == 1 else None
        counters = self._stack.counters
        span = counters.span(name, key=key, keys=len(keys), reason=self._reason, **how)
        for flight in flights:
            flight.span = span
        return span

    # -- before the fetch ----------------------------------------------------------------------

    async def _look(self, pending: dict[Key, Flight]) -> None:
        """Finish the flights whose key is fresh in some layer. Give the stale entries of the others
        to their callers."""
        stack, refreshing = self._stack, self._fetches.refreshing
        with stack.counters.span("lookup", keys=len(pending)) as span:
            if len(pending) == 1:
                (key,) = pending
                span.note(key=key)
                one = await stack.lookup(key, ttl=self._policy.per_layer)
                found = {} if one is None else {key: one}
                span.note(layer=None if one is None else one.layer)
            else:
                found = await stack.lookup_many(list(pending), ttl=self._policy.per_layer)
        now = stack.runtime.now()
        for key, flight in list(pending.items()):
            entry = found[key].entry if key in found else None
            if entry is not None:
                flight.stored = entry
            if entry is None or entry.staleness(now) >= entry.stale_while_revalidate:
                if flight not in refreshing:
                    stack.counters.on("miss", key=key)
                continue
            if now >= entry.fresh_until:
                if flight in refreshing:
                    continue
                if len(refreshing) < self._fetches.max_refreshes:
                    refreshing.add(flight)
                    stack.counters.on("refresh", key=key, reason="stale")
                    flight.pulse.beat()
                    continue
                stack.counters.on("refresh_skipped", key=key, reason="too many")
            self._finish_with(flight, entry, pending)

    def _finish_with(self, flight: Flight, entry: Entry, pending: dict[Key, Flight]) -> None:
        """Finish a flight with an entry of the layers. It was not purged when it was looked up,
        whatever was purged before."""
        flight.stamp = max(flight.stamp, entry.checked)
        flight.entry = entry
        self._fetches.finish(flight)
        del pending[flight.key]

    async def _take_lease(self, pending: dict[Key, Flight]) -> Lease | None:
        """The fleet-wide right to fetch the one key that is pending.

        None if another instance has fetched the key (then no flight is pending any more), or if the
        fetch goes ahead without a lease: the shared layer is away, or the other instance takes
        longer than ``fetch_term``.

        A fetch of many keys takes no leases: it would have to wait for each key in turn.
        """
        stack = self._stack
        (key,) = pending
        flight = pending[key]
        until = stack.runtime.monotonic() + self._fetches.term
        while await stack.catch_up():
            # In a background refresh callers are served already, so one refresh in the fleet is
            # enough.
            background = flight in self._fetches.refreshing
            wait = 0.0 if background else max(0.0, until - stack.runtime.monotonic())
            try:
                lease = await stack.take_lease(key, wait=wait, span=flight.span)
            except Exception as error:
                stack.counters.on("layer_error", layer="shared", operation="lease", error=error)
                return None
            if not isinstance(lease, Waited) and not lease.recent:
                return lease
            if lease is Waited.TIMEOUT:
                if background and flight.stored is not None:
                    stack.counters.on("refresh_skipped", key=key, reason="another instance does it")
                    self._finish_with(flight, flight.stored, pending)
                return None
            if lease is Waited.FREE:
                return None
            # Another instance has fetched the key since the lookup.
            granted = None if isinstance(lease, Waited) else lease
            try:
                found = await stack.lookup(key, ttl=self._policy.per_layer, after=flight.stored)
            except BaseException:  # cancelled: the caller does not know of the lease yet
                if granted is not None:
                    self._release(granted)
                raise
            if found is not None and stack.runtime.now() < found.entry.fresh_until:
                if granted is not None:
                    self._release(granted)
                self._finish_with(flight, found.entry, pending)
                return None
            if granted is not None:
                return granted
        return None

    def _release(self, lease: Lease) -> None:
        """Release in the background, so that cancelling this task does not stop it."""
        # At the end of the process nothing can be started any more; then the lease runs out.
        with contextlib.suppress(RuntimeError):
            self._fetches.runtime.spawn(lease.release(), name="layergate release")

    # -- after the fetch -----------------------------------------------------------------------

    async def _store(self, flight: Flight, value: Any, lease: Lease | None) -> None:
        """Store a fetched value, and make it the outcome of the flight."""
        stack, policy, runtime = self._stack, self._policy, self._fetches.runtime
        key = flight.key
        refused = None
        try:
            tags = policy.tags_of(value)
        except KeyRefused:
            # Without its tags it could not be purged. The caller gets it all the same.
            tags, refused = (), "tags"
        made = new_entry(runtime, value, tags, policy, flight.stamp)
        entry, caps = made or (
            Entry(value, created=runtime.now(), fresh_until=0.0, tags=tags),
            None,
        )
        if made is None:
            refused = "negative"
        previous = flight.previous
        if previous is not None and previous.storing:
            # The flight that this one replaced is already writing: wait, so that the newer value is
            # written last.
            seen = previous.pulse.version
            if not previous.done:
                await previous.pulse.wait(seen, self._fetches.term)
        flight.previous = None
        if refused is None and self._fetches.table.get(key) is not flight:
            refused = "superseded"
        if refused is None and lease is not None and not await lease.confirm():
            refused = "superseded"  # by another instance
        if refused is None:
            flight.storing = True
            try:
                with stack.counters.span("store", parent=flight.span, key=key) as span:
                    if not await stack.store(key, entry, ttl=caps):
                        refused = "purged"
                    span.note(refused=refused)
            except PartialWriteError:
                # Each layer that failed has raised its `write_error` event. The caller gets the
                # value.
                _logger.debug("the fetched value of %r is not in every layer", key)
        if refused is not None:
            stack.counters.on("refused", key=key, reason=refused)
        flight.fetched = True
        flight.entry = entry

    def _fail(self, flight: Flight, error: Exception) -> None:
        flight.fail(error)
        flight.span.end(error)
        self._stack.counters.on("fetch_error", key=flight.key, error=error)
        if flight in self._fetches.refreshing:
            # There may be no caller to raise it to.
            _logger.warning("the background refresh of %r failed: %r", flight.key, error)


def refresh(
    stack: Stack,
    fetches: Fetches,
    entries: Mapping[Key, Entry],
    load: Load,
    policy: Policy,
    reason: str,
) -> None:
    """Start one background fetch of the keys of ``entries`` that are not being fetched already.

    ``reason``: ``stale`` or ``ahead``.
    """
    task = FetchTask(stack, fetches, load, policy, reason)
    for key, entry in entries.items():
        present = fetches.table.get(key)
        if present is not None and not fetches.is_overdue(present):
            continue
        if len(fetches.refreshing) >= fetches.max_refreshes:
            stack.counters.on("refresh_skipped", key=key, reason="too many")
            continue
        flight = task.new_flight(key, present)
        if flight is not None:
            flight.stored = entry  # for callers that cannot see it by a peek
            fetches.refreshing.add(flight)
            stack.counters.on("refresh", key=key, reason=reason)
    if task.flights:
        task.start()
