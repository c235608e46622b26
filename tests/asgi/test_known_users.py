"""G1 under ASGI: who asks is known by something in the scope, wherever that was found out."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.authentication import AuthCredentials, SimpleUser, UnauthenticatedUser
from starlette.datastructures import State

from layergate import Rule
from tests.support.asgi import OriginCall, World


@dataclasses.dataclass
class User:
    name: str


class Raises:
    @property
    def is_authenticated(self) -> bool:
        raise NotImplementedError


class Method:
    def is_authenticated(self) -> bool:
        return True


class AnonymousMethod:
    def is_authenticated(self) -> bool:
        return False


SOMEBODY: list[dict[str, Any]] = [
    {"user": User("alice")},
    {"user": {"name": "alice"}},
    {"user": {}},
    {"user": "alice"},
    {"user": ""},
    {"user": 7},
    {"user": 0},
    {"user": SimpleUser("alice")},
    {"user": Raises()},
    {"user": Method()},
    {"auth": "token"},
    {"auth": {"sub": "alice"}},
    {"auth": AuthCredentials(["authenticated"])},
    {"session": {"user": 1}},
    {"state": {"user": User("alice")}},
    {"state": {"current_user": "alice"}},
    {"state": {"user_id": 7}},
    {"state": {"auth": object()}},
    {"state": {"identity": {"sub": "alice"}}},
    {"state": State({"user": "alice"})},
    {"state": SimpleNamespace(user="alice")},
    {"extensions": {"tls": {"client_cert_chain": ["-----BEGIN CERTIFICATE-----"]}}},
    {"extensions": {"tls": {"client_cert_name": "CN=alice", "client_cert_chain": []}}},
]
NOBODY: list[dict[str, Any]] = [
    {},
    {"user": None},
    {"user": UnauthenticatedUser(), "auth": AuthCredentials()},
    {"user": AnonymousMethod()},
    {"auth": None},
    {"session": {}},
    {"state": {}},
    {"state": {"user": None, "db": object(), "http_client": object()}},
    {"state": State()},
    {"extensions": {"tls": {"client_cert_chain": [], "client_cert_name": None}}},
    {"extensions": {"tls": None, "http.response.pathsend": {}}},
]
SHARED_COOKIE = {"cookie": "consent=yes"}
RULE = Rule("/rule", ttl=60)


def _name(scope: dict[str, Any]) -> str:
    return "-".join(f"{name}={type(value).__name__}" for name, value in scope.items()) or "nothing"


def the_world() -> World:
    world = World(rules=[RULE])

    @world.origin.on("/page")
    async def page(call: OriginCall) -> None:
        headers = {"cache-control": "max-age=60, must-revalidate", "vary": "cookie"}
        await call.reply(b"%d" % call.number, headers=headers)

    @world.origin.on("/rule")
    async def under_a_rule(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number)

    @world.origin.on("/public")
    async def public(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, headers={"cache-control": "public, max-age=60"})

    return world


@pytest.mark.parametrize("scope", SOMEBODY, ids=_name)
async def test_what_a_known_user_is_answered_with_is_shared_only_if_it_says_so(
    scope: dict[str, Any],
) -> None:
    world = the_world()
    for path in ("/page", "/rule"):
        first = await world.get(path, headers=SHARED_COOKIE, **scope)
        assert first.body == b"1"
        status = first.header("cache-status") or ""
        assert "stored" not in status and ("detail=user" in status or "detail=cookie" in status)
        # Neither another user, nor nobody, gets it; nor does a user get what is for nobody.
        assert (await world.get(path, headers=SHARED_COOKIE, **scope)).body == b"2"
        assert (await world.get(path)).body == b"3"
        assert (await world.get(path, **scope)).body == b"4"
        assert (await world.get(path)).body == b"3"
    await world.get("/public", **scope)
    assert (await world.get("/public", **scope)).body == b"1"


@pytest.mark.parametrize("scope", NOBODY, ids=_name)
async def test_nobody_is_nobody(scope: dict[str, Any]) -> None:
    world = the_world()
    for path in ("/page", "/rule", "/public"):
        await world.get(path, **scope)
        assert (await world.get(path, **scope)).hit


@pytest.mark.parametrize(
    "scope", [scope for scope in SOMEBODY if "extensions" not in scope], ids=_name
)
async def test_a_user_that_is_found_out_inside_counts_too(scope: dict[str, Any]) -> None:
    world = World()

    @world.origin.on("/page")
    async def page(call: OriginCall) -> None:
        call.scope.update(scope)
        await call.reply(b"%d" % call.number, headers={"cache-control": "max-age=60"})

    await world.get("/page")
    assert (await world.get("/page")).body == b"2"
