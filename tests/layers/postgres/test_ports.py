"""What entries and cells in a PostgreSQL promise beyond the suites of conformance, in both worlds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from layergate.errors import LayerRefused
from layergate.layers.postgres.cells import channel
from layergate.shared.ports import (
    MORE,
    ConditionalBlobs,
    EpochLoadingCells,
    RemovableCells,
    WaitableCells,
)
from tests.support.postgres_parts import Parts, World
from tests.support.postgres_servers import DATABASE, Postgres
from tests.support.waiting import BOUND, wait_until

pytestmark = pytest.mark.systems

FAULTS = (psycopg.OperationalError, TimeoutError)


def test_they_offer_all_that_the_machinery_can_use(world: World, server: Postgres):
    parts = world.parts(server.url())
    assert isinstance(parts.cells, WaitableCells)
    assert isinstance(parts.cells, EpochLoadingCells)
    assert isinstance(parts.cells, RemovableCells)
    assert isinstance(parts.blobs, ConditionalBlobs)


# -- entries ----------------------------------------------------------------------------------------


def test_many_values_are_one_round_trip(world: World, server: Postgres):
    parts = world.parts(server.url())
    names = [f"test:trip:{number}" for number in range(64)]
    for name in names[::2]:
        world.run(parts.blobs.set(name, name.encode() + b"\x00\xff", 60))
    before = parts.client.stats()["round_trips"]
    found = world.run(parts.blobs.get_many(names))
    assert found == [
        name.encode() + b"\x00\xff" if n % 2 == 0 else None for n, name in enumerate(names)
    ]
    assert parts.client.stats()["round_trips"] == before + 1


def test_a_large_value_lies_as_it_is(world: World, server: Postgres):
    """It is not compressed again: here it would shrink to nothing."""
    parts = world.parts(server.url())
    data = bytes(1_000_000)
    world.run(parts.blobs.set("test:large", data, 60))
    assert world.run(parts.blobs.get_many(["test:large"])) == [data]
    query = "SELECT pg_column_size(data) FROM layergate.entries WHERE name = 'test:large'"
    assert server.sql(query)[0][0] >= 1_000_000
    assert world.run(parts.blobs.delete("test:large"))
    assert not world.run(parts.blobs.delete("test:large"))


def test_lifetimes_are_kept_to_the_millisecond_by_the_clock_of_the_server(
    world: World, server: Postgres
):
    parts = world.parts(server.url())
    for seconds in (0.001, 0.25, 1.0, 3600.0, 1e12):
        world.run(parts.blobs.set("test:life", b"x", seconds))
        ((left,),) = server.sql(
            "SELECT extract(epoch FROM expires - now())::float8 FROM layergate.entries"
            " WHERE name = 'test:life'"
        )
        assert min(seconds, 1e9) - BOUND < left <= min(seconds, 1e9)
    world.run(parts.blobs.set("test:life", b"x", 0.001))
    wait_until(
        lambda: world.run(parts.blobs.get_many(["test:life"])) == [None], "the entry to expire"
    )


def test_who_writes_removes_what_has_expired_of_any_namespace(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.blobs.set("test:here", b"x", 60))
    server.sql(
        "DELETE FROM layergate.entries WHERE name <> 'test:here'",
        "INSERT INTO layergate.entries SELECT 'other:' || n, now() - interval '1 minute', ''"
        " FROM generate_series(1, 300) n",
    )
    count = "SELECT count(*) FROM layergate.entries WHERE name LIKE 'other:%'"
    for number in range(64):
        world.run(parts.blobs.set(f"test:{number}", b"x", 60))
    assert server.sql(count) == [(100,)]
    for number in range(64):
        world.run(parts.blobs.set(f"test:{number}", b"x", 60))
    assert server.sql(count) == [(0,)]
    assert world.run(parts.blobs.get_many(["test:here"])) == [b"x"]


def test_what_cannot_be_swept_is_no_error_of_the_write(world: World, server: Postgres):
    parts = world.parts(server.url())
    server.sql(
        "CREATE FUNCTION layergate.no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'no'; END$$",
        "CREATE TRIGGER no BEFORE DELETE ON layergate.entries EXECUTE FUNCTION layergate.no()",
    )
    try:
        for number in range(130):
            world.run(parts.blobs.set(f"test:{number}", b"x", 60))
        with pytest.raises(Exception, match="no"):
            world.run(parts.blobs.delete("test:1"))
    finally:
        server.sql("DROP FUNCTION layergate.no CASCADE")


def test_clear_removes_its_namespace_part_by_part_and_no_other(world: World, server: Postgres):
    mine = world.parts(server.url(), namespace="shop")
    others = ["sho", "shop2", "shop:e", "shop-", "a", "z", "SHOP"]
    for namespace in ["shop", *others]:
        server.sql(
            f"INSERT INTO layergate.entries SELECT '{namespace}:e:{{' || n || '}}',"
            " now() + interval '1 hour', '' FROM generate_series(1, 450) n ON CONFLICT DO NOTHING"
        )
    parts = 0
    while world.run(mine.blobs.clear()) is MORE:
        parts += 1
    assert parts > 1
    count = "SELECT split_part(name, ':e:{', 1), count(*) FROM layergate.entries GROUP BY 1"
    left = dict(server.sql(count))
    assert {name: left.get(name, 0) for name in ["shop", *others]} == {
        "shop": 0,
        **dict.fromkeys(others, 450),
    }
    ((plan,),) = server.sql(
        "SET enable_seqscan = off",
        "EXPLAIN (FORMAT JSON) SELECT ctid FROM layergate.entries"
        " WHERE name >= 'shop:e:{' AND name < 'shop:e:|' LIMIT 100 FOR UPDATE SKIP LOCKED",
    )
    assert "Seq Scan" not in str(plan)
    server.sql("TRUNCATE layergate.entries")


def test_clear_takes_as_much_at_once_as_takes_a_part_of_the_time(world: World, server: Postgres):
    parts = world.parts(server.url(), namespace="shop")
    world.run(parts.blobs.clear())
    client: Any = parts.client
    now = [0.0]
    client.runtime.monotonic = lambda: now[0]
    sizes: list[int] = []
    took = [0.0, 0.0, 4.0, 4.0, 0.7, 0.0]  # of a budget of 5 s
    run = client.run

    async def slowly(*call: Any) -> Any:
        now[0] += took[len(sizes)]
        sizes.append(parts.blobs._clears)
        return await run(*call)

    client.run = slowly
    for _ in took:
        world.run(parts.blobs.clear())
    assert sizes == [200, 400, 800, 400, 200, 200]


def test_an_entry_is_set_only_while_the_cell_is_as_it_was(world: World, server: Postgres):
    parts = world.parts(server.url())
    tag = world.run(parts.cells.swap("test:lease", None, b"mine"))
    assert world.run(parts.blobs.set_if("test:lease", tag, "test:fenced", b"one", 60))
    assert not world.run(parts.blobs.set_if("test:lease", b"other", "test:fenced", b"two", 60))
    assert not world.run(parts.blobs.set_if("test:none", tag, "test:fenced", b"two", 60))
    assert not world.run(parts.blobs.set_if("test:lease", 7, "test:fenced", b"two", 60))
    world.run(parts.cells.swap("test:lease", tag, b"taken"))
    assert not world.run(parts.blobs.set_if("test:lease", tag, "test:fenced", b"two", 60))
    assert world.run(parts.blobs.get_many(["test:fenced"])) == [b"one"]
    world.run(parts.cells.remove("test:lease"))


def test_a_lease_that_is_taken_meanwhile_fences(world: World, server: Postgres):
    """The writer waits for who takes the lease, and finds that it was taken."""
    parts = world.parts(server.url())
    tag = world.run(parts.cells.swap("test:lease", None, b"mine"))
    done: list[bool] = []
    with server.connect() as other, World("threads") as threads:
        mine = threads.parts(server.url())

        def write() -> None:
            work = mine.blobs.set_if("test:lease", tag, "test:late", b"late", 60)
            done.append(threads.run(work))

        writer = threading.Thread(target=write)
        with other.transaction():
            other.execute("UPDATE layergate.cells SET tag = 'x' WHERE name = 'test:lease'")
            writer.start()
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: server.sql(waits) == [(1,)], "the writer to wait")
        writer.join(BOUND)
    assert done == [False]
    assert world.run(parts.blobs.get_many(["test:late"])) == [None]
    world.run(parts.cells.remove("test:lease"))


def test_a_value_that_the_server_refuses(world: World, server: Postgres):
    parts = world.parts(server.url())
    server.sql("ALTER TABLE layergate.entries ADD CONSTRAINT small CHECK (length(data) < 100)")
    try:
        with pytest.raises(LayerRefused, match="small"):
            world.run(parts.blobs.set("test:small", bytes(200), 60))
        world.run(parts.blobs.set("test:small", b"x", 60))
    finally:
        server.sql("ALTER TABLE layergate.entries DROP CONSTRAINT small")


def test_tables_that_vanish_are_made_again(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.put("test:gone", b"x"))
    world.run(parts.blobs.set("test:gone", b"x", 60))
    server.empty()
    assert world.run(parts.cells.load("test:gone")) is None
    world.run(parts.blobs.set("test:gone", b"x", 60))
    assert world.run(parts.blobs.get_many(["test:gone"])) == [b"x"]


# -- cells ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Acknowledges what it has not written down, and writes it down late."""
    config = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    with Postgres(tmp_path_factory.mktemp("forgetful"), config=config) as server:
        yield server


@pytest.mark.parametrize("how", ["nothing", "create", "swap", "told", "put", "remove"])
def test_a_write_is_durable_when_it_returns_whatever_the_database_is_set_to(
    forgetful: Postgres, how: str
):
    server = forgetful
    with World("threads") as world:
        parts = world.parts(server.url())
        world.run(parts.client.run(parts.client.tables.look))
        server.empty()
        name = "head" if how == "told" else "cell"
        world.run(parts.cells.put(name, b"before"))
        before = world.run(parts.cells.load(name))
        # What went before would else be written with it.
        server.sql("CHECKPOINT")
        match how:
            case "nothing":  # the server does forget
                server.sql("DELETE FROM layergate.cells")
            case "create":
                world.run(parts.cells.swap("new", None, b"after"))
            case "swap" | "told":
                assert world.run(parts.cells.swap(name, before.tag, b"after"))
            case "put":
                world.run(parts.cells.put(name, b"after"))
            case "remove":
                world.run(parts.cells.remove(name))
        server.kill()
        server.start()
        found = {
            name: bytes(data) for name, data in server.sql("SELECT name, data FROM layergate.cells")
        }
        assert (
            found
            == {
                "nothing": {"cell": b"before"},
                "create": {"cell": b"before", "new": b"after"},
                "swap": {"cell": b"after"},
                "told": {"head": b"after"},
                "put": {"cell": b"after"},
                "remove": {},
            }[how]
        )


def test_what_a_user_set_more_strictly_stays(world: World, server: Postgres):
    """`remote_apply` waits for a standby that is not there."""
    parts = world.parts(server.url(), timeout=0.3)
    world.run(parts.cells.put("strict", b"x"))
    server.sql(
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        f"ALTER DATABASE {DATABASE} SET synchronous_commit = remote_apply",
        "SELECT pg_reload_conf()",
    )
    try:
        world.run(parts.client.close())
        with server.connect(options="-c synchronous_commit=local") as connection:
            wait_until(
                lambda: (
                    connection.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",)
                ),
                "the setting",
            )
        with pytest.raises(FAULTS):
            world.run(parts.cells.put("strict", b"y"))
    finally:
        with server.connect(options="-c synchronous_commit=local") as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute(f"ALTER DATABASE {DATABASE} RESET synchronous_commit")
            connection.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.sql("SHOW synchronous_standby_names") == [("",)], "the setting")


def test_updates_of_a_cell_touch_no_index(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.put("hot", b"0"))
    query = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE schemaname = 'layergate' AND relname = 'cells'"
    )
    before = server.sql("SELECT pg_stat_force_next_flush()", query)[0]
    for number in range(200):
        world.run(parts.cells.put("hot", b"%d" % number * 40))
    world.run(parts.client.close())
    updated = 0

    def flushed() -> bool:
        nonlocal updated
        updated = server.sql(query)[0][0] - before[0]
        return updated >= 200

    wait_until(flushed, "the statistics")
    assert server.sql(query)[0][1] - before[1] > 190


def test_cell_and_epoch_are_one_round_trip(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.put("both", b"x"))
    before = parts.client.stats()["round_trips"]
    cell, epoch = world.run(parts.cells.load_at_epoch("both"))
    assert parts.client.stats()["round_trips"] == before + 1
    assert cell.data == b"x"
    ((identifier,),) = server.sql("SELECT system_identifier::text FROM pg_control_system()")
    assert epoch == f"{identifier}00000001".encode() == world.run(parts.cells.epoch())
    assert world.run(parts.cells.load_at_epoch("none")) == (None, epoch)


def test_a_conflict_of_transactions_is_a_swap_that_failed(world: World, server: Postgres):
    """Where the isolation is stricter, and a pooler keeps us from setting it."""
    parts = world.parts(server.url(), timeout=10.0)
    tag = world.run(parts.cells.swap("strict", None, b"x"))
    done: list[Any] = []
    with World("threads") as threads:
        mine = threads.parts(server.url(), timeout=10.0)
        threads.run(mine.cells.load("strict"))
        (connection,) = mine.client._pools.here()._idle
        strict = b"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        threads.run(connection.script(strict, 5.0))

        def swap() -> None:
            done.append(threads.run(mine.cells.swap("strict", tag, b"late")))

        with server.connect() as other:
            with other.transaction():
                other.execute("UPDATE layergate.cells SET tag = 'y' WHERE name = 'strict'")
                thread = threading.Thread(target=swap)
                thread.start()
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                wait_until(lambda: server.sql(waits) == [(1,)], "the swap to wait")
            thread.join(BOUND)
    assert done == [None]
    world.run(parts.cells.remove("strict"))


# -- being told -------------------------------------------------------------------------------------


class Listener:
    """Waits in a thread, in a world of its own."""

    def __init__(self, server: Postgres, kind: str, tag: Any, *, told: str = "head") -> None:
        self.world = World(kind)
        self.parts = self.world.parts(server.url(), told=told)
        self.results: list[Any] = []
        self.tag = tag
        self.told = told

    def wait(self, seconds: float = BOUND) -> threading.Thread:
        def work() -> None:
            try:
                self.results.append(
                    self.world.run(self.parts.cells.wait(self.told, self.tag, seconds))
                )
            except Exception as error:
                self.results.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def close(self) -> None:
        self.world.__exit__()


@pytest.fixture(params=["loop", "threads"])
def listener(request: Any, server: Postgres, world: World) -> Any:
    with World("threads") as own:
        parts = own.parts(server.url())
        own.run(parts.cells.remove("head"))
    made = Listener(server, request.param, None)
    yield made
    made.close()
    with World("threads") as own:
        own.run(own.parts(server.url()).cells.remove("head"))


def listens(server: Postgres) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    return bool(server.sql(query) == [(1,)])


def test_whoever_waits_is_told_of_a_new_cell_and_of_a_change(
    world: World, server: Postgres, listener: Listener
):
    writer = world.parts(server.url())
    tag = None
    for number in range(3):
        listener.tag = tag
        thread = listener.wait()
        wait_until(lambda: listens(server), "somebody to listen")
        calls = listener.parts.client.stats()["round_trips"]
        tag = world.run(writer.cells.swap("head", tag, b"%d" % number))
        assert tag is not None
        thread.join(BOUND)
        assert listener.results[-1] is True
        if number:  # once it listens, nothing is asked
            assert listener.parts.client.stats()["round_trips"] == calls
    assert listener.parts.client.stats()["connects"] == 2  # one asks, one listens


def test_a_change_while_nobody_waits_is_not_missed(
    world: World, server: Postgres, listener: Listener
):
    writer = world.parts(server.url())
    listener.wait(0.01).join(BOUND)
    assert listener.results == [False]
    assert world.run(writer.cells.swap("head", None, b"x"))
    began = time.monotonic()
    listener.wait(BOUND).join(BOUND)
    assert listener.results == [False, True]
    assert time.monotonic() - began < BOUND / 2


def test_a_change_before_anybody_listens_is_seen_when_it_begins(
    world: World, server: Postgres, listener: Listener
):
    assert world.run(world.parts(server.url()).cells.swap("head", None, b"x"))
    listener.wait(BOUND).join(BOUND)
    assert listener.results == [True]


def test_other_cells_are_looked_at(world: World, server: Postgres, listener: Listener):
    """Nobody is told of them."""
    listener.told = "other"
    assert channel("other") != channel("head")
    thread = listener.wait()
    wait_until(lambda: listener.parts.client.stats()["round_trips"] > 1, "a look")
    with World("threads") as own:
        own.run(own.parts(server.url()).cells.put("other", b"x"))
    thread.join(BOUND)
    assert listener.results == [True]
    with World("threads") as own:
        own.run(own.parts(server.url()).cells.remove("other"))


def test_a_lost_connection_raises_and_the_next_wait_connects(
    world: World, server: Postgres, listener: Listener
):
    thread = listener.wait()
    wait_until(lambda: listens(server), "somebody to listen")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    thread.join(BOUND)
    (lost,) = listener.results
    assert isinstance(lost, psycopg.OperationalError)
    thread = listener.wait()
    wait_until(lambda: listens(server), "somebody to listen")
    assert world.run(world.parts(server.url()).cells.swap("head", None, b"x"))
    thread.join(BOUND)
    assert listener.results[1:] == [True]


def test_a_connection_that_went_dead_without_a_sign_is_noticed_by_the_next_change(
    world: World, server: Postgres, listener: Listener
):
    """The heartbeat finds the change. Nothing was heard of it, so the line is tried, and replaced."""
    client: Any = listener.parts.client
    client.timeout = 0.3
    listener.wait(0.01).join(BOUND)
    ((pid,),) = server.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    os.kill(pid, signal.SIGSTOP)
    try:
        listener.tag = world.run(world.parts(server.url()).cells.swap("head", None, b"x"))
        listener.wait().join(BOUND)
        listener.wait(0.01).join(BOUND)
    finally:
        os.kill(pid, signal.SIGCONT)
    quiet, noticed, after = listener.results
    assert quiet is False
    assert isinstance(noticed, TimeoutError)
    assert after is False  # the tag is the cell's own
    assert listener.parts.client.stats()["connects"] == 3


def test_two_layers_of_one_server_hear_only_their_own(world: World, server: Postgres):
    with World("threads") as own:
        one = own.parts(server.url(), told="one:head")
        assert not own.run(one.cells.wait("one:head", None, 0.01))
        assert world.run(
            world.parts(server.url(), told="two:head").cells.swap("two:head", None, b"x")
        )
        assert not own.run(one.cells.wait("one:head", None, 0.2))
        own.run(one.cells.remove("two:head"))


async def test_a_wait_that_is_cancelled_leaves_no_connection(server: Postgres):
    parts = Parts(server.url(), World("loop").runtime)
    waits = asyncio.create_task(parts.cells.wait("head", None, BOUND))
    await asyncio.to_thread(wait_until, lambda: listens(server), "somebody to listen")
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    await asyncio.to_thread(wait_until, lambda: not listens(server), "the connection to close")
    await parts.close()
