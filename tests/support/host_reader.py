"""A reader of a history of purges on one host: ``python -m tests.support.host_reader TRUTH NUMBER SERVERS PAUSE``.

It keeps connections to all servers, asks on each for one page or for a few at once, and compares every
version with the bound that held when it asked. ``SERVERS`` is JSON: the name, port, connections, and most
requests at once of each. ``PAUSE``: seconds between two looks at what has come. What was wrong is printed, a line each; what was counted is in `Truth`.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.host_truth import COUNTS, HOST_NAME, KEYS, Truth, path_of
from tests.support.ports import HOST

_REQUESTS: Final = [
    f"GET {path_of(key)} HTTP/1.1\r\nHost: {HOST_NAME}\r\n\r\n".encode() for key in range(KEYS)
]
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)")
_READS, _HITS, _COLLAPSED, _ERRORS, _LOST, _VIOLATIONS = range(len(COUNTS))
_SHOWN: Final = 20  # violations that are printed
_PAUSE: Final = 0.1  # seconds until a server that did not accept is asked again
_PATIENCE: Final = 20.0  # seconds for an answer


def tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - into the log of this process


class Address(NamedTuple):
    name: str
    port: int
    connections: int
    at_once: int


class Asked(NamedTuple):
    key: int
    bound: int
    began: float  # monotonic


class Line:
    """A connection to a server, renewed after some reads: another process may then accept it."""

    def __init__(self, reader: Reader, address: Address) -> None:
        self._reader = reader
        self._address = address
        self._socket: socket.socket | None = None
        self._asked: deque[Asked] = deque()
        self._heard = b""
        self._left = 0
        self.idle_until = 0.0

    def ask(self) -> None:
        """Connect if that is needed, and ask."""
        reader = self._reader
        if self._socket is None:
            try:
                self._socket = socket.create_connection((HOST, self._address.port), 5.0)
            except OSError:
                self.idle_until = time.monotonic() + _PAUSE
                return
            self._left = reader.random.randrange(20, 400)
            reader.opened(self, self._socket)
        data = b""
        for _ in range(reader.random.randint(1, self._address.at_once)):
            key = reader.pick()
            self._asked.append(Asked(key, reader.truth.bounds[key], time.monotonic()))
            data += _REQUESTS[key]
        try:
            self._socket.sendall(data)
        except OSError:
            self.lose()

    def hear(self) -> None:
        """Take what has come, and ask again once all is answered."""
        assert self._socket is not None
        try:
            data = self._socket.recv(262_144)
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        self._heard += data
        closing = False
        while self._asked:
            head, found, rest = self._heard.partition(b"\r\n\r\n")
            if not found:
                break
            head = head.lower()
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                break
            self._heard = rest[size:]
            closing = b"\r\nconnection: close" in head
            self._left -= 1
            self._reader.judge(self._address, self._asked.popleft(), head, rest[:size])
            if closing:
                break
        if closing or (not self._asked and self._left <= 0):
            self._asked.clear()  # the server does not answer these: it said that it closes
            self.close()
        elif self._asked:
            return
        if not self._reader.truth.ended:
            self.ask()

    def overdue(self, now: float) -> bool:
        return bool(self._asked) and now > self._asked[0].began + _PATIENCE

    def lose(self) -> None:
        """The connection has ended, with what was asked on it."""
        self._reader.counts[_LOST] += len(self._asked)
        self._asked.clear()
        self.close()
        self.idle_until = time.monotonic() + _PAUSE

    def close(self) -> None:
        sock, self._socket = self._socket, None
        self._heard = b""
        if sock is not None:
            self._reader.closed(sock)
            sock.close()

    @property
    def idle(self) -> bool:
        return self._socket is None


class Reader:
    def __init__(self, truth: Truth, number: int, addresses: list[Address], pause: float) -> None:
        self.truth = truth
        self._pause = pause
        self.counts = truth.counts(number)
        self.random = random.Random(number)
        self._lines = [Line(self, one) for one in addresses for _ in range(one.connections)]
        self._poll = select.poll()
        self._by_fd: dict[int, Line] = {}

    def run(self) -> None:
        looked = 0.0
        while not self.truth.ended:
            now = time.monotonic()
            if now - looked > _PAUSE:
                looked = now
                for line in self._lines:
                    if line.idle and now >= line.idle_until:
                        line.ask()
                    elif line.overdue(now):
                        tell(f"no answer within {_PATIENCE} s")
                        line.lose()
            for fd, _ in self._poll.poll(_PAUSE * 1000):
                if fd in self._by_fd:
                    self._by_fd[fd].hear()
            if self._pause:
                time.sleep(self._pause)
        for line in self._lines:
            line.close()

    def opened(self, line: Line, sock: socket.socket) -> None:
        self._by_fd[sock.fileno()] = line
        self._poll.register(sock, select.POLLIN)

    def closed(self, sock: socket.socket) -> None:
        del self._by_fd[sock.fileno()]
        self._poll.unregister(sock)

    def pick(self) -> int:
        """Some pages are asked for more often than others."""
        return min(int(self.random.paretovariate(0.5)), KEYS) - 1

    def judge(self, address: Address, asked: Asked, head: bytes, body: bytes) -> None:
        counts = self.counts
        if head[9:12] != b"200":
            counts[_ERRORS] += 1
            if counts[_ERRORS] <= _SHOWN:
                tell(f"{address.name}: {head!r} {body[:200]!r}")
            return
        key, version, _ = body.split(b" ", 2)
        assert int(key) == asked.key, (address, asked, head, body)
        counts[_READS] += 1
        if b"; hit" in head:
            counts[_HITS] += 1
        elif b"collapsed" in head:
            counts[_COLLAPSED] += 1
        if int(version) < asked.bound:
            counts[_VIOLATIONS] += 1
            if counts[_VIOLATIONS] <= _SHOWN:
                seconds = time.monotonic() - asked.began
                tell(
                    f"VIOLATION {address.name}: page {asked.key}, version {int(version)} after a final"
                    f" purge for {asked.bound}, asked {seconds:.3f} s ago: {head!r}"
                )


def main() -> None:
    path, number, servers, pause = sys.argv[1:]
    addresses = [Address(*one) for one in json.loads(servers)]
    Reader(Truth(Path(path)), int(number), addresses, float(pause)).run()


if __name__ == "__main__":
    main()
