"""Which options a running gateway can take anew."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from layergate.config import FIXED_OPTIONS, Options
from layergate.gateway.options import GatewayOptions

__all__ = ["held", "live", "waiting"]

# Sockets are open, processes run, the shared layer is connected.
_WAIT: Final = (
    "listen",
    "workers",
    "shared_namespace",
    "shared_secret",
    "shared_secret_file",
    "shared_compress_above",
)


def live(options: GatewayOptions) -> dict[str, Any]:
    """What `HttpCache.reload` takes of them."""
    names = {option.name for option in fields(Options)} - FIXED_OPTIONS
    return {name: getattr(options.cache, name) for name in names} | {"admin": options.admin}


def waiting(old: GatewayOptions, new: GatewayOptions) -> list[str]:
    """The names of the options that differ, and hold only after a restart."""
    names = [name for name in _WAIT if getattr(old, name) != getattr(new, name)]
    if (old.tls_cert is None) != (new.tls_cert is None):
        names.append("tls_cert")  # whether TLS is spoken; which certificate it has may change
    names += [
        name for name in FIXED_OPTIONS if getattr(old.cache, name) != getattr(new.cache, name)
    ]
    return sorted(names)


def held(old: GatewayOptions, new: GatewayOptions) -> GatewayOptions:
    """The new options, but for those that wait: these stay, also for a worker that is started later,
    so that all workers share one layer, or none.

    Raises ConfigError: what stays does not go with what is new.
    """
    changes = {option.name: getattr(new.cache, option.name) for option in fields(Options)}
    cache = old.cache.replaced(
        {name: value for name, value in changes.items() if name not in FIXED_OPTIONS}
    )
    return replace(new, **{name: getattr(old, name) for name in _WAIT}, cache=cache)
