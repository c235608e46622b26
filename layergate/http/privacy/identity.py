"""Which request fields say who asks, besides Authorization.

A response is stored for everybody, so a request that says who it is from needs care (G1):

*Cookies*, and the tokens that go with a session, may mean anything. A lifetime that the application
itself gave stands; a rule's lifetime, or a guessed one, is not for such a request.

*Identities* name a user or hold a credential: API keys, tokens, certificates, and what an
authenticating proxy adds (Authelia, Authentik, oauth2-proxy, Pomerium, Kong, Tailscale, Hasura, Envoy,
the identity services of the clouds). Such a request counts as one from a known user: what it is
answered with is shared only if the response says ``public`` or ``s-maxage``.

Names are matched exactly or by pattern, and an underscore counts as a hyphen, since CGI cannot tell
them apart. A name too many costs a call of the application; a name too few may show one user's page to
another.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

from layergate.http.message.memo import Memo

__all__ = ["Says", "identity_in", "is_somebody", "is_users_name", "names_who", "says"]


class Says(enum.IntEnum):
    """What the presence of a field says of who asks."""

    NOTHING = 0
    COOKIE = 1
    IDENTITY = 2


_COOKIES: Final = frozenset({
    b"cookie", b"cookie2", b"csrf-token", b"csrftoken", b"x-csrf-token", b"x-csrftoken",
    b"x-xsrf-token", b"xsrf-token", b"requestverificationtoken", b"x-csrf-header",
})  # fmt: skip

# What a pattern below would take for a credential, and is none.
_NEITHER: Final = frozenset({
    b"authorization",  # has rules of its own (RFC 9111 3.5)
    b"cache-key", b"idempotency-key", b"remote-addr", b"remote-host", b"remote-port",
    b"sec-websocket-key", b"surrogate-key", b"x-author", b"x-cache-key", b"x-idempotency-key",
    b"x-remote-addr", b"x-remote-host", b"x-remote-ip", b"x-surrogate-key", b"x-user-agent",
    b"x-user-ip",
})  # fmt: skip

_EXACT: Final = frozenset({
    b"access-token", b"account-id", b"api-key", b"apikey", b"auth", b"authentication", b"bearer",
    b"client-id", b"credentials", b"dpop", b"eppn", b"id-token", b"jwt", b"key", b"password", b"secret",
    b"session", b"session-id", b"sessionid", b"sid", b"token", b"user",
    b"user-email", b"user-id", b"user-name", b"userid", b"username",
    b"x-account", b"x-client-dn", b"x-client-id", b"x-client-verify", b"x-email", b"x-groups",
    b"x-key", b"x-principal", b"x-role", b"x-roles", b"x-sid", b"x-subject", b"x-userinfo",
    b"ocp-apim-subscription-key", b"x-amz-security-token", b"x-forwarded-client-cert",
    b"x-forwarded-email", b"x-forwarded-groups", b"x-forwarded-preferred-username",
    b"x-forwarded-user", b"x-jwt", b"x-ms-client-principal",
})  # fmt: skip

_BEGINS: Final = (
    b"cf-access-", b"mellon-", b"oidc-", b"remote-", b"shib-", b"ssl-client-", b"tailscale-user-",
    b"x-access-", b"x-account-", b"x-amzn-mtls-", b"x-amzn-oidc-", b"x-api-key", b"x-apikey",
    b"x-api-token", b"x-auth", b"x-claim", b"x-client-cert", b"x-consumer-", b"x-credential",
    b"x-endpoint-api-userinfo", b"x-goog-api-key", b"x-goog-authenticated-user-",
    b"x-goog-iap-", b"x-hasura-", b"x-identity", b"x-jwt-", b"x-ms-client-principal-", b"x-ms-token-",
    b"x-oauth", b"x-oidc-", b"x-okta-", b"x-original-user", b"x-pomerium-",
    b"x-principal-", b"x-remote-", b"x-session", b"x-shib-", b"x-ssl-client-", b"x-ssl-cert",
    b"x-tailscale-", b"x-tls-client-", b"x-token", b"x-user-", b"x-userid",
    b"x-username", b"x-user", b"x-vouch-", b"x-webauth-", b"x-wss-", b"x-zitadel-", b"x-authentik-",
)  # fmt: skip

_ENDS: Final = (
    b"-access-token", b"-api-key", b"-apikey", b"-authorization", b"-credential", b"-credentials",
    b"-id-token", b"-jwt", b"-jwt-assertion", b"-key", b"-password", b"-secret", b"-session",
    b"-session-id", b"-session-token", b"-token", b"-user-id",
)  # fmt: skip


def _says(name: bytes) -> Says:
    name = name.replace(b"_", b"-")
    if name in _COOKIES:
        return Says.COOKIE
    if name in _NEITHER:
        return Says.NOTHING
    if name in _EXACT or name.startswith(_BEGINS) or name.endswith(_ENDS):
        return Says.IDENTITY
    return Says.NOTHING


_known: Final[Memo[bytes, Says]] = Memo(_says, count=4096, length=64)


def says(name: bytes) -> Says:
    """What a field with this (lower-case) name says of who asks."""
    return _known[name]


def names_who(names: Iterable[bytes]) -> Says:
    """What the fields with these (lower-case) names say together: the most that one of them does."""
    return max((_known[name] for name in names), default=Says.NOTHING)


def identity_in(names: Iterable[bytes]) -> frozenset[bytes]:
    """Those of the (lower-case) names that say anything of who asks."""
    return frozenset(name for name in names if _known[name])


# What `scope["state"]` and an environ call a user.
_USERS: Final = re.compile(
    r"(?:.*[._])?(?:current_?user|remote_?user|auth_?user|user|user_?(?:id|name)|identity|principal"
    r"|claims|auth|account|credentials)",
    re.IGNORECASE,
).fullmatch


def is_users_name(name: object) -> bool:
    """Is this what middleware would call the user that it has found out about?"""
    return isinstance(name, str) and len(name) <= 64 and _USERS(name) is not None


def is_somebody(user: object) -> bool:
    """Is this value, which stands where a user would, an authenticated one?

    None is nobody, and so is an object that says so itself (``is_authenticated``, as Starlette's and
    Django's have it). Everything else is somebody: a dict, a dataclass, a name, a number.
    """
    if user is None:
        return False
    try:
        said = getattr(user, "is_authenticated", True)
        return bool(said() if callable(said) else said)
    except Exception:  # somebody's property; Starlette's own raises until it is overridden
        return True
