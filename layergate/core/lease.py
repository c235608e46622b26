"""How long to wait between two looks at a lease that somebody else holds.

A release is told by message where the shared system can; looking again is what helps when it can't,
or when the message was lost. These are the ways to space the looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from layergate.errors import ConfigError

__all__ = ["Exponential", "Fixed", "Waiting"]


@runtime_checkable
class Waiting(Protocol):
    """A wait strategy. Immutable, so that it can be shared."""

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """The pauses of one wait, in seconds, each > 0. Endless. ``random`` is uniform in [0,
        1)."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Look every ``every`` seconds.

    Raises ConfigError.
    """

    every: float

    def __post_init__(self) -> None:
        _check_seconds("every", self.every)

    def delays(self, random: Callable[[], float]) -> Iterator[float]:  # noqa: ARG002 - none in it
        """``every``, for ever."""
        while True:
            yield self.every


@dataclass(frozen=True, slots=True)
class Exponential:
    """Look after ``first`` seconds, then after ``factor`` times as long each time, up to ``most``.

    ``jitter``: which share of a pause is random, from 0 (none) to 1, so that those who began to
    wait together do not all look at once. It only ever shortens.

    Raises ConfigError.
    """

    first: float = 0.01
    factor: float = 2.0
    most: float = 0.5
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check_seconds("first", self.first)
        _check_seconds("most", self.most)
        if not _is_number(self.factor) or not 1 <= self.factor < float("inf"):
            raise ConfigError(f"factor must be a number from 1, got {self.factor!r}; try 2")
        if self.most < self.first:
            raise ConfigError(
                f"most must not be below first ({self.first!r} seconds), got {self.most!r};"
                " use Fixed(...) for pauses of one length"
            )
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter must be from 0 to 1, got {self.jitter!r}; try 0.5")

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """``first``, ``first * factor``, ... ``most``, ``most``, each shortened at random."""
        pause = self.first
        while True:
            # Never down to nothing: that would be a loop that spins.
            yield max(pause * (1 - self.jitter * random()), self.first / 10)
            pause = min(self.most, pause * self.factor)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _check_seconds(option: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ConfigError(f"{option} must be > 0 seconds, got {value!r}; try 0.1")
