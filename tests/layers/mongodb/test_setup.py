"""Making the collections, from many processes at once and without the rights to; and what `examine` tells."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layergate.errors import ConfigError, LayerError, LayerRefused
from layergate.layers.mongodb import MongoLayer
from tests.support.mongo_parts import World
from tests.support.mongo_servers import DATABASE, Mongo
from tests.support.ports import HOST, free_port

PROCESSES = 8
MADE = [
    "Made the collection shop.layergate_entries.",
    "Made the collection shop.layergate_cells.",
    "Made the index layergate_expires on shop.layergate_entries.",
]
ROLES: dict[str, list[Any]] = {
    "owner": [{"role": "readWrite", "db": DATABASE}],
    "reader": [{"role": "read", "db": DATABASE}],
    "guest": [],
}


@pytest.fixture
def empty(server: Mongo) -> Mongo:
    with server.client() as client:
        client.drop_database(DATABASE)
    return server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """A server where everybody needs a password."""
    with Mongo(tmp_path_factory.mktemp("locked")) as running:
        with running.client() as client:
            for user, roles in ROLES.items():
                client[DATABASE].command("createUser", user, pwd="s3cr3t", roles=roles)
            MongoLayer(running.url()).setup()
            client.admin.command("fsync")
        running.stop()
        running._options = ["--auth"]
        running.start()
        yield running


def collections(server: Mongo) -> set[str]:
    with server.client() as client:
        return set(client[DATABASE].list_collection_names())


# -- making -----------------------------------------------------------------------------------------


def test_setup_makes_what_is_missing_and_says_it(empty: Mongo) -> None:
    layer = MongoLayer(empty.url())
    assert list(layer.examine()) == [
        "Missing: shop.layergate_entries and shop.layergate_cells. Run layergate init URL."
    ]
    assert not collections(empty), "to examine changes nothing"
    assert list(layer.setup()) == MADE
    assert list(layer.setup()) == []
    assert list(layer.examine()) == []
    with empty.client() as client:
        client[DATABASE].layergate_entries.drop_index("layergate_expires")
        (told,) = layer.examine()
        assert told == (
            "The index that removes what has expired is missing on shop.layergate_entries: run layergate"
            " init URL."
        )
        assert list(layer.setup()) == MADE[2:]
        client[DATABASE].layergate_cells.drop()
        assert list(layer.setup()) == MADE[1:2]
        assert list(layer.examine()) == []
        for one in ("layergate_entries", "layergate_cells"):
            assert client[DATABASE][one].count_documents({}) == 0


def test_collections_of_another_name_and_database(empty: Mongo) -> None:
    url = empty.url().replace(f"/{DATABASE}?", "/?")
    assert [one.rpartition(" ")[2] for one in MongoLayer(url, prefix="till").setup()] == [
        "layergate.till_entries.",
        "layergate.till_cells.",
        "layergate.till_entries.",
    ]
    assert not collections(empty)
    with empty.client() as client:
        client.drop_database("layergate")


@pytest.mark.parametrize("how", ["setup", "first use"])
def test_many_processes_make_them_at_once(empty: Mongo, how: str) -> None:
    script = f"""
        import os
        from layergate.layers.mongodb import MongoLayer
        from tests.support.mongo_parts import World

        def child():
            os.read(ready, 1)  # which comes when all are there
            if {how!r} == "setup":
                return len(MongoLayer({empty.url()!r}).setup())
            world = World("threads")
            parts = world.parts({empty.url()!r})
            world.run(parts.blobs.set("test:x", b"x", 60))
            world.run(parts.cells.put("test:x", b"x"))
            world.run(parts.close())
            return 0

        ready, go = os.pipe()
        children = []
        for _ in range({PROCESSES}):
            pid = os.fork()
            if not pid:
                os.close(go)
                os._exit(child())
            children.append(pid)
        os.close(go)
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    made = ast.literal_eval(done.stdout)
    assert len(made) == PROCESSES
    assert collections(empty) == {"layergate_entries", "layergate_cells"}
    assert list(MongoLayer(empty.url()).examine()) == []
    if how == "setup":
        assert sum(made) >= 3
        assert set(made) <= {0, 1, 2, 3}
    else:
        assert set(made) == {0}


# -- rights -----------------------------------------------------------------------------------------


@pytest.mark.systems
def test_the_role_that_the_page_names_is_enough(world: World, locked: Mongo) -> None:
    url = locked.url(user="owner:s3cr3t", more=f"authSource={DATABASE}")
    layer = MongoLayer(url)
    layer.setup()
    assert list(layer.examine()) == []
    parts = world.parts(url)
    tag = world.run(parts.cells.swap("head", None, b"x"))
    assert world.run(parts.cells.swap("head", tag, b"y"))
    assert world.run(parts.cells.wait("head", tag, 0.2))
    world.run(parts.cells.remove("head"))
    world.run(parts.blobs.set("test:x", b"x", 60))
    world.run(parts.blobs.clear())


def test_who_may_only_read_is_told_so(world: World, locked: Mongo) -> None:
    url = locked.url(user="reader:s3cr3t", more=f"authSource={DATABASE}")
    layer = MongoLayer(url)
    told = list(layer.examine())
    assert [one.partition(":")[0] for one in told] == [
        f"{what} cannot be {done}"
        for what in ("Entries", "Cells")
        for done in ("changed", "made", "removed")
    ]
    assert all("readWrite" in one for one in told)
    with locked.client(user="owner:s3cr3t") as client:
        client[DATABASE].layergate_entries.drop_index("layergate_expires")
    with pytest.raises(ConfigError, match="role readWrite on the database"):
        layer.setup()
    MongoLayer(locked.url(user="owner:s3cr3t", more=f"authSource={DATABASE}")).setup()
    parts = world.parts(url)
    assert world.run(parts.cells.load("x")) is None
    for work in (
        lambda: parts.cells.put("x", b"x"),
        lambda: parts.cells.swap("x", None, b"x"),
        lambda: parts.cells.remove("x"),
        lambda: parts.blobs.set("test:x", b"x", 60),
    ):
        with pytest.raises(LayerRefused, match="role readWrite on the database") as caught:
            world.run(work())
        assert "s3cr3t" not in str(caught.value)


def test_who_may_nothing_is_told_so(world: World, locked: Mongo) -> None:
    url = locked.url(user="guest:s3cr3t", more=f"authSource={DATABASE}")
    told = list(MongoLayer(url).examine())
    assert len(told) > 4
    assert all("not authorized" in one for one in told)
    parts = world.parts(url)
    for work in (
        lambda: parts.cells.load("x"),
        lambda: parts.cells.wait("x", None, 0.2),
        lambda: parts.blobs.get_many(["x"]),
    ):
        with pytest.raises(LayerRefused, match="role readWrite on the database"):
            world.run(work())


@pytest.mark.parametrize("user", ["owner:wrong-one", "nobody:wrong-one", ""])
def test_a_wrong_password_is_a_refusal_that_names_the_remedy(
    world: World, locked: Mongo, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = locked.url(user=user, more=f"authSource={DATABASE}")
    says = "check the user, the password and authSource" if user else "readWrite|authentication"
    parts = world.parts(url)
    with pytest.raises(LayerRefused, match=says) as caught:
        world.run(parts.cells.load("x"))
    with pytest.raises(LayerError, match=says) as examined:
        raise LayerError("mongodb", " ".join(MongoLayer(url).examine()))
    texts = [caught.value, examined.value, parts.connection.stats(), MongoLayer(url), caplog.text]
    assert "wrong-one" not in " ".join(f"{one!r} {one}" for one in texts)


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layergate.layers.mongodb.administration._ANSWERS", 0.5)
    layer = MongoLayer(f"mongodb://u:s3cr3t@{HOST}:{free_port()}")
    for ask in (layer.examine, layer.setup):
        with pytest.raises(LayerError, match=r"cannot ask it: .*refused") as caught:
            ask()
        assert "s3cr3t" not in str(caught.value)
        assert "Topology" not in str(caught.value)


def test_a_standalone_server_is_told(single: Mongo) -> None:
    layer = MongoLayer(single.url())
    layer.setup()
    (told,) = layer.examine()
    assert told.startswith("This server is standalone: a purge is found by looking")


def test_what_a_server_cannot_is_told(server: Mongo) -> None:
    layer = MongoLayer(server.url())
    layer.setup()

    def told(command: str, times: int = 1, **data: Any) -> list[str]:
        with server.failing(command, times=times, **data):
            return list(layer.examine())

    late = {"code": 64, "errmsg": "timed out", "errInfo": {"wtimeout": True}}
    assert told("update", times=4, writeConcernError=late) == [
        f"{what} are not confirmed by a majority of the set: timed out (code 64)."
        for what in ("Entries", "Cells")
    ]
    (one,) = told("aggregate", errorCode=40573)
    assert one == "This server has no change streams: processes look for purges at intervals."
    (one,) = told("aggregate", errorCode=13)
    assert one.startswith("Changes of cells cannot be watched: ")
    assert list(layer.examine()) == []


def test_the_command_makes_and_checks(empty: Mongo, tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "layergate", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    url = empty.url()
    status, said = run("check", url)
    assert status != 0
    assert "Run layergate init" in said
    status, said = run("init", url)
    assert status == 0, said
    assert MADE[1] in said
    status, checked = run("check", url)
    assert status == 0, checked
    assert "change stream" in checked
