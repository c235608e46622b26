"""What a stack is made of, and whether what its layers hold may be used.

`writing`, `reading`, and `purging` build on it, and `stack.Stack` is all of them together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

from layergate.core.codec import ValueType
from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Counters, Hook, Span
from layergate.core.invalidation import (
    MAX_INVALIDATIONS,
    MAX_PATTERNS,
    Invalidations,
    LocalLog,
)
from layergate.core.layer import Key, Layer, PeekableLayer
from layergate.core.ports import Runtime
from layergate.core.shared import Joining, Lease, Leases, Log, Waited
from layergate.core.stack.layers import Asking, checked_layers, claim, shared_among
from layergate.errors import ConfigError

__all__ = ["StackBase", "WritePolicy"]

WritePolicy: TypeAlias = Literal["best-effort", "strict"]

_POLICIES: Final = ("best-effort", "strict")


def _no_peek(_key: Key) -> None:
    return None


def _text(key: Key) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


class StackBase:
    """The layers, the log of purges, and the leases. The options are those of `Stack`."""

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        runtime: Runtime,
        write_policy: WritePolicy = "best-effort",
        label: Callable[[Any], str] = _text,
        max_invalidations: int = MAX_INVALIDATIONS,
        max_patterns: int = MAX_PATTERNS,
        layer_timeout: float = 1.0,
        hooks: Iterable[Hook] = (),
        values: Sequence[ValueType] = (),
        log: Callable[[Joining], Log] | None = None,
    ) -> None:
        self.layers: Final = checked_layers(layers)
        if write_policy not in _POLICIES:
            raise ConfigError(f"write_policy must be one of {_POLICIES}, got {write_policy!r}")
        for option, number in (
            ("max_invalidations", max_invalidations),
            ("max_patterns", max_patterns),
        ):
            if type(number) is not int or number < 1:
                raise ConfigError(
                    f"{option} must be a whole number from 1, got {number!r}; leave it out"
                    f" for the default"
                )
        self._ask: Final = Asking(self.layers, runtime, layer_timeout)
        shared = shared_among(self.layers)
        if shared is not None and log is not None:
            raise ConfigError(
                f"log excludes a shared layer, which brings its own, got {shared.name!r};"
                " drop one of them"
            )
        for layer in self.layers:
            claim(layer, self)
        self.runtime = runtime
        self.write_policy = write_policy
        self.counters = Counters(hooks)
        self.invalidations = Invalidations(
            max_invalidations=max_invalidations, max_patterns=max_patterns
        )
        # The log that other instances append to as well. None: the stack always trusts its layers.
        self.shared_log: Log | None = None
        self.leases: Leases | None = None
        self._log: Log | LocalLog = LocalLog(self.invalidations, runtime.lock())
        joining = Joining(self.invalidations, runtime, self.counters, tuple(values))
        if shared is not None:
            self.shared_log, self.leases = shared.join(joining)
            self._log = self.shared_log
        if log is not None:
            self._log = self.shared_log = log(joining)
        self._label = label
        top = self.layers[0]
        # Checked once: on some Pythons, a check against a protocol costs more than a hit.
        self._top_peekable = isinstance(top, PeekableLayer)
        # The top layer's own peek, for callers that handle purges and failures themselves (see `peek`).
        self.top_peek: Callable[[Key], Entry | None] = (
            top.peek if isinstance(top, PeekableLayer) else _no_peek
        )
        # With nothing below a peekable top layer, a peek has seen all there is.
        self.peek_is_enough = len(self.layers) == 1 and self._top_peekable
        # True while the top layer can be written to at once, before the layers below (see `keep`).
        self._keeps = self._top_peekable and not inspect.iscoroutinefunction(top.set)

    # -- trust ---------------------------------------------------------------------------------

    @property
    def trusted(self) -> bool:
        """True if every purge that is final has been applied here. Always so without a shared log."""
        log = self.shared_log
        # The clock first: what becomes final after it was read is no concern of this request.
        return log is None or self.runtime.monotonic() < log.trusted_until or log.look()

    async def catch_up(self) -> bool:
        """Become `trusted`, if that is possible within the shared system's time budget.

        True if the caller may use what the layers hold as fresh.
        """
        log = self.shared_log
        return log is None or self.trusted or await log.catch_up()

    async def take_lease(self, key: Key, *, wait: float, span: Span) -> Lease | Waited:
        """The fleet's lease of ``key`` for the fetch that ``span`` traces; see `Leases.acquire`.

        The lease carries the span's reference, so that waiting instances can link to it. A wait here
        links to the span of the holder.
        """
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

    # -- purges and entries --------------------------------------------------------------------

    def purged_since(
        self, stamp: int, tags: Iterable[str], key: Key, *, soft: bool = False
    ) -> bool:
        """True if something with one of these tags or this key was purged after log position ``stamp``.

        ``soft``: soft purges count too.
        """
        return stamp != self.invalidations.position and self.invalidations.purged_since(
            stamp, tags, self._label(key), soft=soft
        )

    def admits(self, key: Key, entry: Entry) -> bool:
        """True if an entry that was found under ``key`` earlier has not been purged since."""
        return entry.checked == self.invalidations.position or self.invalidations.admit(
            entry, self._label(key)
        )

    def vouches(self, key: Key, entry: Entry, grace: float | None) -> bool:
        """True if a stale entry, found under ``key`` earlier, may stand in for a fetch that fails or
        takes too long. Not once it has been purged, nor while a purge may have passed unnoticed (G3).
        The answer is for now, not for the time when the entry was found.

        ``grace``: seconds after losing touch with the shared log for which it may; None: not at all.
        """
        log = self.shared_log
        if log is not None and not self.trusted:  # trust first, invalidations then: see `peek`
            unheard = self.runtime.monotonic() - log.trusted_until
            if unheard >= 0 and (grace is None or unheard >= grace):
                return False
        return self.admits(key, entry)

    def _usable(self, key: Key, entry: Entry) -> bool:
        """True if the entry has neither expired nor been purged."""
        return entry.expires > self.runtime.now() and self.admits(key, entry)

    def _arrives_purged(self, key: Key, entry: Entry) -> bool:
        """True if the entry was purged while it was fetched: an invalidation is newer than its stamp."""
        if entry.stamp == self.invalidations.position:
            return False
        entry.checked = entry.stamp
        return not self.invalidations.admit(entry, self._label(key))
