"""The cache key: injective over scheme, host, path and query (G9).

A key is the raw bytes of its parts behind their lengths, so no part can run into the next and no
two targets that the app can tell apart share one. It stays in this process: a layer outside hashes
it. A variant's key is its primary key plus a digest of the secondary key (RFC 9111 4.1).

    <scheme>,<host>,<path>,<query>,<rewritten>[,<root>];<bytes of each part>[<variant>]
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final
from urllib.parse import quote_from_bytes

__all__ = ["label_of", "primary_key", "quoted", "variant_key"]

VARIANT_DIGEST: Final = 16  # bytes
_SAFE: Final = "/!$&'()*+,;=:@-._~"  # RFC 3986 3.3: pchar and the slash
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

    ``path`` is the decoded path as the app sees it, ``raw_path`` the bytes as they came, or None if
    the server does not tell. Where the two differ by more than percent-encoding (something rewrote
    one of them), both are in the key, since the app may look at either. ``root_path`` is what the
    app is mounted under, as far as the server or a middleware says so; links are made with it.
    """
    decoded = path.encode("utf-8", "surrogatepass")
    if raw_path is None:
        raw_path = quoted(decoded)
    if raw_path == decoded:
        raw, rewritten, length = decoded, b"", -1
    else:
        raw, rewritten, length = raw_path, decoded, len(decoded)
    named = scheme.encode("utf-8", "surrogatepass")
    if root_path:
        root = root_path.encode("utf-8", "surrogatepass")
        return b"%d,%d,%d,%d,%d,%d;%b%b%b%b%b%b" % (
            len(named), len(host), len(raw), len(query), length, len(root),
            named, host, raw, query, rewritten, root,
        )  # fmt: skip
    return b"%d,%d,%d,%d,%d;%b%b%b%b%b" % (
        len(named), len(host), len(raw), len(query), length,
        named, host, raw, query, rewritten,
    )  # fmt: skip


def quoted(path: bytes) -> bytes:
    """A decoded path as it must have come, where the server does not tell."""
    return path if _PLAIN(path) else quote_from_bytes(path, safe=_SAFE).encode("ascii")


def variant_key(primary: bytes, secondary: bytes) -> bytes:
    """The key of the variant that ``secondary`` (see `selecting.secondary_key`) selects."""
    return primary + blake2b(secondary, digest_size=VARIANT_DIGEST).digest()


def label_of(key: bytes) -> str:
    """The target URI of a key, a variant's or a primary one: what purges are matched against."""
    lengths, _, parts = key.partition(b";")
    scheme, host, path, query = (int(number) for number in lengths.split(b",")[:4])
    at = scheme + host + path
    uri = b"%b://%b%b" % (
        parts[:scheme], parts[scheme : scheme + host], parts[scheme + host : at] or b"/",
    )  # fmt: skip
    if query:
        uri += b"?" + parts[at : at + query]
    return uri.decode("latin-1")
