"""The layer that instances share, in one memcached or several.

The entries are spread over all servers. The log of purges and the leases lie on the first one. What is done with
them is described in `layergate.shared`. Users construct this layer; the stack calls it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Unpack

from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.layers.memcached.blobs import MemcachedBlobs
from layergate.layers.memcached.cells import MemcachedCells
from layergate.layers.memcached.client import MemcachedClient
from layergate.layers.memcached.url import parse_url
from layergate.remote.layer import RemoteLayer
from layergate.remote.urls import shown
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import SystemOptions

__all__ = ["MemcachedLayer"]


class MemcachedLayer(RemoteLayer):
    """Entries in memcached that other instances use too, with their log and their leases.

    ``url``         where the servers are: see `layergate.layers.memcached.url`. The first one holds the log of
                    purges and the leases, so all instances must name the same one first.
    ``look_every``  seconds after which an instance looks for new purges: memcached tells nobody of changes. A
                    purge takes about this long to be final.

    The other options are those of `SystemLayer`. ``name`` is "memcached" unless you give another one.

    Raises ConfigError.
    """

    def __init__(
        self, url: str, *, look_every: float = 0.02, **options: Unpack[SystemOptions]
    ) -> None:
        options.setdefault("name", "memcached")
        super().__init__(**options)
        _check_look(look_every)
        self.look_every = look_every
        self.url = url
        self._client = MemcachedClient(
            parse_url(url),
            name=self.name,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )

    def __repr__(self) -> str:
        return (
            f"MemcachedLayer({shown(self.url)!r}, name={self.name!r}, namespace={self.namespace!r})"
        )

    @staticmethod
    def shown_url(url: str) -> str:
        """See `layergate.layers.schemes`."""
        return shown(url)

    @property
    def identity(self) -> Hashable:
        """See `CellsLayer.identity`."""
        return str(self._client.addresses[0])

    def connect(self, joining: Joining) -> tuple[MemcachedBlobs, MemcachedCells]:
        """See `CellsLayer.connect`."""
        self._client.bind(joining.runtime)
        return MemcachedBlobs(self._client, self.namespace), MemcachedCells(self._client)

    @property
    def capabilities(self) -> Capabilities:
        """See `SystemLayer.capabilities`."""
        return Capabilities(
            leases=True,
            final_after="milliseconds",
            woken_by="looking",
            look_every=self.look_every,
            miss=6,
            purge=4,
            uncovered=(
                "instances that name another server first",
                "a name of a host that leads to several servers",
                "a proxy between the instances and the server (mcrouter, twemproxy)",
                "a server that is restarted within a second of its start with the same process number",
            ),
        )

    def system_stats(self) -> Mapping[str, int | float]:
        """Those of `MemcachedClient.stats`."""
        return self._client.stats()

    async def aclose(self) -> None:
        """See `SystemLayer.aclose`."""
        if self._joined is not None:
            await self._client.close()


def _check_look(seconds: Any) -> None:
    if (
        type(seconds) not in (int, float)
        or not math.isfinite(seconds)
        or not 0.001 <= seconds <= 60
    ):
        raise ConfigError(f"look_every must be 0.001 to 60 seconds, got {seconds!r}; try 0.02")
