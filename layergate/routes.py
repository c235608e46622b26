"""A route's caching policy, written next to the route.

A decorated endpoint tells the middleware its policy when it is called: through a context variable,
which no middleware in between can lose. An endpoint that is no plain function (a class) carries it as
an attribute, which the middleware finds in the scope after the app has routed the request. Where
there is no LayerGate, nothing happens. The policy takes the place of the rule (if any) that covers
the request; where a dependency and the decorator both speak, the decorator wins.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeVar

from layergate.config import NO_STATUSES, Rule, Seconds, StatusSeconds, unknown_option
from layergate.errors import ConfigError

__all__ = ["cached", "checked_policy", "policy_place", "route_policy"]

# Where the endpoint that is being called leaves its policy; set by the middleware.
policy_place: Final[ContextVar[dict[str, Any] | None]] = ContextVar(
    "layergate_policy_place", default=None
)

F = TypeVar("F", bound=Callable[..., Any])


def route_policy(
    ttl: StatusSeconds | None = None,
    *,
    stale_while_revalidate: Seconds | None = None,
    stale_if_error: Seconds | None = None,
    tags: Collection[str] = (),
    vary: Collection[str] = (),
    override: bool = False,
    allow_authorization: bool = False,
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
    """Decorate an endpoint (function or class) with its caching policy.

        @app.get("/products/{id}")
        @cached(ttl=60, stale_while_revalidate=30, tags=["products", "product:{id}"])
        async def product(id: int): ...

    Takes the options of `route_policy`; seconds, for ``ttl`` also by status (``{200: 60, 404: 5}``). Put it next to the function, below the route's own
    decorator. Raises ConfigError.
    """
    if callable(ttl):
        raise ConfigError("cached needs parentheses; write @cached(ttl=60)")
    rule = checked_policy(ttl, policy, "cached")

    def note(endpoint: F) -> F:
        wrapped: Any = endpoint
        if inspect.iscoroutinefunction(endpoint):

            @functools.wraps(endpoint)
            async def tell_and_await(*args: Any, **kwargs: Any) -> Any:
                _tell(rule, kwargs)
                return await endpoint(*args, **kwargs)

            wrapped = tell_and_await
        elif inspect.isfunction(endpoint) and not (
            inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint)
        ):

            @functools.wraps(endpoint)
            def tell_and_call(*args: Any, **kwargs: Any) -> Any:
                _tell(rule, kwargs)
                return endpoint(*args, **kwargs)

            wrapped = tell_and_call
        if wrapped is not endpoint:
            # FastAPI before 0.128 looks names in annotations up where the outermost function was
            # made, which is here. A name that is not there yet is left for whoever needs it.
            with contextlib.suppress(Exception):
                wrapped.__signature__ = inspect.signature(endpoint, eval_str=True)
        wrapped.__layergate__ = rule
        return wrapped  # type: ignore[no-any-return]

    return note


def _tell(rule: Rule, arguments: dict[str, Any]) -> None:
    place = policy_place.get()
    if place is not None:
        place["rule"] = rule  # after a dependency's: what is closest to the endpoint wins
        # WSGI has no common name for a route's parameters, nor has Django under ASGI; these pass
        # them by keyword.
        place["arguments"] = arguments
