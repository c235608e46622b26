"""The thread of a client that leaves, or takes its time, under WSGI."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from layergate.errors import OriginAborted
from layergate.wsgi import LayerGate
from tests.support.clocks import Clock
from tests.support.waiting import wait_until
from tests.support.wsgi import ask, start

FRESH = [("Cache-Control", "max-age=60")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the middleware takes for the time, for as long as an app says that it takes."""
    clock = Clock(1000.0)
    monkeypatch.setattr("layergate.wsgi.fetch.time.monotonic", clock)
    return clock


def streaming(clock: Clock, takes: float, parts: int, taken: list[int]) -> Any:
    def body() -> Iterator[bytes]:
        for number in range(parts):
            if number:
                clock.time += takes
            taken.append(number)
            yield b"%d" % (number % 10)

    def origin(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", FRESH)
        return body()

    return origin


@pytest.mark.parametrize("threads", [True, False])
def test_what_is_left_of_a_quick_response_is_fetched(clock: Clock, threads: bool) -> None:
    taken: list[int] = []
    app = LayerGate(streaming(clock, 0.01, 20, taken))
    leading, _ = start(app, wsgi_multithread=threads)
    next(leading)
    leading.close()
    assert len(taken) == 20
    assert "hit" in ask(app).told


@pytest.mark.parametrize("threads", [True, False])
def test_a_stream_that_takes_its_time_is_left_at_once(clock: Clock, threads: bool) -> None:
    """A worker of gunicorn's was held so for as long as the stream went on."""
    taken: list[int] = []
    app = LayerGate(streaming(clock, 1.0, 20, taken))
    leading, _ = start(app, wsgi_multithread=threads)
    next(leading)
    next(leading)
    leading.close()
    assert len(taken) == 2
    assert "fwd" in ask(app).told
    assert app.cache.stats()["flights"] == 0


def test_one_that_goes_on_and_on_is_left_after_a_second(clock: Clock) -> None:
    taken: list[int] = []
    app = LayerGate(streaming(clock, 0.1, 1000, taken))
    leading, _ = start(app)
    next(leading)
    next(leading)
    began = clock.time
    leading.close()
    assert clock.time - began <= 1.1
    assert app.cache.stats()["flights"] == 0


def test_it_is_fetched_on_for_those_who_follow(clock: Clock) -> None:
    taken: list[int] = []
    app = LayerGate(streaming(clock, 3.0, 20, taken))
    leading, _ = start(app)
    next(leading)
    following, _ = start(app)
    next(leading)
    leading.close()
    assert len(taken) == 20
    assert b"".join(following) == b"01234567890123456789"
    following.close()


def test_who_follows_does_not_wait_for_the_leaders_client_for_ever() -> None:
    """That takes nothing, or a little now and then: it is the time in all that counts."""
    parts = itertools.count()

    def origin(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", FRESH)
        return (b"%d " % number for number in parts)

    app = LayerGate(origin, slow_reader_timeout=0.2)
    leading, _ = start(app)
    next(leading)
    following, _ = start(app)
    ended: list[BaseException] = []

    def follow() -> None:
        try:
            for _ in following:
                pass
        except OriginAborted as error:
            ended.append(error)
        finally:
            following.close()

    thread = threading.Thread(target=follow)
    thread.start()
    deadline = time.monotonic() + 10
    while thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        next(leading)
    assert ended
    # Nor does anybody join it any more.
    wait_until(lambda: next(iter(app.cache.flights._flights.values())).stream.held_up)
    other, _ = start(app)
    assert next(other)
    assert len(app.cache.flights) == 1
    other.close()
    leading.close()
