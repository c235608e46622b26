"""What happens, as named events; and what takes time, as spans.

Telemetry, logs, counters and users' hooks all listen to `Counters`. The names are plain strings in
one list, so a listener can be written without importing the engine. The hit path raises no event:
it adds one to `Counters.hits`, and can afford nothing else.

The engine begins an operation that takes time with `Counters.span`. It knows only that the
operation has a beginning, an end, facts, and links to other spans, by an opaque `Span.reference`
that can be stored or sent to another instance. A `Tracer`, if there is one, decides what becomes of
it.
"""

# Hooks are user code: the check that looks redundant by their declared type is the one that helps.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, Self, TypeAlias

from layergate.errors import ConfigError

__all__ = ["EVENTS", "LABELS", "NO_SPAN", "Counters", "Hook", "Span", "Tracer"]

EVENTS: Final = frozenset({
    "breaker",         # a layer's circuit breaker is now in `state`
    "backfill",        # an entry was copied from layer `source` into `layer` above it
    "bypass",          # a request bypassed the cache, for `reason`
    "collapsed",       # a request waits for the fetch of another one
    "fetch",           # the origin (or loader) is called, because of `reason`
    "fetch_error",     # the call failed with `error`
    "lease_lost",      # a lease expired before its holder was done
    "lease_wait",      # this instance waits for the fetch of another instance
    "log_leap",        # the shared layer restarted or failed over; purges that it lost are appended again
    "log_reset",       # the shared layer came back empty
    "log_trimmed",     # the log was trimmed past this instance, which drops what it holds
    "layer_error",     # `operation` of `layer` raised `error`
    "miss",            # nothing usable was stored
    "purge",           # `invalidations` were appended to the invalidation log
    "record_refused",  # a record of the shared log could not be read
    "refresh",         # a background refresh began
    "refresh_skipped", # a background refresh was skipped, for `reason`
    "refused",         # a response (or value) was not stored, for `reason`
    "revalidated",     # the origin confirmed a stored response
    "shared_back",     # the shared layer answers again
    "shared_lost",     # the shared layer stopped answering, because of `error`
    "soft_timeout",    # a stale value was returned while the fetch goes on
    "stale",           # a stale value was used, for `reason`
    "store",           # an entry was written to the layers
    "stream_cut",      # a client that reads too slowly was cut off from a response over the size cap
    "wait_timeout",    # a follower gave up waiting for its leader
    "write_error",     # a layer did not accept an entry: `layer`, `error`
})  # fmt: skip

# The facts that label the count of an event. They have few different values: names of layers, and
# LayerGate's own words.
LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "backfill": ("source", "layer"),
    "bypass": ("reason",),
    "fetch": ("reason",),
    "layer_error": ("layer", "operation"),
    "refresh_skipped": ("reason",),
    "refused": ("reason",),
    "stale": ("reason",),
    "write_error": ("layer",),
}

Hook: TypeAlias = Callable[[str, dict[str, Any]], None]

# The hit path passes one hit in 256 to `Tracer.sample`. A power of two, less one.
EVERY: Final = 255

_logger = logging.getLogger("layergate")


class Span(Protocol):
    """An operation under way. No method raises.

    As a context manager, it is the parent of what begins inside (on this thread, or in this task
    and in what copies its context), and ends with the block. An exception that leaves the block is
    its error.
    """

    @property
    def reference(self) -> str | None:
        """What another span may link to, on this instance or another; W3C's ``traceparent``.
        None if the span is not recorded."""
        ...

    def note(self, **facts: Any) -> None:
        """Add facts that have become known. A fact that is None is ignored."""
        ...

    def link(self, reference: str | None) -> None:
        """Link to another span, by its `reference`. None is ignored."""
        ...

    def ready(self) -> None:
        """The operation begins only now: until here it waited for its turn."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """A context in which this span is the parent of what begins. It does not end the span."""
        ...

    def carry(self) -> Mapping[bytes, bytes | None]:
        """Header fields that tell the receiver of a request that it is part of this span; names
        in lower case. A field whose value is None must not be sent. Empty: the request is sent
        as it is."""
        ...

    def end(self, error: object = None) -> None:
        """End the operation. ``error`` (an exception, or a word for what went wrong) says that
        it failed. Only the first call counts."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


class Tracer(Protocol):
    """Makes spans. No method raises."""

    def start(
        self,
        name: str,
        *,
        parent: Span | None,
        root: bool,
        links: Iterable[str | None],
        facts: dict[str, Any],
    ) -> Span:
        """See `Counters.span`."""
        ...

    def here(self) -> str | None:
        """The reference of the span that the calling code runs in, LayerGate's or not; None if
        there is none."""
        ...

    def sample(self, age: float, layer: str) -> None:
        """Record a hit of a response that is ``age`` seconds old. Called for one hit in many."""
        ...


_NOTHING: Final[Mapping[bytes, bytes | None]] = {}


class _NoSpan:
    """The span of every operation while there is no tracer."""

    __slots__ = ()
    reference: Final = None

    def note(self, **facts: Any) -> None: ...

    def link(self, reference: str | None) -> None: ...

    def ready(self) -> None: ...

    def current(self) -> Self:
        return self

    def carry(self) -> Mapping[bytes, bytes | None]:
        return _NOTHING

    def end(self, error: object = None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


NO_SPAN: Final = _NoSpan()


class Counters:
    """Counts every event, passes it on to the hooks, and begins spans.

    Counted without an event:

    ``hits``       hits in the top layer.
    ``bypassed``   requests that bypassed the cache before a lookup.
    ``forwarded``  requests that were forwarded because their target is known not to be shareable.
    ``requests``   all other requests, by (outcome, name of the layer that answered, or "").

    ``tracer``     makes spans; None: no spans are made.
    ``sampled``    a hit is passed to the tracer if its number has none of these bits.

    A hook that raises is logged and is still called next time: an observer never breaks a request.
    With several threads an addition may be lost now and then, because the hit path takes no lock
    for a statistic.

    Raises ConfigError if ``hooks`` is not an iterable of plain (not ``async``) callables.
    """

    __slots__ = (
        "_counts", "_hooks", "bypassed", "forwarded", "hits", "requests", "sampled", "tracer",
    )  # fmt: skip

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self.hits = 0
        self.bypassed = 0
        self.forwarded = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.tracer: Tracer | None = None
        self.sampled = -1  # no hit: every number but 0 has one of these bits
        self._counts: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        if callable(hooks) or isinstance(hooks, (str, bytes)):
            raise ConfigError(
                f"hooks must be a list of callables, got {hooks!r}; write [{hooks!r}]"
            )
        self._hooks = tuple(hooks)
        for hook in self._hooks:
            if not callable(hook) or inspect.iscoroutinefunction(hook):
                raise ConfigError(
                    f"hooks must be plain callables (event, facts), not async ones, got {hook!r}"
                )

    def observe(self, *, tracer: Tracer | None = None, hooks: Iterable[Hook] = ()) -> None:
        """Add a tracer and hooks. To be called before the first event."""
        self._hooks += tuple(hooks)
        if tracer is not None:
            self.tracer = tracer
            self.sampled = EVERY

    def on(self, event: str, /, **facts: Any) -> None:
        """Count ``event`` (one of `EVENTS`) and call the hooks."""
        labels = LABELS.get(event)
        self._counts[event, tuple(map(facts.get, labels)) if labels else ()] += 1
        for hook in self._hooks:
            try:
                hook(event, facts)
            except Exception:
                _logger.exception("hook %r failed on event %r", hook, event)

    def span(
        self,
        name: str,
        /,
        *,
        parent: Span | None = None,
        root: bool = False,
        links: Iterable[str | None] = (),
        **facts: Any,
    ) -> Span:
        """Begin an operation.

        It is part of ``parent``, or else of the span that the calling code runs in; with ``root``
        it is part of none. ``links``: references of other spans that it is related to.
        """
        tracer = self.tracer
        if tracer is None:
            return NO_SPAN
        return tracer.start(name, parent=parent, root=root, links=links, facts=facts)

    def here(self) -> str | None:
        """What a span elsewhere that this code causes may link to. See `Tracer.here`."""
        return None if self.tracer is None else self.tracer.here()

    def __getitem__(self, event: str) -> int:
        return sum(self.by_label(event).values())

    def by_label(self, event: str) -> dict[tuple[Any, ...], int]:
        """How often ``event`` happened, by the values of the facts that `LABELS` names for it."""
        counts = self._counts.copy()  # one step, because other threads go on counting
        return {labels: count for (name, labels), count in counts.items() if name == event}

    def snapshot(self) -> dict[str, int]:
        """All counters by name since this object was made, including those that are 0."""
        below = sum(n for (outcome, _), n in self.requests.copy().items() if outcome == "hit")
        counts: dict[str, int] = {"hit": self.hits + below}
        counts.update(dict.fromkeys(sorted(EVENTS), 0))
        for (event, _), count in self._counts.copy().items():
            counts[event] = counts.get(event, 0) + count
        counts["bypass"] += self.bypassed
        for event in ("miss", "fetch", "refused"):
            counts[event] += self.forwarded
        return counts
