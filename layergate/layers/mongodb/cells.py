"""The log of purges and the leases in a MongoDB: the port `Cells`, with change streams.

    {_id: name, d: bytes, v: tag}

Reads are linearizable, and of the primary: a primary that was cut off confirms with a majority that it still is
one, before it answers. Writes are acknowledged when a majority has them in its journals. So no failover of a
replica set loses what was acknowledged, and there are no epochs. What a restored backup loses is only noticed by
an instance that was running.

A standalone server is one history by itself. It reads nothing linearizably, so it is read as it is.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final

import pymongo
from pymongo.errors import DuplicateKeyError, InvalidOperation, OperationFailure, PyMongoError

from layergate.layers.mongodb.client import Handles, MongoConnection
from layergate.layers.mongodb.errors import NO_SET, NO_STREAM, ported
from layergate.remote.places import PerPlace
from layergate.shared.ports import Cell, Limits, answered

__all__ = ["MongoCells"]

_logger = logging.getLogger("layergate")

_TAG: Final = 16  # bytes
_LOOK: Final = 0.05  # seconds between two looks where there are no change streams
_CLOSING: Final = 1.0  # seconds that saying goodbye may take
# Seconds, at most, after which the server answers that there is no change: under asyncio, and under threads, where
# nobody can interrupt it.
_AWAIT: Final = (5.0, 1.5)
# Seconds that the answer may come earlier or later than asked for, so that no stream has to begin anew for that.
_EARLY: Final = 0.02
_LATE: Final = 0.5
_OF_A_CHANGE: Final = {"_id": 1, "fullDocument.v": 1, "updateDescription.updatedFields.v": 1}


class MongoCells:
    """`WaitableCells` and `RemovableCells`."""

    limits: Final = Limits(largest=4 * 1024 * 1024, longest_name=1000)

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._silent = False  # there are no change streams
        self._streams: PerPlace[_Stream] | None = None

    async def _ask(self, operation: Callable[[Handles], Any]) -> Any:
        return await self._connection.ask(operation, coordination=True)

    async def load(self, name: str) -> Cell | None:
        """See `Cells.load`."""
        document = await self._ask(lambda handles: self._found(handles, name))
        if document is None:
            return None
        data, tag = document.get("d"), document.get("v")
        # Somebody else's document: one that no swap can find, and that is no cell of the ledger.
        return Cell(
            data if isinstance(data, bytes) else b"", tag if isinstance(tag, bytes) else b""
        )

    async def _found(self, handles: Handles, name: str) -> Any:
        most = max(1, round(self._connection.timeout * 1000))
        if not handles.alone:
            try:
                return await answered(handles.cells.find_one({"_id": name}, max_time_ms=most))
            except OperationFailure as error:
                # It was restarted as one; else a member of a set that has not been initiated yet.
                if error.code != NO_SET or not handles.alone:
                    raise
        return await answered(handles.standalone.find_one({"_id": name}, max_time_ms=most))

    async def swap(self, name: str, tag: Hashable | None, data: bytes) -> bytes | None:
        """See `Cells.swap`. A tag is random.

        pymongo sends a write a second time if it loses the connection over it. MongoDB answers that with what the
        first time came to; a server that does not would take it for a mismatch. So after a mismatch, if anything
        has happened to the connections meanwhile, the cell is looked at: is it as we wanted it?
        """
        new = os.urandom(_TAG)
        if tag is None:
            document = {"_id": name, "d": data, "v": new}

            async def done(handles: Handles) -> bool:
                try:
                    await answered(handles.cells.insert_one(document))
                except DuplicateKeyError:
                    return False
                return True
        else:
            if not isinstance(tag, bytes):
                return None
            seen = (
                {"_id": name, "v": tag}
                if tag
                else {"_id": name, "v": {"$not": {"$type": "binData"}}}
            )

            async def done(handles: Handles) -> bool:
                change = {"$set": {"d": data, "v": new}}
                answer = await answered(handles.cells.update_one(seen, change))
                return bool(answer.matched_count)

        async def swapped(handles: Handles) -> bool:
            before = handles.client.topology_description
            if await done(handles):
                return True
            if handles.client.topology_description is before:
                return False
            found = await self._found(handles, name)
            return found is not None and found.get("v") == new

        return new if await self._ask(swapped) else None

    async def put(self, name: str, data: bytes) -> object:
        """See `Cells.put`."""
        change = {"$set": {"d": data, "v": os.urandom(_TAG)}}

        def written(handles: Handles) -> Any:
            return handles.cells.update_one({"_id": name}, change, upsert=True)

        try:
            return await self._ask(written)
        except DuplicateKeyError:  # somebody else inserted it at the same moment
            return await self._ask(written)

    async def remove(self, name: str) -> object:
        """See `RemovableCells.remove`."""
        return await self._ask(lambda handles: handles.cells.delete_one({"_id": name}))

    # -- changes -------------------------------------------------------------------------------

    async def wait(self, name: str, tag: Hashable | None, seconds: float) -> bool:
        """See `WaitableCells.wait`. By a change stream, where the server has them; else by looking."""
        monotonic = self._connection.runtime.monotonic
        until = monotonic() + seconds
        stream = None if self._silent or seconds <= _LOOK else self._stream()
        if stream is not None and stream.enter():
            try:
                return await self._heard(stream, name, tag, until)
            except OperationFailure as error:
                await stream.close()
                if error.code not in NO_STREAM:
                    raise ported(self._connection.name, error) from error
                self._silence()
            except PyMongoError as error:
                stream.abandon()
                raise ported(self._connection.name, error) from error
            except BaseException:
                stream.abandon()
                raise
            finally:
                stream.leave()
        while not await self._changed(name, tag):
            left = until - monotonic()
            if left <= 0:
                return False
            await self._connection.runtime.event().wait(min(left, _LOOK))
        return True

    async def _changed(self, name: str, tag: Hashable | None) -> bool:
        cell = await self.load(name)
        return (None if cell is None else cell.tag) != tag

    def _stream(self) -> _Stream:
        if self._streams is None:
            self._streams = PerPlace(
                self._connection.name, _Stream, close=_Stream.close, abandon=_Stream.abandon
            )
            self._streams.bind(self._connection.runtime)
        return self._streams.here()

    async def _heard(self, stream: _Stream, name: str, tag: Hashable | None, until: float) -> bool:
        """Raises what pymongo raises, also if there are no change streams."""
        monotonic = self._connection.runtime.monotonic
        budget = self._connection.timeout + self._connection.connect_timeout
        most = _AWAIT[self._connection.runtime.blocking]
        pause = (until - monotonic()) / max(1, math.ceil((until - monotonic()) / most))
        begins = not stream.serves(name, pause)
        if begins:
            with pymongo.timeout(budget):
                await stream.begin(self._connection.here(), name, pause)
        # A change may have come before the stream began; or the stream has told of it already.
        if begins or stream.told == (tag,):
            if await self._changed(name, tag):
                return True
            stream.told = None
        while True:
            with pymongo.timeout(stream.pause + budget):
                change = await stream.next()
            if change is not None and change != (tag,):
                stream.told = (tag,)
                return True
            if until - monotonic() <= _EARLY:
                return False

    def _silence(self) -> None:
        self._silent = True
        _logger.warning(
            "layer %r: this MongoDB has no change streams (they need a replica set), so purges are"
            " looked for at intervals of %g s",
            self._connection.name,
            _LOOK,
        )

    async def close(self) -> None:
        """Close the change stream of this place."""
        if self._streams is not None:
            await self._streams.close()


class _Stream:
    """The change stream of one place, on one cell.

    ``name``  of the cell; "" if there is none yet.
    ``pause`` seconds that `next` waits at most.
    ``told``  the tag, in a tuple, that a caller waited with who was last told of a change; None: nobody was.
    """

    def __init__(self) -> None:
        self.name = ""
        self.pause = 0.0
        self.told: tuple[Hashable | None] | None = None
        self._stream: Any = None
        self._busy = threading.Lock()

    def enter(self) -> bool:
        """Take it for one caller. False: another one is waiting by it."""
        return self._busy.acquire(blocking=False)

    def leave(self) -> None:
        self._busy.release()

    def serves(self, name: str, pause: float) -> bool:
        """True if it need not begin anew for that."""
        return self.name == name and pause - _EARLY <= self.pause <= max(pause * 2, pause + _LATE)

    async def begin(self, handles: Handles, name: str, pause: float) -> None:
        await self.close()
        self._stream = await answered(
            handles.watched.watch(
                [{"$match": {"documentKey._id": name}}, {"$project": _OF_A_CHANGE}],
                max_await_time_ms=max(1, round(pause * 1000)),
            )
        )
        self.name, self.pause = name, pause

    async def next(self) -> tuple[Hashable | None] | None:
        """The tag that the cell got with a change, in a tuple; None if nothing has changed in time."""
        stream = self._stream
        if stream is None:
            raise InvalidOperation("the change stream was closed")
        change = await answered(stream.try_next())
        if change is None:
            return None
        whole, part = change.get("fullDocument"), change.get("updateDescription")
        fields = whole or (part or {}).get("updatedFields") or {}
        return (fields.get("v"),)

    async def close(self) -> None:
        stream = self._stream
        self.abandon()
        if stream is None:
            return
        try:
            with pymongo.timeout(_CLOSING):
                await answered(stream.close())
        except PyMongoError as error:
            _logger.debug("a change stream could not be closed: %r", error)

    def abandon(self) -> None:
        """It broke, or its loop was closed."""
        self._stream, self.name, self.told = None, "", None
