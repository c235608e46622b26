"""`RedisLayer`: the conformance suite in both worlds and topologies, and what is its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
import redis
import redis.asyncio

from layergate.core.codec import ValueType
from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining, SharedLayer, Waited
from layergate.errors import ConfigError, LayerRefused, LayerUnavailable, WireError
from layergate.layers.redis import RedisLayer
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.names import blob_name, digest, lease_name
from layergate.testing.layers import LayerConformance
from tests.support.nodes import Exact
from tests.support.ports import free_port
from tests.support.redis_servers import SharedValkey, Valkey, ValkeyCluster

pytest_plugins = ("tests.support.redis_servers",)

SECRET = "a secret of more than 16 bytes"
_numbers = itertools.count()


def namespace() -> str:
    return f"layer{next(_numbers)}"


# -- the conformance suite ------------------------------------------------------------------------


class Conformance(LayerConformance):
    stats_keys: ClassVar[frozenset[str]] = frozenset()
    url: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, session_valkey: Valkey) -> None:
        cls.url = session_valkey.url

    def runtime(self) -> Any:
        return LoopRuntime()

    async def make_layer(self) -> RedisLayer:
        layer = RedisLayer(self.url, namespace=namespace(), timeout=5.0, **self.options)
        self.made = self.runtime()
        log, _ = layer.join(Joining(Invalidations(), self.made, Counters(), ()))
        self.log = log
        assert await log.catch_up()
        joined = layer._joined
        assert joined is not None
        layer._joined = joined._replace(positions=Exact(log))  # type: ignore[arg-type]
        return layer

    async def close_layer(self, layer: Layer) -> None:
        await layer.clear()  # type: ignore[misc]
        await self.log.leave()
        await self.made.aclose(1.0)
        await layer.aclose()  # type: ignore[attr-defined]


class TestOnALoop(Conformance):
    pass


class TestSignedAndCompressed(Conformance):
    options: ClassVar = {"secret": SECRET, "compress_above": 100}


class TestOnThreads(Conformance):
    def runtime(self) -> Any:
        return ThreadRuntime()

    def call(self, answer: Any) -> Any:
        return run_blocking(answer) if isinstance(answer, Awaitable) else answer  # type: ignore[arg-type]


class TestOnACluster(Conformance):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, shared_cluster: ValkeyCluster) -> None:
        cls.url = shared_cluster.url


class TestOnAClusterAndThreads(TestOnThreads):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, shared_cluster: ValkeyCluster) -> None:
        cls.url = shared_cluster.url


# -- its own --------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


POINT = ValueType(7, Point, list, lambda packed: Point(*packed))


class World:
    """A world, and the layers that a test made in it, each as if in a process of its own."""

    def __init__(self, name: str) -> None:
        self.blocking = name == "threads"
        self._runner = None if self.blocking else asyncio.Runner()
        self._made: list[tuple[RedisLayer, Any]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def run(self, work: Any) -> Any:
        return run_blocking(work) if self._runner is None else self._runner.run(work)

    def joined(self, target: Any, **options: Any) -> RedisLayer:
        layer = RedisLayer(target, **{"timeout": 5.0, **options})
        runtime: Any = ThreadRuntime() if self.blocking else LoopRuntime()
        counters = Counters([lambda *event: self.events.append(event)])
        layer.join(Joining(Invalidations(), runtime, counters, (POINT,)))
        self._made.append((layer, runtime))
        return layer

    def layer(self, target: Any, **options: Any) -> RedisLayer:
        layer = self.joined(target, **options)
        assert self.run(log_of(layer).catch_up())
        return layer

    def close(self) -> None:
        async def end(layer: RedisLayer, runtime: Any) -> None:
            # First the heartbeat: it would open a connection after the others are closed.
            await runtime.aclose(1.0)
            log_of(layer).heartbeat.stop()
            await layer.aclose()

        for layer, runtime in self._made:
            self.run(end(layer, runtime))
        if self._runner is not None:
            self._runner.close()


def log_of(layer: RedisLayer) -> Any:
    assert layer._joined is not None
    return layer._joined.log


def leases_of(layer: RedisLayer) -> Any:
    assert layer._joined is not None
    return layer._joined.leases


def entry(
    layer: RedisLayer, value: Any = b"value", *, lifetime: float = 3600.0, **fields: Any
) -> Entry:
    """Fetched just now."""
    now = time.time()
    fields.setdefault("stamp", position(layer))
    return Entry(value, created=now, fresh_until=now + lifetime, **fields)


def position(layer: RedisLayer) -> int:
    return 0 if layer._joined is None else layer._joined.joining.invalidations.position


def stored(layer: RedisLayer, key: str) -> str:
    """Where it is."""
    return blob_name(layer.namespace, digest(key))


@pytest.fixture(params=["loop", "threads"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param)
    yield world
    world.close()


def test_it_is_a_shared_layer(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    assert isinstance(layer, Layer)
    assert isinstance(layer, SharedLayer)


def test_two_instances_share_entries(world: World, shared_valkey: SharedValkey):
    one = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    two = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    other = world.layer(shared_valkey.url, namespace=namespace())

    async def story() -> None:
        await one.set("key", entry(one, Point(1, 2), tags=("a", "b")))
        found = await two.get("key")
        assert found is not None
        assert (found.value, found.tags) == (Point(1, 2), ("a", "b"))
        assert type(found.value) is Point
        assert await other.get("key") is None
        assert await two.delete("key") is True
        assert await one.get("key") is None

    world.run(story())


def test_an_entry_ends_in_the_redis_when_it_expires(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    world.run(layer.set("key", entry(layer, lifetime=50.0, stale_if_error=30.0)))
    left = shared_valkey.cli("PTTL", stored(layer, "key"))
    assert 75_000 < left <= 80_000


def test_one_that_has_expired_is_not_written_and_removes_the_old(
    world: World, shared_valkey: SharedValkey
):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    world.run(layer.set("key", entry(layer)))
    world.run(layer.set("key", entry(layer, lifetime=-1.0)))
    assert shared_valkey.cli("EXISTS", stored(layer, "key")) == 0


def test_a_large_one_is_declined_and_removes_the_old(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace, max_size="10KB")
    world.run(layer.set("key", entry(layer, b"small")))
    world.run(layer.set("key", entry(layer, b"x" * 10_241)))
    assert world.run(layer.get("key")) is None
    assert shared_valkey.cli("EXISTS", stored(layer, "key")) == 0
    assert layer.stats()["too_large"] == 1
    assert layer.stats()["errors"] == 0


def test_a_value_that_cannot_travel_is_an_error(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    with pytest.raises(WireError, match="cannot be shared"):
        world.run(layer.set("key", entry(layer, object())))
    assert layer.stats()["too_large"] == 0


@pytest.mark.parametrize("blob", [b"", b"junk", b"\x01\x00" + b"\xff" * 200, os.urandom(500)])
def test_what_cannot_be_decoded_is_a_miss(world: World, shared_valkey: SharedValkey, blob: bytes):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    shared_valkey.cli("SET", stored(layer, "key"), blob)
    assert world.run(layer.get("key")) is None
    assert world.run(layer.get_many(["key"])) == {}
    stats = layer.stats()
    assert (stats["undecodable"], stats["misses"], stats["hits"]) == (2, 2, 0)
    assert [
        (name, facts["operation"]) for name, facts in world.events if name == "layer_error"
    ] == [("layer_error", "decode")] * 2


def test_another_type_of_value_in_the_redis_is_an_error_reply(
    world: World, shared_valkey: SharedValkey
):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    shared_valkey.cli("LPUSH", stored(layer, "key"), 1)
    with pytest.raises(LayerRefused):
        world.run(layer.get("key"))
    assert layer.stats()["errors"] == 1
    world.run(layer.set("key", entry(layer, b"mine")))
    assert world.run(layer.get("key")).value == b"mine"


def test_a_secret_signs_entries_and_hides_keys(world: World, shared_valkey: SharedValkey):
    name = shared_valkey.namespace
    layer = world.layer(shared_valkey.url, namespace=name, secret=SECRET)
    same = world.layer(shared_valkey.url, namespace=name, secret=SECRET.encode())
    world.run(layer.set("key", entry(layer, b"mine")))
    assert world.run(same.get("key")).value == b"mine"
    assert shared_valkey.cli("EXISTS", stored(layer, "key")) == 0, "not the name it has unhashed"
    where = blob_name(name, digest("key", SECRET.encode()))
    blob = shared_valkey.cli("GET", where)
    shared_valkey.cli("SET", where, blob[:-1] + bytes([blob[-1] ^ 1]))
    assert world.run(layer.get("key")) is None
    # one that was copied from elsewhere
    shared_valkey.cli("SET", blob_name(name, digest("other", SECRET.encode())), blob)
    assert world.run(layer.get("other")) is None
    assert layer.stats()["undecodable"] == 2


def test_get_many_is_one_round_trip(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace, max_disconnected=900)
    keys: list[Any] = [f"key-{number}" for number in range(100)]
    for key in keys[::2]:
        world.run(layer.set(key, entry(layer, key)))
    before = layer.stats()
    found = world.run(layer.get_many([*keys, *keys]))
    after = layer.stats()
    assert {key: one.value for key, one in found.items()} == {key: key for key in keys[::2]}
    assert after["round_trips"] == before["round_trips"] + 1
    assert after["hits"] == before["hits"] + 50
    assert after["misses"] == before["misses"] + 50


def test_clear_leaves_the_log_the_leases_and_other_namespaces(
    world: World, shared_valkey: SharedValkey
):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    other = world.layer(shared_valkey.url, namespace=shared_valkey.namespace + "2")

    async def story() -> None:
        for number in range(30):
            await layer.set(f"key-{number}", entry(layer))
        await other.set("key", entry(other, b"other"))
        lease = await leases_of(layer).acquire("leased", wait=0)
        await layer.clear()
        assert await layer.get_many([f"key-{number}" for number in range(30)]) == {}
        assert (await other.get("key")).value == b"other"  # type: ignore[union-attr]
        assert await lease.confirm()
        await layer.set("after", entry(layer, b"after"))
        assert (await layer.get("after")).value == b"after"  # type: ignore[union-attr]
        await lease.release()

    world.run(story())


# -- the log --------------------------------------------------------------------------------------


def test_a_stamp_survives_to_the_precision_of_the_log(world: World, shared_valkey: SharedValkey):
    """What comes back is never newer than what was written: a purge in between still counts."""
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    log = log_of(layer)
    assert layer._joined is not None
    invalidations = layer._joined.joining.invalidations

    async def story() -> None:
        stamp = invalidations.position
        await layer.set("key", entry(layer, stamp=stamp))
        found = await layer.get("key")
        assert found is not None
        assert found.stamp == found.checked == log.positions.stamp(*log.positions.place(stamp))
        assert found.stamp <= stamp
        # stamped with marks that this instance alone knows of
        await layer.set("key", entry(layer, stamp=stamp + 3))
        found = await layer.get("key")
        assert found is not None
        assert found.stamp <= stamp

    world.run(story())


def test_entries_of_a_log_that_was_lost_are_misses(world: World, valkey: Valkey):
    layer = world.layer(valkey.url, namespace="shop")
    log = log_of(layer)

    async def story() -> None:
        old = entry(layer, b"old")
        await layer.set("key", old)
        blob = valkey.cli("GET", stored(layer, "key"))
        valkey.cli("FLUSHALL")
        await log.sync(probe=True)
        valkey.cli("SET", stored(layer, "key"), blob)
        assert await layer.get("key") is None
        assert layer.stats()["other_log"] == 1
        await layer.set("key", old)
        assert await layer.get("key") is None, "stamped before: nobody knows what was purged since"
        assert layer.stats()["unplaced"] == 1
        await layer.set("key", entry(layer, b"new"))
        assert (await layer.get("key")).value == b"new"  # type: ignore[union-attr]

    world.run(story())


def test_nothing_is_written_before_the_first_contact_with_the_log(
    world: World, shared_valkey: SharedValkey
):
    layer = world.joined(shared_valkey.url, namespace=shared_valkey.namespace)
    world.run(layer.set("key", entry(layer)))
    assert shared_valkey.cli("EXISTS", stored(layer, "key")) == 0
    assert layer.stats()["unplaced"] == 1


def log_keys(valkey: SharedValkey) -> list[str]:
    return [
        f"{{{valkey.namespace}}}:{part}" for part in ("log", "meta", "members", "acks", "again")
    ]


GARBLED: dict[str, list[list[Any]]] = {
    **{
        f"{part} is a string": [["SET", number, "\xff junk"]]
        for number, part in enumerate(("log", "meta", "members", "acks", "again"))
    },
    "log is a list": [["RPUSH", 0, "a"]],
    "all are sets": [["SADD", number, "x"] for number in range(5)],
    "the last position is no number": [["HSET", 1, "n", "junk"]],
    "the clock is no number": [["HSET", 1, "clock", ""]],
    "an acknowledgement is no number": [["HSET", 3, "someone", "junk"]],
    "a record lacks its fields": [["XADD", 0, "9007199254740000-0", "x", "y"]],
}


@pytest.mark.parametrize("case", GARBLED)
def test_a_log_that_somebody_has_written_into_begins_anew(
    world: World, shared_valkey: SharedValkey, case: str
):
    layer = world.layer(
        shared_valkey.url, namespace=shared_valkey.namespace, max_disconnected=0.4, timeout=5.0
    )
    log, keys = log_of(layer), log_keys(shared_valkey)

    async def story() -> None:
        assert await log.sync(probe=True)
        before = log.log_id
        for command, number, *words in GARBLED[case]:
            if command not in ("HSET", "XADD"):
                shared_valkey.cli("DEL", keys[number])
            shared_valkey.cli(command, keys[number], *words)
        receipt = await log.append((Invalidation("tag", "x"),), time.time())
        assert await log.sync(probe=True)
        assert receipt.final or (await log.append((Invalidation("tag", "x"),), time.time())).final
        kinds = [shared_valkey.cli("TYPE", key) for key in keys[:4]]
        assert kinds == [b"stream", b"hash", b"zset", b"hash"]
        # Nothing was repeated, and nobody is called so: what is there is not looked at.
        harmless = case in ("again is a string", "an acknowledgement is no number")
        assert (log.log_id == before) == harmless

    world.run(story())


# -- leases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "commands",
    [
        [["SET", 0, ""]],
        [["RPUSH", 0, "a"]],
        [["HSET", 0, "a", "b"], ["SET", 1, "x"]],
        [["SET", 1, "x"]],
    ],
    ids=str,
)
def test_a_lease_that_somebody_has_written_over_is_as_if_lost(
    world: World, shared_valkey: SharedValkey, commands: list[list[Any]]
):
    name = shared_valkey.namespace
    layer = world.layer(shared_valkey.url, namespace=name)
    other = world.layer(shared_valkey.url, namespace=name)
    keys = [lease_name(name, digest("key")), f"{name}:w:{{{digest('key')}}}"]

    def write() -> None:
        for command, number, *words in commands:
            shared_valkey.cli("DEL", keys[number])
            shared_valkey.cli(command, keys[number], *words)

    async def story() -> None:
        write()
        lease = await leases_of(layer).acquire("key", wait=0)
        assert not isinstance(lease, Waited)
        assert await leases_of(other).acquire("key", wait=0.01) is Waited.TIMEOUT
        write()
        await layer.set("key", entry(layer, b"mine"))
        write()
        await leases_of(layer).renew()
        write()
        await lease.release()
        theirs = await leases_of(other).acquire("key", wait=0)
        assert not isinstance(theirs, Waited)
        await theirs.release()

    world.run(story())


def test_who_holds_the_lease_may_write(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)

    async def story() -> None:
        lease = await leases_of(layer).acquire("key", wait=0)
        assert not isinstance(lease, Waited)
        await layer.set("key", entry(layer, b"mine"))
        assert (await layer.get("key")).value == b"mine"  # type: ignore[union-attr]
        await lease.release()

    world.run(story())


def test_who_has_lost_it_may_not(world: World, shared_valkey: SharedValkey):
    """It stood still; somebody else has fetched and stored meanwhile. Theirs is newer."""
    name = shared_valkey.namespace
    layer = world.layer(shared_valkey.url, namespace=name)
    other = world.layer(shared_valkey.url, namespace=name)

    async def story() -> None:
        lease = await leases_of(layer).acquire("key", wait=0)
        shared_valkey.cli("UNLINK", lease_name(name, digest("key")))  # its term ran out
        theirs = await leases_of(other).acquire("key", wait=0)
        await other.set("key", entry(other, b"newer"))
        await layer.set("key", entry(layer, b"older"))
        assert (await layer.get("key")).value == b"newer"  # type: ignore[union-attr]
        assert layer.stats()["fenced"] == 1
        await theirs.release()
        await layer.set("key", entry(layer, b"older"))
        assert (await layer.get("key")).value == b"newer"  # type: ignore[union-attr]
        assert other.stats()["fenced"] == 0
        del lease

    world.run(story())


# -- away -----------------------------------------------------------------------------------------


def test_a_redis_that_is_away_raises_then_is_not_asked(world: World):
    layer = world.joined(f"redis://127.0.0.1:{free_port()}")
    for work in (layer.get("a"), layer.get_many(["a"]), layer.delete("a")):
        with pytest.raises(redis.ConnectionError):
            world.run(work)
    for work in (layer.get("a"), layer.get_many(["a"]), layer.delete("a"), layer.clear()):
        with pytest.raises(LayerUnavailable):
            world.run(work)
    stats = layer.stats()
    assert (stats["errors"], stats["unavailable"], stats["breaker"]) == (3, 4, 2)
    assert ("breaker", {"layer": "redis", "was": "closed", "state": "open"}) in world.events


def test_stats_are_numbers(world: World, shared_valkey: SharedValkey):
    layer = world.layer(shared_valkey.url, namespace=shared_valkey.namespace)
    world.run(layer.get("key"))
    stats = layer.stats()
    assert all(type(number) in (int, float) for number in stats.values())
    assert stats["misses"] == 1
    assert stats["breaker"] == 0


# -- construction ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": ""}, "name must be a non-empty string, got ''"),
        ({"namespace": "a b"}, "namespace must be 1 to 64 letters"),
        ({"namespace": "{a}"}, "namespace must be"),
        ({"namespace": ""}, "namespace must be"),
        ({"namespace": "x" * 65}, "namespace must be"),
        ({"ttl": -5}, "ttl must be > 0 seconds, or None for no cap, got -5; leave it out"),
        ({"ttl": 0}, "ttl must be > 0"),
        ({"ttl": True}, "ttl must be > 0"),
        ({"ttl": float("nan")}, "ttl must be > 0"),
        ({"stale_while_revalidate": -1}, "stale_while_revalidate must be >= 0"),
        ({"stale_if_error": "1"}, "stale_if_error must be >= 0"),
        ({"secret": "short"}, "secret"),
        ({"max_size": 0}, "max_size must be at least 1 byte"),
        ({"compress_above": "lots"}, "compress_above must be a size"),
        ({"connect_timeout": None}, "connect_timeout must be > 0 seconds, got None"),
        ({"timeout": 0}, "timeout must be > 0"),
        ({"max_disconnected": 0}, "max_disconnected must be > 0 seconds, or None"),
        ({"lease_term": -1}, "lease_term must be > 0"),
        ({"backoff": 1.0}, r"backoff must be a Backoff\(initial, maximum\)"),
        ({"log_length": 10}, "log_length must be a whole number from 1000, got 10"),
        ({"log_length": 1e6}, "log_length must be a whole number"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        RedisLayer("redis://localhost", **options)


def test_no_message_and_no_repr_shows_a_secret():
    layer = RedisLayer("redis://app:hunter2@host/1", secret=SECRET)
    assert repr(layer) == (
        "RedisLayer(RedisClient(redis://host:6379), name='redis', namespace='layergate')"
    )
    for target in ("redis://app:hunter2@host:port", "hunter2"):
        with pytest.raises(ConfigError) as caught:
            RedisLayer(target)
        assert "hunter2" not in str(caught.value)


def test_options_are_attributes_for_the_stack():
    layer = RedisLayer("redis://h", name="l2", ttl=5, stale_while_revalidate=0, stale_if_error=7.5)
    assert (layer.name, layer.ttl) == ("l2", 5)
    assert (layer.stale_while_revalidate, layer.stale_if_error) == (0, 7.5)
    plain = RedisLayer("redis://h")
    assert (plain.ttl, plain.stale_while_revalidate, plain.stale_if_error) == (None, None, None)


async def test_before_it_belongs_to_a_stack_it_is_of_no_use():
    layer = RedisLayer("redis://h")
    for work in (layer.get("a"), layer.get_many([]), layer.set("a", entry(layer)), layer.clear()):
        with pytest.raises(LayerUnavailable, match="not part of a stack"):
            await work
    assert layer.stats()["breaker"] == 0


def test_it_belongs_to_one_stack():
    layer = RedisLayer("redis://h")
    joining = Joining(Invalidations(), ThreadRuntime(), Counters(), ())
    layer.join(joining)
    with pytest.raises(ConfigError, match="must belong to one stack"):
        layer.join(joining)


def test_a_client_of_the_other_world_is_refused_when_it_joins():
    threads = Joining(Invalidations(), ThreadRuntime(), Counters(), ())
    loop = Joining(Invalidations(), LoopRuntime(), Counters(), ())
    with pytest.raises(ConfigError, match="serves both"):
        RedisLayer(redis.asyncio.Redis()).join(threads)
    with pytest.raises(ConfigError, match="serves both"):
        RedisLayer(redis.Redis()).join(loop)


@pytest.mark.parametrize("missing", ["redis", "msgpack"])
def test_without_its_libraries_it_says_what_to_install(missing: str):
    script = f"""
        import sys
        sys.modules[{missing!r}] = None
        import layergate
        from layergate.layers.redis import RedisLayer
        try:
            RedisLayer("redis://localhost")
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
        f"RedisLayer needs {missing}, which is not installed; run: pip install 'layergate[redis]'\n"
    ), done.stderr
