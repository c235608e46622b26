"""The traits that a stored response and a new one share: policy, lifetime, age, stale windows, tags.

`held` calls these functions for what is stored, `received` for a response that has come. Steps:
``policy``, ``lifetime``, ``age``, ``stale-windows``, ``tags``, ``groups``.
"""

from __future__ import annotations

from typing import Any

from layergate.http.explain.redaction import (
    field_text,
    group_names,
    quoted,
    seconds_text,
    shown_tags,
)
from layergate.http.explain.trace import Trace
from layergate.http.explain.wording import SOURCES
from layergate.http.extensions.targeted import parse_targeted, policy_of
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.freshness import Lifetime

__all__ = [
    "explain_age",
    "explain_lifetime",
    "explain_policy",
    "explain_tags",
    "explain_windows",
]


def explain_policy(trace: Trace, fields: Fields) -> None:
    """Which field says how the response is cached, if it has a field of RFC 9213."""
    targets = trace.settings.targets
    present = [name for name in targets if name in fields]
    if not present:
        return
    policy = policy_of(fields, targets)
    ignored = [name for name in present if parse_targeted(fields.get(name) or b"") is None]
    names = [field_text(name) for name in ignored]
    decided = field_text(policy.decided_by or (b"expires" if b"expires" in fields else b"none"))
    if policy.targeted and policy.withheld:
        text = (
            "This field decides. Because Cache-Control says private or no-store, no rule or heuristic"
            " adds a lifetime."
        )
    elif policy.targeted:
        text = "This field decides; Cache-Control and Expires are ignored."
    else:
        text = f"Ignored, because it is empty or not a valid dictionary: {' and '.join(names)}."
    trace.add("policy", decided, "RFC 9213 2.2", text, field=decided, ignored=names)


def explain_lifetime(trace: Trace, lifetime: Lifetime, ttl: float) -> None:
    """``ttl``: the freshness that remains, in seconds."""
    rfc, text = SOURCES[lifetime.source]
    trace.add(
        "lifetime",
        seconds_text(lifetime.seconds),
        rfc,
        text,
        ttl > 0,
        seconds=round(lifetime.seconds, 3),
        source=lifetime.source,
        ttl=round(ttl, 3),
    )


def explain_age(trace: Trace, seconds: float) -> None:
    text = "From its Age and Date, the time it took to arrive, and the time since then."
    age = max(0.0, seconds)
    trace.add("age", seconds_text(round(age, 1)), "4.2.3", text, seconds=round(age, 3))


def explain_windows(
    trace: Trace,
    *,
    stale_while_revalidate: float,
    stale_if_error: float,
    must_revalidate: bool,
    no_cache: bool,
) -> None:
    """For how long the response may be used once it is stale, in seconds."""
    data: dict[str, Any] = {
        "stale_while_revalidate": stale_while_revalidate,
        "stale_if_error": stale_if_error,
    }
    windows = {
        "stale-while-revalidate": stale_while_revalidate,
        "stale-if-error": stale_if_error,
    }
    said = [f"{name} {seconds_text(window)}" for name, window in windows.items() if window]
    outcome, rfc = "none", "4.2.4"
    if no_cache:
        rfc, text = "5.2.2.4", "It says no-cache, so it is validated before each use."
    elif said:
        outcome, rfc = ", ".join(said), "RFC 5861 3"
        text = "It may be used for this long once it is stale."
    elif must_revalidate:
        text = "Its must-revalidate, proxy-revalidate or s-maxage forbids use once it is stale."
    else:
        text = "Nothing allows its use once it is stale."
        unreachable = trace.settings.stale_if_unreachable
        if unreachable:
            text = "Once stale it may be used only while the origin cannot be reached."
            data["stale_if_unreachable"] = unreachable
    trace.add("stale-windows", outcome, rfc, text, **data)


def explain_tags(trace: Trace, tags: tuple[str, ...]) -> None:
    shown = shown_tags(tags)
    if shown:
        text = "A purge of any of these tags purges the response."
        trace.add("tags", ", ".join(shown), "G3", text, tags=shown)
    groups = group_names(tags)
    if groups:
        text = "A response to an unsafe request that names one of these groups purges the response."
        trace.add("groups", quoted(groups), "RFC 9875 2", text, groups=groups)
