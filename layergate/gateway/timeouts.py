"""Every time limit of the gateway, in one table, and the states of a client's connection.

`clients.connection` and `upstreams.connection` read the limits. Nothing here keeps time: one timer for
all connections of a kind looks at their deadlines every `TICK` seconds.

A client's connection is always in one `State`, and the state decides which limit applies::

      accepted
         |
         v      first byte         end of the head, content follows
       IDLE -----------------> HEAD ------------------------------> CONTENT
        ^ ^                      |                                     |
        | |      a plain hit     | end of the head                     | end of the content, or as
        | +----------------------+                                     | much as is held for now
        |                        v                                     v
        +-------------------- ANSWERING <------------------------------+
           response sent         |
                                 | 101 (Switching Protocols)
                                 v
                              TUNNEL

    from each of these:
        more is written than the client takes      ->  BLOCKED  ->  back, once it takes more
        the client ends its side (FIN)             ->  HALF_CLOSED, until its requests are answered
        the last response is written               ->  CLOSING, until it is taken
        the transport is gone                      ->  CLOSED

The state is not stored. `ClientConnection.state` derives it from what the connection holds, so it cannot
disagree with it.
"""

from __future__ import annotations

import enum
from dataclasses import fields
from typing import Any, Final, NamedTuple

from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions

__all__ = ["TIMEOUTS", "State", "Timeout"]

TICK: Final = 0.5
"""Seconds between two looks at the deadlines. A limit can be exceeded by this much."""

# Limits that are no options, in seconds. Modules read them from here when they need them.
LINGER: Final = 2.0
HALF_CLOSE: Final = 5.0
LAST_REQUEST: Final = 0.25
CONTINUE: Final = 1.0
WORKER_START: Final = 60.0
WORKER_SILENCE: Final = 30.0
WORKER_GRACE: Final = 2.0
WORKER_STABLE: Final = 5.0
REPORT: Final = 1.0
REPORT_OF_ALL: Final = 2.0


class State(enum.IntEnum):
    """What a client's connection waits for. See the picture at the top of this module."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    CONTENT = enum.auto()
    ANSWERING = enum.auto()
    TUNNEL = enum.auto()
    BLOCKED = enum.auto()
    HALF_CLOSED = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


# An enum's attributes are slow to read, and these are read for each request.
(IDLE, HEAD, CONTENT, ANSWERING, TUNNEL, BLOCKED, HALF_CLOSED, CLOSING, CLOSED) = State


class Timeout(NamedTuple):
    """One time limit.

    ``name``    the option that sets it, as in a configuration file, or a name for a fixed limit.
    ``bounds``  the wait that it bounds.
    ``then``    what the gateway does when the time is over.
    ``fixed``   seconds, for a limit that is no option; else None.
    """

    name: str
    bounds: str
    then: str
    fixed: float | None = None

    @property
    def default(self) -> float:
        """Seconds."""
        return float(_DEFAULTS[self.name] if self.fixed is None else self.fixed)


_DEFAULTS: Final[dict[str, Any]] = {
    prefix + option.name: option.default
    for owner, prefix in ((GatewayOptions, ""), (UpstreamOptions, "upstream_"))
    for option in fields(owner)
    if option.name.endswith("_timeout")
}

TIMEOUTS: Final = (
    # clients
    Timeout("head_timeout", "from accepting a connection, or from the first byte of a request, to the end of its head", "408, or a close if nothing has come"),
    Timeout("keep_alive_timeout", "between two requests of a connection", "close"),
    Timeout("body_timeout", "between two parts of a request's content", "408"),
    Timeout("send_timeout", "a client takes nothing of what it is sent", "abort"),
    Timeout("linger", "after a refusal or an early response, for the client to read it", "abort", LINGER),
    Timeout("half_close", "after the client has ended its side, for a first byte of its response", "abort if the client turns out to be gone", HALF_CLOSE),
    Timeout("drain_timeout", "after a signal to stop, for the requests that are under way", "abort"),
    Timeout("last_request", "after a signal to stop, for a request that is on its way", "close idle connections", LAST_REQUEST),
    # upstreams
    Timeout("upstream_queue_timeout", "for one of `max_connections` to be free", "503"),
    Timeout("upstream_connect_timeout", "for a connection, TLS handshake included", "another attempt, then 504"),
    Timeout("upstream_first_byte_timeout", "from the end of a request to the first byte of its response", "504, or a stale response"),
    Timeout("upstream_read_timeout", "between two parts of a response, or while an upstream takes nothing", "504 if no head was sent, else the response is cut off"),
    Timeout("upstream_idle_timeout", "an unused connection is kept", "close"),
    Timeout("upstream_tunnel_idle_timeout", "nothing passes through a tunnel in either direction", "abort both ends"),
    Timeout("continue", "for an upstream's 100 (Continue)", "the content is sent without it", CONTINUE),
    # worker processes
    Timeout("worker_start", "from the start of a worker to its readiness", "kill and replace", WORKER_START),
    Timeout("worker_silence", "a worker gives no sign of life", "kill and replace", WORKER_SILENCE),
    Timeout("worker_grace", "after a worker was told to give up what is under way", "kill", WORKER_GRACE),
    Timeout("worker_stable", "a worker must have served for its end to count as the first failure", "longer pauses before it is started again", WORKER_STABLE),
    Timeout("report", "for the statistics of each worker", "the report goes without them", REPORT),
    Timeout("report_of_all", "for the supervisor's report", "the worker reports itself only", REPORT_OF_ALL),
)  # fmt: skip
