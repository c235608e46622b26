"""Heads of responses between PEP 3333's text and the engine's bytes, and responses that are at hand."""

from __future__ import annotations

import http
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from layergate.http.message.fields import Line, Lines
from layergate.http.message.ranges import Slices
from layergate.http.message.stored import Served
from layergate.wsgi.environ import Environ, header_lines

__all__ = [
    "STATUSES", "TEXT", "App", "Body", "StartResponse", "Texts", "Write", "head_of", "raised",
    "send_response", "status_line", "texts",
]  # fmt: skip

Body: TypeAlias = Iterable[bytes]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
App: TypeAlias = Callable[[Environ, StartResponse], Body]
Texts: TypeAlias = list[tuple[str, str]]

_MAX_TEXTS: Final = 8192
STATUSES: Final = {status.value: f"{status.value} {status.phrase}" for status in http.HTTPStatus}
# PEP 3333 ("Other HTTP Features"): only the server sends these, an application must not.
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
})  # fmt: skip


class _Text(dict[Line, tuple[str, str]]):
    """Lines as WSGI wants them. Those of stored responses recur for every hit."""

    def __missing__(self, line: Line) -> tuple[str, str]:
        name, value = line
        text = name.decode("latin-1"), value.decode("latin-1")
        if len(name) + len(value) <= 320:
            if len(self) >= _MAX_TEXTS:
                self.clear()
            self[line] = text
        return text


TEXT: Final = _Text()


def status_line(status: int) -> str:
    """What ``start_response`` wants for a status code."""
    return STATUSES.get(status) or f"{status} Unknown"


def raised(exc_info: Any) -> tuple[Any, ...]:
    """The last argument for the server's ``start_response``. Some servers take it only if there is
    something in it."""
    return () if exc_info is None else (exc_info,)


def texts(lines: Lines) -> Texts:
    """Lines as ``start_response`` wants them."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines]


def head_of(status: str, headers: Texts) -> tuple[int, Lines | None]:
    """Status code and lines; no lines if the app gave something that is no head."""
    try:
        return int(status[:3]), header_lines(headers)
    except (AttributeError, TypeError, ValueError):
        return 0, None


def send_response(start_response: StartResponse, served: Served) -> Body:
    """Send a response that is at hand."""
    lines = [line for line in served.lines if line[0] not in _HOP_BY_HOP]
    start_response(status_line(served.status), texts(lines))
    if isinstance(served.body, Slices):
        return served.body
    return [served.body] if served.body else []
