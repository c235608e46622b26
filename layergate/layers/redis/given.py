"""A client of redis-py that the user made: where it connects to, and how.

Only its public attributes are read, and only for addresses, credentials and TLS. Its connections are
never used: those of `RedisClient` belong to one process and one event loop, and keep the time budgets
of the layer.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from layergate.errors import ConfigError
from layergate.layers.redis.params import ConnectParams, by_sentinel
from layergate.layers.redis.url import Address

__all__ = ["GivenClient"]


class GivenClient:
    """The client. Raises ConfigError for an object that is no client of redis-py."""

    def __init__(self, client: object) -> None:
        self._client: Any = client
        self.kind: Any = "single"
        if isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster)):
            self.kind = "cluster"
        elif not isinstance(client, (redis.Redis, redis.asyncio.Redis)):
            raise ConfigError(
                "client must be a URL such as 'redis://localhost:6379/0', or a Redis or RedisCluster"
                f" of redis or redis.asyncio, got {type(client).__module__}.{type(client).__name__};"
                " give its URL"
            )
        self._blocking = isinstance(client, (redis.Redis, redis.RedisCluster))
        pool = getattr(client, "connection_pool", None)
        self._by_sentinel = hasattr(pool, "sentinel_manager")
        if self._by_sentinel and not getattr(pool, "is_master", True):
            raise ConfigError(
                "client must be connected to a master, got one for its replicas;"
                " make it with sentinel.master_for(...)"
            )

    def __str__(self) -> str:
        return f"{type(self._client).__module__}.{type(self._client).__name__}"

    def check(self, *, blocking: bool) -> None:
        """Raises ConfigError if it is a client for the other world."""
        if self._blocking is blocking:
            return
        name = type(self._client).__name__
        if blocking:
            given, wanted, world = f"redis.asyncio.{name}", f"redis.{name}", "threads (WSGI)"
        else:
            given, wanted, world = f"redis.{name}", f"redis.asyncio.{name}", "asyncio (ASGI)"
        raise ConfigError(
            f"client must fit the server it runs under, {world}, got a {given}; pass a {wanted}, or"
            " a URL such as 'redis://localhost:6379/0', which serves both"
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Of a Cluster: nodes that can be asked for its map."""
        nodes = self._client.nodes_manager.startup_nodes.values()
        return tuple(Address(node.host, int(node.port)) for node in nodes)

    def remap(self, address: Address) -> Address:
        remap = getattr(self._client.nodes_manager, "address_remap", None)
        return address if remap is None else Address(*remap(tuple(address)))

    def params(self, connect_timeout: float, *, blocking: bool) -> ConnectParams:
        client = self._client
        if self.kind == "single":
            pool = client.connection_pool
            if self._by_sentinel:
                return self._sentinel_params(pool, connect_timeout, blocking=blocking)
            return ConnectParams.of(
                pool.connection_class, pool.connection_kwargs, blocking=blocking
            )
        if blocking:
            # Of any node: they differ in the address only.
            pool = client.get_redis_connection(client.get_default_node()).connection_pool
            connection, options = pool.connection_class, dict(pool.connection_kwargs)
        else:
            options = dict(client.get_connection_kwargs())
            connection = options["connection_class"]
        options.pop("redis_connect_func", None)  # it may make connections read-only
        return ConnectParams.of(connection, options, blocking=blocking)

    def _sentinel_params(
        self, pool: Any, connect_timeout: float, *, blocking: bool
    ) -> ConnectParams:
        """With Sentinels of our own: those of the client would be asked ten times each."""
        manager = pool.sentinel_manager
        places = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
        options = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name != "connection_pool"
        }
        options.pop("protocol", None)
        return by_sentinel(
            [Address(place["host"], place["port"]) for place in places],
            pool.service_name,
            dict(manager.sentinel_kwargs),
            options | {"connection_class": pool.connection_class},
            connect_timeout,
            blocking=blocking,
        )
