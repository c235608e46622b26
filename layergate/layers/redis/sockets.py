"""Mixed into the connection classes of redis-py: sockets that keep a time budget, and that can be closed
when their loop is gone.

This is the one place that relies on private parts of redis-py (`_connect`, `_reader`, `_writer`), which
has no public way to reach the socket of a connection. The extra ``redis`` bounds its version for that.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

__all__ = ["NotedConnection", "noted", "paced"]


class NotedConnection:
    """Mixed into a connection class of asyncio: remembers the transport even after redis-py, which cannot
    close it on a loop that is closed, has forgotten it."""

    noted: Any = None

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[misc] # of the connection
        self.noted = getattr(getattr(self, "_writer", None), "transport", None)


class _Paced:
    """Mixed into a connection class: all its socket operations end at ``until`` (monotonic seconds), so
    a server that sends a byte now and then gets no more time."""

    until: float = math.inf

    def _connect(self) -> _PacedSocket:
        return _PacedSocket(super()._connect(), self)  # type: ignore[misc] # of the connection


class _PacedSocket:
    """A socket, plain or TLS, whose every operation gets the time that is left."""

    __slots__ = ("_owner", "_socket")

    def __init__(self, plain: Any, owner: _Paced) -> None:
        self._socket = plain
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def settimeout(self, seconds: float | None) -> None:
        """Called by a parser; 0 means "do not wait"."""
        if seconds is None:
            self._owner.until = math.inf
        else:
            self._owner.until = time.monotonic() + seconds if seconds else -math.inf

    def _begin(self) -> Any:
        until = self._owner.until
        if until == -math.inf:
            self._socket.settimeout(0)
            return self._socket
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(None if left == math.inf else left)
        return self._socket

    def sendall(self, data: bytes) -> None:
        self._begin().sendall(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data: bytes = self._begin().recv(size, flags)
        return data

    def recv_into(self, buffer: Any, size: int = 0) -> int:
        count: int = self._begin().recv_into(buffer, size)
        return count


@functools.cache
def noted(connection: type[Any]) -> type[Any]:
    return type(connection.__name__, (NotedConnection, connection), {})


@functools.cache
def paced(connection: type[Any]) -> type[Any]:
    return type(connection.__name__, (_Paced, connection), {})
