"""Purging what the processes of one host share, from outside of them: a cron job, a management command.

::

    from layergate.host import purge

    purge("/var/cache/shop", tags=["product:7"])

``layergate purge --tag product:7 --host /var/cache/shop`` does the same. No admin endpoint and no token is
needed: who may write to the folder may purge.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from layergate.assembly import HttpCache
from layergate.core.codec import Codec
from layergate.core.invalidation import PurgeReceipt
from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime

__all__ = ["purge"]


def purge(
    folder: str | os.PathLike[str],
    *,
    tags: Collection[str] = (),
    urls: Collection[str] = (),
    prefixes: Collection[str] = (),
    hosts: Collection[str] = (),
    patterns: Collection[str] = (),
    everything: bool = False,
    soft: bool = False,
    schemes: Literal["either", "exact"] = "either",
    secret: str | bytes | None = None,
) -> PurgeReceipt:
    """Purge from all processes that share ``folder`` (the path of ``shared="host:/path"``). It blocks, for less
    than a millisecond as a rule.

    ``secret``: that of the processes, if they have one. The other arguments are those of `HttpCache.purge`.
    URLs, prefixes and patterns also reach what No-Vary-Search makes equivalent.

    In the receipt, ``applied`` and ``instances`` are the processes that use the folder now. 0: there is none,
    and those that start later know of the purge. What the purge matched is not known here.

    Raises ConfigError: there is no such folder, no process has used it since the machine was started, or this
    user must not use it. Raises PurgeRefused as `HttpCache.purge` does, and OSError if nothing was purged
    because the file system failed.
    """
    # Not on a system without file locks.
    from layergate.layers.host import folder as folders
    from layergate.layers.host.journal import Damaged
    from layergate.layers.host.log import HostLog

    path = Path(folder)
    folders.check(path)
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist; give the folder of shared='host:/path'")
    logs: list[HostLog] = []

    def make_log(joining: Joining) -> HostLog:
        codec = Codec(joining.values, secret=secret)
        logs.append(HostLog(path, joining, codec, member=False, create=False))
        return logs[0]

    cache = HttpCache(
        runtime=ThreadRuntime(), log=make_log, memory="1MB", telemetry=False, no_vary_search=True
    )
    try:
        logs[0].begin()
    except (Damaged, FileNotFoundError) as error:
        raise ConfigError(f"no process has used {path} since the machine was started") from error
    receipt = run_blocking(
        cache.purge(
            tags=tags,
            urls=urls,
            prefixes=prefixes,
            hosts=hosts,
            patterns=patterns,
            everything=everything,
            soft=soft,
            schemes=schemes,
        )
    )
    if not receipt.final:
        raise OSError(f"nothing was purged: {receipt.reason}")
    run_blocking(logs[0].leave())
    return receipt._replace(matched=None, seen=None, unknown=("memory", "host"))
