"""What a process can know about uWSGI, if that is its server: threads, and the number of processes.

`ThreadRuntime.background` and `HttpCache` ask. uWSGI is recognized by the module that it puts into its interpreter.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Final

__all__ = ["uwsgi_processes", "uwsgi_without_threads"]

_logger = logging.getLogger("layergate")

_told: set[str] = set()


def uwsgi_without_threads() -> bool:
    """True in a uWSGI worker whose threads do not run. Says so in the log, once."""
    server: Any = _uwsgi()
    if server is None:
        return False
    options = getattr(server, "opt", {})
    if any(options.get(name) not in (None, b"0", "0", False) for name in _THREAD_OPTIONS):
        return False
    if "uwsgi" not in _told:
        _told.add("uwsgi")
        _logger.warning(
            "uWSGI runs without enable-threads: stale responses are refreshed by the worker itself,"
            " after it has sent them; give uWSGI --enable-threads"
        )
    return True


def uwsgi_processes() -> int | None:
    """How many processes uWSGI runs; None if the server is another one."""
    server: Any = _uwsgi()
    return None if server is None else int(getattr(server, "numproc", 1))


_THREAD_OPTIONS: Final = ("enable-threads", "threads", "gevent", "asyncio")
_NOT_LOOKED: Final = object()
_server: Any = _NOT_LOOKED


def _uwsgi() -> Any:
    """The module that exists only inside uWSGI, or None."""
    global _server  # noqa: PLW0603 - looked for once
    if _server is _NOT_LOOKED:
        try:
            _server = importlib.import_module("uwsgi")
        except ImportError:
            _server = None
        # Some other module of that name on the path is not the server.
        if not hasattr(_server, "worker_id"):
            _server = None
    return _server
