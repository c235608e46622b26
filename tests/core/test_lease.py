"""Wait strategies."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import islice
from typing import Any, cast

import pytest

from layergate.core.lease import Exponential, Fixed, Waiting
from layergate.errors import ConfigError


def pauses(waiting: Waiting, count: int, *, random: float = 0.0) -> list[float]:
    return list(islice(waiting.delays(lambda: random), count))


def test_fixed_pauses_are_all_the_same() -> None:
    assert pauses(Fixed(0.3), 3, random=0.9) == [0.3, 0.3, 0.3]


def test_exponential_pauses_grow_up_to_the_most() -> None:
    waiting = Exponential(first=0.01, factor=2, most=0.05)
    assert pauses(waiting, 5) == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05])


def test_jitter_only_shortens() -> None:
    waiting = Exponential(first=0.01, factor=2, most=0.05, jitter=0.5)
    assert pauses(waiting, 4, random=0.999) == pytest.approx([0.005, 0.01, 0.02, 0.025], rel=0.01)


def test_no_pause_is_ever_nothing() -> None:
    waiting = Exponential(first=0.01, jitter=1)
    assert min(pauses(waiting, 10, random=1 - 1e-16)) >= 0.001


def test_two_waits_are_independent() -> None:
    waiting = Exponential(jitter=0)
    assert pauses(waiting, 3) == pauses(waiting, 3)


def test_a_huge_number_of_pauses_does_not_overflow() -> None:
    assert pauses(Exponential(factor=1e300, jitter=0), 1000)[-1] == 0.5


@pytest.mark.parametrize("waiting", [Fixed(1), Exponential()])
def test_they_are_strategies_and_can_be_shared(waiting: Any) -> None:
    assert isinstance(waiting, Waiting)
    waiting = cast("Any", waiting)
    assert hash(waiting) == hash(type(waiting)(**{
        name: getattr(waiting, name) for name in waiting.__dataclass_fields__
    }))  # fmt: skip
    for name in waiting.__dataclass_fields__:
        with pytest.raises(FrozenInstanceError):
            setattr(waiting, name, 2)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_pauses_must_be_seconds(value: Any) -> None:
    for make in (
        lambda: Fixed(value),
        lambda: Exponential(first=value),
        lambda: Exponential(most=value),
    ):
        with pytest.raises(ConfigError, match="must be > 0 seconds, got"):
            make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0.5}, "factor must be a number from 1, got 0.5"),
        ({"factor": "2"}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"jitter": 1.5}, "jitter must be from 0 to 1, got 1.5"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": None}, "jitter"),
        ({"first": 1.0}, r"most must not be below first \(1.0 seconds\), got 0.5"),
    ],
)
def test_what_cannot_work_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Exponential(**options)
