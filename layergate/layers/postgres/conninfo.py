"""From the user's URL to what libpq is given: the URL, and what it leaves open.

libpq reads it, with all that its users expect: ``PG*`` variables, ``~/.pgpass``, service files, several
hosts, certificates. What is added here gives way to what the URL or the environment says.
"""

from __future__ import annotations

import os
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from layergate.errors import ConfigError
from layergate.remote.urls import shown

__all__ = ["conninfo_of"]

_DEFAULTS: Final[dict[str, tuple[str, str]]] = {
    # A standby must not coordinate. Of several hosts, the primary is used.
    "target_session_attrs": ("read-write", "PGTARGETSESSIONATTRS"),
    # A peer that vanished is noticed while the connection is idle.
    "keepalives_idle": ("15", ""),
    "keepalives_interval": ("5", ""),
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
