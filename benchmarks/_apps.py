"""The apps to measure, all with the same 2 KB JSON response.

uvicorn starts the module-level apps. Each is built on first access, so a server process imports only
the app that it serves.
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
    """A bare ASGI callable: the floor, and the origin behind the caches.

    It counts its calls, so a benchmark can check that a "hit" did not reach it.
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
        if scope["type"] != "http":  # lifespan: uvicorn continues without it
            raise RuntimeError("http only")
        self.calls += 1
        # Copies, because middleware may modify the messages.
        await send(self.start.copy())
        await send(self.body.copy())


def starlette_route() -> ASGIApp:
    """A route that returns ready bytes: the minimum that Starlette does for any response."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def item(request: Any) -> Response:
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/item", item)])


def fastapi_route() -> ASGIApp:
    """A route that returns a dict, the usual way to use FastAPI."""
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
    """Build the app that `uvicorn _apps:floor` and similar commands name."""
    if name not in _SERVED:
        raise AttributeError(name)
    app = _SERVED[name]()
    globals()[name] = app
    return app
