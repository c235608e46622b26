"""The log under everything at once: a random history, and what must hold in it (G3).

Three instances on a real server; calls that are lost on the way, or whose replies are, or that come
late; instances that stand still; time that passes; a server that forgets all, a part, or what came
after its last backup; a log that is too short. Time is made to pass: the instances' clocks and the
fleet's, together, while nothing is under way.

Whenever a purge has returned as final, then whatever was stamped before it was called is gone at
every instance that is trusted: in its memory, and as an entry in Redis that anybody has stamped.
And in the end, when all is well, so it is for every purge.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from layergate.layers.redis import journal as journal_module
from layergate.runtime.loop import LoopRuntime
from layergate.shared import outbox, replay
from layergate.shared.log import LogOvertaken
from tests.support.nodes import Loop, Node, Reach, part_of
from tests.support.redis_servers import Resp, SharedValkey

pytest_plugins = ("tests.support.redis_servers",)

DISCONNECTED = 1.0
PARTS = ("log", "meta", "members", "acks", "again")


class Time:
    """Passes when it is told to, for the instances and for the fleet's clock."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.under_way = 0
        self.standing = asyncio.Event()
        self.standing.set()

    async def pass_(self, seconds: float, server: Resp, meta: str) -> None:
        self.standing.clear()
        while self.under_way:
            await asyncio.sleep(0.0005)
        self.shift += seconds
        if server.ask("EXISTS", meta):
            server.ask("HINCRBY", meta, "clock", round(seconds * 1000))
        self.standing.set()


class Shifted(LoopRuntime):
    def __init__(self, time: Time) -> None:
        super().__init__()
        self.time = time

    def monotonic(self) -> float:
        return LoopRuntime.monotonic() + self.time.shift


class Line:
    """A server behind a line that a test can break."""

    def __init__(self, server: Any, time: Time, chance: random.Random) -> None:
        self.server = server
        self.time = time
        self.chance = chance
        self.cut = False
        self.losing = 0.0
        self.lag = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        await self.time.standing.wait()
        if self.cut:
            raise ConnectionError("cut")
        self.time.under_way += 1
        try:
            reply = await self.server.run(*args, **kwargs)
        finally:
            self.time.under_way -= 1
        if self.lag:
            await asyncio.sleep(self.chance.random() * self.lag)
        if self.chance.random() < (1.0 if bool(self.cut) else self.losing):
            raise ConnectionError("lost on the way back")
        return reply


class Purge(NamedTuple):
    tag: str
    stamps: list[int]  # of each instance, before it was called
    places: list[tuple[bytes, int]]  # the same as entries in Redis
    task: asyncio.Task[Reach]


class History:
    def __init__(self, server: SharedValkey, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.redis = Resp(server.port)
        self.keys = [part_of(server, part) for part in PARTS]
        self.time = Time()
        self.world = Loop()
        self.lines: list[Line] = []
        self.length = self.chance.choice([4, 12, 1000])
        self.nodes = [self.node() for _ in range(3)]
        self.purges: list[Purge] = []
        self.syncs: set[asyncio.Task[Any]] = set()
        self.backup: dict[str, Any] = {}
        self.told: list[str] = []
        self.final = 0

    def node(self) -> Node:
        def wrap(server: Any) -> Any:
            line = Line(server, self.time, self.chance)
            self.lines.append(line)
            return line

        return Node(
            self.world,
            self.server.url,
            self.server.namespace,
            disconnected=DISCONNECTED,
            length=self.length,
            still=True,
            runtime=Shifted(self.time),
            wrap=wrap,
        )

    # -- what happens --------------------------------------------------------------------------

    async def step(self) -> None:
        happen, weights = zip(*EVENTS.items(), strict=True)
        (what,) = self.chance.choices(happen, weights)
        self.told.append(what.__name__)
        await what(self)
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.003]))
        self.check()

    async def purge(self) -> None:
        tag = f"t{len(self.purges)}"
        node = self.chance.choice(self.nodes)
        stamps = [one.position for one in self.nodes]
        places = [place for one in self.nodes if (place := one.log.positions.place(one.position))]
        wait = self.chance.choice([None, None, 0, 0.05])
        task = asyncio.create_task(node.purge(tag, wait=wait))
        self.purges.append(Purge(tag, stamps, places, task))

    async def sync(self) -> None:
        await self._sync(self.chance.choice(self.nodes))

    async def _sync(self, node: Node) -> None:
        async def tried() -> None:
            with contextlib.suppress(ConnectionError, LogOvertaken):
                await node.log.sync()

        task = asyncio.create_task(tried())
        self.syncs.add(task)
        task.add_done_callback(self.syncs.discard)

    async def sync_all(self) -> None:
        for node in self.nodes:
            await self._sync(node)

    async def catch_up(self) -> None:
        await self.chance.choice(self.nodes).log.catch_up()

    async def cut(self) -> None:
        line = self.chance.choice(self.lines)
        line.cut = not line.cut

    async def heal(self) -> None:
        for line in self.lines:
            line.cut = False

    async def worsen(self) -> None:
        line = self.chance.choice(self.lines)
        line.losing = self.chance.choice([0, 0, 0.3])
        line.lag = self.chance.choice([0, 0.002, 0.02])

    async def wait(self) -> None:
        await self.time.pass_(
            self.chance.choice([0.1, 0.3, 0.7, 1.1, 2.5]) * DISCONNECTED, self.redis, self.keys[1]
        )

    async def forget(self) -> None:
        self.redis.ask("DEL", *self.keys)

    async def evict(self) -> None:
        self.redis.ask("DEL", self.chance.choice(self.keys))

    async def back_up(self) -> None:
        self.redis.ask("MULTI")
        for key in self.keys:
            self.redis.ask("DUMP", key)
        self.backup = dict(zip(self.keys, self.redis.ask("EXEC"), strict=True))

    async def fail_over(self) -> None:
        """To a server that has what was in the backup."""
        if not self.backup.get(self.keys[1]):
            return
        self.redis.ask("MULTI")
        self.redis.ask("DEL", *self.keys)
        for key, dump in self.backup.items():
            if dump is not None:
                self.redis.ask("RESTORE", key, 0, dump)
        self.redis.ask("HSET", self.keys[1], "run", "another")
        self.redis.ask("EXEC")

    # -- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        for purge in self.purges:
            if purge.task.done() and purge.task.result().final:
                self.must_be_known(purge)

    def must_be_known(self, purge: Purge) -> None:
        for node, since in zip(self.nodes, purge.stamps, strict=True):
            if not node.trusted:
                continue
            assert node.knows(purge.tag, since), (purge, self.told)
            for place in purge.places:
                stamp = node.log.positions.stamp(*place)
                assert stamp is None or node.knows(purge.tag, stamp), (purge, place, self.told)

    async def end(self) -> None:
        for line in self.lines:
            line.cut, line.losing, line.lag = False, 0.0, 0.0
        for _ in range(8):
            for node in self.nodes:
                await node.log.sync()
        await self.time.pass_(3 * DISCONNECTED, self.redis, self.keys[1])
        beats = asyncio.create_task(self.beat())
        await asyncio.wait_for(asyncio.gather(*(purge.task for purge in self.purges)), 30)
        await asyncio.wait_for(self.nodes[0].purge("the last one"), 30)
        beats.cancel()
        for node in self.nodes:
            await node.log.sync()
            assert node.trusted and not node.log.stats()["log_outbox"]
        assert len({(node.log.log_id, node.log.applied) for node in self.nodes}) == 1
        for purge in self.purges:
            self.must_be_known(purge)
            self.final += purge.task.result().final
        assert not self.nodes[0].knows("never purged", self.nodes[0].position)

    async def beat(self) -> None:
        while True:
            for node in self.nodes:
                await node.log.sync()
            await asyncio.sleep(0.005)


EVENTS: dict[Callable[[History], Any], int] = {
    History.purge: 30,
    History.sync: 30,
    History.sync_all: 20,
    History.catch_up: 3,
    History.cut: 4,
    History.heal: 4,
    History.worsen: 3,
    History.wait: 8,
    History.forget: 1,
    History.evict: 1,
    History.back_up: 2,
    History.fail_over: 1,
}


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=() if seed < 8 else pytest.mark.soak) for seed in range(24)],
)
def test_a_final_purge_is_final(
    shared_valkey: SharedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Loop()
    if seed % 3 == 1:
        monkeypatch.setattr(journal_module, "_LIMIT", 3)
    if seed % 3 == 2:
        monkeypatch.setattr(replay, "_RECORDS", 4)
        monkeypatch.setattr(outbox, "_RECORDS", 3)

    async def scenario() -> None:
        history = History(shared_valkey, seed)
        try:
            for _ in range(250):
                await history.step()
            await history.end()
            assert history.final, "the history proves nothing"
        finally:
            left = [*(purge.task for purge in history.purges), *history.syncs]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            history.redis.close()
            await history.world.end()

    world.run(scenario())
