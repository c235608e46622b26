"""Which node of a Cluster serves which keys: the map of the slots, and redirections.

`layergate.layers.redis.routing` uses it. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from layergate.layers.redis.connection import Command, Word
from layergate.layers.redis.url import Address

__all__ = ["Redirection", "Slots", "redirection", "slot_of"]

_COUNT: Final = 16384
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
_KEYLESS: Final = frozenset({"INFO", "PING", "PUBLISH", "SCRIPT", "TIME"})


def slot_of(command: Command) -> int | None:
    """The hash slot of the (first) key of a command; None if any node will do."""
    name = command[0]
    if name in _KEYLESS:
        return None
    at = 1
    if name in _SCRIPTS:
        if not int(command[2]):
            return None
        at = 3
    return key_slot(_bytes(command[at]))


def _bytes(word: Word) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


class Redirection(NamedTuple):
    """Another node has the slot: for good, or ``asking``: for this one command."""

    slot: int
    host: str
    port: int
    asking: bool


def redirection(reply: object) -> Redirection | None:
    """The node that a reply redirects to; None if it does not."""
    if isinstance(reply, AskError):  # which MovedError is a kind of
        return Redirection(
            reply.slot_id, reply.host, int(reply.port), not isinstance(reply, MovedError)
        )
    if type(reply) is ResponseError:
        # Outside of its own Cluster client redis-py 5 does not know these.
        kind, _, rest = str(reply).partition(" ")
        if kind in {"ASK", "MOVED"}:
            slot, _, address = rest.partition(" ")
            host, _, port = address.rpartition(":")
            return Redirection(int(slot), host, int(port), kind == "ASK")
    return None


class Slots:
    """The map of the slots as a node told it, corrected by redirections since.

    ``remap`` turns an address as the Cluster announces it into one that is reachable from here.
    """

    __slots__ = ("_remap", "_slots", "masters")

    def __init__(
        self,
        reply: Sequence[Any],
        asked: Address,
        remap: Callable[[Address], Address] = lambda address: address,
    ) -> None:
        """From the reply to CLUSTER SLOTS of the node ``asked``. Raises ValueError if it is none."""
        self._remap = remap
        self._slots: list[Address | None] = [None] * _COUNT
        try:
            for first, last, master, *_ in reply:
                address = self.address(master[0], master[1], asked)
                self._slots[first : last + 1] = [address] * (last + 1 - first)
        except (IndexError, TypeError) as error:
            raise ValueError(f"this is no reply to CLUSTER SLOTS: {reply!r:.100}") from error
        if len(self._slots) != _COUNT:
            raise ValueError(f"slots beyond {_COUNT}: {reply!r:.100}")
        self.masters = _unique(self._slots)
        if not self.masters:
            raise ValueError("a Cluster in which no node serves any slot")

    def address(self, host: Any, port: Any, asked: Address) -> Address:
        """An address as a node gives it; without a host it means its own."""
        text = host.decode() if isinstance(host, bytes) else host
        if not text or text == "?":
            text = asked.host
        return self._remap(Address(text, int(port)))

    def node(self, slot: int | None) -> Address:
        """The node that serves the slot; any master for None. Raises LookupError if no node does."""
        if slot is None:
            return self.masters[0]
        address = self._slots[slot]
        if address is None:
            raise LookupError(f"no node serves slot {slot}")
        return address

    def move(self, slot: int, address: Address) -> None:
        """A node has said that the slot is elsewhere."""
        self._slots[slot] = address
        if address not in self.masters:
            self.masters = (*self.masters, address)


def _unique(addresses: Iterable[Address | None]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(address for address in addresses if address is not None))
