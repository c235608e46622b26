"""Heads of responses between PEP 3333's text and the engine's bytes."""

from __future__ import annotations

from typing import Any, TypeAlias

from layergate.http.message.fields import Lines
from layergate.wsgi.environ import header_lines

__all__ = ["Texts", "head", "raised", "texts"]

Texts: TypeAlias = list[tuple[str, str]]


def raised(exc_info: Any) -> tuple[Any, ...]:
    """The last argument for the server's ``start_response``, which some servers only take if it is
    needed."""
    return () if exc_info is None else (exc_info,)


def texts(lines: Lines) -> Texts:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines]


def head(status: str, headers: Texts) -> tuple[int, Lines | None]:
    """Status code and lines; no lines if the app gave something that is no head."""
    try:
        return int(status[:3]), header_lines(headers)
    except (AttributeError, TypeError, ValueError):
        return 0, None
