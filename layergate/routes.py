"""A route's caching policy, written next to the route.

`cached` decorates an endpoint; `layergate.fastapi.cache_policy` is a dependency with the same options. Either
notes its policy in the call of the app that is under way, and `layergate.route_calls` decides whether it
counts. Without a LayerGate in front of the application, they do nothing.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal, TypeVar

from layergate import frameworks
from layergate.config import NO_STATUSES, Rule, Seconds, StatusSeconds, unknown_option
from layergate.errors import ConfigError
from layergate.frameworks import Called
from layergate.route_calls import NotedPolicy, policy_place

__all__ = ["cached", "checked_policy", "route_policy"]

F = TypeVar("F", bound=Callable[..., Any])


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
    """The policy as a `Rule`, which has the same options. ``{name}`` in a tag stands for a path parameter of
    the route. Raises ConfigError."""
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
    """As `route_policy`; the ConfigError for an unknown option suggests one that exists."""
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

    Takes the options of `route_policy`. Lifetimes are in seconds; ``ttl`` may also be given by status
    (``{200: 60, 404: 5}``). Put this decorator next to the function, below the decorator of the route.
    Decorators between the two must use ``functools.wraps``.

    An endpoint is a function (also a coroutine function or a generator), a method, a partial, a callable
    object, or a class with a method ``dispatch`` or ``dispatch_request``: Starlette's `HTTPEndpoint`, or a
    view class of Django, Django REST framework, Flask or Quart. ``method_decorator(cached(...))`` works.

    Raises ConfigError, also if the decorated object cannot answer a request.
    """
    if callable(ttl):
        raise ConfigError("cached needs parentheses; write @cached(ttl=60)")
    rule = checked_policy(ttl, policy, "cached")

    def note(endpoint: F) -> F:
        return _noting(endpoint, rule)  # type: ignore[no-any-return]

    return note


def _noting(endpoint: Any, rule: Rule) -> Any:
    """The endpoint, wrapped so that each call of it notes ``rule``."""
    if isinstance(endpoint, staticmethod | classmethod):
        return type(endpoint)(_noting(endpoint.__func__, rule))
    if isinstance(endpoint, type):
        return _noting_class(endpoint, rule)
    _check_endpoint(endpoint)
    function, bound = frameworks.core(endpoint)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> NotedPolicy | None:
        place = policy_place.get()
        if place is None:
            return None
        called = Called(function, bound, args[0] if args else None)
        return place.endpoint(rule, called, kwargs, *args)

    if _is_coroutine_function(endpoint):

        async def tell_and_await(*args: Any, **kwargs: Any) -> Any:
            noted = begin(args, kwargs)
            try:
                return await endpoint(*args, **kwargs)
            except BaseException:
                _fail(noted)
                raise

        wrapper: Any = tell_and_await
    else:

        def tell_and_call(*args: Any, **kwargs: Any) -> Any:
            noted = begin(args, kwargs)
            try:
                result = endpoint(*args, **kwargs)
            except BaseException:
                _fail(noted)
                raise
            if noted is not None and inspect.iscoroutine(result):
                return _awaiting(result, noted)
            return result

        wrapper = tell_and_call
    if not inspect.isroutine(endpoint) and not isinstance(endpoint, functools.partial):
        # The attributes of an object are not copied to the function that wraps it.
        functools.update_wrapper(wrapper, endpoint, updated=())
    else:
        functools.update_wrapper(wrapper, endpoint)
    if not hasattr(endpoint, "__name__"):  # some frameworks name a route after it
        named = function if hasattr(function, "__name__") else type(function)
        wrapper.__name__ = wrapper.__qualname__ = named.__name__
        wrapper.__module__ = named.__module__
    # FastAPI before 0.128 resolves names in annotations in the module of the outermost function, which is
    # this one. If a name is not defined yet, the annotations stay as they are.
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
    """True for a coroutine function, for a function that is marked as one
    (`inspect.markcoroutinefunction`, asgiref), and for an object whose ``__call__`` is one."""
    if inspect.iscoroutinefunction(endpoint) or getattr(endpoint, "_is_coroutine", None):
        return True
    plain = inspect.isroutine(endpoint) or isinstance(endpoint, functools.partial)
    return not plain and inspect.iscoroutinefunction(type(endpoint).__call__)


async def _awaiting(result: Awaitable[Any], noted: NotedPolicy) -> Any:
    try:
        return await result
    except BaseException:
        noted.failed = True
        raise


def _fail(noted: NotedPolicy | None) -> None:
    if noted is not None:
        noted.failed = True
