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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.connections import Connection
from tests.support.fleet import Fleet, Instance
from tests.support.origin import FRESH, OriginCall
from tests.support.proxy import Proxy
from tests.support.redis_servers import Valkey, ValkeyCluster, ValkeySentinel

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


def test_the_checker_sees_what_a_soft_purge_left_fresh():
    purges = [Purge(10.0, {"a": 2}, soft=True), Purge(20.0, {"a": 3})]
    while_stale, on_error = (
        "x; hit; ttl=-1; detail=stale-while-revalidate",
        "x; detail=stale-if-error",
    )
    good = [
        Read(9.0, "a", 1, told="x; hit; ttl=9"),  # before it
        Read(11.0, "a", 1, told=while_stale),
        Read(11.0, "a", 1, told=on_error),
        Read(21.0, "a", 3, told="x; hit; ttl=9"),
    ]
    bad = [
        Read(11.0, "a", 1, told="x; hit; ttl=9"),
        Read(11.0, "a", 1, told="x; fwd=stale; collapsed"),
        Read(21.0, "a", 2, told=on_error),  # that one was hard
    ]
    assert violations(good, purges) == []
    assert [one.read for one in violations([*good, *bad], purges)] == bad


GROUPS = 8
KEYS = [f"/g{group}/{number}" for group in range(GROUPS) for number in range(5)]
MAX_DISCONNECTED = 0.8  # seconds
SHORT, LONG = MAX_DISCONNECTED * 0.4, MAX_DISCONNECTED * 2  # seconds that something is away


def group_of(key: str) -> str:
    return key.split("/")[1]


class Story:
    """All that goes on at once, for ``seconds``."""

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
                        await asyncio.sleep(self.random.random() * 0.008)
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
        assert len(self.reads) > 50 * self.seconds
        assert finals > self.seconds
        assert self.races > self.seconds / 10


class OneRedis(Story):
    """One server, and a line to it for each instance."""

    valkey: Valkey
    proxies: list[Proxy]

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        partial = functools.partial
        return [
            *super().faults,
            self.cuts_a_line,
            partial(self.holds_a_line, SHORT),
            partial(self.holds_a_line, LONG),
            self.refuses_a_line,
            partial(self.stops_redis, SHORT),
            partial(self.stops_redis, LONG),
            self.empties_redis,
            self.restarts_redis,
            self.sets_redis_back,
            self.flushes_redis,
            self.evicts,
            self.forgets_scripts,
            self.hangs_up_on_those_who_listen,
        ]

    def line(self) -> Proxy:
        number = self.random.randrange(len(self.proxies))
        self.note(f"... of {self.fleet[number]}")
        return self.proxies[number]

    async def cuts_a_line(self) -> None:
        self.line().cut()

    async def holds_a_line(self, seconds: float) -> None:
        proxy = self.line()
        proxy.blackhole()
        await asyncio.sleep(seconds)
        proxy.resume()

    async def refuses_a_line(self) -> None:
        proxy = self.line()
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
        self.valkey.cli("FLUSHALL")

    async def evicts(self) -> None:
        """Anything, the log's own keys included."""
        self.valkey.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        for _ in range(20):
            size = self.valkey.cli("DBSIZE")
            used = int(self.valkey.info("memory")["used_memory"])
            self.valkey.cli("CONFIG", "SET", "maxmemory", used - 20_000)
            self.note(f"... {size - self.valkey.cli('DBSIZE')} of {size} keys")
            self.valkey.cli("CONFIG", "SET", "maxmemory", 0)
            await asyncio.sleep(0.05)
        self.valkey.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")

    async def forgets_scripts(self) -> None:
        self.valkey.cli("SCRIPT", "FLUSH")

    async def hangs_up_on_those_who_listen(self) -> None:
        self.valkey.cli("CLIENT", "KILL", "TYPE", "pubsub")


class Failovers(Story):
    """Servers of which one stands in for another."""

    group: ValkeyCluster | ValkeySentinel

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super().faults, self.loses_its_master, self.loses_its_master_for_a_while]

    @property
    def master(self) -> Valkey:
        if isinstance(self.group, ValkeyCluster):
            return self.group.owner("{layergate}:log")
        return self.group.master

    async def loses_its_master(self) -> None:
        master = self.master
        await asyncio.to_thread(master.kill)
        await asyncio.to_thread(self.group.failed_over, master, bound=30)
        self.note("another is the master")
        await asyncio.to_thread(master.start)
        await self.whole()

    async def loses_its_master_for_a_while(self) -> None:
        """It comes back believing that it still is the master."""
        master = self.master
        master.stall()
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(self.group.failed_over, master, bound=5)
        self.note("another is the master")
        master.resume()
        await self.whole()

    async def whole(self) -> None:
        if isinstance(self.group, ValkeyCluster):
            await asyncio.to_thread(self.group.wait)
        else:
            await asyncio.to_thread(self.group.linked)
        self.note("both are there")


KINDS = ["uvicorn", "uvicorn", "uvicorn", "gunicorn"]
LAYER = {"max_disconnected": MAX_DISCONNECTED, "lease_term": 2.0, "timeout": 0.2}


async def tell(folder: Path, *, seconds: float, seed: int, kinds: Sequence[str] = KINDS) -> None:
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder))
        proxies = [stack.enter_context(Proxy(valkey.port)) for _ in kinds]
        urls = [proxy.url for proxy in proxies]
        async with Fleet(folder, urls, kinds=kinds, layer=LAYER) as fleet:
            story = OneRedis(fleet, seconds=seconds, seed=seed)
            story.valkey, story.proxies = valkey, proxies
            await story.run()
            story.check()


async def test_no_read_sees_what_was_purged_before_it_began(tmp_path):
    await tell(tmp_path, seconds=18, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_for_minutes(tmp_path, seed):
    await tell(tmp_path, seconds=120, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["gunicorn", "gunicorn-gevent", "stack"])
async def test_others_for_minutes(tmp_path, kind):
    await tell(tmp_path, seconds=120, seed=6, kinds=[kind, kind, kind])


@pytest.mark.soak
@pytest.mark.parametrize("kind", [ValkeyCluster, ValkeySentinel])
async def test_failovers_for_minutes(tmp_path, kind):
    with kind(tmp_path) as group:
        async with Fleet(tmp_path, group.url, kinds=KINDS, layer=LAYER) as fleet:
            story = Failovers(fleet, seconds=120, seed=5)
            story.group = group
            await story.run()
            story.check()
