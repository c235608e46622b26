"""Ranges under WSGI, where the leader's client gets its body from the app: what is stored has to
come before and after it, however the app gives it."""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import pytest

from layergate import OriginAborted
from layergate.http.extensions.groups import MAX_GROUPS
from layergate.http.message.key import primary_key
from layergate.http.rfc9111.combining import MAX_PARTS
from layergate.wsgi import LayerGate
from tests.support.waiting import wait_until
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


# -- what others do meanwhile, in threads of their own ----------------------------------------------


def beside(work: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    return thread, answers


def done(thread: threading.Thread, answers: list[Any]) -> Any:
    thread.join(10)
    assert answers, "a request hangs, or has failed"
    return answers[0]


PURGES: list[dict[str, Any]] = [
    {"tags": ["film"]}, {"urls": ["http://example.org/"]}, {"everything": True}
]  # fmt: skip


class Tagged(Film):
    """``tag``: of its responses; ``head``: a gate before the head."""

    def __init__(self) -> None:
        super().__init__("generator")
        self.tag = "film"
        self.head: Gate | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        tag, head = self.tag, self.head
        if head is not None:
            head.wait()

        def tagged(status: str, lines: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*lines, ("Cache-Tag", tag)], *rest)

        return super().__call__(environ, tagged)

    def generate(self, octets: bytes) -> Any:
        gate = self.gate
        yield octets[:7]
        if gate is not None:
            gate.wait()
        yield octets[7:]


@pytest.mark.parametrize("what", PURGES)
def test_what_is_purged_while_the_rest_is_fetched_is_no_part_of_the_answer(what: Any) -> None:
    """The head of the rest comes after the purge: the stored part is not used any more (G3)."""
    film = Tagged()
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-59")
    film.head = gate = Gate()
    waiting = beside(lambda: ask(app))
    gate.reached()
    app.purge(**what)
    gate.open()
    assert done(*waiting).body == BODY
    assert film.asked == ["bytes=0-59", "bytes=60-", None]


@pytest.mark.parametrize("what", [*PURGES, {"tags": ["other"]}])
def test_nothing_that_was_purged_is_stored_with_the_rest(what: Any) -> None:
    """The purge comes after the head, by the tag of either half: this client has its answer, nobody
    else does (G3)."""
    film = Tagged()
    app = LayerGate(film)
    ask(app, HTTP_RANGE="bytes=0-59")
    film.tag = "other"
    film.gate = gate = Gate()
    waiting = beside(lambda: ask(app))
    gate.reached()
    app.purge(**what)
    film.gate = None
    after = ask(app)
    assert "hit" not in after.told
    assert "collapsed" not in after.told
    gate.open()
    assert done(*waiting).body == after.body == BODY
    # (the half that is stored has not that tag: it is good for another rest)
    again = "bytes=60-" if what == {"tags": ["other"]} else None
    assert film.asked == ["bytes=0-59", "bytes=60-", again]
    assert ask(app).body == BODY


def test_a_refresh_of_a_part_is_no_answer_to_an_if_range() -> None:
    """It does not repeat the client's If-Range, so what it brings may be of another representation
    than that client has the rest of (G6)."""
    tag, octet = '"a"', b"A"
    gate: Gate | None = None
    conditions: list[str | None] = []

    def origin(environ: dict[str, Any], start_response: Any) -> Any:
        condition = environ.get("HTTP_IF_RANGE")
        conditions.append(condition)
        if gate is not None:
            gate.wait()
        lines = [("Cache-Control", "max-age=0, stale-while-revalidate=600"), ("ETag", tag)]
        if condition in (None, tag):
            start_response("206 Partial Content", [*lines, ("Content-Range", "bytes 0-9/100")])
            return [octet * 10]
        start_response("200 OK", lines)
        return [octet * 100]

    app = LayerGate(origin)
    resumes = {"HTTP_RANGE": "bytes=0-9", "HTTP_IF_RANGE": '"a"'}
    ask(app, **resumes)
    tag, octet, gate = '"b"', b"B", Gate()
    wait_until(lambda: "stale-while-revalidate" in ask(app, **resumes).told)
    gate.reached()
    sure = beside(lambda: ask(app, **resumes, HTTP_CACHE_CONTROL="no-cache"))
    gate.reached()  # it is a request of its own
    gate.open()
    answer = done(*sure)
    assert (answer.status, answer.body) == ("200 OK", b"B" * 100)
    assert conditions == ['"a"', None, '"a"']
    app.close()


def test_the_parts_and_the_groups_of_one_target_have_a_cap() -> None:
    film = Film("list")

    def grouped(environ: dict[str, Any], start_response: Any) -> Any:
        names = ", ".join(f'"{len(film.asked)}-{number}"' for number in range(100))

        def start(status: str, lines: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*lines, ("Cache-Groups", names)], *rest)

        return film(environ, start)

    for app in (LayerGate(film), LayerGate(grouped)):
        for first in range(0, 100, 4):
            ask(app, HTTP_RANGE=f"bytes={first}-{first + 1}")
        entry = app.cache.stack.peek(primary_key("http", b"example.org", "/", None, b""))
        assert entry is not None
        assert len(entry.value.parts) <= MAX_PARTS
        assert len(entry.tags) <= MAX_GROUPS + 1
        assert "hit" in ask(app, HTTP_RANGE="bytes=96-97").told
