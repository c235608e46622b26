"""What only memcached does to its users: restarts that count anew, evictions, several servers, logins."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from layergate import CacheStack, MemoryLayer
from layergate.errors import LayerRefused
from layergate.layers.memcached import MemcachedLayer
from layergate.layers.memcached.blobs import MemcachedBlobs
from layergate.layers.memcached.cells import MemcachedCells
from layergate.layers.memcached.client import MemcachedClient
from layergate.layers.memcached.connection import ThreadConnection
from layergate.layers.memcached.url import Address, parse_url
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.memcached_servers import Memcached
from tests.support.ports import HOST
from tests.support.proxy import Proxy
from tests.support.recording import Recorder

pytestmark = pytest.mark.systems


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Memcached]:
    with Memcached(tmp_path) as running:
        yield running


@pytest.fixture(params=["loop", "threads"])
def run(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs a coroutine in one of the worlds; ``run.runtime`` is the world's."""

    class Run:
        runtime: Any = ThreadRuntime() if request.param == "threads" else LoopRuntime()

        def __call__(self, work: Any) -> Any:
            return run_blocking(work) if request.param == "threads" else runner.run(work)

    with asyncio.Runner() as runner:
        yield Run()


def client_of(url: str, runtime: Any, timeout: float = 5.0) -> MemcachedClient:
    client = MemcachedClient(parse_url(url), name="memcached", timeout=timeout, connect_timeout=5.0)
    client.bind(runtime)
    return client


# -- tags ---------------------------------------------------------------------------------------------------


async def put_back_after_a_restart(server: Memcached, runtime: Any) -> bytes | None:
    """A process has loaded the head and stands still. The server is restarted, and counts its writes anew until
    the head has the same number. Then the process goes on."""
    cells = MemcachedCells(client_of(server.url(), runtime))
    await cells.swap("head", None, b"old")
    loaded = await cells.load("head")
    assert loaded is not None
    server.kill()
    server.start()
    other = MemcachedCells(client_of(server.url(), runtime))
    while True:
        await other.put("head", b"new")
        again = await other.load("head")
        assert again is not None
        if again[1].cas >= loaded[1].cas:  # type: ignore[attr-defined]
            break
    assert again[1].cas == loaded[1].cas  # type: ignore[attr-defined]
    swapped = await cells.swap("head", loaded[1], b"old head, put back")
    assert (swapped is None) == (server.value("head") == b"new")
    for each in (cells, other):
        await each._client.close()
    return server.value("head")


def test_a_swap_that_a_restart_has_overtaken_changes_nothing(server: Memcached, run: Any) -> None:
    # (It says when it began in whole seconds.)
    wait = int(server.stats()["uptime"])
    while int(server.stats()["uptime"]) < wait + 2:
        time.sleep(0.1)
    assert run(put_back_after_a_restart(server, run.runtime)) == b"new"


def test_without_the_servers_identity_it_would(
    server: Memcached, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layergate.layers.memcached.connection import Connection

    greet = Connection.greet

    async def anonymous(self: Connection, seconds: float) -> None:
        await greet(self, seconds)
        self.identity = b"anybody"

    monkeypatch.setattr(Connection, "greet", anonymous)
    assert run(put_back_after_a_restart(server, run.runtime)) == b"old head, put back"


# -- what is held -------------------------------------------------------------------------------------------


def test_the_largest_item_is_the_servers(tmp_path: Path, run: Any) -> None:
    with Memcached(tmp_path, options=["-I", "2m"]) as server:

        async def story() -> None:
            client = client_of(server.url(), run.runtime)
            blobs = MemcachedBlobs(client, "ns")
            assert (blobs.limits.largest or 0) < 1024 * 1024
            await blobs.set("ns:a", b"small", 60)
            most = blobs.limits.largest or 0
            assert 2 * 1024 * 1024 - 2048 < most < 2 * 1024 * 1024
            await blobs.set("ns:a", b"x" * most, 60)
            assert (await blobs.get_many(["ns:a"]))[0] == b"x" * most
            with pytest.raises(LayerRefused, match="too large"):
                await blobs.set("ns:a", b"x" * 2 * 1024 * 1024, 60)
            assert (await blobs.get_many(["ns:a"]))[0] is None, "what was there is not kept either"
            await client.close()

        run(story())


def test_a_full_server_that_evicts_nothing_refuses(tmp_path: Path, run: Any) -> None:
    with Memcached(tmp_path, options=["-M", "-m", "2"]) as server:

        async def story() -> None:
            client = client_of(server.url(), run.runtime)
            blobs = MemcachedBlobs(client, "ns")

            async def fill() -> None:
                for number in range(100):
                    await blobs.set(f"ns:{number}", b"x" * 100_000, 60)

            with pytest.raises(LayerRefused, match="out of memory"):
                await fill()
            await client.close()

        run(story())


def test_lifetimes(server: Memcached, run: Any) -> None:
    async def story() -> None:
        client = client_of(server.url(), run.runtime)
        blobs = MemcachedBlobs(client, "ns")
        await blobs.set("ns:long", b"x", 90 * 24 * 3600.0)
        began = time.monotonic()
        await blobs.set("ns:short", b"x", 1.0)
        while (await blobs.get_many(["ns:short"]))[0] is not None:
            assert time.monotonic() - began < 20
        assert time.monotonic() - began >= 1.0
        assert (await blobs.get_many(["ns:long"]))[0] == b"x"
        await client.close()

    run(story())


def test_clear_is_of_one_namespace(server: Memcached, run: Any) -> None:
    async def story() -> None:
        client = client_of(server.url(), run.runtime)
        ours, theirs = MemcachedBlobs(client, "ns"), MemcachedBlobs(client, "ns2")
        late = MemcachedBlobs(client, "ns")  # another process, which has seen the old generation
        server.put("foreign", b"kept")
        for blobs, name in ((ours, "ns:a"), (theirs, "ns2:a"), (late, "ns:late")):
            await blobs.set(name, b"x", 60)
        await ours.clear()
        assert await ours.get_many(["ns:a", "ns:late"]) == [None, None]
        assert (await theirs.get_many(["ns2:a"]))[0] == b"x"
        assert server.value("foreign") == b"kept"
        await late.set("ns:late", b"again", 60)
        assert (await ours.get_many(["ns:late"]))[0] == b"again"
        server.put("ns:g", b"junk")
        assert (await ours.get_many(["ns:late"]))[0] is None
        await late.set("ns:late", b"once more", 60)
        assert (await ours.get_many(["ns:late"]))[0] == b"once more"
        await client.close()

    run(story())


async def test_a_head_that_is_evicted_brings_nothing_back(tmp_path: Path) -> None:
    """A flood of what others keep there pushes out the log. Every purge was final, or says that it was not."""
    with Memcached(tmp_path, options=["-m", "2", "-t", "1"]) as server:
        version = 0

        async def fetch() -> bytes:
            return b"%d" % version

        layer = MemcachedLayer(server.url(), timeout=5.0, max_disconnected=0.5)
        stacks = [CacheStack([MemoryLayer("1MB"), layer])]
        other = MemcachedLayer(server.url(), timeout=5.0, max_disconnected=0.5)
        stacks.append(CacheStack([MemoryLayer("1MB"), other]))
        for stack in stacks:
            await stack.join()
        incarnations = set()
        for turn in range(12):
            for stack in stacks:
                await stack.get("key", fetch, ttl=600, tags=["t"])
            for number in range(60):
                server.put(f"flood:{turn}:{number}", b"x" * 50_000)
                server.put(f"small:{turn}:{number}", b"x" * 400)
            version += 1
            receipt = await stacks[turn % 2].invalidate_by_tag("t")
            if receipt.final:
                for stack in stacks:
                    assert int(await stack.get("key", fetch, ttl=600, tags=["t"])) == version
            log: Any = stacks[0].shared_log
            incarnations.add(log.log_id)
        assert int(server.stats()["evictions"]) > 0
        for stack in stacks:
            await stack.aclose()


# -- several servers ----------------------------------------------------------------------------------------


def test_several_servers_share_the_entries_and_one_has_the_log(tmp_path: Path, run: Any) -> None:
    with (
        Memcached(tmp_path) as one,
        Memcached(tmp_path) as two,
        Memcached(tmp_path) as three,
        Recorder(two.port) as recorder,
    ):
        first = f"memcached://{HOST}:{one.port},{HOST}:{recorder.port},{HOST}:{three.port}"

        async def story() -> None:
            client = client_of(first, run.runtime, timeout=0.5)
            blobs, cells = MemcachedBlobs(client, "ns"), MemcachedCells(client)
            names = [f"ns:e:{number}" for number in range(90)]
            for name in names:
                await blobs.set(name, name.encode(), 60)
                await cells.put(f"ns:c:{name[-1]}", b"x")
            held = [
                len([key for key in each.names() if key.startswith("ns:e:")])
                for each in (one, two, three)
            ]
            assert sum(held) == 90
            assert min(held) > 10
            assert not [key for each in (two, three) for key in each.names() if ":c:" in key]
            assert b":c:" not in b"".join(bytes(sent) for sent in recorder.sent)
            assert await blobs.get_many(names) == [name.encode() for name in names]
            three.stall()
            try:
                found = await blobs.get_many(names)
                assert sum(value is None for value in found) == held[2]
                for _ in range(4):  # until its breaker opens
                    await blobs.get_many(names)
                assert client.stats()["servers_open"] == 1
                began = time.monotonic()
                await blobs.get_many(names)
                assert time.monotonic() - began < 0.4
            finally:
                three.resume()
            await client.close()

        run(story())


def test_several_servers_that_stand_still_have_one_budget(tmp_path: Path) -> None:
    """Under threads they are asked one after the other."""
    with Memcached(tmp_path) as one, Memcached(tmp_path) as two, Memcached(tmp_path) as three:
        servers = (one, two, three)
        hosts = ",".join(f"{HOST}:{each.port}" for each in servers)
        client = client_of(f"memcached://{hosts}", ThreadRuntime(), timeout=0.5)
        blobs = MemcachedBlobs(client, "ns")
        names = [f"ns:{number}" for number in range(60)]
        assert run_blocking(blobs.get_many(names)) == [None] * 60
        asked: list[float] = []
        exchange = ThreadConnection.exchange

        async def recorded(self: Any, commands: Any, seconds: float) -> Any:
            asked.append(seconds)
            return await exchange(self, commands, seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ThreadConnection, "exchange", recorded)
            for each in servers:
                each.stall()
            try:
                for work in (lambda: blobs.get_many(names), blobs.clear):
                    asked.clear()
                    with pytest.raises(TimeoutError):
                        run_blocking(work())
                    # (Of the second and the third nobody knows more than before.)
                    assert len(asked) == 1
                    assert asked[0] <= 0.5
            finally:
                for each in servers:
                    each.resume()
        # The answer that came too late is not taken for one of these.
        assert run_blocking(blobs.get_many(names)) == [None] * 60
        assert client.stats()["servers_open"] == 0
        run_blocking(client.close())


def test_a_host_with_several_addresses_has_one_budget(
    server: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    class Silent(socket.socket):
        def connect(self, where: Any) -> None:
            given.append(self.gettimeout() or 0.0)
            if where[0] != HOST:
                raise TimeoutError("timed out")
            super().connect(where)

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        found = ["192.0.2.1", "192.0.2.2", HOST]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", Silent)
    connection = ThreadConnection.connect(
        parse_url("memcached://many"), Address("many", server.port), 3.0
    )
    assert connection.identity
    connection.drop()
    first, second, third = given
    assert first <= 1.0
    assert second <= 1.5
    assert third <= 3.0


def test_the_order_of_the_servers_moves_no_entry() -> None:
    one = client_of("memcached://a,b,c", LoopRuntime())
    other = client_of("memcached://c,a,b", LoopRuntime())
    fewer = client_of("memcached://a,b", LoopRuntime())
    keys = [b"key%d" % number for number in range(300)]
    assert [one.address_of(key) for key in keys] == [other.address_of(key) for key in keys]
    moved = [key for key in keys if one.address_of(key) != fewer.address_of(key)]
    assert {one.address_of(key).host for key in moved} == {"c"}


def test_long_names_of_servers_are_told_apart() -> None:
    host = "h" * 64
    client = client_of(f"memcached://{host}:1,{host}:2", LoopRuntime())
    ports = {client.address_of(b"key%d" % number).port for number in range(50)}
    assert ports == {1, 2}


# -- who may --------------------------------------------------------------------------------------------------


@pytest.fixture
def users() -> Iterator[Path]:
    """A file that the server's own user may read."""
    with tempfile.TemporaryDirectory(prefix="lg-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "users"
        path.write_text("ann:s3cret\n")
        path.chmod(0o644)
        yield path


def test_a_user_and_a_password(tmp_path: Path, users: Path, run: Any) -> None:
    with Memcached(tmp_path, options=["-Y", str(users)], start=False) as server:
        # (It answers nobody who has not logged in.)
        server._answers = lambda: b"unauthenticated" in server.ask("version") or True  # type: ignore[method-assign]
        server.start()

        async def story() -> None:
            good = client_of(f"memcached://ann:s3cret@{HOST}:{server.port}", run.runtime)
            blobs = MemcachedBlobs(good, "ns")
            await blobs.set("ns:a", b"x", 60)
            assert await blobs.get_many(["ns:a"]) == [b"x"]
            await good.close()
            bad = client_of(f"memcached://ann:wr0ng@{HOST}:{server.port}", run.runtime)
            with pytest.raises(LayerRefused, match="user and password") as refused:
                await MemcachedBlobs(bad, "ns").get_many(["ns:a"])
            assert "wr0ng" not in str(refused.value)
            await bad.close()
            nobody = client_of(server.url(), run.runtime)
            with pytest.raises(LayerRefused, match="name them in the URL"):
                await MemcachedBlobs(nobody, "ns").get_many(["ns:a"])
            await nobody.close()

        run(story())


def test_a_server_without_users_is_told_no_password(server: Memcached, run: Any) -> None:
    """It would store the login as an item that everybody can read."""

    async def story() -> None:
        client = client_of(f"memcached://ann:s3cret@{HOST}:{server.port}", run.runtime)
        with pytest.raises(LayerRefused, match="asks nobody for a password") as refused:
            await MemcachedBlobs(client, "ns").get_many(["ns:a"])
        assert "s3cret" not in str(refused.value)
        await client.close()

    run(story())
    assert server.names() == []


def test_tls(server: Memcached, tmp_path: Path, run: Any) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    for name, each in (("good", authority), ("wrong", stranger)):
        each.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", HOST).configure_cert(context)
    with Proxy(server.port, tls=context) as proxy:

        async def story() -> None:
            url = f"memcacheds://{HOST}:{proxy.port}?cafile={tmp_path}"
            good = client_of(f"{url}/good.pem", run.runtime)
            blobs = MemcachedBlobs(good, "ns")
            await blobs.set("ns:a", b"x" * 100_000, 60)
            assert await blobs.get_many(["ns:a"]) == [b"x" * 100_000]
            await good.close()
            wrong = client_of(f"{url}/wrong.pem", run.runtime)
            with pytest.raises(ssl.SSLCertVerificationError):
                await MemcachedBlobs(wrong, "ns").get_many(["ns:a"])
            await wrong.close()

        run(story())


def test_a_socket(tmp_path_factory: pytest.TempPathFactory, run: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="lg-") as folder:
        Path(folder).chmod(0o777)
        path = f"{folder}/s"
        with Memcached(
            tmp_path_factory.mktemp("socket"), options=["-s", path, "-a", "777"], start=False
        ) as server:
            server._answers = lambda: Path(path).exists()  # type: ignore[method-assign]
            server.start()

            async def story() -> None:
                client = client_of(f"memcached://{path}", run.runtime)
                blobs = MemcachedBlobs(client, "ns")
                await blobs.set("ns:a", b"x", 60)
                assert await blobs.get_many(["ns:a"]) == [b"x"]
                await client.close()

            run(story())
