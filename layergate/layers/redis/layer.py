"""The layer that instances share, in a Redis or Valkey.

It implements the ports of `layergate.shared`; what the layer does with them is described there, in
`layergate.shared.layer`. Users construct it; the stack calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from layergate.core.shared import Joining
from layergate.layers.redis.url import parse_url
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import System, SystemLayer, SystemOptions

if TYPE_CHECKING:
    from layergate.layers.redis.client import RedisClient

__all__ = ["RedisLayer"]


class RedisLayer(SystemLayer):
    """Entries in a Redis or Valkey that other instances use too, with their log and their leases.

    ``target``  where it is: a URL (``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``,
                ``redis+sentinel://``), or a client of redis-py. Of a client, addresses, credentials and
                TLS are used, for connections of our own.

    The other options are those of `SystemLayer`. ``name`` is "redis" unless you give another one.

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    libraries: ClassVar[tuple[str, ...]] = ("redis",)
    install: ClassVar[str] = "layergate[redis]"

    def __init__(self, target: Any, **options: Unpack[SystemOptions]) -> None:
        options.setdefault("name", "redis")
        super().__init__(**options)
        # Imports redis-py as a whole, before there are any calls. The first requests of a process come
        # at the same time; threads that import a package at once find it half made, and an event loop
        # that imports one keeps no time meanwhile.
        from layergate.layers.redis.client import RedisClient

        self._client: RedisClient = RedisClient(
            target,
            connect_timeout=self.connect_timeout,
            timeout=self.timeout,
            namespace=self.namespace,
            name=self.name,
        )

    def __repr__(self) -> str:
        return f"RedisLayer({self._client!r}, name={self.name!r}, namespace={self.namespace!r})"

    @staticmethod
    def shown_url(url: str) -> str:
        """See `layergate.layers.schemes`. Raises ConfigError for a URL that is wrong."""
        return str(parse_url(url))

    @property
    def capabilities(self) -> Capabilities:
        """See `SystemLayer.capabilities`."""
        return Capabilities(
            leases=True,
            final_after="milliseconds",
            woken_by="pub/sub",
            hit=1,
            miss=4,
            purge=4,
            heartbeat=1,
            uncovered=(
                "two primaries at once (set min-replicas-to-write 1)",
                "instances with different max_disconnected",
            ),
        )

    def open(self, joining: Joining) -> System:
        """See `SystemLayer.open`. Raises ConfigError for a client of the other world."""
        from layergate.layers.redis.blobs import RedisBlobs
        from layergate.layers.redis.journal import RedisJournal
        from layergate.layers.redis.leases import RedisLeaseStore

        client = self._client
        client.bind(joining.runtime, joining.counters)
        leases = RedisLeaseStore(client, self.namespace)
        journal = RedisJournal(
            client,
            namespace=self.namespace,
            max_disconnected=self.max_disconnected,
            log_length=self.log_length,
        )
        blobs = RedisBlobs(client, self.namespace)
        return System(client.guard, blobs, journal, leases, fence=leases)

    async def aclose(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). Using the layer again
        opens new ones."""
        await self._client.close()

    def system_stats(self) -> Mapping[str, int | float]:
        """Those of `RedisClient.stats`."""
        return self._client.stats()
