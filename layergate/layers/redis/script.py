"""A Lua script that runs in Redis, and how it is called."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["Script"]


class Script(NamedTuple):
    """Make it with `Script.of`. All its keys must be in one hash slot.

    It may run twice, when a connection breaks between its run and the reply.
    """

    name: str
    source: str
    sha1: str

    @classmethod
    def of(cls, name: str, source: str) -> Script:
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return cls(name, source, digest)
