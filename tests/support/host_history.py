"""A history of purges on one host: servers of all kinds on one folder, and everything goes wrong meanwhile.

One process makes newer versions of pages and purges the older ones: through the admin endpoints of the
servers, with ``layergate purge --host``, and from a management command that goes on. Readers (processes of
their own, `host_reader`) compare what they get with what is true. The rule:

    no read that begins after a purge has returned as final sees an older version than the one that
    was there when the purge began.

Meanwhile workers are killed or stopped, servers are restarted, and the folder is deleted or renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from tests.support.connections import Connection
from tests.support.fleet import ROOT, TOKEN
from tests.support.host_truth import HOST_NAME, KEYS, Truth, content, path_of, tag_of
from tests.support.ports import HOST, free_port
from tests.support.processes import Process
from tests.support.waiting import until

__all__ = ["ALL", "FEW", "History", "ServerKind", "unshare_command"]

GONE: Final = (OSError, EOFError, TimeoutError)
_START: Final = 60.0  # seconds that a server has to start, on a machine that is busy
_PURGE: Final = 15.0  # seconds that a purge may take; its process may stand still meanwhile
_KEEP_ALIVE: Final = "60"


_How: TypeAlias = Callable[[list[int]], Awaitable[str]]
"""Purges these pages, and tells how that ended."""


class ServerKind(NamedTuple):
    """A server of a history.

    ``server``       uvicorn, gunicorn-sync, gunicorn-gthread or gateway.
    ``connections``  that each reader keeps.
    ``at_once``      the most requests that a reader sends at once.
    ``preload``      gunicorn only: the app is loaded, and used, before workers are forked.
    ``namespace``    start it in a PID namespace of its own, where that is permitted.
    """

    server: str
    workers: int
    connections: int
    at_once: int = 1
    preload: bool = False
    namespace: bool = False


ALL: Final = (
    ServerKind("uvicorn", 4, 8, 8),
    ServerKind("gunicorn-sync", 2, 1),
    ServerKind("gunicorn-gthread", 2, 4, preload=True, namespace=True),
    ServerKind("gateway", 2, 4, 8),
)
FEW: Final = (
    ServerKind("uvicorn", 2, 4, 8),
    ServerKind("gunicorn-gthread", 1, 2, preload=True, namespace=True),
)


@functools.cache
def unshare_command() -> tuple[str, ...]:
    """What starts a command in a PID namespace of its own; empty if that is not permitted here."""
    if shutil.which("unshare") is None:
        return ()
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *user, "--pid", "--fork", "--kill-child")
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return () if tried.returncode else command


class Server:
    """A server, and the processes that it consists of."""

    def __init__(self, kind: ServerKind, folder: Path, environ: dict[str, str]) -> None:
        self.kind = kind
        self.name = kind.server
        self.port = free_port()
        self.stopped = 0  # how many of its processes stand still
        self.restarting = False
        self._environ = dict(environ)
        if kind.preload:
            self._environ["HOST_BEFORE_FORK"] = path_of(1)
        self._folder = folder
        self._log = folder / f"{kind.server}.log"
        self._process: Process | None = None

    def command(self) -> list[str]:
        app, workers = "tests.processes.host_app", str(self.kind.workers)
        if self.name == "uvicorn":
            return [
                sys.executable, "-m", "uvicorn", "--factory", f"{app}:asgi", "--host", HOST,
                "--port", str(self.port), "--workers", workers, "--backlog", "2048",
                "--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "1",
                "--timeout-keep-alive", _KEEP_ALIVE,
            ]  # fmt: skip
        if self.name == "gateway":
            token = self._folder / "token"
            token.write_text(TOKEN + "\n")
            return [
                sys.executable, "-m", "layergate", "serve", "--listen", f"{HOST}:{self.port}",
                "--upstream", f"http://{HOST}:{self._environ['HOST_UPSTREAM']}",
                "--workers", workers, "--memory", "64KB", "--shared", self._environ["HOST_SHARED"],
                "--admin-token-file", str(token), "--keep-alive-timeout", _KEEP_ALIVE,
                "--drain-timeout", "1",
            ]  # fmt: skip
        _, _, worker_class = self.name.partition("-")
        return [
            *(unshare_command() if self.kind.namespace else ()),
            sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{self.port}", "--workers", workers,
            "--worker-class", worker_class, "--graceful-timeout", "1", "--log-level", "warning",
            "--no-control-socket", "--keep-alive", _KEEP_ALIVE,
            *(["--threads", "16"] if worker_class == "gthread" else []),
            *(["--preload"] if self.kind.preload else []),
            f"{app}:wsgi()",
        ]  # fmt: skip

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = Process(self.command(), log=self._log, cwd=ROOT, environ=self._environ)
        await until(self._answers, self.log, bound=_START, pause=lambda _: asyncio.sleep(0.05))

    async def _answers(self) -> bool:
        assert self.process.alive, self.log()
        with contextlib.suppress(*GONE):
            async with Connection(self.port) as connection:
                return (await connection.get(path_of(0), host=HOST_NAME)).status == 200
        return False

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """The processes that serve, as the system knows them."""
        main = self._main()
        return [] if main is None else [pid for pid in children(main) if _is_worker(pid)]

    def _main(self) -> int | None:
        """The process that has the workers. In a PID namespace, it is a child of the one that was started."""
        if self._process is None:
            return None
        if self.kind.namespace and unshare_command():
            return next(iter(children(self.process.pid)), None)
        return self.process.pid

    async def stop(self) -> None:
        """SIGTERM; and SIGKILL for what is left after some seconds."""
        main, left = self._main(), self.workers()
        if main is not None:
            for pid in left:
                _signal(pid, signal.SIGCONT)
            _signal(main, signal.SIGTERM)
        process = self.process
        with contextlib.suppress(AssertionError):
            await until(lambda: not process.alive, bound=10.0, pause=lambda _: asyncio.sleep(0.05))
        for pid in left:  # those of a gateway are in groups of their own
            if self._is_own(pid):
                _signal(pid, signal.SIGKILL)
        process.kill()

    def _is_own(self, pid: int) -> bool:
        """False if another process has the number by now."""
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"HOST_TRUTH={self._environ['HOST_TRUTH']}".encode() in environ.split(b"\0")

    async def restart(self) -> None:
        self.restarting = True
        try:
            await self.stop()
            await self.start()
        finally:
            self.restarting = False


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _is_worker(pid: int) -> bool:
    """Not what multiprocessing starts beside the workers."""
    try:
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Upstream:
    """What the gateway asks: answers as the apps do."""

    def __init__(self, truth: Truth) -> None:
        self.port = free_port()
        self._truth = truth
        self._random = random.Random(0)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, HOST, self.port)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                key = int(head.split(b" ", 2)[1].rpartition(b"/")[2])
                body = content(key, self._truth.newest[key])
                await asyncio.sleep(self._random.random() * 0.01)
                age = 600 if key % 4 else 1
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                    f"Cache-Control: max-age={age}\r\nCache-Tag: {tag_of(key)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the gateway hung up, or this is the end
        finally:
            writer.close()


class History:
    """Servers of these kinds on one folder below ``scratch``, ``readers`` processes that read, and purges.

    ``planted``: a bug of the apps, which readers should find (`tests/processes/host_app.py`). ``pause``:
    seconds between two purges of one purger, on average. ``rest``: seconds that a reader rests between two
    looks at what has come.
    """

    def __init__(
        self,
        scratch: Path,
        kinds: Sequence[ServerKind],
        *,
        readers: int = 2,
        planted: str = "",
        pause: float = 0.1,
        rest: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.truth = Truth(scratch / "truth", create=True)
        self.folder = scratch / "folder"
        self.counts: Counter[str] = Counter()
        """Purges, by how they ended; faults, by their kinds."""
        self._scratch = scratch
        self._upstream = Upstream(self.truth)
        self._environ = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOST_TRUTH": str(scratch / "truth"),
            "HOST_SHARED": f"host:{self.folder}",
            "HOST_TOKEN": TOKEN,
            "HOST_UPSTREAM": str(self._upstream.port),
            "HOST_PLANTED": planted,
        }
        self.servers = [Server(kind, scratch, self._environ) for kind in kinds]
        self._readers = readers
        self._reading: list[Process] = []
        self._pause = pause
        self._rest = rest
        self._random = random.Random(seed)
        self._purger: asyncio.subprocess.Process | None = None
        self._renamed = 0
        self._next: list[Callable[[], Coroutine[Any, Any, None]]] = []  # faults of this round

    # -- the whole -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All servers, readers and purgers, while the block runs. Then everything ends."""
        async with self._upstream.listening(), contextlib.AsyncExitStack() as stack:
            for server in self.servers:
                stack.push_async_callback(self._end, server)
            await asyncio.gather(*(server.start() for server in self.servers))
            stack.callback(self._end_readers)
            self._start_readers()
            purgers: list[_How] = [functools.partial(self._through, one) for one in self.servers]
            purgers.append(self._commanded)
            tasks = [asyncio.create_task(self._purges(how)) for how in purgers]
            tasks.append(asyncio.create_task(self._purges(self._command, 20 * self._pause)))
            try:
                yield
                for task in tasks:
                    if task.done():
                        task.result()  # raises what ended it
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._purger is not None and self._purger.returncode is None:
                    self._purger.kill()
                    await self._purger.wait()

    async def _end(self, server: Server) -> None:
        if server._process is not None:
            await server.stop()

    def _start_readers(self) -> None:
        addresses = [
            (server.name, server.port, server.kind.connections, server.kind.at_once)
            for server in self.servers
        ]
        for number in range(self._readers):
            command = [
                sys.executable, "-m", "tests.support.host_reader", str(self._scratch / "truth"),
                str(number), json.dumps(addresses), str(self._rest),
            ]  # fmt: skip
            log = self._scratch / f"reader-{number}.log"
            self._reading.append(Process(command, log=log, cwd=ROOT, environ=self._environ))

    def _end_readers(self) -> None:
        self.truth.end()
        for reader in self._reading:
            reader.stop()

    def check_readers(self) -> None:
        """Raises AssertionError if a reader has ended by itself."""
        for reader in self._reading:
            assert reader.alive, reader.tail()

    def told(self) -> list[str]:
        """What readers have printed: what was wrong."""
        return [line for reader in self._reading for line in reader.log.read_text().splitlines()]

    async def stats(self) -> dict[str, Any]:
        """The statistics of all processes, as the first server tells them."""
        async with Connection(self.servers[0].port) as connection:
            connection.ask("/_layergate/stats", headers=_AUTHORIZED)
            stats: dict[str, Any] = (await connection.answer()).json()
            return stats

    # -- purges --------------------------------------------------------------------------------

    async def _purges(self, how: _How, pause: float | None = None) -> None:
        """Make newer versions of some pages and purge the older ones, again and again."""
        pause = self._pause if pause is None else pause
        while True:
            await asyncio.sleep(self._random.random() * 2 * pause)
            count = self._random.choice((1, 1, 2, 4))
            keys = [min(int(self._random.paretovariate(0.5)), KEYS) - 1 for _ in range(count)]
            await self._purge(how, sorted(set(keys)))

    async def _purge(self, how: _How, keys: list[int]) -> None:
        """``how`` purges these pages and tells how that ended; ``final`` counts. No keys: all pages."""
        newest, bounds = self.truth.newest, self.truth.bounds
        versions = {}
        for key in keys or range(KEYS):
            newest[key] += 1
            versions[key] = newest[key]
        self.counts["purges"] += 1
        outcome = await how(keys)
        self.counts[f"purges that were {outcome}"] += 1
        if outcome == "final":
            for key, version in versions.items():
                bounds[key] = max(bounds[key], version)

    async def _through(self, server: Server, keys: list[int]) -> str:
        """Through the admin endpoint of a server."""
        what: dict[str, Any] = {"tags": [tag_of(key) for key in keys]}
        if self._random.random() < 0.3:
            what = {"files": [f"http://{HOST_NAME}{path_of(key)}" for key in keys]}
        try:
            async with Connection(server.port, bound=_PURGE) as connection:
                body = json.dumps(what).encode()
                connection.ask("/_layergate/purge", "POST", _AUTHORIZED, body)
                answer = await connection.answer()
        except GONE:
            await asyncio.sleep(0.1)  # it is being restarted, perhaps
            return "not answered"
        assert answer.status in (200, 202), answer
        return "final" if answer.status == 200 else "not final"

    async def _command(self, keys: list[int]) -> str:
        """With ``layergate purge``, a process for each purge."""
        tags = [part for key in keys for part in ("--tag", tag_of(key))]
        command = ("-m", "layergate", "purge", *tags, "--host", str(self.folder))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env={**os.environ, **self._environ}, cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, failed = await process.communicate()
        self.counts["commands"] += 1
        if told.startswith(b"purged: "):
            return "final"
        assert b"--host: " in failed, failed
        return "impossible for a command"

    async def _commanded(self, keys: list[int]) -> str:
        """Through the management command that goes on; see `host_purger`."""
        if self._purger is None or self._purger.returncode is not None:
            self._purger = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.support.host_purger", str(self.folder),
                env={**os.environ, **self._environ}, cwd=ROOT,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        purger = self._purger
        assert purger.stdin is not None and purger.stdout is not None
        try:
            purger.stdin.write(json.dumps([tag_of(key) for key in keys]).encode() + b"\n")
            await purger.stdin.drain()
            line = await purger.stdout.readline()
        except OSError:
            line = b""
        if not line:
            await purger.wait()
            return "not answered"
        return "final" if line == b"final\n" else "impossible for a command"

    async def purge_all(self) -> None:
        """A final purge of all pages, so that each read from now on is compared with something new."""

        async def everything(_: list[int]) -> str:
            async with Connection(self.servers[0].port) as connection:
                body = b'{"purge_everything": true}'
                connection.ask("/_layergate/purge", "POST", _AUTHORIZED, body)
                answer = await connection.answer()
            assert answer.status == 200, answer
            return "final"

        await self._purge(everything, [])

    # -- faults --------------------------------------------------------------------------------

    async def faults(self, seconds: float, pause: float) -> None:
        """Faults of all kinds for so long, one each ``pause`` seconds on average; some last."""
        end = time.monotonic() + seconds
        lasting: set[asyncio.Task[None]] = set()
        while time.monotonic() < end:
            if not self._next:
                self._next = [
                    *[self.kill] * 4, *[self.stall] * 8, *[self.delete] * 2, *[self.rename] * 2,
                    self.restart, self.kill_purger,
                ]  # fmt: skip
                self._random.shuffle(self._next)
            lasting.add(asyncio.create_task(self._next.pop()()))
            await asyncio.sleep(self._random.random() * 2 * pause)
            for task in [task for task in lasting if task.done()]:
                lasting.discard(task)
                task.result()  # raises what ended it
            self.check_readers()
        await asyncio.gather(*lasting)

    async def kill(self) -> None:
        """SIGKILL to a worker; its server starts another one."""
        server, pid = self._victim()
        if pid is not None and _signal(pid, signal.SIGKILL):
            self.counts[f"killed workers of {server.name}"] += 1

    async def stall(self) -> None:
        """SIGSTOP to a worker, or to the management command, for 0.05 to 3 seconds."""
        server, pid = self._victim()
        name = server.name
        if self._random.random() < 0.1 and self._purger is not None:
            pid, name = self._purger.pid, "the command"
        if pid is None or not _signal(pid, signal.SIGSTOP):
            return
        server.stopped += 1
        try:
            await asyncio.sleep(0.05 * 60 ** self._random.random())
        finally:
            server.stopped -= 1
            _signal(pid, signal.SIGCONT)
        self.counts[f"stopped processes of {name}"] += 1

    async def delete(self) -> None:
        """Delete the folder, file by file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.counts["deleted folders"] += 1

    async def rename(self) -> None:
        """Rename the folder. The old one stays for a while: whoever has it open does not notice."""
        self._renamed += 1
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(self._scratch / f"renamed-{self._renamed}")
            self.counts["renamed folders"] += 1
        shutil.rmtree(self._scratch / f"renamed-{self._renamed - 2}", ignore_errors=True)

    async def restart(self) -> None:
        """Restart a server in order, none of whose processes stands still."""

        def ready() -> list[Server]:
            return [one for one in self.servers if not one.stopped and not one.restarting]

        server = self._random.choice(await until(ready, "a server to restart"))
        await server.restart()
        self.counts[f"restarts of {server.name}"] += 1

    async def kill_purger(self) -> None:
        if self._purger is not None and self._purger.returncode is None:
            if _signal(self._purger.pid, signal.SIGKILL):
                self.counts["killed commands"] += 1

    def _victim(self) -> tuple[Server, int | None]:
        """A worker of a server that is not being restarted; None if that has none just now."""
        server = self._random.choice([one for one in self.servers if not one.restarting])
        workers = server.workers()
        return server, self._random.choice(workers) if workers else None


_AUTHORIZED: Final = {"authorization": f"Bearer {TOKEN}", "host": HOST_NAME}


def rows(counts: Counter[str]) -> Iterator[str]:
    """The counts, a line each."""
    for name, count in sorted(counts.items()):
        yield f"{count:9}  {name}"
