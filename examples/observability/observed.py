"""A FastAPI app behind LayerGate, with metrics for Prometheus and spans over OTLP.

    METRICS_PORT=9464 uvicorn observed:app --app-dir examples/observability

LayerGate needs only `LayerGate(...)`; it finds the SDK by itself.

Environment: ``METRICS_PORT``, the port of the metrics; ``OTEL_EXPORTER_OTLP_ENDPOINT``, the endpoint for
spans, without which the app creates none; ``OTEL_SERVICE_NAME``; ``SHARED``, the URL of a Redis or Valkey;
``ADMIN_TOKEN``, the token for purges.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

from fastapi import FastAPI, HTTPException, Response
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import start_http_server

from layergate import Admin, LayerGate, Rule

metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
start_http_server(int(os.environ["METRICS_PORT"]), addr="127.0.0.1")
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracers)

# FastAPI creates the spans of requests itself, with the same SDK. LayerGate is its middleware, so its spans
# are children of those.
app = FastAPI()
app.add_middleware(
    LayerGate,
    memory="16MB",
    shared=os.environ.get("SHARED"),
    admin=Admin(path="/_layergate", token=os.environ["ADMIN_TOKEN"]),
    rules=[Rule("/health", bypass=True)],
)
fails_until = 0.0


@app.get("/products/{number}")
async def product(number: int, response: Response) -> dict[str, object]:
    await asyncio.sleep(random.uniform(0.01, 0.06))  # a query
    if time.monotonic() < fails_until:
        raise HTTPException(503)
    response.headers["Cache-Control"] = "max-age=10, stale-while-revalidate=10, stale-if-error=60"
    response.headers["Cache-Tag"] = f"product:{number}"
    return {"product": number, "made": time.time()}


@app.get("/reports/{number}")
async def report(number: int, response: Response) -> dict[str, object]:
    """Takes half a second. The response is stale after one second."""
    await asyncio.sleep(0.5)
    response.headers["Cache-Control"] = "max-age=1, stale-while-revalidate=60"
    return {"report": number, "made": time.time()}


@app.get("/account")
async def account(response: Response) -> dict[str, str]:
    response.headers["Cache-Control"] = "private"
    return {"name": "Ann"}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "up"}


@app.post("/fail/{seconds}")
async def fail(seconds: float) -> None:
    """Make all products fail for this number of seconds."""
    global fails_until  # noqa: PLW0603 - one switch for the process
    fails_until = time.monotonic() + seconds
