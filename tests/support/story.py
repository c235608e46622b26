"""A history of reads and purges in a fleet, with everything going wrong meanwhile, and its checker (G3).

Writers make a newer version at the origin and purge the older one; readers ask every instance and
note what they saw. Instances are killed and stopped; subclasses of `Story` add what befalls the shared
system. One process writes the history, with one monotonic clock. The rule it is checked against:

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
from typing import Any, NamedTuple

from tests.support.connections import Connection
from tests.support.fleet import Fleet, Instance
from tests.support.origin import FRESH, OriginCall

__all__ = [
    "GONE",
    "KEYS",
    "LONG",
    "MAX_DISCONNECTED",
    "SHORT",
    "Purge",
    "Read",
    "Story",
    "Violation",
    "violations",
]

GONE = (OSError, EOFError, TimeoutError)


class Read(NamedTuple):
    began: float
    key: str
    version: int
    ended: float = 0.0
    told: str = ""  # Cache-Status
    instance: str = ""

    @property
    def stale(self) -> bool:
        """Does the response say that it is stale, and why?"""
        return "detail=stale-" in self.told


class Purge(NamedTuple):
    returned: float
    versions: dict[str, int]  # by key: what the purge made way for
    final: bool = True
    began: float = 0.0
    instance: str = ""
    soft: bool = False


class Violation(NamedTuple):
    read: Read
    purge: Purge


def violations(reads: Iterable[Read], purges: Iterable[Purge]) -> list[Violation]:
    """The reads that saw what a purge had done away with before they began; after a soft one: that
    saw it as if it were fresh."""
    finals = sorted((p for p in purges if p.final), key=lambda p: p.returned)
    hard = _by_key(purge for purge in finals if not purge.soft)
    soft = _by_key(purge for purge in finals if purge.soft)
    found = []
    for read in reads:
        for by_key in (hard,) if read.stale else (hard, soft):
            known = by_key.get(read.key, [])
            before = bisect.bisect_left(known, read.began, key=lambda purge: purge.returned)
            if before and known[before - 1].versions[read.key] > read.version:
                found.append(Violation(read, known[before - 1]))
                break
    return found


def _by_key(purges: Iterable[Purge]) -> dict[str, list[Purge]]:
    by_key: dict[str, list[Purge]] = {}
    for purge in purges:
        for key in purge.versions:
            newest = by_key.setdefault(key, [])
            # Only a purge for something newer says more than the one before.
            if not newest or purge.versions[key] > newest[-1].versions[key]:
                newest.append(purge)
    return by_key


GROUPS = 8
KEYS = [f"/g{group}/{number}" for group in range(GROUPS) for number in range(5)]
MAX_DISCONNECTED = 0.8  # seconds
SHORT, LONG = MAX_DISCONNECTED * 0.4, MAX_DISCONNECTED * 2  # seconds that something is away


def group_of(key: str) -> str:
    return key.split("/")[1]


class Story:
    """All that goes on at once, for ``seconds``."""

    pause = 0.008  # seconds between two reads of one client, at most

    least_reads = 50.0  # a second, or the history shows nothing

    def __init__(self, fleet: Fleet, *, seconds: float, seed: int) -> None:
        self.fleet = fleet
        self.seconds = seconds
        self.seed = seed
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
        self.calls: list[tuple[float, str, int, str]] = []  # of the origin
        self.log: list[tuple[float, str]] = []  # what went wrong
        fleet.origin.on("/")(self.answer)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends

    # The origin.

    async def answer(self, call: OriginCall) -> None:
        key = call.path
        version = self.current[key]
        self.calls.append((time.monotonic(), key, version, call.instance))
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
        ended = time.monotonic()
        self.reads.append(Read(began, key, int(answer.body), ended, answer.told, instance.name))

    async def reader(self, instance: Instance) -> None:
        while not self.over:
            with contextlib.suppress(*GONE):
                async with self.connected(instance) as connection:
                    while not self.over:
                        await self.read(instance, self.random.choice(KEYS), connection)
                        await asyncio.sleep(self.random.random() * self.pause)
            await asyncio.sleep(0.02)

    # Who writes.

    async def purge(self, instance: Instance, keys: Iterable[str], **what: Any) -> bool:
        """Newer versions, and then a purge of the older. Was it final?"""
        for key in keys:
            self.current[key] += 1
        versions = {key: self.current[key] for key in keys}
        began = time.monotonic()
        async with self.connected(instance) as connection:
            purged = await instance.purge(connection=connection, **what)
        ended = time.monotonic()
        soft = what.get("soft", False)
        self.purges.append(Purge(ended, versions, purged.final, began, instance.name, soft))
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
        return [
            self.kills_an_instance,
            functools.partial(self.stops_an_instance, SHORT),
            functools.partial(self.stops_an_instance, LONG),
        ]

    async def chaos(self) -> None:
        while not self.over:
            for fault in self.random.sample(self.faults, len(self.faults)):
                if self.over:
                    return
                name = getattr(fault, "func", fault).__name__
                self.troubles[name] += 1
                self.note(name)
                await fault()
                self.note("is over")
                # Long enough for purges to become final again.
                await asyncio.sleep(MAX_DISCONNECTED * (0.5 + self.random.random() * 0.8))

    def note(self, text: str) -> None:
        self.log.append((time.monotonic(), text))

    def explain(self, violation: Violation) -> str:
        """All that happened around it, in order."""
        read, purge = violation
        key = read.key
        first, last = purge.began - 3, read.ended + 0.5
        events = [
            (at, f"the origin is asked by {who}, says {version}")
            for at, of, version, who in self.calls
            if of == key
        ]
        for one in self.purges:
            if key in one.versions:
                kind = "soft purge" if one.soft else "purge"
                what = f"a {kind} for {one.versions[key]} by {one.instance}"
                events += (one.began, what), (one.returned, f"{what}: final {one.final}")
        for each in self.reads:
            if each.key == key:
                seen = f"a read that began at {each.began:.3f} sees {each.version}"
                seen += f" at {each.instance}: {each.told}"
                events.append((each.ended, "VIOLATION " * (each is read) + seen))
        events += self.log
        lines = [f"{at:.3f} {what}" for at, what in sorted(events) if first < at < last]
        return "\n".join([f"--- {key}", *lines])

    def victim(self) -> Instance:
        instance = self.random.choice(self.fleet.instances)
        self.note(f"... {instance}")
        return instance

    async def kills_an_instance(self) -> None:
        instance = self.victim()
        self.deaths[instance.name] += 1
        self.down.add(instance.name)
        instance.kill()
        await asyncio.sleep(0.1)
        await instance.start()
        self.down.remove(instance.name)

    async def stops_an_instance(self, seconds: float) -> None:
        instance = self.victim()
        instance.stall()
        await asyncio.sleep(seconds)
        instance.resume()

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

    def check(self) -> None:
        found = violations(self.reads, self.purges)
        finals = sum(purge.final for purge in self.purges)
        print(  # noqa: T201 - with -s
            f"\n{self.seconds:.0f} s, seed {self.seed}: {len(self.reads)} reads,"
            f" {len(self.calls)} origin calls, {len(self.purges)} purges, {finals} final,"
            f" {self.races} races, {len(found)} violations, {len(self.bad)} errors;"
            f" {dict(self.troubles)}"
        )
        assert not found, "\n".join(self.explain(violation) for violation in found[:5])
        assert not self.bad, self.bad[:10]
        for instance in self.fleet.instances:
            assert "Traceback" not in instance.log(), instance.log()
        # Much happened, or this shows nothing.
        assert len(self.reads) > self.least_reads * self.seconds
        assert finals > self.seconds
        assert self.races > self.seconds / 10
