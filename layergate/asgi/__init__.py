"""ASGI: `LayerGate`, the middleware."""

from layergate.asgi.middleware import LayerGate

__all__ = ["LayerGate"]
