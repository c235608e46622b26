"""Real memcached servers, each a process on a loopback port.

The binary is the one on PATH, or the one that `make test-systems` has unpacked (tools/servers.sh). Without
one, the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import ROOT
from tests.support.ports import HOST, free_port
from tests.support.processes import Process
from tests.support.systems import SystemServer
from tests.support.waiting import wait_until

__all__ = ["Memcached", "binary"]

_UNPACKED = ROOT / ".servers" / "memcached" / "usr"


def binary() -> Path:
    found = shutil.which("memcached")
    unpacked = _UNPACKED / "bin" / "memcached"
    if found is None and not unpacked.exists():
        pytest.skip("memcached is not installed here; `make test-systems` unpacks it on Debian")
    return Path(found) if found is not None else unpacked


class Memcached(SystemServer):
    """``options``: words of the command line."""

    system = "memcached"

    def __init__(self, folder: Path, *, options: Sequence[str] = (), start: bool = True) -> None:
        self._log = folder / f"memcached-{os.urandom(3).hex()}.log"
        self._options = list(options)
        self._process: Process | None = None
        self.port = free_port()
        self._binary = binary()
        if start:
            self.start()

    def url(self, port: int | None = None) -> str:
        return f"memcached://{HOST}:{port or self.port}"

    def start(self) -> None:
        libraries = ":".join(str(path) for path in sorted((_UNPACKED / "lib").glob("*-linux-*")))
        self._process = Process(
            [
                self._binary,
                "-u",
                "nobody",
                "-l",
                HOST,
                "-p",
                str(self.port),
                "-U",
                "0",
                *self._options,
            ],
            log=self._log,
            environ={"LD_LIBRARY_PATH": libraries} if libraries else {},
        )
        wait_until(
            self._answers, lambda: f"memcached to answer: {self._log.read_text()}", faults=OSError
        )

    def _answers(self) -> bool:
        return self.ask("version").startswith(b"VERSION")

    def ask(self, *lines: str | bytes, end: bytes = b"\r\n") -> bytes:
        """What comes first, until ``end``."""
        with socket.create_connection((HOST, self.port), 5) as line:
            for one in lines:
                line.sendall((one.encode() if isinstance(one, str) else one) + b"\r\n")
            said = b""
            while not said.endswith(end):
                data = line.recv(65536)
                if not data:
                    raise ConnectionResetError("memcached hung up")
                said += data
            return said

    def names(self) -> list[str]:
        from urllib.parse import unquote

        lines = self.ask("lru_crawler metadump all", end=b"END\r\n").decode().splitlines()
        return [unquote(line.split()[0].removeprefix("key=")) for line in lines if line != "END"]

    def value(self, key: str) -> bytes | None:
        said = self.ask(f"get {key}", end=b"END\r\n")
        head, _, rest = said.partition(b"\r\n")
        if head == b"END":
            return None
        return rest[: int(head.split()[3])]

    def put(self, key: str, value: bytes) -> None:
        self.ask(b"set %b 0 0 %d" % (key.encode(), len(value)), value)

    def stats(self) -> dict[str, str]:
        lines = self.ask("stats", end=b"END\r\n").decode().splitlines()[:-1]
        return dict(line.removeprefix("STAT ").split(" ", 1) for line in lines)

    # What befalls it.

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def stall(self) -> None:
        self.process.stall()

    def resume(self) -> None:
        self.process.resume()

    def kill(self) -> None:
        self.process.kill()

    def empty(self) -> None:
        self.ask("flush_all")

    def save(self) -> Any:
        return {key: self.value(key) for key in self.names()}

    def restore(self, saved: Any) -> None:
        """Another process, as where a memory file is put back."""
        self.kill()
        self.start()
        for key, value in saved.items():
            if value is not None:
                self.put(key, value)

    def garble(self) -> int:
        keys = self.names()
        for number, key in enumerate(keys):
            self.put(key, b"\x00\xff garbage %d" % number)
        return len(keys)

    def throttle(self) -> bool:
        """No more than a few connections, and these are taken."""
        self.kill()
        self._options += ["-c", "40"]
        self.start()
        self._taken = [socket.create_connection((HOST, self.port)) for _ in range(60)]
        return True

    def relent(self) -> None:
        for one in self._taken:
            one.close()
        self.kill()
        del self._options[-2:]
        self.start()

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(Exception):
                self.resume()
            self.kill()
