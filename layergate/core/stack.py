"""The layered stack: entries kept in layers, read from the top, backfilled upward, purged by marks.

`Stack` knows entries, layers and purges. Reading *through* it (single-flight, stale windows,
refresh) is `layergate.core.loader`; HTTP is `layergate.http.engine.cache`.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from layergate.core.codec import ValueType
from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Counters, Hook, Span
from layergate.core.invalidation import (
    MAX_INVALIDATIONS,
    MAX_PATTERNS,
    Caught,
    Invalidation,
    Invalidations,
    LocalLog,
    PurgeReceipt,
)
from layergate.core.layer import Key, Layer, MaybeAwaitable, PeekableLayer
from layergate.core.matching import PART, Matched, Matching
from layergate.core.ports import Runtime
from layergate.core.shared import Joining, Lease, Leases, Log, SharedLayer, Waited
from layergate.errors import ConfigError, LayerUnavailable, PartialWriteError

__all__ = ["Found", "Held", "PurgeReceipt", "Stack", "WritePolicy"]

WritePolicy: TypeAlias = Literal["best-effort", "strict"]
T = TypeVar("T")

_owners: Final[weakref.WeakKeyDictionary[Layer, weakref.ref[Stack]]] = weakref.WeakKeyDictionary()
_POLICIES: Final = ("best-effort", "strict")


class Found(NamedTuple):
    """An entry and the name of the layer it came from."""

    entry: Entry
    layer: str


class Held(NamedTuple):
    """What one layer has under a key, for who wants to know.

    ``entry``: a copy; None if there is none, or it has expired. ``caught``: the purges that concern
    it, hard ones (then it is as good as gone) or those soft ones that made it stale.
    ``error``: what the layer raised instead of an answer, or None.
    """

    layer: str
    entry: Entry | None = None
    caught: tuple[Caught, ...] = ()
    error: BaseException | None = None

    @property
    def purged(self) -> bool:
        return any(not invalidation.soft for invalidation in self.caught)


def _no_peek(_key: Key) -> None:
    return None


def _look(layer: Layer, key: Key) -> MaybeAwaitable[Entry | None]:
    """A layer's entry, if it can be without being taken for a read."""
    look: Callable[[Key], MaybeAwaitable[Entry | None]] = getattr(layer, "inspect", layer.get)
    return look(key)


def _text(key: Key) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


def _claim(layer: Layer, stack: Stack) -> None:
    """A layer belongs to one stack: its entries are stamped with positions of that stack's log,
    which mean nothing in another's, and a purge of one would be none of the other's."""
    try:
        owner = _owners.get(layer)
    except TypeError:  # a layer that cannot be referred to weakly; its author looks after this
        return
    other = None if owner is None else owner()
    if other is not None and other is not stack:
        raise ConfigError(
            f"layers must belong to one stack, but layer {layer.name!r} is already in another;"
            " make a layer for each, or share the stack or HttpCache"
        )
    _owners[layer] = weakref.ref(stack)


class Stack:
    """Layers, top first.

    ``label`` turns a key into the text that key, prefix and pattern purges are matched against;
    by default the key itself. Best-effort writes never raise; strict ones raise PartialWriteError.
    ``layer_timeout``: a layer's operation that takes longer has failed, seconds.
    ``values``: how values that are not plain data go over the wire to a shared layer.
    ``log``: makes a log of purges that is shared with other instances, where no layer is.

    One of the layers may be shared with other instances (`SharedLayer`): its log is then the
    stack's log, and its leases make a fetch the fleet's only one. While the log cannot be reached
    for too long (`trusted`), what the layers hold counts as stale, without a
    stale-while-revalidate window: a purge may have passed that nobody could tell us of.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        runtime: Runtime,
        write_policy: WritePolicy = "best-effort",
        label: Callable[[Any], str] = _text,
        max_marks: int = MAX_INVALIDATIONS,
        max_patterns: int = MAX_PATTERNS,
        layer_timeout: float = 1.0,
        hooks: Iterable[Hook] = (),
        values: Sequence[ValueType] = (),
        log: Callable[[Joining], Log] | None = None,
    ) -> None:
        if not isinstance(layers, (list, tuple)) or not layers:
            raise ConfigError(
                f"layers must be a list with at least one layer, e.g. [MemoryLayer('64MB')],"
                f" got {layers!r}"
            )
        for layer in layers:
            if not isinstance(layer, Layer):
                raise ConfigError(
                    f"layers must be Layer objects (get, get_many, set, delete, clear, stats),"
                    f" got {layer!r}"
                )
        names = [layer.name for layer in layers]
        if len(set(names)) != len(names):
            raise ConfigError(f"layers must have different names, got {names}; pass name=...")
        if write_policy not in _POLICIES:
            raise ConfigError(f"write_policy must be one of {_POLICIES}, got {write_policy!r}")
        for option, number in (("max_marks", max_marks), ("max_patterns", max_patterns)):
            if type(number) is not int or number < 1:
                raise ConfigError(
                    f"{option} must be a whole number from 1, got {number!r}; leave it out"
                    f" for the default"
                )
        if type(layer_timeout) not in (int, float) or not layer_timeout > 0:
            raise ConfigError(f"layer_timeout must be > 0 seconds, got {layer_timeout!r}")
        shared = [layer for layer in layers if isinstance(layer, SharedLayer)]
        if len(shared) > 1:
            raise ConfigError(
                f"layers must have at most one shared layer, for it keeps the log of purges, got"
                f" {[layer.name for layer in shared]}; drop one"
            )
        if shared and log is not None:
            raise ConfigError(
                f"log excludes a shared layer, which brings its own, got {shared[0].name!r};"
                " drop one of them"
            )
        self._layer_timeout = float(layer_timeout)
        for layer in layers:
            _claim(layer, self)
        self.layers = tuple(layers)
        self._keep_time = tuple(layer for layer in layers if getattr(layer, "timeout", None))
        self.runtime = runtime
        self.write_policy = write_policy
        self.counters = Counters(hooks)
        self.invalidations = Invalidations(max_marks=max_marks, max_patterns=max_patterns)
        # The log that other instances append to as well, or None: then nothing is ever distrusted.
        self.shared_log: Log | None = None
        self.leases: Leases | None = None
        self._log: Log | LocalLog = LocalLog(self.invalidations, runtime.lock())
        joining = Joining(self.invalidations, runtime, self.counters, tuple(values))
        for layer in shared:
            self.shared_log, self.leases = layer.join(joining)
            self._log = self.shared_log
        if log is not None:
            self._log = self.shared_log = log(joining)
        self._label = label
        top = self.layers[0]
        # Checked once: on some Pythons, a check against a protocol costs more than a hit.
        self._top_peekable = isinstance(top, PeekableLayer)
        # The top layer's own peek, for who looks after purges and failures himself (see `peek`).
        self.top_peek: Callable[[Key], Entry | None] = (
            top.peek if isinstance(top, PeekableLayer) else _no_peek
        )
        # With nothing below a peekable top, a peek has seen all there is.
        self.peek_is_enough = len(self.layers) == 1 and self._top_peekable
        # Can the top layer be written to at once, before those below it? (See `keep`.)
        self._keeps = self._top_peekable and not inspect.iscoroutinefunction(top.set)

    @property
    def trusted(self) -> bool:
        """Are the marks known to be complete? Always so without a shared layer."""
        log = self.shared_log
        return log is None or self.runtime.monotonic() < log.trusted_until

    async def catch_up(self) -> bool:
        """Make sure of being `trusted`, if that can be had within the shared layer's time budget.

        Returns whether what the layers hold may be taken for fresh by whoever asked.
        """
        log = self.shared_log
        return log is None or self.trusted or await log.catch_up()

    async def take_lease(self, key: Key, *, wait: float, span: Span) -> Lease | Waited:
        """The fleet's lease of ``key``, for the fetch that ``span`` is of; see `Leases.acquire`. It
        names that span to those who wait for it, as we link to the span of whom we wait for."""
        waiting: Span = NO_SPAN

        def held(note: str) -> None:
            nonlocal waiting
            waiting = self.counters.span("wait", links=(note,), key=key, scope="fleet")

        assert self.leases is not None
        try:
            note = span.reference or ""
            taken = await self.leases.acquire(key, wait=wait, note=note, held=held)
            if isinstance(taken, Waited):
                waiting.note(result=taken)
        finally:
            waiting.end()
        return taken

    # -- reading -------------------------------------------------------------------------------

    def peek(self, key: Key) -> Entry | None:
        """The entry in the top layer, fresh or stale but not purged; no I/O, no await.

        The caller looks at the times. None if the top layer cannot be peeked, or fails, or if the
        log has not been heard of for too long.
        """
        # Trust first, marks then: what is applied in between (by another thread) is seen.
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
        except Exception as error:  # whatever it gave us may be no entry at all
            self.peek_failed(error)
            return None
        return entry

    def inspect_top(self, key: Key) -> Entry | None:
        """As `peek`, but nothing that has expired, and it does not count as a read."""
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
        """How often an entry of the top layer has been read of late; None if it holds none. 0 where
        it does not count."""
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
        """The first fresh entry from the top down; or else, of the stale ones, the freshest (the
        top layer's copy may have a shorter TTL than the one below). Never an expired or purged one.

        It is copied into the layers above, where ``ttl`` (layer name -> seconds from now) caps its
        freshness, or the layer's own ``ttl`` does. A layer that fails counts as a miss. With
        ``after`` only what was fetched or validated later than that one counts. ``enough``: whether
        an entry has all that is wanted. One that has not counts as stale, and as less than any that
        has: the layers below may hold more. ``quiet``: the same answer, but nothing is copied or
        counted; the entry is a copy of its own. ``below``: not what the top layer holds, nor is it
        copied there.
        """
        if not await self.catch_up():
            return None if below else await self._lookup_distrusted(key, quiet=quiet)
        best: tuple[Entry, int] | None = None
        best_rank = False, 0.0
        for depth, layer in enumerate(self.layers):
            if below and not depth:
                continue
            try:
                got = layer.get(key) if not quiet else _look(layer, key)
                entry: Entry | None = await self._answer(layer, got)
                if quiet and entry is not None:
                    entry = entry.clipped(entry.stale_from)
                if entry is None or not self._usable(key, entry):
                    continue
                if after is not None and entry.created <= after.created:
                    continue
            except Exception as error:
                if not quiet:
                    self.counters.on("layer_error", layer=layer.name, operation="get", error=error)
                continue
            all_there = enough is None or enough(entry)
            rank = all_there, entry.fresh_until
            # Of two that are not enough, the one further down has seen more instances' parts.
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

    async def _lookup_distrusted(self, key: Key, *, quiet: bool = False) -> Found | None:
        """What the top layer holds, as stale: good for validation, and for nothing else, unless
        `vouches` is told otherwise."""
        top = self.layers[0]
        try:
            got = top.get(key) if not quiet else _look(top, key)
            entry: Entry | None = await self._answer(top, got)
            if quiet and entry is not None:
                entry = entry.clipped(entry.stale_from)
            if entry is None or not self._usable(key, entry):
                return None
        except Exception as error:
            if not quiet:
                self.counters.on("layer_error", layer=top.name, operation="get", error=error)
            return None
        return Found(entry.distrusted(self.runtime.now()), top.name)

    async def lookup_many(
        self, keys: Sequence[Key], *, ttl: Mapping[str, float] | None = None
    ) -> dict[Key, Found]:
        """As `lookup`, for many keys, with one `get_many` per layer for what is not fresh yet."""
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
                entries: Mapping[Key, Entry] = await self._answer(layer, got)
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

    def _usable(self, key: Key, entry: Entry) -> bool:
        if entry.expires <= self.runtime.now():
            return False
        return entry.checked == self.invalidations.position or self.invalidations.admit(
            entry, self._label(key)
        )

    async def _backfill(
        self, key: Key, entry: Entry, depth: int, ttl: Mapping[str, float] | None
    ) -> None:
        source = self.layers[depth].name
        for layer in self.layers[:depth]:
            with self.counters.span("backfill", source=source, layer=layer.name) as span:
                error = await self._write(layer, key, entry, ttl)
                span.end(error)
            if error is None:
                self.counters.on("backfill", source=source, layer=layer.name)

    # -- writing -------------------------------------------------------------------------------

    async def store(
        self, key: Key, entry: Entry, *, ttl: Mapping[str, float] | None = None
    ) -> bool:
        """Write to every layer. False, and nothing written, if the entry was purged while it was
        being fetched (a mark newer than its stamp).

        ``ttl`` caps the freshness per layer: layer name -> seconds from now. A layer that it does
        not name is capped by its own ``ttl`` attribute, if it has one.
        Under the strict policy raises PartialWriteError when a layer fails.
        """
        if entry.stamp != self.invalidations.position:
            entry.checked = entry.stamp
            if not self.invalidations.admit(entry, self._label(key)):
                return False
        failed: dict[str, BaseException] = {}
        written: list[str] = []
        # Bottom up: when a layer above answers, the ones below already hold the same entry.
        for layer in reversed(self.layers):
            error = await self._write(layer, key, entry, ttl)
            if error is None:
                written.append(layer.name)
            else:
                failed[layer.name] = error
        if written:
            self.counters.on("store", layers=tuple(written))
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, tuple(written))
        return True

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:
        """Could any layer take an entry of ``size`` bytes now? One that does not say could."""
        for layer in self.layers:
            takes: Callable[[Key, int, tuple[str, ...]], bool] | None
            takes = getattr(layer, "takes", None)
            try:
                if takes is None or takes(key, size, tags):
                    return True
            except Exception as error:
                self.counters.on("layer_error", layer=layer.name, operation="takes", error=error)
        return False

    def keep(self, key: Key, entry: Entry) -> bool:
        """Write to the top layer alone, at once: what is to go to those below takes time (see
        `store`), and whoever comes next finds it already. False if that cannot be."""
        if not self._keeps or not self.trusted:
            return False
        if entry.stamp != self.invalidations.position:
            entry.checked = entry.stamp
            if not self.invalidations.admit(entry, self._label(key)):
                return False
        top = self.layers[0]
        try:
            if self._takes_time(top.set(key, self._capped(top, entry, None))):
                self.unkeep(key)
                return False
        except Exception as error:
            self.counters.on("write_error", layer=top.name, error=error)
            self.unkeep(key)
            return False
        return True

    def _takes_time(self, result: object) -> bool:
        """Is this an answer to wait for? Then the top layer is not written to at once any more."""
        if not inspect.isawaitable(result):
            return False
        self._keeps = False
        if inspect.iscoroutine(result):
            result.close()
        return True

    def unkeep(self, key: Key) -> None:
        """Take back what `keep` has written: the layers below may not have it."""
        top = self.layers[0]
        try:
            self._takes_time(top.delete(key))
        except Exception as error:
            self.counters.on("layer_error", layer=top.name, operation="delete", error=error)

    def _capped(self, layer: Layer, entry: Entry, ttl: Mapping[str, float] | None) -> Entry:
        """The entry as this layer may have it."""
        cap: float | None = None if ttl is None else ttl.get(layer.name)
        if cap is None:
            cap = getattr(layer, "ttl", None)
        if cap is not None:
            entry = entry.clipped(self.runtime.now() + cap)
        revalidate: float | None = getattr(layer, "stale_while_revalidate", None)
        on_error: float | None = getattr(layer, "stale_if_error", None)
        if revalidate is not None or on_error is not None:
            entry = entry.windowed(revalidate, on_error)
        return entry

    async def _write(
        self, layer: Layer, key: Key, entry: Entry, ttl: Mapping[str, float] | None
    ) -> BaseException | None:
        entry = self._capped(layer, entry, ttl)
        try:
            await self._answer(layer, layer.set(key, entry))
        except Exception as error:
            self.counters.on("write_error", layer=layer.name, error=error)
            if isinstance(error, LayerUnavailable):
                return error  # it takes no word from us now
            # What it still holds under this key is older than what the others hold now.
            try:
                await self._answer(layer, layer.delete(key))
            except Exception as second:
                self.counters.on("layer_error", layer=layer.name, operation="delete", error=second)
            return error
        return None

    async def _answer(self, layer: Layer, result: MaybeAwaitable[T]) -> T:
        """What a layer answers, awaited if it takes time, but no longer than ``layer_timeout``, or
        as long as its own budget is."""
        if not inspect.isawaitable(result):
            return result
        if layer in self._keep_time:
            return await result
        return await self.runtime.within(self._layer_timeout, result)

    async def delete(self, key: Key) -> bool:
        """Remove one key from every layer; a fill of it that is under way dies on arrival.

        True if any layer held it.
        """
        await self.invalidate((Invalidation("key", self._label(key)),))
        held, failed = await self.discard(key)
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, ())
        return held

    async def discard(self, key: Key) -> tuple[bool, dict[str, BaseException]]:
        """Remove one key from every layer, and nothing else: other keys with its label, and fills
        of it that are under way, are left alone.

        Returns whether any layer held it, and what the layers raised that failed.
        """
        held = False
        failed: dict[str, BaseException] = {}
        for layer in self.layers:
            try:
                held |= bool(await self._answer(layer, layer.delete(key)))
            except Exception as error:
                failed[layer.name] = error
                self.counters.on("layer_error", layer=layer.name, operation="delete", error=error)
        return held, failed

    async def clear(self) -> None:
        """Drop everything from every layer, fills under way included."""
        await self.invalidate((Invalidation("all"),))
        failed: dict[str, BaseException] = {}
        for layer in self.layers:
            try:
                await self._answer(layer, layer.clear())
            except Exception as error:
                failed[layer.name] = error
                self.counters.on("layer_error", layer=layer.name, operation="clear", error=error)
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, ())

    async def purge(
        self,
        named: Sequence[Sequence[Invalidation]],
        *,
        counts: Callable[[Entry], bool] | None = None,
    ) -> PurgeReceipt:
        """As `invalidate`, of the marks of each thing that is named; the receipt tells also what of
        this process's memory they meet. ``counts``: of which entries; None: of all."""
        matching = Matching(named)
        matched = await self._count(matching, counts)
        invalidations = tuple(
            dict.fromkeys(invalidation for invalidations in named for invalidation in invalidations)
        )
        return await self.invalidate(invalidations, matched=matched)

    async def _count(self, matching: Matching, counts: Callable[[Entry], bool] | None) -> Matched:
        layer = next((one for one in self.layers if hasattr(one, "scan")), None)
        unknown = tuple(one.name for one in self.layers if one is not layer)
        if layer is None:
            return Matched(unknown=unknown)
        scan: Callable[[int], tuple[list[tuple[Key, Entry]], bool]] = layer.scan
        number = 0
        try:
            entries, whole = scan(matching.most)
            now = self.runtime.now()
            for at, (key, entry) in enumerate(entries, 1):
                if (
                    entry.expires > now
                    and (counts is None or counts(entry))
                    and matching.meets(entry, key, self._label)
                    and not self.purged_since(entry.checked, entry.tags, key)
                ):
                    number += 1
                if not at % PART:  # others may go on meanwhile
                    await self.runtime.event().wait(0.0)
        except Exception as error:
            self.counters.on("layer_error", layer=layer.name, operation="scan", error=error)
            return Matched(unknown=(layer.name, *unknown))
        seen = True if matching.all_seen else False if whole else None
        return Matched(number, not whole, seen, unknown)

    async def invalidate(
        self,
        invalidations: tuple[Invalidation, ...],
        *,
        wait: float | None = None,
        matched: Matched | None = None,
    ) -> PurgeReceipt:
        """Append to the invalidation log. When this returns, the purge is final (G3), if the
        receipt says so: not while the shared layer is away, nor if ``wait`` seconds (None: as many
        as it takes, which the log bounds) were too few for every live instance to apply it.
        ``matched``: for the receipt; see `purge`.

        Raises KeyRefused, with nothing purged, for a pattern that `glob` refuses.
        """
        with self.counters.span("purge", invalidations=invalidations) as span:
            receipt = await self._log.append(invalidations, self.runtime.now(), wait=wait)
            if matched is not None:
                receipt = receipt._replace(**matched._asdict())
            if wait != 0.0:  # else nobody asked how far it got
                span.note(receipt=receipt)
        self.counters.on("purge", invalidations=invalidations)
        return receipt

    def purged_since(
        self, stamp: int, tags: Iterable[str], key: Key, *, soft: bool = False
    ) -> bool:
        """Was something with these tags or this key purged after log position ``stamp``?

        With ``soft`` a soft purge counts too.
        """
        return stamp != self.invalidations.position and self.invalidations.purged_since(
            stamp, tags, self._label(key), soft=soft
        )

    def admits(self, key: Key, entry: Entry) -> bool:
        """Is an entry that was found under ``key`` earlier on still not purged?"""
        return entry.checked == self.invalidations.position or self.invalidations.admit(
            entry, self._label(key)
        )

    def vouches(self, key: Key, entry: Entry, grace: float | None) -> bool:
        """May a stale entry, found under ``key`` earlier on, be used in place of a fetch that fails
        or takes too long? Not once it has been purged, nor while purges may pass unheard (G3): the
        shared log is asked for now, not when the entry was found.

        ``grace``: seconds for which it may after the log was last heard; None: not at all.
        """
        log = self.shared_log
        if log is not None:  # (trust first, marks then: see `peek`)
            unheard = self.runtime.monotonic() - log.trusted_until
            if unheard >= 0 and (grace is None or unheard >= grace):
                return False
        return self.admits(key, entry)

    def forked(self) -> None:
        """In the child of a fork: a lock that another thread of the parent held is never released
        here. The marks themselves are whole, for their position is written last."""
        if self.shared_log is None:
            self._log = LocalLog(self.invalidations, self.runtime.lock())
        else:
            self.shared_log.forked()

    async def join(self) -> None:
        """Become an instance of the fleet, if there is one and it can be reached, before there is a
        request: by then purges through this instance are as quick as they get."""
        await self.catch_up()

    async def leave(self, *, ended: bool = False) -> None:
        """This process stops using the stack: the fleet need not wait for it. It may come back.

        ``ended``: nothing is being fetched any more, so nobody need wait for that either.
        """
        if self.shared_log is not None:
            await self.shared_log.leave()
        if ended and self.leases is not None:
            await self.leases.leave()

    async def disconnect(self) -> None:
        """Have the layers close what they hold open. They open it again when they are used."""
        for layer in self.layers:
            close = getattr(layer, "aclose", None)
            if close is not None:
                try:
                    await self._answer(layer, close())
                except Exception as error:
                    name = layer.name
                    self.counters.on("layer_error", layer=name, operation="close", error=error)

    # -- looking -------------------------------------------------------------------------------

    async def inspect(self, key: Key) -> list[Held]:
        """What each layer has under a key, top first, and what purges have made of it. Nothing is
        changed, copied or counted. Never raises."""
        inspect: list[Held] = []
        for layer in self.layers:
            try:
                entry: Entry | None = await self._answer(layer, _look(layer, key))
                if entry is None or entry.expires <= self.runtime.now():
                    inspect.append(Held(layer.name))
                    continue
                entry = entry.clipped(entry.stale_from)
                caught = self.invalidations.catching(entry, self._label(key))
                self.invalidations.admit(entry, self._label(key))
                inspect.append(Held(layer.name, entry, caught))
            except Exception as error:
                inspect.append(Held(layer.name, error=error))
        return inspect

    def metrics(self) -> dict[str, Any]:
        """Counters since this stack was made, and per layer what it says of itself.

        A layer whose ``stats`` fail shows as empty, with a ``layer_error`` event.
        """
        layers: dict[str, dict[str, int | float]] = {}
        for layer in self.layers:
            try:
                layers[layer.name] = dict(layer.stats())
            except Exception as error:
                layers[layer.name] = {}
                self.counters.on("layer_error", layer=layer.name, operation="stats", error=error)
        return {
            "events": self.counters.snapshot(),
            "layers": layers,
            "invalidation": {
                "position": self.invalidations.position,
                **self.invalidations.counts(),
                **({} if self.shared_log is None else self.shared_log.stats()),
            },
        }
