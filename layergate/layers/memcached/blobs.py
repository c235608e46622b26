"""Entries in memcached, one server or several: the port `Blobs`.

A memcached cannot list its keys, and forgets them all at once or not at all (``flush_all``, which would take
away what others keep there). So each value begins with a *generation*, and each server holds the present
one of each namespace, in an item of its own. A value of another generation is none. `clear` makes a new
generation. One that was evicted is made anew by the next write, and what was stored before is gone.

A read asks for the generation in the same round trip. A write relies on the generation that this process
has seen last, and asks for the present one in the same round trip; if it is another one, it writes again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Final

from layergate.errors import LayerError
from layergate.layers.memcached.client import Budget, MemcachedClient, checked
from layergate.layers.memcached.protocol import Reply, delete, get, put
from layergate.layers.memcached.url import Address
from layergate.shared.ports import Limits

__all__ = ["MemcachedBlobs"]

_GENERATION: Final = 8  # bytes
_LONGEST: Final = 30 * 24 * 3600  # seconds; memcached takes more for a date
_TRIES: Final = 3


class MemcachedBlobs:
    """`layergate.shared.ports.Blobs`."""

    def __init__(self, client: MemcachedClient, namespace: str) -> None:
        self._client = client
        self._key = f"{namespace}:g".encode()
        self._seen: dict[Address, bytes] = {}

    @property
    def limits(self) -> Limits:
        # (By its clock of whole seconds memcached drops an item up to a second early.)
        return Limits(largest=self._client.largest - _GENERATION, longest_name=200)

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See `Blobs.get_many`. One round trip with each server concerned, all at the same time under asyncio.
        The values of a server that does not answer count as missing, unless none answers."""
        client = self._client
        by_server: dict[Address, list[bytes]] = {}
        keys = [name.encode() for name in names]
        for key in keys:
            by_server.setdefault(client.address_of(key), []).append(key)
        parts = list(by_server.items())
        found: dict[bytes, bytes | None] = {}
        errors: list[BaseException] = []
        budget = client.budget()
        answers = await client.together(
            [self._read(address, some, budget) for address, some in parts]
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                found.update(answer)
        if len(errors) == len(parts):
            raise errors[0]
        return [found.get(key) for key in keys]

    async def _read(
        self, address: Address, keys: list[bytes], budget: Budget
    ) -> dict[bytes, bytes | None]:
        commands = [get(self._key), *map(get, keys)]
        (present, *replies), _ = await self._client.ask(address, commands, budget=budget)
        generation = self._generation(present)
        if generation is None:
            return {}
        self._seen[address] = generation
        return {
            key: _body(checked(self._client.name, reply), generation)
            for key, reply in zip(keys, replies, strict=True)
        }

    def _generation(self, reply: Reply) -> bytes | None:
        value = checked(self._client.name, reply).value
        return value if reply.code == b"VA" and len(value) == _GENERATION else None

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        """See `Blobs.set`."""
        key = name.encode()
        address = self._client.address_of(key)
        lifetime = min(_LONGEST, math.ceil(seconds) + 1)
        budget = self._client.budget()
        for _ in range(_TRIES):
            generation = self._seen.get(address) or await self._present(address, budget)
            commands = [get(self._key), put(key, generation + data, seconds=lifetime)]
            (present, stored), _ = await self._client.ask(address, commands, budget=budget)
            checked(self._client.name, stored)
            if self._generation(present) == generation:
                return
            self._seen.pop(address, None)  # it was cleared, or the generation was lost
        raise LayerError(self._client.name, "the namespace was cleared again and again")

    async def _present(self, address: Address, budget: Budget) -> bytes:
        """The generation on this server; a new one if there is none."""
        new = os.urandom(_GENERATION)
        (added, present), _ = await self._client.ask(
            address, [put(self._key, new, mode=b"E"), get(self._key)], budget=budget
        )
        checked(self._client.name, added)
        generation = self._generation(present)
        if generation is None:  # evicted at once, or somebody else's
            await self._begin(address, new, budget)
            generation = new
        self._seen[address] = generation
        return generation

    async def _begin(self, address: Address, generation: bytes, budget: Budget) -> None:
        (stored,), _ = await self._client.ask(address, [put(self._key, generation)], budget=budget)
        checked(self._client.name, stored)

    async def delete(self, name: str) -> bool:
        """See `Blobs.delete`."""
        key = name.encode()
        (reply,), _ = await self._client.ask(self._client.address_of(key), [delete(key)])
        return checked(self._client.name, reply).code == b"HD"

    async def clear(self) -> None:
        """See `Blobs.clear`. One item on each server. Raises what a server that does not answer raises; what
        it holds stays then."""
        budget = self._client.budget()
        work = [
            self._begin(address, os.urandom(_GENERATION), budget)
            for address in self._client.addresses
        ]
        self._seen.clear()
        for answer in await self._client.together(work):
            if isinstance(answer, BaseException):
                raise answer


def _body(reply: Reply, generation: bytes) -> bytes | None:
    if reply.code != b"VA" or not reply.value.startswith(generation):
        return None
    return reply.value[_GENERATION:]
