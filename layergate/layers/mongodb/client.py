"""One MongoDB as this process speaks with it: in either world, within its time budgets.

`MongoClient` and `AsyncMongoClient` of pymongo mirror each other, so the ports are written once: they call, and
await what is awaitable. A client of pymongo starts threads or tasks that watch the servers. So one is made with
the first call, for each process (threads) or for each event loop, and never in the parent of a fork.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pymongo
from pymongo import AsyncMongoClient, MongoClient, ReadPreference
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from layergate.core.ports import Runtime
from layergate.errors import LayerRefused
from layergate.layers.mongodb.abandoned import drop
from layergate.layers.mongodb.errors import NO_PRIMARY, PASSING, REFUSALS, ported
from layergate.remote.places import PerPlace
from layergate.shared.ports import answered

__all__ = ["RESEMBLES", "Handles", "MongoConnection", "passed", "resembling", "trial"]

_CLOSING: Final = 1.0  # seconds that saying goodbye may take
_RESEMBLING: Final = (".docdb.amazonaws.com", ".docdb-elastic.amazonaws.com", ".cosmos.azure.com")
RESEMBLES: Final = (
    "this server only resembles MongoDB, and does not look at read concerns: it cannot coordinate; use it for"
    " bodies, and another system for coordination (Shared)"
)


class Handles:
    """The collections of one place, each with the guarantees that it is used with.

    ``entries``     what is read and written as the primary has it.
    ``cells``       linearizable reads, writes that a majority has in its journals.
    ``standalone``  the cells as a standalone server can read them: see `alone`. Writes are the same.
    ``watched``     the cells, for change streams.
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
        self.cells = found.get_collection(
            f"{prefix}_cells",
            read_preference=primary,
            read_concern=ReadConcern("linearizable"),
            write_concern=durable,
        )
        self.standalone = self.cells.with_options(read_concern=ReadConcern("local"))
        self.watched = self.cells.with_options(read_concern=ReadConcern("majority"))
        self.loop: asyncio.AbstractEventLoop | None = None  # that an AsyncMongoClient belongs to
        self.warm = False
        self.coordinates = False  # it was asked, and can

    @property
    def alone(self) -> bool:
        """True while pymongo sees a standalone server: one history by itself, that reads nothing linearizably.

        This is asked before each read, and not remembered, because a standalone server can be restarted as a
        member of a replica set.
        """
        servers = self.client.topology_description.server_descriptions().values()
        return bool(servers) and all(one.server_type_name == "Standalone" for one in servers)

    @property
    def hosts(self) -> Sequence[str]:
        """The names of the servers that are known."""
        return [host for host, _ in self.client.topology_description.server_descriptions()]


def resembling(handles: Handles) -> bool:
    """True if a server that was found is one that is known to only resemble MongoDB."""
    return any(host.lower().endswith(_RESEMBLING) for host in handles.hosts)


def trial(handles: Handles) -> Mapping[str, object]:
    """A command that MongoDB refuses, because of a read concern that it does not know.

    A server that takes it does not look at read concerns at all, so it takes a linearizable read for any other.
    """
    return {
        "find": handles.cells.name,
        "filter": {"_id": "layergate check"},
        "limit": 1,
        "singleBatch": True,
        "readConcern": {"level": "layergate"},
    }


def passed(error: OperationFailure) -> bool:
    """True if `trial` was refused for that. Raises what says nothing about it."""
    if error.code in REFUSALS or error.code in PASSING:
        raise error
    return True


async def _capable(handles: Handles) -> bool:
    if resembling(handles):
        return False
    try:
        await answered(handles.cells.database.command(trial(handles)))
    except OperationFailure as error:
        return passed(error)
    return False


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

    def make(self, kind: Any, selection: float | None = None) -> Any:
        """A client of pymongo. Nothing starts. What the URL says goes before the time budgets. ``selection``:
        seconds to find a server that answers; None: as long as the first call may take."""
        given = {one.partition("=")[0].lower() for one in re.split("[?&;]", self.url)[1:]}
        budget = {
            "connectTimeoutMS": _milliseconds(self.connect_timeout),
            "serverSelectionTimeoutMS": _milliseconds(
                self.connect_timeout + self.timeout if selection is None else selection
            ),
            "appname": "layergate",
        }
        options = {name: value for name, value in budget.items() if name.lower() not in given}
        return kind(self.url, connect=False, **options)

    def handles(self, client: Any) -> Handles:
        """What this layer uses of the client."""
        return Handles(client, self._database, self._prefix, _milliseconds(self.timeout))

    def _made(self) -> Handles:
        if self.runtime.blocking:
            return self.handles(self.make(MongoClient))
        handles = self.handles(self.make(AsyncMongoClient))
        handles.loop = asyncio.get_running_loop()
        return handles

    async def ask(
        self, operation: Callable[[Handles], Any], *, coordination: bool = False, more: float = 0.0
    ) -> Any:
        """What ``operation`` answers, awaited if it is awaitable, within the time budget.

        ``coordination``  it concerns cells: ask first whether the server is one that can be trusted with them.
        ``more``          seconds beyond the time budget.

        Raises LayerRefused, LayerTimeout, and for other faults what pymongo raises.
        """
        handles = self._places.here()
        self.calls += 1
        seconds = self.timeout + more + (0.0 if handles.warm else self.connect_timeout)
        try:
            with pymongo.timeout(seconds):
                if not handles.warm:
                    await self._meet(handles)
                    handles.warm = True
                if coordination and not handles.coordinates:
                    if not await _capable(handles):
                        raise LayerRefused(self.name, RESEMBLES)
                    handles.coordinates = True
                return await answered(operation(handles))
        except PyMongoError as error:
            raise ported(self.name, error) from error

    async def _meet(self, handles: Handles) -> None:
        """Find out whether this server can be written."""
        hello = await answered(handles.client.admin.command("hello"))
        if not hello.get("isWritablePrimary"):
            # (With a set's name in the URL pymongo finds the primary by itself.)
            raise LayerRefused(self.name, NO_PRIMARY)

    def here(self) -> Handles:
        """The collections of this place."""
        return self._places.here()

    async def _close(self, handles: Handles) -> None:
        with pymongo.timeout(_CLOSING):
            await answered(handles.client.close())

    async def close(self) -> None:
        """Close the client of this process (under asyncio: of this loop). A later call makes a new one."""
        await self._places.close()

    def stats(self) -> Mapping[str, int | float]:
        """``round_trips``."""
        return {"round_trips": self.calls}


def _abandon(handles: Handles) -> None:
    if handles.loop is not None:
        drop(handles.client, handles.loop)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
