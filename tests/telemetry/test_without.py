"""Without opentelemetry-api: nothing is imported, and who insists is told what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "opentelemetry" or name.startswith("opentelemetry."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run(code: str, *, hide: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", (HIDE if hide else "") + code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MADE = """
import layergate, layergate.wsgi
layergate.HttpCache({options})
layergate.CacheStack([layergate.MemoryLayer("1MB")], {options})
print(any(name.split(".")[0] == "opentelemetry" for name in sys.modules))
"""


@pytest.mark.parametrize("options", ["", "telemetry=False", "telemetry=None"])
def test_not_installed(options: str) -> None:
    assert run("import sys" + MADE.format(options=options), hide=True) == "False"


def test_installed_but_not_wanted() -> None:
    assert run("import sys" + MADE.format(options="telemetry=False"), hide=False) == "False"


def test_installed_it_is_on() -> None:
    assert run("import sys" + MADE.format(options=""), hide=False) == "True"


@pytest.mark.parametrize("make", ["HttpCache(", 'CacheStack([layergate.MemoryLayer("1MB")], '])
def test_wanted_but_not_installed(make: str) -> None:
    code = f"""
import layergate
try:
    layergate.{make}telemetry=True)
except layergate.ConfigError as error:
    print(error)
"""
    assert "pip install 'layergate[otel]'" in run(code, hide=True)


def test_only_the_api_is_needed() -> None:
    code = """
import asyncio, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
import layergate
async def main():
    stack = layergate.CacheStack([layergate.MemoryLayer("1MB")], telemetry=True)
    print(await stack.get("k", lambda: "value", ttl=1))
    await stack.aclose()
asyncio.run(main())
"""
    assert run(code, hide=False) == "value"


def test_a_provider_that_is_set_later_is_told() -> None:
    """Middleware is made when an application is put together, which may be before its SDK is."""
    code = """
import asyncio
import layergate
stack = layergate.CacheStack([layergate.MemoryLayer("1MB")])
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
metrics.set_meter_provider(MeterProvider([reader]))
async def main():
    await stack.get("k", lambda: "value", ttl=1)
    await stack.aclose()
asyncio.run(main())
print(sorted({span.name for span in spans.get_finished_spans()}))
told = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
print({"layergate.requests", "layergate.fetch.duration"} <= {metric.name for metric in told})
"""
    lines = run(code, hide=False).splitlines()
    assert lines == ["['layergate.fetch', 'layergate.lookup', 'layergate.store']", "True"]


UNHEARD = """
import layergate
from layergate.core.events import NO_SPAN
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
counters = layergate.HttpCache().stack.counters
print(counters.span("fetch") is NO_SPAN)
{provide}
print(counters.span("fetch") is NO_SPAN)
"""


@pytest.mark.parametrize(
    "provide",
    ["trace.set_tracer_provider(TracerProvider())", "metrics.set_meter_provider(MeterProvider())"],
)
def test_there_are_no_spans_until_somebody_listens(provide: str) -> None:
    assert run(UNHEARD.format(provide=provide), hide=False).split() == ["True", "False"]
