"""The cache key: injective over scheme, host, path, query and mount point (G9).

A key is the raw bytes of its parts, each preceded by its length. So no part can run into the next, and
no two targets that the app can distinguish share a key. Adapters make the key of each request here. A
key stays in this process; layers outside of it store a hash. A variant's key is its primary key plus a
digest of the secondary key (RFC 9111 4.1).

    h; | s;  <host> <path> <query>                                       http, https
    x;       <scheme> <host> <path> <query> <rewritten path> <root>      everything else

Each ``<part>`` is ``length:bytes``. The beginning of a key therefore determines where it ends, whatever
is appended to it.

The key of a variant that Accept-Language selects has a second digest, of the other fields that select
it. Two keys with the same second digest belong to variants that differ by language alone (see
`languages`).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final
from urllib.parse import quote_from_bytes

from layergate.http.message.uri import label, normalized

__all__ = [
    "label_of",
    "others_of",
    "path_of",
    "primary_key",
    "query_of",
    "quoted",
    "target_of",
    "variant_key",
]

VARIANT_DIGEST: Final = 16  # bytes
_SCHEMES: Final = {"http": b"h;", "https": b"s;"}
_LENGTHS: Final = tuple(b"%d:" % length for length in range(1024))
_SAFE: Final = "/!$&'()*+,;=:@-._~"  # RFC 3986 3.3: pchar and the slash
_OTHERS: Final = re.compile(rb"l([0-9]{1,9});").match  # see `selecting.secondary_key`
_PLAIN: Final = re.compile(rb"[A-Za-z0-9/!$&'()*+,;=:@\-._~]*").fullmatch


def primary_key(
    scheme: str,
    host: bytes,
    path: str,
    raw_path: bytes | None,
    query: bytes,
    root_path: str = "",
) -> bytes:
    """The key of a target.

    ``path`` is the decoded path as the app sees it, ``raw_path`` the bytes as received, or None if the
    server does not provide them. If the two differ by more than percent-encoding, because something
    rewrote one of them, the key contains both: the app may look at either. ``root_path`` is the prefix
    under which the app is mounted, if the server or a middleware provides it; apps build links with it.
    """
    try:
        decoded = path.encode()
    except UnicodeEncodeError:  # a lone surrogate
        decoded = path.encode("utf-8", "surrogatepass")
    if raw_path is None:
        raw_path = quoted(decoded)
    kind = _SCHEMES.get(scheme)
    if raw_path == decoded and kind and not root_path:
        try:
            # By far the fastest of several ways to write this. The hit path starts here.
            return b"".join((
                kind,
                _LENGTHS[len(host)], host,
                _LENGTHS[len(raw_path)], raw_path,
                _LENGTHS[len(query)], query,
            ))  # fmt: skip
        except IndexError:
            return kind + _prefixed(host, raw_path, query)
    rewritten = b"=" if raw_path == decoded else b"!" + decoded
    named, root = (text.encode("utf-8", "surrogatepass") for text in (scheme, root_path))
    return b"x;" + _prefixed(named, host, raw_path, query, rewritten, root)


def _prefixed(*parts: bytes) -> bytes:
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def quoted(path: bytes) -> bytes:
    """A decoded path, percent-encoded again, for servers that do not provide the raw path."""
    return path if _PLAIN(path) else quote_from_bytes(path, safe=_SAFE).encode("ascii")


def variant_key(primary: bytes, secondary: bytes) -> bytes:
    """The key of the variant that ``secondary`` (see `selecting.secondary_key`) selects."""
    key = primary + blake2b(secondary, digest_size=VARIANT_DIGEST).digest()
    head = _OTHERS(secondary)
    if head is None:
        return key
    others = secondary[head.end() : head.end() + int(head[1])]
    return key + blake2b(others, digest_size=VARIANT_DIGEST).digest()


def others_of(primary: bytes, variant: bytes) -> bytes:
    """The second digest in the key of a variant that Accept-Language selects; b"" for any other key.

    All variants that differ by Accept-Language alone have the same one.
    """
    digests = variant[len(primary) :]
    return digests[VARIANT_DIGEST:] if len(digests) == 2 * VARIANT_DIGEST else b""


def label_of(key: bytes) -> str:
    """The label that purges match, for a primary key or a variant's key (see `uri`).

    Keys differ if any byte differs; labels differ only if the meaning does.
    """
    scheme, host, path, query = _target(key)
    return label(
        scheme.decode("latin-1"),
        host.decode("latin-1"),
        path.decode("latin-1"),
        query.decode("latin-1"),
    )


def target_of(key: bytes) -> str:
    """The target URI of a primary key or a variant's key, to display or to resolve references against."""
    scheme, host, path, query = _target(key)
    uri = b"%b://%b%b" % (scheme, host, path or b"/")
    return normalized((uri + b"?" + query if query else uri).decode("latin-1"))


def _target(key: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    kind, at = key[:2], 2
    if kind == b"x;":
        scheme, at = _part(key, at)
    else:
        scheme = b"http" if kind == b"h;" else b"https"
    host, at = _part(key, at)
    path, at = _part(key, at)
    query, at = _part(key, at)
    return scheme, host, path, query


def path_of(key: bytes) -> tuple[bytes, str]:
    """The raw path of a key's target, and the prefix under which the app is mounted, or ""."""
    at = 2
    parts = []
    for _ in range(6 if key[:2] == b"x;" else 2):
        part, at = _part(key, at)
        parts.append(part)
    if key[:2] != b"x;":
        return parts[1], ""
    return parts[2], parts[5].decode("utf-8", "surrogatepass")


def query_of(key: bytes) -> tuple[bytes, bytes, bytes]:
    """A primary key in three pieces: up to the length of its query, the query, and the rest."""
    at = 2
    for _ in range(3 if key[:2] == b"x;" else 2):
        _, at = _part(key, at)
    query, end = _part(key, at)
    return key[:at], query, key[end:]


def _part(key: bytes, at: int) -> tuple[bytes, int]:
    colon = key.index(b":", at)
    end = colon + 1 + int(key[at:colon])
    return key[colon + 1 : end], end
