"""``layergate serve``: runs the gateway in this process, or a supervisor and its workers.

With one worker there is nothing to supervise: it runs in this process, on an `Alone` channel. With more, a
`Supervisor` starts each in a fresh interpreter and replaces those that end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from layergate.errors import ConfigError
from layergate.gateway import logs
from layergate.gateway.alone import Alone
from layergate.gateway.listening import Listeners
from layergate.gateway.notify import notify
from layergate.gateway.options import GatewayOptions
from layergate.gateway.reloading import Load
from layergate.gateway.spawned import entry
from layergate.gateway.supervisor import Supervisor

__all__ = ["WORKER", "run"]

_logger = logging.getLogger("layergate.gateway")

WORKER: Final = "layergate.gateway.worker:main"


def run(options: GatewayOptions, load: Load, *, worker: str = WORKER) -> int:
    """Run the gateway until a signal ends it. The exit status: 0, or 1 if it could not start.

    ``load``    reads the settings again; raises ConfigError.
    ``worker``  the function that each process runs, as ``module:function``. See `channel`.

    SIGTERM and SIGINT end the gateway: workers accept nothing more and finish what is under way within
    ``drain_timeout``; the rest is cut off. A second one cuts off at once. SIGHUP reads the settings again:
    invalid ones change nothing, and valid ones are put into effect in the running workers, which keep
    what they hold.
    """
    logs.set_up()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        if options.workers > 1:
            return asyncio.run(Supervisor(options, load, worker=worker).run())
        listeners = Listeners(options.addresses, 1)
        try:
            entry(worker)(options, listeners.of(0), Alone(options, load, listeners.names))
        finally:
            listeners.close()
            notify("STOPPING=1")
    except (ConfigError, OSError) as error:
        _logger.critical("the gateway cannot run: %s", error)
        return 1
    return 0
