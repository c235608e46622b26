"""ASGI's connection scope and LayerGate's `Request`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from layergate.asgi.messages import Scope
from layergate.http.message.described import DescribedRequest
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import primary_key, quoted
from layergate.http.message.request import Request
from layergate.http.privacy.tokens import TOKEN_NAMES, is_token
from layergate.http.privacy.users import is_authenticated, is_user_key

__all__ = [
    "HIT_FOR_MISS",
    "Arrived",
    "asked_request",
    "forward_scope",
    "has_token",
    "header_lines",
    "is_personal",
    "read_request",
    "refresh_scope",
    "route_path",
    "scope_key",
    "target_uri",
]

HIT_FOR_MISS: Final = "layergate.hit_for_miss"
"""Scope key: the cache key and the hit-for-miss marker that `LayerGate.plain_hit` has just found, so that
the middleware does not look for them again. It is read only in scopes that have ``extensions``."""


class Arrived:
    """A scope as the server made it, for calling the app once more in the same request.

    Apps change the scope as they route (``path``, ``root_path``, ``path_params``), and may leave notes in
    the dicts in it (``state``).
    """

    __slots__ = ("_dicts", "_scope", "_values")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._values = {**scope, "headers": [*header_lines(scope)]}
        self._dicts = [(value, value.copy()) for value in scope.values() if type(value) is dict]

    def restore(self) -> None:
        """Make the scope what it was, in place: whoever else holds it sees what the app notes next."""
        self._scope.clear()
        self._scope.update(self._values)
        for noted, before in self._dicts:
            noted.clear()
            noted.update(before)


def route_path(scope: Scope) -> str:
    """The path rules match: without the prefix under which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def is_personal(scope: Scope) -> bool:
    """Does the app, or its server, know who asks by something other than the request's fields: a
    session with something in it, an authenticated user, a client certificate?

    Their middleware (Starlette's SessionMiddleware, AuthenticationMiddleware) may be outside of
    LayerGate, where its Set-Cookie is added after we have seen the response.
    """
    if scope.get("session") or is_authenticated(scope.get("user")) or _granted(scope.get("auth")):
        return True
    extensions = scope.get("extensions")
    if extensions and _has_certificate(extensions.get("tls")):
        return True
    state = scope.get("state")
    if not state:
        return False
    if not isinstance(state, Mapping):  # Starlette's State, and the like
        state = getattr(state, "_state", None) or getattr(state, "__dict__", {})
    return any(is_user_key(name) and is_authenticated(value) for name, value in state.items())


def _granted(auth: Any) -> bool:
    """Does what authentication has left behind say that somebody was authenticated? Starlette's
    AuthCredentials without scopes do not."""
    if auth is None:
        return False
    try:
        return bool(getattr(auth, "scopes", True))
    except Exception:  # somebody's property
        return True


def _has_certificate(tls: Any) -> bool:
    """Has the client shown a certificate? ``tls``: ASGI's TLS extension."""
    return isinstance(tls, Mapping) and bool(
        tls.get("client_cert_chain") or tls.get("client_cert_name")
    )


def has_token(scope: Scope) -> bool:
    """Is there a token for one client, that middleware has made for the app to put into its response:
    asgi-csrf's ``scope["csrftoken"]``, a ``csp_nonce`` of `request.state`, and the like?"""
    for name in scope:
        if TOKEN_NAMES[name] and is_token(scope[name]):
            return True
    state = scope.get("state")
    if not state or not isinstance(state, dict):
        return False
    # (Litestar keeps what is its own in an object of slots)
    return any(
        (TOKEN_NAMES[name] and is_token(value)) or is_token(getattr(value, "csrf_token", None))
        for name, value in state.items()
    )


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


def target_uri(scope: Scope) -> str:
    """The target URI, as keys are labelled."""
    raw = scope.get("raw_path")
    path = quoted(scope["path"].encode("utf-8", "surrogatepass")) if raw is None else raw
    host = b",".join(value for name, value in scope["headers"] if name == b"host")
    query = scope.get("query_string", b"")
    uri = b"%b://%b%b" % (scope.get("scheme", "http").encode(), host, path or b"/")
    return (uri + b"?" + query if query else uri).decode("latin-1")


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


def asked_request(scope: Scope, asked: DescribedRequest, *, obey_directives: bool) -> Request:
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
