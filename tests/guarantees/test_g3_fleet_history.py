"""G3 in a fleet: histories of reads and purges while instances and Redis are killed, stopped and cut off.

`tests/support/story.py` says how a history is made and what it is checked against.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.redis_servers import Valkey, ValkeyCluster, ValkeySentinel
from tests.support.redis_story import LAYER, OneRedis
from tests.support.story import Purge, Read, Story, violations
from tests.support.system_suites import each_line
from tests.support.systems import ValkeySystem


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


async def tell(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    kinds: Sequence[str] = KINDS,
    pause: float = Story.pause,
) -> None:
    with ValkeySystem(folder) as server, each_line(server, len(kinds)) as proxies:
        urls = [proxy.url for proxy in proxies]
        async with Fleet(folder, urls, kinds=kinds, layer=LAYER) as fleet:
            story = OneRedis(fleet, seconds=seconds, seed=seed)
            story.pause = pause
            story.server, story.proxies = server, proxies
            await story.run()
            story.check()


async def test_no_read_sees_what_was_purged_before_it_began(tmp_path):
    await tell(tmp_path, seconds=18, seed=1, pause=0.03)


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
