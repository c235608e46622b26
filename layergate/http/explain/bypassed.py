"""A request that bypasses the cache, and what the response to an unsafe method does to the store.

`walk.explain` calls `explain_bypass` for a request that the engine does not look up. Steps:
``invalidation``, ``storable`` and those of `received` for a response to POST, ``decision``.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.core.invalidation import Invalidation
from layergate.http.engine.open import may_forward
from layergate.http.engine.posting import encloses_target, judged
from layergate.http.engine.purge import unsafe_invalidations
from layergate.http.explain.received import explain_planned
from layergate.http.explain.redaction import group_names, quoted
from layergate.http.explain.report import Conclusion, Response
from layergate.http.explain.trace import Trace
from layergate.http.explain.wording import DECIDED
from layergate.http.message.fields import Fields
from layergate.http.message.key import target_of
from layergate.http.message.uri import twin
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.storing import Bypass, NotStored

__all__ = ["explain_bypass"]

_POST_SECTION = "RFC 9110 9.3.3"


def explain_bypass(trace: Trace, reason: Bypass, response: Response | None) -> Conclusion:
    request = trace.request
    if reason is not Bypass.RULE and not may_forward(request, reason):
        text = DECIDED["5.2.1.7"]
        trace.add("decision", "only-if-cached", "5.2.1.7", text, False)
        return Conclusion("only-if-cached", "", None, None, reason.token, text)
    told = "The request goes to the app, and the response to the client, unchanged."
    stored = False
    if request.method not in SAFE_METHODS:
        told = _explain_invalidation(trace, response)
        if request.method == "POST" and response is not None:
            stored, of_response = _explain_post(trace, response)
            told += " " + of_response
    fwd = "method" if reason is Bypass.METHOD else "bypass"
    trace.add("decision", "pass", reason.rfc, told, False)
    refused = None if stored else reason.token
    return Conclusion("pass", fwd, None, stored, refused, f"PASS: {reason.explain} {told}")


class _Invalidated(NamedTuple):
    """``targets``: URLs. ``groups``: names of cache groups. ``origins``: origins, of which everything is
    purged."""

    targets: list[str]
    groups: list[str]
    origins: list[str]


def _invalidated(invalidations: tuple[Invalidation, ...]) -> _Invalidated:
    named = [one.value for one in invalidations if one.kind == "key"]
    return _Invalidated(
        # Each URL is purged under http and under https; one of the two is shown.
        [url for at, url in enumerate(named) if twin(url) not in named[:at]],
        group_names(one.value for one in invalidations),
        [one.value for one in invalidations if one.kind == "prefix"],
    )


def _explain_invalidation(trace: Trace, response: Response | None) -> str:
    """Returns a sentence on what the response to an unsafe method purges. Without a response: on what
    a successful one would purge."""
    request = trace.request
    status, lines = (200, []) if response is None else (response.status, response.lines)
    target = target_of(request.key)
    purged = _invalidated(
        unsafe_invalidations(trace.settings, target, request.method, status, lines)
    )
    if not purged.targets:
        told = "The request did not succeed, so nothing is purged."
    elif response is None:
        told = "If the request succeeds, stored responses for its target are purged."
    else:
        told = "The request succeeded, so stored responses for these targets are purged."
    trace.add("invalidation", str(len(purged.targets)), "4.4", told, purged=purged.targets)
    if not purged.groups and not purged.origins:
        return told
    text = "Stored responses in the cache groups that the response names are purged."
    if purged.origins:
        text = "The response names so many cache groups that everything of its origin is purged."
    outcome = quoted(purged.groups or purged.origins)
    trace.add("invalidation", outcome, "RFC 9875 3", text, groups=purged.groups)
    return f"{told} {text}"


def _explain_post(trace: Trace, response: Response) -> tuple[bool, str]:
    """Returns whether a response to POST is stored for later GETs, and a sentence."""
    engine, request = trace.engine, trace.request
    fields = Fields(response.lines)
    if not encloses_target(target_of(request.key), response.status, fields):
        text = "A response to POST is stored if it is a 200 whose Content-Location is its target."
        trace.add("storable", "no", _POST_SECTION, text, False)
        return False, "The response is not stored."
    exchange, planned = judged(
        engine,
        request,
        response.status,
        fields,
        trailers=response.trailers,
        request_time=trace.now - response.took,
    )
    reason = planned.plan
    if reason is NotStored.METHOD:
        text = (
            "A response to POST is stored, for its target alone, if it states its own freshness"
            " lifetime and no field of the request names another method."
        )
        trace.add("storable", "no", _POST_SECTION, text, False)
        return False, "The response is not stored."
    if isinstance(reason, NotStored):
        trace.add_reason("storable", reason)
        return False, f"The response is not stored: {reason.explain}"
    text = (
        "Its Content-Location is its target and it states its lifetime, so GET requests share it."
    )
    trace.add("method", "POST", _POST_SECTION, text, True)
    return True, explain_planned(trace, exchange, planned, response.status, fields).text
