"""Metrics: the counters of all caches, read at each collection.

An SDK keeps the first observable instrument of a name, and silently drops the callbacks of any
other. So there is one set of instruments for each pair of providers, and it reads all caches that
are alive. Caches of the same name in one process are added up.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from layergate.core.events import LABELS
from layergate.core.stack import Stack
from layergate.telemetry import names
from layergate.telemetry.names import Instrument

__all__ = ["CounterReader"]


class _Watched(NamedTuple):
    stack: weakref.ref[Stack]
    stats: weakref.WeakMethod[Callable[[], dict[str, Any]]]
    name: str
    http: bool


_Values: TypeAlias = Iterator[tuple[dict[str, str], float]]
"""Attributes and value of each observation of one cache."""
_Read: TypeAlias = Callable[[Stack, Callable[[], dict[str, Any]], bool], _Values]
"""Reads one instrument. The last argument: whether requests are counted one by one."""

_COMBINE: Final[Mapping[str, Callable[[float, float], float]]] = {
    "counter": operator.add,
    "updown": operator.add,
    "gauge": max,
    "least": min,
}


class CounterReader:
    """The observable instruments on one meter. They are created with the first cache."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []

    def add(
        self, stack: Stack, stats: Callable[[], dict[str, Any]], *, name: str, http: bool
    ) -> None:
        """Read this stack too. See `OpenTelemetry.observe`."""
        watched = _Watched(weakref.ref(stack), weakref.WeakMethod(stats), name, http)
        with self._lock:
            first = not self._watched
            self._watched = [one for one in self._watched if one.stack() is not None]
            self._watched.append(watched)
            if first:
                self._register()

    def _register(self) -> None:
        self._create(names.REQUESTS, _read_requests)
        for event, instrument in names.COUNTS.items():
            self._create(instrument, _event_reader(event))
        for key, instrument in names.LAYERS.items():
            self._create(instrument, _layer_reader(key))
        for key, instrument in names.LOG.items():
            self._create(instrument, _log_reader(key))
        for key, instrument in names.STATES.items():
            self._create(instrument, _state_reader(key))

    def _create(self, instrument: Instrument, read: _Read) -> None:
        meter = self._meter
        create: Any = {
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
            "least": meter.create_observable_gauge,
        }[instrument.kind]
        create(
            instrument.name,
            callbacks=[self._callback(instrument, read)],
            unit=instrument.unit,
            description=instrument.description,
        )

    def _callback(
        self, instrument: Instrument, read: _Read
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """Reads all live caches, and combines those whose attributes are the same."""
        combine = _COMBINE[instrument.kind]

        def observe(_: CallbackOptions) -> list[Observation]:
            values: dict[tuple[tuple[str, str], ...], float] = {}
            for one in self._watched:
                stack, stats = one.stack(), one.stats()
                if stack is None or stats is None:
                    continue
                for attributes, value in read(stack, stats, one.http):
                    place = tuple(sorted({**attributes, names.CACHE: one.name}.items()))
                    values[place] = combine(values[place], value) if place in values else value
            return [Observation(value, dict(attributes)) for attributes, value in values.items()]

        return observe


def _read_requests(stack: Stack, _: Any, http: bool) -> _Values:
    counters = stack.counters
    top = stack.layers[0].name
    counts = Counter(counters.requests.copy())
    counts["hit", top] += counters.hits
    if http:
        # Report 0 before the first one, or no rate shows the step from nothing to one.
        for layer in stack.layers:
            counts["hit", layer.name] += 0
            counts["stale", layer.name] += 0
        counts["revalidated", ""] += 0
        counts["collapsed", ""] += 0
        counts["bypass", ""] += counters.bypassed
        counts["miss", ""] += counters.forwarded
    else:
        # Values, not requests: what `stats` counts. A call that joined the lookup of another call,
        # and was answered from what that found, counts as both.
        for outcome in ("stale", "miss", "collapsed", "bypass"):
            counts[outcome, ""] += counters[outcome]
    for (outcome, layer), count in counts.items():
        attributes = {names.OUTCOME: outcome}
        if layer:
            attributes[names.LAYER] = layer
        yield attributes, count


def _event_reader(event: str) -> _Read:
    labels = LABELS.get(event, ())
    attributes = [names.EVENT_ATTRIBUTES[label] for label in labels]

    def read(stack: Stack, _: Any, http: bool) -> _Values:
        counts = Counter(stack.counters.by_label(event))
        # 0 before the first one, as above, where the label values are known in advance.
        if not labels:
            counts[()] += 0
        elif labels == ("layer",):
            for layer in stack.layers:
                counts[(layer.name,)] += 0
        for values, count in counts.items():
            pairs = zip(attributes, values, strict=True)
            yield {name: str(value) for name, value in pairs if value is not None}, count
        if event == "refused" and http and stack.counters.forwarded:
            yield {names.REASON: "hit-for-miss"}, stack.counters.forwarded

    return read


def _layer_reader(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Values:  # noqa: ARG001
        for layer, gauges in stats()["layers"].items():
            if key in gauges:
                yield {names.LAYER: layer}, gauges[key]

    return read


def _log_reader(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Values:  # noqa: ARG001
        gauges = stats()["invalidation"]
        if key in gauges:
            yield {}, gauges[key]

    return read


def _state_reader(key: str) -> _Read:
    def read(_: Stack, stats: Any, http: bool) -> _Values:  # noqa: ARG001
        value = stats().get(key)
        if isinstance(value, int | float):
            yield {}, value

    return read
