"""Leases among the processes of one host (`layergate.layers.host.leases`), with real processes."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layergate.core.shared import Waited
from layergate.layers.host.leases import HostLease, HostLeases
from layergate.runtime.blocking import run_blocking
from layergate.runtime.loop import LoopRuntime
from tests.support.host_leases import KINDS, Worker, made

LONG = 30.0  # seconds; only a test that fails waits so long


def take(leases: HostLeases, key: str, **options: Any) -> HostLease | Waited:
    return run_blocking(leases.acquire(key, **{"wait": 0, **options}))


def lease(leases: HostLeases, key: str, **options: Any) -> HostLease:
    taken = take(leases, key, **options)
    assert isinstance(taken, HostLease)
    return taken


Start = Callable[..., Worker]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *kept: stack.enter_context(Worker(tmp_path, kind, *kept))


def test_one_holder_among_four_processes(start: Start) -> None:
    workers = [start() for _ in range(4)]
    for number in range(20):
        for worker in workers:
            worker.tell("take", f"key-{number}", 0, "")
        assert sorted(worker.said() for worker in workers) == ["LEASE"] + ["TIMEOUT"] * 3


def test_a_killed_leader_is_replaced(start: Start) -> None:
    leader, follower = start(), start()
    assert leader.take("k") == "LEASE"
    assert follower.take("k", LONG) == "waits "
    leader.kill()
    assert follower.said() == "LANDED"
    assert follower.take("k") == "LEASE"


def test_a_release_ends_every_wait(start: Start) -> None:
    leader, followers = start(), [start() for _ in range(3)]
    assert leader.take("k") == "LEASE"
    assert [follower.take("k", LONG) for follower in followers] == ["waits "] * 3
    leader.release("k")
    assert [follower.said() for follower in followers] == ["LANDED"] * 3


def test_a_free_release_frees_every_wait(start: Start) -> None:
    leader, followers = start(), [start() for _ in range(3)]
    assert leader.take("k") == "LEASE"
    assert [follower.take("k", LONG) for follower in followers] == ["waits "] * 3
    leader.release("k", "free")
    assert [follower.said() for follower in followers] == ["FREE"] * 3


def test_a_free_release_says_nothing_about_the_next_lease(start: Start) -> None:
    leader, follower = start(), start()
    assert leader.take("k") == "LEASE"
    leader.release("k", "free")
    assert leader.take("k") == "LEASE"
    assert follower.take("k", LONG) == "waits "
    leader.release("k")
    assert follower.said() == "LANDED"


def test_a_stopped_leader_bounds_the_wait(start: Start) -> None:
    leader, follower = start(), start()
    assert leader.take("k") == "LEASE"
    leader.stall()
    assert follower.take("k", 0.1) == "waits "
    assert follower.said() == "TIMEOUT"
    assert follower.take("another") == "LEASE"


def test_a_parents_death_frees_what_its_child_has_copies_of(start: Start, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    try:
        parent, other = start(reads), start()
        assert parent.take("k") == "LEASE"
        parent.fork()
        assert other.take("k", LONG) == "waits "
        parent.kill()
        assert other.said() == "LANDED"
    finally:
        os.close(writes)  # the child ends
        os.close(reads)


def test_the_child_of_a_fork_without_hooks_holds_nothing(kind: str, tmp_path: Path) -> None:
    leases = made(tmp_path, KINDS[kind])
    held = lease(leases, "k")
    child = os.fork()
    if not child:
        code = 1
        try:
            assert not run_blocking(held.confirm())
            run_blocking(held.release())
            assert take(leases, "k") is Waited.TIMEOUT  # the parent has it
            lease(leases, "another")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run_blocking(held.confirm())
    assert take(made(tmp_path, KINDS[kind]), "k") is Waited.TIMEOUT


def test_two_parts_of_one_process_exclude_each_other(kind: str, tmp_path: Path) -> None:
    one, other = made(tmp_path, KINDS[kind]), made(tmp_path, KINDS[kind])
    held = lease(one, "k")
    assert take(other, "k") is Waited.TIMEOUT
    assert take(one, "k") is Waited.TIMEOUT
    run_blocking(held.release())
    again = lease(other, "k")
    run_blocking(held.release())  # it does not give back what is another's
    assert take(one, "k") is Waited.TIMEOUT
    assert run_blocking(again.confirm())
    assert not run_blocking(held.confirm())


def test_a_lease_that_is_garbage_is_given_back(kind: str, tmp_path: Path) -> None:
    one, other = made(tmp_path, KINDS[kind]), made(tmp_path, KINDS[kind])
    held = lease(one, "k")
    assert take(other, "k") is Waited.TIMEOUT
    del held
    gc.collect()
    lease(other, "k")


def test_text_and_bytes_are_two_keys(tmp_path: Path) -> None:
    leases = made(tmp_path)
    held = lease(leases, "k")
    assert isinstance(run_blocking(leases.acquire(b"k", wait=0)), HostLease)
    assert run_blocking(held.confirm())


def test_leaving_gives_everything_back(kind: str, tmp_path: Path) -> None:
    one, other = made(tmp_path, KINDS[kind]), made(tmp_path, KINDS[kind])
    held = [lease(one, "a"), lease(one, "b")]
    run_blocking(one.leave())
    assert [run_blocking(each.confirm()) for each in held] == [False, False]
    theirs = [lease(other, "a"), lease(other, "b")]
    for each in held:
        run_blocking(each.release(free=True))
    assert [run_blocking(each.confirm()) for each in theirs] == [True, True]


def test_a_folder_that_is_gone_raises(tmp_path: Path) -> None:
    leases = made(tmp_path / "gone" / "too")
    with pytest.raises(OSError, match="gone"):
        take(leases, "k")


def test_who_waits_learns_the_holders_note(start: Start) -> None:
    leader, follower = start(), start()
    assert leader.take("k", note="span-1") == "LEASE"
    assert follower.take("k", 0.01) == "waits span-1"
    assert follower.said() == "TIMEOUT"


def test_the_next_holders_note_leaves_a_free_release(tmp_path: Path) -> None:
    """A wait that began before the release is over, though another request has the lease since."""
    one, other = made(tmp_path), made(tmp_path, runtime=LoopRuntime())
    held = lease(one, "k", note="first")
    begun = asyncio.Event()

    async def run() -> None:
        task = asyncio.create_task(other.acquire("k", wait=LONG, held=lambda _: begun.set()))
        await begun.wait()
        # Not one step of the loop between these: the waiting task cannot look in between.
        one.give_back(held, free=True)
        following = one._taken(held.place, "second")
        assert following is not None
        assert await task is Waited.FREE
        assert await following.confirm()

    asyncio.run(run())


def test_a_loop_that_waits_serves_others(kind: str, tmp_path: Path) -> None:
    one, other = made(tmp_path, KINDS[kind]), made(tmp_path, KINDS[kind], LoopRuntime())
    held = lease(one, "k")
    begun = asyncio.Event()

    async def run() -> None:
        task = asyncio.create_task(other.acquire("k", wait=LONG, held=lambda _: begun.set()))
        await begun.wait()
        await held.release()
        assert await task is Waited.LANDED

    asyncio.run(run())


def test_all_waits_of_a_process_end_though_the_one_that_looks_is_canceled(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path, runtime=LoopRuntime())
    keys = [f"k{number}" for number in range(20)]
    held = [lease(one, key) for key in keys]

    async def run() -> None:
        tasks = [asyncio.create_task(other.acquire(key, wait=LONG)) for key in keys]
        await asyncio.sleep(0)
        assert [wait.looks for wait in other._waits] == [True] + [False] * 19
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert [wait.looks for wait in other._waits] == [True] + [False] * 18
        for each in held:
            await each.release()
        assert await asyncio.gather(*tasks[1:]) == [Waited.LANDED] * 19
        assert other._waits == []

    asyncio.run(run())
