"""The channel of a worker that runs in the process that was started: that process's own signals."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable

from layergate.gateway.channel import Channel, Reload, Stats
from layergate.gateway.notify import notify
from layergate.gateway.options import GatewayOptions
from layergate.gateway.reloading import Load, Reloader, log_reloaded

__all__ = ["Alone"]

_logger = logging.getLogger("layergate.gateway")


class Alone(Channel):
    """``load``: reads the settings again. ``names``: the addresses that the gateway listens on."""

    def __init__(self, options: GatewayOptions, load: Load, names: Iterable[str]) -> None:
        super().__init__()
        self._names = tuple(names)
        self._drain = float(options.drain_timeout)
        self._reloader = Reloader(load, options, self._act)

    async def open(self, *, reload: Reload, stats: Stats) -> None:
        """See `Channel.open`."""
        await super().open(reload=reload, stats=stats)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)

    def ready(self) -> None:
        """See `Channel.ready`."""
        super().ready()
        _logger.info("serving on %s", ", ".join(self._names))
        notify("READY=1")

    def _end(self) -> None:
        if self.stopping.is_set():
            self.stop(now=True)
            return
        notify("STOPPING=1")
        _logger.info("stopping: requests that are under way have %g s", self._drain)
        self.stop()
        asyncio.get_running_loop().call_later(self._drain, self.cut.set)

    async def _act(self, options: GatewayOptions) -> None:
        self._drain = float(options.drain_timeout)
        ignored, error = self._reloaded(options)
        if error is None:
            log_reloaded(ignored)
