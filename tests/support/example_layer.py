"""The example of a shared layer, as a module; and its parts, for processes of their own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from layergate.core.events import Counters
from layergate.runtime.loop import LoopRuntime
from layergate.shared.guard import Guard
from layergate.shared.ledger import CellsJournal, CellsLeaseStore

__all__ = ["SqliteLayer", "SqliteSystem", "cells_of", "journal_of", "leases_of"]

_FILE = Path(__file__).parents[2] / "examples" / "shared_layer" / "sqlite_layer.py"


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("sqlite_layer", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sqlite_layer"] = module
    spec.loader.exec_module(module)
    return module


_module = _loaded()
SqliteLayer: Any = _module.SqliteLayer
SqliteSystem: Any = _module.SqliteSystem


def cells_of(path: str) -> Any:
    return SqliteSystem(path, "test")


def _guard(runtime: Any) -> Guard:
    return Guard(runtime, Counters(), name="sqlite", timeout=5.0, connect_timeout=1.0)


def journal_of(path: str) -> CellsJournal:
    runtime = LoopRuntime()
    return CellsJournal(
        cells_of(path),
        _guard(runtime).call,
        runtime,
        prefix="test:j",
        term=0.6,
        identity=path,
        look_every=SqliteLayer.look_every,
    )


def leases_of(path: str) -> CellsLeaseStore:
    runtime = LoopRuntime()
    return CellsLeaseStore(cells_of(path), _guard(runtime).call, runtime, prefix="test:c")
