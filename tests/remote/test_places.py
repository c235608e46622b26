from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref

import pytest

from layergate.errors import LayerUnavailable
from layergate.remote.places import PerPlace
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking


class Client:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ended = ""

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.ended = "closed"

    def close(self) -> None:
        self.ended = "closed"

    def abandon(self) -> None:
        self.ended = "abandoned"


def places(runtime: LoopRuntime | ThreadRuntime) -> PerPlace[Client]:
    close = Client.close if runtime.blocking else Client.aclose
    made: PerPlace[Client] = PerPlace("test", Client, close=close, abandon=Client.abandon)
    made.bind(runtime)
    return made


def test_before_it_is_part_of_a_stack_there_is_none():
    with pytest.raises(LayerUnavailable, match="not part of a stack"):
        PerPlace("test", Client, close=Client.close, abandon=Client.abandon).here()


def test_all_threads_of_a_process_have_one():
    clients = places(ThreadRuntime())
    barrier = threading.Barrier(8)
    found: list[Client] = []

    def ask() -> None:
        barrier.wait()
        found.append(clients.here())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(one) for one in found}) == 1
    assert clients.all() == found[:1]
    run_blocking(clients.close())
    assert found[0].ended == "closed"
    assert clients.here() is not found[0]


def test_a_thread_in_the_background_does_not_open_what_was_closed():
    clients = places(ThreadRuntime())
    first = clients.here()
    run_blocking(clients.close())
    raised: list[BaseException] = []
    found: list[Client] = []

    def ask() -> None:
        try:
            found.append(clients.here())
        except LayerUnavailable as error:
            raised.append(error)

    def in_background() -> None:
        thread = threading.Thread(target=ask, name="layergate heartbeat")
        thread.start()
        thread.join()

    in_background()
    assert len(raised) == 1
    assert clients.all() == []
    again = clients.here()  # a request opens it anew, for the background as well
    assert again is not first
    in_background()
    assert found == [again]


def test_each_loop_has_one():
    clients = places(LoopRuntime())

    async def ask() -> Client:
        assert clients.here() is clients.here()
        return clients.here()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        first, second = one.run(ask()), other.run(ask())
        assert first is not second
        assert one.run(ask()) is first
        one.run(clients.close())
        assert (first.ended, second.ended) == ("closed", "")
        assert one.run(ask()) is not first


def test_a_loop_that_ends_in_order_closes_its_own():
    clients = places(LoopRuntime())

    async def ask() -> Client:
        return clients.here()

    assert asyncio.run(ask()).ended == "closed"
    assert clients.all() == []


def test_one_whose_loop_was_closed_is_abandoned():
    clients = places(LoopRuntime())

    async def ask() -> Client:
        return clients.here()

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(ask())
    loop.close()  # not in order: nothing was closed
    assert left.ended == ""
    with asyncio.Runner() as runner:
        assert runner.run(ask()) is not left
        assert left.ended == "abandoned"
        assert len(clients.all()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_child_of_a_fork_has_its_own_and_leaves_its_parents_alone():
    clients = places(ThreadRuntime())
    ours = clients.here()
    parents = weakref.ref(ours)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            theirs = clients.here()
            gc.collect()
            good = theirs is not ours and theirs.pid == os.getpid() and clients.all() == [theirs]
            run_blocking(clients.close())
            kept = parents()
            code = 0 if good and kept is not None and kept.ended == "" else 2
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert clients.here() is ours
