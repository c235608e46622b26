"""The same 2 KB JSON response from everything that is measured.

Module-level apps are what uvicorn is started with; each is built on first access, so that a server
process imports only what it serves.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["BODY", "DOCUMENT", "Origin", "fastapi_route", "starlette_route"]

ASGIApp = Callable[..., Awaitable[None]]


def _document() -> dict[str, Any]:
    """Twenty small records, padded to 2048 bytes as compact JSON."""
    document: dict[str, Any] = {
        "items": [
            {"id": number, "name": f"Product No. {number}", "price": number * 1.25, "stock": True}
            for number in range(1, 21)
        ],
        "padding": "",
    }
    document["padding"] = "x" * (2048 - len(_compact(document)))
    return document


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


DOCUMENT = _document()
BODY = _compact(DOCUMENT)


class Origin:
    """A bare ASGI callable: the floor, and what the caches are put in front of.

    Counts its calls, so that a benchmark can tell that a "hit" was one.
    """

    def __init__(self, *headers: tuple[bytes, bytes], body: bytes = BODY) -> None:
        self.calls = 0
        self.start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
        self.body = {"type": "http.response.body", "body": body, "more_body": False}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # lifespan: uvicorn goes on without
            raise RuntimeError("http only")
        self.calls += 1
        # Copies: a middleware may write into what it is sent.
        await send(self.start.copy())
        await send(self.body.copy())


def starlette_route() -> ASGIApp:
    """A route that returns ready bytes: the least that Starlette does for any response."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def item(request: Any) -> Response:
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/item", item)])


def fastapi_route() -> ASGIApp:
    """A route that returns a dict, as FastAPI is used."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/item")
    async def item() -> dict[str, Any]:
        return DOCUMENT

    return app


def layergate_hit() -> ASGIApp:
    from layergate import LayerGate

    return LayerGate(Origin((b"cache-control", b"public, max-age=86400")))


_SERVED: dict[str, Callable[[], ASGIApp]] = {
    "floor": Origin,
    "layergate": layergate_hit,
    "starlette": starlette_route,
    "fastapi": fastapi_route,
}


def __getattr__(name: str) -> ASGIApp:
    """`uvicorn _apps:floor` and so on."""
    if name not in _SERVED:
        raise AttributeError(name)
    app = _SERVED[name]()
    globals()[name] = app
    return app
