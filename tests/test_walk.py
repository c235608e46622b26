"""The walk of a request in docs/architecture.md is the one that real requests take.

A trace notes each file of the adapter, the engine and the stack when one of its functions is called.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import layergate
from layergate import LayerGate

ROOT = str(Path(layergate.__file__).parent) + "/"
PAGE = (Path(__file__).parents[1] / "docs/architecture.md").read_text()
TOLD = ("asgi/", "http/engine/", "core/stack/")
FRESH = (b"cache-control", b"public, max-age=600")
STALE = (b"cache-control", b"max-age=0, stale-while-revalidate=600")


class Walk:
    """``files``: in the order in which they are entered; ``again``: those that are entered again."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.again: set[str] = set()
        self._last = ""

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(ROOT):
            return
        file = name[len(ROOT) :]
        if file.startswith(TOLD):
            if file not in self.files:
                self.files.append(file)
            elif file != self._last:
                self.again.add(file)
            self._last = file


@contextmanager
def walk() -> Iterator[Walk]:
    found = Walk()
    before = sys.getprofile()
    sys.setprofile(found.note)
    try:
        yield found
    finally:
        sys.setprofile(before)


async def app(scope: Any, receive: Any, send: Any) -> None:
    headers = [STALE if scope["path"] == "/stale" else FRESH, (b"content-length", b"4")]
    headers.append((b"etag", b'"a"'))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"body"})


def scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org")],
        "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80),
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def sink(message: Any) -> None:
    pass


async def ask(gate: LayerGate, path: str) -> None:
    await gate(scope(path), receive, sink)
    for _ in range(20):  # what a refresh does in a task of its own
        await asyncio.sleep(0)


async def hit(gate: LayerGate) -> None:
    await ask(gate, "/warm")


async def miss(gate: LayerGate) -> None:
    await ask(gate, "/cold")


async def stale(gate: LayerGate) -> None:
    await ask(gate, "/stale")


async def purge(gate: LayerGate) -> None:
    await gate.purge(urls=["http://example.org/warm"])


@pytest.mark.parametrize("kind", [hit, miss, stale, purge])
def test_the_walk_is_as_told(kind: Callable[[LayerGate], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> Walk:
        gate = LayerGate(app, telemetry=False)
        for path in ("/warm", "/stale"):
            await ask(gate, path)
        with walk() as found:
            await kind(gate)
        await gate.cache.aclose()
        return found

    found = asyncio.run(scenario())
    (told,) = re.findall(rf"<!-- walk: {kind.__name__} -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert told.split() == found.files
    table = PAGE[PAGE.index("| entered again |") :].partition("\n\n")[0]
    assert found.again <= set(re.findall(r"`([a-z0-9_/]+\.py)`", table))
