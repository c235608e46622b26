"""Spans and metrics, through opentelemetry-api alone.

*What is traced.* The engine says when an operation begins and ends (`Counters.span`), and knows
nothing more. Here it becomes a span: child of the request's span where there is one, since a request
is answered in its own context. What goes on in the background (a refresh within
stale-while-revalidate) is a trace of its own that links to the request that caused it; it may
outlive that request, and belongs to nobody's response time. Storing is part of the fetch whose
response it stores, though it may end after it.

*What is linked.* A follower did not make the fetch it waits for: its wait links to the leader's
fetch. The `Exchange` has the leader's span, and across instances the lease carries its context,
as W3C's ``traceparent``. So does what is stored: a lookup that finds a response links to the fetch
that brought it, perhaps hours ago and on another machine. Only what is sampled is referred to: a
link to a span that nobody recorded leads nowhere, and costs its bytes in every entry.

*A fetch's span begins before its lease is asked for*, because the lease has to name it. If another
instance turns out to have the lease, and its response is what we get, the span is dropped: a span
that is never ended is never exported. If the lease is ours, an event says when, and the duration
that is measured begins then.

*When it is on.* An application sets its SDK up before or after its middleware is made, so whether
there is "a provider other than the no-op" when a cache is made says nothing. The API is made for
that: tracers and instruments that are made early wake up with the provider. So ``telemetry=None``
means: on, if opentelemetry-api can be imported. As long as there is no SDK (both global providers
are still the API's own, and none was given), no spans are made: nobody could tell the difference, but
for the microseconds.

*The hit path.* A span costs several hits, so hits have none, unless ``trace_hits`` asks for it; then
what is measured stands around `Cache.peek`, not in it. Hits are counted where they always were, and
the counters are read when metrics are collected: all counts are observable instruments on
`Counters`, so ``stats`` and metrics cannot differ. The one thing that cannot be read later is how
old a response was when it was hit: OpenTelemetry has no observable histogram, recording into one
costs about as much as two hits, so every 256th hit is recorded.

*One set of instruments.* An SDK keeps the first observable instrument of a name and silently drops
the callbacks of any other. So there is one set for each pair of providers, which reads all caches
that live; those of the same name in one process are added up.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import operator
import os
import random
import re
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import blake2b
from importlib import metadata
from typing import Any, Final, NamedTuple, Self

from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import (
    Link,
    ProxyTracerProvider,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)

from layergate.core.events import LABELS, NO_SPAN, Span, Tracer
from layergate.core.stack import Stack
from layergate.telemetry import names
from layergate.telemetry.names import Instrument

__all__ = ["OpenTelemetry", "common"]

_logger = logging.getLogger("layergate")

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_KEY_BYTES: Final = 8  # enough to tell the keys of a trace apart, and to find one again
_EMPTY: Final = Context()
_SERVER_ERROR: Final = 500


class OpenTelemetry:
    """What LayerGate tells OpenTelemetry: ``LayerGate(app, telemetry=OpenTelemetry(...))``.

    Only needed where an application has providers other than the global ones: None stands for
    those. Make one and give it to all caches.
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
        self._watched: list[_Watched] = []

    def tracer(self, *, trace_keys: bool, name: str) -> _Tracer:
        """Who is told of the spans of the cache called ``name``."""
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
        return _Tracer(
            self._tracer,
            self._histograms,
            trace_keys=trace_keys,
            name=name,
            heard=self._given,
        )

    def first_look(self, peek: Any, tracer: Tracer, *, ratio: float, layer: str) -> Any:
        """``peek``, with a span for each hit, or for so large a share of them."""
        assert isinstance(tracer, _Tracer)
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

    # -- metrics -------------------------------------------------------------------------------

    def observe(
        self, stack: Stack, stats: Callable[[], dict[str, Any]], *, name: str, http: bool
    ) -> None:
        """Read this stack's counters and ``stats`` (a bound method), from now on and as long as
        their objects live. ``http``: its requests are counted one by one."""
        watched = _Watched(weakref.ref(stack), weakref.WeakMethod(stats), name, http)
        with self._lock:
            first = not self._watched
            self._watched = [one for one in self._watched if one.stack() is not None]
            self._watched.append(watched)
            if first:
                self._register()

    def _register(self) -> None:
        self._observable(names.REQUESTS, _requests)
        for event, instrument in names.COUNTS.items():
            self._observable(instrument, _of_event(event))
        for key, instrument in names.LAYERS.items():
            self._observable(instrument, _of_layers(key))
        for key, instrument in names.LOG.items():
            self._observable(instrument, _of_log(key))
        for key, instrument in names.STATES.items():
            self._observable(instrument, _of_state(key))

    def _observable(self, instrument: Instrument, read: _Read) -> None:
        meter = self._meter
        make: Any = {
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
            "least": meter.create_observable_gauge,
        }[instrument.kind]
        make(
            instrument.name,
            callbacks=[self._callback(instrument, read)],
            unit=instrument.unit,
            description=instrument.description,
        )

    def _callback(
        self, instrument: Instrument, read: _Read
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """All live caches; those that cannot be told apart as one."""
        together = _TOGETHER[instrument.kind]

        def observe(_: CallbackOptions) -> list[Observation]:
            values: dict[tuple[tuple[str, str], ...], float] = {}
            for one in self._watched:
                stack, stats = one.stack(), one.stats()
                if stack is None or stats is None:
                    continue
                for labels, value in read(stack, stats, one.http):
                    place = tuple(sorted({**labels, names.CACHE: one.name}.items()))
                    values[place] = together(values[place], value) if place in values else value
            return [Observation(value, dict(labels)) for labels, value in values.items()]

        return observe


class _Watched(NamedTuple):
    stack: weakref.ref[Stack]
    stats: weakref.WeakMethod[Callable[[], dict[str, Any]]]
    name: str
    http: bool


_Labelled = Iterator[tuple[dict[str, str], float]]
_Read = Callable[[Stack, Callable[[], dict[str, Any]], bool], _Labelled]


_TOGETHER: Final[Mapping[str, Callable[[float, float], float]]] = {
    "counter": operator.add,
    "updown": operator.add,
    "gauge": max,
    "least": min,
}


def _requests(stack: Stack, _: Any, http: bool) -> _Labelled:
    counters = stack.counters
    top = stack.layers[0].name
    counts = Counter(counters.requests.copy())
    counts["hit", top] += counters.hits
    if http:
        # Zero, before there is a first one: else nobody sees how it went from none to one.
        for layer in stack.layers:
            counts["hit", layer.name] += 0
            counts["stale", layer.name] += 0
        counts["revalidated", ""] += 0
        counts["collapsed", ""] += 0
        counts["bypass", ""] += counters.bypassed
        counts["miss", ""] += counters.forwarded
    else:
        # Values, not requests: what `stats` counts. (A call that joined another one's lookup, and
        # was answered from what that found, counts as both.)
        for outcome in ("stale", "miss", "collapsed", "bypass"):
            counts[outcome, ""] += counters[outcome]
    for (outcome, layer), count in counts.items():
        labels = {names.OUTCOME: outcome}
        if layer:
            labels[names.LAYER] = layer
        yield labels, count


def _of_event(event: str) -> _Read:
    labels = LABELS.get(event, ())
    attributes = [names.EVENT_ATTRIBUTES[label] for label in labels]

    def read(stack: Stack, _: Any, http: bool) -> _Labelled:
        counts = Counter(stack.counters.by_label(event))
        # As above, where it is known what there will be.
        if not labels:
            counts[()] += 0
        elif labels == ("layer",):
            for layer in stack.layers:
                counts[(layer.name,)] += 0
        for values, count in counts.items():
            pairs = zip(attributes, values, strict=True)
            yield {name: str(value) for name, value in pairs if value is not None}, count
        if event == "refused" and http and stack.counters.forwarded:
            yield {names.REASON: "hit-for-miss"}, stack.counters.forwarded

    return read


def _of_layers(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Labelled:  # noqa: ARG001
        for layer, told in stats()["layers"].items():
            if key in told:
                yield {names.LAYER: layer}, told[key]

    return read


def _of_log(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Labelled:  # noqa: ARG001
        told = stats()["invalidation"]
        if key in told:
            yield {}, told[key]

    return read


def _of_state(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Labelled:  # noqa: ARG001
        told = stats().get(key)
        if isinstance(told, int | float):
            yield {}, told

    return read


# -- spans ---------------------------------------------------------------------------------------

_trace_state: Final = sys.modules["opentelemetry.trace"]
_metrics_state: Final = sys.modules.get("opentelemetry.metrics._internal")
# By these the API finds providers by itself, when it is first asked.
_CONFIGURED: Final = any(
    os.environ.get(f"OTEL_PYTHON_{what}_PROVIDER") for what in ("TRACER", "METER")
)


def _somebody_listens() -> bool:
    """Has the application set an SDK up, for spans or for metrics?

    The API has a public name for the first of its stand-ins only, and to ask for it takes longer than
    all the rest of a span that is none; hence the look at where it keeps them.
    """
    if (
        getattr(_trace_state, "_TRACER_PROVIDER", _trace_state) is None
        and getattr(_metrics_state, "_METER_PROVIDER", _metrics_state) is None
        and not _CONFIGURED
    ):
        return False
    if not isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        return True
    return type(metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"


class _Tracer:
    """`layergate.core.events.Tracer` of one cache."""

    __slots__ = ("_ages", "_base", "_heard", "_histograms", "_of_layer", "_otel", "_trace_keys")

    def __init__(
        self,
        otel: trace.Tracer,
        histograms: Mapping[str, Histogram],
        *,
        trace_keys: bool,
        name: str,
        heard: bool = True,
    ) -> None:
        self._otel = otel
        self._heard = heard  # does anybody listen? Once somebody does, that stays so
        self._histograms = histograms
        self._trace_keys = trace_keys
        self._base: dict[str, Any] = {names.CACHE: name}
        self._ages = histograms[names.AGES.name]
        self._of_layer: dict[str, dict[str, Any]] = {}

    def start(
        self,
        name: str,
        *,
        parent: Span | None,
        root: bool,
        links: Iterable[str | None],
        facts: dict[str, Any],
    ) -> Span:
        """See `Tracer`."""
        if not self._heard:
            self._heard = _somebody_listens()
            if not self._heard:
                return NO_SPAN
        try:
            context = None
            carries = root
            if root:
                context = _EMPTY
            elif isinstance(parent, _Span):
                context = trace.set_span_in_context(parent.otel, _EMPTY)
            else:
                carries = trace.get_current_span().get_span_context().is_valid
            otel = self._otel.start_span(
                names.SPANS[name],
                context=context,
                attributes={**self._base, **self._attributes(facts)},
                links=list(_links(links)),
            )
        except Exception:  # a span processor of the application's, most likely
            _logger.exception("a span could not be started")
            return NO_SPAN
        return _Span(self, name, otel, facts, root=root, carries=carries)

    def _attributes(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for fact, value in facts.items():
            if value is None:
                continue
            if fact in names.ATTRIBUTES:
                found[names.ATTRIBUTES[fact]] = (
                    _word(value) if isinstance(value, enum.Enum) else value
                )
            elif fact == "key":
                if self._trace_keys:
                    found[names.KEY_HASH] = _hashed(value)
            elif fact == "invalidations":
                found[names.MARKS] = len(value)
                found[names.KINDS] = sorted({mark.kind for mark in value})
            elif fact == "receipt":
                found[names.INSTANCES] = value.instances
                found[names.APPLIED] = value.applied
                found[names.FINAL] = value.final
                found[names.PURGE_SCOPE] = value.scope
                if value.matched is not None:
                    found[names.MATCHED] = value.matched
        return found

    def here(self) -> str | None:
        """See `Tracer`."""
        return _reference(trace.get_current_span().get_span_context())

    def sample(self, age: float, layer: str) -> None:
        """See `Tracer`."""
        labels = self._of_layer.get(layer)
        if labels is None:
            labels = self._of_layer[layer] = {**self._base, names.LAYER: layer}
        try:
            self._ages.record(max(0.0, age), labels)
        except Exception:
            _logger.exception("a measurement could not be recorded")

    def record(
        self,
        instrument: str,
        value: float,
        attributes: Mapping[str, Any],
        context: Context | None = None,
    ) -> None:
        """Into a histogram; with ``context``'s span as the exemplar, should the SDK want one."""
        try:
            self._histograms[instrument].record(value, {**self._base, **attributes}, context)
        except Exception:
            _logger.exception("a measurement could not be recorded")

    def hit(self, stored: Any, key: bytes, layer: str, began: int) -> None:
        """A hit in the top layer, looked up since ``began`` (ns since the epoch)."""
        try:
            facts = {
                "result": "hit",
                "layer": layer,
                "key": key,
                "age": max(0.0, began / 1e9 - stored.generated),
            }
            self._otel.start_span(
                names.SPANS["lookup"],
                attributes={**self._base, **self._attributes(facts)},
                links=list(_links((stored.traceparent,))),
                start_time=began,
            ).end()
        except Exception:
            _logger.exception("a hit could not be traced")


class _Span:
    """`layergate.core.events.Span`."""

    __slots__ = (
        "_began", "_carries", "_labels", "_name", "_over", "_root", "_token", "_tracer", "otel",
    )  # fmt: skip

    def __init__(
        self,
        tracer: _Tracer,
        name: str,
        otel: trace.Span,
        facts: Mapping[str, Any],
        *,
        root: bool,
        carries: bool,
    ) -> None:
        self.otel = otel
        self._root = root
        # Is it part of its request's trace, or of none? A trace that the request names and nobody
        # has taken up yet is for whoever does.
        self._carries = carries
        self._tracer = tracer
        self._name = name
        self._token: Any = None
        self._over = False
        self._began = time.perf_counter()
        # What the duration is told apart by.
        self._labels: dict[str, Any] = {}
        self._label(facts)

    def _label(self, facts: Mapping[str, Any]) -> None:
        for fact, attribute in names.DURATION_ATTRIBUTES.items():
            if facts.get(fact) is not None:
                self._labels[attribute] = facts[fact]

    @property
    def reference(self) -> str | None:
        """See `Span`."""
        return _reference(self.otel.get_span_context())

    def note(self, **facts: Any) -> None:
        """See `Span`."""
        self._label(facts)
        if self.otel.is_recording():
            self.otel.set_attributes(self._tracer._attributes(facts))
        receipt = facts.get("receipt")
        if receipt is not None:
            self._labels[names.FINAL] = receipt.final

    def ready(self) -> None:
        """See `Span`."""
        self._began = time.perf_counter()
        self.otel.add_event(names.READY)

    def link(self, reference: str | None) -> None:
        """See `Span`."""
        for link in _links((reference,)):
            self.otel.add_link(link.context)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        token = contexts.attach(trace.set_span_in_context(self.otel))
        try:
            yield
        finally:
            contexts.detach(token)

    def current(self) -> AbstractContextManager[object]:
        """See `Span`."""
        return self._current()

    def carry(self) -> Mapping[bytes, bytes | None]:
        """See `Span`. As the application's propagators write it. Baggage is the request's: a fetch
        that is part of none has none."""
        if not self._carries or not self.otel.get_span_context().is_valid:
            return {}
        written: dict[str, str] = {}
        fields: dict[bytes, bytes | None] = {}
        try:
            propagator = propagate.get_global_textmap()
            propagator.inject(written, context=trace.set_span_in_context(self.otel, _EMPTY))
            for name in propagator.fields:
                if self._root or name.lower() != "baggage":
                    fields[name.lower().encode("latin-1")] = None
            for name, value in written.items():
                fields[name.lower().encode("latin-1")] = value.encode("latin-1")
        except Exception:  # a propagator of the application's, most likely
            _logger.exception("a trace could not be carried on")
            return {}
        return fields

    def end(self, error: object = None) -> None:
        """See `Span`."""
        if self._over:
            return
        self._over = True
        took = time.perf_counter() - self._began
        status = self._labels.get(names.STATUS, 0)
        kind = None
        if error is not None:
            kind = _error_type(error)
        elif status >= _SERVER_ERROR:
            kind = str(status)
        try:
            if kind is not None:
                # No message: it may quote what is nobody's business. Who raised it may tell it.
                self.otel.set_status(Status(StatusCode.ERROR))
                self.otel.set_attribute(names.ERROR_TYPE, kind)
            self.otel.end()
        except Exception:
            _logger.exception("a span could not be ended")
        instrument = names.DURATIONS.get(self._name)
        if self._name == "purge" and names.FINAL not in self._labels:
            instrument = None  # nobody waited for it to be applied
        if instrument is not None:
            labels = self._labels
            if instrument is names.DURATIONS["fetch"]:
                labels = {**labels, names.OPERATION: self._name}
            if kind is not None:
                labels = {**labels, names.ERROR_TYPE: kind}
            context = trace.set_span_in_context(self.otel, _EMPTY)
            self._tracer.record(instrument.name, took, labels, context)

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self.otel))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        token, self._token = self._token, None
        contexts.detach(token)
        self.end(error)


def _version() -> str:
    try:
        return metadata.version("layergate")
    except metadata.PackageNotFoundError:  # used from its sources
        return ""


def _reference(context: SpanContext) -> str | None:
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    flags = int(context.trace_flags)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"


def _links(references: Iterable[str | None]) -> Iterator[Link]:
    for reference in references:
        match = None if reference is None else _TRACEPARENT(reference)
        if match is not None:
            trace_id, span_id, flags = match.groups()
            context = SpanContext(
                int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16))
            )
            if context.is_valid:
                yield Link(context)


def _word(member: enum.Enum) -> str:
    return member.name.lower().replace("_", "-")


def _error_type(error: object) -> str:
    """A word of ours, or the class of an exception."""
    if isinstance(error, str):
        return error
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _hashed(key: str | bytes) -> str:
    """A key as the same short text on every instance."""
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    return blake2b(key, digest_size=_KEY_BYTES, person=b"layergate").hexdigest()


_common: OpenTelemetry | None = None
_making: Final = threading.Lock()


def common() -> OpenTelemetry:
    """The one on the global providers, whichever they are or come to be."""
    global _common  # noqa: PLW0603 - one set of instruments in a process
    with _making:
        if _common is None:
            _common = OpenTelemetry()
        return _common
