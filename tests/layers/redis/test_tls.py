"""TLS to a Redis: the certificate must be for the host that is connected to, whatever the version of redis-py.

Real servers behind a proxy that speaks TLS: the Valkey that comes as a wheel is built without it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
import trustme
from redis.exceptions import ConnectionError as RedisConnectionError

from layergate.core.events import Counters
from layergate.errors import ConfigError
from layergate.layers.redis import params
from layergate.layers.redis.client import RedisClient
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.ports import HOST
from tests.support.proxy import Proxy
from tests.support.redis_servers import SharedValkey, ValkeyCluster

pytest_plugins = ("tests.support.redis_servers",)


class World:
    def __init__(self, name: str) -> None:
        self.blocking = name == "threads"
        self._runner = None if self.blocking else asyncio.Runner()
        self._servers: list[RedisClient] = []

    def run(self, work: Awaitable[Any]) -> Any:
        if self._runner is None:
            return run_blocking(work)  # type: ignore[arg-type]
        return self._runner.run(work)  # type: ignore[arg-type]

    def server(self, target: Any) -> RedisClient:
        server = RedisClient(target, connect_timeout=5.0, timeout=5.0, namespace="test")
        server.bind(ThreadRuntime() if self.blocking else LoopRuntime(), Counters([]))
        self._servers.append(server)
        return server

    def ping(self, target: Any) -> Any:
        return self.run(self.server(target).call("PING"))

    @property
    def redis(self) -> Any:
        return redis if self.blocking else redis.asyncio

    def close(self) -> None:
        for server in self._servers:
            self.run(server.close())
        if self._runner is not None:
            self._runner.close()


@pytest.fixture(params=["loop", "threads"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param)
    yield world
    world.close()


class Certificates(NamedTuple):
    """``trusted``: a file with the authority that signed the other two."""

    trusted: Path
    right: ssl.SSLContext
    other: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = trustme.CA()
    trusted = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    contexts = []
    for name in (HOST, "redis.example"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        contexts.append(context)
    return Certificates(trusted, *contexts)


OFF = ["&ssl_check_hostname=false", "&ssl_cert_reqs=none"]


def test_a_certificate_for_another_host_is_refused(
    world: World, shared_valkey: SharedValkey, certificates: Certificates
):
    with Proxy(shared_valkey.port, tls=certificates.other) as proxy:
        url = f"{proxy.url}?ssl_ca_certs={certificates.trusted}"
        for target in (url, f"{url}&ssl_cert_reqs=required", f"{url}&ssl_check_hostname=true"):
            with pytest.raises(RedisConnectionError, match=r"[Hh]ostname|IP address mismatch"):
                world.ping(target)
        for off in OFF:
            assert world.ping(url + off) == b"PONG"
    with Proxy(shared_valkey.port, tls=certificates.right) as proxy:
        assert world.ping(f"{proxy.url}?ssl_ca_certs={certificates.trusted}") == b"PONG"


def test_so_is_that_of_a_node_of_a_cluster(
    world: World, certificates: Certificates, tmp_path: Path
):
    with ValkeyCluster(tmp_path, masters=1, replicas=0) as cluster:
        (node,) = cluster.masters
        for context, options, fits in (
            (certificates.right, "", True),
            (certificates.other, "", False),
            (certificates.other, OFF[0], True),
            (certificates.other, OFF[1], True),
        ):
            with Proxy(node.port, tls=context) as proxy:
                node.cli("CONFIG", "SET", "cluster-announce-port", proxy.port)
                url = f"rediss+cluster://{HOST}:{proxy.port}?ssl_ca_certs={certificates.trusted}"
                server = world.server(url + options)
                if fits:
                    assert world.run(server.call("SET", "key", "value")) == b"OK"
                else:
                    with pytest.raises(RedisConnectionError):
                        world.run(server.call("SET", "key", "value"))
                world.run(server.close())


def test_behind_sentinels_both_are_checked(world: World):
    """The Sentinels, and the master that they name."""
    for query, checked in (("", True), ("?ssl_check_hostname=false", False)):
        server = world.server(f"rediss+sentinel://{HOST}:1/mymaster{query}")
        way = server._params(blocking=world.blocking)
        assert way.options["ssl_check_hostname"] is checked
        assert issubclass(
            way.connection,
            (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection),
        )
        pool: Any = way.keep
        (sentinel,) = pool.sentinel_manager.sentinels
        connection = sentinel.connection_pool.make_connection()
        assert isinstance(
            connection,
            (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection),
        )
        options = sentinel.connection_pool.connection_kwargs
        assert options["ssl_check_hostname"] is checked


def test_a_client_of_the_application_that_says_nothing_of_it(
    world: World, shared_valkey: SharedValkey, certificates: Certificates
):
    with Proxy(shared_valkey.port, tls=certificates.other) as proxy:
        url = f"{proxy.url}?ssl_ca_certs={certificates.trusted}"
        with pytest.raises(RedisConnectionError):
            world.ping(world.redis.Redis.from_url(url))
        assert world.ping(world.redis.Redis.from_url(f"{url}&ssl_cert_reqs=none")) == b"PONG"
        client = world.redis.Redis.from_url(f"{url}&ssl_check_hostname=false")
        assert world.ping(client) == b"PONG"


def test_a_client_of_an_old_version_that_checks_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for major, logged in ((5, 1), (6, 0)):
        caplog.clear()
        monkeypatch.setattr(params, "_MAJOR", major)
        with caplog.at_level(logging.WARNING, "layergate"):
            params._check_hostname({"ssl_check_hostname": False})
            params._check_hostname({"ssl_check_hostname": True})
            params._check_hostname({"ssl_check_hostname": False, "ssl_cert_reqs": "none"})
            params._check_hostname({})
        assert len(caplog.records) == logged


def test_what_verifies_nothing_checks_no_host_either():
    with pytest.raises(ConfigError, match="ssl_check_hostname with ssl_cert_reqs=none"):
        RedisClient(
            "rediss://h?ssl_check_hostname=true&ssl_cert_reqs=none",
            connect_timeout=1.0,
            timeout=1.0,
            namespace="test",
        )


def test_an_option_that_redis_py_does_not_have_is_refused_at_start_up(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def old(self: object, ssl_check_hostname: bool = False, **options: Any) -> None: ...

    connections = redis.connection if world.blocking else redis.asyncio.connection
    monkeypatch.setattr(connections.SSLConnection, "__init__", old)
    with pytest.raises(ConfigError, match="url has ssl_ca_path, which redis-py"):
        world.server("rediss://h?ssl_ca_path=/certificates")
