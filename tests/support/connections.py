"""A client of a server in another process: HTTP/1.1 on a connection of its own, on the test's loop."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NamedTuple, Self

from tests.support.ports import HOST
from tests.support.waiting import BOUND

__all__ = ["Answer", "Connection"]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> str:
        """Cache-Status."""
        return self.headers.get("cache-status", "")

    @property
    def hit(self) -> bool:
        return "; hit" in self.told

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A client's connection, and HTTP/1.1 as RFC 9112 frames it. Everything is bounded."""

    def __init__(self, port: int, *, bound: float = BOUND) -> None:
        self.port = port
        self.bound = bound

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.bound):
            self._reader, self._writer = await asyncio.open_connection(HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not `wait_closed`: nobody cares how a server that was killed says good-bye.
        self._writer.transport.abort()

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        fields = {"host": "example.com", **(headers or {})}
        if body:
            fields["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    async def head(self) -> Answer:
        async with asyncio.timeout(self.bound):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = text.rstrip("\r\n").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return Answer(int(status.split()[1]), {n.lower(): v.strip() for n, _, v in pairs}, b"")

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, whole. Raises OSError, EOFError, TimeoutError."""
        head = await self.head()
        if method == "HEAD" or head.status in (204, 304):
            return head
        async with asyncio.timeout(self.bound):
            if head.headers.get("transfer-encoding") != "chunked":
                size = int(head.headers["content-length"])
                return head._replace(body=await self._reader.readexactly(size))
            body = b""
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
            return head._replace(body=body)

    async def get(self, path: str, **headers: str) -> Answer:
        self.ask(path, headers=headers)
        return await self.answer()

    def reset(self) -> None:
        """Go away as a client that crashed does: RST, with no good-bye."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
