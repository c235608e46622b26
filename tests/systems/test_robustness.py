"""What every shared system must survive, on real servers: forks, loops, threads, restarts, silence.

One table for all systems. What only one of them has is in `tests/layers/<system>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.shared import Joining
from layergate.errors import LayerUnavailable
from layergate.layers.schemes import layer_of
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.layer import SystemLayer
from tests.support.memcached_servers import Memcached
from tests.support.mongo_servers import Mongo
from tests.support.ports import HOST, free_port
from tests.support.postgres_servers import Postgres
from tests.support.proxy import Proxy
from tests.support.systems import SystemServer, ValkeySystem
from tests.support.waiting import wait_until

SERVERS: dict[str, type[SystemServer]] = {
    "redis": ValkeySystem,
    "postgres": Postgres,
    "mongodb": Mongo,
    "memcached": Memcached,
}
ROWS = [
    pytest.param(name, marks=[] if name == "redis" else [pytest.mark.systems]) for name in SERVERS
]
WORLDS = ["loop", "threads"]
# Beyond what the budgets say: a loaded machine. What hangs takes for ever.
PATIENCE = 10.0


class Member:
    """One instance: a layer in a stack's place, in one world."""

    def __init__(self, url: str, world: str, **options: Any) -> None:
        options = {"timeout": 0.5, "connect_timeout": 0.5, "max_disconnected": 1.0, **options}
        self.layer: SystemLayer = layer_of(url, **options)  # type: ignore[assignment]
        self.runtime: Any = ThreadRuntime() if world == "threads" else LoopRuntime()
        self._runner = None if world == "threads" else asyncio.Runner()
        self.log, self.leases = self.layer.join(
            Joining(Invalidations(), self.runtime, Counters(), ())
        )

    def run(self, work: Any) -> Any:
        return run_blocking(work) if self._runner is None else self._runner.run(work)

    def joined(self) -> Member:
        assert self.run(self.log.catch_up())
        return self

    def set(self, key: str, value: bytes) -> None:
        self.run(self.layer.set(key, entry(self.log, value)))

    def get(self, key: str) -> bytes | None:
        found = self.run(self.layer.get(key))
        return None if found is None else bytes(found.value)

    def close(self) -> None:
        heartbeat: Any = self.log.heartbeat._task

        async def over() -> None:
            await self.log.leave()
            await self.runtime.aclose(1.0)
            # A heartbeat that is under way on its thread would make a new client after the end.
            if heartbeat is not None and self.runtime.blocking:
                wait_until(heartbeat.done, "the heartbeat to end")
            await self.layer.aclose()

        self.run(over())
        if self._runner is not None:
            self._runner.close()


def entry(log: Any, value: bytes) -> Entry:
    now = time.time()
    stamp = log.positions.local(log.applied)
    return Entry(
        value, created=now, fresh_until=now + 60, expires=now + 60, stamp=stamp, size=len(value)
    )


@pytest.fixture(scope="module", params=ROWS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SystemServer]:
    made: Any = SERVERS[request.param]
    with made(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def member(
    server: SystemServer, world: str, port: int | None = None, **options: Any
) -> Iterator[Member]:
    made = Member(server.url(port), world, **options)
    try:
        yield made
    finally:
        made.close()


# -- processes, loops, threads ----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_of_a_fork_has_connections_of_its_own(server: SystemServer) -> None:
    """As under a server that loads the app before it forks."""
    with member(server, "threads", namespace="fork") as parent:
        parent.joined()
        parent.set("key", b"parent's")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                good = parent.get("key") == b"parent's"
                assert run_blocking(parent.log.catch_up())
                parent.set("child", b"child's")
                gc.collect()
                code = 0 if good and parent.get("child") == b"child's" else 2
            finally:
                sys.stdout.flush()
                os._exit(code)
        # Both at the same time: a shared connection would mix up the answers.
        for _ in range(50):
            assert parent.get("key") == b"parent's"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert parent.get("key") == b"parent's"


def test_each_event_loop_has_connections_of_its_own(server: SystemServer) -> None:
    """As where a thread has a loop of its own."""
    with member(server, "loop", namespace="loops") as one:
        one.joined()
        one.set("key", b"value")
        seen: list[bytes] = []

        def elsewhere() -> None:
            async def read() -> None:
                for _ in range(20):
                    found = await one.layer.get("key")
                    seen.append(b"" if found is None else bytes(found.value))

            asyncio.run(read())

        threads = [threading.Thread(target=elsewhere) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert one.get("key") == b"value"
        for thread in threads:
            thread.join(PATIENCE)
        assert seen == [b"value"] * 80


def test_a_loop_may_be_closed_over_its_connections(server: SystemServer) -> None:
    """As a test client does that runs each request on a loop of its own."""
    with member(server, "loop", namespace="closed") as one:
        one.joined()
        one.set("key", b"value")
        for _ in range(3):
            loop = asyncio.new_event_loop()
            found = loop.run_until_complete(one.layer.get("key"))
            loop.close()  # nothing is closed in order
            assert found is not None
        assert one.get("key") == b"value"
        gc.collect()


def test_many_threads_at_once(server: SystemServer) -> None:
    with member(server, "threads", namespace="threads", timeout=5.0) as one:
        one.joined()
        for number in range(16):
            one.set(f"key{number}", b"%d" % number)
        barrier = threading.Barrier(16)
        wrong: list[Any] = []

        def read(number: int) -> None:
            barrier.wait()
            for _ in range(20):
                found = one.get(f"key{number}")
                if found != b"%d" % number:
                    wrong.append((number, found))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong


def test_a_read_that_is_cancelled_leaves_no_answer_for_another(server: SystemServer) -> None:
    with member(server, "loop", namespace="cancelled", timeout=5.0) as one:
        one.joined()
        for number in range(8):
            one.set(f"key{number}", b"%d" % number * 1000)

        async def story() -> None:
            for turn in range(40):
                tasks = [
                    asyncio.ensure_future(one.layer.get(f"key{number}")) for number in range(8)
                ]
                many = asyncio.ensure_future(one.layer.get_many(["key1", "key2"]))
                for _ in range(turn % 5):
                    await asyncio.sleep(0)
                tasks[turn % 8].cancel()
                many.cancel()
                found = await asyncio.gather(*tasks, many, return_exceptions=True)
                for number, each in enumerate(found[:8]):
                    if not isinstance(each, BaseException):
                        assert each is not None
                        assert each.value == b"%d" % number * 1000  # type: ignore[union-attr]

        one.run(story())


# -- trips --------------------------------------------------------------------------------------------------


def test_reads_at_the_same_time_are_one_round_trip(server: SystemServer) -> None:
    with member(server, "loop", namespace="together", timeout=5.0) as one:
        one.joined()
        for number in range(64):
            one.set(f"key{number}", b"%d" % number)

        async def story() -> None:
            before = one.layer.stats()["round_trips"]
            found = await asyncio.gather(*(one.layer.get(f"key{number}") for number in range(64)))
            assert [bytes(each.value) for each in found if each is not None] == [
                b"%d" % number for number in range(64)
            ]
            # (The heartbeat may have one of its own.)
            assert one.layer.stats()["round_trips"] - before <= 3

        one.run(story())


def test_many_keys_are_one_round_trip(server: SystemServer, world: str) -> None:
    with member(server, world, namespace=f"many-{world}", timeout=5.0) as one:
        one.joined()
        for number in range(64):
            one.set(f"key{number}", b"%d" % number)
        before = one.layer.stats()["round_trips"]
        found = one.run(one.layer.get_many([f"key{number}" for number in range(80)]))
        assert {key: bytes(each.value) for key, each in found.items()} == {
            f"key{number}": b"%d" % number for number in range(64)
        }
        assert one.layer.stats()["round_trips"] - before <= 3


# -- what is held -------------------------------------------------------------------------------------------


def test_clear_leaves_another_namespace_alone(server: SystemServer, world: str) -> None:
    names = (f"clear-{world}", f"clear-{world}2", f"clear-{world}:x")
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(member(server, world, namespace=name)) for name in names]
        for one in members:
            one.joined()
            one.set("key", b"value")
        members[0].run(members[0].layer.clear())
        assert [one.get("key") for one in members] == [None, b"value", b"value"]
        assert members[0].run(members[0].log.sync()), "its log stays"
        members[0].set("key", b"again")
        assert members[0].get("key") == b"again"


def test_what_is_too_large_is_declined_counted_and_said_once(
    server: SystemServer,
    world: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with member(server, world, namespace=f"large-{world}", timeout=5.0, max_size="64MB") as one:
        one.joined()
        one.set("key", b"small")
        blobs = one.layer._joined.system.blobs  # type: ignore[union-attr]
        most = blobs.limits.largest
        if most is None or most > 20_000_000:  # so it is not worth it to fill it
            most = 100_000
            monkeypatch.setattr(type(blobs), "limits", blobs.limits._replace(largest=most))
        with caplog.at_level(logging.WARNING, "layergate"):
            for _ in range(2):
                one.set("key", os.urandom(most + 1))
        assert one.get("key") is None, "the old value is gone, too"
        assert one.layer.stats()["too_large"] == 2
        assert len([1 for record in caplog.records if "is not stored" in record.message]) == 1
        assert not one.layer.takes("key", most + 1)
        one.set("key", os.urandom(most - 2048))
        assert one.get("key") is not None


def test_keys_are_hashed(server: SystemServer) -> None:
    with member(server, "threads", namespace="hashed") as one:
        one.joined()
        one.set("https://example.com/?user=ann", b"value")
        name = one.layer.blob_name("https://example.com/?user=ann")
        assert "ann" not in name
        assert one.get("https://example.com/?user=ann") == b"value"


# -- silence ------------------------------------------------------------------------------------------------


def took(work: Any) -> tuple[float, BaseException | None]:
    began, error = time.monotonic(), None
    try:
        work()
    except Exception as raised:
        error = raised
    return time.monotonic() - began, error


def test_a_server_that_stands_still_costs_the_budget_and_no_more(
    server: SystemServer, world: str
) -> None:
    with member(server, world, namespace=f"still-{world}", timeout=0.3) as one:
        one.joined()
        one.set("key", b"value")
        server.stall()
        try:
            seconds, error = took(lambda: one.get("key"))
            assert error is not None
            assert seconds < 0.3 + PATIENCE / 5
            for _ in range(5):  # until the breaker opens
                took(lambda: one.get("key"))
            seconds, error = took(lambda: one.get("key"))
            assert isinstance(error, LayerUnavailable)
            assert seconds < 0.1
        finally:
            server.resume()
        back(one)


@pytest.mark.parametrize("fault", ["refuse", "blackhole", "garbage"])
def test_a_line_that_does_not_work(server: SystemServer, world: str, fault: str) -> None:
    with Proxy(server.port) as proxy:
        getattr(proxy, fault)()
        with member(server, world, proxy.port, namespace=f"line-{world}", timeout=0.3) as one:
            seconds, error = took(lambda: one.run(one.layer.get("key")))
            assert error is not None
            # It has to connect first.
            assert seconds < 0.3 + 0.5 + PATIENCE / 5
            assert not isinstance(error, (TypeError, AttributeError, AssertionError)), error
            proxy.resume()
            back(one)


def test_a_restart_is_got_over(server: SystemServer, world: str) -> None:
    with member(server, world, namespace=f"restart-{world}") as one:
        one.joined()
        one.set("key", b"value")
        assert one.get("key") == b"value"
        server.kill()
        _, error = took(lambda: one.get("key"))
        assert error is not None
        server.start()
        back(one)


def back(one: Member) -> None:
    """It works again, without a new layer, and a purge becomes final."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(Exception):
            if one.run(one.log.sync(probe=True)):
                one.set("back", b"value")
                if one.get("back") == b"value":
                    break
        assert time.monotonic() < until, "it does not come back"
        time.sleep(0.05)
    receipt: Any = None
    while receipt is None or not receipt.final:
        receipt = one.run(one.log.append((Invalidation("tag", "t"),), time.time()))
        assert time.monotonic() < until, receipt


def test_a_server_that_was_never_there(world: str) -> None:
    port = free_port()
    for scheme in ("redis", "postgresql", "mongodb", "memcached"):
        one = Member(f"{scheme}://{HOST}:{port}", world)
        try:
            seconds, error = took(lambda one=one: one.run(one.layer.get("key")))
            assert error is not None
            assert seconds < 1.0 + PATIENCE / 5, scheme
        finally:
            one.close()


def test_no_secret_is_shown(world: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    port = free_port()
    for scheme in ("redis", "postgresql", "mongodb", "memcached"):
        url = f"{scheme}://ann:s3cr3t@{HOST}:{port}"
        with caplog.at_level(logging.DEBUG):
            one = Member(url, world)
            try:
                _, error = took(lambda one=one: one.run(one.layer.get("key")))
                one.run(one.log.catch_up())
                told = [repr(one.layer), repr(error), str(error), str(one.layer.stats())]
                told.append(type(one.layer).shown_url(url))  # type: ignore[attr-defined]
            finally:
                one.close()
        assert "s3cr3t" not in " ".join(told), scheme
        assert "s3cr3t" not in caplog.text, scheme
