"""WSGI's environ (PEP 3333): what it says of a request, and the environs that LayerGate calls the app with.

Each character of a text in an environ stands for one byte (PEP 3333, "Unicode Issues"), and the server has
percent-decoded the path. The middleware and the fetches call these functions. They read and copy environs;
nothing here decides anything.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from layergate.frameworks import KEY
from layergate.http.message.described import DescribedRequest
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import primary_key, quoted
from layergate.http.message.memo import Memo
from layergate.http.message.request import PER_RESPONSE_FIELDS, Request
from layergate.http.privacy.tokens import TOKEN_NAMES, is_token
from layergate.http.privacy.users import is_authenticated, is_user_key

__all__ = [
    "USER_VARIABLE",
    "Arrived",
    "Environ",
    "asked_request",
    "fields_of",
    "forward_environ",
    "has_token",
    "header_lines",
    "is_personal",
    "key_of",
    "note_back",
    "octets",
    "read_request",
    "refresh_environ",
    "route_path",
    "target_uri",
]

Environ: TypeAlias = dict[str, Any]


class Arrived:
    """An environ as the server made it, for a second call of the app in the same request.

    An app changes it as it routes (``SCRIPT_NAME``, ``PATH_INFO``), and may write into the dicts in it.
    """

    __slots__ = ("_dicts", "_environ", "_values")

    def __init__(self, environ: Environ) -> None:
        self._environ = environ
        self._values = dict(environ)
        self._dicts = [(value, value.copy()) for value in environ.values() if type(value) is dict]

    def restore(self) -> None:
        """Make the environ what it was, in place: other holders of it still see what the app notes
        next."""
        self._environ.clear()
        self._environ.update(self._values)
        for noted, before in self._dicts:
            noted.clear()
            noted.update(before)


def _field_of(variable: str) -> bytes:
    """The field that a variable stands for; b"" for none."""
    if variable[:5] == "HTTP_":
        return octets(variable[5:].replace("_", "-").lower())
    return USER_VARIABLE if _may_name_user(variable) else b""


USER_VARIABLE: Final = b"\0"
"""Stands among a request's fields if the environ has a variable by which `is_personal` may know the user. It is
never the name of a field."""
# Variables of the authentication of servers (CGI, modules of Apache and nginx, uWSGI) and of middleware.
_USER_VARIABLES: Final = re.compile(
    r"(?:REDIRECT_)*(?:REMOTE_USER|AUTH_USER|LOGON_USER|SSL_CLIENT_(?:S_DN|CERT|M_SERIAL).*"
    r"|HTTPS_(?:CC|DN|CLIENT_CERTIFICATE)|MELLON_.*|OIDC_(?:CLAIM_.*|access_token)|Shib-.*|SHIB_.*"
    r"|AUTHENTICATE_.*|KRB5CCNAME|eppn)"
    r"|(?:.*[._])?session|repoze\.who\.(?:identity|userid)|(?:oauth|authlib|jwt)\.(?:token|claims|payload)"
    r"|paste\.auth_tkt\..*|authkit\..*"
).fullmatch
_names: Final = Memo(_field_of, count=4096, length=128)


def octets(text: str) -> bytes:
    """The bytes that a string of an environ stands for."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # no server does that, but a test client may
        return text.encode("utf-8", "surrogatepass")


def fields_of(environ: Environ) -> dict[bytes, bytes]:
    """The request's header fields by lower-case name. Servers join the lines of one field. `USER_VARIABLE`
    is among them if `is_personal` has something to look at."""
    fields: dict[bytes, bytes] = {}
    names = _names
    try:
        for variable, value in environ.items():
            if name := names[variable]:
                fields[name] = value.encode("latin-1")
    except (UnicodeEncodeError, AttributeError):  # (what middleware leaves need not be text)
        for variable, value in environ.items():
            if name := names[variable]:
                fields[name] = octets(value) if isinstance(value, str) else b""
    # Both "may be empty or absent" (PEP 3333), with the same meaning.
    for variable, name in _CONTENT:
        if text := environ.get(variable):
            fields[name] = octets(text)
    return fields


_CONTENT: Final = (("CONTENT_LENGTH", b"content-length"), ("CONTENT_TYPE", b"content-type"))


def host_of(environ: Environ, fields: dict[bytes, bytes]) -> bytes:
    """The Host field; without one, the value that PEP 3333 ("URL Reconstruction") takes in its place."""
    host = fields.get(b"host")
    if host:
        return host
    name, port = environ.get("SERVER_NAME", ""), environ.get("SERVER_PORT", "")
    default = "443" if environ["wsgi.url_scheme"] == "https" else "80"
    return octets(f"{name}:{port}" if port and port != default else name).lower()


def key_of(environ: Environ, fields: dict[bytes, bytes]) -> bytes:
    """The cache key of the target."""
    root: str = environ.get("SCRIPT_NAME", "")
    path: str = root + environ.get("PATH_INFO", "")
    uri: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    if not root and path.isascii() and uri.partition("?")[0] == path:
        # The plain case, on the hit path: the server tells the path, and nothing in it is escaped.
        return primary_key(
            environ["wsgi.url_scheme"],
            fields.get(b"host") or host_of(environ, fields),
            path,
            path.encode(),
            octets(environ.get("QUERY_STRING", "")),
        )
    raw = _raw_path(environ)
    if path.isascii():
        text = path
    else:
        data = octets(path)
        text = data.decode("utf-8", "surrogateescape")
        if raw is None:
            raw = quoted(data)
    query: str = environ.get("QUERY_STRING", "")
    return primary_key(
        environ["wsgi.url_scheme"],
        host_of(environ, fields),
        text,
        raw,
        octets(query),
        _decoded(root),
    )


def _raw_path(environ: Environ) -> bytes | None:
    """The path as it came, if the server tells: uWSGI, mod_wsgi, waitress and Werkzeug in
    ``REQUEST_URI``, gunicorn in ``RAW_URI``. Else None."""
    uri: str | None = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not uri:
        return None
    path = uri.partition("?")[0]
    if path[:1] != "/":  # RFC 9112 3.2.2: the absolute form
        authority = path.partition("://")[2]
        if not authority:
            return None
        path = "/" + authority.partition("/")[2]
    return octets(path)


def _decoded(text: str) -> str:
    return text if text.isascii() else octets(text).decode("utf-8", "surrogateescape")


def route_path(environ: Environ) -> str:
    """The path that rules match, decoded: without the prefix under which the application is mounted."""
    return _decoded(environ.get("PATH_INFO", "")) or "/"


def target_uri(environ: Environ, fields: dict[bytes, bytes]) -> str:
    """The target URI, as keys are labelled."""
    raw = _raw_path(environ)
    if raw is None:
        raw = quoted(octets(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")))
    uri = b"%b://%b%b" % (
        octets(environ["wsgi.url_scheme"]), host_of(environ, fields), raw or b"/",
    )  # fmt: skip
    query = octets(environ.get("QUERY_STRING", ""))
    return (uri + b"?" + query if query else uri).decode("latin-1")


def is_personal(environ: Environ) -> bool:
    """True if the server, or a middleware outside of LayerGate, knows the user."""
    return any(
        _names_user(variable, value)
        for variable, value in environ.items()
        if _names[variable] == USER_VARIABLE
    )


def _may_name_user(variable: str) -> bool:
    return len(variable) <= 64 and (
        _USER_VARIABLES(variable) is not None
        or (not variable.isupper() and is_user_key(variable))
        or variable.lower() == "user"
    )


def _names_user(variable: str, value: Any) -> bool:
    if isinstance(value, str):
        return value != ""  # PEP 3333: as good as absent
    if variable.lower().endswith("session"):
        try:  # names with an underscore are the session's own, such as Beaker's times
            return any(not str(name).startswith("_") for name in value)
        except Exception:  # no mapping: its presence counts
            return value is not None and value is not False
    return is_authenticated(value)


def has_token(environ: Environ, *, after: bool = False) -> bool:
    """True if middleware has made a token for one client, which the app may put into its response.

    ``after``: True once the app has been called. Django keeps the secret of each request's cookie in the
    environ, and notes if it has been used.
    """
    for name in environ:
        if TOKEN_NAMES[name] and is_token(environ[name]) and not (after and name == "CSRF_COOKIE"):
            return True
    return after and bool(environ.get("CSRF_COOKIE_NEEDS_UPDATE"))


def read_request(
    environ: Environ, fields: dict[bytes, bytes], key: bytes, *, obey_directives: bool
) -> Request:
    """The request of an environ. Its ``has_body`` is what the header fields announce."""
    length = fields.get(b"content-length")
    request = Request(
        method=environ["REQUEST_METHOD"],
        scheme=environ["wsgi.url_scheme"],
        host=host_of(environ, fields),
        path=route_path(environ),
        key=key,
        fields=Fields(line for line in fields.items() if line[0] != USER_VARIABLE),
        has_body=(length is not None and length.strip() != b"0") or b"transfer-encoding" in fields,
        obey_directives=obey_directives,
    )
    request.mark_personal(is_personal(environ))
    return request


def asked_request(environ: Environ, asked: DescribedRequest, *, obey_directives: bool) -> Request:
    """The request that ``asked`` describes, as it would come from the server that made ``environ``."""
    root = environ.get("SCRIPT_NAME", "")
    told: Environ = {
        "REQUEST_METHOD": asked.method,
        "SCRIPT_NAME": root,
        "PATH_INFO": unquote_to_bytes(asked.path).decode("latin-1").removeprefix(root),
        "QUERY_STRING": asked.query.decode(),
        "wsgi.url_scheme": asked.scheme,
    }
    target = (asked.path + b"?" + asked.query if asked.query else asked.path).decode()
    told |= {variable: target for variable in ("REQUEST_URI", "RAW_URI") if environ.get(variable)}
    for name, value in asked.lines:
        variable = name.decode().upper().replace("-", "_")
        if name not in (b"content-length", b"content-type"):
            variable = "HTTP_" + variable
        text = value.decode("latin-1")
        # As in servers, the lines of one field become one value (RFC 3875 4.1.18).
        told[variable] = f"{told[variable]}, {text}" if variable in told else text
    fields = fields_of(told)
    return read_request(told, fields, key_of(told, fields), obey_directives=obey_directives)


_VARIABLES: Final = tuple(
    (name, "HTTP_" + name.decode().upper().replace("-", "_"))
    for name in sorted(PER_RESPONSE_FIELDS)
)
_OURS: Final = frozenset({KEY, "wsgi.file_wrapper", *(variable for _, variable in _VARIABLES)})


def forward_environ(environ: Environ, lines: Lines, file_wrapper: object) -> Environ:
    """The environ for a fetch: a copy with the header ``lines``.

    ``file_wrapper`` takes the place of the server's own, if there is one. So the server does not send a
    file before its bytes have been seen here.
    """
    copy = dict(environ)
    asked: dict[bytes, bytes] = {}
    for name, value in lines:
        if name in PER_RESPONSE_FIELDS:
            asked[name] = asked[name] + b", " + value if name in asked else value
    for name, variable in _VARIABLES:
        if name in asked:
            copy[variable] = asked[name].decode("latin-1")
        elif variable in copy:
            del copy[variable]
    if "wsgi.file_wrapper" in copy:
        copy["wsgi.file_wrapper"] = file_wrapper
    return copy


def carry(environ: Environ, fields: Mapping[bytes, bytes | None]) -> Collection[str]:
    """Put ``fields`` (see `Span.carry`) into the environ of a fetch. Returns their variables."""
    variables = []
    for name, value in fields.items():
        variable = "HTTP_" + name.decode().upper().replace("-", "_")
        variables.append(variable)
        if value is None:
            environ.pop(variable, None)
        else:
            environ[variable] = value.decode("latin-1")
    return variables


def note_back(inner: Environ, outer: Environ, ours: Collection[str]) -> None:
    """Show middleware outside of LayerGate what the app noted in its environ, except the variables
    ``ours``."""
    for name, value in inner.items():
        if name not in _OURS and outer.get(name) is not value and name not in ours:
            outer[name] = value


# Variables of servers and frameworks that belong to one request and its connection.
_OF_THE_CONNECTION: Final = (
    "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING",
    "gunicorn.socket", "waitress.client_disconnected", "werkzeug.request",
    "werkzeug.socket", "wsgi.file_wrapper", "wsgi.input_terminated",
)  # fmt: skip


def refresh_environ(environ: Environ, lines: Lines) -> Environ:
    """An environ for a fetch that outlives the request that it is copied from. Nothing in it belongs to
    the connection of that request, and what its middleware may still change is copied one level
    deep."""
    copy = forward_environ(environ, lines, None)
    for name in _OF_THE_CONNECTION:
        copy.pop(name, None)
    for name, value in copy.items():
        if type(value) is dict:
            copy[name] = value.copy()
    copy["REQUEST_METHOD"] = "GET"
    copy["wsgi.input"] = io.BytesIO()
    copy["wsgi.errors"] = sys.stderr
    copy["wsgi.multithread"] = True
    return copy


def header_lines(headers: list[tuple[str, str]]) -> Lines:
    """The header list of ``start_response`` as lines. Raises TypeError, ValueError or AttributeError for
    anything else."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
