"""The sentences that belong to a value of the engine: a verdict, a source, a reason, a decision.

Sentences that belong to one step alone stand where that step is made. Each sentence here has one key,
which the engine gives; a test holds the keys against the engine's.
"""

from __future__ import annotations

from typing import Final

from layergate.http.rfc9111.decision import Decision
from layergate.http.rfc9111.storing import NotStored

__all__ = ["DECIDED", "REMEDIES", "SOURCES", "SUMMARIES", "UNCOLLAPSED"]

DECIDED: Final = {
    "4": "Nothing usable is stored for this target.",
    "3.3": "The stored response is incomplete and lacks a part of what the request asks for.",
    "4.1": "Variants are stored for this target, but not the one that this request selects.",
    "3.5": "The stored response must not be given to a request with Authorization.",
    "G1": "The stored response is for clients without cookies or other credentials only.",
    "G3": "A purge of the stored response may have been missed, so it is validated before use.",
    "5.2.2.4": "The stored response says no-cache, so it is validated before each use.",
    "5.2.1": "The client asks for a reload, but another reload was forwarded less than reload_pause"
    " ago, so the response stored since then is used.",
    "5.2.1.4": "The request says no-cache, so the stored response is validated before use.",
    "5.2.1.3": "The request asks for more remaining freshness (min-fresh) than the stored response has.",
    "5.2.1.1": "The stored response is older than the max-age of the request allows.",
    "5.2.1.2": "The stored response is stale, but the max-stale of the request accepts it.",
    "5.2.1.7": "The request says only-if-cached and no stored response may be used: 504.",
    "4.2": "The stored response is fresh.",
    "4.2.4": "The stored response is stale, and nothing allows its use.",
    "RFC 8246 2": "The stored response is fresh and immutable, so a reload does not validate it.",
    "RFC 5861 3": "The stored response is stale, but within its stale-while-revalidate window.",
}
"""By `Verdict.rfc`."""

SOURCES: Final = {
    "s-maxage": ("5.2.2.10", "Its s-maxage gives the freshness lifetime for shared caches."),
    "max-age": ("5.2.2.1", "Its max-age gives the freshness lifetime."),
    "expires": ("5.3", "Its Expires minus its Date gives the freshness lifetime."),
    "heuristic": (
        "4.2.2",
        "A fraction of the time since Last-Modified, as the option heuristic says.",
    ),
    "rule": (
        "4.2.1",
        "The rule gives the lifetime: the response gives none, or the rule overrides it.",
    ),
    "none": ("4.2.1", "Nothing gives it a freshness lifetime, so it is stale at once."),
    "invalid": ("4.2.1", "Its freshness information is invalid, so it is stale at once."),
    "other": (
        "4.2.1",
        "Not from its fields: a route's policy, a layer's ttl, a purge, or a HEAD response set it.",
    ),
}
"""By `Lifetime.source`, with the section; "other" for a stored response whose lifetime was changed."""

UNCOLLAPSED: Final = {
    "marker": "Responses to this target are known not to be shareable, so no request waits for one.",
    "collapse": "The option collapse is off.",
    "method": "Only GET requests share a fetch.",
    "ranges": "A response with several ranges is passed on as it is, so no request waits for it.",
    "authorization": "No request waits for the response to a request with Authorization.",
    "user": "The app knows the user, so no other request waits for the response.",
    "request-no-store": "The request says no-store, so no other request may have its response.",
    "no-cache": "The response must be validated for each request, so no request waits for another.",
    "waiters": "As many requests wait already as max_waiters allows.",
}
"""By what `why_uncollapsed` says, and "waiters"."""

REMEDIES: Final = {
    NotStored.NO_FRESHNESS: "send Cache-Control: max-age=60 from the app, or give the path a"
    " Rule(..., ttl=60)",
    NotStored.SET_COOKIE: "do not set a cookie on shared responses; if the cookie is the same for"
    " every client, use Rule(..., allow_set_cookie=True)",
    NotStored.COOKIE: "send max-age from the app; or, if the response is the same for every client, use"
    " Rule(..., allow_cookie=True)",
    NotStored.AUTHORIZATION: "say public or s-maxage in the response; or, if it is the same for every"
    " client, use Rule(..., allow_authorization=True)",
    NotStored.PATH: "send max-age from the app for this path, if the path exists",
    NotStored.USER: "say public or s-maxage in the response, or keep the session off this route",
    NotStored.SECURITY: "say public or s-maxage in the response, if it is the same for every client",
    NotStored.VARY_STAR: "name the request fields that the response depends on in Vary",
    NotStored.EXPIRED: "give it a lifetime, a validator (ETag, Last-Modified) or a stale window",
    NotStored.STREAM: "say max-age in the response if it has an end and is to be stored",
    NotStored.TAG_TEMPLATE: "use a parameter of the path or the route in the tag",
    NotStored.TAGS: "send fewer or shorter tags, or raise max_tags",
    NotStored.TOO_LARGE: "raise max_body, and memory with it",
    NotStored.TOKEN: "fetch the token with a request of its own; or send max-age from the app, if the"
    " response is for every client all the same",
    NotStored.BUDGET: "raise max_inflight",
    NotStored.NO_ROOM: "raise memory; a response that is requested again soon replaces others",
    NotStored.KEY_TOO_LONG: "raise max_key_length",
    NotStored.HOST: "use the canonical host: lower case, without the default port",
    NotStored.RULE: "change the Rule with bypass=True that covers the path",
}
"""What the operator or the app's author can do, for the reasons where something can be done."""

SUMMARIES: Final = {
    Decision.HIT: "HIT: the answer comes from the store.",
    Decision.STALE: "STALE: the answer comes from the store, and is refreshed in the background.",
    Decision.REVALIDATE: "REVALIDATE: the app is asked whether the stored response is still valid.",
    Decision.MISS: "MISS: the request goes to the app.",
    Decision.GATEWAY_TIMEOUT: "504: the client does not allow forwarding.",
}
