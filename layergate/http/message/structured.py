"""Structured fields (RFC 9651), parsed by http-sf. Never raises."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import http_sf

__all__ = ["parse_dictionary", "parse_list"]

Item: TypeAlias = tuple[Any, dict[str, Any]]
"""A bare item, or the members of an inner list, and its parameters."""


def parse_dictionary(value: bytes) -> dict[str, Item] | None:
    """The members of a Dictionary (RFC 9651 section 3.2); None if ``value`` is not one.

    If a name occurs twice, the last member counts.
    """
    return cast("dict[str, Item] | None", _parse(value, "dictionary"))


def parse_list(value: bytes) -> list[Item] | None:
    """The members of a List (RFC 9651 section 3.1); None if ``value`` is not one."""
    return cast("list[Item] | None", _parse(value, "list"))


def _parse(value: bytes, kind: str) -> object:
    try:
        return http_sf.parse(value, tltype=kind)
    except (ValueError, RecursionError) as error:
        # The traceback refers to a frame that refers to the error: a cycle that keeps all our callers
        # alive until the garbage collector runs.
        error.__traceback__ = None
        return None
