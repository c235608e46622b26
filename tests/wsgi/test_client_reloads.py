"""Reloads (``Cache-Control: no-cache``) of clients in threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from layergate import HttpCache, MemoryLayer
from layergate.wsgi import LayerGate
from tests.support.clocks import ThreadClock
from tests.support.waiting import wait_until
from tests.support.wsgi import Gate, ask, in_threads


@pytest.mark.parametrize("pause", [None, 10])
def test_reloads_at_once_cost_one_call(pause: float | None) -> None:
    calls: list[None] = []
    gate, clock = Gate(), ThreadClock()
    lock = threading.Lock()

    def app(_: dict[str, Any], start_response: Any) -> list[bytes]:
        with lock:
            calls.append(None)
            number = len(calls)
        if number > 1:
            gate.wait()
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"%d" % number]

    cache = HttpCache(
        runtime=clock, layers=[MemoryLayer("1MB", clock=clock.now)], reload_pause=pause
    )
    gated = LayerGate(app, cache=cache)
    ask(gated)
    clock.time += 20

    def open_when_all_wait() -> None:
        gate.reached()
        wait_until(lambda: cache.stats()["waiters"] == 7)
        gate.open()

    opener = threading.Thread(target=open_when_all_wait)
    opener.start()
    answers = in_threads(8, lambda: ask(gated, HTTP_CACHE_CONTROL="no-cache"))
    opener.join()
    assert {answer.body for answer in answers} == {b"2"}
    assert len(calls) == 2


def test_twenty_reloads_in_a_row_cost_one_call() -> None:
    calls: list[None] = []

    def app(_: dict[str, Any], start_response: Any) -> list[bytes]:
        calls.append(None)
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"%d" % len(calls)]

    clock = ThreadClock()
    layers = [MemoryLayer("1MB", clock=clock.now)]
    gated = LayerGate(app, cache=HttpCache(runtime=clock, layers=layers))
    ask(gated)
    answers = [ask(gated, HTTP_CACHE_CONTROL="no-cache") for _ in range(20)]
    assert {answer.body for answer in answers} == {b"2"}
    assert len(calls) == 2
    assert all("detail=reload-pause" in answer.told for answer in answers[1:])
