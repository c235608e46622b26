"""A gateway of real processes, and what a test does with it. Its client and its origin read as those of
`tests.support.gateways` do, which has a gateway in the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.connections import Answer, Connection
from tests.support.fleet import ROOT, TOKEN, Purged
from tests.support.http1 import Request, Wire
from tests.support.origin import FRESH, Origin, OriginCall
from tests.support.ports import HOST, free_port
from tests.support.processes import Process
from tests.support.waiting import until

__all__ = ["AUTHORIZED", "GatewayProcesses", "HttpCall", "gone", "running"]

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


class HttpCall(OriginCall):
    """A call over HTTP/1.1."""

    async def start(self, status: int = 200, headers: Mapping[str, str] = FRESH) -> None:
        self._framed = "content-length" in headers
        fields = {**headers} if self._framed else {**headers, "transfer-encoding": "chunked"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self._put(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        if data:
            await self._put(data if self._framed else b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, data: bytes = b"") -> None:
        await self.chunk(data)
        if not self._framed:
            await self._put(b"0\r\n\r\n")

    async def fail(self) -> None:
        """What comes is no HTTP."""
        await self._put(b"the origin failed\r\n\r\n")
        self.hang_up()

    async def _put(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a gateway that was killed does not listen any more
            self._writer.write(data)
            await self._writer.drain()


class HttpOrigin(Origin):
    """An `Origin` that is an upstream."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                while True:
                    await self._one(Wire(reader, writer))
        except asyncio.CancelledError:
            pass  # the end of the test
        except Exception as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, wire: Wire) -> None:
        wire.bound = None  # a client that says nothing is the gateway's to close
        request = Request(*await wire.head())
        wrong = await wire.content(request)
        assert not wrong, wrong
        path = request.target
        self.calls[path] += 1
        asked = {
            "path": path,
            "method": request.method,
            "instance": "",
            "pid": 0,
            "headers": request.fields,
        }
        call = HttpCall(asked, self.calls[path], wire.writer)
        self.log.append(call)
        prefix = max((one for one in self.handlers if path.startswith(one)), key=len)
        await self.handlers[prefix](call)


class GatewayProcesses:
    """`layergate.gateway.supervisor.run`, in a process of its own, before an origin that the test is.

    ``settings``: of `GatewayOptions` (``rules`` and ``cache`` apart, see `gateway_worker`).
    ``whole``: with the gateway's own worker and its server, in place of that of the tests.
    ``upstream``: of `UpstreamOptions`. ``layer``: of `RedisLayer`, for what no gateway is told.
    """

    def __init__(
        self,
        folder: Path,
        *,
        whole: bool = False,
        upstream: Mapping[str, Any] | None = None,
        layer: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self._upstream = dict(upstream or {})
        self._layer = dict(layer or {})
        self.whole = whole
        self.origin = HttpOrigin() if whole else Origin()
        self.port = free_port()
        self.settings: dict[str, Any] = {
            "listen": [f"{HOST}:{self.port}"],
            "workers": 2,
            "admin_token": TOKEN,
            "drain_timeout": 5.0,
            **settings,
        }
        self.file = folder / "settings.json"
        self.faults = folder / "faults"
        self._environ = dict(environ or {})
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.origin.__aenter__()
        try:
            self.write(upstreams=[{"url": f"http://{HOST}:{self.origin.port}", **self._upstream}])
            await self.start()
        except BaseException as error:
            await self.__aexit__(type(error))
            raise
        return self

    async def __aexit__(self, kind: object = None, *_: object) -> None:
        if self._process is not None:
            pids = self.pids()
            self._process.kill()
            # They are in groups of their own, and end by themselves.
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT if kind is None else signal.SIGKILL)
                await gone(pid)
        await self.origin.__aexit__()
        assert not self.origin.errors

    def write(self, **settings: Any) -> None:
        """Settings into the file; None takes one out."""
        self.settings |= settings
        self.settings = {name: one for name, one in self.settings.items() if one is not None}
        self.file.write_text(json.dumps(self.settings))

    def environ(self) -> dict[str, str]:
        """What its processes need to know."""
        return {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "FLEET_INSTANCE": "gateway",
            "FLEET_ORIGIN": str(self.origin.port),
            "GATEWAY_FAULTS": str(self.faults),
            "GATEWAY_LAYER": json.dumps(self._layer),
            "GATEWAY_WHOLE": "1" if self.whole else "",
            **self._environ,
        }

    def launch(self) -> Process:
        """Start it, and wait for nothing."""
        self._process = Process(
            [sys.executable, "-m", "tests.support.gateway_worker", str(self.file)],
            log=self.folder / "gateway.log",
            cwd=ROOT,
            environ=self.environ(),
        )
        return self._process

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        process = self.launch()
        await until(lambda: "serving on" in self.log() or not process.alive, "a gateway")
        assert process.alive, self.log()

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """To the process that was started, and to it alone."""
        os.kill(self.pid, number)

    def log(self) -> str:
        path = self.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def logged(self, text: str, times: int = 1) -> None:
        await until(lambda: self.log().count(text) >= times, f"{text!r} in\n{self.log()}")

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        await until(lambda: not self.process.alive, f"the end of\n{self.log()}")
        return self.process.kill()

    def pids(self) -> set[int]:
        """Its workers, as the system knows them."""
        path = Path(f"/proc/{self.pid}/task")
        found: set[int] = set()
        with contextlib.suppress(OSError):
            for task in path.iterdir():
                found |= set(map(int, (task / "children").read_text().split()))
        return found

    # -- clients -------------------------------------------------------------------------------

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        async with Connection(self.port) as connection:
            connection.ask(path, method, headers)
            return await connection.answer(method)

    @contextlib.asynccontextmanager
    async def each(self) -> AsyncIterator[dict[int, Connection]]:
        """A connection to each worker there is, by its process."""
        async with contextlib.AsyncExitStack() as stack:
            found: dict[int, Connection] = {}
            wanted = self.settings["workers"]
            async with asyncio.timeout(20):
                while len(found) < wanted:
                    async with contextlib.AsyncExitStack() as one:
                        connection = await one.enter_async_context(Connection(self.port))
                        answer = await connection.get("/control/pid")
                        pid = int(answer.headers["x-pid"])
                        if pid not in found:
                            found[pid] = connection
                            stack.push_async_exit(one.pop_all())
            yield found

    async def refuses(self) -> None:
        """Until nobody listens any more."""

        async def holds() -> bool:
            try:
                async with Connection(self.port):
                    return False  # it waited in the queue of a socket that was about to be closed
            except ConnectionRefusedError:
                return True

        await until(holds)

    async def purge(self, connection: Connection, **what: Any) -> Purged:
        connection.ask("/_layergate/purge", "POST", AUTHORIZED, json.dumps(what).encode())
        answer = await connection.answer()
        assert answer.status in (200, 202), answer
        result = answer.json()["result"]
        return Purged(answer.status, result["applied"], result["instances"])

    async def stats(self, connection: Connection) -> dict[str, Any]:
        connection.ask("/_layergate/stats", headers=AUTHORIZED)
        answer = await connection.answer()
        assert answer.status == 200, answer
        stats: dict[str, Any] = answer.json()
        return stats


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> None:
    """Until this process has ended."""
    await until(lambda: not running(pid), f"the end of {pid}")
