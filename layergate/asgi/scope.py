"""ASGI's connection scope: what it says of a request, and the scopes that LayerGate calls the app with.

The middleware and the fetches call these functions. They read and copy scopes; nothing here decides anything.
"""

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
    """A scope as the server made it, for a second call of the app in the same request.

    An app changes the scope as it routes (``path``, ``root_path``, ``path_params``), and may write into the
    dicts in it (``state``).
    """

    __slots__ = ("_dicts", "_scope", "_values")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._values = {**scope, "headers": [*header_lines(scope)]}
        self._dicts = [(value, value.copy()) for value in scope.values() if type(value) is dict]

    def restore(self) -> None:
        """Make the scope what it was, in place: other holders of it still see what the app notes next."""
        self._scope.clear()
        self._scope.update(self._values)
        for noted, before in self._dicts:
            noted.clear()
            noted.update(before)


def route_path(scope: Scope) -> str:
    """The path that rules match: without the prefix under which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def is_personal(scope: Scope) -> bool:
    """True if the app, or its server, knows the user by something other than the request's fields: a
    session that is not empty, an authenticated user, a client certificate.

    Starlette's SessionMiddleware and AuthenticationMiddleware may be outside of LayerGate, which then does
    not see the Set-Cookie that they add to the response.
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
    """True if what authentication has left in the scope names an authenticated user. Starlette's
    AuthCredentials without scopes name none."""
    if auth is None:
        return False
    try:
        return bool(getattr(auth, "scopes", True))
    except Exception:  # a property of user code has failed
        return True


def _has_certificate(tls: Any) -> bool:
    """True if the client has presented a certificate. ``tls``: the TLS extension of ASGI."""
    return isinstance(tls, Mapping) and bool(
        tls.get("client_cert_chain") or tls.get("client_cert_name")
    )


def has_token(scope: Scope) -> bool:
    """True if middleware has made a token for one client, which the app may put into its response:
    ``scope["csrftoken"]`` of asgi-csrf, a ``csp_nonce`` in `request.state`, and the like."""
    for name in scope:
        if TOKEN_NAMES[name] and is_token(scope[name]):
            return True
    state = scope.get("state")
    if not state or not isinstance(state, dict):
        return False
    # Litestar keeps its own values in an object with slots.
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
    """The request that ``asked`` describes, as it would come from the server that made ``scope``."""
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

    It offers no extension by which the app hands a file to the server (``http.response.pathsend``,
    ``zerocopysend``), because the bytes of that file are to be stored. Nor does it offer trailers or
    pushes, which belong to a single client.
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
    """A scope for a fetch that outlives the request that it is copied from. What the handlers of that
    request may still change (state, session, path parameters) is copied one level deep."""
    copy = forward_scope(scope, lines)
    for name, value in copy.items():
        if type(value) is dict:
            copy[name] = value.copy()
    copy["method"] = "GET"
    return copy
