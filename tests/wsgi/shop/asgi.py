"""The recipe for ASGI."""

from django.core.asgi import get_asgi_application

from layergate import LayerGate

application = LayerGate(get_asgi_application())
