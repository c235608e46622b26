"""FastAPI and Starlette: a route's policy as a dependency."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request

from layergate.config import StatusSeconds
from layergate.frameworks import KEY
from layergate.route_calls import RouteCall
from layergate.routes import checked_policy

__all__ = ["cache_policy"]


def cache_policy(ttl: StatusSeconds | None = None, **policy: Any) -> Callable[..., Any]:
    """A dependency that sets the caching policy of the route, router or app that it is used on. As a
    dependency of another dependency, it sets nothing.

        @app.get("/products/{id}", dependencies=[Depends(cache_policy(ttl=60, tags=["product:{id}"]))])

    Takes the options of `layergate.routes.route_policy`. Lifetimes are in seconds; ``ttl`` may also be given
    by status. Raises ConfigError.
    """
    rule = checked_policy(ttl, policy, "cache_policy")

    async def set_policy(request: Request) -> AsyncIterator[None]:
        # There is no such call if no LayerGate is in front, or if the cache has no part in the request.
        place = request.scope.get(KEY)
        if not isinstance(place, RouteCall):
            yield
            return
        noted = place.dependency(rule, set_policy, request)
        try:
            yield
        except BaseException:  # of the endpoint, or of another dependency
            noted.failed = True
            raise

    return set_policy
