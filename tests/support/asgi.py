"""A tiny ASGI client, an origin whose every step a test controls, and a clock a test can set.

Nothing here sleeps. A test waits for what it can see (a message, a counter, a barrier): see
`tests.support.waiting`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Self

from layergate import HttpCache, LayerGate, MemoryLayer
from tests.support.clocks import LoopClock
from tests.support.waiting import BOUND, until

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
Handler = Callable[["OriginCall"], Awaitable[None]]


def raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in items]


def scope_of(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Headers = (),
    host: str | None = "example.com",
    scheme: str = "http",
    query: bytes = b"",
    raw_path: bytes | str | None = "same",
    root_path: str = "",
    http_version: str = "1.1",
    extensions: Mapping[str, Any] | None = None,
    client: tuple[str, int] | None = ("192.0.2.1", 1234),
    spec_version: str = "2.3",
    **more: Any,
) -> dict[str, Any]:
    if raw_path == "same":
        raw_path = path.encode("utf-8", "surrogatepass")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": http_version,
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": [*([(b"host", host.encode())] if host is not None else []), *raw(headers)],
        "client": client,
        "server": ("127.0.0.1", 80),
        "extensions": dict(extensions or {}),
        "state": {},
        **more,
    }
    return scope


class Call:
    """One request under way: its client's side.

    ``messages``: what the client was sent. ``pause`` holds `send` back (a slow reader), ``leave``
    disconnects, ``cancel`` is what a server does that cancels its tasks.
    """

    def __init__(
        self,
        app: Any,
        scope: dict[str, Any],
        *,
        body: Iterable[bytes] = (b"",),
        pause_after: int | None = None,
        raise_when_gone: bool = False,
    ) -> None:
        self.scope = scope
        self.messages: list[dict[str, Any]] = []
        self._parts = list(body)
        self._gone = asyncio.Event()
        self._flow = asyncio.Event()
        self._flow.set()
        self._pause_after = pause_after
        self._raise = raise_when_gone
        self.blocked = 0  # sends that wait
        if pause_after == 0:
            self._pause_after = None
            self._flow.clear()
        self.task: asyncio.Task[None] = asyncio.create_task(
            app(scope, self._receive, self._send), name=f"client of {scope['path']}"
        )

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.blocked += 1
        try:
            await self._flow.wait()
        finally:
            self.blocked -= 1
        if self._gone.is_set():
            if self._raise:
                raise OSError("the client is gone")
            return
        self.messages.append(dict(message))
        if self._pause_after is not None and len(self.messages) >= self._pause_after:
            self._pause_after = None
            self._flow.clear()

    def pause(self) -> None:
        self._flow.clear()

    def resume(self) -> None:
        self._flow.set()

    def leave(self) -> None:
        self._gone.set()
        self._flow.set()

    async def cancel(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.task.done():
            await self.cancel()

    async def done(self) -> Call:
        """Wait for the request to end; raises what the app raised."""
        async with asyncio.timeout(BOUND):
            await asyncio.shield(self.task)
        return self

    async def begun(self) -> Call:
        """Wait for the head."""
        await until(lambda: self.started or self.task.done())
        assert self.started, "the request ended without a head"
        return self

    async def received(self, size: int) -> Call:
        """Wait until ``size`` bytes of the body arrived."""
        await until(lambda: len(self.body) >= size or self.task.done())
        assert len(self.body) >= size
        return self

    @property
    def started(self) -> bool:
        return any(message["type"] == "http.response.start" for message in self.messages)

    @property
    def start(self) -> dict[str, Any]:
        starts = [m for m in self.messages if m["type"] == "http.response.start"]
        assert len(starts) == 1, f"{len(starts)} heads"
        return starts[0]

    @property
    def status(self) -> int:
        status: int = self.start["status"]
        return status

    @property
    def lines(self) -> list[tuple[bytes, bytes]]:
        return [(bytes(name).lower(), bytes(value)) for name, value in self.start["headers"]]

    def all(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for field, value in self.lines if field == wanted]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return ", ".join(values) if values else None

    @property
    def cache_status(self) -> str:
        return self.header("cache-status") or ""

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache_status

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith(".body"))

    @property
    def complete(self) -> bool:
        """The whole response was sent: a head, and exactly one last part of the body."""
        last = [
            not m.get("more_body", False)
            for m in self.messages
            if m["type"] == "http.response.body"
        ]
        return self.started and last[-1:] == [True] and sum(last) == 1


class OriginCall:
    """One call of the app, as its handler sees it."""

    def __init__(
        self, number: int, scope: dict[str, Any], receive: Callable, send: Callable
    ) -> None:
        self.number = number  # 1 for the first call of this path
        self.scope = scope
        self.receive = receive
        self.send = send

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: str) -> str | None:
        wanted = name.lower().encode()
        values = [value for field, value in self.scope["headers"] if field == wanted]
        return b", ".join(values).decode("latin-1") if values else None

    async def start(self, status: int = 200, headers: Headers = (), **more: Any) -> None:
        await self.send(
            {"type": "http.response.start", "status": status, "headers": raw(headers), **more}
        )

    async def chunk(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def end(self, body: bytes = b"") -> None:
        await self.chunk(body, more=False)

    async def reply(self, body: bytes = b"", status: int = 200, headers: Headers = ()) -> None:
        await self.start(status, headers)
        await self.end(body)


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


FRESH = {"cache-control": "max-age=60"}


class Origin:
    """The application: a handler per path, every call counted.

    A path without a handler answers ``<path> <number of the call>``, fresh for 60 s.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.running = 0
        self.most_running = 0
        self.scopes: list[dict[str, Any]] = []
        self.handlers: dict[str, Handler] = {}

    def on(self, path: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            self.handlers[path] = handler
            return handler

        return register

    def answers(
        self, path: str, headers: Headers = (), body: bytes = b"body", status: int = 200
    ) -> None:
        async def handler(call: OriginCall) -> None:
            await call.reply(body, status, headers)

        self.handlers[path] = handler

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.calls[path] += 1
        self.scopes.append(scope)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        call = OriginCall(self.calls[path], scope, receive, send)
        try:
            handler = self.handlers.get(path)
            if handler is None:
                await call.reply(b"%b %d" % (path.encode(), call.number), 200, FRESH)
            else:
                await handler(call)
        finally:
            self.running -= 1


class World:
    """An origin behind LayerGate, with a clock of its own.

    Several worlds may be instances of one fleet: with the same ``clock`` and ``origin``, and each
    with its own ``shared`` layer.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        clock: LoopClock | None = None,
        origin: Origin | None = None,
        shared: Any = None,
        **options: Any,
    ) -> None:
        self.clock = LoopClock() if clock is None else clock
        self.origin = Origin() if origin is None else origin
        self.events: list[tuple[str, dict[str, Any]]] = []
        if "layers" not in options:
            memory = options.pop("memory", "64MB")
            options["layers"] = [MemoryLayer(memory, clock=self.clock.now)]
            if shared is not None:
                options["layers"].append(shared)
        hooks = [*options.pop("hooks", ()), lambda event, facts: self.events.append((event, facts))]
        self.cache = HttpCache(runtime=self.clock, hooks=hooks, **options)
        self.app = LayerGate(self.origin if app is None else app, cache=self.cache)

    def call(self, path: str = "/", **request: Any) -> Call:
        """Begin a request."""
        client = {
            name: request.pop(name)
            for name in ("body", "pause_after", "raise_when_gone")
            if name in request
        }
        return Call(self.app, scope_of(path, **request), **client)

    async def get(self, path: str = "/", **request: Any) -> Call:
        """Make a request and wait for its end."""
        async with self.call(path, **request) as call:
            return await call.done()

    def stat(self, name: str) -> int:
        value: int = self.cache.stats()[name]
        return value

    def count(self, event: str) -> int:
        return sum(1 for name, _ in self.events if name == event)

    async def waiting(self, count: int) -> None:
        """Wait until so many followers wait."""
        await until(lambda: self.stat("waiters") == count)

    async def idle(self) -> None:
        """Wait until no background work is left."""
        await until(lambda: not self.clock.pending())

    @property
    def entries(self) -> int:
        return len(self.cache.stack.layers[0])

    def assert_nothing_left(self) -> None:
        """No flight, no waiter, no byte in flight: what a finished request leaves behind."""
        assert len(self.cache.flights) == 0
        assert self.stat("waiters") == 0
        assert self.stat("inflight_bytes") == 0
        assert self.stat("refreshing") == 0
        assert self.clock.pending() == 0


class Lifespan:
    """The lifespan protocol, step by step: ``async with Lifespan(app)``, or `start` and `stop`.

    Raises whatever an app raises that knows no lifespan, as servers do, who then do without.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[str] = []

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message["type"])

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self.task = asyncio.create_task(self._app(scope, self._inbox.get, self._send))
        self._inbox.put_nowait({"type": "lifespan.startup"})
        await until(lambda: self.sent or self.task.done())
        if self.task.done():
            await self.task

    async def stop(self) -> None:
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        async with asyncio.timeout(BOUND):
            await self.task

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
