"""The request fields, besides Authorization, that identify a client.

A cache stores one response for everybody, so a request that identifies its client needs care (G1).
`Request`, the storing policy and the hit path all ask here. Two kinds of fields count:

*Cookies*, and the tokens that belong to a session. They can mean anything. A lifetime from the
application still applies; a rule's lifetime or a heuristic one does not apply to such a request.

*Identities* name a user or carry a credential: API keys, tokens, certificates, and the fields that
authenticating proxies add (Authelia, Authentik, oauth2-proxy, Pomerium, Kong, Tailscale, Hasura,
Envoy, the identity services of the clouds). Such a request counts as one from a known user. Its
response is shared only if the response says ``public`` or ``s-maxage``.

Names match exactly or by pattern. An underscore counts as a hyphen, because CGI can't distinguish
the two. A name too many costs a call to the application; a name too few may show one user's page to
another.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from layergate.http.message.memo import Memo

__all__ = ["Credential", "credential_names", "credential_of", "strongest_credential"]


class Credential(enum.IntEnum):
    """What a field reveals about the client, by its name alone."""

    NONE = 0
    COOKIE = 1
    IDENTITY = 2


_COOKIES: Final = frozenset({
    b"cookie", b"cookie2", b"csrf-token", b"csrftoken", b"x-csrf-token", b"x-csrftoken",
    b"x-xsrf-token", b"xsrf-token", b"requestverificationtoken", b"x-csrf-header",
})  # fmt: skip

# Names that match a pattern below but carry no credential.
_HARMLESS: Final = frozenset({
    b"authorization",  # it has its own rules (RFC 9111 3.5)
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


def _classify(name: bytes) -> Credential:
    name = name.replace(b"_", b"-")
    if name in _COOKIES:
        return Credential.COOKIE
    if name in _HARMLESS:
        return Credential.NONE
    if name in _EXACT or name.startswith(_BEGINS) or name.endswith(_ENDS):
        return Credential.IDENTITY
    return Credential.NONE


_known: Final[Memo[bytes, Credential]] = Memo(_classify, count=4096, length=64)


def credential_of(name: bytes) -> Credential:
    """The kind of credential that a field with this (lower-case) name carries."""
    return _known[name]


def strongest_credential(names: Iterable[bytes]) -> Credential:
    """The strongest kind of credential among the fields with these (lower-case) names."""
    return max(map(_known.__getitem__, names), default=Credential.NONE)


def credential_names(names: Iterable[bytes]) -> frozenset[bytes]:
    """Those of the (lower-case) names that carry a credential of any kind."""
    return frozenset(name for name in names if _known[name])
