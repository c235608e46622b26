"""URLs of servers, shown without their secrets.

The layers use it for `repr`, for errors, and for ``layergate check``. It has to work for any URL that a
client library takes, also for one that is wrong.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["shown"]

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9._%+-]*")
# Options whose values are harmless. All others are left out: a library may call its secrets anything.
_HARMLESS: Final = frozenset(
    {
        "authsource", "connect_timeout", "dbname", "directconnection", "host", "port", "readpreference",
        "replicaset", "retryreads", "retrywrites", "sslmode", "target_session_attrs", "tls", "user", "w",
    }
)  # fmt: skip


def shown(url: str) -> str:
    """The URL with ``***`` for its password, and for values of options that may be secret."""
    match = _URL.fullmatch(url)
    if match is None:
        return "..."
    # A password may contain "/", "?", "#" and "@" by mistake, so everything up to the last "@" counts.
    user, at, rest = match["rest"].rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        user = (name if _NAME.fullmatch(name) else "***") + (":***@" if colon else "@")
    host, mark, query = rest.partition("#")[0].partition("?")
    options = [_option(one) for one in query.split("&")] if mark else []
    return f"{match['scheme']}://{user}{host}" + ("?" + "&".join(options) if options else "")


def _option(one: str) -> str:
    name, equals, _ = one.partition("=")
    return one if not equals or unquote(name).lower() in _HARMLESS else f"{name}=***"
