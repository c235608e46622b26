"""Heads as bytes: a field line stays one line, whatever is in it."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest

from layergate.gateway.head import encode_head, encode_lines
from tests.support.gateways import Gateway, Origin

BREAKS = [
    pytest.param((b"x", b"a\r\nevil: 1"), id="CR LF in a value"),
    pytest.param((b"x", b"a\nevil: 1"), id="LF in a value"),
    pytest.param((b"x", b"a\revil: 1"), id="CR in a value"),
    pytest.param((b"x", b"a\r\n"), id="CR LF at the end of a value"),
    pytest.param((b"x", b"\r\n\r\nevil"), id="a head that ends early"),
    pytest.param((b"x", b"a\0b"), id="NUL in a value"),
    pytest.param((b"x\r\nevil", b"1"), id="CR LF in a name"),
    pytest.param((b"x\nevil", b"1"), id="LF in a name"),
]
OTHER = (b"other", b"1")


@pytest.mark.parametrize("line", BREAKS)
@pytest.mark.parametrize(
    "place", [lambda one: [one], lambda one: [one, OTHER], lambda one: [OTHER, one]]
)
def test_a_line_break_in_a_field_line_is_refused(line, place):
    with pytest.raises(ValueError, match="control character"):
        encode_lines(place(line))
    with pytest.raises(ValueError, match="control character"):
        encode_head(200, place(line))


def test_what_only_looks_like_a_line_break_is_sent():
    """These end a line of text, and none of a head."""
    value = b"\x0b\x0c\x1c\x1d\x1e\x85\xe2\x80\xa8"
    assert encode_lines([(b"x", value)]) == b"x: " + value + b"\r\n"
    assert encode_lines([]) == b""


@pytest.mark.parametrize("line", BREAKS)
async def test_a_stored_response_that_cannot_be_sent_is_no_hit(line, caplog, monkeypatch):
    """Whatever wrote it into a layer. The client gets one response, and none that begins in the middle."""
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/a")
        hit: Any = gateway.server.service.hit

        def poisoned(*request: Any) -> Any:
            stored, lines = hit(*request)
            own = copy.copy(stored)
            own.lines = [*stored.lines, line]
            return own, [*own.lines, *lines[len(stored.lines) :]]

        monkeypatch.setattr(gateway.server.service, "hit", poisoned)
        client = await gateway.client()
        with caplog.at_level(logging.ERROR, "layergate.gateway"):
            for _ in range(2):
                response = await client.ask("/a")
                assert (response.status, response.body) == (200, b"/a 1")
                assert "evil" not in response and "x" not in response
        assert "the response stored for b'/a' cannot be sent" in caplog.text


@pytest.mark.parametrize("line", BREAKS)
async def test_a_response_that_cannot_be_sent_is_an_error(line):
    async with Origin() as origin, Gateway(origin) as gateway:

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": [line]})
            await send({"type": "http.response.body", "body": b"never"})

        gateway.server.service.app = app
        client = await gateway.client()
        response = await client.ask("/a")
        assert response.status == 500
        assert "evil" not in response
        await client.ended()
