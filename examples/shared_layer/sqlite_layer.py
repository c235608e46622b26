"""A shared layer for the processes of one host, in a SQLite file: all that the author of a layer writes.

Only `Blobs` and `Cells` are the author's: named bytes with a lifetime, and named bytes that are changed by
compare-and-set. LayerGate makes entries, final purges and leases of them. `tests/shared/test_example.py`
runs the conformance suites over this file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Unpack

from layergate.shared.api import Cell, CellsLayer, Joining, Limits, SystemOptions

TABLES = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS blobs (name TEXT PRIMARY KEY, data BLOB, until REAL);
    CREATE TABLE IF NOT EXISTS cells (name TEXT PRIMARY KEY, data BLOB, tag BLOB);
"""


class SqliteSystem:
    """`Blobs` and `Cells`. SQLite locks the file for each statement, so a statement is a transaction."""

    limits = Limits(largest=500_000_000)

    def __init__(self, path: Path, namespace: str) -> None:
        self._path, self._namespace = path, namespace
        self._pid, self._lock = os.getpid(), Lock()
        self._file: sqlite3.Connection | None = None

    def _run(self, statement: str, *values: Any) -> tuple[list[Any], int]:
        """The rows that it finds, and the number of rows that it changes."""
        if self._pid != os.getpid():  # in the child of a fork, which must not use the parent's file
            self._pid, self._lock, self._file = os.getpid(), Lock(), None
        with self._lock:  # SQLite's file must not be used in one thread and closed in another
            if self._file is None:
                self._file = sqlite3.connect(
                    self._path, isolation_level=None, timeout=1.0, check_same_thread=False
                )
                self._file.executescript(TABLES)
            cursor = self._file.execute(statement, values)
            return cursor.fetchall(), cursor.rowcount

    def close(self) -> None:
        if self._pid == os.getpid():
            with self._lock:
                if self._file is not None:
                    self._file.close()
                self._file = None

    # -- Blobs
    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        marks = ",".join("?" * len(names))
        query = f"SELECT name, data FROM blobs WHERE until > ? AND name IN ({marks})"  # noqa: S608
        found: dict[str, bytes] = dict(self._run(query, time.time(), *names)[0])
        return [found.get(name) for name in names]

    def set(self, name: str, data: bytes, seconds: float) -> None:
        self._run("REPLACE INTO blobs VALUES (?, ?, ?)", name, data, time.time() + seconds)

    def delete(self, name: str) -> bool:
        return self._run("DELETE FROM blobs WHERE name = ?", name)[1] > 0

    def clear(self) -> None:
        self._run("DELETE FROM blobs WHERE name GLOB ?", f"{self._namespace}:*")

    # -- Cells
    def load(self, name: str) -> Cell | None:
        rows, _ = self._run("SELECT data, tag FROM cells WHERE name = ?", name)
        return Cell(*rows[0]) if rows else None

    def swap(self, name: str, tag: Any, data: bytes) -> bytes | None:
        new = os.urandom(16)  # so a tag never repeats
        if tag is None:
            _, done = self._run("INSERT OR IGNORE INTO cells VALUES (?, ?, ?)", name, data, new)
        else:
            change = "UPDATE cells SET data = ?, tag = ? WHERE name = ? AND tag = ?"
            _, done = self._run(change, data, new, name, tag)
        return new if done else None

    def put(self, name: str, data: bytes) -> None:
        self._run("REPLACE INTO cells VALUES (?, ?, ?)", name, data, os.urandom(16))


class SqliteLayer(CellsLayer):
    """``path``: of the file. The other options are those of `SystemLayer`."""

    look_every = 0.05  # SQLite does not tell of changes, and looking costs microseconds

    def __init__(self, path: Path, **options: Unpack[SystemOptions]) -> None:
        options.setdefault("name", "sqlite")
        super().__init__(**options)
        self.path = path

    def connect(self, joining: Joining) -> tuple[SqliteSystem, SqliteSystem]:  # noqa: ARG002
        self.system = SqliteSystem(self.path, self.namespace)
        return self.system, self.system

    async def aclose(self) -> None:
        self.system.close()
