"""How to make a connection to Redis: which class of redis-py, and with which options.

`RedisClient` gets its `ConnectParams` from a URL (`of_url`) or from a client of redis-py that the user
made (`layergate.layers.redis.given`). Nothing here connects.
"""

from __future__ import annotations

import inspect
import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import redis.asyncio.connection
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.connection
import redis.retry
import redis.sentinel

from layergate.errors import ConfigError
from layergate.layers.redis.sockets import noted, paced
from layergate.layers.redis.url import Address, Target

__all__ = ["ConnectParams", "by_sentinel", "check_options", "of_url"]

_logger = logging.getLogger("layergate")

_MAJOR: Final = int(redis.__version__.partition(".")[0])

# Who the connections say they are. Each connection of redis-py looks its version up in the package's
# metadata, which takes milliseconds, unless it is given this (versions before 7.2 take no such thing).
_DRIVER: Final[Mapping[str, Any]] = (
    {"driver_info": redis.driver_info.DriverInfo()} if find_spec("redis.driver_info") else {}
)

# What a client's own pool adds, and what would wait or retry beyond our budgets.
_LEFT_OUT: Final = frozenset({
    "cache", "cache_config", "connection_class", "max_connections", "response_callbacks", "retry",
    "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
})  # fmt: skip
_LEFT_OUT_PREFIXES: Final = ("maint_", "maintenance_", "orig_", "oss_cluster_")


class ConnectParams(NamedTuple):
    """How to make a connection: redis-py's class, and the options that it is called with.

    ``keep``: an object that has to live as long as the connections.
    """

    connection: Any
    options: Mapping[str, Any]
    keep: object = None

    @classmethod
    def of(cls, connection: Any, options: Mapping[str, Any], *, blocking: bool) -> ConnectParams:
        """From a class and options as they are in a redis-py client, without its budgets."""
        kept = {
            name: value
            for name, value in options.items()
            if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_PREFIXES)
        }
        if "socket_keepalive" in kept and not kept["socket_keepalive"]:
            # So a peer that vanished is detected while the connection is idle, not at its next use.
            kept |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
        if _speaks_tls(connection):
            _check_hostname(kept)
        retry = redis.retry.Retry if blocking else redis.asyncio.retry.Retry
        kept |= {
            # Replies of one form, whatever the client was set to.
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": retry(redis.backoff.NoBackoff(), 0),
            # `Connection` keeps the time for a whole exchange.
            "socket_timeout": None,
        }
        return cls(paced(connection) if blocking else noted(connection), kept)

    def at(self, address: Address) -> ConnectParams:
        """The same for another server of a Cluster."""
        return self._replace(options={**self.options, "host": address.host, "port": address.port})


def _speaks_tls(connection: Any) -> bool:
    return isinstance(connection, type) and issubclass(
        connection, (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection)
    )


def _check_hostname(options: dict[str, Any]) -> None:
    """Have connections with these options check that a certificate is for the host that they connect
    to, unless the options say otherwise.

    That is redis-py's default since its version 6. Before, a client that was made without a URL says
    False although its user did not. That cannot be told from a decision, so it is logged.
    """
    verified = options.get("ssl_cert_reqs", "required") not in ("none", ssl.CERT_NONE, None)
    if not options.setdefault("ssl_check_hostname", verified) and verified and _MAJOR < 6:
        _logger.warning(
            "the client of redis-py %s accepts a certificate for any host;"
            " pass ssl_check_hostname=True where it is made",
            redis.__version__,
        )


def _keepalive() -> dict[int, int]:
    """Socket options that detect after half a minute that a peer vanished, where the system has them."""
    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def check_options(target: Target, *, blocking: bool) -> None:
    """Raises ConfigError for options of TLS that redis-py's connections do not know: ``redis.asyncio`` got
    some of them years after ``redis``."""
    if not target.tls:
        return
    module: Any = redis.connection if blocking else redis.asyncio.connection
    known = inspect.signature(module.SSLConnection.__init__).parameters
    for name in target.options:
        if name.startswith("ssl_") and name not in known:
            raise ConfigError(
                f"url has {name}, which redis-py {redis.__version__} does not take under"
                f" {'threads' if blocking else 'asyncio'}; install a newer one, or leave it out"
            )


def of_url(
    target: Target, *, blocking: bool, connect_timeout: float, client_name: str
) -> ConnectParams:
    """How to connect to the server, Cluster or master that a URL names."""
    module: Any = redis.connection if blocking else redis.asyncio.connection
    options: dict[str, Any] = {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "client_name": client_name,
        **_DRIVER,
        **target.options,
    }
    if target.path is not None:
        options["path"] = target.path
        return ConnectParams.of(module.UnixDomainSocketConnection, options, blocking=blocking)
    options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
    if target.kind == "sentinel":
        asked = {
            **target.options,
            "username": target.sentinel_username,
            "password": target.sentinel_password,
            "ssl": target.tls,
        }
        if target.tls:
            options["ssl"] = True
        return by_sentinel(
            target.addresses,
            target.master,
            asked,
            {**options, "protocol": 2},
            connect_timeout,
            blocking=blocking,
        )
    connection = module.SSLConnection if target.tls else module.Connection
    if target.kind == "single":
        options |= target.addresses[0]._asdict()
    else:
        options.pop("db")
    return ConnectParams.of(connection, options, blocking=blocking)


def by_sentinel(
    addresses: Sequence[Address],
    master: str,
    asked: dict[str, Any],
    options: dict[str, Any],
    connect_timeout: float,
    *,
    blocking: bool,
) -> ConnectParams:
    """How to connect to the master that Sentinels name.

    ``asked``: options of the connections to Sentinels; ``options``: to the master.
    """
    if asked.get("ssl"):
        _check_hostname(asked)
    module: Any = redis.sentinel if blocking else redis.asyncio.sentinel
    # They are asked one after the other, and all but the last may not answer. Each gets a share of
    # the time, so that there is time left for the last one, and then for the master.
    share = connect_timeout / (2 * len(addresses) + 1)
    bare = ConnectParams.of(object, asked, blocking=blocking).options
    asked = {**bare, "socket_timeout": share, "socket_connect_timeout": share}
    manager = module.Sentinel([tuple(address) for address in addresses], sentinel_kwargs=asked)
    pool = module.SentinelConnectionPool(master, manager, **options)
    params = ConnectParams.of(pool.connection_class, pool.connection_kwargs, blocking=blocking)
    return params._replace(keep=pool)  # to which the connections refer weakly
