"""Uses the installed wheel as a stranger would: no source tree, no framework."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import metadata
from pathlib import Path
from typing import Any

import layergate
from layergate import LayerGate
from layergate.wsgi import LayerGate as WSGILayerGate

Message = MutableMapping[str, Any]
calls = 0


async def origin(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    global calls  # noqa: PLW0603 - one counter, one script
    calls += 1
    assert scope["type"] == "http"
    await receive()
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=60")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello", "more_body": False})


async def ask(app: Callable[..., Awaitable[None]]) -> tuple[int, str, bytes]:
    """Status, Cache-Status and body of one GET."""
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/hello",
        "raw_path": b"/hello",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"example.org")],
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 80),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    headers = {bytes(name).lower(): bytes(value) for name, value in start["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return start["status"], headers.get(b"cache-status", b"").decode(), body


async def main() -> None:
    global calls  # noqa: PLW0603
    await fetched_once(LayerGate(origin))
    with tempfile.TemporaryDirectory() as folder:
        calls = 0
        await fetched_once(LayerGate(origin, shared=f"host:{folder}/cache"))
        calls = 1  # another process finds what this one has stored
        assert "hit" in (await ask(LayerGate(origin, shared=f"host:{folder}/cache")))[1]


async def fetched_once(app: LayerGate) -> None:
    first = await ask(app)
    second = await ask(app)
    assert first[0] == second[0] == 200, (first, second)
    assert first[2] == second[2] == b"hello", (first, second)
    assert "fwd=" in first[1], first
    assert "hit" in second[1], second
    assert calls == 1, f"the app was called {calls} times, expected 1"


def sync_main() -> None:
    """The same, as a WSGI server asks."""
    called: list[int] = []
    told: list[str] = []

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        called.append(1)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Control", "max-age=60")])
        return [b"hello"]

    def start_response(_: str, headers: list[tuple[str, str]], *__: Any) -> Callable[..., Any]:
        told.append(dict(headers)["cache-status"])
        return told.append

    gate = WSGILayerGate(app)
    for _ in range(2):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/hello", "HTTP_HOST": "example.org"}
        body = gate({**environ, "wsgi.url_scheme": "http"}, start_response)
        assert b"".join(body) == b"hello", body
    assert "fwd=" in told[0], told
    assert "hit" in told[1], told
    assert called == [1], f"the app was called {len(called)} times, expected 1"


package = Path(layergate.__file__).parent
assert package.is_relative_to(sys.prefix), f"imported {package}, not the wheel in {sys.prefix}"
assert (package / "py.typed").is_file(), "the wheel has no py.typed"
assert layergate.__version__ == metadata.version("layergate")
assert "Apache" in (metadata.metadata("layergate")["License-Expression"] or "")
foreign = {name.partition(".")[0] for name in sys.modules} & {
    "starlette",
    "fastapi",
    "anyio",
    "flask",
    "django",
}
assert not foreign, f"importing layergate pulled in {foreign}"
asyncio.run(main())
sync_main()
print(f"wheel: layergate {layergate.__version__} works on its own")
