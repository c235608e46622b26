"""A client of a server in another process, on the test's loop. It reads as `tests.support.http1` does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from tests.support.http1 import Client
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
    """A client's connection. Everything is bounded."""

    def __init__(self, port: int, *, bound: float = BOUND) -> None:
        self.port = port
        self.bound = bound

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self.bound):
            self._client = Client(*await asyncio.open_connection(HOST, self.port))
        self._client.bound = self.bound
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not `close`: nobody cares how a server that was killed says good-bye.
        self._client.writer.transport.abort()

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
        self._client.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    async def head(self) -> Answer:
        response = await self._client.begun()
        return Answer(response.status, response.fields, b"")

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, whole. Raises OSError, EOFError, TimeoutError."""
        response = await self._client.response(method)
        return Answer(response.status, response.fields, response.body)

    async def get(self, path: str, **headers: str) -> Answer:
        self.ask(path, headers=headers)
        return await self.answer()

    def reset(self) -> None:
        """Go away as a client that crashed does: RST, with no good-bye."""
        self._client.reset()
