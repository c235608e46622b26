"""The statistics of several processes as one. Gateways and processes that share a host's folder ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["total"]

# Values that a sum would make meaningless. Positions are each worker's own; a layer that one of them has
# lost must stay visible.
_GREATEST: Final = frozenset({"position", "log_position", "log_lag", "breaker", "members"})
_LEAST: Final = frozenset({"log_trusted"})
_OWN: Final = frozenset({"worker", "pid"})


def total(reports: Sequence[Mapping[str, Any]], *, workers: int | None = None) -> dict[str, Any]:
    """The statistics of several processes: the sums, and below ``workers`` the number of those that are
    ``running`` and that ``answered``, and the statistics of ``each`` by its number.

    ``reports``: the statistics of each, with ``worker`` (its number) and ``pid``. ``workers``: how many
    there are; None: as many as have answered.
    """
    summed: dict[str, Any] = {}
    for report in reports:
        _add(summed, {name: value for name, value in report.items() if name not in _OWN})
    running = len(reports) if workers is None else workers
    summed["workers"] = {
        "running": running,
        "answered": len(reports),
        "each": {
            str(report["worker"]): {key: one for key, one in report.items() if key != "worker"}
            for report in sorted(reports, key=lambda report: int(report["worker"]))
        },
    }
    return summed


def _add(summed: dict[str, Any], report: Mapping[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, Mapping):
            _add(summed.setdefault(name, {}), value)
        elif name not in summed or not isinstance(value, int | float):
            summed[name] = value
        elif name in _GREATEST:
            summed[name] = max(summed[name], value)
        elif name in _LEAST:
            summed[name] = min(summed[name], value)
        else:
            summed[name] += value
