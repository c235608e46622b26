"""How the processes of one host ask each other for their statistics: a datagram, and one in return.

Each member has a socket in the folder ``calls`` and a thread that waits for questions. It costs nothing
while nobody asks. A process that cannot run a thread beside its requests (a uWSGI worker without
``enable-threads``), or that is stopped, does not answer; whoever asked says how many have answered.

The folder is for its user only, so nobody else can ask or answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from layergate.core.ports import Runtime

__all__ = ["NAME", "Answering", "Report", "asked"]

_logger = logging.getLogger("layergate")

NAME: Final = "calls"
_LARGEST: Final = 128 * 1024  # bytes of an answer
_TRIES: Final = 3
_LOOK: Final = 0.002  # seconds
_LEFT: Final = 60.0  # seconds; a younger socket is in use

Report: TypeAlias = Callable[[], Mapping[str, Any]]


class Answering:
    """The socket and the thread of the member ``number``. ``report``: the statistics to answer with.

    Raises OSError, and RuntimeError when no thread can be started.
    """

    def __init__(self, folder: Path, number: int, report: Report) -> None:
        self._report = report
        self._closed = False
        self._folder = folder / NAME
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            path = self._folder / str(number)
            path.unlink(missing_ok=True)  # of an earlier member with this number
            self._sweep()
            with _short(self._folder) as short:
                self._socket.bind(f"{short}/{number}")
            threading.Thread(target=self._answer, name="layergate calls", daemon=True).start()
        except BaseException:
            self._socket.close()
            raise

    def _sweep(self) -> None:
        """Remove the sockets of processes that were killed while they asked."""
        for left in self._folder.glob("ask-*"):
            with contextlib.suppress(OSError):
                if time.time() - left.lstat().st_mtime > _LEFT:
                    left.unlink()

    def close(self) -> None:
        """Answer no more. The file stays, for the next member with this number to replace.

        The thread closes the socket when it no longer reads from it. If a process was stopped (SIGSTOP)
        during a read, the kernel begins the read anew when the process goes on, by the descriptor's
        number. Closed here, the number might be that of a client's connection by then, and the read would
        take 64 bytes of a request.
        """
        self._closed = True
        try:
            self._socket.shutdown(socket.SHUT_RD)  # wakes the thread
        except OSError:  # it has ended, or this system wakes it when the socket is closed (macOS)
            self._socket.close()

    def forked(self) -> None:
        """In the child of a fork, where the thread does not run: close this copy of the socket."""
        self._socket.close()

    def _answer(self) -> None:
        with self._socket:
            self._answer_all()

    def _answer_all(self) -> None:
        own = self._socket
        while True:
            try:
                question = own.recv(64)
                if self._closed:
                    return
                with _short(self._folder) as short:
                    own.sendto(self._answered(), f"{short}/{question.decode('ascii')}")
            except (OSError, ValueError):
                # Closed; or whoever asked has gone, and the next one may not have.
                if self._closed:
                    return

    def _answered(self) -> bytes:
        for _ in range(_TRIES):
            try:
                answer = json.dumps({"pid": os.getpid(), **self._report()}).encode()
            except RuntimeError:  # a dictionary grew while it was read
                continue
            if len(answer) <= _LARGEST:
                return answer
        return json.dumps({"pid": os.getpid()}).encode()


async def asked(
    folder: Path, numbers: Iterable[int], runtime: Runtime, timeout: float
) -> list[dict[str, Any]]:
    """What these members answer within ``timeout`` seconds, each with its number as ``worker``. Never
    raises."""
    found: list[dict[str, Any]] = []
    try:
        wanted = {str(number): number for number in numbers}
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as error:
        _logger.debug("other processes cannot be asked: %s", error)
        return found
    name = f"ask-{os.urandom(8).hex()}"
    calls = folder / NAME
    try:
        own.setblocking(False)
        with _short(calls) as short:
            own.bind(f"{short}/{name}")
            for number in list(wanted):
                try:
                    own.sendto(name.encode(), f"{short}/{number}")
                except OSError:  # it does not answer questions
                    del wanted[number]
        until = runtime.monotonic() + timeout
        while wanted and runtime.monotonic() < until:
            try:
                answer, sender = own.recvfrom(_LARGEST)
            except BlockingIOError:
                await runtime.event().wait(_LOOK)
                continue
            document: Any = json.loads(answer)
            member = str(sender).rpartition("/")[2]
            if member in wanted and isinstance(document, dict):
                found.append({**document, "worker": wanted.pop(member)})
    except (OSError, ValueError) as error:
        _logger.debug("other processes cannot be asked: %s", error)
    finally:
        own.close()
        (calls / name).unlink(missing_ok=True)
    return found


class _short:  # noqa: N801 - used like a function
    """A path to a folder that is short enough for an address of a socket, of which there are 108 bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def __enter__(self) -> str:
        text = os.fspath(self._folder)
        if len(os.fsencode(text)) <= 70 or not Path("/proc/self/fd").is_dir():
            return text
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
