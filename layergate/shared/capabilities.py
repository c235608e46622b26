"""What a shared system can promise, in words and numbers that operators compare.

Each layer says it of itself (`SystemLayer.capabilities`). ``layergate check URL`` prints it, and the
tables of the documentation are compared with it by a test.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Capabilities"]


class Capabilities(NamedTuple):
    """``leases``       concurrent misses of all instances cost one fetch.
    ``final_after``  when a purge is final: "milliseconds" where instances are told of it, "a heartbeat"
                     where they look for it, "the trust period" where nobody acknowledges. None: never;
                     then an instance may serve what was purged for ``staleness`` seconds.
    ``woken_by``     what tells an instance of a purge: "NOTIFY", "pub/sub", "looking", ...
    ``look_every``   seconds between two looks of a process that has to look for purges; None: it is told,
                     or looks at each heartbeat only.
    ``staleness``    seconds for which what was purged may be served without an error in the system;
                     None where purges are final.
    ``hit``, ``miss``, ``purge``
                     calls to the system that one of these takes, without waiting and without members.
    ``heartbeat``    calls of an idle process in one heartbeat.
    ``uncovered``    failures after which a purged entry may come back, one phrase each.
    """

    leases: bool
    final_after: str | None
    woken_by: str
    look_every: float | None = None
    staleness: float | None = None
    hit: int = 1
    miss: int = 5
    purge: int = 4
    heartbeat: int = 1
    uncovered: tuple[str, ...] = ()

    def idle_calls(self, max_disconnected: float | None) -> int:
        """Calls an hour of one process that serves nothing. ``max_disconnected``: seconds, as the layer's
        option; None: for ever."""
        beats = 3600 / ((30.0 if max_disconnected is None else max_disconnected) / 4)
        looks = 0.0 if self.look_every is None else 3600 / self.look_every
        return round(beats * self.heartbeat + looks)
