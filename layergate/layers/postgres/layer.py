"""The layer that instances share, in a PostgreSQL.

Entries lie in one table, the log of purges and the leases in another; what is done with them is described
in `layergate.shared`. Users construct this layer; the stack calls it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Unpack

from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.remote.layer import RemoteLayer
from layergate.remote.urls import shown
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import SystemOptions
from layergate.shared.names import head_name

if TYPE_CHECKING:
    from layergate.layers.postgres.administration import Administration
    from layergate.layers.postgres.blobs import PostgresBlobs
    from layergate.layers.postgres.cells import PostgresCells

__all__ = ["PostgresLayer"]


class PostgresLayer(RemoteLayer):
    """Entries in a PostgreSQL that other instances use too, with their log and their leases.

    ``url``          where it is, as libpq reads it: ``postgresql://user@host/database``. What it does not
                     say comes from ``PG*`` variables, ``~/.pgpass``, and service files.
    ``schema``       the schema with the two tables. They are made at the first use, if the user may do
                     that, or by ``layergate init URL``.
    ``connections``  at most so many for each event loop of a process, or for all its threads; one more
                     listens for purges.

    The other options are those of `SystemLayer`. ``name`` is "postgres" unless you give another one.

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    libraries: ClassVar[tuple[str, ...]] = ("psycopg",)
    install: ClassVar[str] = "layergate[postgres]"

    def __init__(
        self,
        url: str,
        *,
        schema: str = "layergate",
        connections: int = 4,
        **options: Unpack[SystemOptions],
    ) -> None:
        options.setdefault("name", "postgres")
        super().__init__(**options)
        if type(connections) is not int or not 1 <= connections <= 1000:
            raise ConfigError(
                f"connections must be a whole number from 1 to 1000, got {connections!r}"
            )
        # Here, because psycopg is a library that need not be installed; and all of it before there are
        # any calls: threads that import a package at once find it half made.
        from layergate.layers.postgres.client import PostgresClient
        from layergate.layers.postgres.conninfo import conninfo_of
        from layergate.layers.postgres.schema import Tables, check_schema

        self.url = url
        self._client = PostgresClient(
            conninfo_of(url, self.namespace),
            Tables(check_schema(schema)),
            name=self.name,
            most=connections,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )
        self._cells: PostgresCells | None = None

    def __repr__(self) -> str:
        return (
            f"PostgresLayer({shown(self.url)!r}, name={self.name!r}, namespace={self.namespace!r})"
        )

    @staticmethod
    def shown_url(url: str) -> str:
        """See `layergate.layers.schemes`."""
        return shown(url)

    @property
    def identity(self) -> Hashable:
        """See `CellsLayer.identity`."""
        return self._client.conninfo, self._client.tables.schema

    def connect(self, joining: Joining) -> tuple[PostgresBlobs, PostgresCells]:
        """See `CellsLayer.connect`."""
        from layergate.layers.postgres.blobs import PostgresBlobs
        from layergate.layers.postgres.cells import PostgresCells

        self._client.bind(joining.runtime)
        told = frozenset({head_name(self.namespace)})
        self._cells = PostgresCells(self._client, told)
        return PostgresBlobs(self._client, self.namespace), self._cells

    @property
    def capabilities(self) -> Capabilities:
        """See `SystemLayer.capabilities`. A pooler is known of once a connection was made."""
        from layergate.layers.postgres.cells import LOOK_EVERY

        looks = self._client.pooled
        return Capabilities(
            leases=True,
            final_after="milliseconds",
            woken_by="looking" if looks else "NOTIFY",
            look_every=LOOK_EVERY if looks else None,
            miss=7,
            purge=6,
            uncovered=(
                "a snapshot of the disk, or a dump, that was restored while no instance was running",
                "two primaries at once",
            ),
        )

    def _administration(self) -> Administration:
        from layergate.layers.postgres.administration import Administration

        return Administration(self._client)

    def setup(self) -> Sequence[str]:
        """See `SystemLayer.setup`."""
        return self._administration().setup()

    def examine(self) -> Sequence[str]:
        """See `SystemLayer.examine`."""
        return self._administration().examine()

    def system_stats(self) -> Mapping[str, int | float]:
        """Those of `PostgresClient.stats`."""
        return self._client.stats()

    async def aclose(self) -> None:
        """See `SystemLayer.aclose`."""
        if self._cells is not None:
            await self._cells.close()
            await self._client.close()
