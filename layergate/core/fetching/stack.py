"""A stack that can fetch what it does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from layergate.config import seconds
from layergate.core.entry import Entry
from layergate.core.events import Hook
from layergate.core.fetching.call import Call
from layergate.core.fetching.entries import due_for_refresh, new_entry
from layergate.core.fetching.flights import Fetches, LoadRuntime
from layergate.core.fetching.source import Load, load_many, load_one
from layergate.core.fetching.task import refresh
from layergate.core.invalidation import MAX_INVALIDATIONS, MAX_PATTERNS
from layergate.core.layer import Key, Layer
from layergate.core.policy import Policy
from layergate.core.stack import Stack, WritePolicy
from layergate.errors import ConfigError

__all__ = ["Fetching"]


class Fetching(Stack):
    """A `Stack` that reads through to a source. The options are those of `Loader`."""

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
            max_invalidations=max_invalidations,
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
                    f"{option} must be an integer of at least {least}, got {number!r};"
                    f" leave it out to use the default"
                )
        if isinstance(fetch_term, bool) or not isinstance(fetch_term, (int, float)):
            raise ConfigError(f"fetch_term must be a number of seconds, got {fetch_term!r}; try 60")
        if not fetch_term > 0:
            raise ConfigError(f"fetch_term must be more than 0 seconds, got {fetch_term!r}; try 60")
        if ttl is not None:
            ttl = Policy(self.layers, None, ttl=ttl).ttl
        self._now = runtime.now
        self.default_ttl = ttl
        self._fetches = Fetches(
            runtime,
            max_waiters=max_waiters,
            max_refreshes=max_refreshes,
            term=float(fetch_term),
            stale_if_untrusted=seconds(stale_if_untrusted, "stale_if_untrusted", ""),
        )

    def _policy(self, **options: Any) -> Policy:
        return Policy(self.layers, self.default_ttl, **options)

    def _entry(
        self, value: Any, tags: tuple[str, ...], policy: Policy, stamp: int
    ) -> tuple[Entry, Mapping[str, float] | None] | None:
        return new_entry(self.runtime, value, tags, policy, stamp)

    def _is_late(self, entry: Entry, policy: Policy) -> bool:
        return due_for_refresh(entry, policy, self._now())

    def _load_one(self, fetch: Callable[[], Any]) -> Load:
        return load_one(self.runtime, fetch)

    def _load_many(self, fetch_many: Callable[[list[Key]], Any], policy: Policy) -> Load:
        return load_many(self.runtime, fetch_many, policy)

    async def _fly_and_wait(
        self, keys: list[Key], load: Load, policy: Policy, *, bulk: bool
    ) -> dict[Key, Any]:
        return await Call(self, self._fetches, load, policy, bulk=bulk).values(keys)

    def _refresh(
        self, entries: Mapping[Key, Entry], load: Load, policy: Policy, reason: str
    ) -> None:
        refresh(self, self._fetches, entries, load, policy, reason)
