"""What is told of a cache: spans and metrics (`otel`), the log (`logs`), by the names in `names`.

Nothing here imports OpenTelemetry before it is known to be wanted and there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from layergate.core.events import Tracer
from layergate.core.stack import Stack
from layergate.errors import ConfigError

__all__ = ["Telemetry", "telemetry_of"]


class Telemetry(Protocol):
    """`layergate.telemetry.otel.OpenTelemetry`, or what stands in for it."""

    def tracer(self, *, trace_keys: bool, name: str) -> Tracer:
        """Who is told of one cache's spans. ``name``: the cache's."""
        ...

    def observe(
        self, stack: Stack, stats: Callable[[], dict[str, Any]], *, name: str, http: bool
    ) -> None:
        """Read this stack's counters, and what ``stats`` says, when metrics are collected, as long
        as the stack lives."""
        ...

    def first_look(self, peek: Any, tracer: Tracer, *, ratio: float, layer: str) -> Any:
        """``peek``, with a span for each hit, or for a share of them."""
        ...


def telemetry_of(option: Any) -> Telemetry | None:
    """What the option ``telemetry`` asks for; None: nothing is told.

    Raises ConfigError if it is wanted and cannot be had.
    """
    if option is False:
        return None
    if option is not None and option is not True:
        told: Telemetry = option
        return told
    try:
        import opentelemetry.metrics
        import opentelemetry.trace  # noqa: F401
    except ImportError:
        if option is None:
            return None
        raise ConfigError(
            "telemetry=True needs opentelemetry-api; pip install 'layergate[otel]'"
        ) from None
    from layergate.telemetry.otel import common

    return common()
