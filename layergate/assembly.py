"""The public constructors, which put layers, runtime, telemetry and engine together.

Users call `CacheStack` and `HttpCache`; the middlewares call `HttpCache.given`. A constructor starts no
thread and no task, and opens no connection.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from layergate.config import Options, check_telemetry
from layergate.core.events import Hook
from layergate.core.invalidation import MAX_INVALIDATIONS, MAX_PATTERNS
from layergate.core.layer import Layer
from layergate.core.loader import Loader, LoadRuntime
from layergate.core.shared import Joining, Log, ReportingLayer, SharedLayer
from layergate.core.stack import Stack, WritePolicy
from layergate.core.totals import total
from layergate.errors import ConfigError, GateRecursion, LayerMissing
from layergate.http.engine.cache import Cache
from layergate.http.extensions.no_vary_search import purge_label
from layergate.http.wire import VALUES
from layergate.layers.memory import MemoryLayer
from layergate.layers.schemes import layer_of
from layergate.runtime.blocking import run_blocking
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.processes import REMEDY, several_processes
from layergate.runtime.threads import ThreadRuntime
from layergate.runtime.uwsgi import uwsgi_processes
from layergate.telemetry import logs, telemetry_of

__all__ = ["CacheStack", "HttpCache", "world_of", "wrong_world"]

_logger = logging.getLogger("layergate")
_told: set[str] = set()


class CacheStack(Loader):
    """Cached values in layers, top first::

        stack = CacheStack([MemoryLayer("64MB")])
        user = await stack.get("user:1", fetch, ttl=60, tags=["user"])

    ``runtime``                  None for asyncio.
    ``telemetry``, ``trace_keys``  as for `HttpCache`.
    ``name``                     the name of this stack in spans and metrics.

    The other options are those of `Loader`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        write_policy: WritePolicy = "best-effort",
        runtime: LoadRuntime | None = None,
        hooks: Iterable[Hook] = (),
        ttl: float | None = None,
        max_waiters: int = 65_536,
        max_refreshes: int = 256,
        fetch_term: float = 60.0,
        max_invalidations: int = MAX_INVALIDATIONS,
        max_patterns: int = MAX_PATTERNS,
        layer_timeout: float = 1.0,
        stale_if_untrusted: float | None = None,
        telemetry: Any = None,
        trace_keys: bool = False,
        name: str = "CacheStack",
    ) -> None:
        super().__init__(
            layers,
            runtime=LoopRuntime() if runtime is None else runtime,
            write_policy=write_policy,
            hooks=hooks,
            ttl=ttl,
            max_waiters=max_waiters,
            max_refreshes=max_refreshes,
            fetch_term=fetch_term,
            max_invalidations=max_invalidations,
            max_patterns=max_patterns,
            layer_timeout=layer_timeout,
            stale_if_untrusted=stale_if_untrusted,
        )
        check_telemetry(telemetry)
        logs.enable_debug()
        self.counters.observe(hooks=(logs.DegradedWarnings(self.runtime.monotonic),))
        told = telemetry_of(telemetry)
        if told is not None:
            self.counters.observe(tracer=told.tracer(trace_keys=trace_keys, name=name))
            told.observe(self, self.metrics, name=name, http=False)

    async def aclose(self, timeout: float = 5.0) -> None:
        """Wait at most ``timeout`` seconds for background work, then cancel it. Leave the fleet, and close
        connections. A later request opens them again."""
        await self.leave()
        await self.runtime.aclose(timeout)
        await self.leave(ended=True)  # what was still being stored may have joined again
        await self.disconnect()


class HttpCache(Cache):
    """The HTTP cache. One or more `LayerGate` middlewares may use it.

    Takes every option of `layergate.config.Options` by keyword.

    ``runtime``  None for asyncio, a `ThreadRuntime` for WSGI.
    ``log``      makes the log of purges, if other processes append to it and no ``shared`` layer has one.

    Raises ConfigError.
    """

    def __init__(
        self,
        *,
        runtime: LoopRuntime | ThreadRuntime | None = None,
        log: Callable[[Joining], Log] | None = None,
        **options: Any,
    ) -> None:
        checked = Options.of(options)
        self.runtime = LoopRuntime() if runtime is None else runtime
        layers = checked.layers
        if layers is None:
            layers = (MemoryLayer(checked.memory or "64MB", clock=self.runtime.now),)
            if checked.shared is not None:
                layers = (*layers, *_shared_layers(checked))
        stack = Stack(
            tuple(layers),
            runtime=self.runtime,
            label=purge_label,
            layer_timeout=float(checked.layer_timeout),  # type: ignore[arg-type]
            hooks=checked.hooks,
            values=VALUES,
            log=log,
        )
        super().__init__(stack, checked)
        self._observe(checked)
        reporting = [layer for layer in stack.layers if isinstance(layer, ReportingLayer)]
        if reporting:
            reporting[0].report_with(self.stats)
            self.reporter = partial(_report, reporting[0])
        if stack.shared_log is None and log is None:
            self.several = _Several(warn=checked.shared is None)
            self.several(None)
        if isinstance(self.runtime, ThreadRuntime):
            self.runtime.on_fork(self.forked)
            if stack.shared_log is not None:
                self.runtime.on_exit(self._farewell)

    def _observe(self, options: Options) -> None:
        """Connect the cache to the log, and to OpenTelemetry if that is enabled and installed."""
        logs.enable_debug()
        stack, top = self.stack, self.stack.layers[0].name
        stack.counters.observe(hooks=(logs.DegradedWarnings(self.runtime.monotonic),))
        telemetry = telemetry_of(options.telemetry)
        if telemetry is not None:
            tracer = telemetry.tracer(trace_keys=options.trace_keys, name=options.name)
            stack.counters.observe(tracer=tracer)
            telemetry.observe(stack, self.stats, name=options.name, http=True)
            if options.trace_hits:
                self.first_look = telemetry.traced_peek(
                    self.first_look, tracer, ratio=float(options.trace_hits), layer=top
                )
        self.first_look = logs.logged_peek(self.first_look, top)

    @classmethod
    def given(
        cls,
        app: object,
        cache: object,
        options: dict[str, Any],
        runtime: type[LoopRuntime | ThreadRuntime],
    ) -> HttpCache:
        """The cache of a middleware in the world of ``runtime``: ``cache``, or a new one with ``options``.

        Raises ConfigError for both a cache and options, for a cache or an ``app`` of the other world, and
        for an object that is not an application. Raises GateRecursion for a cache that is inside ``app``.
        """
        kind, world = ("ASGI", "asyncio") if runtime is LoopRuntime else ("WSGI", "threads")
        if not callable(app):
            raise ConfigError(f"app must be a callable {kind} application, got {app!r}")
        found = world_of(app)
        if found is not None and found != kind:
            raise ConfigError(wrong_world(app, found))
        if cache is None:
            return cls(**{"runtime": runtime(), **options})
        if options:
            raise ConfigError(
                f"cache excludes other options, got {', '.join(sorted(options))} as well;"
                " give them to HttpCache(...)"
            )
        if not isinstance(cache, HttpCache):
            raise ConfigError(f"cache must be an HttpCache, got {cache!r}")
        if _holds(app, cache):
            raise GateRecursion(
                "app is, or contains, a LayerGate with the same cache; give one of the two a"
                " HttpCache(...) of its own, or remove it"
            )
        if not isinstance(cache.runtime, runtime):
            raise ConfigError(
                f"cache must be one for {world}, got one with"
                f" {type(cache.runtime).__name__}; LayerGate for ASGI takes HttpCache(...),"
                " layergate.wsgi.LayerGate takes HttpCache(runtime=ThreadRuntime(), ...)"
            )
        return cache

    async def aclose(self, timeout: float | None = None) -> None:
        """Wait for background work, then cancel it. Leave the fleet, so that no purge waits for this
        instance, and close connections. A later request joins the fleet again.

        Waits at most ``shutdown_timeout`` seconds, or ``timeout`` if that is shorter.
        """
        limit = float(self.options.shutdown_timeout)  # type: ignore[arg-type]
        await self.stack.leave()
        await self.runtime.aclose(limit if timeout is None else min(limit, timeout))
        await self.stack.leave(ended=True)  # what was still being stored may have joined again
        await self.stack.disconnect()

    def _farewell(self) -> None:
        """Leave the fleet, so that neither purges nor fetches wait for a process that has ended."""
        run_blocking(self.stack.leave(ended=True))


class _Several:
    """`Cache.several` of a cache that shares nothing. Logs what it finds, once in a process."""

    def __init__(self, *, warn: bool) -> None:
        self._pid = os.getpid()
        self._warn = warn

    def __call__(self, multiprocess: bool | None) -> str | None:
        found = several_processes(
            sys.argv,
            os.environ,
            multiprocess=multiprocess,
            uwsgi=uwsgi_processes(),
            forked=os.getpid() != self._pid,
        )
        if found is not None and self._warn and "several" not in _told:
            _told.add("several")
            _logger.warning(
                "several processes serve this app (%s), each has a cache of its own, and a purge reaches"
                " only the process that makes it: %s",
                found,
                REMEDY,
            )
        return found


def world_of(app: object) -> str | None:
    """The interface of an application, "ASGI" or "WSGI", according to its parameters; None if they do not
    tell."""
    own = getattr(app, "world", None)  # of a LayerGate
    if own in ("ASGI", "WSGI") and type(app).__module__.startswith("layergate."):
        return str(own)
    call = app if inspect.isroutine(app) or isinstance(app, type) else type(app).__call__
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return "ASGI"
    try:
        signature = inspect.signature(app)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    takes = [_takes(signature, count) for count in (2, 3)]
    return {(True, False): "WSGI", (False, True): "ASGI"}.get((takes[0], takes[1]))


def wrong_world(app: object, found: str) -> str:
    """The error text for an application of the world ``found`` that was given to the middleware of the
    other world."""
    module = "layergate" if found == "ASGI" else "layergate.wsgi"
    return (
        f"app is a {found} application, got {app!r}; use the middleware for it:"
        f" from {module} import LayerGate"
    )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _holds(app: object, cache: HttpCache) -> bool:
    """True if a middleware of this cache is inside the application, as far as middlewares and frameworks
    keep the application that they wrap in the usual attributes."""
    waiting, seen = [app], set[int]()
    while waiting and len(seen) < 64:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        inside = getattr(each, "__dict__", {})
        if inside.get("cache") is cache and type(each).__name__ == "LayerGate":
            return True
        waiting += [inside[name] for name in ("app", "wsgi_app", "asgi_app") if name in inside]
    return False


async def _report(layer: ReportingLayer) -> dict[str, Any]:
    reports, processes = await layer.reports()
    return total(reports, workers=processes)


def _shared_layers(options: Options) -> tuple[Layer, ...]:
    """The shared layer; none if a plain ``host`` finds no place on this machine."""
    shared = options.shared
    if isinstance(shared, Layer):
        if not isinstance(shared, SharedLayer):
            raise ConfigError(
                f"shared must be a layer that instances share, such as RedisLayer, got {shared!r};"
                " put other layers into layers=[...]"
            )
        return (shared,)
    patience = float(options.layer_timeout)  # type: ignore[arg-type]
    try:
        layer = layer_of(shared, timeout=min(patience, 0.2), connect_timeout=min(patience, 1.0))
    except LayerMissing as error:
        _logger.warning(
            "each process has a cache of its own, and purges reach one alone: %s", error
        )
        return ()
    return (layer,)
