"""What `test_command.py` asks: an app behind LayerGate with an admin endpoint, and one without."""

from __future__ import annotations

from typing import Any

from layergate import Admin, LayerGate, Rule

HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "/fresh": [
        (b"cache-control", b"max-age=60, stale-while-revalidate=30"),
        (b"etag", b'"1"'),
        (b"cache-tag", b"product:7, products"),
    ],
    "/silent": [],
    "/login": [(b"cache-control", b"max-age=60"), (b"set-cookie", b"session=s3cret-session")],
    "/hostile": [(b"cache-control", b"max-age=60"), (b"cache-tag", b"a\x1b[31mb")],
    "/redirect": [(b"location", b"/fresh")],
}


async def origin(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"].removeprefix("/plain")
    seen = b" ".join(name for name, _ in scope["headers"])
    headers = [*HEADERS.get(path, []), (b"x-seen", seen), (b"content-length", b"2")]
    status = 302 if path == "/redirect" else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


gated = LayerGate(
    origin,
    rules=[Rule("/ruled/{id}", ttl=60, tags=["product:{id}"])],
    admin=Admin(token="s3cret-token"),
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and scope["path"].startswith("/plain/"):
        await origin(scope, receive, send)
    else:
        await gated(scope, receive, send)
