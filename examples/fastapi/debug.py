"""Endpoints that let the demo count calls and cause failures. Enabled by CATALOGUE_DEBUG=1 only.

A real app has no such module.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Response

__all__ = ["ENABLED", "CountCalls", "maybe_fail", "router"]

ENABLED = os.environ.get("CATALOGUE_DEBUG") == "1"

_calls: Counter[str] = Counter()
_state = {"failing": False}

router = APIRouter(prefix="/debug", include_in_schema=False)


class CountCalls:
    """ASGI middleware that counts the requests that reach the app.

    A counter in a header would be cached with the response.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            query = scope["query_string"].decode()
            _calls[f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"] += 1
        await self.app(scope, receive, send)


@router.get("/calls")
async def calls(response: Response) -> dict[str, int]:
    """The number of requests that reached the app, by URL."""
    response.headers["Cache-Control"] = "no-store"
    return dict(_calls)


@router.post("/failing")
async def failing(on: bool) -> dict[str, bool]:
    """Make the report fail, or work again."""
    _state["failing"] = on
    return dict(_state)


def maybe_fail() -> None:
    if _state["failing"]:
        raise HTTPException(503, "the reporting database is down")
