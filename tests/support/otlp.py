"""A receiver of OTLP over HTTP, as a collector is one."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import until

__all__ = ["Receiver"]


class Receiver:
    """Keeps what it is sent. A cache is known by its name (``layergate.cache.name``)."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[tuple[str, str]] = set()  # metric, cache

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._tasks: set[Any] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def span(self, name: str, cache: str, *, linked_from: Span | None = None) -> Span:
        """The span of this name of that cache, once it is there."""
        wanted = None if linked_from is None else {link.span_id for link in linked_from.links}

        def found() -> list[Span]:
            return [
                span
                for span in self.spans
                if span.name == name
                and _cache(span.attributes) == cache
                and (wanted is None or span.span_id in wanted)
            ]

        spans: list[Span] = await until(found, name)
        assert len(spans) == 1
        return spans[0]

    async def linked(self, name: str, cache: str, to: Span) -> Span:
        """The span of this name and cache that links to another one."""

        def found() -> list[Span]:
            return [
                span
                for span in self.spans
                if span.name == name
                and _cache(span.attributes) == cache
                and [(link.trace_id, link.span_id) for link in span.links]
                == [(to.trace_id, to.span_id)]
            ]

        return (await until(found, name))[0]

    async def metric(self, name: str, cache: str) -> None:
        await until(lambda: (name, cache) in self.metrics, name)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while line := await reader.readline():
                path = line.split()[1].decode()
                fields = {}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    fields[name.lower()] = value.strip()
                body = await reader.readexactly(int(fields["content-length"]))
                if fields.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = self._take(path, body)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(answer), answer)
                )
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # an exporter that has gone, or the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()

    def _take(self, path: str, body: bytes) -> bytes:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            return ExportTraceServiceResponse().SerializeToString()
        metrics = ExportMetricsServiceRequest.FromString(body)
        for resource in metrics.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data: Any = getattr(metric, str(metric.WhichOneof("data")))
                    for point in data.data_points:
                        self.metrics.add((metric.name, _cache(point.attributes)))
        return ExportMetricsServiceResponse().SerializeToString()


def _cache(attributes: Any) -> str:
    for pair in attributes:
        if pair.key == "layergate.cache.name":
            return str(pair.value.string_value)
    return ""
