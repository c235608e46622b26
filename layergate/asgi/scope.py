"""ASGI's connection scope and LayerGate's `Request`."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote

from layergate.http.fields import Fields, Lines
from layergate.http.key import primary_key
from layergate.http.request import Asked, Request

__all__ = [
    "Scope",
    "asked_request",
    "forward_scope",
    "header_lines",
    "is_personal",
    "read_request",
    "refresh_scope",
    "route_path",
    "scope_key",
]

Scope: TypeAlias = MutableMapping[str, Any]


def route_path(scope: Scope) -> str:
    """The path rules match: without the prefix under which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def is_personal(scope: Scope) -> bool:
    """Does the app know who it answers from something outside of us: a session with something in
    it, or an authenticated user, however that was found out?

    Their middleware (Starlette's SessionMiddleware, AuthenticationMiddleware) may be outside of
    LayerGate, where its Set-Cookie is added after we have seen the response.
    """
    if scope.get("session"):
        return True
    user = scope.get("user")
    if user is None:
        return False
    try:
        return bool(getattr(user, "is_authenticated", False))
    except Exception:  # somebody's property; Starlette's own raises until it is overridden
        return True


def header_lines(scope: Scope) -> Iterable[Iterable[bytes]]:
    lines: Iterable[Iterable[bytes]] = scope.get("headers") or ()
    return lines


def scope_key(scope: Scope, host: bytes) -> bytes:
    """The cache key of a scope."""
    return primary_key(
        scope.get("scheme", "http"),
        host,
        scope["path"],
        scope.get("raw_path"),
        scope.get("query_string", b""),
        scope.get("root_path", ""),
    )


def read_request(scope: Scope, *, obey_directives: bool) -> Request:
    """The request of an HTTP scope. Its ``has_body`` is what the header fields announce."""
    fields = Fields(header_lines(scope))
    host = b",".join(fields.all(b"host"))
    scheme: str = scope.get("scheme", "http")
    length = fields.get(b"content-length")
    return Request(
        method=scope["method"],
        scheme=scheme,
        host=host,
        path=route_path(scope),
        key=scope_key(scope, host),
        fields=fields,
        has_body=(length is not None and length.strip() != b"0") or b"transfer-encoding" in fields,
        obey_directives=obey_directives,
    )


def asked_request(scope: Scope, asked: Asked, *, obey_directives: bool) -> Request:
    """The request that ``asked`` describes, as the server that made ``scope`` would hand it to us."""
    told: Scope = {
        "method": asked.method,
        "scheme": asked.scheme,
        "path": unquote(asked.path.decode()),
        "query_string": asked.query,
        "root_path": scope.get("root_path", ""),
        "headers": asked.lines,
    }
    if scope.get("raw_path") is not None:
        told["raw_path"] = asked.path
    return read_request(told, obey_directives=obey_directives)


def forward_scope(scope: Scope, lines: Lines) -> Scope:
    """The scope for a fetch that followers may share.

    The app must not bypass us with a file handed to the server (``http.response.pathsend``,
    ``zerocopysend``): its bytes are what is to be stored. Nor is there anyone whose trailers or
    pushes would be the same for all.
    """
    copy = {**scope, "headers": lines}
    extensions = scope.get("extensions")
    if extensions:
        copy["extensions"] = {
            name: value for name, value in extensions.items() if name not in _NOT_SHARED
        }
    return copy


_NOT_SHARED = frozenset({
    "http.response.pathsend",
    "http.response.zerocopysend",
    "http.response.trailers",
    "http.response.push",
})  # fmt: skip


def refresh_scope(scope: Scope, lines: Lines) -> Scope:
    """A scope for a fetch that outlives the request it was copied from: what that request's
    handlers may still change (state, session, path parameters) is copied one level deep."""
    copy = forward_scope(scope, lines)
    for name, value in copy.items():
        if type(value) is dict:
            copy[name] = value.copy()
    copy["method"] = "GET"
    return copy
