"""Addresses as text: where to listen, where upstreams are, which hosts they serve.

`options` and `upstream_options` parse with it. Every function raises ConfigError with the option, the
value and the remedy. Nothing here opens a socket.
"""

# A check that the declared type makes "redundant" is the one that makes a mistake readable.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, NamedTuple

from layergate.config import strings
from layergate.errors import ConfigError

__all__ = ["NAME", "Address", "host_covers", "host_policy", "hosts", "listen", "upstream_url"]

NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_SOCKET_PATH: Final = 107  # bytes: Linux's sun_path without its final zero
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]*))(?::(?P<port>[0-9]{1,5}))?"
)


class Address(NamedTuple):
    """Where to listen or to connect to.

    ``host``  a name or an IP address without brackets; "" (only to listen): every interface.
    ``port``  0 (only to listen): one that is free.
    ``path``  of a Unix socket, and then host and port mean nothing; else None.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(text: str) -> Address:
    if text.startswith("unix:"):
        return Address(path=_socket_path(text.removeprefix("unix:"), "listen"))
    shown = (
        f", got {text!r}; write '127.0.0.1:8080', '[::1]:8080', ':8080' for every interface, or"
        " 'unix:/run/layergate.sock'"
    )
    host, port = _authority(text, "listen", shown)
    if port is None:
        raise ConfigError(f"listen must name a port{shown}")
    return Address(host, port)


def upstream_url(url: Any) -> tuple[bool, Address]:
    """Whether it is TLS, and the address. The URL is not shown before it is known to hold no
    password."""
    if not isinstance(url, str):
        raise ConfigError(
            f"url must be a string such as 'http://127.0.0.1:8000', got {type(url).__name__}"
            " in an upstream"
        )
    if url.startswith("unix:"):
        return False, Address(path=_socket_path(url.removeprefix("unix:"), "url"))
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        raise ConfigError(
            "url must begin with http://, https:// or unix:/, got something else in an upstream;"
            " write e.g. 'http://127.0.0.1:8000'"
        )
    if "@" in rest:
        raise ConfigError("url must be without a user name and password in an upstream")
    tls = scheme.lower() == "https"
    authority, _, path = rest.partition("/")
    if path or "?" in authority or "#" in authority:
        raise ConfigError(
            f"url must have no path, got {url!r}; requests are forwarded with the target they came"
            " with, and 'path' says which are"
        )
    host, port = _authority(authority, "url", f", got {url!r}")
    if not host or port == 0:
        raise ConfigError(f"url must name a host, and a port from 1 to 65535, got {url!r}")
    return tls, Address(host, (443 if tls else 80) if port is None else port)


def hosts(hosts: Any, where: str) -> tuple[str, ...] | None:
    if hosts is None:
        return None
    remedy = "write 'example.com' or '*.example.com', without a port"
    checked = []
    for given in strings(hosts, "hosts", where):
        shown = f", got {given!r}{where}; {remedy}"
        wildcard = "*." if given.startswith("*.") else ""
        name, port = _authority(given.removeprefix("*."), "hosts", shown)
        if not name or port is not None or (wildcard and ":" in name):
            raise ConfigError(f"hosts must be host names{shown}")
        checked.append(f"[{name}]" if ":" in name else f"{wildcard}{name}")
    if not checked:
        raise ConfigError(f"hosts must name a host{where}; leave it out for all of them")
    return tuple(checked)


def host_covers(own: str, host: str) -> bool:
    """``host`` may itself be ``*.…``: then, whether all of it is covered."""
    return own == host or (own.startswith("*.") and host.endswith(own[1:]) and host != own[1:])


def host_policy(host: Any, where: str) -> str:
    remedy = (
        "; write 'preserve', 'upstream', or what Host is to say, such as 'shop.example.com' or"
        " 'shop.example.com:8000'"
    )
    if not isinstance(host, str) or not host:
        raise ConfigError(f"host must be a string, got {host!r}{where}{remedy}")
    name, port = _authority(host, "host", f", got {host!r}{where}{remedy}")
    if not name:
        raise ConfigError(f"host must name a host, got {host!r}{where}{remedy}")
    literal = f"[{name}]" if ":" in name else name
    return literal if port is None else f"{literal}:{port}"


def _authority(text: str, option: str, shown: str) -> tuple[str, int | None]:
    """Host (without brackets, lower case) and port; "" and None for what is missing."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option} must be a host and a port{shown}")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and port > 65535:
        raise ConfigError(f"{option} must have a port from 0 to 65535{shown}")
    if match["six"] is not None:
        try:
            return str(ipaddress.IPv6Address(match["six"])), port
        except ValueError:
            raise ConfigError(f"{option} must have an IPv6 address in brackets{shown}") from None
    name = match["name"]
    if name and not NAME.fullmatch(name):
        raise ConfigError(f"{option} must have a host name of ASCII letters and digits{shown}")
    return name.lower(), port


def _socket_path(path: str, option: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ConfigError(
            f"{option} must have the absolute path of a socket, such as"
            f" 'unix:/run/layergate.sock', got {path!r}"
        )
    path = f"/{path.lstrip('/')}"  # unix:///run/x.sock is usual too
    if len(path.encode()) > _SOCKET_PATH:
        raise ConfigError(
            f"{option} must have a path of at most {_SOCKET_PATH} bytes, got {path!r}; that is the"
            " system's limit for Unix sockets"
        )
    return path
