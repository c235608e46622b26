"""Entries in one system, the log of purges and the leases in another.

A cheap or large system that has no compare-and-set, or has it on one server only, holds the entries; a
smaller one coordinates::

    Shared(
        bodies=MemcachedLayer("memcached://h1,h2,h3"), coordination=PostgresLayer("postgresql://...")
    )

Purges are final as they are with ``coordination`` alone. Each entry carries the incarnation and the
position of the log at which it was stamped. So it does not matter what becomes of the bodies: one that
is lost, stale or resurrected is recognized by the log, and is a miss.

There is no step that checks a lease and writes an entry in one, because they lie in two systems. So a
holder that stood still for longer than its lease may store an older response over a newer one. Both were
fetched after every purge that they outlive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import System, SystemLayer

__all__ = ["Shared"]

_COORDINATION: Final = frozenset(
    {
        "backoff", "connect_timeout", "lease_term", "log_length", "max_disconnected", "timeout",
    }
)  # fmt: skip


class Shared(SystemLayer):
    """A shared layer of two systems.

    ``bodies``        holds the entries. Its options about entries count: ``name``, ``ttl``, the stale
                      windows, ``namespace``, ``compress_above``, ``max_size``.
    ``coordination``  holds the log of purges and the leases. Its options about these count:
                      ``max_disconnected``, ``lease_term``, ``backoff``, ``log_length``.

    Each keeps its own ``timeout`` and ``connect_timeout``.

    Both have the same ``secret``, or none.

    Raises ConfigError.
    """

    def __init__(self, *, bodies: SystemLayer, coordination: SystemLayer) -> None:
        for option, layer in (("bodies", bodies), ("coordination", coordination)):
            if isinstance(layer, Shared) or not isinstance(layer, SystemLayer):
                raise ConfigError(
                    f"{option} must be a layer of one shared system, such as RedisLayer or"
                    f" PostgresLayer, got {layer!r}"
                )
        if bodies is coordination:
            raise ConfigError(
                "bodies and coordination must be two layers; for one system, give the layer itself"
            )
        if bodies.options.get("secret") != coordination.options.get("secret"):
            raise ConfigError(
                "secret must be the same for bodies and coordination, because it signs entries and purges"
            )
        options: dict[str, Any] = {**bodies.options}
        options |= {
            name: one for name, one in coordination.options.items() if name in _COORDINATION
        }
        super().__init__(**options)
        self.bodies = bodies
        self.coordination = coordination

    def __repr__(self) -> str:
        return f"Shared(bodies={self.bodies!r}, coordination={self.coordination!r})"

    def open(self, joining: Joining) -> System:
        """See `SystemLayer.open`."""
        bodies = self.bodies.open_bodies(joining)
        system = self.coordination.open(joining)
        return System(bodies.guard, bodies.blobs, system.journal, system.leases)

    @property
    def capabilities(self) -> Capabilities | None:
        """Those of ``coordination``."""
        return self.coordination.capabilities

    def setup(self) -> Sequence[str]:
        """See `SystemLayer.setup`. Of both."""
        return [*self.bodies.setup(), *self.coordination.setup()]

    def examine(self) -> Sequence[str]:
        """See `SystemLayer.examine`. Of both."""
        return [*self.bodies.examine(), *self.coordination.examine()]

    def system_stats(self) -> Mapping[str, int | float]:
        """Those of ``bodies``, and with ``coordination_`` before their names those of ``coordination``."""
        others = self.coordination.system_stats()
        return {
            **self.bodies.system_stats(),
            **{f"coordination_{name}": value for name, value in others.items()},
        }

    async def aclose(self) -> None:
        """See `SystemLayer.aclose`. Of both."""
        try:
            await self.bodies.aclose()
        finally:
            await self.coordination.aclose()
