"""What a layer on a MongoDB asks for, as it goes over the wire.

The server of these tests is one process, and always consistent. So a read that is too weak would never be
noticed by what it brings. Here it is noticed by what is asked.
"""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from layergate import CacheStack, MemoryLayer
from layergate.layers.mongodb import MongoLayer
from layergate.layers.mongodb.client import Handles
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.mongo_servers import Mongo
from tests.support.recording import Recorder

_OP_MSG = 2013
DURABLE = {"w": "majority", "j": True}


def commands(sent: list[bytearray]) -> list[dict[str, Any]]:
    """The commands in what was sent (OP_MSG: header, flags, sections)."""
    found = []
    for record in sent:
        data, at = bytes(record), 0
        while at + 16 <= len(data):
            size, _, _, kind = struct.unpack_from("<4i", data, at)
            if kind == _OP_MSG:
                assert data[at + 20] == 0
                (length,) = struct.unpack_from("<i", data, at + 21)
                found.append(bson.decode(data[at + 21 : at + 21 + length]))
            at += size
    return found


def of_cells(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that read or write cells. (Not the one that asks whether read concerns are looked at.)"""
    return [
        one
        for one in found
        if one.get("readConcern") != {"level": "layergate"}
        and "layergate_cells"
        in (
            one.get("find"),
            one.get("insert"),
            one.get("update"),
            one.get("delete"),
            one.get("aggregate"),
        )
    ]


def a_life(server: Mongo, world: str, name: str) -> list[dict[str, Any]]:
    """What is sent when two instances fetch, wait for each other, and purge."""
    with Recorder(server.port) as recorder:
        url = server.url(recorder.port)
        blocking = world == "threads"

        def stack() -> CacheStack:
            layer = MongoLayer(url, namespace=name, timeout=5.0, max_disconnected=1.0)
            more: dict[str, Any] = {"runtime": ThreadRuntime()} if blocking else {}
            return CacheStack([MemoryLayer("1MB"), layer], **more)

        async def story() -> None:
            one, other = stack(), stack()

            async def fetch() -> bytes:
                return b"value"

            def fetched() -> bytes:
                return b"value"

            for each in (one, other):
                await each.join()
                assert (
                    await each.get("key", fetched if blocking else fetch, ttl=60, tags=["t"])
                    == b"value"
                )
            await one.invalidate_by_tag("t")
            for each in (one, other):
                await each.aclose()

        if blocking:
            run_blocking(story())
        else:
            asyncio.run(story())
        return commands(recorder.sent)


def weaknesses(found: list[dict[str, Any]]) -> list[str]:
    """What is too weak in the commands that concern cells of a replica set."""
    weak = []
    for one in of_cells(found):
        what = next(iter(one))
        if what == "find":
            if one.get("readConcern", {}).get("level") != "linearizable":
                weak.append("a read is not linearizable")
            if "maxTimeMS" not in one:
                weak.append("a linearizable read has no limit of time")
        elif what == "aggregate":
            if one.get("readConcern", {}).get("level") != "majority":
                weak.append("a change stream is not of the majority")
        else:
            concern = one.get("writeConcern", {})
            if {name: concern.get(name) for name in DURABLE} != DURABLE:
                weak.append("a write is not one of the majority's journals")
            if not (concern.get("wtimeout") or one.get("maxTimeMS")):
                weak.append("a write has no limit of time")
        if one.get("$readPreference", {"mode": "primary"})["mode"] not in (
            "primary",
            "primaryPreferred",
        ):
            weak.append("a server that is not the primary is asked")
    return weak


@pytest.mark.parametrize("world", ["loop", "threads"])
def test_every_read_of_a_cell_is_linearizable_and_every_write_is_of_the_majority(
    server: Mongo, world: str
) -> None:
    found = a_life(server, world, f"wire-{world}")
    kinds = {next(iter(one)) for one in of_cells(found)}
    assert {"find", "insert", "update"} <= kinds
    assert weaknesses(found) == []


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"read_concern": ReadConcern("majority")}, "a read is not linearizable"),
        ({"write_concern": WriteConcern(w=1)}, "a write is not one of the majority's journals"),
        (
            {"write_concern": WriteConcern(w="majority")},
            "a write is not one of the majority's journals",
        ),
    ],
    ids=["read concern", "write concern", "journal"],
)
def test_it_is_noticed_if_an_option_is_taken_out(
    server: Mongo, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], says: str
) -> None:
    made = Handles.__init__

    def weakened(self: Handles, *args: Any) -> None:
        made(self, *args)
        self.cells = self.cells.with_options(**option)

    monkeypatch.setattr(Handles, "__init__", weakened)
    found = a_life(server, "threads", f"weak-{time.monotonic_ns()}")
    assert says in weaknesses(found)


def test_a_limit_of_time_is_noticed_too() -> None:
    assert weaknesses([{"find": "layergate_cells", "readConcern": {"level": "linearizable"}}]) == [
        "a linearizable read has no limit of time"
    ]


def test_a_standalone_server_is_read_as_it_is_and_written_as_a_set(single: Mongo) -> None:
    """It refuses linearizable reads. A majority of one server is that server."""
    found = of_cells(a_life(single, "threads", "single"))
    reads = [one for one in found if "find" in one]
    writes = [one for one in found if "insert" in one or "update" in one]
    assert reads
    assert writes
    assert {one.get("readConcern", {}).get("level", "local") for one in reads} == {"local"}
    assert all(
        {name: one["writeConcern"].get(name) for name in DURABLE} == DURABLE for one in writes
    )


def test_entries_are_not_waited_for(server: Mongo, tmp_path: Path) -> None:
    found = a_life(server, "threads", "entries")
    writes = [one for one in found if one.get("update") == "layergate_entries"]
    assert writes
    assert all(one.get("writeConcern", {"w": 1}) == {"w": 1} for one in writes)
