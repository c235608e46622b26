"""URLs of memcached servers.

    memcached://host[:port][,host[:port]...]        memcacheds:// with TLS
    memcached:///path/of/a/socket

with ``user:password@`` before the hosts, and these options after ``?``: ``cafile`` (a file with the
certificates of the authorities that are trusted, instead of the system's), ``certfile`` and ``keyfile``
(of a client's certificate).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from layergate.errors import ConfigError
from layergate.remote.urls import shown

__all__ = ["Address", "Target", "parse_url"]

_PORT: Final = 11211
_FILES: Final = frozenset({"cafile", "certfile", "keyfile"})
_HOST: Final = re.compile(r"[^\s/#@\[\]\x00-\x1f]+")


class Address(NamedTuple):
    """A server: ``host`` and ``port``, or the ``path`` of a socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Target(NamedTuple):
    """``addresses``: of the servers, as the URL orders them. ``tls``: None without TLS."""

    addresses: tuple[Address, ...]
    username: str
    password: str
    tls: ssl.SSLContext | None


def parse_url(url: str) -> Target:
    """Raises ConfigError. It shows no password."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("memcached", "memcacheds"):
        raise ConfigError(f"url must begin with memcached:// or memcacheds://, got {shown(url)!r}")
    rest, _, query = rest.partition("?")
    if "@" in query:  # else what follows the ? of a password would be taken for options, and shown
        raise ConfigError(
            f"url must have %3F and %40 for ? and @ in a password or in an option, got {shown(url)!r}"
        )
    user, at, hosts = rest.rpartition("@")
    name, _, password = user.partition(":")
    username, password = unquote(name), unquote(password)
    if at and not (username and password):
        raise ConfigError(f"url must have a user and a password, or neither, got {shown(url)!r}")
    if any(word in value for value in (username, password) for word in ("\r", "\n", " ")):
        raise ConfigError("url must have a user and a password without spaces and line breaks")
    options = dict(parse_qsl(query, keep_blank_values=True))
    secure = scheme.lower() == "memcacheds"
    unknown = set(options) - _FILES
    if unknown or (options and not secure):
        raise ConfigError(
            "url takes the options cafile, certfile and keyfile, and these with memcacheds:// only, got"
            f" {', '.join(sorted(unknown or options))}"
        )
    if "" in options.values():
        raise ConfigError(f"url must name a file for each option, got {shown(url)!r}")
    if hosts.startswith("/"):
        if secure:
            raise ConfigError(f"url must name a host for TLS, not a socket, got {shown(url)!r}")
        addresses: tuple[Address, ...] = (Address("", 0, unquote(hosts)),)
    else:
        addresses = tuple(_address(one, url) for one in hosts.rstrip("/").split(","))
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"url must name each server once, got {shown(url)!r}")
    return Target(addresses, username, password, _context(options) if secure else None)


def _address(text: str, url: str) -> Address:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        good = bool(closed) and (not rest or rest.startswith(":"))
    else:
        host, _, port = text.partition(":")
        good = True
    if not (good and _HOST.fullmatch(host)) or (
        port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    ):
        raise ConfigError(f"url must name hosts as host or host:port, got {shown(url)!r}")
    return Address(host, int(port) if port else _PORT)


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("cafile"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
        elif "keyfile" in options:
            raise ConfigError("url must have a certfile for its keyfile")
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(options.values()) or "the system's certificates"
        raise ConfigError(
            f"url names files of TLS that cannot be read ({named}): {error}"
        ) from error
    return context
