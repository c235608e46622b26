"""A fleet: app processes under real servers, one shared system, and an origin that the test itself is.

The apps (`tests/processes/fleet_app.py`) hold no content of their own. Each call of a handler becomes
a line to the origin (`tests/support/origin.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.support.connections import Answer, Connection
from tests.support.origin import Origin
from tests.support.ports import HOST, free_port
from tests.support.processes import EndedError, Process
from tests.support.waiting import BOUND, until

__all__ = ["ROOT", "TOKEN", "Fleet", "Instance", "Purged"]

ROOT = Path(__file__).parent.parent.parent
TOKEN = "fleet-token"
# Seconds. A server that closes what is idle meets a request now and then, of a test that stood still.
KEEP_ALIVE = "60"


# ------------------------------------------------------------------------------------ the instances


class Purged(NamedTuple):
    status: int  # 200: final; 202: not yet
    applied: int
    instances: int

    @property
    def final(self) -> bool:
        return self.status == 200


class Instance:
    """One app behind a server of its own.

    ``kind``: uvicorn, gunicorn (gthread), gunicorn-preload, gunicorn-gevent, uwsgi (one request at
    a time, no threads, so nothing in the background), or stack (a `CacheStack` behind uvicorn).
    ``shared``: URL of the shared layer; None: there is none. ``layer``: options of `RedisLayer`;
    ``options``: of `HttpCache`.
    """

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        shared: str | None,
        *,
        kind: str = "uvicorn",
        layer: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        workers: int = 1,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        number = next(_numbers)
        self.name = f"{kind}-{number}"
        self.kind = kind
        self.port = free_port()
        self.workers = workers
        self._log = folder / f"{self.name}.log"
        self._environ = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "FLEET_INSTANCE": self.name,
            "FLEET_ORIGIN": str(origin.port),
            "FLEET_TOKEN": TOKEN,
            "FLEET_SHARED": shared or "",
            "FLEET_LAYER": json.dumps(dict(layer or {})),
            "FLEET_OPTIONS": json.dumps(dict(options or {})),
            **(environ or {}),
        }
        self._process: Process | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def _command(self) -> list[str]:
        listening = f"{HOST}:{self.port}"
        app = "tests.processes.fleet_app"
        if self.kind in ("uvicorn", "stack"):
            factory = "asgi" if self.kind == "uvicorn" else "stack"
            return [
                sys.executable, "-m", "uvicorn", "--factory", f"{app}:{factory}",
                "--host", HOST, "--port", str(self.port), "--backlog", "2048",
                "--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "2",
                "--timeout-keep-alive", KEEP_ALIVE,
                *(["--workers", str(self.workers)] if self.workers > 1 else []),
            ]  # fmt: skip
        if self.kind == "uwsgi":
            uwsgi = shutil.which("uwsgi", path=sysconfig.get_path("scripts"))
            assert uwsgi is not None, "pyuwsgi is not installed; `make test` does that"
            return [
                uwsgi, "--http-socket", listening, "--master", "--die-on-term", "--need-app",
                "--pythonpath", str(ROOT), "--virtualenv", sys.prefix, "--module", f"{app}:wsgi()",
            ]  # fmt: skip
        _, _, variant = self.kind.partition("-")
        return [
            sys.executable, "-m", "gunicorn", "--bind", listening, "--workers", str(self.workers),
            "--graceful-timeout", "3", "--log-level", "warning", "--no-control-socket",
            "--keep-alive", KEEP_ALIVE,
            *(
                ["--worker-class", "gevent"]
                if variant == "gevent"
                else ["--worker-class", "gthread", "--threads", "32"]
            ),
            *(["--preload"] if variant == "preload" else []),
            f"{app}:wsgi()",
        ]  # fmt: skip

    async def start(self) -> None:
        """Start, and wait until it answers (outside of LayerGate)."""
        assert not self.alive
        for attempt in itertools.count():
            self._process = Process(self._command(), log=self._log, cwd=ROOT, environ=self._environ)
            try:
                await until(self._up, f"{self} to answer")
                return
            except EndedError:
                if attempt == 3 or "in use" not in self._process.tail():
                    raise AssertionError(f"{self} ended:\n{self._process.tail()}") from None
                self.port = free_port()
            except BaseException:
                self._process.kill()
                raise

    async def _up(self) -> bool:
        if not self.alive:
            raise EndedError
        try:
            return (await self.get("/control/up", bound=1.0)).status == 200
        except (OSError, EOFError, TimeoutError):
            return False

    async def get(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        bound: float = BOUND,
    ) -> Answer:
        """Raises OSError, EOFError, TimeoutError."""
        async with Connection(self.port, bound=bound) as connection:
            connection.ask(path, method, headers, body)
            return await connection.answer(method)

    async def purge(self, *, connection: Connection | None = None, **what: Any) -> Purged:
        """``tags``, ``files``, ``patterns``, ``purge_everything``... of the admin endpoint."""
        async with contextlib.AsyncExitStack() as stack:
            if connection is None:
                connection = await stack.enter_async_context(Connection(self.port))
            authorization = {"authorization": f"Bearer {TOKEN}"}
            connection.ask("/_layergate/purge", "POST", authorization, json.dumps(what).encode())
            answer = await connection.answer()
        assert answer.status in (200, 202), answer
        result = answer.json()["result"]
        return Purged(answer.status, result["applied"], result["instances"])

    async def stats(self) -> dict[str, Any]:
        answer = await self.get("/_layergate/stats", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status == 200, answer
        stats: dict[str, Any] = answer.json()
        return stats

    async def waiting(self, count: int) -> None:
        """Until so many of its requests wait for a leader."""

        async def holds() -> bool:
            return bool((await self.stats())["waiters"] >= count)

        await until(holds, f"{count} waiters on {self}")

    # What befalls it.

    def kill(self) -> None:
        self.process.kill()

    def stall(self) -> None:
        self.process.stall()

    def resume(self) -> None:
        self.process.resume()

    def stop(self) -> int:
        """As an operator does. The exit status."""
        return self.process.stop(bound=10.0)

    def fork(self) -> None:
        """gunicorn: replace the workers (SIGHUP)."""
        self.process.signal(signal.SIGHUP)

    def log(self) -> str:
        return self.process.tail() if self._process is not None else ""

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()


_numbers = itertools.count(1)


# ----------------------------------------------------------------------------------------- together


class Fleet:
    """Instances with one shared layer and one origin::

    async with Fleet(tmp_path, valkey.url, kinds=["uvicorn"] * 3) as fleet:
        answers = await fleet.burst("/page", 300)
        assert fleet.origin.calls["/page"] == 1

    ``shared``: one URL for all, or one for each (a proxy before each). ``warm``: let each join the
    fleet first, with one request, so that all of them are there to be counted.
    """

    def __init__(
        self,
        folder: Path,
        shared: str | Sequence[str | None] | None,
        *,
        kinds: Sequence[str] = ("uvicorn", "uvicorn"),
        warm: bool = True,
        **instance: Any,
    ) -> None:
        self.folder = folder
        self.origin = Origin()
        self.instances: list[Instance] = []
        each = [shared] * len(kinds) if shared is None or isinstance(shared, str) else shared
        self._wanted = list(zip(kinds, each, strict=True))
        self._warm = warm
        self._options = instance

    async def __aenter__(self) -> Self:
        _allow_many_sockets()
        await self.origin.__aenter__()
        try:
            for kind, shared in self._wanted:
                self.instances.append(
                    Instance(self.folder, self.origin, shared, kind=kind, **self._options)
                )
            await asyncio.gather(*(instance.start() for instance in self.instances))
            if self._warm:
                await asyncio.gather(*(one.get(f"/warm/{one}") for one in self.instances))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for instance in self.instances:
            instance.close()
        await self.origin.__aexit__()
        if self.origin.errors:
            raise ExceptionGroup("in handlers of the test", self.origin.errors)

    def __getitem__(self, number: int) -> Instance:
        return self.instances[number]

    async def each(self, path: str) -> list[Answer]:
        """The answer of every instance to a request of its own."""
        return list(await asyncio.gather(*(instance.get(path) for instance in self.instances)))

    @contextlib.asynccontextmanager
    async def connected(
        self, count: int, instances: Sequence[Instance] | None = None
    ) -> AsyncIterator[list[Connection]]:
        """``count`` connections, evenly spread, established."""
        instances = instances or self.instances
        slots = asyncio.Semaphore(200)  # a backlog is finite

        async def connect(number: int) -> Connection:
            async with slots:
                return await Connection(instances[number % len(instances)].port).__aenter__()

        connections = await asyncio.gather(*(connect(number) for number in range(count)))
        try:
            yield list(connections)
        finally:
            for connection in connections:
                await connection.__aexit__()

    async def burst(
        self, path: str, count: int, instances: Sequence[Instance] | None = None
    ) -> list[Answer]:
        """``count`` identical requests at once: all connected before the first is sent."""
        async with self.connected(count, instances) as connections:
            for connection in connections:
                connection.ask(path)
            return list(await asyncio.gather(*(one.answer() for one in connections)))


def _allow_many_sockets(wanted: int = 8192) -> None:
    """The processes started from here inherit the limit."""
    import resource  # not on Windows, where nothing of this runs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
