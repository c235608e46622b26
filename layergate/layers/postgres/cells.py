"""The log of purges and the leases in a PostgreSQL: the port `Cells`, with epochs and notifications.

Each operation is one statement, and therefore one transaction. Each write says itself that it has to be
durable when it returns, because a pooler may pass it to a session with other settings. A standby cannot
answer a read: it has no position of a write-ahead log of its own, so `load_at_epoch` and `load` fail
there.

The *epoch* is the identifier of the cluster of data and its timeline. A standby that takes over begins a new
timeline. So does a server that is restored to a point in time. The timeline is taken from the position in the
write-ahead log, because the control file tells the new one only after the next checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from hashlib import blake2b
from typing import Final

from layergate.errors import LayerRefused
from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.errors import CONFLICTS, ServerError
from layergate.layers.postgres.listening import Listening
from layergate.layers.postgres.statements import Answer, Kind, Statement
from layergate.shared.ports import Cell, Limits

__all__ = ["LOOK_EVERY", "PostgresCells"]

_TAG: Final = 16  # bytes
LOOK_EVERY: Final = 0.2
"""Seconds between two looks where notifications do not come through."""
# An error on a standby. (pg_is_in_recovery would be an answer that has to be looked at.)
_EPOCH: Final = (
    "(SELECT system_identifier FROM pg_control_system())::text"
    " || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
)

# A setting of this one transaction, looked at when it commits.
_DURABLE: Final = (
    "(SELECT CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', true) ELSE 'on' END) IS NOT NULL"
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
        create = (
            f"INSERT INTO {cells} (name, data, tag) SELECT $1, $2, $3 WHERE {_DURABLE}"
            " ON CONFLICT DO NOTHING"
        )
        swap = f"UPDATE {cells} SET data = $2, tag = $3 WHERE name = $1 AND tag = $4 AND {_DURABLE}"  # noqa: S608
        created = (Kind.TEXT, Kind.BYTES, Kind.BYTES)
        swapped = (*created, Kind.BYTES)
        self._create = Statement.of("create", create, *created)
        self._swap = Statement.of("swap", swap, *swapped)
        # (Notifying is worth it only where somebody listens: it makes commits wait for each other.)
        telling = "WITH done AS ({} RETURNING 1) SELECT pg_notify(${}, '') FROM done"
        self._create_and_tell = Statement.of(
            "create_and_tell", telling.format(create, 4), *created, Kind.TEXT
        )
        self._swap_and_tell = Statement.of(
            "swap_and_tell", telling.format(swap, 5), *swapped, Kind.TEXT
        )
        self._put = Statement.of(
            "put",
            f"INSERT INTO {cells} (name, data, tag) SELECT $1, $2, $3 WHERE {_DURABLE}"
            " ON CONFLICT (name) DO UPDATE SET data = excluded.data, tag = excluded.tag",
            *created,
        )
        self._remove = Statement.of(
            "remove",
            f"DELETE FROM {cells} WHERE name = $1 AND {_DURABLE}",  # noqa: S608
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
        parameters = [name.encode(), data, new]
        tells = name in self._told
        if tag is None:
            statement = self._create_and_tell if tells else self._create
        elif isinstance(tag, bytes):
            statement = self._swap_and_tell if tells else self._swap
            parameters.append(tag)
        else:
            return None
        if tells:
            parameters.append(channel(name))
        try:
            answer = await self._client.run(statement, parameters)
        except ServerError as error:
            if error.state in CONFLICTS:
                return None
            raise
        return new if (answer.rows if tells else answer.changed) else None

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
            if await self._listening.wait(channel(name), tag, changed, seconds):
                return True
            if not self._client.pooled:  # (that may have been found out only now)
                return False
        while not await changed():
            left = until - monotonic()
            if left <= 0:
                return False
            await self._client.runtime.event().wait(min(left, LOOK_EVERY))
        return True

    async def close(self) -> None:
        """Close the connection that listens."""
        await self._listening.close()


def channel(name: str) -> bytes:
    """The channel on which processes are told of the cell ``name``."""
    return b"layergate_" + blake2b(name.encode(), digest_size=16).hexdigest().encode()
