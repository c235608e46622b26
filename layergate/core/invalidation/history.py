"""The purges of one and the same thing, as a short list of positions and times.

A hard purge needs only the latest position: it invalidates whatever is older. Soft purges need
more, because the stale windows of an entry are counted from the *first* soft purge that matched it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

__all__ = ["History", "Moment", "earliest_after", "extended", "merged"]


class Moment(NamedTuple):
    """When a purge was made: its position in the log, and seconds since the epoch."""

    position: int
    time: float


History: TypeAlias = tuple[Moment, ...]
"""In ascending order of positions."""


def extended(history: History, moment: Moment, depth: int) -> History:
    """``history`` with ``moment`` at its end, at most ``depth`` long.

    If it would be longer, its two oldest moments become one, with the position of the newer and the
    time of the older. The merged moment matches only entries that one of the two would have
    matched, and its time is no later than theirs.
    """
    history = (*history, moment)
    if len(history) > depth:
        first, second, *rest = history
        history = (Moment(second.position, min(first.time, second.time)), *rest)
    return history


def merged(history: History, more: History, depth: int) -> History:
    """Two histories in one, at most ``depth`` long."""
    result: History = ()
    for moment in sorted((*history, *more)):
        result = extended(result, moment, depth)
    return result


def earliest_after(history: History, position: int) -> float | None:
    """The earliest time of the purges after ``position``; None if there are none."""
    if not history or history[-1].position <= position:
        return None
    return min(moment.time for moment in history if moment.position > position)
