"""Processes that tests start, which end with the test, also when pytest is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.waiting import BOUND

__all__ = ["EndedError", "Process"]


class _Reaper:
    """A shell that kills what is still running when this process is gone, however it went."""

    SCRIPT = """
        while read -r what pid; do
            case $what in
                +) all="$all $pid" ;;
                -) kept=; for one in $all; do [ $one = $pid ] || kept="$kept $one"; done; all=$kept ;;
            esac
        done
        for one in $all; do kill -9 -$one || kill -9 $one; done 2>/dev/null
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def tell(self, what: str, pid: int) -> None:
        with self._lock:
            if self._owner != os.getpid():
                self._owner = os.getpid()
                self._read, self._write = os.pipe()
                os.set_inheritable(self._write, False)
                subprocess.Popen(
                    ["/bin/sh", "-c", self.SCRIPT],
                    stdin=self._read,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                ).returncode = 0  # nobody waits for it, and nobody is warned of that
                os.close(self._read)
            os.write(self._write, f"{what} {pid}\n".encode())


_reaper = _Reaper()


class Process:
    """A child in a session of its own (Ctrl-C is for pytest, which then stops it in order).

    ``stop`` and ``kill`` reach the whole group: a server's workers too.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=None if environ is None else {**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._child.pid
        _reaper.tell("+", self.pid)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def signal(self, signum: int, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, signum)
            elif self.alive:
                os.kill(self.pid, signum)

    def stop(self, *, bound: float = 5.0) -> int:
        """SIGTERM, and SIGKILL if that does not end it. The exit status."""
        self.signal(signal.SIGCONT, group=True)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(bound)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL, to the group. Returns when it is gone."""
        self.signal(signal.SIGKILL, group=True)
        status = self._child.wait(BOUND)
        _reaper.tell("-", self.pid)
        return status

    def stall(self) -> None:
        """SIGSTOP, to the group. Returns when the process stands still."""
        self.signal(signal.SIGSTOP, group=True)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        self.signal(signal.SIGCONT, group=True)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


class EndedError(Exception):
    """A server ended before it answered."""
