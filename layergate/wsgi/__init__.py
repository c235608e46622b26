"""The WSGI side: Flask, Django and every other PEP 3333 application."""

from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi.middleware import LayerGate

__all__ = ["LayerGate", "ThreadRuntime"]
