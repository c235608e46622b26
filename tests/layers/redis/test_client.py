"""`RedisClient` against real servers, in both worlds: what it answers, what it withstands."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.core.events import Counters
from layergate.errors import ConfigError, LayerUnavailable
from layergate.layers.redis import subscription as subscription_module
from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.errors import is_fault
from layergate.layers.redis.script import Script
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.redis_servers import (
    ReplyError,
    SharedValkey,
    Valkey,
    ValkeyCluster,
    ValkeySentinel,
    until_answered,
)
from tests.support.tls import tls_files
from tests.support.waiting import BOUND, until

pytest_plugins = ("tests.support.redis_servers",)

ECHO = Script.of("echo", "return {KEYS[1], ARGV[1], 7}")
FAULTS = (RedisConnectionError, RedisTimeoutError, LayerUnavailable)


class World:
    """One of the two worlds, and the servers that a test made in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocking = name == "threads"
        self.runtime: Any = ThreadRuntime() if self.blocking else LoopRuntime()
        self.now = 0.0  # added to the clock
        clock = self.runtime.monotonic
        self.runtime.monotonic = lambda: clock() + self.now
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.servers: list[RedisClient] = []
        self._runner = None if self.blocking else asyncio.Runner()

    def run(self, work: Awaitable[Any]) -> Any:
        if self._runner is None:
            return run_blocking(work)  # type: ignore[arg-type]
        return self._runner.run(work)  # type: ignore[arg-type]

    def server(
        self, target: Any, *, timeout: float = 5.0, connect_timeout: float = 5.0
    ) -> RedisClient:
        server = RedisClient(
            target, connect_timeout=connect_timeout, timeout=timeout, namespace="test"
        )
        server.bind(self.runtime, Counters([lambda *event: self.events.append(event)]))
        self.servers.append(server)
        return server

    def redis(self) -> Any:
        return redis if self.blocking else redis.asyncio

    def close(self) -> None:
        for server in self.servers:
            self.run(server.close())
        if self._runner is not None:
            self._runner.close()


@pytest.fixture(params=["loop", "threads"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param)
    yield world
    world.close()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Took no longer than that, and a margin for a busy machine."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + 1.0


def state_of(server: RedisClient) -> str:
    return server.breaker.state


def clients(server: Any, name: bytes = b"layergate") -> list[bytes]:
    """The connections that the Redis has, of those who introduced themselves so."""
    lines: list[bytes] = server.cli("CLIENT", "LIST").splitlines()
    return [line for line in lines if b"name=" + name in line]


# -- what it answers ------------------------------------------------------------------------------


def test_replies_are_raw(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    key = shared_valkey.namespace.encode()

    async def story() -> None:
        assert await server.get(key) is None
        assert await server.call("SET", key, b"\x00\xff") == b"OK"
        assert await server.get(key) == b"\x00\xff"
        assert await server.call("SET", key, "text \N{SNOWMAN}", "PX", 100_000) == b"OK"
        assert await server.get(key) == "text \N{SNOWMAN}".encode()
        assert await server.call("INCRBYFLOAT", key + b"f", 1.5) == b"1.5"
        assert await server.call("UNLINK", key) == 1
        assert await server.call("HSET", key, "field", 1) == 1
        assert await server.call("HGETALL", key) == [b"field", b"1"]
        assert await server.call("UNLINK", key, key + b"f") == 2

    world.run(story())


def test_get_many_keeps_the_order_and_has_no_limit(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    keys = [f"{shared_valkey.namespace}{number}".encode() for number in range(1300)]

    async def story() -> None:
        assert await server.get_many([]) == []
        for start in range(0, 1300, 500):
            part = keys[start : start + 500 : 2]
            assert await server.call_all([("SET", key, key) for key in part]) == [b"OK"] * 250 or (
                len(part) < 250
            )
        values = await server.get_many(keys)
        assert values == [key if n % 2 == 0 else None for n, key in enumerate(keys)]
        assert await server.unlink_prefix(shared_valkey.namespace.encode()) == 650

    world.run(story())


def test_an_error_reply_is_raised_and_harms_nobody(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    key = shared_valkey.namespace.encode()

    async def story() -> None:
        with pytest.raises(ResponseError):
            await server.call("NOSUCH", key)
        replies = await server.call_all([("SET", key, 1), ("LPUSH", key, 2), ("GET", key)])
        assert replies[0] == b"OK"
        assert isinstance(replies[1], ResponseError)
        assert replies[2] == b"1"
        assert await server.call_all([]) == []
        await server.call("UNLINK", key)

    world.run(story())
    assert state_of(server) == "closed"
    assert server.stats()["connects"] == 1


def test_a_script_is_sent_whole_only_where_it_is_not_known(world: World, valkey: Valkey):
    server = world.server(valkey.url)

    async def story() -> None:
        assert await server.run(ECHO, [b"k"], [b"\xff"]) == [b"k", b"\xff", 7]
        assert await server.run(ECHO, [b"k"], ["a"]) == [b"k", b"a", 7]
        valkey.cli("SCRIPT", "FLUSH")
        assert await server.run(ECHO, [b"k"], [1]) == [b"k", b"1", 7]

    world.run(story())
    stats = valkey.info("commandstats")
    assert stats["cmdstat_eval"].startswith("calls=2,")
    assert stats["cmdstat_evalsha"].startswith("calls=3,")


def test_a_word_of_another_type_is_refused(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    for word in (None, True, object(), [1]):
        with pytest.raises(TypeError):
            world.run(server.call("SET", "key", word))
    assert state_of(server) == "closed"


def test_it_is_of_no_use_before_it_is_bound():
    server = RedisClient("redis://localhost", connect_timeout=1, timeout=1, namespace="x")
    with pytest.raises(LayerUnavailable):
        run_blocking(server.get(b"x"))
    assert server.stats()["breaker"] == 0


def test_unlink_prefix_leaves_the_others(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    name = shared_valkey.namespace.encode()

    async def story() -> None:
        await server.call_all([("SET", b"%b:e:{%d}" % (name, n), 1) for n in range(500)])
        await server.call_all([("SET", b"%b:f:{%d}" % (name, n), 1) for n in range(500)])
        assert await server.unlink_prefix(name + b":e:{") == 500
        assert await server.unlink_prefix(name + b":e:{") == 0
        assert await server.unlink_prefix(name + b":f:{") == 500

    world.run(story())


def test_connections_show_who_they_are(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    world.run(server.get(b"x"))
    (line,) = clients(valkey)
    assert b"name=layergate-test" in line
    assert b"lib-ver=" + redis.__version__.encode() in line
    named = world.server(valkey.url + "?client_name=shop")
    world.run(named.get(b"x"))
    assert len(clients(valkey, b"shop")) == 1


# -- where it is ----------------------------------------------------------------------------------


def test_by_unix_socket(world: World, session_valkey: Valkey):
    server = world.server(session_valkey.unix_url)
    assert world.run(server.call("PING")) == b"PONG"


def test_with_a_password(world: World, tmp_path: Path):
    with Valkey(tmp_path, password="hunter2") as valkey:
        assert world.run(world.server(valkey.url).call("PING")) == b"PONG"
        wrong = world.server(valkey.url.replace("hunter2", "wrong-one"))
        with pytest.raises(RedisConnectionError) as caught:
            world.run(wrong.call("PING"))
        assert "wrong-one" not in str(caught.value)
        without = world.server(valkey.url.replace(":hunter2@", ""))
        with pytest.raises(RedisConnectionError):
            world.run(without.call("PING"))


def test_database_number(world: World, valkey: Valkey):
    world.run(world.server(valkey.url[:-1] + "5").call("SET", "key", "five"))
    assert valkey.cli("GET", "key") is None
    assert world.run(world.server(valkey.url[:-1] + "5").get(b"key")) == b"five"


def test_by_tls(world: World, valkey: Valkey, tmp_path: Path):
    import ssl

    certificate, key = tls_files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Proxy(valkey.port, tls=context) as proxy:
        url = f"{proxy.url}?ssl_ca_certs={certificate}"
        server = world.server(url)
        value = os.urandom(300_000)
        world.run(server.call("SET", "key", value))
        for _ in range(3):
            assert world.run(server.get(b"key")) == value
        assert server.stats()["connects"] == 1
        with pytest.raises(RedisConnectionError):  # nobody vouches for it
            world.run(world.server(proxy.url).call("PING"))
        world.run(server.close())


def test_with_a_client_of_the_application(world: World, shared_valkey: SharedValkey):
    """Only where and how to connect is taken: not its budgets, its replies, its connections."""
    client = world.redis().Redis(
        port=shared_valkey.port, decode_responses=True, protocol=3, client_name="application"
    )
    server = world.server(client)
    key = shared_valkey.namespace.encode()

    async def story() -> None:
        await server.call("SET", key, b"\xff")
        assert await server.get(key) == b"\xff"
        await server.call("UNLINK", key)
        await server.call("HSET", key, "a", 1)
        assert await server.call("HGETALL", key) == [b"a", b"1"]
        await server.call("UNLINK", key)

    world.run(story())
    assert len(clients(shared_valkey, b"application")) == 1
    world.run(server.close())
    until_answered(
        lambda: not clients(shared_valkey, b"application"), "our connection to be closed"
    )
    if not world.blocking:
        world.run(client.aclose())
    else:
        client.close()


def test_a_client_of_the_other_world_is_refused(world: World):
    other = redis.asyncio if world.blocking else redis
    for client in (other.Redis(), other.Redis.from_url("redis://h")):
        server = RedisClient(client, connect_timeout=1, timeout=1, namespace="x")
        with pytest.raises(ConfigError, match=r"pass a redis.*, or a URL"):
            server.bind(world.runtime, Counters())


def test_a_client_for_the_replicas_is_refused():
    for sentinel in (redis.sentinel, redis.asyncio.sentinel):
        client = sentinel.Sentinel([("h", 1)]).slave_for("mymaster")
        with pytest.raises(ConfigError, match="master_for"):
            RedisClient(client, connect_timeout=1, timeout=1, namespace="x")


@pytest.mark.parametrize("target", [None, 6379, b"redis://localhost", object(), redis.Redis])
def test_a_target_of_no_kind_is_refused(target):
    with pytest.raises(ConfigError, match="client must be a URL such as"):
        RedisClient(target, connect_timeout=1, timeout=1, namespace="x")


def test_no_repr_shows_a_password():
    for target in (
        "redis://app:hunter2@host",
        "redis+sentinel://:hunter2@host/m?sentinel_password=hunter2",
        redis.Redis(password="hunter2"),
        redis.asyncio.Redis(password="hunter2"),
    ):
        server = RedisClient(target, connect_timeout=1, timeout=1, namespace="x")
        assert "hunter2" not in repr(server)


# -- lifetimes ------------------------------------------------------------------------------------


def test_nothing_is_connected_before_the_first_call(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    assert not clients(valkey)
    assert server.stats()["connections"] == 0
    world.run(server.get(b"x"))
    assert len(clients(valkey)) == 1


def test_close_closes_and_a_later_call_connects_anew(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    world.run(server.get(b"x"))
    world.run(server.close())
    until_answered(lambda: not clients(valkey), "connections to be closed")
    assert world.run(server.get(b"x")) is None
    world.run(server.close())
    world.run(server.close())


def test_each_loop_has_connections_of_its_own(valkey: Valkey):
    server = RedisClient(valkey.url, connect_timeout=5, timeout=5, namespace="test")
    server.bind(LoopRuntime(), Counters())

    async def story() -> None:
        await asyncio.gather(*(server.call("INCR", "count") for _ in range(5)))
        await server.close()

    for _ in range(3):
        asyncio.run(story())
    threads = [threading.Thread(target=lambda: asyncio.run(story())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert valkey.cli("GET", "count") == b"35"
    until_answered(lambda: not clients(valkey), "connections to be closed")


@pytest.mark.parametrize("name", ["loop", "threads"])
def test_a_forks_child_never_uses_its_parents_connections(name: str, valkey: Valkey):
    script = f"""
        import asyncio, os, sys
        from layergate.core.events import Counters
        from layergate.layers.redis.client import RedisClient
        from layergate.runtime.loop import LoopRuntime
        from layergate.runtime.threads import ThreadRuntime, run_blocking

        server = RedisClient({valkey.url!r}, connect_timeout=5, timeout=5, namespace="test")
        if {name!r} == "threads":
            server.bind(ThreadRuntime(), Counters())
            run = run_blocking
        else:
            server.bind(LoopRuntime(), Counters())
            runner = asyncio.Runner()
            run = runner.run

        before = run(server.call("CLIENT", "ID"))
        child = os.fork()
        if not child:
            if {name!r} == "loop":
                runner = asyncio.Runner()
                run = runner.run
            mine = run(server.call("CLIENT", "ID"))
            assert mine != before, mine
            for number in range(100):
                run(server.call("SET", b"child", number))
                assert run(server.get(b"child")) == b"%d" % number
            run(server.close())
            sys.stdout.flush()
            os._exit(0)
        for number in range(100):
            run(server.call("SET", b"parent", number))
            assert run(server.get(b"parent")) == b"%d" % number
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # what the child did at its end has not closed it
        assert run(server.call("CLIENT", "ID")) == before
        run(server.close())
        if {name!r} == "loop":
            runner.close()
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


# -- batches --------------------------------------------------------------------------------------


async def test_what_is_asked_in_one_tick_is_one_round_trip(shared_valkey: SharedValkey):
    async with bound(shared_valkey.url) as server:
        keys = [f"{shared_valkey.namespace}{number}".encode() for number in range(64)]
        await asyncio.gather(*(server.call("SET", key, key) for key in keys))
        assert server.stats()["round_trips"] == 1
        assert await asyncio.gather(*(server.get(key) for key in keys)) == keys
        stats = server.stats()
        assert stats["round_trips"] == 2
        assert stats["commands"] == 65  # 64 SETs, one MGET
        assert stats["connects"] == 1
        await server.unlink_prefix(shared_valkey.namespace.encode())


async def test_large_values_among_small_ones(shared_valkey: SharedValkey):
    async with bound(shared_valkey.url) as server:
        name = shared_valkey.namespace
        values = {f"{name}{n}".encode(): os.urandom(1 + n**4) for n in range(36)}  # to 1.5 MB
        await asyncio.gather(*(server.call("SET", key, value) for key, value in values.items()))
        got = await asyncio.gather(*(server.get(key) for key in values))
        assert got == list(values.values())
        await server.unlink_prefix(name.encode())


@contextlib.asynccontextmanager
async def bound(url: str, *, timeout: float = 5.0, connect_timeout: float = 5.0):
    server = RedisClient(url, connect_timeout=connect_timeout, timeout=timeout, namespace="test")
    server.bind(LoopRuntime(), Counters())
    try:
        yield server
    finally:
        await server.close()


# -- faults ---------------------------------------------------------------------------------------


def test_nobody_there(world: World):
    server = world.server(f"redis://127.0.0.1:{free_port()}")
    with within(0.5), pytest.raises(RedisConnectionError):
        world.run(server.get(b"x"))


def test_a_server_that_stands_still_costs_its_budget(world: World, valkey: Valkey):
    server = world.server(valkey.url, timeout=0.1, connect_timeout=0.1)
    world.run(server.get(b"x"))
    with valkey.stalled():
        for work in (server.get(b"x"), server.get_many([b"x"]), server.subscribe([b"x"])):
            with within(0.2), pytest.raises(RedisTimeoutError):
                world.run(work)
    assert state_of(server) == "open"


def test_a_server_that_stands_still_when_we_connect(world: World, valkey: Valkey):
    server = world.server(valkey.url, timeout=0.1, connect_timeout=0.3)
    with valkey.stalled(), within(0.4), pytest.raises(RedisTimeoutError):
        world.run(server.get(b"x"))
    assert world.run(server.get(b"x")) is None


def test_under_asyncio_connecting_does_not_make_a_call_longer(valkey: Valkey):
    """The caller leaves after its budget; the connection is made all the same."""

    async def story() -> None:
        async with bound(valkey.url, timeout=0.05, connect_timeout=BOUND) as server:
            with valkey.stalled(), pytest.raises(RedisTimeoutError):
                await server.get(b"x")
            # Had the call waited for the connection to fail, none would be made now.
            await until(lambda: server.stats()["connections"], "the connection")
            assert server.stats()["connects"] == 1
            (pool,) = server._pools.values()
            assert pool.batcher is not None
            pool.batcher._timeout = BOUND  # for a busy machine
            assert await server.get(b"x") is None
            assert server.stats()["connects"] == 1

    asyncio.run(story())


def test_a_server_that_trickles_gets_no_more_time(world: World):
    """A byte now and then is progress to a timeout per read, and none to a budget."""
    with Trickle() as trickle:
        server = world.server(trickle.url, timeout=0.2)
        with within(0.2), pytest.raises(RedisTimeoutError):
            world.run(server.get(b"x"))
        assert trickle.sent < 100


def test_garbage_is_a_fault_and_ends_the_connection(world: World, valkey: Valkey, proxy: Proxy):
    server = world.server(proxy.url)
    world.run(server.call("SET", "key", "value"))
    proxy.garbage()
    with within(1), pytest.raises(Exception) as caught:
        world.run(server.get(b"key"))
    assert is_fault(caught.value)
    proxy.resume()
    assert world.run(server.get(b"key")) == b"value"


def test_a_server_that_was_restarted_is_asked_again_at_once(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    for _ in range(3):
        world.run(server.get(b"x"))
        valkey.restart()
        assert world.run(server.get(b"x")) is None, "a stale connection is replaced, not reported"
    assert state_of(server) == "closed"


def test_connections_that_were_cut_are_replaced(world: World, valkey: Valkey, proxy: Proxy):
    server = world.server(proxy.url)
    for number in range(20):
        world.run(server.call("SET", "key", number))
        proxy.cut()
    assert world.run(server.get(b"key")) == b"19"


def test_many_idle_connections_and_a_restart(valkey: Valkey):
    """Threads hold one each; after a restart none of them may cost a failure."""
    server = RedisClient(valkey.url, connect_timeout=5, timeout=5, namespace="test")
    server.bind(ThreadRuntime(), Counters())

    def all_at_once() -> None:
        together = threading.Barrier(8)
        errors: list[BaseException] = []

        def work() -> None:
            together.wait(BOUND)
            try:
                run_blocking(server.get(b"x"))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert not errors

    all_at_once()
    valkey.restart()
    all_at_once()
    run_blocking(server.close())


def test_the_breaker_opens_and_what_follows_costs_nothing(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    world.run(server.get(b"x"))
    valkey.kill()
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            world.run(server.get(b"x"))
    assert state_of(server) == "open"
    assert world.events == [("breaker", {"layer": "redis", "was": "closed", "state": "open"})]
    connects = server.stats()["connects"]
    start = time.perf_counter()
    for _ in range(1000):
        with pytest.raises(LayerUnavailable):
            world.run(server.get(b"x"))
    assert time.perf_counter() - start < 2.0
    assert server.stats()["connects"] == connects
    assert server.stats()["breaker"] == 2

    valkey.restart()
    with pytest.raises(LayerUnavailable):
        world.run(server.get(b"x"))
    world.now += 3.0
    assert world.run(server.get(b"x")) is None, "the probe is somebody's call"
    assert state_of(server) == "closed"


def test_a_forced_probe_closes_the_breaker(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    valkey.kill()
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            world.run(server.get(b"x"))
    with pytest.raises(RedisConnectionError):
        world.run(server.call("PING", probe=True))
    valkey.restart()
    with pytest.raises(LayerUnavailable):
        world.run(server.call("PING"))
    assert world.run(server.run(ECHO, [b"k"], [1], probe=True)) == [b"k", b"1", 7]
    assert world.run(server.call("PING")) == b"PONG"


def test_refused_writes_do_not_open_the_breaker(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    world.run(server.call("SET", "key", "value"))
    valkey.cli("CONFIG", "SET", "maxmemory", 1)
    valkey.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    for _ in range(10):
        with pytest.raises(OutOfMemoryError):
            world.run(server.call("SET", "other", "x" * 1000))
    assert state_of(server) == "closed"
    assert world.run(server.get(b"key")) == b"value"


def test_a_server_held_up_by_a_script_is_as_good_as_away(world: World, valkey: Valkey):
    server = world.server(valkey.url)
    valkey.cli("CONFIG", "SET", "busy-reply-threshold", 1)
    world.run(server.call("PING"))
    with socket.create_connection(("127.0.0.1", valkey.port)) as other:
        other.sendall(b"EVAL 'while true do end' 0\r\n")
        until_answered(lambda: b"BUSY" in _error(valkey, "GET", "x"), "the script to hold it up")
        for _ in range(3):
            with pytest.raises(ResponseError, match="BUSY"):
                world.run(server.get(b"x"))
        assert state_of(server) == "open"
        valkey.cli("SCRIPT", "KILL")
        until_answered(lambda: not _error(valkey, "GET", "x"), "it to end")
    assert world.run(server.call("PING", probe=True)) == b"PONG"
    assert state_of(server) == "closed"


def _error(valkey: Valkey, *command: str) -> bytes:
    try:
        valkey.cli(*command)
    except ReplyError as error:
        return str(error).encode()
    return b""


def test_a_master_that_became_a_replica_is_looked_up_anew(world: World, valkey: Valkey):
    """Its name may lead to another one by now."""
    server = world.server(valkey.url)
    world.run(server.call("SET", "key", "value"))
    before = server.stats()["connects"]
    valkey.cli("CONFIG", "SET", "replica-serve-stale-data", "yes")
    valkey.cli("REPLICAOF", "127.0.0.1", free_port())
    for _ in range(5):
        with pytest.raises(ReadOnlyError):
            world.run(server.call("SET", "key", "other"))
    assert server.stats()["connects"] >= before + 4
    assert state_of(server) == "closed"
    valkey.cli("REPLICAOF", "NO", "ONE")
    assert world.run(server.call("SET", "key", "other")) == b"OK"


class Trickle:
    """A server that answers the handshake, and then with a byte every ten milliseconds."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.sent = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        self._socket.settimeout(BOUND)
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            with connection:
                data = b""
                while b"GET" not in data:
                    data = connection.recv(65536)
                    # CLIENT SETNAME, then two CLIENT SETINFO at once or one by one
                    connection.sendall(b"+OK\r\n" * data.count(b"CLIENT"))
                connection.sendall(b"$1000\r\n")
                while not self._stop.wait(0.01):
                    connection.sendall(b"x")
                    self.sent += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._socket.close()
        self._thread.join(BOUND)


# -- nobody gets another one's answer (CVE-2023-28858, -28859) ------------------------------------


async def test_a_storm_of_cancellations_and_timeouts_mixes_up_no_replies(valkey: Valkey):
    keys = [b"key-%d" % number for number in range(100)]
    for key in keys:
        valkey.cli("SET", key, b"value of " + key)
    dice = random.Random(7)
    async with bound(valkey.url, timeout=0.03, connect_timeout=0.5) as server:
        mixed: list[Any] = []

        async def one(key: bytes) -> None:
            with contextlib.suppress(*FAULTS):
                how = dice.randrange(3)
                if how == 0:
                    value = await server.get(key)
                elif how == 1:
                    (value, _) = await server.get_many([key, b"none"])
                else:
                    _, value, _ = await server.run(ECHO, [b"k"], [b"value of " + key])
                if value != b"value of " + key:
                    mixed.append((key, value))

        for round_ in range(60):
            tasks = [asyncio.ensure_future(one(dice.choice(keys))) for _ in range(40)]
            if round_ % 6 == 0:
                valkey.stall()
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(dice.random() * 0.004)
                for task in dice.sample(tasks, 8):
                    task.cancel()
            if round_ % 6 == 1:
                valkey.resume()
            await asyncio.gather(*tasks, return_exceptions=True)
        valkey.resume()
        assert not mixed
        async with asyncio.timeout(BOUND):
            while True:
                with contextlib.suppress(*FAULTS):
                    await server.call("PING", probe=True)
                    break
        assert await gets(server, keys) == [b"value of " + key for key in keys]
        assert server.stats()["connections"] <= 4


async def gets(server: RedisClient, keys: list[bytes]) -> list[Any]:
    """All of them, each tried until it is answered, together and then one by one."""

    async def one(key: bytes) -> Any:
        async with asyncio.timeout(BOUND):
            while True:
                with contextlib.suppress(*FAULTS):
                    return await server.get(key)
                await asyncio.sleep(0.01)

    together = await asyncio.gather(*(one(key) for key in keys))
    single = [await one(key) for key in keys]
    assert together == single
    return single


def test_a_storm_of_timeouts_on_threads_mixes_up_no_replies(valkey: Valkey):
    keys = [b"key-%d" % number for number in range(50)]
    for key in keys:
        valkey.cli("SET", key, b"value of " + key)
    server = RedisClient(valkey.url, connect_timeout=0.5, timeout=0.02, namespace="test")
    server.bind(ThreadRuntime(), Counters())
    mixed: list[Any] = []
    end = threading.Event()
    answered = [0] * 8

    def work(number: int) -> None:
        dice = random.Random(number)
        while not end.is_set():
            key = dice.choice(keys)
            with contextlib.suppress(*FAULTS):
                value = run_blocking(server.call("GET", key, probe=True))
                answered[number] += 1
                if value != b"value of " + key:
                    mixed.append((key, value))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        valkey.stall()
        end.wait(0.03)
        enough = sum(answered) + 20
        valkey.resume()
        until_answered(functools.partial(_more, answered, enough), "answers")
    end.set()
    for thread in threads:
        thread.join(BOUND)
    assert not mixed
    server.timeout = BOUND  # whether a busy machine answers in time is not the question
    assert [run_blocking(server.call("GET", key, probe=True)) for key in keys] == [
        b"value of " + key for key in keys
    ]
    run_blocking(server.close())


def _more(answered: list[int], than: int) -> bool:
    return sum(answered) > than


# -- subscriptions --------------------------------------------------------------------------------


def test_messages_arrive_in_order(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    one, two = shared_valkey.namespace.encode(), b"%b-2" % shared_valkey.namespace.encode()

    async def story() -> None:
        subscription = await server.subscribe([one, two])
        assert await subscription.next(0) is None
        assert await subscription.next(0.01) is None
        for number in range(100):
            assert await server.call("PUBLISH", (one, two)[number % 2], number) == 1
        for number in range(100):
            assert await subscription.next(5) == ((one, two)[number % 2], b"%d" % number)
        assert await subscription.next(0.01) is None
        await subscription.close()
        await subscription.close()

    world.run(story())


def test_binary_and_large_messages(world: World, shared_valkey: SharedValkey):
    server = world.server(shared_valkey.url)
    channel = shared_valkey.namespace.encode()
    payloads = [b"", b"\x00\r\n\xff", os.urandom(500_000)]

    async def story() -> None:
        subscription = await server.subscribe([channel])
        for payload in payloads:
            await server.call("PUBLISH", channel, payload)
        assert [await subscription.next(5) for _ in payloads] == [(channel, p) for p in payloads]
        await subscription.close()

    world.run(story())


def test_a_lost_subscription_raises_and_stays_lost(world: World, valkey: Valkey, proxy: Proxy):
    server = world.server(proxy.url)

    async def story() -> None:
        subscription = await server.subscribe([b"news"])
        proxy.cut()
        for _ in range(3):
            with pytest.raises(RedisConnectionError):
                await subscription.next(5)
        valkey.cli("PUBLISH", "news", "unheard")
        with pytest.raises(RedisConnectionError):
            await subscription.next(0.05)
        await subscription.close()

    world.run(story())


def test_a_subscription_on_a_line_that_went_dead_is_lost(
    world: World, valkey: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(subscription_module, "_QUIET", 0.05)
    server = world.server(proxy.url)

    async def story() -> None:
        subscription = await server.subscribe([b"news"])
        for _ in range(10):  # long past the quiet: somebody is there, and says so
            assert await subscription.next(0.02) is None
        valkey.cli("PUBLISH", "news", "heard")
        assert await subscription.next(5) == (b"news", b"heard")
        proxy.blackhole()
        with within(1), contextlib.suppress(RedisConnectionError):
            for _ in range(50):
                await subscription.next(0.02)
            raise AssertionError("nobody is there, and nobody noticed")
        await subscription.close()

    world.run(story())


def test_a_subscription_that_cannot_be_made_is_a_fault(world: World):
    server = world.server(f"redis://127.0.0.1:{free_port()}")
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            world.run(server.subscribe([b"news"]))
    with pytest.raises(LayerUnavailable):
        world.run(server.subscribe([b"news"]))
    with pytest.raises(RedisConnectionError):
        world.run(server.subscribe([b"news"], probe=True))


async def test_a_cancelled_listener_leaves_no_half_message(valkey: Valkey):
    async with bound(valkey.url) as server:
        subscription = await server.subscribe([b"news"])
        task = asyncio.ensure_future(subscription.next(30))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RedisConnectionError):
            await subscription.next(0.01)
        await subscription.close()


# -- Cluster --------------------------------------------------------------------------------------


def cluster_target(world: World, cluster: ValkeyCluster, how: str) -> Any:
    if how == "url":
        return cluster.url
    return world.redis().RedisCluster(host="127.0.0.1", port=cluster.masters[0].port)


def close_client(world: World, target: Any) -> None:
    if not isinstance(target, str):
        world.run(target.aclose()) if not world.blocking else target.close()


@pytest.mark.parametrize("how", ["url", "client"])
def test_a_cluster(world: World, shared_cluster: ValkeyCluster, how: str):
    target = cluster_target(world, shared_cluster, how)
    server = world.server(target)
    name = f"cluster-{world.name}-{how}"
    keys = [f"{name}:{number}".encode() for number in range(60)]

    async def story() -> None:
        assert await server.call_all([("SET", key, key) for key in keys]) == [b"OK"] * 60
        assert [await server.get(key) for key in keys[:5]] == keys[:5]
        assert await server.get_many([*keys, b"none"]) == [*keys, None]
        for key in keys[:10]:
            tagged = b"{%b}2" % key
            assert await server.run(ECHO, [b"{%b}" % key, tagged], [key]) == [
                b"{%b}" % key,
                key,
                7,
            ]
        subscription = await server.subscribe([name.encode()])
        await server.call("PUBLISH", name.encode(), b"hello")
        assert await subscription.next(5) == (name.encode(), b"hello")
        await subscription.close()
        assert await server.call("PING") == b"PONG"
        with pytest.raises(ResponseError):
            await server.call("LPUSH", keys[0], 1)
        assert await server.unlink_prefix(name.encode()) == 60
        assert await server.get_many(keys) == [None] * 60

    world.run(story())
    owners = {shared_cluster.owner(key).port for key in keys}
    assert len(owners) == 3
    world.run(server.close())
    close_client(world, target)


def test_a_slot_that_moves(world: World, shared_cluster: ValkeyCluster):
    """MOVED when it has, ASK while it does: both are followed, and the first is remembered."""
    server = world.server(shared_cluster.url)
    key = f"moving-{world.name}".encode()
    source = shared_cluster.owner(key)
    target = next(master for master in shared_cluster.masters if master is not source)
    slot = source.cli("CLUSTER", "KEYSLOT", key)
    there, here = target.cli("CLUSTER", "MYID"), source.cli("CLUSTER", "MYID")

    async def story() -> None:
        await server.call("SET", key, "first")
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        assert await server.get(key) == b"first"
        source.cli("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        assert await server.get(key) == b"first"  # ASK
        assert await server.call("SET", key, "second") == b"OK"
        assert await server.run(ECHO, [key], [1]) == [key, b"1", 7]
        for node in (target, source):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", there)
        assert await server.get(key) == b"second"  # MOVED
        moved = source.info("errorstats")
        assert await server.get(key) == b"second"
        assert source.info("errorstats") == moved, "remembered"

    try:
        world.run(story())
    finally:
        target.cli("UNLINK", key)
        for node in shared_cluster.masters:
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", here)


def test_a_master_of_a_cluster_that_dies(world: World, valkey_cluster: ValkeyCluster):
    server = world.server(valkey_cluster.url, timeout=0.3, connect_timeout=0.5)
    keys = [b"key-%d" % number for number in range(30)]
    replies = world.run(server.call_all([("SET", key, key) for key in keys]))
    assert replies == [b"OK"] * 30
    # so that the replicas have them as well
    for master in valkey_cluster.masters:
        master.cli("WAIT", 1, 5000)
    dead = valkey_cluster.owner(keys[0])
    lost = [key for key in keys if valkey_cluster.owner(key) is dead]
    dead.kill()
    values = world.run(server.get_many(keys))
    assert values == [None if key in lost else key for key in keys], "the others answer"
    assert state_of(server) == "closed"
    for _ in range(5):
        with within(0.8), contextlib.suppress(RedisConnectionError, LayerUnavailable):
            world.run(server.get(lost[0]))
    assert server.stats()["nodes_open"] == 1
    valkey_cluster.failed_over(dead)
    world.now += 10

    def back() -> bool:
        with contextlib.suppress(Exception):
            return world.run(server.get_many(keys)) == keys
        return False

    until_answered(back, "all keys to be answered by who took over")


def test_nobody_of_a_cluster_is_there(world: World):
    server = world.server(
        f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}", timeout=0.2
    )
    for _ in range(3):
        with within(0.5), pytest.raises(RedisConnectionError):
            world.run(server.get(b"x"))
    with pytest.raises(LayerUnavailable):
        world.run(server.get(b"x"))


def test_a_server_that_is_no_cluster(world: World, shared_valkey: SharedValkey):
    server = world.server(f"redis+cluster://127.0.0.1:{shared_valkey.port}")
    with pytest.raises(ResponseError, match="cluster support disabled"):
        world.run(server.get(b"x"))


async def test_a_cluster_storm_mixes_up_no_replies(valkey_cluster: ValkeyCluster):
    keys = [b"key-%d" % number for number in range(60)]
    dice = random.Random(11)
    async with bound(valkey_cluster.url, timeout=5.0, connect_timeout=5.0) as patient:
        await patient.call_all([("SET", key, b"value of " + key) for key in keys])
    async with bound(valkey_cluster.url, timeout=0.05, connect_timeout=0.5) as server:
        mixed: list[Any] = []

        async def one(key: bytes) -> None:
            with contextlib.suppress(*FAULTS):
                value = await server.get(key)
                if value != b"value of " + key:
                    mixed.append((key, value))

        for _ in range(15):
            victim = dice.choice(valkey_cluster.masters)
            with victim.stalled():
                tasks = [asyncio.ensure_future(one(dice.choice(keys))) for _ in range(40)]
                await asyncio.sleep(dice.random() * 0.06)
                for task in dice.sample(tasks, 10):
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        assert not mixed
        server.router.forget_nodes()
        assert await gets(server, keys) == [b"value of " + key for key in keys]


# -- Sentinel -------------------------------------------------------------------------------------


def test_sentinels_lead_to_the_master_and_to_the_next(
    world: World, valkey_sentinel: ValkeySentinel
):
    server = world.server(valkey_sentinel.url, timeout=0.5, connect_timeout=2.0)
    manager = (redis.sentinel if world.blocking else redis.asyncio.sentinel).Sentinel(
        [("127.0.0.1", one.port) for one in valkey_sentinel.sentinels], socket_timeout=1.0
    )
    client = manager.master_for(valkey_sentinel.NAME)
    by_client = world.server(client, timeout=0.5, connect_timeout=2.0)
    assert world.run(server.call("SET", "key", "value")) == b"OK"
    assert world.run(by_client.get(b"key")) == b"value"
    dead = valkey_sentinel.master
    dead.cli("WAIT", 1, 5000)
    # One Sentinel away, the first one asked, makes no difference.
    valkey_sentinel.sentinels[0].kill()
    world.run(server.close())
    assert world.run(server.get(b"key")) == b"value"
    dead.kill()
    with pytest.raises((RedisConnectionError, RedisTimeoutError)):
        world.run(server.get(b"key"))
    valkey_sentinel.failed_over(dead)
    assert world.run(server.call("SET", "other", "value", probe=True)) == b"OK"
    assert world.run(by_client.call("GET", b"key", probe=True)) == b"value"
    world.run(by_client.close())
    for one in manager.sentinels:
        world.run(one.aclose()) if not world.blocking else one.close()
    if not world.blocking:
        world.run(client.aclose())


def test_a_master_that_was_demoted_is_left(world: World, valkey_sentinel: ValkeySentinel):
    server = world.server(valkey_sentinel.url, timeout=0.5, connect_timeout=2.0)
    world.run(server.call("SET", "key", "value"))
    old = valkey_sentinel.master
    valkey_sentinel.sentinels[0].cli("SENTINEL", "FAILOVER", valkey_sentinel.NAME)
    valkey_sentinel.failed_over(old)
    # What the Sentinels do some seconds later. They would close our connection then.
    old.cli("REPLICAOF", "127.0.0.1", valkey_sentinel.master.port)
    assert world.run(server.call("SET", "key", "after")) == b"OK"
    assert valkey_sentinel.master.cli("GET", "key") == b"after"
    assert state_of(server) == "closed"


def test_sentinels_that_stand_still(world: World, valkey_sentinel: ValkeySentinel):
    """Two of three, and the ones asked first: the third has time left to answer."""
    server = world.server(valkey_sentinel.url, timeout=0.5, connect_timeout=1.0)
    for sentinel in valkey_sentinel.sentinels[:2]:
        sentinel.stall()

    def answered() -> bool:
        with contextlib.suppress(*FAULTS):
            return bool(world.run(server.call("PING", probe=True)) == b"PONG")
        return False

    with within(1.5):
        until_answered(answered, "the third Sentinel")
