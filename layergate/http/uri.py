"""http and https URIs as cache keys and purges need them (RFC 9110 section 4.2, RFC 3986).

URIs are ``str``. Whoever has bytes decodes them as latin-1, which keeps every byte.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["canonical_uri", "normalised", "origin_of", "resolve_uri"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 3986 appendix B: splits any string at all.
_PARTS: Final = re.compile(
    r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL
)
# RFC 3986 3.2.2, ASCII only: a name in other letters is not a URI until it is put in Punycode.
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]*))?")
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
# No request target can have these (RFC 9112 3.2), so no stored response either.
_NOT_IN_URI: Final = re.compile(r"[\x00-\x20\x7f]")


def origin_of(uri: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, normalised as in RFC 9110 4.3.1. None if it is not an http(s) URI.

    None too if there is userinfo: RFC 9110 4.2.4, "a recipient SHOULD parse for userinfo and treat
    its presence as an error".
    """
    parts = _PARTS.fullmatch(uri)
    return None if parts is None else _origin(parts[1], parts[2])


def _origin(scheme: str | None, authority: str | None) -> tuple[str, str, int] | None:
    if scheme is None or authority is None:
        return None
    scheme = scheme.lower()
    default = _DEFAULT_PORTS.get(scheme)
    match = _HOST_PORT.fullmatch(authority)
    if default is None or match is None:
        return None
    # "normalizing the port to remove any leading zeros. If port is elided from the URI, the default
    # port for that scheme is used."
    digits = (match[2] or "").lstrip("0")
    if len(digits) > 5:
        return None
    port = int(digits) if digits else (0 if match[2] else default)
    return None if port > 65535 else (scheme, match[1].lower(), port)


def canonical_uri(uri: str) -> str | None:
    """The form in which a URI is compared, or None if it is not a usable http(s) URI.

    RFC 9110 4.2.3: scheme and host in lower case, the default port and the fragment left out, an
    empty path written as "/"; and one percent-encoding (see `normalised`). Path and query are
    otherwise left alone: two that differ in any character may be two resources to the app.
    """
    parts = _PARTS.fullmatch(uri)
    if parts is None or _NOT_IN_URI.search(uri):
        return None
    return _join(_origin(parts[1], parts[2]), parts[3], parts[4])


def _join(origin: tuple[str, str, int] | None, path: str, query: str | None) -> str | None:
    if origin is None:
        return None
    scheme, host, port = origin
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    query = "" if query is None else "?" + query
    return normalised(f"{scheme}://{authority}{path or '/'}{query}")


def normalised(uri: str) -> str:
    """``uri`` in one percent-encoding of many that mean the same: RFC 3986 6.2.2, hexadecimal digits
    in upper case, unreserved characters as themselves."""
    return _ENCODED.sub(_one_way, uri) if "%" in uri else uri


def _one_way(encoded: re.Match[str]) -> str:
    char = chr(int(encoded[1], 16))
    return char if _UNRESERVED.fullmatch(char) else encoded[0].upper()


def resolve_uri(base: str, reference: str) -> str | None:
    """``reference`` resolved against ``base`` (RFC 3986 5.2.2), canonical; None if unusable.

    ``base`` is an absolute http(s) URI.
    """
    b, r = _PARTS.fullmatch(base), _PARTS.fullmatch(reference)
    if b is None or r is None or _NOT_IN_URI.search(base) or _NOT_IN_URI.search(reference):
        return None
    scheme, authority, path, query = r[1] or b[1], r[2], r[3], r[4]
    if r[1] is None and authority is None:
        authority = b[2]
        if not path:
            return _join(_origin(scheme, authority), b[3], b[4] if query is None else query)
        if not path.startswith("/"):
            # 5.2.3: an empty base path counts as "/".
            path = (b[3].rpartition("/")[0] + "/" + path) if "/" in b[3] else "/" + path
    return _join(_origin(scheme, authority), _without_dots(path), query)


def _without_dots(path: str) -> str:
    """RFC 3986 5.2.4, for a path that is empty or starts with a slash."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)
