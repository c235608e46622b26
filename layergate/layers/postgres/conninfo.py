"""From the user's URL to what libpq is given: the URL, and what it leaves open.

libpq reads it, with all that its users expect: ``PG*`` variables, ``~/.pgpass``, service files, several
hosts, certificates. What is added here gives way to what the URL or the environment says.
"""

from __future__ import annotations

import os
from typing import Any, Final

import psycopg
from psycopg.conninfo import (
    conninfo_attempts,
    conninfo_attempts_async,
    conninfo_to_dict,
    make_conninfo,
)

from layergate.errors import ConfigError
from layergate.remote.urls import shown

__all__ = ["attempts_async_of", "attempts_of", "conninfo_of"]

_DEFAULTS: Final[dict[str, tuple[str, str]]] = {
    # A standby must not coordinate. Of several hosts, the primary is used.
    "target_session_attrs": ("read-write", "PGTARGETSESSIONATTRS"),
    # A peer that vanished is noticed while the connection is idle: after some ten seconds.
    "keepalives_idle": ("5", ""),
    "keepalives_interval": ("2", ""),
    "keepalives_count": ("3", ""),
}


def conninfo_of(url: str, namespace: str) -> str:
    """Raises ConfigError, without a secret in it, for what libpq cannot read."""
    try:
        given: dict[str, Any] = dict(conninfo_to_dict(url))
    except psycopg.Error as error:
        raise ConfigError(
            f"url must be one that PostgreSQL reads, such as 'postgresql://user@host/database', got"
            f" {shown(url)!r}; see the section about connection URIs in its documentation"
        ) from error
    added = {
        name: value
        for name, (value, variable) in _DEFAULTS.items()
        if name not in given and not os.environ.get(variable or name)
    }
    if "application_name" not in given:
        added["fallback_application_name"] = f"layergate-{namespace}"[:63]
    return make_conninfo(url, **added)


def attempts_of(conninfo: str) -> list[str]:
    """One conninfo for each address of each host.

    Left to itself, libpq waits for the first address until the system gives up, and never comes to the second
    one in time. Names are resolved here, which blocks. Raises psycopg.OperationalError for names that
    nobody knows.
    """
    return [make_conninfo("", **one) for one in conninfo_attempts(conninfo_to_dict(conninfo))]


async def attempts_async_of(conninfo: str) -> list[str]:
    """As `attempts_of`; names are resolved without blocking the loop."""
    found = await conninfo_attempts_async(conninfo_to_dict(conninfo))
    return [make_conninfo("", **one) for one in found]
