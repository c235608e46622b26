"""Entries and cells in a MongoDB, what befalls a single call, and what is told of changes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
from datetime import UTC, datetime
from typing import Any

import pymongo
import pymongo.errors
import pytest

from layergate.errors import LayerRefused, LayerTimeout
from layergate.layers.mongodb import MongoLayer, administration, client
from layergate.layers.mongodb.blobs import MongoBlobs
from layergate.layers.mongodb.client import Handles, resembling
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.names import blob_name
from layergate.shared.ports import MORE
from tests.support.mongo_parts import Parts, World, cells_of
from tests.support.mongo_servers import DATABASE, Mongo
from tests.support.proxy import Proxy
from tests.support.recording import Recorder
from tests.support.waiting import BOUND, wait_until

pytestmark = pytest.mark.systems


def entries(server: Mongo) -> list[Any]:
    with server.client() as direct:
        return list(direct[DATABASE].layergate_entries.find().sort("_id"))


# -- entries ----------------------------------------------------------------------------------------


def test_an_entry_is_a_document_that_expires(world: World, server: Mongo) -> None:
    parts = world.parts(server.url(), namespace="dates")
    before = datetime.now(UTC).timestamp()
    world.run(parts.blobs.set("dates:b:one", b"\x00data\xff", 0.2))
    (found,) = [one for one in entries(server) if one["_id"] == "dates:b:one"]
    assert found["d"] == b"\x00data\xff"
    # Later than asked for, because this process's clock may be slow.
    assert 60 <= found["x"].replace(tzinfo=UTC).timestamp() - before < 60 + BOUND
    with server.client() as direct:
        index = direct[DATABASE].layergate_entries.index_information()["layergate_expires"]
    assert index["key"] == [("x", 1)]
    assert index["expireAfterSeconds"] == 0
    world.run(parts.blobs.set("dates:b:one", b"for ever", 1e18))
    assert world.run(parts.blobs.get_many(["dates:b:one"])) == [b"for ever"]
    world.run(parts.blobs.delete("dates:b:one"))


def test_many_entries_come_in_one_round_trip(world: World, server: Mongo) -> None:
    """Also more than the 101 that MongoDB sends at first if nobody says how many."""
    parts = world.parts(server.url(), namespace="many")
    names = [f"many:b:{number}" for number in range(300)]
    for name in names:
        world.run(parts.blobs.set(name, name.encode(), 60))
    with Recorder(server.port) as recorder:
        seen = world.parts(server.url(recorder.port), namespace="many")
        found = world.run(seen.blobs.get_many([*names, "many:b:none"]))
        assert found == [*(name.encode() for name in names), None]
        assert not any(b"getMore" in one for one in recorder.sent)
        assert sum(one.count(b"layergate_entries") for one in recorder.sent) == 1
        world.run(seen.close())


def test_clear_goes_part_by_part_and_leaves_others_alone(
    world: World, server: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layergate.layers.mongodb.blobs._PART", 3)
    parts = world.parts(server.url(), namespace="part")
    names = [blob_name("part", f"{number}") for number in range(7)]
    others = [blob_name("par", "0"), blob_name("part2", "0"), "part:c:0", "part:x"]
    for name in names + others:
        world.run(parts.blobs.set(name, b"x", 60))
    assert [world.run(parts.blobs.clear()) for _ in range(3)] == [MORE, MORE, None]
    assert world.run(parts.blobs.get_many([*names, *others])) == [None] * 7 + [b"x"] * 4


def test_what_is_no_entry_of_ours_is_none(world: World, server: Mongo) -> None:
    parts = world.parts(server.url())
    with server.client() as direct:
        for name, data in {"str": "x", "none": None, "list": [b"x"]}.items():
            odd = {"_id": f"odd:{name}"}
            direct[DATABASE].layergate_entries.replace_one(odd, {**odd, "d": data}, upsert=True)
        odd = {"_id": "odd:empty"}
        direct[DATABASE].layergate_entries.replace_one(odd, odd, upsert=True)
    names = ["odd:str", "odd:none", "odd:list", "odd:empty"]
    assert world.run(parts.blobs.get_many(names)) == [None] * 4
    assert world.run(parts.blobs.delete("odd:str")) is True
    assert world.run(parts.blobs.delete("odd:str")) is False


def test_the_largest_entry_and_one_that_is_larger(world: World, server: Mongo) -> None:
    parts = world.parts(server.url(), timeout=20.0)
    most = MongoBlobs.limits.largest
    assert most is not None
    name = "n" * 128
    world.run(parts.blobs.set(name, b"x" * most, 60))
    (found,) = world.run(parts.blobs.get_many([name]))
    assert len(found) == most
    with pytest.raises(LayerRefused, match="larger than"):
        world.run(parts.blobs.set(name, b"x" * (most + 8192), 60))
    world.run(parts.blobs.delete(name))


def test_the_index_that_cannot_be_made_is_told_once(
    world: World, server: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    parts = world.parts(server.url(), namespace="index")
    with caplog.at_level(logging.WARNING, "layergate"):
        with server.failing("createIndexes", times=2, errorCode=13):
            for _ in range(3):
                world.run(parts.blobs.set("index:b:x", b"x", 60))
        (told,) = [one.message for one in caplog.records]
        assert told == (
            "layer 'mongodb': the index that removes what has expired cannot be made (Failing command via"
            " 'failCommand' failpoint (code 13); give the user of the URL the role readWrite on the"
            " database); run: layergate init URL, as a user who may"
        )
        # A fault may be over the next time.
        caplog.clear()
        other = world.parts(server.url(), namespace="index")
        with server.failing("createIndexes", times=1, errorCode=96):
            world.run(other.blobs.set("index:b:x", b"x", 60))
        assert other.blobs._attempts == 2
        world.run(other.blobs.set("index:b:x", b"x", 60))
        assert other.blobs._attempts == 0
        assert not caplog.records


# -- cells --------------------------------------------------------------------------------------------


class Breaking(Recorder):
    """A proxy that breaks the line, once, in place of the answer to a command."""

    def __init__(self, target: int, command: str) -> None:
        self._command = b"\x02" + command.encode() + b"\x00"
        self._said: dict[Any, bytearray] = {}
        self.broken = False
        super().__init__(target)

    def _copy(self, source: Any, sink: Any, kept: bytearray | None) -> None:
        if kept is not None:
            self._said[sink] = kept
            super()._copy(source, sink, kept)
            return
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.broken and self._command in self._said.get(source, b""):
                    self.broken = True
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("command", ["update", "insert"])
def test_a_swap_whose_answer_was_lost_is_not_taken_for_a_mismatch(
    world: World, server: Mongo, command: str
) -> None:
    """pymongo sends it again, and the server answers with what the first time came to."""
    parts, name = world.parts(server.url()), f"lost-{command}"
    tag = world.run(parts.cells.swap(name, None, b"0")) if command == "update" else None
    with Breaking(server.port, command) as breaking:
        other = world.parts(server.url(breaking.port))
        new = world.run(other.cells.swap(name, tag, b"1"))
        assert breaking.broken
        world.run(other.close())
    assert new is not None, "it was done, and nobody else was there"
    assert world.run(parts.cells.load(name)) == (b"1", new)
    world.run(parts.cells.remove(name))


def test_a_standalone_server_is_asked_once(world: World, single: Mongo) -> None:
    """It cannot tell a second time from a first one, so nobody knows."""
    parts = world.parts(single.url())
    tag = world.run(parts.cells.swap("once", None, b"0"))
    with Breaking(single.port, "update") as breaking:
        other = world.parts(single.url(breaking.port))
        with pytest.raises(pymongo.errors.AutoReconnect):
            world.run(other.cells.swap("once", tag, b"1"))
        assert breaking.broken
        world.run(other.close())
    assert world.run(parts.cells.load("once")).data == b"1"
    world.run(parts.cells.remove("once"))


def test_a_write_that_no_majority_has_confirmed_is_unknown(world: World, server: Mongo) -> None:
    parts = world.parts(server.url())
    tag = world.run(parts.cells.swap("unsure", None, b"0"))
    late = {
        "code": 64,
        "errmsg": "waiting for replication timed out",
        "errInfo": {"wtimeout": True},
    }
    for kind, work in (
        ("update", lambda: parts.cells.swap("unsure", tag, b"1")),
        ("insert", lambda: parts.cells.swap("unsure2", None, b"1")),
        ("update", lambda: parts.cells.put("unsure", b"2")),
        ("delete", lambda: parts.cells.remove("unsure2")),
    ):
        with (
            server.failing(kind, writeConcernError=late),
            pytest.raises(pymongo.errors.WriteConcernError),
        ):
            world.run(work())
    # A mismatch that no majority has confirmed is none either.
    with (
        server.failing("update", writeConcernError=late),
        pytest.raises(pymongo.errors.WriteConcernError),
    ):
        world.run(parts.cells.swap("unsure", b"another", b"3"))
    world.run(parts.cells.remove("unsure"))


def test_a_primary_that_fails_for_a_moment_costs_nothing_or_a_fault(
    world: World, server: Mongo
) -> None:
    parts = world.parts(server.url(), timeout=1.0)
    tag = world.run(parts.cells.swap("down", None, b"0"))
    with server.failing("update", errorCode=6, errorLabels=["RetryableWriteError"]):
        new = world.run(parts.cells.swap("down", tag, b"1"))
    assert new is not None
    with (
        server.failing("update", times=3, errorCode=10107, errorLabels=[]),
        pytest.raises(pymongo.errors.NotPrimaryError),
    ):
        world.run(parts.cells.swap("down", new, b"2"))
    other = world.parts(server.url())
    assert world.run(other.cells.load("down")).data == b"1"
    world.run(other.cells.remove("down"))


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (13, LayerRefused),
        (18, LayerRefused),
        (50, LayerTimeout),
        (148, LayerRefused),
        (14031, LayerRefused),
        (8, pymongo.errors.OperationFailure),
    ],
)
def test_what_errors_of_the_server_are(
    world: World, server: Mongo, code: int, raised: type[Exception]
) -> None:
    parts = world.parts(server.url())
    assert world.run(parts.cells.load("x")) is None
    with server.failing("find", errorCode=code), pytest.raises(raised):
        world.run(parts.cells.load("x"))
    assert world.run(parts.cells.load("x")) is None


# -- which servers can be trusted with cells ------------------------------------------------------------


def test_a_server_that_refuses_linearizable_reads_is_not_read_in_another_way(
    world: World, server: Mongo
) -> None:
    """It says that it is a member of a replica set, so a weaker read may be stale."""
    parts = world.parts(server.url())
    world.run(parts.cells.put("strict", b"x"))
    for code in (123, 148, 115, 72):
        with server.failing("find", times=2, errorCode=code), pytest.raises(LayerRefused):
            world.run(parts.cells.load("strict"))
    world.run(parts.cells.remove("strict"))


def test_a_standalone_server_that_becomes_a_member_is_read_linearizably(
    world: World, server: Mongo, tmp_path: Any
) -> None:
    with Mongo(tmp_path, standalone=True) as one, Recorder(one.port) as recorder:
        parts = world.parts(one.url(recorder.port))

        def level() -> bool:
            world.run(parts.cells.put("turn", b"x"))
            recorder.forget()
            world.run(parts.cells.load("turn"))
            return any(b"linearizable" in sent for sent in recorder.sent)

        assert not level()
        for options, expected in (([], True), (["--standalone"], False)):
            one.kill()
            one._options = options
            one.start()
            wait_until(
                lambda: world.run(parts.cells.load("x")) is None, "an answer", faults=Exception
            )
            assert level() is expected
        world.run(parts.close())


def test_a_standalone_server_refuses_linearizable_reads_and_is_read_as_it_is(
    world: World, single: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been restarted as one since pymongo has looked. The server of the tests takes such reads."""
    parts = world.parts(single.url())
    world.run(parts.cells.put("alone", b"x"))
    looks = iter([False, True])
    monkeypatch.setattr(Handles, "alone", property(lambda _: next(looks)))
    with single.failing("find", errorCode=123):
        assert world.run(parts.cells.load("alone")).data == b"x"


def test_a_server_that_only_resembles_mongodb_holds_bodies_and_no_cells(
    world: World, server: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes a read concern that nobody knows. (The server of the tests takes this one.)
    def trial(handles: Any) -> Any:
        return {"find": handles.cells.name, "readConcern": {"level": "available"}}

    for module in (client, administration):
        monkeypatch.setattr(module, "trial", trial)
    parts = world.parts(server.url(), namespace="like")
    world.run(parts.blobs.set("like:b:x", b"x", 60))
    assert world.run(parts.blobs.get_many(["like:b:x"])) == [b"x"]
    for work in (
        lambda: parts.cells.load("x"),
        lambda: parts.cells.swap("x", None, b""),
        lambda: parts.cells.put("x", b""),
        lambda: parts.cells.wait("x", None, 0.2),
    ):
        with pytest.raises(LayerRefused, match="cannot coordinate; use it for bodies"):
            world.run(work())
    layer = MongoLayer(server.url())
    layer.setup()
    (told,) = [one for one in layer.examine() if "cannot coordinate" in one]
    assert told == (
        "This server only resembles MongoDB, and does not look at read concerns: it cannot coordinate; use it"
        " for bodies, and another system for coordination (Shared)."
    )


@pytest.mark.filterwarnings("ignore:You appear to be connected")
@pytest.mark.parametrize(
    "host", ["x.cluster-1.eu.docdb.amazonaws.com", "shop.mongo.COSMOS.azure.com"]
)
def test_servers_that_are_known_to_only_resemble_it(host: str) -> None:
    MongoLayer(f"mongodb://{host}/shop")  # as it may be used for bodies
    connection = Parts(f"mongodb://{host}/shop", ThreadRuntime()).connection
    assert resembling(connection.handles(connection.make(pymongo.MongoClient)))
    other = Parts("mongodb://docdb.amazonaws.com.example.net/shop", ThreadRuntime()).connection
    assert not resembling(other.handles(other.make(pymongo.MongoClient)))


# -- changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["set", "standalone"])
def test_a_change_wakes_whoever_waits(
    world: World, server: Mongo, single: Mongo, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = single if kind == "standalone" else server
    parts, name = world.parts(one.url()), f"wakes-{world.blocking}"
    writer = cells_of(one.url(), "threads")
    tag = run_blocking(writer.swap(name, None, b"0"))
    with caplog.at_level(logging.WARNING, "layergate"):
        assert not world.run(parts.cells.wait(name, tag, 0.2))
        for number in range(3):

            def change(number: int = number) -> None:
                run_blocking(writer.put(name, b"%d" % number))

            timer = threading.Timer(0.2, change)
            timer.start()
            assert world.run(parts.cells.wait(name, tag, BOUND))
            timer.join()
            # Whoever asks again with the same tag is told again, though the stream has told of it already.
            assert world.run(parts.cells.wait(name, tag, BOUND))
            tag = world.run(parts.cells.load(name)).tag
        run_blocking(writer.remove(name))
        assert world.run(parts.cells.wait(name, tag, BOUND))
        assert not world.run(parts.cells.wait(name, None, 0.2))
    told = [one.message for one in caplog.records if "no change streams" in one.message]
    assert len(told) == (kind == "standalone")
    run_blocking(writer._connection.close())


def test_what_one_has_written_oneself_wakes_nobody(world: World, server: Mongo) -> None:
    parts, name = world.parts(server.url()), f"own-{world.blocking}"
    tag = world.run(parts.cells.swap(name, None, b"0"))
    assert not world.run(parts.cells.wait(name, tag, 0.2))
    for number in range(3):
        tag = world.run(parts.cells.swap(name, tag, b"%d" % number))
    assert parts.cells._streams is not None
    # Of the three, two are of tags that are not the last one: those may wake.
    woken = [world.run(parts.cells.wait(name, tag, 0.3)) for _ in range(4)]
    assert woken[-1] is False
    assert woken.count(True) <= 2
    world.run(parts.cells.remove(name))


def test_many_wait_at_once(world: World, server: Mongo) -> None:
    """One of them by the change stream, the others by looking."""
    parts, name = world.parts(server.url()), f"crowd-{world.blocking}"
    tag = world.run(parts.cells.swap(name, None, b"0"))
    writer = cells_of(server.url(), "threads")
    timer = threading.Timer(0.3, lambda: run_blocking(writer.put(name, b"1")))
    if world.blocking:
        woken: list[bool] = []
        threads = [
            threading.Thread(
                target=lambda: woken.append(run_blocking(parts.cells.wait(name, tag, BOUND)))
            )
            for _ in range(4)
        ]
        for thread in [*threads, timer]:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    else:

        async def story() -> list[bool]:
            timer.start()
            return list(
                await asyncio.gather(*(parts.cells.wait(name, tag, BOUND) for _ in range(4)))
            )

        woken = world.run(story())
    timer.join()
    assert woken == [True] * 4
    run_blocking(writer._connection.close())
    world.run(parts.cells.remove(name))


# (pymongo leaves a socket to the garbage collector if it is ended while it connects.)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_stream_that_broke_raises_or_goes_on_and_a_new_one_misses_nothing(
    world: World, server: Mongo, proxy: Proxy
) -> None:
    parts = world.parts(server.url(proxy.port), timeout=0.5, connect_timeout=0.5)
    name = f"broke-{world.blocking}"
    tag = world.run(parts.cells.swap(name, None, b"0"))
    assert not world.run(parts.cells.wait(name, tag, 0.2))
    # It cannot go on from where it was.
    with (
        server.failing("getMore", errorCode=286, errorLabels=["NonResumableChangeStreamError"]),
        pytest.raises(pymongo.errors.OperationFailure),
    ):
        world.run(parts.cells.wait(name, tag, 0.2))
    assert not world.run(parts.cells.wait(name, tag, 0.2))
    # The line broke: pymongo goes on from where it was.
    writer = cells_of(server.url(), "threads")
    proxy.cut()
    run_blocking(writer.put(name, b"1"))
    assert world.run(parts.cells.wait(name, tag, BOUND))
    tag = world.run(parts.cells.load(name)).tag
    # Nobody is there.
    proxy.refuse()
    wait = parts.cells.wait
    with pytest.raises((pymongo.errors.ConnectionFailure, LayerTimeout)):
        world.run(wait(name, tag, 1.0))
    run_blocking(writer.put(name, b"2"))
    proxy.resume()

    def told() -> bool:
        return bool(world.run(parts.cells.wait(name, tag, 1.0)))

    wait_until(told, "the change", faults=Exception)
    run_blocking(writer._connection.close())
    world.run(parts.cells.remove(name))
    gc.collect()


def test_who_may_not_watch_is_refused(world: World, server: Mongo) -> None:
    parts = world.parts(server.url())
    world.run(parts.cells.load("x"))
    with server.failing("aggregate", errorCode=13), pytest.raises(LayerRefused, match="readWrite"):
        world.run(parts.cells.wait("x", None, 0.2))
    assert not world.run(parts.cells.wait("x", None, 0.2))
