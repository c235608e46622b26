"""The gateway runs on uvloop where there is one, and on asyncio's own loop elsewhere. A module that
says ``EVERY_LOOP = True`` is run on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import trustme


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {}
    module = item.getparent(pytest.Module)
    if module is not None and getattr(module.obj, "EVERY_LOOP", False):
        try:
            import uvloop
        except ImportError:  # Windows, PyPy
            pass
        else:
            factories["uvloop"] = uvloop.new_event_loop
    factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Whose certificates nobody believes but who is told to."""
    return trustme.CA()
