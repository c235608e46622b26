"""What is written to a client, and how far the client has taken it.

`ClientConnection` and `Cycle` write through it. It keeps no deadlines: it only measures whether a client
that is slow still takes something.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from socket import AF_UNIX, SO_ERROR, SO_LINGER, SOL_SOCKET
from typing import Any, Final

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["JOINED", "SLICE", "Outgoing"]

JOINED: Final = 16 * 1024
"""Bytes of a body up to which a copy of it behind the head costs less than to write the two separately."""
SLICE: Final = 256 * 1024
"""Bytes of a body that are written at once. A transport copies what its client doesn't take (TLS encrypts
it), so this is what a client that takes nothing costs beside the body, which all clients share."""
_RESET: Final = struct.pack("ii", 1, 0)


class Outgoing:
    """The sending half of one client's connection.

    ``blocked``  a future while the client takes less than was written, done once it takes more; else
                 None.
    ``unsent``   the rest of a large body that is sent in slices; else None. While there is some, the
                 connection is blocked.
    ``lost``     True once the transport is gone. Writing does nothing then.
    """

    __slots__ = ("_measured", "blocked", "lost", "transport", "unsent")

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.blocked: asyncio.Future[None] | None = None
        self.unsent: memoryview | None = None
        self.lost = False
        self._measured = 0  # bytes that the client had to take when `measure` was called

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.transport.write(data)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Write parts of one message, without a copy of large ones."""
        if not self.lost:
            if sum(map(len, parts)) <= JOINED:
                self.transport.write(b"".join(parts))
            else:
                self.transport.writelines(parts)

    def write_large(self, head: bytes, body: bytes) -> None:
        """Write a head and the first slice of its body. The rest goes to ``unsent`` until it is taken."""
        rest = memoryview(body)
        self.transport.writelines((head, rest[:SLICE]))
        self.unsent = rest[SLICE:]
        self.send_more()

    def send_more(self) -> None:
        """Write as much of ``unsent`` as the client takes."""
        rest = self.unsent
        assert rest is not None
        while rest and self.blocked is None and not self.lost:
            self.transport.write(rest[:SLICE])
            rest = rest[SLICE:]
        self.unsent = rest if rest and not self.lost else None

    async def drained(self) -> None:
        """Wait until more may be written."""
        if self.blocked is not None:
            await self.blocked

    # -- how far the client has come -----------------------------------------------------------

    def measure(self) -> None:
        """Note how much the client has yet to take."""
        self._measured = self._outstanding()

    @property
    def moving(self) -> bool:
        """True if the client has taken something since `measure`, but not all."""
        return 0 < self._outstanding() < self._measured

    def _outstanding(self) -> int:
        """Bytes that the client has yet to take. Those in the socket's own buffer count: it holds
        megabytes, and reports room for more only after a good part of them was taken."""
        unsent = 0 if self.unsent is None else len(self.unsent)
        return unsent + self.transport.get_write_buffer_size() + _queued(self._socket)

    # -- the end -------------------------------------------------------------------------------

    def abort(self) -> None:
        if not self.lost:
            self.transport.abort()

    def reset(self) -> None:
        """End the connection with a RST, so that the client can't take what it has for the whole."""
        sock = self._socket
        if sock is not None and sock.family != AF_UNIX:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
        self.abort()

    def end(self) -> bool:
        """End this side and leave the other open. False if the connection is gone, of which the loop
        has yet to learn."""
        try:
            self.transport.write_eof()
        except OSError:
            return False
        return True

    @property
    def refused(self) -> bool:
        """True if the other end has reset the connection, or if that can't be found out."""
        sock = self._socket
        return sock is None or bool(sock.getsockopt(SOL_SOCKET, SO_ERROR))

    @property
    def _socket(self) -> Any:
        return self.transport.get_extra_info("socket")


def _queued(sock: Any) -> int:
    """Bytes that the other end has not acknowledged; 0 on systems that don't tell."""
    if sys.platform == "win32" or sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed, or the socket has no such request
        return 0
    return int.from_bytes(answer, sys.byteorder)
