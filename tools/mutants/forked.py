"""Runs pytest in a fork of this process, and says what became of it.

What takes longest about a small test run is importing pytest, plugins and frameworks. `Runner`
imports them once (`preload`); each `run` is a fork that has them already, imports LayerGate and the
tests from the copy of the tree, and ends. A fork that makes no progress for too long is killed with
all its processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

# Imported before the first fork; what is missing here only costs time, what is not installed nothing.
_PRELOADED: Final = (
    "pytest", "_pytest.assertion.rewrite", "_pytest.junitxml", "pytest_asyncio.plugin", "xdist.plugin",
    "hypothesis", "hypothesis.stateful", "hypothesis.extra._patching", "_hypothesis_pytestplugin", "anyio",
    "starlette.applications", "starlette.testclient", "starlette.middleware.sessions", "fastapi", "fastapi.testclient",
    "httpx", "h11", "httptools", "uvloop", "uvicorn", "redis", "redis.asyncio", "redis.asyncio.cluster", "redis.sentinel",
    "msgpack", "backports.zstd", "trustme", "cryptography.x509", "http_sf", "flask", "django", "werkzeug.test",
    "opentelemetry.sdk.trace", "opentelemetry.sdk.metrics", "waitress", "asyncio", "concurrent.futures", "multiprocessing",
    "sqlite3", "ssl", "http.server", "urllib.request", "email.utils", "wsgiref.handlers",
)  # fmt: skip
_COLLECTION: Final = 120.0  # seconds without a test that begins
# (Preloaded plugins cannot be rewritten any more; nobody reads their assertions here.)
QUIET: Final = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_FAILED: Final = "failed"
_PASSED: Final = "passed"


@dataclass(slots=True)
class Outcome:
    """What a run came to. ``ended`` is pytest's exit status; ``None`` for a run that was killed."""

    ended: int | None
    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    functions: dict[str, list[str]] = field(default_factory=dict)
    last: str = ""  # the test that ran when the run was killed

    @property
    def survived(self) -> bool:
        return self.ended in {0, 5}  # 5: no test was selected

    @property
    def killer(self) -> str:
        if self.failed:
            return self.failed[0]
        return (
            f"hang in {self.last or 'collection'}" if self.ended is None else "import or collection"
        )


def be_alone() -> None:
    """In a fork: a process group of its own, and no output."""
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    shown = os.environ.get("MUTANTS_OUTPUT")
    out = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if shown else nothing
    for number in (0, 1, 2):
        os.dup2(out if number else nothing, number)


class Reporter:
    """A pytest plugin: selects tests, and writes what happens into a pipe, a line of JSON each."""

    def __init__(
        self,
        pipe: int,
        order: Mapping[str, int] | None,
        watched: Path | None,
        skipped: frozenset[str],
    ) -> None:
        self.pipe = pipe
        self._order = order
        self._skipped = skipped
        self._watched = None if watched is None else str(watched)
        self._entered: dict[int, CodeType] = {}
        self._begun = 0.0

    def _write(self, *event: Any) -> None:
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.pipe, data) :]

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid not in self._skipped]
        order = self._order
        if order is not None:
            kept = [item for item in kept if item.nodeid in order]
            files: dict[str, int] = {}
            for item in sorted(kept, key=lambda item: order[item.nodeid]):
                files.setdefault(str(item.path), len(files))
            kept.sort(key=lambda item: files[str(item.path)])
        items[:] = kept

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._entered = {}
        self._begun = time.monotonic()
        self._write("begun", nodeid)
        if self._watched is not None:
            threading.settrace(self._enter)
            sys.settrace(self._enter)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._write(_FAILED, report.nodeid, report.when)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        taken = time.monotonic() - self._begun
        names = set()
        if self._watched is not None:
            for code in list(self._entered.values()):
                if code.co_filename.startswith(self._watched):
                    below = os.path.relpath(code.co_filename, self._watched)
                    names.add(f"{below}:{code.co_qualname}")
        self._write(_PASSED, nodeid, round(taken, 3), sorted(names))

    def _enter(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        self._entered[id(code)] = code  # (kept alive, so that its id stays its own)


class Runner:
    def __init__(self, copy: Path) -> None:
        self.copy = copy

    def preload(self) -> None:
        root = str(Path(__file__).resolve().parent.parent.parent)
        sys.path[:] = [str(self.copy), *(path for path in sys.path if path not in {"", root})]
        os.environ["PYTHONPATH"] = str(self.copy)  # for processes that tests start
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        os.chdir(self.copy)
        with warnings.catch_warnings(action="ignore"):
            for name in _PRELOADED:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        mine = [name for name in sys.modules if name.split(".")[0] in {"layergate", "tests"}]
        for name in mine:
            del sys.modules[name]

    def run(
        self,
        files: Iterable[str],
        *,
        order: Mapping[str, int] | None = None,
        watch: bool = False,
        first: bool = True,
        skipped: frozenset[str] = frozenset(),
        limits: Mapping[str, float] | None = None,
        total: float = 3600.0,
    ) -> Outcome:
        """Run the tests of the files; ``first``: stop at the first failure. ``order`` selects tests
        by their ids. ``limits``: seconds that a test may take. ``total``: seconds for all."""
        listed = list(files)

        def child(pipe: int) -> None:
            self._child(pipe, listed, order, watch, first, skipped)

        return self.fork(child, limits or {}, total)

    def fork(
        self, work: Callable[[int], None], limits: Mapping[str, float], total: float
    ) -> Outcome:
        """Follow what ``work``, in a fork, writes into the pipe that it is given."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                work(writing)
            finally:
                os._exit(70)
        os.close(writing)
        try:
            return self._follow(child, reading, limits, total)
        finally:
            os.close(reading)

    def _child(
        self,
        pipe: int,
        files: Sequence[str],
        order: Mapping[str, int] | None,
        watch: bool,
        first: bool,
        skipped: frozenset[str],
    ) -> None:
        code = 70
        try:
            be_alone()
            import pytest

            given = [*QUIET, *(["-x"] if first else []), *files]
            reporter = Reporter(pipe, order, self.copy / "layergate" if watch else None, skipped)
            code = int(pytest.main(given, plugins=[reporter]))
        finally:
            os._exit(code)

    def _follow(self, child: int, pipe: int, limits: Mapping[str, float], total: float) -> Outcome:
        outcome = Outcome(ended=None)
        end = time.monotonic() + total
        until = time.monotonic() + _COLLECTION
        rest = b""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        while (left := min(until, end) - time.monotonic()) > 0:
            ready, _, _ = select.select([pipe], [], [], left)
            if not ready:
                break
            data = os.read(pipe, 1 << 16)
            if not data:
                # Fixtures are torn down and the process ends; not before long, if it hangs there.
                if self._ends(child, min(30.0, end - time.monotonic()), outcome):
                    return outcome
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event[0] == "begun":
                    outcome.last = event[1]
                    until = time.monotonic() + limits.get(event[1], 120.0)
                elif event[0] == _FAILED:
                    outcome.failed.append(event[1])
                    until = time.monotonic() + 30
                else:
                    outcome.seconds[event[1]] = event[2]
                    outcome.functions[event[1]] = event[3]
                    until = time.monotonic() + _COLLECTION
        self._kill(child)
        os.waitpid(child, 0)
        if outcome.failed:
            outcome.ended = 1
        return outcome

    def _ends(self, child: int, seconds: float, outcome: Outcome) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                outcome.ended = os.waitstatus_to_exitcode(status)
                self._kill(child)  # what its tests left running
                return True
            time.sleep(0.01)
        return False

    @staticmethod
    def _kill(child: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
