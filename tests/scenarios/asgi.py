"""A clock, a scripted origin and a client, for ASGI."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import unquote

from tests.scenarios.checks import OriginFailed, OriginLost, Seen
from tests.scenarios.model import Reply, Step
from tests.support.clocks import LoopClock

__all__ = ["LoopClock", "Origin", "ask", "scope_of"]


class Origin:
    """An ASGI app that answers from a step's script."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.script: list[Reply] = []
        self.seen: list[list[tuple[str, str]]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, scope, receive, send) -> None:
        self.seen.append([(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]])
        reply = self.script.pop(0) if self.script else Reply(599, body=b"unexpected call")
        if self.gate is not None:
            await self.gate.wait()
        self.clock.time += reply.takes
        if reply.raises:
            raise OriginFailed
        if reply.lost:
            raise OriginLost
        headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in reply.lines]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else reply.body
        size = -(-len(body) // reply.chunks)
        parts = [body[i : i + size] for i in range(0, len(body), size)] if size else [b""]
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def scope_of(step: Step, extra: list | tuple = ()) -> dict[str, Any]:
    path, _, query = step.target.partition("?")
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in step.headers]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b"example.org"))
    headers += extra
    if step.body:
        headers.append((b"content-length", b"%d" % len(step.body)))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": step.method,
        "scheme": step.scheme,
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 4711),
        "server": ("example.org", 80),
    }


async def ask(app: Any, step: Step, extra: list | tuple = (), **scope: Any) -> Seen:
    """Make the request; ``extra``: header lines in front of a body's, ``scope``: what differs there."""
    status: int | None = None
    lines: list[tuple[str, str]] = []
    body: list[bytes] = []
    asked = False

    async def receive():
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": step.body, "more_body": False}

    async def send(message):
        nonlocal status
        if message["type"] == "http.response.start":
            assert status is None, "two heads"
            status = message["status"]
            lines.extend((n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"])
        elif message["type"] == "http.response.body":
            body.append(bytes(message.get("body", b"")))

    with contextlib.suppress(OriginFailed):
        await app({**scope_of(step, extra), **scope}, receive, send)
    return Seen(status, lines, b"".join(body))
