"""What the log is told, under the logger ``layergate``.

``layergate.decisions`` gets one line per request that was decided on, at DEBUG: what became of it,
and why. ``layergate`` itself gets a WARNING when something works worse than it should: once per kind
and layer in `EVERY` seconds, with the number of those that were left out, so that a system that is
down does not fill the disk too. ``LAYERGATE_DEBUG=1`` in the environment turns DEBUG on.

A line names the path of a request, never its query or fields.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from layergate.http.message.key import target_of

__all__ = ["DECISIONS", "EVERY", "Warnings", "first_look", "turn_on"]

EVERY: Final = 60.0  # seconds between two warnings of one kind

_logger = logging.getLogger("layergate")
DECISIONS: Final = logging.getLogger("layergate.decisions")

# Event -> what is wrong, for who reads it at night; facts in braces. (That the shared layer does
# not answer, its companion says, who also says for how long.)
_DEGRADED: Final[Mapping[str, str]] = {
    "layer_error": "layer {layer}: {operation} failed: {error}",
    "lease_lost": "a lease ran out before its fetch was done; what it brings is not stored",
    "log_leap": "the shared layer restarted or failed over; purges it lost are appended again",
    "log_reset": "the shared layer came back empty",
    "log_trimmed": "this instance was cut off for longer than the shared log reaches back; what it held"
    " is dropped",
    "record_refused": "a record of the shared log cannot be read; everything is purged: {error}",
    "refresh_skipped": "a background refresh was put off: {reason}",
    "stream_cut": "a client too slow for an oversized response was cut off",
    "wait_timeout": "a request waited too long for another one's fetch",
    "write_error": "layer {layer} did not take an entry: {error}",
}
_ORDINARY: Final = frozenset({"another instance does it", "another instance did it"})


class Warnings:
    """A hook (see `layergate.core.events`) that warns of degraded states.

    ``clock``: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # (event, layer, operation or reason) -> when it may be told again, and how often it was not.
        self._told: dict[tuple[str, Any, Any], tuple[float, int]] = {}

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        if event in _DEGRADED:
            if facts.get("reason") not in _ORDINARY:
                self._warn(event, _DEGRADED[event].format_map(_Told(facts)), facts)
        elif event == "breaker":
            state, layer = facts.get("state"), facts.get("layer")
            if state == "open":
                self._warn(
                    event, f"layer {layer} is not asked for a while: it keeps failing", facts
                )
            elif state == "closed":
                _logger.info("layer %s is asked again", layer)
                self._told.pop((event, layer, None), None)

    def _warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        kind = event, facts.get("layer"), facts.get("operation") or facts.get("reason")
        now = self._clock()
        until, left_out = self._told.get(kind, (now, 0))
        if now < until:
            self._told[kind] = until, left_out + 1
            return
        self._told[kind] = now + EVERY, 0
        more = f" ({left_out} more since the last such line)" if left_out else ""
        _logger.warning("%s%s", text, more, extra={"layergate.event": event})


class _Told(dict[str, Any]):
    """Facts for a text. Of an exception its class and message, on one line."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__({name: _shown(value) for name, value in facts.items()})

    def __missing__(self, name: str) -> str:
        return "?"


def _shown(value: object) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({str(value)!r:.200})"
    return str(value)


def turn_on(environ: Mapping[str, str] = os.environ) -> None:
    """Set the logger to DEBUG if ``LAYERGATE_DEBUG`` says so; where nobody handles what it logs, on
    stderr."""
    if environ.get("LAYERGATE_DEBUG", "").lower() not in ("1", "true", "yes", "on"):
        return
    _logger.setLevel(logging.DEBUG)
    if not _logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _logger.addHandler(handler)


def first_look(peek: Any, layer: str) -> Any:
    """``peek``, with a line for each hit, if DEBUG is on now; it has to be when a cache is made, for
    a hit has no time to ask."""
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
