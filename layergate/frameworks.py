"""The endpoint that a web framework has routed a request to, and whether that endpoint requires a user.

This module knows FastAPI, Starlette, Litestar, Flask, Quart and Django with Django REST framework. It imports
none of them: a framework that the process has not imported has routed nothing. `layergate.route_calls` calls
it. Nothing here knows about caching, and nothing here calls an application.

A framework tells what it has routed in one of three places: in the ASGI scope, in its current request (a
context variable), or in the request object that it hands to a view. A current request counts only if it is
the one that LayerGate handed to the application: its scope or environ carries, under `KEY`, the object of
this very call. So a request that an endpoint makes to its own application is never mistaken for the one that
is being answered.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["KEY", "Called", "Routed", "core", "current", "routed"]

KEY: Final = "layergate.route"
"""Scope key, and variable of the environ: the object that stands for one call of the application."""

_DEPTH: Final = 64  # wrappers around one function; a longer chain is not followed further
_FUNCTIONS: Final = (types.FunctionType, types.MethodType, functools.partial, type)
_ENTRANCES: Final = ("dispatch", "dispatch_request")

# An endpoint that is wrapped in a function of one of these modules requires a user.
_AUTH_MODULES: Final = frozenset({
    "django.contrib.admin.sites", "django.contrib.auth.decorators", "django.contrib.auth.mixins",
    "starlette.authentication",
})  # fmt: skip
_AUTH_PACKAGES: Final = frozenset({
    "authlib", "flask_httpauth", "flask_jwt_extended", "flask_login", "flask_oidc", "flask_principal",
    "flask_security", "guardian", "oauth2_provider", "quart_auth", "quart_jwt_extended",
})  # fmt: skip
# Permissions of Django REST framework that every client has, and those that every client has for reading.
_FREE_PERMISSIONS: Final = frozenset({"AllowAny"})
_READ_PERMISSIONS: Final = _FREE_PERMISSIONS | {
    "IsAuthenticatedOrReadOnly", "DjangoModelPermissionsOrAnonReadOnly",
}  # fmt: skip


class Called(NamedTuple):
    """One call of a decorated function.

    ``function``, ``bound``: see `core`. ``first``: the first positional argument, or None. For a method,
    that is its instance.
    """

    function: Any
    bound: Any
    first: Any


class Routed(NamedTuple):
    """What a request was routed to.

    ``endpoint``: the function, class or object. ``params``: the parameters of its path; None if the
    framework does not tell. ``scope``: the ASGI scope after routing, or None. ``handler``: the route
    handler of Litestar, or None. ``django``: True if Django's URL configuration has routed.
    """

    endpoint: Any
    params: Mapping[str, Any] | None = None
    scope: Mapping[str, Any] | None = None
    handler: Any = None
    django: bool = False

    def answered_by(self, called: Called, method: str) -> bool:
        """True if this call is the call of the routed endpoint itself, and not of a function that the
        endpoint uses."""
        me = called.first if called.bound is None else called.bound
        for function, owner, instance in _parts(self.endpoint, method):
            if called.function is not function:
                continue
            if instance is not None:
                if me is instance:
                    return True
            elif owner is not None:
                if me is owner or isinstance(me, owner):
                    return True
            elif called.bound is None:
                return True
        return False

    def depends_on(self, function: Any) -> bool:
        """True if ``function`` is a FastAPI dependency of the route itself: its own, or one of its router
        or its app, but not a dependency of another dependency."""
        dependant = _dependant(self.scope)
        return dependant is not None and any(
            sub.call is function for sub in getattr(dependant, "dependencies", ())
        )

    def secured(self, method: str) -> bool:
        """True if the route declares that it requires a user."""
        try:
            return (
                _depends_on_security(_dependant(self.scope))
                or _guarded(self.handler)
                or _wrapped_in_security(self.endpoint, method)
                or (self.django and _login_required_by_default(self.endpoint))
            )
        except Exception:  # user code, such as a property, has failed: then nothing is shared
            return True


def core(function: Any) -> tuple[Any, Any]:
    """The innermost function below decorators that use ``functools.wraps``, partials and methods; and the
    object that a method on the way there is bound to, or None."""
    bound = None
    for level in _levels(function):
        function = level
        if isinstance(level, types.MethodType):
            bound = level.__self__
    return function, bound


def _levels(function: Any) -> Iterator[Any]:
    """The function and the functions that it wraps, from the outside in."""
    for _ in range(_DEPTH):
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType | staticmethod | classmethod):
            function = function.__func__
        else:
            inner = getattr(function, "__dict__", {}).get("__wrapped__")
            if inner is None or isinstance(function, type):
                return
            function = inner


def _class_of(endpoint: Any) -> type | None:
    """The class of a class-based view."""
    for level in _levels(endpoint):
        if isinstance(level, type):
            return level
        named = getattr(level, "__dict__", {})
        for name in ("view_class", "cls"):  # Django, Flask, Quart; Django REST framework
            if isinstance(named.get(name), type):
                owner: type = named[name]
                return owner
    return None


def _methods(endpoint: Any, owner: type, method: str) -> Iterator[Any]:
    """The functions of a class-based view that answer a request with this method, as the class has
    them."""
    actions: Mapping[str, str] = {}  # of a ViewSet of Django REST framework
    for level in _levels(endpoint):
        actions = getattr(level, "__dict__", {}).get("actions") or actions
    verb = method.lower()
    verbs = (verb, "get") if verb == "head" and not hasattr(owner, "head") else (verb,)
    for name in (*_ENTRANCES, *(actions.get(verb, verb) for verb in verbs)):
        for base in owner.__mro__:
            if name in base.__dict__:
                yield base.__dict__[name]
                break


def _parts(endpoint: Any, method: str) -> Iterator[tuple[Any, type | None, Any]]:
    """The functions whose call is the call of the endpoint; each with the class that it has to be called
    on, or else the object."""
    function, bound = core(endpoint)
    yield function, None, bound
    owner = _class_of(endpoint)
    if owner is not None:
        for found in _methods(endpoint, owner, method):
            of = None if isinstance(found, staticmethod) else owner
            yield core(found)[0], of, None
            inner = _of_api_view(found)
            if inner is not None:
                yield core(inner)[0], None, None
    elif not isinstance(function, _FUNCTIONS):
        yield core(type(function).__call__)[0], None, function


def _of_api_view(handler: Any) -> Any:
    """The function that ``@api_view`` of Django REST framework has made a class of, or None."""
    if getattr(handler, "__globals__", {}).get("__name__") == "rest_framework.decorators":
        return _free(handler, "func")
    return None


def _free(function: Any, name: str) -> Any:
    """The value of a name in the closure of a function, or None."""
    names = function.__code__.co_freevars
    if name not in names:
        return None
    return function.__closure__[names.index(name)].cell_contents


# -- routing ---------------------------------------------------------------------------------------


def routed(place: Mapping[str, Any], seen: Routed | None) -> Routed | None:
    """What the request of a scope or environ was routed to; None if no framework tells.

    ``seen``: what `current` found while the application was called, or None. It lies further inside than
    an application that the scope has for a mounted one.
    """
    handler = place.get("route_handler")
    endpoint = place.get("endpoint")
    if handler is not None and (endpoint is None or hasattr(handler, "http_methods")):
        return Routed(
            getattr(handler, "fn", None), place.get("path_params"), place, handler=handler
        )
    if endpoint is None:
        return seen
    if seen is not None and not isinstance(endpoint, _FUNCTIONS):
        return seen
    return Routed(endpoint, place.get("path_params"), place)


def current(call: object, arguments: tuple[Any, ...] = ()) -> Routed | None:
    """What the request that is being answered was routed to, according to the current request of a
    framework, or to a request among the ``arguments`` of a view. ``call``: the object under `KEY`."""
    for name in ("flask", "quart"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "has_request_context", bool)():
            request = module.request
            place = request.environ if name == "flask" else request.scope
            if _carries(place, call) and request.endpoint is not None:
                view = module.current_app.view_functions.get(request.endpoint)
                if view is not None:
                    return Routed(view, request.view_args)
    for argument in arguments:
        found = _of_request(argument, call)
        if found is not None:
            return found
    return None


def _carries(place: Any, call: object) -> bool:
    """True if this is the scope or the environ of the call. An environ may have been made from a
    scope."""
    if not isinstance(place, Mapping):
        return False
    return place.get(KEY) is call or _carries(place.get("asgi.scope"), call)


def _of_request(argument: Any, call: object) -> Routed | None:
    """As `current`, for an argument that may be a request of Starlette, Django or Django REST framework."""
    http = sys.modules.get("django.http")
    if http is not None:
        if type(argument).__module__.startswith("rest_framework."):
            argument = getattr(argument, "_request", argument)
        if isinstance(argument, http.HttpRequest):
            place = getattr(argument, "scope", None) or getattr(argument, "environ", None)
            match = argument.resolver_match
            if match is not None and _carries(place, call):
                return Routed(match.func, match.kwargs, django=True)
            return None
    requests = sys.modules.get("starlette.requests")
    if requests is not None and isinstance(argument, requests.HTTPConnection):
        scope = argument.scope
        if scope.get("endpoint") is not None and _carries(scope, call):
            return Routed(scope["endpoint"], scope.get("path_params"), scope)
    return None


def resolved(path: str) -> Routed | None:
    """What Django's URL configuration has at ``path``, given without the prefix under which the application
    is mounted. Use it only to find out whether the endpoint requires a user: another framework may
    answer."""
    urls, conf = sys.modules.get("django.urls"), sys.modules.get("django.conf")
    if urls is None or conf is None or not conf.settings.configured:
        return None
    try:
        match = urls.resolve(path, urls.get_urlconf())
    except Exception:  # no such path, or no URL configuration
        return None
    return Routed(match.func, match.kwargs, django=True)


# -- declared security -----------------------------------------------------------------------------


def _dependant(scope: Mapping[str, Any] | None) -> Any:
    """The tree of all dependencies of a FastAPI route, including those of its routers and its app; or
    None."""
    if scope is None:
        return None
    route = scope.get("route")
    of_fastapi = scope.get("fastapi")  # since about 0.130, which does not copy included routers
    if isinstance(of_fastapi, dict):
        effective = of_fastapi.get("effective_route_context")
        if effective is not None and getattr(effective, "original_route", None) is route:
            return getattr(effective, "dependant", None)
    return getattr(route, "dependant", None)


def _depends_on_security(dependant: Any) -> bool:
    base = getattr(sys.modules.get("fastapi.security.base"), "SecurityBase", None)
    if dependant is None or base is None:
        return False
    waiting = [dependant]
    while waiting:
        each = waiting.pop()
        call = each.call
        while isinstance(call, functools.partial):
            call = call.func
        scopes = getattr(each, "own_oauth_scopes", None) or getattr(each, "security_scopes", None)
        if scopes or isinstance(call, base):
            return True
        # A method of a scheme, such as ``Depends(scheme.__call__)``.
        if isinstance(getattr(call, "__self__", None), base):
            return True
        waiting += each.dependencies
    return False


def _guarded(handler: Any) -> bool:
    """True if a Litestar handler, or a layer above it, has guards or a security requirement."""
    if handler is None:
        return False
    if handler.resolve_guards():
        return True
    layers = getattr(handler, "ownership_layers", None) or [handler]
    return any(getattr(layer, "security", None) for layer in layers)


def _wrapped_in_security(endpoint: Any, method: str) -> bool:
    if any(map(_requires_user, _levels(endpoint))):
        return True
    owner = _class_of(endpoint)
    if owner is None:
        return False
    for found in _methods(endpoint, owner, method):
        inner = _of_api_view(found)
        if any(map(_requires_user, _levels(found))) or any(map(_requires_user, _levels(inner))):
            return True
    if any(_is_auth(base.__module__) for base in owner.__mro__):  # Django's LoginRequiredMixin
        return True
    verb: Any = getattr(owner, "method_decorators", ())  # Flask-RESTful
    if isinstance(verb, Mapping):
        verb = verb.get(method.lower(), ())
    if any(_is_auth(getattr(decorator, "__module__", None)) for decorator in verb):
        return True
    return _permitted(owner, method)


def _requires_user(function: Any) -> bool:
    """True if this is the function of a decorator that lets only known users through."""
    if function is None:
        return False
    module = getattr(function, "__globals__", {}).get("__name__")
    if _is_auth(module):
        return True
    if module == "django.utils.decorators":  # method_decorator(login_required)
        decorators = _free(function, "decorators")
        return any(_is_auth(getattr(each, "__module__", None)) for each in decorators or ())
    return False


def _is_auth(module: str | None) -> bool:
    return module is not None and (
        module in _AUTH_MODULES or module.partition(".")[0] in _AUTH_PACKAGES
    )


def _permitted(owner: type, method: str) -> bool:
    """True if a view of Django REST framework needs a permission that not every client has."""
    views = sys.modules.get("rest_framework.views")
    if views is None or not issubclass(owner, views.APIView):
        return False
    if owner.get_permissions is not views.APIView.get_permissions:  # type: ignore[attr-defined]
        return True
    permissions = owner.permission_classes  # type: ignore[attr-defined]
    free = _READ_PERMISSIONS if method in ("GET", "HEAD") else _FREE_PERMISSIONS
    return any(getattr(each, "__name__", "") not in free for each in permissions)


def _login_required_by_default(endpoint: Any) -> bool:
    """True if Django's LoginRequiredMiddleware is installed and the view is not exempt from it."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return False
    default = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    return default in conf.settings.MIDDLEWARE and bool(getattr(endpoint, "login_required", True))
