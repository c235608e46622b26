"""G1 under WSGI: who asks is known by a variable of the environ, whoever set it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from layergate import Rule
from layergate.wsgi import LayerGate
from tests.support.wsgi import ask

SOMEBODY: list[dict[str, Any]] = [
    {"REMOTE_USER": "alice"},
    {"REDIRECT_REMOTE_USER": "alice"},
    {"AUTH_USER": "alice"},
    {"LOGON_USER": "DOMAIN\\alice"},
    {"SSL_CLIENT_S_DN": "CN=alice"},
    {"SSL_CLIENT_S_DN_CN": "alice"},
    {"SSL_CLIENT_CERT": "-----BEGIN CERTIFICATE-----"},
    {"HTTPS_DN": "CN=alice"},
    {"OIDC_CLAIM_sub": "alice"},
    {"MELLON_NAME_ID": "alice"},
    {"Shib-Session-ID": "x"},
    {"eppn": "alice@example.org"},
    {"repoze.who.identity": {"repoze.who.userid": "alice"}},
    {"repoze.who.identity": {}},
    {"beaker.session": {"_creation_time": 1, "user": "alice"}},
    {"werkzeug.session": {"user": 1}},
    {"myapp.user": SimpleNamespace(name="alice")},
    {"myapp.user": SimpleNamespace(is_authenticated=True)},
    {"user": {"id": 1}},
    {"current_user": 7},
    {"jwt.claims": {"sub": "alice"}},
    {"auth.identity": "alice", "REMOTE_USER": ""},
]
NOBODY: list[dict[str, Any]] = [
    {},
    {"REMOTE_USER": ""},
    {"SSL_CLIENT_S_DN": "", "SSL_CLIENT_VERIFY": "NONE"},
    {"beaker.session": {"_creation_time": 1, "_accessed_time": 2}},
    {"werkzeug.session": {}},
    {"myapp.user": None},
    {"myapp.user": SimpleNamespace(is_authenticated=False)},
    {"SERVER_SOFTWARE": "gunicorn", "gunicorn.socket": object(), "wsgi.errors": None},
]
SHARED_COOKIE = {"HTTP_COOKIE": "consent=yes"}


def _name(variables: dict[str, Any]) -> str:
    return (
        "-".join(f"{name}={type(value).__name__}" for name, value in variables.items()) or "nothing"
    )


class App:
    def __init__(self, inside: dict[str, Any] | None = None) -> None:
        self.calls: dict[str, int] = {}
        self.inside = inside or {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        environ.update(self.inside)
        self.calls[path] = self.calls.get(path, 0) + 1
        control = {
            "/page": [("Cache-Control", "max-age=60, must-revalidate"), ("Vary", "Cookie")],
            "/public": [("Cache-Control", "public, max-age=60")],
            "/rule": [],
        }[path]
        start_response("200 OK", [("Content-Type", "text/plain"), *control])
        return [b"%d" % self.calls[path]]


def the_gate(inside: dict[str, Any] | None = None) -> LayerGate:
    return LayerGate(App(inside), rules=[Rule("/rule", ttl=60)])


def get(gate: LayerGate, path: str, *variables: dict[str, Any]) -> Any:
    given: dict[str, Any] = {}
    for one in variables:
        given |= one
    return ask(
        gate, path, **{name.replace("wsgi.", "wsgi_"): value for name, value in given.items()}
    )


@pytest.mark.parametrize("who", SOMEBODY, ids=_name)
def test_what_a_known_user_is_answered_with_is_shared_only_if_it_says_so(
    who: dict[str, Any],
) -> None:
    gate = the_gate()
    for path in ("/page", "/rule"):
        first = get(gate, path, SHARED_COOKIE, who)
        assert first.body == b"1"
        assert "stored" not in first.told and (
            "detail=user" in first.told or "detail=cookie" in first.told
        )
        assert get(gate, path, SHARED_COOKIE, who).body == b"2"
        assert get(gate, path).body == b"3"
        assert get(gate, path, who).body == b"4"
        assert get(gate, path).body == b"3"
    get(gate, "/public", who)
    assert get(gate, "/public", who).body == b"1"


@pytest.mark.parametrize("who", NOBODY, ids=_name)
def test_nobody_is_nobody(who: dict[str, Any]) -> None:
    gate = the_gate()
    for path in ("/page", "/rule", "/public"):
        get(gate, path, who)
        assert "; hit" in get(gate, path, who).told


@pytest.mark.parametrize("who", SOMEBODY, ids=_name)
def test_a_user_that_is_found_out_inside_counts_too(who: dict[str, Any]) -> None:
    gate = the_gate(inside=who)
    get(gate, "/page")
    assert get(gate, "/page").body == b"2"


@pytest.mark.parametrize("who", SOMEBODY, ids=_name)
def test_what_a_known_user_posts_answers_nobody(who: dict[str, Any]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        lines = [
            ("Content-Type", "text/plain"),
            ("Cache-Control", "max-age=60"),
            ("Vary", "Cookie"),
        ]
        start_response("200 OK", [*lines, ("Content-Location", "/")])
        return [environ["REQUEST_METHOD"].encode()]

    gate = LayerGate(app)
    assert ask(gate, "/", "POST", **SHARED_COOKIE, **who).body == b"POST"
    assert ask(gate, "/", **SHARED_COOKIE).body == b"GET"
