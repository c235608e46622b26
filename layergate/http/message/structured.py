"""Structured fields (RFC 9651), parsed by http-sf."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import http_sf

__all__ = ["parse_dictionary", "parse_list"]

Item: TypeAlias = tuple[Any, dict[str, Any]]
"""A bare item, or the members of an inner list, and its parameters."""


def parse_dictionary(value: bytes) -> dict[str, Item] | None:
    """The members of a Dictionary (RFC 9651 section 3.2), of one name the last. None if it is none."""
    return cast("dict[str, Item] | None", _parse(value, "dictionary"))


def parse_list(value: bytes) -> list[Item] | None:
    """The members of a List (RFC 9651 section 3.1). None if it is none."""
    return cast("list[Item] | None", _parse(value, "list"))


def _parse(value: bytes, kind: str) -> object:
    try:
        return http_sf.parse(value, tltype=kind)
    except (ValueError, RecursionError) as error:
        # Its traceback refers to a frame that refers to it: a circle, with all our callers in it,
        # that only the garbage collector would end.
        error.__traceback__ = None
        return None
