"""What happened, as named events. Telemetry, logs, counters and users' hooks all listen here.

The names are plain strings in one list, so that a listener can be written without importing the
engine. The hit path raises no event: it adds one to `Counters.hits` and that is all it can afford.
"""

# Hooks come from users: the check that their declared type makes redundant is the one that helps.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from layergate.errors import ConfigError

__all__ = ["EVENTS", "Counters", "Hook"]

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
    "purge",           # `marks` were appended to the invalidation log
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

Hook: TypeAlias = Callable[[str, dict[str, Any]], None]

_logger = logging.getLogger("layergate")


class Counters:
    """Counts every event and passes it on to the hooks.

    Counted without an event: ``hits``; requests ``bypassed`` before anything was looked up; requests
    ``forwarded`` because they are known not to be shareable. A hook that raises is logged and goes
    on being called: an observer never breaks a request. Under several threads an addition may be lost now and then: the
    hit path takes no lock for a statistic.

    Raises ConfigError if ``hooks`` is not an iterable of plain (not ``async``) callables.
    """

    __slots__ = ("_counts", "_hooks", "bypassed", "forwarded", "hits")

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self.hits = 0
        self.bypassed = 0
        self.forwarded = 0
        self._counts: Counter[str] = Counter()
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

    def on(self, event: str, /, **facts: Any) -> None:
        """Count ``event`` (one of `EVENTS`) and tell the hooks."""
        self._counts[event] += 1
        for hook in self._hooks:
            try:
                hook(event, facts)
            except Exception:
                _logger.exception("hook %r failed on event %r", hook, event)

    def __getitem__(self, event: str) -> int:
        return self._counts[event]

    def snapshot(self) -> dict[str, int]:
        """All counters by name, zero included, since this object was made."""
        counts: dict[str, int] = {"hit": self.hits}
        counts.update({name: self._counts[name] for name in sorted(EVENTS)})
        counts["bypass"] += self.bypassed
        for event in ("miss", "fetch", "refused"):
            counts[event] += self.forwarded
        return counts
