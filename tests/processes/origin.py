"""The application that the servers of `test_wsgi_servers` run, and LayerGate around it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from layergate import HttpCache
from layergate.wsgi import LayerGate, ThreadRuntime

calls: dict[str, int] = {}
_lock = threading.Lock()
_local = threading.local()


def origin(environ, start_response):
    path = environ["PATH_INFO"]
    with _lock:
        number = calls[path] = calls.get(path, 0) + 1
    _local.path = path
    control = "max-age=60"
    kind = path.split("/")[1]
    if kind == "swr":
        control = "max-age=1, stale-while-revalidate=60"
    elif kind in ("private", "private-file"):
        control = "private"
    headers = [
        ("Content-Type", "text/plain"),
        ("Cache-Control", control),
        ("X-Pid", str(os.getpid())),
    ]
    if kind == "slow":
        time.sleep(0.3)
    if kind in ("file", "private-file"):
        start_response("200 OK", headers)
        make = environ.get("wsgi.file_wrapper")
        opened = Path(__file__).open("rb")  # noqa: SIM115 - whoever sends it closes it
        return iter(lambda: opened.read(8192), b"") if make is None else make(opened, 8192)
    if kind == "stream":
        return stream(start_response, headers, path)
    body = f"{path} {number}".encode()
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]


def stream(start_response, headers, path):
    start_response("200 OK", headers)
    for number in range(3):
        time.sleep(0.1)
        assert getattr(_local, "path", None) == path or "GEVENT" in os.environ
        yield f"{number}\n".encode()


runtime = ThreadRuntime()
application = LayerGate(origin, cache=HttpCache(runtime=runtime))

if "USE_BEFORE_FORK" in os.environ:
    # As an application may that warms its cache when it is loaded: a response, and a refresh that
    # starts a background thread. With preload, workers are forked from here.
    from tests.support.wsgi import ask

    ask(application, "/warm", HTTP_HOST="warm.example")
    ask(application, "/swr/warm")
    time.sleep(1.1)
    ask(application, "/swr/warm")
    assert runtime.pending() or calls["/swr/warm"] == 2
