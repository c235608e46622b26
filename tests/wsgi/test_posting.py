"""Responses to POST that answer later GETs (RFC 9110 9.3.3), in all the forms of PEP 3333."""

from __future__ import annotations

import sys
import threading
from typing import Any

import flask
import pytest

from layergate import cached
from layergate.wsgi import LayerGate
from tests.support.wsgi import Gate, Server, ask, environ_of

OWN = [("Cache-Control", "max-age=60"), ("Content-Location", "/")]
PLAIN = [("Cache-Control", "max-age=60")]


class Parts:
    """An iterable with a ``close`` that counts."""

    def __init__(self, *parts: Any) -> None:
        self.parts = iter(parts)
        self.closed = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> bytes:
        part = next(self.parts)
        if isinstance(part, Exception):
            raise part
        return part

    def close(self) -> None:
        self.closed += 1


def got(environ: Any) -> bool:
    return environ["REQUEST_METHOD"] != "POST"


def generator(start_response: Any, headers: Any) -> Any:
    start_response("200 OK", headers)
    yield b"pos"
    yield b"ted"


def written(start_response: Any, headers: Any) -> Any:
    start_response("200 OK", headers)(b"posted")
    return []


def as_list(start_response: Any, headers: Any) -> Any:
    start_response("200 OK", headers)
    return [b"pos", b"ted"]


def as_iterable(start_response: Any, headers: Any) -> Any:
    start_response("200 OK", headers)
    return Parts(b"pos", b"", b"ted")


@pytest.mark.parametrize("form", [generator, written, as_list, as_iterable])
@pytest.mark.parametrize("length", [None, "6", "5", "7", "0"])
def test_every_form_of_a_body(form: Any, length: str | None) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if got(environ):
            start_response("200 OK", PLAIN)
            return [b"got"]
        own = OWN if length is None else [*OWN, ("Content-Length", length)]
        return form(start_response, own)

    cache = LayerGate(app)
    answer = ask(cache, method="POST")
    # Of what is neither announced nor at hand, the head does not say that it is stored.
    said = "; stored" if length is not None or form is as_list else ""
    assert (answer.told, answer.body) == (f"LayerGate; fwd=method{said}", b"posted")
    assert ask(cache).body == (b"posted" if length in (None, "6") else b"got")
    assert cache.cache.stats()["inflight_bytes"] == 0


@pytest.mark.parametrize("headers", [PLAIN, OWN], ids=["not-stored", "stored"])
def test_the_iterable_is_closed_and_untouched_if_it_is_not_stored(headers: Any) -> None:
    parts = Parts(b"posted")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return parts

    cache = LayerGate(app)
    server = Server()
    body: Any = cache(environ_of(method="POST"), server.start_response)
    assert (body is parts) == (headers is PLAIN)
    body.close()
    assert parts.closed == 1
    assert ask(cache).told != "LayerGate; hit"  # it was closed before its end
    assert cache.cache.stats()["inflight_bytes"] == 0


def test_a_list_stays_the_list_whose_length_servers_tell() -> None:
    whole = [b"posted"]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", OWN)
        return whole

    cache = LayerGate(app)
    assert cache(environ_of(method="POST"), Server().start_response) is whole
    assert "hit" in ask(cache).told


@pytest.mark.parametrize("length", [None, "6"])
def test_it_is_stored_before_its_client_has_all_of_it(length: str | None) -> None:

    def app(environ: Any, start_response: Any) -> Any:
        if got(environ):
            start_response("200 OK", PLAIN)
            return [b"got"]
        start_response("200 OK", [*OWN, *([("Content-Length", length)] if length else [])])
        return Parts(b"pos", b"ted")

    cache = LayerGate(app)
    body = iter(cache(environ_of(method="POST"), Server().start_response))
    assert next(body) + next(body) == b"posted"
    # (without a length, only the end says that this was all)
    assert ask(cache).body == (b"got" if length is None else b"posted")


def test_a_failure_after_all_that_was_announced_is_the_servers() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*OWN, ("Content-Length", "6")])
        return Parts(b"posted", RuntimeError("boom"))

    cache = LayerGate(app)
    body = iter(cache(environ_of(method="POST"), Server().start_response))
    assert next(body) == b"posted"
    with pytest.raises(RuntimeError, match="boom"):
        next(body)
    assert cache.cache.stats()["layers"]["memory"]["entries"] == 0


@pytest.mark.parametrize("when", ["at-once", "in-the-middle"])
def test_an_app_that_fails(when: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", OWN)
        if when == "at-once":
            raise RuntimeError("boom")
        return Parts(b"half", RuntimeError("boom"))

    cache = LayerGate(app)
    with pytest.raises(RuntimeError, match="boom"):
        ask(cache, method="POST")
    stats = cache.cache.stats()
    assert (stats["inflight_bytes"], stats["layers"]["memory"]["entries"]) == (0, 0)


@pytest.mark.parametrize("second", [OWN, PLAIN], ids=["own", "plain"])
def test_a_head_in_place_of_another_is_not_stored(second: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if got(environ):
            start_response("200 OK", PLAIN)
            return [b"got"]
        start_response("200 OK", OWN)
        try:
            raise ValueError("boom")
        except ValueError:
            start_response("200 Sorry", second, sys.exc_info())
        return [b"sorry"]

    cache = LayerGate(app)
    answer = ask(cache, method="POST")
    assert (answer.status, answer.body) == ("200 Sorry", b"sorry")
    assert "stored" not in answer.told
    assert ask(cache).body == b"got"


def test_a_head_that_comes_too_late_is_the_servers_affair() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", OWN)
        yield b"a"
        try:
            raise ValueError("boom")
        except ValueError:
            start_response("500 Sorry", PLAIN, sys.exc_info())
        yield b"never"

    cache = LayerGate(app)
    with pytest.raises(ValueError, match="boom"):
        ask(cache, method="POST")
    assert cache.cache.stats()["layers"]["memory"]["entries"] == 0


def test_what_is_no_head_or_no_body_is_the_servers_affair() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/head":
            start_response("what", [("x", 1)])
            return [b""]
        start_response("200 OK", OWN)
        return ["text"]

    cache = LayerGate(app)
    heads: list[Any] = []
    nothing: Any = lambda *head: heads.append(head)  # noqa: E731
    cache(environ_of("/head", "POST"), nothing)
    assert heads == [("what", [("x", 1), ("cache-status", "LayerGate; fwd=method")])]
    body: Any = cache(environ_of(method="POST"), Server().start_response)
    assert body == ["text"]
    assert cache.cache.stats()["layers"]["memory"]["entries"] == 0


def test_g3_a_purge_on_another_thread() -> None:
    """Before its head; between its head and its end."""
    gates = {"/early": (Gate(), None), "/late": (None, Gate())}

    def app(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if got(environ):
            start_response("200 OK", PLAIN)
            yield b"got"
            return
        early, late = gates[path]
        if early:
            early.wait()
        start_response("200 OK", [PLAIN[0], ("Content-Location", path)])
        yield b"pos"
        if late:
            late.wait()
        yield b"ted"

    cache = LayerGate(app)

    answers = {}
    for path, pair in gates.items():
        gate = next(gate for gate in pair if gate)
        post = threading.Thread(
            target=lambda path=path: answers.update({path: ask(cache, path, "POST")})
        )
        post.start()
        gate.reached()
        cache.purge(urls=[f"http://example.org{path}"])
        gate.open()
        post.join(10)
    early, late = answers["/early"], answers["/late"]
    assert "stored" not in early.told
    assert late.body == b"posted"
    assert ask(cache, "/early").body == b"got"
    assert ask(cache, "/late").body == b"got"
    assert cache.cache.stats()["inflight_bytes"] == 0


def test_g1_a_user_and_a_policy_next_to_the_route() -> None:
    app = flask.Flask(__name__)

    @app.route("/", methods=["GET", "POST"])
    @cached(tags=["t"])
    def endpoint() -> Any:
        return b"posted", 200, OWN

    cache = LayerGate(app.wsgi_app)
    assert "stored" not in ask(cache, method="POST", REMOTE_USER="joe").told
    assert "stored" in ask(cache, method="POST").told
    assert "hit" in ask(cache).told
    cache.purge(tags=["t"])
    assert "hit" not in ask(cache).told
