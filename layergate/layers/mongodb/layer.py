"""The layer that instances share, in a MongoDB.

Entries lie in one collection, the log of purges and the leases in another; what is done with them is described in
`layergate.shared`. Users construct this layer; the stack calls it.
"""

# Options come from users: the checks that their declared types make redundant are the ones that help.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Unpack

from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.remote.layer import RemoteLayer
from layergate.remote.urls import shown
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import SystemOptions

if TYPE_CHECKING:
    from layergate.layers.mongodb.blobs import MongoBlobs
    from layergate.layers.mongodb.cells import MongoCells

__all__ = ["MongoLayer"]

_PREFIX: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")
_DATABASE: Final = "layergate"


class MongoLayer(RemoteLayer):
    """Entries in a MongoDB that other instances use too, with their log and their leases.

    ``url``     where it is, as pymongo reads it: ``mongodb://host/database``, ``mongodb+srv://...``, with all of
                its options. Without a database: "layergate".
    ``prefix``  what the names of the two collections begin with.

    The other options are those of `SystemLayer`. ``name`` is "mongodb" unless you give another one.

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    libraries: ClassVar[tuple[str, ...]] = ("pymongo",)
    install: ClassVar[str] = "layergate[mongodb]"

    def __init__(
        self, url: str, *, prefix: str = "layergate", **options: Unpack[SystemOptions]
    ) -> None:
        options.setdefault("name", "mongodb")
        super().__init__(**options)
        if not isinstance(prefix, str) or _PREFIX.fullmatch(prefix) is None:
            raise ConfigError(
                f"prefix must be 1 to 51 letters, digits or _, beginning with no digit, got {prefix!r}"
            )
        # Here, because pymongo is a library that need not be installed.
        from layergate.layers.mongodb.administration import check_url
        from layergate.layers.mongodb.client import MongoConnection

        check_url(url)
        self.url = url
        self._connection = MongoConnection(
            url,
            database=_DATABASE,
            prefix=prefix,
            name=self.name,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )
        self._prefix = prefix
        self._cells: MongoCells | None = None

    def __repr__(self) -> str:
        return f"MongoLayer({shown(self.url)!r}, name={self.name!r}, namespace={self.namespace!r})"

    @staticmethod
    def shown_url(url: str) -> str:
        """See `layergate.layers.schemes`."""
        return shown(url)

    @property
    def identity(self) -> Hashable:
        """See `CellsLayer.identity`."""
        return self.url, self._prefix

    def connect(self, joining: Joining) -> tuple[MongoBlobs, MongoCells]:
        """See `CellsLayer.connect`."""
        from layergate.layers.mongodb.blobs import MongoBlobs
        from layergate.layers.mongodb.cells import MongoCells

        self._connection.bind(joining.runtime)
        self._cells = MongoCells(self._connection)
        return MongoBlobs(self._connection, self.namespace), self._cells

    @property
    def capabilities(self) -> Capabilities:
        """See `SystemLayer.capabilities`."""
        return Capabilities(
            leases=True,
            final_after="milliseconds",
            woken_by="a change stream (a replica set), else looking",
            look_every=1.25,  # the change stream answers so often that there is nothing new
            miss=6,
            purge=6,
            uncovered=("a backup that was restored while no instance was running",),
        )

    def setup(self) -> Sequence[str]:
        """See `SystemLayer.setup`."""
        from layergate.layers.mongodb.administration import setup

        return setup(self._connection)

    def examine(self) -> Sequence[str]:
        """See `SystemLayer.examine`."""
        from layergate.layers.mongodb.administration import examine

        return examine(self._connection)

    def system_stats(self) -> Mapping[str, int | float]:
        """Those of `MongoConnection.stats`."""
        return self._connection.stats()

    async def aclose(self) -> None:
        """See `SystemLayer.aclose`."""
        if self._cells is not None:
            await self._cells.close()
            await self._connection.close()
