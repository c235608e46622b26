"""A standby takes over: it answers nothing before, and what was lost shows afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from layergate.layers.postgres.errors import ServerError
from tests.support.ports import HOST
from tests.support.postgres_parts import World, entry_of, log_of
from tests.support.postgres_servers import Postgres
from tests.support.waiting import wait_until

pytestmark = pytest.mark.systems


class Pair:
    """A primary and its standby."""

    def __init__(self, folder: Path) -> None:
        self.primary = Postgres(folder)
        try:
            self.primary.sql("CREATE TABLE public.marks (n int)")
            self.standby = Postgres(folder, copies=self.primary)
        except BaseException:
            self.primary.close()
            raise

    def close(self) -> None:
        self.standby.close()
        self.primary.close()

    @property
    def url(self) -> str:
        one = f"{HOST}:{self.primary.port}"
        return self.primary.url().replace(one, f"{one},{HOST}:{self.standby.port}")

    def level(self) -> None:
        """The standby has all that was done so far."""
        ((at,),) = self.primary.sql("SELECT pg_current_wal_lsn()")
        query = f"SELECT pg_last_wal_replay_lsn() >= '{at}'"
        wait_until(lambda: self.standby.sql(query) == [(True,)], "the standby to follow")

    def part(self) -> None:
        """The standby gets nothing more, and does not know."""
        self.standby.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        replicas = "SELECT count(*) FROM pg_stat_replication"
        wait_until(lambda: self.primary.sql(replicas) == [(0,)], "the standby to be cut off")

    def take_over(self) -> None:
        """The primary is gone. (The file of control tells the new timeline only after a checkpoint, which
        this server takes its time for.)"""
        self.primary.kill()
        self.standby.sql("SELECT pg_promote(true, 20)")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def any_server(url: str) -> str:
    return f"{url}?target_session_attrs=any"


def test_a_standby_answers_no_read_of_a_cell_and_once_promoted_it_does(world: World, pair: Pair):
    """On the very connection that was there before. The reads are strong: nothing that could have been
    overtaken elsewhere is an answer."""
    before = world.parts(pair.primary.url())
    world.run(before.cells.put("head", b"x"))
    _, epoch = world.run(before.cells.load_at_epoch("head"))
    pair.level()
    parts = world.parts(any_server(pair.standby.url()))
    for ask in (parts.cells.load, parts.cells.load_at_epoch):
        with pytest.raises(ServerError, match="recovery is in progress"):
            world.run(ask("head"))
    with pytest.raises(ServerError, match="recovery is in progress"):
        world.run(parts.cells.epoch())
    with pytest.raises(psycopg.OperationalError, match="name the primary"):
        world.run(world.parts(pair.standby.url()).cells.load("head"))
    pair.take_over()
    cell, after = world.run(parts.cells.load_at_epoch("head"))
    assert cell.data == b"x"
    assert (epoch[-8:], after[-8:]) == (b"00000001", b"00000002")
    assert epoch[:-8] == after[:-8]
    assert world.run(parts.cells.epoch()) == after


@pytest.mark.systems
def test_a_session_that_is_there_when_a_standby_is_promoted_tells_the_new_timeline(
    world: World, pair: Pair
):
    world.run(world.parts(pair.primary.url()).cells.put("head", b"x"))
    pair.level()
    parts = world.parts(any_server(pair.standby.url()))
    connection = world.run(parts.client.connected())
    load = parts.cells._load
    with pytest.raises(ServerError):
        world.run(connection.exchange(load, [b"head"], 5.0))
    pair.take_over()
    ((data, _, epoch),) = world.run(connection.exchange(load, [b"head"], 5.0)).rows
    assert (data, epoch[-8:]) == (b"x", b"00000002")
    connection.drop()


@pytest.mark.systems
def test_a_primary_that_becomes_a_standby_is_left(world: World, pair: Pair):
    parts = world.parts(pair.primary.url())
    world.run(parts.cells.put("head", b"x"))
    pair.level()
    pair.primary.stop()
    (pair.primary.data / "standby.signal").touch()
    pair.primary.start()
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError, match="name the primary"):
            world.run(parts.cells.load("head"))


@pytest.mark.systems
def test_what_a_failover_lost_is_another_incarnation(world: World, pair: Pair):
    """A purge was final, and is lost with the primary. Nothing of before is served, although the entry of
    before comes back with the backup."""
    layer = world.layer(pair.url, max_disconnected=2.0)
    log = log_of(layer)
    world.run(layer.set("key", entry_of(layer, b"old")))
    pair.level()
    pair.part()
    ((entry,),) = pair.primary.sql("SELECT to_json(e)::text FROM layergate.entries e")
    parts = world.parts(pair.primary.url())
    ((name, data),) = pair.primary.sql(
        "SELECT name, data FROM layergate.cells WHERE name LIKE '%:head'"
    )
    head = world.run(parts.cells.load(name))
    assert world.run(parts.cells.swap(name, head.tag, bytes(data)))  # acknowledged, and lost
    before = layer._joined.positions.log  # type: ignore[union-attr]
    pair.take_over()
    assert world.run(log.sync(probe=True))
    assert layer._joined.positions.log != before  # type: ignore[union-attr]
    pair.standby.sql(
        "INSERT INTO layergate.entries SELECT * FROM"
        f" json_populate_record(null::layergate.entries, '{entry}')"
    )
    assert world.run(layer.get("key")) is None
    assert layer.stats()["other_log"] == 1
    world.run(layer.set("key", entry_of(layer, b"new")))
    found = world.run(layer.get("key"))
    assert found is not None
    assert found.value == b"new"


@pytest.mark.systems
def test_a_failover_that_lost_nothing_is_one_too(world: World, pair: Pair):
    """Nobody can know that it lost nothing."""
    layer = world.layer(pair.url, max_disconnected=2.0)
    before = layer._joined.positions.log  # type: ignore[union-attr]
    pair.level()
    pair.take_over()
    assert world.run(log_of(layer).sync(probe=True))
    assert layer._joined.positions.log != before  # type: ignore[union-attr]


@pytest.mark.systems
def test_a_restart_is_none(world: World, pair: Pair):
    layer = world.layer(pair.primary.url(), max_disconnected=2.0)
    before = layer._joined.positions.log  # type: ignore[union-attr]
    world.run(layer.set("key", entry_of(layer, b"old")))
    pair.primary.kill()
    pair.primary.start()
    assert world.run(log_of(layer).sync(probe=True))
    assert layer._joined.positions.log == before  # type: ignore[union-attr]
