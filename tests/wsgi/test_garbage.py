"""A request that is over is gone, with its body, whatever became of it: nothing of it is left to the
garbage collector."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from layergate import OriginAborted
from layergate.wsgi import LayerGate
from tests.support.garbage import none_of_ours
from tests.support.waiting import wait_until
from tests.support.wsgi import Server, ask, environ_of, in_threads

FRESH = [("Cache-Control", "max-age=60")]
UNSHARED = [("Cache-Control", "no-store")]
STALE = [("Cache-Control", "max-age=0, stale-while-revalidate=60")]
STALE_IF_ERROR = [("Cache-Control", "max-age=0, stale-if-error=60")]


class Failed(Exception):
    """The app's own."""


def replies(headers: list) -> Any:
    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b"x" * 1000]

    return app


def fails(environ, start_response):
    raise Failed


def fails_in_the_body(headers: list) -> Any:
    def app(environ, start_response):
        start_response("200 OK", headers)
        yield b"x"
        raise Failed

    return app


def fails_at_last(environ, start_response):
    start_response("200 OK", [*FRESH, ("Content-Length", "1")])
    yield b"x"
    raise Failed


def too_short(environ, start_response):
    start_response("200 OK", [*FRESH, ("Content-Length", "9")])
    return [b"x"]


def tells(environ, start_response):
    try:
        raise Failed
    except Failed as error:
        start_response("500 Oh", [], (Failed, error, error.__traceback__))
    return [b"x"]


def once(app) -> None:
    with contextlib.suppress(Failed, OriginAborted):
        ask(app)


def twice(app) -> None:
    once(app)
    once(app)


def together(app) -> None:
    in_threads(3, lambda: once(app))


def left(app) -> None:
    with contextlib.suppress(Failed, OriginAborted):
        iterable = app(environ_of("/"), Server().start_response)
        with (
            contextlib.closing(iterable) if hasattr(iterable, "close") else contextlib.nullcontext()
        ):
            next(iter(iterable))


def post(app) -> None:
    with contextlib.suppress(Failed, OriginAborted):
        ask(app, method="POST")


def head(app) -> None:
    with contextlib.suppress(Failed, OriginAborted):
        ask(app, method="HEAD")


CLIENTS = [once, twice, together, left, post, head]
ORIGINS = [
    # what a first request is answered with, if there is one; what comes then
    pytest.param(None, replies(FRESH), id="for sharing"),
    pytest.param(None, replies(UNSHARED), id="not for sharing"),
    pytest.param(None, replies([*FRESH, ("Vary", "accept")]), id="a variant"),
    pytest.param(None, fails, id="fails"),
    pytest.param(None, fails_in_the_body(FRESH), id="fails in the body"),
    pytest.param(None, fails_in_the_body(UNSHARED), id="fails in a body not for sharing"),
    pytest.param(None, fails_at_last, id="fails at last"),
    pytest.param(None, too_short, id="too short"),
    pytest.param(None, tells, id="tells the server why it failed"),
    pytest.param(STALE, replies(FRESH), id="a refresh"),
    pytest.param(STALE, fails, id="a refresh fails"),
    pytest.param(STALE, fails_in_the_body(FRESH), id="a refresh fails in the body"),
    pytest.param(STALE_IF_ERROR, fails, id="stale for an error"),
    pytest.param(STALE_IF_ERROR, fails_in_the_body(FRESH), id="a revalidation fails in the body"),
    pytest.param(UNSHARED, fails, id="known not to be for sharing, fails"),
]


@pytest.mark.parametrize(("before", "handler"), ORIGINS)
@pytest.mark.parametrize("clients", CLIENTS)
def test_a_request_that_is_over_leaves_no_garbage(before, handler, clients):
    answers = [replies(before)] if before is not None else []

    def origin(environ, start_response):
        return (answers.pop() if answers else handler)(environ, start_response)

    app = LayerGate(origin)
    with none_of_ours():
        if before is not None:
            ask(app)
        clients(app)
        wait_until(lambda: not app.cache.stats()["refreshing"] and not app.cache.stats()["flights"])
