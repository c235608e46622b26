"""How a layer on a MongoDB uses pymongo's clients: how they are made, shared, lost and given up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo.errors
import pytest

from layergate import CacheStack, ConfigError
from layergate.errors import LayerError, LayerTimeout, LayerUnavailable
from layergate.layers.mongodb import MongoLayer
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.mongo_parts import Parts, World
from tests.support.mongo_servers import Mongo
from tests.support.ports import HOST, free_port
from tests.support.proxy import Proxy
from tests.support.recording import Recorder
from tests.support.tls import tls_files
from tests.support.waiting import BOUND, wait_until

pytestmark = pytest.mark.systems

# What a port raises for a system that is away.
FAULTS = (pymongo.errors.PyMongoError, TimeoutError)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Took no longer than that, and a margin for a busy machine. What hangs takes for ever."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + 5.0


def drivers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("pymongo")]


# -- lifetimes ------------------------------------------------------------------------------------


def test_nothing_starts_before_the_first_call(server: Mongo) -> None:
    before = set(threading.enumerate())  # (those of other tests may not have ended yet)
    with Recorder(server.port) as recorder:
        layer = MongoLayer(server.url(recorder.port))
        CacheStack([layer])
        more = set(threading.enumerate()) - before
        assert not [one.name for one in more if one.name.startswith("pymongo")]
        assert not recorder.sent


def test_close_closes_and_a_later_call_connects_anew(world: World, server: Mongo) -> None:
    with Proxy(server.port) as proxy:
        parts = world.parts(server.url(proxy.port))
        assert not proxy.connections
        for _ in range(2):
            world.run(parts.cells.load("x"))
            assert not world.run(parts.cells.wait("x", None, 0.1))
            assert proxy.connections
            world.run(parts.close())
            wait_until(lambda: not proxy.connections, "connections to be closed")
            wait_until(lambda: not drivers(), "threads to end")
        world.run(parts.close())


def test_it_is_of_no_use_before_it_is_bound(server: Mongo) -> None:
    parts = Parts(server.url(), LoopRuntime())
    parts.connection._places._runtime = None
    with pytest.raises(LayerUnavailable):
        run_blocking(parts.cells.load("x"))


def test_a_loop_that_was_closed_over_a_client_leaves_nothing_that_complains(
    server: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors here."""

    async def fetch() -> bytes:
        return b"value"

    with Proxy(server.port) as proxy:
        url = server.url(proxy.port)
        stack = CacheStack([MongoLayer(url, namespace="left", timeout=5.0, connect_timeout=5.0)])
        for _ in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(stack.get("key", fetch, ttl=60)) == b"value"
            loop.close()  # nothing is closed in order
            gc.collect()

        async def last() -> None:
            assert await stack.get("key", fetch, ttl=60) == b"value"
            await stack.aclose()

        asyncio.run(last())
        gc.collect()
        wait_until(lambda: not proxy.connections, "the connections of closed loops to go")
    assert [one for one in caplog.records if one.name == "asyncio"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("name", ["loop", "threads"])
def test_a_forks_child_never_uses_its_parents_client(name: str, server: Mongo) -> None:
    script = f"""
        import asyncio, gc, os, sys, threading
        from tests.support.mongo_parts import World

        world = World({name!r})
        parts = world.parts({server.url()!r})

        def story(who):
            async def work():
                for number in range(30):
                    await parts.cells.put("fork:" + who, b"%d" % number)
                    assert (await parts.cells.load("fork:" + who)).data == b"%d" % number
                assert not await parts.cells.wait("fork:none", None, 0.1)
                return id(parts.connection.here())
            return work()

        before = world.run(story("parent"))
        child = os.fork()
        if not child:
            assert threading.active_count() == 1
            if {name!r} == "loop":
                world._runner = asyncio.Runner()
            mine = world.run(story("child"))
            assert mine != before
            gc.collect()
            world.run(parts.close())
            if {name!r} == "loop":
                world._runner.close()
            sys.exit(0)  # in order, as a worker ends
        world.run(story("parent"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # What the child did at its end has not closed it.
        assert world.run(story("parent")) == before
        world.__exit__()
        print("done")
    """
    # (pymongo itself drops asyncio's transports in the child, about which Python's development mode complains.)
    options = ["-X", "dev", "-W", "error"] if name == "threads" else []
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_process_that_never_closes_it_ends_without_a_word(server: Mongo) -> None:
    script = f"""
        import asyncio
        from layergate import CacheStack
        from layergate.layers.mongodb import MongoLayer
        from layergate.runtime.threads import ThreadRuntime, run_blocking

        stack = CacheStack([MongoLayer({server.url()!r}, timeout=5.0)], runtime=ThreadRuntime())
        print(run_blocking(stack.get("key", lambda: b"value", ttl=60)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("b'value'\n", "")


# -- what the URL says --------------------------------------------------------------------------------


def test_without_pymongo_it_says_what_to_install() -> None:
    code = textwrap.dedent("""
        import sys
        sys.modules["pymongo"] = None
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "pymongo" else found(name, *more)
        from layergate import ConfigError
        from layergate.layers.schemes import layer_of
        try:
            layer_of("mongodb://host/shop")
        except ConfigError as error:
            print(error)
    """)
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'layergate[mongodb]'" in told


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:s3cr3t@h:port/x",
        "mongodb://",
        "mongodb://ann:s3cr3t@h/?w=-5",
        "mongodb://ann:s3 cr3t:x@h",
        "mongodb://ann:s3cr3t@h/?nonsense=cr3t",
        "mongodb://ann:s3cr3t@h1,h2/?directConnection=true",
        "mongodb+srv://",
        "mongodb+srv://ann:s3cr3t@h.example.net:27017/",
        "mongodb+srv://ann:s3cr3t@h.example.net/?nonsense=cr3t",
        "mongodb+srv://ann:s3cr3t@h.example.net/?w=-5",
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="url must be one that MongoDB reads") as refused:
        MongoLayer(url)
    assert "cr3t" not in str(refused.value)


def test_a_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"files that can be read: .*tlscafile"):
        MongoLayer(f"mongodb://h/?tls=true&tlsCAFile={tmp_path}/none.pem")


def test_a_good_url_asks_no_dns_and_nobody() -> None:
    with within(0):
        MongoLayer("mongodb+srv://ann:s3cr3t@nobody.invalid/shop?retryWrites=true")
        MongoLayer("mongodb://h1,h2:27018,[::1]:5/shop?replicaSet=rs0&tls=true")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix": "a b"}, "prefix must be"),
        ({"prefix": ""}, "prefix must be"),
        ({"prefix": 3}, "prefix"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MongoLayer("mongodb://h", **options)


def test_options_of_the_url_go_first_and_weaken_nothing(server: Mongo, world: World) -> None:
    more = (
        "connectTimeoutMS=1234&serverselectiontimeoutms=2345&appName=till&w=0&journal=false"
        "&readPreference=secondary&readConcernLevel=available&timeoutMS=60000"
    )
    parts = world.parts(server.url(more=more))
    tag = world.run(parts.cells.swap("url", None, b"x"))
    assert tag is not None, "it was acknowledged, whatever w=0 says"
    assert world.run(parts.cells.swap("url", b"another", b"x")) is None
    assert world.run(parts.cells.load("url")) == (b"x", tag)
    world.run(parts.cells.remove("url"))

    async def options() -> Any:
        return parts.connection.here().client.options

    seen = world.run(options())
    assert seen.pool_options.connect_timeout == 1.234
    assert seen.server_selection_timeout == 2.345
    assert seen.pool_options.appname == "till"


# -- a server in trouble ------------------------------------------------------------------------------


def test_nobody_there(world: World) -> None:
    parts = world.parts(
        f"mongodb://u:s3cr3t@{HOST}:{free_port()}", timeout=0.2, connect_timeout=0.3
    )
    with within(0.5), pytest.raises(LayerTimeout, match=r"refused|Connect call failed") as caught:
        world.run(parts.cells.load("x"))
    assert "s3cr3t" not in str(caught.value)
    assert "Topology" not in str(caught.value)
    with within(0.5), pytest.raises(LayerTimeout):
        world.run(parts.cells.wait("x", None, 5.0))


def test_a_server_that_stands_still_costs_the_timeout_and_lets_itself_be_closed(
    world: World, server: Mongo
) -> None:
    parts = world.parts(server.url(), timeout=0.3, connect_timeout=0.3)
    world.run(parts.cells.put("still", b"before"))
    tag = world.run(parts.cells.load("still")).tag
    assert not world.run(parts.cells.wait("still", tag, 0.2))
    server.stall()
    try:
        for work in (
            lambda: parts.cells.load("still"),
            lambda: parts.cells.swap("still", b"tag", b"data"),
            lambda: parts.blobs.get_many(["test:x"]),
            lambda: parts.blobs.set("test:x", os.urandom(3_000_000), 60),
        ):
            with within(0.6), pytest.raises(FAULTS):
                world.run(work())
        with within(0.6 + 1.0), pytest.raises(FAULTS):
            world.run(parts.cells.wait("still", tag, 1.0))
        with within(2.0):
            world.run(parts.close())
        # It has to connect.
        with within(0.6), pytest.raises(FAULTS):
            world.run(parts.cells.load("still"))
        with within(2.0):
            world.run(parts.close())
    finally:
        server.resume()
    wait_until(lambda: not drivers(), "threads to end")
    assert world.run(parts.cells.load("still")).data == b"before"
    world.run(parts.cells.remove("still"))


def test_no_thread_hangs_on_a_server_that_stands_still(server: Mongo) -> None:
    parts = Parts(server.url(), ThreadRuntime(), timeout=0.3, connect_timeout=0.3)
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
    assert max(ended) < 0.6 + 5.0
    run_blocking(parts.close())


def test_one_who_waits_for_a_change_does_not_keep_it_from_being_closed(
    world: World, server: Mongo
) -> None:
    parts = world.parts(server.url())
    world.run(parts.cells.load("x"))
    if world.blocking:
        ended = threading.Event()

        def waiting() -> None:
            with contextlib.suppress(*FAULTS):
                run_blocking(parts.cells.wait("x", None, 30.0))
            ended.set()

        thread = threading.Thread(target=waiting, daemon=True)
        thread.start()
        wait_until(lambda: parts.cells._streams and parts.cells._streams.all()[0].name, "a stream")
        with within(2.0):
            run_blocking(parts.close())
        assert ended.wait(5.0)
    else:

        async def story() -> None:
            task = asyncio.ensure_future(parts.cells.wait("x", None, 30.0))
            while not (parts.cells._streams and parts.cells._streams.all()[0].name):
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await parts.close()

        with within(2.0):
            world.run(story())


# (pymongo leaves a socket to the garbage collector if it is cancelled while it connects.)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_storm_of_cancellations_mixes_up_no_answers(server: Mongo) -> None:
    async def story() -> None:
        parts = Parts(server.url(), LoopRuntime())
        names = [f"storm:b:{number}" for number in range(8)]
        for name in names:
            await parts.blobs.set(name, name.encode() * 2000, 60)
        for turn in range(40):
            tasks = [asyncio.ensure_future(parts.blobs.get_many([name])) for name in names]
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            for task in tasks[turn % 3 :: 3]:
                task.cancel()
            for name, found in zip(
                names, await asyncio.gather(*tasks, return_exceptions=True), strict=True
            ):
                if not isinstance(found, BaseException):
                    assert found == [name.encode() * 2000]
        await parts.close()

    asyncio.run(story())


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mongo, Path, Path]]:
    """A server that wants the certificate of a client, too; that certificate with its key; another one."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = tls_files(folder)
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    (folder / "other").mkdir()
    other, _ = tls_files(folder / "other")
    options = [
        "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-file", str(certificate), "--tls-require-client-cert",
    ]  # fmt: skip
    running = Mongo(folder, options=options, start=False)
    running.more = f"tls=true&tlsCAFile={certificate}&tlsCertificateKeyFile={both}"
    with running:
        running.start()
        yield running, both, other


def test_tls_with_certificates_of_both_sides(
    world: World, secured: tuple[Mongo, Path, Path]
) -> None:
    parts = world.parts(secured[0].url())
    tag = world.run(parts.cells.swap("tls", None, b"x"))
    assert world.run(parts.cells.load("tls")) == (b"x", tag)
    assert not world.run(parts.cells.wait("tls", tag, 0.2))
    world.run(parts.cells.remove("tls"))


@pytest.mark.systems  # since pymongo tries until the time is over
@pytest.mark.parametrize("what", ["another authority", "no authority", "no certificate", "no TLS"])
def test_tls_that_does_not_fit_is_refused(
    world: World, secured: tuple[Mongo, Path, Path], what: str
) -> None:
    server, both, other = secured
    more = {
        "another authority": f"tls=true&tlsCAFile={other}&tlsCertificateKeyFile={both}",
        "no authority": f"tls=true&tlsCertificateKeyFile={both}",
        "no certificate": f"tls=true&tlsCAFile={both}",
        "no TLS": "",
    }[what]
    url = f"mongodb://ann:s3cr3t@{HOST}:{server.port}/?directConnection=true&{more}"
    parts = world.parts(url, timeout=2.0, connect_timeout=2.0)
    with within(4.0), pytest.raises((LayerError, pymongo.errors.PyMongoError)) as caught:
        world.run(parts.cells.load("x"))
    if "authority" in what:
        assert "certificate verify failed" in str(caught.value)
        assert "check tlsCAFile" in str(caught.value)
    assert "s3cr3t" not in f"{caught.value!r} {caught.value}"


def test_no_warning_of_pymongo_escapes(server: Mongo) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        parts = Parts(server.url(), ThreadRuntime())
        run_blocking(parts.cells.load("x"))
        run_blocking(parts.close())
        del parts
        gc.collect()
    assert [str(one.message) for one in told if "ongo" in str(one.message)] == []
