"""A route's caching policy, written next to the route.

A decorated endpoint tells the middleware its policy when it is called: through a context variable,
which no middleware in between can lose. That it was called is not enough: a view may call a decorated
function as a helper, or depend on one, and a page made of it is not that function's response. So a policy
counts only if a framework says that the request was routed to the very function that told it (see
`layergate.frameworks`), and if that function has answered, rather than a decorator in front of it or the
handler of an exception.

Where there is no LayerGate, nothing happens. The policy takes the place of the rule (if any) that covers
the request; where a dependency and the decorator both speak, the decorator wins.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeVar

from layergate import frameworks
from layergate.config import NO_STATUSES, Rule, Seconds, StatusSeconds, unknown_option
from layergate.errors import ConfigError, GateRecursion
from layergate.frameworks import Called, Routed
from layergate.http.rules import Match

__all__ = [
    "RouteCall",
    "cached",
    "checked_policy",
    "policy_place",
    "refuse_circle",
    "route_policy",
]

_logger = logging.getLogger("layergate")
_CIRCLE: Final = (
    "LayerGate got the request that it has just handed to its own application, so it is inside itself, or"
    " inside another LayerGate with the same cache; wrap what is inside:"
    " app.wsgi_app = LayerGate(app.wsgi_app), not LayerGate(app)"
)
_OWN_FRAMES: Final = 6  # of a middleware that answers one request
_MAX_TOLD: Final = 256
_MAX_WARNINGS: Final = 256
_warned: Final[set[str]] = set()

F = TypeVar("F", bound=Callable[..., Any])


class _Told:
    """A policy that was told while the app was called, and by what. ``failed``: it then raised."""

    __slots__ = ("by", "failed", "params", "rule")

    def __init__(self, rule: Rule, by: Any, params: Mapping[str, Any]) -> None:
        self.rule = rule
        self.by = by
        self.params = params
        self.failed = False


class RouteCall:
    """What one call of the app says about the route that answers. Made by a middleware, which puts it
    into the context (`policy_place`) and into the scope or environ (`frameworks.KEY`).

    ``cache``, ``target``: whose middleware makes the call, and for which request. ``outer``: the call that
    this one is part of, if there is a middleware outside of this one. ``running``: until it has returned.
    """

    __slots__ = (
        "_closed", "_dependencies", "_endpoints", "_routed", "cache", "outer", "running", "target",
    )  # fmt: skip

    def __init__(self, cache: object, target: object, outer: RouteCall | None) -> None:
        self.cache = cache
        self.target = target
        self.outer = outer
        self.running = True
        self._endpoints: dict[tuple[int, int], _Told] = {}
        self._dependencies: list[_Told] = []
        self._routed: Routed | None = None
        self._closed = False

    def endpoint(self, rule: Rule, by: Called, arguments: Mapping[str, Any], *more: Any) -> _Told:
        """A decorated function is called, with ``arguments`` by keyword and ``more`` by position."""
        me = by.first if by.bound is None else by.bound
        key = id(by.function), id(me)  # (both live as long as they are noted here)
        told = self._endpoints.get(key)
        if told is None:
            told = _Told(rule, by, arguments)
            # The endpoint comes before what it calls, and may call no end of it.
            if not self._closed and len(self._endpoints) < _MAX_TOLD:
                self._endpoints[key] = told
                self.look((*more[:2], *arguments.values()))
        told.rule, told.failed = rule, False
        return told

    def dependency(self, rule: Rule, by: object, request: Any) -> _Told:
        """A dependency of FastAPI tells a policy."""
        told = _Told(rule, by, request.path_params)
        if not self._closed and len(self._dependencies) < _MAX_TOLD:
            self._dependencies.append(told)
            self.look((request,))
        return told

    def look(self, arguments: tuple[Any, ...] = ()) -> None:
        """Note what the request is routed to, while the framework says so."""
        if self._routed is None and not self._closed:
            self._routed = frameworks.current(self, arguments)

    def policy(self, place: Mapping[str, Any], method: str, status: int) -> Match | None:
        """The policy of the route that has answered with ``status``; None if it has none.

        ``place``: the scope or environ that the app was called with.
        """
        if not self._endpoints and not self._dependencies:
            return None
        routed = frameworks.routed(place, self._routed)
        if routed is None:
            for each in self._endpoints.values():
                _warn(each.by.function)
                break
            return None
        told: _Told | None = None
        for each in self._dependencies:
            if routed.depends_on(each.by):
                told = each
        for each in self._endpoints.values():
            if routed.answered_by(each.by, method):
                told = each
        # What answers for a function that raised is the handler of its exception. The error that it
        # stands for is the function's word; a page in its place is not.
        if told is None or (told.failed and status < 400):
            return None
        params = told.params if routed.params is None else routed.params
        return Match(told.rule, params)

    def secured(self, place: Mapping[str, Any], method: str, path: str) -> bool:
        """Does the route that answers declare that it asks who is calling? ``path``: of the request, in
        the app."""
        routed = frameworks.routed(place, self._routed) or frameworks.resolved(path)
        return routed is not None and routed.secured(method)

    def refuse(self, cache: object, target: object) -> None:
        """Raises GateRecursion if a middleware of ``cache`` is to answer a request that it has just handed
        to its application, directly or around other middleware."""
        call: RouteCall | None = self
        while call is not None:
            if call.running and call.cache is cache and call.target == target:
                raise GateRecursion(_CIRCLE)
            call = call.outer

    def returned(self) -> None:
        """The app has returned, or failed."""
        self.running = False

    def close(self) -> None:
        """The head of the response is known: what is called from now on has no part in it."""
        self._closed = True
        self._endpoints, self._dependencies, self._routed = {}, [], None


# Of the call of the app that is under way; set by the middleware.
policy_place: Final[ContextVar[RouteCall | None]] = ContextVar(
    "layergate_policy_place", default=None
)


def refuse_circle(gate: object, error: RecursionError) -> None:
    """Raises GateRecursion if a middleware was called inside of itself when the stack was full."""
    place, times = error.__traceback__, 0
    while place is not None:
        times += place.tb_frame.f_locals.get("self") is gate
        place = place.tb_next
    if times > _OWN_FRAMES:
        raise GateRecursion(_CIRCLE) from None


def _warn(function: Any) -> None:
    """Say once that nobody knows whose policy this is."""
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
    if name in _warned or len(_warned) >= _MAX_WARNINGS:
        return
    _warned.add(name)
    _logger.warning(
        "the policy of %s is not used: no framework that LayerGate knows says that the request was"
        " routed to it, so it may have been called by another endpoint; write a rule for its path, such"
        " as Rule('/path', ttl=60)",
        name,
    )


def route_policy(
    ttl: StatusSeconds | None = None,
    *,
    stale_while_revalidate: Seconds | None = None,
    stale_if_error: Seconds | None = None,
    tags: Collection[str] = (),
    vary: Collection[str] = (),
    override: bool = False,
    allow_authorization: bool | Literal["each"] = False,
    allow_cookie: bool = False,
    allow_set_cookie: bool | Literal["keep"] = False,
) -> Rule:
    """The policy as a `Rule`, whose options these are. ``{name}`` in a tag stands for a path
    parameter of the route. Raises ConfigError."""
    return Rule(
        "*",
        ttl=ttl,
        stale_while_revalidate=stale_while_revalidate,
        stale_if_error=stale_if_error,
        tags=tags,
        vary=vary,
        override=override,
        allow_authorization=allow_authorization,
        allow_cookie=allow_cookie,
        allow_set_cookie=allow_set_cookie,
    )


def checked_policy(ttl: StatusSeconds | None, policy: dict[str, Any], owner: str) -> Rule:
    """`route_policy`, with a ConfigError that suggests a name for one that does not exist."""
    known = inspect.signature(route_policy).parameters
    for name in policy:
        if name == "statuses":
            raise ConfigError(f"{NO_STATUSES} ({owner})")
        if name not in known:
            raise unknown_option(name, known, owner)
    return route_policy(ttl, **policy)


def cached(ttl: StatusSeconds | None = None, **policy: Any) -> Callable[[F], F]:
    """Decorate an endpoint with its caching policy.

        @app.get("/products/{id}")
        @cached(ttl=60, stale_while_revalidate=30, tags=["products", "product:{id}"])
        async def product(id: int): ...

    Takes the options of `route_policy`; seconds, for ``ttl`` also by status (``{200: 60, 404: 5}``). Put it
    next to the function, below the route's own decorator; decorators between the two must use ``functools.wraps``.

    An endpoint is a function (a coroutine function, a generator), a method, a partial, an object that can
    be called, or a class with a method ``dispatch`` or ``dispatch_request``: Starlette's `HTTPEndpoint`, a
    view class of Django, Django REST framework, Flask or Quart. ``method_decorator(cached(...))`` works.

    Raises ConfigError, also for what no request is answered by.
    """
    if callable(ttl):
        raise ConfigError("cached needs parentheses; write @cached(ttl=60)")
    rule = checked_policy(ttl, policy, "cached")

    def note(endpoint: F) -> F:
        return _noting(endpoint, rule)  # type: ignore[no-any-return]

    return note


def _noting(endpoint: Any, rule: Rule) -> Any:
    """The endpoint, so that it tells ``rule`` whenever it is called."""
    if isinstance(endpoint, staticmethod | classmethod):
        return type(endpoint)(_noting(endpoint.__func__, rule))
    if isinstance(endpoint, type):
        return _noting_class(endpoint, rule)
    _check_endpoint(endpoint)
    function, bound = frameworks.core(endpoint)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Told | None:
        place = policy_place.get()
        if place is None:
            return None
        called = Called(function, bound, args[0] if args else None)
        return place.endpoint(rule, called, kwargs, *args)

    if _is_coroutine_function(endpoint):

        async def tell_and_await(*args: Any, **kwargs: Any) -> Any:
            told = begin(args, kwargs)
            try:
                return await endpoint(*args, **kwargs)
            except BaseException:
                _fail(told)
                raise

        wrapper: Any = tell_and_await
    else:

        def tell_and_call(*args: Any, **kwargs: Any) -> Any:
            told = begin(args, kwargs)
            try:
                result = endpoint(*args, **kwargs)
            except BaseException:
                _fail(told)
                raise
            if told is not None and inspect.iscoroutine(result):
                return _awaiting(result, told)
            return result

        wrapper = tell_and_call
    if not inspect.isroutine(endpoint) and not isinstance(endpoint, functools.partial):
        # What an object has for attributes is none of a function's business.
        functools.update_wrapper(wrapper, endpoint, updated=())
    else:
        functools.update_wrapper(wrapper, endpoint)
    if not hasattr(endpoint, "__name__"):  # some frameworks name a route by it
        named = function if hasattr(function, "__name__") else type(function)
        wrapper.__name__ = wrapper.__qualname__ = named.__name__
        wrapper.__module__ = named.__module__
    # FastAPI before 0.128 looks names in annotations up where the outermost function was made, which is
    # here. A name that is not there yet is left for whoever needs it.
    with contextlib.suppress(Exception):
        wrapper.__signature__ = inspect.signature(endpoint, eval_str=True)
    return wrapper


def _noting_class(endpoint: type, rule: Rule) -> type:
    for name in ("dispatch_request", "dispatch"):
        entrance = getattr(endpoint, name, None)
        if callable(entrance):
            setattr(endpoint, name, _noting(entrance, rule))
            return endpoint
    raise ConfigError(
        f"cached cannot tell what answers a request in class {endpoint.__qualname__}, which has no method"
        " dispatch or dispatch_request; write @cached(...) on the method that does"
    )


def _check_endpoint(endpoint: Any) -> None:
    module = type(endpoint).__module__
    if module.startswith("litestar.handlers."):
        raise ConfigError(
            "cached must be below the decorator of Litestar that makes a route handler; write @get(...)"
            " above @cached(...)"
        )
    if not callable(endpoint):
        raise ConfigError(
            f"cached decorates what answers a request, got {endpoint!r}; write it on a function, a method"
            " or a view class"
        )


def _is_coroutine_function(endpoint: Any) -> bool:
    """Also of what was marked as one (`inspect.markcoroutinefunction`, asgiref's), and of an object whose
    ``__call__`` is one."""
    if inspect.iscoroutinefunction(endpoint) or getattr(endpoint, "_is_coroutine", None):
        return True
    plain = inspect.isroutine(endpoint) or isinstance(endpoint, functools.partial)
    return not plain and inspect.iscoroutinefunction(type(endpoint).__call__)


async def _awaiting(result: Awaitable[Any], told: _Told) -> Any:
    try:
        return await result
    except BaseException:
        told.failed = True
        raise


def _fail(told: _Told | None) -> None:
    if told is not None:
        told.failed = True
