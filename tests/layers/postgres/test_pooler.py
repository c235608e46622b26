"""A PostgreSQL behind a pooler that gives each transaction another session (pgbouncer)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import psycopg
import pytest

from layergate.layers.postgres import PostgresLayer
from layergate.runtime.loop import LoopRuntime
from layergate.shared.ports import Cells
from layergate.testing.cells import CellsConformance
from tests.support.postgres_parts import Parts, World, cells_of, entry_of
from tests.support.postgres_pooler import Pooler
from tests.support.postgres_servers import Postgres
from tests.support.waiting import BOUND, wait_until

pytestmark = pytest.mark.systems


@pytest.fixture(scope="module")
def pooler(tmp_path_factory: pytest.TempPathFactory, server: Postgres) -> Iterator[Pooler]:
    with Pooler(tmp_path_factory.mktemp("pooler"), server) as running:
        yield running


def test_a_pooler_is_recognized_and_said_once(
    world: World, pooler: Pooler, caplog: pytest.LogCaptureFixture
):
    parts = world.parts(pooler.url)
    with caplog.at_level(logging.WARNING, "layergate"):
        tag = world.run(parts.cells.swap("test:head", None, b"x"))
        assert not world.run(parts.cells.wait("head", None, 0.01))
        world.run(parts.client.close())
        assert world.run(parts.cells.swap("test:head", tag, b"y"))
    world.run(parts.cells.remove("test:head"))
    assert parts.client.pooled
    (line,) = [one.message for one in caplog.records if "pooler" in one.message]
    assert "looks for purges at intervals" in line


def test_it_changes_no_setting_of_sessions_that_others_use(
    world: World, server: Postgres, pooler: Pooler
):
    parts = world.parts(pooler.url)
    for number in range(20):
        world.run(parts.cells.put(f"test:{number}", b"x"))
        world.run(parts.blobs.set_if(f"test:{number}", b"", "test:x", b"x", 60))
    names = [
        "statement_timeout",
        "enable_seqscan",
        "default_transaction_isolation",
        "synchronous_commit",
    ]
    with server.connect() as plain:
        expected = [plain.execute(f"SHOW {name}").fetchone() for name in names]
    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as other:
        for _ in range(10):
            assert [other.execute(f"SHOW {name}").fetchone() for name in names] == expected
        prepared = other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert prepared == (0,)


async def test_many_calls_at_once_over_few_sessions(pooler: Pooler):
    parts = Parts(pooler.url, LoopRuntime(), most=8)

    async def call(number: int) -> None:
        name = f"test:many:{number}"
        for turn in range(5):
            await parts.blobs.set(name, b"%d:%d" % (number, turn), 60)
            assert await parts.blobs.get_many([name]) == [b"%d:%d" % (number, turn)]

    await asyncio.gather(*(call(number) for number in range(64)))
    await parts.close()


def test_who_waits_looks(world: World, pooler: Pooler):
    parts = world.parts(pooler.url)
    with World("threads") as there:
        writer = there.parts(pooler.url)
        tag = there.run(writer.cells.swap("head", None, b"x"))
        assert not world.run(parts.cells.wait("head", tag, 0.3))
        assert there.run(writer.cells.swap("head", tag, b"y"))
        assert world.run(parts.cells.wait("head", tag, BOUND))
        there.run(writer.cells.remove("head"))
    # One connection, and about one look for each 0.2 s.
    assert parts.client.stats()["connects"] <= 2


def test_prepared_statements_of_a_pooler_that_was_not_recognized(world: World, pooler: Pooler):
    """One that passes on the server's own process number, until that is another one."""
    parts = world.parts(pooler.url)
    world.run(parts.cells.load("x"))
    (connection,) = world.run(_idle(parts))
    connection.prepares, parts.client.pooled = True, False
    with contextlib.ExitStack() as stack:
        # Each is in a transaction, which holds a session: so the next load meets one session after another.
        for _ in range(2):
            assert world.run(parts.cells.load("x")) is None
            other = psycopg.connect(pooler.url, prepare_threshold=None)
            stack.enter_context(other).execute("SELECT 1")
        assert world.run(parts.cells.load("x")) is None
    for number in range(10):
        world.run(parts.cells.put("test:x", b"%d" % number))
        assert world.run(parts.cells.load("test:x")).data == b"%d" % number
    assert parts.client.pooled
    world.run(parts.cells.remove("test:x"))


async def _idle(parts: Parts) -> Any:
    return parts.client._pools.here()._idle


def test_a_pooler_that_was_restarted(world: World, pooler: Pooler):
    parts = world.parts(pooler.url)
    world.run(parts.cells.put("test:again", b"x"))
    pooler.kill()
    with pytest.raises(psycopg.OperationalError):
        world.run(parts.cells.load("test:again"))
    pooler.start()
    assert world.run(parts.cells.load("test:again")).data == b"x"
    world.run(parts.cells.remove("test:again"))


def test_operators_are_told(server: Postgres, pooler: Pooler):
    layer = PostgresLayer(pooler.url)
    layer.setup()
    (told,) = [one for one in layer.examine() if "pooler" in one]
    assert told == (
        "The URL leads to a pooler, which passes on no notifications: processes look for purges at"
        " intervals; name the server itself to have them told."
    )


def test_a_layer_promises_what_it_does(world: World, pooler: Pooler):
    one, two = (world.layer(pooler.url, namespace="pooled") for _ in range(2))
    world.run(one.set("key", entry_of(one, b"shared")))
    found = world.run(two.get("key"))
    assert found is not None
    assert found.value == b"shared"
    assert (two.capabilities.woken_by, two.capabilities.look_every) == ("looking", 0.2)
    wait_until(lambda: two.stats()["round_trips"] > 0)
    world.run(one.clear())


class TestCells(CellsConformance):
    url: ClassVar[str]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, pooler: Pooler) -> None:
        cls.url = pooler.url

    def make_cells(self) -> Cells:
        return cells_of(self.url)

    async def close_cells(self, cells: Any) -> None:
        await cells.close()
        await cells._client.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.postgres_parts:cells_of", [self.url]
