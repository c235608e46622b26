"""Every row: one file per section of an RFC, one per guarantee of our own, and one for rules.

A file is imported because it is in this folder, so none can be left out. In a row, a section without
an RFC is one of RFC 9111. G1 to G11 are the guarantees, where we refuse what an RFC would allow.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from tests.scenarios.dsl import SCENARIOS
from tests.scenarios.model import Scenario

__all__ = ["FILES", "SCENARIOS", "File"]


class File(NamedTuple):
    """``title``: the first line of its docstring."""

    name: str
    title: str
    scenarios: list[Scenario]


FILES: list[File] = []

for _name in sorted(module.name for module in iter_modules(__path__)):
    _before = len(SCENARIOS)
    _module = import_module(f"{__name__}.{_name}")
    FILES.append(File(_name, (_module.__doc__ or "").partition("\n")[0], SCENARIOS[_before:]))
