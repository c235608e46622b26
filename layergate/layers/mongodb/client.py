"""One MongoDB as this process speaks with it: in either world, within its time budgets.

`MongoClient` and `AsyncMongoClient` of pymongo mirror each other, so the ports are written once: they call, and
await what is awaitable. A client of pymongo starts threads or tasks that watch the servers. So one is made with
the first call, for each process (threads) or for each event loop, and never in the parent of a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, Final

import pymongo
from pymongo import AsyncMongoClient, MongoClient, ReadPreference
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from layergate.core.ports import Runtime
from layergate.errors import LayerRefused
from layergate.layers.mongodb.errors import ported
from layergate.remote.places import PerPlace

__all__ = ["Handles", "MongoConnection"]

_logger = logging.getLogger("layergate")

_CLOSING: Final = 1.0  # seconds that saying goodbye may take


class Handles:
    """The collections of one place, each with the guarantees that it is used with.

    ``entries``  what is read and written as the primary has it.
    ``cells``    linearizable reads, writes that a majority has on its disks.
    ``watched``  the cells, for change streams.
    """

    def __init__(self, client: Any, database: str, prefix: str, wait: int) -> None:
        """``wait``: milliseconds that a write may wait for a majority."""
        self.client = client
        found = client.get_default_database(database)
        primary = ReadPreference.PRIMARY
        self.entries = found.get_collection(
            f"{prefix}_entries",
            read_preference=primary,
            read_concern=ReadConcern("local"),
            write_concern=WriteConcern(w=1),
        )
        durable = WriteConcern(w="majority", j=True, wtimeout=wait)
        self._strong = found.get_collection(
            f"{prefix}_cells",
            read_preference=primary,
            read_concern=ReadConcern("linearizable"),
            write_concern=durable,
        )
        # One server is one history by itself, and knows no majority.
        self._single = self._strong.with_options(
            read_concern=ReadConcern("local"), write_concern=WriteConcern(w=1, j=True)
        )
        self.watched = self._strong.with_options(read_concern=ReadConcern("majority"))
        self.standalone: bool | None = None  # not known yet
        self.loop: asyncio.AbstractEventLoop | None = (
            None  # the one that an AsyncMongoClient belongs to
        )
        self.warm = False

    @property
    def cells(self) -> Any:
        return self._single if self.standalone else self._strong


class MongoConnection:
    """``url``              for pymongo.
    ``database``         where the URL names none.
    ``prefix``           what the names of the collections begin with.
    ``name``             of the layer, for errors.
    ``timeout``          seconds that a call may take.
    ``connect_timeout``  seconds more for the first call of a place, which has to connect.
    """

    def __init__(
        self,
        url: str,
        *,
        database: str,
        prefix: str,
        name: str,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self.url: Final = url
        self.name: Final = name
        self.timeout: Final = timeout
        self.connect_timeout: Final = connect_timeout
        self._database = database
        self._prefix = prefix
        self.calls = 0
        self._places: PerPlace[Handles] = PerPlace(
            name, self._made, close=self._close, abandon=_abandon
        )

    def bind(self, runtime: Runtime) -> None:
        """Take on the runtime. Nothing starts."""
        self._places.bind(runtime)

    @property
    def runtime(self) -> Runtime:
        """Raises LayerUnavailable before `bind`."""
        return self._places.runtime

    @property
    def budget(self) -> Mapping[str, int]:
        """Options of pymongo's clients."""
        return {
            "connectTimeoutMS": _milliseconds(self.connect_timeout),
            "serverSelectionTimeoutMS": _milliseconds(self.connect_timeout + self.timeout),
        }

    def _made(self) -> Handles:
        kind: Any = MongoClient if self.runtime.blocking else AsyncMongoClient
        client = kind(self.url, connect=False, appname="layergate", **self.budget)
        handles = Handles(client, self._database, self._prefix, _milliseconds(self.timeout))
        if not self.runtime.blocking:
            handles.loop = asyncio.get_running_loop()
        return handles

    async def ask(self, operation: Callable[[Handles], Any]) -> Any:
        """What ``operation`` answers, awaited if it is awaitable, within the time budget.

        Raises LayerRefused, LayerTimeout, and for other faults what pymongo raises.
        """
        handles = self._places.here()
        self.calls += 1
        seconds = self.timeout if handles.warm else self.timeout + self.connect_timeout
        try:
            with pymongo.timeout(seconds):
                if handles.standalone is None:
                    await self._meet(handles)
                answer = operation(handles)
                if isawaitable(answer):
                    answer = await answer
        except PyMongoError as error:
            raise ported(self.name, error) from error
        handles.warm = True
        return answer

    async def _meet(self, handles: Handles) -> None:
        """Find out what kind of server this is."""
        hello = handles.client.admin.command("hello")
        if isawaitable(hello):
            hello = await hello
        if not hello.get("isWritablePrimary"):
            # (With a set's name in the URL pymongo finds the primary by itself.)
            raise LayerRefused(
                self.name,
                "this server is no primary; name the replica set in the URL (replicaSet=...)",
            )
        handles.standalone = "setName" not in hello and hello.get("msg") != "isdbgrid"

    def here(self) -> Handles:
        """The collections of this place."""
        return self._places.here()

    async def _close(self, handles: Handles) -> None:
        with pymongo.timeout(_CLOSING):
            closing = handles.client.close()
            if isawaitable(closing):
                await closing

    async def close(self) -> None:
        """Close the client of this process (under asyncio: of this loop). A later call makes a new one."""
        await self._places.close()

    def stats(self) -> Mapping[str, int | float]:
        """``round_trips``."""
        return {"round_trips": self.calls}


def _abandon(handles: Handles) -> None:
    """Its loop was closed over it. pymongo can close nothing there, and says so in a ResourceWarning when the
    client is collected. Its tasks, which wait for a loop that does not run any more, end without a word."""
    if handles.loop is None:
        return
    for task in asyncio.all_tasks(handles.loop):
        work: Any = task.get_coro()
        code = getattr(work, "cr_code", None)
        if code is not None and f"{os.sep}pymongo{os.sep}" in code.co_filename:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(Exception):
                work.close()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
