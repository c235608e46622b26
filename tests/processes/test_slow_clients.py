"""Clients that take nothing, or leave, of real servers over real sockets."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import slow_origin
from tests.processes.test_wsgi_servers import Kind, Running, serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are stopped with SIGTERM")

APP = "tests.processes.slow_origin:wsgi"
ASGI = "tests.processes.slow_origin:asgi"


def uvicorn(http: str) -> Kind:
    command = (
        sys.executable, "-m", "uvicorn", ASGI, "--port", "{port}", "--http", http,
        "--lifespan", "off", "--no-access-log",
    )  # fmt: skip
    return Kind("uvicorn", command)


def gunicorn(*options: str) -> Kind:
    command = (
        sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1",
        "--no-control-socket", *options, APP,
    )  # fmt: skip
    return Kind("gunicorn", command)


THREADS = gunicorn("--worker-class", "gthread", "--threads", "8")
STREAMING = {
    "uvicorn-h11": uvicorn("h11"),
    "uvicorn-httptools": uvicorn("httptools"),
    "gunicorn-gthread": THREADS,
    "waitress": Kind(
        "waitress",
        (sys.executable, "-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", APP),
    ),
}


def stuck(server: Running, path: str) -> socket.socket:
    """A client that asks, and takes nothing but what its small window holds."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(15)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    return client


@pytest.mark.parametrize(
    "name",
    [
        "uvicorn-httptools",
        "gunicorn-gthread",
        pytest.param("uvicorn-h11", marks=pytest.mark.frameworks),
        pytest.param("waitress", marks=pytest.mark.frameworks),
    ],
)
def test_a_client_that_takes_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    """24 MB, more than is stored: three clients read, and a fourth takes nothing."""
    whole = b"".join(
        bytes([number % 251]) * slow_origin.PART for number in range(slow_origin.PARTS)
    )
    with serving(STREAMING[name], tmp_path) as server:
        reading = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        reading.request("GET", "/stream")
        leading = reading.getresponse()  # it leads, and the others follow
        client = stuck(server, "/stream")
        assert client.recv(15)[:8] == b"HTTP/1.1"

        def follow() -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/stream")
            response = connection.getresponse()
            body = response.read()
            assert "collapsed" in response.getheader("Cache-Status", "")
            connection.close()
            return body

        with ThreadPoolExecutor(3) as pool:
            following = [pool.submit(follow) for _ in range(2)]
            assert leading.read() == whole
            assert all(one.result(60) == whole for one in following)
        reading.close()
        client.close()


@pytest.mark.parametrize("http", ["httptools", pytest.param("h11", marks=pytest.mark.frameworks)])
def test_slow_readers_of_a_hit_hold_no_copies(http: str, tmp_path: Path) -> None:
    """Sixty of 8 MB held 480 MB."""
    with serving(uvicorn(http), tmp_path) as server:
        assert "stored" in server.ask("/hit")[1]
        assert "hit" in server.ask("/hit")[1]
        before = int(server.ask("/resident")[2])
        clients = [stuck(server, "/hit") for _ in range(60)]
        for client in clients:
            assert client.recv(15)[:8] == b"HTTP/1.1"
        held = int(server.ask("/resident")[2]) - before
        for client in clients:
            client.close()
        assert held < 60 * 1024 * 1024


@pytest.mark.parametrize("worker", ["gthread", pytest.param("sync", marks=pytest.mark.frameworks)])
def test_a_client_that_leaves_a_stream_frees_the_thread(worker: str, tmp_path: Path) -> None:
    """A response of twenty seconds, whose client leaves after the first part."""
    options = ("--threads", "1") if worker == "gthread" else ()
    with serving(gunicorn("--worker-class", worker, *options), tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=15) as client:
            client.sendall(b"GET /steps HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100)
        began = time.monotonic()
        assert server.ask("/up")[2] == b"up"
        # It notices when it sends the next part or the one after.
        assert time.monotonic() - began < 10
