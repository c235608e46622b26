"""The connections to a PostgreSQL in both worlds: how they are made, shared, lost and given up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from layergate.errors import ConfigError, LayerRefused, LayerTimeout, LayerUnavailable
from layergate.layers.postgres.conninfo import conninfo_of
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.ports import HOST, free_port
from tests.support.postgres_parts import Parts, World
from tests.support.postgres_servers import DATABASE, PASSWORD, USER, Postgres
from tests.support.proxy import Proxy
from tests.support.waiting import BOUND, wait_until

pytestmark = pytest.mark.systems

# What a port raises for a system that is away.
FAULTS = (psycopg.OperationalError, TimeoutError)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Took no longer than that, and a margin for a busy machine."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + 1.5


def clients(server: Postgres, name: str = "layergate-test") -> int:
    """The connections that the server has, of those who introduced themselves so."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with server.connect() as connection:
        found = connection.execute(query, [name]).fetchone()
    assert found is not None
    return int(found[0])


# -- lifetimes ------------------------------------------------------------------------------------


def test_nothing_is_connected_before_the_first_call(world: World, server: Postgres):
    parts = world.parts(server.url())
    assert not clients(server)
    assert parts.client.stats() == {"connections": 0, "connects": 0, "round_trips": 0}
    world.run(parts.cells.load("x"))
    assert clients(server) == 1


def test_close_closes_and_a_later_call_connects_anew(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.load("x"))
    world.run(parts.client.close())
    wait_until(lambda: not clients(server), "connections to be closed")
    world.run(parts.cells.load("x"))
    world.run(parts.client.close())
    world.run(parts.client.close())


def test_it_is_of_no_use_before_it_is_bound(server: Postgres):
    parts = Parts(server.url(), LoopRuntime())
    parts.client._pools._runtime = None
    with pytest.raises(LayerUnavailable):
        run_blocking(parts.cells.load("x"))


def test_many_calls_at_once_share_few_connections(world: World, server: Postgres):
    parts = world.parts(server.url(), most=3)
    seen: list[int] = []

    async def call(number: int) -> None:
        await parts.blobs.set(f"test:many:{number}", b"%d" % number, 60)
        assert await parts.blobs.get_many([f"test:many:{number}"]) == [b"%d" % number]
        seen.append(clients(server))

    if world.blocking:
        threads = [threading.Thread(target=lambda n=n: run_blocking(call(n))) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    else:

        async def story() -> None:
            await asyncio.gather(*(call(number) for number in range(64)))

        world.run(story())
    assert len(seen) == 64
    assert max(seen) <= 3
    assert parts.client.stats()["connects"] == 3


def test_each_loop_has_connections_of_its_own(server: Postgres):
    parts = Parts(server.url(), LoopRuntime())

    async def story() -> None:
        await asyncio.gather(*(parts.blobs.set(f"test:{n}", b"x", 60) for n in range(8)))
        await parts.close()

    for _ in range(3):
        asyncio.run(story())
    threads = [threading.Thread(target=lambda: asyncio.run(story())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    wait_until(lambda: not clients(server), "connections to be closed")


def test_a_loop_that_was_closed_over_its_connections(server: Postgres):
    """They are dropped when another loop asks, at the latest."""
    parts = Parts(server.url(), LoopRuntime())

    async def story() -> None:
        await parts.blobs.set("test:closed", b"x", 60)

    for _ in range(4):
        asyncio.run(story())
    wait_until(lambda: clients(server) <= 1, "the connections of closed loops to go")

    async def end() -> None:
        await story()
        await parts.close()

    asyncio.run(end())
    wait_until(lambda: not clients(server), "connections to be closed")


@pytest.mark.parametrize("name", ["loop", "threads"])
def test_a_forks_child_never_uses_its_parents_connections(name: str, server: Postgres):
    script = f"""
        import os
        from tests.support.postgres_parts import World

        world = World({name!r})
        parts = world.parts({server.url()!r})

        def story(who):
            async def work():
                for number in range(50):
                    await parts.cells.put("fork:" + who, b"%d" % number)
                    assert (await parts.cells.load("fork:" + who)).data == b"%d" % number
                assert not await parts.cells.wait("head", None, 0.01)
                return await parts.backend()
            return work()

        before = world.run(story("parent"))
        child = os.fork()
        if not child:
            if {name!r} == "loop":
                import asyncio
                world._runner = asyncio.Runner()
            mine = world.run(story("child"))
            assert mine != before, mine
            world.run(parts.close())
            os._exit(0)
        world.run(story("parent"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # What the child did at its end has not closed it.
        assert world.run(story("parent")) == before
        assert parts.client.stats()["connects"] == 2   # (one listens)
        world.__exit__()
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# -- where it is, and who asks ----------------------------------------------------------------------


def test_what_the_url_leaves_open_comes_from_the_environment(
    world: World, server: Postgres, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGUSER", USER)
    assert world.run(world.parts(f"postgresql://{HOST}/{DATABASE}").cells.load("x")) is None
    assert world.run(world.parts(f"postgres://{HOST}/{DATABASE}").cells.load("x")) is None


def test_a_password_file_and_a_service_file(
    world: World, server: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    passwords, services = tmp_path / "pgpass", tmp_path / "services"
    passwords.write_text(f"{HOST}:{server.port}:{DATABASE}:{USER}:{PASSWORD}\n")
    passwords.chmod(0o600)
    services.write_text(
        f"[shop]\nhost={HOST}\nport={server.port}\nuser={USER}\ndbname={DATABASE}\n"
    )
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert world.run(world.parts("postgresql://?service=shop").cells.load("x")) is None


def test_by_unix_socket(world: World, server: Postgres):
    url = server.url().replace(f"@{HOST}:{server.port}", "@")
    parts = world.parts(f"{url}?host={server.folder}&port={server.port}")
    assert world.run(parts.cells.load("x")) is None


def test_connections_show_who_they_are(world: World, server: Postgres):
    world.run(world.parts(server.url(), namespace="shop").cells.load("x"))
    assert clients(server, "layergate-shop") == 1
    world.run(world.parts(f"{server.url()}?application_name=till").cells.load("x"))
    assert clients(server, "till") == 1


def test_a_wrong_password_is_told_with_its_remedy(world: World, server: Postgres):
    wrong = server.url().replace("s3cret", "wrong-one")
    with pytest.raises(psycopg.OperationalError, match="check the user and the password") as caught:
        world.run(world.parts(wrong).cells.load("x"))
    assert "wrong-one" not in f"{caught.value!r} {caught.value}"
    without = f"postgresql://{USER}@{HOST}:{server.port}/{DATABASE}"
    with pytest.raises(psycopg.OperationalError, match="give the password in PGPASSWORD"):
        world.run(world.parts(without).cells.load("x"))


def test_a_host_that_nobody_knows(world: World):
    with pytest.raises(psycopg.OperationalError):
        world.run(world.parts("postgresql://u@nobody.invalid/shop").cells.load("x"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@host/shop?nothing=hunter2",
        "postgresql://user:hunter2@[::1/shop",
        "host=h password=hunter2 nothing=1",
    ],
)
def test_what_libpq_cannot_read_is_refused_without_a_secret(url: str):
    with pytest.raises(ConfigError, match="must be one that PostgreSQL reads") as caught:
        conninfo_of(url, "test")
    assert "hunter2" not in str(caught.value)


def test_what_is_added_gives_way(monkeypatch: pytest.MonkeyPatch):
    assert "target_session_attrs=read-write" in conninfo_of("postgresql://h/shop", "test")
    given = conninfo_of("postgresql://h/shop?target_session_attrs=primary", "test")
    assert "target_session_attrs=primary" in given
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    assert "target_session_attrs" not in conninfo_of("postgresql://h/shop", "test")


def test_a_host_that_does_not_answer_leaves_time_for_the_next(world: World, server: Postgres):
    with Proxy(server.port) as first:
        first.blackhole()
        url = server.url().replace(
            f"{HOST}:{server.port}", f"{HOST}:{first.port},{HOST}:{server.port}"
        )
        parts = world.parts(url, connect_timeout=1.0)
        with within(0.5):
            assert world.run(parts.cells.load("x")) is None
        world.run(parts.client.close())
    # The other way round, and with one that refuses.
    url = server.url().replace(
        f"{HOST}:{server.port}", f"{HOST}:{server.port},{HOST}:{free_port()}"
    )
    assert world.run(world.parts(url).cells.load("x")) is None


def test_the_host_that_answered_is_asked_first_the_next_time(world: World, server: Postgres):
    with Proxy(server.port) as first, Proxy(server.port) as second:
        first.refuse()
        url = server.url().replace(
            f"{HOST}:{server.port}", f"{HOST}:{first.port},{HOST}:{second.port}"
        )
        parts = world.parts(url)
        assert world.run(parts.cells.load("x")) is None
        first.resume()
        world.run(parts.backend())
        second.cut()
        assert world.run(parts.cells.load("x")) is None
        assert (first.connections, second.connections) == (0, 1)


# -- a server in trouble ------------------------------------------------------------------------------


def test_nobody_there(world: World):
    parts = world.parts(f"postgresql://u@{HOST}:{free_port()}/shop")
    with within(0), pytest.raises(psycopg.OperationalError, match="refused"):
        world.run(parts.cells.load("x"))


def test_a_server_that_stands_still_costs_the_timeout(world: World, server: Postgres):
    parts = world.parts(server.url(), timeout=0.3, connect_timeout=2.0)
    world.run(parts.cells.put("stalled", b"before"))
    for pool in parts.client._pools.all():
        pool._connect_timeout = 0.3  # for the second call, which has to connect
    server.stall()
    try:
        for work in (
            parts.cells.load("stalled"),
            parts.cells.swap("stalled", b"tag", b"data"),
            parts.blobs.get_many(["test:x"]),
            parts.blobs.set("test:x", os.urandom(3_000_000), 60),
        ):
            with within(0.6), pytest.raises(FAULTS):
                world.run(work)
    finally:
        server.resume()
    found = world.run(parts.cells.load("stalled"))
    assert found is not None
    assert found.data == b"before"


def test_a_server_that_stands_still_when_we_connect(world: World, server: Postgres):
    parts = world.parts(server.url(), timeout=0.2, connect_timeout=0.4)
    server.stall()
    try:
        with within(0.6), pytest.raises(TimeoutError, match="not connected within"):
            world.run(parts.cells.load("x"))
        with within(0.6), pytest.raises(TimeoutError):
            world.run(parts.cells.wait("head", None, 5.0))
    finally:
        server.resume()
    assert world.run(parts.cells.load("x")) is None


def test_no_thread_hangs_on_a_server_that_stands_still(server: Postgres):
    """Those that wait for one of few connections do not wait for each other's time-outs."""
    parts = Parts(server.url(), ThreadRuntime(), most=1, timeout=0.3, connect_timeout=0.3)
    run_blocking(parts.cells.load("x"))
    ended: list[float] = []
    server.stall()
    began = time.monotonic()

    def call() -> None:
        with contextlib.suppress(*FAULTS):
            run_blocking(parts.cells.load("x"))
        ended.append(time.monotonic() - began)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(12)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
    finally:
        server.resume()
    assert len(ended) == 12
    assert max(ended) < 0.3 + 0.3 + 0.3 + 1.5
    run_blocking(parts.close())


def test_a_line_that_swallows_everything(world: World, server: Postgres, proxy: Proxy):
    parts = world.parts(server.url(proxy.port), timeout=0.3, connect_timeout=0.3)
    world.run(parts.cells.put("hole", b"here"))
    proxy.blackhole()
    for _ in range(2):  # connected, then not
        with within(0.6), pytest.raises(FAULTS):
            world.run(parts.cells.load("hole"))
    proxy.resume()
    found = world.run(parts.cells.load("hole"))
    assert found is not None
    assert found.data == b"here"


@pytest.mark.parametrize(
    "junk",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff",
        b"\x00" * 64,
        b"D\x00\x00\x00\x07\xff\xff\x00" * 3,
        b"T\x7f\xff\xff\xff",  # a message of two gigabytes
    ],
    ids=["http", "zeros", "rows", "large"],
)
def test_garbage_is_a_fault_and_ends_the_connection(
    world: World, server: Postgres, proxy: Proxy, junk: bytes
):
    parts = world.parts(server.url(proxy.port), timeout=0.3, connect_timeout=0.3)
    world.run(parts.cells.put("junk", b"here"))
    proxy.garbage(junk)
    for _ in range(2):
        with within(0.6), pytest.raises(FAULTS):
            world.run(parts.cells.load("junk"))
    proxy.resume()
    found = world.run(parts.cells.load("junk"))
    assert found is not None
    assert found.data == b"here"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_was_restarted_is_asked_again_at_once(
    world: World, server: Postgres, end: str
):
    parts = world.parts(server.url())
    world.run(parts.cells.put("again", b"kept"))
    world.run(parts.blobs.set("test:again", b"entry", 60))
    getattr(server, end)()
    with pytest.raises(FAULTS):
        world.run(parts.cells.load("again"))
    server.start()
    found = world.run(parts.cells.load("again"))
    assert found is not None
    assert found.data == b"kept"
    # Entries are not in the log of what has to survive a crash.
    entry = None if end == "kill" else b"entry"
    assert world.run(parts.blobs.get_many(["test:again"])) == [entry]


def test_a_connection_that_the_server_has_closed_is_replaced(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.load("x"))
    server.sql(f"SELECT pg_terminate_backend({world.run(parts.backend())}, 5000)")
    assert world.run(parts.cells.load("x")) is None
    assert parts.client.stats()["connects"] == 2


def test_a_server_that_is_full_is_a_fault(world: World, server: Postgres):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(server.connect())
        parts = world.parts(server.url(), connect_timeout=2.0)
        with pytest.raises(
            psycopg.OperationalError, match=r"too many clients|remaining connection"
        ):
            world.run(parts.cells.load("x"))
    wait_until(lambda: server.sql("SELECT 1"), faults=psycopg.Error)
    assert world.run(parts.cells.load("x")) is None


def test_what_nobody_waits_for_any_more_ends_on_the_server_too(world: World, server: Postgres):
    parts = world.parts(server.url(), timeout=0.3)
    world.run(parts.cells.put("locked", b"before"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with server.connect() as other, other.transaction():
        other.execute("LOCK TABLE layergate.cells IN EXCLUSIVE MODE")
        with pytest.raises(TimeoutError):
            world.run(parts.cells.put("locked", b"after"))
        wait_until(lambda: server.sql(waiting) == [(0,)], "the statement to end on the server")
    found = world.run(parts.cells.load("locked"))
    assert found is not None
    assert found.data == b"before"


def test_a_server_that_turns_read_only_refuses_and_is_used_again(world: World, server: Postgres):
    parts = world.parts(server.url())
    world.run(parts.cells.put("read", b"before"))
    before = world.run(parts.backend())
    # The session that is there, as after a reload with the setting in postgresql.conf.
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        wait_until(
            lambda: server.sql("SHOW default_transaction_read_only") == [("on",)], "the setting"
        )

        def refused() -> bool:
            try:
                world.run(parts.cells.put("read", b"after"))
            except LayerRefused as error:
                assert "name the primary" in str(error)
                return True
            return False

        wait_until(refused, "a refusal")
        # A new connection looks for a server that can be written.
        with pytest.raises(psycopg.OperationalError, match="read-only"):
            world.run(parts.cells.put("read", b"after"))
    finally:
        with server.connect(options="-c default_transaction_read_only=off") as connection:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
    wait_until(
        lambda: server.sql("SHOW default_transaction_read_only") == [("off",)], "the setting"
    )
    world.run(parts.cells.put("read", b"at last"))
    assert before != world.run(parts.backend())


# -- nothing is mixed up --------------------------------------------------------------------------------


async def test_a_storm_of_cancellations_and_timeouts_mixes_up_no_answers(server: Postgres):
    parts = Parts(server.url(), LoopRuntime(), timeout=0.5)
    names = [f"test:storm:{number}" for number in range(20)]
    for name in names:
        await parts.blobs.set(name, name.encode() * 50, 60)
    rng = random.Random(7)
    over = asyncio.Event()
    answered = 0

    async def ask() -> None:
        nonlocal answered
        while not over.is_set():
            wanted = rng.sample(names, 3)
            try:
                async with asyncio.timeout(rng.choice([0.0005, 0.002, 0.01, 1.0])):
                    found = await parts.blobs.get_many(wanted)
            except TimeoutError:
                continue
            assert found == [name.encode() * 50 for name in wanted]
            answered += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(ask())
        async with asyncio.timeout(BOUND):
            while answered < 400:
                await asyncio.sleep(0.01)
        over.set()
    assert parts.client.stats()["connects"] > 4, "nothing was cancelled"
    await parts.close()
    await asyncio.to_thread(
        wait_until, lambda: not clients(server), "dropped connections to be closed"
    )


def test_a_storm_of_timeouts_on_threads_mixes_up_no_answers(server: Postgres):
    with Proxy(server.port) as proxy:
        parts = Parts(server.url(proxy.port), ThreadRuntime(), timeout=0.05, connect_timeout=1.0)
        names = [f"test:storm:{number}" for number in range(20)]
        with contextlib.suppress(*FAULTS):
            run_blocking(parts.cells.load("x"))
        with World("threads") as calm:
            steady = calm.parts(server.url())
            for name in names:
                run_blocking(steady.blobs.set(name, name.encode() * 50, 60))
        over = threading.Event()
        counts = {"answered": 0, "failed": 0}
        wrong: list[Any] = []

        def ask(seed: int) -> None:
            rng = random.Random(seed)
            while not over.is_set():
                wanted = rng.sample(names, 3)
                try:
                    found = run_blocking(parts.blobs.get_many(wanted))
                except (*FAULTS, LayerTimeout):
                    counts["failed"] += 1
                    continue
                if found != [name.encode() * 50 for name in wanted]:
                    wrong.append(found)
                counts["answered"] += 1

        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(6)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + BOUND
        slow = False
        while (counts["answered"] < 300 or counts["failed"] < 30) and time.monotonic() < until:
            slow = not slow
            proxy.delay(0.04 if slow else 0.0)
            over.wait(0.1)
        over.set()
        for thread in threads:
            thread.join(BOUND)
        assert not wrong
        assert counts["answered"] >= 300, counts
        assert counts["failed"] >= 30, counts
        run_blocking(parts.close())


def test_under_uvloop(server: Postgres):
    uvloop = pytest.importorskip("uvloop")
    parts = Parts(server.url(), LoopRuntime())

    async def story() -> None:
        data = os.urandom(5_000_000)
        await parts.blobs.set("test:uvloop", data, 60)
        assert await parts.blobs.get_many(["test:uvloop"]) == [data]
        tag = await parts.cells.swap("head", None, b"one")
        waits = asyncio.create_task(parts.cells.wait("head", tag, BOUND))
        await asyncio.sleep(0)
        assert await parts.cells.swap("head", tag, b"two")
        assert await waits
        await parts.cells.remove("head")
        await parts.close()

    uvloop.run(story())


def test_under_gevent_others_run_while_one_waits(server: Postgres):
    """Its `select.poll` is gevent's: a stalled server holds up one greenlet, not all."""
    script = f"""
        from gevent import monkey
        monkey.patch_all()
        import gevent
        from layergate.runtime.threads import ThreadRuntime, run_blocking
        from tests.support.postgres_parts import Parts

        parts = Parts({server.url()!r}, ThreadRuntime(), timeout=30.0)
        tag = run_blocking(parts.cells.swap("gevent", None, b"x"))
        waits = gevent.spawn(lambda: run_blocking(parts.cells.wait("head", None, 30.0)))
        while parts.client.stats()["connects"] < 2:
            gevent.sleep(0.001)
        for number in range(20):
            assert run_blocking(parts.cells.load("gevent")).data == b"x"
        assert not waits.ready()
        while not waits.ready():
            assert run_blocking(parts.cells.swap("head", None, b"x"))
            gevent.sleep(0.01)
            run_blocking(parts.cells.remove("head"))
        assert waits.get()
        run_blocking(parts.cells.remove("gevent"))
        run_blocking(parts.close())
        print("done")
    """
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_a_process_that_is_stopped_in_a_call_goes_on(server: Postgres, tmp_path: Path):
    """Its time is over when it goes on: it says so, and the next call is answered."""
    script = f"""
        from layergate.runtime.threads import ThreadRuntime, run_blocking
        from tests.support.postgres_parts import Parts

        parts = Parts({server.url()!r}, ThreadRuntime(), timeout=0.2)
        run_blocking(parts.cells.put("stopped", b"x"))
        print("ready", flush=True)
        input()
        print(run_blocking(parts.cells.load("stopped")).data.decode())
        run_blocking(parts.close())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "x\n"
        assert process.wait(BOUND) == 0
