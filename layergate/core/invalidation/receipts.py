"""The answer to a purge."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["PurgeReceipt", "Scope"]

Scope: TypeAlias = Literal["process", "host", "fleet"]


class PurgeReceipt(NamedTuple):
    """How far a purge got by the time the call returned, and what it matched in this process.

    ``applied``, ``instances``
                   ``applied`` of the ``instances`` that are alive have applied the purge.
    ``final``      True: no instance serves a response whose fetch began before the purge (G3).
                   Every live instance has applied it, and an instance that is cut off treats what
                   it holds as stale. False: the shared system is away (this process has applied the
                   purge, and appends it to the log as soon as the system is back), or the call was
                   not to wait long enough. With ``stale_if_untrusted``, ``final`` does not cover
                   what a cut-off instance serves in place of a failing origin.
    ``scope``      which instances the fields above count, and the purge reaches:

                   - ``process``: this process only, because no layer is shared. Other processes
                     keep what they hold.
                   - ``host``: the processes of one machine that share a folder, such as the workers
                     of a gateway. All have applied a final purge before they serve anything else, be
                     they stopped now.
                   - ``fleet``: every instance that uses the shared layer.

    The other fields describe the memory of *this process* right before the purge, whatever the
    scope is:

    ``matched``           how many entries the purge named. None if no layer can be scanned.
    ``matched_at_least``  True: the scan stopped at its limit (`matching.MOST`), so there may be
                          more.
    ``seen``              True: everything that the purge named was found. False: all entries were
                          scanned, and something that was named was not among them; it may be held
                          elsewhere, nowhere, or it may be mistyped. None: not known.
    ``unknown``           names of the layers that cannot be scanned, which may hold more.

    ``reason``            why the purge is not final, where more is known than that an instance has not
                          answered. None: it is final, or that is all.
    """

    applied: int
    instances: int
    final: bool = True
    scope: Scope = "process"
    matched: int | None = None
    matched_at_least: bool = False
    seen: bool | None = None
    unknown: tuple[str, ...] = ()
    reason: str | None = None
