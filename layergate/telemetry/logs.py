"""What is logged, under the logger ``layergate``.

``layergate.decisions`` logs one line for each request that was decided on, at DEBUG: the outcome
and the reason. ``layergate`` logs a WARNING when something works worse than it should: at most once
in `EVERY` seconds for each kind and layer, with the number of warnings left out, so that a system
that is down does not fill the disk as well. ``LAYERGATE_DEBUG=1`` in the environment turns DEBUG
on.

A line shows the path of a request, never its query or its fields.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from layergate.http.message.key import target_of

__all__ = ["DECISIONS", "EVERY", "DegradedWarnings", "enable_debug", "logged_peek"]

EVERY: Final = 60.0
"""Seconds between two warnings of one kind."""

_logger = logging.getLogger("layergate")
DECISIONS: Final = logging.getLogger("layergate.decisions")

# Event -> warning, with facts in braces. The shared layer itself reports that it does not answer,
# since it can also say for how long.
_DEGRADED: Final[Mapping[str, str]] = {
    "layer_error": "layer {layer}: {operation} failed: {error}",
    "lease_lost": "a lease expired before its fetch ended; the response is not stored",
    "log_leap": "the shared layer restarted or failed over; purges that it lost are appended again",
    "log_reset": "the shared layer came back empty",
    "log_trimmed": "this instance was cut off for longer than the shared log reaches back; it drops"
    " everything that it holds",
    "record_refused": "a record of the shared log cannot be read; everything is purged: {error}",
    "refresh_skipped": "a background refresh was skipped: {reason}",
    "stream_cut": "a client that reads too slowly was cut off from an oversized response",
    "wait_timeout": "a request waited too long for the fetch of another request",
    "write_error": "layer {layer} did not accept an entry: {error}",
}
# Reasons for `refresh_skipped` that are no cause for concern.
_ORDINARY: Final = frozenset({"another instance does it", "another instance did it"})


class DegradedWarnings:
    """A hook (see `layergate.core.events`) that warns of degraded states.

    ``clock``: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # (event, layer, operation or reason) -> when the next warning is due, and how many were
        # left out.
        self._last: dict[tuple[str, Any, Any], tuple[float, int]] = {}

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        if event in _DEGRADED:
            if facts.get("reason") not in _ORDINARY:
                self._warn(event, _DEGRADED[event].format_map(_Shown(facts)), facts)
        elif event == "breaker":
            state, layer = facts.get("state"), facts.get("layer")
            if state == "open":
                self._warn(event, f"layer {layer} keeps failing; it is not used for a while", facts)
            elif state == "closed":
                _logger.info("layer %s is used again", layer)
                self._last.pop((event, layer, None), None)

    def _warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        kind = event, facts.get("layer"), facts.get("operation") or facts.get("reason")
        now = self._clock()
        until, left_out = self._last.get(kind, (now, 0))
        if now < until:
            self._last[kind] = until, left_out + 1
            return
        self._last[kind] = now + EVERY, 0
        more = f" ({left_out} more since the last such line)" if left_out else ""
        _logger.warning("%s%s", text, more, extra={"layergate.event": event})


class _Shown(dict[str, Any]):
    """The facts of an event for a text; of an exception its class and its message, on one line."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__({name: _shown(value) for name, value in facts.items()})

    def __missing__(self, name: str) -> str:
        return "?"


def _shown(value: object) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({str(value)!r:.200})"
    return str(value)


def enable_debug(environ: Mapping[str, str] = os.environ) -> None:
    """Set the logger to DEBUG if ``LAYERGATE_DEBUG`` is set. If no handler is installed, log to
    stderr."""
    if environ.get("LAYERGATE_DEBUG", "").lower() not in ("1", "true", "yes", "on"):
        return
    _logger.setLevel(logging.DEBUG)
    if not _logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _logger.addHandler(handler)


def logged_peek(peek: Any, layer: str) -> Any:
    """``peek`` with a log line for each hit, if DEBUG is on. It must be on when the cache is made,
    because a hit has no time to check. ``layer``: the name of the top layer."""
    if not DECISIONS.isEnabledFor(logging.DEBUG):
        return peek

    def logged(key: bytes, fields: Mapping[bytes, bytes]) -> Any:
        found = peek(key, fields)
        if found.__class__ is tuple:
            DECISIONS.debug(
                "hit %r layer=%s",
                target_of(key).partition("?")[0],
                layer,
                extra={"layergate.outcome": "hit", "layergate.layer": layer},
            )
        return found

    return logged
