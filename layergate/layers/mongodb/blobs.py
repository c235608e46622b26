"""Entries in a MongoDB: the port `Blobs`.

    {_id: name, d: bytes, x: date after which MongoDB may remove it}

MongoDB removes what has expired about once a minute (a TTL index). Until then it is there, and the layer takes
it for what it is, because every entry says when it expires.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from layergate.errors import LayerRefused
from layergate.layers.mongodb.client import Handles, MongoConnection
from layergate.layers.mongodb.errors import reason
from layergate.shared.names import blob_prefix
from layergate.shared.ports import MORE, Limits, answered

__all__ = ["INDEX", "MongoBlobs", "make_index"]

_logger = logging.getLogger("layergate")

INDEX: Final = "layergate_expires"

# Bytes: with the name and the date it stays below the 16 MB of a document.
_LARGEST: Final = 16 * 1024 * 1024 - 4096
_LATER: Final = 60.0  # seconds: this process's clock may be behind the server's
_PART: Final = 1000  # entries that are removed in one step
_ATTEMPTS: Final = 3  # to make the index
_FURTHEST: Final = 100 * 365 * 86400.0  # seconds; a date has an end


class MongoBlobs:
    """`layergate.shared.ports.Blobs`."""

    limits: Final = Limits(largest=_LARGEST, longest_name=1000)

    def __init__(self, connection: MongoConnection, namespace: str) -> None:
        self._connection = connection
        self._prefix = blob_prefix(namespace)
        self._attempts = _ATTEMPTS  # left, to make the index

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See `Blobs.get_many`. One round trip, unless the values take more than 16 MB together."""

        async def found(handles: Handles) -> list[Any]:
            # (One more than can come, so that the server knows at once that there are no more.)
            return await _listed(
                handles.entries.find(
                    {"_id": {"$in": list(names)}}, {"d": 1}, batch_size=len(names) + 1
                )
            )

        values = {one["_id"]: one.get("d") for one in await self._connection.ask(found)}
        return [data if isinstance(data := values.get(name), bytes) else None for name in names]

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        """See `Blobs.set`."""
        ends = self._connection.runtime.now() + min(seconds, _FURTHEST) + _LATER
        document = {"_id": name, "d": data, "x": datetime.fromtimestamp(ends, UTC)}

        def replaced(handles: Handles) -> Any:
            return handles.entries.replace_one({"_id": name}, document, upsert=True)

        try:
            await self._connection.ask(replaced)
        except DuplicateKeyError:  # somebody else inserted it at the same moment
            await self._connection.ask(replaced)
        if self._attempts:
            await self._make_index()

    async def _make_index(self) -> None:
        """Without it nothing that has expired is removed, but nothing is wrong. It takes longer than there is time,
        if there are many entries; so it is not tried with each entry."""
        self._attempts -= 1
        try:
            await self._connection.ask(lambda handles: make_index(handles.entries))
        except BaseException as error:  # also if the caller's time is over
            if isinstance(error, LayerRefused):
                self._attempts = 0
            if self._attempts == 0:
                _logger.warning(
                    "layer %r: the index that removes what has expired cannot be made (%s);"
                    " run: layergate init URL, as a user who may",
                    self._connection.name,
                    reason(error),
                )
            if not isinstance(error, Exception):
                raise
        else:
            self._attempts = 0

    async def delete(self, name: str) -> bool:
        """See `Blobs.delete`."""
        answer = await self._connection.ask(
            lambda handles: handles.entries.delete_one({"_id": name})
        )
        return bool(answer.deleted_count)

    async def clear(self) -> object:
        """See `Blobs.clear`. A part at a time, by a range of the index on names."""
        after = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        named = {"_id": {"$gte": self._prefix, "$lt": after}}

        async def cleared(handles: Handles) -> int:
            found = await _listed(
                handles.entries.find(named, {"_id": 1}, limit=_PART, batch_size=_PART)
            )
            if found:
                await answered(
                    handles.entries.delete_many({"_id": {"$in": [one["_id"] for one in found]}})
                )
            return len(found)

        return MORE if await self._connection.ask(cleared) == _PART else None


async def _listed(cursor: Any) -> list[Any]:
    found: list[Any] = await answered(cursor.to_list())
    return found


def make_index(entries: Any) -> Any:
    """The TTL index. Idempotent."""
    return entries.create_index("x", name=INDEX, expireAfterSeconds=0)
