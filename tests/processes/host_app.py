"""The applications of a history of purges on one host (`tests/support/host_history.py`).

They answer with the version that is the newest when the call begins, a few milliseconds later. With
``HOST_PLANTED`` a rule is taken out, so that a history finds it to be wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

from layergate import Admin, LayerGate
from layergate.layers.host.journal import JournalFile
from layergate.layers.host.log import HostLog
from layergate.wsgi import LayerGate as WsgiLayerGate
from tests.support.host_truth import Truth, content, tag_of


def compares_nothing() -> None:
    """A process does not see that the log has grown."""
    HostLog.end = property(lambda log: (log.applied,), lambda *_: None)  # type: ignore[assignment]


def notices_no_replacement() -> None:
    """A process goes on with the file that it has open."""
    setattr(JournalFile, "is_current", lambda _: True)  # noqa: B010 - a type that mypy refuses


def waits_for_nobody() -> None:
    """A purge in a new file is final although others may still have the old one open."""
    setattr(HostLog, "_settled", _settled)  # noqa: B010


async def _settled(*_: Any) -> bool:
    return True


PLANTED = {
    one.__name__: one for one in (compares_nothing, notices_no_replacement, waits_for_nobody)
}

if name := os.environ.get("HOST_PLANTED"):
    PLANTED[name]()

truth = Truth(Path(os.environ["HOST_TRUTH"]))

_LONGEST = 0.01  # seconds that a call of the app takes
_OPTIONS: dict[str, Any] = {
    "shared": os.environ["HOST_SHARED"],
    # Not all of it fits, so that some hits are in the folder.
    "memory": "64KB",
    "admin": Admin(token=os.environ["HOST_TOKEN"]),
}


def page(path: str) -> tuple[bytes, list[tuple[str, str]], float]:
    """The body as of now, its fields, and how long it takes to make."""
    key = int(path.rpartition("/")[2])
    body = content(key, truth.newest[key])
    fields = [
        ("content-type", "text/plain"),
        ("content-length", str(len(body))),
        # Some are stored again and again, without a purge.
        ("cache-control", "max-age=600" if key % 4 else "max-age=1"),
        ("cache-tag", tag_of(key)),
    ]
    return body, fields, random.random() * _LONGEST


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    body, fields, seconds = page(scope["path"])
    await asyncio.sleep(seconds)
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def answer_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    body, fields, seconds = page(environ["PATH_INFO"])
    time.sleep(seconds)
    start_response("200 OK", fields)
    return [body]


def asgi() -> Any:
    return LayerGate(answer, **_OPTIONS)


def wsgi() -> Any:
    """With ``HOST_BEFORE_FORK``: used before a preloading server forks."""
    gated = WsgiLayerGate(answer_wsgi, **_OPTIONS)
    if path := os.environ.get("HOST_BEFORE_FORK"):
        from tests.support.host_truth import HOST_NAME
        from tests.support.wsgi import ask

        ask(gated, path, HTTP_HOST=HOST_NAME)
    return gated
