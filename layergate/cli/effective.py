"""The effective configuration as TOML, with the origin of each value in a comment, or as data.

The TOML can be loaded again. Hidden values, and defaults of None, are comments in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from layergate.cli.text import printable
from layergate.gateway.settings import Entry, Settings

__all__ = ["as_data", "as_toml"]

_COMMENTS: Final = 40  # the column in which they begin, if there is room


def as_toml(settings: Settings) -> str:
    """All settings, also those with their defaults."""
    lines = list(_lines(settings.entries))
    for name, tables in (("upstreams", settings.upstreams), ("rules", settings.rules)):
        for table in tables:
            lines += ["", f"[[{name}]]", *_lines(table)]
    return "\n".join(lines)


def as_data(settings: Settings) -> dict[str, Any]:
    """The same as data for `json`: by name, ``value`` (infinity as a string) and ``from``."""
    return {
        "options": _data(settings.entries),
        "upstreams": [_data(table) for table in settings.upstreams],
        "rules": [_data(table) for table in settings.rules],
    }


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.value is None and entry.origin != "default":
            text = f'{entry.name} = ""'
        elif entry.value is None:
            text = f"# {entry.name} = none"
        elif entry.hidden:
            text = f"# {entry.name} = {printable(str(entry.value))}"
        else:
            text = f"{entry.name} = {_toml(entry.value)}"
        note = f"{entry.origin}, not shown in full" if entry.hidden else entry.origin
        yield f"{text.ljust(_COMMENTS - 2)}  # {printable(note)}"


def _toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are valid in TOML, which has one more. Control characters must not reach a terminal.
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return repr(value)


def _data(entries: Iterable[Entry]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entries:
        value = entry.value
        found[entry.name] = {"value": _finite(value), "from": entry.origin}
        if entry.hidden:
            found[entry.name]["hidden"] = True
    return found


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value
