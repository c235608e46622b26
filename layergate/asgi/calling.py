"""The call of the application, wherever LayerGate makes it.

Each call is known by a `RouteCall`, which stands in the scope: it refuses an application that has itself
inside, and collects what the route that answers says about its caching policy.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeAlias

from layergate.asgi.messages import App, Receive, Scope, Send
from layergate.assembly import wrong_world
from layergate.errors import ConfigError
from layergate.frameworks import KEY
from layergate.route_calls import RouteCall

__all__ = ["ask", "begin_call", "refuse_recursion"]

_Target: TypeAlias = tuple[str, str, str, bytes]


def _target(scope: Scope) -> _Target:
    """What tells a request from those that an app makes of it while it answers it."""
    return (
        scope["method"],
        scope["path"],
        scope.get("root_path", ""),
        scope.get("query_string", b""),
    )


def refuse_recursion(cache: object, scope: Scope) -> None:
    """Raises GateRecursion if the middleware of ``cache`` is making this very call already."""
    outer = scope.get(KEY)
    if outer is not None:
        outer.refuse(cache, _target(scope))


def begin_call(cache: object, scope: Scope) -> RouteCall:
    """A call of the app with ``scope``, for the middleware of ``cache``. Raises GateRecursion if that
    is making this very call already."""
    outer, target = scope.get(KEY), _target(scope)
    if outer is not None:
        outer.refuse(cache, target)
    return RouteCall(cache, target, outer)


def ask(app: App, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """The app's own awaitable. Raises ConfigError if it gives none, as a WSGI application does."""
    answer: Any = app(scope, receive, send)
    if not hasattr(answer, "__await__"):
        raise ConfigError(wrong_world(app, "WSGI"))
    return answer  # type: ignore[no-any-return]
