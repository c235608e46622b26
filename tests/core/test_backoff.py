"""The pauses of a waiting call."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import islice
from typing import Any

import pytest

from layergate.core.backoff import Backoff
from layergate.errors import ConfigError


def pauses(backoff: Backoff, count: int, *, random: float = 0.0) -> list[float]:
    return list(islice(backoff.delays(lambda: random), count))


def test_pauses_grow_up_to_the_maximum() -> None:
    backoff = Backoff(initial=0.01, maximum=0.05)
    assert pauses(backoff, 5) == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05])


def test_jitter_only_shortens() -> None:
    backoff = Backoff(initial=0.01, maximum=0.05)
    assert pauses(backoff, 4, random=0.999) == pytest.approx([0.005, 0.01, 0.02, 0.025], rel=0.01)


def test_the_same_number_twice_gives_pauses_of_one_length() -> None:
    assert pauses(Backoff(0.3, 0.3), 3) == [0.3, 0.3, 0.3]


def test_no_pause_is_ever_nothing() -> None:
    assert min(pauses(Backoff(initial=0.01), 10, random=1 - 1e-16)) >= 0.005


def test_two_waits_are_independent() -> None:
    backoff = Backoff()
    assert pauses(backoff, 3) == pauses(backoff, 3)


def test_a_huge_number_of_pauses_does_not_overflow() -> None:
    assert pauses(Backoff(), 10_000)[-1] == 0.5


def test_it_can_be_shared() -> None:
    backoff: Any = Backoff()
    assert hash(backoff) == hash(Backoff(0.01, 0.5))
    for name in ("initial", "maximum"):
        with pytest.raises(FrozenInstanceError):
            setattr(backoff, name, 2)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_pauses_must_be_seconds(value: Any) -> None:
    for options in ({"initial": value}, {"maximum": value}):
        with pytest.raises(ConfigError, match="must be > 0 seconds, got"):
            Backoff(**options)


def test_the_maximum_is_not_below_the_initial_pause() -> None:
    with pytest.raises(ConfigError, match=r"maximum must not be below initial \(1.0 seconds\)"):
        Backoff(initial=1.0)
