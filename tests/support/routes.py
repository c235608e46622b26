"""A policy next to a route, for apps that have no framework."""

from __future__ import annotations

from typing import Any

from layergate import cached

__all__ = ["answer_as_routed"]


def answer_as_routed(scope: Any, **policy: Any) -> None:
    """As a framework that routes to an endpoint decorated with ``policy``, which then answers."""

    @cached(**policy)
    def endpoint() -> None: ...

    scope["endpoint"] = endpoint
    endpoint()
