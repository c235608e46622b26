"""A process with leases of its own in a folder (`layergate.layers.host.leases`), which does what it is told.

`Worker` is that process to the test.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Self

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.shared import Joining
from layergate.layers.host.leases import HostLeases
from layergate.layers.host.locks import FlockLocks, OfdLocks
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime
from tests.support.forks import Connection, start

__all__ = ["KINDS", "Worker", "made"]

KINDS = {"OfdLocks": OfdLocks, "FlockLocks": FlockLocks}


def made(folder: Path, make: Any = OfdLocks, runtime: Any = None) -> HostLeases:
    runtime = ThreadRuntime() if runtime is None else runtime
    return HostLeases(folder, Joining(Invalidations(), runtime, Counters([]), ()), make)


def serve(pipe: Connection[str, tuple[Any, ...]], folder: Path, kind: str, kept: Any) -> None:
    leases = made(folder, KINDS[kind])
    held: dict[str, Any] = {}
    kept = kept and kept.detach()
    while True:
        try:
            command, key, *more = pipe.recv()
        except EOFError:
            return
        if command == "take":
            wait, note = more
            got = run_blocking(
                leases.acquire(
                    key, wait=wait, note=note, held=lambda note: pipe.send(f"waits {note}")
                )
            )
            held[key] = got
            pipe.send(getattr(got, "name", "LEASE"))
        elif command == "release":
            run_blocking(held.pop(key).release(free=more[0] == "free"))
            pipe.send("released")
        elif command == "fork":
            if not os.fork():
                leases.forked()
                pipe.send("forked")
                os.read(kept, 1)
                os._exit(0)


class Worker:
    """``kept``: a descriptor that `fork`'s child reads before it ends."""

    def __init__(self, folder: Path, kind: str, kept: int | None = None) -> None:
        kept_there = None if kept is None else DupFd(kept)
        self.process, self._pipe = start(serve, folder, kind, kept_there)

    def tell(self, command: str, key: str, *more: object) -> None:
        self._pipe.send((command, key, *more))

    def said(self) -> str:
        return str(self._pipe.recv())

    def take(self, key: str, wait: float = 0, note: str = "") -> str:
        """What `acquire` returned, or "waits …" if it has not."""
        self.tell("take", key, wait, note)
        return self.said()

    def release(self, key: str, how: str = "landed") -> None:
        self.tell("release", key, how)
        assert self.said() == "released"

    def fork(self) -> None:
        """A child of it, with copies of all that it has."""
        self.tell("fork", "")
        assert self.said() == "forked"

    def stall(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.join()
        self.process.close()
        self._pipe.close()
