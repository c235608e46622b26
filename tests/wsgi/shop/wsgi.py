"""The recipe for WSGI."""

from django.core.wsgi import get_wsgi_application

from layergate.wsgi import LayerGate

application = LayerGate(get_wsgi_application())
