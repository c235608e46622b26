"""The connections of one event loop of one process, or of all the threads of one process.

A PostgreSQL starts a process for each connection and permits a hundred by default, so there are only a
few: who finds none idle waits for one, within its time budget. A connection belongs to one caller at a
time. `PostgresClient` makes a pool for each place.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from layergate.layers.postgres.connection import Connection, LoopConnection, ThreadConnection
from layergate.layers.postgres.errors import PREPARED, ServerError
from layergate.layers.postgres.statements import Answer, Kind, Statement

__all__ = ["Pool"]

T = TypeVar("T")

_logger = logging.getLogger("layergate")

_WHO: Final = Statement(b"", b"SELECT pg_backend_pid()::text::bytea")
# (pg_is_in_recovery: a connection that was made without target_session_attrs may lead to a standby.)
_SET: Final = Statement(
    b"",
    b"SELECT (SELECT system_identifier FROM pg_control_system())::text::bytea,"
    b" set_config('statement_timeout', $1, false),"
    b" set_config('default_transaction_isolation', 'read committed', false),"
    b" CASE WHEN current_setting('synchronous_commit') = 'off'"
    b" THEN set_config('synchronous_commit', 'on', false) END",
    (Kind.TEXT,),
)
_IDENTIFIER: Final = Statement(
    b"", b"SELECT (SELECT system_identifier FROM pg_control_system())::text::bytea"
)


class Pool:
    """``conninfo``: for libpq. ``most``: connections at a time. ``timeout``, ``connect_timeout``: seconds for
    a statement, and for making a connection. ``pooled``: called when a pooler was found."""

    def __init__(
        self,
        conninfo: str,
        *,
        most: int,
        timeout: float,
        connect_timeout: float,
        blocking: bool,
        pooled: Callable[[], object],
    ) -> None:
        self._conninfo = conninfo
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._blocking = blocking
        self._told_pooled = pooled
        self._idle: list[Connection] = []
        self._done = False
        self._free: Any = (
            threading.BoundedSemaphore(most) if blocking else asyncio.BoundedSemaphore(most)
        )
        self.connects = 0
        self.calls = 0

    @property
    def count(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    async def run(self, statement: Statement, parameters: Sequence[bytes] = ()) -> Answer:
        """Run one statement. A connection that broke while it was idle is replaced. Raises as
        `Connection.exchange` and `connected` do."""
        return await self._with(
            lambda connection: connection.exchange(statement, parameters, self._timeout)
        )

    async def script(self, sql: bytes, seconds: float) -> None:
        """Run several statements without parameters, in ``seconds``."""
        await self._with(lambda connection: connection.script(sql, seconds))

    async def _with(self, ask: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        self.calls += 1
        await self._enter()
        try:
            connection = self._take() or await self.connected()
            again = False
            try:
                answer = await ask(connection)
            except ServerError as error:
                if error.state not in PREPARED or not connection.prepares:
                    self._give(connection)
                    raise
                again = True
            except BaseException:
                connection.drop()
                raise
            if again:  # another server process answers: a pooler that was not recognized
                connection.drop()
                self._told_pooled()
                connection = await self.connected()
                connection.prepares = False
                try:
                    answer = await ask(connection)
                except BaseException:
                    connection.drop()
                    raise
            self._give(connection)
            return answer
        finally:
            self._free.release()

    async def _enter(self) -> None:
        if not self._blocking:
            await self._free.acquire()
        elif not self._free.acquire(timeout=self._timeout):
            raise TimeoutError(f"no connection was free within {self._timeout:.3g} s")

    def _take(self) -> Connection | None:
        """An idle connection; None if there is none."""
        while self._idle:
            try:
                connection = (
                    self._idle.pop()
                )  # the one used last: the server may have closed others
            except IndexError:  # another thread was quicker
                break
            if not connection.broken():
                return connection
            connection.drop()
        return None

    def _give(self, connection: Connection) -> None:
        if self._done:
            connection.drop()
        else:
            self._idle.append(connection)

    async def connected(self) -> Connection:
        """A new connection, with what a session needs. Raises psycopg.OperationalError, TimeoutError,
        ServerError."""
        self.connects += 1
        until = time.monotonic() + self._connect_timeout
        connection: Connection
        if self._blocking:
            connection = ThreadConnection.connect(self._conninfo, self._connect_timeout)
        else:
            connection = await LoopConnection.connect(self._conninfo, self._connect_timeout)
        try:
            left = max(0.001, until - time.monotonic())
            ((process,),) = (await connection.exchange(_WHO, (), left)).rows
            # A pooler answers for itself when the connection is made, and gives any server process later.
            pooler = process != b"%d" % connection.pgconn.backend_pid
            left = max(0.001, until - time.monotonic())
            if pooler:
                connection.prepares, connection.pooled = False, True
                self._told_pooled()
                rows = (await connection.exchange(_IDENTIFIER, (), left)).rows
            else:
                # What nobody waits for any more ends on the server, too.
                limit = b"%d" % max(1, round(2000 * self._timeout))
                rows = (await connection.exchange(_SET, (limit,), left)).rows
            connection.identifier = rows[0][0] or b""
        except BaseException:
            connection.drop()
            raise
        return connection

    def close(self) -> None:
        """Close what is idle, and what is given back later."""
        self._done = True
        while self._idle:
            try:
                self._idle.pop().drop()
            except IndexError:
                return
