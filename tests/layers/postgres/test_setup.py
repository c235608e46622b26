"""Making the tables, from many processes at once and without the rights to; and what `examine` tells."""

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
from layergate.layers.postgres import PostgresLayer
from tests.support.ports import HOST, free_port
from tests.support.postgres_parts import World
from tests.support.postgres_servers import DATABASE, PASSWORD, Postgres

PROCESSES = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # As a server in production: nothing that `examine` complains of.
    config = {"fsync": "on", "full_page_writes": "on"}
    with Postgres(tmp_path_factory.mktemp("postgres"), config=config) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: Postgres) -> None:
    server.empty()


@pytest.fixture
def guest(server: Postgres) -> Iterator[str]:
    """The URL of a user who may connect, and nothing else."""
    server.sql(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    yield server.url(user="guest")
    server.empty()
    server.sql("DROP OWNED BY guest", "DROP ROLE guest")


def tables(server: Postgres) -> list[Any]:
    query = (
        "SELECT relname, relpersistence FROM pg_class"
        " WHERE relnamespace = to_regnamespace('layergate') AND relkind = 'r' ORDER BY 1"
    )
    return server.sql(query)


MADE = [("cells", "p"), ("entries", "u")]
ALL = "SELECT, INSERT, UPDATE, DELETE"


# -- making -----------------------------------------------------------------------------------------


def test_setup_makes_what_is_missing_and_says_it(server: Postgres):
    layer = PostgresLayer(server.url())
    assert list(layer.setup()) == [
        "Made the schema layergate.",
        'Made the table "layergate".entries.',
        'Made the table "layergate".cells.',
    ]
    assert tables(server) == MADE
    assert list(layer.setup()) == []
    assert list(layer.examine()) == []
    server.sql("DROP TABLE layergate.entries")
    assert list(layer.examine()) == [
        "The table entries is missing in schema layergate: run layergate init URL."
    ]
    assert list(layer.setup()) == ['Made the table "layergate".entries.']
    assert list(layer.examine()) == []


def test_a_schema_of_another_name(server: Postgres):
    layer = PostgresLayer(server.url(), schema="shop_cache")
    assert len(layer.setup()) == 3
    assert list(layer.examine()) == []
    assert tables(server) == []
    server.sql("DROP SCHEMA shop_cache CASCADE")


@pytest.mark.parametrize("how", ["setup", "first use"])
def test_many_processes_make_them_at_once(server: Postgres, how: str):
    script = f"""
        import os
        from layergate.layers.postgres import PostgresLayer
        from tests.support.postgres_parts import World

        def child():
            world = World("threads")
            parts = world.parts({server.url()!r})
            os.read(ready, 1)  # which comes when all are there
            if {how!r} == "setup":
                return len(PostgresLayer({server.url()!r}).setup())
            world.run(parts.blobs.set("test:x", b"x", 60))
            world.run(parts.cells.put("test:x", b"x"))
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
    assert tables(server) == MADE
    if how == "setup":
        assert 3 in made
        assert set(made) <= {0, 3}
    else:
        assert set(made) == {0}


def test_they_are_made_at_the_first_use(world: World, server: Postgres):
    parts = world.parts(server.url())
    assert world.run(parts.cells.load("x")) is None
    assert tables(server) == MADE


# -- rights -----------------------------------------------------------------------------------------


def test_who_may_not_make_them_is_told_what_to_do(world: World, server: Postgres, guest: str):
    parts = world.parts(guest)
    with pytest.raises(LayerRefused, match="run: layergate init URL, as a user who may") as caught:
        world.run(parts.cells.load("x"))
    assert PASSWORD not in str(caught.value)
    layer = PostgresLayer(guest)
    with pytest.raises(ConfigError, match='CREATE SCHEMA layergate AUTHORIZATION "guest"'):
        layer.setup()
    assert list(layer.examine()) == [
        "The schema is missing in schema layergate: run layergate init URL."
    ]


def test_it_is_not_tried_again_with_each_call(world: World, server: Postgres, guest: str):
    parts = world.parts(guest)
    now = [0.0]
    client: Any = parts.client
    client.runtime.monotonic = lambda: now[0]

    def trips() -> float:
        before = parts.client.stats()["round_trips"]
        with pytest.raises(LayerRefused, match="cannot be made"):
            world.run(parts.cells.load("x"))
        return parts.client.stats()["round_trips"] - before

    assert [trips(), trips(), trips()] == [3, 1, 1]
    now[0] = 6.0
    assert [trips(), trips()] == [3, 1]
    PostgresLayer(server.url()).setup()
    server.sql(
        "GRANT USAGE ON SCHEMA layergate TO guest",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA layergate TO guest",
    )
    assert world.run(parts.cells.load("x")) is None


def test_what_setup_says_is_enough(world: World, server: Postgres, guest: str):
    server.sql('CREATE SCHEMA layergate AUTHORIZATION "guest"')
    layer = PostgresLayer(guest)
    assert len(layer.setup()) == 2
    assert list(layer.examine()) == []
    parts = world.parts(guest)
    tag = world.run(parts.cells.swap("head", None, b"x"))
    assert world.run(parts.cells.swap("head", tag, b"y"))
    assert world.run(parts.cells.wait("head", tag, 0.0))
    world.run(parts.blobs.set("test:x", b"x", 60))
    world.run(parts.blobs.clear())


def test_examine_tells_one_right_after_another(world: World, server: Postgres, guest: str):
    """What it says to run is enough, to the letter."""
    PostgresLayer(server.url()).setup()
    layer, parts = PostgresLayer(guest), world.parts(guest)
    with pytest.raises(LayerRefused, match="layergate check URL tells which rights"):
        world.run(parts.cells.load("x"))
    said = []
    while told := layer.examine():
        said.append(list(told))
        for sentence in told:
            server.sql(sentence.partition(": run ")[2].rstrip("."))
    assert said == [
        [
            'User "guest" may not use the schema: run GRANT USAGE ON SCHEMA layergate TO "guest".',
        ],
        [
            f'User "guest" lacks rights: run GRANT {ALL} ON "layergate".entries TO "guest".',
            f'User "guest" lacks rights: run GRANT {ALL} ON "layergate".cells TO "guest".',
        ],
    ]
    server.sql("REVOKE UPDATE, DELETE ON layergate.cells FROM guest")
    assert list(layer.examine()) == [
        'User "guest" lacks rights: run GRANT UPDATE, DELETE ON "layergate".cells TO "guest".'
    ]
    with pytest.raises(LayerRefused, match="permission denied"):
        world.run(parts.cells.put("x", b"x"))
    server.sql('GRANT UPDATE, DELETE ON "layergate".cells TO guest')
    world.run(parts.cells.put("x", b"x"))
    world.run(parts.blobs.set_if("x", b"", "test:x", b"x", 60))
    world.run(parts.cells.remove("x"))


# -- what else is told --------------------------------------------------------------------------------


def test_a_server_that_may_forget_is_told(server: Postgres):
    layer = PostgresLayer(server.url())
    layer.setup()
    server.sql("ALTER TABLE layergate.cells SET UNLOGGED")
    server.stop()
    server.config |= {"fsync": "off", "full_page_writes": "off"}
    try:
        server.start()
        fsync, pages, unlogged = layer.examine()
        assert [fsync, pages] == [
            "fsync is off: a crash of the machine may lose purges that were final.",
            "full_page_writes is off: a crash of the machine may lose purges that were final.",
        ]
        assert unlogged == (
            'Table "layergate".cells is unlogged: a crash of the server loses purges; run ALTER TABLE'
            ' "layergate".cells SET LOGGED.'
        )
    finally:
        server.stop()
        server.config |= {"fsync": "on", "full_page_writes": "on"}
        server.start()


def test_a_server_that_is_away_or_does_not_let_us_in():
    layer = PostgresLayer(f"postgresql://u:hunter2@{HOST}:{free_port()}/shop")
    for ask in (layer.examine, layer.setup):
        with pytest.raises(LayerError, match=r"cannot connect.*refused") as caught:
            ask()
        assert "hunter2" not in str(caught.value)


def test_a_wrong_password_or_database(server: Postgres):
    layer = PostgresLayer(server.url().replace("s3cret", "wrong-one"))
    with pytest.raises(LayerError, match="check the user and the password") as caught:
        layer.examine()
    assert "wrong-one" not in str(caught.value)
    with pytest.raises(LayerError, match='database "nothing" does not exist'):
        PostgresLayer(server.url(database="nothing")).setup()


def test_the_command_makes_and_checks(server: Postgres, tmp_path: Path):
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "layergate", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    url = server.url()
    status, said = run("check", url)
    assert status != 0
    assert "run layergate init" in said
    status, said = run("init", url)
    assert status == 0, said
    assert 'Made the table "layergate".cells.' in said
    status, checked = run("check", url)
    assert status == 0, checked
    assert "NOTIFY" in checked
    for text in (said, checked):
        assert "s3cret" not in text
    assert DATABASE in checked
