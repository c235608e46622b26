"""The connections of one event loop of one process, or of all the threads of one process.

A PostgreSQL starts a process for each connection and permits a hundred by default, so there are only a
few: who finds none idle waits for one, within its time budget. A connection belongs to one caller at a
time. `PostgresClient` makes a pool for each place.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import psycopg

from layergate.layers.postgres.connection import Connection, LoopConnection, ThreadConnection
from layergate.layers.postgres.conninfo import attempts_async_of, attempts_of
from layergate.layers.postgres.errors import LEFT, PREPARED, ServerError
from layergate.layers.postgres.statements import Answer, Kind, Statement

__all__ = ["Pool"]

T = TypeVar("T")

_WHO: Final = Statement(b"", b"SELECT pg_backend_pid()::text::bytea")
# All rows are found by an index. A plan is kept as long as the connection, and would else be a scan of the
# table if that was small when the plan was made.
_SET: Final = Statement(
    b"",
    b"SELECT set_config('statement_timeout', $1, false),"
    b" set_config('default_transaction_isolation', 'read committed', false),"
    b" set_config('enable_seqscan', 'off', false)",
    (Kind.TEXT,),
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
        self._worked = ""  # the attempt that led to a connection the last time
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
            self._timeout,
            lambda connection, seconds: connection.exchange(statement, parameters, seconds),
        )

    async def script(self, sql: bytes, seconds: float) -> None:
        """Run several statements without parameters, in ``seconds``."""
        await self._with(seconds, lambda connection, left: connection.script(sql, left))

    async def _with(
        self, seconds: float, ask: Callable[[Connection, float], Coroutine[Any, Any, T]]
    ) -> T:
        """``seconds``: for all of it, but for the making of a connection."""
        self.calls += 1
        until = time.monotonic() + seconds
        await self._enter(seconds)
        try:
            connection = self._take()
            if connection is None:
                began = time.monotonic()
                connection = await self.connected()
                until += time.monotonic() - began
            try:
                answer = await ask(connection, until - time.monotonic())
            except ServerError as error:
                if error.state in LEFT:
                    connection.drop()
                    raise
                if error.state not in PREPARED or not connection.prepares:
                    self._give(connection)
                    raise
            except BaseException:
                connection.drop()
                raise
            else:
                self._give(connection)
                return answer
            # Another server process has answered: a pooler that was not recognized.
            connection.drop()
            self._told_pooled()
            connection = await self.connected()
            connection.prepares = False
            try:
                answer = await ask(connection, until - time.monotonic())
            except BaseException:
                connection.drop()
                raise
            self._give(connection)
            return answer
        finally:
            self._free.release()

    async def _enter(self, seconds: float) -> None:
        if not self._blocking:
            await self._free.acquire()
        elif not self._free.acquire(timeout=seconds):
            raise TimeoutError(f"no connection was free within {seconds:.3g} s")

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
        if self._blocking:
            attempts = attempts_of(self._conninfo)
        else:
            async with asyncio.timeout(self._connect_timeout):
                attempts = await attempts_async_of(self._conninfo)
        attempts.sort(key=lambda attempt: attempt != self._worked)
        failed: list[Exception] = []
        for number, attempt in enumerate(attempts):
            # A host that does not answer leaves time for the others.
            left = max(0.001, until - time.monotonic())
            try:
                connection = await self._connected_to(attempt, left / (len(attempts) - number))
            except (psycopg.OperationalError, ServerError, TimeoutError) as error:
                failed.append(error)
                continue
            self._worked = attempt
            return connection
        if len(failed) == 1:
            raise failed[0]
        raise psycopg.OperationalError("; ".join(map(str, failed)))

    async def _connected_to(self, conninfo: str, seconds: float) -> Connection:
        until = time.monotonic() + seconds
        connection: Connection
        if self._blocking:
            connection = ThreadConnection.connect(conninfo, seconds)
        else:
            connection = await LoopConnection.connect(conninfo, seconds)
        try:
            ((process,),) = (await connection.exchange(_WHO, (), until - time.monotonic())).rows
            # A pooler answers for itself when the connection is made, and gives any server process later.
            if process != b"%d" % connection.pgconn.backend_pid:
                connection.prepares, connection.pooled = False, True
                self._told_pooled()
            else:
                # What nobody waits for any more ends on the server, too.
                limit = b"%d" % max(1, round(2000 * self._timeout))
                await connection.exchange(_SET, (limit,), until - time.monotonic())
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
