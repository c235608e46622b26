"""What every runner checks after a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from layergate.errors import OriginUnreachable
from tests.scenarios.model import Reply, Step


class OriginFailed(Exception):
    """What a scripted origin raises."""


class OriginLost(OriginFailed, OriginUnreachable):
    """What one raises that forwards to a server it cannot reach."""


class Seen(NamedTuple):
    """What a client got: no status if the origin's exception came through."""

    status: int | None
    lines: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        return combined(self.lines, name)


def combined(lines: list[tuple[str, str]], name: str) -> str | None:
    values = [value for other, value in lines if other.lower() == name]
    return ", ".join(values) if values else None


def our_member(value: str | None) -> dict[str, Any]:
    """The parameters of the last member of Cache-Status, which must be ours."""
    if value is None:
        return {}
    name, *parameters = value.split(",")[-1].strip().split("; ")
    assert name == "LayerGate", value
    found: dict[str, Any] = {}
    for parameter in parameters:
        key, equals, text = parameter.partition("=")
        found[key] = (int(text) if text.lstrip("-").isdigit() else text) if equals else True
    return found


def script_of(step: Step) -> list[Reply]:
    """What the origin answers in this step, in order."""
    later = () if step.meanwhile is None else step.meanwhile.origin
    refresh = () if step.refresh is None else (step.refresh,)
    return [*step.origin, *later, *refresh]


def check_step(
    where: str, step: Step, answers: list[Seen], seen: list[list[tuple[str, str]]]
) -> None:
    if step.meanwhile is not None:
        own, (first, second) = len(step.origin), answers
        check_step(where, replace(step, meanwhile=None), [first], seen[:own])
        check_step(f"{where}, meanwhile", step.meanwhile, [second], seen[own:])
        return
    calls = len(step.origin) + (step.refresh is not None)
    for answer in answers:
        shown = f"{where}\n  got {answer}\n  origin saw {seen}"
        assert answer.status == step.status, shown
        if answer.status is not None:
            _check_answer(step, answer, shown, follower=len(answers) > 1)
    assert len(seen) == calls, f"{where}: {len(seen)} origin calls, expected {calls}; {answers}"
    if len(answers) > 1:
        collapsed = sum("collapsed" in our_member(one.get("cache-status")) for one in answers)
        assert collapsed == len(answers) - len(step.origin), f"{where}: {collapsed} collapsed"
    for name, value in step.saw.items():
        got = combined(seen[-1], name)
        assert got == value, f"{where}: the origin saw {name}: {got!r}, expected {value!r}"


def _check_answer(step: Step, answer: Seen, shown: str, *, follower: bool) -> None:
    if step.content is not None:
        assert answer.body == step.content, shown
    for name, value in step.has.items():
        assert answer.get(name) == value, f"{name}: expected {value!r}; {shown}"
    if step.lines is not None:
        rest = [line for line in answer.lines if line[0] not in ("cache-status", "age")]
        assert sorted(rest) == sorted(step.lines), shown
    status = answer.get("cache-status")
    if not step.members:
        return
    if step.cs is None:
        assert status is None, shown
        return
    assert status is not None, shown
    assert len(status.split(",")) == step.members, shown
    member = our_member(status)
    assert not ("hit" in member and "fwd" in member), f"RFC 9211 2.1: exclusive; {shown}"
    if follower:
        return
    for key, value in step.cs.items():
        assert member.get(key) == value, f"Cache-Status {key}: expected {value!r}; {shown}"
