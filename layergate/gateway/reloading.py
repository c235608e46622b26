"""Reloading the settings of a running gateway: which options can change, and one reload after another.

`Alone` and `Supervisor` ask the `Reloader` on SIGHUP, and put into effect what it has read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import fields, replace
from typing import Any, Final, TypeAlias

from layergate.config import FIXED_OPTIONS, Options
from layergate.errors import ConfigError
from layergate.gateway.notify import notify
from layergate.gateway.options import GatewayOptions
from layergate.http.rules import RuleSet

__all__ = ["Load", "Reloader", "held", "live", "log_reloaded", "waiting"]

_logger = logging.getLogger("layergate.gateway")

Load: TypeAlias = Callable[[], GatewayOptions]

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
    """The arguments of `HttpCache.reload`."""
    names = {option.name for option in fields(Options)} - FIXED_OPTIONS
    return {name: getattr(options.cache, name) for name in names} | {"admin": options.admin}


def waiting(old: GatewayOptions, new: GatewayOptions) -> list[str]:
    """The names of the options that differ and that only a restart changes."""
    names = [name for name in _WAIT if getattr(old, name) != getattr(new, name)]
    if (old.tls_cert is None) != (new.tls_cert is None):
        names.append("tls_cert")  # TLS or no TLS; the certificate itself may change
    names += [
        name for name in FIXED_OPTIONS if getattr(old.cache, name) != getattr(new.cache, name)
    ]
    return sorted(names)


def held(old: GatewayOptions, new: GatewayOptions) -> GatewayOptions:
    """The new options, with the old ones where only a restart changes them. A worker that is started
    later gets these too, so that all workers share one layer, or none.

    Raises ConfigError: an old option and a new one exclude each other.
    """
    changes = {option.name: getattr(new.cache, option.name) for option in fields(Options)}
    cache = old.cache.replaced(
        {name: value for name, value in changes.items() if name not in FIXED_OPTIONS}
    )
    return replace(new, **{name: getattr(old, name) for name in _WAIT}, cache=cache)


def log_reloaded(ignored: Collection[str]) -> None:
    """Log that a reload is done. ``ignored``: options that wait for a restart."""
    if ignored:
        _log_waiting(sorted(ignored))
    _logger.info("reload: the new settings are in effect")


def _log_waiting(names: Collection[str]) -> None:
    _logger.warning("reload: these options wait for a restart: %s", ", ".join(names))


class Reloader:
    """One reload after the other. However often a reload is asked for while one runs, one follows.

    ``options``  that are in effect.
    ``act``      puts new ones into effect; raises nothing.
    """

    def __init__(
        self,
        load: Load,
        options: GatewayOptions,
        act: Callable[[GatewayOptions], Awaitable[object]],
    ) -> None:
        self._load = load
        self._first = options  # that the gateway was started with
        self.options = options
        self._act = act
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Reload, now or after the reload that runs."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload(), name="layergate reload")

    async def _reload(self) -> None:
        while self._again:
            self._again = False
            notify("RELOADING=1")
            new = await self._loaded()
            if new is not None:
                self.options = new
                await self._act(new)
            notify("READY=1")

    async def _loaded(self) -> GatewayOptions | None:
        """What the settings are now, as far as they can change. None, and a line in the log, if they are
        invalid."""
        old = self._first
        try:
            # Not in the loop: files may be slow, and no worker may lose trust over that.
            told = await asyncio.to_thread(self._load)
            RuleSet(told.cache.rules)  # some mistakes are only found when the rules are compiled
            new = held(old, told)
        except (ConfigError, OSError) as error:
            _logger.error("reload: nothing has changed: %s", error)  # noqa: TRY400 - no traceback
            return None
        except Exception:
            _logger.exception("reload: nothing has changed")
            return None
        later = waiting(old, told)
        if later:
            _log_waiting(later)
        return new
