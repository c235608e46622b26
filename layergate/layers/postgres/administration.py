"""What ``layergate init`` and ``layergate check`` ask of a PostgreSQL. Blocks, on connections of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import psycopg

from layergate.errors import ConfigError, LayerError
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.errors import unconnected
from layergate.layers.postgres.schema import Tables

__all__ = ["Administration"]

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_ANSWERS: Final = 10  # seconds
# Settings of the server with which it may forget what it has acknowledged.
_SAFE: Final = ("fsync", "full_page_writes")


class Administration:
    """``client``: says where the server is. Its connections are not used."""

    def __init__(self, client: PostgresClient) -> None:
        self._name = client.name
        self._tables: Tables = client.tables
        self._conninfo = client.conninfo

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_Connection]:
        try:
            # (prepare_threshold: a pooler may be in between.)
            connection = psycopg.connect(
                self._conninfo, autocommit=True, connect_timeout=_ANSWERS, prepare_threshold=None
            )
        except psycopg.Error as error:
            told = unconnected(str(error))
            raise LayerError(self._name, f"cannot connect: {told}") from None
        with connection:
            try:
                connection.execute(f"SET statement_timeout = {_ANSWERS * 1000}")
                yield connection
            except psycopg.Error as error:
                raise LayerError(self._name, " ".join(str(error).split())) from error

    def _present(self, connection: _Connection) -> tuple[bool, ...]:
        ((*found,),) = connection.execute(self._tables.look.sql).fetchall()
        return tuple(one == b"1" for one in found)

    def setup(self) -> Sequence[str]:
        """See `SystemLayer.setup`."""
        with self._connected() as connection:
            before = self._present(connection)
            if all(before):
                return ()
            try:
                connection.execute(self._tables.make(with_schema=not before[0]))
            except psycopg.errors.InsufficientPrivilege as error:
                user = connection.info.user
                raise ConfigError(
                    f"user {user!r} cannot make the tables: {error.diag.message_primary};"
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
        with self._connected() as connection:
            told = [*self._server(connection)]
            schema, entries, cells = self._present(connection)
            if not (entries and cells):
                missing = (
                    "schema" if not schema else "table entries" if not entries else "table cells"
                )
                return [
                    *told,
                    f"The {missing} is missing in schema {self._tables.schema}: run layergate init URL.",
                ]
            return [*told, *self._rights(connection)]

    def _server(self, connection: _Connection) -> Iterator[str]:
        ((process, standby),) = connection.execute(
            "SELECT pg_backend_pid(), pg_is_in_recovery()"
        ).fetchall()
        if standby:
            yield "The server is a standby: name the primary."
        else:
            try:
                connection.execute(
                    "SELECT pg_walfile_name(pg_current_wal_lsn()) FROM pg_control_system()"
                )
            except psycopg.Error as error:
                yield (
                    "The server does not tell its identifier and its timeline"
                    f" ({error.diag.message_primary}): it cannot coordinate."
                )
        if process != connection.info.backend_pid:
            yield (
                "The URL leads to a pooler, which passes on no notifications: processes look for purges at"
                " intervals; name the server itself to have them told."
            )
        for name in _SAFE:
            ((value,),) = connection.execute(f"SHOW {name}").fetchall()
            if value == "off":
                yield f"{name} is off: a crash of the machine may lose purges that were final."

    def _rights(self, connection: _Connection) -> Iterator[str]:
        for table, name in (("entries", self._tables.entries), ("cells", self._tables.cells)):
            ((logged, lacks, use),) = connection.execute(self._tables.told(table)).fetchall()
            user = connection.info.user
            if not use:
                yield (
                    f'User "{user}" may not use the schema: run GRANT USAGE ON SCHEMA'
                    f' {self._tables.schema} TO "{user}".'
                )
                return
            if lacks:
                yield f'User "{user}" lacks rights: run GRANT {lacks} ON {name} TO "{user}".'
            if table == "cells" and not logged:
                yield (
                    f"Table {name} is unlogged: a crash of the server loses purges; run ALTER TABLE"
                    f" {name} SET LOGGED."
                )
