"""Real servers with several workers and no shared layer: found, logged, and said by the endpoint."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes.test_wsgi_servers import Kind, Running, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are stopped with SIGTERM")

ASGI, WSGI = "tests.processes.several:asgi", "tests.processes.several:wsgi"
AUTHORIZED = {"Authorization": "Bearer s3cret"}


def python(module: str, *options: str, **environ: str) -> Kind:
    return Kind(module, (sys.executable, "-m", module, *options), environ=tuple(environ.items()))


def uvicorn(*options: str, **environ: str) -> Kind:
    return python("uvicorn", "--port", "{port}", ASGI, *options, **environ)


def gunicorn(*options: str, app: str = WSGI, **environ: str) -> Kind:
    bind = ("--bind", "127.0.0.1:{port}", "--no-control-socket")
    return python("gunicorn", *bind, *options, app, **environ)


def uwsgi(processes: str) -> Kind:
    root = str(Path(__file__).parent.parent.parent)
    command = (
        "uwsgi", "--http-socket", "127.0.0.1:{port}", "--master", "--die-on-term", "--need-app",
        "--pythonpath", root, "--virtualenv", sys.prefix, "--module", WSGI, "--processes", processes,
        "--enable-threads",
    )  # fmt: skip
    return Kind("pyuwsgi", command)


SEVERAL = {
    "uvicorn": uvicorn("--workers", "2"),
    "uvicorn-environ": uvicorn(WEB_CONCURRENCY="2"),
    "gunicorn-sync": gunicorn("-w", "2"),
    "gunicorn-gthread": gunicorn("-w", "2", "--threads", "2"),
    "gunicorn-uvicorn": gunicorn("-w", "2", "-k", "uvicorn.workers.UvicornWorker", app=ASGI),
    "gunicorn-preload": gunicorn("-w", "2", "--preload"),
    "uwsgi": uwsgi("2"),
    "granian": python(
        "granian",
        "--interface",
        "asgi",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--workers",
        "2",
        ASGI,
    ),
    "hypercorn": python("hypercorn", "-w", "2", "-b", "127.0.0.1:{port}", ASGI),
}
ONE = {
    "uvicorn": uvicorn(),
    "uvicorn-reload": uvicorn("--reload", WEB_CONCURRENCY="2"),
    "gunicorn": gunicorn("-w", "1"),
    "gunicorn-preload": gunicorn("-w", "1", "--preload"),
    "uwsgi": uwsgi("1"),
    "waitress": python("waitress", "--listen", "127.0.0.1:{port}", WSGI, WEB_CONCURRENCY="2"),
    "shared": uvicorn("--workers", "2", SHARED="host:{folder}"),
    "shared-layers": uvicorn("--workers", "2", LAYERS="{folder}"),
}
LOGGED = "several processes serve this app"


def asked(server: Running, method: str, path: str, body: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    try:
        connection.request(method, f"/_layergate/{path}", body, AUTHORIZED)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def in_folder(kind: Kind, folder: Path) -> Kind:
    folder.mkdir(mode=0o700)
    environ = [(name, value.replace("{folder}", str(folder))) for name, value in kind.environ]
    return kind._replace(environ=tuple(environ))


def rows(kinds: dict[str, Kind], always: tuple[str, ...]) -> list[Any]:
    """``always``: in `make test`; the others in `make test-frameworks`."""
    return [
        pytest.param(name, marks=() if name in always else pytest.mark.frameworks) for name in kinds
    ]


@pytest.mark.parametrize("name", rows(SEVERAL, ("uvicorn", "gunicorn-sync")))
def test_several_processes(name: str, tmp_path: Path) -> None:
    kind = SEVERAL[name]
    with serving(kind, tmp_path) as server:
        status, answer = asked(server, "POST", "purge", '{"tags": ["a"]}')
        assert (status, answer["success"]) == (202, True)
        assert answer["result"]["scope"] == "process"
        assert "keep what they hold" in answer["messages"][0]["message"]
        status, stats = asked(server, "GET", "stats")
        assert (status, set(stats["process"])) == (200, {"pid", "host"})
    lines = [line for line in server.log.read_text().splitlines() if LOGGED in line]
    # Once in each process, though this application has two caches. A master that loads the application
    # says it for its workers.
    assert 1 <= len(lines) <= (1 if name in ("gunicorn-preload", "uwsgi") else 2)
    assert all('shared="host"' in line for line in lines)


@pytest.mark.parametrize("name", rows(ONE, ("uvicorn", "shared")))
def test_one_process_or_one_cache(name: str, tmp_path: Path) -> None:
    with serving(in_folder(ONE[name], tmp_path / "shared"), tmp_path) as server:
        status, answer = asked(server, "POST", "purge", '{"tags": ["a"]}')
        assert (status, answer["messages"]) == (200, [])
        assert answer["result"]["scope"] == ("host" if name.startswith("shared") else "process")
    assert LOGGED not in server.log.read_text()
