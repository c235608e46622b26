"""Spans: what the engine calls an operation, for OpenTelemetry.

*What is traced.* The engine says when an operation begins and ends (`Counters.span`), and knows
nothing more. Here the operation becomes a span. It is a child of the request's span if there is
one, because a request is answered in its own context. Work in the background (a refresh within
stale-while-revalidate) is a trace of its own, with a link to the request that caused it: it may
outlive that request, and is not part of its response time. Storing is part of the fetch whose
response it stores, though it may end after it.

*What is linked.* A follower did not make the fetch that it waits for, so its wait links to the
leader's fetch. Within a process the engine has the leader's span; across instances the lease
carries its context, as a W3C ``traceparent``. What is stored carries it too: a lookup that finds a
response links to the fetch that brought it, perhaps hours ago and on another machine. Only sampled
spans are referred to. A link to a span that was not recorded leads nowhere, and takes its bytes in
every entry.

*The span of a fetch begins before its lease is requested*, because the lease has to name the span.
If another instance turns out to hold the lease, and its response is used, the span is dropped: a
span that is never ended is never exported. If this instance gets the lease, an event says when, and
the measured duration begins then.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, Self

from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import (
    Link,
    ProxyTracerProvider,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
)

from layergate.core.events import NO_SPAN, Span
from layergate.telemetry import names

__all__ = ["CacheTracer"]

_logger = logging.getLogger("layergate")

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_KEY_BYTES: Final = 8  # enough to tell the keys of a trace apart, and to find one again
_EMPTY: Final = Context()
_SERVER_ERROR: Final = 500

_trace_state: Final = sys.modules["opentelemetry.trace"]
_metrics_state: Final = sys.modules.get("opentelemetry.metrics._internal")
# With these variables the API finds providers by itself, when it is first used.
_CONFIGURED: Final = any(
    os.environ.get(f"OTEL_PYTHON_{what}_PROVIDER") for what in ("TRACER", "METER")
)


def _sdk_is_set_up() -> bool:
    """Whether the application has set up an SDK, for spans or for metrics.

    The API has a public name only for the first of its two stand-ins, and asking for it takes
    longer than all the rest of a span that is not made. Hence the look at where the API keeps its
    providers.
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


class CacheTracer:
    """The `Tracer` of one cache.

    ``name``        the cache's name.
    ``trace_keys``  spans carry a hash of the key.
    ``has_sdk``     True: spans are made from the start. False: once the application has set up an
                    SDK.
    """

    __slots__ = ("_ages", "_base", "_has_sdk", "_histograms", "_of_layer", "_otel", "_trace_keys")

    def __init__(
        self,
        otel: trace.Tracer,
        histograms: Mapping[str, Histogram],
        *,
        trace_keys: bool,
        name: str,
        has_sdk: bool = True,
    ) -> None:
        self._otel = otel
        self._has_sdk = has_sdk
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
        if not self._has_sdk:
            self._has_sdk = _sdk_is_set_up()
            if not self._has_sdk:
                return NO_SPAN
        try:
            context = None
            carries = root
            if root:
                context = _EMPTY
            elif isinstance(parent, _OtelSpan):
                context = trace.set_span_in_context(parent.otel, _EMPTY)
            else:
                carries = trace.get_current_span().get_span_context().is_valid
            otel = self._otel.start_span(
                names.SPANS[name],
                context=context,
                attributes={**self._base, **self.attributes(facts)},
                links=list(_links(links)),
            )
        except Exception:  # most likely a span processor of the application
            _logger.exception("a span could not be started")
            return NO_SPAN
        return _OtelSpan(self, name, otel, facts, root=root, carries=carries)

    def attributes(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a span for the facts of an operation."""
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
                found[names.INVALIDATIONS] = len(value)
                found[names.KINDS] = sorted({one.kind for one in value})
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
        attributes = self._of_layer.get(layer)
        if attributes is None:
            attributes = self._of_layer[layer] = {**self._base, names.LAYER: layer}
        try:
            self._ages.record(max(0.0, age), attributes)
        except Exception:
            _logger.exception("a measurement could not be recorded")

    def record(
        self,
        instrument: str,
        value: float,
        attributes: Mapping[str, Any],
        context: Context | None = None,
    ) -> None:
        """Record into a histogram. The span of ``context`` is the exemplar, if the SDK wants
        one."""
        try:
            self._histograms[instrument].record(value, {**self._base, **attributes}, context)
        except Exception:
            _logger.exception("a measurement could not be recorded")

    def hit(self, stored: Any, key: bytes, layer: str, began: int) -> None:
        """Make a span for a hit in the top layer. ``began``: when the lookup did, in nanoseconds
        since the epoch."""
        try:
            facts = {
                "result": "hit",
                "layer": layer,
                "key": key,
                "age": max(0.0, began / 1e9 - stored.generated),
            }
            self._otel.start_span(
                names.SPANS["lookup"],
                attributes={**self._base, **self.attributes(facts)},
                links=list(_links((stored.traceparent,))),
                start_time=began,
            ).end()
        except Exception:
            _logger.exception("a hit could not be traced")


class _OtelSpan:
    """A `Span` that OpenTelemetry records.

    ``root``     it is the root of a trace of its own.
    ``carries``  it is part of its request's trace, or of none. If False, the request names a trace
                 that nothing has joined yet, and the app is to join that one.
    """

    __slots__ = (
        "_began", "_carries", "_ended", "_labels", "_name", "_root", "_token", "_tracer", "otel",
    )  # fmt: skip

    def __init__(
        self,
        tracer: CacheTracer,
        name: str,
        otel: trace.Span,
        facts: Mapping[str, Any],
        *,
        root: bool,
        carries: bool,
    ) -> None:
        self.otel = otel
        self._root = root
        self._carries = carries
        self._tracer = tracer
        self._name = name
        self._token: Any = None
        self._ended = False
        self._began = time.perf_counter()
        self._labels: dict[str, Any] = {}  # attributes of the duration
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
            self.otel.set_attributes(self._tracer.attributes(facts))
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
        """See `Span`. Written by the propagators of the application. Baggage belongs to the
        request, so a fetch that is part of no request sends none."""
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
        except Exception:  # most likely a propagator of the application
            _logger.exception("a trace context could not be written")
            return {}
        return fields

    def end(self, error: object = None) -> None:
        """See `Span`."""
        if self._ended:
            return
        self._ended = True
        took = time.perf_counter() - self._began
        status = self._labels.get(names.STATUS, 0)
        kind = None
        if error is not None:
            kind = _error_type(error)
        elif status >= _SERVER_ERROR:
            kind = str(status)
        try:
            if kind is not None:
                # Without the message, which may quote private data. The code that raised the error
                # can report it.
                self.otel.set_status(Status(StatusCode.ERROR))
                self.otel.set_attribute(names.ERROR_TYPE, kind)
            self.otel.end()
        except Exception:
            _logger.exception("a span could not be ended")
        instrument = names.DURATIONS.get(self._name)
        if self._name == "purge" and names.FINAL not in self._labels:
            instrument = None  # the caller did not wait for the purge to be applied
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


def _reference(context: SpanContext) -> str | None:
    """A sampled span as a ``traceparent``; None for any other."""
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
    """The class of an exception; a str as it is."""
    if isinstance(error, str):
        return error
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _hashed(key: str | bytes) -> str:
    """A short text for a key, the same on every instance."""
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    return blake2b(key, digest_size=_KEY_BYTES, person=b"layergate").hexdigest()
