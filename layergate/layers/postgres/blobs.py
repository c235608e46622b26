"""Entries in a PostgreSQL: the ports `Blobs` and `ConditionalBlobs`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable, Sequence
from typing import Final

from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.errors import CONFLICTS
from layergate.layers.postgres.statements import Kind, Statement, array
from layergate.shared.names import blob_prefix
from layergate.shared.ports import Limits

__all__ = ["PostgresBlobs"]

_logger = logging.getLogger("layergate")

_LARGEST: Final = (
    256 * 1024 * 1024
)  # bytes; a row of 1 GB is possible, and takes several times that
_SWEEP_EACH: Final = 64  # writes of this process
_SWEEP: Final = 200  # rows at once
_CLEAR: Final = 2000  # rows at once


class PostgresBlobs:
    """`layergate.shared.ports.Blobs`. The server's clock decides when an entry has expired, and removes
    nothing by itself: whoever writes also removes a few rows that have expired, of any namespace."""

    limits: Final = Limits(largest=_LARGEST)

    def __init__(self, client: PostgresClient, namespace: str) -> None:
        self._client = client
        self._prefix = blob_prefix(namespace).encode()
        self._writes = itertools.count(1)
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
        # The lock holds until the entry is written: no other process can change the cell in between.
        self._set_if = Statement.of(
            "set_if",
            f"WITH held AS (SELECT 1 FROM {cells} WHERE name = $4 AND tag = $5 FOR SHARE)"  # noqa: S608
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
            f" SELECT ctid FROM {entries} WHERE name >= $1 AND name < $2 LIMIT {_CLEAR}"
            " FOR UPDATE SKIP LOCKED))",
            Kind.TEXT,
            Kind.TEXT,
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

    async def clear(self) -> None:
        """See `Blobs.clear`. A statement for each 2,000 rows."""
        after = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
        while (await self._client.run(self._clear, [self._prefix, after])).changed:
            pass

    async def _swept(self) -> None:
        if next(self._writes) % _SWEEP_EACH:
            return
        try:
            while (await self._client.run(self._sweep)).changed == _SWEEP:
                pass
        except Exception as error:
            if getattr(error, "state", None) in CONFLICTS:
                return
            _logger.debug("rows that have expired could not be removed: %r", error)


def _number(seconds: float) -> bytes:
    return repr(float(seconds)).encode()
