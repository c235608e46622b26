"""The options of one upstream: frozen, and validated when the object is made."""

# A check that the declared type makes "redundant" is the one that makes a mistake readable.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from layergate.config import count, flag, seconds
from layergate.errors import ConfigError
from layergate.gateway import addresses, checks
from layergate.gateway.addresses import Address

__all__ = ["UpstreamOptions", "checked_upstreams"]

_MOST_RETRIES: Final = 10
_PREFIX: Final = re.compile(r"/[^\x00-\x20\x7f?#%*{}\\]*")


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """An upstream: where requests for some hosts and paths are forwarded to.

    ``url``    ``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``, HTTP over a Unix socket.
               It has no path: requests are forwarded with the target that they came with.
    ``name``   in logs and metrics; "": host and port of the URL.
    ``hosts``  host names without a port: ``example.com``, or ``*.example.com`` for all names below it, at
               any depth, but not itself. None: all hosts.
    ``path``   a prefix of the path, in whole segments: ``/api`` covers ``/api`` and all below ``/api/``;
               ``/api/`` covers only the latter.

    `catalogue` describes the other options, under their names with ``upstream_`` in front. Times are in
    seconds.

    Read from the URL: ``tls``, True for https; ``address``, where to connect to.

    Raises ConfigError.
    """

    url: str
    name: str = ""
    hosts: Collection[str] | None = None
    path: str = "/"
    host: str = "preserve"
    max_connections: int = 256
    queue_timeout: float = 10.0
    connect_timeout: float = 5.0
    first_byte_timeout: float = 60.0
    read_timeout: float = 60.0
    idle_timeout: float = 30.0
    max_tunnels: int = 1024
    tunnel_idle_timeout: float = 300.0
    retries: int = 1
    tls_verify: bool = True
    tls_ca_file: str | None = None
    tls_server_name: str | None = None
    tls: bool = field(init=False, repr=False)
    address: Address = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        tls, address = addresses.upstream_url(self.url)
        put(self, "tls", tls)
        put(self, "address", address)
        if not isinstance(self.name, str) or not re.fullmatch(r"[\x21-\x7e]*", self.name):
            raise ConfigError(
                f"name must be printable ASCII without spaces, got {self.name!r} in an upstream"
            )
        put(self, "name", self.name or str(address))
        where = f" in upstream {self.name!r}"
        put(self, "hosts", addresses.hosts(self.hosts, where))
        if not isinstance(self.path, str) or not _PREFIX.fullmatch(self.path):
            raise ConfigError(
                f"path must be a prefix of paths such as '/api', decoded and without wildcards, got"
                f" {self.path!r}{where}"
            )
        if {".", ".."} & set(self.path.split("/")):
            raise ConfigError(f"path must have no dot segments, got {self.path!r}{where}")
        put(self, "host", addresses.host_policy(self.host, where))
        count(self.max_connections, "max_connections", low=1, where=where)
        count(self.max_tunnels, "max_tunnels", low=1, where=where)
        checks.at_most(self.retries, "retries", low=0, high=_MOST_RETRIES, where=where)
        for option in ("queue_timeout", "idle_timeout"):
            put(self, option, seconds(getattr(self, option), option, where, optional=False))
        for option in (
            "connect_timeout", "first_byte_timeout", "read_timeout", "tunnel_idle_timeout",
        ):  # fmt: skip
            put(self, option, checks.positive(getattr(self, option), option, where))
        flag(self.tls_verify, "tls_verify", where)
        checks.file(self.tls_ca_file, "tls_ca_file", where)
        if self.tls_ca_file is not None:
            if not self.tls_verify:
                raise ConfigError(
                    f"tls_ca_file has no use without tls_verify{where}; drop one of them"
                )
            checks.authorities(self.tls_ca_file, where)
        if self.tls_server_name is not None and not (
            isinstance(self.tls_server_name, str) and addresses.NAME.fullmatch(self.tls_server_name)
        ):
            raise ConfigError(
                f"tls_server_name must be a host name, got {self.tls_server_name!r}{where}"
            )

    def covers(self, host: str, path: str) -> bool:
        """True if requests for this host (lower case, without a port) and path (decoded) go to this
        upstream."""
        return self._covers_path(path) and (
            self.hosts is None or any(addresses.host_covers(own, host) for own in self.hosts)
        )

    def covers_all_of(self, other: UpstreamOptions) -> bool:
        """True if this upstream covers every request that the other one covers."""
        if not self._covers_path(other.path):
            return False
        if self.hosts is None:
            return True
        return other.hosts is not None and all(
            any(addresses.host_covers(own, host) for own in self.hosts) for host in other.hosts
        )

    def _covers_path(self, path: str) -> bool:
        own = self.path
        return path.startswith(own) and (
            own.endswith("/") or len(path) == len(own) or path[len(own)] == "/"
        )


def checked_upstreams(upstreams: Any) -> tuple[UpstreamOptions, ...]:
    """The upstreams of a gateway, in the order in which they are asked. Raises ConfigError."""
    if isinstance(upstreams, str | Mapping | UpstreamOptions) or not isinstance(
        upstreams, Iterable
    ):
        raise ConfigError(
            "upstreams must be a list of UpstreamOptions;"
            " write [UpstreamOptions('http://127.0.0.1:8000')]"
        )
    checked = tuple(UpstreamOptions(one) if isinstance(one, str) else one for one in upstreams)
    for upstream in checked:
        if not isinstance(upstream, UpstreamOptions):
            raise ConfigError(
                f"upstreams must hold UpstreamOptions, got {type(upstream).__name__};"
                " write UpstreamOptions('http://127.0.0.1:8000')"
            )
    if not checked:
        raise ConfigError("upstreams must name at least one, e.g. 'http://127.0.0.1:8000'")
    for earlier, later in combinations(checked, 2):
        if earlier.covers_all_of(later):
            raise ConfigError(
                f"upstreams has {later.name!r}, which is never asked: {earlier.name!r} comes first"
                " and covers the same hosts and paths; put the narrower one first"
            )
        if earlier.name == later.name:
            raise ConfigError(
                f"upstreams must have names of their own, got {later.name!r} twice; give each a name"
            )
    return checked
