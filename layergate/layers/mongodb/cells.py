"""The log of purges and the leases in a MongoDB: the port `Cells`, with change streams.

    {_id: name, d: bytes, v: tag}

Reads are linearizable, and of the primary: a primary that was cut off confirms with a majority that it still is
one, before it answers. Writes are acknowledged when a majority has them in its journals. So no failover of a
replica set loses what was acknowledged, and there are no epochs. What a restored backup loses is only noticed by
an instance that was running.

A standalone server is one history by itself. It is read and written as it is, with its journal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable
from inspect import isawaitable
from typing import Any, Final

import pymongo
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from layergate.layers.mongodb.client import Handles, MongoConnection
from layergate.layers.mongodb.errors import NO_STREAM
from layergate.remote.places import PerPlace
from layergate.shared.ports import Cell, Limits

__all__ = ["MongoCells"]

_logger = logging.getLogger("layergate")

_TAG: Final = 16  # bytes
_LOOK: Final = 0.05  # seconds between two looks where there are no change streams
_AWAIT: Final = (
    1.0  # seconds that the server waits for a change before it answers that there is none
)


class MongoCells:
    """`WaitableCells` and `RemovableCells`."""

    limits: Final = Limits(largest=4 * 1024 * 1024, longest_name=1000)

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._silent = False  # there are no change streams
        self._streams: PerPlace[_Stream] | None = None

    async def load(self, name: str) -> Cell | None:
        """See `Cells.load`."""
        most = max(1, round(self._connection.timeout * 1000))
        found = await self._connection.ask(
            lambda handles: handles.cells.find_one({"_id": name}, max_time_ms=most)
        )
        if found is None:
            return None
        data, tag = found.get("d"), found.get("v")
        # Somebody else's document: one that no swap can find, and that is no cell of the ledger.
        return Cell(
            data if isinstance(data, bytes) else b"", tag if isinstance(tag, bytes) else b""
        )

    async def swap(self, name: str, tag: Hashable | None, data: bytes) -> bytes | None:
        """See `Cells.swap`. A tag is random."""
        new = os.urandom(_TAG)
        if tag is None:
            document = {"_id": name, "d": data, "v": new}
            try:
                await self._connection.ask(lambda handles: handles.cells.insert_one(document))
            except DuplicateKeyError:
                return None
            return new
        if not isinstance(tag, bytes):
            return None
        seen = (
            {"_id": name, "v": tag} if tag else {"_id": name, "v": {"$not": {"$type": "binData"}}}
        )
        answer = await self._connection.ask(
            lambda handles: handles.cells.update_one(seen, {"$set": {"d": data, "v": new}})
        )
        return new if answer.matched_count else None

    async def put(self, name: str, data: bytes) -> object:
        """See `Cells.put`."""
        change = {"$set": {"d": data, "v": os.urandom(_TAG)}}

        def written(handles: Handles) -> Any:
            return handles.cells.update_one({"_id": name}, change, upsert=True)

        try:
            return await self._connection.ask(written)
        except DuplicateKeyError:  # somebody else inserted it at the same moment
            return await self._connection.ask(written)

    async def remove(self, name: str) -> object:
        """See `RemovableCells.remove`."""
        return await self._connection.ask(lambda handles: handles.cells.delete_one({"_id": name}))

    # -- changes -------------------------------------------------------------------------------

    async def wait(self, name: str, tag: Hashable | None, seconds: float) -> bool:
        """See `WaitableCells.wait`. By a change stream, where the server has them; else by looking."""

        async def changed() -> bool:
            cell = await self.load(name)
            return (None if cell is None else cell.tag) != tag

        monotonic = self._connection.runtime.monotonic
        until = monotonic() + seconds
        if not self._silent:
            heard = await self._heard(name, changed, seconds)
            if heard is not None:
                return heard
        while not await changed():
            left = until - monotonic()
            if left <= 0:
                return False
            await self._connection.runtime.event().wait(min(left, _LOOK))
        return True

    async def _heard(self, name: str, changed: Any, seconds: float) -> bool | None:
        """None if there are no change streams. Raises what pymongo raises for a lost connection."""
        if self._streams is None:
            self._streams = PerPlace(
                self._connection.name, _Stream, close=_Stream.close, abandon=_Stream.abandon
            )
            self._streams.bind(self._connection.runtime)
        stream = self._streams.here()
        budget = self._connection.timeout + self._connection.connect_timeout
        try:
            with pymongo.timeout(seconds + budget):
                if stream.name != name and await stream.begin(
                    self._connection.here(), name, min(seconds, _AWAIT)
                ):
                    # A change may have come before the stream began.
                    if await changed():
                        return True
            monotonic = self._connection.runtime.monotonic
            until = monotonic() + seconds
            while True:
                with pymongo.timeout(min(seconds, _AWAIT) + budget):
                    if await stream.next():
                        return True
                if monotonic() >= until:
                    return False
        except OperationFailure as error:
            await stream.close()
            if error.code not in NO_STREAM:
                raise
            self._silent = True
            _logger.warning(
                "layer %r: this MongoDB has no change streams (they need a replica set), so purges are"
                " looked for at intervals of %g s",
                self._connection.name,
                _LOOK,
            )
            return None
        except BaseException:
            stream.abandon()
            raise

    async def close(self) -> None:
        """Close the change stream of this place."""
        if self._streams is not None:
            await self._streams.close()


class _Stream:
    """The change stream of one place, on one cell. ``name``: of the cell; "" if there is none yet."""

    def __init__(self) -> None:
        self.name = ""
        self._stream: Any = None

    async def begin(self, handles: Handles, name: str, seconds: float) -> bool:
        """True: it is watched from now on."""
        await self.close()
        stream = handles.watched.watch(
            [{"$match": {"documentKey._id": name}}, {"$project": {"_id": 1}}],
            max_await_time_ms=max(1, round(seconds * 1000)),
        )
        self._stream = await stream if isawaitable(stream) else stream
        self.name = name
        return True

    async def next(self) -> bool:
        """True if the cell was changed; False after the time that `begin` was given."""
        change = self._stream.try_next()
        if isawaitable(change):
            change = await change
        return change is not None

    async def close(self) -> None:
        stream, self._stream, self.name = self._stream, None, ""
        if stream is None:
            return
        try:
            with pymongo.timeout(1.0):
                closing = stream.close()
                if isawaitable(closing):
                    await closing
        except PyMongoError as error:
            _logger.debug("a change stream could not be closed: %r", error)

    def abandon(self) -> None:
        """It broke, or its loop was closed."""
        self._stream, self.name = None, ""
