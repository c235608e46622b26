"""Entries in a MongoDB: the port `Blobs`.

    {_id: name, d: bytes, x: date after which MongoDB may remove it}

MongoDB removes what has expired about once a minute (a TTL index). Until then it is there, and the layer takes
it for what it is, because every entry says when it expires.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from layergate.layers.mongodb.client import Handles, MongoConnection
from layergate.shared.names import blob_prefix
from layergate.shared.ports import Limits

__all__ = ["MongoBlobs", "make_index"]

_logger = logging.getLogger("layergate")

_LARGEST: Final = (
    16 * 1024 * 1024 - 4096
)  # bytes, with the name and the date below a document's 16 MB
_LATER: Final = 60.0  # seconds: this process's clock may be behind the server's
_FURTHEST: Final = 100 * 365 * 86400.0  # seconds; a date has an end


class MongoBlobs:
    """`layergate.shared.ports.Blobs`."""

    limits: Final = Limits(largest=_LARGEST, longest_name=1000)

    def __init__(self, connection: MongoConnection, namespace: str) -> None:
        self._connection = connection
        self._prefix = blob_prefix(namespace)
        self._indexed = False

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See `Blobs.get_many`. One round trip, unless the values take more than 16 MB together."""

        async def found(handles: Handles) -> list[Any]:
            cursor = handles.entries.find({"_id": {"$in": list(names)}}, {"d": 1})
            documents = cursor.to_list()
            listed: list[Any] = await documents if isawaitable(documents) else documents
            return listed

        values = {one["_id"]: one.get("d") for one in await self._connection.ask(found)}
        return [data if isinstance(data := values.get(name), bytes) else None for name in names]

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        """See `Blobs.set`."""
        if not self._indexed:
            self._indexed = True
            await self._make_index()
        ends = self._connection.runtime.now() + min(seconds, _FURTHEST) + _LATER
        document = {"_id": name, "d": data, "x": datetime.fromtimestamp(ends, UTC)}

        def replaced(handles: Handles) -> Any:
            return handles.entries.replace_one({"_id": name}, document, upsert=True)

        try:
            await self._connection.ask(replaced)
        except DuplicateKeyError:  # somebody else inserted it at the same moment
            await self._connection.ask(replaced)

    async def _make_index(self) -> None:
        """Without it nothing that has expired is removed, but nothing is wrong."""
        try:
            await self._connection.ask(lambda handles: make_index(handles.entries))
        except Exception as error:
            _logger.warning(
                "layer %r: the index that removes what has expired cannot be made (%s);"
                " run: layergate init URL, as a user who may",
                self._connection.name,
                error,
            )

    async def delete(self, name: str) -> bool:
        """See `Blobs.delete`."""
        answer = await self._connection.ask(
            lambda handles: handles.entries.delete_one({"_id": name})
        )
        return bool(answer.deleted_count)

    async def clear(self) -> None:
        """See `Blobs.clear`. By a range of the index on names."""
        after = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        named = {"_id": {"$gte": self._prefix, "$lt": after}}
        await self._connection.ask(lambda handles: handles.entries.delete_many(named))


def make_index(entries: Any) -> Any:
    """The TTL index. Idempotent."""
    return entries.create_index("x", name="layergate_expires", expireAfterSeconds=0)
