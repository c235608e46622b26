"""FastAPI and Starlette: a route's policy as a dependency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from layergate.config import StatusSeconds
from layergate.routes import checked_policy

__all__ = ["cache_policy"]


def cache_policy(ttl: StatusSeconds | None = None, **policy: Any) -> Callable[..., Any]:
    """A dependency that sets the caching policy of the route (or router) it is used on.

        @app.get("/products/{id}", dependencies=[Depends(cache_policy(ttl=60, tags=["product:{id}"]))])

    Takes the options of `layergate.routes.route_policy`; seconds, for ``ttl`` also by status. Raises ConfigError.
    """
    rule = checked_policy(ttl, policy, "cache_policy")

    async def set_policy(request: Request) -> None:
        # There is no such place when no LayerGate is in front, or when it passed the request.
        place = request.scope.get("layergate")
        if place is not None:
            place["rule"] = rule
            place["params"] = request.path_params

    return set_policy
