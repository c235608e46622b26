"""The call of the application, wherever LayerGate makes it.

Each call is known by a `RouteCall`, which stands in the environ: it refuses an application that has
itself inside, and collects what the route that answers says about its caching policy.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any

from layergate.assembly import wrong_world
from layergate.errors import ConfigError
from layergate.frameworks import KEY
from layergate.route_calls import RouteCall
from layergate.wsgi.environ import Environ
from layergate.wsgi.heads import App, Body, StartResponse

__all__ = ["ask", "begin_call", "refuse_recursion"]


def _target(environ: Environ) -> tuple[object, ...]:
    """What tells a request from those that an app makes of it while it answers it."""
    return (
        environ["REQUEST_METHOD"],
        environ.get("PATH_INFO"),
        environ.get("SCRIPT_NAME"),
        environ.get("QUERY_STRING"),
    )


def refuse_recursion(cache: object, environ: Environ) -> None:
    """Raises GateRecursion if the middleware of ``cache`` is making this very call already."""
    outer = environ.get(KEY)
    if outer is not None:
        outer.refuse(cache, _target(environ))


def begin_call(cache: object, environ: Environ) -> RouteCall:
    """A call of the app with ``environ``, for the middleware of ``cache``; noted in the environ. Raises
    GateRecursion if that is making this very call already."""
    outer, target = environ.get(KEY), _target(environ)
    if outer is not None:
        outer.refuse(cache, target)
    call = environ[KEY] = RouteCall(cache, target, outer)
    return call


def ask(app: App, environ: Environ, start_response: StartResponse) -> Body:
    """The app's own iterable. Raises ConfigError for what an ASGI application gives in its place."""
    body: Any = app(environ, start_response)
    if body.__class__ is CoroutineType:
        body.close()
        raise ConfigError(wrong_world(app, "ASGI"))
    return body  # type: ignore[no-any-return]
