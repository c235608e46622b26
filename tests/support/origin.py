"""The origin of a fleet or a gateway, which the test itself is.

What counts and holds the calls is in the test's process and on its loop, and is not LayerGate. An
app of `tests/processes/fleet_app.py` sends each call of its handler here as a line of JSON, so a test
counts the calls of eight processes as if they were one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from tests.support.ports import HOST, free_port, stop_listening
from tests.support.waiting import until

__all__ = ["FRESH", "Gate", "Origin", "OriginCall"]

FRESH = {"cache-control": "max-age=600"}

Handler = Callable[["OriginCall"], Awaitable[None]]


class Gate:
    """A place in a handler where it waits for the test."""

    def __init__(self) -> None:
        self.arrived = 0
        self._open = asyncio.Event()

    async def wait(self) -> None:
        self.arrived += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()

    async def reached(self, count: int = 1) -> None:
        await until(lambda: self.arrived >= count)


class OriginCall:
    """One call of an app's handler, as it reaches the origin."""

    def __init__(self, asked: Mapping[str, Any], number: int, writer: asyncio.StreamWriter) -> None:
        self.path: str = asked["path"]
        self.method: str = asked["method"]
        self.instance: str = asked["instance"]
        self.pid: int = asked["pid"]
        # Of the request, by their names in lower case.
        self.headers: Mapping[str, str] = asked["headers"]
        self.number = number  # 1 for the first call of this path
        self._writer = writer

    async def start(self, status: int = 200, headers: Mapping[str, str] = FRESH) -> None:
        await self._say({"status": status, "headers": list(headers.items())})

    async def chunk(self, data: bytes) -> None:
        if data:
            await self._say({"size": len(data)}, data)

    async def end(self, data: bytes = b"") -> None:
        await self.chunk(data)
        await self._say({"size": 0})

    async def reply(
        self, body: bytes = b"", headers: Mapping[str, str] = FRESH, status: int = 200
    ) -> None:
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.end(body)

    # What goes wrong.

    async def fail(self) -> None:
        """Give no response but an error: the app raises one that is none of a connection."""
        await self._say({"error": "the origin failed"})

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection; with ``reset`` as a process that crashed does."""
        if reset:
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _say(self, facts: Mapping[str, Any], data: bytes = b"") -> None:
        # An app that was killed does not listen any more: its handler's affair, not the origin's.
        with contextlib.suppress(OSError):
            self._writer.write(json.dumps(facts).encode() + b"\n" + data)
            await self._writer.drain()


class Origin:
    """Counts every call, and answers by the handler of its path (the longest prefix wins).

    Without a handler: ``<path> <number of the call>``, fresh for ten minutes.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.log: list[OriginCall] = []
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self.handlers: dict[str, Handler] = {}
        self.errors: list[Exception] = []  # of handlers
        self.port = free_port()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for attempt in itertools.count():
            try:
                await self.listen()
                return self
            except OSError:
                if attempt == 5:
                    raise
                self.port = free_port()
        raise AssertionError

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port, backlog=4096)

    async def refuse(self) -> None:
        """Break off every call, and listen no more (until `listen`)."""
        await stop_listening(self._server)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on(self, prefix: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            self.handlers[prefix] = handler
            return handler

        return register

    def answers(self, prefix: str, headers: Mapping[str, str], body: bytes = b"body") -> None:
        async def handler(call: OriginCall) -> None:
            await call.reply(body, headers)

        self.handlers[prefix] = handler

    def gated(self, prefix: str, headers: Mapping[str, str] = FRESH) -> Gate:
        """A handler that waits at the gate, then answers with the number of the call."""
        gate = Gate()

        async def handler(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"%d" % call.number, headers)

        self.handlers[prefix] = handler
        return gate

    async def called(self, path: str, count: int = 1) -> None:
        await until(lambda: self.calls[path] >= count, f"{count} calls of {path}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            line = await reader.readline()
            if line:
                await self._answer(json.loads(line), writer)
        except asyncio.CancelledError:
            pass  # the end of the test
        except Exception as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, asked: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        path = asked["path"]
        self.calls[path] += 1
        self.running[path] += 1
        self.most_running[path] = max(self.most_running[path], self.running[path])
        call = OriginCall(asked, self.calls[path], writer)
        self.log.append(call)
        prefixes = [prefix for prefix in self.handlers if path.startswith(prefix)]
        try:
            if prefixes:
                await self.handlers[max(prefixes, key=len)](call)
            else:
                await call.reply(f"{path} {call.number}".encode())
        finally:
            self.running[path] -= 1
