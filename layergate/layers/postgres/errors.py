"""What the errors of a PostgreSQL mean: a refusal, a time-out, a fault.

`connection` raises `ServerError` for what the server answers, and the errors of psycopg for a connection
that cannot be made or breaks. `ported` gives the ports LayerGate's own errors. What it leaves as it is
counts as a fault of the system.
"""

from __future__ import annotations

from typing import Final

from layergate.errors import LayerRefused, LayerTimeout

__all__ = ["CONFLICTS", "MISSING", "PREPARED", "ServerError", "ported"]

MISSING: Final = frozenset({"3F000", "42P01"})
"""There is no such schema, or no such table."""

PREPARED: Final = frozenset({"08P01", "26000", "42P05"})
"""A prepared statement is not there, or is there already: another server process answers."""

CONFLICTS: Final = frozenset({"40001", "40P01"})
"""A concurrent transaction was quicker (where the isolation is stricter than read committed)."""

_CANCELED: Final = "57014"
_READ_ONLY: Final = "25006"
# Classes of SQLSTATE: data, limits, resources, privileges. The server is there, and says no.
_REFUSALS: Final = frozenset({"0A", "22", "23", "42", "53", "54"})
_TOO_MANY: Final = "53300"  # connections: nobody can be served
_READ_ONLY_REMEDY: Final = "this server is a standby, or its default is read-only: name the primary"


class ServerError(Exception):
    """An error that the server has answered with. ``state``: its SQLSTATE."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(f"{message} (SQLSTATE {state})")
        self.state = state
        self.message = message


def ported(layer: str, error: Exception) -> Exception:
    """The error to be raised by a port of ``layer``."""
    if not isinstance(error, ServerError):
        return error
    if error.state == _CANCELED:
        return LayerTimeout(layer, str(error))
    if error.state == _READ_ONLY:
        return LayerRefused(layer, f"{error}; {_READ_ONLY_REMEDY}")
    if error.state in MISSING:
        return LayerRefused(layer, f"{error}; run: layergate init URL, as a user who may create it")
    if error.state[:2] in _REFUSALS and error.state != _TOO_MANY:
        return LayerRefused(layer, str(error))
    return error
