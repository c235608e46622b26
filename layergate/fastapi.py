"""FastAPI and Starlette: a route's policy as a dependency."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request

from layergate.config import StatusSeconds
from layergate.frameworks import KEY
from layergate.routes import RouteCall, checked_policy

__all__ = ["cache_policy"]


def cache_policy(ttl: StatusSeconds | None = None, **policy: Any) -> Callable[..., Any]:
    """A dependency that sets the caching policy of the route (or router, or app) it is used on. As a
    dependency of something that a route depends on, it sets nothing.

        @app.get("/products/{id}", dependencies=[Depends(cache_policy(ttl=60, tags=["product:{id}"]))])

    Takes the options of `layergate.routes.route_policy`; seconds, for ``ttl`` also by status. Raises ConfigError.
    """
    rule = checked_policy(ttl, policy, "cache_policy")

    async def set_policy(request: Request) -> AsyncIterator[None]:
        # There is no such place when no LayerGate is in front, or when it passed the request.
        place = request.scope.get(KEY)
        if not isinstance(place, RouteCall):
            yield
            return
        told = place.dependency(rule, set_policy, request)
        try:
            yield
        except BaseException:  # of the endpoint, or of another dependency
            told.failed = True
            raise

    return set_policy
