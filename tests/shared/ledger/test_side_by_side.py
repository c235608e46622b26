"""The ledger on cells, and the log that Redis's scripts keep, driven side by side.

Both live in one server, behind the same machinery (`SharedLog`), and are told the same: instances join,
sync, purge, leave, are killed or stand still; the server is emptied, restarted, or fails over to one
that is behind; time passes, either none or much. Then both must agree:

- each instance knows the same purges on both sides, and trusts itself on both or on neither;
- a purge that the ledger calls final is final for the scripts too;
- and the other way round, unless a member is silent: the scripts count a member's term by a clock of
  their own, so they know at once when it is over; the ledger finds that out once a purge has waited;
- on neither side is a purge final while an instance that trusts itself does not know it.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from layergate.core.codec import Codec
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.shared import Joining
from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.journal import RedisJournal
from layergate.runtime.loop import LoopRuntime
from layergate.shared.journal import Appended
from layergate.shared.ledger import CellsJournal
from layergate.shared.ledger.head import Head
from layergate.shared.log import SharedLog
from layergate.shared.receipts import until_final
from tests.support.nodes import Still, part_of
from tests.support.redis_cells import RedisCells
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)

TRUST = 50.0  # seconds, none of which really passes: far more than a test takes
LONG = 3 * TRUST
PARTS = ("log", "meta", "members", "acks", "again")


class Clock:
    shift = 0.0


class Shifted(LoopRuntime):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def monotonic(self) -> float:
        return LoopRuntime.monotonic() + self.clock.shift


class Restartable(RedisCells):
    """Their server can be restarted without waiting for that."""

    epochs: Epochs

    async def epoch(self) -> bytes:
        return b"epoch %d" % self.epochs.number


class Epochs:
    number = 1


class Side:
    """An instance on one side."""

    def __init__(self, world: World, *, ledger: bool) -> None:
        self.runtime = Shifted(world.clock)
        self.known = Invalidations()
        self.counters = Counters()
        self.journal: Any
        if ledger:
            cells = Restartable(world.server.url)
            cells.epochs = world.epochs
            self.journal = CellsJournal(
                cells, world.ask, self.runtime, prefix=world.prefix, term=TRUST, identity=self
            )
        else:
            client = RedisClient(
                world.server.url,
                connect_timeout=5.0,
                timeout=5.0,
                namespace=world.server.namespace,
            )
            client.bind(self.runtime, self.counters)
            self.journal = RedisJournal(
                client,
                namespace=world.server.namespace,
                max_disconnected=TRUST,
                log_length=1000,
            )
        joining = Joining(self.known, self.runtime, self.counters, ())
        self.log = SharedLog(self.journal, Codec(), joining, timeout=5.0, connect_timeout=5.0)
        self.log.heartbeat = Still()  # type: ignore[misc, assignment]

    @property
    def trusted(self) -> bool:
        return self.runtime.monotonic() < self.log.trusted_until

    async def close(self) -> None:
        system = "_cells" if isinstance(self.journal, CellsJournal) else "_client"
        await getattr(self.journal, system).close()


class Pair:
    """One instance, on both sides: first on the scripts, then on the ledger."""

    def __init__(self, world: World) -> None:
        self.sides = [Side(world, ledger=False), Side(world, ledger=True)]


class Purge:
    """By ``pair``, of ``tag``. ``stamps``: what each instance held, on each side, when it was called."""

    def __init__(self, pair: Pair, tag: str, pairs: list[Pair]) -> None:
        self.pair = pair
        self.tag = tag
        self.stamps = {side: side.known.position for one in [*pairs, pair] for side in one.sides}
        self.records: list[Appended] = []
        self.final = [False, False]
        self.delayed = False  # by a member that was silent

    @property
    def invalidations(self) -> tuple[Invalidation, ...]:
        return (Invalidation("tag", self.tag),)

    def known_to(self, side: Side) -> bool:
        return side.known.purged_since(self.stamps[side], (self.tag,), "label")


class World:
    def __init__(self, server: SharedValkey, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.clock = Clock()
        self.epochs = Epochs()
        self.prefix = f"{server.namespace}:ledger"
        self.parts = [part_of(server, part) for part in PARTS]
        self.pairs: list[Pair] = []
        self.gone: list[Pair] = []
        self.purges: list[Purge] = []
        self.told: list[str] = []

    @staticmethod
    async def ask(operation: Any, *args: Any, probe: bool = False) -> Any:
        answer = operation(*args)
        return await answer if asyncio.iscoroutine(answer) else answer

    # -- what happens --------------------------------------------------------------------------

    async def step(self) -> None:
        events = list(EVENTS)
        (name,) = self.chance.choices(events, [EVENTS[one] for one in events])
        self.told.append(name)
        await getattr(self, name)()
        await self.check()

    def one(self) -> Pair:
        return self.chance.choice(self.pairs)

    async def join(self) -> None:
        if len(self.pairs) < 4:
            if self.pairs:
                # A log that a process founds which has seen none is refused by those that have.
                await self._sync(self.one())
            pair = Pair(self)
            self.pairs.append(pair)
            await self._sync(pair)

    async def _sync(self, pair: Pair) -> None:
        for side in pair.sides:
            assert await side.log.sync()
            assert side.trusted

    async def sync(self) -> None:
        await self._sync(self.one())

    async def sync_all(self) -> None:
        for _ in range(2):
            for pair in self.pairs:
                await self._sync(pair)

    async def purge(self) -> None:
        pair = self.one()
        purge = Purge(pair, f"t{len(self.purges)}", self.pairs)
        self.purges.append(purge)
        for side in pair.sides:
            purge.records.append(await side.log.append_purge(purge.invalidations, 0.0))
        await self._sync(pair)

    async def leave(self) -> None:
        if len(self.pairs) > 1:
            pair = self.one()
            for side in pair.sides:
                await side.log.leave()
                assert not side.trusted
            self.pairs.remove(pair)
            self.gone.append(pair)

    async def come_back(self) -> None:
        if self.gone:
            pair = self.gone.pop()
            for side in pair.sides:
                side.log.left = False
            self.pairs.append(pair)
            await self._sync(pair)

    async def kill(self) -> None:
        if len(self.pairs) > 1:
            pair = self.one()
            self.pairs.remove(pair)
            self.purges = [one for one in self.purges if one.pair is not pair]
            for side in pair.sides:
                await side.close()

    async def pass_time(self) -> None:
        """Much more than any trust."""
        await self._pass()

    async def _pass(self) -> None:
        self.clock.shift += LONG
        if self.server.cli("EXISTS", self.parts[1]):
            self.server.cli("HINCRBY", self.parts[1], "clock", round(LONG * 1000))

    async def empty(self) -> None:
        self.server.cli("DEL", *self.parts)
        keys = self.server.cli("KEYS", f"{self.prefix}*")
        if keys:
            self.server.cli("DEL", *keys)

    async def restart(self) -> None:
        """Nothing is lost, and that cannot be known."""
        self.epochs.number += 1
        if self.server.cli("EXISTS", self.parts[1]):
            self.server.cli("HSET", self.parts[1], "run", f"another {self.epochs.number}")

    async def fail_over(self) -> None:
        """To a server that does not have what happens next."""
        keys = [*self.parts, *(key.decode() for key in self.server.cli("KEYS", f"{self.prefix}*"))]
        saved = [(key, self.server.cli("DUMP", key)) for key in keys]
        for _ in range(self.chance.randrange(3)):
            await self.chance.choice([self.purge, self.sync])()
        await self.empty()
        for key, dump in saved:
            if dump is not None:
                self.server.cli("RESTORE", key, 0, dump)
        await self.restart()

    # -- what must hold ------------------------------------------------------------------------

    async def check(self) -> None:
        for pair in self.pairs:
            scripts, ledger = pair.sides
            assert scripts.trusted == ledger.trusted, self.told
            for purge in self.purges:
                if scripts in purge.stamps and scripts.trusted:
                    known = [purge.known_to(side) for side in pair.sides]
                    for number in (0, 1):
                        assert known[number] or not purge.final[number], (purge.tag, self.told)

    async def status(self, purge: Purge) -> list[bool]:
        """Is it final, on each side? (If it was lost, it is appended again first.)"""
        for number, side in enumerate(purge.pair.sides):
            if not purge.final[number]:
                receipt = await until_final(
                    side.log,
                    side.journal,
                    side.runtime,
                    side.counters,
                    (purge.invalidations, 0.0),
                    purge.records[number],
                    0,
                )
                purge.final[number] = receipt.final
        return purge.final

    def silent(self) -> set[bytes]:
        """Members of the ledger that are not there any more."""
        head = Head.decode(self.server.cli("HGET", f"{self.prefix}:head", "d"))
        names = {pair.sides[1].log.instance for pair in self.pairs}
        return {one.name for one in head.members} - names

    async def compare(self) -> None:
        """When all have synced: they know the same, and agree on what is final."""
        await self.sync_all()
        await self.check()
        waiting = [one for one in self.purges if one.pair in self.pairs]
        for purge in waiting:
            await self.status(purge)
            await self.sync_all()
            await self.check()
            scripts, ledger = await self.status(purge)
            assert scripts or not ledger, (purge.tag, self.told)
            if scripts and not ledger:
                assert self.silent() or purge.delayed, (purge.tag, self.told)
                purge.delayed = True
        for pair in self.pairs:
            for purge in self.purges:
                if purge.pair in self.pairs:
                    known = [purge.known_to(one) for one in pair.sides if one in purge.stamps]
                    assert all(known), (purge.tag, known, self.told)
        self.purges = [one for one in self.purges if not all(one.final)]

    async def end(self) -> int:
        """After a while everything is final, on both sides, and nobody is silent."""
        await self.compare()
        await self.purge()  # it waits for whoever is silent
        for _ in range(3):
            await self._pass()
            await self.sync_all()
            for purge in self.purges:
                if purge.pair in self.pairs:
                    await self.status(purge)
            await self.sync_all()
        for purge in self.purges:
            if purge.pair in self.pairs:
                assert await self.status(purge) == [True, True], (purge.tag, self.told)
        assert not self.silent()
        finals = 0
        for _ in range(3):
            await self.purge()
            last = self.purges[-1]
            if len(self.pairs) > 1:
                assert await self.status(last) == [False, False]
            await self.sync_all()
            assert await self.status(last) == [True, True], self.told
            finals += 1
        assert await self._same()
        return finals

    async def _same(self) -> bool:
        states = {
            number: {
                (pair.sides[number].log.log_id, pair.sides[number].log.applied)
                for pair in self.pairs
            }
            for number in (0, 1)
        }
        return all(len(one) == 1 for one in states.values())

    async def close(self) -> None:
        for pair in [*self.pairs, *self.gone]:
            for side in pair.sides:
                await side.close()


EVENTS = {
    "join": 4,
    "sync": 20,
    "sync_all": 6,
    "purge": 20,
    "compare": 8,
    "leave": 2,
    "come_back": 2,
    "kill": 1,
    "pass_time": 3,
    "empty": 1,
    "restart": 1,
    "fail_over": 1,
}


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(
            seed, marks=pytest.mark.soak if seed >= 16 else [pytest.mark.systems] * (seed >= 4)
        )
        for seed in range(80)
    ],
)
def test_they_agree(shared_valkey: SharedValkey, seed: int) -> None:
    async def scenario() -> None:
        world = World(shared_valkey, seed)
        try:
            await world.join()
            await world.join()
            for _ in range(50):
                await world.step()
            assert await world.end()
        finally:
            await world.close()

    asyncio.run(scenario())
