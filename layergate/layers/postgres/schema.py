"""The tables, and how they are made.

    entries  name | expires | data     unlogged: written without the write-ahead log, and empty after a
                                       crash of the server. A lost entry is a miss.
    cells    name | tag | data         logged: the log of purges, and the leases.

Names sort by their bytes (collation "C"), so that all of a namespace lie side by side. ``data`` is not
compressed again. The pages of ``cells`` are half empty, so that an update finds room beside the old row and
touches no index.
"""

from __future__ import annotations

import re
from typing import Final

from layergate.errors import ConfigError
from layergate.layers.postgres.statements import Statement

__all__ = ["Tables", "check_schema"]

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,50}")
_LOCK: Final = 0x6C61796572676174  # of the transaction that makes the tables: "layergat"


def check_schema(schema: object) -> str:
    """Raises ConfigError for what is no name of a schema."""
    if not isinstance(schema, str) or _NAME.fullmatch(schema) is None:
        raise ConfigError(
            "schema must be 1 to 51 small letters, digits or _, and begin with none of the digits, got"
            f" {schema!r}"
        )
    return schema


def _table(schema: str, name: str) -> str:
    return (
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE n.nspname = '{schema}' AND c.relname = '{name}'"
    )


def _there(source: str) -> str:
    return f"(EXISTS (SELECT {source}))::int::text::bytea"


class Tables:
    """Those in one schema."""

    def __init__(self, schema: str) -> None:
        self.schema: Final = schema
        self.entries: Final = f'"{schema}".entries'
        self.cells: Final = f'"{schema}".cells'
        named = f"FROM pg_namespace WHERE nspname = '{schema}'"
        # (Of the catalogs: to look for a table by its name raises an error where the user may not use the
        # schema.)
        self.look: Final = Statement(
            b"",
            f"SELECT {_there(named)}, {_there(_table(schema, 'entries'))},"
            f" {_there(_table(schema, 'cells'))}".encode(),
        )
        """One for each of schema, entries, and cells: b"1" if it is there."""

    def told(self, table: str) -> str:
        """A query for what `Administration.examine` has to know of a table that is there: whether it is logged,
        and which rights the user lacks."""
        lacks = ", ".join(
            f"CASE WHEN NOT has_table_privilege(c.oid, '{right}') THEN '{right}' END"
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        )
        return (
            f"SELECT c.relpersistence = 'p', concat_ws(', ', {lacks}),"
            f" has_schema_privilege(n.oid, 'USAGE') {_table(self.schema, table)}"
        )

    def make(self, *, with_schema: bool) -> bytes:
        """One transaction. Several processes may run it at once: they wait for each other."""
        schema = f'CREATE SCHEMA IF NOT EXISTS "{self.schema}";' if with_schema else ""
        return f"""
            BEGIN;
            SELECT pg_advisory_xact_lock({_LOCK});
            {schema}
            CREATE UNLOGGED TABLE IF NOT EXISTS {self.entries} (
                name text COLLATE "C" PRIMARY KEY,
                expires timestamptz NOT NULL,
                data bytea NOT NULL
            );
            ALTER TABLE {self.entries} ALTER COLUMN data SET STORAGE EXTERNAL;
            CREATE INDEX IF NOT EXISTS entries_expires ON {self.entries} (expires);
            CREATE TABLE IF NOT EXISTS {self.cells} (
                name text COLLATE "C" PRIMARY KEY,
                tag bytea NOT NULL,
                data bytea NOT NULL
            ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
                    autovacuum_vacuum_threshold = 500);
            COMMIT
        """.encode()
