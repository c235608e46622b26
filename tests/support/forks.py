"""Processes of their own for a test, each a fork of one that has imported LayerGate and done nothing.

A new interpreter needs a third of a second to get that far. `start` gives a process that can be killed and
stopped like any other, and the test's end of a pipe to it::

    process, pipe = start(serve, folder)  # calls serve(pipe, folder) there
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

__all__ = ["Connection", "ForkServerProcess", "start"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["layergate.layers.host", "tests.support.forks"])


def start(
    target: Callable[..., object], *arguments: object
) -> tuple[ForkServerProcess, Connection[Any, Any]]:
    """``target`` is a function of a module that imports no more than it needs."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours
