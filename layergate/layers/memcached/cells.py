"""The log of purges and the leases in memcached: the port `Cells`.

They lie on one server, the first that the URL names. It may evict them, like everything it holds. A lost head
is a new incarnation of the log: everything is dropped, and purges take the trust period once. A lost lease
costs a second fetch.

**A tag never repeats.** memcached numbers its writes (``cas``), from one again after a restart. A process that
stood still meanwhile could then put an old head in the place of a new one that has the same number. So a tag is
that number together with the identity of the server's process, and a swap with the tag of another process asks
nothing: see `connection`. What remains is a server that is restarted within one second of its start and gets the
same process number.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, NamedTuple

from layergate.layers.memcached.client import MemcachedClient, checked
from layergate.layers.memcached.protocol import Reply, delete, get, put
from layergate.shared.ports import Cell, Limits

__all__ = ["MemcachedCells"]

_LARGEST: Final = 512 * 1024  # bytes


class _Tag(NamedTuple):
    """``server``: identity of its process."""

    server: bytes
    cas: int


class MemcachedCells:
    """`RemovableCells`."""

    def __init__(self, client: MemcachedClient) -> None:
        self._client = client
        self._address = client.addresses[0]

    @property
    def limits(self) -> Limits:
        return Limits(largest=min(_LARGEST, self._client.largest), longest_name=200)

    async def load(self, name: str) -> Cell | None:
        """See `Cells.load`."""
        (reply,), server = await self._client.ask(self._address, [get(name.encode(), cas=True)])
        if checked(self._client.name, reply).code != b"VA":
            return None
        return Cell(reply.value, _Tag(server, reply.cas))

    async def swap(self, name: str, tag: Hashable | None, data: bytes) -> _Tag | None:
        """See `Cells.swap`."""
        key = name.encode()
        if tag is None:
            (reply,), server = await self._client.ask(self._address, [put(key, data, mode=b"E")])
            return self._stored(reply, server)
        if not isinstance(tag, _Tag):
            return None
        replies, server = await self._client.ask(
            self._address, [put(key, data, compare=tag.cas)], tag.server
        )
        return self._stored(replies[0], server) if replies else None

    def _stored(self, reply: Reply, server: bytes) -> _Tag | None:
        if checked(self._client.name, reply).code != b"HD":
            return None
        return _Tag(server, reply.cas)

    async def put(self, name: str, data: bytes) -> object:
        """See `Cells.put`."""
        (reply,), _ = await self._client.ask(self._address, [put(name.encode(), data)])
        return checked(self._client.name, reply)

    async def remove(self, name: str) -> object:
        """See `RemovableCells.remove`."""
        (reply,), _ = await self._client.ask(self._address, [delete(name.encode())])
        return checked(self._client.name, reply)
