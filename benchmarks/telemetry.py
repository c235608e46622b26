"""Measure the cost of telemetry on a hit and on a miss: disabled, with the API alone, with an SDK.

    python benchmarks/telemetry.py [--repeats 50]

The times are processor time of the whole process, so they include the threads of the SDK, but no other
process. The SDK samples everything and passes its spans to a batch processor whose exporter drops them.
The work of a real exporter is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from _apps import BODY, Origin
from _measure import Case, ask, describe_machine, measure, paired, print_table, scope_for, verdict
from layergate import LayerGate
from layergate.telemetry.otel import OpenTelemetry

FRESH = (b"cache-control", b"public, max-age=86400")


class Dropped(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def sdk() -> OpenTelemetry:
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Dropped()))
    return OpenTelemetry(
        tracer_provider=tracers, meter_provider=MeterProvider([InMemoryMetricReader()])
    )


async def hit(name: str, **options: Any) -> Case:
    origin = Origin(FRESH)
    app = LayerGate(origin, **options)
    for _ in range(2):
        answer = await ask(app, scope_for())
    if origin.calls != 1 or answer.body != BODY or "; hit" not in answer.cache_status:
        raise SystemExit(f"{name}: not a hit")
    return Case(name, app, [scope_for()], clock=time.process_time)


async def miss(name: str, **options: Any) -> Case:
    """A response that is stale immediately: each request looks it up, calls the app and stores the result."""
    origin = Origin((b"cache-control", b"max-age=0"), (b"etag", b'"1"'))
    app = LayerGate(origin, **options)
    for _ in range(3):
        await ask(app, scope_for())
    if origin.calls != 3 or app.cache.stats()["events"]["store"] != 3:
        raise SystemExit(f"{name}: not a stored miss")
    return Case(name, app, [scope_for()], clock=time.process_time)


async def run(repeats: int) -> None:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("none (telemetry=False)", {"telemetry": False}),
        ("the API alone", {"telemetry": True}),
        ("an SDK, trace_hits off", {"telemetry": sdk()}),
        ("an SDK, trace_hits=0.01", {"telemetry": sdk(), "trace_hits": 0.01}),
        ("an SDK, trace_hits on", {"telemetry": sdk(), "trace_hits": True}),
    ]
    hits = [await hit(name, **options) for name, options in kinds]
    misses = [await miss(name, **options) for name, options in kinds[:3]]
    await measure([*hits, *misses], repeats)
    for title, cases in (("A hit", hits), ("A miss: looked up, fetched, stored", misses)):
        bare = cases[0]
        rows = []
        for case in cases:
            more = paired(case, bare) if case is not bare else 0.0
            target = ""
            if cases is hits and case in hits[1:3]:
                target = verdict(more / bare.median, 0.10)
            rows.append(
                [
                    case.name,
                    f"{case.median * 1e6:.2f}",
                    f"{min(case.seconds) * 1e6:.2f}",
                    f"{case.spread * 100:.0f}%",
                    f"{more * 1e6:+.3f}",
                    f"{more / bare.median * 100:+.1f}%",
                    target,
                ]
            )
        print_table(
            f"{title}, {repeats} interleaved rounds",
            ["", "us", "minimum", "+-", "added", "", "target"],
            rows,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50, help="interleaved rounds (default 50)")
    repeats = parser.parse_args().repeats
    random.seed(1)
    print(describe_machine())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(repeats))


if __name__ == "__main__":
    main()
