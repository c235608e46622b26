"""Ranges under WSGI, where the leader's client gets its body from the app: what is stored has to
come before and after it, however the app gives it."""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import pytest

from layergate import OriginAborted
from layergate.wsgi import LayerGate
from tests.support.wsgi import Gate, ask, in_threads, start

BODY = b"0123456789" * 10


class Film:
    """``how`` it gives its body; ``sends``: what takes the place of the octets."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked: list[str | None] = []
        self.sends: bytes | None = None
        self.gate: Gate | None = None
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        asked = environ.get("HTTP_RANGE")
        self.asked.append(asked)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "bytes=0-")
        assert match is not None
        first = int(match[1])
        stop = int(match[2]) + 1 if match[2] else len(BODY)
        octets = BODY[first:stop] if self.sends is None else self.sends
        lines = [("Cache-Control", "max-age=60"), ("ETag", '"a"')]
        if asked is not None:
            lines.append(("Content-Range", f"bytes {first}-{stop - 1}/{len(BODY)}"))
        if "sized" in self.how:
            lines.append(("Content-Length", str(len(octets))))
        status = "200 OK" if asked is None else "206 Partial Content"
        write = start_response(status, lines)
        if "list" in self.how:
            return [octets[:7], octets[7:]]
        if "write" in self.how:
            write(octets[:7])
            write(octets[7:])
            return []
        if "half" in self.how:
            write(octets[:7])
            return [octets[7:]]
        if "file" in self.how:
            return environ["wsgi.file_wrapper"](io.BytesIO(octets), 7)
        return self.generate(octets)

    def generate(self, octets: bytes) -> Any:
        try:
            yield octets[:7]
            if self.gate is not None:
                self.gate.wait()
            yield octets[7:]
        finally:
            self.closed += 1


HOWS = ["list", "list-sized", "write", "half", "generator", "generator-sized", "file"]


def file_wrapper(file: Any, size: int) -> Any:
    return iter(lambda: file.read(size), b"")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("stored", "asked", "sent"),
    [
        ("0-69", None, "bytes=70-"),
        ("40-99", None, "bytes=0-39"),
        ("20-29", "bytes=25-64", "bytes=30-64"),
        ("60-79", "bytes=25-64", "bytes=25-59"),
        ("0-0", "bytes=0-1", "bytes=1-1"),
    ],
)
def test_the_rest_is_put_where_it_belongs(
    how: str, stored: str, asked: str | None, sent: str
) -> None:
    film = Film(how)
    app = LayerGate(film)
    extra: dict[str, Any] = {"wsgi_file_wrapper": file_wrapper}
    ask(app, HTTP_RANGE=f"bytes={stored}", **extra)
    if asked is None:
        answer = ask(app, **extra)
        assert answer.status == "200 OK"
        assert answer.body == BODY
        assert "content-range" not in answer.headers
    else:
        answer = ask(app, HTTP_RANGE=asked, **extra)
        assert answer.status == "206 Partial Content"
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        assert answer.body == BODY[first : last + 1]
        assert answer.headers["content-range"] == f"bytes {first}-{last}/100"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert film.asked == [f"bytes={stored}", sent]
    asked_again = {} if asked is None else {"HTTP_RANGE": asked}
    assert ask(app, **asked_again, **extra).body == answer.body
    assert len(film.asked) == 2


def test_with_something_on_both_sides() -> None:
    film = Film("generator")
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-29")
    ask(app, HTTP_RANGE="bytes=60-99")
    answer = ask(app)
    assert answer.body == BODY
    assert film.asked[-1] == "bytes=30-59"
    assert "hit" in ask(app).told


@pytest.mark.parametrize("how", ["list", "generator", "write", "half"])
@pytest.mark.parametrize("sends", [b"", b"short", BODY])
def test_a_rest_of_another_length_breaks_off(how: str, sends: bytes) -> None:
    film = Film(how)
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=40-99")
    film.sends = sends
    with pytest.raises(OriginAborted):
        ask(app)
    film.sends = None
    assert ask(app).body == BODY
    stats = app.cache.stats()
    assert (stats["flights"], stats["inflight_bytes"]) == (0, 0)


def test_threads_share_a_rest() -> None:
    film = Film("generator")
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-59")
    film.gate = gate = Gate()

    def open_it() -> None:
        gate.reached()
        gate.open()

    opener = threading.Thread(target=open_it)
    opener.start()
    answers = in_threads(5, lambda: ask(app))
    opener.join(10)
    for answer in answers:
        assert (answer.status, answer.body) == ("200 OK", BODY)
    assert film.asked == ["bytes=0-59", "bytes=60-"]


def test_a_client_that_leaves_leaves_the_rest_to_the_store() -> None:
    film = Film("generator")
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-59")
    iterable, _ = start(app)
    assert next(iter(iterable)) == BODY[:60]
    iterable.close()
    assert film.closed == 2
    assert "hit" in ask(app).told
    assert len(film.asked) == 2


def test_a_client_that_has_it_already_gets_a_304() -> None:
    film = Film("generator")
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-59")
    answer = ask(app, HTTP_IF_NONE_MATCH='"a"')
    assert (answer.status, answer.body) == ("304 Not Modified", b"")
    assert "hit" in ask(app).told
