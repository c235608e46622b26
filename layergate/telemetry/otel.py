"""`OpenTelemetry`: LayerGate's spans and metrics, through opentelemetry-api alone.

`spans` makes a span of what the engine calls an operation, `metrics` reads the counters, and
`names` has every name. The application sets up an SDK and exporters; nothing here depends on them.

*When it is on.* An application sets up its SDK before or after it makes its middleware. So the
provider that exists when a cache is made says nothing. The API is made for that: tracers and
instruments that are made early start working when the provider is set. Therefore ``telemetry=None``
means: on, if opentelemetry-api can be imported. While there is no SDK (both global providers are
still the API's own, and no other was given), no spans are made. Nothing would change if they were,
except that they would take microseconds.

*The hit path.* A span costs as much as several hits. So hits have no spans unless ``trace_hits``
asks for them; then the measuring code is around `Cache.peek`, not in it. Hits are counted where
they always were, and the counters are read when metrics are collected. All counts are observable
instruments on `Counters`, so ``stats`` and metrics cannot differ. Only the age of a response at a
hit cannot be read later: OpenTelemetry has no observable histogram, and recording into one costs
about two hits. So every 256th hit is recorded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import TracerProvider

from layergate.core.events import Tracer
from layergate.core.stack import Stack
from layergate.telemetry import names
from layergate.telemetry.metrics import CounterReader
from layergate.telemetry.spans import CacheTracer

__all__ = ["OpenTelemetry", "common"]


class OpenTelemetry:
    """Where LayerGate's spans and metrics go: ``LayerGate(app, telemetry=OpenTelemetry(...))``.

    Only needed by an application whose providers are not the global ones. ``tracer_provider``,
    ``meter_provider``: None stands for the global one. Make one object and give it to all caches.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        version = _version()
        self._given = tracer_provider is not None or meter_provider is not None
        self._tracer = trace.get_tracer(names.SCOPE, version, tracer_provider)
        self._meter = metrics.get_meter(names.SCOPE, version, meter_provider)
        self._histograms: dict[str, Histogram] = {}
        self._lock = threading.Lock()
        self._reader = CounterReader(self._meter)

    def tracer(self, *, trace_keys: bool, name: str) -> CacheTracer:
        """The tracer for the cache called ``name``. ``trace_keys``: spans carry a hash of the
        key."""
        with self._lock:
            if not self._histograms:
                for instrument in (*names.DURATIONS.values(), names.AGES):
                    if instrument.name not in self._histograms:
                        self._histograms[instrument.name] = self._meter.create_histogram(
                            instrument.name,
                            unit=instrument.unit,
                            description=instrument.description,
                            explicit_bucket_boundaries_advisory=names.BUCKETS[instrument.name],
                        )
        return CacheTracer(
            self._tracer,
            self._histograms,
            trace_keys=trace_keys,
            name=name,
            has_sdk=self._given,
        )

    def observe(
        self, stack: Stack, stats: Callable[[], dict[str, Any]], *, name: str, http: bool
    ) -> None:
        """Read the counters of this stack, and ``stats`` (a bound method), at each collection, as
        long as their objects live. ``http``: the stack counts requests one by one."""
        self._reader.add(stack, stats, name=name, http=http)

    def traced_peek(self, peek: Any, tracer: Tracer, *, ratio: float, layer: str) -> Any:
        """``peek`` with a span for a share of the hits. ``ratio``: 0 to 1. ``layer``: the name of
        the top layer."""
        assert isinstance(tracer, CacheTracer)
        hit = tracer.hit
        draw = random.random
        now = time.time_ns

        def traced(key: bytes, fields: Mapping[bytes, bytes]) -> Any:
            if draw() >= ratio:
                return peek(key, fields)
            began = now()
            found = peek(key, fields)
            if found.__class__ is tuple:
                hit(found[0], key, layer, began)
            return found

        return traced


def _version() -> str:
    try:
        return metadata.version("layergate")
    except metadata.PackageNotFoundError:  # run from a source tree
        return ""


_common: OpenTelemetry | None = None
_making: Final = threading.Lock()


def common() -> OpenTelemetry:
    """The object for the global providers, whichever they are or become."""
    global _common  # noqa: PLW0603 - one set of instruments in a process
    with _making:
        if _common is None:
            _common = OpenTelemetry()
        return _common
