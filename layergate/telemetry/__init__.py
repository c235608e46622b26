"""What a cache reports: spans and metrics (`otel`), and the log (`logs`), with the names in
`names`.

OpenTelemetry is imported only if it is wanted and installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from layergate.core.events import Tracer
from layergate.core.stack import Stack
from layergate.errors import ConfigError

__all__ = ["Telemetry", "telemetry_of"]


class Telemetry(Protocol):
    """What the option ``telemetry`` accepts: `layergate.telemetry.otel.OpenTelemetry`, or a
    stand-in."""

    def tracer(self, *, trace_keys: bool, name: str) -> Tracer:
        """The tracer for the cache called ``name``. ``trace_keys``: spans carry a hash of the
        key."""
        ...

    def observe(
        self, stack: Stack, stats: Callable[[], dict[str, Any]], *, name: str, http: bool
    ) -> None:
        """Read the counters of this stack, and ``stats``, whenever metrics are collected, as long
        as the stack lives. ``http``: the stack counts requests one by one."""
        ...

    def traced_peek(self, peek: Any, tracer: Tracer, *, ratio: float, layer: str) -> Any:
        """``peek`` with a span for a share of the hits. ``ratio``: 0 to 1. ``layer``: the name of
        the top layer."""
        ...


def telemetry_of(option: Any) -> Telemetry | None:
    """What to report to, for a value of the option ``telemetry``; None: nothing.

    Raises ConfigError for True if opentelemetry-api is not installed.
    """
    if option is False:
        return None
    if option is not None and option is not True:
        given: Telemetry = option
        return given
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
