"""What goes to which node of a Cluster, and what becomes of it there.

`RedisClient` gives its commands to the `Router` if it speaks with a Cluster. The router keeps the map of
the slots, follows redirections, and has a breaker for each node, so that one node that does not answer
costs nothing but its own keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from layergate.core.breaker import Breaker
from layergate.errors import LayerUnavailable
from layergate.layers.redis.cluster import Slots, redirection, slot_of
from layergate.layers.redis.connection import Command
from layergate.layers.redis.errors import is_fault, raise_first, uncovered
from layergate.layers.redis.given import GivenClient
from layergate.layers.redis.pool import Pool
from layergate.layers.redis.url import Address, Target
from layergate.shared.guard import Guard

__all__ = ["Router"]

_REDIRECTIONS: Final = 3  # in a row, of one command
_REMAP_PAUSE: Final = 0.25  # seconds between two looks at the map of a Cluster that has faults
_MOST_NODES: Final = 1024  # addresses that have a breaker


def _always() -> bool:
    return True


class Exchange(Protocol):
    """One round trip with one node: see `RedisClient.exchange`."""

    async def __call__(
        self,
        pool: Pool,
        node: Address | None,
        commands: Sequence[Command],
        replies: list[Any],
        wanted: Callable[[], bool],
        give_up: float,
    ) -> None: ...


class Router:
    """The way to the nodes of one Cluster. ``name``: of the layer, for errors."""

    def __init__(self, source: Target | GivenClient, name: str) -> None:
        self._source = source
        self._name = name
        self._guard: Guard | None = None
        self._random: Callable[[], float] | None = None
        self._nodes: dict[Address, Breaker] = {}

    def bind(self, guard: Guard, random: Callable[[], float]) -> None:
        """``guard`` makes the breakers of the nodes."""
        self._guard = guard
        self._random = random

    def forked(self) -> None:
        """A lock may be held by a thread that does not exist in this child."""
        self._nodes = {}

    @property
    def nodes_open(self) -> int:
        """How many nodes are not asked now."""
        return sum(node.number == 2 for node in list(self._nodes.values()))

    def forget_nodes(self) -> None:
        """Close the breakers of all nodes."""
        self._nodes.clear()

    async def spread(
        self,
        exchange: Exchange,
        pool: Pool,
        commands: list[Command],
        probe: bool,
        wanted: Callable[[], bool],
        give_up: float,
    ) -> list[Any]:
        """A reply for each command, from the node that serves its key. A fault of a node is the reply to
        each command that went there."""
        slots = await self.slots(exchange, pool, give_up)
        results: list[Any] = [None] * len(commands)
        todo: dict[Address, list[tuple[int, bool]]] = {}  # which commands, each with ASKING or not
        for index, command in enumerate(commands):
            try:
                todo.setdefault(slots.node(slot_of(command)), []).append((index, False))
            except LookupError:
                pool.stale = True
                results[index] = uncovered()
        for _ in range(_REDIRECTIONS):
            if not todo:
                break
            work = [
                self._ask_node(
                    exchange, pool, node, commands, which, results, probe, wanted, give_up
                )
                for node, which in todo.items()
            ]
            await pool.together(work)
            if not wanted():
                return []
            again: dict[Address, list[tuple[int, bool]]] = {}
            for node, which in todo.items():
                for index, _asking in which:
                    new = redirection(results[index])
                    if new is None:
                        continue
                    there = slots.address(new.host, new.port, node)
                    again.setdefault(there, []).append((index, new.asking))
                    if not new.asking:
                        slots.move(new.slot, there)
            todo = again
        return results

    async def _ask_node(
        self,
        exchange: Exchange,
        pool: Pool,
        node: Address,
        commands: list[Command],
        which: list[tuple[int, bool]],
        results: list[Any],
        probe: bool,
        wanted: Callable[[], bool],
        give_up: float,
    ) -> None:
        breaker = self._nodes.get(node)
        if breaker is None:
            if (
                len(self._nodes) >= _MOST_NODES
            ):  # addresses come and go, and a redirection may name any
                self._nodes.clear()
            assert self._guard is not None
            breaker = self._nodes.setdefault(node, self._guard.new_breaker(cap=5.0))
        ticket = breaker.enter(probe=probe)
        if ticket is None:
            refused = LayerUnavailable(self._name, f"node {node} does not answer for now")
            for index, _ in which:
                results[index] = refused
            return
        wire: list[Command] = []
        for index, asking in which:
            if asking:
                wire.append(("ASKING",))
            wire.append(commands[index])
        replies: list[Any] = []
        fault: Exception | None = None
        try:
            await exchange(pool, node, wire, replies, wanted, give_up)
        except Exception as error:
            fault = error
            pool.stale = True
            breaker.failed(ticket)
        else:
            breaker.succeeded(ticket)
        answers = iter(replies)
        for index, asking in which:
            if asking:
                next(answers, None)
            results[index] = next(answers, fault)
            if is_fault(results[index]):  # CLUSTERDOWN and the like: look at the map again
                pool.stale = True

    async def slots(self, exchange: Exchange, pool: Pool, give_up: float) -> Slots:
        """The map; loaded again if there was a fault since. Raises what the last node raised."""
        slots = pool.slots
        now = time.monotonic()
        if slots is not None and not (pool.stale and now >= pool.looked + _REMAP_PAUSE):
            return slots
        pool.looked = now
        pool.stale = False
        candidates = list(self._source.addresses)
        if slots is not None:
            candidates = [*slots.masters, *candidates]
        assert self._random is not None
        # Not always the same one first, because it may not answer.
        turn = int(self._random() * len(candidates))
        last: Exception = RedisConnectionError("no node of the Cluster answered in time")
        for node in dict.fromkeys(candidates[turn:] + candidates[:turn]):
            if time.monotonic() >= give_up:
                break
            replies: list[Any] = []
            try:
                await exchange(pool, node, [("CLUSTER", "SLOTS")], replies, _always, give_up)
                (reply,) = raise_first(replies)
                pool.slots = Slots(reply, node, self._source.remap)
                return pool.slots
            except Exception as error:
                last = error
        pool.stale = True
        if slots is not None:
            return slots
        raise last
