"""How long to wait between two looks at a lease that another instance holds.

Where the shared system can, it sends a message when a lease is released. Looking again is what helps
where it cannot, or where the message was lost. `SharedLeases` calls this; option ``backoff`` of a shared
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from layergate.errors import ConfigError

__all__ = ["Backoff"]

_FACTOR: Final = 2.0
_JITTER: Final = 0.5  # of a pause is random, so that calls do not all look at once


@dataclass(frozen=True, slots=True)
class Backoff:
    """Look after ``initial`` seconds, then after twice as long each time, up to ``maximum`` seconds.

    Up to half of each pause is left out at random. For pauses of about one length, give the same
    number twice.

    Raises ConfigError.
    """

    initial: float = 0.01
    maximum: float = 0.5

    def __post_init__(self) -> None:
        _check_seconds("initial", self.initial)
        _check_seconds("maximum", self.maximum)
        if self.maximum < self.initial:
            raise ConfigError(
                f"maximum must not be below initial ({self.initial!r} seconds), got"
                f" {self.maximum!r}; give the same number twice for pauses of one length"
            )

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """The pauses of one wait, in seconds. Endless. ``random``: uniform in [0, 1)."""
        pause = self.initial
        while True:
            yield pause * (1 - _JITTER * random())
            pause = min(self.maximum, pause * _FACTOR)


def _check_seconds(option: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ConfigError(f"{option} must be > 0 seconds, got {value!r}; try 0.1")
