"""G3 and G5 where everything fails at once: the origin, the lines to the Valkey, and the processes.

The history of `tests.support.story`, told by apps under ASGI and WSGI and by a gateway of two
workers, all on one Valkey. While lines are cut and processes stand still or die, the origin fails in
every way of `KINDS`, so that whatever may stand in for it does: `stale-if-error` of the responses and
of requests, `stale_if_unreachable` and `origin_timeout` of the options. Held are

  * no read that began after a final purge had returned gets a response whose fetch began before that
    purge; after a soft one only as stale, and the response says so;
  * a purge that was not final is made up for, once all are connected again;
  * every response is whole, and the one that was asked for;
  * no client gets an error that the origin did not cause: a call of the origin for the same target,
    by the same instance and at the same time, must have failed in a way that explains it;
  * no client waits for longer than a leader elsewhere may keep it (`collapse_timeout`, 30 s by
    default, of which a dead one has `lease_term`), and then its own fetch takes.

``-s`` prints a table. `make soak` tells it for longer: SOAK_SECONDS=120 SOAK_SEEDS=2,3,4 make soak
ARGS="-s -k origin_faults".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.processes.planted import PLANTED
from tests.support.connections import Answer, Connection
from tests.support.fleet import Fleet, Instance, Purged
from tests.support.gateway_processes import GatewayProcesses
from tests.support.origin import OriginCall
from tests.support.proxy import Proxy
from tests.support.redis_story import LAYER, OneRedis
from tests.support.story import (
    GONE,
    KEYS,
    LONG,
    MAX_DISCONNECTED,
    Read,
    Violation,
    group_of,
    violations,
)
from tests.support.systems import ValkeySystem
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")

KINDS: Final = {
    "500": "a response with that status; from here on those that may have stale ones instead",
    "502": "",
    "503": "",
    "504": "",
    "error": "the app raises what is no error of a connection; to a gateway comes what is no HTTP",
    "closed": "the connection ends before the response begins",
    "reset": "and is reset",
    "timeout": "no response within what a gateway waits; an app is told in the end",
    "slow": "a response that begins later than a stale one may take its place",
    "truncated": "a body that ends before its announced length",
    "unfinished": "a chunked one that does",
    "stalled": "half a body, and nothing more within what a gateway waits",
    "refused": "nobody listens",
}
UNREACHABLE: Final = ("502", "503", "504", "closed", "reset")
STATUSES: Final = ("500", "502", "503", "504")
PATIENCE: Final = (
    2.5  # seconds that a gateway waits for its upstream; longer than it ever stands still
)
HANGS: Final = PATIENCE + 1.0
ORIGIN_TIMEOUT: Final = 0.3  # seconds
GRACE: Final = 0.25  # seconds from the end of a call to what its client sees of it

# What the origin says of the pages of each group.
WHILE_REVALIDATING = "max-age=1, stale-while-revalidate=30, stale-if-error=600"
POLICIES: Final = {
    "g0": {"cache-control": "max-age=600"},
    "g1": {"cache-control": "max-age=1, stale-if-error=600"},
    "g2": {"cache-control": WHILE_REVALIDATING},
    "g3": {"cache-control": "max-age=600, stale-if-error=600"},
    "g4": {"cache-control": "max-age=1, must-revalidate"},
    "g5": {"cache-control": "max-age=1"},
    "g6": {"cache-control": "max-age=600", "vary": "Accept-Language"},
    "g7": {"cache-control": "no-cache"},
    "race": {"cache-control": "max-age=600, stale-if-error=600"},
}
STANDING_IN: Final = ("g1", "g3", "g5")
# What clients say beside that, now and then.
ASKED: Final = (
    {"cache-control": "no-cache"},
    {"cache-control": "max-age=0"},
    {"cache-control": "stale-if-error=600"},
)


def world_of(instance: str) -> str:
    """uvicorn, gunicorn or gateway."""
    return instance.partition("-")[0]


def effects(kind: str, world: str) -> set[str]:
    """What a client may get of such a fault: a status, or "broken off"."""
    if kind in STATUSES:
        return {kind}
    if kind in ("truncated", "unfinished", "stalled"):
        return {"broken off"}
    if kind == "held":  # for longer than a gateway waits
        return {"504"} if world == "gateway" else set()
    if kind == "slow":
        return set()
    if world == "gateway":
        # (One that stood still meanwhile may find what comes after the time it waits.)
        seen = {"502", "504"} if kind == "timeout" else {"502"}
    elif world == "gunicorn" and kind in ("closed", "reset", "refused"):
        seen = {"broken off"}  # it takes an app's OSError for one of its client's connection
    else:
        seen = {"500"}
    return seen | ({"broken off"} if kind == "refused" else set())  # that may be in a body


@dataclass
class Fault:
    """A call of the origin that failed. "*": every key, every instance."""

    kind: str
    instance: str
    key: str
    began: float
    ended: float = float("inf")

    def explains(self, failure: Failure) -> bool:
        return (
            self.key in ("*", failure.key)
            and self.instance in ("*", failure.instance)
            and self.began <= failure.ended
            and failure.began <= self.ended + GRACE
            and failure.what in effects(self.kind, world_of(failure.instance))
        )


class Failure(NamedTuple):
    """What a client got in place of a response. ``what``: a status, or "broken off"."""

    instance: str
    key: str
    began: float
    ended: float
    what: str
    more: str


class ToldError(OSError):
    """A failure that is noted already."""


class Front:
    """A gateway, as one instance among others. Any of its workers answers, and what befalls it
    befalls one of them."""

    kind = "gateway"

    def __init__(self, gateway: GatewayProcesses, pick: random.Random) -> None:
        self.name = "gateway"
        self.port = gateway.port
        self._gateway = gateway
        self._pick = pick
        self._victim = 0

    def __repr__(self) -> str:
        return self.name

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._gateway.get(path, **headers)

    async def purge(self, *, connection: Connection, **what: Any) -> Purged:
        return await self._gateway.purge(connection, **what)

    def _befalls(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._victim, number)

    def kill(self) -> None:
        self._victim = self._pick.choice(sorted(self._gateway.pids()))
        self._befalls(signal.SIGKILL)

    async def start(self) -> None:
        """Until another one has taken its place."""
        wanted = self._gateway.settings["workers"]
        await until(lambda: self._victim not in self._gateway.pids())
        await until(lambda: len(self._gateway.pids()) == wanted)

    def stall(self) -> None:
        self._victim = self._pick.choice(sorted(self._gateway.pids()))
        self._befalls(signal.SIGSTOP)

    def resume(self) -> None:
        self._befalls(signal.SIGCONT)

    def log(self) -> str:
        return self._gateway.log()


class Mixed:
    """A fleet of apps, and a gateway: as a `Story` knows fleets."""

    def __init__(self, fleet: Fleet, gateway: GatewayProcesses, pick: random.Random) -> None:
        self.origin = fleet.origin
        self.origins = [fleet.origin, gateway.origin]
        self.instances: list[Any] = [*fleet.instances, Front(gateway, pick)]

    def __getitem__(self, number: int) -> Any:
        return self.instances[number]


class OfAll(OneRedis):
    """``only``: the names of what goes wrong beside the origin, in this order; None: all there is.
    ``once``: it ends with the first round of that, once the origin has failed in every way, and there
    is less time in between.
    ``share``: how many of the origin's calls fail in calm weather. ``most``: how many seconds a client
    may wait where nothing stands still."""

    def __init__(
        self,
        mixed: Mixed,
        *,
        seconds: float,
        seed: int,
        only: Collection[str] | None = None,
        once: bool = False,
        share: float = 0.03,
        most: float,
    ) -> None:
        super().__init__(mixed, seconds=seconds, seed=seed)  # type: ignore[arg-type]
        self.mixed = mixed
        self.only = only
        self.once = once
        self.calm = share
        self.most = most
        self.storm: tuple[float, tuple[str, ...]] | None = None  # share of calls, kinds
        self.trouble = ""  # what else goes wrong now
        self.failed: list[Fault] = []
        self.failures: list[Failure] = []
        self.overlaps: Counter[tuple[str, str]] = Counter()  # fault of the origin, trouble
        self.stood_still: list[tuple[str, float, float]] = []  # instance, from, to
        self.behind = 0  # final purges while one was cut off that held what they were for
        self.made_up = 0
        self.enough = False
        self._next_behind: list[int] = []
        self._kinds: list[str] = []
        self._number = 0
        for origin, name in zip(mixed.origins, ("", "gateway"), strict=True):
            origin.on("/")(functools.partial(self.answers, name))

    @property
    def over(self) -> bool:
        return self.enough or super().over

    # The origin.

    async def answers(self, name: str, call: OriginCall) -> None:
        key, instance = call.path, name or call.instance
        if key == "/control/up" or key.startswith("/warm"):
            await call.reply(b"0")
            return
        began = time.monotonic()
        version = self.current[key]
        self._number += 1
        number = self._number
        self.calls.append((began, key, version, instance))
        if key in self.held and not self.arrived[key].is_set():
            # (A gateway may not wait for as long as it is held.)
            with self.faulty("held", instance, key):
                self.arrived[key].set()
                await self.held[key].wait()
        elif kind := self.bad_luck():
            with self.faulty(kind, instance, key):
                await self.fails(call, kind, version, number)
            return
        elif self.random.random() < 0.3:
            # What is answered was read long before.
            await asyncio.sleep(self.random.random() * 0.2)
        await self.responds(call, version, number)

    def bad_luck(self) -> str | None:
        """How this call fails. Each kind comes before any comes again."""
        share, among = self.storm or (self.calm, tuple(KINDS))
        if self.random.random() >= share:
            return None
        if self.storm is not None:
            return self.random.choice(among)
        if not self._kinds:
            self._kinds = [kind for kind in KINDS if kind != "refused"]
            self.random.shuffle(self._kinds)
        return self._kinds.pop()

    @contextlib.contextmanager
    def faulty(self, kind: str, instance: str = "*", key: str = "*") -> Iterator[None]:
        fault = Fault(kind, instance, key, time.monotonic())
        self.failed.append(fault)
        if self.trouble and kind != "held":
            self.overlaps[kind, self.trouble] += 1
        try:
            yield
        finally:
            fault.ended = time.monotonic()

    async def responds(self, call: OriginCall, version: int, number: int) -> None:
        headers = self.headers(call, version)
        if "etag" in headers and headers["etag"] in call.headers.get("if-none-match", ""):
            await call.reply(b"", headers, 304)
        else:
            await call.reply(self.body(call, version, number), headers)

    def headers(self, call: OriginCall, version: int) -> dict[str, str]:
        key = call.path
        headers = {**POLICIES[group_of(key)], "cache-tag": f"{key},{group_of(key)}"}
        if key[-1] in "13":
            headers["etag"] = f'"{version}-{self.language(call)}"'
        return headers

    @staticmethod
    def language(call: OriginCall) -> str:
        return call.headers.get("accept-language", "-") if "/g6/" in call.path else "-"

    def body(self, call: OriginCall, version: int, number: int) -> bytes:
        size = 20_000 if call.path[-1] == "4" else 10
        return f"{call.path} {self.language(call)} {version} {number} {'x' * size}.".encode()

    async def fails(self, call: OriginCall, kind: str, version: int, number: int) -> None:
        headers = self.headers(call, version)
        body = self.body(call, version, number)
        if kind in STATUSES:
            await call.reply(b"no", {}, int(kind))
        elif kind == "error":
            await call.fail()
        elif kind in ("closed", "reset"):
            call.hang_up(reset=kind == "reset")
        elif kind == "timeout":
            await asyncio.sleep(HANGS)
            await call.fail()
        elif kind == "slow":
            await asyncio.sleep(ORIGIN_TIMEOUT * 2)
            await self.responds(call, version, number)
        else:
            if kind != "unfinished":
                headers["content-length"] = str(len(body))
            await call.start(200, headers)
            await call.chunk(body[: len(body) // 2])
            await asyncio.sleep(HANGS if kind == "stalled" else 0.01)
            call.hang_up(reset=self.random.random() < 0.5)

    async def is_gone(self, seconds: float) -> None:
        with self.faulty("refused"):
            await asyncio.gather(*(origin.refuse() for origin in self.mixed.origins))
            await asyncio.sleep(seconds)
            await asyncio.gather(*(origin.listen() for origin in self.mixed.origins))

    # Who reads.

    @contextlib.asynccontextmanager
    async def connected(self, instance: Instance) -> AsyncIterator[Connection]:
        told: ToldError | None = None
        async with super().connected(instance) as connection:
            try:
                yield connection
            except ToldError as error:
                told = error
        if told is not None:
            raise told

    async def read(self, instance: Instance, key: str, connection: Connection) -> None:
        deaths, down = self.deaths[instance.name], instance.name in self.down
        headers = {"accept-language": self.random.choice(("de", "en"))}
        if self.random.random() < 0.1:
            headers |= self.random.choice(ASKED)
        began = time.monotonic()
        failure = ""
        try:
            answer = await connection.get(key, **headers)
        except GONE as error:
            if not down and self.deaths[instance.name] == deaths:
                failure = "never answered" if isinstance(error, TimeoutError) else "broken off"
                self.fail(instance, key, began, failure, repr(error))
            raise ToldError from error
        if answer.status == 200:
            self.take(instance, key, began, headers, answer)
        else:
            self.fail(instance, key, began, str(answer.status), repr(answer))
        if answer.headers.get("connection") == "close":
            raise ToldError("it takes no more requests on this connection")

    def fail(self, instance: Instance, key: str, began: float, what: str, more: str) -> None:
        ended = time.monotonic()
        self.failures.append(Failure(instance.name, key, began, ended, what, more))

    def take(
        self,
        instance: Instance,
        key: str,
        began: float,
        headers: Mapping[str, str],
        answer: Answer,
    ) -> None:
        ended = time.monotonic()
        found = re.fullmatch(rb"(\S+) (\S+) (\d+) \d+ (x+)\.", answer.body)
        language = headers["accept-language"] if "/g6/" in key else "-"
        size = 20_000 if key[-1] == "4" else 10
        if found is None or found[1].decode() != key or len(found[4]) != size:
            self.bad.append(f"{instance} at {began:.3f}, not whole or not {key}: {answer}")
        elif found[2].decode() != language:
            self.bad.append(f"{instance} at {began:.3f}, not for {language}: {answer}")
        else:
            version = int(found[3])
            self.reads.append(Read(began, key, version, ended, answer.told, instance.name))

    # Who writes.

    async def write(self) -> None:
        if self.once and self.trouble == "is_unreachable":
            return  # what is stale then, is to be there: the short history has but one such moment
        instance = self.random.choice(self.fleet.instances)
        key = self.random.choice(KEYS)
        together = [one for one in KEYS if group_of(one) == group_of(key)]
        soft = {"soft": True} if self.random.random() < 0.3 else {}
        kind = self.random.random()
        if kind < 0.4:
            await self.purge(instance, [key], tags=[key], **soft)
        elif kind < 0.7:
            await self.purge(instance, [key], files=[f"http://example.com{key}"], **soft)
        elif kind < 0.85:
            await self.purge(instance, together, tags=[group_of(key)], **soft)
        elif kind < 0.97:
            await self.purge(instance, together, patterns=[f"/{group_of(key)}/*"], **soft)
        else:
            await self.purge(instance, KEYS, purge_everything=True, **soft)

    # What goes wrong beside the origin.

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *super().faults,
            self.is_unreachable,
            self.falls_behind,
            functools.partial(self.falls_behind, soft=True),
        ]

    async def is_unreachable(self) -> None:
        """The origin, and nothing else: what is stale stands in for it."""
        keys = [key for key in KEYS if group_of(key) in STANDING_IN]
        self.storm = 0.0, ()
        await asyncio.gather(*(self.all_read(one, keys) for one in self.fleet.instances))
        await asyncio.sleep(1.1)  # they have a lifetime of a second
        self.storm = 1.0, UNREACHABLE
        await asyncio.gather(*(self.all_read(one, keys) for one in self.fleet.instances))
        self.storm = None

    async def falls_behind(self, *, soft: bool = False) -> None:
        """One holds pages and is cut off; they are purged without it; and the origin fails it."""
        if not self._next_behind:
            self._next_behind = self.random.sample(range(len(self.proxies)), len(self.proxies))
        number = self._next_behind.pop()
        behind, proxy = self.fleet[number], self.proxies[number]
        self.note(f"... {behind}")
        keys = [key for key in KEYS if group_of(key) in STANDING_IN]
        self.storm = 0.0, ()
        await self.all_read(behind, keys)
        self.random.choice((proxy.blackhole, proxy.refuse))()
        try:
            others = [one for one in self.fleet.instances if one is not behind]
            tags = {"tags": list(STANDING_IN), **({"soft": True} if soft else {})}
            for _ in range(5):
                with contextlib.suppress(*GONE):
                    if await self.purge(self.random.choice(others), keys, **tags):
                        self.behind += 1
                        break
            self.storm = 1.0, self.random.choice((UNREACHABLE, STATUSES, ("error",), ("slow",)))
            for _ in range(2):
                await self.all_read(behind, keys)
        finally:
            self.storm = None
            proxy.resume()

    async def all_read(self, instance: Instance, keys: Collection[str]) -> None:
        reads = [self.read_once(instance, key) for key in keys]
        for result in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, GONE):
                raise result

    async def kills_an_instance(self) -> None:
        instance = self.victim()
        began = time.monotonic()
        self.deaths[instance.name] += 1
        self.down.add(instance.name)
        instance.kill()
        await asyncio.sleep(0.1)
        await instance.start()
        # Of a gateway, those whose request ran into it notice until they have noticed.
        await asyncio.sleep(0.1)
        self.deaths[instance.name] += 1
        self.down.remove(instance.name)
        self.stood_still.append((instance.name, began, time.monotonic()))

    async def stops_an_instance(self, seconds: float) -> None:
        instance = self.victim()
        began = time.monotonic()
        instance.stall()
        await asyncio.sleep(seconds)
        instance.resume()
        self.stood_still.append((instance.name, began, time.monotonic()))

    async def chaos(self) -> None:
        """Each of it in some weather at the origin, which begins before it and ends after it."""
        named = {self.name_of(fault): fault for fault in self.faults}
        while not self.over:
            chosen = list(self.only or self.random.sample(sorted(named), len(named)))
            for name in chosen:
                if self.over:
                    return
                self.troubles[name] += 1
                self.note(name)
                self.trouble = name
                weather = asyncio.create_task(self.weather())
                await asyncio.sleep(self.random.random() * 0.2)
                await named[name]()
                self.note("is over")
                await asyncio.sleep(self.random.random() * 0.3)
                await weather
                self.trouble = ""
                # Long enough for purges to become final again.
                pause = MAX_DISCONNECTED * (0.4 + self.random.random() * 0.6)
                await asyncio.sleep(pause / 2 if self.once else pause)
            if self.once:
                await until(lambda: self.over or set(self.by_kind) >= set(KINDS) - {"refused"})
                self.enough = True

    @staticmethod
    def name_of(fault: Any) -> str:
        if not isinstance(fault, functools.partial):
            return str(fault.__name__)
        more = [*(f"{seconds:.1f}" for seconds in fault.args), *fault.keywords]
        return "_".join([fault.func.__name__, *more])

    async def weather(self) -> None:
        if self.trouble.startswith("falls_behind") or self.trouble == "is_unreachable":
            return  # it makes its own
        kind = self.random.random()
        seconds = MAX_DISCONNECTED * (0.5 + self.random.random() * (0.5 if self.once else 2))
        if kind < 0.25:
            return
        if kind < 0.5:
            await self.is_gone(seconds)
            return
        every = tuple(one for one in KINDS if one != "refused")
        among = self.random.choice((every, UNREACHABLE, STATUSES, ("timeout", "slow", "stalled")))
        self.storm = self.random.choice((0.3, 1.0)), among
        await asyncio.sleep(seconds)
        self.storm = None

    # The end.

    async def until_violations(self) -> None:
        """Until there is one in each of the worlds."""
        wanted = {world_of(instance.name) for instance in self.fleet.instances}
        while not self.over:
            await asyncio.sleep(0.25)
            self.enough = self.violated_in() == wanted

    def violated_in(self) -> set[str]:
        found = violations(self.reads, self.purges)
        return {world_of(one.read.instance) for one in found}

    async def settles(self) -> None:
        """All is well again. Then purges that were not final have been made up for: but for those of
        processes that died with it."""
        self.storm = 0.0, ()
        self.calm = 0.0
        for proxy in self.proxies:
            proxy.resume()
        lost = {name for name, deaths in self.deaths.items() if deaths}
        wanted: Counter[str] = Counter()
        for purge in self.purges:
            if not purge.soft and (purge.final or purge.instance not in lost):
                self.made_up += not purge.final
                for key, version in purge.versions.items():
                    wanted[key] = max(wanted[key], version)
        for instance in self.fleet.instances:

            async def current(instance: Any = instance) -> bool:
                since = len(self.reads)
                with contextlib.suppress(*GONE):
                    await self.all_read(instance, KEYS)
                seen = {read.key: read.version for read in self.reads[since:]}
                return all(seen.get(key, -1) >= wanted[key] for key in KEYS)

            await until(current, f"{instance} to have made up for every purge")

    # What came of it.

    @property
    def by_kind(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.failed if fault.kind != "held")

    def explained(self) -> dict[Failure, set[str]]:
        """By failure: the kinds of faults that explain it."""
        by_key: dict[str, list[Fault]] = {}
        for fault in self.failed:
            by_key.setdefault(fault.key, []).append(fault)
        return {
            failure: {
                fault.kind
                for fault in (*by_key.get(failure.key, ()), *by_key.get("*", ()))
                if fault.explains(failure)
            }
            for failure in self.failures
        }

    def unexplained(self) -> list[Failure]:
        return [failure for failure, kinds in self.explained().items() if not kinds]

    def disturbed(self, read: Read) -> bool:
        return any(
            name == read.instance and began < read.ended and read.began < ended + 0.5
            for name, began, ended in self.stood_still
        )

    def longest(self) -> list[Read]:
        """The reads that took longest where nothing stood still."""
        calm = (read for read in self.reads if not self.disturbed(read))
        return sorted(calm, key=lambda read: read.began - read.ended)[:5]

    def waited(self, read: Read) -> str:
        lately = [
            what for at, what in self.log if what != "is over" and read.began - 2 < at < read.ended
        ]
        told = f"{read.ended - read.began:.2f} s: {read.key} at {read.instance}: {read.told}"
        return f"{told} ({', '.join(lately)})"

    def table(self, found: list[Violation], errors: list[Failure]) -> str:
        finals = [purge for purge in self.purges if purge.final]
        soft = sum(purge.soft for purge in finals)
        how = Counter(_how(read.told) for read in self.reads)
        where = Counter(world_of(read.instance) for read in self.reads)
        what = Counter(failure.what for failure in self.failures)
        overlaps = Counter[str]()
        for (_, trouble), count in self.overlaps.items():
            overlaps[trouble] += count
        rows = [
            ("reads", f"{len(self.reads)}: {_counted(where)}"),
            ("answered", _counted(how)),
            ("final purges", f"{len(finals)}, {soft} of them soft; {self.behind} with one cut off"),
            ("others", f"{len(self.purges) - len(finals)}, {self.made_up} to be made up for"),
            ("races", str(self.races)),
            ("origin", f"{len(self.calls)} calls; faults: {_counted(self.by_kind)}"),
            ("meanwhile", _counted(self.troubles)),
            ("both at once", f"{sum(overlaps.values())}: {_counted(overlaps)}"),
            ("violations", str(len(found))),
            ("client errors", f"{len(self.failures)}: {_counted(what)}"),
            ("of ours", str(len(errors) + len(self.bad))),
            *(("longest wait", self.waited(read)) for read in self.longest()[:2]),
        ]  # fmt: skip
        lines = [f"  {name:14} {text}" for name, text in rows]
        return "\n".join([f"\n{self.seconds:.0f} s, seed {self.seed}:", *lines])

    def tell_of(self, failure: Failure) -> str:
        """All that happened around it."""
        first, last = failure.began - 6, failure.ended + 1
        events = [
            (
                fault.began,
                f"the origin fails {fault.instance}: {fault.kind} until {fault.ended:.3f}",
            )
            for fault in self.failed
            if fault.key in ("*", failure.key)
        ]
        events += [
            (at, f"the origin is asked by {who}, says {version}")
            for at, key, version, who in self.calls
            if key == failure.key
        ]
        events += [
            (read.ended, f"a read that began at {read.began:.3f} at {read.instance}: {read.told}")
            for read in self.reads
            if read.key == failure.key
        ]
        events += self.log
        lines = [f"{at:.3f} {what}" for at, what in sorted(events) if first < at < last]
        return "\n".join([f"--- {failure}", *lines])

    def check(self) -> None:
        found = violations(self.reads, self.purges)
        errors = self.unexplained()
        print(self.table(found, errors))  # noqa: T201 - with -s
        wrong = [*map(self.explain, found[:3]), *map(self.tell_of, errors[:3]), *self.bad[:10]]
        for instance in self.fleet.instances:
            tracebacks = instance.log().split("Traceback (most")[1:]
            wrong += [text for text in tracebacks if "the origin " not in text][:3]
        wrong += [f"slow: {read}" for read in self.longest() if read.ended - read.began > self.most]
        assert not wrong, "\n".join(wrong)
        # Much happened, or this shows nothing.
        assert len(self.reads) > 500
        assert sum(purge.final for purge in self.purges) > 20
        assert self.behind
        assert self.overlaps
        stale = Counter(_how(read.told) for read in self.reads if read.stale)
        assert stale["stale-if-error"], stale
        assert stale["stale-if-unreachable"], stale
        assert stale["stale-while-revalidate"], stale


def _how(told: str) -> str:
    if found := re.search(r"detail=(stale-[a-z-]+)", told):
        return found[1]
    if "; hit" in told:
        return "hit"
    return "collapsed" if "; collapsed" in told else "fetched"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


OPTIONS: Final = {
    "stale_if_unreachable": 3600.0,
    "origin_timeout": ORIGIN_TIMEOUT,
    "collapse_timeout": 5.0,
}
# As a gateway has them that is told nothing.
DEFAULTS: Final = {"stale_if_unreachable": 3600.0}


@contextlib.asynccontextmanager
async def telling(
    folder: Path,
    *,
    kinds: Collection[str] = ("uvicorn", "uvicorn", "gunicorn"),
    planted: str = "",
    options: Mapping[str, Any] = OPTIONS,
    layer: Mapping[str, Any] = LAYER,
    **story: Any,
) -> AsyncIterator[OfAll]:
    """A story that is about to be told. ``planted``: see `tests.processes.planted`."""
    environ = {"FLEET_PLANTED": planted}
    # For a leader elsewhere, then for a fetch of its own that hangs, on a machine that is busy.
    most = options.get("collapse_timeout", 30.0) + HANGS + 1.0
    upstream = {"first_byte_timeout": PATIENCE, "read_timeout": PATIENCE}
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(ValkeySystem(folder))
        proxies = [stack.enter_context(Proxy(server.port)) for _ in (*kinds, "gateway")]
        urls = [proxy.url for proxy in proxies]
        fleet = Fleet(
            folder, urls[:-1], kinds=tuple(kinds), layer=layer, options=options, environ=environ
        )
        gateway = GatewayProcesses(
            folder,
            whole=True,
            upstream=upstream,
            layer=layer,
            environ=environ,
            cache={"shared": urls[-1], **options},
        )
        await stack.enter_async_context(fleet)
        await stack.enter_async_context(gateway)
        mixed = Mixed(fleet, gateway, random.Random(story["seed"]))
        told = OfAll(mixed, most=most, **story)
        told.server, told.proxies = server, proxies
        yield told


ONE_OF_EACH = (
    "is_unreachable",
    "falls_behind",
    f"stops_an_instance_{LONG:.1f}",
    "falls_behind_soft",
    "kills_an_instance",
    "restarts_redis_empty",
)


async def test_nothing_purged_stands_in_for_an_origin_that_fails(tmp_path):
    told = telling(tmp_path, seconds=60, seed=1, only=ONE_OF_EACH, once=True, share=0.1)
    async with told as story:
        await story.run(writers=1)
        await story.settles()
        story.check()
        assert set(story.by_kind) >= set(KINDS) - {"refused"}
        assert set(story.troubles) == set(ONE_OF_EACH)


@pytest.mark.systems
async def test_what_an_option_allows_to_stand_in_is_found(tmp_path):
    """The checker sees what `stale_if_untrusted` is warned of."""
    options = {**OPTIONS, "stale_if_untrusted": 3600.0}
    await is_found(tmp_path, options=options, only=("falls_behind",))


@pytest.mark.soak
@pytest.mark.parametrize("rule", PLANTED)
async def test_a_rule_that_is_taken_out_is_found_to_be(tmp_path, rule):
    await is_found(tmp_path, planted=rule, only=("falls_behind", "falls_behind_soft"))


async def is_found(folder: Path, **what: Any) -> None:
    kinds = ["uvicorn", "gunicorn"]
    async with telling(folder, seconds=40, seed=1, kinds=kinds, **what) as story:
        watching = asyncio.create_task(story.until_violations())
        await story.run(writers=1)
        await watching
        print(story.table(violations(story.reads, story.purges), []))  # noqa: T201 - with -s
        assert story.violated_in() == {"uvicorn", "gunicorn", "gateway"}


SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
SEEDS = [int(seed) for seed in os.environ.get("SOAK_SEEDS", "2,3,4").split(",")]


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
async def test_for_minutes(tmp_path, seed):
    async with telling(tmp_path, seconds=SECONDS, seed=seed) as story:
        await story.run(readers=6)
        await story.settles()
        story.check()
        assert set(story.by_kind) == set(KINDS)
        if SECONDS >= 90:  # a round, and a half
            assert set(story.troubles) == {story.name_of(fault) for fault in story.faults}


@pytest.mark.soak
async def test_for_minutes_under_other_servers(tmp_path):
    kinds = ["gunicorn-gevent", "gunicorn-preload", "uvicorn"]
    async with telling(tmp_path, seconds=SECONDS, seed=SEEDS[0], kinds=kinds) as story:
        await story.run(readers=6)
        await story.settles()
        story.check()


@pytest.mark.soak
async def test_for_minutes_by_default_options(tmp_path):
    """Nobody is distrusted for five seconds, a dead leader is waited for ten, any other thirty."""
    told = telling(tmp_path, seconds=SECONDS, seed=SEEDS[0], options=DEFAULTS, layer={})
    async with told as story:
        await story.run(readers=6)
        await story.settles()
        story.check()
