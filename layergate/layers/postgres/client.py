"""One PostgreSQL as this process speaks with it: in either world, with few connections.

`PostgresClient` runs statements for the ports (`blobs`, `cells`), and makes the tables when it finds that
there are none. Nothing is connected before the first statement.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from layergate.core.ports import Runtime
from layergate.errors import LayerRefused
from layergate.layers.postgres.connection import Connection
from layergate.layers.postgres.errors import MISSING, PASSING, ServerError, ported
from layergate.layers.postgres.pool import Pool
from layergate.layers.postgres.schema import Tables
from layergate.layers.postgres.statements import Answer, Statement
from layergate.remote.places import PerPlace

__all__ = ["PostgresClient"]

_logger = logging.getLogger("layergate")

_AGAIN: Final = 5.0  # seconds after which a user without rights tries again to make the tables


class PostgresClient:
    """``conninfo``         for libpq.
    ``name``             of the layer, for errors.
    ``most``             connections of one event loop, or of all threads, of a process.
    ``timeout``          seconds that a statement may take.
    ``connect_timeout``  seconds for making one connection, beyond what a statement may take.
    """

    def __init__(
        self,
        conninfo: str,
        tables: Tables,
        *,
        name: str,
        most: int,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self.conninfo: Final = conninfo
        self.tables: Final = tables
        self.name: Final = name
        self.timeout: Final = timeout
        self.connect_timeout: Final = connect_timeout
        self._most = most
        self._pools: PerPlace[Pool] = PerPlace(
            name, self._pool, close=Pool.close, abandon=Pool.close
        )
        self.pooled = False
        self._unmade = (float("-inf"), "")  # until when not to try to make the tables, and why

    def bind(self, runtime: Runtime) -> None:
        """Take on the runtime. Nothing starts."""
        self._pools.bind(runtime)

    @property
    def runtime(self) -> Runtime:
        """Raises LayerUnavailable before `bind`."""
        return self._pools.runtime

    def _pool(self) -> Pool:
        return Pool(
            self.conninfo,
            most=self._most,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
            blocking=self.runtime.blocking,
            pooled=self._is_pooled,
        )

    def _is_pooled(self) -> None:
        if not self.pooled:
            self.pooled = True
            _logger.warning(
                "layer %r reaches PostgreSQL through a pooler: it looks for purges at intervals, because a"
                " pooler passes on no notifications; name the server itself to be told of them",
                self.name,
            )

    async def run(self, statement: Statement, parameters: Sequence[bytes] = ()) -> Answer:
        """Run one statement. If the tables are not there, they are made first.

        Raises LayerRefused, LayerTimeout, ServerError for a fault of the server, and what psycopg raises for
        a connection that cannot be made or breaks.
        """
        pool = self._pools.here()
        try:
            return await pool.run(statement, parameters)
        except ServerError as error:
            if error.state not in MISSING:
                self._reraise(error)
        await self._make(pool)
        try:
            return await pool.run(statement, parameters)
        except ServerError as error:
            self._reraise(error)

    def _reraise(self, error: ServerError) -> NoReturn:
        told = ported(self.name, error)
        if told is error:
            raise error
        raise told from error

    async def _make(self, pool: Pool) -> None:
        # Who may not make them is not asked to try again with each call.
        now = self.runtime.monotonic()
        until, why = self._unmade
        if now < until:
            raise LayerRefused(self.name, why)
        try:
            ((schema, *_),) = (await pool.run(self.tables.look)).rows
            making = self.tables.make(with_schema=schema != b"1")
            await pool.script(making, max(self.timeout, self.connect_timeout))
        except ServerError as error:
            if error.state in PASSING:
                self._reraise(error)
            why = (
                f"the tables of layer {self.name!r} are not there, and cannot be made: {error};"
                " run: layergate init URL, as a user who may create them"
            )
            self._unmade = now + _AGAIN, why
            raise LayerRefused(self.name, why) from error
        _logger.info("layer %r: made the tables in schema %s", self.name, self.tables.schema)

    async def connected(self) -> Connection:
        """A connection that is not one of the pool's, to listen on. Raises as `run` does."""
        try:
            return await self._pools.here().connected()
        except ServerError as error:
            self._reraise(error)

    async def close(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). A later statement connects
        anew."""
        await self._pools.close()

    def stats(self) -> Mapping[str, int | float]:
        """``connections``: idle; ``connects``; ``round_trips``."""
        pools = self._pools.all()
        return {
            "connections": sum(pool.count for pool in pools),
            "connects": sum(pool.connects for pool in pools),
            "round_trips": sum(pool.calls for pool in pools),
        }
