"""How a missing value is fetched: flights, who may board which, and what they bring.

Every miss of a key is one *flight*: a background task that looks into the layers, fetches if they
have nothing fresh, and stores. Callers wait for the flight, they do not run it; so a caller that
is cancelled, the one that began it included, takes nothing along. The lookup is part of the flight,
so between "the layers have nothing" and "I fetch" no other caller can slip in a second fetch.

A flight carries as its *stamp* the log position at which its fetch began. A caller that came later
than a matching purge does not take that flight's value: by key, pattern or all it is turned away
when it joins, by tag when the tags are known, at the end. Either way it gets a newer flight.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeAlias, TypeVar

from layergate.config import seconds
from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Hook, Span
from layergate.core.flight import Flights, Pulse
from layergate.core.invalidation import MAX_INVALIDATIONS, MAX_PATTERNS
from layergate.core.layer import Key, Layer
from layergate.core.policy import Policy
from layergate.core.ports import Runtime, Task
from layergate.core.shared import Lease, Waited
from layergate.core.stack import Stack, WritePolicy
from layergate.errors import (
    ConfigError,
    FetchAborted,
    FetchRecursion,
    FetchTimeout,
    KeyRefused,
    PartialWriteError,
)

__all__ = ["Fetching", "Load", "LoadRuntime"]

_logger = logging.getLogger("layergate")

T = TypeVar("T")

_APART: Final = frozenset({"ahead", "stale"})  # why a value is fetched that no caller waits for

Load: TypeAlias = Callable[[list[Key]], Awaitable[Mapping[Key, Any]]]


class LoadRuntime(Runtime, Protocol):
    """What reading through needs on top of `Runtime`."""

    def spawn(
        self,
        work: Any,
        *,
        name: str,
        context: contextvars.Context | None = None,
    ) -> Task:
        """As `Runtime.spawn`, in the given context."""
        ...

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that may block, where it blocks nobody else."""
        ...


class _Crew:
    """One background task and the flights that it flies together (one, or a whole `mget`)."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        # The crews whose flights this one's fetch is waiting for, once per wait.
        self.waits: list[_Crew] = []

    def waits_for(self, other: _Crew) -> bool:
        """Does this one wait, in however many steps, for ``other``?"""
        seen: set[int] = set()
        todo = [self]
        while todo:
            crew = todo.pop()
            if crew is other:
                return True
            if id(crew) not in seen:
                seen.add(id(crew))
                todo.extend(crew.waits)
        return False


# The crew whose fetch this code runs in: to see that a fetch waits for itself.
_inside: Final[contextvars.ContextVar[_Crew | None]] = contextvars.ContextVar(
    "layergate_inside", default=None
)


class _Since(NamedTuple):
    """When a call began: a log position (``inf`` if the log was not heard then), and seconds of
    `Runtime.monotonic`."""

    position: float
    at: float


class _Flight:
    """One key's way from miss to value.

    ``stamp``   log position when the fetch began (until then: when the flight began).
    ``began``   seconds since the epoch.
    ``departed`` when the fetch began (until then: when the flight began), `Runtime.monotonic`.
    ``held``    what the layers have, if anything: stale, or fresh but late (`refresh_ahead`).
    ``entry``   the outcome: from a layer or, if ``fetched``, from the source. None with ``done``
                set: see ``error`` and ``aborted``; if neither is there, a bulk fetch left it out.
    """

    __slots__ = (
        "aborted",
        "began",
        "crew",
        "departed",
        "done",
        "entry",
        "error",
        "fetched",
        "held",
        "key",
        "previous",
        "pulse",
        "span",
        "stamp",
        "storing",
        "traceback",
    )

    def __init__(
        self, key: Key, runtime: Runtime, crew: _Crew, stamp: int, previous: _Flight | None
    ) -> None:
        self.key = key
        self.pulse = Pulse(runtime)
        self.crew = crew
        self.stamp = stamp
        self.began = runtime.now()
        self.departed = runtime.monotonic()
        self.previous = previous
        self.held: Entry | None = None
        self.entry: Entry | None = None
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None
        self.aborted = False
        self.fetched = False
        self.storing = False
        self.done = False
        self.span: Span = NO_SPAN  # of the fetch, for those who wait for it

    def fail(self, error: Exception) -> None:
        self.error = error
        # Without the engine's own frames: they refer to this flight, and it to the error.
        trace = error.__traceback__
        self.traceback = None if trace is None else trace.tb_next

    def raise_error(self) -> NoReturn:
        """Raise what the fetch raised, as an object of this caller's own where it can be copied:
        a shared one would collect the tracebacks and contexts of all who raise it.
        """
        assert self.error is not None
        raise _own(self.error).with_traceback(self.traceback)


def _own(error: Exception) -> Exception:
    try:
        own = copy.copy(error)
        if type(own) is not type(error) or own.args != error.args:
            return error
        own.__cause__ = error.__cause__
        own.__context__ = error.__context__
        own.__suppress_context__ = error.__suppress_context__
    except Exception:  # some exceptions cannot be copied; they are still right to raise
        return error
    return own


class _Retry(Exception):
    """This flight is not for this caller: find another."""


class _LeftOut(Exception):
    """A bulk fetch did not return this key."""


class Fetching(Stack):
    """A stack that can fetch what it does not have. `Loader` is what users see of it."""

    runtime: LoadRuntime

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        runtime: LoadRuntime,
        write_policy: WritePolicy = "best-effort",
        ttl: float | None = None,
        max_waiters: int = 65_536,
        max_refreshes: int = 256,
        fetch_term: float = 60.0,
        max_marks: int = MAX_INVALIDATIONS,
        max_patterns: int = MAX_PATTERNS,
        layer_timeout: float = 1.0,
        stale_if_untrusted: float | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        super().__init__(
            layers,
            runtime=runtime,
            write_policy=write_policy,
            max_marks=max_marks,
            max_patterns=max_patterns,
            layer_timeout=layer_timeout,
            hooks=hooks,
        )
        for option, number, least in (
            ("max_waiters", max_waiters, 1),
            ("max_refreshes", max_refreshes, 0),
        ):
            if type(number) is not int or number < least:
                raise ConfigError(
                    f"{option} must be a whole number from {least}, got {number!r};"
                    f" leave it out for the default"
                )
        if isinstance(fetch_term, bool) or not isinstance(fetch_term, (int, float)):
            raise ConfigError(f"fetch_term must be seconds, got {fetch_term!r}; e.g. 60")
        if not fetch_term > 0:
            raise ConfigError(f"fetch_term must be above 0 seconds, got {fetch_term!r}; e.g. 60")
        if ttl is not None:
            ttl = Policy(self.layers, None, ttl=ttl).ttl
        self._stale_if_untrusted = seconds(stale_if_untrusted, "stale_if_untrusted", "")
        self._now = runtime.now
        self.default_ttl = ttl
        self._max_waiters = max_waiters
        self._max_refreshes = max_refreshes
        self._fetch_term = float(fetch_term)
        self._flights: Flights[_Flight] = Flights(runtime)
        self._refreshing: set[_Flight] = set()

    # -- inside: options and entries -----------------------------------------------------------

    def _policy(self, **options: Any) -> Policy:
        return Policy(self.layers, self.default_ttl, **options)

    def _entry(
        self, value: Any, tags: tuple[str, ...], policy: Policy, stamp: int
    ) -> tuple[Entry, Mapping[str, float] | None] | None:
        """The entry for a value and the layers' caps; None if it is not to be stored."""
        factor = 1.0 - policy.jitter * self.runtime.random() if policy.jitter else 1.0
        ttl = policy.ttl
        windows = policy.stale_while_revalidate, policy.stale_if_error
        if value is None and policy.negative_ttl is not None:
            if not policy.negative_ttl:
                return None
            ttl, windows = policy.negative_ttl, (0.0, 0.0)
        now = self._now()
        entry = Entry(
            value,
            created=now,
            fresh_until=now + ttl * factor,
            stale_while_revalidate=windows[0],
            stale_if_error=windows[1],
            tags=tags,
            stamp=stamp,
        )
        caps = policy.per_layer
        if caps is not None and factor != 1.0:
            caps = {name: cap * factor for name, cap in caps.items()}
        return entry, caps

    def _is_late(self, entry: Entry, policy: Policy) -> bool:
        if policy.refresh_ahead is None or self._now() >= entry.fresh_until:
            return False
        # A copy whose freshness was cut for its layer is late by the lifetime of the whole.
        lifetime = entry.fresh_until - entry.created
        if entry.value is not None or policy.negative_ttl is None:
            lifetime = max(lifetime, policy.ttl * (1.0 - policy.jitter))
        return self._now() - entry.created >= policy.refresh_ahead * lifetime

    # -- inside: calling the source ------------------------------------------------------------

    async def _call(self, fetch: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(fetch) or inspect.iscoroutinefunction(
            getattr(fetch, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        ):
            return await fetch(*args)
        got = await self.runtime.call(lambda: fetch(*args))
        return await got if inspect.isawaitable(got) else got

    def _load_one(self, fetch: Callable[[], Any]) -> Load:
        async def load(keys: list[Key]) -> Mapping[Key, Any]:
            return {keys[0]: await self._call(fetch)}

        return load

    def _load_many(self, fetch_many: Callable[[list[Key]], Any], policy: Policy) -> Load:
        if not callable(fetch_many):
            raise ConfigError(
                f"fetch_many must be a callable of a list of keys, got {fetch_many!r}"
            )

        async def load(keys: list[Key]) -> Mapping[Key, Any]:
            found = await self._call(fetch_many, list(keys))
            if not isinstance(found, Mapping):
                raise TypeError(
                    f"fetch_many must return a mapping of key to value, got {type(found).__name__}"
                )
            if policy.negative_ttl is not None:
                return {key: found.get(key) for key in keys}
            return {key: found[key] for key in keys if key in found}

        return load

    # -- inside: flights -----------------------------------------------------------------------

    async def _fly_and_wait(
        self, keys: list[Key], load: Load, policy: Policy, *, bulk: bool
    ) -> dict[Key, Any]:
        """Join or begin the flights of these keys, and wait for what they bring."""
        now = self._now()
        position = self.invalidations.position if self.trusted else float("inf")
        started = _Since(position, self.runtime.monotonic())
        soft = None if policy.soft_timeout is None else now + policy.soft_timeout
        limit = None if policy.timeout is None else now + policy.timeout
        values: dict[Key, Any] = {}
        bypassing: list[Key] = []
        turn = 0
        while keys:
            crew = _Crew()
            mine: list[_Flight] = []
            waits: list[_Flight] = []
            for key in keys:
                # Who was turned away once is content only with a flight that is surely new enough;
                # and whom a bulk fetch left out as well, with none but its own.
                alone = policy.force or (turn > 1 and not bulk)
                flight = self._board(key, crew, started, strict=turn > 0, alone=alone)
                if flight.crew is crew:
                    mine.append(flight)
                elif flight.pulse.waiting >= self._max_waiters:
                    self.counters.on("bypass", key=key, reason="too many waiters")
                    bypassing.append(key)
                    continue
                else:
                    self.counters.on("collapsed", key=key)
                waits.append(flight)
            if mine:
                self._take_off(mine, load, policy, reason="forced" if policy.force else "miss")
            keys = []
            late: dict[Key, Entry] = {}
            for flight in waits:
                try:
                    led = flight.crew is crew
                    values[flight.key] = await self._outcome(
                        flight, led, started, soft, limit, policy
                    )
                    found = None if flight.fetched else flight.entry
                    if found is not None and self._is_late(found, policy):
                        late[flight.key] = found
                except _Retry:
                    keys.append(flight.key)
                except _LeftOut:
                    if not bulk:
                        keys.append(flight.key)  # by someone else's bulk fetch
            if late:
                self._refresh(late, load, policy, "ahead")
            turn += 1
        if bypassing:
            values.update(await load(bypassing))
        return values

    def _board(
        self, key: Key, crew: _Crew, started: _Since, *, strict: bool, alone: bool
    ) -> _Flight:
        """The flight to wait for: the one under way if it will do, or else a new one."""
        while True:
            present = self._flights.get(key)
            if present is not None and not alone and self._will_do(present, started, strict):
                return present
            flight = _Flight(key, self.runtime, crew, self.invalidations.position, present)
            if self._flights.lead(key, flight, instead_of=present) is flight:
                return flight

    def _will_do(self, flight: _Flight, started: _Since, strict: bool) -> bool:
        if flight.done or self._is_overdue(flight):
            return False
        if flight.departed >= started.at:
            return True
        if strict and not self._flown_for(flight, started):
            return False
        return flight.stamp >= started.position or not (
            strict or self.purged_since(flight.stamp, (), flight.key, soft=True)
        )

    def _flown_for(self, flight: _Flight, started: _Since) -> bool:
        """Can no purge have become final, unheard of here, between the beginning of this fetch and
        that call? Cut off from the log, a call takes only what is fetched after it began."""
        return self.trusted or flight.departed >= started.at

    def _take_off(self, flights: list[_Flight], load: Load, policy: Policy, *, reason: str) -> None:
        try:
            fly = self._fly_apart if reason in _APART else self._fly
            self.runtime.spawn(
                fly(flights, load, policy, reason),
                name="layergate fetch",
                context=contextvars.copy_context(),
            )
        except BaseException:
            for flight in flights:
                self._abort(flight)
            raise

    def _is_overdue(self, flight: _Flight) -> bool:
        return self._now() - flight.began >= self._fetch_term

    def _refresh(
        self, entries: Mapping[Key, Entry], load: Load, policy: Policy, reason: str
    ) -> None:
        """Start one background fetch of those keys that are not being fetched already."""
        crew = _Crew()
        flights: list[_Flight] = []
        for key, entry in entries.items():
            present = self._flights.get(key)
            if present is not None and not self._is_overdue(present):
                continue
            if len(self._refreshing) >= self._max_refreshes:
                self.counters.on("refresh_skipped", key=key, reason="too many")
                continue
            flight = _Flight(key, self.runtime, crew, self.invalidations.position, present)
            if self._flights.lead(key, flight, instead_of=present) is flight:
                flight.held = entry  # for callers who cannot see it by a peek
                self._refreshing.add(flight)
                self.counters.on("refresh", key=key, reason=reason)
                flights.append(flight)
        if flights:
            self._take_off(flights, load, policy, reason=reason)

    async def _fly(self, flights: list[_Flight], load: Load, policy: Policy, reason: str) -> None:
        """Look, fetch, store, tell. Whatever happens, no flight is left without an outcome."""
        _inside.set(flights[0].crew)
        look = reason in ("miss", "stale")
        apart = reason in _APART
        pending = {flight.key: flight for flight in flights}
        lease: Lease | None = None
        try:
            if look:
                await self._look(pending, policy)
            span: Span = NO_SPAN
            if pending and not apart:  # before the lease, which names it
                span = self._told(pending.values(), "fetch", reason)
            if reason != "forced" and len(pending) == 1 and self.leases is not None:
                lease = await self._take_lease(pending, policy)
            if not pending:
                return
            if self.leases is not None:
                span.ready()
            for flight in pending.values():
                flight.stamp = self.invalidations.position
                flight.departed = self.runtime.monotonic()
                why = "stale" if reason == "miss" and flight.held is not None else reason
                self.counters.on("fetch", key=flight.key, reason=why)
            with span:
                values = await load(list(pending))
            for key, flight in list(pending.items()):
                if key in values:
                    try:
                        await self._keep(flight, values[key], policy, lease)
                    except Exception as error:
                        self._failed(flight, error)
                self._land(flight)
                del pending[key]
        except Exception as error:
            for key, flight in list(pending.items()):
                self._failed(flight, error)
                if flight.held is None and not look:  # nobody has looked for what can stand in
                    found = await self.lookup(key, ttl=policy.per_layer)
                    flight.held = None if found is None else found.entry
                self._land(flight)
                del pending[key]
        finally:
            # Cancelled, or thrown out by the end of the process.
            for flight in pending.values():
                self._abort(flight)
            if lease is not None:
                self._give_back(lease)

    async def _fly_apart(
        self, flights: list[_Flight], load: Load, policy: Policy, reason: str
    ) -> None:
        """A flight that no caller waits for: a trace of its own, linked to what caused it."""
        with self._told(flights, "refresh", reason, root=True, links=(self.counters.here(),)):
            await self._fly(flights, load, policy, reason)

    def _told(self, flights: Collection[_Flight], name: str, reason: str, **how: Any) -> Span:
        """The span of fetching all these."""
        keys = [flight.key for flight in flights]
        key = keys[0] if len(keys) == 1 else None
        span = self.counters.span(name, key=key, keys=len(keys), reason=reason, **how)
        for flight in flights:
            flight.span = span
        return span

    async def _take_lease(self, pending: dict[Key, _Flight], policy: Policy) -> Lease | None:
        """The fleet's right to fetch the one key that is pending. None: it has come by another
        instance's fetch (then nothing is pending any more), or we go without: the shared layer is
        away, or the other instance takes longer than ``fetch_term``.

        Fetches of many keys at once take none: each key would have to be waited for in turn.
        """
        (key,) = pending
        flight = pending[key]
        until = self.runtime.monotonic() + self._fetch_term
        while await self.catch_up():
            # Where callers are served already, nobody waits: one refresh in the fleet is enough.
            background = flight in self._refreshing
            wait = 0.0 if background else max(0.0, until - self.runtime.monotonic())
            try:
                lease = await self.take_lease(key, wait=wait, span=flight.span)
            except Exception as error:
                self.counters.on("layer_error", layer="shared", operation="lease", error=error)
                return None
            if not isinstance(lease, Waited) and not lease.recent:
                return lease
            if lease is Waited.TIMEOUT:
                if background and flight.held is not None:
                    self.counters.on("refresh_skipped", key=key, reason="another instance does it")
                    self._land_with(flight, flight.held, pending)
                return None
            if lease is Waited.FREE:
                return None
            # Somebody else has fetched it since we looked.
            granted = None if isinstance(lease, Waited) else lease
            try:
                found = await self.lookup(key, ttl=policy.per_layer, after=flight.held)
            except BaseException:  # cancelled: nobody else knows of the lease yet
                if granted is not None:
                    self._give_back(granted)
                raise
            if found is not None and self._now() < found.entry.fresh_until:
                if granted is not None:
                    self._give_back(granted)
                self._land_with(flight, found.entry, pending)
                return None
            if granted is not None:
                return granted
        return None

    def _give_back(self, lease: Lease) -> None:
        """In the background: nothing here waits for it, and being cancelled does not stop it."""
        # Unless this is the end of the process: then it runs out by itself.
        with contextlib.suppress(RuntimeError):
            self.runtime.spawn(lease.release(), name="layergate release")

    def _land_with(self, flight: _Flight, entry: Entry, pending: dict[Key, _Flight]) -> None:
        """End a flight with what the layers have, which was valid when it was looked at, whatever
        was purged before."""
        flight.stamp = max(flight.stamp, entry.checked)
        flight.entry = entry
        self._land(flight)
        del pending[flight.key]

    async def _look(self, pending: dict[Key, _Flight], policy: Policy) -> None:
        """Land the flights whose key is fresh in some layer; show the others' callers what is stale."""
        with self.counters.span("lookup", keys=len(pending)) as span:
            if len(pending) == 1:
                (key,) = pending
                span.note(key=key)
                one = await self.lookup(key, ttl=policy.per_layer)
                found = {} if one is None else {key: one}
                span.note(layer=None if one is None else one.layer)
            else:
                found = await self.lookup_many(list(pending), ttl=policy.per_layer)
        now = self._now()
        for key, flight in list(pending.items()):
            entry = found[key].entry if key in found else None
            if entry is not None:
                flight.held = entry
            if entry is None or entry.staleness(now) >= entry.stale_while_revalidate:
                if flight not in self._refreshing:
                    self.counters.on("miss", key=key)
                continue
            if now >= entry.fresh_until:
                if flight in self._refreshing:
                    continue
                if len(self._refreshing) < self._max_refreshes:
                    self._refreshing.add(flight)
                    self.counters.on("refresh", key=key, reason="stale")
                    flight.pulse.beat()
                    continue
                self.counters.on("refresh_skipped", key=key, reason="too many")
            self._land_with(flight, entry, pending)

    async def _keep(self, flight: _Flight, value: Any, policy: Policy, lease: Lease | None) -> None:
        """Store a fetched value and make it the outcome."""
        key = flight.key
        refused = None
        try:
            tags = policy.tags_of(value)
        except KeyRefused:
            # Without its tags it could not be purged; to the caller it is as good as any.
            tags, refused = (), "tags"
        made = self._entry(value, tags, policy, flight.stamp)
        entry, caps = made or (Entry(value, created=self._now(), fresh_until=0.0, tags=tags), None)
        if made is None:
            refused = "negative"
        previous = flight.previous
        if previous is not None and previous.storing:
            # It was overtaken, but not in time: let it finish, so that ours is the last word.
            seen = previous.pulse.version
            if not previous.done:
                await previous.pulse.wait(seen, self._fetch_term)
        flight.previous = None
        if refused is None and self._flights.get(key) is not flight:
            refused = "superseded"
        if refused is None and lease is not None and not await lease.confirm():
            refused = "superseded"  # by another instance
        if refused is None:
            flight.storing = True
            try:
                with self.counters.span("store", parent=flight.span, key=key) as span:
                    if not await self.store(key, entry, ttl=caps):
                        refused = "purged"
                    span.note(refused=refused)
            except PartialWriteError:
                # Each layer that failed has raised its `write_error` event; whoever asked for the
                # value gets it.
                _logger.debug("fetched value of %r is not in every layer", key)
        if refused is not None:
            self.counters.on("refused", key=key, reason=refused)
        flight.fetched = True
        flight.entry = entry

    def _failed(self, flight: _Flight, error: Exception) -> None:
        flight.fail(error)
        flight.span.end(error)
        self.counters.on("fetch_error", key=flight.key, error=error)
        if flight in self._refreshing:
            # Perhaps no caller is there to raise it to.
            _logger.warning("background refresh of %r failed: %r", flight.key, error)

    def _land(self, flight: _Flight) -> None:
        flight.done = True
        self._refreshing.discard(flight)
        self._flights.land(flight.key, flight)
        flight.pulse.beat()

    def _abort(self, flight: _Flight) -> None:
        flight.aborted = True
        self._land(flight)

    # -- inside: waiting -----------------------------------------------------------------------

    async def _outcome(
        self,
        flight: _Flight,
        led: bool,
        started: _Since,
        soft: float | None,
        limit: float | None,
        policy: Policy,
    ) -> Any:
        """As `_awaited`, told as a wait where somebody else began the flight."""
        span = NO_SPAN if led else self.counters.span("wait", key=flight.key, scope="process")
        try:
            return await self._awaited(flight, led, started, soft, limit, policy)
        finally:
            span.link(flight.span.reference)
            span.end()

    async def _awaited(
        self,
        flight: _Flight,
        led: bool,
        started: _Since,
        soft: float | None,
        limit: float | None,
        policy: Policy,
    ) -> Any:
        """Wait for the flight, at most until ``soft`` or ``limit`` (seconds since the epoch).

        Raises `_Retry` when this caller needs another flight, `_LeftOut` when a bulk fetch left the
        key out.
        """
        key = flight.key
        pulse = flight.pulse
        while True:
            seen = pulse.version  # before looking: what changes meanwhile ends the wait at once
            if not policy.force and flight.entry is None:
                # Also when it has failed meanwhile: the window does not depend on who woke first.
                entry = self._stand_in(flight, "stale_while_revalidate")
                if entry is not None:
                    self._count_use(key, entry)
                    return entry.value
            if flight.done:
                break
            nearest = limit if soft is None else soft if limit is None else min(soft, limit)
            if nearest is None:
                await self._wait(flight, seen, None)
                continue
            left = nearest - self._now()
            if (left > 0 and await self._wait(flight, seen, left)) or flight.done:
                continue
            if policy.force and flight.held is None:
                found = await self.lookup(key, ttl=policy.per_layer)
                flight.held = None if found is None else found.entry
            if nearest == soft:
                soft = None
                entry = self._stand_in(flight, "stale_while_revalidate", "stale_if_error")
                if entry is not None:
                    self.counters.on("soft_timeout", key=key)
                    return entry.value
            else:
                self.counters.on("wait_timeout", key=key)
                if (entry := self._stand_in(flight, "stale_if_error")) is not None:
                    self.counters.on("stale", key=key, reason="timeout")
                    return entry.value
                raise FetchTimeout(f"no value for {key!r} within {policy.timeout} seconds")
        if flight.aborted:
            if led:
                raise FetchAborted(f"the fetch of {key!r} was cancelled")
            raise _Retry
        if flight.error is not None:
            if (entry := self._stand_in(flight, "stale_if_error")) is not None:
                self.counters.on("stale", key=key, reason="stale-if-error")
                return entry.value
            flight.raise_error()
        if flight.entry is None:
            raise _LeftOut
        entry = flight.entry
        if (
            flight.departed < started.at
            and flight.stamp < started.position
            and self.purged_since(flight.stamp, entry.tags, key, soft=True)
        ):
            raise _Retry
        if flight.fetched and not self._flown_for(flight, started):
            raise _Retry
        if not flight.fetched:
            self._count_use(key, entry)
        return entry.value

    def _count_use(self, key: Key, entry: Entry) -> None:
        if self._now() < entry.fresh_until:
            self.counters.hits += 1
        else:
            self.counters.on("stale", key=key, reason="stale-while-revalidate")

    def _stand_in(self, flight: _Flight, *windows: str) -> Entry | None:
        """What the flight holds, if it is not purged, and fresh or within one of these windows."""
        if not self.trusted:  # (asked first: see `Stack.peek`)
            windows = tuple(window for window in windows if window == "stale_if_error")
        entry = flight.held
        if entry is None or not self.vouches(flight.key, entry, self._stale_if_untrusted):
            return None
        past = entry.staleness(self._now())  # after `admit`, which may make it stale
        return entry if any(past < getattr(entry, window) for window in windows) else None

    async def _wait(self, flight: _Flight, seen: int, seconds: float | None) -> bool:
        """Until the flight beats. False if ``seconds`` passed first."""
        crew = _inside.get()
        if crew is None:
            return await flight.pulse.wait(seen, seconds)
        if flight.crew.waits_for(crew):
            raise FetchRecursion(
                f"the fetch of {flight.key!r} waits, directly or in a circle, for itself; call the"
                f" function itself, or use another key"
            )
        crew.waits.append(flight.crew)
        try:
            return await flight.pulse.wait(seen, seconds)
        finally:
            crew.waits.remove(flight.crew)
