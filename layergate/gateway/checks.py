"""Checks that several options share. Each raises ConfigError with the option, the value and the remedy.

``where`` ends a message: in which upstream the option is.
"""

# A check that the declared type makes "redundant" is the one that makes a mistake readable.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from layergate.config import seconds
from layergate.errors import ConfigError

__all__ = [
    "Network",
    "at_most",
    "authorities",
    "certificate",
    "file",
    "networks",
    "positive",
    "secret",
]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_SECRET: Final = 65_536  # bytes of a file that holds one


def positive(value: Any, option: str, where: str) -> float:
    checked = seconds(value, option, where, optional=False)
    if not checked:
        raise ConfigError(f"{option} must be > 0 seconds, got {value!r}{where}")
    return checked


def at_most(value: Any, option: str, *, low: int, high: int, where: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{option} must be an integer from {low} to {high}, got {value!r}{where}")


def networks(texts: Iterable[str], option: str) -> tuple[Network, ...]:
    parsed = []
    for text in texts:
        try:
            parsed.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(
                f"{option} must hold CIDR networks such as '10.0.0.0/8', got {text!r}: {error}"
            ) from None
    return tuple(parsed)


def file(path: Any, option: str, where: str) -> None:
    """Raises ConfigError unless it is None, or a file that can be read."""
    if path is None:
        return
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{option} must be the path of a file, got {path!r}{where}")
    try:
        with Path(path).open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise ConfigError(f"{option} cannot be read, got {path!r}{where}: {_why(error)}") from None


def certificate(cert: str, key: str | None) -> None:
    """Raises ConfigError unless they belong together, and need no password."""
    try:
        # Asked for a password, OpenSSL would ask the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=str)
    except (OSError, ValueError) as error:
        fitting = f"and tls_key {key!r}" if key is not None else "with its key in the same file"
        raise ConfigError(
            f"tls_cert must be a certificate in PEM {fitting}, that fits and is not encrypted, got"
            f" {cert!r}: {_why(error)}"
        ) from None


def authorities(path: str, where: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls_ca_file must hold certificates in PEM, got {path!r}{where}: {_why(error)}"
        ) from None


def secret(value: Any, path: Any, option: str) -> str | None:
    """The secret that is given, or that is in the file; None for neither."""
    if value is not None and path is not None:
        raise ConfigError(f"{option} excludes {option}_file; drop one of them")
    if path is None:
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{option} must be a non-empty string")
        return value
    file(path, f"{option}_file", "")
    try:
        with Path(path).open("rb") as opened:
            held = opened.read(_MOST_SECRET + 1)
        secret = held.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{option}_file must be a text file (UTF-8), got {path!r}") from None
    if not secret or len(held) > _MOST_SECRET:
        raise ConfigError(f"{option}_file must hold a secret, and that alone, got {path!r}")
    return secret


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
