"""`PostgresLayer` in a stack: what is its own beside the suite of conformance."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from layergate.errors import ConfigError, LayerRefused, LayerTimeout, LayerUnavailable
from layergate.layers.postgres import PostgresLayer
from layergate.layers.postgres.blobs import PostgresBlobs
from layergate.layers.schemes import layer_of, shown_url
from layergate.runtime.threads import run_blocking
from layergate.shared.ports import Limits
from tests.support.ports import HOST, free_port
from tests.support.postgres_parts import World, entry_of, log_of
from tests.support.postgres_servers import Postgres
from tests.support.waiting import BOUND, until, wait_until

pytestmark = pytest.mark.systems


def rows(server: Postgres, namespace: str) -> list[Any]:
    query = f"SELECT name, data, expires FROM layergate.entries WHERE name LIKE '{namespace}:%'"
    return server.sql(query)


def test_two_instances_share_entries(world: World, server: Postgres):
    one, two = (world.layer(server.url(), namespace="two") for _ in range(2))

    async def story() -> None:
        await one.set("key", entry_of(one, b"shared"))
        found = await two.get("key")
        assert found is not None
        assert found.value == b"shared"
        assert await two.delete("key")
        assert await one.get("key") is None

    world.run(story())


def test_keys_are_hashed_and_entries_are_signed(world: World, server: Postgres):
    secret = "a secret of more than 16 bytes"
    layer = world.layer(server.url(), namespace="hidden", secret=secret)
    world.run(layer.set("https://shop.example/basket?user=ada", entry_of(layer, b"value")))
    ((name, data, _),) = rows(server, "hidden")
    assert "ada" not in name
    assert "basket" not in name
    assert b"ada" not in data
    server.sql(f"UPDATE layergate.entries SET data = data || 'x' WHERE name = '{name}'")
    assert world.run(layer.get("https://shop.example/basket?user=ada")) is None
    assert layer.stats()["undecodable"] == 1


def test_an_entry_ends_in_the_table_when_it_expires(world: World, server: Postgres):
    layer = world.layer(server.url(), namespace="ends")
    world.run(layer.set("key", entry_of(layer, lifetime=100.0)))
    ((_, _, expires),) = rows(server, "ends")
    assert 100.0 - BOUND < expires.timestamp() - time.time() <= 100.5


def test_a_value_that_is_too_large_is_declined_counted_and_said_once(
    world: World, server: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    monkeypatch.setattr(PostgresBlobs, "limits", Limits(largest=10_000))
    layer = world.layer(server.url(), namespace="large")
    with caplog.at_level(logging.WARNING, "layergate"):
        for _ in range(3):
            world.run(layer.set("key", entry_of(layer, bytes(10_001))))
    assert not rows(server, "large")
    assert layer.stats()["too_large"] == 3
    assert len([one for one in caplog.records if "takes 10000 bytes" in one.message]) == 1
    world.run(layer.set("key", entry_of(layer, bytes(5000))))
    assert len(rows(server, "large")) == 1


def test_sixty_four_gets_at_once_are_one_round_trip_on_a_loop(server: Postgres):
    with World("loop") as world:
        layer = world.layer(server.url(), namespace="at-once")

        async def story() -> None:
            for number in range(0, 64, 2):
                await layer.set(f"key{number}", entry_of(layer, b"%d" % number))
            before = layer.stats()["round_trips"]
            found = await asyncio.gather(*(layer.get(f"key{number}") for number in range(64)))
            assert layer.stats()["round_trips"] == before + 1
            assert [None if one is None else one.value for one in found] == [
                b"%d" % number if number % 2 == 0 else None for number in range(64)
            ]

        world.run(story())


def test_sixty_four_gets_at_once_on_threads(server: Postgres):
    with World("threads") as world:
        layer = world.layer(server.url(), namespace="at-once")
        for number in range(0, 64, 2):
            world.run(layer.set(f"key{number}", entry_of(layer, b"%d" % number)))
        found: dict[int, Any] = {}

        def get(number: int) -> None:
            one = run_blocking(layer.get(f"key{number}"))
            found[number] = None if one is None else one.value

        threads = [threading.Thread(target=get, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert found == {n: b"%d" % n if n % 2 == 0 else None for n in range(64)}
        assert layer.stats()["connects"] <= 5


def test_many_keys_are_one_round_trip(world: World, server: Postgres):
    layer = world.layer(server.url(), namespace="many")
    for number in range(64):
        world.run(layer.set(f"key{number}", entry_of(layer, b"%d" % number)))
    before = layer.stats()["round_trips"]
    found = world.run(layer.get_many([f"key{number}" for number in range(80)]))
    assert layer.stats()["round_trips"] == before + 1
    assert {key: one.value for key, one in found.items()} == {
        f"key{number}": b"%d" % number for number in range(64)
    }


def test_clear_removes_more_than_one_part(world: World, server: Postgres):
    layer, other = (world.layer(server.url(), namespace=name) for name in ("full", "fuller"))
    world.run(other.set("key", entry_of(other)))
    server.sql(
        "INSERT INTO layergate.entries SELECT 'full:e:{' || n || '}', now() + interval '1 hour', ''"
        " FROM generate_series(1, 1000) n"
    )
    world.run(layer.clear())
    assert not rows(server, "full")
    assert len(rows(server, "fuller")) == 1


def test_a_purge_reaches_the_other_by_notification(world: World, server: Postgres):
    """The heartbeat would take a quarter of an hour."""
    options: Any = {"namespace": "told", "max_disconnected": 3600.0}
    with World("threads") as there:
        one, two = world.layer(server.url(), **options), there.layer(server.url(), **options)
        assert log_of(two).heartbeat.ensure()
        # One connection asks, one listens. (That `one` may listen, too, is nothing to it.)
        wait_until(lambda: two.stats()["connects"] == 2, "the other to connect")
        listening = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            " AND application_name = 'layergate-told'"
        )
        wait_until(
            lambda: server.sql(listening)[0][0] == (2 if world.blocking else 1), "both to listen"
        )
        calls = two.stats()["round_trips"]
        cells = one._cells
        assert cells is not None
        head = world.run(cells.load("told:j:head"))
        assert world.run(cells.swap("told:j:head", head.tag, head.data))
        wait_until(lambda: two.stats()["round_trips"] > calls, "the other to look")


def test_a_layer_that_is_closed_does_not_listen_any_more(world: World, server: Postgres):
    """Nor does its thread wait for the rest of a quarter of an hour."""
    listening = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        " AND application_name = 'layergate-closing'"
    )
    layer = world.layer(
        server.url(), namespace="closing", max_disconnected=3600.0, lease_term=3600.0
    )

    async def story() -> None:
        assert log_of(layer).heartbeat.ensure()
        await until(lambda: server.sql(listening) == [(1,)], "it to listen", pause=pause)
        log_of(layer).heartbeat.stop()
        await layer.aclose()
        await until(lambda: server.sql(listening) == [(0,)], "it to stop listening", pause=pause)

    async def pause(seconds: float) -> None:
        await layer._joined.joining.runtime.event().wait(seconds)  # type: ignore[union-attr]

    world.run(story())


def test_a_server_that_is_away_raises_then_is_not_asked(world: World):
    layer = world.joined(f"postgresql://u@{HOST}:{free_port()}/shop")

    async def story() -> None:
        for _ in range(20):
            try:
                await layer.get("key")
            except LayerUnavailable:
                return
            except Exception as error:
                assert "refused" in str(error)
        raise AssertionError("the breaker did not open")

    world.run(story())
    assert layer.stats()["breaker"] == 2


def test_a_server_that_stands_still_is_a_timeout_of_the_layer(world: World, server: Postgres):
    layer = world.layer(server.url(), namespace="still", timeout=0.3, connect_timeout=0.3)
    server.stall()
    try:
        with pytest.raises(LayerTimeout):
            world.run(layer.get("key"))
    finally:
        server.resume()
    assert world.run(layer.get("key")) is None


def test_refusals_do_not_open_the_breaker(world: World, server: Postgres):
    layer = world.layer(server.url(), namespace="refused")
    server.sql("ALTER TABLE layergate.entries ADD CONSTRAINT no CHECK (name NOT LIKE 'refused%')")
    try:
        for _ in range(10):
            with pytest.raises(LayerRefused):
                world.run(layer.set("key", entry_of(layer)))
    finally:
        server.sql("ALTER TABLE layergate.entries DROP CONSTRAINT no")
    assert layer.stats()["breaker"] == 0
    assert world.run(layer.get("key")) is None


# -- before it is in a stack ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schema": "No"}, "schema must be"),
        ({"schema": 'x"; DROP SCHEMA public; --'}, "schema must be"),
        ({"schema": ""}, "schema must be"),
        ({"schema": None}, "schema must be"),
        ({"connections": 0}, "connections must be"),
        ({"connections": True}, "connections must be"),
        ({"connections": 2.0}, "connections must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"namespace": "a b"}, "namespace must be"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        PostgresLayer("postgresql://h/shop", **options)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_no_message_and_no_repr_shows_a_secret(scheme: str):
    url = (
        f"{scheme}://ada:hunter2@h:1/shop?sslpassword=hunter2&passfile=/hunter2"
        "&options=-c%20a.b%3Dhunter2"
    )
    layer = layer_of(url, namespace="x")
    assert isinstance(layer, PostgresLayer)
    for text in (repr(layer), shown_url(url), repr(layer.stats()), repr(layer.capabilities)):
        assert "hunter2" not in text
    assert "ada" in repr(layer)


def test_layers_of_one_server_know_it():
    one, two = (PostgresLayer("postgresql://h/shop") for _ in range(2))
    other = PostgresLayer("postgresql://h/shop", schema="other")
    assert one.identity == two.identity != other.identity


def test_what_it_promises():
    promised = PostgresLayer("postgresql://h/shop").capabilities
    assert promised.leases
    assert (promised.final_after, promised.woken_by) == ("milliseconds", "NOTIFY")
    assert promised.look_every is None
    assert promised.idle_calls(30.0) == 480


def test_without_its_library_it_says_what_to_install():
    script = """
        import sys
        sys.modules["psycopg"] = None
        import layergate
        from layergate.layers.postgres import PostgresLayer
        try:
            PostgresLayer("postgresql://localhost/shop")
        except layergate.ConfigError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == (
        "PostgresLayer needs psycopg, which is not installed; run: pip install"
        " 'layergate[postgres]'\n"
    ), done.stderr
