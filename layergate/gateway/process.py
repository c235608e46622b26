"""One worker process, as its supervisor sees it: how it is started, what it is sent, how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from layergate.gateway.channel import pack
from layergate.gateway.notify import VARIABLE

__all__ = ["Life", "WorkerProcess", "spawn"]

_logger = logging.getLogger("layergate.gateway")

_MAX_QUEUE: Final = 64 * 1024 * 1024  # bytes for a worker that it does not read


class Life(enum.Enum):
    """The stages of a worker, in this order. Each may be followed by ENDED."""

    STARTING = enum.auto()  # not ready yet
    READY = enum.auto()  # serves
    LEAVING = enum.auto()  # finishes what is under way
    ENDED = enum.auto()


class WorkerProcess:
    """One process.

    ``serial``    a number that is never used twice.
    ``number``    which of the gateway's workers it is, from 0.
    ``ready_at``  the loop's time; infinite before it was ready.
    ``silent``    beats since its last sign of life; None before the first.
    ``why``       why it failed, in its own words or the supervisor's; "" if it did not.
    ``moved``     set once its ``life`` is past READY.
    """

    def __init__(
        self,
        serial: int,
        number: int,
        process: asyncio.subprocess.Process,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.serial = serial
        self.number = number
        self.process = process
        self.life = Life.STARTING
        self.ready_at = float("inf")
        self.silent: int | None = None
        self.why = ""
        self.moved = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []
        self._writer = writer

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. See `send_frame`."""
        self.send_frame(pack(message))

    def send_frame(self, frame: bytes) -> None:
        """Never raises and never waits: a worker that does not read is killed."""
        if self.life is Life.ENDED or self._writer.is_closing():
            return
        self._writer.write(frame)
        if self._writer.transport.get_write_buffer_size() > _MAX_QUEUE:
            self.kill("does not read what it is sent")

    def kill(self, why: str = "") -> None:
        if why:
            _logger.error("worker %d (process %d) is killed: it %s", self.number, self.pid, why)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def leaving(self) -> None:
        """It says that it ends. (One that was never ready has failed: its end is what is reported.)"""
        if self.life is Life.READY:
            self.life = Life.LEAVING
            self.moved.set()

    def close(self) -> None:
        """It has ended."""
        self.life = Life.ENDED
        self.moved.set()
        self._writer.close()

    @property
    def obituary(self) -> str:
        """How it ended, for the log."""
        code = self.process.returncode
        if self.why:
            return f"worker {self.number}: {self.why}"
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"worker {self.number} was ended by {name}"
        return f"worker {self.number} ended with status {code}"


async def spawn(
    serial: int, number: int, sockets: Sequence[int], start: Mapping[str, Any]
) -> tuple[WorkerProcess, asyncio.StreamReader]:
    """Start a worker in a fresh interpreter: a fork would copy threads and a loop.

    ``sockets``: the file descriptors that it listens on. ``start``: what it is told first, beside them.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the folder in which the gateway is started holds no code of it
            "-m",
            "layergate.gateway.spawned",
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), *sockets),
            process_group=0,  # Ctrl-C is for the supervisor
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    worker = WorkerProcess(serial, number, process, writer)
    told = {"op": "start", "number": number, "path": sys.path, "sockets": list(sockets)}
    worker.send({**told, **start})
    return worker, reader
