"""One connection to a PostgreSQL, on an event loop or on a thread.

psycopg makes the connection, by all the rules of libpq: URLs, service files, passwords, TLS, several
hosts. The exchanges are made on libpq itself (`psycopg.pq`), because each needs a deadline that holds
also when the server stands still. On a cancellation psycopg's own connections first ask the server to
cancel the query, which takes seconds then.

A connection on which an exchange failed or was cancelled is of no more use: `Pool` drops it. A query that
still runs on the server ends by the session's ``statement_timeout``.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import pq

from layergate.layers.postgres.errors import ServerError, unconnected
from layergate.layers.postgres.statements import Answer, Row, Statement

__all__ = ["Connection", "LoopConnection", "ThreadConnection"]

_BINARY: Final = 1
_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)

Waits: TypeAlias = Generator[bool, None, Any]
"""Yields each time it has to wait for the socket: True for until it can be read or written, False for until
it can be read. Returns its result."""


class Connection:
    """What both worlds have in common. ``pgconn``: open, and not blocking.

    ``prepares``    statements are prepared. Not where several server processes stand behind the connection
                    (a pooler).
    ``pooled``      such a pooler was found.
    """

    def __init__(self, pgconn: Any) -> None:
        self.pgconn = pgconn
        self.prepares = True
        self.pooled = False
        self._prepared: set[bytes] = set()

    async def exchange(
        self, statement: Statement, parameters: Sequence[bytes], seconds: float
    ) -> Answer:
        """Run a statement. Raises ServerError, TimeoutError, and psycopg.OperationalError if the
        connection broke."""
        raise NotImplementedError

    async def script(self, sql: bytes, seconds: float) -> None:
        """Run several statements without parameters. Raises as `exchange` does."""
        raise NotImplementedError

    async def notified(self, channel: bytes, seconds: float) -> bool:
        """True once there is a notification on ``channel``; False after ``seconds``. Raises
        psycopg.OperationalError."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close it, without waiting for the server."""
        self.pgconn.finish()

    def interrupt(self) -> None:
        """Have whatever waits on it fail, be it on another thread."""
        try:
            line = socket.fromfd(self.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, psycopg.Error):  # it is closed
            return
        with line, contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    def broken(self) -> bool:
        """True if it cannot be used, as far as that can be told without asking: the server has closed it, or
        says something that nobody asked for, such as that it ends."""
        pgconn = self.pgconn
        idle = pgconn.transaction_status == pq.TransactionStatus.IDLE
        return pgconn.status != pq.ConnStatus.OK or not idle or _readable(pgconn.socket)

    # -- the protocol, without I/O -------------------------------------------------------------

    def _running(self, statement: Statement, parameters: Sequence[bytes]) -> Waits:
        pgconn, name = self.pgconn, statement.name
        if self.prepares and name:
            if name not in self._prepared:
                pgconn.send_prepare(name, statement.sql, statement.kinds)
                yield from self._answered()
                self._prepared.add(name)
            pgconn.send_query_prepared(name, parameters, statement.formats, _BINARY)
        else:
            pgconn.send_query_params(
                statement.sql, parameters, statement.kinds, statement.formats, _BINARY
            )
        return (yield from self._answered())

    def _scripted(self, sql: bytes) -> Waits:
        self.pgconn.send_query(sql)
        return (yield from self._answered())

    def _answered(self) -> Waits:
        """The answer to what was sent; the last one, if there are several."""
        pgconn = self.pgconn
        while pgconn.flush():
            yield True
            pgconn.consume_input()
        answer = Answer((), 0)
        failed: Exception | None = None
        while True:
            while pgconn.is_busy():
                yield False
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            if result.status in _GOOD:
                answer = _read(result)
            else:
                failed = failed or _error(result)
        if failed is not None:
            raise failed
        return answer

    def _heard(self, channel: bytes) -> bool:
        found = False
        while (one := self.pgconn.notifies()) is not None:
            found = found or one.relname == channel
        return found


def _read(result: Any) -> Answer:
    columns = range(result.nfields)
    rows: list[Row] = [
        tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)
    ]
    return Answer(rows, result.command_tuples or 0)


def _error(result: Any) -> Exception:
    def told(field: pq.DiagnosticField) -> str:
        return (result.error_field(field) or b"").decode("utf-8", "replace")

    # (Not the detail, and not the context: they quote what was written.)
    state = told(pq.DiagnosticField.SQLSTATE)
    if state:
        return ServerError(state, told(pq.DiagnosticField.MESSAGE_PRIMARY))
    # libpq itself has found that the connection is of no more use.
    message = result.error_message.decode("utf-8", "replace")
    return psycopg.OperationalError(" ".join(message.split()) or "the connection is lost")


class LoopConnection(Connection):
    """A connection of the running event loop."""

    @classmethod
    async def connect(cls, conninfo: str, seconds: float) -> LoopConnection:
        """Raises psycopg.OperationalError, TimeoutError."""
        try:
            async with asyncio.timeout(seconds):
                made = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        except TimeoutError:
            raise TimeoutError(f"not connected within {seconds:.3g} s") from None
        except psycopg.OperationalError as error:
            raise psycopg.OperationalError(unconnected(str(error))) from None
        connection = cls(made.pgconn)
        connection._made = made  # which would close it if it were collected
        return connection

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        self._made: object = None
        self._loop = asyncio.get_running_loop()

    async def exchange(
        self, statement: Statement, parameters: Sequence[bytes], seconds: float
    ) -> Answer:
        """See `Connection.exchange`."""
        answer: Answer = await self._within(self._running(statement, parameters), seconds)
        return answer

    async def script(self, sql: bytes, seconds: float) -> None:
        """See `Connection.script`."""
        await self._within(self._scripted(sql), seconds)

    async def notified(self, channel: bytes, seconds: float) -> bool:
        """See `Connection.notified`."""
        until = self._loop.time() + seconds
        while not self._heard(channel):
            left = until - self._loop.time()
            if left <= 0 or not await self._ready(False, left):
                return False
            self.pgconn.consume_input()
        return True

    async def _within(self, waits: Waits, seconds: float) -> Any:
        until = self._loop.time() + seconds
        try:
            while True:
                write = next(waits)
                if not await self._ready(write, until - self._loop.time()):
                    raise TimeoutError(f"no answer within {seconds:.3g} s")
        except StopIteration as done:
            return done.value

    async def _ready(self, write: bool, seconds: float) -> bool:
        loop, line = self._loop, self.pgconn.socket
        ready: asyncio.Future[bool] = loop.create_future()

        def tell(value: bool) -> None:
            if not ready.done():
                ready.set_result(value)

        timer = loop.call_later(max(0.0, seconds), tell, False)
        loop.add_reader(line, tell, True)
        if write:
            loop.add_writer(line, tell, True)
        try:
            return await ready
        finally:
            timer.cancel()
            if not loop.is_closed():
                loop.remove_reader(line)
                if write:
                    loop.remove_writer(line)


class ThreadConnection(Connection):
    """A connection whose methods block."""

    @classmethod
    def connect(cls, conninfo: str, seconds: float) -> ThreadConnection:
        """Raises psycopg.OperationalError, TimeoutError."""
        until = time.monotonic() + seconds
        pgconn: Any = pq.PGconn.connect_start(conninfo.encode())
        try:
            while True:
                if pgconn.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError(_told(pgconn))
                polled = pgconn.connect_poll()
                if polled == pq.PollingStatus.OK:
                    break
                if polled == pq.PollingStatus.FAILED:
                    raise psycopg.OperationalError(_told(pgconn))
                write = polled == pq.PollingStatus.WRITING
                if not _ready(pgconn.socket, not write, write, until - time.monotonic()):
                    raise TimeoutError(f"not connected within {seconds:.3g} s")
        except BaseException:
            pgconn.finish()
            raise
        pgconn.nonblocking = 1
        return cls(pgconn)

    async def exchange(
        self, statement: Statement, parameters: Sequence[bytes], seconds: float
    ) -> Answer:
        """See `Connection.exchange`. Blocks."""
        answer: Answer = self._within(self._running(statement, parameters), seconds)
        return answer

    async def script(self, sql: bytes, seconds: float) -> None:
        """See `Connection.script`. Blocks."""
        self._within(self._scripted(sql), seconds)

    async def notified(self, channel: bytes, seconds: float) -> bool:
        """See `Connection.notified`. Blocks."""
        until = time.monotonic() + seconds
        while not self._heard(channel):
            left = until - time.monotonic()
            if left <= 0 or not _ready(self.pgconn.socket, True, False, left):
                return False
            self.pgconn.consume_input()
        return True

    def _within(self, waits: Waits, seconds: float) -> Any:
        until = time.monotonic() + seconds
        try:
            while True:
                write = next(waits)
                if not _ready(self.pgconn.socket, True, write, until - time.monotonic()):
                    raise TimeoutError(f"no answer within {seconds:.3g} s")
        except StopIteration as done:
            return done.value


def _told(pgconn: Any) -> str:
    return unconnected(str(pgconn.get_error_message()))


def _readable(line: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([line], [], [], 0)[0])
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(0))


def _ready(line: int, read: bool, write: bool, seconds: float) -> bool:
    """Looked up at each call: gevent replaces what is in `select`."""
    if seconds <= 0:
        return False
    if not hasattr(select, "poll"):
        found = select.select([line] if read else [], [line] if write else [], [], seconds)
        return bool(found[0] or found[1])
    poll = select.poll()
    poll.register(line, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
    return bool(poll.poll(max(1, round(seconds * 1000))))
