"""How far behind the log an instance is, which record is whose, and how long it waits to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layergate.layers.redis.log_scripts import SYNC
from layergate.runtime.loop import LoopRuntime
from layergate.shared.journal import Appended, Grew
from tests.support.nodes import Loop, Node, settle, world
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)
__all__ = ["world"]


def lag_of(node: Node) -> float:
    lag: float = node.log.stats()["log_lag"]
    return lag


async def two(world: Any, server: SharedValkey) -> tuple[Node, Node]:
    nodes = [Node(world, server.url, server.namespace, still=True) for _ in range(2)]
    for node in nodes:
        await node.join()
    settle(server, server.namespace)
    return nodes[0], nodes[1]


def test_the_lag_is_what_was_heard_of_and_not_applied(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        node, other = await two(world, shared_valkey)
        await node.purge("a", wait=0)
        log_id, applied = node.log.log_id, node.log.applied
        assert log_id is not None
        assert applied == 1
        assert lag_of(node) == 0
        assert node.log.is_news(Grew(log_id, applied + 3))
        assert lag_of(node) == 3
        for _ in range(3):
            await other.purge("b", wait=0)
        await node.log.sync()
        assert (node.log.applied, lag_of(node)) == (4, 0)
        assert not node.log.is_news(Grew(log_id, 4))
        assert lag_of(node) == 0

    world.run(scenario())


def test_of_another_incarnation_nothing_is_applied_yet(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        node, _ = await two(world, shared_valkey)
        for _ in range(3):
            await node.purge("a", wait=0)
        assert node.log.is_news(Grew(b"another log's id", 2))
        assert lag_of(node) == 2

    world.run(scenario())


def test_an_answer_that_comes_late_makes_nobody_ahead_of_the_log(
    shared_valkey: SharedValkey,
) -> None:
    """It tells of an end that the instance has passed by now: that is no lag, and none below zero."""
    loop = Loop()
    held: list[asyncio.Event] = []

    class Line:
        def __init__(self, server: Any) -> None:
            self.server = server

        def __getattr__(self, name: str) -> Any:
            return getattr(self.server, name)

        async def run(self, script: Any, *args: Any, **options: Any) -> Any:
            reply = await self.server.run(script, *args, **options)
            if script is SYNC and not held:
                held.append(asyncio.Event())
                await held[0].wait()
            return reply

    async def scenario() -> None:
        held.append(asyncio.Event())  # not yet
        url, namespace = shared_valkey.url, shared_valkey.namespace
        node = Node(loop, url, namespace, still=True, wrap=Line)
        await node.join()
        held.clear()
        late = asyncio.ensure_future(node.log.refresh())
        await loop.until(lambda: held)
        for _ in range(3):
            await node.purge("a", wait=0)
        assert node.log.applied == 3
        held[0].set()
        await late
        assert (node.log.applied, lag_of(node)) == (3, 0)

    loop.run(scenario())


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("it", True),
        ("another record there", False),
        ("another log", False),
        ("a caller that follows another log", False),
        ("no record there", False),
    ],
)
def test_a_purge_is_found_in_its_place_and_as_it_was_written(
    world: Any, shared_valkey: SharedValkey, what: str, found: bool
) -> None:
    """The place alone may be another record's: after the end of the log was lost, say."""

    async def scenario() -> None:
        node, _ = await two(world, shared_valkey)
        await node.purge("a", wait=0)
        place = node.log.place()
        assert place.log is not None
        log, position, tip = place.log, place.position, place.tip
        if what == "another record there":
            tip = b"0" * 40
        elif what == "another log":
            log = bytes(16)
        elif what == "a caller that follows another log":
            place = place._replace(log=bytes(16), position=0, tip=b"")
        elif what == "no record there":
            position += 1
        status = await node.journal.status(place, Appended(log, position, tip, 0.0))
        assert status.found is found

    world.run(scenario())


@pytest.mark.parametrize(("disconnected", "longest"), [(0.4, 0.1), (600.0, 2.0)])
def test_the_pause_between_two_tries_to_come_back_is_bounded(
    shared_valkey: SharedValkey, disconnected: float, longest: float
) -> None:
    """By the heartbeat, so that an instance is back about as soon as it can be; and by two seconds."""
    pauses: list[float] = []

    class Passing:
        async def wait(self, timeout: float) -> bool:
            pauses.append(timeout)
            return False

    class Runtime(LoopRuntime):
        def event(self) -> Any:
            return Passing()

        def random(self) -> float:
            return 1.0

    async def scenario() -> None:
        node = Node(
            loop,
            shared_valkey.url,
            shared_valkey.namespace,
            disconnected=disconnected,
            runtime=Runtime(),
        )
        for _ in range(12):
            await node.log.heartbeat.rest()
        assert pauses == sorted(pauses)
        assert pauses[0] == 0.05
        assert pauses[-1] == pytest.approx(longest)
        loop.nodes.remove(node)

    loop = Loop()
    loop.run(scenario())
