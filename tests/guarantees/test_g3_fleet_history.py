"""G3 in a fleet: a history of reads and purges, with everything going wrong meanwhile.

Writers make a newer version at the origin and purge the older one; readers ask every instance and
note what they saw. Instances and Redis are killed, stopped and cut off. One process writes the
history, with one monotonic clock. The rule it is checked against:

    no read that began after a purge had returned as final sees an older version than that
    purge was for.

``-s`` prints what happened.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.fleet import FRESH, Connection, Fleet, Instance, OriginCall
from tests.support.redis_servers import Proxy, Valkey

GONE = (OSError, EOFError, TimeoutError)


class Read(NamedTuple):
    began: float
    key: str
    version: int
    instance: str = ""
    ended: float = 0.0


class Purge(NamedTuple):
    returned: float
    versions: dict[str, int]  # by key: what the purge made way for
    final: bool = True


class Violation(NamedTuple):
    read: Read
    purge: Purge


def violations(reads: Iterable[Read], purges: Iterable[Purge]) -> list[Violation]:
    """The reads that saw what a purge had done away with before they began."""
    by_key: dict[str, list[Purge]] = {}
    for purge in sorted((p for p in purges if p.final), key=lambda p: p.returned):
        for key in purge.versions:
            newest = by_key.setdefault(key, [])
            # Only a purge for something newer says more than the one before.
            if not newest or purge.versions[key] > newest[-1].versions[key]:
                newest.append(purge)
    found = []
    for read in reads:
        known = by_key.get(read.key, [])
        before = bisect.bisect_left(known, read.began, key=lambda purge: purge.returned)
        if before and known[before - 1].versions[read.key] > read.version:
            found.append(Violation(read, known[before - 1]))
    return found


def test_the_checker_sees_a_violation():
    purges = [
        Purge(10.0, {"a": 2, "b": 5}),
        Purge(30.0, {"a": 4}),
        Purge(20.0, {"a": 3}),
        Purge(31.0, {"a": 3}),  # returned late, and was for something older
        Purge(40.0, {"a": 9}, final=False),
    ]
    good = [
        Read(9.0, "a", 1),  # before any
        Read(10.0, "a", 1),  # at the same moment: not after
        Read(10.1, "a", 2),
        Read(10.1, "a", 7),  # newer than any purge asked for
        Read(29.0, "a", 3),
        Read(32.0, "a", 4),
        Read(50.0, "a", 4),  # that one was not final
        Read(50.0, "b", 5),
        Read(50.0, "c", 0),  # never purged
    ]
    bad = [
        Read(10.1, "a", 1),
        Read(20.5, "a", 2),
        Read(31.5, "a", 3),
        Read(50.0, "b", 4),
    ]
    assert violations(good, purges) == []
    assert [one.read for one in violations([*good, *bad], purges)] == bad
    assert [one.purge.returned for one in violations(bad, purges)] == [10.0, 20.0, 30.0, 10.0]


GROUPS = 8
KEYS = [f"/g{group}/{number}" for group in range(GROUPS) for number in range(5)]
MAX_DISCONNECTED = 0.8  # seconds


def group_of(key: str) -> str:
    return key.split("/")[1]


class Story:
    """All that goes on at once, for ``seconds``."""

    def __init__(
        self, fleet: Fleet, valkey: Valkey, proxies: list[Proxy], *, seconds: float, seed: int
    ) -> None:
        self.fleet = fleet
        self.valkey = valkey
        self.proxies = proxies
        self.random = random.Random(seed)
        self.ends = time.monotonic() + seconds
        self.current: Counter[str] = Counter()  # the newest version of each key, at the origin
        self.held: dict[str, asyncio.Event] = {}
        self.arrived: dict[str, asyncio.Event] = {}
        self.reads: list[Read] = []
        self.purges: list[Purge] = []
        self.deaths: Counter[str] = Counter()
        self.down: set[str] = set()
        self.races = 0
        self.troubles: Counter[str] = Counter()
        self.bad: list[str] = []  # what no client may see
        fleet.origin.on("/")(self.answer)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends

    # The origin.

    async def answer(self, call: OriginCall) -> None:
        key = call.path
        version = self.current[key]
        if key in self.held and not self.arrived[key].is_set():
            self.arrived[key].set()
            await self.held[key].wait()
        elif self.random.random() < 0.3:
            # What is answered was read long before.
            await asyncio.sleep(self.random.random() * 0.2)
        await call.reply(b"%d" % version, {**FRESH, "cache-tag": f"{key},{group_of(key)}"})

    # Who reads.

    @contextlib.asynccontextmanager
    async def connected(self, instance: Instance) -> AsyncIterator[Connection]:
        """What fails in here must not, unless the instance was killed meanwhile. Raises it."""
        deaths, down = self.deaths[instance.name], instance.name in self.down
        try:
            async with Connection(instance.port) as connection:
                yield connection
        except GONE as error:
            if not down and self.deaths[instance.name] == deaths:
                self.bad.append(f"{instance}: {error!r}")
            raise

    async def read(self, instance: Instance, key: str, connection: Connection) -> None:
        began = time.monotonic()
        answer = await connection.get(key)
        if answer.status != 200:
            self.bad.append(f"{instance} at {began:.3f}: {answer}")
            return
        self.reads.append(Read(began, key, int(answer.body), instance.name, time.monotonic()))

    async def reader(self, instance: Instance) -> None:
        while not self.over:
            with contextlib.suppress(*GONE):
                async with self.connected(instance) as connection:
                    while not self.over:
                        await self.read(instance, self.random.choice(KEYS), connection)
                        await asyncio.sleep(self.random.random() * 0.008)
            await asyncio.sleep(0.02)

    # Who writes.

    async def purge(self, instance: Instance, keys: Iterable[str], **what: Any) -> bool:
        """Newer versions, and then a purge of the older. Was it final?"""
        for key in keys:
            self.current[key] += 1
        versions = {key: self.current[key] for key in keys}
        async with self.connected(instance) as connection:
            purged = await instance.purge(connection=connection, **what)
        self.purges.append(Purge(time.monotonic(), versions, purged.final))
        return purged.final

    async def writer(self) -> None:
        while not self.over:
            with contextlib.suppress(*GONE):
                await self.write()
            await asyncio.sleep(self.random.random() * 0.06)

    async def write(self) -> None:
        instance = self.random.choice(self.fleet.instances)
        key = self.random.choice(KEYS)
        together = [one for one in KEYS if group_of(one) == group_of(key)]
        kind = self.random.random()
        if kind < 0.4:
            await self.purge(instance, [key], tags=[key])
        elif kind < 0.7:
            await self.purge(instance, [key], files=[f"http://example.com{key}"])
        elif kind < 0.85:
            await self.purge(instance, together, tags=[group_of(key)])
        elif kind < 0.97:
            await self.purge(instance, together, patterns=[f"/{group_of(key)}/*"])
        else:
            await self.purge(instance, KEYS, purge_everything=True)

    # The race, on purpose: a fetch reads the old version, a purge becomes final, the fetch ends.

    async def racer(self) -> None:
        number = 0
        while not self.over:
            number += 1
            with contextlib.suppress(*GONE):
                await self.race(f"/race/{number}")

    async def race(self, key: str) -> None:
        first, other = self.random.sample(self.fleet.instances, 2)
        hold = self.held[key] = asyncio.Event()
        arrived = self.arrived[key] = asyncio.Event()
        began = asyncio.create_task(self.read_once(first, key))
        after: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(5):
                await arrived.wait()
            if await self.purge(other, [key], tags=[key]):
                self.races += 1
                # These begin after it, while what it was about is still under way.
                after = [
                    asyncio.create_task(self.read_once(instance, key))
                    for instance in self.fleet.instances
                ]
                await asyncio.sleep(self.random.random() * 0.05)
        finally:
            hold.set()
            await asyncio.gather(began, *after, return_exceptions=True)
        await asyncio.gather(
            *(self.read_once(instance, key) for instance in self.fleet.instances),
            return_exceptions=True,
        )

    async def read_once(self, instance: Instance, key: str) -> None:
        async with self.connected(instance) as connection:
            await self.read(instance, key, connection)

    # What goes wrong.

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        short, long = MAX_DISCONNECTED * 0.4, MAX_DISCONNECTED * 2
        partial = functools.partial
        return [
            self.kills_an_instance,
            partial(self.stops_an_instance, short),
            partial(self.stops_an_instance, long),
            self.cuts_a_line,
            partial(self.holds_a_line, short),
            partial(self.holds_a_line, long),
            self.refuses_a_line,
            partial(self.stops_redis, short),
            partial(self.stops_redis, long),
            self.empties_redis,
            self.restarts_redis,
            self.sets_redis_back,
            self.flushes_redis,
        ]

    async def chaos(self) -> None:
        while not self.over:
            for fault in self.random.sample(self.faults, len(self.faults)):
                if self.over:
                    return
                await fault()
                name = getattr(fault, "func", fault).__name__
                self.troubles[name] += 1
                # Long enough for purges to become final again.
                await asyncio.sleep(MAX_DISCONNECTED * (0.5 + self.random.random() * 0.8))

    async def kills_an_instance(self) -> None:
        instance = self.random.choice(self.fleet.instances)
        self.deaths[instance.name] += 1
        self.down.add(instance.name)
        instance.kill()
        await asyncio.sleep(0.1)
        await instance.start()
        self.down.remove(instance.name)

    async def stops_an_instance(self, seconds: float) -> None:
        instance = self.random.choice(self.fleet.instances)
        instance.stall()
        await asyncio.sleep(seconds)
        instance.resume()

    async def cuts_a_line(self) -> None:
        self.random.choice(self.proxies).cut()

    async def holds_a_line(self, seconds: float) -> None:
        proxy = self.random.choice(self.proxies)
        proxy.blackhole()
        await asyncio.sleep(seconds)
        proxy.resume()

    async def refuses_a_line(self) -> None:
        proxy = self.random.choice(self.proxies)
        proxy.refuse()
        await asyncio.sleep(MAX_DISCONNECTED * self.random.random() * 2)
        proxy.resume()

    async def stops_redis(self, seconds: float) -> None:
        self.valkey.stall()
        await asyncio.sleep(seconds)
        self.valkey.resume()

    async def empties_redis(self) -> None:
        await asyncio.to_thread(self.valkey.restart, empty=True)

    async def restarts_redis(self) -> None:
        await asyncio.to_thread(self.valkey.restart, empty=False)

    async def sets_redis_back(self) -> None:
        """To a snapshot: what it said since is lost, and it does not know."""
        await asyncio.to_thread(self.valkey.cli, "SAVE")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self.valkey.kill)
        await asyncio.to_thread(self.valkey.start)

    async def flushes_redis(self) -> None:
        await asyncio.to_thread(self.valkey.cli, "FLUSHALL")

    async def run(self, *, readers: int = 2, writers: int = 3, racers: int = 2) -> None:
        async with asyncio.TaskGroup() as tasks:
            for instance in self.fleet.instances:
                for _ in range(readers):
                    tasks.create_task(self.reader(instance))
            for _ in range(writers):
                tasks.create_task(self.writer())
            for _ in range(racers):
                tasks.create_task(self.racer())
            tasks.create_task(self.chaos())


async def tell(folder: Path, *, seconds: float, seed: int) -> None:
    kinds = ["uvicorn", "uvicorn", "uvicorn", "gunicorn"]
    layer = {"max_disconnected": MAX_DISCONNECTED, "lease_term": 2.0, "timeout": 0.2}
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder))
        proxies = [stack.enter_context(Proxy(valkey.port)) for _ in kinds]
        urls = [proxy.url for proxy in proxies]
        async with Fleet(folder, urls, kinds=kinds, layer=layer) as fleet:
            story = Story(fleet, valkey, proxies, seconds=seconds, seed=seed)
            await story.run()
            found = violations(story.reads, story.purges)
            finals = sum(purge.final for purge in story.purges)
            print(  # noqa: T201 - with -s
                f"\n{seconds:.0f} s, seed {seed}: {len(story.reads)} reads,"
                f" {sum(fleet.origin.calls.values())} origin calls,"
                f" {len(story.purges)} purges, {finals} final, {story.races} races,"
                f" {len(found)} violations, {len(story.bad)} errors; {dict(story.troubles)}"
            )
            for instance in fleet.instances:
                assert "Traceback" not in instance.log(), instance.log()
    assert not found, found[:5]
    assert not story.bad, story.bad[:10]
    # Much happened, or this shows nothing.
    assert len(story.reads) > 50 * seconds
    assert finals > seconds
    assert story.races > seconds / 10


async def test_no_read_sees_what_was_purged_before_it_began(tmp_path):
    await tell(tmp_path, seconds=22, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_for_minutes(tmp_path, seed):
    await tell(tmp_path, seconds=120, seed=seed)
