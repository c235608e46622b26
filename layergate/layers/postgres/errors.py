"""What the errors of a PostgreSQL mean: a refusal, a time-out, a fault.

`connection` raises `ServerError` for what the server answers, and the errors of psycopg for a connection
that cannot be made or breaks. `ported` gives the ports LayerGate's own errors. What it leaves as it is
counts as a fault of the system.
"""

from __future__ import annotations

from typing import Final

from layergate.errors import LayerRefused, LayerTimeout

__all__ = [
    "CONFLICTS",
    "LEFT",
    "MISSING",
    "PASSING",
    "PREPARED",
    "ServerError",
    "ported",
    "unconnected",
]

MISSING: Final = frozenset({"3F000", "42P01"})
"""There is no such schema, or no such table."""

PREPARED: Final = frozenset({"08P01", "26000", "42P05"})
"""A prepared statement is not there, or is there already: another server process answers."""

CONFLICTS: Final = frozenset({"40001", "40P01"})
"""A concurrent transaction was quicker (where the isolation is stricter than read committed)."""

_READ_ONLY: Final = "25006"
_STANDBY: Final = "55000"  # pg_current_wal_lsn says so: recovery is in progress

LEFT: Final = frozenset({_READ_ONLY, _STANDBY})
"""This server does not take writes, or no longer. The next connection may lead to another one."""

_CANCELED: Final = "57014"
_LOCKED: Final = "55P03"

PASSING: Final = CONFLICTS | LEFT | {_CANCELED, _LOCKED}
"""Says nothing of what may be done another time."""

_NO_RIGHT: Final = "42501"
# Classes of SQLSTATE: data, limits, resources, privileges. The server is there, and says no.
_REFUSALS: Final = frozenset({"0A", "22", "23", "42", "53", "54"})
_TOO_MANY: Final = "53300"  # connections: nobody can be served
_REMEDIES: Final = {
    _READ_ONLY: "; this server is a standby, or its default is read-only: name the primary",
    _NO_RIGHT: "; layergate check URL tells which rights are missing",
} | dict.fromkeys(MISSING, "; run: layergate init URL, as a user who may create it")
# What libpq tells of a server that does not let us in, with what to do. (No code comes with it, and a server
# may speak another language: then its words stand alone.)
_ENTRY: Final = (
    (
        "password authentication failed",
        "check the user and the password, in the URL, PGPASSWORD or ~/.pgpass",
    ),
    ("no password supplied", "give the password in PGPASSWORD, ~/.pgpass or the URL"),
    ("no pg_hba.conf entry", "have a line for this user, database and host added to pg_hba.conf"),
    ("certificate verify failed", "check sslrootcert: no known authority has signed the server's"),
    ("session is read-only", "name the primary: a standby cannot coordinate"),
    ("server is in hot standby mode", "name the primary: a standby cannot coordinate"),
)


class ServerError(Exception):
    """An error that the server has answered with. ``state``: its SQLSTATE."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(f"{message} (SQLSTATE {state})")
        self.state = state
        self.message = message


def ported(layer: str, error: ServerError) -> Exception:
    """The error to be raised by a port of ``layer``; ``error`` itself if it is a fault."""
    if error.state == _CANCELED:
        return LayerTimeout(layer, str(error))
    refused = error.state[:2] in _REFUSALS and error.state != _TOO_MANY
    if refused or error.state in _REMEDIES:
        return LayerRefused(layer, f"{error}{_REMEDIES.get(error.state, '')}")
    return error


def unconnected(told: str) -> str:
    """What libpq tells of a connection that could not be made, with a remedy."""
    told = " ".join(told.split()) or "cannot connect"
    return told + "".join(f"; {remedy}" for words, remedy in _ENTRY if words in told)
