"""The log of purges and the leases in a PostgreSQL: the port `Cells`, with epochs and notifications.

Each operation is one statement, and therefore one transaction. A write is durable when it returns
(``synchronous_commit`` is never off), and a standby cannot answer a read: it has no position of a
write-ahead log of its own, so `load_at_epoch` and `load` fail there.

The *epoch* is the identifier of the cluster of data and its timeline. A standby that takes over begins a new
timeline. So does a server that is restored to a point in time. The timeline is taken from the position in the
write-ahead log, because the control file tells the new one only after the next checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from hashlib import blake2b
from typing import Final

from layergate.errors import LayerError, LayerRefused
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.errors import CONFLICTS, ServerError
from layergate.layers.postgres.listening import Listening
from layergate.layers.postgres.statements import Answer, Kind, Statement
from layergate.shared.ports import Cell, Limits

__all__ = ["PostgresCells"]

_TAG: Final = 16  # bytes
_LOOK: Final = 0.02  # seconds between two looks where notifications do not come through
# An error on a standby. (pg_is_in_recovery would be an answer that has to be looked at.)
_EPOCH: Final = (
    "(SELECT system_identifier FROM pg_control_system())::text"
    " || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
)


class PostgresCells:
    """`WaitableCells`, `EpochLoadingCells` and `RemovableCells`. ``told``: the cells of which processes are told
    when they change."""

    limits: Final = Limits(largest=1024 * 1024)

    def __init__(self, client: PostgresClient, told: frozenset[str]) -> None:
        self._client = client
        self._told = told
        self._listening = Listening(client)
        cells = client.tables.cells
        self._load = Statement.of(
            "load",
            f"SELECT data, tag, epoch FROM (SELECT ({_EPOCH})::bytea AS epoch) AS here"  # noqa: S608
            f" LEFT JOIN {cells} ON name = $1",
            Kind.TEXT,
        )
        self._epoch = Statement.of("epoch", f"SELECT ({_EPOCH})::bytea")
        self._create = Statement.of(
            "create",
            f"INSERT INTO {cells} (name, data, tag) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",  # noqa: S608
            Kind.TEXT,
            Kind.BYTES,
            Kind.BYTES,
        )
        self._swap = Statement.of(
            "swap",
            f"UPDATE {cells} SET data = $2, tag = $3 WHERE name = $1 AND tag = $4",  # noqa: S608
            Kind.TEXT,
            Kind.BYTES,
            Kind.BYTES,
            Kind.BYTES,
        )
        # (Notifying is worth it only where somebody listens: it makes commits wait for each other.)
        self._swap_and_tell = Statement.of(
            "swap_and_tell",
            f"WITH done AS (UPDATE {cells} SET data = $2, tag = $3 WHERE name = $1 AND tag = $4"  # noqa: S608
            " RETURNING 1) SELECT pg_notify($5, '') FROM done",
            Kind.TEXT,
            Kind.BYTES,
            Kind.BYTES,
            Kind.BYTES,
            Kind.TEXT,
        )
        self._put = Statement.of(
            "put",
            f"INSERT INTO {cells} (name, data, tag) VALUES ($1, $2, $3)"  # noqa: S608
            " ON CONFLICT (name) DO UPDATE SET data = excluded.data, tag = excluded.tag",
            Kind.TEXT,
            Kind.BYTES,
            Kind.BYTES,
        )
        self._remove = Statement.of(
            "remove",
            f"DELETE FROM {cells} WHERE name = $1",  # noqa: S608
            Kind.TEXT,
        )

    async def load(self, name: str) -> Cell | None:
        """See `Cells.load`."""
        return (await self.load_at_epoch(name))[0]

    async def load_at_epoch(self, name: str) -> tuple[Cell | None, bytes]:
        """See `EpochLoadingCells.load_at_epoch`. One statement: cell and epoch are of one server, at one time."""
        data, tag, epoch = (await self._client.run(self._load, [name.encode()])).rows[0]
        if epoch is None:
            raise LayerRefused(self._client.name, "the server does not tell its timeline")
        return (None if data is None or tag is None else Cell(data, tag)), epoch

    async def epoch(self) -> bytes:
        """See `EpochCells.epoch`."""
        ((epoch,),) = (await self._client.run(self._epoch)).rows
        if epoch is None:
            raise LayerRefused(self._client.name, "the server does not tell its timeline")
        return epoch

    async def swap(self, name: str, tag: Hashable | None, data: bytes) -> bytes | None:
        """See `Cells.swap`. A tag is random."""
        new = os.urandom(_TAG)
        named = [name.encode(), data, new]
        try:
            if tag is None:
                done = (await self._client.run(self._create, named)).changed > 0
            elif not isinstance(tag, bytes):
                return None
            elif name in self._told:
                parameters = [*named, tag, channel(name)]
                done = bool((await self._client.run(self._swap_and_tell, parameters)).rows)
            else:
                done = (await self._client.run(self._swap, [*named, tag])).changed > 0
        except LayerError as error:
            cause = error.__cause__
            if isinstance(cause, ServerError) and cause.state in CONFLICTS:
                return None
            raise
        except ServerError as error:
            if error.state in CONFLICTS:
                return None
            raise
        return new if done else None

    async def put(self, name: str, data: bytes) -> Answer:
        """See `Cells.put`."""
        return await self._client.run(self._put, [name.encode(), data, os.urandom(_TAG)])

    async def remove(self, name: str) -> Answer:
        """See `RemovableCells.remove`."""
        return await self._client.run(self._remove, [name.encode()])

    async def wait(self, name: str, tag: Hashable | None, seconds: float) -> bool:
        """See `WaitableCells.wait`. Told where the server can be listened to and ``name`` is one of those
        of which processes are told; else by looking."""

        async def changed() -> bool:
            cell = await self.load(name)
            return (None if cell is None else cell.tag) != tag

        monotonic = self._client.runtime.monotonic
        until = monotonic() + seconds
        if name in self._told and not self._client.pooled:
            if await self._listening.wait(channel(name), changed, seconds):
                return True
            if not self._client.pooled:  # (that may have been found out only now)
                return False
        while not await changed():
            left = until - monotonic()
            if left <= 0:
                return False
            await self._client.runtime.event().wait(min(left, _LOOK))
        return True

    async def close(self) -> None:
        """Close the connection that listens."""
        await self._listening.close()


def channel(name: str) -> bytes:
    """The channel on which processes are told of the cell ``name``."""
    return b"layergate_" + blake2b(name.encode(), digest_size=16).hexdigest().encode()
