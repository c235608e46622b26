"""Dashboard and alert rules: every name in them is one that a running LayerGate is scraped with."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from layergate.telemetry import names
from layergate.telemetry.otel import OpenTelemetry
from tests.fleet.support import Fleet
from tests.support.asgi import Gate, OriginCall
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)

CONTRIB = Path(__file__).parents[2] / "contrib"
DASHBOARD = CONTRIB / "grafana" / "layergate.json"
RULES = CONTRIB / "prometheus" / "layergate-rules.yml"

# Metrics that the dashboard leaves out, and why. Empty: it shows all.
NOT_SHOWN: Mapping[str, str] = {}

# What Prometheus itself puts on a series, or an alert.
OF_PROMETHEUS = {"instance", "job", "le"}


class Read(NamedTuple):
    """What a query in PromQL names."""

    metrics: set[str]
    selected: set[tuple[str, str]]  # metric, a label in its braces
    grouped: set[str]  # labels in `by (...)` and the like


WORDS = {
    "and", "avg_over_time", "histogram_quantile", "increase", "label_values", "max", "min", "offset",
    "or", "rate", "sum", "unless",
}  # fmt: skip
GROUPING = {"by", "group_left", "group_right", "ignoring", "on", "without"}
TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<text>"[^"\\]*")
  | (?P<range>\[(?:[0-9]+[smhd]|\$__rate_interval)\])
  | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<number>[0-9]+(?:\.[0-9]+)?[smhd]?)
  | (?P<sign>=~|!~|!=|==|>=|<=|[=<>+*/(){},-])
    """,
    re.VERBOSE,
)


def read(query: str) -> Read:
    """Every name in ``query`` is a word of PromQL, a label or a metric, or this fails."""
    found = Read(set(), set(), set())
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(query):
        match = TOKEN.match(query, at)
        assert match is not None, f"no PromQL: {query[at:]!r}"
        at = match.end()
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
    metric = ""
    braces = grouping = False
    opens = 0  # grouping words may stand without parentheses
    for (kind, text), following in zip(tokens, [*tokens[1:], ("end", "")], strict=True):
        if text == "{":
            braces = True
        elif text == "}":
            braces = False
        elif grouping and text in "()":
            opens += 1 if text == "(" else -1
            grouping = opens > 0
        if kind != "name":
            continue
        if braces:
            assert following[1] in {"=", "!=", "=~", "!~"}, (query, text)
            found.selected.add((metric, text))
        elif grouping:
            found.grouped.add(text)
        elif text in GROUPING:
            grouping = following[1] == "("
        elif text not in WORDS:
            metric = text
            found.metrics.add(text)
    assert not braces
    assert not grouping
    return found


def test_queries_are_read() -> None:
    query = 'sum by (a, b) (rate(x_total{c=~"d|e",f!=""}[5m])) / on (g) group_left y:z > 0.5'
    assert read(query) == Read(
        {"x_total", "y:z"}, {("x_total", "c"), ("x_total", "f")}, {"a", "b", "g"}
    )
    with pytest.raises(AssertionError, match="no PromQL"):
        read("rate(x[5 apples])")


# -- what there is --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


@pytest.fixture(scope="module")
def rules() -> list[Any]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def scraped(registry: CollectorRegistry, shared_valkey: Any) -> dict[str, set[str]]:
    """Sample name -> its labels, as the exporter prints them for a fleet of two to which everything
    has happened that has a duration or an age. What is counted is counted by hand here."""
    meters = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    telemetry = OpenTelemetry(meter_provider=meters)
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=telemetry) as fleet:
        gate = Gate()

        @fleet.origin.on("/a")
        async def handler(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"body", 200, {"cache-control": "max-age=60"})

        burst = asyncio.create_task(fleet.burst("/a", each=2))
        await gate.reached()
        await until(lambda: sum(world.stat("waiters") for world in fleet.worlds) == 2)
        gate.open()
        await burst
        await fleet.idle()
        fleet.origin.answers("/broken", status=503)
        await fleet[0].get("/broken")
        for world in fleet.worlds:
            world.cache.stack.layers[0].clear()
            await world.get("/a")  # a hit below, whose age is told
        await fleet[0].cache.purge(tags=["x"])
        counters = fleet[0].cache.stack.counters
        for event in names.COUNTS:
            counters.on(event, layer="redis", source="redis", operation="get", reason="any")
        text = generate_latest(registry).decode()
    meters.shutdown()
    return {
        sample.name: {*sample.labels}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def check(query: str, known: Mapping[str, set[str]]) -> None:
    found = read(query)
    assert found.metrics, query
    assert found.metrics <= known.keys(), query
    for metric, label in found.selected:
        assert label in known[metric] | OF_PROMETHEUS, (query, metric, label)
    for label in found.grouped:
        assert all(label in known[metric] | OF_PROMETHEUS for metric in found.metrics), (
            query,
            label,
        )


def shown(text: str, mark: str) -> set[str]:
    """The labels that a legend or an annotation shows."""
    return set(re.findall(r"{{\s*" + re.escape(mark) + r"(\w+)", text))


def queries(dashboard: Any) -> Iterator[tuple[str, str]]:
    """The queries of all panels, with their legends."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


async def test_the_dashboard_asks_for_what_there_is(
    dashboard: Any, scraped: dict[str, set[str]]
) -> None:
    for query, legend in queries(dashboard):
        check(query, scraped)
        found = read(query)
        for label in shown(legend, ""):
            # What is not grouped by is not there any more.
            kept = not re.search(r"\b(sum|max|min)\b", query) or "group_right" in query
            assert kept or label in found.grouped, query
            assert all(label in scraped[one] | OF_PROMETHEUS for one in found.metrics), legend


async def test_its_variables_ask_for_what_there_is(
    dashboard: Any, scraped: dict[str, set[str]]
) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "cache", "instance"}
    for variable in variables.values():
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert query == variable["definition"]
            inside = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
            assert inside is not None
            check(inside[1], scraped)
            assert inside[2] in scraped["layergate_requests_total"] | OF_PROMETHEUS
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used == {*variables, "__rate_interval"}


def test_every_panel_has_the_data_source_of_the_variable(dashboard: Any) -> None:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["targets"], panel["title"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    places = [(place["x"], place["y"]) for place in (panel["gridPos"] for panel in panels)]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


async def test_every_metric_is_on_the_dashboard(
    dashboard: Any, scraped: dict[str, set[str]]
) -> None:
    instruments = {names.REQUESTS, names.AGES, *names.DURATIONS.values()}
    for group in (names.COUNTS, names.LAYERS, names.LOG, names.STATES):
        instruments |= set(group.values())
    asked = set().union(*(read(query).metrics for query, _ in queries(dashboard)))
    for instrument in instruments:
        name = instrument.name.replace(".", "_")
        unit = {"s": "_seconds", "By": "_bytes"}.get(instrument.unit, "")
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        printed = {name + unit + end for end in ends.get(instrument.kind, ("",))}
        assert printed <= scraped.keys(), instrument.name
        assert (instrument.name in NOT_SHOWN) != bool(printed & asked), instrument.name
    assert all(NOT_SHOWN.values())


async def test_the_rules_ask_for_what_there_is(
    rules: list[Any], scraped: dict[str, set[str]]
) -> None:
    known = dict(scraped)
    for rule in rules:
        check(rule["expr"], known)
        found = read(rule["expr"])
        if "record" in rule:
            assert rule["record"] not in known
            inherited = set().union(*(known[metric] for metric in found.metrics))
            known[rule["record"]] = (found.grouped or inherited) - {"le"}
            continue
        texts = json.dumps(rule["annotations"])
        for label in shown(texts, "$labels."):
            assert all(label in known[one] | OF_PROMETHEUS for one in found.metrics), texts
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = set().union(*(read(rule["expr"]).metrics for rule in rules if "alert" in rule))
    assert recorded - used <= {"layergate:fetch_duration_seconds:p95_5m"}, "for nothing"


def test_the_rules_are_rules(rules: list[Any]) -> None:
    for rule in rules:
        if "record" in rule:
            assert set(rule) == {"record", "expr"}
            assert re.fullmatch(r"layergate:[a-z_]+:[a-z0-9_]+", rule["record"])
        else:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"LayerGate[A-Za-z]+", rule["alert"])
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert set(rule["annotations"]) == {"summary", "description"}
    alerts = [rule["alert"] for rule in rules if "alert" in rule]
    assert len(set(alerts)) == len(alerts)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed here"
)
@pytest.mark.parametrize(
    "command", [("check", "rules", RULES.name), ("test", "rules", "layergate-rules.test.yml")]
)
def test_prometheus_thinks_so_too(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
