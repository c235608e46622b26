"""One key's way from miss to value, and the flights of one stack that are under way."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Protocol, TypeVar

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Span
from layergate.core.fetching.waits import WaitNode
from layergate.core.flight import Flights, Pulse
from layergate.core.layer import Key
from layergate.core.ports import Runtime, Task

__all__ = ["Fetches", "Flight", "LoadRuntime"]

T = TypeVar("T")


class LoadRuntime(Runtime, Protocol):
    """What reading through a stack needs on top of `Runtime`."""

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
        """Run a function that may block, where it blocks no other request."""
        ...


class Flight:
    """One fetch of one key, from the lookup to the stored value.

    ``node``        the background task that runs it.
    ``stamp``       log position when the fetch began; until then, when the flight began.
    ``created``     when the flight began, in seconds since the epoch.
    ``fetch_began`` when the fetch began; until then, when the flight began. Seconds of
                    `Runtime.monotonic`.
    ``previous``    the flight of the same key that this one replaces, until it has been waited for.
    ``stored``      the entry that the layers have, if any: stale, or fresh but due for a refresh.
    ``entry``       the outcome: from a layer, or from the source if ``fetched``. If it is None when
                    ``done`` is set, see ``error`` and ``aborted``; if both are unset, a bulk fetch
                    left the key out.
    ``storing``     the value is being written to the layers.
    ``pulse``       beats at every change.
    ``span``        the span of the fetch, which waiting callers link to.
    """

    __slots__ = (
        "aborted",
        "created",
        "done",
        "entry",
        "error",
        "fetch_began",
        "fetched",
        "key",
        "node",
        "previous",
        "pulse",
        "span",
        "stamp",
        "stored",
        "storing",
        "traceback",
    )

    def __init__(
        self, key: Key, runtime: Runtime, node: WaitNode, stamp: int, previous: Flight | None
    ) -> None:
        self.key = key
        self.pulse = Pulse(runtime)
        self.node = node
        self.stamp = stamp
        self.created = runtime.now()
        self.fetch_began = runtime.monotonic()
        self.previous = previous
        self.stored: Entry | None = None
        self.entry: Entry | None = None
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None
        self.aborted = False
        self.fetched = False
        self.storing = False
        self.done = False
        self.span: Span = NO_SPAN

    def fail(self, error: Exception) -> None:
        self.error = error
        # Without the engine's own frame, which refers to this flight, and so to the error.
        trace = error.__traceback__
        self.traceback = None if trace is None else trace.tb_next

    def raise_error(self) -> NoReturn:
        """Raise what the fetch raised. Each caller raises its own copy, if the error can be copied:
        a shared one would collect the tracebacks and contexts of all callers."""
        assert self.error is not None
        raise _own_copy(self.error).with_traceback(self.traceback)


def _own_copy(error: Exception) -> Exception:
    try:
        own = copy.copy(error)
        if type(own) is not type(error) or own.args != error.args:
            return error
        own.__cause__ = error.__cause__
        own.__context__ = error.__context__
        own.__suppress_context__ = error.__suppress_context__
    except Exception:  # an error that cannot be copied is raised itself
        return error
    return own


class Fetches:
    """The flights of one stack, and their limits.

    ``table``               the flight of each key.
    ``refreshing``          those of them that no caller has to wait for.
    ``max_waiters``         calls that may wait for one flight.
    ``max_refreshes``       background refreshes at once.
    ``term``                seconds after which a flight is replaced.
    ``stale_if_untrusted``  see `Loader`; seconds, or None.
    """

    __slots__ = (
        "max_refreshes",
        "max_waiters",
        "refreshing",
        "runtime",
        "stale_if_untrusted",
        "table",
        "term",
    )

    def __init__(
        self,
        runtime: LoadRuntime,
        *,
        max_waiters: int,
        max_refreshes: int,
        term: float,
        stale_if_untrusted: float | None,
    ) -> None:
        self.runtime = runtime
        self.table: Flights[Flight] = Flights(runtime)
        self.refreshing: set[Flight] = set()
        self.max_waiters = max_waiters
        self.max_refreshes = max_refreshes
        self.term = term
        self.stale_if_untrusted = stale_if_untrusted

    def is_overdue(self, flight: Flight) -> bool:
        return self.runtime.now() - flight.created >= self.term

    def finish(self, flight: Flight) -> None:
        """The flight has its outcome: wake the callers that wait for it."""
        flight.done = True
        self.refreshing.discard(flight)
        self.table.land(flight.key, flight)
        flight.pulse.beat()

    def abort(self, flight: Flight) -> None:
        """The flight ends without an outcome."""
        flight.aborted = True
        self.finish(flight)
