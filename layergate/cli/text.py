"""An explanation as text, in color if the terminal shows it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from layergate.http.explain.report import Explanation, Step

__all__ = ["printable", "rendered", "wants_colour"]

_CODES: Final = {"good": "32", "bad": "31", "bold": "1", "dim": "2"}
_NAME: Final = 16
_OUTCOME: Final = 44
_WIDTH: Final = 100
# Facts that the sentence, or another line, shows already.
_NOT_SHOWN: Final = frozenset({"remedy", "seconds", "source"})


def wants_colour(*, refused: bool) -> bool:
    """True if stdout is a terminal that shows colors, unless NO_COLOR turns them off (no-color.org)."""
    return (
        not refused
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
        and sys.stdout.isatty()
    )


def printable(text: str) -> str:
    """Text from an untrusted source, without characters that control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def rendered(explanation: Explanation, *, colour: bool, verbose: bool) -> str:
    """The explanation as text. ``verbose``: with the facts of each step."""
    paint = _painted if colour else _plain
    lines = [paint("bold", printable(f"{explanation.method} {explanation.url}")), ""]
    for step in explanation.steps:
        lines += _step(step, paint, verbose)
    answer = explanation.conclusion
    good = answer.answer in ("hit", "stale") or answer.stored is True
    text = textwrap.fill(printable(answer.text), _WIDTH, break_on_hyphens=False)
    lines += ["", paint("good" if good else "bad", text)]
    return "\n".join(lines)


def _plain(_: str, text: str) -> str:
    return text


def _painted(style: str, text: str) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def _step(step: Step, paint: Any, verbose: bool) -> Iterator[str]:
    mark, style = {True: ("+", "good"), False: ("-", "bad"), None: (" ", "bold")}[step.good]
    name = printable(step.name).ljust(_NAME - 1)
    outcome = printable(step.outcome)
    gap = " " * max(2, _OUTCOME - len(outcome))
    where = paint("dim", printable(step.section))
    yield f"{paint(style, mark)} {name} {paint(style, outcome)}{gap}{where}"
    indent = " " * (_NAME + 2)
    yield textwrap.fill(
        printable(step.text),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    remedy = step.data.get("remedy")
    if isinstance(remedy, str):
        yield textwrap.fill(
            printable(f"Remedy: {remedy}."),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    if verbose:
        for fact, value in step.data.items():
            if fact not in _NOT_SHOWN and value not in (None, [], {}):
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield paint("dim", f"{indent}{printable(fact)}: {printable(shown)}")
