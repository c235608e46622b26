"""Read traces back: the spans from the API of a Phoenix, their links from a collector's log.

Phoenix does not store span links. They come from the log that ``rotel`` writes with ``--debug-log traces
--debug-log-verbosity detailed``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

PATIENCE = 20.0  # seconds to wait for a trace


class Span(NamedTuple):
    """A span. ``links``: the ids of linked spans. ``service``: the name of its process."""

    trace: str
    id: str
    parent: str | None
    name: str
    began: int  # ns since the epoch
    ended: int
    attributes: dict[str, object]
    links: tuple[str, ...]
    service: str


class Stores:
    """``phoenix``: the URL of Phoenix. ``log``: the log of the collector."""

    def __init__(self, phoenix: str, log: Path) -> None:
        self._url = f"{phoenix}/v1/projects/default/spans/otlpv1"
        self._log = log

    def wait_for(self, trace: str, names: Sequence[str]) -> list[Span]:
        """The spans of a trace, once they include these ``names``. Raises TimeoutError."""
        until = time.monotonic() + PATIENCE
        while True:
            spans = [span for span in self.spans() if span.trace == trace]
            if {span.name for span in spans}.issuperset(names):
                return spans
            if time.monotonic() > until:
                raise TimeoutError(
                    f"expected {names}, only {[span.name for span in spans]} arrived"
                )
            time.sleep(0.2)

    def spans(self) -> Iterator[Span]:
        """All spans that Phoenix has."""
        links, services = self._collected()
        cursor: str | None = None
        with httpx.Client(trust_env=False) as client:
            while True:
                query = {"limit": "1000", **({"cursor": cursor} if cursor else {})}
                page = client.get(self._url, params=query).raise_for_status().json()
                for span in page["data"]:
                    ident = span["span_id"]
                    yield Span(
                        span["trace_id"],
                        ident,
                        span["parent_span_id"],
                        span["name"],
                        int(span["start_time_unix_nano"]),
                        int(span["end_time_unix_nano"]),
                        {one["key"]: _plain(one["value"]) for one in span["attributes"] or ()},
                        tuple(links.get(ident, ())),
                        services.get(ident, ""),
                    )
                cursor = page["next_cursor"]
                if not cursor:
                    return

    def _collected(self) -> tuple[dict[str, list[str]], dict[str, str]]:
        """The ids that each span links to, and the service of each span, by span id."""
        links: dict[str, list[str]] = {}
        services: dict[str, str] = {}
        service = ident = ""
        for line in self._log.read_text(errors="replace").splitlines():
            if match := re.search(r"service\.name: Str\((.*)\)", line):
                service = match[1]
            elif match := re.fullmatch(r"    ID +: (\w+)", line):
                ident = match[1]
                services[ident] = service
            elif match := re.fullmatch(r" +-> ID: (\w+)", line):
                links.setdefault(ident, []).append(match[1])
        return links, services


def _plain(value: dict[str, Any]) -> object:
    """A Python value from an OTLP JSON value."""
    if value.get("array_value") is not None:
        return ",".join(str(_plain(one)) for one in value["array_value"]["values"])
    return next((one for one in value.values() if one is not None), None)


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def show(title: str, traces: Sequence[Sequence[Span]], shown: dict[str, str]) -> None:
    """Print traces. ``shown``: the label of each span in links, by id; labels of new spans are added."""
    print(f"{title}\n")
    for spans in traces:
        by_id = {span.id: span for span in spans}
        for span in sorted(spans, key=lambda span: span.began):
            shown[span.id] = f"[{len(shown) + 1}]"
        start = min(span.began for span in spans)

        def branch(
            span: Span, depth: int, start: int = start, spans: Sequence[Span] = spans
        ) -> None:
            facts = [
                f"{name.removeprefix('layergate.')}={_short(value)}"
                for name, value in sorted(span.attributes.items())
                if name.startswith(("layergate.", "error.")) or name == "http.response.status_code"
                if name != "layergate.cache.name"
            ]
            facts += [f"-> {shown.get(link, link)}" for link in span.links]
            head = f"{'  ' * depth}{shown[span.id]} {span.name}"
            service = f"({span.service})"
            times = f"{(span.began - start) / 1e6:6.1f} +{(span.ended - span.began) / 1e6:6.1f} ms"
            print(f"{head:36} {service:10} {times}  {' '.join(facts)}".rstrip())
            for child in sorted(spans, key=lambda one: one.began):
                if child.parent == span.id:
                    branch(child, depth + 1)

        for span in sorted(spans, key=lambda span: span.began):
            if span.parent not in by_id:
                branch(span, 0)
        print()
