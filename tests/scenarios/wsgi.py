"""A clock, a scripted origin and a client, for WSGI. Both sides of the middleware are checked
against PEP 3333 by `wsgiref.validate`, where what a row says can be said in WSGI at all."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.validate import validator

from tests.scenarios.checks import OriginFailed, OriginLost, Seen, script_of
from tests.scenarios.model import Reply, Scenario, Step
from tests.support.clocks import ThreadClock

__all__ = ["Origin", "ThreadClock", "ask", "at_hand", "environ_of", "valid"]

# What the validator asks of a response with content, and nothing in the table is about.
TYPE = ("Content-Type", "text/plain")
_CONTROL = re.compile(r"[\x00-\x1f]")
_KNOWN = {"GET", "HEAD", "POST", "OPTIONS", "PATCH", "PUT", "DELETE", "TRACE"}


class Origin:
    """A WSGI app that answers from a step's script."""

    def __init__(self, clock: ThreadClock) -> None:
        self.clock = clock
        self.script: list[Reply] = []
        self.seen: list[list[tuple[str, str]]] = []
        self.gate: threading.Event | None = None
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self.lock:
            self.seen.append(_fields(environ))
            reply = self.script.pop(0) if self.script else Reply(599, body=b"unexpected call")
        if self.gate is not None:
            assert self.gate.wait(10)
        self.clock.time += reply.takes
        if reply.raises:
            raise OriginFailed
        if reply.lost:
            raise OriginLost
        headers = list(reply.lines)
        if reply.status not in (204, 304) and not any(
            n.lower() == "content-type" for n, _ in headers
        ):
            headers.append(TYPE)
        start_response(f"{reply.status} Status", headers)
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else reply.body
        size = -(-len(body) // reply.chunks)
        parts = [body[i : i + size] for i in range(0, len(body), size)] if size else []
        # In one part it is all at hand, as in one message of ASGI.
        return parts if reply.chunks == 1 else iter(parts)


def _fields(environ: dict[str, Any]) -> list[tuple[str, str]]:
    names = [name for name in environ if name.startswith("HTTP_")]
    return [(name[5:].lower().replace("_", "-"), environ[name]) for name in names]


def environ_of(step: Step, extra: list | tuple = ()) -> dict[str, Any]:
    path, _, query = step.target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": step.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": step.target,
        "QUERY_STRING": query,
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "example.org",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": step.scheme,
        "wsgi.input": io.BytesIO(step.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    seen: set[str] = set()
    for name, value in [*step.headers, *extra]:
        variable = "HTTP_" + name.upper().replace("-", "_")
        if variable in ("HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"):
            variable = variable[5:]
        # As servers do: the lines of one field become one value (RFC 3875 4.1.18).
        environ[variable] = f"{environ[variable]}, {value}" if variable in seen else value
        seen.add(variable)
    if step.body:
        environ["CONTENT_LENGTH"] = str(len(step.body))
    return environ


def valid(scenario: Scenario) -> bool:
    """May the validator look at all of this? It takes no control characters and no other methods
    than those it knows."""
    steps = [*scenario.steps, *(step.meanwhile for step in scenario.steps if step.meanwhile)]
    for step in steps:
        replies = script_of(step)
        lines = [*step.headers, *(line for reply in replies for line in reply.lines)]
        if step.method not in _KNOWN or any(_CONTROL.search(name + value) for name, value in lines):
            return False
        for reply in replies:
            names = {name.lower() for name, _ in reply.lines}
            if reply.status in (204, 304) and "content-type" in names:
                return False
    return True


def at_hand(app: Any) -> Any:
    """The same app, whose responses in one part are lists again, which the validator hides."""

    def whole(environ: dict[str, Any], start_response: Any) -> Any:
        iterable = app(environ, start_response)
        try:
            parts = list(iterable)
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
        return parts if len(parts) < 2 else iter(parts)

    return whole


def checked(app: Any) -> Any:
    """The validator, around an app that need not name a type for what it makes up itself."""

    def typed(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            has = any(name.lower() == "content-type" for name, _ in headers)
            if not has and status[:3] not in ("204", "304"):
                headers = [*headers, TYPE]
            return start_response(status, headers, *exc_info)

        return app(environ, start)

    return validator(typed)


def ask(app: Any, step: Step, extra: list | tuple = (), *, validate: bool = True) -> Seen:
    """Make the request, as a server does."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    pushed: list[bytes] = []

    def start_response(status: str, headers: Any, *exc_info: Any) -> Any:
        assert not heads or exc_info, "two heads"
        heads[:] = [(status, [(name.lower(), value) for name, value in headers])]
        return pushed.append

    body: list[bytes] = []
    iterable: Any = None
    try:
        iterable = (checked(app) if validate else app)(environ_of(step, extra), start_response)
        body.extend(iterable)
    except OriginFailed:
        return Seen(None, [], b"")
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    status, lines = heads[0]
    lines = [line for line in lines if line != (TYPE[0].lower(), TYPE[1])]
    return Seen(int(status[:3]), lines, b"".join(pushed + body))
