"""What happened, as named events, and what takes time, as spans. Telemetry, logs, counters and
users' hooks all listen here.

The names are plain strings in one list, so that a listener can be written without importing the
engine. The hit path raises no event: it adds one to `Counters.hits` and that is all it can afford.

An operation that takes time is begun with `Counters.span`. What becomes of it is for a `Tracer` to
say, if there is one; the engine knows only that it has a beginning, an end, facts, and links to
other spans by an opaque `Span.reference`, which can be stored or sent to another instance.
"""

# Hooks come from users: the check that their declared type makes redundant is the one that helps.
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
    "backfill",        # an entry was copied from `source` up into `layer`
    "bypass",          # a request was passed by the cache, for `reason`
    "collapsed",       # a request waits for another one's fetch
    "fetch",           # the origin (or loader) is called, because of `reason`
    "fetch_error",     # it failed with `error`
    "lease_lost",      # a lease ran out before its holder was done
    "lease_wait",      # another instance fetches this; we wait for it
    "log_leap",        # the shared layer restarted or failed over: lost purges are appended again
    "log_reset",       # the shared layer came back empty
    "log_trimmed",     # the log was trimmed past this instance: it drops what it holds
    "layer_error",     # `operation` on `layer` raised `error`
    "miss",            # nothing usable was stored
    "purge",           # `invalidations` were appended to the invalidation log
    "record_refused",  # a record of the shared log could not be read
    "refresh",         # a background refresh began
    "refresh_skipped", # ... or did not, for `reason`
    "refused",         # a response (or value) was not stored, for `reason`
    "revalidated",     # the origin confirmed a stored response
    "shared_back",     # the shared layer answers again
    "shared_lost",     # ... does not answer any more, because of `error`
    "soft_timeout",    # a stale value was returned while the fetch goes on
    "stale",           # a stale value was used, for `reason`
    "store",           # an entry was written to the layers
    "stream_cut",      # a reader too slow for a response that is over the cap was cut off
    "wait_timeout",    # a follower gave up waiting for its leader
    "write_error",     # a layer did not take an entry: `layer`, `error`
})  # fmt: skip

# The facts by which an event is counted apart. Their values are few: names of layers, words of ours.
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

# The hit path shows one hit in so many to `Counters.sample`: a power of two, less one.
EVERY: Final = 255

_logger = logging.getLogger("layergate")


class Span(Protocol):
    """An operation under way. Nothing here raises.

    As a context manager it is the parent of what begins inside (on this thread, or in this task and
    what copies its context), and ends with it; an exception that passes is its error.
    """

    @property
    def reference(self) -> str | None:
        """What another span may link to, here or on another instance; None if nobody would ever see
        this one. W3C's ``traceparent``."""
        ...

    def note(self, **facts: Any) -> None:
        """What has become known of it. A fact that is None says nothing."""
        ...

    def link(self, reference: str | None) -> None:
        """Note that it has to do with another span."""
        ...

    def ready(self) -> None:
        """It begins only now: until here it had to wait for its turn."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """Be the parent of what begins inside, without ending there."""
        ...

    def carry(self) -> Mapping[bytes, bytes | None]:
        """Header fields by which what receives a request knows that it is part of this span, names
        in lower case. A field whose value is None is not to be sent. Empty: nothing to say."""
        ...

    def end(self, error: object = None) -> None:
        """It is over, in failure if ``error`` (an exception, or a word for what went wrong) is
        given. Only the first call counts."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


class Tracer(Protocol):
    """Who is told of spans. Nothing here raises."""

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
        """The reference of the span that this code runs in, ours or not; None if there is none."""
        ...

    def sample(self, age: float, layer: str) -> None:
        """A hit, of a response ``age`` seconds old: one in many."""
        ...


_NOTHING: Final[Mapping[bytes, bytes | None]] = {}


class _NoSpan:
    """What an operation is while nobody traces."""

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

    Counted without an event: ``hits`` in the top layer; requests ``bypassed`` before anything was
    looked up; requests ``forwarded`` because they are known not to be shareable. ``requests``: how
    many of the others ended how, by (outcome, name of the layer that answered, or ""). A hook that
    raises is logged and goes on being called: an observer never breaks a request. Under several
    threads an addition may be lost now and then: the hit path takes no lock for a statistic.

    ``tracer``: who is told of spans, or None. ``sampled``: of the hits, those whose number has none
    of these bits are shown to the tracer.

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
        self.sampled = -1  # none: every number but 0 has one of these
        self._counts: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        if callable(hooks) or isinstance(hooks, (str, bytes)):
            raise ConfigError(
                f"hooks must be a list of callables, got {hooks!r}; write [{hooks!r}]"
            )
        self._hooks = tuple(hooks)
        for hook in self._hooks:
            if not callable(hook) or inspect.iscoroutinefunction(hook):
                raise ConfigError(
                    f"hooks must be plain callables (event, facts) that do not wait, got {hook!r}"
                )

    def observe(self, *, tracer: Tracer | None = None, hooks: Iterable[Hook] = ()) -> None:
        """Tell these as well, from now on. Called before anything happens."""
        self._hooks += tuple(hooks)
        if tracer is not None:
            self.tracer = tracer
            self.sampled = EVERY

    def on(self, event: str, /, **facts: Any) -> None:
        """Count ``event`` (one of `EVENTS`) and tell the hooks."""
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

        It is part of ``parent``, or else of what this code runs in; with ``root`` of nothing. It has
        to do with what the references ``links`` stand for.
        """
        tracer = self.tracer
        if tracer is None:
            return NO_SPAN
        return tracer.start(name, parent=parent, root=root, links=links, facts=facts)

    def here(self) -> str | None:
        """What a span elsewhere that is caused by this code may link to."""
        return None if self.tracer is None else self.tracer.here()

    def __getitem__(self, event: str) -> int:
        return sum(self.by_label(event).values())

    def by_label(self, event: str) -> dict[tuple[Any, ...], int]:
        """How often ``event`` happened, by the facts that `LABELS` names for it."""
        counts = self._counts.copy()  # one step: others count on
        return {labels: count for (name, labels), count in counts.items() if name == event}

    def snapshot(self) -> dict[str, int]:
        """All counters by name, zero included, since this object was made."""
        below = sum(n for (outcome, _), n in self.requests.copy().items() if outcome == "hit")
        counts: dict[str, int] = {"hit": self.hits + below}
        counts.update(dict.fromkeys(sorted(EVENTS), 0))
        for (event, _), count in self._counts.copy().items():
            counts[event] = counts.get(event, 0) + count
        counts["bypass"] += self.bypassed
        for event in ("miss", "fetch", "refused"):
            counts[event] += self.forwarded
        return counts
