"""The applications that the servers of `test_several_processes` run, each with LayerGate around it."""

from __future__ import annotations

import os
from typing import Any

from layergate import Admin, LayerGate, MemoryLayer
from layergate.layers.host import HostLayer
from layergate.wsgi import LayerGate as WsgiLayerGate


def options() -> dict[str, Any]:
    own: dict[str, Any] = {"admin": Admin(token="s3cret"), "shared": os.environ.get("SHARED")}
    if "LAYERS" in os.environ:
        own["layers"] = [MemoryLayer("1MB"), HostLayer(os.environ["LAYERS"])]
    return own


async def answer(scope, receive, send):
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"up"})


def answer_wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"up"]


asgi = LayerGate(answer, **options())
wsgi = WsgiLayerGate(answer_wsgi, **options())
