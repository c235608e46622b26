"""A range of a large stored response, from a client that takes its time: no copy of it for each."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from layergate.http.message.ranges import PIECE, Slices
from layergate.wsgi import LayerGate
from tests.support.wsgi import ask, start

SIZE = 4_000_003
BODY = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)


def app(environ: Any, start_response: Any) -> list[bytes]:
    start_response(
        "200 OK", [("cache-control", "max-age=60"), ("content-length", str(SIZE)), ("etag", '"1"')]
    )
    return [BODY]


RANGES = [
    pytest.param("bytes=0-", id="all"),
    pytest.param("bytes=1-3999999", id="one"),
    pytest.param("bytes=5-6, 8-3999990", id="two"),
]


@pytest.mark.parametrize("ranges", RANGES)
def test_many_that_have_taken_little_hold_little(ranges, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "boundary")
    gate = LayerGate(app, memory="64MB")
    ask(gate)
    whole = ask(gate, HTTP_RANGE=ranges).body
    tracemalloc.start()
    try:
        bodies = []
        for _ in range(20):
            body, server = start(gate, HTTP_RANGE=ranges)
            assert server.head[0].startswith("206")
            pieces = iter(body)
            first = next(pieces)
            assert len(first) <= PIECE
            bodies.append((first, pieces))
        assert tracemalloc.get_traced_memory()[0] < 20 * (PIECE + 50_000)
    finally:
        tracemalloc.stop()
    for first, pieces in bodies:
        assert first + b"".join(pieces) == whole


def test_what_is_sent_is_what_was_asked_for():
    gate = LayerGate(app, memory="64MB")
    ask(gate)
    answer = ask(gate, HTTP_RANGE="bytes=11-3900000")
    assert answer.headers["content-length"] == str(3_900_001 - 11)
    assert answer.body == BODY[11:3_900_001]


def test_pieces_are_cut_where_they_are_asked_to_be():
    slices = Slices([b"abc", b"", memoryview(b"xdefx")[1:4], b"g"])
    assert len(slices) == 7
    for first in range(9):
        for stop in range(first, 9):
            assert slices[first:stop] == b"abcdefg"[first:stop]
    assert slices[:] == b"abcdefg"
