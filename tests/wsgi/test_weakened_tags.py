"""Django's GZipMiddleware weakens the entity tag of a 200, ConditionalGetMiddleware leaves that of a
304 strong: a revalidation costs one call of the app, under WSGI and ASGI.

In a process of its own (this file, run as a program): Django's settings are one per process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clocks import LoopClock, ThreadClock

ROOT = Path(__file__).parent.parent.parent
PAGE = "one page, large enough to be compressed " * 20


@pytest.mark.parametrize("side", ["wsgi", pytest.param("asgi", marks=pytest.mark.frameworks)])
def test_a_revalidation_costs_one_call(side: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, side],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def check(side: str) -> None:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    from layergate import HttpCache, LayerGate, MemoryLayer
    from layergate.wsgi import LayerGate as WSGILayerGate
    from tests.scenarios import asgi, wsgi
    from tests.scenarios.model import Step

    asked: list[str | None] = []

    def page(request: HttpRequest) -> HttpResponse:
        asked.append(request.headers.get("If-None-Match"))
        return HttpResponse(PAGE, headers={"Cache-Control": "max-age=10"})

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=(path("", page),),
        MIDDLEWARE=[
            "django.middleware.gzip.GZipMiddleware",
            "django.middleware.http.ConditionalGetMiddleware",
        ],
    )
    django.setup()
    clock = LoopClock() if side == "asgi" else ThreadClock()
    cache = HttpCache(runtime=clock, layers=[MemoryLayer("4MB", clock=clock.now)])
    step = Step(headers=(("Accept-Encoding", "gzip"),))

    async def with_asgi() -> None:
        app = LayerGate(get_asgi_application(), cache=cache)
        for after, calls, outcome in visits:
            clock.time += after
            look(await asgi.ask(app, step), calls, outcome)
            await cache.aclose()

    def with_wsgi() -> None:
        app = WSGILayerGate(get_wsgi_application(), cache=cache)
        for after, calls, outcome in visits:
            clock.time += after
            look(wsgi.ask(app, step), calls, outcome)

    bodies = []

    def look(answer, calls, outcome) -> None:
        bodies.append(answer.body)
        assert answer.status == 200, answer
        assert answer.get("etag").startswith('W/"'), answer
        assert len(asked) == calls, (asked, calls)
        assert outcome in answer.get("cache-status"), answer

    visits = [
        (0, 1, "stored"),
        (1, 1, "hit"),
        (10, 2, "fwd-status=304; detail=validator"),
        (0, 3, "fwd-status=304; detail=validator"),
        (0, 4, "stored"),
        (1, 4, "hit"),
        (10, 5, "stored"),  # known by now
        (1, 5, "hit"),
    ]
    asyncio.run(with_asgi()) if side == "asgi" else with_wsgi()
    assert [bool(tag) for tag in asked] == [False, True, True, False, False]
    assert bodies[2] == bodies[3] == bodies[0]


if __name__ == "__main__":
    check(sys.argv[1])
