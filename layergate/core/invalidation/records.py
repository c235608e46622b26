"""What a purge names. A record of the log is a tuple of `Invalidation` and the time of the
purge."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from layergate.core.invalidation.globs import Glob, glob, path_glob, prefix_glob
from layergate.errors import KeyRefused

__all__ = ["Caught", "Invalidation", "InvalidationKind", "matcher"]

InvalidationKind: TypeAlias = Literal["tag", "key", "prefix", "glob", "path", "all"]


class Invalidation(NamedTuple):
    """One thing that is purged.

    ``kind``   how ``value`` selects entries:

               - ``tag``: entries with this tag.
               - ``key``: the entry whose label equals ``value``, and all its variants.
               - ``prefix``: labels that begin with ``value``.
               - ``glob``: labels that match ``value``, in which ``*`` stands for any run of
                 characters.
               - ``path``: the same, but matched against what follows the authority of a URI label.
               - ``all``: every entry; ``value`` is empty.

    ``soft``   True: the entries become stale. False: they are gone.
    """

    kind: InvalidationKind
    value: str = ""
    soft: bool = False


class Caught(NamedTuple):
    """A purge that matched an entry.

    ``kind``, ``value``, ``soft``   as in `Invalidation`. The additional kind ``log`` says that the
                                    purges since the entry was stamped are no longer known, so the
                                    entry counts as purged.
    ``time``                        when the purge was made, in seconds since the epoch. None for
                                    the kind ``log``, and if so many purges followed that it is no
                                    longer known.
    """

    kind: str
    value: str
    soft: bool
    time: float | None


def matcher(invalidation: Invalidation) -> Glob | None:
    """The compiled pattern of a prefix, glob or path; None for the other kinds.

    Raises KeyRefused for an unknown kind, or a pattern that `glob` refuses.
    """
    match invalidation.kind:
        case "tag" | "key" | "all":
            return None
        case "prefix":
            return prefix_glob(invalidation.value)
        case "glob":
            return glob(invalidation.value)
        case "path":
            return path_glob(invalidation.value)
    raise KeyRefused(
        "the kind of an invalidation must be tag, key, prefix, glob, path or all,"
        f" got {invalidation.kind!r}"
    )
