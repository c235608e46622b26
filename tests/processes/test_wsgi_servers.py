"""Real WSGI servers, each a process on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent.parent
APP = "tests.processes.origin:application"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are stopped with SIGTERM")


class Kind(NamedTuple):
    module: str
    command: tuple[str, ...]
    concurrent: bool = True
    environ: tuple[tuple[str, str], ...] = ()


def gunicorn(*options: str, concurrent: bool = True, environ: tuple = ()) -> Kind:
    command = (
        sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "3",
        "--no-control-socket", *options, APP,
    )  # fmt: skip
    return Kind("gunicorn", command, concurrent, environ)


def uwsgi(*options: str, concurrent: bool = True) -> Kind:
    command = (
        "uwsgi", "--http-socket", "127.0.0.1:{port}", "--master", "--die-on-term", "--need-app",
        "--pythonpath", str(ROOT), "--virtualenv", sys.prefix, "--module", APP, *options,
    )  # fmt: skip
    return Kind("pyuwsgi", command, concurrent)


SERVERS = {
    "gunicorn-sync": gunicorn("--worker-class", "sync", concurrent=False),
    "gunicorn-gthread": gunicorn("--worker-class", "gthread", "--threads", "8"),
    "gunicorn-gevent": gunicorn("--worker-class", "gevent", environ=(("GEVENT", "1"),)),
    "gunicorn-preload": gunicorn(
        "--worker-class", "gthread", "--threads", "8", "--preload",
        environ=(("USE_BEFORE_FORK", "1"),),
    ),
    "gunicorn-preload-gevent": gunicorn(
        "--worker-class", "gevent", "--preload",
        environ=(("USE_BEFORE_FORK", "1"), ("GEVENT", "1")),
    ),
    "waitress": Kind(
        "waitress",
        (sys.executable, "-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", APP),
    ),
    "uwsgi-threads": uwsgi("--enable-threads", "--threads", "8"),
    "uwsgi-no-threads": uwsgi(concurrent=False),
    "granian": Kind(
        "granian",
        (
            sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1",
            "--port", "{port}", "--workers", "1", "--blocking-threads", "8", APP,
        ),
    ),
}  # fmt: skip


class Running(NamedTuple):
    kind: Kind
    port: int
    process: subprocess.Popen
    log: Path

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
        """Status, Cache-Status, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheader("Cache-Status", ""), response.read()
        finally:
            connection.close()


@contextlib.contextmanager
def serving(kind: Kind, tmp_path: Path) -> Iterator[Running]:
    if kind.module == "pyuwsgi" and sys.version_info >= (3, 14):
        pytest.skip("pyuwsgi has no wheels for this Python")
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in kind.command]
    if command[0] == "uwsgi":
        scripts = sysconfig.get_path("scripts")
        uwsgi = shutil.which("uwsgi", path=scripts)
        assert uwsgi is not None, "pyuwsgi is not installed; `make test` does that"
        command[0] = uwsgi
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **dict(kind.environ), "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(kind, port, process, log)
    try:
        limit = time.monotonic() + 20
        while True:
            assert process.poll() is None, log.read_text()
            try:
                running.ask("/up")
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < limit, log.read_text()
                time.sleep(0.05)
        yield running
    finally:
        # Workers outlive a master that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


ALWAYS = "gunicorn-gthread"  # the others in `make test-frameworks`


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == ALWAYS else pytest.mark.frameworks)
        for name in SERVERS
    ],
)
def test_server(name: str, tmp_path: Path) -> None:
    with serving(SERVERS[name], tmp_path) as server:
        try:
            check(server)
            if name == "gunicorn-gthread":
                reload(server)
            stop(server)
        except BaseException:
            print(server.log.read_text())  # noqa: T201 - pytest shows it with the failure
            raise


def check(server: Running) -> None:
    # One cold key, a burst: one call.
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: server.ask("/slow/1"), range(6)))
    assert {(status, body) for status, _, body in answers} == {(200, b"/slow/1 1")}
    if server.kind.concurrent:
        assert sum("collapsed" in told for _, told, _ in answers) == 5, answers
    assert "hit" in server.ask("/slow/1")[1]
    # HEAD, from what is stored.
    assert server.ask("/slow/1", "HEAD")[::2] == (200, b"")
    # A stream, read along; then from the store.
    with ThreadPoolExecutor(3) as pool:
        streams = list(pool.map(lambda _: server.ask("/stream/1"), range(3)))
    assert {body for _, _, body in streams} == {b"0\n1\n2\n"}
    assert "hit" in server.ask("/stream/1")[1]
    # A file: stored, and (the private one) sent by the server itself.
    content = (ROOT / "tests/processes/origin.py").read_bytes()
    assert server.ask("/file/1")[2] == server.ask("/file/1")[2] == content
    assert "hit" in server.ask("/file/1")[1]
    for _ in range(2):  # the second time through a marker
        _, told, body = server.ask("/private-file/1")
        assert (body, "detail=private" in told) == (content, True)
    # Nobody's business.
    assert server.ask("/private/1")[2] != server.ask("/private/1")[2]
    # Unsafe methods invalidate.
    server.ask("/slow/1", "POST")
    assert "hit" not in server.ask("/slow/1")[1]
    # Stale, and refreshed in the background.
    assert server.ask("/swr/1")[2] == b"/swr/1 1"
    time.sleep(1.1)
    _, told, body = server.ask("/swr/1")
    assert (body, "stale-while-revalidate" in told) == (b"/swr/1 1", True)
    limit = time.monotonic() + 10
    while server.ask("/swr/1")[2] == b"/swr/1 1":
        assert time.monotonic() < limit, "not refreshed"
        time.sleep(0.02)
    if "USE_BEFORE_FORK" in dict(server.kind.environ):
        # What was stored before the fork is there, and the worker lives though the parent was used.
        assert "hit" in server.ask("/warm", Host="warm.example")[1]
    if server.kind.module == "pyuwsgi":
        threads = "--enable-threads" in server.kind.command
        assert ("enable-threads:" in server.log.read_text()) == (not threads)


def reload(server: Running) -> None:
    """gunicorn's SIGHUP: new workers, and the old one ends though it has background threads."""
    server.ask("/stream/2")
    assert "hit" in server.ask("/stream/2")[1]
    server.process.send_signal(signal.SIGHUP)
    limit = time.monotonic() + 10
    while True:
        assert time.monotonic() < limit, "the old worker is still there"
        with contextlib.suppress(OSError, http.client.HTTPException):
            if "fwd=" in server.ask("/stream/2")[1]:  # a cold cache: the new worker
                break
        time.sleep(0.05)
    assert "hit" in server.ask("/stream/2")[1]


def stop(server: Running) -> None:
    """The process ends soon, though background threads were started."""
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("the server hangs at its end")
    assert "Traceback" not in server.log.read_text()
