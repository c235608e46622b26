"""Entries in a PostgreSQL: the ports `Blobs` and `ConditionalBlobs`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable, Sequence
from typing import Final

from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.statements import Kind, Statement, array
from layergate.shared.names import blob_prefix
from layergate.shared.ports import MORE, Limits

__all__ = ["PostgresBlobs"]

_logger = logging.getLogger("layergate")

_LARGEST: Final = (
    256 * 1024 * 1024
)  # bytes; a row of 1 GB is possible, and takes several times that
_LONGEST: Final = 1e9  # seconds: some thirty years
_SWEEP_EACH: Final = 64  # writes of this process
_SWEEP: Final = 200  # rows at once: more than those writes have made
_SHARE: Final = 0.2  # of the time budget
_CLEAR: Final = (100, 5000)  # rows at once: at first, and at most

_QUICK: Final = "(SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL"


class PostgresBlobs:
    """`layergate.shared.ports.Blobs`. The server's clock decides when an entry has expired, and removes
    nothing by itself: whoever writes also removes a few rows that have expired, of any namespace."""

    limits: Final = Limits(largest=_LARGEST)

    def __init__(self, client: PostgresClient, namespace: str) -> None:
        self._client = client
        self._prefix = blob_prefix(namespace).encode()
        self._writes = itertools.count(1)
        self._clears = _CLEAR[0]
        entries, cells = client.tables.entries, client.tables.cells
        self._get = Statement.of(
            "get",
            f"SELECT name, data FROM {entries} WHERE name = ANY($1) AND expires > now()",  # noqa: S608
            Kind.TEXTS,
        )
        replaced = (
            "ON CONFLICT (name) DO UPDATE SET expires = excluded.expires, data = excluded.data"
        )
        self._set = Statement.of(
            "set",
            f"INSERT INTO {entries} (name, expires, data)"  # noqa: S608
            f" VALUES ($1, now() + $2 * interval '1 second', $3) {replaced}",
            Kind.TEXT,
            Kind.NUMBER,
            Kind.BYTES,
        )
        # The lock holds until the entry is written: no other process can change the cell in between. (Locking a
        # row is a write. But neither the lock nor an entry has to survive a crash.)
        self._set_if = Statement.of(
            "set_if",
            f"WITH held AS (SELECT 1 FROM {cells} WHERE name = $4 AND tag = $5 AND {_QUICK} FOR SHARE)"  # noqa: S608
            f" INSERT INTO {entries} (name, expires, data)"
            f" SELECT $1, now() + $2 * interval '1 second', $3 FROM held {replaced}",
            Kind.TEXT,
            Kind.NUMBER,
            Kind.BYTES,
            Kind.TEXT,
            Kind.BYTES,
        )
        self._delete = Statement.of(
            "delete",
            f"DELETE FROM {entries} WHERE name = $1",  # noqa: S608
            Kind.TEXT,
        )
        # (ARRAY: so that the rows are found first, by an index, and not for each row.)
        self._clear = Statement.of(
            "clear",
            f"DELETE FROM {entries} WHERE ctid = ANY(ARRAY("  # noqa: S608
            f" SELECT ctid FROM {entries} WHERE name >= $1 AND name < $2 LIMIT $3"
            " FOR UPDATE SKIP LOCKED))",
            Kind.TEXT,
            Kind.TEXT,
            Kind.COUNT,
        )
        self._sweep = Statement.of(
            "sweep",
            f"DELETE FROM {entries} WHERE ctid = ANY(ARRAY("  # noqa: S608
            f" SELECT ctid FROM {entries} WHERE expires < now() LIMIT {_SWEEP}"
            " FOR UPDATE SKIP LOCKED))",
        )

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See `Blobs.get_many`. One round trip."""
        answer = await self._client.run(self._get, [array(names)])
        found = {row[0]: row[1] for row in answer.rows}
        return [found.get(name.encode()) for name in names]

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        """See `Blobs.set`."""
        await self._client.run(self._set, [name.encode(), _number(seconds), data])
        await self._swept()

    async def set_if(
        self, cell: str, tag: Hashable, name: str, data: bytes, seconds: float
    ) -> bool:
        """See `ConditionalBlobs.set_if`. One statement, hence one transaction."""
        if not isinstance(tag, bytes):
            return False
        answer = await self._client.run(
            self._set_if, [name.encode(), _number(seconds), data, cell.encode(), tag]
        )
        await self._swept()
        return answer.changed > 0

    async def delete(self, name: str) -> bool:
        """See `Blobs.delete`."""
        return (await self._client.run(self._delete, [name.encode()])).changed > 0

    async def clear(self) -> object:
        """See `Blobs.clear`. As many rows at once as take a small part of the time budget."""
        after = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
        rows, monotonic = self._clears, self._client.runtime.monotonic
        began = monotonic()
        done = (await self._client.run(self._clear, [self._prefix, after, b"%d" % rows])).changed
        share = (monotonic() - began) / self._client.timeout
        if share > _SHARE:
            self._clears = max(1, rows // 2)
        elif share < _SHARE / 2:
            self._clears = min(_CLEAR[1], rows * 2)
        return MORE if done else None

    async def _swept(self) -> None:
        if next(self._writes) % _SWEEP_EACH:
            return
        try:
            await self._client.run(self._sweep)
        except Exception as error:
            # The entry is written: whether others could be removed is nothing to its caller.
            _logger.debug("rows that have expired could not be removed: %r", error)


def _number(seconds: float) -> bytes:
    return repr(min(float(seconds), _LONGEST)).encode()
