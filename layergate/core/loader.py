"""Reading through the stack, for any value: `get`, `set`, `mget`, `wrap`, and purges by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from layergate.core.entry import Entry
from layergate.core.events import Hook
from layergate.core.fetching import Fetching, LoadRuntime
from layergate.core.invalidation import MAX_INVALIDATIONS, MAX_PATTERNS, Invalidation, PurgeReceipt
from layergate.core.layer import Key, Layer, MaybeAwaitable
from layergate.core.policy import (
    Options,
    Policy,
    Tags,
    TimeToLive,
    checked_key,
    checked_keys,
    checked_tags,
)
from layergate.core.stack import WritePolicy
from layergate.core.wrap import KeyOf, Wrapped
from layergate.errors import ConfigError, PurgeRefused

__all__ = ["LoadRuntime", "Loader"]

T = TypeVar("T")
P = ParamSpec("P")


class Loader(Fetching):
    """A stack that is read *through*: `get` fetches what is missing, once.

    ``ttl``              seconds; what `get`, `set` and `wrap` use when they name none. None: the
                         longest of the layers' own, if all of them have one.
    ``max_waiters``      how many calls may wait for one flight; the ones beyond call their fetch
                         themselves, and nothing is stored for them (event ``bypass``).
    ``max_refreshes``    how many background refreshes may run at once; beyond it the stale value
                         is served without one (event ``refresh_skipped``).
    ``fetch_term``       seconds after which a flight that has not landed is given up: those who
                         wait for it go on waiting, the next caller begins a new one, and what the
                         old one brings is not stored. It is not stopped; give fetches timeouts of
                         their own.
    ``layer_timeout``    seconds that one operation of a layer may take; beyond, it has failed.
    ``stale_if_untrusted`` seconds after losing touch with a shared layer's log for which a stale
                         value may still stand in for a fetch that fails, within its
                         ``stale_if_error``. A purge that passes meanwhile goes unheard, so a
                         receipt's ``final`` does not cover these values. None: what may have been
                         purged never stands in.

    Values are handed out as they are, not copied: do not change what `get` returns.

    The rest is as for `Stack`. Raises ConfigError naming option, value and remedy.
    """

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
        max_invalidations: int = MAX_INVALIDATIONS,
        max_patterns: int = MAX_PATTERNS,
        layer_timeout: float = 1.0,
        stale_if_untrusted: float | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        super().__init__(
            layers,
            runtime=runtime,
            write_policy=write_policy,
            ttl=ttl,
            max_waiters=max_waiters,
            max_refreshes=max_refreshes,
            fetch_term=fetch_term,
            max_invalidations=max_invalidations,
            max_patterns=max_patterns,
            layer_timeout=layer_timeout,
            stale_if_untrusted=stale_if_untrusted,
            hooks=hooks,
        )
        self._wrapped: dict[str, Any] = {}

    # -- one value -----------------------------------------------------------------------------

    @overload
    async def get(
        self,
        key: Key,
        fetch: Callable[[], Awaitable[T]],
        *,
        force: bool = False,
        **options: Unpack[Options],
    ) -> T: ...

    @overload
    async def get(
        self,
        key: Key,
        fetch: Callable[[], T],
        *,
        force: bool = False,
        **options: Unpack[Options],
    ) -> T: ...

    @overload
    async def get(self, key: Key, fetch: None = None, *, default: Any = None) -> Any: ...

    async def get(
        self,
        key: Key,
        fetch: Callable[[], Any] | None = None,
        *,
        ttl: TimeToLive | None = None,
        tags: Tags = (),
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        negative_ttl: float | None = None,
        jitter: float = 0.0,
        refresh_ahead: float | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        force: bool = False,
        default: Any = None,
    ) -> Any:
        """The value of ``key``: from the layers, or else from ``fetch()``.

        ``fetch`` may be an ``async def`` (it runs on the loop) or a plain function (it runs in a
        worker thread, for it may block; what it returns is awaited if it is awaitable). Either way
        it runs in a background task, in a copy of the first caller's context, once for all who ask
        meanwhile. All of them get its value, or an exception like the one it raised, which is never
        cached. Without ``fetch``: the value if it is there, fresh or within its
        ``stale_while_revalidate``, or else ``default``.

        The options; times in seconds:

        ``ttl``              freshness lifetime, also per layer: ``{"memory": 30, "shared": 600}``. A
                             layer left out keeps it for the longest of the others.
        ``tags``             names for `invalidate_by_tag`, or a function of the value that gives
                             them. When the function names too many, the value is not stored.
        ``stale_while_revalidate``
                             for so long past its lifetime the old value is returned at once while
                             one fetch runs in the background.
        ``stale_if_error``   for so long past its lifetime the old value is returned when the fetch
                             raises an Exception, or ``timeout`` passes.
        ``negative_ttl``     lifetime of a fetched None, which then has no stale windows; 0: it is
                             not stored; None: it is a value like any other.
        ``jitter``           0.1: lifetimes are multiplied by a random factor from 0.9 to 1.
        ``refresh_ahead``    0.8: a hit past 80 % of the lifetime starts one background refresh.
        ``soft_timeout``     after so long the old value is returned, if it is within *either* stale
                             window, and the fetch goes on.
        ``timeout``          after so long this call gives up; None: it waits as long as the fetch.
        ``force``            fetch in any case, with a fetch that begins now; what an older fetch of
                             this instance brings after that is not stored.

        The windows that count are the ones that were stored with the value.

        Options are looked at when the value is not simply there: a mistake in one shows on a miss.
        Raises ConfigError or KeyRefused for those; FetchTimeout; FetchAborted when the fetch was
        cancelled; FetchRecursion when the fetch asks for its own key; and whatever ``fetch``
        raises. Never fails because a layer did: not even under the strict write policy, which is
        about `set`, `delete` and `clear`.
        """
        if not force:
            entry = self.peek(key)
            if (
                entry is not None
                and (now := self._now()) < entry.fresh_until
                and (
                    refresh_ahead is None
                    # Half of `_is_late`, as a float comparison only.
                    or now - entry.created < refresh_ahead * (entry.fresh_until - entry.created)
                )
            ):
                self.counters.hits += 1
                return entry.value
        if fetch is None:
            return await self._get_stored(key, default)
        policy = self._policy(
            ttl=ttl,
            tags=tags,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            negative_ttl=negative_ttl,
            jitter=jitter,
            refresh_ahead=refresh_ahead,
            soft_timeout=soft_timeout,
            timeout=timeout,
            force=force,
        )
        return await self.read(key, fetch, policy)

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: TimeToLive | None = None,
        tags: Tags = (),
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        negative_ttl: float | None = None,
        jitter: float = 0.0,
    ) -> bool:
        """Store a value, whatever was there. Options as for `get`.

        It is a purge of the key too: fetches of it that are under way are not stored, and copies
        that other instances or layers still hold are dead. True if it was stored; False if it was
        purged while it was being written, or is a None with ``negative_ttl=0``.

        Raises ConfigError, KeyRefused, and under the strict write policy PartialWriteError.
        """
        checked_key(key)
        policy = self._policy(
            ttl=ttl,
            tags=tags,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            negative_ttl=negative_ttl,
            jitter=jitter,
        )
        names = policy.tags_of(value)
        # (an instance that stands still is not waited for: this is a write, not a purge)
        invalidation = Invalidation("key", self._label(key))
        await self._log.append((invalidation,), self._now(), wait=self._ask.timeout)
        made = self._entry(value, names, policy, self.invalidations.position)
        if made is None:
            return False
        entry, per_layer = made
        return await self.store(key, entry, ttl=per_layer)

    # -- many values ---------------------------------------------------------------------------

    async def mget(
        self,
        keys: Iterable[Key],
        fetch_many: Callable[[list[Key]], MaybeAwaitable[Mapping[Key, Any]]] | None = None,
        *,
        ttl: TimeToLive | None = None,
        tags: Tags = (),
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        negative_ttl: float | None = None,
        jitter: float = 0.0,
        refresh_ahead: float | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        force: bool = False,
    ) -> dict[Key, Any]:
        """The values of many keys, in the order of ``keys``; a key without one is left out.

        The layers are asked with one `get_many` each. Then ``fetch_many(missing)`` is called once,
        with the keys that are not fresh and that nobody else is fetching, and returns a mapping of
        those it found. One it leaves out counts as None if ``negative_ttl`` is given, and else is
        neither stored nor returned. A function of the value as ``tags`` is called for each.

        Everything else is as for `get`, per key; a failing ``fetch_many`` raises unless every key
        that needs it has a usable stale value.
        """
        wanted = checked_keys(keys)
        values: dict[Key, Any] = {}
        if fetch_many is None:
            found = await self.lookup_many(wanted)
            for key in wanted:
                entry = found[key].entry if key in found else None
                if entry is not None and self._take_stored(key, entry):
                    values[key] = entry.value
                elif entry is None:
                    self.counters.on("miss", key=key)
            return values
        policy = self._policy(
            ttl=ttl,
            tags=tags,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            negative_ttl=negative_ttl,
            jitter=jitter,
            refresh_ahead=refresh_ahead,
            soft_timeout=soft_timeout,
            timeout=timeout,
            force=force,
        )
        load = self._load_many(fetch_many, policy)
        missing: list[Key] = []
        stale: dict[Key, Entry] = {}
        late: dict[Key, Entry] = {}
        now = self._now()
        for key in wanted:
            entry = None if force else self.peek(key)
            if entry is not None and now < entry.fresh_until:
                self.counters.hits += 1
                values[key] = entry.value
                if self._is_late(entry, policy):
                    late[key] = entry
            elif entry is not None and entry.staleness(now) < entry.stale_while_revalidate:
                stale[key] = entry
            else:
                missing.append(key)
        if late:
            self._refresh(late, load, policy, "ahead")
        if missing:
            # The stale ones come along, in the same single call.
            wait_for = [key for key in wanted if key not in values]
            values.update(await self._fly_and_wait(wait_for, load, policy, bulk=True))
        elif stale:
            for key, entry in stale.items():
                self.counters.on("stale", key=key, reason="stale-while-revalidate")
                values[key] = entry.value
            self._refresh(stale, load, policy, "stale")
        return {key: values[key] for key in wanted if key in values}

    # -- decorator -----------------------------------------------------------------------------

    def wrap(
        self,
        *,
        key: KeyOf | None = None,
        **options: Unpack[Options],
    ) -> Callable[[Callable[P, Any]], Wrapped[P]]:
        """A decorator that caches a function's results. Options as for `get`.

        ``key``   a format string over the arguments by name, ``"user:{id}"``; or a callable that
                  takes the same arguments and returns the key. None: module, qualified name and
                  all arguments, encoded so that different calls never share a key; for arguments
                  of the built-in types, dates, UUIDs, decimals, enums and dataclasses of these.
        ``tags``  may be formats over the arguments as well: ``["user:{id}"]``.

        The decorated function is awaited, also if it was a plain one (that then runs in a worker
        thread). It has ``.key(*args)``, ``await .invalidate(*args)``, ``await .refresh(*args)``.

        Raises ConfigError for what cannot work.
        """

        def decorate(function: Callable[P, Any]) -> Wrapped[P]:
            return Wrapped(self, function, key, options, self._wrapped)

        return decorate

    # -- purges --------------------------------------------------------------------------------

    async def delete(self, key: Key) -> bool:
        """Remove one key from every layer; a fetch of it that is under way is not stored.

        True if any layer held it. Raises KeyRefused, and under the strict write policy
        PartialWriteError.
        """
        checked_key(key)
        return await super().delete(key)

    async def invalidate_by_tag(self, *tags: str, soft: bool = False) -> PurgeReceipt:
        """Purge every entry that carries one of ``tags``; with ``soft`` make them stale instead.

        Costs the same for one entry and for a million. Raises PurgeRefused without any tag,
        KeyRefused for one that cannot be a tag.
        """
        if not tags:
            raise PurgeRefused(
                "invalidate_by_tag needs at least one tag; clear() purges everything"
            )
        # One by one: the cap on the number is for entries, a purge may name more.
        names = dict.fromkeys(name for tag in tags for name in checked_tags((tag,)))
        return await self.purge([(Invalidation("tag", name, soft),) for name in names])

    async def invalidate_by_pattern(self, pattern: str, soft: bool = False) -> PurgeReceipt:
        """Purge every entry whose key matches ``pattern``, where ``*`` is any run of characters;
        with ``soft`` make them stale instead.

        Raises KeyRefused for an empty or oversized pattern, or one with too many ``*``.
        """
        return await self.purge([(Invalidation("glob", pattern, soft),)])

    # -- the rest ------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """As `Stack.metrics`, and the flights under way, and those that are background
        refreshes."""
        flights = {
            "under_way": len(self._fetches.table),
            "refreshing": len(self._fetches.refreshing),
        }
        return {**super().metrics(), "flights": flights}

    async def aclose(self, timeout: float = 5.0) -> None:
        """Wait at most ``timeout`` seconds for fetches under way, then cancel what is left; their
        callers get FetchAborted. Not needed for correctness; the stack can be used on."""
        await self.runtime.aclose(timeout)

    # -- inside ------ -----------------------------------------------------------------------

    async def _get_stored(self, key: Key, default: Any) -> Any:
        checked_key(key)
        found = await self.lookup(key)
        if found is None:
            self.counters.on("miss", key=key)
            return default
        return found.entry.value if self._take_stored(key, found.entry) else default

    def _take_stored(self, key: Key, entry: Entry) -> bool:
        """Can it be used without a fetch? Counts what it is."""
        now = self._now()
        if now < entry.fresh_until:
            self.counters.hits += 1
            return True
        if entry.staleness(now) < entry.stale_while_revalidate:
            self.counters.on("stale", key=key, reason="no-fetch")
            return True
        self.counters.on("miss", key=key)
        return False

    def fresh(self, key: Key) -> Entry | None:
        """The entry in the top layer if it is fresh, counted as a hit; no I/O, no await."""
        entry = self.peek(key)
        if entry is None or self._now() >= entry.fresh_until:
            return None
        self.counters.hits += 1
        return entry

    async def read(self, key: Key, fetch: Callable[[], Any], policy: Policy) -> Any:
        """As `get`, with options that were checked before."""
        checked_key(key)
        if not callable(fetch):
            raise ConfigError(f"fetch must be a callable without arguments, got {fetch!r}")
        entry = None if policy.force else self.peek(key)
        if entry is not None:
            now = self._now()
            if now < entry.fresh_until:
                self.counters.hits += 1
                if self._is_late(entry, policy):
                    self._refresh({key: entry}, self._load_one(fetch), policy, "ahead")
                return entry.value
            if entry.staleness(now) < entry.stale_while_revalidate:
                self.counters.on("stale", key=key, reason="stale-while-revalidate")
                self._refresh({key: entry}, self._load_one(fetch), policy, "stale")
                return entry.value
        load = self._load_one(fetch)
        return (await self._fly_and_wait([key], load, policy, bulk=False))[key]
