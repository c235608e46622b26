"""The frame around a payload: version, flags, and a MAC if there is a secret. See the package."""

from __future__ import annotations

import hmac
from typing import Any, Final

from layergate.errors import ConfigError, WireError

__all__ = ["MAC_SIZE", "VERSION", "ZSTD", "checked_secret", "open_blob", "seal_blob"]

VERSION: Final = 1
ZSTD: Final = 1
"""Flag: the payload is a zstd frame."""
MAC_SIZE: Final = 16  # bytes

_MAC: Final = 2
_LEAST_SECRET: Final = 16  # bytes
_SMALL: Final = 16 * 1024  # bytes; up to here a copy is faster than a view


def seal_blob(mac: hmac.HMAC | None, key: bytes, flags: int, parts: tuple[Any, ...]) -> bytes:
    """A blob whose payload is ``parts``, one after the other.

    ``mac``: keyed with the secret and the purpose of the blob; None: the blob is not signed.
    ``key``: what the blob is stored under.
    """
    if mac is None:
        return b"".join((bytes((VERSION, flags)), *parts))
    flags |= _MAC
    return b"".join((bytes((VERSION, flags)), _signature(mac, key, flags, *parts), *parts))


def open_blob(mac: hmac.HMAC | None, key: bytes, data: bytes, max_size: int) -> tuple[Any, int]:
    """The payload of a blob (bytes or a memoryview), and whether it is compressed.

    ``max_size``: the longest payload accepted, in bytes. Raises WireError, or IndexError if the
    blob is cut short.
    """
    if data[0] != VERSION:
        raise WireError(f"format version {data[0]} is not known here")
    flags = data[1]
    if flags & ~(ZSTD | _MAC):
        raise WireError("unknown flags")
    start = 2
    if mac is not None:
        if not flags & _MAC:
            raise WireError("the data is not signed, and a secret is configured")
        start += MAC_SIZE
    elif flags & _MAC:
        raise WireError("the data is signed, and no secret is configured to verify it with")
    if len(data) - start > max_size:
        raise WireError("the data is larger than max_size")
    payload: Any = data[start:] if len(data) <= _SMALL else memoryview(data)[start:]
    if mac is not None and not hmac.compare_digest(
        _signature(mac, key, flags, payload), data[2:start]
    ):
        raise WireError("the signature does not match this data under this key")
    return payload, flags & ZSTD


def _signature(mac: hmac.HMAC, key: bytes, flags: int, *parts: Any) -> bytes:
    state = mac.copy()
    # The length of the key comes first, so that no byte of the key can pass for one of the payload.
    state.update(b"%c%c%d:%b" % (VERSION, flags, len(key), key))
    for part in parts:
        state.update(part)
    return state.digest()[:MAC_SIZE]


def checked_secret(secret: Any) -> bytes:
    """The secret as bytes. Raises ConfigError if it is too short or not text or bytes."""
    key = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or len(key) < _LEAST_SECRET:
        raise ConfigError(
            f"secret must be a str or bytes of at least {_LEAST_SECRET} bytes;"
            " python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        )
    return key
