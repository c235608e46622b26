"""A route's caching policy, written next to the route.

The decorator only notes the policy on the function; the middleware finds it there after the app has
routed the request. So it costs nothing, keeps the signature, and does nothing where there is no
LayerGate. It takes the place of the rule (if any) that covers the request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from layergate.config import Rule, Seconds
from layergate.errors import ConfigError

__all__ = ["cached", "route_policy"]

F = TypeVar("F", bound=Callable[..., Any])


def route_policy(
    ttl: Seconds | None = None,
    *,
    stale_while_revalidate: Seconds | None = None,
    stale_if_error: Seconds | None = None,
    tags: Collection[str] = (),
    vary: Collection[str] = (),
    statuses: Collection[int] | None = None,
    override: bool = False,
    allow_authorization: bool = False,
    allow_cookie: bool = False,
    allow_set_cookie: bool = False,
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
        statuses=statuses,
        override=override,
        allow_authorization=allow_authorization,
        allow_cookie=allow_cookie,
        allow_set_cookie=allow_set_cookie,
    )


def cached(ttl: Seconds | None = None, **policy: Any) -> Callable[[F], F]:
    """Decorate an endpoint (function or class) with its caching policy.

        @app.get("/products/{id}")
        @cached(ttl=60, stale_while_revalidate=30, tags=["products", "product:{id}"])
        async def product(id: int): ...

    Takes the options of `route_policy`; seconds. Put it next to the function, below the route's own
    decorator. Raises ConfigError.
    """
    if callable(ttl):
        raise ConfigError("cached needs parentheses; write @cached(ttl=60)")
    rule = route_policy(ttl, **policy)

    def note(endpoint: F) -> F:
        endpoint.__layergate__ = rule  # type: ignore[attr-defined]
        return endpoint

    return note
