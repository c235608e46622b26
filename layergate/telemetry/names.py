"""Every name that LayerGate's telemetry uses: spans, metrics, attributes. No other module defines
one.

OpenTelemetry's semantic conventions name what other software has too (``http.*``, ``error.type``).
They have no names for caches. LayerGate's own names begin with ``layergate.``, with units as in the
conventions: seconds ``s``, bytes ``By``, and counted things in braces.

An attribute shows nothing of a request but its method. Path, query and fields may be private, and a
key is made of them: it is reported only on request, as a hash (`KEY_HASH`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

SCOPE: Final = "layergate"
"""The instrumentation scope."""

# -- spans: the engine's name of an operation -> its span ----------------------------------------

SPANS: Final[Mapping[str, str]] = {
    "lookup": "layergate.lookup",          # find what is stored for a request, in all layers
    "fetch": "layergate.fetch",            # call the app, or a fetch function
    "revalidate": "layergate.revalidate",  # call the app with validators of the cache
    "refresh": "layergate.refresh",        # call it in the background: a trace of its own
    "wait": "layergate.wait",              # a follower waits for the fetch of another request
    "store": "layergate.store",            # store what was fetched, in all layers
    "backfill": "layergate.backfill",      # copy an entry of a lower layer into the ones above
    "purge": "layergate.purge",            # purge, until every instance has applied it
}  # fmt: skip

READY: Final = "layergate.fetch.ready"
"""An event on the span of a fetch: the app is called from here on. The lease has been taken, or the
fetch goes ahead without it."""

# -- attributes: the engine's name of a fact -> its attribute ------------------------------------

ERROR_TYPE: Final = "error.type"
METHOD: Final = "http.request.method"
STATUS: Final = "http.response.status_code"
AGE: Final = "layergate.age"
CACHE: Final = "layergate.cache.name"
FINAL: Final = "layergate.purge.final"
INSTANCES: Final = "layergate.purge.instances"
APPLIED: Final = "layergate.purge.applied"
MATCHED: Final = "layergate.purge.matched"
PURGE_SCOPE: Final = "layergate.purge.scope"
KEY_HASH: Final = "layergate.key.hash"
KINDS: Final = "layergate.purge.kinds"
LAYER: Final = "layergate.layer"
INVALIDATIONS: Final = "layergate.purge.invalidations"
OPERATION: Final = "layergate.operation"
OUTCOME: Final = "layergate.outcome"
REASON: Final = "layergate.reason"
RESULT: Final = "layergate.result"
SCOPE_OF_WAIT: Final = "layergate.wait.scope"
SOURCE: Final = "layergate.source"

ATTRIBUTES: Final[Mapping[str, str]] = {
    "age": AGE,                       # of the stored response, seconds
    "keys": "layergate.keys",         # the number of keys of a bulk fetch or lookup
    "layer": LAYER,                   # the name of a layer
    "method": METHOD,
    "reason": REASON,                 # why there is a fetch, in the words of RFC 9211 2.2
    "refused": "layergate.refused",   # why a response is not stored
    "result": RESULT,                 # of a lookup: hit, stale, revalidate, miss; of a wait: how it ended
    "rule": "layergate.rule",         # the pattern of the rule that matched
    "scope": SCOPE_OF_WAIT,           # process, or fleet
    "size": "layergate.size",         # of what is stored, bytes
    "source": SOURCE,                 # the layer that an entry is copied from
    "status": STATUS,
    "stored": "layergate.stored",     # whether the response was stored in the end
}  # fmt: skip

# The facts by which durations are distinguished.
DURATION_ATTRIBUTES: Final[Mapping[str, str]] = {"scope": SCOPE_OF_WAIT, "status": STATUS}
# The labels of events (`layergate.core.events.LABELS`).
EVENT_ATTRIBUTES: Final[Mapping[str, str]] = {
    "layer": LAYER,
    "operation": OPERATION,
    "reason": REASON,
    "source": SOURCE,
}

# -- metrics -------------------------------------------------------------------------------------


class Instrument(NamedTuple):
    """One metric.

    ``unit``  a counted thing has its unit in braces, because then every exporter to Prometheus
              makes the same name of it. Of the unit ``1`` some make the suffix ``_ratio``.
    ``kind``  ``histogram``; ``counter``; ``updown``, which can be added up over instances;
              ``gauge``, which cannot, and of which the highest value matters; ``least``, a gauge of
              which the lowest value matters.
    """

    name: str
    unit: str
    description: str
    kind: str = "counter"


# Durations, by the engine's name of the operation.
_FETCH: Final = Instrument(
    "layergate.fetch.duration", "s", "Calls of the app, to the end of its response.", "histogram"
)
DURATIONS: Final[Mapping[str, Instrument]] = {
    "fetch": _FETCH,
    "revalidate": _FETCH,
    "refresh": _FETCH,
    "wait": Instrument("layergate.wait.duration", "s", "Waits for the fetch of another request.", "histogram"),
    "purge": Instrument("layergate.purge.duration", "s", "Purges, until every instance has applied them.", "histogram"),
}  # fmt: skip
AGES: Final = Instrument(
    "layergate.hit.age",
    "s",
    "Age of the response at a hit. One in 256 hits in the top layer is recorded.",
    "histogram",
)
BUCKETS: Final[Mapping[str, tuple[float, ...]]] = {
    # As the conventions recommend for HTTP durations.
    _FETCH.name: (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    DURATIONS["wait"].name: (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    DURATIONS["purge"].name: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
    AGES.name: (1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400, 604800),
}

REQUESTS: Final = Instrument(
    "layergate.requests", "{request}", "GET and HEAD requests, by how they were answered."
)

# Events of the engine, by their names.
COUNTS: Final[Mapping[str, Instrument]] = {
    "backfill": Instrument("layergate.backfills", "{entry}", "Entries copied into a higher layer."),
    "fetch_error": Instrument("layergate.fetch.errors", "{error}", "Calls of the app that failed."),
    "layer_error": Instrument("layergate.layer.errors", "{error}", "Layer operations that failed."),
    "purge": Instrument("layergate.purges", "{purge}", "Purges made by this instance, including those by unsafe requests."),
    "refresh": Instrument("layergate.refreshes", "{refresh}", "Background refreshes that began."),
    "refresh_skipped": Instrument(
        "layergate.refresh.skipped", "{refresh}", "Background refreshes that were not needed, or too many."
    ),
    "refused": Instrument("layergate.refusals", "{response}", "Responses that were not stored, by reason."),
    "stale": Instrument(
        "layergate.stale",
        "{response}",
        "Stale responses that were used, by reason. Requests that waited for the same error count once.",
    ),
    "store": Instrument("layergate.stores", "{entry}", "Entries written, including markers and indexes."),
    "wait_timeout": Instrument("layergate.wait.timeouts", "{request}", "Waits that were given up."),
    "write_error": Instrument("layergate.write.errors", "{error}", "Entries that a layer did not accept."),
}  # fmt: skip

# What a layer reports (`Layer.stats`).
LAYERS: Final[Mapping[str, Instrument]] = {
    "breaker": Instrument(
        "layergate.breaker.state", "{state}", "0 closed, 1 half-open, 2 open.", "gauge"
    ),
    "budget": Instrument("layergate.layer.limit", "By", "Bytes that a layer may use.", "updown"),
    "bytes": Instrument("layergate.layer.usage", "By", "Bytes that a layer uses.", "updown"),
    "entries": Instrument("layergate.layer.entries", "{entry}", "Entries in a layer.", "updown"),
    "evictions": Instrument("layergate.evictions", "{entry}", "Entries removed to make room."),
}
# What the log reports (`Log.stats`).
LOG: Final[Mapping[str, Instrument]] = {
    "log_lag": Instrument(
        "layergate.log.lag",
        "{position}",
        "Positions of the shared log that are known to exist and are not applied yet.",
        "gauge",
    ),
    "log_outbox": Instrument(
        "layergate.log.outbox", "{record}", "Purges that wait for the shared layer.", "updown"
    ),
    "log_position": Instrument(
        "layergate.log.position", "{position}", "Last position of the shared log applied.", "gauge"
    ),
    "log_trusted": Instrument(
        "layergate.log.trusted",
        "{state}",
        "1: in touch with the fleet; 0: cut off from it.",
        "least",
    ),
}
# What is under way (`Cache.stats`).
STATES: Final[Mapping[str, Instrument]] = {
    "flights": Instrument(
        "layergate.flights", "{fetch}", "Fetches under way that other requests may join.", "updown"
    ),
    "inflight_bytes": Instrument(
        "layergate.flight.usage", "By", "Bodies that are being received to be stored.", "updown"
    ),
    "refreshing": Instrument(
        "layergate.refresh.active", "{refresh}", "Background refreshes under way.", "updown"
    ),
    "waiters": Instrument(
        "layergate.waiters",
        "{request}",
        "Requests that wait for the fetch of another one.",
        "updown",
    ),
}
