"""What ``layergate init`` and ``layergate check`` ask of a PostgreSQL. Blocks, on connections of its own."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from layergate.errors import ConfigError, LayerError
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.schema import Tables

__all__ = ["Administration"]

_ANSWERS = 10.0  # seconds


class Administration:
    """``client``: says where the server is. Its connections are not used."""

    def __init__(self, client: PostgresClient) -> None:
        self._name = client.name
        self._tables: Tables = client.tables
        self._conninfo = client.conninfo

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)
            connection.execute(f"SET statement_timeout = {round(_ANSWERS * 1000)}")
        except psycopg.Error as error:
            raise LayerError(self._name, f"cannot connect: {str(error).strip()}") from error
        return connection

    def _present(self, connection: psycopg.Connection[tuple[object, ...]]) -> tuple[bool, ...]:
        ((*found,),) = connection.execute(self._tables.look.sql).fetchall()
        return tuple(one == b"1" for one in found)

    def setup(self) -> Sequence[str]:
        """See `SystemLayer.setup`."""
        with self._connect() as connection:
            before = self._present(connection)
            if all(before):
                return ()
            try:
                connection.execute(self._tables.make(with_schema=not before[0]))
            except psycopg.Error as error:
                user = connection.info.user
                raise ConfigError(
                    f"user {user!r} cannot make the tables: {error.diag.message_primary or error};"
                    f" as an administrator, run: CREATE SCHEMA {self._tables.schema}"
                    f' AUTHORIZATION "{user}"'
                ) from error
            after = self._present(connection)
        names = (
            f"schema {self._tables.schema}",
            f"table {self._tables.entries}",
            f"table {self._tables.cells}",
        )
        return [
            f"Made the {name}."
            for name, was, now in zip(names, before, after, strict=True)
            if now and not was
        ]

    def examine(self) -> Sequence[str]:
        """See `SystemLayer.examine`."""
        with self._connect() as connection:
            schema, entries, cells = self._present(connection)
            if not (entries and cells):
                missing = (
                    "schema" if not schema else "table entries" if not entries else "table cells"
                )
                return [
                    f"The {missing} is missing in schema {self._tables.schema}: run layergate init URL."
                ]
            ((allowed, user, standby),) = connection.execute(self._tables.rights.sql).fetchall()
            told = []
            if allowed != b"1" and isinstance(user, bytes):
                told.append(
                    f"User {user.decode()} may not read and write the tables: run GRANT USAGE ON SCHEMA"
                    f" {self._tables.schema} TO it, and GRANT SELECT, INSERT, UPDATE, DELETE ON"
                    f" {self._tables.entries}, {self._tables.cells} TO it."
                )
            if standby == b"1":
                told.append("The server is a standby: name the primary.")
            return told
