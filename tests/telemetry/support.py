"""A real SDK that keeps what it is told, and questions about that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from layergate.telemetry.otel import OpenTelemetry
from tests.support.asgi import World

__all__ = ["Sdk", "attributes", "child_of", "links_to", "traced_world", "traceparent_of"]


class Sdk:
    """Providers of its own, so that each test has its own.

    ``telemetry`` is what a cache is given; ``app`` what an application traces with.
    """

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider(
            [self._reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False
        )
        self.telemetry = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)
        self.app = self.tracers.get_tracer("app")

    def close(self) -> None:
        self.meters.shutdown()
        self.tracers.shutdown()

    # -- spans ---------------------------------------------------------------------------------

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they ended."""
        return list(self._exporter.get_finished_spans())

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.all(name)
        assert len(found) == 1, (name, [span.name for span in self.spans])
        return found[0]

    def forget(self) -> None:
        self._exporter.clear()

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def told(self) -> str:
        """All that left this process, as one text."""
        spans = "".join(span.to_json() for span in self.spans)
        data = self._reader.get_metrics_data()
        return spans + (data.to_json() if data is not None else "")

    # -- metrics -------------------------------------------------------------------------------

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def values(self, name: str) -> dict[str, Any]:
        """Attributes (without the cache's name), as text -> value, or count of a histogram."""
        found = {}
        for point in self.points(name):
            labels = {k.removeprefix("layergate."): v for k, v in point.attributes.items()}
            labels.pop("cache.name")
            text = " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
            found[text] = point.count if hasattr(point, "count") else point.value
        return found


def links_to(span: ReadableSpan, *others: ReadableSpan) -> bool:
    """Exactly to these?"""
    wanted = [(other.context.trace_id, other.context.span_id) for other in others]
    return sorted((link.context.trace_id, link.context.span_id) for link in span.links) == sorted(
        wanted
    )


def child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


def traceparent_of(span: ReadableSpan) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


class _Served:
    """An ASGI server's instrumentation: a span around each request."""

    def __init__(self, app: Any, tracer: trace.Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._tracer.start_as_current_span(f"GET {scope['path']}"):
            await self._app(scope, receive, send)


def traced_world(sdk: Sdk, **options: Any) -> World:
    """A world behind a traced server: each request has a span named ``GET <path>``."""
    world = World(telemetry=sdk.telemetry, **options)
    world.app = _Served(world.app, sdk.app)  # type: ignore[assignment]
    return world
