"""The request: its key, whether it bypasses the cache, the rule, credentials and directives.

`walk.explain` calls these functions first, in this order. Steps: ``key``, ``request``, ``range``, ``rule``,
``credentials``, ``directives``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from layergate.http.explain.redaction import (
    digest,
    field_text,
    path_text,
    rule_data,
    seconds_text,
    shown_lines,
)
from layergate.http.explain.trace import Trace
from layergate.http.message.credentials import credential_names
from layergate.http.message.key import target_of
from layergate.http.rfc9111.decision import bypass_reason
from layergate.http.rfc9111.storing import Bypass
from layergate.http.rules import Match

__all__ = ["explain_asker", "explain_key", "explain_request", "explain_rule"]

_READS: Final = ("GET", "HEAD")


def explain_key(trace: Trace) -> None:
    request = trace.request
    trace.add(
        "key",
        target_of(request.key),
        "2",
        "The key consists of scheme, host, path and query, byte for byte.",
        digest=digest(request.key),
        length=len(request.key),
        host=field_text(request.host),
        path=path_text(request.path),
        headers=shown_lines(request.fields.lines),
    )


def explain_request(trace: Trace) -> Bypass | None:
    """Returns why the request bypasses the cache, whatever rule covers it; None if it does not."""
    reason = _bypasses(trace)
    if reason is not None:
        trace.add_reason("rule" if reason is Bypass.RULE else "request", reason)
        return reason
    request = trace.request
    text = "A GET or HEAD without content may be answered from the store."
    trace.add("request", request.method, "3", text, True)
    if request.ranges is not None:
        asked = field_text(request.fields.get(b"range") or b"")
        text = "The request asks for a part, which can be cut from a stored response that has it."
        trace.add("range", asked, "RFC 9110 14.2", text, count=len(request.ranges))
    return None


def _bypasses(trace: Trace) -> Bypass | None:
    request, longest = trace.request, trace.settings.max_key_length
    # The middleware looks at these rules before anything else.
    if request.method in _READS and trace.settings.rules.bypasses.cover(request.path, longest):
        return Bypass.RULE
    return bypass_reason(request, max_key_length=longest)


def explain_rule(trace: Trace) -> Bypass | None:
    """Notes the rule that covers the request. Returns `Bypass.RULE` if the rule keeps the request out
    of the cache, else None."""
    rules = trace.settings.rules
    match = trace.match = rules.match(trace.request.path, trace.request.host)
    if match is None:
        if len(rules):
            trace.add("rule", "none", "3", "No rule covers this path and host.")
        return None
    if match.rule.bypass:
        trace.add_reason("rule", Bypass.RULE, rule=match.rule.path)
        return Bypass.RULE
    text = "This is the first rule that covers the path and host."
    lifetime = _lifetime_of(match)
    if lifetime:
        text = (
            "This is the first rule that covers the path and host. It gives a lifetime of"
            f" {lifetime} to responses that have none."
        )
    data: dict[str, Any] = {"rule": rule_data(match.rule), "params": dict(match.params)}
    trace.add("rule", match.rule.path, "3", text, **data)
    return None


def _lifetime_of(match: Match) -> str:
    """The lifetime that a rule gives, in words; "" for none."""
    ttl: Any = match.rule.ttl
    if isinstance(ttl, Mapping):
        return ", ".join(
            f"{seconds_text(time)} for status {status}" for status, time in ttl.items()
        )
    return "" if ttl is None else seconds_text(ttl)


def explain_asker(trace: Trace) -> None:
    """What the request says about its client, and what the client asks of the answer."""
    request = trace.request
    named = sorted(field_text(name) for name in credential_names(request.fields.names()))
    if request.authorization:
        text = (
            "Only a response that says public, must-revalidate or s-maxage is shared with a request"
            " that has Authorization."
        )
        trace.add("credentials", "authorization", "3.5", text, fields=["authorization", *named])
    elif request.personal:
        text = "The app knows the user, so only a response that says public or s-maxage is shared."
        trace.add("credentials", "user", "G1", text, fields=named)
    elif request.cookie:
        text = (
            "The request may identify a client, so a lifetime from a rule or a heuristic does not"
            " apply, unless the rule says allow_cookie."
        )
        trace.add("credentials", "cookie", "G1", text, fields=named)
    control, rfc = request.fields.get(b"cache-control"), "5.2.1"
    if control is None:
        control, rfc = request.fields.get(b"pragma"), "5.4"
    if control is not None and trace.settings.request_directives:
        text = "LayerGate follows these directives of the client."
        trace.add("directives", field_text(control), rfc, text)
    elif control is not None:
        text = "The option request_directives is off, so LayerGate ignores the client's directives."
        trace.add("directives", "ignored", rfc, text)
