"""A WSGI server of one request at a time per caller, and small origins."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any, NamedTuple

__all__ = ["Answer", "Gate", "ask", "environ_of", "in_threads", "start"]


class Answer(NamedTuple):
    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> str:
        """Cache-Status."""
        return self.headers.get("cache-status", "")


def environ_of(path: str = "/", method: str = "GET", **extra: Any) -> dict[str, Any]:
    """``extra``: variables of the environ; names of wsgi.* with an underscore for the dot."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.partition("?")[0],
        "QUERY_STRING": path.partition("?")[2],
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "example.org",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in extra.items():
        environ[name.replace("wsgi_", "wsgi.", 1)] = value
    return environ


class Server:
    """One request, step by step, with a server's rules (PEP 3333)."""

    def __init__(self) -> None:
        self.head: Any = None  # (status, fields)
        self.sent = False  # the head is on the wire
        self.body: list[bytes] = []

    def start_response(self, status: str, headers: list, exc_info: Any = None) -> Any:
        if exc_info is not None and self.sent:
            raise exc_info[1].with_traceback(exc_info[2])
        assert self.head is None or exc_info is not None, "two heads"
        self.head = (status, {name.lower(): value for name, value in headers})
        return self.write

    def write(self, data: bytes) -> None:
        assert self.head is not None, "a body before the head"
        if data:
            self.sent = True
            self.body.append(data)

    def answer(self) -> Answer:
        assert self.head is not None
        status, fields = self.head
        return Answer(status, fields, b"".join(self.body))


def ask(app: Any, path: str = "/", method: str = "GET", **extra: Any) -> Answer:
    server = Server()
    iterable = app(environ_of(path, method, **extra), server.start_response)
    try:
        for chunk in iterable:
            server.write(chunk)
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    return server.answer()


def start(app: Any, path: str = "/", **extra: Any) -> tuple[Any, Server]:
    """A request whose body the caller iterates and closes."""
    server = Server()
    return app(environ_of(path, **extra), server.start_response), server


class Gate:
    """Lets a thread wait for the test, and the test for the thread."""

    def __init__(self) -> None:
        self._reached = threading.Semaphore(0)
        self._open = threading.Event()

    def wait(self) -> None:
        self._reached.release()
        assert self._open.wait(10), "the test never opened the gate"

    def reached(self) -> None:
        assert self._reached.acquire(timeout=10), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


def in_threads(count: int, work: Any) -> list[Any]:
    """The results of ``count`` calls at once; an exception is a result."""
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        try:
            results[number] = work()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a request hangs"
    return results
