"""Every row: one file per section of an RFC, one per guarantee of our own, and one for rules.

A file is imported because it is in this folder, so none can be left out. In a row, a section without
an RFC is one of RFC 9111. G1 to G11 are the guarantees, where we refuse what an RFC would allow.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from tests.scenarios.dsl import SCENARIOS

__all__ = ["FILES", "SCENARIOS"]

FILES: list[tuple[ModuleType, int]] = []
"""Each file, and how many rows are in it."""

for _name in sorted(module.name for module in iter_modules(__path__)):
    _before = len(SCENARIOS)
    _module = import_module(f"{__name__}.{_name}")
    FILES.append((_module, len(SCENARIOS) - _before))
