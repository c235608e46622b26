"""Write this cache's member of Cache-Status (RFC 9211), a structured field (RFC 9651)."""

from __future__ import annotations

import re
from typing import Final

from layergate.errors import ConfigError

__all__ = ["forward_value", "hit_value", "identifier"]

_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]+")
_NOT_PRINTABLE: Final = re.compile(rb"[^\x20-\x7e]")
_LARGEST: Final = 999_999_999_999_999  # RFC 9651 3.3.1


def identifier(name: str) -> bytes:
    """The identifier of this cache: a token if ``name`` is one, else a string (RFC 9211 section 2).

    Raises ConfigError unless ``name`` is printable ASCII and not empty.
    """
    if not _PRINTABLE.fullmatch(name):
        raise ConfigError(
            f"the Cache-Status identifier {name!r} must be printable ASCII and not empty:"
            " RFC 9211 allows a token or a string"
        )
    return _token_or_string(name)


def hit_value(ident: bytes, ttl: int, detail: str | None = None) -> bytes:
    """The member for a response from this cache, such as ``LayerGate; hit; ttl=376``.

    ``ident`` comes from `identifier`. ``ttl`` is the remaining lifetime in seconds, negative if stale
    (2.4). ``detail`` is a word of LayerGate's own (2.8), or None.
    """
    value = b"%b; hit; ttl=%d" % (ident, _integer(ttl))
    return value if detail is None else value + b"; detail=" + _token_or_string(detail)


def forward_value(
    ident: bytes,
    fwd: str,
    *,
    fwd_status: int | None = None,
    ttl: int | None = None,
    stored: bool | None = None,
    collapsed: bool | None = None,
    key: str | None = None,
    detail: str | None = None,
) -> bytes:
    """The member for a request that went forward, such as ``LayerGate; fwd=uri-miss; stored``.

    ``fwd`` is one of the reasons of 2.2. ``fwd_status`` is the origin's status code if it differs from
    the response's (2.3). ``ttl`` is in seconds (2.4). Parameters that are None are left out. For
    ``collapsed`` that means "the request was not collapsed with others", while False means that it was,
    but a new request had to be made (2.6).
    """
    value = b"%b; fwd=%b" % (ident, _token_or_string(fwd))
    if fwd_status is not None:
        value += b"; fwd-status=%d" % _integer(fwd_status)
    if ttl is not None:
        value += b"; ttl=%d" % _integer(ttl)
    if stored is not None:
        value += b"; stored" if stored else b"; stored=?0"
    if collapsed is not None:
        value += b"; collapsed" if collapsed else b"; collapsed=?0"
    if key is not None:
        value += b"; key=" + _string(key)
    if detail is not None:
        value += b"; detail=" + _token_or_string(detail)
    return value


def _integer(number: int) -> int:
    return max(-_LARGEST, min(_LARGEST, number))


def _token_or_string(text: str) -> bytes:
    return text.encode("ascii") if _TOKEN.fullmatch(text) else _string(text)


def _string(text: str) -> bytes:
    """RFC 9651 3.3.3: printable ASCII only. Anything else is percent-encoded, as in a URI."""
    raw = text.encode("utf-8", "backslashreplace")  # a lone surrogate has no UTF-8
    raw = _NOT_PRINTABLE.sub(lambda match: b"%%%02X" % match[0][0], raw)
    return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
