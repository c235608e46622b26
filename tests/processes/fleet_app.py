"""The application that a fleet's processes serve: LayerGate around a handler that asks the test.

See `tests/support/fleet.py`, which starts it and says in the environment what it is to be.
``/control/up`` is outside of LayerGate. With ``FLEET_TRACED`` it has an SDK of OpenTelemetry that
exports as the environment says, and a span around each request. With ``FLEET_PLANTED`` it has a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from layergate import (
    Admin,
    CacheStack,
    HttpCache,
    LayerGate,
    MemoryLayer,
    PurgeReceipt,
    Shared,
)
from layergate.layers.schemes import layer_of
from layergate.wsgi import LayerGate as WsgiLayerGate
from layergate.wsgi import ThreadRuntime
from tests.processes import planted

planted.plant()

ORIGIN = ("127.0.0.1", int(os.environ["FLEET_ORIGIN"]))
UP = "/control/up"
TROUBLE = (
    "breaker",
    "layer_error",
    "lease_lost",
    "log_leap",
    "log_reset",
    "log_trimmed",
    "record_refused",
    "shared_back",
    "shared_lost",
    "wait_timeout",
)
TRACED = bool(os.environ.get("FLEET_TRACED"))


def shared() -> Any:
    """``FLEET_SHARED``: a URL; or the URLs of bodies and of coordination, with a space between them."""
    urls = os.environ["FLEET_SHARED"].split()
    options = json.loads(os.environ["FLEET_LAYER"])
    if not options and len(urls) < 2:
        return urls[0] if urls else None
    layers: list[Any] = [layer_of(url, **options) for url in urls]
    if len(layers) == 2:
        return Shared(bodies=layers[0], coordination=layers[1])
    return layers[0] if layers else None


def tell(event: str, facts: dict[str, Any]) -> None:
    """What went wrong, into the instance's log, for whoever reads it after a failure."""
    if event in TROUBLE:
        more = {name: fact for name, fact in facts.items() if name != "request"}
        print(f"{time.monotonic():.3f} {event} {more}", file=sys.stderr)  # noqa: T201


def cache(**more: Any) -> HttpCache:
    return HttpCache(
        hooks=[tell],
        shared=shared(),
        admin=Admin(token=os.environ["FLEET_TOKEN"]),
        name=os.environ["FLEET_INSTANCE"],
        **json.loads(os.environ["FLEET_OPTIONS"]),
        **more,
    )


def question(method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
    asked = {
        "method": method,
        "path": path,
        "instance": os.environ["FLEET_INSTANCE"],
        "pid": os.getpid(),
        "headers": headers or {},
    }
    return json.dumps(asked).encode() + b"\n"


def said(line: bytes) -> dict[str, Any]:
    """What the origin says next. Raises what its client's library would, if it fails."""
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the origin hung up")
    facts: dict[str, Any] = json.loads(line)
    if "error" in facts:
        raise RuntimeError(facts["error"])
    return facts


@contextlib.contextmanager
def connecting() -> Iterator[None]:
    """Whoever reads a log is to know whom an error comes from."""
    try:
        yield
    except OSError:
        raise ConnectionRefusedError("the origin is not there") from None


@contextlib.contextmanager
def hearing() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, EOFError):
        raise ConnectionResetError("the origin hung up") from None


async def handle(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    with connecting():
        reader, writer = await asyncio.open_connection(*ORIGIN)
    try:
        writer.write(question(scope["method"], scope["path"], asked))
        with hearing():
            head = said(await reader.readline())
        headers = [(name.encode(), value.encode()) for name, value in head["headers"]]
        await send({"type": "http.response.start", "status": head["status"], "headers": headers})
        while True:
            with hearing():
                size = said(await reader.readline())["size"]
                data = await reader.readexactly(size)
            if not size:
                break
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        writer.close()


def trace_requests() -> Any:
    """Set up what an application sets up, and give its tracer."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    return provider.get_tracer("app")


def asgi() -> Any:
    tracer = trace_requests() if TRACED else None
    gated = LayerGate(handle, cache=cache())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == UP:
            head = {"status": 200, "headers": [(b"content-length", b"0")]}
            await send({"type": "http.response.start", **head})
            await send({"type": "http.response.body"})
        elif tracer is None:
            await gated(scope, receive, send)
        else:
            with tracer.start_as_current_span(scope["type"]):
                await gated(scope, receive, send)

    return app


def stack() -> Any:
    """Another app: a `CacheStack`, asked over HTTP, with purges as the admin endpoint takes them."""
    values = CacheStack([MemoryLayer("16MB"), shared()], hooks=[tell])

    async def fetch(path: str) -> bytes:
        reader, writer = await asyncio.open_connection(*ORIGIN)
        try:
            writer.write(question("GET", path))
            await reader.readline()
            body = b""
            while size := json.loads(await reader.readline())["size"]:
                body += await reader.readexactly(size)
            return body
        finally:
            writer.close()

    async def purge(what: dict[str, Any]) -> PurgeReceipt:
        if tags := what.get("tags"):
            return await values.invalidate_by_tag(*tags)
        if files := what.get("files"):
            return await values.invalidate_by_pattern(files[0].removeprefix("http://example.com"))
        return await values.invalidate_by_pattern(*what.get("patterns", ["*"]))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await values.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        path, status = scope["path"], 200
        if path == UP:
            body = b""
        elif path == "/_layergate/purge":
            receipt = await purge(json.loads((await receive())["body"]))
            status = 200 if receipt.final else 202
            body = json.dumps({"result": receipt._asdict()}).encode()
        else:
            tags = [path, path.split("/")[1]]
            body = await values.get(path, lambda: fetch(path), ttl=600, tags=tags)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def answer(environ: Any, start_response: Any) -> Iterator[bytes]:
    asked = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    with connecting():
        line = socket.create_connection(ORIGIN, 60)
    with line, line.makefile("rb") as reader:
        with hearing():
            line.sendall(question(environ["REQUEST_METHOD"], environ["PATH_INFO"], asked))
            head = said(reader.readline())
        start_response(f"{head['status']} Said", [tuple(pair) for pair in head["headers"]])
        while True:
            with hearing():
                size = said(reader.readline())["size"]
                data = reader.read(size)
            if len(data) < size:
                raise ConnectionResetError("the origin hung up")
            if not size:
                break
            yield data


def wsgi() -> Any:
    """With ``FLEET_BEFORE_FORK``: used before a preloading server forks."""
    tracer = trace_requests() if TRACED else None
    gated = WsgiLayerGate(answer, cache=cache(runtime=ThreadRuntime()))
    if path := os.environ.get("FLEET_BEFORE_FORK"):
        from tests.support.wsgi import ask

        ask(gated, path, HTTP_HOST="example.com")

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == UP:
            start_response("200 OK", [("Content-Length", "0")])
            return []
        if tracer is None:
            return gated(environ, start_response)
        with tracer.start_as_current_span("http"):
            return gated(environ, start_response)

    return app
