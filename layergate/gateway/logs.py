"""The gateway's log goes to stderr, unless the process has set up its own logging."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["set_up"]

_FORMAT: Final = "%(asctime)s %(levelname)s [%(process)d] %(message)s"


def set_up() -> None:
    """Show the log of `layergate` from INFO on. Does nothing if its logger or the root has a handler."""
    logger = logging.getLogger("layergate")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
