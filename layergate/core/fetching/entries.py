"""An entry for a value, as the policy says, and when it is due for a refresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergate.core.entry import Entry
from layergate.core.policy import Policy
from layergate.core.ports import Runtime

__all__ = ["due_for_refresh", "new_entry"]


def new_entry(
    runtime: Runtime, value: Any, tags: tuple[str, ...], policy: Policy, stamp: int
) -> tuple[Entry, Mapping[str, float] | None] | None:
    """The entry for a value, and caps on its freshness (layer name -> seconds, or None for no
    caps).

    None if the value is not to be stored.
    """
    factor = 1.0 - policy.jitter * runtime.random() if policy.jitter else 1.0
    ttl = policy.ttl
    windows = policy.stale_while_revalidate, policy.stale_if_error
    if value is None and policy.negative_ttl is not None:
        if not policy.negative_ttl:
            return None
        ttl, windows = policy.negative_ttl, (0.0, 0.0)
    now = runtime.now()
    entry = Entry(
        value,
        created=now,
        fresh_until=now + ttl * factor,
        stale_while_revalidate=windows[0],
        stale_if_error=windows[1],
        tags=tags,
        stamp=stamp,
    )
    caps = policy.per_layer
    if caps is not None and factor != 1.0:
        caps = {name: cap * factor for name, cap in caps.items()}
    return entry, caps


def due_for_refresh(entry: Entry, policy: Policy, now: float) -> bool:
    """Whether a fresh entry has passed the share of its lifetime that ``refresh_ahead`` names."""
    if policy.refresh_ahead is None or now >= entry.fresh_until:
        return False
    # If its freshness was capped for a layer, the lifetime of the whole entry counts.
    lifetime = entry.fresh_until - entry.created
    if entry.value is not None or policy.negative_ttl is None:
        lifetime = max(lifetime, policy.ttl * (1.0 - policy.jitter))
    return now - entry.created >= policy.refresh_ahead * lifetime
