"""Reading from the layers: the top one without waiting, or all of them from the top down.

A layer that fails counts as a miss. What is found below is copied into the layers above (backfill).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from layergate.core.entry import Entry
from layergate.core.layer import Key, Layer
from layergate.core.stack.layers import inspected
from layergate.core.stack.writing import Writing

__all__ = ["Found", "Reading"]


class Found(NamedTuple):
    """An entry, and the name of the layer that it came from."""

    entry: Entry
    layer: str


class Reading(Writing):
    """A stack that can be read."""

    def peek(self, key: Key) -> Entry | None:
        """The entry in the top layer, fresh or stale but not purged. No I/O, no await.

        The caller looks at the times. None if the top layer cannot be peeked, or fails, or if the stack
        is not `trusted`.
        """
        # Trust first, invalidations then: what another thread applies in between is seen.
        if self.shared_log is not None and not self.trusted:
            return None
        try:
            entry = self.top_peek(key)
            if (
                entry is not None
                and entry.checked != self.invalidations.position
                and not self.invalidations.admit(entry, self._label(key))
            ):
                return None
        except Exception as error:  # what the layer gave may be no entry at all
            self.peek_failed(error)
            return None
        return entry

    def inspect_top(self, key: Key) -> Entry | None:
        """As `peek`, but never an expired entry, and it doesn't count as a read."""
        look: Callable[[Key], Any] | None = getattr(self.layers[0], "inspect", None)
        if look is None or not self._top_peekable or not self.trusted:
            return None
        try:
            entry: Entry | None = look(key)
            if entry is None or not self._usable(key, entry):
                return None
        except Exception as error:
            self.peek_failed(error)
            return None
        return entry

    def reads(self, key: Key) -> int | None:
        """How often an entry of the top layer has been read recently; None if the layer has no such
        entry. 0 if the layer doesn't count reads."""
        reads: Callable[[Key], int | None] | None = getattr(self.layers[0], "reads", None)
        if reads is None:
            return None if self.inspect_top(key) is None else 0
        try:
            return reads(key)
        except Exception as error:
            self.peek_failed(error)
            return None

    def fade(self, key: Key) -> None:
        """Have the top layer forget one read of an entry, if it counts them."""
        fade: Callable[[Key], None] | None = getattr(self.layers[0], "fade", None)
        if fade is not None:
            try:
                fade(key)
            except Exception as error:
                self.peek_failed(error)

    def peek_failed(self, error: Exception) -> None:
        """The top layer's peek raised, or gave something that is no entry."""
        top = self.layers[0].name
        self.counters.on("layer_error", layer=top, operation="peek", error=error)

    async def lookup(
        self,
        key: Key,
        *,
        ttl: Mapping[str, float] | None = None,
        after: Entry | None = None,
        enough: Callable[[Entry], bool] | None = None,
        quiet: bool = False,
        below: bool = False,
    ) -> Found | None:
        """The first fresh entry from the top down, or else the freshest of the stale ones. The top
        layer's copy may have a shorter lifetime than the one below. Never an expired or purged entry.

        The entry is copied into the layers above.

        ``ttl``     caps the freshness of these copies; see `Writing.store`.
        ``after``   only an entry that was fetched or validated later than this one counts.
        ``enough``  tells whether an entry has everything that is wanted. One that hasn't counts as stale,
                    and as less than any that has, because a layer below may hold more.
        ``quiet``   the same answer, but nothing is copied or counted, and the entry is a copy.
        ``below``   leaves out the top layer: it is neither read nor written.
        """
        if not await self.catch_up():
            return None if below else await self._lookup_distrusted(key, quiet=quiet)
        best: tuple[Entry, int] | None = None
        best_rank = False, 0.0
        for depth, layer in enumerate(self.layers):
            if below and not depth:
                continue
            entry = await self._get(layer, key, quiet=quiet)
            if entry is None or (after is not None and entry.created <= after.created):
                continue
            all_there = enough is None or enough(entry)
            rank = all_there, entry.fresh_until
            # Of two that are not enough, the one further down has seen the parts of more instances.
            if best is None or rank > best_rank or (rank == best_rank and not all_there):
                best, best_rank = (entry, depth), rank
            if all_there and entry.fresh_until > self.runtime.now():
                break
        if best is None:
            return None
        entry, depth = best
        if depth and not quiet and not below:
            await self._backfill(key, entry, depth, ttl)
            if not self.admits(key, entry):  # purged while it was copied
                return None
        return Found(entry, self.layers[depth].name)

    async def lookup_many(
        self, keys: Sequence[Key], *, ttl: Mapping[str, float] | None = None
    ) -> dict[Key, Found]:
        """As `lookup`, for many keys, with one `get_many` for each layer and the keys that are not fresh
        yet."""
        if not await self.catch_up():
            one_by_one = {key: await self._lookup_distrusted(key) for key in keys}
            return {key: found for key, found in one_by_one.items() if found is not None}
        best: dict[Key, tuple[Entry, int]] = {}
        wanted = list(dict.fromkeys(keys))
        for depth, layer in enumerate(self.layers):
            if not wanted:
                break
            try:
                got = layer.get_many(wanted)
                entries: Mapping[Key, Entry] = await self._ask.answer(layer, got)
                now = self.runtime.now()
                still: list[Key] = []
                for key in wanted:
                    entry = entries.get(key)
                    if entry is not None and self._usable(key, entry):
                        if key not in best or entry.fresh_until > best[key][0].fresh_until:
                            best[key] = entry, depth
                        if entry.fresh_until > now:
                            continue
                    still.append(key)
                wanted = still
            except Exception as error:
                self.counters.on("layer_error", layer=layer.name, operation="get_many", error=error)
        for key, (entry, depth) in best.items():
            if depth:
                await self._backfill(key, entry, depth, ttl)
        return {
            key: Found(entry, self.layers[depth].name)
            for key, (entry, depth) in best.items()
            if self.admits(key, entry)  # not purged while they were copied
        }

    async def _lookup_distrusted(self, key: Key, *, quiet: bool = False) -> Found | None:
        """What the top layer holds, as stale: good for validation, and for nothing else unless `vouches`
        allows it."""
        top = self.layers[0]
        entry = await self._get(top, key, quiet=quiet)
        return None if entry is None else Found(entry.distrusted(self.runtime.now()), top.name)

    async def _get(self, layer: Layer, key: Key, *, quiet: bool) -> Entry | None:
        """The usable entry of one layer. None, too, if the layer fails."""
        try:
            got = inspected(layer, key) if quiet else layer.get(key)
            entry: Entry | None = await self._ask.answer(layer, got)
            if quiet and entry is not None:
                entry = entry.clipped(entry.stale_from)
            return entry if entry is not None and self._usable(key, entry) else None
        except Exception as error:
            if not quiet:
                self.counters.on("layer_error", layer=layer.name, operation="get", error=error)
            return None

    async def _backfill(
        self, key: Key, entry: Entry, depth: int, ttl: Mapping[str, float] | None
    ) -> None:
        """Copy an entry of the layer at ``depth`` into the layers above it."""
        source = self.layers[depth].name
        for layer in self.layers[:depth]:
            with self.counters.span("backfill", source=source, layer=layer.name) as span:
                error = await self._write(layer, key, entry, ttl)
                span.end(error)
            if error is None:
                self.counters.on("backfill", source=source, layer=layer.name)
